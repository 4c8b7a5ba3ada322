//! Coroutines that stay on their machine: a ticket stands for each where a parked task's stack would.

use std::ptr::NonNull;

use super::{super::Stack, Machine, Turn};
use crate::task::Task;

impl Machine {
    /// Keeps the coroutine that runs on this thread: from now on it is readied to this machine, as parked stacks are. Without
    /// fibers the thread is kept for it, as for any parked task. Counted: as many [`unpin`](Self::unpin) undo it, or its end.
    ///
    /// # Safety
    /// On the machine's thread, in a step of `task`.
    pub unsafe fn pin(&'static self, task: NonNull<Task>) {
        // SAFETY: alive, it is in a step.
        let coroutine = unsafe { task.as_ref() };
        let ticket = coroutine.ticket().unwrap_or_else(|| {
            let ticket = Stack::new(self);
            ticket.task.set(task.as_ptr());
            let ticket = NonNull::from(Box::leak(ticket));
            coroutine.set_ticket(Some(ticket));
            self.own().pinned += 1;
            ticket
        });
        // SAFETY: alive until the last pin is undone, and this is its machine's thread.
        let pins = unsafe { &ticket.as_ref().pins };
        pins.set(pins.get() + 1);
    }

    /// Undoes one [`pin`](Self::pin), the last of which lets the coroutine go on anywhere.
    ///
    /// # Safety
    /// As for `pin`, which came before.
    pub unsafe fn unpin(&'static self, task: NonNull<Task>) {
        // SAFETY: alive, it is in a step.
        let coroutine = unsafe { task.as_ref() };
        let ticket = coroutine.ticket().expect("it is pinned");
        // SAFETY: alive, and this is its machine's thread.
        let pins = unsafe { &ticket.as_ref().pins };
        pins.set(pins.get() - 1);
        if pins.get() == 0 {
            self.take_ticket(coroutine, ticket);
        }
    }

    /// Undoes all pins of `coroutine`, which is in its step.
    #[cold]
    pub(crate) fn take_ticket(&'static self, coroutine: &Task, ticket: NonNull<Stack>) {
        coroutine.set_ticket(None);
        self.own().pinned -= 1;
        // SAFETY: made in `pin`. The coroutine is in a step, so the ticket is in no list, and nobody will find it any more.
        drop(unsafe { Box::from_raw(ticket.as_ptr()) });
    }

    /// The coroutine of `ticket`, which is in none of the queues, gives up its turn on this machine.
    pub(in crate::scheduler) fn push_last(&'static self, ticket: NonNull<Stack>) {
        self.own().ready.push_back(ticket);
        self.own().last_turn = Turn::Yielded;
    }
}
