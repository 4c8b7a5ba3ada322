//! The directional ends of channels, `Sender` and `Receiver`.
//!
//! An end is a reference to its channel and whether it is open. Its calls are those of the channel after one look at
//! that, so the hot ones cost no more than a jump. The core counts the ends ([`Ends`](penstock_core::channel::Ends))
//! and says what the last one does as it goes; here is when an end goes: by `close()`, by the end of its `with`, or with
//! its last reference.
//!
//! An end keeps its channel for its whole life, so it has no `__clear__`: every cycle through an end goes through the
//! channel, which breaks it. Dropping a value of the channel, or the end that is such a value, may run any Python code;
//! nothing is locked meanwhile.

use std::{
    ffi::CStr,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::PyTypeError,
    ffi,
    prelude::*,
    types::{PyType, PyTypeMethods},
};

use super::{ChannelObject, entries, pressure, receiving, sending};
use crate::{
    error::{Failure, Raised, raise},
    hot::Definition,
    object::{self, Object, disown, none},
};

/// Which way values go through an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Send,
    Receive,
}

/// What both classes are.
pub struct End {
    /// A `Channel`.
    channel: Object,
    direction: Direction,
    /// Cleared once, by whoever closes the end, who then takes it off the channel's count.
    open: AtomicBool,
}

impl End {
    /// # Safety
    /// Attached; `channel` is a `Channel`, and alive.
    unsafe fn new(channel: *mut ffi::PyObject, direction: Direction) -> Self {
        // SAFETY: by the caller's promise.
        let end = unsafe {
            Self {
                channel: Object::new(channel),
                direction,
                open: AtomicBool::new(true),
            }
        };
        let this = end.channel();
        match direction {
            Direction::Send => this.ends.add_sender(&this.core),
            Direction::Receive => this.ends.add_receiver(&this.core),
        }
        end
    }

    fn channel(&self) -> &ChannelObject {
        // SAFETY: a channel, which this keeps alive.
        unsafe { object::get::<ChannelObject>(self.channel.as_ptr()) }
    }

    #[inline]
    fn is_open(&self) -> bool {
        // Ordering: Relaxed, a call that is made while another thread closes the end is before or after it.
        self.open.load(Ordering::Relaxed)
    }

    /// The channel, for a call that is its own; raises where the end is closed.
    #[inline]
    fn open_channel(&self, py: Python<'_>) -> Result<*mut ffi::PyObject, Raised> {
        if self.is_open() {
            Ok(self.channel.as_ptr())
        } else {
            Err(self.raise_closed(py))
        }
    }

    /// The end goes. May run Python code: that of what is left in the channel without its last receiver.
    fn close(&self) {
        // Ordering: Relaxed, the count of the ends orders what the last one does.
        if !self.open.swap(false, Ordering::Relaxed) {
            return;
        }
        let this = self.channel();
        match self.direction {
            Direction::Send => this.ends.remove_sender(&this.core),
            Direction::Receive => this.ends.remove_receiver(&this.core),
        }
    }

    #[cold]
    fn raise_closed(&self, py: Python<'_>) -> Raised {
        let message = match self.direction {
            Direction::Send => "this sender is closed",
            Direction::Receive => "this receiver is closed",
        };
        Failure::Closed.raise(py, message)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close();
    }
}

