//! The functions of CPython in which a thread may be ended, declared so that the unwind may pass.
//!
//! Up to 3.13 a thread that comes back to an interpreter that is about to exit is ended by `pthread_exit`, which
//! unwinds its stack by force. `PyO3` declares these functions as `extern "C"`; from such a call the compiler
//! expects no unwind, and where one comes all the same the process aborts. So whatever runs Python code or attaches
//! below a task calls them by these declarations, with nothing alive that has a destructor.

use std::{ffi::c_int, ptr};

use pyo3::ffi::{self, PyObject, PySendResult, PyThreadState};

unsafe extern "C-unwind" {
    pub fn PyErr_CheckSignals() -> c_int;
    pub fn PyEval_RestoreThread(state: *mut PyThreadState);
    pub fn PyGILState_Ensure() -> ffi::PyGILState_STATE;
    pub fn PyIter_Next(iterator: *mut PyObject) -> *mut PyObject;
    pub fn PyIter_Send(
        iterator: *mut PyObject,
        value: *mut PyObject,
        result: *mut *mut PyObject,
    ) -> PySendResult;
    pub fn PyObject_Call(
        callable: *mut PyObject,
        args: *mut PyObject,
        kwargs: *mut PyObject,
    ) -> *mut PyObject;
    pub fn PyObject_CallOneArg(callable: *mut PyObject, argument: *mut PyObject) -> *mut PyObject;
    pub fn PyObject_GetIter(object: *mut PyObject) -> *mut PyObject;
    pub fn PyObject_VectorcallMethod(
        name: *mut PyObject,
        arguments: *const *mut PyObject,
        count: usize,
        keywords: *mut PyObject,
    ) -> *mut PyObject;
    pub fn PyObject_Vectorcall(
        callable: *mut PyObject,
        arguments: *const *mut PyObject,
        count: usize,
        keywords: *mut PyObject,
    ) -> *mut PyObject;
}

/// Calls `function` with `arguments`, each a reference that is given away, or null where making it failed: then nothing is
/// called. A new reference, or null.
///
/// # Safety
/// Attached, with nothing alive that has a destructor; `function` is alive.
pub unsafe fn call<const N: usize>(
    function: *mut PyObject,
    arguments: [*mut PyObject; N],
) -> *mut PyObject {
    let mut result = ptr::null_mut();
    // SAFETY: the caller's promise; an array of pointers has no destructor.
    unsafe {
        if arguments.iter().all(|argument| !argument.is_null()) {
            result = PyObject_Vectorcall(function, arguments.as_ptr(), N, ptr::null_mut());
        }
        for argument in arguments {
            ffi::Py_XDECREF(argument);
        }
    }
    result
}
