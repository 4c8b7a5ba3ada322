//! Running a task: a plain one to its end, a coroutine step by step.
//!
//! Nothing with a destructor may be alive in here while Python code runs: the stack may be left behind in it, and a
//! thread may be ended there by a forced unwind.

use std::ptr::{self, NonNull};

use penstock_core::{
    scheduler::{Machine, Stack},
    task::{Parking, Task},
    wait::fork,
};
use pyo3::{exceptions::PyTypeError, ffi, prelude::*};

use super::{End, Kind, TaskObject};
use crate::{
    context::Base,
    error::{Raised, classes, raise},
    fiber, interpreter, object, operation, runtime, unwind,
};

/// How a coroutine left a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Parked,
    GaveUpTurn,
}

/// The task table's `run`.
///
/// # Safety
/// See `TaskVtable::run`; on a machine's thread, attached.
pub unsafe fn run(core: NonNull<Task>) {
    let machine = Machine::current().expect("tasks run on machines");
    let stack = machine.current_stack().expect("a loop has a stack");
    // SAFETY: the task's reference to itself is alive until `finish`, which each way ends with.
    unsafe {
        let task = &*TaskObject::of_core(core).as_ptr();
        let starts = task.core.is_new();
        if starts && !task.core.start() || !starts && task.core.is_done() {
            // Cancelled before it started: done long since, but for what it holds.
            task.finish_unrun(machine);
            return;
        }
        if starts {
            machine.counters().started.add(1);
        } else {
            task.core.resume_step();
        }
        stack.task.set(core.as_ptr());
        match task.kind {
            Kind::Call => task.call(machine, stack),
            Kind::Coroutine if machine.is_alone() => task.step_to_the_end(machine, stack),
            Kind::Coroutine => {
                if let Some(left) = task.step(machine, stack, starts) {
                    task.leave_step(machine, left);
                }
            }
        }
    }
}

impl TaskObject {
    /// Runs a plain task to its end.
    ///
    /// # Safety
    /// In `run`. Nothing with a destructor may be alive in here while Python code runs.
    unsafe fn call(&self, machine: &Machine, stack: &Stack) {
        // SAFETY: in `run`, attached, the one user of the fields.
        unsafe {
            let result = self.invoke(&raw mut fiber::state(stack).base);
            fiber::state(stack).snapshot.clear();
            stack.task.set(ptr::null());
            self.end_with(machine, result, true);
        }
    }

    /// Makes a call of the blocking pool, which is its own task, on this thread.
    ///
    /// # Safety
    /// On a thread of the pool, attached, with nothing alive that has a destructor. `object` is a new `Task` that is not
    /// submitted, and a strong reference, given away here; `base` is the thread's.
    pub unsafe fn run_blocking(object: *mut ffi::PyObject, base: *mut Base) {
        // SAFETY: alive until `finish`, which drops the reference; this thread is the one user of its fields.
        unsafe {
            let task = object::get::<TaskObject>(object);
            let starts = task.core.start();
            debug_assert!(starts, "nobody cancels a call");
            let result = task.invoke(base);
            if result.is_null() {
                let py = Python::assume_attached();
                let error = PyErr::fetch(py).into_value(py);
                task.finish(None, End::Raised, error.into_ptr());
            } else {
                task.finish(None, End::Returned, result);
            }
        }
    }

    /// Ends a call of the blocking pool that no thread comes to.
    ///
    /// # Safety
    /// Attached. `object` is as for [`run_blocking`](Self::run_blocking).
    pub unsafe fn fail_blocking(object: *mut ffi::PyObject, error: PyErr) {
        // SAFETY: as above.
        unsafe {
            let task = object::get::<TaskObject>(object);
            let starts = task.core.start();
            debug_assert!(starts, "nobody cancels a call");
            let error = error.into_value(Python::assume_attached());
            task.finish(None, End::Raised, error.into_ptr());
        }
    }