/// Senders and receivers; everything but their directions is the same.
macro_rules! end_class {
    ($(#[$attribute:meta])* $class:ident, $name:literal) => {
        $(#[$attribute])*
        #[pyclass(frozen, weakref, module = "penstock", name = $name)]
        pub struct $class(End);

        #[pymethods]
        impl $class {
            /// How many values fit in the channel, as `Channel.capacity`.
            #[getter]
            fn capacity(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
                attribute(slf.py(), &slf.get().0, "capacity")
            }

            /// Whether this end is closed, or its channel.
            #[getter]
            fn closed(&self) -> bool {
                !self.0.is_open() || self.0.channel().core.is_closed()
            }

            /// The name of the channel.
            #[getter]
            fn name(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
                attribute(slf.py(), &slf.get().0, "name")
            }

            fn __len__(&self) -> usize {
                self.0.channel().core.len()
            }

            fn __bool__(&self) -> bool {
                true // an end is not false for its channel being empty
            }

            fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
                shown(slf.as_any(), &slf.get().0, $name)
            }

            fn __reduce__(&self) -> PyResult<()> {
                Err(PyTypeError::new_err(concat!(
                    "a ", $name, " cannot be pickled or copied: it is counted as one end of a channel of this process"
                )))
            }

            #[classmethod]
            fn __class_getitem__(
                cls: &Bound<'_, PyType>,
                item: &Bound<'_, PyAny>,
            ) -> PyResult<Py<PyAny>> {
                crate::generic_alias(cls, item)
            }

            fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
                visit.call(self.0.channel.as_py())
            }
        }
    };
}

end_class! {
    /// The sending end of a channel, made by `Channel.sender()`.
    ///
    /// It sends as its channel does. The last sender of a channel to go closes it: by `close()`, at the end of
    /// `with sender:`, or when Python drops it. So several producers need not know which of them is the last. Where a
    /// producer may fail, write `with sender:`, because a stored exception keeps the end alive in its frames.
    ///
    /// >>> from penstock import Channel, Sender, go
    /// >>> def count(numbers: Sender[int]) -> None:
    /// ...     with numbers:
    /// ...         for number in range(3):
    /// ...             numbers.send(number)
    /// >>> channel = Channel[int](capacity=2)
    /// >>> tasks = [go(count, end) for end in (channel.sender(), channel.sender())]
    /// >>> sorted(channel)
    /// [0, 0, 1, 1, 2, 2]
    SenderObject, "Sender"
}

end_class! {
    /// The receiving end of a channel, made by `Channel.receiver()`.
    ///
    /// It receives as its channel does, and can be iterated over. When the last receiver of a channel goes, by `close()`,
    /// at the end of `with receiver:`, or when Python drops it, senders learn that nobody listens: their sends raise
    /// `ChannelClosed`, those that wait too. What was sent and not yet received is dropped then, and counted by
    /// `ChannelStats.dropped`.
    ///
    /// >>> from penstock import Channel, ChannelClosed
    /// >>> channel = Channel[int](capacity=2)
    /// >>> with channel.receiver() as numbers:
    /// ...     channel.send(1)
    /// ...     channel.send(2)
    /// ...     numbers.recv()
    /// 1
    /// >>> channel.stats().dropped
    /// 1
    /// >>> channel.send(3)
    /// Traceback (most recent call last):
    ///     ...
    /// penstock.exceptions.ChannelClosed: the channel is closed
    ReceiverObject, "Receiver"
}

fn attribute(py: Python<'_>, end: &End, name: &str) -> PyResult<Py<PyAny>> {
    end.channel.as_py().getattr(py, name)
}

fn shown(object: &Bound<'_, PyAny>, end: &End, class: &str) -> PyResult<String> {
    let py = object.py();
    let channel = end.channel.as_py().bind(py);
    let name = channel.getattr("name")?;
    let name = if name.is_none() {
        String::new()
    } else {
        format!(" {}", name.repr()?)
    };
    let state = if !end.is_open() {
        "closed"
    } else if end.channel().core.is_closed() {
        "its channel is closed"
    } else {
        "open"
    };
    Ok(format!(
        "<penstock.{class}{name} at {:p}: {state}, {}/{}>",
        object.as_ptr(),
        channel.len()?,
        end.channel()
            .core
            .capacity()
            .map_or_else(|| "unbounded".to_owned(), |capacity| capacity.to_string())
    ))
}

