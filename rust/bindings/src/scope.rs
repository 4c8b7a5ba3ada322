//! A handle on a scope: the number of the block, and the task or thread that is in it.

use std::sync::{Arc, atomic::AtomicBool};

use penstock_core::wait::fork;
use pyo3::{exceptions::PyRuntimeError, prelude::*};

use crate::{
    boundary::{ThreadWaiter, forked_thread, running_task},
    convert::seconds,
    interrupt::{Interrupts, Left, Mark, ScopeId},
    object::{self, Object},
    task::TaskObject,
};

/// A scope of the task that runs on this thread, or else of the thread.
#[pyclass(frozen, module = "penstock._core", name = "_Scope")]
pub struct ScopeObject {
    id: ScopeId,
    who: Who,
    /// In which process, see [`fork`].
    generation: u32,
    /// Left: it interrupts nobody any more.
    closed: AtomicBool,
}

enum Who {
    Task(Object),
    Thread(Arc<ThreadWaiter>),
}

impl Who {
    fn here() -> Self {
        match running_task() {
            // SAFETY: it runs, so it is alive; attached.
            Some((_, task, _)) => Self::Task(unsafe { Object::new(task.as_ref().object()) }),
            None => Self::Thread(ThreadWaiter::here().shared()),
        }
    }

    fn interrupts(&self) -> &Interrupts {
        match self {
            // SAFETY: the handle keeps the task alive.
            Who::Task(task) => unsafe { object::get::<TaskObject>(task.as_ptr()) }.interrupts(),
            Who::Thread(thread) => &thread.interrupts,
        }
    }
}

impl ScopeObject {
    /// Whose it is, where a fork has made another thread of them: the main thread of the child goes on in the scopes of
    /// who forked.
    fn adopter(&self) -> Option<&'static ThreadWaiter> {
        (self.generation != fork::generation())
            .then(forked_thread)
            .flatten()
    }

    fn interrupts(&self) -> &Interrupts {
        match self.adopter() {
            Some(thread) => &thread.interrupts,
            None => self.who.interrupts(),
        }
    }
}

#[pymethods]
impl ScopeObject {
    /// A new one, of whoever calls.
    #[staticmethod]
    fn here() -> Self {
        Self {
            id: ScopeId::next(),
            who: Who::here(),
            generation: fork::generation(),
            closed: AtomicBool::new(false),
        }
    }

    /// Whether `error` was raised for this scope.
    fn raised(&self, error: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(Mark::of(error)? == Some(self.id))
    }

    // ---- for a group ----

    /// Raises `Cancelled` there, once, at the next call that has to wait.
    fn interrupt(&self) {
        self.interrupts().ask(self.id, &self.closed);
        let thread = match (self.adopter(), &self.who) {
            (Some(thread), _) => thread,
            (None, Who::Thread(thread)) => thread,
            (None, Who::Task(task)) => {
                // SAFETY: the handle keeps the task alive.
                unsafe { object::get::<TaskObject>(task.as_ptr()) }.end_wait();
                return;
            }
        };
        thread
            .waiter_ref()
            .interrupt(|| thread.interrupts.pending());
    }

    /// Takes back an interrupt that was not raised yet.
    fn forget(&self) {
        self.interrupts().forget(self.id, &self.closed);
    }

    /// Whether `error` was raised for a deadline that this scope lies in.
    fn lies_in(&self, error: &Bound<'_, PyAny>) -> PyResult<bool> {
        let outer = Mark::of(error)?;
        Ok(outer.is_some_and(|outer| self.interrupts().encloses(outer, self.id)))
    }

    // ---- for a deadline ----

    /// From now on calls that wait raise `TimeoutError` after `seconds`.
    fn start(&self, seconds: f64) {
        self.interrupts().enter(self.id, seconds);
    }

    /// The end of that; says whether it was raised.
    fn end(&self) -> PyResult<bool> {
        // Looked for where it is left, not where it was entered: the two differ in a forked child.
        let refusal = match Who::here().interrupts().leave(self.id) {
            Left::InTurn(expired) => return Ok(expired),
            Left::OutOfTurn => {
                "a deadline was left before one that was entered in it: does a generator yield inside one?"
            }
            Left::NotHere => {
                let _ = self.interrupts().leave(self.id);
                "a deadline was left by another task or thread than the one that entered it"
            }
        };
        Err(PyRuntimeError::new_err(refusal))
    }

    /// Whether it was raised so far.
    fn has_expired(&self) -> bool {
        self.interrupts().has_expired(self.id)
    }
}

/// A number of seconds that is not negative, or an error that names the argument.
#[pyfunction]
pub fn _seconds(value: &Bound<'_, PyAny>, name: &str) -> PyResult<f64> {
    let time = seconds(value, name, "a number of seconds >= 0")?;
    Ok(time.map_or(f64::INFINITY, |time| time.as_secs_f64()))
}
