//! One call that waits in an event loop, from its begin to its end.
//!
//! The coroutine steps through an iterator of the loop's own: that of a future, or of trio's `wait_task_rescheduled`. So
//! the loop sees one of its tasks wait as for anything else, and may cancel it. The iterator ends when the waiter is woken;
//! where it raises, or is dropped, the call is abandoned.

use std::{ffi::CStr, ptr, sync::Arc, time::Instant};

use penstock_core::wait::{Epoch, Outcome};
use pyo3::{
    exceptions::PyRuntimeError,
    ffi::{self, PySendResult},
    intern,
    prelude::*,
    sync::PyOnceLock,
};

use super::{
    Library, function,
    home::Home,
    waiter::{Call, LoopWaiter},
};
use crate::{
    convert::Patience,
    error::{Raised, put_aside, raise},
    hot::Definition,
    interrupt::earlier,
    object::Object,
    pending::{Begun, Next, Pending, goes_on},
    unwind,
};

pub struct LoopWait {
    home: Arc<Home>,
    waiter: Arc<LoopWaiter>,
    patience: Patience,
    is_shown: bool,
    /// What the coroutine steps through.
    iterator: Object,
    /// asyncio's handle for the call that times the wait out.
    timer: Option<Object>,
}

/// How a step went.
pub enum Stepped {
    /// The coroutine gives this up to its loop, a new reference, and goes on with the wait.
    GaveUp(*mut ffi::PyObject, LoopWait),
    /// A new reference to the result.
    Done(*mut ffi::PyObject),
}

impl LoopWait {
    /// Begins `pending`, and waits if it has to. `is_shown`: see [`show_sleeper`](super::show_sleeper).
    pub fn begin(
        py: Python<'_>,
        home: &Arc<Home>,
        mut pending: Box<dyn Pending>,
        patience: Patience,
        is_shown: bool,
    ) -> Result<Stepped, Raised> {
        loop {
            let sleeper = new_sleeper(py, home).map_err(|error| raise(py, error))?;
            let waiter = LoopWaiter::new(home, &sleeper, is_shown);
            let (epoch, until) = match pending.begin(py, &waiter.waiter_ref())? {
                Begun::Done(value) => return Ok(Stepped::Done(value)),
                Begun::Waiting(epoch) => (epoch, None),
                Begun::Until(epoch, moment) => (epoch, Some(moment)),
            };
            waiter.put_call(Call { epoch, pending });
            let deadline = earlier(patience.deadline(), until);
            let (timer, iterator) = match start_sleep(home, &waiter, epoch, &sleeper, deadline) {
                Ok(started) => started,
                Err(error) => {
                    abandon(py, &waiter, None);
                    return Err(raise(py, error));
                }
            };
            drop(sleeper);
            let wait = Self {
                home: Arc::clone(home),
                waiter,
                patience,
                is_shown,
                iterator,
                timer,
            };
            // SAFETY: attached.
            match unsafe { wait.step_once(py, ffi::Py_None()) }? {
                Once::GaveUp(result, wait) => return Ok(Stepped::GaveUp(result, wait)),
                Once::Done(value) => return Ok(Stepped::Done(value)),
                Once::Again(again) => pending = again,
            }
        }
    }

    /// The coroutine goes on, with what the loop sent it.
    pub fn step(self, py: Python<'_>, argument: *mut ffi::PyObject) -> Result<Stepped, Raised> {
        let (home, patience, is_shown) = (Arc::clone(&self.home), self.patience, self.is_shown);
        match self.step_once(py, argument)? {
            Once::GaveUp(result, wait) => Ok(Stepped::GaveUp(result, wait)),
            Once::Done(value) => Ok(Stepped::Done(value)),
            Once::Again(pending) => Self::begin(py, &home, pending, patience, is_shown),
        }
    }

    fn step_once(self, py: Python<'_>, argument: *mut ffi::PyObject) -> Result<Once, Raised> {
        let mut result = ptr::null_mut();
        // SAFETY: both are alive.
        let sent =
            unsafe { unwind::PyIter_Send(self.iterator.as_ptr(), argument, &raw mut result) };
        self.after(py, sent, result)
    }