    /// Calls the function in the task's context: its own, or else the `base` of the stack it runs on.
    ///
    /// # Safety
    /// Attached, the one user of the fields; `base` is the stack's, on the heap. Nothing with a destructor may be alive in
    /// here while Python code runs.
    #[inline]
    unsafe fn invoke(&self, base: *mut Base) -> *mut ffi::PyObject {
        // SAFETY: the caller's promise.
        unsafe {
            let generation = fork::generation();
            let entered = if self.fields().context.is_null() {
                (*base).enter()
            } else {
                self.enter_context(true)
            };
            let context = self.fields().context;
            let mut result = ptr::null_mut();
            if entered {
                result = self.call_function();
            }
            if fork::generation() != generation {
                // The task has forked, and this is the child: its thread is no machine any more.
                runtime::end_child(result);
            }
            if context.is_null() {
                drop((*base).settle());
            } else if entered {
                ffi::PyContext_Exit(context);
            }
            result
        }
    }

    /// Calls the function with its arguments: a new reference, or null.
    ///
    /// # Safety
    /// As for [`invoke`](Self::invoke), in the task's context.
    #[inline]
    unsafe fn call_function(&self) -> *mut ffi::PyObject {
        // SAFETY: the caller's promise.
        unsafe {
            let fields = self.fields();
            if !fields.args.is_null() {
                return unwind::PyObject_Call(fields.callable, fields.args, fields.kwargs);
            }
            if fields.kwargs.is_null() {
                return unwind::PyObject_Vectorcall(
                    fields.callable,
                    ptr::null(),
                    0,
                    ptr::null_mut(),
                );
            }
            let none = ffi::PyTuple_New(0);
            let result = unwind::PyObject_Call(fields.callable, none, fields.kwargs);
            ffi::Py_DECREF(none);
            result
        }
    }

    /// Enters the task's context, which a task that starts copies from the snapshot first. `false`: an exception is set.
    ///
    /// # Safety
    /// In `run`; the context is not null.
    unsafe fn enter_context(&self, starts: bool) -> bool {
        // SAFETY: in `run`, attached, the one user of the fields.
        unsafe {
            if starts {
                let copy = ffi::PyContext_Copy(self.fields().context);
                if copy.is_null() {
                    return false;
                }
                let snapshot = std::mem::replace(&mut self.fields().context, copy);
                ffi::Py_DECREF(snapshot);
            }
            ffi::PyContext_Enter(self.fields().context) == 0
        }
    }

    /// Ends the task with what its code returned, or with the exception that is set.
    ///
    /// # Safety
    /// As for [`finish`](Self::finish).
    unsafe fn end_with(&self, machine: &Machine, result: *mut ffi::PyObject, plain: bool) {
        // SAFETY: attached, the one user of the fields.
        unsafe {
            let py = Python::assume_attached();
            if !result.is_null() && (!plain || ffi::PyCoro_CheckExact(result) == 0) {
                self.finish(Some(machine), End::Returned, result);
                return;
            }
            if !result.is_null() {
                close_coroutine(py, result, "pass the async function itself, go(fn, *args)");
            }
            let error = PyErr::fetch(py);
            let end = if error.is_instance(py, classes(py).cancelled.bind(py)) {
                End::Cancelled
            } else {
                End::Raised
            };
            let error = error.into_value(py).into_ptr();
            interpreter::disown_exception(py, error); // this thread may sleep while another drops the task
            self.finish(Some(machine), end, error);
        }
    }

    /// Runs a coroutine that has this thread alone: between two steps it parks with its stack, as a plain task does.
    ///
    /// # Safety
    /// In `run`.
    unsafe fn step_to_the_end(&self, machine: &'static Machine, stack: &Stack) {
        self.core.set_stack(stack); // so its wakes go to this thread, and never by a queue
        let mut starts = true;
        // SAFETY: in `run`; the wait that a step ended with is armed, and the frames below hold nothing.
        while let Some(left) = unsafe { self.step(machine, stack, starts) } {
            starts = false;
            // SAFETY: as above.
            let resumed = unsafe {
                match left {
                    Left::Parked => machine.park(),
                    Left::GaveUpTurn => machine.yield_now(),
                }
            };
            debug_assert!(resumed, "nobody else switches on a thread without fibers");
            stack.task.set(&raw const self.core);
        }
    }

