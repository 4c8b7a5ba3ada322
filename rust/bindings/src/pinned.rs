//! Keeping an `async def` task on its thread (`penstock.pinned`).

use std::ptr::NonNull;

use penstock_core::{scheduler::Machine, task::Task};
use pyo3::{exceptions::PyRuntimeError, prelude::*};

use crate::{
    boundary::running_task,
    task::{Kind, TaskObject},
};

/// The coroutine task that runs on this thread, and its machine, unless the thread is its own for life.
fn running_coroutine() -> Option<(&'static Machine, NonNull<Task>)> {
    let (machine, task, _) = running_task()?;
    // SAFETY: it runs, so it is alive.
    let task = unsafe { task.as_ref() };
    (task.kind() == Kind::Coroutine && !machine.is_alone())
        .then(|| (machine, NonNull::from(task.core())))
}

/// Pins the `async def` task that runs here, and says which it is. `None`: whatever runs here stays on its thread anyway.
#[pyfunction]
pub fn _pin(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    let (machine, task) = running_coroutine()?;
    // SAFETY: in its step, which is on the machine's thread.
    unsafe {
        machine.pin(task);
        let object = TaskObject::of_core(task).as_ref().object();
        Some(Bound::from_borrowed_ptr(py, object))
    }
}

/// Undoes one `_pin` of that task.
#[pyfunction]
pub fn _unpin(pinned: &Bound<'_, TaskObject>) -> PyResult<()> {
    let pinned = NonNull::from(pinned.get().core());
    let Some((machine, task)) = running_coroutine().filter(|&(_, task)| task == pinned) else {
        return Err(PyRuntimeError::new_err(
            "pinned() is left by another task than the one that entered it",
        ));
    };
    // SAFETY: in its step, which is on the machine's thread, and `_pin` came before.
    unsafe { machine.unpin(task) };
    Ok(())
}
