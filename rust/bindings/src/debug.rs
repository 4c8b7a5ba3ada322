//! What `PENSTOCK_DEBUG` switches on: a look at the locks of a task that parks, and lines about the scheduler.

use std::{
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
    time::Duration,
};

use penstock_core::scheduler::TraceConfig;
use pyo3::{ffi, prelude::*};

use crate::{boundary::running_task, error::Raised, task::TaskObject, unwind};

/// `penstock._locks.refuse`, or null while locks are not watched.
static REFUSE: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());
static TRACE: OnceLock<TraceConfig> = OnceLock::new();

/// A number for the task that runs on this thread, or `None`.
#[pyfunction]
pub fn _running_task() -> Option<u64> {
    // SAFETY: it runs on this thread, so it is alive.
    running_task().map(|(_, task, _)| unsafe { task.as_ref() }.number())
}

/// From now on `refuse(task, call)` may raise when a task is about to park.
#[pyfunction]
pub fn _watch_locks(refuse: Py<PyAny>) {
    // Ordering: Release publishes the function to the Acquire in `look_at_locks`.
    REFUSE.store(refuse.into_ptr(), Ordering::Release);
}

/// Runtimes that start from now on print a line each `interval_ms`.
#[pyfunction]
pub fn _trace_schedule(interval_ms: u64, detail: bool) {
    let interval = Duration::from_millis(interval_ms);
    // Called once, by the package's import; a second import of it changes nothing.
    let _ = TRACE.set(TraceConfig { interval, detail });
}

pub fn trace() -> Option<TraceConfig> {
    TRACE.get().copied()
}

/// Raises if locks are watched and `task`, which is about to park in `call`, holds one.
#[inline]
pub fn look_at_locks(py: Python<'_>, task: &TaskObject, call: &str) -> Result<(), Raised> {
    // Ordering: Acquire pairs with the Release in `_watch_locks`.
    let refuse = REFUSE.load(Ordering::Acquire);
    if refuse.is_null() {
        return Ok(());
    }
    ask(py, refuse, task.number(), call)
}

#[cold]
fn ask(_: Python<'_>, refuse: *mut ffi::PyObject, task: u64, call: &str) -> Result<(), Raised> {
    // SAFETY: attached; the function is never freed, and nothing with a destructor is alive while Python code runs.
    unsafe {
        let arguments = [
            ffi::PyLong_FromUnsignedLongLong(task),
            ffi::PyUnicode_FromStringAndSize(call.as_ptr().cast(), call.len().cast_signed()),
        ];
        let result = unwind::call(refuse, arguments);
        if result.is_null() {
            return Err(Raised);
        }
        ffi::Py_DECREF(result);
        Ok(())
    }
}
