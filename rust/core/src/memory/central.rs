//! The central lists of one node: its spans, sorted by what they have to give, and its address space.
//!
//! Everything is used under a lock, that of the [`Books`](super::books::Books) that hold it. Invariants, in bytes:
//! `cached` is the sum over the spans, `reserved` that of their slots that are not bare; each class has the same in
//! slots.
//!
//! What nobody needed goes back to the system. Each class remembers the fewest cached slots it had in a period, its
//! low-water mark: so many were there all the time for nothing. [`Central::judge`] ends the period and
//! marks them as surplus, [`Central::forget_surplus`] gives them up, a few at a time, since it calls the system
//! under the lock. A class that was [warmed](Central::keep) keeps as many as that.

use std::{io, ptr::NonNull, sync::Arc};

use super::{
    arena::{Arena, REGION_BYTES},
    books::Level,
    cache::Slot,
    map::{ArenaMap, SpanMap},
    mapping::{Backing, Denied},
    size_class::{CLASSES, SizeClass},
    span::{self, Span},
};

/// How many spans or slots are given back to the system in one go.
const CHUNK: usize = 32;

/// The spans of one class.
#[derive(Debug, Default)]
struct Spans {
    /// Those with a cached slot, each once.
    cached: Vec<NonNull<Span>>,
    /// Those with a bare slot, each once.
    bare: Vec<NonNull<Span>>,
    /// Slots that are not bare.
    reserved_slots: usize,
    /// Slots that are cached.
    cached_slots: usize,
    /// The fewest `cached_slots` in this period.
    low: usize,
    /// What was not needed in the last period, and is still to be given up.
    surplus: usize,
    /// How many of `reserved_slots` stay, however little they are needed.
    kept: usize,
}

impl Spans {
    /// Cached slots that may go.
    fn spare(&self) -> usize {
        self.cached_slots
            .min(self.reserved_slots.saturating_sub(self.kept))
    }
}

/// The memory of one node.
#[derive(Debug)]
pub struct Central {
    /// Which of the pool's nodes it is, as an index.
    node: usize,
    arena: Arena,
    classes: Box<[Spans; CLASSES]>,
    /// Every span, at its `place`, so that they can be freed.
    spans: Vec<NonNull<Span>>,
    reserved: usize,
    cached: usize,
    level: Arc<Level>,
}

// SAFETY: spans are Send, and this owns them; the lock orders every use.
unsafe impl Send for Central {}

impl Central {
    pub fn new(node: usize, backing: Backing, level: Arc<Level>) -> Self {
        Self {
            node,
            arena: Arena::new(backing),
            classes: Box::new(std::array::from_fn(|_| Spans::default())),
            spans: Vec::new(),
            reserved: 0,
            cached: 0,
            level,
        }
    }

    pub fn node(&self) -> usize {
        self.node
    }

    /// Bytes of its slots that are not bare.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// Bytes of those that lie in the lists.
    pub fn cached(&self) -> usize {
        self.cached
    }

    pub fn denied(&self) -> Denied {
        self.arena.denied()
    }

    /// A slot that is reserved already.
    pub fn take_cached(&mut self, class: SizeClass) -> Option<Slot> {
        let spans = &mut self.classes[class.index()];
        let span = *spans.cached.last()?;
        // SAFETY: listed spans are alive, and the lock makes this their only user.
        let (address, left) = unsafe {
            let span = &mut *span.as_ptr();
            (span.take_cached(), span.cached())
        };
        if left == 0 {
            spans.cached.pop();
        }
        spans.cached_slots -= 1;
        spans.low = spans.low.min(spans.cached_slots);
        self.cached -= class.bytes();
        Some(Slot {
            address: address.expect("a span listed as `cached` has a cached slot"),
            span,
        })
    }

    /// One that was bare, which is reserved from now on. The caller has seen to it that the budget allows it.
    pub fn take_bare(&mut self, class: SizeClass) -> io::Result<Slot> {
        if self.classes[class.index()].bare.is_empty() {
            self.cut_span(class)?;
        }
        let spans = &mut self.classes[class.index()];
        let span = *spans.bare.last().expect("there is one, or it was just cut");
        // SAFETY: listed spans are alive, and the lock makes this their only user.
        let (address, left) = unsafe {
            let span = &mut *span.as_ptr();
            (span.take_bare(), span.bare())
        };
        if left == 0 {
            spans.bare.pop();
        }
        spans.reserved_slots += 1;
        self.reserved += class.bytes();
        self.level.rise(class.bytes());
        Ok(Slot {
            address: address.expect("a span listed as `bare` has a bare slot"),
            span,
        })
    }

