//! Whether a scheduler could ever go on by itself.

use super::{Machine, Scheduler, worker::Worker};
use crate::sync::Ordering;

impl Scheduler {
    /// A number if nothing runs, nothing is queued, and no deadline will wake anybody. The same number twice means that
    /// nothing has happened in between, either.
    pub fn quiescence(&'static self) -> Option<u64> {
        let rests = {
            let idle = self.idle.lock();
            // Ordering: SeqCst, changed outside the lock too.
            let searching = self.searching.load(Ordering::SeqCst) != 0;
            !searching
                && idle.waiting.is_empty()
                && idle.orphans.is_empty()
                && self
                    .slots
                    .iter()
                    .chain(idle.pool.iter().copied())
                    .all(Worker::rests)
        };
        if !rests || self.queued_for_nodes() != 0 {
            return None;
        }
        let totals = self.totals();
        Some(
            [totals.spawned, totals.finished, totals.parks, totals.wakes]
                .into_iter()
                .fold(0, u64::wrapping_add),
        )
    }

    /// The machines so far.
    pub fn machines(&self) -> Vec<&'static Machine> {
        self.machines.lock().clone()
    }
}
