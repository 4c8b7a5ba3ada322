//! The class of operations, and where their objects come from.
//!
//! One is made for every `await`, so it has to cost little: the class is made by hand, objects are reused, and the
//! garbage collector does not see one that waits in a task of ours (the task holds itself meanwhile, so nothing
//! there can be garbage). In an event loop it does: a loop that is closed leaves cycles behind.
//!
//! Tried and dropped: a subclass of `StopIteration` whose objects are reused. On 3.13 it took 4 % off a round trip
//! between two coroutines, for a second class made by hand.

use std::{
    cell::{Cell, UnsafeCell},
    ffi::{c_int, c_ulong, c_void},
    ptr,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

use pyo3::{
    exceptions::PyRuntimeError,
    ffi::{self, PySendResult},
    prelude::*,
};

use super::{Operation, State, Step, What};
use crate::error::{Raised, raise};

#[repr(C)]
struct OperationObject {
    head: ffi::PyObject,
    operation: Operation,
}

/// Objects of one thread that wait to be used again, at most so many.
const FREE_MAX: usize = 64;

thread_local! {
    /// The first of them, linked through `subject`.
    static FREE: Cell<*mut OperationObject> = const { Cell::new(ptr::null_mut()) };
    static FREE_COUNT: Cell<usize> = const { Cell::new(0) };
}

/// What CPython writes to: once at import, and reference counts, which are immortal.
struct Static<T>(UnsafeCell<T>);

// SAFETY: see the type.
unsafe impl<T> Sync for Static<T> {}

// SAFETY: both are plain C structs, to which all zeros say "nothing here".
static CLASS: Static<ffi::PyTypeObject> = Static(UnsafeCell::new(unsafe { std::mem::zeroed() }));
// SAFETY: as above.
static SLOTS: Static<ffi::PyAsyncMethods> = Static(UnsafeCell::new(unsafe { std::mem::zeroed() }));

/// An empty tuple. Written once, during the module's import.
static NO_ARGUMENTS: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// Makes the class. Called once, by the module's import.
pub fn load(py: Python<'_>) -> PyResult<()> {
    // SAFETY: attached; nobody knows the class yet. A static class lives as long as the process.
    unsafe {
        let slots = SLOTS.0.get();
        (*slots).am_await = Some(ffi::PyObject_SelfIter);
        (*slots).am_send = Some(std::mem::transmute::<*mut c_void, ffi::sendfunc>(
            send as *mut c_void,
        ));
        let class = CLASS.0.get();
        (*class).ob_base.ob_base = ffi::PyObject_HEAD_INIT;
        (*class).tp_name = c"penstock._core._Operation".as_ptr();
        (*class).tp_basicsize = size_of::<OperationObject>().cast_signed();
        // An atomic without the GIL, of the same size.
        let flags = (&raw mut (*class).tp_flags).cast::<c_ulong>();
        flags.write(
            ffi::Py_TPFLAGS_DEFAULT
                | ffi::Py_TPFLAGS_HAVE_GC
                | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION
                | ffi::Py_TPFLAGS_IMMUTABLETYPE,
        );
        (*class).tp_dealloc = Some(dealloc);
        (*class).tp_traverse = Some(traverse);
        (*class).tp_clear = Some(clear);
        (*class).tp_iter = Some(ffi::PyObject_SelfIter);
        // "C" and "C-unwind" differ only in what an unwind through them does, and the caller is C.
        (*class).tp_iternext = Some(std::mem::transmute::<*mut c_void, ffi::iternextfunc>(
            next as *mut c_void,
        ));
        (*class).tp_as_async = slots;
        if ffi::PyType_Ready(class) < 0 {
            return Err(PyErr::fetch(py));
        }
        NO_ARGUMENTS.store(ffi::PyTuple_New(0), Relaxed); // Ordering: Relaxed, during the import.
    }
    Ok(())
}

/// Makes an object; null with an exception set if there is no memory.
///
/// # Safety
/// Attached.
pub unsafe fn new(operation: Operation) -> *mut ffi::PyObject {
    // SAFETY: an object of the class that is not tracked and has no operation yet: fresh, or off the list.
    unsafe {
        let class = CLASS.0.get();
        let mut object = FREE.get();
        if object.is_null() {
            object = ffi::PyObject_GC_New::<OperationObject>(class);
            if object.is_null() {
                drop(operation);
                return ptr::null_mut();
            }
        } else {
            FREE.set((*object).operation.subject.cast());
            FREE_COUNT.set(FREE_COUNT.get() - 1);
            ffi::PyObject_Init(object.cast(), class);
        }
        (&raw mut (*object).operation).write(operation);
        object.cast()
    }
}

/// # Safety
/// `object` is an operation.
unsafe fn operation<'a>(object: *mut ffi::PyObject) -> &'a mut Operation {
    // SAFETY: by the caller's promise.
    unsafe { &mut (*object.cast::<OperationObject>()).operation }
}

/// # Safety
/// Attached, in the step of whoever awaits it.
unsafe fn step(object: *mut ffi::PyObject, argument: *mut ffi::PyObject) -> Result<Step, Raised> {
    // SAFETY: called by CPython on an operation.
    unsafe {
        let this = operation(object);
        let py = Python::assume_attached();
        let stepped = this.step(py, argument);
        if stepped.is_err() && ffi::PyErr_ExceptionMatches(ffi::PyExc_StopIteration) != 0 {
            return Err(refuse_stop_iteration(py));
        }
        if matches!(this.state, State::Delegated(_)) && ffi::PyObject_GC_IsTracked(object) == 0 {
            ffi::PyObject_GC_Track(object.cast());
        }
        stepped
    }
}

/// A `StopIteration` that a task raised would look like the end of the `await`, with its value for the result. As
/// where a coroutine raises one itself (PEP 479), it becomes the cause of a `RuntimeError`.
#[cold]
fn refuse_stop_iteration(py: Python<'_>) -> Raised {
    let error = PyRuntimeError::new_err("what was awaited raised StopIteration");
    error.set_cause(py, PyErr::take(py));
    raise(py, error)
}

unsafe extern "C-unwind" fn send(
    object: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> PySendResult {
    // SAFETY: called by CPython on an operation, attached.
    unsafe {
        let (value, sent) = match step(object, argument) {
            Ok(Step::Return(value)) => (value, PySendResult::PYGEN_RETURN),
            Ok(Step::GiveUp(value)) => (value, PySendResult::PYGEN_NEXT),
            Err(Raised) => (ptr::null_mut(), PySendResult::PYGEN_ERROR),
        };
        *result = value;
        sent
    }
}

unsafe extern "C-unwind" fn next(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an operation, attached.
    unsafe {
        match step(object, ffi::Py_None()) {
            Ok(Step::GiveUp(value)) => value,
            Ok(Step::Return(value)) => {
                stop_with(value);
                ptr::null_mut()
            }
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// Passes `value` on as the end of an iteration. `None` needs no exception.
///
/// # Safety
/// Attached; `value` is a strong reference, given away here.
#[cfg(Py_3_12)]
unsafe fn stop_with(value: *mut ffi::PyObject) {
    // SAFETY: attached; the exception is new and ours alone until it is set.
    unsafe {
        if value == ffi::Py_None() {
            ffi::Py_DECREF(value);
            return;
        }
        // By the class's own `new`, without the arguments that nobody reads: a third of the cost of a call.
        let class = ffi::PyExc_StopIteration.cast::<ffi::PyTypeObject>();
        let make = (*class).tp_new.expect("exceptions are made by `new`");
        let stop = make(class, NO_ARGUMENTS.load(Relaxed), ptr::null_mut()); // Ordering: Relaxed, see `load`.
        if stop.is_null() {
            ffi::Py_DECREF(value);
            return;
        }
        let field = &raw mut (*stop.cast::<ffi::PyStopIterationObject>()).value;
        ffi::Py_XDECREF(field.replace(value));
        ffi::PyErr_SetRaisedException(stop);
    }
}

/// # Safety
/// As above.
#[cfg(not(Py_3_12))]
unsafe fn stop_with(value: *mut ffi::PyObject) {
    // SAFETY: attached.
    unsafe {
        if value != ffi::Py_None() {
            let is_taken_for_arguments =
                ffi::PyTuple_Check(value) != 0 || ffi::PyExceptionInstance_Check(value) != 0;
            if is_taken_for_arguments {
                let stop = ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, value);
                if !stop.is_null() {
                    ffi::PyErr_SetObject(ffi::PyExc_StopIteration, stop);
                    ffi::Py_DECREF(stop);
                }
            } else {
                ffi::PyErr_SetObject(ffi::PyExc_StopIteration, value); // becomes an instance if somebody looks
            }
        }
        ffi::Py_DECREF(value);
    }
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: called by the collector on an operation, with the world stopped.
    unsafe {
        let this = operation(object);
        let delegate = match &this.state {
            State::Delegated(iterator) => iterator.as_ptr(),
            _ => ptr::null_mut(),
        };
        let value = match &this.what {
            What::Send(Some(value)) => value.as_ptr(),
            _ => ptr::null_mut(),
        };
        for pointer in [this.subject, delegate, value] {
            if !pointer.is_null() {
                let stop = visit(pointer, argument);
                if stop != 0 {
                    return stop;
                }
            }
        }
    }
    0
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: called by the collector on an unreachable operation, attached.
    unsafe {
        let this = operation(object);
        this.abandon();
        this.what = What::Yield;
        ffi::Py_CLEAR(&raw mut this.subject);
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on an operation that nobody refers to, attached.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = operation(object);
        this.abandon();
        ffi::Py_CLEAR(&raw mut this.subject);
        ptr::drop_in_place(this);
        if FREE_COUNT.get() == FREE_MAX {
            ffi::PyObject_GC_Del(object.cast());
            return;
        }
        // INVARIANT: what is on the list has no operation, but for the link in `subject`.
        (&raw mut (*object.cast::<OperationObject>()).operation.subject)
            .write(FREE.replace(object.cast()).cast());
        FREE_COUNT.set(FREE_COUNT.get() + 1);
    }
}
