//! Whether stealing pays.
//!
//! A task that does next to nothing costs more on another core than it saves there: its memory, its result and the counts
//! of what it refers to move from one cache to the other and back. So a machine that ran what it had brought in less than
//! [`TINY`] a task pauses before it looks for more, [`SHARE`] times as long as it ran: little of anybody's time goes into
//! what does not pay, and a load that grows heavier is noticed after [`PAUSE_MAX`].
//!
//! A machine counts as searching while it pauses: nobody is woken in its place, and at most half of them pause. To the proof
//! in README.md it is a searcher that takes its time. It pauses only with an empty queue, nothing parked on its thread, and
//! another worker that runs.

use std::time::{Duration, Instant};

use super::Machine;
use crate::{scheduler::worker::Worker, sync::Ordering};

/// A task that takes less is run where it is, for a cache line from another core takes a tenth of it and a task has many.
const TINY: Duration = Duration::from_nanos(400);
const SHARE: u32 = 16;
const PAUSE_MAX: Duration = Duration::from_micros(500);

#[derive(Debug, Default)]
pub(super) enum Haul {
    #[default]
    None,
    /// Since when, and from which turn on, it runs what it brought.
    Running(Instant, u32),
    /// Until then it leaves others' tasks alone.
    Pausing(Instant),
}

/// How long to pause after a haul that took so long, in so many turns of the loop; `None` if it paid.
fn pause_after(took: Duration, turns: u32) -> Option<Duration> {
    (took < TINY * turns).then(|| (took * SHARE).min(PAUSE_MAX))
}

impl Machine {
    /// It has brought tasks of others.
    pub(super) fn brought(&self) {
        if !self.scheduler.exclusive {
            let own = self.own();
            own.haul = Haul::Running(Instant::now(), own.turn);
        }
    }

    pub(in crate::scheduler) fn pause_for(&self, pause: Duration) {
        self.own().haul = Haul::Pausing(Instant::now() + pause);
    }

    /// Whether it leaves others' tasks alone for now, having nothing of its own to run.
    pub(super) fn spares_others(&self) -> bool {
        let own = self.own();
        if let Haul::Running(began, turn) = own.haul {
            let (took, turns) = (began.elapsed(), own.turn.wrapping_sub(turn));
            let is_occupied = self.parked() != 0 || own.pinned != 0;
            own.haul = Haul::None;
            if let Some(pause) = pause_after(took, turns)
                && !is_occupied
            {
                self.pause_for(pause);
            }
        }
        let own = self.own();
        if matches!(own.haul, Haul::Pausing(_)) && !self.others_run() {
            own.haul = Haul::None; // nobody would be left to run those tasks
        }
        matches!(own.haul, Haul::Pausing(_))
    }

    /// Whether a worker is awake that neither pauses nor searches, besides this one.
    fn others_run(&self) -> bool {
        let scheduler = self.scheduler;
        // Ordering: SeqCst throughout, as in `begin_search`.
        let idle = scheduler.idle_workers.load(Ordering::SeqCst);
        let searching = scheduler.searching.load(Ordering::SeqCst);
        let others_searching = searching.saturating_sub(self.is_searching().into());
        scheduler.slots.len().saturating_sub(idle) > others_searching + 1
    }

    /// Sleeps out a pause. Says whether it has: there may be something to do now.
    pub(super) fn pauses(&'static self, worker: &Worker) -> bool {
        if !self.spares_others() {
            return false;
        }
        let own = self.own();
        let Haul::Pausing(end) = std::mem::take(&mut own.haul) else {
            return false;
        };
        if end <= Instant::now() || !self.begin_search() {
            return false;
        }
        own.haul = Haul::Pausing(end);
        let end = worker.timers.next().map_or(end, |timer| timer.min(end));
        // SAFETY: on the machine's thread, and nothing with a destructor is alive here.
        unsafe { (self.scheduler.host.idle)(self, Some(end)) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, PAUSE_MAX, SHARE, TINY, pause_after};

    #[test]
    fn only_a_haul_of_tiny_tasks_is_followed_by_a_pause() {
        assert_eq!(pause_after(TINY * 100, 100), None);
        assert_eq!(pause_after(Duration::from_millis(20), 2), None);
        assert_eq!(pause_after(TINY * 10, 11), Some(TINY * 10 * SHARE));
    }

    #[test]
    fn a_pause_ends_soon() {
        assert_eq!(pause_after(PAUSE_MAX, 10_000), Some(PAUSE_MAX));
    }
}