    /// Puts back a slot, which stays reserved.
    ///
    /// # Safety
    /// `slot` came from this and has not been put back since; nobody uses it.
    pub unsafe fn put(&mut self, class: SizeClass, slot: Slot) {
        // SAFETY: a span is alive while a slot of it is out; the lock makes this its only user.
        let span = unsafe { &mut *slot.span.as_ptr() };
        debug_assert_eq!((span.class(), span.node()), (class, self.node));
        let spans = &mut self.classes[class.index()];
        if span.cached() == 0 {
            spans.cached.push(slot.span);
        }
        span.put(slot.address);
        spans.cached_slots += 1;
        self.cached += class.bytes();
    }

    /// So many slots of `class` stay reserved once they are, whether or not anybody needs them.
    pub fn keep(&mut self, class: SizeClass, slots: usize) {
        let spans = &mut self.classes[class.index()];
        spans.kept = spans.kept.max(slots);
    }

    /// None do.
    pub fn keep_nothing(&mut self) {
        for spans in &mut *self.classes {
            spans.kept = 0;
        }
    }

    /// Gives up cached slots, those that are [kept](Self::keep) as well, from the largest class down (the fewest
    /// slots), until `bytes` are given up or none is left. Returns how many bytes it gave up.
    pub fn forget(&mut self, bytes: usize) -> usize {
        let mut forgotten = 0;
        for class in (0..CLASSES).rev().map(SizeClass::at) {
            while forgotten < bytes && self.forget_one(class) {
                forgotten += class.bytes();
            }
        }
        forgotten
    }

    /// The period is over: what nobody needed in it is surplus.
    pub fn judge(&mut self) {
        for spans in &mut *self.classes {
            spans.surplus = spans.low.min(spans.spare());
            spans.low = spans.cached_slots;
        }
    }

    /// How many cached slots may go.
    pub fn spare(&self) -> usize {
        self.classes.iter().map(Spans::spare).sum()
    }

    /// Everything that is cached is surplus.
    pub fn judge_all(&mut self) {
        for spans in &mut *self.classes {
            spans.surplus = spans.spare();
        }
    }

    /// Gives up some of the surplus. Returns how many bytes; 0: there is none left.
    pub fn forget_surplus(&mut self) -> usize {
        for class in SizeClass::all() {
            let spans = &mut self.classes[class.index()];
            spans.surplus = spans.surplus.min(spans.spare());
            let surplus = spans.surplus;
            if surplus == 0 {
                continue;
            }
            let mut slots = self.free_unused_spans(class, surplus, CHUNK);
            while slots < surplus.min(CHUNK) && self.forget_one(class) {
                slots += 1;
            }
            let spans = &mut self.classes[class.index()];
            spans.surplus = spans.surplus.saturating_sub(slots);
            spans.low = spans.low.min(spans.cached_slots);
            return slots * class.bytes();
        }
        0
    }

    /// A picture of the regions and what lies in them, in the order of their addresses. `id` is how users know the node.
    pub fn arenas(&self, id: u32) -> Vec<ArenaMap> {
        let regions = self.arena.map().map(|region| ArenaMap {
            node: id,
            base: region.base.addr().get(),
            bytes: REGION_BYTES,
            huge: region.huge,
            spans: Vec::new(),
            free: region.free,
        });
        let mut arenas: Vec<_> = regions.collect();
        arenas.sort_unstable_by_key(|arena| arena.base);
        // SAFETY: listed spans are alive, and the lock makes this their only user.
        let spans = self.spans.iter().map(|span| unsafe { span.as_ref() }.map());
        let mut spans: Vec<SpanMap> = spans.collect();
        spans.sort_unstable_by_key(|span| span.base);
        for span in spans {
            let after = arenas.partition_point(|arena| arena.base <= span.base);
            arenas[after - 1].spans.push(span);
        }
        arenas
    }

