//! Who is told when a channel fills up: `Channel.on_pressure`.
//!
//! A callback is Python code, so it is called where nothing is locked or half done: by the raw entries once their
//! operation is over, and by operations of coroutines, which cannot park in a plain call.

use std::{
    ffi::CStr,
    sync::{Mutex, OnceLock, PoisonError},
};

use penstock_core::channel::{Gauge, Pressure};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    ffi, intern,
    prelude::*,
    types::PyFloat,
};

use super::{ChannelObject, ends};
use crate::{
    boundary,
    convert::{parse, shown},
    error::{Raised, raise},
    hot::Definition,
    mode::{Mode, mode},
    object::{self, Object, none},
    unwind,
};

pub static METHOD: Definition = Definition::fast(c"on_pressure", on_pressure, ON_PRESSURE_DOC);

const ON_PRESSURE_DOC: &CStr = c"on_pressure($self, callback, high=0.8, low=0.5)\n--\n\n\
Have ``callback(channel, \"high\" | \"low\")`` called when the channel fills up, and when it has emptied again.\n\n\
``high`` and ``low`` are parts of the capacity. The callback hears \"high\" once ``len(channel)`` has reached\n\
``high * capacity`` values (rounded up), and then \"low\" once it is down to ``low * capacity`` (rounded down, and\n\
always fewer than \"high\" means), and so on in turn: once for each crossing, however much the length varies in\n\
between. A channel that is that full already is reported at once. Values of senders that wait do not count.\n\n\
It is called by whoever crossed the mark, after that operation, outside of every lock; so it may use the\n\
channel. One call of a callback is made at a time: a crossing during one is reported after it, in order, by the\n\
same thread. It should not wait: the send or receive that it is called from does not return before. What it\n\
raises goes to ``sys.unraisablehook``. There may be several callbacks; they stay as long as the channel. Does\n\
not wait.\n\n\
Raises:\n    \
TypeError: ``callback`` cannot be called, or a mark is no number.\n    \
ValueError: not ``0 < low <= high <= 1``, or a channel that holds nothing or has no bound.\n\n\
>>> from penstock import Channel\n\
>>> lines = Channel[str](capacity=10)\n\
>>> lines.on_pressure(lambda channel, pressure: print(pressure, len(channel)))\n\
>>> lines.send_many(\"abcdefghi\")\n\
high 8\n\
>>> lines.recv_many(5)\n\
low 4\n\
['a', 'b', 'c', 'd', 'e']\n";

/// The callbacks of a channel, in the order they came. None goes before the channel does.
#[derive(Default)]
pub struct Observers {
    first: Link,
}

type Link = OnceLock<Box<Observer>>;

struct Observer {
    gauge: Gauge<Mode>,
    /// Taken by the garbage collector only. Locked to count a reference, and not while Python code runs.
    callback: Mutex<Option<Object>>,
    next: Link,
}

impl Observers {
    fn iter(&self) -> impl Iterator<Item = &Observer> {
        std::iter::successors(self.first.get(), |observer| observer.next.get())
            .map(|observer| &**observer)
    }

    fn append(&self, mut observer: Box<Observer>) {
        let mut link = &self.first;
        while let Err(back) = link.set(observer) {
            observer = back;
            link = &link.get().expect("somebody else set it").next;
        }
    }

    /// Shows each callback to the collector, which has stopped the world: nobody holds a lock.
    pub fn for_each(&self, mut visit: impl FnMut(&Object)) {
        for observer in self.iter() {
            let callback = observer.lock();
            if let Some(callback) = &*callback {
                visit(callback);
            }
        }
    }

    /// Lets go of the callbacks.
    pub fn clear(&self) {
        for observer in self.iter() {
            let callback = observer.lock().take();
            drop(callback); // outside the lock
        }
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        // One by one: a list of many would be dropped by as deep a recursion.
        let mut link = self.first.take();
        while let Some(mut observer) = link {
            link = observer.next.take();
        }
    }
}

impl Observer {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Object>> {
        self.callback.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new reference to the callback, or null.
    fn callback(&self) -> *mut ffi::PyObject {
        match &*self.lock() {
            // SAFETY: alive while it is in there; the callers are attached.
            Some(callback) => unsafe { ffi::Py_NewRef(callback.as_ptr()) },
            None => std::ptr::null_mut(),
        }
    }

