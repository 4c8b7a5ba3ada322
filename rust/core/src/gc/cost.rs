//! What a collection costs, learned from those that were.

use std::time::Duration;

/// Before anything is known: what `CPython` needs for a small object on a machine of 2020.
const NS_AT_FIRST: f64 = 100.0;
/// Of fewer objects the fixed part of a collection would be learned as theirs.
const SAMPLE_MIN: u64 = 1_000;
/// A collection of so many objects counts in full. In a smaller one a moment of the system's, in which the thread did not
/// run, would be taken for the objects' cost.
const SAMPLE_FULL: f64 = 50_000.0;

/// Nanoseconds that a collector needs for an object.
///
/// It rises by half of the difference and falls by an eighth, or less if the sample is small: to promise too short a pause
/// is worse than too long a one.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    ns: f64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { ns: NS_AT_FIRST }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, of numbers far below 2^52, none of them negative"
)]
impl Cost {
    /// A collection of `objects` has taken so long.
    pub fn learn(&mut self, objects: u64, pause: Duration) {
        if objects < SAMPLE_MIN {
            return;
        }
        let difference = pause.as_nanos() as f64 / objects as f64 - self.ns;
        let weight = if difference > 0.0 { 0.5 } else { 0.125 };
        self.ns += weight * difference * (objects as f64 / SAMPLE_FULL).min(1.0);
    }

    /// How long a collection of `objects` takes.
    pub fn of(&self, objects: u64) -> Duration {
        Duration::from_nanos((self.ns * objects as f64) as u64)
    }

    /// How many objects a collection of that length has.
    pub fn objects_in(&self, pause: Duration) -> u64 {
        (pause.as_nanos() as f64 / self.ns.max(1.0)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{Cost, Duration};

    #[test]
    fn it_comes_close_to_what_each_object_takes() {
        let mut cost = Cost::default();
        for _ in 0..40 {
            cost.learn(50_000, Duration::from_millis(10));
        }
        assert_eq!(cost.of(1_000_000).as_millis(), 199);
        assert_eq!(cost.objects_in(Duration::from_millis(20)), 100_000);
    }

    #[test]
    fn it_rises_sooner_than_it_falls() {
        let (mut rises, mut falls) = (Cost::default(), Cost::default());
        rises.learn(50_000, Duration::from_millis(10)); // 200 ns an object, after 100
        falls.learn(50_000, Duration::ZERO);
        let ns = |cost: Cost| cost.of(1_000_000).as_millis();
        assert_eq!((ns(rises), ns(falls)), (150, 87));
    }

    #[test]
    fn a_small_collection_in_which_the_thread_did_not_run_changes_little() {
        let mut cost = Cost::default();
        cost.learn(1_000, Duration::from_millis(4)); // forty times what it takes
        assert!(cost.of(1_000_000) < Duration::from_millis(150));
    }

    #[test]
    fn a_collection_of_next_to_nothing_teaches_nothing() {
        let mut cost = Cost::default();
        cost.learn(10, Duration::from_secs(1));
        assert_eq!(cost.of(10), Duration::from_micros(1));
    }
}
