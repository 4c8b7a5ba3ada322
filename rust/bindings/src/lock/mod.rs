//! Locks for Python: [`penstock_core::lock`], with owners that are tasks and threads.
//!
//! A call that may wait tries in its own raw entry first, which allocates nothing. If it has to wait it becomes a
//! [`Waiting`]: the wait of one [`Call`], as the [`Pending`] that plain callers and awaitables have in common.
//!
//! None of the structures refers to anything of Python's, but for what a condition and a barrier are made with. So no
//! cycle passes through the others, and their waiters keep themselves alive.

mod barrier;
mod condition;
mod event;
mod mutex;
mod once;
pub mod owner;
mod semaphore;
mod wait_group;

pub use barrier::BarrierObject;
pub use condition::ConditionObject;
pub use event::EventObject;
pub use mutex::LockObject;
pub use once::OnceObject;
pub use semaphore::SemaphoreObject;
pub use wait_group::WaitGroupObject;

use std::{ptr, sync::Arc};

use penstock_core::wait::{Entry, Outcome, WaiterRef};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    ffi,
    prelude::*,
};

use crate::{
    convert::{Patience, shown},
    error::{Failure, Raised, raise},
    hot,
    object::{Object, none},
    pending::{self, Next, Pending},
};

/// Puts the raw entries on their classes. Called once, by the module's import.
pub fn add(py: Python<'_>) -> PyResult<()> {
    hot::add_methods(&py.get_type::<LockObject>(), &mutex::METHODS)?;
    hot::add_methods(&py.get_type::<SemaphoreObject>(), &semaphore::METHODS)?;
    hot::add_methods(&py.get_type::<EventObject>(), &event::METHODS)?;
    hot::add_methods(&py.get_type::<WaitGroupObject>(), &wait_group::METHODS)?;
    hot::add_methods(&py.get_type::<BarrierObject>(), &barrier::METHODS)?;
    hot::add_methods(&py.get_type::<ConditionObject>(), &condition::METHODS)?;
    hot::add_methods(&py.get_type::<OnceObject>(), &once::METHODS)
}

/// # Safety
/// Attached.
#[inline]
unsafe fn bool_of(value: bool) -> *mut ffi::PyObject {
    // SAFETY: attached.
    unsafe {
        ffi::Py_NewRef(if value {
            ffi::Py_True()
        } else {
            ffi::Py_False()
        })
    }
}

fn true_() -> *mut ffi::PyObject {
    // SAFETY: every caller is attached.
    unsafe { bool_of(true) }
}

/// What a raw entry returns.
#[inline]
fn or_null(result: Result<*mut ffi::PyObject, Raised>) -> *mut ffi::PyObject {
    result.unwrap_or(ptr::null_mut())
}

/// How messages name a call.
struct Names {
    call: &'static str,
    awaitable: &'static str,
    timed_out: &'static str,
}

/// A call that waits on one object. The object is alive in each method, and of the class that the call is for.
trait Call: Send {
    /// What passes through an entry.
    type Slot: Send + 'static;

    fn names(&self) -> &'static Names;

    fn try_now(
        &mut self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
    ) -> Result<Option<*mut ffi::PyObject>, Raised>;

    fn begin(
        &mut self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        waiter: &WaiterRef,
    ) -> Result<Begun<Self::Slot>, Raised>;

    /// The wait is over.
    fn finish(
        &mut self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        entry: &Entry<Self::Slot>,
    ) -> Result<Next, Raised>;

    /// The same where nobody takes a result any more.
    fn abandon(&mut self, object: *mut ffi::PyObject, entry: &Entry<Self::Slot>);

    fn timed_out(&self, py: Python<'_>, _: *mut ffi::PyObject) -> Raised {
        Failure::TimedOut.raise(py, self.names().timed_out)
    }
}

/// How a call began.
enum Begun<S> {
    /// A new reference to the result.
    Done(*mut ffi::PyObject),
    Waiting(Arc<Entry<S>>),
}

impl<S> Begun<S> {
    /// From the core's answer, where the result is `True`.
    fn of(begin: penstock_core::lock::Begin<Arc<Entry<S>>>) -> Self {
        match begin {
            penstock_core::lock::Begin::Done => Begun::Done(true_()),
            penstock_core::lock::Begin::Waiting(entry) => Begun::Waiting(entry),
        }
    }
}

/// What comes of a wait whose result is `True`.
fn true_if_handed(outcome: Outcome) -> Next {
    if outcome == Outcome::Handed {
        Next::Done(true_())
    } else {
        Next::Over
    }
}

/// A call, with what it waits on.
struct Waiting<C: Call> {
    object: Object,
    call: C,
    entry: Option<Arc<Entry<C::Slot>>>,
}

impl<C: Call + 'static> Waiting<C> {
    /// # Safety
    /// Attached; `object` is alive, and of the class that the call is for.
    unsafe fn new(object: *mut ffi::PyObject, call: C) -> Self {
        Self {
            // SAFETY: alive, and attached.
            object: unsafe { Object::new(object) },
            call,
            entry: None,
        }
    }
}