    /// # Safety
    /// Attached, with nothing alive that has a destructor; `channel` is alive.
    unsafe fn call(&self, py: Python<'_>, channel: *mut ffi::PyObject, pressure: Pressure) {
        let callback = self.callback();
        if callback.is_null() {
            return;
        }
        let word = match pressure {
            Pressure::High => intern!(py, "high"),
            Pressure::Low => intern!(py, "low"),
        }
        .as_ptr();
        // SAFETY: attached; all are alive, and the arguments are new references, given away.
        unsafe {
            let arguments = [ffi::Py_NewRef(channel), ffi::Py_NewRef(word)];
            let result = unwind::call(callback, arguments);
            if result.is_null() {
                if ffi::PyErr_ExceptionMatches(ffi::PyExc_KeyboardInterrupt) != 0 {
                    boundary::raise_later(); // the signal hit the callback, and was meant for the program
                } else {
                    ffi::PyErr_WriteUnraisable(callback);
                }
            }
            ffi::Py_XDECREF(result);
            ffi::Py_DECREF(callback);
        }
    }
}

/// Tells the callbacks of `channel` if its length has crossed a mark. Called after each change of it.
///
/// # Safety
/// Attached, with no exception set and nothing alive that has a destructor; `channel` is a `Channel`, alive.
#[cold]
pub unsafe fn tell(py: Python<'_>, channel: *mut ffi::PyObject) {
    // SAFETY: the caller's promise.
    let this = unsafe { object::get::<ChannelObject>(channel) };
    for observer in this.observers().iter() {
        // SAFETY: the caller's promise.
        unsafe { observer.look(py, channel, this) };
    }
}

/// The same of a channel or an end of one, if its channel has anything to tell.
///
/// # Safety
/// As for [`tell`].
#[inline]
pub unsafe fn tell_if_special(py: Python<'_>, object: *mut ffi::PyObject) {
    // SAFETY: the caller's promise; an end keeps its channel.
    unsafe {
        if ends::channel_of(object).is_special() {
            let channel = ends::channel_of_end(object).map_or(object, |end| end.channel);
            tell(py, channel);
        }
    }
}

impl Observer {
    /// # Safety
    /// As for [`tell`].
    unsafe fn look(&self, py: Python<'_>, channel: *mut ffi::PyObject, this: &ChannelObject) {
        if !self.gauge.look(|| this.core().len()) {
            return;
        }
        while let Some(pressure) = self.gauge.next() {
            // SAFETY: the caller's promise.
            unsafe { self.call(py, channel, pressure) };
        }
    }
}

/// The lengths at which to tell.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "parts of a capacity, which fits in 32 bits"
)]
fn marks(capacity: usize, high: f64, low: f64) -> (usize, usize) {
    const ROUNDING: f64 = 1e-9; // 0.07 * 100 is not to be 8 rounded up
    let high = ((high * capacity as f64 - ROUNDING).ceil() as usize).clamp(1, capacity);
    let low = ((low * capacity as f64 + ROUNDING).floor() as usize).min(high - 1);
    (high, low)
}

/// A mark as a number, which a message shows as it was passed.
fn part(value: *mut ffi::PyObject, default: f64, name: &str, py: Python<'_>) -> PyResult<f64> {
    if value.is_null() {
        return Ok(default);
    }
    // SAFETY: a live argument.
    let value = unsafe { Bound::ref_from_ptr(py, &value) };
    value.extract().map_err(|_| {
        let shown = shown(value);
        PyTypeError::new_err(format!("{name} must be a number, not {shown}"))
    })
}

fn observer(
    py: Python<'_>,
    channel: &ChannelObject,
    [callback, high, low]: [*mut ffi::PyObject; 3],
) -> PyResult<Box<Observer>> {
    // SAFETY: a live argument.
    let shown = unsafe { Bound::ref_from_ptr(py, &callback) };
    if !shown.is_callable() {
        return Err(PyTypeError::new_err(format!(
            "callback must be callable, not {}",
            shown.repr()?
        )));
    }
    let high = part(high, 0.8, "high", py)?;
    let low = part(low, 0.5, "low", py)?;
    if !(0.0 < low && low <= high && high <= 1.0) {
        let [high, low] = [high, low].map(|part| PyFloat::new(py, part));
        return Err(PyValueError::new_err(format!(
            "high and low must be numbers with 0 < low <= high <= 1, not high={high}, low={low}"
        )));
    }
    let core = channel.core();
    let capacity = core
        .capacity()
        .filter(|capacity| *capacity > 0 && !core.is_timer());
    let Some(capacity) = capacity else {
        let what = match core.capacity() {
            Some(0) => "has capacity=0",
            None => "has capacity=None",
            Some(_) => "gets its values from a clock",
        };
        return Err(PyValueError::new_err(format!(
            "on_pressure() needs a channel with a capacity of at least 1, and this one {what}"
        )));
    };
    let (high, low) = marks(capacity, high, low);
    Ok(Box::new(Observer {
        gauge: Gauge::new(high, low, mode()),
        // SAFETY: alive, and attached.
        callback: Mutex::new(Some(unsafe { Object::new(callback) })),
        next: Link::new(),
    }))
}

unsafe extern "C-unwind" fn on_pressure(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let names = ["callback", "high", "low"];
        let channel = object::get::<ChannelObject>(this);
        let added = parse(py, "on_pressure", names, 1, arguments, count, keywords)
            .and_then(|parsed| observer(py, channel, parsed).map_err(|error| raise(py, error)))
            .map(|observer| {
                channel.observers().append(observer);
                channel.make_special();
            });
        if let Err(Raised) = added {
            return std::ptr::null_mut();
        }
        tell(py, this);
        none()
    }
}
