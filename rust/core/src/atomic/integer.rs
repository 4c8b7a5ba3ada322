//! A 64-bit signed integer.

use crate::sync::{Mode, Ordering::SeqCst, Word};

/// Arithmetic wraps around, as Go's does.
#[derive(Debug)]
pub struct Integer<M: Mode> {
    /// The two's complement; read and written by everybody.
    bits: M::Word,
}

// Ordering: SeqCst throughout: one order of all operations on all integers, see the module.
impl<M: Mode> Integer<M> {
    pub fn new(value: i64, _: M) -> Self {
        Self {
            bits: M::Word::new(value.cast_unsigned()),
        }
    }

    #[inline]
    pub fn load(&self) -> i64 {
        self.bits.load(SeqCst).cast_signed()
    }

    #[inline]
    pub fn store(&self, value: i64) {
        self.bits.store(value.cast_unsigned(), SeqCst);
    }

    /// The value before.
    #[inline]
    pub fn swap(&self, value: i64) -> i64 {
        self.bits.swap(value.cast_unsigned(), SeqCst).cast_signed()
    }

    /// The value after.
    #[inline]
    pub fn add(&self, by: i64) -> i64 {
        let before = self.bits.fetch_add(by.cast_unsigned(), SeqCst);
        before.cast_signed().wrapping_add(by)
    }

    /// The value after.
    #[inline]
    pub fn sub(&self, by: i64) -> i64 {
        self.add(by.wrapping_neg())
    }

    /// Whether it was `expected`, and so is `new` now.
    #[inline]
    pub fn compare_exchange(&self, expected: i64, new: i64) -> bool {
        self.replace_if(|value| value == expected, new).is_ok()
    }

    /// Makes it `other` if that is greater; the value before.
    #[inline]
    pub fn fetch_max(&self, other: i64) -> i64 {
        match self.replace_if(|value| value < other, other) {
            Ok(before) | Err(before) => before,
        }
    }

    /// Makes it `other` if that is less; the value before.
    #[inline]
    pub fn fetch_min(&self, other: i64) -> i64 {
        match self.replace_if(|value| value > other, other) {
            Ok(before) | Err(before) => before,
        }
    }

    /// The value before, and whether `condition` held for it, so that it is `new` now.
    #[inline]
    fn replace_if(&self, condition: impl Fn(i64) -> bool, new: i64) -> Result<i64, i64> {
        let mut bits = self.bits.load(SeqCst);
        while condition(bits.cast_signed()) {
            let changed =
                self.bits
                    .compare_exchange_weak(bits, new.cast_unsigned(), SeqCst, SeqCst);
            match changed {
                Ok(before) => return Ok(before.cast_signed()),
                Err(other) => bits = other, // or the same again: a weak exchange may fail for nothing
            }
        }
        Err(bits.cast_signed())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Integer;
    use crate::sync::{Exclusive, Mode, Shared};

    /// Each test is one for both modes.
    fn in_each_mode(shared: impl Fn(&Integer<Shared>), exclusive: impl Fn(&Integer<Exclusive>)) {
        shared(&Integer::new(5, Shared));
        // SAFETY: this thread alone uses it.
        exclusive(&Integer::new(5, unsafe { Exclusive::promise() }));
    }

    fn wraps<M: Mode>(number: &Integer<M>) {
        number.store(i64::MAX);
        assert_eq!(number.add(1), i64::MIN);
        assert_eq!(number.sub(1), i64::MAX);
        number.store(0);
        assert_eq!(number.sub(i64::MIN), i64::MIN);
        assert_eq!(number.add(i64::MIN), 0);
    }

    #[test]
    fn arithmetic_wraps_and_returns_the_value_after() {
        in_each_mode(wraps, wraps);
    }

    fn compares_signed<M: Mode>(number: &Integer<M>) {
        assert_eq!(number.fetch_max(-1), 5);
        assert_eq!(number.fetch_min(-1), 5);
        assert_eq!(number.load(), -1);
        assert_eq!(number.fetch_min(0), -1);
        assert_eq!(number.fetch_max(7), -1);
        assert_eq!(number.swap(3), 7);
        assert_eq!(number.load(), 3);
    }

    #[test]
    fn the_extremes_compare_signed_and_return_the_value_before() {
        in_each_mode(compares_signed, compares_signed);
    }

    fn exchanges<M: Mode>(number: &Integer<M>) {
        assert!(!number.compare_exchange(4, 6));
        assert_eq!(number.load(), 5);
        assert!(number.compare_exchange(5, 5));
        assert!(number.compare_exchange(5, -6));
        assert_eq!(number.load(), -6);
    }

    #[test]
    fn an_exchange_takes_place_only_on_the_expected_value() {
        in_each_mode(exchanges, exchanges);
    }
}
