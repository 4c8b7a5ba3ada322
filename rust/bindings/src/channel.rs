//! Channels for Python.
//!
//! With the GIL, plain cells: whoever touches a channel is attached and does not let go in the middle. Without
//! it, atomics.

use std::{
    ffi::CStr,
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

#[cfg(Py_GIL_DISABLED)]
use penstock_core::sync::Shared;
use penstock_core::{
    channel::{BeginRecv, BeginSend, Channel, RecvError, SendError, TryRecvError, TrySendError},
    sync,
};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyMemoryError, PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::PyString,
};

use crate::{
    boundary::Caller,
    convert::{Passed, Patience, parse},
    error::{Failure, Raised},
    hot::Definition,
    object::Object,
    operation,
};

#[cfg(Py_GIL_DISABLED)]
type Mode = Shared;
#[cfg(not(Py_GIL_DISABLED))]
type Mode = sync::Exclusive;

fn mode() -> Mode {
    #[cfg(Py_GIL_DISABLED)]
    {
        sync::Shared
    }
    #[cfg(not(Py_GIL_DISABLED))]
    // SAFETY: channels are touched by attached threads only, which hold the GIL and keep it during each use.
    unsafe {
        sync::Exclusive::promise()
    }
}

/// A queue between tasks, threads and `async def` tasks: first in, first out, nothing lost, nothing twice.
///
/// With `capacity=0` a send waits until a receiver takes the value (a rendezvous); otherwise the channel holds up
/// to `capacity` values. Who waits is served in the order it came.
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
            Passed::No => 0,
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
        let Some(core) = Channel::try_bounded(capacity, mode()) else {
            return Err(PyMemoryError::new_err(format!(
                "there is no memory for a channel with capacity={capacity}"
            )));
        };
        Ok(Self {
            core,
            // SAFETY: alive, and attached.
            name: Mutex::new(name.map(|name| unsafe { Object::new(name.as_ptr()) })),
        })
    }

    /// Closes the channel. Senders fail from now on; receivers drain what is left. Closing twice does nothing.
    fn close(&self) {
        self.core.close();
    }

    /// How many values fit; 0 for a rendezvous.
    #[getter]
    fn capacity(&self) -> usize {
        self.core.capacity()
    }

    /// Whether `close()` was called.
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
        let dropped = 0; // a channel that blocks throws nothing away
        let figures = (
            stats.sent,
            stats.received,
            dropped,
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
            this.core.capacity()
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
        result
    }

    fn __clear__(&self) {
        drop(self.core.clear());
    }
}

/// The slots that a position of the core's ring has room for.
const CAPACITY_MAX: usize = u32::MAX as usize;

fn capacity_of(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let refuse = |kind: fn(String) -> PyErr| -> PyErr {
        let shown = value
            .repr()
            .map_or_else(|_| "?".to_owned(), |text| text.to_string());
        kind(format!(
            "capacity must be an int from 0 to {CAPACITY_MAX}, not {shown}"
        ))
    };
    // SAFETY: alive, and attached.
    if value.is_none() || unsafe { ffi::PyIndex_Check(value.as_ptr()) } == 0 {
        return Err(refuse(PyTypeError::new_err));
    }
    value
        .extract::<usize>()
        .ok()
        .filter(|capacity| *capacity <= CAPACITY_MAX)
        .ok_or_else(|| refuse(PyValueError::new_err))
}

pub static METHODS: [Definition; 8] = [
    Definition::fast(c"send", send, SEND_DOC),
    Definition::fast(c"recv", recv, RECV_DOC),
    Definition::one_arg(c"send_nowait", send_nowait, SEND_NOWAIT_DOC),
    Definition::no_args(c"recv_nowait", recv_nowait, RECV_NOWAIT_DOC),
    Definition::fast(c"asend", asend, ASEND_DOC),
    Definition::fast(c"arecv", arecv, ARECV_DOC),
    Definition::no_args(c"__next__", next, c"__next__($self, /)\n--\n\nReceive the next value; stop when the channel is closed and drained."),
    Definition::no_args(c"__anext__", anext, c"__anext__($self, /)\n--\n\nThe awaitable form of `__next__`."),
];

const SEND_DOC: &CStr = c"send($self, value, timeout=None)\n--\n\n\
Put ``value`` on the channel, waiting while it is full.\n\n\
Values from one sender arrive in the order it sent them. With ``capacity=0`` this waits until a receiver takes the\n\
value. Cancelled or timed out, it has not sent: never half. Parks a task, blocks a thread.\n\n\
Raises:\n    ChannelClosed: the channel was closed, before or while waiting.\n    \
TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    ValueError: ``timeout`` is negative.\n\n\
>>> from penstock import Channel\n>>> numbers = Channel[int](capacity=1)\n>>> numbers.send(7)\n\
>>> numbers.recv()\n7\n";

