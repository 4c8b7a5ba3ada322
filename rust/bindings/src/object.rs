//! A strong reference to a Python object that is counted at once.
//!
//! `PyO3`'s `Py<T>` keeps its own count of attachments, which raw entries do not take part in: dropped in one, it
//! would go through a global pool. What the core holds for Python is an [`Object`] instead. It is made and
//! dropped by attached threads only; a debug build checks that.

use std::{fmt, ptr::NonNull};

use pyo3::{Py, PyAny, ffi};

#[repr(transparent)]
pub struct Object(NonNull<ffi::PyObject>);

// SAFETY: reference counts change only while attached, where the interpreter makes that sound for any thread.
unsafe impl Send for Object {}
// SAFETY: as above; a shared `Object` gives no access but the pointer.
unsafe impl Sync for Object {}

impl Object {
    /// Takes over a reference.
    ///
    /// # Safety
    /// `pointer` is not null and carries a strong reference that is the caller's to give.
    #[inline]
    pub unsafe fn steal(pointer: *mut ffi::PyObject) -> Self {
        debug_assert!(!pointer.is_null());
        // SAFETY: not null, by the caller's promise.
        Self(unsafe { NonNull::new_unchecked(pointer) })
    }

    /// Makes a new reference.
    ///
    /// # Safety
    /// `pointer` is alive, and this thread is attached.
    #[inline]
    pub unsafe fn new(pointer: *mut ffi::PyObject) -> Self {
        // SAFETY: alive and attached, by the caller's promise; the new reference is stolen.
        unsafe {
            ffi::Py_INCREF(pointer);
            Self::steal(pointer)
        }
    }

    #[inline]
    pub fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    /// The same reference as `PyO3`'s type, to show to a garbage collector.
    #[inline]
    pub fn as_py(&self) -> &Py<PyAny> {
        // SAFETY: both are a non-null pointer to an object and nothing else.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }

    /// Gives the reference to the caller.
    #[inline]
    pub fn into_ptr(self) -> *mut ffi::PyObject {
        let pointer = self.0.as_ptr();
        std::mem::forget(self);
        pointer
    }
}

impl Drop for Object {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: asking is always allowed.
        let attached = || unsafe { ffi::PyGILState_Check() } != 0;
        debug_assert!(
            attached(),
            "a Python object was dropped by a detached thread"
        );
        // SAFETY: the reference is ours, and this thread is attached.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Object({:p})", self.0)
    }
}
