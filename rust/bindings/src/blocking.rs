//! Calls that block outside our knowledge, each on a thread of a pool while it lasts.
//!
//! A call is a [`TaskObject`] that no scheduler sees: it has the callable, the copy of the context and the result, and
//! whoever made it joins it like any task, with all that a wait is subject to. A caller that goes on before the end
//! abandons the call: one that no thread has taken yet is never made, the result of any other is dropped.
//!
//! The threads are Python's, daemons, at most [`THREADS_MAX`]. The one that rested last is taken first, so those that a
//! burst needed come to rest for [`IDLE_TIME`] and end.
//!
//! Invariant: for each queued call a thread was woken or started that has not looked at the queue since, or there are as
//! many threads as there may be and all are at a call; and a thread looks at the queue before it rests. So no call waits
//! beside an idle thread.
//!
//! A call that calls again needs a second thread for as long as the first waits. Where no more are to be had, and no
//! deadline would ever end that wait, it is made on the thread of the first: 512 calls that each queued another one would
//! wait for themselves. What waits by way of a task in between cannot be told from a call that waits for its peer.
//!
//! A thread may be started or not when an exception comes out of starting it (Ctrl-C). So it has a number, which either
//! itself takes out of `starting`, when it is in, or its starter, who then no longer counts on it.
//!
//! The pool is leaked: at exit its threads are in it, and a forked child makes another.

use std::{
    cell::Cell,
    collections::VecDeque,
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicPtr, Ordering},
    },
    time::{Duration, Instant},
};

use penstock_core::park::Parker;
use pyo3::{
    exceptions::{PyRuntimeError, PyTypeError},
    ffi,
    prelude::*,
    sync::PyOnceLock,
};

use crate::{
    boundary::Caller,
    context::Base,
    convert::Patience,
    error::{Raised, raise},
    hot::Definition,
    object, operation, runtime,
    task::{Kind, TaskObject, new_unsubmitted, rest, wait_done},
    unwind,
};

const THREADS_MAX: usize = 512;
/// How long a thread without a call stays.
const IDLE_TIME: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Pool(Mutex<State>);

// SAFETY: the calls are references that attached threads alone touch; a parker is on the heap, and there while it is
// listed.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

#[derive(Default)]
struct State {
    /// Strong references to calls that no thread has taken.
    calls: VecDeque<*mut ffi::PyObject>,
    /// The parkers of threads without a call, the one that came last at the end. Unparked under the lock, so that none
    /// is when its thread is gone.
    idle: Vec<*const Parker>,
    /// How many threads there are, those that are being started included.
    threads: usize,
    /// The numbers of threads that are being started.
    starting: Vec<u64>,
    last_number: u64,
}

/// What becomes of a call.
enum Queued {
    /// A thread comes to it.
    Waits,
    /// The thread with this number is to be started.
    Start(u64),
    /// No thread would ever come to it: there is none, or the caller has one and all others are at calls, too. It was not
    /// queued.
    NoThread,
}

thread_local! {
    /// This is a thread of the pool.
    static IN_POOL: Cell<bool> = const { Cell::new(false) };
}

/// The process's pool, or null.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());

/// Whether no call is being made or waits for a thread.
pub fn rests() -> bool {
    // Ordering: Acquire pairs with the Release in `Pool::get`.
    // SAFETY: null or never freed.
    let pool = unsafe { POOL.load(Ordering::Acquire).as_ref() };
    pool.is_none_or(|pool| {
        let state = pool.lock();
        state.calls.is_empty() && state.idle.len() == state.threads
    })
}

/// In a forked child: the pool was its parent's.
pub fn forget_pool() {
    POOL.store(ptr::null_mut(), Ordering::Relaxed); // Ordering: Relaxed, the process has a single thread.
    IN_POOL.set(false);
}

