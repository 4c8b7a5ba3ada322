//! A class whose objects are made and freed by hand.
//!
//! `PyO3` allocates an object cleared, tracks it, and takes it apart inside a guard, which together cost more than many an
//! object lives. So the class's deallocator is replaced, and its objects are written into memory that its owner finds:
//! fresh, or used before. The first object is made in `PyO3`'s own way, which tells where in it the struct lies.

use std::{
    marker::PhantomData,
    ptr,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

use pyo3::{PyClass, ffi, prelude::*, pyclass::boolean_struct::True};

use crate::error::raise;

/// What is known of the class of `T`.
pub struct ByHand<T> {
    /// Written once, during the module's import.
    class: AtomicPtr<ffi::PyTypeObject>,
    /// How many bytes into an object its struct is, or 0 before the first object.
    offset: AtomicUsize,
    of: PhantomData<fn() -> T>,
}

impl<T: PyClass<Frozen = True> + Into<PyClassInitializer<T>> + Sync> ByHand<T> {
    pub const fn new() -> Self {
        Self {
            class: AtomicPtr::new(ptr::null_mut()),
            offset: AtomicUsize::new(0),
            of: PhantomData,
        }
    }

    /// Takes the class over, and gives it. Called once, by the module's import.
    pub fn take_over(&self, py: Python<'_>, dealloc: ffi::destructor) -> *mut ffi::PyTypeObject {
        let class = py.get_type::<T>().as_type_ptr();
        // SAFETY: attached, and no object of the class is there yet.
        unsafe { (*class).tp_dealloc = Some(dealloc) };
        // Ordering: Relaxed, during the import.
        self.class.store(class, Ordering::Relaxed);
        class
    }

    #[inline]
    pub fn class(&self) -> *mut ffi::PyTypeObject {
        self.class.load(Ordering::Relaxed) // Ordering: Relaxed, see `take_over`.
    }

    /// How many bytes into an object its struct is, or 0 before the first object.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset.load(Ordering::Relaxed) // Ordering: Relaxed, a constant once it is known.
    }

    /// The object that `value` is in, borrowed.
    #[inline]
    pub fn object_around(&self, value: &T) -> *mut ffi::PyObject {
        ptr::from_ref(value)
            .cast_mut()
            .wrapping_byte_sub(self.offset())
            .cast()
    }

    /// The list of weak references to `object`, or null.
    ///
    /// # Safety
    /// `object` has the memory of one of the class.
    #[inline]
    pub unsafe fn weak_references(&self, object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject {
        // SAFETY: the class says where.
        unsafe { object.byte_offset((*self.class()).tp_weaklistoffset).cast() }
    }

    /// Makes the first object in `PyO3`'s own way; null with an exception set if there is no memory for it.
    #[cold]
    pub fn first(&self, py: Python<'_>, value: T) -> *mut ffi::PyObject {
        match Bound::new(py, value) {
            Ok(made) => {
                let address = ptr::from_ref(made.get()).addr();
                let object = made.into_ptr();
                // Ordering: Relaxed, whoever stores it stores the same.
                self.offset
                    .store(address - object.addr(), Ordering::Relaxed);
                object
            }
            Err(error) => {
                raise(py, error);
                ptr::null_mut()
            }
        }
    }

    /// Puts the struct of an object in its place.
    ///
    /// # Safety
    /// `object` has the memory of one of the class with nothing in it, and there was a [first](Self::first) one.
    #[inline]
    pub unsafe fn write(&self, object: *mut ffi::PyObject, value: T) {
        // SAFETY: as promised by the caller.
        unsafe { object.byte_add(self.offset()).cast::<T>().write(value) };
    }

    /// Takes everything out of an object: its weak references, then its struct.
    ///
    /// # Safety
    /// Attached; nobody refers to the object, which the collector does not see.
    #[inline]
    pub unsafe fn empty(&self, object: *mut ffi::PyObject) {
        // SAFETY: as promised by the caller; there is an object, so the offset is known.
        unsafe {
            if !(*self.weak_references(object)).is_null() {
                ffi::PyObject_ClearWeakRefs(object);
            }
            ptr::drop_in_place(object.byte_add(self.offset()).cast::<T>());
        }
    }
}
