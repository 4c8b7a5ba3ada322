//! The tasks of one scheduler, for a line each in a trace.

use std::ptr;

use penstock_core::scheduler::Scheduler;
use pyo3::{ffi, prelude::*, sync::PyOnceLock};

use crate::{fiber, interpreter, object::Object, runtime, task::TaskObject, unwind};

/// The host's `show_tasks`: calls `penstock._tasks.show(scheduler)`.
///
/// # Safety
/// See `Host::show_tasks`; attached, with nothing alive that has a destructor.
pub unsafe fn show(scheduler: &'static Scheduler) {
    static SHOW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if runtime::is_over() {
        return;
    }
    // SAFETY: attached, by the caller's promise.
    let py = unsafe { Python::assume_attached() };
    let show = SHOW.get_or_try_init(py, || {
        PyResult::Ok(py.import("penstock._tasks")?.getattr("show")?.unbind())
    });
    let show = match show {
        Ok(show) => show.as_ptr(),
        Err(error) => return error.write_unraisable(py, None),
    };
    // SAFETY: attached; nothing with a destructor is alive while Python code runs.
    unsafe {
        let result = unwind::call(show, [ffi::PyLong_FromSize_t(address(scheduler))]);
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(show);
        }
        ffi::Py_XDECREF(result);
    }
}

/// What stands for a scheduler in Python. Only compared.
fn address(scheduler: &Scheduler) -> usize {
    ptr::from_ref(scheduler).addr()
}

/// Whether it is a task of that scheduler.
#[pyfunction]
pub fn _is_of(task: &Bound<'_, TaskObject>, scheduler: usize) -> bool {
    address(task.get().core().scheduler()) == scheduler
}

/// A task that is on a stack: running (`None`), or parked in a call; what it waits for; its machine.
type OnStack = (Py<PyAny>, Option<&'static str>, Option<Py<PyAny>>, usize);

/// The tasks of that scheduler that are on stacks: all that run, and the plain ones that are parked.
#[pyfunction]
pub fn _on_stacks(py: Python<'_>, scheduler: usize) -> Vec<OnStack> {
    struct Seen(Object, Option<&'static str>, Option<Object>, usize);
    let machines = runtime::machines();
    let mut seen: Vec<Seen> = Vec::new();
    let look = || {
        let ours = machines
            .into_iter()
            .filter(|machine| address(machine.scheduler) == scheduler);
        for machine in ours {
            // Without fibers the stack of a parked task stays the current one.
            let runs_current = machine.fibers() || machine.parked() == 0;
            // SAFETY: while the world is stopped no machine's thread touches its stacks, and what is on one is alive.
            let stacks = unsafe { machine.stacks() };
            for stack in stacks {
                // SAFETY: as above.
                let stack = unsafe { stack.as_ref() };
                let Some(task) = ptr::NonNull::new(stack.task.get().cast_mut()) else {
                    continue;
                };
                let is_current = machine
                    .current_stack()
                    .is_some_and(|current| ptr::eq(current, stack));
                // SAFETY: as above. A wait is looked at only while the task is in it: what it names is alive then.
                unsafe {
                    let task = Object::new(TaskObject::of_core(task).as_ref().object());
                    let (mut call, mut subject) = (None, None);
                    if !(is_current && runs_current) {
                        let wait = fiber::state(stack).wait;
                        call = Some(wait.call);
                        subject = (!wait.subject.is_null()).then(|| Object::new(wait.subject));
                    }
                    seen.push(Seen(task, call, subject, machine.id));
                }
            }
        }
    };
    // SAFETY: it copies pointers and counts references, no more.
    unsafe { interpreter::with_stopped_world(py, look) };
    seen.into_iter()
        .map(|Seen(task, call, subject, machine)| {
            let shown = |object: &Object| object.as_py().clone_ref(py);
            (shown(&task), call, subject.as_ref().map(shown), machine)
        })
        .collect()
}
