//! `WaitGroup`.

use std::ffi::CStr;

use penstock_core::{
    lock::{OutOfRange, WaitGroup},
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{exceptions::PyValueError, ffi, prelude::*};

use super::{Begun, Call, Names, awaitable, int_within, none, or_null};
use crate::{
    convert::{Patience, parse},
    error::{Raised, raise},
    hot::Definition,
    mode::{Mode, mode},
    object,
    pending::Next,
};

/// A count of what is still to be done, and who waits for it to be zero; Go's ``sync.WaitGroup``.
///
/// `add` before what is to be waited for starts, `done` as it ends. After `wait` it can be used again. Where the tasks
/// are known, a ``Group`` is simpler, and sees their failures.
///
/// >>> from penstock import WaitGroup, go
/// >>> pages: list[int] = []
/// >>> group = WaitGroup()
/// >>> def fetch(page: int) -> None:
/// ...     pages.append(page)
/// ...     group.done()
/// >>> for page in range(3):
/// ...     group.add()
/// ...     task = go(fetch, page)
/// >>> group.wait()
/// >>> sorted(pages)
/// [0, 1, 2]
#[pyclass(frozen, weakref, module = "penstock", name = "WaitGroup")]
pub struct WaitGroupObject {
    core: WaitGroup<Mode>,
}

#[expect(clippy::unused_self, reason = "the signatures are PyO3's")]
#[pymethods]
impl WaitGroupObject {
    #[new]
    fn new() -> Self {
        Self {
            core: WaitGroup::new(mode()),
        }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let core = &slf.get().core;
        format!(
            "<penstock.WaitGroup at {:p}: count {}{}>",
            slf.as_ptr(),
            core.count(),
            super::shown_waiters(core.waiters())
        )
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(super::not_pickled("WaitGroup"))
    }
}

pub static METHODS: [Definition; 4] = [
    Definition::fast(c"add", add, ADD_DOC),
    Definition::no_args(c"done", done, c"done($self, /)\n--\n\nTake one off the count, as ``add(-1)`` does. Never waits.\n\nRaises:\n    ValueError: the count is zero.\n"),
    Definition::fast(c"wait", wait, WAIT_DOC),
    Definition::fast(c"await_", await_, AWAIT_DOC),
];

const ADD_DOC: &CStr = c"add($self, /, n=1)\n--\n\n\
Add ``n``, which may be negative, to the count; at zero everybody goes on who waits. Never waits.\n\n\
Raises:\n    ValueError: the count would be below zero, or above 2**62; it stays as it is.\n\n\
>>> from penstock import WaitGroup\n>>> group = WaitGroup()\n>>> group.add(2)\n>>> group.add(-3)\n\
Traceback (most recent call last):\n    ...\nValueError: n must leave the count from 0 to 2**62 - 1: it is 2, and n is -3\n";

const WAIT_DOC: &CStr = c"wait($self, /, timeout=None)\n--\n\n\
Wait until the count is zero; at once where it is.\n\n\
What was done before each `done` is seen by who goes on. Parks a task, blocks a thread.\n\n\
Raises:\n    TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    ValueError: ``timeout`` is negative.\n";

const AWAIT_DOC: &CStr = c"await_($self, /, timeout=None)\n--\n\n\
The awaitable form of `wait`, for ``async def`` tasks and event loops.\n";

struct Wait(&'static Names);

static WAIT: Names = Names {
    call: "WaitGroup.wait()",
    awaitable: "await group.await_()",
    timed_out: "the count was not zero in time",
};
static AWAIT: Names = Names {
    call: "WaitGroup.await_()",
    awaitable: "await group.await_()",
    timed_out: "the count was not zero in time",
};

/// # Safety
/// `group` is a `WaitGroup`, alive as long as the result is used.
#[inline]
unsafe fn core<'a>(group: *mut ffi::PyObject) -> &'a WaitGroup<Mode> {
    // SAFETY: by the caller's promise.
    &unsafe { object::get::<WaitGroupObject>(group) }.core
}

impl Call for Wait {
    type Slot = ();

    fn names(&self) -> &'static Names {
        self.0
    }

    fn try_now(
        &mut self,
        _: Python<'_>,
        group: *mut ffi::PyObject,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        // SAFETY: a group, alive; attached.
        Ok(unsafe { (core(group).count() == 0).then(|| none()) })
    }

    fn begin(
        &mut self,
        _: Python<'_>,
        group: *mut ffi::PyObject,
        waiter: &WaiterRef,
    ) -> Result<Begun<()>, Raised> {
        // SAFETY: a group, alive; attached.
        Ok(unsafe {
            match core(group).begin_wait(waiter) {
                penstock_core::lock::Begin::Done => Begun::Done(none()),
                penstock_core::lock::Begin::Waiting(entry) => Begun::Waiting(entry),
            }
        })
    }

    fn finish(
        &mut self,
        _: Python<'_>,
        group: *mut ffi::PyObject,
        entry: &Entry<()>,
    ) -> Result<Next, Raised> {
        // SAFETY: a group, alive; the entry is from it, and its wait is over; attached.
        Ok(unsafe {
            match core(group).finish_wait(entry) {
                Outcome::Handed => Next::Done(none()),
                _ => Next::Over,
            }
        })
    }

    fn abandon(&mut self, group: *mut ffi::PyObject, entry: &Entry<()>) {
        // SAFETY: as above.
        let _ = unsafe { core(group).finish_wait(entry) };
    }
}

/// # Safety
/// `group` is a `WaitGroup`, alive during the call; attached.
unsafe fn change(py: Python<'_>, group: *mut ffi::PyObject, n: i64) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe {
        match core(group).add(n) {
            Ok(()) => none(),
            Err(OutOfRange { count }) => {
                let message = format!(
                    "n must leave the count from 0 to 2**62 - 1: it is {count}, and n is {n}"
                );
                raise(py, PyValueError::new_err(message));
                std::ptr::null_mut()
            }
        }
    }
}

unsafe extern "C-unwind" fn add(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `WaitGroup`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let parsed = parse(py, "add", ["n"], 0, arguments, count, keywords).and_then(|[n]| {
            if n.is_null() {
                return Ok(1);
            }
            let n = Bound::ref_from_ptr(py, &n);
            int_within(n, "n", -(1 << 62), 1 << 62, "an int from -2**62 to 2**62")
        });
        match parsed {
            Ok(n) => change(py, this, n),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn done(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `WaitGroup`, attached.
    unsafe { change(Python::assume_attached(), this, -1) }
}

unsafe extern "C-unwind" fn wait(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `WaitGroup`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match Patience::parse(py, "wait", arguments, count, keywords) {
            Ok(_) if core(this).count() == 0 => none(),
            Ok(patience) => or_null(super::wait(py, this, Wait(&WAIT), patience)),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn await_(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `WaitGroup`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match Patience::parse(py, "await_", arguments, count, keywords) {
            Ok(patience) => awaitable(py, this, Wait(&AWAIT), patience),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}
