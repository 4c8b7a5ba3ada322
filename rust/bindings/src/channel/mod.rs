//! Channels for Python.
//!
//! [`entries`] has the calls that may wait, and the hot ones; [`ends`] senders and receivers. What an ordinary channel
//! does not need is beside them: [`sending`] and [`receiving`] by policies, with tokens and many at once, and
//! [`pressure`]; [`timer`] has the channels whose values come from a clock.

pub mod ends;
mod entries;
mod pressure;
mod receiving;
mod sending;
mod settings;
mod timer;

pub use pressure::tell_if_special;
pub use timer::{after, refuse_send, tick};

use std::{
    mem::ManuallyDrop,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use penstock_core::channel::{Channel, Ends, Overflow};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyMemoryError, PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::PyString,
};

use crate::{
    convert::{Passed, shown},
    event_loop,
    hot::Definition,
    mode::{Mode, mode},
    object::Object,
};
use pressure::Observers;

/// The raw entries of the class.
pub fn methods() -> [&'static [Definition]; 4] {
    [
        &entries::METHODS,
        &sending::METHODS,
        &receiving::METHODS,
        std::slice::from_ref(&pressure::METHOD),
    ]
}

/// A queue between tasks, threads and `async def` tasks: first in, first out, nothing lost, nothing twice.
///
/// With `capacity=0` a send waits until a receiver takes the value (a rendezvous), with `capacity=None` it never waits
/// (unbounded); otherwise the channel holds up to `capacity` values. Who waits is served in the order it came.
///
/// `overflow` is what a send does that finds no room: `"block"` waits for it, `"drop_newest"` throws its own value
/// away, `"drop_oldest"` the oldest that takes up room, `"error"` raises `Full`. To drop, a channel needs a
/// `capacity` of 1 at least; what it dropped is in `stats()`. `rate` is a `Rate`: senders then also wait for tokens,
/// in the order they came.
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
    /// It has a policy, a rate or observers: the one thing that hot calls look at. Once set, it stays.
    special: AtomicBool,
    observers: Observers,
}

impl ChannelObject {
    /// An ordinary one.
    fn of(core: Channel<Object, Mode>, name: Option<Object>) -> Self {
        Self {
            core,
            ends: Ends::new(mode()),
            name: Mutex::new(name),
            special: AtomicBool::new(false),
            observers: Observers::default(),
        }
    }

    #[inline]
    pub fn core(&self) -> &Channel<Object, Mode> {
        &self.core
    }

    /// Whether a send or a receive has more to do than the core's.
    #[inline]
    pub fn is_special(&self) -> bool {
        // Ordering: Relaxed, a call that runs at the same time as `on_pressure` may come before it.
        self.special.load(Ordering::Relaxed)
    }

    fn make_special(&self) {
        // Ordering: Relaxed, as above; an observer is published by its link.
        self.special.store(true, Ordering::Relaxed);
    }

    fn observers(&self) -> &Observers {
        &self.observers
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
    #[pyo3(
        signature = (capacity=Passed::No, *, overflow=Passed::No, rate=None, name=None),
        text_signature = "(capacity=0, *, overflow='block', rate=None, name=None)"
    )]
    fn new(
        capacity: Passed<'_>,
        overflow: Passed<'_>,
        rate: Option<&Bound<'_, PyAny>>,
        name: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let overflow = match overflow {
            Passed::No => Overflow::Block,
            Passed::As(value) => settings::overflow(&value)?,
        };
        let rate = rate.map(settings::rate).transpose()?;
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
        if overflow.drops() && capacity == Some(0) {
            return Err(settings::nothing_to_drop(overflow));
        }
        let core = match capacity {
            None => Channel::unbounded(mode()),
            Some(capacity) => Channel::try_bounded(capacity, mode()).ok_or_else(|| {
                PyMemoryError::new_err(format!(
                    "there is no memory for a channel with capacity={capacity}"
                ))
            })?,
        };
        let mut core = core.with_overflow(overflow);
        if let Some(rate) = rate {
            core = core.with_rate(rate, Instant::now(), mode());
        }
        // SAFETY: alive, and attached.
        let name = name.map(|name| unsafe { Object::new(name.as_ptr()) });
        let channel = Self::of(core, name);
        if overflow != Overflow::Block || rate.is_some() {
            channel.make_special();
        }
        Ok(channel)
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

    /// Counts and times since the channel was made, as a `ChannelStats`.
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
            stats.send_waited.as_secs_f64(),
            stats.recv_waited.as_secs_f64(),
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
        let mut each = |value: &Object| {
            if result.is_ok() {
                result = visit.call(value.as_py());
            }
        };
        // SAFETY: the collector has stopped every other thread, by the GIL or by stopping the world.
        unsafe { self.core.for_each(&mut each) };
        self.observers.for_each(each);
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
        self.observers.clear();
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
        let shown = shown(value);
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
