//! The default runtime: its settings, its threads, and what becomes of it in a fork and at exit.

use std::{
    ffi::CString,
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicPtr, Ordering},
    },
    time::Instant,
};

use penstock_core::{
    scheduler::{Config, Host, Machine, Scheduler},
    topology::CpuBudget,
    wait::{Outcome, fork},
};
use pyo3::{
    exceptions::{PyMemoryError, PyRuntimeError, PyRuntimeWarning, PyTypeError, PyValueError},
    ffi,
    prelude::*,
    sync::PyOnceLock,
    types::PyString,
};

use crate::{
    boundary::{self, Caller},
    convert::{Patience, parse, seconds},
    error::{Raised, raise},
    fiber,
    hot::Definition,
    interpreter, operation, task, unwind,
};

static HOST: Host = Host {
    switch: fiber::switch,
    new_stack: fiber::new_stack,
    idle,
    start_machine,
};

/// The default runtime's scheduler, or null. Written under `SETTINGS`, and in a forked child.
static DEFAULT: AtomicPtr<Scheduler> = AtomicPtr::new(ptr::null_mut());
/// The interpreter is about to exit.
static OVER: AtomicBool = AtomicBool::new(false);
static SETTINGS: Mutex<Settings> = Mutex::new(Settings {
    workers: None,
    parking: Parking::Auto,
});

#[derive(Clone, Copy, Debug)]
struct Settings {
    workers: Option<usize>,
    parking: Parking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parking {
    Auto,
    Fiber,
    Thread,
}

pub fn is_over() -> bool {
    // Ordering: Relaxed, a flag that is seen soon enough.
    OVER.load(Ordering::Relaxed)
}

pub fn over() -> PyErr {
    PyRuntimeError::new_err("penstock has stopped: the interpreter is about to exit")
}

fn running() -> Option<&'static Scheduler> {
    // Ordering: Acquire pairs with the Release in `default_scheduler`.
    // SAFETY: null or leaked.
    unsafe { DEFAULT.load(Ordering::Acquire).as_ref() }
}

/// The default runtime's scheduler, started if need be.
#[inline]
pub fn default_scheduler(py: Python<'_>) -> PyResult<&'static Scheduler> {
    match running() {
        Some(scheduler) => Ok(scheduler),
        None => start(py),
    }
}

#[cold]
fn start(py: Python<'_>) -> PyResult<&'static Scheduler> {
    if is_over() {
        return Err(over());
    }
    let workers_from_environment = workers_from_environment()?;
    START_THREAD.get_or_try_init(py, || {
        PyResult::Ok(py.import("penstock._threads")?.getattr("start")?.unbind())
    })?;
    let mut obstacle = None;
    let mut tested = false;
    // The self-test runs Python code, so it comes before the lock; it comes again if `configure()` came meanwhile.
    let settings = loop {
        let settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scheduler) = running() {
            return Ok(scheduler);
        }
        if tested || settings.parking == Parking::Thread {
            break settings;
        }
        drop(settings);
        obstacle = fiber_obstacle(py)?;
        tested = true;
    };
    let exclusive = cfg!(not(Py_GIL_DISABLED));
    let workers = settings
        .workers
        .or(workers_from_environment)
        .unwrap_or_else(|| CpuBudget::detect().workers().min(MAX_WORKERS));
    let fibers = settings.parking != Parking::Thread && obstacle.is_none();
    if settings.parking == Parking::Fiber
        && let Some(obstacle) = obstacle
    {
        return Err(PyRuntimeError::new_err(format!(
            "parking=\"fiber\" was asked for, and fibers do not work here: {obstacle}"
        )));
    }
    let falls_back = settings.parking == Parking::Auto;
    let scheduler = Scheduler::new(Config {
        host: &HOST,
        workers,
        fibers,
        exclusive,
    });
    // Ordering: Release publishes the scheduler to the Acquire in `running`.
    DEFAULT.store(ptr::from_ref(scheduler).cast_mut(), Ordering::Release);
    drop(settings);
    if let Some(obstacle) = obstacle
        && falls_back
    {
        warn_of_threads(py, &obstacle)?;
    }
    Ok(scheduler)
}

/// Why plain tasks cannot park as fibers here, by the self-test of `penstock._parking`; `None` where they can.
fn fiber_obstacle(py: Python<'_>) -> PyResult<Option<String>> {
    py.import("penstock._parking")?
        .getattr("obstacle")?
        .call0()?
        .extract()
}

/// Says once in a process that each parked task takes a thread, and why.
fn warn_of_threads(py: Python<'_>, obstacle: &str) -> PyResult<()> {
    static SAID: AtomicBool = AtomicBool::new(false);
    // Ordering: Relaxed, a flag of its own.
    if SAID.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let message = format!(
        "penstock parks each waiting task on a thread of its own, because fibers do not work here: {obstacle}"
    );
    let message = CString::new(message).unwrap_or_default();
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)
}

