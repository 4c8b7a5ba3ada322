//! How a task gives up its worker: on its own stack, or with its thread.

use std::{ptr::NonNull, time::Instant};

use super::{
    super::{Stack, worker::Worker},
    Machine, STACKS_IN_A_ROW, Turn,
};
use crate::sync::Ordering;

impl Machine {
    /// Leaves the current stack until it is readied. `false`: the host resumed it by an error of its own.
    ///
    /// # Safety
    /// On the machine's thread, in a task whose waiter is armed for this stack (see [`Task::set_stack`](crate::task::Task::set_stack));
    /// the caller's frames hold nothing that another thread or stack can reach.
    pub unsafe fn park(&'static self) -> bool {
        self.counters.parks.add(1);
        let Some(me) = NonNull::new(self.current.get()) else {
            return false;
        };
        self.set_parked(self.parked() + 1);
        let resumed = if self.fibers() {
            self.leave_stack(me)
        } else {
            self.wait_on_thread(me);
            true
        };
        self.set_parked(self.parked() - 1);
        resumed
    }

    fn leave_stack(&'static self, me: NonNull<Stack>) -> bool {
        if !self.inbox.is_empty() {
            self.inbox.drain_into(&mut self.own().ready);
        }
        if let Some(worker) = self.sound_worker() {
            let own = self.own();
            if own.stacks_in_a_row < STACKS_IN_A_ROW
                && let Some(stack) = own.ready.pop_stack()
            {
                own.stacks_in_a_row += 1;
                worker.next_turn();
                return stack == me || self.switch(me, stack);
            }
        }
        self.to_a_loop(me)
    }

    /// Goes on with an idle loop, or a new one.
    fn to_a_loop(&'static self, me: NonNull<Stack>) -> bool {
        if let Some(stack) = self.own().loops.take() {
            return self.switch(me, stack);
        }
        // SAFETY: `me` is the stack that runs.
        unsafe { (self.scheduler.host.new_stack)(me) }
    }

    /// Thread parking: the task keeps the thread, the worker goes to another one as soon as there is work.
    pub(super) fn wait_on_thread(&'static self, me: NonNull<Stack>) {
        let stack = self.next_on_thread();
        debug_assert_eq!(stack, me, "a thread has one stack");
    }

    /// Waits until something of this thread's own is ready, while its worker serves others elsewhere.
    pub(super) fn next_on_thread(&'static self) -> NonNull<Stack> {
        loop {
            // Ordering: Relaxed, a flag that is seen soon enough.
            if self.scheduler.stopping.load(Ordering::Relaxed) {
                self.halt(true); // what wakes a task now does not make it go on
            }
            self.inbox.drain_into(&mut self.own().ready);
            let last = std::mem::take(&mut self.own().last_turn);
            let gives_way = last == Turn::Yielded && self.scheduler.work_is_visible(self);
            let Some(worker) = self.worker() else {
                self.rest(true);
                continue;
            };
            if worker.is_orphaned() {
                self.give_up_orphan();
                continue;
            }
            if gives_way {
                self.hand_off();
                continue;
            }
            if let Some(stack) = self.own().ready.pop_front() {
                worker.next_turn();
                return stack;
            }
            worker.timers.fire(Instant::now());
            if !self.inbox.is_empty() {
                continue;
            }
            if self.scheduler.work_is_visible(self) {
                self.hand_off();
            }
            self.rest(true);
        }
    }

    /// Gives the worker in hand to another machine.
    pub(super) fn hand_off(&'static self) {
        // A pair of parked tasks that ready each other for ever must not starve the queues: see `STACKS_IN_A_ROW`.
        let queued = |worker: &Worker| self.scheduler.is_injected() || !worker.queue.is_empty();
        let queue_first = self
            .worker()
            .is_some_and(|worker| worker.hand(true) >= STACKS_IN_A_ROW && queued(worker));
        if !queue_first && self.scheduler.give_to_waiting(self) {
            return;
        }
        let idle = self.scheduler.idle.lock();
        let worker = self.take_worker();
        worker.hand(false);
        self.count_handoff();
        self.scheduler.give_to_spare(idle, worker, false);
    }

    /// Lets others run first. Returns at once if nobody wants to.
    ///
    /// # Safety
    /// As for [`park`](Self::park), but that no waiter is armed.
    pub unsafe fn yield_now(&'static self) -> bool {
        let Some(me) = NonNull::new(self.current.get()) else {
            return false;
        };
        self.inbox.drain_into(&mut self.own().ready);
        if self.own().ready.is_empty() && !self.scheduler.work_is_visible(self) {
            return true;
        }
        self.own().ready.push_back(me);
        self.own().last_turn = Turn::Yielded;
        self.set_parked(self.parked() + 1);
        let resumed = if self.fibers() {
            self.to_a_loop(me)
        } else {
            if self.sound_worker().is_some() {
                self.hand_off();
            }
            self.wait_on_thread(me);
            true
        };
        self.set_parked(self.parked() - 1);
        if !resumed {
            self.take_back(me);
        }
        resumed
    }

    /// Blocks the thread itself until unparked, until `deadline`, or for no reason. For the host's `idle`.
    pub fn sleep(&self, deadline: Option<Instant>) {
        self.parker.park(deadline);
    }

    /// The host switched to the current stack on its own (an exception was thrown into it): takes the stack
    /// out of the ready ones, to which somebody who claimed its wait has added it or is about to.
    pub fn take_back(&'static self, me: NonNull<Stack>) {
        loop {
            self.inbox.drain_into(&mut self.own().ready);
            for _ in 0..self.own().ready.len() {
                if let Some(stack) = self.own().ready.pop_front() {
                    if stack == me {
                        return;
                    }
                    self.own().ready.push_back(stack);
                }
            }
            crate::sync::spin_hint();
        }
    }
}
