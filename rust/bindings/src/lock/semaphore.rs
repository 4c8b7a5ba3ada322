//! `Semaphore`.

use std::ffi::CStr;

use penstock_core::{
    lock::Semaphore,
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{exceptions::PyValueError, ffi, prelude::*};

use super::{
    Begun, Call, Names, awaitable, bool_of, int_within, none, or_null, true_, true_if_handed,
};
use crate::{
    convert::{Passed, Patience, parse},
    error::{Raised, raise},
    hot::Definition,
    mode::{Mode, mode},
    object,
    pending::Next,
};

/// A number of permits: a bound for how many are at something at once.
///
/// ``acquire`` takes a permit, waiting while there is none; ``release`` gives one, or several, and anybody may. It is
/// fair: a permit goes to whoever has waited longest, by hand, so nobody overtakes. Nothing bounds the number of
/// permits from above.
///
/// >>> from penstock import Semaphore, go
/// >>> two_at_once = Semaphore(2)
/// >>> def fetch(page: int) -> int:
/// ...     with two_at_once:
/// ...         return page
/// >>> [task.result() for task in [go(fetch, page) for page in range(4)]]
/// [0, 1, 2, 3]
#[pyclass(frozen, weakref, module = "penstock", name = "Semaphore")]
pub struct SemaphoreObject {
    core: Semaphore<Mode>,
}

const PERMITS: &str = "an int from 0 to 2**62";
const PERMITS_MAX: i64 = 1 << 62;

#[expect(clippy::unused_self, reason = "the signatures are PyO3's")]
#[pymethods]
impl SemaphoreObject {
    #[new]
    #[pyo3(signature = (value=Passed::No), text_signature = "(value=1)")]
    fn new(py: Python<'_>, value: Passed<'_>) -> PyResult<Self> {
        let value = match value {
            Passed::No => 1,
            Passed::As(value) => int_within(&value, "value", 0, PERMITS_MAX, PERMITS)
                .map_err(|Raised| PyErr::fetch(py))?,
        };
        Ok(Self {
            core: Semaphore::new(value.cast_unsigned(), mode()),
        })
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let core = &slf.get().core;
        format!(
            "<penstock.Semaphore at {:p}: value {}{}>",
            slf.as_ptr(),
            core.permits(),
            super::shown_waiters(core.waiters())
        )
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(super::not_pickled("Semaphore"))
    }
}

pub static METHODS: [Definition; 7] = [
    Definition::fast(c"acquire", acquire, ACQUIRE_DOC),
    Definition::fast(c"release", release, RELEASE_DOC),
    Definition::no_args(
        c"__enter__",
        enter,
        c"__enter__($self, /)\n--\n\nTake a permit.",
    ),
    Definition::fast(
        c"__exit__",
        exit,
        c"__exit__($self, /, *args)\n--\n\nGive the permit back.",
    ),
    Definition::fast(c"aacquire", aacquire, AACQUIRE_DOC),
    Definition::no_args(
        c"__aenter__",
        aenter,
        c"__aenter__($self, /)\n--\n\nThe awaitable form of `__enter__`.",
    ),
    Definition::fast(
        c"__aexit__",
        aexit,
        c"__aexit__($self, /, *args)\n--\n\nGive the permit back.",
    ),
];

const ACQUIRE_DOC: &CStr = c"acquire($self, /, blocking=True, timeout=None)\n--\n\n\
Take a permit, waiting while there is none; returns True.\n\n\
With ``blocking=False`` it never waits, and returns False where it would have to. Cancelled or timed out, it has taken\n\
none. Parks a task, blocks a thread.\n\n\
Raises:\n    TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    \
ValueError: ``timeout`` is negative, or given with ``blocking=False``.\n\n\
>>> from penstock import Semaphore\n>>> one = Semaphore()\n>>> one.acquire()\nTrue\n>>> one.acquire(blocking=False)\nFalse\n";

const RELEASE_DOC: &CStr = c"release($self, /, n=1)\n--\n\n\
Give ``n`` permits: to those who have waited longest, one each, and what is left to whoever comes. Never waits.\n\n\
Raises:\n    ValueError: ``n`` is less than 1, or there would be more than 2**62 permits.\n\n\
>>> from penstock import Semaphore\n>>> permits = Semaphore(0)\n>>> permits.release(2)\n>>> permits.acquire(), permits.acquire()\n\
(True, True)\n";

const AACQUIRE_DOC: &CStr = c"aacquire($self, /, timeout=None)\n--\n\n\
The awaitable form of `acquire`, for ``async def`` tasks and event loops.\n";

struct Acquire(&'static Names);

static ACQUIRE: Names = Names {
    call: "Semaphore.acquire()",
    awaitable: "await semaphore.aacquire()",
    timed_out: "the semaphore had no permit",
};
static AACQUIRE: Names = Names {
    call: "Semaphore.aacquire()",
    awaitable: "await semaphore.aacquire()",
    timed_out: "the semaphore had no permit",
};

/// # Safety
/// `semaphore` is a `Semaphore`, alive as long as the result is used.
#[inline]
unsafe fn core<'a>(semaphore: *mut ffi::PyObject) -> &'a Semaphore<Mode> {
    // SAFETY: by the caller's promise.
    &unsafe { object::get::<SemaphoreObject>(semaphore) }.core
}

impl Call for Acquire {
    type Slot = ();

    fn names(&self) -> &'static Names {
        self.0
    }

    fn try_now(
        &mut self,
        _: Python<'_>,
        semaphore: *mut ffi::PyObject,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        // SAFETY: a semaphore, alive.
        Ok(unsafe { core(semaphore) }.try_acquire().then(true_))
    }

    fn begin(
        &mut self,
        _: Python<'_>,
        semaphore: *mut ffi::PyObject,
        waiter: &WaiterRef,
    ) -> Result<Begun<()>, Raised> {
        // SAFETY: a semaphore, alive.
        Ok(Begun::of(unsafe { core(semaphore) }.begin_acquire(waiter)))
    }

    fn finish(
        &mut self,
        _: Python<'_>,
        semaphore: *mut ffi::PyObject,
        entry: &Entry<()>,
    ) -> Result<Next, Raised> {
        // SAFETY: a semaphore, alive; the entry is from it, and its wait is over.
        Ok(true_if_handed(unsafe {
            core(semaphore).finish_acquire(entry)
        }))
    }

    fn abandon(&mut self, semaphore: *mut ffi::PyObject, entry: &Entry<()>) {
        // SAFETY: as above.
        let semaphore = unsafe { core(semaphore) };
        // SAFETY: as above.
        if unsafe { semaphore.finish_acquire(entry) } == Outcome::Handed {
            let given = semaphore.release(1);
            debug_assert!(given, "it was taken just now");
        }
    }
}

unsafe extern "C-unwind" fn acquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Semaphore`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let mut patience = Patience::Forever;
        if count != 0 || !keywords.is_null() {
            let parsed = parse(
                py,
                "acquire",
                ["blocking", "timeout"],
                0,
                arguments,
                count,
                keywords,
            )
            .and_then(|parsed| super::blocking_and_timeout(py, parsed));
            match parsed {
                Ok(Some(parsed)) => patience = parsed,
                Ok(None) => return bool_of(core(this).try_acquire()),
                Err(Raised) => return std::ptr::null_mut(),
            }
        }
        if core(this).try_acquire() {
            return true_();
        }
        or_null(super::wait(py, this, Acquire(&ACQUIRE), patience))
    }
}

unsafe extern "C-unwind" fn enter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Semaphore`, attached.
    unsafe {
        if core(this).try_acquire() {
            return true_();
        }
        let py = Python::assume_attached();
        or_null(super::wait(py, this, Acquire(&ACQUIRE), Patience::Forever))
    }
}

