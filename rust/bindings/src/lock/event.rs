//! `Event`.

use std::ffi::CStr;

use penstock_core::{
    lock::Event,
    wait::{Entry, WaiterRef},
};
use pyo3::{ffi, prelude::*};

use super::{Begun, Call, Names, awaitable, bool_of, none, or_null, true_, true_if_handed};
use crate::{
    convert::Patience,
    error::Raised,
    hot::Definition,
    mode::{Mode, mode},
    object,
    pending::Next,
};

/// A flag that tasks, threads and ``async def`` tasks wait for.
///
/// It starts not set. `set` lets everybody go on who waits, and everybody who comes until `clear`.
///
/// >>> from penstock import Event, go
/// >>> ready = Event()
/// >>> task = go(ready.wait)
/// >>> ready.set()
/// >>> task.result()
/// True
#[pyclass(frozen, weakref, module = "penstock", name = "Event")]
pub struct EventObject {
    core: Event<Mode>,
}

#[expect(clippy::unused_self, reason = "the signatures are PyO3's")]
#[pymethods]
impl EventObject {
    #[new]
    fn new() -> Self {
        Self {
            core: Event::new(mode()),
        }
    }

    /// Makes it not set: who comes from now on waits. Never waits.
    fn clear(&self) {
        self.core.clear();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let core = &slf.get().core;
        format!(
            "<penstock.Event at {:p}: {}{}>",
            slf.as_ptr(),
            if core.is_set() { "set" } else { "not set" },
            super::shown_waiters(core.waiters())
        )
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(super::not_pickled("Event"))
    }
}

pub static METHODS: [Definition; 4] = [
    Definition::no_args(c"is_set", is_set, c"is_set($self, /)\n--\n\nWhether it is set. Never waits."),
    Definition::no_args(c"set", set, c"set($self, /)\n--\n\nSet it, and let everybody go on who waits. Never waits; setting it twice does nothing."),
    Definition::fast(c"wait", wait, WAIT_DOC),
    Definition::fast(c"await_", await_, AWAIT_DOC),
];

const WAIT_DOC: &CStr = c"wait($self, /, timeout=None)\n--\n\n\
Wait until it is set; returns True, at once where it is.\n\n\
Who waits when it is set goes on, also where it is cleared right after. Parks a task, blocks a thread.\n\n\
Raises:\n    TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    ValueError: ``timeout`` is negative.\n\n\
>>> from penstock import Event\n>>> Event().wait(timeout=0)\nTraceback (most recent call last):\n    ...\n\
TimeoutError: the event was not set in time\n";

const AWAIT_DOC: &CStr = c"await_($self, /, timeout=None)\n--\n\n\
The awaitable form of `wait`, for ``async def`` tasks and event loops.\n";

struct Wait(&'static Names);

static WAIT: Names = Names {
    call: "Event.wait()",
    awaitable: "await event.await_()",
    timed_out: "the event was not set in time",
};
static AWAIT: Names = Names {
    call: "Event.await_()",
    awaitable: "await event.await_()",
    timed_out: "the event was not set in time",
};

/// # Safety
/// `event` is an `Event`, alive as long as the result is used.
#[inline]
unsafe fn core<'a>(event: *mut ffi::PyObject) -> &'a Event<Mode> {
    // SAFETY: by the caller's promise.
    &unsafe { object::get::<EventObject>(event) }.core
}

impl Call for Wait {
    type Slot = ();

    fn names(&self) -> &'static Names {
        self.0
    }

    fn try_now(
        &mut self,
        _: Python<'_>,
        event: *mut ffi::PyObject,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        // SAFETY: an event, alive.
        Ok(unsafe { core(event) }.is_set().then(true_))
    }

    fn begin(
        &mut self,
        _: Python<'_>,
        event: *mut ffi::PyObject,
        waiter: &WaiterRef,
    ) -> Result<Begun<()>, Raised> {
        // SAFETY: an event, alive.
        Ok(Begun::of(unsafe { core(event) }.begin_wait(waiter)))
    }

    fn finish(
        &mut self,
        _: Python<'_>,
        event: *mut ffi::PyObject,
        entry: &Entry<()>,
    ) -> Result<Next, Raised> {
        // SAFETY: an event, alive; the entry is from it, and its wait is over.
        Ok(true_if_handed(unsafe { core(event).finish_wait(entry) }))
    }

    fn abandon(&mut self, event: *mut ffi::PyObject, entry: &Entry<()>) {
        // SAFETY: as above.
        let _ = unsafe { core(event).finish_wait(entry) };
    }
}

unsafe extern "C-unwind" fn is_set(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `Event`, attached.
    unsafe { bool_of(core(this).is_set()) }
}

unsafe extern "C-unwind" fn set(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `Event`, attached.
    unsafe {
        core(this).set();
        none()
    }
}

unsafe extern "C-unwind" fn wait(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `Event`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let mut patience = Patience::Forever;
        if count != 0 || !keywords.is_null() {
            match Patience::parse(py, "wait", arguments, count, keywords) {
                Ok(parsed) => patience = parsed,
                Err(Raised) => return std::ptr::null_mut(),
            }
        }
        if core(this).is_set() {
            return true_();
        }
        or_null(super::wait(py, this, Wait(&WAIT), patience))
    }
}

unsafe extern "C-unwind" fn await_(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `Event`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match Patience::parse(py, "await_", arguments, count, keywords) {
            Ok(patience) => awaitable(py, this, Wait(&AWAIT), patience),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}
