//! A call that may have to wait, written once: [`run`] makes it for plain tasks and threads, [`awaitable`] for `async
//! def` tasks and event loops.
//!
//! Sends, receives and joins are not made this way: they are the hottest calls, and have their own forms in
//! [`channel`](crate::channel), [`task`](crate::task) and [`operation`](crate::operation).

use std::time::Instant;

use penstock_core::wait::{Epoch, Outcome, WaiterRef};
use pyo3::{ffi, prelude::*};

use crate::{boundary::Caller, convert::Patience, error::Raised, interrupt::earlier, operation};

/// One call, from before it began until it is over. What it waits with lies on the heap: the frame of the caller moves.
///
/// The methods are called by attached threads, one at a time, and without an exception set.
pub trait Pending: Send {
    /// The call, as in `Lock.acquire()`.
    fn call(&self) -> &'static str;

    /// What a coroutine has to write instead, as in `await lock.aacquire()`.
    fn awaitable(&self) -> &'static str;

    /// What it waits on, which it keeps alive, or null.
    fn subject(&self) -> *mut ffi::PyObject;

    /// Does it, if it need not wait: a new reference to the result.
    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised>;

    /// Does it, or arms `waiter` and leaves what a peer will find.
    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<Begun, Raised>;

    /// The wait that was begun last is over: takes back what is left of it. An outcome other than a hand-over or a close
    /// means that nobody has done anything for it.
    fn finish(&mut self, py: Python<'_>, outcome: Outcome) -> Result<Next, Raised>;

    /// The same where nobody takes a result any more: what was handed over goes to the next in line.
    fn abandon(&mut self, py: Python<'_>, outcome: Outcome);

    /// Raises what the end of a `timeout=` raises.
    fn timed_out(&self, py: Python<'_>) -> Raised;

    /// Shows the collector each object that it keeps alive.
    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject));
}

/// How [`Pending::begin`] went.
#[must_use = "a wait must be finished"]
pub enum Begun {
    /// A new reference to the result.
    Done(*mut ffi::PyObject),
    /// The waiter is armed.
    Waiting(Epoch),
    /// The same, for a wait that is timed out at that moment, if it has not ended before.
    Until(Epoch, Instant),
}

/// How it goes on after a wait.
#[must_use = "the call goes on, or is over"]
pub enum Next {
    /// A new reference to the result.
    Done(*mut ffi::PyObject),
    /// It is to be begun once more, unless it was interrupted, or has no time left.
    Again,
    /// The wait was timed out or interrupted, and that is what the call raises.
    Over,
}

/// Makes the call for a plain task, which parks, or a thread, which blocks: a new reference to the result.
///
/// # Safety
/// In a raw entry, with nothing that has a destructor alive in the frames up to it.
pub unsafe fn run(
    py: Python<'_>,
    pending: Box<dyn Pending>,
    patience: Patience,
) -> Result<*mut ffi::PyObject, Raised> {
    let pending = Box::into_raw(pending);
    // SAFETY: the caller's promise; the box is alive, and nobody else's.
    let result = unsafe { run_on_heap(py, pending, patience) };
    // SAFETY: made above. A thread that was ended in its wait leaks it.
    drop(unsafe { Box::from_raw(pending) });
    result
}

/// # Safety
/// As for [`run`]; `pending` is alive, and nobody else's.
unsafe fn run_on_heap(
    py: Python<'_>,
    pending: *mut dyn Pending,
    patience: Patience,
) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: the caller's promise. Nobody but this call knows it, also while that waits.
    let pending = unsafe { &mut *pending };
    if patience == Patience::None {
        return match pending.try_now(py)? {
            Some(value) => Ok(value),
            None => Err(pending.timed_out(py)),
        };
    }
    let caller = Caller::here(py, pending.call(), pending.awaitable())?.on(pending.subject());
    // SAFETY: the caller's promise.
    let result = unsafe { wait_to_end(py, &caller, pending, patience) };
    caller.done(py);
    result
}

/// # Safety
/// As for [`run`].
unsafe fn wait_to_end(
    py: Python<'_>,
    caller: &Caller,
    pending: &mut dyn Pending,
    patience: Patience,
) -> Result<*mut ffi::PyObject, Raised> {
    let deadline = patience.deadline();
    loop {
        let (epoch, until) = match pending.begin(py, &caller.waiter_ref())? {
            Begun::Done(value) => return Ok(value),
            Begun::Waiting(epoch) => (epoch, deadline),
            Begun::Until(epoch, moment) => (epoch, earlier(deadline, Some(moment))),
        };
        // SAFETY: the caller's promise.
        let Ok(outcome) = (unsafe { caller.wait(epoch, until) }) else {
            let raised = PyErr::fetch(py);
            pending.abandon(py, Outcome::Interrupted);
            raised.restore(py);
            return Err(Raised);
        };
        match pending.finish(py, outcome)? {
            Next::Done(value) => return Ok(value),
            Next::Again if goes_on(outcome, deadline) => {}
            Next::Again | Next::Over if outcome == Outcome::TimedOut => {
                return Err(pending.timed_out(py));
            }
            Next::Again | Next::Over => return Err(caller.raise_interrupt(py)),
        }
    }
}

/// Whether a call that wants to be begun again after a wait with `outcome` is.
pub fn goes_on(outcome: Outcome, deadline: Option<Instant>) -> bool {
    match outcome {
        Outcome::Handed | Outcome::Closed => true,
        Outcome::TimedOut => deadline.is_none_or(|deadline| Instant::now() < deadline),
        Outcome::Interrupted => false,
    }
}

/// The call as an object to be awaited, once; null with an exception set if there is no memory for it.
pub fn awaitable(
    py: Python<'_>,
    pending: Box<dyn Pending>,
    patience: Patience,
) -> *mut ffi::PyObject {
    operation::new_pending(py, pending, patience)
}
