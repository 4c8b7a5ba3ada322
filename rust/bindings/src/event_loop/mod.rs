//! Operations that are awaited in a coroutine of asyncio or trio.
//!
//! - [`home`]: what is known of one event loop, and how a burst of wake-ups gets into it by one call;
//! - [`waiter`]: the coroutine as the core's waiter, and who may end its call;
//! - [`wait`]: one call, from its begin to its end;
//! - [`calls`]: sends, receives and joins in the form that a wait takes; any other [`Pending`](crate::pending::Pending)
//!   has it already.
//!
//! What is special about a loop: it may cancel a coroutine after a peer has handed it something, and it may be closed
//! while a coroutine waits. Then the call is abandoned, once: by the coroutine that was cancelled or dropped, or by the
//! thread that finds the loop closed. Whoever takes the call out of its waiter does it.
//!
//! Neither library is imported here: where nobody else has, its loop does not run. What is said in its own terms is in
//! `penstock._loops`.

mod calls;
mod home;
mod wait;
mod waiter;

pub use calls::{Join, Recv, Send};
pub use home::{Home, forget_homes};
pub use wait::{LoopWait, Stepped, throw_into};
pub use waiter::show_sleeper;

use std::sync::Arc;

use pyo3::{intern, prelude::*, sync::PyOnceLock};

use crate::interpreter;

/// What `penstock._loops` says in the terms of a library.
struct Functions {
    /// Calls a function in the loop, from any thread. `False`: the loop is closed.
    call: Py<PyAny>,
    /// Whether a task of the loop is in its step on this thread.
    steps_here: Py<PyAny>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    Asyncio,
    Trio,
}

/// A function of `penstock._loops`.
fn function(py: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
    Ok(py.import("penstock._loops")?.getattr(name)?.unbind())
}

impl Library {
    fn functions(self, py: Python<'_>) -> PyResult<&'static Functions> {
        static ASYNCIO: PyOnceLock<Functions> = PyOnceLock::new();
        static TRIO: PyOnceLock<Functions> = PyOnceLock::new();
        let (functions, call, steps_here) = match self {
            Library::Asyncio => (&ASYNCIO, "call_in_asyncio", "steps_in_asyncio"),
            Library::Trio => (&TRIO, "call_in_trio", "steps_in_trio"),
        };
        functions.get_or_try_init(py, || {
            Ok(Functions {
                call: function(py, call)?,
                steps_here: function(py, steps_here)?,
            })
        })
    }
}

/// The asyncio loop that runs on this thread.
pub fn running_asyncio_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let getter = if let Some(getter) = RUNNING_LOOP.get(py) {
        getter
    } else {
        let Some(events) = interpreter::imported(py, intern!(py, "asyncio.events"))? else {
            return Ok(None); // so no loop of it runs
        };
        let Ok(getter) = events.getattr("_get_running_loop") else {
            return Ok(None); // it is being imported
        };
        RUNNING_LOOP.get_or_init(py, || getter.unbind())
    };
    let running = getter.bind(py).call0()?;
    Ok((!running.is_none()).then_some(running))
}

fn trio_is_imported(py: Python<'_>) -> PyResult<bool> {
    Ok(interpreter::imported(py, intern!(py, "trio.lowlevel"))?.is_some())
}

/// Whether a task of trio is in its step here.
pub fn is_in_trio(py: Python<'_>) -> PyResult<bool> {
    static IN_TRIO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if !trio_is_imported(py)? {
        return Ok(false);
    }
    let asked = IN_TRIO.get_or_try_init(py, || function(py, "is_in_trio"))?;
    asked.bind(py).call0()?.is_truthy()
}

/// The loop whose coroutine calls this.
pub fn here(py: Python<'_>) -> PyResult<Arc<Home>> {
    if !is_in_trio(py)?
        && let Some(running) = running_asyncio_loop(py)?
    {
        return Home::of(Library::Asyncio, &running);
    }
    let token = function(py, "trio_token")?.bind(py).call0()?; // raises where there is none
    Home::of(Library::Trio, &token)
}

/// What a sleep steps through in the loop whose coroutine calls this.
pub fn sleep(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
    function(py, "sleep")?.bind(py).call1((seconds,))
}

/// What a call steps through in trio before it does anything, or after it was done without a wait.
pub fn checkpoint(py: Python<'_>, done: bool) -> PyResult<Bound<'_, PyAny>> {
    static CHECKPOINT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let checkpoint = CHECKPOINT.get_or_try_init(py, || function(py, "checkpoint_in_trio"))?;
    checkpoint.bind(py).call1((done,))
}