const RECV_DOC: &CStr = c"recv($self, /, timeout=None)\n--\n\n\
Take the oldest value, waiting while there is none.\n\n\
Receivers that wait are served in the order they came. Cancelled or timed out, it has taken nothing. Parks a task,\n\
blocks a thread.\n\n\
Raises:\n    ChannelClosed: the channel is closed and drained.\n    \
TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    ValueError: ``timeout`` is negative.\n\n\
>>> from penstock import Channel\n>>> numbers = Channel[int](capacity=1)\n>>> numbers.recv(timeout=0)\n\
Traceback (most recent call last):\n    ...\nTimeoutError: the channel stayed empty\n";

const SEND_NOWAIT_DOC: &CStr = c"send_nowait($self, value, /)\n--\n\n\
Put ``value`` on the channel if there is room for it now; never waits, and overtakes no sender that does.\n\n\
Raises:\n    Full: it would have to wait.\n    ChannelClosed: the channel is closed.\n";

const RECV_NOWAIT_DOC: &CStr = c"recv_nowait($self, /)\n--\n\n\
Take the oldest value if there is one now; never waits.\n\n\
Raises:\n    Empty: it would have to wait.\n    ChannelClosed: the channel is closed and drained.\n";

const ASEND_DOC: &CStr = c"asend($self, value, timeout=None)\n--\n\n\
The awaitable form of `send`, for ``async def`` tasks.\n";

const ARECV_DOC: &CStr = c"arecv($self, /, timeout=None)\n--\n\n\
The awaitable form of `recv`, for ``async def`` tasks.\n";

fn closed(py: Python<'_>) -> Raised {
    Failure::Closed.raise(py, "the channel is closed")
}

/// # Safety
/// Attached.
#[inline]
unsafe fn none() -> *mut ffi::PyObject {
    // SAFETY: attached.
    unsafe { ffi::Py_NewRef(ffi::Py_None()) }
}