    /// The loop throws an exception into the coroutine.
    pub fn throw(self, py: Python<'_>, error: PyErr) -> Result<Stepped, Raised> {
        let (home, patience, is_shown) = (Arc::clone(&self.home), self.patience, self.is_shown);
        let (sent, result) = throw_into(py, &self.iterator, error);
        match self.after(py, sent, result)? {
            Once::GaveUp(result, wait) => Ok(Stepped::GaveUp(result, wait)),
            Once::Done(value) => Ok(Stepped::Done(value)),
            Once::Again(pending) => Self::begin(py, &home, pending, patience, is_shown),
        }
    }

    fn after(
        self,
        py: Python<'_>,
        sent: PySendResult,
        result: *mut ffi::PyObject,
    ) -> Result<Once, Raised> {
        match sent {
            PySendResult::PYGEN_NEXT => Ok(Once::GaveUp(result, self)),
            PySendResult::PYGEN_RETURN => {
                // SAFETY: a strong reference.
                drop(unsafe { Object::steal(result) });
                self.resumed(py)
            }
            PySendResult::PYGEN_ERROR => {
                self.abandon(py);
                Err(Raised)
            }
        }
    }

    fn resumed(mut self, py: Python<'_>) -> Result<Once, Raised> {
        cancel_timer(py, self.timer.take());
        let Some(Call { epoch, mut pending }) = self.waiter.take_call() else {
            let message = "the event loop was closed while its coroutine waited";
            return Err(raise(py, PyRuntimeError::new_err(message)));
        };
        let outcome = self.waiter.settle(epoch, Outcome::Interrupted);
        match pending.finish(py, outcome)? {
            Next::Done(value) => Ok(Once::Done(value)),
            Next::Again if goes_on(outcome, self.patience.deadline()) => Ok(Once::Again(pending)),
            Next::Again | Next::Over if outcome == Outcome::TimedOut => Err(pending.timed_out(py)),
            // Somebody else has ended the future: nothing has happened.
            Next::Again | Next::Over => Ok(Once::Again(pending)),
        }
    }

    /// The coroutine goes on without the result, or is dropped.
    pub fn abandon(self, py: Python<'_>) {
        abandon(py, &self.waiter, self.timer);
    }

    /// Shows the collector each object that this keeps alive. The world is stopped.
    pub fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.iterator.as_ptr());
        if let Some(timer) = &self.timer {
            visit(timer.as_ptr());
        }
        self.waiter.traverse(visit);
    }
}

/// How one wait went.
enum Once {
    GaveUp(*mut ffi::PyObject, LoopWait),
    Done(*mut ffi::PyObject),
    /// The call is to be begun again.
    Again(Box<dyn Pending>),
}

/// Takes the wait back, or gives away what was handed over. Keeps the exception that is set.
fn abandon(py: Python<'_>, waiter: &LoopWaiter, timer: Option<Object>) {
    let aside = put_aside(py);
    waiter.abandon_woken(py);
    cancel_timer(py, timer);
    aside.restore(py);
}

/// What resumes the coroutine that runs now.
fn new_sleeper<'py>(py: Python<'py>, home: &Home) -> PyResult<Bound<'py, PyAny>> {
    match home.library {
        Library::Asyncio => {
            let Some(running) = home.target(py) else {
                return Err(PyRuntimeError::new_err("the event loop is gone"));
            };
            running.call_method0(intern!(py, "create_future"))
        }
        Library::Trio => {
            static TASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let task = TASK.get_or_try_init(py, || function(py, "trio_task"))?;
            task.bind(py).call0()
        }
    }
}