/// What `PENSTOCK_WORKERS` says, if it is set.
pub fn workers_from_environment() -> PyResult<Option<usize>> {
    let Some(value) = std::env::var_os("PENSTOCK_WORKERS") else {
        return Ok(None);
    };
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(workers) if (1..=MAX_WORKERS).contains(&workers) => Ok(Some(workers)),
        _ => Err(PyValueError::new_err(format!(
            "PENSTOCK_WORKERS must be a number from 1 to {MAX_WORKERS}, not \"{}\"",
            value.display()
        ))),
    }
}

pub const MAX_WORKERS: usize = 4096;

// ---- the host table ----

/// The host's `idle`.
///
/// # Safety
/// See `Host::idle`.
unsafe fn idle(machine: &'static Machine, deadline: Option<Instant>) {
    task::rest();
    // SAFETY: attached; a forced unwind out of the re-attachment meets no destructor.
    unsafe {
        let state = ffi::PyEval_SaveThread();
        machine.sleep(deadline);
        unwind::PyEval_RestoreThread(state);
    }
}

/// `penstock._threads.start`, found when the runtime starts.
static START_THREAD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The host's `start_machine`. The scheduler calls it on attached threads only; one may be ended in it.
fn start_machine(machine: &'static Machine) -> bool {
    let mut interrupt = ptr::null_mut();
    // SAFETY: attached; nothing with a destructor is alive while Python code runs.
    unsafe {
        let mut started = try_start(machine);
        while !started && is_interrupt(&mut interrupt) {
            started = try_start(machine);
        }
        if !interrupt.is_null() {
            ffi::PyErr_SetObject(ffi::Py_TYPE(interrupt).cast(), interrupt);
            ffi::Py_DECREF(interrupt);
            boundary::raise_later();
        }
        started
    }
}

/// # Safety
/// Attached, with nothing alive that has a destructor.
unsafe fn try_start(machine: &'static Machine) -> bool {
    // SAFETY: attached; the arguments are alive during the call.
    unsafe {
        let py = Python::assume_attached();
        let Some(start) = START_THREAD.get(py).map(Py::as_ptr) else {
            return false;
        };
        let address = ffi::PyLong_FromVoidPtr(ptr::from_ref(machine).cast_mut().cast());
        let number = ffi::PyLong_FromSize_t(machine.id);
        let mut result = ptr::null_mut();
        if !address.is_null() && !number.is_null() {
            let arguments = [address, number];
            result = unwind::PyObject_Vectorcall(start, arguments.as_ptr(), 2, ptr::null_mut());
        }
        ffi::Py_XDECREF(address);
        ffi::Py_XDECREF(number);
        ffi::Py_XDECREF(result);
        !result.is_null()
    }
}

/// Whether what starting a thread raised is a signal handler's doing; the first such exception goes to `interrupt`, to
/// be raised once a thread is started. It may have come before the start or behind it: so a second thread is started,
/// and the machine takes the one that comes first. Anything else is shown.
#[cold]
fn is_interrupt(interrupt: &mut *mut ffi::PyObject) -> bool {
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let Some(error) = PyErr::take(py) else {
        return false;
    };
    let is_refusal = error.is_instance_of::<PyRuntimeError>(py) // "can't start new thread"
        || error.is_instance_of::<PyMemoryError>(py);
    if boundary::is_main_thread() && !is_refusal {
        if interrupt.is_null() {
            *interrupt = error.into_value(py).into_ptr();
        }
        return true;
    }
    if !is_over() {
        error.write_unraisable(py, None);
    }
    false
}

