//! Where `Borrowed` objects come from, and where they go: [by hand](ByHand), as tasks and [buffers](super::buffer_object),
//! because `PyO3`'s way costs more than the pool does. Unlike those they refer to anything, so the collector knows each.

use pyo3::{ffi, prelude::*};

use super::borrowed::Borrowed;
use crate::by_hand::ByHand;

static OBJECTS: ByHand<Borrowed> = ByHand::new();

/// Takes the class over. Called once, by the module's import.
pub(super) fn load(py: Python<'_>) {
    OBJECTS.take_over(py, dealloc);
}

/// Makes an object; null with an exception set if there is no memory for it.
#[inline]
pub(super) fn new(py: Python<'_>, borrowed: Borrowed) -> *mut ffi::PyObject {
    if OBJECTS.offset() == 0 {
        return OBJECTS.first(py, borrowed);
    }
    // SAFETY: attached; the memory is fresh, of the size that the class says, and whole when the collector sees it.
    unsafe {
        let object = ffi::PyObject_GC_New::<ffi::PyObject>(OBJECTS.class());
        if object.is_null() {
            drop(borrowed);
            return object;
        }
        OBJECTS.weak_references(object).write(std::ptr::null_mut());
        OBJECTS.write(object, borrowed);
        ffi::PyObject_GC_Track(object.cast());
        object
    }
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on a `Borrowed` that nobody refers to, attached.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        OBJECTS.empty(object);
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}
