//! A span: pages cut into equal slots.
//!
//! The books are kept beside the pages, not in them, so that a program that writes to a buffer it has
//! released spoils another buffer, never the allocator (but for a slot on its way home, see
//! [`cache`](super::cache)). Each slot is in one of three states:
//!
//! ```text
//!          take                    put                  forget
//!   bare ---------> in use ---------------> cached ---------------> bare
//!                      ^---------------------'  take
//! ```
//!
//! A bare slot was never touched, or its pages were given back; it is not reserved. A cached one is
//! reserved and free. Invariant: `bare + cached + in_use == slots`. A slot that lies in a thread's cache
//! is in use here. Everything is used under the pool's lock.

use std::ptr::NonNull;

use super::{
    arena::UNIT,
    map::{SlotState, SpanMap},
    mapping::{decommit, page_bytes},
    size_class::SizeClass,
};

const WORDS: usize = UNIT / 64 / u64::BITS as usize;

/// A set of slot numbers.
#[derive(Debug)]
struct Slots {
    words: [u64; WORDS],
    count: u32,
}

impl Slots {
    fn first(count: u32) -> Self {
        let mut slots = Self {
            words: [0; WORDS],
            count: 0,
        };
        (0..count).for_each(|slot| slots.insert(slot));
        slots
    }

    fn insert(&mut self, slot: u32) {
        let bit = 1 << (slot % u64::BITS);
        let word = &mut self.words[(slot / u64::BITS) as usize];
        debug_assert_eq!(*word & bit, 0, "slot {slot} is in the set already");
        *word |= bit;
        self.count += 1;
    }

    fn take_first(&mut self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let (index, word) = (0..)
            .zip(&mut self.words)
            .find(|(_, word)| **word != 0)
            .expect("`count` counts the bits");
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        self.count -= 1;
        Some(index * u64::BITS + bit)
    }

    fn contains(&self, slot: u32) -> bool {
        self.words[(slot / u64::BITS) as usize] & (1 << (slot % u64::BITS)) != 0
    }
}

/// How a class cuts its spans: the fewest units that leave at most an eighth unused at the end.
pub const fn units(class: SizeClass) -> u32 {
    let mut units = class.bytes().div_ceil(UNIT);
    while (units * UNIT % class.bytes()) * 8 > units * UNIT {
        units += 1;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 64, as a test shows"
    )]
    return units as u32;
}

/// Pages cut into slots of one class.
#[derive(Debug)]
pub struct Span {
    base: NonNull<u8>,
    class: SizeClass,
    /// Which of the pool's nodes it belongs to, as an index.
    node: usize,
    /// Where it stands in the list of all spans of its node. The owner of that list writes it.
    pub place: usize,
    slots: u32,
    cached: Slots,
    bare: Slots,
}

// SAFETY: a span is bookkeeping about pages that its pool owns; the pool's lock orders its uses.
unsafe impl Send for Span {}

