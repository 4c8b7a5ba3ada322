//! Everything that takes the pool's lock: spans, free slots, the budget, and who waits for it.
//!
//! Waiters are served strictly in order: freed bytes go to the longest waiter as soon as its request
//! fits, and until then to nobody, newcomers included. Otherwise a stream of small requests would starve
//! a large one for ever.
//!
//! The budget counts what is in use, not what is cached: cached slots of other classes are forgotten
//! (their pages go back to the system) before anybody has to wait. Invariants, in bytes:
//! - `cached <= reserved <= limit`, and `cached` is the sum over the spans;
//! - while the first waiter's request fits `limit - (reserved - cached)`, the lock is held by someone who
//!   is about to serve it, or the waiter has ended and its owner is on its way to take it off the list.

use std::{collections::BTreeMap, io, ptr::NonNull};

use super::{
    arena::{Arena, Mapping, REGION_BYTES, page_bytes},
    cache::Slot,
    map::{ArenaMap, DirectMap, SpanMap},
    pool::Block,
    size_class::{CLASSES, LARGEST, SizeClass},
    span::{self, Span},
};
use crate::wait::{Claim, WaiterList};

/// What a waiter's entry holds: first its request, then what became of it.
#[derive(Debug)]
pub enum Stake {
    Wants(usize),
    Holds(Block),
    Failed(io::Error),
}

/// What a request turns into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Class(SizeClass),
    /// A mapping of this many bytes.
    Direct(usize),
}

impl Size {
    /// `None`: no address space is that large.
    #[inline]
    pub fn of(nbytes: usize) -> Option<Self> {
        match SizeClass::of(nbytes) {
            Some(class) => Some(Self::Class(class)),
            None => Self::direct(nbytes),
        }
    }

    #[cold]
    fn direct(nbytes: usize) -> Option<Self> {
        debug_assert!(nbytes > LARGEST);
        nbytes
            .checked_next_multiple_of(page_bytes())
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .map(Self::Direct)
    }

    /// What it counts for.
    pub fn bytes(self) -> usize {
        match self {
            Self::Class(class) => class.bytes(),
            Self::Direct(bytes) => bytes,
        }
    }
}

/// Why there is nothing to hand out.
#[derive(Debug)]
pub enum Refused {
    /// It does not fit the budget now.
    Full,
    Failed(io::Error),
}

/// The spans of one class that have something to give.
#[derive(Debug, Default)]
struct Spans {
    /// Those with a cached slot, each once.
    cached: Vec<NonNull<Span>>,
    /// Those with a bare slot, each once.
    bare: Vec<NonNull<Span>>,
}

/// The part of a pool that its lock guards.
#[derive(Debug)]
pub struct Central {
    arena: Arena,
    classes: Box<[Spans; CLASSES]>,
    /// Every span, so that they can be freed.
    spans: Vec<NonNull<Span>>,
    /// The direct mappings, by address: their bytes.
    direct: BTreeMap<usize, usize>,
    reserved: usize,
    reserved_peak: usize,
    cached: usize,
    limit: usize,
    pub waiters: WaiterList<Stake>,
}

// SAFETY: spans are Send, and this owns them; the pool's lock orders every use.
unsafe impl Send for Central {}

impl Central {
    pub fn new(limit: usize) -> Self {
        Self {
            arena: Arena::default(),
            classes: Box::new(std::array::from_fn(|_| Spans::default())),
            spans: Vec::new(),
            direct: BTreeMap::new(),
            reserved: 0,
            reserved_peak: 0,
            cached: 0,
            limit,
            waiters: WaiterList::default(),
        }
    }

    pub fn reserved(&self) -> usize {
        self.reserved
    }

    pub fn reserved_peak(&self) -> usize {
        self.reserved_peak
    }

    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Takes memory for `nbytes`, from what is cached if it can.
    pub fn take(&mut self, nbytes: usize, size: Size) -> Result<Block, Refused> {
        match size {
            Size::Class(class) => {
                let slot = match self.take_cached(class) {
                    Some(slot) => slot,
                    None => self.take_bare(class)?,
                };
                Ok(Block::of_slot(slot, nbytes))
            }
            Size::Direct(bytes) => {
                self.make_room(bytes)?;
                let mapping = Mapping::new(bytes).map_err(Refused::Failed)?;
                self.reserve(bytes);
                self.direct.insert(mapping.base().addr().get(), bytes);
                Ok(Block::of_mapping(mapping, nbytes))
            }
        }
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
        self.cached -= class.bytes();
        Some(Slot {
            address: address.expect("a span listed as `cached` has a cached slot"),
            span,
        })
    }

