//! The one place where core errors become exceptions.
//!
//! The classes are Python's (`penstock.exceptions`), so that they have a place in the standard tree and pickle.

use std::ffi::CString;

use pyo3::{exceptions::PyTimeoutError, ffi, prelude::*, sync::PyOnceLock, types::PyType};

/// A Python exception is set; the raw entry returns its error value.
#[derive(Clone, Copy, Debug)]
pub struct Raised;

/// The classes of `penstock.exceptions`.
pub struct Classes {
    pub cancelled: Py<PyType>,
    pub channel_closed: Py<PyType>,
    pub empty: Py<PyType>,
    pub full: Py<PyType>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

/// Loads the classes; called once, by the module's own import.
pub fn load(py: Python<'_>) -> PyResult<()> {
    let module = py.import("penstock.exceptions")?;
    let class = |name: &str| -> PyResult<Py<PyType>> {
        Ok(module.getattr(name)?.cast_into::<PyType>()?.unbind())
    };
    CLASSES.get_or_try_init(py, || {
        PyResult::Ok(Classes {
            cancelled: class("Cancelled")?,
            channel_closed: class("ChannelClosed")?,
            empty: class("Empty")?,
            full: class("Full")?,
        })
    })?;
    Ok(())
}

pub fn classes(py: Python<'_>) -> &'static Classes {
    CLASSES.get(py).expect("loaded by the module's import")
}

/// What a waiting or immediate operation can fail with.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    Cancelled,
    Closed,
    Empty,
    Full,
    TimedOut,
}

impl Failure {
    /// Sets the exception of this failure, with `message`.
    pub fn raise(self, py: Python<'_>, message: &str) -> Raised {
        let class = match self {
            Failure::Cancelled => classes(py).cancelled.as_ptr(),
            Failure::Closed => classes(py).channel_closed.as_ptr(),
            Failure::Empty => classes(py).empty.as_ptr(),
            Failure::Full => classes(py).full.as_ptr(),
            Failure::TimedOut => py.get_type::<PyTimeoutError>().as_ptr(),
        };
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: attached, as `py` proves; the class and the message are alive.
        unsafe { ffi::PyErr_SetString(class, message.as_ptr()) };
        Raised
    }
}

/// Sets `error` and says so.
pub fn raise(py: Python<'_>, error: PyErr) -> Raised {
    error.restore(py);
    Raised
}

/// The exception that was set, while others run. It has no destructor: see `unwind.rs`.
#[must_use = "an exception that is not restored is lost"]
pub struct Aside(*mut ffi::PyObject);

/// Takes the exception that is set, if one is.
pub fn put_aside(py: Python<'_>) -> Aside {
    Aside(PyErr::take(py).map_or(std::ptr::null_mut(), |error| {
        error.into_value(py).into_ptr()
    }))
}

impl Aside {
    /// Drops it: another one is passed on in its place. Attached.
    pub fn discard(self) {
        // SAFETY: null, or a strong reference that is ours.
        unsafe { ffi::Py_XDECREF(self.0) };
    }

    /// Sets the exception again.
    pub fn restore(self, py: Python<'_>) {
        if !self.0.is_null() {
            // SAFETY: a strong reference, given away.
            PyErr::from_value(unsafe { Bound::from_owned_ptr(py, self.0) }).restore(py);
        }
    }
}
