//! Runtimes: how they are set up, used and ended, and what they ask of the interpreter.
//!
//! A runtime is a scheduler of the core with a name and settings, started when it is first used. Its [`life`] has the
//! states; [`host`] is what the scheduler calls; [`sleep`] has the calls that need nothing but a scheduler.

mod host;
mod life;
mod settings;
mod sleep;

use std::ptr;

use penstock_core::{
    scheduler::{Machine, Scheduler},
    wait::fork,
};
use pyo3::{
    exceptions::PyTypeError,
    ffi,
    prelude::*,
    types::{PyString, PyTuple},
};

use crate::{
    blocking, boundary, deadlock, event_loop, hot::Definition, interpreter, task::TaskObject,
};

pub use self::{
    host::{count_thread, thread_ended},
    life::{is_over, machines, over, quiescence},
    settings::{
        MAX_WORKERS, Numa, numa_from_argument, numa_from_environment, workers_from_environment,
    },
};
use self::{life::Life, settings::Settings};

/// The functions of the module.
pub fn functions() -> impl Iterator<Item = &'static [Definition]> {
    [&sleep::FUNCTIONS[..], &host::FUNCTIONS[..]].into_iter()
}

/// The default runtime's scheduler, started if need be.
#[inline]
pub fn default_scheduler(py: Python<'_>) -> PyResult<&'static Scheduler> {
    life::DEFAULT.scheduler(py)
}

/// The scheduler of the calling task, or else that of the default runtime.
#[inline]
pub fn current_scheduler(py: Python<'_>) -> PyResult<&'static Scheduler> {
    match Machine::current() {
        Some(machine) => Ok(machine.scheduler),
        None => default_scheduler(py),
    }
}

/// What Python's `Runtime` is made of.
#[pyclass(
    frozen,
    subclass,
    weakref,
    module = "penstock._core",
    name = "_Runtime"
)]
pub struct RuntimeObject(&'static Life);

impl RuntimeObject {
    pub fn life(&self) -> &'static Life {
        self.0
    }
}

#[pymethods]
impl RuntimeObject {
    #[new]
    fn new(settings: &Bound<'_, PyTuple>, name: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let settings = Settings::new(settings)?;
        let Some(name) = name else {
            return Ok(Self(&life::DEFAULT));
        };
        let Ok(text) = name.cast::<PyString>() else {
            let message = format!("name must be None or a str, not {}", name.repr()?);
            return Err(PyTypeError::new_err(message));
        };
        let settings = Box::leak(Box::new(settings));
        let life = Life::new(settings, Some(text.to_str()?.to_owned()));
        Ok(Self(Box::leak(Box::new(life))))
    }

    /// Sets it up anew. `False`: it is too late.
    fn _configure(&self, settings: &Bound<'_, PyTuple>) -> PyResult<bool> {
        Ok(self.0.configure(Settings::new(settings)?))
    }

    #[getter]
    fn _name(&self) -> &str {
        self.0.name()
    }

    #[getter]
    fn _state(&self) -> &'static str {
        self.0.state()
    }

    #[getter]
    fn _workers(&self) -> PyResult<usize> {
        self.0.workers()
    }

    fn _set_workers(&self, workers: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0
            .set_workers(settings::workers_from_argument(workers)?)
    }

    /// Its figures: workers, then the counts in the order of `RuntimeStats`.
    fn _stats(&self, py: Python<'_>) -> PyResult<(usize, [u64; 9])> {
        let scheduler = self.0.scheduler(py)?;
        let totals = scheduler.totals();
        let live = totals.spawned.saturating_sub(totals.finished);
        Ok((
            scheduler.workers(),
            [
                totals.started,
                totals.finished,
                live,
                totals.parks,
                totals.wakes,
                totals.steals,
                totals.remote_steals,
                totals.handoffs,
                totals.threads,
            ],
        ))
    }

    /// Whether its plain tasks park as fibers.
    fn _uses_fibers(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.0.scheduler(py)?.fibers())
    }

    /// Whether the caller is one of its tasks.
    fn _runs_here(&self) -> bool {
        let here = Machine::current().map(|machine| machine.scheduler);
        self.0
            .running()
            .is_some_and(|mine| here.is_some_and(|here| ptr::eq(here, mine)))
    }

    /// Takes no more tasks from outside. Gives the task that ends when all others have, or `None` if they have.
    fn _close<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, TaskObject>>> {
        let last = self.0.close(py)?;
        // SAFETY: a strong reference to a task, given away.
        Ok(last.map(|last| unsafe {
            Bound::from_owned_ptr(py, last.into_ptr()).cast_into_unchecked()
        }))
    }
}

impl Drop for RuntimeObject {
    fn drop(&mut self) {
        if !ptr::eq(self.0, &raw const life::DEFAULT) && !is_over() {
            self.0.close_unseen(); // nobody can use it any more, but for its own tasks
        }
    }
}

/// How this module was compiled: "release" or "debug".
#[pyfunction]
pub fn build_profile() -> &'static str {
    if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    }
}

/// Whether a parked fiber's frames can be read in this interpreter.
#[pyfunction]
pub fn _frames_match(py: Python<'_>) -> bool {
    interpreter::frames_match(py)
}

// ---- the end of things ----

/// Runs before `threading` joins its threads at exit.
#[pyfunction]
pub fn _at_exit() {
    life::stop_all();
}

/// Runs in a forked child, on its only thread, before anything else of ours.
#[pyfunction]
pub fn _after_fork_in_child() {
    let forked = boundary::running_task().map(|(_, task, _)| task);
    fork::entered_child();
    Machine::forget_current();
    boundary::forget_thread(forked);
    crate::lock::owner::entered_child(forked);
    deadlock::forget_threads();
    host::forget_threads();
    blocking::forget_pool();
    event_loop::forget_homes();
    life::begin_in_child();
}

/// The task that forked has ended in the child, where it was an ordinary call of the main thread: with `result`, or
/// with the exception that is set. Ends the child as a program ends.
///
/// # Safety
/// Attached, on the child's only thread; `result` is null or a strong reference, given away here.
pub unsafe fn end_child(result: *mut ffi::PyObject) -> ! {
    // SAFETY: attached; the reference is ours.
    let py = unsafe {
        ffi::Py_XDECREF(result);
        Python::assume_attached()
    };
    let error = PyErr::take(py).map(|error| error.into_value(py));
    let ended = py
        .import("penstock._forked")
        .and_then(|module| module.getattr("end_child")?.call1((error,)).map(drop));
    if let Err(error) = ended {
        error.print(py);
    }
    // SAFETY: it did not come through: no clean-up is left that could.
    unsafe { libc::_exit(1) }
}
