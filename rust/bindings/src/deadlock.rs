//! Notices that the main thread waits for what can never come.
//!
//! The main thread looks for signals in slices while it waits; without a deadline it looks at the schedulers too. Once
//! they have been quiescent for [`PATIENCE`], and no thread of the program has begun or ended a wait meanwhile,
//! `penstock._deadlock` looks at the rest of the world, runs a collection (which may close a channel), and names everyone.

use std::{
    ptr,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use penstock_core::scheduler::Machine;
use pyo3::{ffi, prelude::*, sync::PyOnceLock};

use crate::{
    boundary::Wait, error::raise, fiber, interpreter, object::Object, operation, runtime,
    task::TaskObject, unwind,
};

/// How long nothing has to happen.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nobody looks (`PENSTOCK_DEADLOCK=off`).
static IGNORED: AtomicBool = AtomicBool::new(false);
/// Threads of the program, other than the main one, that wait here without a deadline.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// How many such waits there have been.
static WAITS: AtomicU64 = AtomicU64::new(0);

// Ordering: SeqCst throughout. A thread that wakes another and then waits itself has counted by the time that both
// are seen waiting; these are no hot paths.

pub fn thread_waits() {
    WAITS.fetch_add(1, Ordering::SeqCst);
    WAITING.fetch_add(1, Ordering::SeqCst);
}

pub fn thread_goes_on() {
    WAITING.fetch_sub(1, Ordering::SeqCst);
}

/// In a forked child: the threads that waited were its parent's.
pub fn forget_threads() {
    WAITING.store(0, Ordering::SeqCst);
}

/// What the main thread has seen during one wait.
#[derive(Clone, Copy, Default)]
pub struct Watch {
    quiet: Option<(Instant, [u64; 2])>,
}

fn quiescence() -> Option<[u64; 2]> {
    let waits = WAITS.load(Ordering::SeqCst);
    runtime::quiescence().map(|happened| [happened, waits])
}

impl Watch {
    /// Sets `Deadlock` and says so, if nothing can end the caller's `wait` any more; or what a signal handler has raised
    /// meanwhile, Ctrl-C for instance. Called by the main thread after each slice.
    ///
    /// # Safety
    /// Attached, with no exception set, and nothing alive in the frames up to the raw entry that has a destructor.
    pub unsafe fn finds_deadlock(&mut self, wait: Wait) -> bool {
        // Ordering: Relaxed, written during the package's import.
        if IGNORED.load(Ordering::Relaxed) {
            return false;
        }
        let happened = quiescence();
        let Some(now) = happened else {
            self.quiet = None;
            return false;
        };
        match self.quiet {
            Some((since, before)) if before == now => {
                if since.elapsed() < PATIENCE {
                    return false;
                }
            }
            _ => {
                self.quiet = Some((Instant::now(), now));
                return false;
            }
        }
        self.quiet = None;
        // SAFETY: attached, by the caller's promise, which also allows Python code to run.
        unsafe {
            let deadlock = ask(Python::assume_attached(), wait);
            if deadlock.is_null() {
                if ffi::PyErr_ExceptionMatches(ffi::PyExc_Exception) == 0 {
                    return true;
                }
                ffi::PyErr_WriteUnraisable(ptr::null_mut());
                return false;
            }
            let found = deadlock != ffi::Py_None() && quiescence() == happened;
            if found {
                ffi::PyErr_SetObject(ffi::Py_TYPE(deadlock).cast(), deadlock);
            }
            ffi::Py_DECREF(deadlock);
            found
        }
    }
}

/// Calls `penstock._deadlock.find(call, subject, waiting)`. Only the main thread comes here, which is never ended by an
/// unwind.
///
/// # Safety
/// As for [`Watch::finds_deadlock`].
unsafe fn ask(py: Python<'_>, wait: Wait) -> *mut ffi::PyObject {
    static FIND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let find = FIND.get_or_try_init(py, || {
        PyResult::Ok(py.import("penstock._deadlock")?.getattr("find")?.unbind())
    });
    let find = match find {
        Ok(find) => find.as_ptr(),
        Err(error) => {
            raise(py, error);
            return ptr::null_mut();
        }
    };
    // SAFETY: attached; the subject is an argument of the call that waits.
    unsafe {
        let subject = if wait.subject.is_null() {
            ffi::Py_None()
        } else {
            wait.subject
        };
        let arguments = [
            ffi::PyUnicode_FromStringAndSize(
                wait.call.as_ptr().cast(),
                wait.call.len().cast_signed(),
            ),
            ffi::Py_NewRef(subject),
            ffi::PyLong_FromSize_t(WAITING.load(Ordering::SeqCst)),
        ];
        unwind::call(find, arguments)
    }
}

/// The main thread does not look for deadlocks. Called at most once, by the package's import.
#[pyfunction]
pub fn _ignore_deadlocks() {
    IGNORED.store(true, Ordering::Relaxed); // Ordering: Relaxed, as above.
}

/// A plain task that is parked, with what it waits for, its greenlet, and its thread's number.
type Parked = (
    Py<PyAny>,
    &'static str,
    Option<Py<PyAny>>,
    Option<Py<PyAny>>,
    u32,
);

/// The plain tasks that are parked.
#[pyfunction]
pub fn _parked_tasks(py: Python<'_>) -> Vec<Parked> {
    struct Seen(Object, Wait, Option<Object>, Option<Object>, u32);
    let machines = runtime::machines();
    let mut seen: Vec<Seen> = Vec::new();
    // SAFETY: `look` copies pointers and counts references, no more; what a parked stack refers to is alive.
    unsafe {
        interpreter::with_stopped_world(py, || {
            for machine in machines {
                for_parked(machine, |task, wait, greenlet| {
                    let object = |pointer: *mut ffi::PyObject| {
                        (!pointer.is_null()).then(|| Object::new(pointer))
                    };
                    seen.push(Seen(
                        Object::new(task.object()),
                        wait,
                        object(wait.subject),
                        object(greenlet),
                        machine.thread(),
                    ));
                });
            }
        });
    }
    seen.into_iter()
        .map(|Seen(task, wait, subject, greenlet, thread)| {
            let shown = |object: &Object| object.as_py().clone_ref(py);
            (
                shown(&task),
                wait.call,
                subject.as_ref().map(shown),
                greenlet.as_ref().map(shown),
                thread,
            )
        })
        .collect()
}

/// Shows each task of the machine that has a stack. No scheduler runs any, so all of them are parked.
///
/// # Safety
/// While the world is stopped.
unsafe fn for_parked(
    machine: &Machine,
    mut each: impl FnMut(&TaskObject, Wait, *mut ffi::PyObject),
) {
    // SAFETY: by the caller's promise the stacks stay as they are, and a stack's task is alive.
    unsafe {
        for stack in machine.stacks() {
            if let Some(task) = ptr::NonNull::new(stack.as_ref().task.get().cast_mut()) {
                let state = fiber::state(stack.as_ref());
                each(
                    TaskObject::of_core(task).as_ref(),
                    state.wait,
                    state.greenlet(),
                );
            }
        }
    }
}

/// The task that is parked in an operation of ours, the call, and what that waits for; `None` for any other object.
#[pyfunction]
pub fn _wait_of(operation: &Bound<'_, PyAny>) -> Option<operation::ParkedIn> {
    operation::wait_of(operation)
}
