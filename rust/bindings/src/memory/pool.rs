//! `BufferPool`: the class, its figures, and how many bytes an argument may ask for.

use penstock_core::memory::{Pool, PoolOptions};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::PyInt,
};

use super::{
    map::{Picture, picture},
    scope::BufferScope,
    watch::Watch,
};
use crate::{
    convert::Passed,
    mode::{Mode, mode},
};

/// Bytes of a pool, counted as bytes of size classes: ``in_use + cached == reserved``.
///
/// ``reserved_peak`` is the most that ``reserved`` has been.
#[pyclass(frozen, eq, get_all, skip_from_py_object, module = "penstock")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferStats {
    in_use: usize,
    cached: usize,
    reserved: usize,
    reserved_peak: usize,
}

#[pymethods]
impl BufferStats {
    fn __repr__(&self) -> String {
        let Self {
            in_use,
            cached,
            reserved,
            reserved_peak,
        } = self;
        format!(
            "BufferStats(in_use={in_use}, cached={cached}, reserved={reserved}, \
             reserved_peak={reserved_peak})"
        )
    }
}

/// A pool of buffers: memory in size classes that is lent, and lent again when it comes back.
///
/// ``max_bytes`` bounds what is in use, counted in size classes (a request of n bytes takes at most an
/// eighth more from 1 KiB up, below that the next multiple of 64); ``acquire`` then waits where it would
/// be more. ``zero=True`` clears memory before it is lent. Any thread or task may acquire and release.
///
/// >>> from penstock import BufferPool
/// >>> pool = BufferPool(max_bytes=1 << 20)
/// >>> buffer = pool.acquire(1000)
/// >>> len(buffer), pool.stats().in_use
/// (1000, 1024)
/// >>> buffer.release()
/// >>> pool.stats().in_use, pool.stats().cached
/// (0, 1024)
#[pyclass(frozen, weakref, module = "penstock")]
pub struct BufferPool {
    pub(super) pool: Pool<Mode>,
    pub(super) watch: Watch,
}

#[pymethods]
impl BufferPool {
    #[new]
    #[pyo3(
        signature = (max_bytes=None, *, zero=Passed::No),
        text_signature = "(max_bytes=None, *, zero=False)"
    )]
    fn new(max_bytes: Option<&Bound<'_, PyAny>>, zero: Passed<'_>) -> PyResult<Self> {
        let max_bytes = match max_bytes {
            None => None,
            Some(value) => Some(byte_count(value, "max_bytes", 1, "None or an int >= 1")?),
        };
        let zero = match zero {
            Passed::No => false,
            Passed::As(value) => value.extract().map_err(|_| {
                let shown = value
                    .repr()
                    .map_or_else(|_| "?".to_owned(), |text| text.to_string());
                PyTypeError::new_err(format!("zero must be a bool, not {shown}"))
            })?,
        };
        let watch = Watch::new(zero);
        let zero = zero && !watch.clears();
        Ok(Self {
            pool: Pool::new(mode(), PoolOptions { max_bytes, zero }),
            watch,
        })
    }

    /// What the pool holds now.
    fn stats(&self) -> BufferStats {
        let stats = self.pool.stats();
        BufferStats {
            in_use: stats.in_use,
            cached: stats.cached,
            reserved: stats.reserved,
            reserved_peak: stats.reserved_peak,
        }
    }

    /// A block at whose end the buffers that were acquired in it are released: ``with pool.scope() as scope:``.
    ///
    /// >>> from penstock import BufferPool
    /// >>> with BufferPool().scope() as scope:
    /// ...     len(scope.acquire(4096))
    /// 4096
    fn scope(this: &Bound<'_, Self>) -> BufferScope {
        BufferScope::new(this)
    }

    /// Address, bytes, site and seconds of the buffers that are lent, as far as they were sampled; the longest first.
    fn _held(&self, py: Python<'_>) -> Vec<(usize, usize, String, f64)> {
        self.watch.held(py)
    }

    /// What the pool is made of now.
    fn _map<'py>(&self, py: Python<'py>) -> Picture<'py> {
        picture(py, self)
    }

    fn __repr__(this: &Bound<'_, Self>) -> String {
        let (pool, options) = (this.get().pool.stats(), this.get().pool.options());
        let limit = match options.max_bytes {
            Some(bytes) => format!(" of {bytes}"),
            None => String::new(),
        };
        format!(
            "<penstock.BufferPool at {:p}: {}{limit} bytes in use, {} cached>",
            this.as_ptr(),
            pool.in_use,
            pool.cached,
        )
    }

    #[expect(clippy::unused_self, reason = "a method of the protocol")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a BufferPool cannot be pickled or copied: the buffers it has lent have to come back to it",
        ))
    }
}

/// # Safety
/// `this` is a `BufferPool`, alive as long as the result is used.
#[inline]
pub(super) unsafe fn pool_of<'a>(py: Python<'a>, this: &'a *mut ffi::PyObject) -> &'a BufferPool {
    // SAFETY: as promised by the caller.
    unsafe { Bound::ref_from_ptr(py, this).cast_unchecked::<BufferPool>() }.get()
}

/// A number of bytes from an argument.
#[inline]
pub(super) fn byte_count(
    value: &Bound<'_, PyAny>,
    name: &str,
    least: isize,
    allowed: &str,
) -> PyResult<usize> {
    if value.is_exact_instance_of::<PyInt>() {
        // SAFETY: attached, with an int.
        let number = unsafe { ffi::PyLong_AsSsize_t(value.as_ptr()) };
        if number >= least {
            return Ok(number.cast_unsigned());
        }
    }
    any_byte_count(value, name, least, allowed)
}

#[cold]
fn any_byte_count(
    value: &Bound<'_, PyAny>,
    name: &str,
    least: isize,
    allowed: &str,
) -> PyResult<usize> {
    // SAFETY: attached, with a live object. A number too large to be one of bytes was an error, and is clipped here. -1
    // may be an error, and is refused below in any case.
    let number = unsafe {
        ffi::PyErr_Clear();
        ffi::PyNumber_AsSsize_t(value.as_ptr(), std::ptr::null_mut())
    };
    if number >= least {
        return Ok(number.cast_unsigned());
    }
    Err(bad_count(value, name, allowed))
}

#[cold]
fn bad_count(value: &Bound<'_, PyAny>, name: &str, allowed: &str) -> PyErr {
    let error = PyErr::take(value.py());
    let shown = value
        .repr()
        .map_or_else(|_| "?".to_owned(), |text| text.to_string());
    let message = format!("{name} must be {allowed}, not {shown}");
    match error {
        Some(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            PyTypeError::new_err(message)
        }
        Some(error) => error, // what the value's own `__index__` raised
        None => PyValueError::new_err(message),
    }
}