impl Span {
    /// A span over `units(class)` units from `base` on. All slots are bare.
    pub fn new(base: NonNull<u8>, class: SizeClass, node: usize) -> Self {
        let slots = units(class) as usize * UNIT / class.bytes();
        let slots = u32::try_from(slots).expect("at most 1024");
        Self {
            base,
            class,
            node,
            place: 0,
            slots,
            cached: Slots::first(0),
            bare: Slots::first(slots),
        }
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn class(&self) -> SizeClass {
        self.class
    }

    pub fn node(&self) -> usize {
        self.node
    }

    pub fn cached(&self) -> usize {
        self.cached.count as usize
    }

    pub fn bare(&self) -> usize {
        self.bare.count as usize
    }

    /// Nobody uses any of its slots.
    pub fn is_free(&self) -> bool {
        self.cached.count + self.bare.count == self.slots
    }

    pub fn take_cached(&mut self) -> Option<NonNull<u8>> {
        self.cached.take_first().map(|slot| self.address(slot))
    }

    pub fn take_bare(&mut self) -> Option<NonNull<u8>> {
        self.bare.take_first().map(|slot| self.address(slot))
    }

    /// Takes back a slot, which is then cached.
    pub fn put(&mut self, address: NonNull<u8>) {
        let slot = self.number(address);
        assert!(
            !self.cached.contains(slot) && !self.bare.contains(slot),
            "slot {slot} of {self:?} was released twice"
        );
        self.cached.insert(slot);
    }

    /// Makes one cached slot bare, and lets the system have the pages in which nothing else lies, but for other
    /// bare slots.
    pub fn forget_cached(&mut self) -> bool {
        let Some(slot) = self.cached.take_first() else {
            return false;
        };
        self.bare.insert(slot);
        let (page, size) = (page_bytes(), self.class.bytes());
        let (start, end) = (slot as usize * size, (slot as usize + 1) * size);
        let first_of_page = u32::try_from(start / page * page / size).expect("a slot");
        let is_bare = |slot| slot >= self.slots || self.bare.contains(slot);
        let before = (first_of_page..slot).all(is_bare);
        let last_of_page = u32::try_from((end.next_multiple_of(page) - 1) / size).expect("a slot");
        let after = (slot + 1..=last_of_page).all(is_bare);
        let start = if before { start / page * page } else { start };
        let end = if after {
            end.next_multiple_of(page)
        } else {
            end
        };
        // SAFETY: the range lies in the span's pages, and none of its slots is used or holds anything: those
        // beside this one are bare, and past the last there is none.
        unsafe { decommit(self.base.add(start), end - start) };
        true
    }

    /// What each slot is.
    pub fn map(&self) -> SpanMap {
        let state = |slot| match (self.bare.contains(slot), self.cached.contains(slot)) {
            (true, _) => SlotState::Bare,
            (_, true) => SlotState::Cached,
            _ => SlotState::Out,
        };
        SpanMap {
            base: self.base.addr().get(),
            bytes: units(self.class) as usize * UNIT,
            class_bytes: self.class.bytes(),
            slots: (0..self.slots).map(state).collect(),
        }
    }

    fn address(&self, slot: u32) -> NonNull<u8> {
        debug_assert!(slot < self.slots);
        // SAFETY: `slot < slots`, so the offset lies in the span's pages.
        unsafe { self.base.add(slot as usize * self.class.bytes()) }
    }

    fn number(&self, address: NonNull<u8>) -> u32 {
        let offset = address.addr().get() - self.base.addr().get();
        debug_assert_eq!(offset % self.class.bytes(), 0, "{address:p} is no slot");
        let slot = u32::try_from(offset / self.class.bytes()).unwrap_or(u32::MAX);
        assert!(slot < self.slots, "{address:p} is not in {self:?}");
        slot
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        alloc::{Layout, alloc, dealloc},
        collections::HashSet,
    };

    use super::*;

    /// Pages from the ordinary allocator, so that Miri can follow.
    struct Pages(NonNull<u8>, Layout);

    impl Pages {
        fn of(class: SizeClass) -> Self {
            let layout = Layout::from_size_align(units(class) as usize * UNIT, 4096).unwrap();
            // SAFETY: the layout has a size.
            Self(NonNull::new(unsafe { alloc(layout) }).unwrap(), layout)
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: from `alloc` with the same layout.
            unsafe { dealloc(self.0.as_ptr(), self.1) };
        }
    }

    #[test]
    fn a_span_leaves_at_most_an_eighth_and_fits_a_region() {
        for class in SizeClass::all() {
            let pages = units(class) as usize * UNIT;
            assert!(pages % class.bytes() * 8 <= pages, "{class:?}");
            assert!(pages <= 64 * UNIT && pages / class.bytes() <= WORDS * 64);
        }
    }

    #[test]
    fn slots_are_aligned_disjoint_and_writable() {
        for nbytes in [64, 192, 1000, 5000, 60_000] {
            let class = SizeClass::of(nbytes).unwrap();
            let pages = Pages::of(class);
            let mut span = Span::new(pages.0, class, 0);
            let mut seen = HashSet::new();
            while let Some(slot) = span.take_bare() {
                let offset = slot.addr().get() - pages.0.addr().get();
                assert!(offset + class.bytes() <= pages.1.size());
                assert_eq!(slot.addr().get() % 64, 0);
                assert!(seen.insert(offset / class.bytes()));
                // SAFETY: the slot is ours and inside the pages, as just checked.
                unsafe { slot.write_bytes(0xA5, class.bytes()) };
            }
            assert_eq!(seen.len(), pages.1.size() / class.bytes());
            assert!(!span.is_free());
        }
    }

    #[test]
    fn a_slot_put_back_is_cached_and_handed_out_again() {
        let class = SizeClass::of(4096).unwrap();
        let pages = Pages::of(class);
        let mut span = Span::new(pages.0, class, 0);
        assert_eq!((span.cached(), span.bare()), (0, 16));
        let slot = span.take_bare().unwrap();
        assert_eq!(span.take_cached(), None);
        span.put(slot);
        assert_eq!((span.cached(), span.bare()), (1, 15));
        assert!(span.is_free());
        assert_eq!(span.take_cached(), Some(slot));
        assert!(!span.is_free());
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_second_release_of_a_slot_is_caught() {
        let class = SizeClass::of(64).unwrap();
        let pages = Pages::of(class);
        let mut span = Span::new(pages.0, class, 0);
        let slot = span.take_bare().unwrap();
        span.put(slot);
        span.put(slot);
    }
}
