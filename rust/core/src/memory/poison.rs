//! What finds writes to memory after its release, at the highest debug level: free slots are filled with a pattern,
//! and looked at before they are lent again.
//!
//! Each slot has a generation, which counts how often it was lent. Whoever gives it back, or uses it, says which
//! generation it was lent: another one means that the slot was lent twice, which is this allocator's own fault.
//!
//! The pattern does not survive everything that the allocator does with free memory, so it is not the whole of what is
//! taken as untouched:
//!
//! - Pages that the system has had in between are zero. So a page that is zero from end to end (the part of it that
//!   lies in the slot) is one that was given back, and a late write that clears a whole page goes unseen.
//! - A slot that was released on another thread carries its link there while it travels ([`LINK_BYTES`] at its start).
//! - Where slots of another size were cut from the same pages, what was known of the old ones is forgotten
//!   ([`Slots::lend`]).
//!
//! [`LINK_BYTES`]: super::cache::LINK_BYTES

use std::{collections::BTreeMap, ptr::NonNull};

/// What free memory is filled with.
pub const POISON: u8 = 0xDB;

/// The smallest page that the system gives and takes; where its pages are larger, each is some of these.
const PAGE: usize = 4096;

/// Fills a slot that is about to be free.
///
/// # Safety
/// The memory is the caller's alone.
pub unsafe fn fill(address: NonNull<u8>, bytes: usize) {
    // SAFETY: as promised by the caller.
    unsafe { address.write_bytes(POISON, bytes) };
}

/// How many bytes into the slot the first write after its release went, if there was one. The first `skipped` bytes
/// are not looked at.
///
/// # Safety
/// The memory is readable and the caller's alone.
pub unsafe fn first_damage(address: NonNull<u8>, bytes: usize, skipped: usize) -> Option<usize> {
    // SAFETY: as promised by the caller.
    let all = unsafe { std::slice::from_raw_parts(address.as_ptr(), bytes) };
    let mut start = skipped;
    while start < bytes {
        let end = bytes.min(start + PAGE - (address.addr().get() + start) % PAGE);
        let page = &all[start..end];
        if let Some(at) = page.iter().position(|&byte| byte != POISON)
            && page.iter().any(|&byte| byte != 0)
        {
            return Some(start + at);
        }
        start = end;
    }
    None
}

/// The slots of a pool that were lent at least once, by their addresses. `T` says whose they were.
#[derive(Debug)]
pub struct Slots<T>(BTreeMap<usize, Slot<T>>);

#[derive(Debug)]
struct Slot<T> {
    bytes: usize,
    generation: u64,
    /// While it is free.
    former: Option<Former<T>>,
}

/// What is known of a free slot, which was filled.
#[derive(Debug)]
pub struct Former<T> {
    /// Who had it last.
    pub owner: T,
    /// How many bytes at its start the allocator may have written to itself.
    pub skipped: usize,
}

