//! Channels for Python.
//!
//! [`entries`] has the calls that may wait, and the hot ones; [`ends`] senders and receivers; [`timer`] the channels whose
//! values come from a clock.

pub mod ends;
mod entries;
mod timer;

pub use entries::METHODS;
pub use timer::{after, refuse_send, tick};

use std::{
    mem::ManuallyDrop,
    ptr,
    sync::{Mutex, PoisonError},
};

use penstock_core::channel::{Channel, Ends};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyMemoryError, PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::PyString,
};

use crate::{
    convert::Passed,
    event_loop,
    mode::{Mode, mode},
    object::Object,
};

/// A queue between tasks, threads and `async def` tasks: first in, first out, nothing lost, nothing twice.
///
/// With `capacity=0` a send waits until a receiver takes the value (a rendezvous), with `capacity=None` it never waits
/// (unbounded); otherwise the channel holds up to `capacity` values. Who waits is served in the order it came.
///
/// >>> from penstock import Channel, go
/// >>> numbers = Channel[int](capacity=2)
/// >>> def produce() -> None:
/// ...     for number in range(4):
/// ...         numbers.send(number)
/// ...     numbers.close()
/// >>> task = go(produce)
/// >>> list(numbers)
/// [0, 1, 2, 3]
#[pyclass(frozen, weakref, module = "penstock", name = "Channel")]
pub struct ChannelObject {
    core: Channel<Object, Mode>,
    /// Counts the `Sender`s and `Receiver`s, and closes the channel as the last of them goes.
    ends: Ends<Mode>,
    /// Set by the garbage collector only.
    name: Mutex<Option<Object>>,
}

impl ChannelObject {
    #[inline]
    pub fn core(&self) -> &Channel<Object, Mode> {
        &self.core
    }

    /// The struct in a `Channel` object.
    ///
    /// # Safety
    /// `object` is a `Channel` that outlives the reference.
    #[inline]
    pub unsafe fn from_object<'a>(object: *mut ffi::PyObject) -> &'a Self {
        // SAFETY: a `Channel`, by the caller's promise; the class is frozen, so there is no borrow to take.
        unsafe {
            let py = Python::assume_attached();
            let bound = Bound::ref_from_ptr(py, &object);
            &*ptr::from_ref(bound.cast_unchecked::<Self>().get())
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "the signatures are PyO3's"
)]
#[pymethods]
impl ChannelObject {
    #[new]
    #[pyo3(signature = (capacity=Passed::No, *, name=None), text_signature = "(capacity=0, *, name=None)")]
    fn new(capacity: Passed<'_>, name: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let capacity = match capacity {
            Passed::No => Some(0),
            Passed::As(value) => capacity_of(&value)?,
        };
        if let Some(name) = name
            && !name.is_instance_of::<PyString>()
        {
            return Err(PyTypeError::new_err(format!(
                "name must be None or a string, not {}",
                name.repr()?
            )));
        }
        let core = match capacity {
            None => Channel::unbounded(mode()),
            Some(capacity) => Channel::try_bounded(capacity, mode()).ok_or_else(|| {
                PyMemoryError::new_err(format!(
                    "there is no memory for a channel with capacity={capacity}"
                ))
            })?,
        };
        Ok(Self {
            core,
            ends: Ends::new(mode()),
            // SAFETY: alive, and attached.
            name: Mutex::new(name.map(|name| unsafe { Object::new(name.as_ptr()) })),
        })
    }

    /// Closes the channel. Senders fail from now on; receivers drain what is left. Closing twice does nothing.
    fn close(&self) {
        self.core.close();
    }

    /// How many values fit: 0 for a rendezvous, None where there is no bound.
    #[getter]
    fn capacity(&self) -> Option<usize> {
        self.core.capacity()
    }

    /// Whether `close()` was called, or the channel is one of `after()` whose time has come.
    #[getter]
    fn closed(&self) -> bool {
        self.core.is_closed()
    }

    /// The name it was given.
    #[getter]
    fn name(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.as_ref()?;
        // SAFETY: alive while it is in there.
        Some(unsafe { Bound::from_borrowed_ptr(py, name.as_ptr()) }.unbind())
    }

    /// Counts since the channel was made: `sent`, `received`, `dropped`, `send_waits`, `recv_waits`.
    fn stats(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let class = py.import("penstock.channel")?.getattr("ChannelStats")?;
        let stats = self.core.stats();
        let left = self.ends.dropped();
        let figures = (
            stats.sent,
            stats.received.saturating_sub(left), // the channel takes what it drops out as a receiver does
            stats.dropped + left,
            stats.send_waits,
            stats.recv_waits,
        );
        Ok(class.call1(figures)?.unbind())
    }

    fn __len__(&self) -> usize {
        self.core.len()
    }

    fn __bool__(&self) -> bool {
        true // a channel is not false for being empty
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let name = match this.name(slf.py()) {
            Some(name) => format!(" {}", name.bind(slf.py()).repr()?),
            None => String::new(),
        };
        let state = if this.core.is_closed() {
            "closed"
        } else {
            "open"
        };
        Ok(format!(
            "<penstock.Channel{name} at {:p}: {state}, {}/{}>",
            slf.as_ptr(),
            this.core.len(),
            this.core
                .capacity()
                .map_or_else(|| "unbounded".to_owned(), |capacity| capacity.to_string())
        ))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a Channel cannot be pickled or copied: it connects tasks of this process only",
        ))
    }

    #[classmethod]
    fn __class_getitem__(
        cls: &Bound<'_, pyo3::types::PyType>,
        item: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        crate::generic_alias(cls, item)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        let each = |value: &Object| {
            if result.is_ok() {
                result = visit.call(value.as_py());
            }
        };
        // SAFETY: the collector has stopped every other thread, by the GIL or by stopping the world.
        unsafe { self.core.for_each(each) };
        // A coroutine of an event loop that waits here is alive as long as the channel is.
        let mut sleeper = |object: *mut ffi::PyObject| {
            if result.is_ok() {
                // SAFETY: a strong reference that the waiter has, shown and not taken.
                let object = ManuallyDrop::new(unsafe { Object::steal(object) });
                result = visit.call(object.as_py());
            }
        };
        // SAFETY: as above.
        unsafe {
            self.core
                .for_each_waiter(|waiter| event_loop::show_sleeper(waiter, &mut sleeper));
        }
        result
    }

    fn __clear__(&self) {
        drop(self.core.clear());
    }
}

/// The slots that a position of the core's ring has room for.
const CAPACITY_MAX: usize = u32::MAX as usize;

/// `None`: unbounded.
fn capacity_of(value: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    if value.is_none() {
        return Ok(None);
    }
    let refuse = |kind: fn(String) -> PyErr| -> PyErr {
        let shown = value
            .repr()
            .map_or_else(|_| "?".to_owned(), |text| text.to_string());
        kind(format!(
            "capacity must be None or an int from 0 to {CAPACITY_MAX}, not {shown}"
        ))
    };
    // SAFETY: alive, and attached.
    if unsafe { ffi::PyIndex_Check(value.as_ptr()) } == 0 {
        return Err(refuse(PyTypeError::new_err));
    }
    value
        .extract::<usize>()
        .ok()
        .filter(|capacity| *capacity <= CAPACITY_MAX)
        .map(Some)
        .ok_or_else(|| refuse(PyValueError::new_err))
}
