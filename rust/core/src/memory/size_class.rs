//! Which sizes memory is cut into.
//!
//! Up to 1 KiB a class every 64 bytes; above, eight classes per doubling, so that a request wastes less
//! than an eighth of what it asked for. Both are arithmetic: no table is searched. Every class is a
//! multiple of [`ALIGN`], so every slot of a span is aligned if the span is.

/// What every buffer is aligned to: a cache line, and the widest vector load.
pub const ALIGN: usize = 64;

/// The largest class. A larger request is a mapping of its own.
pub const LARGEST: usize = 1 << 20;

const LINEAR_MAX: usize = 1 << LINEAR_MAX_LOG;
const LINEAR_MAX_LOG: usize = 10;
const LINEAR_CLASSES: usize = LINEAR_MAX / ALIGN;
/// Classes per doubling, as a power of two: one step is an eighth of the doubling's start.
const STEPS_LOG: usize = 3;
const STEPS: usize = 1 << STEPS_LOG;
const DOUBLINGS: usize = LARGEST.ilog2() as usize - LINEAR_MAX_LOG;

/// How many classes there are.
pub const CLASSES: usize = LINEAR_CLASSES + DOUBLINGS * STEPS;

/// One of the sizes that memory is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SizeClass(u8);

impl SizeClass {
    /// The smallest class that holds `nbytes`, or `None` above [`LARGEST`]. No bytes at all still need a
    /// slot, so that every buffer has an address of its own.
    #[inline]
    pub const fn of(nbytes: usize) -> Option<Self> {
        // The last byte decides, so that a class ends with its own size.
        let last = nbytes.saturating_sub(1);
        let index = if last < LINEAR_MAX {
            last / ALIGN
        } else if last < LARGEST {
            let log = last.ilog2() as usize;
            LINEAR_CLASSES
                + (log - LINEAR_MAX_LOG) * STEPS
                + ((last >> (log - STEPS_LOG)) & (STEPS - 1))
        } else {
            return None;
        };
        Some(Self::at(index))
    }

    /// The class number `index`, in the order of their sizes.
    #[expect(clippy::cast_possible_truncation, reason = "asserted below")]
    pub const fn at(index: usize) -> Self {
        debug_assert!(index < CLASSES);
        Self(index as u8)
    }

    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The bytes of one slot.
    #[inline]
    pub const fn bytes(self) -> usize {
        let index = self.index();
        if index < LINEAR_CLASSES {
            (index + 1) * ALIGN
        } else {
            let (doubling, step) = (
                (index - LINEAR_CLASSES) / STEPS,
                (index - LINEAR_CLASSES) % STEPS,
            );
            (STEPS + step + 1) << (doubling + LINEAR_MAX_LOG - STEPS_LOG)
        }
    }

    /// The class of [`LARGEST`].
    pub const fn largest() -> Self {
        Self::at(CLASSES - 1)
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES).map(Self::at)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Every size; a thousand times fewer under Miri, which takes a thousand times as long.
    const STRIDE: usize = if cfg!(miri) { 1024 } else { 1 };

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        let mut class = SizeClass::at(0);
        for nbytes in (0..=LARGEST).step_by(STRIDE) {
            while nbytes > class.bytes() {
                class = SizeClass::at(class.index() + 1);
            }
            assert_eq!(SizeClass::of(nbytes), Some(class), "{nbytes}");
        }
        assert_eq!(class.index() + 1, CLASSES);
        assert_eq!(class.bytes(), LARGEST);
        assert_eq!(SizeClass::of(LARGEST + 1), None);
        assert_eq!(SizeClass::of(usize::MAX), None);
    }

    #[test]
    fn no_size_from_1_kib_up_wastes_more_than_an_eighth() {
        for nbytes in (1024..=LARGEST).step_by(STRIDE) {
            let wasted = SizeClass::of(nbytes).unwrap().bytes() - nbytes;
            // Of the request, and so of the slot too.
            assert!(wasted * 8 <= nbytes, "{nbytes} wastes {wasted}");
        }
    }

    #[test]
    fn sizes_below_1_kib_go_by_64_bytes() {
        for nbytes in 1..=1024 {
            let bytes = SizeClass::of(nbytes).unwrap().bytes();
            assert!(
                bytes - nbytes < 64 && bytes.is_multiple_of(64),
                "{nbytes}: {bytes}"
            );
        }
    }

    #[test]
    fn every_class_is_a_multiple_of_the_alignment() {
        assert!(SizeClass::all().all(|class| class.bytes().is_multiple_of(ALIGN)));
    }
}