/// The target of a machine's thread.
unsafe extern "C-unwind" fn machine_main(
    _: *mut ffi::PyObject,
    machine: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by `start_machine`'s thread with the address of a leaked machine.
    unsafe {
        let machine = ffi::PyLong_AsVoidPtr(machine).cast::<Machine>();
        fiber::run_machine(&*machine);
        ffi::Py_NewRef(ffi::Py_None())
    }
}

// ---- sleeping ----

/// `sleep(seconds)`.
unsafe extern "C-unwind" fn sleep(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let slept = parse(py, "sleep", ["seconds"], 1, arguments, count, keywords)
            .and_then(|[time]| sleep_time(py, time))
            .and_then(|patience| match patience {
                Patience::None => give_up_turn(py, "penstock.sleep()", "await penstock.asleep()"),
                _ => sleep_until(py, patience.deadline()),
            });
        match slept {
            Ok(()) => ffi::Py_NewRef(ffi::Py_None()),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

fn sleep_time(py: Python<'_>, time: *mut ffi::PyObject) -> Result<Patience, Raised> {
    // SAFETY: an argument is alive.
    let time = unsafe { Bound::ref_from_ptr(py, &time) };
    match seconds(time, "seconds", "a number >= 0") {
        Ok(Some(time)) if time.is_zero() => Ok(Patience::None),
        Ok(Some(time)) => Ok(Instant::now()
            .checked_add(time)
            .map_or(Patience::Forever, Patience::Until)),
        Ok(None) => Ok(Patience::Forever),
        Err(error) => Err(raise(py, error)),
    }
}

/// # Safety
/// In a raw entry, with nothing that has a destructor alive.
unsafe fn sleep_until(py: Python<'_>, deadline: Option<Instant>) -> Result<(), Raised> {
    let caller = Caller::here(py, "penstock.sleep()", "await penstock.asleep()")?;
    let epoch = caller.waiter_ref().arm();
    // SAFETY: the caller's promise.
    let ended = unsafe { caller.wait(epoch, deadline) };
    caller.done(py);
    match ended? {
        Outcome::Interrupted => Err(caller.raise_interrupt(py)),
        _ => Ok(()),
    }
}

/// # Safety
/// In a raw entry, with nothing that has a destructor alive.
unsafe fn give_up_turn(
    py: Python<'_>,
    call: &'static str,
    awaitable: &'static str,
) -> Result<(), Raised> {
    let caller = Caller::here(py, call, awaitable)?;
    // SAFETY: the caller's promise.
    let yielded = unsafe { caller.give_up_turn() };
    caller.done(py);
    yielded
}

/// `yield_now()`.
unsafe extern "C-unwind" fn yield_now(
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached.
    unsafe {
        let py = Python::assume_attached();
        match give_up_turn(py, "penstock.yield_now()", "await penstock.asleep(0)") {
            Ok(()) => ffi::Py_NewRef(ffi::Py_None()),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// `asleep(seconds)`.
unsafe extern "C-unwind" fn asleep(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let time = parse(py, "asleep", ["seconds"], 1, arguments, count, keywords)
            .and_then(|[time]| sleep_time(py, time));
        match time {
            Ok(patience) => operation::new_sleep(patience),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

pub static FUNCTIONS: [Definition; 4] = [
    Definition::fast(
        c"sleep",
        sleep,
        c"sleep(seconds)\n--\n\n\
Wait for ``seconds``: parks a task, blocks a thread.\n\n\
``sleep(0)`` gives up the turn as `yield_now` does. A cancelled task wakes at once.\n\n\
Raises:\n    Cancelled: the task was cancelled.\n    ValueError: ``seconds`` is negative.\n\n\
>>> import penstock\n>>> penstock.sleep(0.001)\n",
    ),
    Definition::no_args(
        c"yield_now",
        yield_now,
        c"yield_now()\n--\n\n\
Let other tasks run first; in a thread, other threads.\n\n\
Raises:\n    Cancelled: the task was cancelled.\n\n\
>>> import penstock\n>>> penstock.yield_now()\n",
    ),
    Definition::fast(
        c"asleep",
        asleep,
        c"asleep(seconds)\n--\n\n\
The awaitable form of `sleep`; ``await asleep(0)`` that of `yield_now`.\n\n\
>>> import penstock\n>>> async def nap() -> str:\n...     await penstock.asleep(0.001)\n...     return \"rested\"\n\
>>> penstock.go(nap).result()\n'rested'\n",
    ),
    Definition::one_arg(
        c"_machine_main",
        machine_main,
        c"_machine_main(address, /)\n--\n\nThe body of a runtime thread.",
    ),
];

// ---- settings and figures ----

/// Sets up the default runtime; called before its first use.
#[pyfunction]
#[pyo3(signature = (workers=None, parking=None))]
pub fn _configure(
    workers: Option<&Bound<'_, PyAny>>,
    parking: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let refuse = |name: &str, value: &Bound<'_, PyAny>, allowed: &str| -> PyResult<String> {
        Ok(format!("{name} must be {allowed}, not {}", value.repr()?))
    };
    let mut new = Settings {
        workers: None,
        parking: Parking::Auto,
    };
    if let Some(value) = workers {
        let allowed = format!("None or an int from 1 to {MAX_WORKERS}");
        // SAFETY: alive, and attached.
        if unsafe { ffi::PyIndex_Check(value.as_ptr()) } == 0 {
            return Err(PyTypeError::new_err(refuse("workers", value, &allowed)?));
        }
        match value.extract::<usize>() {
            Ok(count) if (1..=MAX_WORKERS).contains(&count) => new.workers = Some(count),
            _ => return Err(PyValueError::new_err(refuse("workers", value, &allowed)?)),
        }
    }
    if let Some(value) = parking {
        let allowed = "\"auto\", \"fiber\" or \"thread\"";
        let Ok(text) = value.cast::<PyString>() else {
            return Err(PyTypeError::new_err(refuse("parking", value, allowed)?));
        };
        new.parking = match text.to_str()? {
            "auto" => Parking::Auto,
            "fiber" => Parking::Fiber,
            "thread" => Parking::Thread,
            _ => return Err(PyValueError::new_err(refuse("parking", value, allowed)?)),
        };
    }
    let mut settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if running().is_some() {
        return Err(PyRuntimeError::new_err(
            "configure() has to come before the first use of the default runtime",
        ));
    }
    *settings = new;
    Ok(())
}

/// The default runtime's figures: workers, then the counts in the order of `RuntimeStats`.
#[pyfunction]
pub fn _runtime_stats(py: Python<'_>) -> PyResult<(usize, [u64; 9])> {
    let scheduler = default_scheduler(py)?;
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
            0,
            totals.handoffs,
            totals.threads,
        ],
    ))
}

/// "not started", "running" or "stopped".
#[pyfunction]
pub fn _runtime_state() -> &'static str {
    match (is_over(), running()) {
        (true, _) => "stopped",
        (false, None) => "not started",
        (false, Some(_)) => "running",
    }
}

/// Whether plain tasks of the default runtime park as fibers.
#[pyfunction]
pub fn _uses_fibers(py: Python<'_>) -> PyResult<bool> {
    Ok(default_scheduler(py)?.fibers())
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
    // Ordering: Relaxed, a flag that is seen soon enough.
    OVER.store(true, Ordering::Relaxed);
    if let Some(scheduler) = running() {
        scheduler.stop();
    }
}

/// Runs in a forked child, on its only thread, before anything else of ours.
#[pyfunction]
pub fn _after_fork_in_child() {
    fork::entered_child();
    let forked = boundary::running_task().map(|(_, task, _)| task);
    Machine::forget_current();
    boundary::forget_thread(forked);
    // Ordering: Relaxed, the process has a single thread.
    DEFAULT.store(ptr::null_mut(), Ordering::Relaxed);
    OVER.store(false, Ordering::Relaxed);
    SETTINGS.clear_poison();
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
