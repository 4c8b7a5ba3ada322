//! Tells when a channel fills up and when it has emptied again.
//!
//! A gauge is *low* until the channel holds `high` values or more, then *high* until it holds `low` or fewer
//! (`low < high`): between the two it stays what it is, so that a channel that hovers around one mark tells nothing.
//! Each change is a crossing. Whoever changes the channel's length looks at the gauge afterwards.
//!
//! # No crossing is missed
//! Two threads change the length; each then looks. Of a change of the length and a change of the gauge at the same
//! time, one sees the other: a thread moves an index of the channel, then, behind a fence, reads the gauge; whoever
//! moves the gauge does so, then, behind a fence, reads the length once more, until there is nothing to move.
//! So when all is quiet the gauge agrees with the length. A length that went over a mark and back between two looks
//! is not a crossing.
//!
//! # Each is told once, in order
//! `crossings` is a word: odd says high. It is moved by compare-and-swap, so each crossing has one thread that did
//! it. That thread tells of it, outside every lock, unless another is telling right now: then that one goes on with it
//! when it is done, or an observer could hear "low" before the "high" that it follows. `telling` is the right to,
//! as a generation of [`fork`]: in a child nobody tells any more, unless it forked in the middle.

use crate::{
    sync::{
        Guarded, Mode,
        Ordering::{Relaxed, SeqCst},
        Word, fence,
    },
    wait::fork,
};

/// Which mark was crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// The channel holds so many values that senders should slow down.
    High,
    /// It has been high, and holds few again.
    Low,
}

/// See the module.
pub struct Gauge<M: Mode> {
    high: usize,
    low: usize,
    /// Odd: high. Moved by whoever crossed; read by all who look.
    crossings: M::Word,
    told: Guarded<Told, M>,
}

struct Told {
    /// Of the crossings.
    count: u64,
    telling: Option<u32>,
}

impl<M: Mode> Gauge<M> {
    /// # Panics
    /// Unless `low < high`.
    pub fn new(high: usize, low: usize, _: M) -> Self {
        assert!(low < high, "a gauge with no way between its marks");
        Self {
            high,
            low,
            crossings: M::Word::new(0),
            told: Guarded::new(Told {
                count: 0,
                telling: None,
            }),
        }
    }

    /// Looks at the length, after a change of it. `true`: the caller has to tell, by [`next`](Self::next) until that
    /// has nothing more.
    #[must_use = "who has to tell keeps others from it"]
    pub fn look(&self, len: impl Fn() -> usize) -> bool {
        // Ordering: SeqCst, between our change of the length and our reading of the gauge; the fence below is its
        // partner.
        fence(SeqCst);
        let mut crossed = false;
        loop {
            // Ordering: Relaxed, the fence stands before it.
            let crossings = self.crossings.load(Relaxed);
            let is_high = crossings % 2 == 1;
            let len = len();
            let is_beyond = if is_high {
                len <= self.low
            } else {
                len >= self.high
            };
            if !is_beyond {
                break;
            }
            let moved = self.crossings.compare_exchange_weak(
                crossings,
                crossings.wrapping_add(1),
                // Ordering: Relaxed, the fence stands behind it; a loser looks again.
                Relaxed,
                Relaxed,
            );
            crossed |= moved.is_ok();
            // Ordering: SeqCst, between our change of the gauge and the next reading of the length; the fence above is
            // its partner.
            fence(SeqCst);
        }
        crossed
            && self.told.with(|told| {
                let free = told.telling != Some(fork::generation());
                // Ordering: Relaxed, whoever crossed later comes here later, or finds us telling.
                let behind = told.count != self.crossings.load(Relaxed);
                if free && behind {
                    told.telling = Some(fork::generation());
                }
                free && behind
            })
    }

    /// The next crossing to tell of. `None`: there is none, and the right to tell is given back.
    pub fn next(&self) -> Option<Pressure> {
        self.told.with(|told| {
            // Ordering: Relaxed, whoever crosses after this takes the lock after us, and finds nobody telling.
            if told.count == self.crossings.load(Relaxed) {
                told.telling = None;
                return None;
            }
            told.count = told.count.wrapping_add(1);
            Some(if told.count % 2 == 1 {
                Pressure::High
            } else {
                Pressure::Low
            })
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::sync::Shared;

    fn told(gauge: &Gauge<Shared>, len: usize) -> Vec<Pressure> {
        if gauge.look(|| len) {
            std::iter::from_fn(|| gauge.next()).collect()
        } else {
            Vec::new()
        }
    }

    #[test]
    fn each_crossing_is_told_once_and_between_the_marks_nothing_is() {
        let gauge = Gauge::new(8, 5, Shared);
        let expected = [
            (7, vec![]),
            (8, vec![Pressure::High]),
            (9, vec![]),
            (6, vec![]),
            (8, vec![]),
            (5, vec![Pressure::Low]),
            (0, vec![]),
            (7, vec![]),
            (10, vec![Pressure::High]),
        ];
        for (len, crossings) in expected {
            assert_eq!(told(&gauge, len), crossings, "at {len}");
        }
    }

    #[test]
    fn a_crossing_while_another_is_told_is_told_after_it() {
        let gauge = Gauge::new(2, 1, Shared);
        assert!(gauge.look(|| 2));
        assert_eq!(gauge.next(), Some(Pressure::High));
        assert!(!gauge.look(|| 0), "somebody is telling");
        assert!(!gauge.look(|| 2));
        assert_eq!(gauge.next(), Some(Pressure::Low));
        assert_eq!(gauge.next(), Some(Pressure::High));
        assert_eq!(gauge.next(), None);
        assert_eq!(told(&gauge, 0), [Pressure::Low]);
    }

    #[test]
    fn a_length_that_changes_back_at_once_is_told_both_ways() {
        let gauge = Gauge::new(2, 1, Shared);
        let len = Cell::new(2);
        assert!(gauge.look(|| len.replace(0)));
        assert_eq!(gauge.next(), Some(Pressure::High));
        assert_eq!(gauge.next(), Some(Pressure::Low));
        assert_eq!(gauge.next(), None);
    }
}
