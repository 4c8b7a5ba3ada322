//! Loops of a machine that have no task: kept for the next park, and let go of when there were too many for a while.
//!
//! The one used last goes first, also when they are let go of: freed in any order their memory would be returned to
//! the system in scattered pieces, of which it takes only so many.
//!
//! How many are too many is found out by the low-water mark: what was not needed once in a whole period is surplus. A
//! burst of parks that comes back within it finds its loops.

use std::{
    ptr::NonNull,
    time::{Duration, Instant},
};

use super::stack::{Stack, StackQueue};

/// How many stay anyway.
const KEPT: usize = 64;
const PERIOD: Duration = Duration::from_secs(1);

/// The machine's thread only.
#[derive(Debug, Default)]
pub struct Loops {
    idle: StackQueue,
    /// The fewest there were in this period.
    low: usize,
    /// When this period ends; `None` while there are few.
    ends: Option<Instant>,
    /// How many are still to be let go of.
    surplus: usize,
}

impl Loops {
    pub fn put(&mut self, stack: NonNull<Stack>) {
        self.idle.push_front(stack);
    }

    pub fn take(&mut self) -> Option<NonNull<Stack>> {
        let stack = self.idle.pop_front();
        self.low = self.low.min(self.idle.len());
        stack
    }

    /// When to [`judge`](Self::judge), for a machine that is about to sleep.
    pub fn judge_at(&mut self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        if self.idle.len() <= KEPT {
            self.ends = None;
        } else if self.ends.is_none() {
            self.low = self.idle.len();
            self.ends = Some(now() + PERIOD);
        }
        self.ends
    }

    /// Says whether loops are to be let go of, at the end of a period.
    pub fn judge(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.ends.is_some_and(|ends| ends <= now()) {
            self.ends = None;
            self.surplus = self.low.saturating_sub(KEPT);
        }
        self.surplus != 0
    }

    /// The next one to let go of.
    pub fn take_surplus(&mut self) -> Option<NonNull<Stack>> {
        self.surplus = self.surplus.checked_sub(1)?;
        self.idle.pop_front()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::scheduler::tests::any_machine;

    fn let_go(loops: &mut Loops) -> usize {
        std::iter::from_fn(|| loops.take_surplus())
            // SAFETY: made by `filled`, and out of the list.
            .map(|stack| drop(unsafe { Box::from_raw(stack.as_ptr()) }))
            .count()
    }

    fn filled(count: usize) -> Loops {
        let mut loops = Loops::default();
        for _ in 0..count {
            loops.put(NonNull::from(Box::leak(Stack::new(any_machine()))));
        }
        loops
    }

    #[test]
    fn what_was_not_needed_in_a_period_is_let_go_of() {
        let start = Instant::now();
        let mut loops = filled(KEPT + 10);
        assert_eq!(loops.judge_at(|| start), Some(start + PERIOD));
        let needed: Vec<_> = (0..4).map(|_| loops.take().expect("enough")).collect();
        for stack in needed {
            loops.put(stack);
        }
        assert!(!loops.judge(|| start));
        assert!(loops.judge(|| start + PERIOD));
        assert_eq!(let_go(&mut loops), 6);
        assert!(!loops.judge(|| start + PERIOD));
    }

    #[test]
    fn a_few_are_kept_and_nobody_wakes_for_them() {
        let mut loops = filled(KEPT);
        assert_eq!(loops.judge_at(Instant::now), None);
        assert!(!loops.judge(Instant::now));
        assert_eq!(let_go(&mut loops), 0);
    }
}
