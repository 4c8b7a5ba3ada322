//! The task cell: what the scheduler knows of a task.
//!
//! A task is a pointer and a table of functions; what it runs is the embedder's. The [`Task`] is embedded in
//! the embedder's own object, whose reference count the table reaches.
//!
//! ```text
//!          run            step returned       wake
//!   NEW --------> RUNNING ------------> PARKED ----> RUNNING (queued again)
//!    |              | ^  wake                          |
//!    |              v |  (while it runs)               |
//!    |           NOTIFIED ---- step returned ----------' (queued again at once)
//!    '----> DONE <--'
//! ```
//!
//! Only a task that parks by returning (a coroutine) goes through PARKED and NOTIFIED. Its peer may wake
//! it before it has left its step; without the three-state handshake two workers would enter one
//! coroutine. A task that parks with its stack needs none: its stack is resumed by its own thread, which is
//! still busy leaving it.
//!
//! Ownership: from its submission until it is done, a task holds one strong reference to itself. Queues,
//! stacks and waits borrow that one; [`Task::finish`] gives it to its caller.

mod join;
#[cfg(all(test, loom))]
mod model;

use std::{ptr, ptr::NonNull};

pub use join::BeginJoin;
use join::Join;

use crate::{
    scheduler::{Scheduler, Stack, ready_stack, ready_task},
    sync::{AtomicPtr, AtomicU32, Ordering, UnsafeCell},
    wait::{Waiter, WaiterClass, WaiterRef},
};

const PHASE: u32 = 0b111;
const NEW: u32 = 0;
const RUNNING: u32 = 1;
const PARKED: u32 = 2;
const NOTIFIED: u32 = 3;
const DONE: u32 = 4;
/// Someone asked for its cancellation, and it has not been raised in the task yet.
const CANCEL_PENDING: u32 = 1 << 3;
/// A cancellation was asked for at least once.
const CANCEL_ASKED: u32 = 1 << 4;

/// In the address of a [`Task`]'s stack: nothing can be resumed there, it is the ticket of a pinned coroutine.
const IS_TICKET: usize = 1;

/// What the embedder does with a task.
#[derive(Debug)]
#[repr(C)]
pub struct TaskVtable {
    /// How the task's own waiter is kept alive and woken. First field, so that its address is the table's: a task has
    /// one pointer for both.
    pub waiter: WaiterClass,
    /// Runs the task on the calling worker: to its end, or one step of it. A forced unwind may pass through.
    pub run: unsafe fn(NonNull<Task>),
}

/// The part of a task that the scheduler sees.
#[derive(Debug)]
#[repr(C)]
pub struct Task {
    /// First field, so that the waiter's address is the task's.
    waiter: Waiter,
    scheduler: &'static Scheduler,
    /// Phase and flags; see the module.
    state: AtomicU32,
    /// The next task in an injector; guarded by the injector's lock.
    pub(crate) next: UnsafeCell<*mut Task>,
    /// The stack it is parked on; written by the task before it arms its waiter, read by who claimed that. For a
    /// coroutine null, or its ticket and [`IS_TICKET`] while it is pinned: written in a step, read by who is to queue it.
    stack: AtomicPtr<Stack>,
    join: Join,
}

// SAFETY: every field is atomic, or guarded as its comment says.
unsafe impl Send for Task {}
// SAFETY: as above.
unsafe impl Sync for Task {}

/// What became of a step that returned without finishing the task.
#[must_use = "a notified task has to be queued again"]
#[derive(Debug, PartialEq, Eq)]
pub enum Parking {
    /// It is parked; whoever claims its waiter queues it.
    Parked,
    /// It was woken before it had left its step.
    Notified,
}

impl Task {
    pub fn new(vtable: &'static TaskVtable, scheduler: &'static Scheduler) -> Self {
        Self {
            // SAFETY: a `&'static`, whose first field is the class.
            waiter: unsafe { Waiter::of_class(NonNull::from(vtable).cast()) },
            scheduler,
            state: AtomicU32::new(NEW),
            next: UnsafeCell::new(ptr::null_mut()),
            stack: AtomicPtr::new(ptr::null_mut()),
            join: Join::default(),
        }
    }

