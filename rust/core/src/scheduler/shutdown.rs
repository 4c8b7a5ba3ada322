//! The end of a scheduler, in two ways.
//!
//! `stop` is for a process that ends: nothing starts or goes on, and nothing is torn down. [`Scheduler::close`] is for a program
//! that goes on: no task comes from outside any more, those that are there run to their ends and may start others, and
//! when all have ended the threads are let go.
//!
//! All have ended when every worker is idle, no orphan is left, and as many tasks were finished as were submitted. Whoever
//! changes one of these last looks: a machine that comes to rest, after it has put its worker away; a machine for one task,
//! which ends without a rest; a worker for which there is no thread; and `close` itself. All of them look under the lock of
//! `idle`, so the last one to look sees what the others did. The counts are read while nobody runs, and submitters from outside
//! are refused under the lock of their count. A worker on its way between two hands is not idle, so a callback of a task that has just
//! been counted as finished is not overlooked.

use std::ptr::{self, NonNull};

use super::{Scheduler, idle::Idle};
use crate::{sync::Ordering, task::Task};

impl Scheduler {
    /// No task comes from outside from now on. When all have ended `last` is run, if there is one, and the threads are let
    /// go. `false`: all have ended already, and `last` is not run. To be called once.
    ///
    /// # Safety
    /// `last` is as for [`submit`](Self::submit), and refused by `false`.
    pub unsafe fn close(&'static self, last: Option<NonNull<Task>>) -> bool {
        self.foreign.lock().closed = true;
        let idle = self.idle.lock();
        // Ordering: Relaxed, under the lock.
        self.closing.store(true, Ordering::Relaxed);
        if self.is_quiet(&idle) {
            self.shut_down();
            return false;
        }
        let last = last.map_or(ptr::null_mut(), NonNull::as_ptr);
        self.last.store(last, Ordering::Relaxed); // Ordering: Relaxed, as above.
        true
    }

    /// Ends the scheduler if it is closed and everything has ended.
    #[inline]
    pub(super) fn end_if_quiet(&'static self) {
        // Ordering: Relaxed: written before a look of its own under the lock, which comes before or after ours.
        if self.closing.load(Ordering::Relaxed) {
            self.look_for_the_end();
        }
    }

    #[cold]
    fn look_for_the_end(&'static self) {
        {
            let idle = self.idle.lock();
            if !self.is_quiet(&idle) {
                return;
            }
            // Ordering: Relaxed, under the lock.
            let last = self.last.swap(ptr::null_mut(), Ordering::Relaxed);
            let Some(last) = NonNull::new(last) else {
                self.shut_down();
                return;
            };
            self.foreign.lock().spawned += 1;
            self.inject(last);
        }
        self.notify();
    }

    fn is_quiet(&self, idle: &Idle) -> bool {
        let totals = self.totals();
        idle.sleepers.len() + idle.free.len() == self.slots.len()
            && idle.orphans.is_empty()
            && totals.spawned == totals.finished
    }

    /// Whether everything has ended and the threads are let go.
    pub fn has_ended(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `shut_down`.
        self.ending.load(Ordering::Acquire)
    }

    /// Stops, and lets the threads go: each machine returns to its host as it comes to its loop. A task that is parked
    /// with its thread keeps it for ever. For an embedder that outlives its schedulers.
    pub fn shut_down(&self) {
        // Ordering: Release, ordered before the unparks; a machine that parks no more comes by the flag's Acquire.
        self.ending.store(true, Ordering::Release);
        self.stop();
        for machine in self.machines.lock().iter() {
            machine.parker.unpark();
        }
    }
}
