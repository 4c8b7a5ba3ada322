//! `Lock`.

use std::ffi::CStr;

use penstock_core::{
    lock::{Lock, NotOwner, Owner},
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{exceptions::PyRuntimeError, ffi, prelude::*};

use super::{Begun, Call, Names, awaitable, bool_of, none, or_null, owner, true_, true_if_handed};
use crate::{
    convert::{Patience, parse},
    error::{Raised, raise},
    hot::Definition,
    mode::{Mode, mode},
    object,
    pending::Next,
};

/// Mutual exclusion between tasks, threads and ``async def`` tasks.
///
/// It belongs to the task that took it, or to the thread outside of one; in an event loop, to the loop's task that took it
/// by ``async with`` or `aacquire()`. Nobody else can release it, and who has it and takes it again waits for
/// ever. It is fair: whoever has waited longest gets it next, by hand, so nobody overtakes. A task that ends without
/// releasing it leaves it locked.
///
/// >>> from penstock import Lock, go
/// >>> lock = Lock()
/// >>> total = 0
/// >>> def add(number: int) -> None:
/// ...     global total
/// ...     with lock:
/// ...         total += number
/// >>> tasks = [go(add, number) for number in range(10)]
/// >>> [task.result() for task in tasks].count(None), total
/// (10, 45)
#[pyclass(frozen, weakref, module = "penstock", name = "Lock")]
pub struct LockObject {
    core: Lock<Mode>,
}

impl LockObject {
    pub fn core(&self) -> &Lock<Mode> {
        &self.core
    }

    /// `unlocked`, or who has it.
    pub fn shown_state(&self, py: Python<'_>) -> String {
        match self.core.owner() {
            None => "unlocked".to_owned(),
            Some(owner) => format!("locked by {}", owner::name(py, owner)),
        }
    }

    pub fn new_unlocked() -> Self {
        Self {
            core: Lock::new(mode()),
        }
    }
}

#[expect(clippy::unused_self, reason = "the signatures are PyO3's")]
#[pymethods]
impl LockObject {
    #[new]
    fn new() -> Self {
        Self::new_unlocked()
    }

    /// Whether somebody has it.
    fn locked(&self) -> bool {
        self.core.owner().is_some()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        format!(
            "<penstock.Lock at {:p}: {}{}>",
            slf.as_ptr(),
            this.shown_state(slf.py()),
            super::shown_waiters(this.core.waiters())
        )
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(super::not_pickled("Lock"))
    }
}

pub static METHODS: [Definition; 7] = [
    Definition::fast(c"acquire", acquire, ACQUIRE_DOC),
    Definition::no_args(c"release", release, RELEASE_DOC),
    Definition::no_args(
        c"__enter__",
        enter,
        c"__enter__($self, /)\n--\n\nAcquire the lock.",
    ),
    Definition::fast(
        c"__exit__",
        exit,
        c"__exit__($self, /, *args)\n--\n\nRelease the lock.",
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
        c"__aexit__($self, /, *args)\n--\n\nRelease the lock.",
    ),
];

const ACQUIRE_DOC: &CStr = c"acquire($self, /, blocking=True, timeout=None)\n--\n\n\
Take the lock, waiting while another has it; returns True.\n\n\
With ``blocking=False`` it never waits, and returns False where it would have to. Cancelled or timed out, it has not\n\
taken the lock. Parks a task, blocks a thread.\n\n\
Raises:\n    TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    \
ValueError: ``timeout`` is negative, or given with ``blocking=False``.\n\n\
>>> from penstock import Lock\n>>> lock = Lock()\n>>> lock.acquire()\nTrue\n>>> lock.acquire(blocking=False)\nFalse\n\
>>> lock.acquire(timeout=0.01)\nTraceback (most recent call last):\n    ...\nTimeoutError: the lock stayed locked\n";

const RELEASE_DOC: &CStr = c"release($self, /)\n--\n\n\
Let go of the lock; it goes to whoever has waited longest. Never waits.\n\n\
Raises:\n    RuntimeError: the lock is not locked, or another has it.\n";

const AACQUIRE_DOC: &CStr = c"aacquire($self, /, timeout=None)\n--\n\n\
The awaitable form of `acquire`, for ``async def`` tasks and event loops.\n\n\
>>> from penstock import Lock, go\n>>> lock = Lock()\n>>> async def locked() -> bool:\n\
...     async with lock:\n...         return lock.locked()\n>>> go(locked).result()\nTrue\n";

/// Takes a lock for who calls or awaits.
pub struct Acquire {
    names: &'static Names,
    /// Known once it begins.
    me: Option<Owner>,
    awaits: bool,
}

static ACQUIRE: Names = Names {
    call: "Lock.acquire()",
    awaitable: "await lock.aacquire()",
    timed_out: "the lock stayed locked",
};
static AACQUIRE: Names = Names {
    call: "Lock.aacquire()",
    awaitable: "await lock.aacquire()",
    timed_out: "the lock stayed locked",
};

impl Acquire {
    pub fn plain(names: &'static Names) -> Self {
        Self {
            names,
            me: None,
            awaits: false,
        }
    }

    pub fn of(owner: Owner, names: &'static Names) -> Self {
        Self {
            names,
            me: Some(owner),
            awaits: false,
        }
    }

    pub fn awaited(names: &'static Names) -> Self {
        Self {
            names,
            me: None,
            awaits: true,
        }
    }

    fn me(&mut self, py: Python<'_>) -> Result<Owner, Raised> {
        if let Some(me) = self.me {
            return Ok(me);
        }
        let me = if self.awaits {
            owner::awaiting(py)?
        } else {
            owner::here()
        };
        self.me = Some(me);
        Ok(me)
    }
}

/// # Safety
/// `lock` is a `Lock`, alive as long as the result is used.
unsafe fn core<'a>(lock: *mut ffi::PyObject) -> &'a Lock<Mode> {
    // SAFETY: by the caller's promise.
    unsafe { object::get::<LockObject>(lock) }.core()
}

impl Call for Acquire {
    type Slot = Owner;

    fn names(&self) -> &'static Names {
        self.names
    }

    fn try_now(
        &mut self,
        py: Python<'_>,
        lock: *mut ffi::PyObject,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        let me = self.me(py)?;
        // SAFETY: a lock, alive.
        Ok(unsafe { core(lock) }.try_acquire(me).then(true_))
    }

    fn begin(
        &mut self,
        py: Python<'_>,
        lock: *mut ffi::PyObject,
        waiter: &WaiterRef,
    ) -> Result<Begun<Owner>, Raised> {
        let me = self.me(py)?;
        // SAFETY: a lock, alive.
        Ok(Begun::of(unsafe { core(lock) }.begin_acquire(me, waiter)))
    }

    fn finish(
        &mut self,
        _: Python<'_>,
        lock: *mut ffi::PyObject,
        entry: &Entry<Owner>,
    ) -> Result<Next, Raised> {
        // SAFETY: a lock, alive; the entry is from it, and its wait is over.
        Ok(true_if_handed(unsafe { core(lock).finish_acquire(entry) }))
    }

    fn abandon(&mut self, lock: *mut ffi::PyObject, entry: &Entry<Owner>) {
        // SAFETY: as above.
        let lock = unsafe { core(lock) };
        // SAFETY: as above.
        let outcome = unsafe { lock.finish_acquire(entry) };
        if let (Outcome::Handed, Some(me)) = (outcome, self.me) {
            // It was this one's, who is not there to use it.
            let released = lock.release(me);
            debug_assert_eq!(released, Ok(()));
        }
    }
}

