//! How long those in a list of waiters have waited, all together.
//!
//! The sum of everybody's wait is the integral of how many wait over time, so nobody has to remember when it
//! came: whoever changes the list first adds what has passed since the last change. The clock is coarse, so a single
//! short wait counts as nothing or as a whole tick; over many waits that comes out even.

use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Waited {
    total_ns: u64,
    /// The clock's reading when `total_ns` was right.
    as_of_ns: u64,
}

impl Waited {
    /// Called under the list's lock, before it changes: `waiters` have been in it since the last call.
    pub(super) fn pass(&mut self, now_ns: u64, waiters: usize) {
        let passed = now_ns.saturating_sub(self.as_of_ns);
        self.total_ns = self
            .total_ns
            .saturating_add(passed.saturating_mul(waiters as u64));
        self.as_of_ns = now_ns;
    }

    pub(super) fn total(&self) -> Duration {
        Duration::from_nanos(self.total_ns)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn waits_that_overlap_add_up() {
        let mut waited = Waited::default();
        waited.pass(100, 0); // one comes
        waited.pass(110, 1); // another comes
        waited.pass(115, 2); // one goes
        waited.pass(200, 1); // the last goes
        waited.pass(900, 0);
        assert_eq!(waited.total(), Duration::from_nanos(10 + 2 * 5 + 85));
    }
}