    /// Runs one step of a coroutine, and says how the coroutine left it if that did not end the task.
    ///
    /// # Safety
    /// In `run`.
    unsafe fn step(&self, machine: &Machine, stack: &Stack, starts: bool) -> Option<Left> {
        // SAFETY: in `run`, attached, the one user of the fields.
        unsafe {
            let py = Python::assume_attached();
            let generation = fork::generation();
            let entered = if self.fields().context.is_null() {
                fiber::state(stack).base.enter()
            } else {
                self.enter_context(starts)
            };
            let own_context = self.fields().context;
            let mut result = ptr::null_mut();
            let mut sent = ffi::PySendResult::PYGEN_ERROR;
            if entered && (!starts || self.make_coroutine(py).is_ok()) {
                sent = unwind::PyIter_Send(self.fields().callable, ffi::Py_None(), &raw mut result);
            }
            while sent == ffi::PySendResult::PYGEN_NEXT && !operation::is_marker(result) {
                // It awaits something that is not ours: say so at the very `await`.
                sent = operation::refuse_foreign(py, self.fields().callable, &mut result);
            }
            if fork::generation() != generation {
                // The task has forked, and this is the child: its thread is no machine any more.
                runtime::end_child(result);
            }
            if own_context.is_null() {
                if let Some(dirty) = fiber::state(stack).base.settle() {
                    self.fields().context = dirty.into_ptr();
                }
            } else if entered {
                ffi::PyContext_Exit(own_context);
            }
            fiber::state(stack).snapshot.clear();
            stack.task.set(ptr::null());
            operation::clear_stop();
            match sent {
                ffi::PySendResult::PYGEN_NEXT => {
                    let gives_up_turn = operation::is_yield_marker(result);
                    ffi::Py_DECREF(result);
                    return Some(if gives_up_turn {
                        Left::GaveUpTurn
                    } else {
                        Left::Parked
                    });
                }
                ffi::PySendResult::PYGEN_RETURN => self.end_with(machine, result, false),
                ffi::PySendResult::PYGEN_ERROR => self.end_with(machine, ptr::null_mut(), false),
            }
        }
        None
    }

    /// # Safety
    /// At the end of a step that has not finished the task.
    unsafe fn leave_step(&self, machine: &Machine, left: Left) {
        let core = self.core_pointer();
        let scheduler = self.core.scheduler();
        if left == Left::GaveUpTurn {
            self.core.yield_step();
        } else {
            machine.counters().parks.add(1);
            if self.core.leave_step() == Parking::Parked {
                return; // whoever claims its waiter may have queued it already: it is not ours any more
            }
        }
        // SAFETY: it gave up its turn, or was woken before it had left: it is ours to queue.
        unsafe { scheduler.requeue_last(core) };
    }

    /// Calls the `async def` function, on the worker that runs the first step: a task that never starts has no
    /// coroutine that was "never awaited".
    ///
    /// # Safety
    /// As for [`step`](Self::step).
    unsafe fn make_coroutine(&self, py: Python<'_>) -> Result<(), Raised> {
        // SAFETY: attached, the one user of the fields.
        unsafe {
            let coroutine = self.call_function();
            if coroutine.is_null() {
                return Err(Raised);
            }
            if ffi::PyCoro_CheckExact(coroutine) == 0 && ffi::PyIter_Check(coroutine) == 0 {
                let coroutine = Bound::from_owned_ptr(py, coroutine);
                let message = format!("an async function gave {coroutine:?}, not a coroutine");
                return Err(raise(py, PyTypeError::new_err(message)));
            }
            let fields = self.fields();
            let callable = std::mem::replace(&mut fields.callable, coroutine);
            let args = std::mem::replace(&mut fields.args, ptr::null_mut());
            let kwargs = std::mem::replace(&mut fields.kwargs, ptr::null_mut());
            ffi::Py_DECREF(callable);
            ffi::Py_XDECREF(args);
            ffi::Py_XDECREF(kwargs);
        }
        Ok(())
    }
}

/// A plain function returned a coroutine that nobody will await. `instead` says what to do.
///
/// # Safety
/// `coroutine` is a strong reference, given away here.
pub unsafe fn close_coroutine(py: Python<'_>, coroutine: *mut ffi::PyObject, instead: &str) {
    // SAFETY: ours, by the caller's promise.
    let coroutine = unsafe { Bound::from_owned_ptr(py, coroutine) };
    let name = coroutine
        .getattr("__qualname__")
        .map_or_else(|_| "a function".to_owned(), |name| name.to_string());
    if let Err(error) = coroutine.call_method0("close") {
        error.write_unraisable(py, Some(&coroutine));
    }
    let message = format!("a plain function returned the coroutine of {name}: {instead}");
    raise(py, PyTypeError::new_err(message));
}
