//! A strong reference to a Python object that is counted at once.
//!
//! `PyO3`'s `Py<T>` keeps its own count of attachments, which raw entries do not take part in: dropped in one, it
//! would go through a global pool. What the core holds for Python is an [`Object`] instead. It is made and
//! dropped by attached threads only; a debug build checks that.

use std::{
    fmt,
    ptr::{self, NonNull},
};

use pyo3::{Bound, Py, PyAny, PyClass, Python, ffi, pyclass::boolean_struct::True};

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

/// Lets whichever thread drops the last reference to `object` drop the object.
///
/// Without the GIL an object belongs to the thread that made it. What other threads do to its count is put right by that
/// thread, when it runs Python code again; if it waits for what happens as the object goes (the last sender closes a
/// channel), that is never. So an object that is made to be handed on, and that somebody may wait for the end of,
/// belongs to nobody from the start.
///
/// # Safety
/// Attached; this thread has just made `object`, has the one reference to it, and nobody else knows it.
#[inline]
pub unsafe fn disown(object: *mut ffi::PyObject) {
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: nobody else has it, by the caller's promise, and no collection runs before this thread detaches. The
    // count is written as the interpreter's own merge of the two counts writes it.
    unsafe {
        use std::sync::atomic::Ordering::Relaxed;
        const MERGED: isize = 0b11;
        const ONE: isize = 0b100;
        debug_assert_eq!(
            (*object).ob_ref_local.load(Relaxed),
            1,
            "somebody else knows it"
        );
        // Ordering: Relaxed, the object is published by whoever hands it on.
        (*object).ob_ref_local.store(0, Relaxed);
        (*object).ob_ref_shared.store(ONE | MERGED, Relaxed);
        (*object).ob_tid = 0;
    }
    #[cfg(not(Py_GIL_DISABLED))]
    let _ = object;
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

/// The struct in an object of the class `T`.
///
/// # Safety
/// `object` is of that class or one below it, and outlives the reference; this thread is attached.
#[inline]
pub unsafe fn get<'a, T: PyClass<Frozen = True> + Sync>(object: *mut ffi::PyObject) -> &'a T {
    // SAFETY: of the class, by the caller's promise; it is frozen, so there is no borrow to take.
    unsafe {
        let py = Python::assume_attached();
        let bound = Bound::ref_from_ptr(py, &object);
        &*ptr::from_ref(bound.cast_unchecked::<T>().get())
    }
}

/// A new reference to `None`.
///
/// # Safety
/// Attached.
#[inline]
pub unsafe fn none() -> *mut ffi::PyObject {
    // SAFETY: attached.
    unsafe { ffi::Py_NewRef(ffi::Py_None()) }
}
