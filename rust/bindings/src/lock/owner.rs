//! Who takes a lock: a task, or a thread outside one, or a task of an event loop.
//!
//! An [`Owner`] is a number, so a lock keeps nobody alive. Its two lowest bits say what kind it is: of a task of ours the
//! rest is its number; of a thread, the kernel's number for it and one of ours, because the kernel uses its
//! numbers again; of a task of asyncio or trio, one that `penstock._owners` gives out.
//!
//! A plain call, which has to be quick, does not ask whether an event loop runs: what a coroutine of asyncio takes by
//! `lock.acquire()` its thread has. What it takes by `await lock.aacquire()`, it has.
//!
//! In a forked child the task or thread that forked goes on as the main thread, and still has what it had.

use std::{
    cell::Cell,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use penstock_core::{lock::Owner, park::current_thread};
use pyo3::{prelude::*, sync::PyOnceLock};

use crate::{
    boundary::running_task,
    error::{Raised, raise},
    task::{Kind, TaskObject},
};

const TASK: u64 = 1;
const THREAD: u64 = 2;
const LOOP_TASK: u64 = 3;
const KIND_BITS: u32 = 2;
const KIND_MASK: u64 = (1 << KIND_BITS) - 1;

/// Threads are told apart by so many bits beside the kernel's number.
const SERIAL_MASK: u32 = (1 << 28) - 1;

thread_local! {
    /// Zero while the thread has taken nothing.
    static THREAD_NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// Who makes a plain call here.
#[inline]
pub fn here() -> Owner {
    match running_task() {
        // SAFETY: it runs on this stack, so it is alive.
        Some((_, task, _)) => of_task(unsafe { task.as_ref() }),
        None => of_thread(),
    }
}

#[inline]
fn of_task(task: &TaskObject) -> Owner {
    Owner::new(task.number() << KIND_BITS | TASK)
}

#[inline]
fn of_thread() -> Owner {
    let known = THREAD_NUMBER.get();
    Owner::new(if known == 0 { number_thread() } else { known })
}

#[cold]
fn number_thread() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Ordering: Relaxed, numbers are only unique.
    let serial = NEXT.fetch_add(1, Ordering::Relaxed) & SERIAL_MASK;
    // Zero elsewhere than on Linux, where nobody can tell.
    let kernel_s = u64::from(current_thread());
    let number = (u64::from(serial) << 32 | kernel_s) << KIND_BITS | THREAD;
    THREAD_NUMBER.set(number);
    number
}

/// Who awaits here: a coroutine's task of ours, or an event loop's task.
pub fn awaiting(py: Python<'_>) -> Result<Owner, Raised> {
    if let Some((_, task, _)) = running_task() {
        // SAFETY: it runs on this stack, so it is alive.
        let task = unsafe { task.as_ref() };
        if task.kind() == Kind::Coroutine {
            return Ok(of_task(task));
        }
    }
    match loop_task(py).map_err(|error| raise(py, error))? {
        Some(number) => Ok(Owner::new(number << KIND_BITS | LOOP_TASK)),
        None => Ok(here()),
    }
}

/// Whether `owner` is who calls here.
#[inline]
pub fn is_here(py: Python<'_>, owner: Owner) -> Result<bool, Raised> {
    if owner == here() {
        return Ok(true);
    }
    if owner.number() & KIND_MASK != LOOP_TASK {
        return Ok(false);
    }
    Ok(owner == awaiting(py)?)
}

/// A name for people.
pub fn name(py: Python<'_>, owner: Owner) -> String {
    let number = owner.number() >> KIND_BITS;
    let asked = match owner.number() & KIND_MASK {
        TASK => return format!("Task-{number}"),
        THREAD => ask(py, "thread_name", number & u64::from(u32::MAX)),
        _ => ask(py, "loop_task_name", number),
    };
    asked
        .and_then(|name| name.extract(py))
        .unwrap_or_else(|_| "somebody".to_owned())
}

fn loop_task(py: Python<'_>) -> PyResult<Option<u64>> {
    static NUMBER_HERE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = NUMBER_HERE.get_or_try_init(py, || {
        PyResult::Ok(
            py.import("penstock._owners")?
                .getattr("loop_task_here")?
                .unbind(),
        )
    })?;
    function.call0(py)?.extract(py)
}

fn ask(py: Python<'_>, function: &str, number: u64) -> PyResult<Py<PyAny>> {
    let module = py.import("penstock._owners")?;
    Ok(module.getattr(function)?.call1((number,))?.unbind())
}

/// In a forked child: who forked goes on as this thread.
pub fn entered_child(forked: Option<NonNull<TaskObject>>) {
    if let Some(task) = forked {
        // SAFETY: it forked, and goes on, so it is alive.
        THREAD_NUMBER.set(of_task(unsafe { task.as_ref() }).number());
    }
}
