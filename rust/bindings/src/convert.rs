//! Arguments in.

use std::time::{Duration, Instant};

use pyo3::{
    Borrowed,
    exceptions::{PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::PyString,
};

use crate::error::{Raised, raise};

/// An argument that may be left out. Unlike an `Option` it tells `None` from nothing.
pub enum Passed<'py> {
    No,
    As(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Passed<'py> {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::As(value.to_owned()))
    }
}

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    Forever,
    /// Tries once.
    None,
    Until(Instant),
}

impl Patience {
    /// Reads a `timeout=` argument: `None`, or seconds that are not negative.
    pub fn from_timeout(py: Python<'_>, value: *mut ffi::PyObject) -> Result<Self, Raised> {
        // SAFETY: `value` is a live argument, and the thread is attached.
        let value = unsafe { Bound::ref_from_ptr(py, &value) };
        if value.is_none() {
            return Ok(Patience::Forever);
        }
        Self::from_seconds(value, "timeout", "None or a number of seconds >= 0")
    }

    /// Reads an argument that is a number of seconds, and not negative.
    pub fn from_seconds(
        value: &Bound<'_, PyAny>,
        name: &str,
        allowed: &str,
    ) -> Result<Self, Raised> {
        let time = seconds(value, name, allowed).map_err(|error| raise(value.py(), error))?;
        let until = |time| {
            Instant::now()
                .checked_add(time)
                .map_or(Patience::Forever, Patience::Until)
        };
        Ok(match time {
            Some(time) if time.is_zero() => Patience::None,
            Some(time) => until(time),
            None => Patience::Forever,
        })
    }

    /// The `timeout=` of a raw entry that takes nothing else.
    ///
    /// # Safety
    /// As for [`parse`].
    pub unsafe fn parse(
        py: Python<'_>,
        function: &str,
        arguments: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        keywords: *mut ffi::PyObject,
    ) -> Result<Self, Raised> {
        // SAFETY: the caller's promise.
        let [timeout] = unsafe { parse(py, function, ["timeout"], 0, arguments, count, keywords) }?;
        Self::from_optional(py, timeout)
    }

    /// The same for an argument that may be missing (null).
    pub fn from_optional(py: Python<'_>, value: *mut ffi::PyObject) -> Result<Self, Raised> {
        if value.is_null() {
            return Ok(Patience::Forever);
        }
        Self::from_timeout(py, value)
    }

    pub fn deadline(self) -> Option<Instant> {
        match self {
            Patience::Until(deadline) => Some(deadline),
            Patience::Forever | Patience::None => None,
        }
    }
}

/// A value in the words of an error about it.
pub fn shown(value: &Bound<'_, PyAny>) -> String {
    value
        .repr()
        .map_or_else(|_| "?".to_owned(), |text| text.to_string())
}

/// A number of seconds that is not negative; `None` is longer than anyone will wait.
pub fn seconds(value: &Bound<'_, PyAny>, name: &str, allowed: &str) -> PyResult<Option<Duration>> {
    let refuse = |error: PyErr| {
        let shown = shown(value);
        let message = format!("{name} must be {allowed}, not {shown}");
        if error.is_instance_of::<PyTypeError>(value.py()) {
            PyTypeError::new_err(message)
        } else {
            PyValueError::new_err(message)
        }
    };
    let number: f64 = value.extract().map_err(refuse)?;
    if number.is_nan() || number < 0.0 {
        return Err(refuse(PyValueError::new_err("")));
    }
    Ok(Duration::try_from_secs_f64(number).ok())
}

/// The arguments of a raw entry, `METH_FASTCALL | METH_KEYWORDS`: the `required` ones, and null for what is left out.
///
/// # Safety
/// The arguments are those of such a call; the thread is attached.
pub unsafe fn parse<const N: usize>(
    py: Python<'_>,
    function: &str,
    names: [&str; N],
    required: usize,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> Result<[*mut ffi::PyObject; N], Raised> {
    let mut values = [std::ptr::null_mut(); N];
    let count = count.cast_unsigned();
    let type_error = |message: String| Err(raise(py, PyTypeError::new_err(message)));
    if count > N {
        return type_error(format!(
            "{function}() takes at most {N} arguments ({count} given)"
        ));
    }
    for (index, value) in values.iter_mut().enumerate().take(count) {
        // SAFETY: a vectorcall has `count` positional arguments.
        *value = unsafe { *arguments.add(index) };
    }
    if !keywords.is_null() {
        // SAFETY: a vectorcall's keywords are a tuple of strings, their values after the positional ones.
        for index in 0..unsafe { ffi::PyTuple_GET_SIZE(keywords) } {
            // SAFETY: as above.
            let (name, value) = unsafe {
                let name = ffi::PyTuple_GET_ITEM(keywords, index);
                (
                    Bound::ref_from_ptr(py, &name)
                        .cast_unchecked::<PyString>()
                        .to_owned(),
                    *arguments.add(count + index.cast_unsigned()),
                )
            };
            // Not by way of `str()`, which runs signal handlers: their exception would look like a wrong name.
            let is_name = |known: &&str| name.to_str().is_ok_and(|name| name == *known);
            let Some(at) = names.iter().position(is_name) else {
                return type_error(format!(
                    "{function}() got an unexpected keyword argument '{name}'"
                ));
            };
            if !values[at].is_null() {
                return type_error(format!(
                    "{function}() got multiple values for argument '{name}'"
                ));
            }
            values[at] = value;
        }
    }
    if let Some(missing) = (0..required).find(|at| values[*at].is_null()) {
        return type_error(format!(
            "{function}() missing required argument '{}'",
            names[missing]
        ));
    }
    Ok(values)
}