    fn unreserve(&mut self, class: SizeClass, slots: usize) {
        let spans = &mut self.classes[class.index()];
        spans.reserved_slots -= slots;
        spans.cached_slots -= slots;
        let bytes = slots * class.bytes();
        self.reserved -= bytes;
        self.cached -= bytes;
        self.level.fall(bytes);
    }

    /// Makes a cached slot of `class` bare, if there is one.
    fn forget_one(&mut self, class: SizeClass) -> bool {
        let spans = &mut self.classes[class.index()];
        let Some(&pointer) = spans.cached.last() else {
            return false;
        };
        // SAFETY: listed spans are alive, and the lock makes this their only user.
        let span = unsafe { &mut *pointer.as_ptr() };
        if span.bare() == 0 {
            spans.bare.push(pointer);
        }
        let forgotten = span.forget_cached();
        debug_assert!(forgotten, "a span listed as `cached` has a cached slot");
        let (empty, free) = (span.cached() == 0, span.is_free());
        if empty {
            spans.cached.pop();
            if free {
                spans.bare.retain(|&bare| bare != pointer);
            }
        }
        self.unreserve(class, 1);
        if empty && free {
            self.free_span(pointer);
        }
        true
    }

    /// Cuts a new span, from pages that some class no longer needs if there are any.
    fn cut_span(&mut self, class: SizeClass) -> io::Result<()> {
        let units = span::units(class);
        let base = if let Some(base) = self.arena.take(units) {
            base
        } else {
            for unused in SizeClass::all() {
                let spare = self.classes[unused.index()].spare();
                self.free_unused_spans(unused, spare, usize::MAX);
            }
            if let Some(base) = self.arena.take(units) {
                base
            } else {
                self.arena.grow()?;
                self.arena
                    .take(units)
                    .expect("a fresh region holds any span")
            }
        };
        let span = NonNull::from(Box::leak(Box::new(Span::new(base, class, self.node))));
        // SAFETY: it was just made, and nobody else knows it.
        unsafe { (*span.as_ptr()).place = self.spans.len() };
        self.spans.push(span);
        self.classes[class.index()].bare.push(span);
        Ok(())
    }

    /// Gives back spans of `class` that nobody uses a slot of: at most `most`, and no more than `slots` cached slots
    /// with them. Returns how many slots these were.
    fn free_unused_spans(&mut self, class: SizeClass, slots: usize, most: usize) -> usize {
        let (mut left, mut spans_left) = (slots, most);
        let spans = &mut self.classes[class.index()];
        // A span that is free has something cached: it was used, and is freed when all is forgotten.
        let mut free: Vec<_> = spans
            .cached
            .extract_if(.., |span| {
                // SAFETY: listed spans are alive, and the lock makes this their only user.
                let span = unsafe { span.as_ref() };
                let goes = spans_left > 0 && span.is_free() && span.cached() <= left;
                if goes {
                    left -= span.cached();
                    spans_left -= 1;
                }
                goes
            })
            .collect();
        if free.is_empty() {
            return 0;
        }
        free.sort_unstable();
        spans.bare.retain(|span| free.binary_search(span).is_err());
        self.unreserve(class, slots - left);
        for span in free {
            self.free_span(span);
        }
        slots - left
    }

    /// Frees a span that is on no list of its class.
    fn free_span(&mut self, pointer: NonNull<Span>) {
        // SAFETY: listed spans are alive, and the lock makes this their only user.
        let place = unsafe { pointer.as_ref() }.place;
        debug_assert_eq!(self.spans[place], pointer);
        self.spans.swap_remove(place);
        if let Some(moved) = self.spans.get(place) {
            // SAFETY: as above.
            unsafe { (*moved.as_ptr()).place = place };
        }
        // SAFETY: every span came from a `Box`, and this was the last pointer to it: no slot is out.
        let span = unsafe { Box::from_raw(pointer.as_ptr()) };
        // SAFETY: the pages came from the arena with as many units; no slot of them is out.
        unsafe { self.arena.put(span.base(), span::units(span.class())) };
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        for span in self.spans.drain(..) {
            // SAFETY: every span came from a `Box` and is listed in `spans` once.
            drop(unsafe { Box::from_raw(span.as_ptr()) });
        }
    }
}
