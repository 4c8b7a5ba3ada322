//! How long the scheduler will have nothing to do: a guess, from how long it had nothing to do before.
//!
//! A timer bounds the window, and says nothing about what comes from outside before. So the last eight windows are
//! looked at, as Linux's `menu` governor does before it lets a CPU sleep: this one is taken to last as long as all but
//! one of them. And whoever has been idle for a while stays so for about as long again (Lindy's rule), which serves the
//! long idle time after a busy one, where the last eight windows were short.

use std::time::Duration;

const REMEMBERED: usize = 8;

/// The last windows.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    lengths: [Duration; REMEMBERED],
    seen: usize,
}

impl Windows {
    /// The scheduler had nothing to do for so long.
    pub fn learn(&mut self, length: Duration) {
        self.lengths[self.seen % REMEMBERED] = length;
        self.seen += 1;
    }

    /// How long a window lasts: all but one of the last did. Nothing, before there were enough.
    pub fn typical(&self) -> Duration {
        if self.seen < REMEMBERED {
            return Duration::ZERO;
        }
        let mut lengths = self.lengths;
        lengths.sort_unstable();
        lengths[1]
    }

    /// How much longer this one lasts, which has lasted for `age` and is over at the latest after `rest`.
    pub fn expected(&self, age: Duration, rest: Option<Duration>) -> Duration {
        let guess = self.typical().saturating_sub(age).max(age);
        rest.map_or(guess, |rest| rest.min(guess))
    }
}

/// What to do with a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is nothing to collect, or no time for it.
    Sleep,
    /// Collect this generation and those younger.
    Collect(u8),
    /// If nothing has come by then, as long from now, it is worth asking again.
    AskAfter(Duration),
}

#[cfg(test)]
mod tests {
    use super::{Duration, REMEMBERED, Windows};

    const MS: Duration = Duration::from_millis(1);

    fn after(lengths: &[u32]) -> Windows {
        let mut windows = Windows::default();
        for &length in lengths {
            windows.learn(MS * length);
        }
        windows
    }

    #[test]
    fn nothing_is_expected_before_windows_were_seen() {
        let windows = after(&[9; REMEMBERED - 1]);
        assert_eq!(windows.expected(Duration::ZERO, None), Duration::ZERO);
    }

    #[test]
    fn a_window_lasts_as_long_as_all_but_one_of_the_last() {
        let windows = after(&[7, 9, 30, 1, 9, 9, 8, 9]);
        assert_eq!(windows.expected(Duration::ZERO, None), MS * 7);
        assert_eq!(windows.expected(MS, None), MS * 6);
    }

    #[test]
    fn it_ends_with_the_next_timer() {
        let windows = after(&[9; REMEMBERED]);
        assert_eq!(windows.expected(Duration::ZERO, Some(MS)), MS);
    }

    #[test]
    fn what_has_lasted_goes_on_for_as_long() {
        let windows = after(&[1; REMEMBERED]);
        assert_eq!(windows.expected(MS * 50, None), MS * 50);
        assert_eq!(windows.expected(MS * 50, Some(MS * 20)), MS * 20);
    }

    #[test]
    fn old_windows_are_forgotten() {
        let windows = after(&[[1; REMEMBERED], [5; REMEMBERED]].concat());
        assert_eq!(windows.typical(), MS * 5);
    }
}
