//! Values that came back: handed over to receivers who could not take them any more.
//!
//! They were sent before everything that is still in the channel, so every receive looks here first, and they leave in the
//! order of their hand-overs, in whichever order they came back. The numbers that say so wrap: two are compared by their
//! distance, which is right as long as fewer than 2^31 hand-overs lie between two values that are here together.
//!
//! It lives under the channel's lock, and is empty while a receiver is linked.

use std::collections::VecDeque;

pub(super) struct Returned<T> {
    /// By number, the oldest first.
    values: VecDeque<(u32, T)>,
    /// How many have come back.
    count: u64,
    /// No receiver will come any more.
    refused: bool,
}

impl<T> Default for Returned<T> {
    fn default() -> Self {
        Self {
            values: VecDeque::new(),
            count: 0,
            refused: false,
        }
    }
}

fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

impl<T> Returned<T> {
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Moves whenever a receive may have become ready by what came back.
    pub(super) fn version(&self) -> u64 {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Keeps `value`, or gives it back where nobody will come for it.
    pub(super) fn put(&mut self, number: u32, value: T) -> Result<(), T> {
        if self.refused {
            return Err(value);
        }
        self.count += 1;
        // Almost always the last: hand-overs are taken back about in their order.
        let before = self.values.iter().rev();
        let after = before
            .take_while(|(other, _)| is_before(number, *other))
            .count();
        self.values
            .insert(self.values.len() - after, (number, value));
        Ok(())
    }

    /// Takes the one that was handed over first.
    pub(super) fn take(&mut self) -> Option<T> {
        self.values.pop_front().map(|(_, value)| value)
    }

    /// Keeps nothing from now on. What is here can still be taken.
    pub(super) fn refuse(&mut self) {
        self.refused = true;
    }

    pub(super) fn for_each(&self, visit: impl FnMut(&T)) {
        self.values.iter().map(|(_, value)| value).for_each(visit);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn values_leave_in_the_order_of_their_numbers_also_where_those_wrap() {
        let mut returned = Returned::default();
        for number in [2, u32::MAX, 0, u32::MAX - 1, 1] {
            assert_eq!(returned.put(number, number), Ok(()));
        }
        let left: Vec<_> = std::iter::from_fn(|| returned.take()).collect();
        assert_eq!(left, [u32::MAX - 1, u32::MAX, 0, 1, 2]);
    }
}