impl<C: Call + 'static> Pending for Waiting<C> {
    fn call(&self) -> &'static str {
        self.call.names().call
    }

    fn awaitable(&self) -> &'static str {
        self.call.names().awaitable
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.object.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        self.call.try_now(py, self.object.as_ptr())
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<pending::Begun, Raised> {
        match self.call.begin(py, self.object.as_ptr(), waiter)? {
            Begun::Done(value) => Ok(pending::Begun::Done(value)),
            Begun::Waiting(entry) => {
                let epoch = entry.epoch;
                self.entry = Some(entry);
                Ok(pending::Begun::Waiting(epoch))
            }
        }
    }

    fn finish(&mut self, py: Python<'_>, _: Outcome) -> Result<Next, Raised> {
        let Some(entry) = self.entry.take() else {
            return Ok(Next::Over);
        };
        self.call.finish(py, self.object.as_ptr(), &entry)
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {
        if let Some(entry) = self.entry.take() {
            self.call.abandon(self.object.as_ptr(), &entry);
        }
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        self.call.timed_out(py, self.object.as_ptr())
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.object.as_ptr());
    }
}

/// Makes the call for whoever may wait in a plain call.
///
/// # Safety
/// In a raw entry of `object`, which is of the class that the call is for, with nothing that has a destructor alive.
#[cold]
unsafe fn wait<C: Call + 'static>(
    py: Python<'_>,
    object: *mut ffi::PyObject,
    call: C,
    patience: Patience,
) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: as for this function.
    unsafe { pending::run(py, Box::new(Waiting::new(object, call)), patience) }
}

/// The call as an awaitable.
///
/// # Safety
/// Attached; `object` is alive, and of the class that the call is for.
unsafe fn awaitable<C: Call + 'static>(
    py: Python<'_>,
    object: *mut ffi::PyObject,
    call: C,
    patience: Patience,
) -> *mut ffi::PyObject {
    // SAFETY: as for this function.
    pending::awaitable(
        py,
        Box::new(unsafe { Waiting::new(object, call) }),
        patience,
    )
}

/// An awaitable of `None` that has nothing to wait for: the end of an `async with`.
pub fn nothing_to_await(py: Python<'_>) -> *mut ffi::PyObject {
    pending::awaitable(py, Box::new(Nothing), Patience::Forever)
}

struct Nothing;

impl Pending for Nothing {
    fn call(&self) -> &'static str {
        "__aexit__()"
    }

    fn awaitable(&self) -> &'static str {
        "async with"
    }

    fn subject(&self) -> *mut ffi::PyObject {
        ptr::null_mut()
    }

    fn try_now(&mut self, _: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        // SAFETY: attached, as every caller is.
        Ok(Some(unsafe { none() }))
    }

    fn begin(&mut self, _: Python<'_>, _: &WaiterRef) -> Result<pending::Begun, Raised> {
        // SAFETY: as above.
        Ok(pending::Begun::Done(unsafe { none() }))
    }

    fn finish(&mut self, _: Python<'_>, _: Outcome) -> Result<Next, Raised> {
        Ok(Next::Over) // it never waits
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {}

    fn timed_out(&self, py: Python<'_>) -> Raised {
        Failure::TimedOut.raise(py, "") // it never waits
    }

    fn traverse(&self, _: &mut dyn FnMut(*mut ffi::PyObject)) {}
}

/// The arguments of an `acquire(blocking=True, timeout=None)`: how long it may wait. `None`: it may not, and answers
/// `False` instead.
fn blocking_and_timeout(
    py: Python<'_>,
    [blocking, timeout]: [*mut ffi::PyObject; 2],
) -> Result<Option<Patience>, Raised> {
    let blocks = blocking.is_null() || {
        // SAFETY: an argument, and attached.
        let truth = unsafe { ffi::PyObject_IsTrue(blocking) };
        if truth < 0 {
            return Err(Raised);
        }
        truth == 1
    };
    let patience = Patience::from_optional(py, timeout)?;
    if blocks {
        return Ok(Some(patience));
    }
    if patience != Patience::Forever {
        // SAFETY: not null, for it says how long; an argument.
        let timeout = unsafe { Bound::ref_from_ptr(py, &timeout) };
        let message = format!(
            "timeout must be None with blocking=False, not {timeout}: a call that does not wait has no time to"
        );
        return Err(raise(py, PyValueError::new_err(message)));
    }
    Ok(None)
}

/// What a number of `name` has to be, and is not.
fn refuse(value: &Bound<'_, PyAny>, name: &str, allowed: &str) -> Raised {
    let py = value.py();
    let shown = shown(value);
    let message = format!("{name} must be {allowed}, not {shown}");
    // SAFETY: alive, and attached.
    if unsafe { ffi::PyIndex_Check(value.as_ptr()) } == 0 {
        raise(py, PyTypeError::new_err(message))
    } else {
        raise(py, PyValueError::new_err(message))
    }
}

/// An argument that is an int from `from` to `to`.
fn int_within(
    value: &Bound<'_, PyAny>,
    name: &str,
    from: i64,
    to: i64,
    allowed: &str,
) -> Result<i64, Raised> {
    // SAFETY: alive, and attached.
    let is_int = unsafe { ffi::PyIndex_Check(value.as_ptr()) } != 0;
    let number = is_int.then(|| value.extract::<i64>().ok()).flatten();
    number
        .filter(|number| (from..=to).contains(number))
        .ok_or_else(|| refuse(value, name, allowed))
}

/// `2 waiting`, behind the state of an object that somebody waits on.
fn shown_waiters(count: usize) -> String {
    if count == 0 {
        String::new()
    } else {
        format!(", {count} waiting")
    }
}

fn not_pickled(name: &str) -> PyErr {
    PyTypeError::new_err(format!(
        "a {name} cannot be pickled or copied: it is between tasks of this process only"
    ))
}