/// Gives permits.
///
/// # Safety
/// `semaphore` is a `Semaphore`, alive during the call.
#[inline]
unsafe fn give(py: Python<'_>, semaphore: *mut ffi::PyObject, permits: u64) -> Result<(), Raised> {
    // SAFETY: the caller's promise.
    if unsafe { core(semaphore) }.release(permits) {
        return Ok(());
    }
    let message =
        format!("n must leave the semaphore with at most 2**62 permits, not {permits} more");
    Err(raise(py, PyValueError::new_err(message)))
}

unsafe extern "C-unwind" fn release(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Semaphore`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let mut permits = 1;
        if count != 0 || !keywords.is_null() {
            let parsed =
                parse(py, "release", ["n"], 0, arguments, count, keywords).and_then(|[n]| {
                    if n.is_null() {
                        return Ok(1); // an empty tuple of keywords
                    }
                    int_within(
                        Bound::ref_from_ptr(py, &n),
                        "n",
                        1,
                        PERMITS_MAX,
                        "an int from 1 to 2**62",
                    )
                });
            match parsed {
                Ok(n) => permits = n,
                Err(Raised) => return std::ptr::null_mut(),
            }
        }
        match give(py, this, permits.cast_unsigned()) {
            Ok(()) => none(),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn exit(
    this: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Semaphore`, attached.
    unsafe {
        match give(Python::assume_attached(), this, 1) {
            Ok(()) => none(),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn aacquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Semaphore`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match Patience::parse(py, "aacquire", arguments, count, keywords) {
            Ok(patience) => awaitable(py, this, Acquire(&AACQUIRE), patience),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn aenter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Semaphore`, attached.
    unsafe {
        let py = Python::assume_attached();
        awaitable(py, this, Acquire(&AACQUIRE), Patience::Forever)
    }
}

unsafe extern "C-unwind" fn aexit(
    this: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Semaphore`, attached.
    unsafe {
        let py = Python::assume_attached();
        match give(py, this, 1) {
            Ok(()) => super::nothing_to_await(py),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}