    fn take_bare(&mut self, class: SizeClass) -> Result<Slot, Refused> {
        self.make_room(class.bytes())?;
        if self.classes[class.index()].bare.is_empty() {
            self.cut_span(class).map_err(Refused::Failed)?;
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
        self.reserve(class.bytes());
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
        debug_assert_eq!(span.class(), class);
        if span.cached() == 0 {
            self.classes[class.index()].cached.push(slot.span);
        }
        span.put(slot.address);
        self.cached += class.bytes();
    }

    /// The direct mapping at `base` is about to go. Returns its bytes.
    pub fn unmap(&mut self, base: NonNull<u8>) -> usize {
        let bytes = self.direct.remove(&base.addr().get());
        let bytes = bytes.expect("a direct mapping is listed until it is given up");
        self.reserved -= bytes;
        bytes
    }

    /// A picture of the regions and what lies in them, in the order of their addresses.
    pub fn arenas(&self) -> Vec<ArenaMap> {
        let regions = self.arena.free_runs().map(|(base, free)| ArenaMap {
            node: 0,
            base: base.addr().get(),
            bytes: REGION_BYTES,
            huge: false,
            spans: Vec::new(),
            free,
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

    /// The direct mappings, in the order of their addresses.
    pub fn direct(&self) -> Vec<DirectMap> {
        let mappings = self.direct.iter();
        mappings
            .map(|(&base, &bytes)| DirectMap {
                node: 0,
                base,
                bytes,
            })
            .collect()
    }

    /// Hands memory to those who wait for it, in order, as long as the next request fits. The claims are
    /// completed by the caller after it has let go of the lock.
    pub fn serve(&mut self, woken: &mut Vec<Claim>) {
        loop {
            let room = self.limit - (self.reserved - self.cached);
            let mut wanted = 0;
            let fits = |stake: Option<&Stake>| {
                let Some(&Stake::Wants(nbytes)) = stake else {
                    unreachable!("a linked entry holds its request");
                };
                wanted = nbytes;
                Size::of(nbytes).is_none_or(|size| size.bytes() <= room)
            };
            // SAFETY: while an entry is linked, its slot is touched under the lock alone.
            let first = unsafe { self.waiters.claim_first_if(fits) };
            let Some((entry, claim)) = first else {
                return;
            };
            let stake = match Size::of(wanted).map(|size| self.take(wanted, size)) {
                Some(Ok(block)) => Stake::Holds(block),
                Some(Err(Refused::Failed(error))) => Stake::Failed(error),
                Some(Err(Refused::Full)) => unreachable!("it fits, as was just seen"),
                None => Stake::Failed(io::ErrorKind::OutOfMemory.into()),
            };
            // SAFETY: the claim is held, so the slot is ours.
            unsafe {
                entry.take();
                entry.put(stake);
            }
            woken.push(claim);
        }
    }

    fn reserve(&mut self, bytes: usize) {
        self.reserved += bytes;
        self.reserved_peak = self.reserved_peak.max(self.reserved);
    }

    /// Sees to it that `bytes` more may be reserved.
    fn make_room(&mut self, bytes: usize) -> Result<(), Refused> {
        let over = (self.reserved.saturating_add(bytes)).saturating_sub(self.limit);
        if over == 0 {
            return Ok(());
        }
        if over > self.cached {
            return Err(Refused::Full);
        }
        self.forget(over);
        Ok(())
    }

    /// Gives up at least `bytes` of what is cached, from the largest class down: the fewest slots.
    fn forget(&mut self, bytes: usize) {
        let enough = self.reserved - bytes;
        for class in (0..CLASSES).rev().map(SizeClass::at) {
            while self.reserved > enough {
                let spans = &mut self.classes[class.index()];
                let Some(&pointer) = spans.cached.last() else {
                    break;
                };
                // SAFETY: listed spans are alive, and the lock makes this their only user.
                let span = unsafe { &mut *pointer.as_ptr() };
                if span.bare() == 0 {
                    spans.bare.push(pointer);
                }
                let forgotten = span.forget_cached();
                debug_assert!(forgotten, "a span listed as `cached` has a cached slot");
                self.cached -= class.bytes();
                self.reserved -= class.bytes();
                if span.cached() == 0 {
                    spans.cached.pop();
                    if span.is_free() {
                        spans.bare.retain(|&bare| bare != pointer);
                        self.free_span(pointer);
                    }
                }
            }
        }
    }

    /// Cuts a new span, from pages that some class no longer needs if there are any.
    fn cut_span(&mut self, class: SizeClass) -> io::Result<()> {
        let units = span::units(class);
        let base = if let Some(base) = self.arena.take(units) {
            base
        } else {
            self.free_unused_spans();
            if let Some(base) = self.arena.take(units) {
                base
            } else {
                self.arena.grow()?;
                self.arena
                    .take(units)
                    .expect("a fresh region holds any span")
            }
        };
        let span = NonNull::from(Box::leak(Box::new(Span::new(base, class))));
        self.spans.push(span);
        self.classes[class.index()].bare.push(span);
        Ok(())
    }

    /// Gives back every span that nobody uses a slot of.
    fn free_unused_spans(&mut self) {
        for class in SizeClass::all() {
            let spans = &mut self.classes[class.index()];
            // A span that is free has something cached: it was used, and is freed when all is forgotten.
            let free: Vec<_> = spans
                .cached
                // SAFETY: listed spans are alive, and the lock makes this their only user.
                .extract_if(.., |span| unsafe { span.as_ref() }.is_free())
                .collect();
            spans.bare.retain(|span| !free.contains(span));
            for pointer in free {
                // SAFETY: as above.
                let bytes = unsafe { pointer.as_ref() }.cached() * class.bytes();
                self.cached -= bytes;
                self.reserved -= bytes;
                self.free_span(pointer);
            }
        }
    }

    /// Frees a span that is on no list of its class.
    fn free_span(&mut self, pointer: NonNull<Span>) {
        self.spans.retain(|&span| span != pointer);
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