/// `Channel.send(value, timeout=None)`.
unsafe extern "C-unwind" fn send(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let value;
        let mut timeout = ptr::null_mut();
        if count == 1 && keywords.is_null() {
            value = *arguments;
        } else {
            match parse(
                py,
                "send",
                ["value", "timeout"],
                1,
                arguments,
                count,
                keywords,
            ) {
                Ok([one, other]) => (value, timeout) = (one, other),
                Err(Raised) => return ptr::null_mut(),
            }
        }
        let core = ChannelObject::from_object(this).core();
        if timeout.is_null() {
            match core.try_send(Object::new(value)) {
                Ok(()) => return none(),
                Err(TrySendError::Closed(back)) => {
                    drop(back);
                    closed(py);
                    return ptr::null_mut();
                }
                Err(TrySendError::Full(back)) => drop(back), // the argument is still there
            }
        }
        match send_slowly(py, this, value, timeout) {
            Ok(()) => none(),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// # Safety
/// In a raw entry of the channel `this`, with nothing that has a destructor alive; `value` and `timeout` are arguments, or null.
#[cold]
unsafe fn send_slowly(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    timeout: *mut ffi::PyObject,
) -> Result<(), Raised> {
    // SAFETY: a channel, alive during its own call.
    let core = unsafe { ChannelObject::from_object(this) }.core();
    let patience = Patience::from_optional(py, timeout)?;
    if !timeout.is_null() {
        // SAFETY: an argument.
        match core.try_send(unsafe { Object::new(value) }) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(closed(py)),
            Err(TrySendError::Full(_)) => {}
        }
    }
    if patience == Patience::None {
        return Err(Failure::TimedOut.raise(py, "the channel stayed full"));
    }
    let caller = Caller::here(py, "Channel.send()", "await channel.asend()")?.on(this);
    // SAFETY: an argument.
    let begun = core.begin_send(unsafe { Object::new(value) }, &caller.waiter_ref());
    let entry = match begun {
        BeginSend::Done => {
            caller.done(py);
            return Ok(());
        }
        BeginSend::Closed(back) => {
            drop(back);
            caller.done(py);
            return Err(closed(py));
        }
        BeginSend::Waiting(entry) => Arc::into_raw(entry),
    };
    // SAFETY: the entry is alive, its reference is held as a raw pointer across the wait.
    let ended = unsafe { caller.wait((*entry).epoch, patience.deadline()) };
    // SAFETY: the reference from above, and the wait has ended.
    let sent = unsafe { core.finish_send(&Arc::from_raw(entry)) };
    caller.done(py);
    ended?;
    match sent {
        Ok(()) => Ok(()),
        Err(SendError::Closed(_)) => Err(closed(py)),
        Err(SendError::TimedOut(_)) => Err(Failure::TimedOut.raise(py, "the channel stayed full")),
        Err(SendError::Interrupted(_)) => Err(caller.raise_interrupt(py)),
    }
}

/// `Channel.recv(timeout=None)`.
unsafe extern "C-unwind" fn recv(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let mut timeout = ptr::null_mut();
        if count != 0 || !keywords.is_null() {
            match parse(py, "recv", ["timeout"], 0, arguments, count, keywords) {
                Ok(parsed) => [timeout] = parsed,
                Err(Raised) => return ptr::null_mut(),
            }
        }
        match receive(py, this, timeout) {
            Ok(value) => value,
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// A new reference to the next value.
///
/// # Safety
/// In a raw entry of the channel `this`, with nothing that has a destructor alive; `timeout` is an argument, or null.
#[inline]
unsafe fn receive(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    timeout: *mut ffi::PyObject,
) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: a channel, alive during its own call.
    let core = unsafe { ChannelObject::from_object(this) }.core();
    if timeout.is_null() {
        match core.try_recv() {
            Ok(value) => return Ok(value.into_ptr()),
            Err(TryRecvError::Closed) => return Err(closed(py)),
            Err(TryRecvError::Empty) => {}
        }
    }
    // SAFETY: as for this function.
    unsafe { receive_slowly(py, this, timeout) }
}

/// # Safety
/// As for [`receive`].
#[cold]
unsafe fn receive_slowly(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    timeout: *mut ffi::PyObject,
) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: a channel, alive during its own call.
    let core = unsafe { ChannelObject::from_object(this) }.core();
    let patience = Patience::from_optional(py, timeout)?;
    if !timeout.is_null() {
        match core.try_recv() {
            Ok(value) => return Ok(value.into_ptr()),
            Err(TryRecvError::Closed) => return Err(closed(py)),
            Err(TryRecvError::Empty) => {}
        }
    }
    if patience == Patience::None {
        return Err(Failure::TimedOut.raise(py, "the channel stayed empty"));
    }
    let caller = Caller::here(py, "Channel.recv()", "await channel.arecv()")?.on(this);
    let entry = match core.begin_recv(&caller.waiter_ref()) {
        BeginRecv::Done(value) => {
            caller.done(py);
            return Ok(value.into_ptr());
        }
        BeginRecv::Closed => {
            caller.done(py);
            return Err(closed(py));
        }
        BeginRecv::Waiting(entry) => Arc::into_raw(entry),
    };
    // SAFETY: the entry is alive, its reference is held as a raw pointer across the wait.
    let ended = unsafe { caller.wait((*entry).epoch, patience.deadline()) };
    // SAFETY: the reference from above, and the wait has ended.
    let received = unsafe { core.finish_recv(&Arc::from_raw(entry)) };
    caller.done(py);
    ended?;
    match received {
        Ok(value) => Ok(value.into_ptr()),
        Err(RecvError::Closed) => Err(closed(py)),
        Err(RecvError::TimedOut) => Err(Failure::TimedOut.raise(py, "the channel stayed empty")),
        Err(RecvError::Interrupted) => Err(caller.raise_interrupt(py)),
    }
}

unsafe extern "C-unwind" fn send_nowait(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe {
        let py = Python::assume_attached();
        match ChannelObject::from_object(this)
            .core()
            .try_send(Object::new(value))
        {
            Ok(()) => return none(),
            Err(TrySendError::Full(back)) => {
                drop(back);
                Failure::Full.raise(py, "the channel is full");
            }
            Err(TrySendError::Closed(back)) => {
                drop(back);
                closed(py);
            }
        }
        ptr::null_mut()
    }
}

unsafe extern "C-unwind" fn recv_nowait(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe {
        let py = Python::assume_attached();
        match ChannelObject::from_object(this).core().try_recv() {
            Ok(value) => return value.into_ptr(),
            Err(TryRecvError::Empty) => {
                Failure::Empty.raise(py, "the channel is empty");
            }
            Err(TryRecvError::Closed) => {
                closed(py);
            }
        }
        ptr::null_mut()
    }
}

unsafe extern "C-unwind" fn asend(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let mut patience = Patience::Forever;
        let value;
        if count == 1 && keywords.is_null() {
            value = *arguments;
        } else {
            let parsed = parse(
                py,
                "asend",
                ["value", "timeout"],
                1,
                arguments,
                count,
                keywords,
            )
            .and_then(|[value, timeout]| Ok((value, Patience::from_optional(py, timeout)?)));
            match parsed {
                Ok((one, other)) => (value, patience) = (one, other),
                Err(Raised) => return ptr::null_mut(),
            }
        }
        operation::new_send(this, value, patience)
    }
}

unsafe extern "C-unwind" fn arecv(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let mut patience = Patience::Forever;
        if count != 0 || !keywords.is_null() {
            match Patience::parse(py, "arecv", arguments, count, keywords) {
                Ok(parsed) => patience = parsed,
                Err(Raised) => return ptr::null_mut(),
            }
        }
        operation::new_recv(this, patience)
    }
}

unsafe extern "C-unwind" fn next(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe {
        let py = Python::assume_attached();
        if let Ok(value) = receive(py, this, ptr::null_mut()) {
            value
        } else {
            let class = crate::error::classes(py).channel_closed.as_ptr();
            if ffi::PyErr_ExceptionMatches(class) != 0 {
                ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
            }
            ptr::null_mut()
        }
    }
}

unsafe extern "C-unwind" fn anext(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe { operation::new_next(this) }
}
