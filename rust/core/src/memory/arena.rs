//! The address space of one node: regions, handed out in runs of units.
//!
//! A region is 64 units of 64 KiB, so one word says which of them are free, and a unit is a multiple of
//! every page size there is. Pages cost address space until somebody writes to them; a run that comes
//! back is decommitted, so it costs no memory again. A region that is free from end to end is unmapped,
//! but for the last one, so that a pool that breathes does not map and unmap with every breath.
//!
//! Requests above the largest size class do not pass through regions: a [`Mapping`] is one of its own.

use std::{io, ptr::NonNull};

use super::mapping::{Backing, Denied, Mapping, decommit};

/// What a region hands out: a multiple of the page size on every platform.
pub const UNIT: usize = 64 << 10;
const UNITS: u32 = u64::BITS;
pub const REGION_BYTES: usize = UNITS as usize * UNIT;

#[derive(Debug)]
struct Region {
    mapping: Mapping,
    huge: bool,
    /// A bit per unit, set while it is free.
    free: u64,
}

/// Address space for spans. Used under the pool's lock.
#[derive(Debug, Default)]
pub struct Arena {
    regions: Vec<Region>,
    backing: Backing,
    denied: Denied,
}

/// A region, to be shown.
#[derive(Debug)]
pub struct RegionMap {
    pub base: NonNull<u8>,
    pub huge: bool,
    /// Its free units, as offsets and bytes.
    pub free: Vec<(usize, usize)>,
}

impl Arena {
    pub fn new(backing: Backing) -> Self {
        Self {
            backing,
            ..Self::default()
        }
    }

    /// What the system has not done for it.
    pub fn denied(&self) -> Denied {
        self.denied
    }

    /// `units` units in a row that are mapped already.
    pub fn take(&mut self, units: u32) -> Option<NonNull<u8>> {
        for region in &mut self.regions {
            if let Some(first) = first_run(region.free, units) {
                region.free &= !run(first, units);
                // SAFETY: `first + units <= 64`, so the offset lies in the region.
                return Some(unsafe { region.mapping.base().add(first as usize * UNIT) });
            }
        }
        None
    }

    /// Maps one more region.
    pub fn grow(&mut self) -> io::Result<()> {
        let (mapping, denied) = Mapping::backed(REGION_BYTES, self.backing)?;
        self.denied |= denied;
        self.regions.push(Region {
            mapping,
            huge: self.backing.huge && !denied.huge,
            free: u64::MAX,
        });
        Ok(())
    }

    /// Puts back a run, whose memory the system may have.
    ///
    /// # Safety
    /// `base` came from [`take`](Self::take) with the same `units`, and nobody uses the run any more.
    pub unsafe fn put(&mut self, base: NonNull<u8>, units: u32) {
        let (index, first) = self
            .regions
            .iter()
            .enumerate()
            .find_map(|(index, region)| {
                let offset = base
                    .addr()
                    .get()
                    .wrapping_sub(region.mapping.base().addr().get());
                (offset < REGION_BYTES).then_some((index, offset / UNIT))
            })
            .expect("a run lies in a region");
        let region = &mut self.regions[index];
        let run = run(u32::try_from(first).expect("below 64"), units);
        debug_assert_eq!(region.free & run, 0, "put back twice");
        region.free |= run;
        if region.free == u64::MAX && self.regions.len() > 1 {
            self.regions.swap_remove(index);
        } else {
            // SAFETY: the run lies in the region's mapping, and nobody uses it, by the caller's promise.
            unsafe { decommit(base, units as usize * UNIT) };
        }
    }

    /// The regions, to be shown.
    pub fn map(&self) -> impl Iterator<Item = RegionMap> {
        self.regions.iter().map(|region| {
            let (mut runs, mut left) = (Vec::new(), region.free);
            while left != 0 {
                let first = left.trailing_zeros();
                let units = (left >> first).trailing_ones();
                left &= !run(first, units);
                runs.push((first as usize * UNIT, units as usize * UNIT));
            }
            RegionMap {
                base: region.mapping.base(),
                huge: region.huge,
                free: runs,
            }
        })
    }

    #[cfg(all(test, not(loom)))]
    fn regions(&self) -> usize {
        self.regions.len()
    }
}

fn run(first: u32, units: u32) -> u64 {
    debug_assert!(units >= 1 && first + units <= UNITS);
    (u64::MAX >> (UNITS - units)) << first
}

/// The first place where `units` bits in a row are set.
fn first_run(free: u64, units: u32) -> Option<u32> {
    debug_assert!((1..=UNITS).contains(&units));
    // A bit stays set while as many as `have` bits from it on are.
    let (mut starts, mut have) = (free, 1);
    while have < units {
        let more = have.min(units - have);
        starts &= starts >> more;
        have += more;
    }
    (starts != 0).then(|| starts.trailing_zeros())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_wherever_it_fits() {
        assert_eq!(first_run(u64::MAX, 64), Some(0));
        assert_eq!(first_run(u64::MAX << 1, 64), None);
        assert_eq!(first_run(0b0111_0110, 3), Some(4));
        assert_eq!(first_run(0b0111_0110, 2), Some(1));
        assert_eq!(first_run(1 << 63, 1), Some(63));
        assert_eq!(first_run(0, 1), None);
        for units in 1..=64 {
            for first in 0..=64 - units {
                assert_eq!(first_run(run(first, units), units), Some(first));
                if units < 64 {
                    assert_eq!(first_run(run(first, units), units + 1), None);
                }
            }
        }
    }

    #[test]
    fn runs_do_not_overlap_and_come_back() {
        let mut arena = Arena::default();
        assert_eq!(arena.take(1), None);
        arena.grow().unwrap();
        let first = arena.take(40).unwrap();
        assert_eq!(arena.take(25), None);
        let second = arena.take(24).unwrap();
        assert_eq!(
            second.addr().get() - first.addr().get(),
            40 * UNIT,
            "the second run follows the first"
        );
        // SAFETY: taken above, unused.
        unsafe { arena.put(first, 40) };
        assert_eq!(arena.take(40), Some(first));
    }

    #[test]
    fn a_run_that_comes_back_holds_zeroes_again() {
        let mut arena = Arena::default();
        arena.grow().unwrap();
        let run = arena.take(1).unwrap();
        // SAFETY: the run is ours, and a unit long.
        unsafe {
            run.write_bytes(0xAA, UNIT);
            arena.put(run, 1);
            let again = arena.take(1).unwrap();
            assert_eq!(again, run);
            if cfg!(target_os = "linux") {
                assert!(
                    std::slice::from_raw_parts(again.as_ptr(), UNIT)
                        .iter()
                        .all(|&byte| byte == 0)
                );
            }
        }
    }

    #[test]
    fn a_free_region_is_unmapped_unless_it_is_the_last() {
        let mut arena = Arena::default();
        arena.grow().unwrap();
        arena.grow().unwrap();
        let (first, second) = (arena.take(64).unwrap(), arena.take(64).unwrap());
        // SAFETY: taken above, unused.
        unsafe { arena.put(first, 64) };
        assert_eq!(arena.regions(), 1);
        // SAFETY: as above.
        unsafe { arena.put(second, 64) };
        assert_eq!(arena.regions(), 1);
    }
}
