//! Shows trace functions that a parked task goes on: see `penstock/_trace.py`.

use pyo3::{ffi, prelude::*, sync::PyOnceLock};

use crate::{interpreter, unwind};

/// `penstock._trace.resumed`, found when a runtime starts.
static RESUMED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

pub fn load(py: Python<'_>) -> PyResult<()> {
    RESUMED
        .get_or_try_init(py, || {
            PyResult::Ok(py.import("penstock._trace")?.getattr("resumed")?.unbind())
        })
        .map(drop)
}

/// A task goes on whose stack others have run beside.
///
/// # Safety
/// In the task, attached, with no exception set and nothing alive that has a destructor.
#[inline]
pub unsafe fn task_goes_on(py: Python<'_>) {
    if interpreter::is_traced(py) {
        // SAFETY: the caller's promise.
        unsafe { show(py) };
    }
}

/// # Safety
/// As for [`task_goes_on`].
#[cold]
unsafe fn show(py: Python<'_>) {
    let Some(resumed) = RESUMED.get(py).map(Py::as_ptr) else {
        return;
    };
    // SAFETY: attached; what the trace function may raise is not the business of the call that has just waited.
    unsafe {
        let result = unwind::call(resumed, []);
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(resumed);
        }
        ffi::Py_XDECREF(result);
    }
}