/// The classes. Written once, during the module's import.
static SENDER: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static RECEIVER: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// Puts the calls on their classes. Called once, by the module's import.
pub fn load(py: Python<'_>) -> PyResult<()> {
    let (sender, receiver) = (
        py.get_type::<SenderObject>(),
        py.get_type::<ReceiverObject>(),
    );
    // Ordering: Relaxed, during the import.
    SENDER.store(sender.as_type_ptr(), Ordering::Relaxed);
    RECEIVER.store(receiver.as_type_ptr(), Ordering::Relaxed);
    crate::hot::add_methods(&py.get_type::<ChannelObject>(), &CHANNEL_METHODS)?;
    crate::hot::add_methods(&sender, &SENDER_METHODS)?;
    crate::hot::add_methods(&receiver, &RECEIVER_METHODS)
}

/// # Safety
/// Attached, and `object` is alive as long as the result is used.
#[inline]
unsafe fn end_of<'a>(object: *mut ffi::PyObject) -> Option<&'a End> {
    // SAFETY: alive; the classes are frozen and final, so the exact class says what it is.
    unsafe {
        let class = ffi::Py_TYPE(object);
        // Ordering: Relaxed, see `load`.
        if class == SENDER.load(Ordering::Relaxed) {
            Some(sender(object))
        } else if class == RECEIVER.load(Ordering::Relaxed) {
            Some(receiver(object))
        } else {
            None
        }
    }
}

/// # Safety
/// `object` is a `Sender`, and alive as long as the result is used.
#[inline]
unsafe fn sender<'a>(object: *mut ffi::PyObject) -> &'a End {
    // SAFETY: by the caller's promise.
    &unsafe { object::get::<SenderObject>(object) }.0
}

/// # Safety
/// `object` is a `Receiver`, and alive as long as the result is used.
#[inline]
unsafe fn receiver<'a>(object: *mut ffi::PyObject) -> &'a End {
    // SAFETY: as above.
    &unsafe { object::get::<ReceiverObject>(object) }.0
}

/// What an end is the end of.
#[derive(Clone, Copy, Debug)]
pub struct EndOf {
    /// A `Channel`, borrowed from the end.
    pub channel: *mut ffi::PyObject,
    pub direction: Direction,
    /// The end, that is; its channel may be open, or closed.
    pub is_closed: bool,
}

/// What `object` is the end of, if it is one.
///
/// # Safety
/// Attached, and `object` is alive.
#[inline]
pub unsafe fn channel_of_end(object: *mut ffi::PyObject) -> Option<EndOf> {
    // SAFETY: by the caller's promise.
    let end = unsafe { end_of(object) }?;
    Some(EndOf {
        channel: end.channel.as_ptr(),
        direction: end.direction,
        is_closed: !end.is_open(),
    })
}

/// The channel that a call was made on, by itself or by an end of it.
///
/// # Safety
/// Attached; `object` is a `Channel` or an end of one, and outlives the reference.
#[inline]
pub unsafe fn channel_of<'a>(object: *mut ffi::PyObject) -> &'a ChannelObject {
    // SAFETY: by the caller's promise; an end keeps its channel.
    unsafe {
        match end_of(object) {
            Some(end) => end.channel(),
            None => object::get::<ChannelObject>(object),
        }
    }
}

/// Whether `object` is an end that is closed.
///
/// # Safety
/// Attached, and `object` is alive.
#[inline]
pub unsafe fn is_closed_end(object: *mut ffi::PyObject) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { channel_of_end(object) }.is_some_and(|end| end.is_closed)
}

/// Raises what a call on `object`, a channel or an end of one, raises where that is closed.
///
/// # Safety
/// Attached, and `object` is alive.
pub unsafe fn raise_closed(py: Python<'_>, object: *mut ffi::PyObject) -> Raised {
    // SAFETY: by the caller's promise.
    match unsafe { end_of(object) } {
        Some(end) if !end.is_open() => end.raise_closed(py),
        _ => entries::closed(py),
    }
}

// ---- entries ----