impl Pool {
    fn get() -> &'static Self {
        // Ordering: Acquire pairs with the Release below.
        let known = POOL.load(Ordering::Acquire);
        let pool = if known.is_null() {
            let new = Box::into_raw(Box::<Pool>::default());
            // Ordering: AcqRel, publishes the new pool, or sees another's.
            match POOL.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => new,
                Err(theirs) => {
                    // SAFETY: ours, and nobody has seen it.
                    drop(unsafe { Box::from_raw(new) });
                    theirs
                }
            }
        } else {
            known
        };
        // SAFETY: leaked.
        unsafe { &*pool }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a call, whose reference is the pool's from then on. `nested`: the caller has a thread of the pool, and waits
    /// for the call with it, however long.
    fn queue(&self, call: *mut ffi::PyObject, nested: bool) -> Queued {
        let mut state = self.lock();
        if let Some(parker) = state.idle.pop() {
            state.calls.push_back(call);
            // SAFETY: its thread was idle until now, and needs the lock to go on.
            unsafe { (*parker).unpark() };
            return Queued::Waits;
        }
        if state.threads == THREADS_MAX || !runtime::count_thread() {
            if nested || state.threads == 0 {
                return Queued::NoThread;
            }
            state.calls.push_back(call);
            return Queued::Waits;
        }
        state.calls.push_back(call);
        state.threads += 1;
        state.last_number += 1;
        let number = state.last_number;
        state.starting.push(number);
        Queued::Start(number)
    }

    /// A thread that was counted is not there after all. Gives the calls that no thread comes to any more.
    fn lose_thread(mut state: MutexGuard<'_, State>) -> VecDeque<*mut ffi::PyObject> {
        state.threads -= 1;
        runtime::thread_ended();
        if state.threads == 0 {
            std::mem::take(&mut state.calls)
        } else {
            VecDeque::new()
        }
    }

    /// The thread with that number does not come. Whether others do, as where there are as many as there may be; if not it is
    /// still counted.
    fn leave_to_others(&self, number: u64) -> bool {
        let mut state = self.lock();
        let at = state.starting.iter().position(|one| *one == number);
        if at.is_some() && state.threads == 1 {
            return false;
        }
        if let Some(at) = at {
            state.starting.swap_remove(at);
            state.threads -= 1;
            runtime::thread_ended();
        }
        true
    }

    /// Takes a call back that no thread has taken. Its reference is the caller's again.
    fn take_back(&self, call: *mut ffi::PyObject) -> bool {
        let calls = &mut self.lock().calls;
        let at = calls.iter().position(|queued| *queued == call);
        at.is_some_and(|at| calls.remove(at).is_some())
    }

    /// The thread with that number is in (its own call), or not counted on any more (its starter's).
    fn take_number(&self, number: u64) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let at = state.starting.iter().position(|one| *one == number)?;
        state.starting.swap_remove(at);
        Some(state)
    }

    /// The next call for this thread, once there is one. `None`: the thread is to end.
    ///
    /// # Safety
    /// Attached, on a thread of the pool, with nothing alive that has a destructor; `parker` is the thread's own.
    unsafe fn next(&self, parker: *const Parker) -> Option<*mut ffi::PyObject> {
        loop {
            if !runtime::is_over() {
                let mut state = self.lock();
                if let Some(call) = state.calls.pop_front() {
                    return Some(call);
                }
                state.idle.push(parker);
            }
            rest();
            let until = Instant::now() + IDLE_TIME;
            // SAFETY: attached; a forced unwind out of the re-attachment meets no destructor.
            unsafe {
                let thread = ffi::PyEval_SaveThread();
                (*parker).park(Some(until));
                unwind::PyEval_RestoreThread(thread);
            }
            let mut state = self.lock();
            if let Some(at) = state.idle.iter().position(|one| *one == parker) {
                state.idle.remove(at); // nobody has woken it
                if until <= Instant::now() && state.calls.is_empty() {
                    state.threads -= 1;
                    runtime::thread_ended();
                    return None;
                }
            }
        }
    }
}

/// Hands a call to the pool. `Err`: it was not made.
///
/// # Safety
/// Attached, with nothing alive that has a destructor; `call` is of [`new_call`], and handed over once.
pub unsafe fn submit(py: Python<'_>, call: *mut ffi::PyObject) -> Result<(), Raised> {
    // SAFETY: alive; the reference becomes the pool's.
    unsafe {
        match Pool::get().queue(ffi::Py_NewRef(call), false) {
            Queued::Waits => Ok(()),
            Queued::Start(number) => start_for(py, call, number),
            Queued::NoThread => {
                ffi::Py_DECREF(call);
                Err(raise(py, no_thread()))
            }
        }
    }
}

fn no_thread() -> PyErr {
    PyRuntimeError::new_err("there is no thread for the call: PENSTOCK_MAX_THREADS allows no more")
}

