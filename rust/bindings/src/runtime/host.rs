//! What the scheduler asks of the interpreter: threads, and sleep with the interpreter let go of.

use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use penstock_core::scheduler::{Host, Machine};
use pyo3::{
    exceptions::{PyMemoryError, PyRuntimeError},
    ffi,
    prelude::*,
    sync::PyOnceLock,
    types::PyString,
};

use super::{
    life::{Life, is_over},
    settings,
};
use crate::{boundary, fiber, gc, hot::Definition, stall, task, tasks, tracer, unwind};

pub static HOST: Host = Host {
    switch: fiber::switch,
    new_stack: fiber::new_stack,
    idle,
    on_idle: gc::on_idle,
    start_machine,
    on_stall: stall::report,
    show_tasks: tasks::show,
};

/// How many threads there may be, in all runtimes together and for blocking calls. Written when a runtime starts.
static MAX_THREADS: AtomicUsize = AtomicUsize::new(settings::MAX_THREADS);
/// How many there are.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// `penstock._threads.start`, found when a runtime starts.
static START_THREAD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Finds what [`start_machine`] needs, while an error can still be raised.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    MAX_THREADS.store(settings::max_threads()?, Ordering::Relaxed); // Ordering: Relaxed, a number of its own.
    stall::load(py)?;
    tracer::load(py)?;
    START_THREAD.get_or_try_init(py, || {
        PyResult::Ok(py.import("penstock._threads")?.getattr("start")?.unbind())
    })?;
    Ok(())
}

/// In a forked child: its threads are gone.
pub fn forget_threads() {
    THREADS.store(0, Ordering::Relaxed); // Ordering: Relaxed, the process has a single thread.
}

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
        gc::woke(Python::assume_attached());
    }
}

/// Counts a thread that is about to be started. `false`: there are as many as there may be.
pub fn count_thread() -> bool {
    // Ordering: Relaxed throughout, a count and its bound.
    let most = MAX_THREADS.load(Ordering::Relaxed);
    let one_more = |threads| (threads < most).then_some(threads + 1);
    THREADS
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
        .is_ok()
}

/// A thread that was counted has ended, or was not started.
pub fn thread_ended() {
    THREADS.fetch_sub(1, Ordering::Relaxed); // Ordering: Relaxed, a count.
}

/// The host's `start_machine`. The scheduler calls it on attached threads only; one may be ended in it.
fn start_machine(machine: &'static Machine) -> bool {
    if !count_thread() {
        return false; // what is queued waits for a thread that there is
    }
    let started = start_counted(machine);
    if !started {
        thread_ended();
    }
    started
}

fn start_counted(machine: &'static Machine) -> bool {
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
        let name = Life::of(machine).map_or(ptr::null_mut(), |life| {
            PyString::new(py, &life.name_of_thread(machine))
                .into_any()
                .into_ptr()
        });
        let result = unwind::call(start, [address, name]);
        ffi::Py_XDECREF(result);
        !result.is_null()
    }
}

/// Whether what starting a thread raised is a signal handler's doing; the first such exception goes to `interrupt`, to
/// be raised once a thread is started. It may have come before the start or behind it: so a second thread is started,
/// and the machine takes the one that comes first. That there is no thread is told by `start_machine`, to whom it matters;
/// anything else is shown.
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
    if !is_refusal && !is_over() {
        error.write_unraisable(py, None);
    }
    false
}

/// Sets the memory of tasks aside on the first thread of a runtime, where that was asked for.
fn prewarm(machine: &Machine) {
    if machine.id != 0 {
        return;
    }
    // SAFETY: attached, as the machine's thread is.
    let py = unsafe { Python::assume_attached() };
    let tasks = Life::of(machine).map_or(0, Life::prewarm_tasks);
    if let Err(error) = task::prewarm(py, machine.scheduler, tasks) {
        error.write_unraisable(py, None);
    }
}

/// The target of a machine's thread.
unsafe extern "C-unwind" fn machine_main(
    _: *mut ffi::PyObject,
    machine: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by `start_machine`'s thread with the address of a leaked machine.
    unsafe {
        let machine = &*ffi::PyLong_AsVoidPtr(machine).cast::<Machine>();
        prewarm(machine);
        if fiber::run_machine(machine) {
            thread_ended();
        }
        ffi::Py_NewRef(ffi::Py_None())
    }
}

pub static FUNCTIONS: [Definition; 1] = [Definition::one_arg(
    c"_machine_main",
    machine_main,
    c"_machine_main(address, /)\n--\n\nThe body of a runtime thread.",
)];
