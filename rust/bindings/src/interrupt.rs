//! Scopes that want to interrupt a task or a thread: a group whose child failed, say.
//!
//! An interrupt is raised once, as `Cancelled`, at the next call that has to wait, and carries its scope in
//! `_scope`, so that the scope knows its own from a cancellation from outside. A scope that is left
//! takes back what was not raised.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicPtr, Ordering},
};

use pyo3::{ffi, prelude::*};

use crate::{
    error::{Failure, Raised, classes},
    object::Object,
};

type Scopes = Mutex<Vec<Object>>;

/// The interrupts of one task or thread. Made by the first scope that asks; most never see one.
#[derive(Default)]
pub struct Interrupts(AtomicPtr<Scopes>);

impl Interrupts {
    fn scopes(&self) -> Option<&Scopes> {
        // Ordering: Acquire pairs with the Release in `add`.
        // SAFETY: null, or a box that lives as long as `self`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    fn with<R>(&self, action: impl FnOnce(&mut Vec<Object>) -> R) -> Option<R> {
        self.scopes()
            .map(|scopes| action(&mut scopes.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    #[inline]
    pub fn pending(&self) -> bool {
        // Ordering: SeqCst. The one who waits arms its waiter, then looks here; the scope adds itself, then
        // looks for an armed waiter.
        !self.0.load(Ordering::SeqCst).is_null()
            && self.with(|scopes| !scopes.is_empty()).unwrap_or(false)
    }

    /// Notes that `scope` wants to interrupt; the caller then ends the wait there is.
    pub fn add(&self, scope: Object) {
        if self.scopes().is_none() {
            let new = Box::into_raw(Box::new(Scopes::default()));
            // Ordering: SeqCst, see `pending`.
            let put = self.0.compare_exchange(
                std::ptr::null_mut(),
                new,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            if put.is_err() {
                // SAFETY: ours was not put in.
                drop(unsafe { Box::from_raw(new) });
            }
        }
        self.with(|scopes| scopes.push(scope));
    }

    /// Takes back what `scope` asked for and was not raised.
    pub fn forget(&self, scope: *mut ffi::PyObject) {
        let taken = self.with(|scopes| {
            let at = scopes.iter().position(|one| one.as_ptr() == scope);
            at.map(|at| scopes.remove(at))
        });
        drop(taken); // after the lock
    }

    /// Raises the oldest one.
    pub fn raise(&self, py: Python<'_>) -> Raised {
        let scope = self
            .with(|scopes| (!scopes.is_empty()).then(|| scopes.remove(0)))
            .flatten();
        let Some(scope) = scope else {
            return Failure::Cancelled.raise(py, "the wait was interrupted");
        };
        // SAFETY: the reference is alive while `scope` is.
        let scope = unsafe { Bound::from_borrowed_ptr(py, scope.as_ptr()) };
        let raised = classes(py)
            .cancelled
            .bind(py)
            .call1(("the group was cancelled",))
            .and_then(|error| {
                error.setattr("_scope", scope)?;
                Ok(PyErr::from_value(error))
            });
        match raised {
            Ok(error) | Err(error) => crate::error::raise(py, error),
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let scopes = *self.0.get_mut();
        if !scopes.is_null() {
            // SAFETY: made by `Box::into_raw` in `add`, and unused now.
            drop(unsafe { Box::from_raw(scopes) });
        }
    }
}
