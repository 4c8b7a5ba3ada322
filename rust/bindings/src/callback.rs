//! A function that is called when a task has ended.
//!
//! It waits for the task like anything else that does; to be woken is to be called.

use std::{ptr::NonNull, sync::Arc};

use penstock_core::{
    task::BeginJoin,
    wait::{Entry, Waiter, WaiterClass, WaiterRef},
};
use pyo3::{ffi, prelude::*};

use crate::{
    error::Raised,
    object::{self, Object},
    task::TaskObject,
    unwind,
};

#[repr(C)]
struct Callback {
    /// First field, so that the waiter's address is this struct's.
    waiter: Waiter,
    function: Object,
    task: Object,
}

static CLASS: WaiterClass = WaiterClass {
    retain: |waiter| {
        // SAFETY: the waiter is the first field of a `Callback` that an `Arc` holds.
        unsafe { Arc::increment_strong_count(waiter.cast::<Callback>().as_ptr()) };
    },
    release: |waiter| {
        // SAFETY: as above; gives up the caller's reference.
        unsafe { Arc::decrement_strong_count(waiter.cast::<Callback>().as_ptr()) };
    },
    wake: |waiter| {
        // SAFETY: as above; consumes the claim's reference. Wakes come from attached threads. A thread may be ended
        // in the call, so the reference gets its destructor behind it.
        unsafe {
            let callback = waiter.cast::<Callback>().as_ptr();
            (*callback).call();
            drop(Arc::from_raw(callback));
        }
    },
};

impl Callback {
    fn call(&self) {
        // SAFETY: attached; both objects are alive.
        unsafe {
            let result = unwind::PyObject_CallOneArg(self.function.as_ptr(), self.task.as_ptr());
            if result.is_null() {
                ffi::PyErr_WriteUnraisable(self.function.as_ptr());
            }
            ffi::Py_XDECREF(result);
        }
    }
}

/// Has `function(task)` called when `task` has ended, or calls it at once. What it gives is where it waits.
pub fn when_done(
    task: &Bound<'_, TaskObject>,
    function: &Bound<'_, PyAny>,
) -> PyResult<Option<Arc<Entry<()>>>> {
    let py = task.py();
    task.get()
        .check_is_here(py)
        .map_err(|Raised| PyErr::fetch(py))?;
    // SAFETY: both are alive, and this thread is attached.
    let callback = unsafe {
        Arc::new(Callback {
            waiter: Waiter::new(&CLASS),
            function: Object::new(function.as_ptr()),
            task: Object::new(task.as_ptr()),
        })
    };
    // SAFETY: embedded as its class expects, and alive.
    let waiter = unsafe { WaiterRef::retain(NonNull::from(&callback.waiter)) };
    match task.get().begin_join(&waiter) {
        BeginJoin::Done => {
            callback.call();
            Ok(None)
        }
        BeginJoin::Waiting(entry) => Ok(Some(entry)), // it holds the waiter, and the list holds it
    }
}

/// A callback that can be taken back.
#[pyclass(frozen, module = "penstock._core", name = "_Callback")]
pub struct CallbackObject {
    task: Object,
    entry: Arc<Entry<()>>,
}

#[pymethods]
impl CallbackObject {
    /// Has `fn(task)` called when `task` has ended; `None` if it was called at once.
    #[staticmethod]
    fn add(task: &Bound<'_, TaskObject>, r#fn: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let entry = when_done(task, r#fn)?;
        Ok(entry.map(|entry| Self {
            // SAFETY: alive, and attached.
            task: unsafe { Object::new(task.as_ptr()) },
            entry,
        }))
    }

    /// Takes it back, unless it is called already.
    fn remove(&self) {
        // SAFETY: a task, which is alive while this is.
        let task = unsafe { object::get::<TaskObject>(self.task.as_ptr()) };
        if task.is_here() {
            task.finish_join(&self.entry); // else nobody calls it, and the list may be locked for ever
        }
    }
}
