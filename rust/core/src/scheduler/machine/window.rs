//! Idle windows: the host may use the time between two tasks when nobody has any to run.
//!
//! It is asked before the machine counts as sleeping, while its worker is in its hand as it is in a task: what the host runs
//! may submit tasks and wake others, and whoever takes a sleeping machine's worker must not meet it in the middle of that.

use std::time::Instant;

use super::{super::Spent, Machine};
use crate::sync::Ordering;

/// The scheduler has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it has, at the latest.
    pub until: Option<Instant>,
    /// The same number as long as nothing was done in between.
    pub turn: u64,
}

impl Machine {
    /// Asks the host. Says whether there may be something to do now.
    pub(super) fn spends_window(&'static self) -> bool {
        // SAFETY: on the machine's thread, and nothing with a destructor is alive here.
        match unsafe { (self.scheduler.host.on_idle)(self) } {
            Spent::Nothing => false,
            Spent::Some => true,
            Spent::NothingUntil(ask_at) => {
                self.own().ask_at = Some(ask_at);
                false
            }
        }
    }

    /// The window that is there now, in the host's `on_idle`. `None`: another worker runs, or there is work.
    pub fn window(&'static self) -> Option<Window> {
        let scheduler = self.scheduler;
        let worker = self.sound_worker()?;
        // Ordering: SeqCst, also changed under the lock.
        let idle = scheduler.idle_workers.load(Ordering::SeqCst);
        if idle + 1 < scheduler.slots.len() || scheduler.work_is_visible(self) {
            return None;
        }
        let until = scheduler.slots.iter().filter_map(|slot| slot.timers.next());
        Some(Window {
            until: until.min(),
            // Of two workers the same number would do no harm: a window is taken to be longer than it is.
            turn: worker.turn(),
        })
    }
}
