//! How long collections took: a histogram of bounded size and bounded error.
//!
//! Buckets as in `HdrHistogram`: 32 to each doubling, so that a quantile is at most a 32nd above the true one. The longest
//! pause is exact.

use std::time::Duration;

use super::Trigger;

/// Buckets to a doubling, as a power of two.
const PRECISION: u32 = 5;
const STEPS: usize = 1 << PRECISION;
const BUCKETS: usize = STEPS * (u64::BITS - PRECISION + 1) as usize;

#[derive(Clone, Debug)]
pub struct Pauses {
    counts: Box<[u64]>,
    count: u64,
    longest: Duration,
    by_trigger: [u64; Trigger::ALL.len()],
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            count: 0,
            longest: Duration::ZERO,
            by_trigger: [0; Trigger::ALL.len()],
        }
    }
}

/// Where pauses of so many nanoseconds are counted. The first 2 x `STEPS` buckets have one length each.
fn bucket(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(PRECISION + 1);
    let step = usize::try_from(ns >> shift).unwrap_or(usize::MAX); // below 2 x `STEPS`
    shift as usize * STEPS + step
}

/// The longest that is counted there.
fn longest_in(bucket: usize) -> u64 {
    let (shift, step) = match bucket / STEPS {
        0 => (0, bucket),
        octave => (octave - 1, bucket % STEPS + STEPS),
    };
    let next = (step as u128 + 1) << shift;
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

impl Pauses {
    pub fn record(&mut self, pause: Duration, trigger: Trigger) {
        let ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.longest = self.longest.max(pause);
        self.by_trigger[trigger as usize] += 1;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn of(&self, trigger: Trigger) -> u64 {
        self.by_trigger[trigger as usize]
    }

    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The pause that `percent` of all are not longer than; nothing, where there was none.
    pub fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(longest_in(bucket)).min(self.longest);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Duration, PRECISION, Pauses, Trigger, bucket, longest_in};

    #[test]
    fn each_length_has_one_bucket_and_they_are_in_order() {
        let mut last = 0;
        for ns in (0..1_000_000).chain([u64::MAX / 2, u64::MAX]) {
            let here = bucket(ns);
            assert!(here >= last && here < BUCKETS);
            assert!(longest_in(here) >= ns);
            assert!(here == 0 || longest_in(here - 1) < ns, "{ns}");
            last = here;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_percentile_is_too_long_by_at_most_one_in_32() {
        let mut pauses = Pauses::default();
        for us in 1..=1000 {
            pauses.record(Duration::from_micros(us), Trigger::Idle);
        }
        for percent in [1, 50, 99, 100] {
            let exact = Duration::from_micros(percent * 10);
            let told = pauses.percentile(percent);
            assert!(
                told >= exact && told <= exact + exact / (1 << PRECISION),
                "{told:?}"
            );
        }
        assert_eq!(pauses.percentile(100), pauses.longest());
    }

    #[test]
    fn without_pauses_all_figures_are_nothing() {
        let pauses = Pauses::default();
        assert_eq!((pauses.count(), pauses.longest()), (0, Duration::ZERO));
        assert_eq!(pauses.percentile(99), Duration::ZERO);
    }

    #[test]
    fn each_is_counted_with_its_trigger() {
        let mut pauses = Pauses::default();
        for (times, trigger) in Trigger::ALL.into_iter().enumerate() {
            for _ in 0..times {
                pauses.record(Duration::ZERO, trigger);
            }
        }
        assert_eq!(Trigger::ALL.map(|trigger| pauses.of(trigger)), [0, 1, 2, 3]);
        assert_eq!(pauses.count(), 6);
    }
}
