//! `_Condition`, of which Python's `Condition` is made.
//!
//! A wait is two: for the notify, and then for the lock, which is taken again whatever ended the first. An interrupt of
//! the second one is kept until it has the lock; the notify that came before is passed on, for this waiter will not act on
//! it. Of several interrupts the one that leads furthest out is raised.
//!
//! But what a signal handler raises in the main thread, as Ctrl-C does, is kept for a moment only ([`BRIEF`]): whoever has
//! the lock may have it for good. Then it is raised without the lock, and the end of the `with` block, where an exception
//! is on its way, lets go of nothing.

use std::{
    ffi::CStr,
    ptr,
    time::{Duration, Instant},
};

use penstock_core::{
    lock::{Condition, Owner},
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyRuntimeError, PyTimeoutError, PyTypeError},
    ffi,
    prelude::*,
};

use super::{
    Begun, Call, LockObject, Names, awaitable, int_within,
    mutex::{self, Acquire},
    none, or_null, owner, true_if_handed,
};
use crate::{
    boundary::{is_main_thread, running_task},
    convert::{Passed, Patience},
    error::{Raised, classes, raise},
    hot::Definition,
    interrupt::outranks,
    mode::{Mode, mode},
    object::{self, Object},
    pending::Next,
};

/// How long a main thread that a signal interrupted waits for the lock. It saw the signal within 50 ms, and raises within
/// 100.
const BRIEF: Duration = Duration::from_millis(25);

/// What Python's `Condition` is made of.
///
/// No cycle passes through it: its lock refers to nothing.
#[pyclass(
    frozen,
    subclass,
    weakref,
    module = "penstock._core",
    name = "_Condition"
)]
pub struct ConditionObject {
    core: Condition<Mode>,
    /// A `Lock`.
    lock: Object,
}

