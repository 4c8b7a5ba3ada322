//! Where `Buffer` objects come from, and where they go.
//!
//! [By hand](ByHand), because `PyO3`'s way costs more than the pool does.
//!
//! With the GIL a few used objects wait to be used again: the interpreter's allocator, in its turn, gives a page back with
//! the last object in it and takes it again for the next, so a program that has one buffer at a time would pay for that
//! with each. Without the GIL its allocator keeps pages, and a list per thread would be left behind by threads that end.
//!
//! A buffer that goes without having been released may be a leak that somebody wants to hear of. That is said while
//! the object still exists, by its finalizer, since the warning names it as its source.

#[cfg(not(Py_GIL_DISABLED))]
use std::cell::Cell;
use std::ptr;

use pyo3::{ffi, prelude::*};

use super::buffer::Buffer;
use crate::{by_hand::ByHand, error::put_aside, interpreter, object};

static OBJECTS: ByHand<Buffer> = ByHand::new();

/// Takes the class over. Called once, by the module's import.
pub(super) fn load(py: Python<'_>) {
    let class = OBJECTS.take_over(py, dealloc);
    // SAFETY: attached, and no object of the class is there yet.
    unsafe { (*class).tp_finalize = Some(finalize) };
}

/// Used objects, with no buffer in them and no weak references.
#[cfg(not(Py_GIL_DISABLED))]
struct Spare {
    /// The first of them, linked through the first word of their struct.
    first: Cell<*mut ffi::PyObject>,
    count: Cell<usize>,
}

// SAFETY: the GIL guards it: its functions are called by attached threads.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl Sync for Spare {}

#[cfg(not(Py_GIL_DISABLED))]
static SPARE: Spare = Spare {
    first: Cell::new(ptr::null_mut()),
    count: Cell::new(0),
};

#[cfg(not(Py_GIL_DISABLED))]
impl Spare {
    const MAX: usize = 64;

    /// # Safety
    /// Attached; the offset is that of the buffer in its object.
    #[inline]
    unsafe fn take(&self, offset: usize) -> *mut ffi::PyObject {
        let object = self.first.get();
        if !object.is_null() {
            // SAFETY: on the list, so its first word is the link.
            self.first.set(unsafe { link(object, offset).read() });
            self.count.set(self.count.get() - 1);
        }
        object
    }

    /// Says whether there was room for it.
    ///
    /// # Safety
    /// As for [`take`](Self::take); the object has no buffer in it and no weak references, and is the caller's.
    #[inline]
    unsafe fn put(&self, object: *mut ffi::PyObject, offset: usize) -> bool {
        if self.count.get() == Self::MAX {
            return false;
        }
        // SAFETY: nothing is in it.
        unsafe { link(object, offset).write(self.first.replace(object)) };
        self.count.set(self.count.get() + 1);
        true
    }
}

/// # Safety
/// `object` is memory of the class, with no buffer in it.
#[cfg(not(Py_GIL_DISABLED))]
#[inline]
unsafe fn link(object: *mut ffi::PyObject, offset: usize) -> *mut *mut ffi::PyObject {
    // SAFETY: inside the object, by the caller's promise.
    unsafe { object.byte_add(offset).cast() }
}

/// Memory for an object, which its class is counted for: used, or fresh.
///
/// # Safety
/// Attached; the offset is that of the buffer in its object.
#[inline]
unsafe fn allocate(offset: usize) -> *mut ffi::PyObject {
    let class = OBJECTS.class();
    #[cfg(Py_GIL_DISABLED)]
    let _ = offset;
    // SAFETY: attached; what is on the list has the class's size, and nobody knows it.
    unsafe {
        #[cfg(not(Py_GIL_DISABLED))]
        {
            let used = SPARE.take(offset);
            if !used.is_null() {
                return ffi::PyObject_Init(used, class);
            }
        }
        let object = ffi::PyObject_New::<ffi::PyObject>(class);
        if !object.is_null() {
            OBJECTS.weak_references(object).write(ptr::null_mut());
        }
        object
    }
}

/// # Safety
/// Attached; nobody refers to the object, and it has no buffer in it and no weak references.
#[inline]
unsafe fn free(object: *mut ffi::PyObject, offset: usize) {
    #[cfg(Py_GIL_DISABLED)]
    let _ = offset;
    // SAFETY: as promised by the caller.
    unsafe {
        let class = ffi::Py_TYPE(object);
        #[cfg(not(Py_GIL_DISABLED))]
        let is_kept = SPARE.put(object, offset);
        #[cfg(Py_GIL_DISABLED)]
        let is_kept = false;
        if !is_kept {
            ffi::PyObject_Free(object.cast());
        }
        interpreter::uncount_object(class);
    }
}

/// Makes an object; null with an exception set if there is no memory for it.
#[inline]
pub(super) fn new(py: Python<'_>, buffer: Buffer) -> *mut ffi::PyObject {
    let offset = OBJECTS.offset();
    if offset == 0 {
        return OBJECTS.first(py, buffer);
    }
    // SAFETY: attached; the memory is the class's, and nothing is in it.
    unsafe {
        let object = allocate(offset);
        if object.is_null() {
            drop(buffer);
            return object;
        }
        OBJECTS.write(object, buffer);
        object
    }
}

/// Reports the leak of a buffer that goes without having been released.
unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    // SAFETY: called in `dealloc`, attached, and the object is alive again meanwhile.
    unsafe {
        let py = Python::assume_attached();
        let aside = put_aside(py);
        object::get::<Buffer>(object).report_leak(py, object);
        aside.restore(py);
    }
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on a buffer that nobody refers to, attached.
    unsafe {
        if object::get::<Buffer>(object).is_leak()
            && ffi::PyObject_CallFinalizerFromDealloc(object) < 0
        {
            return; // the warning's receiver has kept it
        }
        OBJECTS.empty(object);
        free(object, OBJECTS.offset());
    }
}