/// A slot is lent.
#[derive(Debug)]
pub struct Lent<T> {
    pub generation: u64,
    /// Who had it before, where it is to be looked at.
    pub former: Option<Former<T>>,
    /// Whose slots, of other sizes, were there before; to be dropped.
    pub forgotten: Vec<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Slots<T> {
    /// # Panics
    /// If it is lent already, as far as this knows.
    pub fn lend(&mut self, address: usize, bytes: usize) -> Lent<T> {
        let mut forgotten = Vec::new();
        let before = self.0.range(..address).next_back();
        let overlapping = before
            .filter(|(start, slot)| *start + slot.bytes > address)
            .map(|(start, _)| *start);
        let inside = self.0.range(address..address + bytes);
        let others: Vec<usize> = overlapping
            .into_iter()
            .chain(inside.map(|(start, _)| *start))
            .filter(|start| {
                *start != address || self.0.get(start).is_some_and(|slot| slot.bytes != bytes)
            })
            .collect();
        for start in others {
            let slot = self.0.remove(&start).expect("just seen");
            let former = slot.former.unwrap_or_else(|| {
                panic!("{address:#x} is lent while {start:#x}, which it lies in, is lent too")
            });
            forgotten.push(former.owner);
        }
        let slot = self.0.entry(address).or_insert_with(|| Slot {
            bytes,
            generation: 0,
            former: None,
        });
        let former = slot.former.take();
        assert!(
            slot.generation == 0 || former.is_some(),
            "{address:#x} is lent twice"
        );
        slot.generation += 1;
        Lent {
            generation: slot.generation,
            former,
            forgotten,
        }
    }

    /// # Panics
    /// If the slot is not lent, or was lent to another since.
    pub fn give_back(&mut self, address: usize, generation: u64, former: Former<T>) {
        assert!(
            self.is_lent(address, generation),
            "{address:#x}, generation {generation}, was released twice"
        );
        let slot = self.0.get_mut(&address).expect("it is lent");
        slot.former = Some(former);
    }

    /// Whether the slot is lent, and this loan is the one of that generation.
    pub fn is_lent(&self, address: usize, generation: u64) -> bool {
        self.0
            .get(&address)
            .is_some_and(|slot| slot.generation == generation && slot.former.is_none())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn former(owner: &str) -> Former<&str> {
        Former { owner, skipped: 0 }
    }

    #[repr(align(4096))]
    struct Pages([u8; 3 * PAGE]);

    fn damage(pages: &mut Pages, from: usize, bytes: usize, skipped: usize) -> Option<usize> {
        let start = NonNull::from(&mut pages.0[from]);
        // SAFETY: inside the array, which nobody else has.
        unsafe { first_damage(start, bytes, skipped) }
    }

    #[test]
    fn a_write_to_a_free_slot_is_found_where_it_went() {
        let mut pages = Pages([POISON; 3 * PAGE]);
        assert_eq!(damage(&mut pages, 64, 5000, 0), None);
        pages.0[64 + 4321] = 1;
        assert_eq!(damage(&mut pages, 64, 5000, 0), Some(4321));
        pages.0[64] = 0; // one byte of a page is no page
        assert_eq!(damage(&mut pages, 64, 5000, 0), Some(0));
        assert_eq!(damage(&mut pages, 64, 5000, 64), Some(4321));
        assert_eq!(damage(&mut pages, 64, 4321, 64), None);
    }

    #[test]
    fn a_page_that_the_system_had_is_no_damage() {
        let mut pages = Pages([POISON; 3 * PAGE]);
        pages.0[PAGE..2 * PAGE].fill(0);
        assert_eq!(damage(&mut pages, 64, 3 * PAGE - 64, 0), None);
        assert_eq!(damage(&mut pages, PAGE + 64, 64, 0), None);
        pages.0[2 * PAGE - 1] = 7;
        assert_eq!(damage(&mut pages, 64, 3 * PAGE - 64, 0), Some(PAGE - 64));
    }

    #[test]
    fn a_slot_knows_who_had_it_and_how_often_it_was_lent() {
        let mut slots = Slots::default();
        let lent = slots.lend(4096, 64);
        assert!(lent.former.is_none() && lent.generation == 1);
        assert!(slots.is_lent(4096, 1));
        slots.give_back(4096, 1, former("first"));
        assert!(!slots.is_lent(4096, 1));
        let lent = slots.lend(4096, 64);
        assert_eq!(lent.former.map(|former| former.owner), Some("first"));
        assert!(!slots.is_lent(4096, 1) && slots.is_lent(4096, 2));
    }

    #[test]
    fn slots_of_another_size_forget_those_they_are_cut_from() {
        let mut slots = Slots::default();
        for (start, name) in [(4096, "before"), (4224, "inside"), (8192, "after")] {
            let lent = slots.lend(start, 128);
            slots.give_back(start, lent.generation, former(name));
        }
        let lent = slots.lend(4160, 4032);
        assert_eq!(lent.forgotten, ["before", "inside"]);
        slots.give_back(4160, lent.generation, former("large"));
        assert_eq!(slots.lend(4160, 64).forgotten, ["large"]);
        assert_eq!(slots.lend(8192, 128).former.unwrap().owner, "after");
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_release_of_another_generation_is_caught() {
        let mut slots = Slots::default();
        let lent = slots.lend(4096, 64);
        slots.give_back(4096, lent.generation, former("first"));
        let _ = slots.lend(4096, 64);
        slots.give_back(4096, lent.generation, former("first"));
    }

    #[test]
    #[should_panic(expected = "lent twice")]
    fn a_slot_that_is_lent_twice_is_caught() {
        let mut slots = Slots::<()>::default();
        let _ = slots.lend(4096, 64);
        let _ = slots.lend(4096, 64);
    }

    #[test]
    #[should_panic(expected = "is lent too")]
    fn a_slot_that_overlaps_one_that_is_lent_is_caught() {
        let mut slots = Slots::<()>::default();
        let _ = slots.lend(4096, 128);
        let _ = slots.lend(4160, 128);
    }
}
