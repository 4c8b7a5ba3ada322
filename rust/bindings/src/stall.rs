//! Says in the log that a task keeps the thread on which others are parked.

use std::{ptr, time::Duration};

use penstock_core::scheduler::{STALL_AFTER, Stall};
use pyo3::{exceptions::PyValueError, ffi, prelude::*, sync::PyOnceLock};

use crate::{interpreter, runtime, task::TaskObject, unwind};

/// `penstock._stall.report`, found when a runtime starts.
static REPORT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

pub fn load(py: Python<'_>) -> PyResult<()> {
    REPORT
        .get_or_try_init(py, || {
            PyResult::Ok(py.import("penstock._stall")?.getattr("report")?.unbind())
        })
        .map(drop)
}

/// How long a stall is at least: what `PENSTOCK_STALL` says.
pub fn limit() -> PyResult<Duration> {
    let Some(value) = std::env::var_os("PENSTOCK_STALL") else {
        return Ok(STALL_AFTER);
    };
    let seconds = value.to_str().and_then(|text| text.parse::<f64>().ok());
    let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match limit {
        Some(limit) if !limit.is_zero() => Ok(limit),
        _ => Err(PyValueError::new_err(format!(
            "PENSTOCK_STALL must be a number of seconds > 0, not \"{}\"",
            value.display()
        ))),
    }
}

/// The host's `on_stall`.
///
/// # Safety
/// See `Host::on_stall`; attached, with nothing alive that has a destructor.
pub unsafe fn report(stall: &Stall) {
    if runtime::is_over() {
        return; // nothing goes on any more, so nobody waits for it; and at exit nothing is on the standard error
    }
    // SAFETY: attached, by the caller's promise. While the world is stopped the stalled task cannot end, so it may be
    // referred to. Nothing with a destructor is alive while Python code runs.
    unsafe {
        let py = Python::assume_attached();
        let Some(report) = REPORT.get(py).map(Py::as_ptr) else {
            return;
        };
        let task = interpreter::with_stopped_world(py, || running_task(stall));
        if task.is_null() {
            return; // it is over
        }
        let limit = stall.machine.scheduler.stall_after();
        let arguments = [
            task,
            ffi::PyLong_FromUnsignedLongLong(stall.machine.thread().into()),
            ffi::PyLong_FromSize_t(stall.waiting),
            ffi::PyFloat_FromDouble(limit.as_secs_f64()),
        ];
        let result = unwind::call(report, arguments);
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(report);
        }
        ffi::Py_XDECREF(result);
    }
}

/// A new reference to the task that is stalled, or null.
///
/// # Safety
/// While the world is stopped.
unsafe fn running_task(stall: &Stall) -> *mut ffi::PyObject {
    let task = stall
        .goes_on()
        .then(|| stall.machine.current_stack())
        .flatten()
        .and_then(|stack| ptr::NonNull::new(stack.task.get().cast_mut()));
    match task {
        // SAFETY: it is on its stack, and cannot leave it now.
        Some(task) => unsafe { ffi::Py_NewRef(TaskObject::of_core(task).as_ref().object()) },
        None => ptr::null_mut(),
    }
}