#[expect(
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "the signatures are PyO3's"
)]
#[pymethods]
impl ConditionObject {
    #[new]
    #[pyo3(signature = (lock=None))]
    fn new(py: Python<'_>, lock: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let lock = match lock {
            None => Bound::new(py, LockObject::new_unlocked())?.into_any(),
            Some(lock) if lock.is_instance_of::<LockObject>() => lock.clone(),
            Some(other) => {
                return Err(PyTypeError::new_err(format!(
                    "lock must be None or a penstock.Lock, not {}",
                    other.repr()?
                )));
            }
        };
        Ok(Self {
            core: Condition::new(mode()),
            // SAFETY: a strong reference, given away.
            lock: unsafe { Object::steal(lock.into_ptr()) },
        })
    }

    /// Let the ``n`` who have waited longest go on; each takes the lock again first. Never waits.
    ///
    /// A caller that does not have the lock is a ``RuntimeError``, a negative ``n`` a ``ValueError``.
    #[pyo3(signature = (n=Passed::No), text_signature = "($self, n=1)")]
    fn notify(&self, py: Python<'_>, n: Passed<'_>) -> PyResult<()> {
        let n = match n {
            Passed::No => 1,
            Passed::As(n) => int_within(&n, "n", 0, i64::MAX, "an int >= 0")
                .map_err(|Raised| PyErr::fetch(py))?,
        };
        self.owner(py, "notify")
            .map_err(|Raised| PyErr::fetch(py))?;
        self.core.notify(usize::try_from(n).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Let everybody go on who waits; each takes the lock again first. Never waits.
    ///
    /// A caller that does not have the lock is a ``RuntimeError``.
    fn notify_all(&self, py: Python<'_>) -> PyResult<()> {
        self.owner(py, "notify_all")
            .map_err(|Raised| PyErr::fetch(py))?;
        self.core.notify(usize::MAX);
        Ok(())
    }

    /// The number of the caller, who has to have the lock.
    fn _owner(&self, py: Python<'_>) -> PyResult<u64> {
        let owner = self.owner(py, "wait").map_err(|Raised| PyErr::fetch(py))?;
        Ok(owner.number())
    }

    /// Whether the lock is that owner's.
    fn _is_held_by(&self, owner: u64) -> bool {
        self.lock().core().owner().map(Owner::number) == Some(owner)
    }

    /// Notifies another in the place of one that does not act on it.
    fn _pass_on(&self) {
        self.core.notify(1);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        format!(
            "<penstock.Condition at {:p}: {}{}>",
            slf.as_ptr(),
            this.lock().shown_state(slf.py()),
            super::shown_waiters(this.core.waiters())
        )
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(super::not_pickled("Condition"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.lock.as_py())
    }
}

pub static METHODS: [Definition; 10] = [
    Definition::fast(c"acquire", acquire, ACQUIRE_DOC),
    Definition::no_args(c"release", release, c"release($self, /)\n--\n\nLet go of the lock, as `Lock.release` does."),
    Definition::no_args(c"__enter__", enter, c"__enter__($self, /)\n--\n\nAcquire the lock."),
    Definition::fast(c"__exit__", exit, c"__exit__($self, /, *args)\n--\n\nRelease the lock."),
    Definition::fast(c"aacquire", aacquire, c"aacquire($self, /, timeout=None)\n--\n\nThe awaitable form of `acquire`, for ``async def`` tasks and event loops.\n"),
    Definition::no_args(c"__aenter__", aenter, c"__aenter__($self, /)\n--\n\nThe awaitable form of `__enter__`."),
    Definition::fast(c"__aexit__", aexit, c"__aexit__($self, /, *args)\n--\n\nRelease the lock."),
    Definition::fast(c"wait", wait, WAIT_DOC),
    Definition::fast(c"_notified", notified, c"_notified($self, /, timeout=None)\n--\n\nAwaits a notify, without the lock: the first half of `await_`."),
    Definition::one_arg(c"_reacquire", reacquire, c"_reacquire($self, owner, /)\n--\n\nAwaits the lock for that owner: the second half."),
];

const ACQUIRE_DOC: &CStr = c"acquire($self, /, blocking=True, timeout=None)\n--\n\n\
Take the lock, as `Lock.acquire` does.\n";

const WAIT_DOC: &CStr = c"wait($self, /, timeout=None)\n--\n\n\
Let go of the lock, wait to be notified, and take the lock again; returns True.\n\n\
Who waited longest is notified first. Whatever ends the wait, it has the lock again when it returns or raises; and a\n\
notify that came just as it was cancelled goes to another. Parks a task, blocks a thread. Ctrl-C in the main thread is\n\
raised within 100 ms: without the lock, where that is not free by then. The end of a ``with`` block takes that well.\n\n\
Raises:\n    RuntimeError: the caller does not have the lock.\n    \
TimeoutError: ``timeout`` seconds passed before a notify. With 0, too, others get the lock in between.\n    \
Cancelled: the task was cancelled while it waited.\n    ValueError: ``timeout`` is negative.\n    \
Deadlock: nobody can notify it any more, or let go of the lock; then it does not have the lock.\n";

static ACQUIRE: Names = Names {
    call: "Condition.acquire()",
    awaitable: "await condition.aacquire()",
    timed_out: "the lock stayed locked",
};
static AACQUIRE: Names = Names {
    call: "Condition.aacquire()",
    awaitable: "await condition.aacquire()",
    timed_out: "the lock stayed locked",
};
static WAIT: Names = Names {
    call: "Condition.wait()",
    awaitable: "await condition.await_()",
    timed_out: "the condition was not notified in time",
};
static AWAIT: Names = Names {
    call: "Condition.await_()",
    awaitable: "await condition.await_()",
    timed_out: "the condition was not notified in time",
};

/// # Safety
/// `condition` is a `_Condition`, alive as long as the result is used.
unsafe fn object<'a>(condition: *mut ffi::PyObject) -> &'a ConditionObject {
    // SAFETY: by the caller's promise.
    unsafe { object::get(condition) }
}

impl ConditionObject {
    fn lock(&self) -> &LockObject {
        // SAFETY: a lock, alive as long as this.
        unsafe { object::get(self.lock.as_ptr()) }
    }

    /// Who has the lock, which is the caller.
    fn owner(&self, py: Python<'_>, what: &str) -> Result<Owner, Raised> {
        let Some(owner) = self.lock().core().owner() else {
            let message = format!("{what} of a condition whose lock is not locked");
            return Err(raise(py, PyRuntimeError::new_err(message)));
        };
        if owner::is_here(py, owner)? {
            Ok(owner)
        } else {
            let what = format!("{what} of a condition, and so");
            Err(mutex::not_owner(py, owner::here(), owner, &what))
        }
    }
}

/// No time at all is a wait that is over at once: it lets others have the lock all the same.
fn at_least_a_turn(patience: Patience) -> Patience {
    match patience {
        Patience::None => Patience::Until(Instant::now()),
        patience => patience,
    }
}

/// Lets go of the lock and waits to be notified.
struct Notified(&'static Names);

impl Call for Notified {
    type Slot = ();

    fn names(&self) -> &'static Names {
        self.0
    }

    fn try_now(
        &mut self,
        _: Python<'_>,
        _: *mut ffi::PyObject,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        Ok(None) // it always waits
    }

    fn begin(
        &mut self,
        py: Python<'_>,
        condition: *mut ffi::PyObject,
        waiter: &WaiterRef,
    ) -> Result<Begun<()>, Raised> {
        // SAFETY: a condition, alive.
        let condition = unsafe { object(condition) };
        let owner = condition.owner(py, "wait")?;
        let entry = condition.core.begin_wait(waiter);
        let released = condition.lock().core().release(owner);
        debug_assert_eq!(released, Ok(()), "it is the caller's");
        Ok(Begun::Waiting(entry))
    }

    fn finish(
        &mut self,
        _: Python<'_>,
        condition: *mut ffi::PyObject,
        entry: &Entry<()>,
    ) -> Result<Next, Raised> {
        // SAFETY: a condition, alive; the entry is from it, and its wait is over.
        Ok(true_if_handed(unsafe {
            object(condition).core.finish_wait(entry)
        }))
    }

    fn abandon(&mut self, condition: *mut ffi::PyObject, entry: &Entry<()>) {
        // SAFETY: as above.
        let condition = unsafe { object(condition) };
        // SAFETY: as above.
        if unsafe { condition.core.finish_wait(entry) } == Outcome::Handed {
            condition.core.notify(1);
        }
    }
}

/// `Condition.wait(timeout=None)`.
unsafe extern "C-unwind" fn wait(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Condition`, attached, with the arguments of a vectorcall. What is alive across the
    // waits are pointers.
    unsafe {
        let py = Python::assume_attached();
        let condition = object(this);
        let parsed = Patience::parse(py, "wait", arguments, count, keywords)
            .and_then(|patience| Ok((patience, condition.owner(py, "wait")?)));
        let Ok((patience, owner)) = parsed else {
            return ptr::null_mut();
        };
        let notified = super::wait(py, this, Notified(&WAIT), at_least_a_turn(patience));
        let held = take_again(py, condition, owner, notified);
        if held.is_err()
            && let Ok(result) = notified
        {
            ffi::Py_DECREF(result);
        }
        or_null(held.and(notified))
    }
}

/// Takes the lock again after a wait that ended as `notified` says, with that exception set. `Err`: with another one.
///
/// # Safety
/// In a raw entry of the condition, with nothing that has a destructor alive.
unsafe fn take_again(
    py: Python<'_>,
    condition: &ConditionObject,
    owner: Owner,
    notified: Result<*mut ffi::PyObject, Raised>,
) -> Result<(), Raised> {
    let lock = condition.lock().core();
    // Null, or the exception to raise in the end, a strong reference. Not a `PyErr`: it lives across waits.
    let mut kept: *mut ffi::PyObject = match notified {
        Ok(_) => ptr::null_mut(),
        Err(Raised) => PyErr::fetch(py).into_value(py).into_ptr(),
    };
    let mut result = if notified.is_ok() {
        Ok(())
    } else {
        Err(Raised)
    };
    while lock.owner() != Some(owner) {
        if lock.try_acquire(owner) {
            break;
        }
        let acquire = Acquire::of(owner, &WAIT);
        let hurries = is_of_signal(py, kept);
        let patience = if hurries {
            Patience::Until(Instant::now() + BRIEF)
        } else {
            Patience::Forever
        };
        // SAFETY: the caller's promise; the lock is alive as long as the condition.
        let acquired = unsafe { super::wait(py, condition.lock.as_ptr(), acquire, patience) };
        if let Ok(value) = acquired {
            // SAFETY: a reference to `True`.
            unsafe { ffi::Py_DECREF(value) };
            break;
        }
        let error = PyErr::fetch(py);
        // The wait could not be made, or is a deadlock: there is no lock to come.
        let hopeless = error.is_instance_of::<PyRuntimeError>(py);
        if hurries && error.is_instance_of::<PyTimeoutError>(py) {
            break;
        }
        result = Err(Raised);
        keep(py, error, &mut kept);
        if hopeless {
            break;
        }
    }
    if result.is_err() {
        if notified.is_ok() {
            condition.core.notify(1); // this waiter does not act on it
        }
        // SAFETY: an exception, whose reference is given away.
        unsafe {
            let error = Bound::from_owned_ptr(py, kept);
            PyErr::from_value(error).restore(py);
        }
    }
    result
}

/// Whether the exception, if it is one, is that of a signal handler, which only the main thread runs.
fn is_of_signal(py: Python<'_>, kept: *mut ffi::PyObject) -> bool {
    if kept.is_null() || running_task().is_some() || !is_main_thread() {
        return false;
    }
    // SAFETY: an exception, alive.
    let kept = unsafe { Bound::ref_from_ptr(py, &kept) };
    let is_ours = kept.is_instance_of::<PyTimeoutError>()
        || kept
            .is_instance(classes(py).cancelled.bind(py))
            .unwrap_or(true);
    !is_ours
}

/// Keeps the one of the two exceptions that leads further out.
fn keep(py: Python<'_>, error: PyErr, kept: &mut *mut ffi::PyObject) {
    let error = error.into_value(py).into_bound(py).into_any();
    if !kept.is_null() {
        // SAFETY: an exception, and this its only reference of ours.
        let before = unsafe { Bound::from_owned_ptr(py, *kept) };
        let outranks =
            error.is_instance_of::<PyRuntimeError>() || outranks(&error, &before).unwrap_or(true);
        if !outranks {
            *kept = before.into_ptr();
            return;
        }
    }
    *kept = error.into_ptr();
}

/// # Safety
/// `this` is a `_Condition`, alive as long as the result is used.
unsafe fn lock_of(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: by the caller's promise.
    unsafe { object(this) }.lock.as_ptr()
}

unsafe extern "C-unwind" fn acquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Condition`, attached, with the arguments of a vectorcall. It keeps its lock alive.
    unsafe { mutex::acquire_with(lock_of(this), &ACQUIRE, arguments, count, keywords) }
}

unsafe extern "C-unwind" fn enter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe { mutex::acquire_with(lock_of(this), &ACQUIRE, ptr::null(), 0, ptr::null_mut()) }
}

unsafe extern "C-unwind" fn release(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Condition`, attached.
    unsafe {
        match mutex::let_go(Python::assume_attached(), object(this).lock().core()) {
            Ok(()) => none(),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn exit(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Condition`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match mutex::leave(py, object(this).lock().core(), arguments, count) {
            Ok(()) => none(),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn aacquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Condition`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match Patience::parse(py, "aacquire", arguments, count, keywords) {
            Ok(patience) => awaitable(py, lock_of(this), Acquire::awaited(&AACQUIRE), patience),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn aenter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Condition`, attached.
    unsafe {
        let py = Python::assume_attached();
        awaitable(
            py,
            lock_of(this),
            Acquire::awaited(&AACQUIRE),
            Patience::Forever,
        )
    }
}

unsafe extern "C-unwind" fn aexit(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Condition`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match mutex::leave(py, object(this).lock().core(), arguments, count) {
            Ok(()) => super::nothing_to_await(py),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn notified(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by our Python code on a `_Condition`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match Patience::parse(py, "await_", arguments, count, keywords) {
            Ok(patience) => awaitable(py, this, Notified(&AWAIT), at_least_a_turn(patience)),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn reacquire(
    this: *mut ffi::PyObject,
    owner: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by our Python code on a `_Condition`, attached, with what `_owner` gave.
    unsafe {
        let py = Python::assume_attached();
        let owner = ffi::PyLong_AsUnsignedLongLong(owner);
        awaitable(
            py,
            lock_of(this),
            Acquire::of(Owner::new(owner), &AWAIT),
            Patience::Forever,
        )
    }
}