/// The timer, and what the coroutine steps through until the waiter is woken.
fn start_sleep(
    home: &Home,
    waiter: &Arc<LoopWaiter>,
    epoch: Epoch,
    sleeper: &Bound<'_, PyAny>,
    deadline: Option<Instant>,
) -> PyResult<(Option<Object>, Object)> {
    let py = sleeper.py();
    let seconds = deadline.map(|deadline| {
        deadline
            .saturating_duration_since(Instant::now())
            .as_secs_f64()
    });
    let outcome = match seconds {
        Some(_) => Outcome::TimedOut,
        None => Outcome::Interrupted,
    };
    let taking_back = || TakingBack {
        waiter: Arc::clone(waiter),
        epoch,
        outcome,
    };
    let mut timer = None;
    let iterator = match home.library {
        Library::Asyncio => {
            if let Some(seconds) = seconds {
                let wait = Bound::new(py, taking_back())?;
                // SAFETY: attached; the definition is static. The function has a reference of its own.
                let expire = unsafe {
                    let function =
                        ffi::PyCFunction_NewEx(EXPIRE.get(), wait.as_ptr(), ptr::null_mut());
                    Bound::from_owned_ptr_or_err(py, function)?
                };
                let running = sleeper.call_method0(intern!(py, "get_loop"))?;
                let handle = running.call_method1(intern!(py, "call_later"), (seconds, expire))?;
                // SAFETY: a strong reference, given away.
                timer = Some(unsafe { Object::steal(handle.into_ptr()) });
            }
            sleeper.try_iter().map(Bound::into_any)
        }
        Library::Trio => {
            static SLEEP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let sleep = SLEEP.get_or_try_init(py, || function(py, "wait_in_trio"))?;
            sleep
                .bind(py)
                .call1((Bound::new(py, taking_back())?, seconds))
        }
    };
    match iterator {
        // SAFETY: a strong reference, given away.
        Ok(iterator) => Ok((timer, unsafe { Object::steal(iterator.into_ptr()) })),
        Err(error) => {
            cancel_timer(py, timer);
            Err(error)
        }
    }
}

/// Takes asyncio's timer back. Where it is the loop's own thread or not: it only marks the handle.
fn cancel_timer(py: Python<'_>, timer: Option<Object>) {
    if let Some(timer) = timer
        && let Err(error) = timer.as_py().bind(py).call_method0(intern!(py, "cancel"))
    {
        error.write_unraisable(py, None);
    }
}

/// Throws an exception into an iterator that is awaited.
pub fn throw_into(
    py: Python<'_>,
    iterator: &Object,
    error: PyErr,
) -> (PySendResult, *mut ffi::PyObject) {
    let thrown = iterator
        .as_py()
        .bind(py)
        .call_method1(intern!(py, "throw"), (error.into_value(py).into_bound(py),));
    match thrown {
        Ok(next) => (PySendResult::PYGEN_NEXT, next.into_ptr()),
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyStopIteration>(py) => {
            match error.value(py).getattr(intern!(py, "value")) {
                Ok(value) => (PySendResult::PYGEN_RETURN, value.into_ptr()),
                Err(error) => {
                    error.restore(py);
                    (PySendResult::PYGEN_ERROR, ptr::null_mut())
                }
            }
        }
        Err(error) => {
            error.restore(py);
            (PySendResult::PYGEN_ERROR, ptr::null_mut())
        }
    }
}

/// A wait that its loop may end: by a timer of asyncio, or a cancellation in trio.
#[pyclass(frozen, module = "penstock._core", name = "_TakingBack")]
struct TakingBack {
    waiter: Arc<LoopWaiter>,
    epoch: Epoch,
    outcome: Outcome,
}

#[pymethods]
impl TakingBack {
    /// Takes the wait back. `False`: a peer was first, and resumes the coroutine.
    fn take_back(&self) -> bool {
        self.waiter.disarm(self.epoch, self.outcome)
    }
}

const EXPIRE_DOC: &CStr = c"Times a wait out.";

// A raw entry: below it runs code of the loop, where a thread may be ended.
static EXPIRE: Definition = Definition::no_args(c"time_out", expire, EXPIRE_DOC);

unsafe extern "C-unwind" fn expire(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, on a `TakingBack`, which is frozen and outlives the call.
    unsafe {
        let py = Python::assume_attached();
        let this: *const TakingBack = ptr::from_ref(
            Bound::ref_from_ptr(py, &this)
                .cast_unchecked::<TakingBack>()
                .get(),
        );
        if (*this).take_back() && !LoopWaiter::resume(py, Arc::as_ptr(&(*this).waiter)) {
            return ptr::null_mut();
        }
        ffi::Py_NewRef(ffi::Py_None())
    }
}