static CHANNEL_METHODS: [Definition; 2] = [
    Definition::no_args(c"sender", make_sender, SENDER_DOC),
    Definition::no_args(c"receiver", make_receiver, RECEIVER_DOC),
];

const SENDER_DOC: &CStr = c"sender($self, /)\n--\n\n\
A sending end. From the first one on, the last to go closes the channel; see `Sender`.\n\n\
Never waits. Of a channel that is closed, or whose last sender has gone, it makes one as well: its sends raise\n\
`ChannelClosed`. So make the ends of all producers before the first of them may go.\n\n\
>>> from penstock import Channel\n>>> channel = Channel[str](capacity=1)\n\
>>> with channel.sender() as lines:\n...     lines.send('a line')\n>>> list(channel)\n['a line']\n";

const RECEIVER_DOC: &CStr = c"receiver($self, /)\n--\n\n\
A receiving end. From the first one on, the last to go closes the channel and drops what is left; see `Receiver`.\n\n\
Never waits. Of a channel that is closed it makes one as well, which receives what is left.\n\n\
>>> from penstock import Channel\n>>> channel = Channel[str](capacity=1)\n>>> lines = channel.receiver()\n\
>>> channel.send('a line')\n>>> lines.recv()\n'a line'\n";

static SENDER_METHODS: [Definition; 8] = [
    Definition::fast(c"send", send, entries::SEND_DOC),
    Definition::one_arg(c"send_nowait", send_nowait, entries::SEND_NOWAIT_DOC),
    Definition::fast(c"asend", entries::asend, entries::ASEND_DOC),
    Definition::fast(c"send_many", send_many, sending::SEND_MANY_DOC),
    Definition::fast(c"asend_many", sending::asend_many, sending::ASEND_MANY_DOC),
    Definition::no_args(c"close", close, c"close($self, /)\n--\n\n\
        Give the end up: its sends raise `ChannelClosed` from now on.\n\n\
        The last sender to go closes the channel: receivers drain what is left, and those that wait for more are\n\
        woken. Closing twice does nothing. Never waits.\n"),
    Definition::no_args(c"__enter__", enter, c"__enter__($self, /)\n--\n\nGive the end itself."),
    Definition::fast(c"__exit__", exit, EXIT_DOC),
];

static RECEIVER_METHODS: [Definition; 12] = [
    Definition::fast(c"recv", recv, entries::RECV_DOC),
    Definition::no_args(c"recv_nowait", recv_nowait, entries::RECV_NOWAIT_DOC),
    Definition::fast(c"arecv", entries::arecv, entries::ARECV_DOC),
    Definition::fast(c"recv_many", recv_many, receiving::RECV_MANY_DOC),
    Definition::fast(c"arecv_many", receiving::arecv_many, receiving::ARECV_MANY_DOC),
    Definition::no_args(c"__iter__", enter, c"__iter__($self, /)\n--\n\nThe end itself: iterators share the values."),
    Definition::no_args(c"__next__", next, c"__next__($self, /)\n--\n\n\
        Receive the next value; stop when the channel is closed and drained, or this end closed."),
    Definition::no_args(c"__aiter__", enter, c"__aiter__($self, /)\n--\n\nThe end itself: iterators share the values."),
    Definition::no_args(c"__anext__", entries::anext, c"__anext__($self, /)\n--\n\nThe awaitable form of `__next__`."),
    Definition::no_args(c"close", close, c"close($self, /)\n--\n\n\
        Give the end up: its receives raise `ChannelClosed` from now on.\n\n\
        The last receiver to go closes the channel and drops what is left in it: senders fail, those that wait too.\n\
        Closing twice does nothing. Never waits.\n"),
    Definition::no_args(c"__enter__", enter, c"__enter__($self, /)\n--\n\nGive the end itself."),
    Definition::fast(c"__exit__", exit, EXIT_DOC),
];

const EXIT_DOC: &CStr =
    c"__exit__($self, kind, _value, _traceback, /)\n--\n\nClose the end; an exception goes on.";

