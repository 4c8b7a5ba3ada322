//! Where `Borrowed` objects come from, and where they go: as for tasks and for [buffers](super::buffer_object), because
//! `PyO3`'s way costs more than the pool does. Unlike those they refer to anything, so the collector knows each of them.

use std::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

use pyo3::{ffi, prelude::*};

use super::borrowed::Borrowed;
use crate::error::raise;

/// The class. Written once, during the module's import.
static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// How many bytes into an object its [`Borrowed`] is, or 0 before the first object.
static OFFSET: AtomicUsize = AtomicUsize::new(0);

/// Takes the class over. Called once, by the module's import.
pub(super) fn load(py: Python<'_>) {
    let class = py.get_type::<Borrowed>().as_type_ptr();
    // SAFETY: attached, and no object of the class is there yet.
    unsafe { (*class).tp_dealloc = Some(dealloc) };
    // Ordering: Relaxed, during the import.
    CLASS.store(class, Ordering::Relaxed);
}

/// The struct in `object`.
///
/// # Safety
/// `object` is a `Borrowed`, alive as long as the result is used.
#[inline]
pub(super) unsafe fn borrowed_of<'a>(object: *mut ffi::PyObject) -> &'a Borrowed {
    // SAFETY: there is an object, so the offset is known; the rest is the caller's promise.
    unsafe {
        let offset = OFFSET.load(Ordering::Relaxed); // Ordering: Relaxed, a constant once it is known.
        &*object.byte_add(offset).cast::<Borrowed>()
    }
}

/// The list of weak references to `object`, or null.
///
/// # Safety
/// `object` has the memory of a `Borrowed`.
#[inline]
unsafe fn weak_references(object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject {
    // SAFETY: the class says where.
    unsafe {
        let class = CLASS.load(Ordering::Relaxed); // Ordering: Relaxed, see `load`.
        object.byte_offset((*class).tp_weaklistoffset).cast()
    }
}

/// Makes an object; null with an exception set if there is no memory for it.
#[inline]
pub(super) fn new(py: Python<'_>, borrowed: Borrowed) -> *mut ffi::PyObject {
    let offset = OFFSET.load(Ordering::Relaxed); // Ordering: Relaxed, a constant once it is known.
    if offset == 0 {
        return first(py, borrowed);
    }
    // SAFETY: attached; the memory is fresh, of the size that the class says, and whole when the collector sees it.
    unsafe {
        let class = CLASS.load(Ordering::Relaxed); // Ordering: Relaxed, see `load`.
        let object = ffi::PyObject_GC_New::<ffi::PyObject>(class);
        if object.is_null() {
            drop(borrowed);
            return object;
        }
        weak_references(object).write(ptr::null_mut());
        object.byte_add(offset).cast::<Borrowed>().write(borrowed);
        ffi::PyObject_GC_Track(object.cast());
        object
    }
}

/// Makes the first object in `PyO3`'s own way, and so finds out where it puts the struct.
#[cold]
fn first(py: Python<'_>, borrowed: Borrowed) -> *mut ffi::PyObject {
    match Bound::new(py, borrowed) {
        Ok(borrowed) => {
            let address = ptr::from_ref(borrowed.get()).addr();
            let object = borrowed.into_ptr();
            // Ordering: Relaxed, whoever stores it stores the same.
            OFFSET.store(address - object.addr(), Ordering::Relaxed);
            object
        }
        Err(error) => {
            raise(py, error);
            ptr::null_mut()
        }
    }
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on a `Borrowed` that nobody refers to, attached. There is an object, so the offset is
    // known.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        if !(*weak_references(object)).is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        let offset = OFFSET.load(Ordering::Relaxed); // Ordering: Relaxed, see `new`.
        ptr::drop_in_place(object.byte_add(offset).cast::<Borrowed>());
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}
