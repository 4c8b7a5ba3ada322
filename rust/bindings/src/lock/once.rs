//! `_Once`, of which Python's `Once` is made.

use std::{ffi::CStr, ptr};

use penstock_core::{
    lock::{Begin, Once, Owner, Turn},
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{
    exceptions::{PyRuntimeError, PyTypeError},
    ffi,
    prelude::*,
};

use super::{Begun, Call, Names, awaitable, none, or_null, owner};
use crate::{
    convert::{Patience, shown},
    error::{Raised, raise},
    hot::Definition,
    mode::{Mode, mode},
    object,
    pending::Next,
    task::{self, Kind},
    unwind,
};

/// What Python's `Once` is made of.
#[pyclass(frozen, subclass, weakref, module = "penstock._core", name = "_Once")]
pub struct OnceObject {
    core: Once<Mode>,
}

#[expect(clippy::unused_self, reason = "the signatures are PyO3's")]
#[pymethods]
impl OnceObject {
    #[new]
    fn new() -> Self {
        Self {
            core: Once::new(mode()),
        }
    }

    /// Whether who awaits is to make the call.
    fn _claim(&self, py: Python<'_>) -> PyResult<bool> {
        let me = owner::awaiting(py).map_err(|Raised| PyErr::fetch(py))?;
        match self.core.claim(me) {
            Turn::Mine => Ok(true),
            Turn::Done | Turn::TakenByOther => Ok(false),
            Turn::Nested => {
                nested(py, me);
                Err(PyErr::fetch(py))
            }
        }
    }

    /// The call has been made.
    fn _finish(&self) {
        self.core.finish_run();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let core = &slf.get().core;
        let state = match core.runner() {
            Some(runner) => format!("being done by {}", owner::name(slf.py(), runner)),
            None if core.is_done() => "done".to_owned(),
            None => "not done".to_owned(),
        };
        format!(
            "<penstock.Once at {:p}: {state}{}>",
            slf.as_ptr(),
            super::shown_waiters(core.waiters())
        )
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(super::not_pickled("Once"))
    }
}

pub static METHODS: [Definition; 2] = [
    Definition::one_arg(c"do", do_, DO_DOC),
    Definition::no_args(
        c"_done",
        done,
        c"_done($self, /)\n--\n\nAwaits that the call has been made.",
    ),
];

const DO_DOC: &CStr = c"do($self, fn, /)\n--\n\n\
Call ``fn`` if this is the first `do` of all; else wait until that call is over, and return.\n\n\
Whoever returns from here sees what the call did. Where it raises, so does this `do`, and it counts as made: later ones do\n\
nothing. ``fn`` is a plain function; for an async one there is `ado`. Parks a task, blocks a thread.\n\n\
Raises:\n    RuntimeError: ``fn`` itself calls `do` of the same object.\n    TypeError: ``fn`` is no plain function.\n    \
Cancelled: the task was cancelled while it waited for another's call.\n\n\
>>> from penstock import Once\n>>> once = Once()\n>>> once.do(lambda: print(\"set up\"))\nset up\n\
>>> once.do(lambda: print(\"set up\"))\n";

struct Wait(&'static Names);

static DO: Names = Names {
    call: "Once.do()",
    awaitable: "await once.ado(fn)",
    timed_out: "the call was not made in time",
};
static ADO: Names = Names {
    call: "Once.ado()",
    awaitable: "await once.ado(fn)",
    timed_out: "the call was not made in time",
};

/// # Safety
/// `once` is a `_Once`, alive as long as the result is used.
#[inline]
unsafe fn core<'a>(once: *mut ffi::PyObject) -> &'a Once<Mode> {
    // SAFETY: by the caller's promise.
    &unsafe { object::get::<OnceObject>(once) }.core
}

impl Call for Wait {
    type Slot = ();

    fn names(&self) -> &'static Names {
        self.0
    }

    fn try_now(
        &mut self,
        _: Python<'_>,
        once: *mut ffi::PyObject,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        // SAFETY: a `_Once`, alive; attached.
        Ok(unsafe { core(once).is_done().then(|| none()) })
    }

    fn begin(
        &mut self,
        _: Python<'_>,
        once: *mut ffi::PyObject,
        waiter: &WaiterRef,
    ) -> Result<Begun<()>, Raised> {
        // SAFETY: a `_Once`, alive; attached.
        Ok(unsafe {
            match core(once).begin_wait(waiter) {
                Begin::Done => Begun::Done(none()),
                Begin::Waiting(entry) => Begun::Waiting(entry),
            }
        })
    }

    fn finish(
        &mut self,
        _: Python<'_>,
        once: *mut ffi::PyObject,
        entry: &Entry<()>,
    ) -> Result<Next, Raised> {
        // SAFETY: a `_Once`, alive; the entry is from it, and its wait is over; attached.
        Ok(unsafe {
            match core(once).finish_wait(entry) {
                Outcome::Handed => Next::Done(none()),
                _ => Next::Over,
            }
        })
    }

    fn abandon(&mut self, once: *mut ffi::PyObject, entry: &Entry<()>) {
        // SAFETY: as above.
        let _ = unsafe { core(once).finish_wait(entry) };
    }
}

fn nested(py: Python<'_>, me: Owner) -> Raised {
    let message = format!(
        "do() of a Once inside the very call that it makes: {} would wait for itself",
        owner::name(py, me)
    );
    raise(py, PyRuntimeError::new_err(message))
}

/// Refuses what is no plain function.
#[cold]
fn check(py: Python<'_>, function: *mut ffi::PyObject) -> Result<(), Raised> {
    // SAFETY: an argument.
    let function = unsafe { Bound::ref_from_ptr(py, &function) };
    if function.is_callable() && task::kind_of(py, function.as_ptr())? == Kind::Call {
        return Ok(());
    }
    let shown = shown(function);
    let message =
        format!("fn must be a plain function, not {shown}; for an async one, await ado(fn)");
    Err(raise(py, PyTypeError::new_err(message)))
}

/// `Once.do(fn)`.
unsafe extern "C-unwind" fn do_(
    this: *mut ffi::PyObject,
    function: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Once`, attached; nothing with a destructor is alive while the function runs.
    unsafe {
        if core(this).is_done() {
            return none();
        }
        let py = Python::assume_attached();
        if check(py, function).is_err() {
            return ptr::null_mut();
        }
        let me = owner::here();
        match core(this).claim(me) {
            Turn::Done => none(),
            Turn::Nested => {
                nested(py, me);
                ptr::null_mut()
            }
            Turn::TakenByOther => or_null(super::wait(py, this, Wait(&DO), Patience::Forever)),
            Turn::Mine => {
                let result = unwind::call(function, []);
                core(this).finish_run();
                if result.is_null() {
                    return ptr::null_mut();
                }
                if ffi::PyCoro_CheckExact(result) != 0 {
                    task::close_coroutine(py, result, "await ado(fn) instead");
                    return ptr::null_mut();
                }
                ffi::Py_DECREF(result);
                none()
            }
        }
    }
}

unsafe extern "C-unwind" fn done(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by our Python code on a `_Once`, attached.
    unsafe {
        awaitable(
            Python::assume_attached(),
            this,
            Wait(&ADO),
            Patience::Forever,
        )
    }
}
