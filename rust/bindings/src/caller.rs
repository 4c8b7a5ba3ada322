//! A handle on who runs now, for scopes: a group interrupts its body through it.

use std::{ptr::NonNull, sync::Arc};

use penstock_core::{task::Task, wait::Outcome};
use pyo3::{ffi, prelude::*};

use crate::{
    boundary::{ThreadWaiter, running_task},
    object::Object,
    task::TaskObject,
};

/// The task that runs on this thread, or else the thread.
#[pyclass(frozen, module = "penstock._core", name = "_Caller")]
pub struct CallerObject(Who);

enum Who {
    Task(Object),
    Thread(Arc<ThreadWaiter>),
}

#[pymethods]
impl CallerObject {
    /// Whose call this is.
    #[staticmethod]
    fn here() -> Self {
        Self(match running_task() {
            // SAFETY: it runs, so it is alive; attached.
            Some((_, task, _)) => Who::Task(unsafe { Object::new(task.as_ref().object()) }),
            None => Who::Thread(ThreadWaiter::here().shared()),
        })
    }

    /// Raises `Cancelled` there, once, at the next call that has to wait, with `scope` in `_scope`.
    fn interrupt(&self, scope: &Bound<'_, PyAny>) {
        // SAFETY: alive, and attached.
        let scope = unsafe { Object::new(scope.as_ptr()) };
        match &self.0 {
            Who::Task(task) => {
                // SAFETY: the handle keeps the task alive.
                let task = unsafe { TaskObject::from_object(task.as_ptr()) };
                task.interrupts().add(scope);
                // SAFETY: as above.
                unsafe { Task::interrupt(NonNull::from(task.core())) };
            }
            Who::Thread(thread) => {
                thread.interrupts.add(scope);
                let waiter = thread.waiter_ref();
                let claim = waiter.armed().and_then(|epoch| waiter.claim(epoch));
                if let Some(claim) = claim {
                    claim.complete(Outcome::Interrupted);
                }
            }
        }
    }

    /// Takes back an interrupt of `scope` that was not raised yet.
    fn forget(&self, scope: &Bound<'_, PyAny>) {
        let interrupts = match &self.0 {
            // SAFETY: the handle keeps the task alive.
            Who::Task(task) => unsafe { TaskObject::from_object(task.as_ptr()) }.interrupts(),
            Who::Thread(thread) => &thread.interrupts,
        };
        let scope: *mut ffi::PyObject = scope.as_ptr();
        interrupts.forget(scope);
    }
}
