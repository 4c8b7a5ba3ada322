//! A machine that is there for one task, which keeps the thread from its beginning to its end (Go's `LockOSThread`).

use std::ptr::{self, NonNull};

use super::Machine;
use crate::{sync::Ordering, task::Task};

impl Machine {
    pub(in crate::scheduler) fn set_alone(&self, task: *mut Task) {
        // Ordering: Relaxed, before its thread is started, which orders it.
        self.alone.store(task, Ordering::Relaxed);
    }

    /// Whether it is for one task alone, which keeps the thread from its beginning to its end.
    #[inline]
    pub fn is_alone(&self) -> bool {
        // Ordering: Relaxed, as above.
        !self.alone.load(Ordering::Relaxed).is_null()
    }

    /// Whether tasks park here as fibers.
    #[inline]
    pub fn fibers(&self) -> bool {
        self.scheduler.fibers && !self.is_alone()
    }

    /// Runs the task that the machine is for, as soon as there is a worker for it.
    ///
    /// # Safety
    /// As for [`work`](Self::work).
    pub(super) unsafe fn work_alone(&'static self, task: NonNull<Task>) {
        if let Some(me) = NonNull::new(self.current.get()) {
            self.own().ready.push_back(me);
            self.wait_on_thread(me);
        }
        // SAFETY: new, and given to this machine to run.
        unsafe { Task::run(task) };
        match self.sound_worker() {
            Some(_) => self.hand_off(),
            None => self.give_up_orphan(),
        }
        self.scheduler.end_if_quiet(); // this machine comes to no rest
    }

    /// The calling thread, on which [`work`](Self::work) has returned, is an ordinary one from now on.
    pub fn leave(&'static self) {
        Self::forget_current();
        if self.is_alone() {
            self.set_alone(ptr::null_mut());
            self.current.set(ptr::null_mut());
            // Ordering: Relaxed, ordered by the lock of the list.
            self.thread.store(0, Ordering::Relaxed);
            self.entered.store(false, Ordering::Relaxed);
            self.scheduler.keep_for_later(self);
        }
    }
}
