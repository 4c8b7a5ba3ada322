//! Raw entries: what is called most, and all that may park.
//!
//! `PyO3` wraps each method in a guard with a destructor, counts attachments per thread, and has no `METH_O`.
//! A call that parks must have none of that on its stack (see `fiber.rs`), and in the shortest calls it
//! would be most of the cost. So these few are plain C functions, put on their classes by
//! [`add_methods`]; each is declared beside what it calls.

use std::{
    cell::UnsafeCell,
    ffi::{CStr, c_int},
};

use pyo3::{
    ffi::{self, PyMethodDef, PyMethodDefPointer},
    prelude::*,
    types::{PyModule, PyType},
};

pub type NoArgs = unsafe extern "C-unwind" fn(
    this: *mut ffi::PyObject,
    unused: *mut ffi::PyObject,
) -> *mut ffi::PyObject;
pub type OneArg = NoArgs;
pub type Fast = unsafe extern "C-unwind" fn(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// The definition of one raw entry. It lives as long as the process, as CPython wants it.
#[repr(transparent)]
pub struct Definition(UnsafeCell<PyMethodDef>);

// SAFETY: CPython reads it only; the cell is there because its functions take a mutable pointer.
unsafe impl Sync for Definition {}

impl Definition {
    const fn new(name: &CStr, method: PyMethodDefPointer, flags: c_int, doc: &CStr) -> Self {
        Self(UnsafeCell::new(PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: method,
            ml_flags: flags,
            ml_doc: doc.as_ptr(),
        }))
    }

    /// The end of a static class's methods.
    pub const fn end() -> Self {
        Self(UnsafeCell::new(PyMethodDef::zeroed()))
    }

    /// An entry without arguments.
    pub const fn no_args(name: &'static CStr, entry: NoArgs, doc: &'static CStr) -> Self {
        // SAFETY: "C" and "C-unwind" differ only in what an unwind through them does, and the caller is C.
        let method = unsafe { std::mem::transmute::<NoArgs, ffi::PyCFunction>(entry) };
        let method = PyMethodDefPointer {
            PyCFunction: method,
        };
        Self::new(name, method, ffi::METH_NOARGS, doc)
    }

    /// An entry with exactly one argument, by position.
    pub const fn one_arg(name: &'static CStr, entry: OneArg, doc: &'static CStr) -> Self {
        // SAFETY: as above.
        let method = unsafe { std::mem::transmute::<OneArg, ffi::PyCFunction>(entry) };
        let method = PyMethodDefPointer {
            PyCFunction: method,
        };
        Self::new(name, method, ffi::METH_O, doc)
    }

    /// An entry with optional or named arguments.
    pub const fn fast(name: &'static CStr, entry: Fast, doc: &'static CStr) -> Self {
        // SAFETY: as above.
        let method =
            unsafe { std::mem::transmute::<Fast, ffi::PyCFunctionFastWithKeywords>(entry) };
        let method = PyMethodDefPointer {
            PyCFunctionFastWithKeywords: method,
        };
        Self::new(name, method, ffi::METH_FASTCALL | ffi::METH_KEYWORDS, doc)
    }

    pub const fn get(&self) -> *mut PyMethodDef {
        self.0.get()
    }
}

/// Puts raw entries on a class as methods.
pub fn add_methods(class: &Bound<'_, PyType>, entries: &'static [Definition]) -> PyResult<()> {
    let py = class.py();
    for entry in entries {
        // SAFETY: the class is alive and the definition is static; the result is a new reference.
        let (name, method) = unsafe {
            let method = ffi::PyDescr_NewMethod(class.as_type_ptr(), entry.get());
            (
                CStr::from_ptr((*entry.get()).ml_name),
                Bound::from_owned_ptr_or_err(py, method)?,
            )
        };
        class.setattr(&*name.to_string_lossy(), method)?;
    }
    Ok(())
}

/// Puts raw entries in a module as functions.
pub fn add_functions(module: &Bound<'_, PyModule>, entries: &'static [Definition]) -> PyResult<()> {
    let py = module.py();
    let module_name = module.name()?;
    for entry in entries {
        // SAFETY: the definition is static; the module's name is alive; the result is a new reference.
        let (name, function) = unsafe {
            let function =
                ffi::PyCFunction_NewEx(entry.get(), std::ptr::null_mut(), module_name.as_ptr());
            (
                CStr::from_ptr((*entry.get()).ml_name),
                Bound::from_owned_ptr_or_err(py, function)?,
            )
        };
        module.setattr(&*name.to_string_lossy(), function)?;
    }
    Ok(())
}