unsafe extern "C-unwind" fn make_sender(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe {
        let py = Python::assume_attached();
        given(
            py,
            Py::new(py, SenderObject(End::new(this, Direction::Send))),
        )
    }
}

unsafe extern "C-unwind" fn make_receiver(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe {
        let py = Python::assume_attached();
        given(
            py,
            Py::new(py, ReceiverObject(End::new(this, Direction::Receive))),
        )
    }
}

fn given<T>(py: Python<'_>, made: PyResult<Py<T>>) -> *mut ffi::PyObject {
    match made {
        Ok(object) => {
            // SAFETY: just made. A peer may wait for its end.
            unsafe { disown(object.as_ptr()) };
            object.into_ptr()
        }
        Err(error) => {
            raise(py, error);
            ptr::null_mut()
        }
    }
}

/// `Sender.send(value, timeout=None)`.
unsafe extern "C-unwind" fn send(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Sender`, attached, with the arguments of a vectorcall. Its caller keeps it, and it
    // keeps the channel, across a park too.
    unsafe {
        let Ok(channel) = sender(this).open_channel(Python::assume_attached()) else {
            return ptr::null_mut();
        };
        entries::send(channel, arguments, count, keywords)
    }
}

unsafe extern "C-unwind" fn send_nowait(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Sender`, attached.
    unsafe {
        let Ok(channel) = sender(this).open_channel(Python::assume_attached()) else {
            return ptr::null_mut();
        };
        entries::send_nowait(channel, value)
    }
}

/// `Sender.send_many(iterable)`.
unsafe extern "C-unwind" fn send_many(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Sender`, attached, with the arguments of a vectorcall; as `send`.
    unsafe {
        let Ok(channel) = sender(this).open_channel(Python::assume_attached()) else {
            return ptr::null_mut();
        };
        sending::send_many(channel, arguments, count, keywords)
    }
}

/// `Receiver.recv(timeout=None)`.
unsafe extern "C-unwind" fn recv(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Receiver`, attached, with the arguments of a vectorcall; as `send`.
    unsafe {
        let Ok(channel) = receiver(this).open_channel(Python::assume_attached()) else {
            return ptr::null_mut();
        };
        entries::recv(channel, arguments, count, keywords)
    }
}

unsafe extern "C-unwind" fn recv_nowait(
    this: *mut ffi::PyObject,
    unused: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Receiver`, attached.
    unsafe {
        let Ok(channel) = receiver(this).open_channel(Python::assume_attached()) else {
            return ptr::null_mut();
        };
        entries::recv_nowait(channel, unused)
    }
}

/// `Receiver.recv_many(max_items)`.
unsafe extern "C-unwind" fn recv_many(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Receiver`, attached, with the arguments of a vectorcall; as `send`.
    unsafe {
        let Ok(channel) = receiver(this).open_channel(Python::assume_attached()) else {
            return ptr::null_mut();
        };
        receiving::recv_many(channel, arguments, count, keywords)
    }
}

unsafe extern "C-unwind" fn next(
    this: *mut ffi::PyObject,
    unused: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Receiver`, attached.
    unsafe {
        let end = receiver(this);
        if !end.is_open() {
            ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
            return ptr::null_mut();
        }
        entries::next(end.channel.as_ptr(), unused)
    }
}

unsafe extern "C-unwind" fn close(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an end, attached.
    unsafe {
        if let Some(end) = end_of(this) {
            end.close();
        }
        pressure::tell_if_special(Python::assume_attached(), this); // the last receiver drops what is left
        none()
    }
}

unsafe extern "C-unwind" fn enter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an end, attached.
    unsafe { ffi::Py_NewRef(this) }
}

unsafe extern "C-unwind" fn exit(
    this: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an end, attached.
    unsafe {
        if let Some(end) = end_of(this) {
            end.close();
        }
        pressure::tell_if_special(Python::assume_attached(), this); // as above
        ffi::Py_NewRef(ffi::Py_False())
    }
}