/// Starts the thread with that number, for a call that is queued. `Err`: it was not made.
///
/// # Safety
/// As for [`submit`].
unsafe fn start_for(py: Python<'_>, call: *mut ffi::PyObject, number: u64) -> Result<(), Raised> {
    // SAFETY: attached; nothing with a destructor is alive while Python code runs.
    if unsafe { start_thread(py, number) } {
        return Ok(());
    }
    let pool = Pool::get();
    // SAFETY: attached, with an exception set.
    let is_refused = unsafe { ffi::PyErr_ExceptionMatches(ffi::PyExc_Exception) } != 0;
    if is_refused && !runtime::is_over() && pool.leave_to_others(number) {
        // SAFETY: attached.
        unsafe { ffi::PyErr_Clear() };
        return Ok(());
    }
    let taken_back = pool.take_back(call);
    if let Some(state) = pool.take_number(number) {
        // Others may have queued calls because this thread was about to come.
        let stranded = Pool::lose_thread(state);
        if !stranded.is_empty() {
            let raised = PyErr::fetch(py).into_value(py).into_ptr();
            // SAFETY: attached; nobody else has taken those calls, and the exception is ours.
            unsafe {
                for call in stranded {
                    TaskObject::fail_blocking(call, no_thread());
                }
                ffi::PyErr_SetObject(ffi::Py_TYPE(raised).cast(), raised);
                ffi::Py_DECREF(raised);
            }
        }
    }
    if taken_back {
        // SAFETY: ours again.
        unsafe { ffi::Py_DECREF(call) };
        return Err(Raised);
    }
    // Another thread is at the call. Then no thread is missed; but a signal handler's exception has to come through.
    // SAFETY: attached.
    unsafe {
        if !is_refused {
            abandon(call);
            return Err(Raised);
        }
        ffi::PyErr_Clear();
    }
    Ok(())
}

/// # Safety
/// As for [`submit`].
unsafe fn start_thread(py: Python<'_>, number: u64) -> bool {
    static START: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let start = START.get_or_try_init(py, || {
        let module = py.import("penstock._threads")?;
        PyResult::Ok(module.getattr("start_blocking")?.unbind())
    });
    let start = match start {
        Ok(start) => start.as_ptr(),
        Err(error) => {
            raise(py, error);
            return false;
        }
    };
    // SAFETY: attached; the argument is alive during the call.
    unsafe {
        let result = unwind::call(start, [ffi::PyLong_FromUnsignedLongLong(number)]);
        ffi::Py_XDECREF(result);
        !result.is_null()
    }
}

/// Nobody waits for the call any more: it is not made, or what it gives is dropped.
///
/// # Safety
/// Attached; `call` is of [`new_call`].
pub unsafe fn abandon(call: *mut ffi::PyObject) {
    // SAFETY: alive, by the caller's promise.
    let task = unsafe { object::get::<TaskObject>(call) };
    task.forget_exception();
    if task.core().is_new() && Pool::get().take_back(call) {
        // SAFETY: ours again; whoever calls this has another.
        unsafe { ffi::Py_DECREF(call) };
    }
}

/// The target of a thread of the pool.
unsafe extern "C-unwind" fn blocking_main(
    _: *mut ffi::PyObject,
    number: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by `start_thread`'s thread, attached, with its number. What has to be given back is so at the
    // end; a thread that is ended by a forced unwind leaves it behind.
    unsafe {
        let pool = Pool::get();
        let number = ffi::PyLong_AsUnsignedLongLong(number);
        if pool.take_number(number).is_some() {
            IN_POOL.set(true);
            let parker = Box::into_raw(Box::<Parker>::default());
            let base = Box::into_raw(Box::<Base>::default());
            while let Some(call) = pool.next(parker) {
                TaskObject::run_blocking(call, base);
            }
            (*base).exit();
            (*base).leave();
            drop(Box::from_raw(base));
            drop(Box::from_raw(parker));
        }
        ffi::Py_NewRef(ffi::Py_None())
    }
}

/// Makes a call that [`submit`] starts; null with an exception set if the arguments are not right.
///
/// # Safety
/// As for a vectorcall.
unsafe fn new_call(
    function: &str,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let is_coroutine = count >= 1 && ffi::PyCoro_CheckExact(*arguments) != 0;
        let mut call = ptr::null_mut();
        if !is_coroutine {
            call = new_unsubmitted(function, arguments, count, keywords);
            if call.is_null() || object::get::<TaskObject>(call).kind() == Kind::Call {
                return call;
            }
        }
        ffi::Py_XDECREF(call);
        let shown = Bound::from_borrowed_ptr(py, *arguments).repr();
        let error = shown.map(|shown| {
            PyTypeError::new_err(format!(
                "fn must be a plain callable, which {function}() calls on another thread, not {shown}: await it"
            ))
        });
        raise(py, error.unwrap_or_else(|error| error));
        ptr::null_mut()
    }
}

const CALL: &str = "penstock.blocking()";
const AWAITABLE: &str = "await penstock.ablocking()";

