//! The raw entries of `Channel`.

use std::{ffi::CStr, ptr, sync::Arc};

use penstock_core::channel::{
    BeginRecv, BeginSend, RecvError, SendError, TryRecvError, TrySendError,
};
use pyo3::{ffi, prelude::*};

use super::{
    ChannelObject,
    timer::{Form, ReceiveTick, refuse_send},
};
use crate::{
    boundary::Caller,
    convert::{Patience, parse},
    error::{Failure, Raised},
    hot::Definition,
    object::Object,
    operation, pending,
};

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
Put ``value`` on the channel, waiting while it is full; with ``capacity=None`` it never is.\n\n\
Values from one sender arrive in the order it sent them. With ``capacity=0`` this waits until a receiver takes the\n\
value. Cancelled or timed out, it has not sent: never half. Parks a task, blocks a thread.\n\n\
Raises:\n    ChannelClosed: the channel was closed, before or while waiting.\n    \
TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    ValueError: ``timeout`` is negative.\n    \
TypeError: the channel is one of `after` or `tick`.\n\n\
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
Raises:\n    Full: it would have to wait.\n    ChannelClosed: the channel is closed.\n    \
TypeError: the channel is one of `after` or `tick`.\n";

const RECV_NOWAIT_DOC: &CStr = c"recv_nowait($self, /)\n--\n\n\
Take the oldest value if there is one now; never waits.\n\n\
Raises:\n    Empty: it would have to wait.\n    ChannelClosed: the channel is closed and drained.\n";

const ASEND_DOC: &CStr = c"asend($self, value, timeout=None)\n--\n\n\
The awaitable form of `send`, for ``async def`` tasks.\n";

const ARECV_DOC: &CStr = c"arecv($self, /, timeout=None)\n--\n\n\
The awaitable form of `recv`, for ``async def`` tasks.\n";

pub(super) fn closed(py: Python<'_>) -> Raised {
    Failure::Closed.raise(py, "the channel is closed")
}

/// What a send on a closed channel raises, and on one that nobody sends on.
#[cold]
fn not_sent(py: Python<'_>, channel: &ChannelObject) -> Raised {
    if channel.core().is_timer() {
        return refuse_send(py, channel);
    }
    closed(py)
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
        let channel = ChannelObject::from_object(this);
        if timeout.is_null() {
            match channel.core().try_send(Object::new(value)) {
                Ok(()) => return none(),
                Err(TrySendError::Closed(back)) => {
                    drop(back);
                    not_sent(py, channel);
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
    let channel = unsafe { ChannelObject::from_object(this) };
    let core = channel.core();
    let patience = Patience::from_optional(py, timeout)?;
    if !timeout.is_null() {
        // SAFETY: an argument.
        match core.try_send(unsafe { Object::new(value) }) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(not_sent(py, channel)),
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
    if core.is_timer() {
        // SAFETY: as for this function; the channel is alive.
        return unsafe { pending::run(py, ReceiveTick::boxed(this, Form::Recv), patience) };
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
        let channel = ChannelObject::from_object(this);
        match channel.core().try_send(Object::new(value)) {
            Ok(()) => return none(),
            Err(TrySendError::Full(back)) => {
                drop(back);
                Failure::Full.raise(py, "the channel is full");
            }
            Err(TrySendError::Closed(back)) => {
                drop(back);
                not_sent(py, channel);
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
        let channel = ChannelObject::from_object(this);
        if channel.core().is_timer() {
            refuse_send(py, channel);
            return ptr::null_mut();
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
        if ChannelObject::from_object(this).core().is_timer() {
            return pending::awaitable(py, ReceiveTick::boxed(this, Form::Arecv), patience);
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
    unsafe {
        if ChannelObject::from_object(this).core().is_timer() {
            let py = Python::assume_attached();
            return pending::awaitable(
                py,
                ReceiveTick::boxed(this, Form::Anext),
                Patience::Forever,
            );
        }
        operation::new_next(this)
    }
}
