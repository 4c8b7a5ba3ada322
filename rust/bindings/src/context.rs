//! Each task has its own `contextvars` context, at the cost of one only where it is used.
//!
//! A task whose creator's context is empty starts in the *base* context of the stack it runs on: empty, and
//! entered once for many tasks. If after a task it is no longer empty, or something else refers to
//! it (a `Token`), nobody else may see it: the next task gets a fresh one. A coroutine that made it so keeps
//! it for its later steps.
//!
//! Otherwise the creator takes a *snapshot* of its context, which all tasks have in common that it makes until it changes a
//! variable. A snapshot is never entered; a task copies it when it starts. So ten thousand queued tasks are one context, not
//! ten thousand objects for the collector to go through, and the copy is the object that the task before has left.

use std::ptr;

use pyo3::{ffi, prelude::*};

use crate::{interpreter, object::Object};

/// How many variables are set in a context: what `len()` gives, without its two detours. It is a field, so no Python
/// code runs and it cannot fail.
///
/// # Safety
/// Attached; `context` is a context, and alive.
#[inline]
pub unsafe fn length(context: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    // SAFETY: alive, by the caller's promise; the class is static.
    unsafe {
        let slots = ffi::PyContext_Type.tp_as_mapping;
        let length = (*slots).mp_length.expect("contexts have a length");
        length(context)
    }
}

/// An empty context that is entered on a stack.
pub struct Base {
    context: *mut ffi::PyObject,
    /// The references to it while only we and the thread state know it.
    references: ffi::Py_ssize_t,
}

impl Default for Base {
    fn default() -> Self {
        Self {
            context: ptr::null_mut(),
            references: 0,
        }
    }
}

impl Base {
    /// Sees to it that an empty context is entered. `false`: an exception is set.
    ///
    /// # Safety
    /// On the stack's thread, attached, in the loop.
    #[inline]
    pub unsafe fn enter(&mut self) -> bool {
        if !self.context.is_null() {
            return true;
        }
        // SAFETY: attached.
        unsafe {
            let context = ffi::PyContext_New();
            if context.is_null() {
                return false;
            }
            if ffi::PyContext_Enter(context) < 0 {
                ffi::Py_DECREF(context);
                return false;
            }
            self.context = context;
            self.references = ffi::Py_REFCNT(context);
        }
        true
    }

    /// After a task: whether its context is as good as new. If not it is left, and given to the caller.
    ///
    /// # Safety
    /// As for [`enter`](Self::enter), which came before.
    #[inline]
    pub unsafe fn settle(&mut self) -> Option<Object> {
        // SAFETY: our context is alive.
        let clean =
            unsafe { length(self.context) == 0 && ffi::Py_REFCNT(self.context) == self.references };
        if clean {
            return None;
        }
        // SAFETY: it is the one entered last on this stack; ours is the reference given away.
        unsafe {
            ffi::PyContext_Exit(self.context);
            Some(Object::steal(std::mem::replace(
                &mut self.context,
                ptr::null_mut(),
            )))
        }
    }

    /// The loop of a thread without fibers has returned: leaves the context, which is the thread's, as it was before.
    ///
    /// # Safety
    /// On the stack's thread, attached.
    pub unsafe fn exit(&mut self) {
        if !self.context.is_null() {
            // SAFETY: it is the one entered last on this thread.
            unsafe { ffi::PyContext_Exit(self.context) };
        }
    }

    /// The stack is gone: gives the context back. It was the stack's own, so it need not be exited.
    ///
    /// # Safety
    /// Attached; nothing runs on the stack.
    pub unsafe fn leave(&mut self) {
        // SAFETY: ours.
        unsafe { ffi::Py_CLEAR(&raw mut self.context) };
    }
}

/// What the context of the task that runs on a stack was when it last made a task; null if it made none, or had none.
pub struct Snapshot(*mut ffi::PyObject);

impl Default for Snapshot {
    fn default() -> Self {
        Self(ptr::null_mut())
    }
}

impl Snapshot {
    /// A snapshot of the current context, which is not empty: a new reference, or null with an exception set.
    ///
    /// # Safety
    /// On the stack's thread, in its task.
    pub unsafe fn take(&mut self, py: Python<'_>) -> *mut ffi::PyObject {
        // SAFETY: attached; a snapshot is alive while it is here.
        unsafe {
            if self.0.is_null() || !interpreter::is_unchanged_since(py, self.0) {
                let new = ffi::PyContext_CopyCurrent();
                let old = std::mem::replace(&mut self.0, new);
                ffi::Py_XDECREF(old);
            }
            ffi::Py_XINCREF(self.0);
            self.0
        }
    }

    /// The task has ended its run, or its step.
    ///
    /// # Safety
    /// On the stack's thread, attached, in the loop.
    #[inline]
    pub unsafe fn clear(&mut self) {
        // SAFETY: ours.
        unsafe { ffi::Py_CLEAR(&raw mut self.0) };
    }
}