/// Makes the call, and waits for its end.
///
/// # Safety
/// In a raw entry, with nothing alive that has a destructor.
unsafe fn make(py: Python<'_>, call: *mut ffi::PyObject) -> Result<(), Raised> {
    let caller = Caller::here(py, CALL, AWAITABLE)?;
    caller.done(py);
    if caller.interrupt_pending() {
        return Err(caller.raise_interrupt(py));
    }
    // SAFETY: the caller's promise; the call was just made, and is alive during this one.
    unsafe {
        let nested = IN_POOL.get() && !caller.has_deadline();
        match Pool::get().queue(ffi::Py_NewRef(call), nested) {
            Queued::Waits => {}
            Queued::Start(number) => start_for(py, call, number)?,
            Queued::NoThread if nested => {
                run_here(call);
                return Ok(());
            }
            Queued::NoThread => {
                ffi::Py_DECREF(call);
                return Err(raise(py, no_thread()));
            }
        }
        let task = object::get::<TaskObject>(call);
        let ended = wait_done(py, task, Patience::Forever, CALL, AWAITABLE);
        if !matches!(ended, Ok(true)) {
            abandon(call);
        }
        ended.map(drop)
    }
}

/// Makes a call on this thread of the pool, which is at another call.
///
/// # Safety
/// As for [`TaskObject::run_blocking`].
unsafe fn run_here(call: *mut ffi::PyObject) {
    let base = Box::into_raw(Box::<Base>::default());
    // SAFETY: the caller's promise; the base is this call's own.
    unsafe {
        TaskObject::run_blocking(call, base);
        (*base).exit();
        (*base).leave();
        drop(Box::from_raw(base));
    }
}

/// `blocking(fn, *args, **kwargs)`.
unsafe extern "C-unwind" fn blocking(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let call = new_call("blocking", arguments, count, keywords);
        if call.is_null() {
            return call;
        }
        let result = match make(py, call) {
            Ok(()) => object::get::<TaskObject>(call).take_result(py),
            Err(Raised) => ptr::null_mut(),
        };
        ffi::Py_DECREF(call);
        result
    }
}

/// `ablocking(fn, *args, **kwargs)`.
unsafe extern "C-unwind" fn ablocking(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall.
    unsafe {
        let call = new_call("ablocking", arguments, count, keywords);
        if call.is_null() {
            return call;
        }
        let awaitable = operation::new_call(call);
        ffi::Py_DECREF(call);
        awaitable
    }
}

pub static FUNCTIONS: [Definition; 3] = [
    Definition::fast(c"blocking", blocking, BLOCKING_DOC),
    Definition::fast(c"ablocking", ablocking, ABLOCKING_DOC),
    Definition::one_arg(
        c"_blocking_main",
        blocking_main,
        c"_blocking_main(number, /)\n--\n\nThe body of a thread for blocking calls.",
    ),
];

const BLOCKING_DOC: &std::ffi::CStr = c"blocking(fn, /, *args, **kwargs)\n--\n\n\
Call ``fn(*args, **kwargs)`` on a thread for blocking calls, and return or raise what it did.\n\n\
For a call that blocks outside of penstock's knowledge: a C library, a socket, a file. It parks a task, so that its\n\
worker runs others meanwhile, and blocks a thread; ``await ablocking(...)`` is the awaitable form. ``fn`` runs in a\n\
copy of the caller's context (`contextvars`), and is no part of the caller's task.\n\n\
Cancelled or past its deadline, the caller goes on at once and the call is abandoned: it is not made if it has not\n\
begun, otherwise it goes on to its end and what it returns or raises is dropped. At most 512 calls run at once, more\n\
wait for their turn; the threads count among those that ``PENSTOCK_MAX_THREADS`` allows. A call that itself calls\n\
`blocking` gets a second thread, or, where none is free and no deadline is around it, makes the call on its own. But a\n\
call that waits for a task which calls `blocking` waits for a free thread: with 512 of those nothing moves. Threads end\n\
when they had nothing to do for ten seconds. At exit nobody waits for calls.\n\n\
Raises:\n    Cancelled: the caller was cancelled.\n    \
TypeError: ``fn`` is no plain callable.\n    \
RuntimeError: no thread is there and none can be started, or the interpreter is about to exit; it was not made.\n\n\
>>> import time\n>>> import penstock\n>>> penstock.blocking(time.strftime, \"%Y\", time.gmtime(0))\n'1970'\n";

const ABLOCKING_DOC: &std::ffi::CStr = c"ablocking(fn, /, *args, **kwargs)\n--\n\n\
The awaitable form of `blocking`, for ``async def`` tasks and asyncio. The call begins when it is awaited.\n\n\
>>> import penstock\n>>> async def read() -> str:\n...     return await penstock.ablocking(str, 7)\n\
>>> penstock.go(read).result()\n'7'\n";