    /// The scheduler it runs on.
    pub fn scheduler(&self) -> &'static Scheduler {
        self.scheduler
    }

    pub fn waiter(&self) -> &Waiter {
        &self.waiter
    }

    /// The task around a waiter.
    ///
    /// # Safety
    /// `waiter` is the field of a `Task`.
    pub unsafe fn of_waiter(waiter: NonNull<Waiter>) -> NonNull<Task> {
        waiter.cast() // the first field
    }

    /// Runs it. Called by a worker that took it from a queue.
    ///
    /// # Safety
    /// `task` is alive and the caller's to run.
    #[inline]
    pub(crate) unsafe fn run(task: NonNull<Task>) {
        // SAFETY: alive, by the caller's promise; the pointer is that of a table, see `new`.
        unsafe {
            let vtable = task.as_ref().waiter.class_pointer().cast::<TaskVtable>();
            (vtable.as_ref().run)(task);
        }
    }

    /// Claims the right to start. `false`: it was cancelled before, and is done.
    #[inline]
    pub fn start(&self) -> bool {
        // Ordering: Relaxed, the queue it came through has ordered everything before; a cancellation that
        // wins instead publishes nothing.
        self.state
            .compare_exchange(NEW, RUNNING, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    pub fn is_new(&self) -> bool {
        // Ordering: Relaxed, a hint.
        self.state.load(Ordering::Relaxed) & PHASE == NEW
    }

    pub fn is_done(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `finish`: with "done" the result is seen.
        self.state.load(Ordering::Acquire) & PHASE == DONE
    }

    /// A coroutine enters a step after a wake.
    #[inline]
    pub fn resume_step(&self) {
        // NOTIFIED to RUNNING is one bit, so that the phase never looks like NEW to a canceller.
        // Ordering: Acquire pairs with the Release in `leave_step` on the worker it ran on before.
        let old = self
            .state
            .fetch_and(!(NOTIFIED ^ RUNNING), Ordering::Acquire);
        debug_assert!(old & PHASE == NOTIFIED, "stepped in phase {}", old & PHASE);
    }

    /// A coroutine leaves a step without being finished.
    #[inline]
    pub fn leave_step(&self) -> Parking {
        let mut state = self.state.load(Ordering::Relaxed); // Ordering: Relaxed, the exchange decides.
        loop {
            if state & PHASE == NOTIFIED {
                return Parking::Notified;
            }
            let parked = (state & !PHASE) | PARKED;
            // Ordering: Release publishes the coroutine's frame to the Acquire in `resume_step`.
            match self.state.compare_exchange_weak(
                state,
                parked,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Parking::Parked,
                Err(seen) => state = seen,
            }
        }
    }

    /// A coroutine leaves a step to be queued again at once.
    #[inline]
    pub fn yield_step(&self) {
        // Ordering: Release publishes the coroutine's frame to the Acquire in `resume_step`.
        let old = self.state.fetch_or(NOTIFIED, Ordering::Release);
        debug_assert!(old & PHASE == RUNNING, "yielded in phase {}", old & PHASE);
    }

    /// Marks a coroutine as woken. `true`: it had parked, and the caller has to queue it.
    fn notify(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed); // Ordering: Relaxed, the exchange decides.
        loop {
            debug_assert!(
                matches!(state & PHASE, RUNNING | PARKED),
                "woken in phase {}",
                state & PHASE
            );
            let notified = (state & !PHASE) | NOTIFIED;
            // Ordering: Acquire pairs with the Release in `leave_step`: with PARKED the ticket is seen. An exchange also
            // passes that Release on to `resume_step`.
            match self.state.compare_exchange_weak(
                state,
                notified,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return state & PHASE == PARKED,
                Err(seen) => state = seen,
            }
        }
    }

    /// Says on which stack the task is about to park.
    #[inline]
    pub fn set_stack(&self, stack: *const Stack) {
        // Ordering: Relaxed, published by the arming of the waiter.
        self.stack.store(stack.cast_mut(), Ordering::Relaxed);
    }

    /// What stands for the coroutine on the machine that it is pinned to.
    #[inline]
    pub(crate) fn ticket(&self) -> Option<NonNull<Stack>> {
        // Ordering: Relaxed, read by the task itself, or by who is to queue it; see `notify`.
        let stack = self.stack.load(Ordering::Relaxed);
        if stack.addr() & IS_TICKET == 0 {
            return None;
        }
        NonNull::new(stack.map_addr(|address| address & !IS_TICKET))
    }

    /// The coroutine is pinned, or no more. In its step.
    pub(crate) fn set_ticket(&self, ticket: Option<NonNull<Stack>>) {
        let stack = ticket.map_or(ptr::null_mut(), |ticket| {
            ticket.as_ptr().map_addr(|address| address | IS_TICKET)
        });
        // Ordering: Relaxed, published by the end of the step.
        self.stack.store(stack, Ordering::Relaxed);
    }

    /// Makes the owner of a completed claim run on: the `wake` of a task's waiter, less the reference count.
    ///
    /// # Safety
    /// `task` is alive, and the caller has just completed the claim of its waiter.
    pub unsafe fn wake(task: NonNull<Task>) {
        // SAFETY: alive, by the caller's promise.
        let this = unsafe { task.as_ref() };
        // Ordering: Relaxed, ordered by the claim's Acquire of the arming.
        let stack = this.stack.load(Ordering::Relaxed);
        if let Some(stack) = NonNull::new(stack).filter(|stack| stack.addr().get() & IS_TICKET == 0)
        {
            // SAFETY: the task is parked on it and was not woken before.
            unsafe { ready_stack(stack) };
        } else if this.notify() {
            // SAFETY: it was parked, and the handshake made it the caller's to queue.
            unsafe { ready_task(task) };
        }
    }

    /// Asks for the cancellation. Says whether the task will see it: not when it is done.
    pub fn cancel(&self) -> Cancelling {
        let mut state = self.state.load(Ordering::Relaxed); // Ordering: Relaxed, the exchange decides.
        loop {
            let (next, answer) = match state & PHASE {
                DONE => return Cancelling::TooLate,
                NEW => (DONE | CANCEL_ASKED, Cancelling::NeverRuns),
                _ => (state | CANCEL_PENDING | CANCEL_ASKED, Cancelling::Asked),
            };
            // Ordering: SeqCst, see `Waiter::arm`: the canceller marks, then looks whether the task waits.
            match self
                .state
                .compare_exchange_weak(state, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => {
                    if answer == Cancelling::NeverRuns {
                        self.join.wake_all();
                    }
                    return answer;
                }
                Err(seen) => state = seen,
            }
        }
    }

    /// Ends the wait that a task is in, if it is in one, so that it sees what was marked before: a cancellation, say.
    ///
    /// `unseen` tells whether it has not seen that yet. It is asked once the wait is known: a task that saw the mark
    /// in an earlier wait must not be woken from this one for nothing.
    ///
    /// # Safety
    /// `task` is alive.
    pub unsafe fn interrupt(task: NonNull<Task>, unseen: impl FnOnce() -> bool) {
        // SAFETY: alive, by the caller's promise; the waiter is its first field.
        unsafe { WaiterRef::retain(task.cast()) }.interrupt(unseen);
    }

    /// Whether a cancellation waits to be raised.
    #[inline]
    pub fn cancel_pending(&self) -> bool {
        // Ordering: SeqCst, see `Waiter::arm`: the task arms, then looks whether it is cancelled.
        self.state.load(Ordering::SeqCst) & CANCEL_PENDING != 0
    }

    /// Takes the pending cancellation, to raise it.
    pub fn take_cancel(&self) -> bool {
        // Ordering: Relaxed, the flag carries no data.
        self.state.fetch_and(!CANCEL_PENDING, Ordering::Relaxed) & CANCEL_PENDING != 0
    }

    /// The task took it, and has to raise it once more. Called by the task.
    pub fn keep_cancel(&self) {
        // Ordering: Relaxed, nobody but the task looks, in its next wait.
        self.state.fetch_or(CANCEL_PENDING, Ordering::Relaxed);
    }

    /// Whether it was ever asked to cancel.
    pub fn cancel_asked(&self) -> bool {
        // Ordering: Relaxed, a hint for messages.
        self.state.load(Ordering::Relaxed) & CANCEL_ASKED != 0
    }

    /// Marks it as done, its result stored before, and wakes who waits for that. The caller now owns the
    /// reference that the task held to itself.
    #[inline]
    pub fn finish(&self) {
        if let Some(ticket) = self.ticket() {
            // SAFETY: it lives until it is taken.
            unsafe { ticket.as_ref() }.machine.take_ticket(self, ticket);
        }
        let mut state = self.state.load(Ordering::Relaxed); // Ordering: Relaxed, the exchange decides.
        // Ordering: SeqCst, which is the Release that publishes the result, and the order that `Join` needs.
        while let Err(seen) = self.state.compare_exchange_weak(
            state,
            (state & !PHASE) | DONE,
            Ordering::SeqCst,
            Ordering::Relaxed,
        ) {
            state = seen;
        }
        self.join.wake_all();
    }

    /// Starts to wait until the task is done.
    pub fn begin_join(&self, waiter: &WaiterRef) -> BeginJoin {
        self.join.begin(waiter, || {
            // Ordering: SeqCst, see `Join`.
            self.state.load(Ordering::SeqCst) & PHASE == DONE
        })
    }

    /// Ends a wait for the task that [`begin_join`](Self::begin_join) started.
    pub fn finish_join(&self, entry: &crate::wait::Entry<()>) {
        self.join.remove(entry);
    }
}

/// What a request to cancel meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelling {
    /// The task was done.
    TooLate,
    /// It had not started, and is done now.
    NeverRuns,
    /// It has started: the caller ends its wait with [`Task::interrupt`].
    Asked,
}