/// Lets go of a lock that who calls has.
#[inline]
pub fn let_go(py: Python<'_>, lock: &Lock<Mode>) -> Result<(), Raised> {
    let me = owner::here();
    match lock.release(me) {
        Ok(()) => Ok(()),
        Err(NotOwner(theirs)) => let_go_slowly(py, lock, me, theirs),
    }
}

/// Ends a `with` block, with the arguments of an `__exit__`. The lock may not be the caller's any more where an exception
/// is on its way (an interrupted `Condition.wait` raises without it): then that exception counts, and not ours.
///
/// # Safety
/// Attached, with the arguments of a vectorcall.
#[inline]
pub unsafe fn leave(
    py: Python<'_>,
    lock: &Lock<Mode>,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> Result<(), Raised> {
    let left = let_go(py, lock);
    // SAFETY: the caller's promise; the constant may be compared with.
    if left.is_err() && count > 0 && unsafe { *arguments != ffi::Py_None() } {
        // SAFETY: attached.
        unsafe { ffi::PyErr_Clear() };
        return Ok(());
    }
    left
}

#[cold]
fn let_go_slowly(
    py: Python<'_>,
    lock: &Lock<Mode>,
    me: Owner,
    theirs: Option<Owner>,
) -> Result<(), Raised> {
    if let Some(theirs) = theirs
        && owner::is_here(py, theirs)?
    {
        // It is this caller's, so nobody else lets go of it.
        return lock.release(theirs).map_err(|_| not_locked(py));
    }
    Err(match theirs {
        None => not_locked(py),
        Some(theirs) => not_owner(py, me, theirs, "release"),
    })
}

fn not_locked(py: Python<'_>) -> Raised {
    raise(
        py,
        PyRuntimeError::new_err("release of a lock that is not locked"),
    )
}

/// Raises that `me` wants to do what only `theirs` may.
pub fn not_owner(py: Python<'_>, me: Owner, theirs: Owner, what: &str) -> Raised {
    // Where an event loop runs, it is its task that does.
    let me = owner::awaiting(py).unwrap_or(me);
    let message = format!(
        "{what} of a lock by {}: {} has it, and only who has it may",
        owner::name(py, me),
        owner::name(py, theirs)
    );
    raise(py, PyRuntimeError::new_err(message))
}

/// `acquire` of a lock that is known.
///
/// # Safety
/// In a raw entry, attached, with the arguments of a vectorcall; `lock` is a `Lock`, alive during the call.
#[inline]
pub unsafe fn acquire_with(
    lock: *mut ffi::PyObject,
    names: &'static Names,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe {
        let py = Python::assume_attached();
        let me = owner::here();
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
                Ok(None) => return bool_of(core(lock).try_acquire(me)),
                Err(Raised) => return std::ptr::null_mut(),
            }
        }
        if core(lock).try_acquire(me) {
            return true_();
        }
        or_null(super::wait(py, lock, Acquire::plain(names), patience))
    }
}

unsafe extern "C-unwind" fn acquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Lock`, attached, with the arguments of a vectorcall.
    unsafe { acquire_with(this, &ACQUIRE, arguments, count, keywords) }
}

unsafe extern "C-unwind" fn enter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Lock`, attached.
    unsafe {
        if core(this).try_acquire(owner::here()) {
            return true_();
        }
        let py = Python::assume_attached();
        or_null(super::wait(
            py,
            this,
            Acquire::plain(&ACQUIRE),
            Patience::Forever,
        ))
    }
}

unsafe extern "C-unwind" fn release(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Lock`, attached.
    unsafe {
        match let_go(Python::assume_attached(), core(this)) {
            Ok(()) => none(),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn exit(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Lock`, attached, with the arguments of a vectorcall.
    unsafe {
        match leave(Python::assume_attached(), core(this), arguments, count) {
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
    // SAFETY: called by CPython on a `Lock`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match Patience::parse(py, "aacquire", arguments, count, keywords) {
            Ok(patience) => awaitable(py, this, Acquire::awaited(&AACQUIRE), patience),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn aenter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Lock`, attached.
    unsafe {
        let py = Python::assume_attached();
        awaitable(py, this, Acquire::awaited(&AACQUIRE), Patience::Forever)
    }
}

unsafe extern "C-unwind" fn aexit(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Lock`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match leave(py, core(this), arguments, count) {
            Ok(()) => super::nothing_to_await(py),
            Err(Raised) => std::ptr::null_mut(),
        }
    }
}
