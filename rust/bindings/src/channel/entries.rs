//! The raw entries of `Channel`.

use std::{ffi::CStr, ptr, sync::Arc};

use penstock_core::channel::{
    BeginRecv, BeginSend, RecvError, SendError, TryRecvError, TrySendError,
};
use pyo3::{ffi, prelude::*};

use super::{
    ChannelObject, ends, pressure, receiving, sending,
    timer::{Form, ReceiveTick, refuse_send},
};
use crate::{
    boundary::Caller,
    convert::{Patience, parse},
    error::{Failure, Raised},
    hot::Definition,
    object::{self, Object, none},
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

pub(super) const SEND_DOC: &CStr = c"send($self, value, timeout=None)\n--\n\n\
Put ``value`` on the channel, waiting while it is full (with ``capacity=None`` it never is), and for a token if it has a rate.\n\n\
A channel with another ``overflow`` than \"block\" does not wait for room: it throws a value away, or fails.\n\
Values from one sender arrive in the order it sent them. With ``capacity=0`` this waits until a receiver takes the\n\
value. Cancelled or timed out, it has not sent: never half. Parks a task, blocks a thread.\n\n\
Raises:\n    \
ChannelClosed: the channel was closed, before or while waiting.\n    \
Full: it is full, and has ``overflow=\"error\"``.\n    \
TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    \
ValueError: ``timeout`` is negative.\n    \
TypeError: the channel is one of `after` or `tick`.\n\n\
>>> from penstock import Channel\n\
>>> numbers = Channel[int](capacity=1)\n\
>>> numbers.send(7)\n\
>>> numbers.recv()\n\
7\n";

pub(super) const RECV_DOC: &CStr = c"recv($self, /, timeout=None)\n--\n\n\
Take the oldest value, waiting while there is none.\n\n\
Receivers that wait are served in the order they came. Cancelled or timed out, it has taken nothing. Parks a task,\n\
blocks a thread.\n\n\
Raises:\n    \
ChannelClosed: the channel is closed and drained.\n    \
TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    \
ValueError: ``timeout`` is negative.\n\n\
>>> from penstock import Channel\n>>> numbers = Channel[int](capacity=1)\n>>> numbers.recv(timeout=0)\n\
Traceback (most recent call last):\n    ...\nTimeoutError: the channel stayed empty\n";

pub(super) const SEND_NOWAIT_DOC: &CStr = c"send_nowait($self, value, /)\n--\n\n\
Put ``value`` on the channel if there is room for it now; never waits, and overtakes no sender that does.\n\n\
A channel that drops values has room always. A send that has no token takes none.\n\n\
Raises:\n    \
Full: it would have to wait, for room or for a token.\n    \
ChannelClosed: the channel is closed.\n    \
TypeError: the channel is one of `after` or `tick`.\n";

pub(super) const RECV_NOWAIT_DOC: &CStr = c"recv_nowait($self, /)\n--\n\n\
Take the oldest value if there is one now; never waits.\n\n\
Raises:\n    \
Empty: it would have to wait.\n    \
ChannelClosed: the channel is closed and drained.\n";

pub(super) const ASEND_DOC: &CStr = c"asend($self, value, timeout=None)\n--\n\n\
The awaitable form of `send`: in an ``async def`` task, and in coroutines of asyncio and trio.\n\n\
All of them stand in one line with tasks and threads. Timed out or cancelled, it has not sent, but for one case: asyncio may\n\
cancel it after a receiver took the value, which then stays delivered, once.\n\n\
Raises:\n    ChannelClosed: the channel was closed, before or while waiting.\n    \
TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    ValueError: ``timeout`` is negative.\n    \
RuntimeError: it would have to wait, and nothing of these runs here.\n\n\
>>> import asyncio\n>>> from penstock import Channel\n>>> async def main() -> int:\n\
...     numbers = Channel[int](capacity=1)\n...     await numbers.asend(7)\n...     return await numbers.arecv()\n\
>>> asyncio.run(main())\n7\n";

pub(super) const ARECV_DOC: &CStr = c"arecv($self, /, timeout=None)\n--\n\n\
The awaitable form of `recv`: in an ``async def`` task, and in coroutines of asyncio and trio.\n\n\
All of them stand in one line with tasks and threads. Timed out or cancelled, it has taken nothing. Where asyncio cancels it\n\
after it was handed a value, or closes its loop, that value goes to who waits next, or else to the next receive, before all\n\
others: it counts in ``len()``, also above the capacity, and is still delivered after `close`.\n\n\
Raises:\n    ChannelClosed: the channel is closed and drained.\n    \
TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    ValueError: ``timeout`` is negative.\n    \
RuntimeError: it would have to wait, and nothing of these runs here.\n\n\
>>> import asyncio\n>>> from penstock import Channel, go\n>>> numbers = Channel[int]()\n\
>>> async def main() -> int:\n...     sender = go(numbers.send, 7)\n...     received = await numbers.arecv()\n\
...     await sender\n...     return received\n>>> asyncio.run(main())\n7\n";

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

/// `Channel.send(value, timeout=None)`.
pub(super) unsafe extern "C-unwind" fn send(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let sent = if count == 1 && keywords.is_null() {
            send_one(py, this, *arguments)
        } else {
            send_parsed(py, this, arguments, count, keywords)
        };
        match sent {
            Ok(()) => none(),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// A send whose arguments have to be looked at. Apart, so that the other form needs no frame for it.
///
/// # Safety
/// As for [`send`].
#[cold]
unsafe fn send_parsed(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> Result<(), Raised> {
    let names = ["value", "timeout"];
    // SAFETY: the arguments of a vectorcall, which stay alive during the call.
    unsafe {
        let [value, timeout] = parse(py, "send", names, 1, arguments, count, keywords)?;
        if timeout.is_null() {
            send_one(py, this, value)
        } else {
            send_slowly(py, this, value, timeout)
        }
    }
}

/// A send without a timeout.
///
/// # Safety
/// In a raw entry of the channel `this`, with nothing that has a destructor alive; `value` stays alive during the call.
#[expect(
    clippy::inline_always,
    reason = "a call of its own is a tenth of a send's instructions"
)]
#[inline(always)]
pub(super) unsafe fn send_one(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> Result<(), Raised> {
    // SAFETY: the caller's promise.
    unsafe {
        let channel = object::get::<ChannelObject>(this);
        if !channel.is_special() {
            match channel.core().try_send(Object::new(value)) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(back)) => {
                    drop(back);
                    return Err(not_sent(py, channel));
                }
                Err(TrySendError::Full(back)) => drop(back), // the caller's is still there
            }
        }
        send_slowly(py, this, value, ptr::null_mut())
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
    let channel = unsafe { object::get::<ChannelObject>(this) };
    if channel.is_special() {
        // SAFETY: as for this function.
        return unsafe { sending::send(py, this, value, timeout) };
    }
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
pub(super) unsafe extern "C-unwind" fn recv(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let received = if count == 0 && keywords.is_null() {
            receive(py, this, ptr::null_mut())
        } else {
            receive_parsed(py, this, arguments, count, keywords)
        };
        match received {
            Ok(value) => value,
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// A receive whose arguments have to be looked at. Apart, so that the other form needs no frame for it.
///
/// # Safety
/// As for [`recv`].
#[cold]
unsafe fn receive_parsed(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: the arguments of a vectorcall, which stay alive during the call.
    unsafe {
        let [timeout] = parse(py, "recv", ["timeout"], 0, arguments, count, keywords)?;
        receive(py, this, timeout)
    }
}

/// A new reference to the next value.
///
/// # Safety
/// In a raw entry of the channel `this`, with nothing that has a destructor alive; `timeout` is an argument, or null.
#[expect(clippy::inline_always, reason = "as of `send_one`")]
#[inline(always)]
unsafe fn receive(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    timeout: *mut ffi::PyObject,
) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: a channel, alive during its own call.
    let channel = unsafe { object::get::<ChannelObject>(this) };
    if timeout.is_null() && !channel.is_special() {
        match channel.core().try_recv() {
            Ok(value) => return Ok(value.into_ptr()),
            Err(TryRecvError::Closed) => return Err(closed(py)),
            Err(TryRecvError::Empty) => {}
        }
    }
    // SAFETY: as for this function.
    unsafe {
        let value = receive_slowly(py, this, timeout)?;
        if channel.is_special() {
            pressure::tell(py, this);
        }
        Ok(value)
    }
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
    let channel = unsafe { object::get::<ChannelObject>(this) };
    let core = channel.core();
    let patience = Patience::from_optional(py, timeout)?;
    if !timeout.is_null() || channel.is_special() {
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

pub(super) unsafe extern "C-unwind" fn send_nowait(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe {
        let py = Python::assume_attached();
        let channel = object::get::<ChannelObject>(this);
        if channel.is_special() {
            return match sending::send_nowait(py, this, value) {
                Ok(()) => none(),
                Err(Raised) => ptr::null_mut(),
            };
        }
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

pub(super) unsafe extern "C-unwind" fn recv_nowait(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe {
        let py = Python::assume_attached();
        let channel = object::get::<ChannelObject>(this);
        match channel.core().try_recv() {
            Ok(value) => {
                let value = value.into_ptr();
                if channel.is_special() {
                    pressure::tell(py, this);
                }
                return value;
            }
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

pub(super) unsafe extern "C-unwind" fn asend(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel` or an end of one, attached, with the arguments of a vectorcall.
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
        let channel = ends::channel_of(this);
        if channel.core().is_timer() {
            refuse_send(py, channel);
            return ptr::null_mut();
        }
        if channel.is_special() {
            return sending::asend(py, this, value, patience);
        }
        operation::new_send(this, value, patience)
    }
}

pub(super) unsafe extern "C-unwind" fn arecv(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel` or an end of one, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let mut patience = Patience::Forever;
        if count != 0 || !keywords.is_null() {
            match Patience::parse(py, "arecv", arguments, count, keywords) {
                Ok(parsed) => patience = parsed,
                Err(Raised) => return ptr::null_mut(),
            }
        }
        let channel = ends::channel_of(this);
        if channel.core().is_timer() {
            if ends::is_closed_end(this) {
                ends::raise_closed(py, this);
                return ptr::null_mut();
            }
            return pending::awaitable(py, ReceiveTick::boxed(this, Form::Arecv), patience);
        }
        if channel.is_special() {
            return receiving::arecv(py, this, false, patience);
        }
        operation::new_recv(this, patience)
    }
}

pub(super) unsafe extern "C-unwind" fn next(
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

pub(super) unsafe extern "C-unwind" fn anext(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached.
    unsafe {
        let channel = ends::channel_of(this);
        let py = Python::assume_attached();
        if channel.core().is_timer() {
            if ends::is_closed_end(this) {
                ffi::PyErr_SetNone(ffi::PyExc_StopAsyncIteration);
                return ptr::null_mut();
            }
            let next = ReceiveTick::boxed(this, Form::Anext);
            return pending::awaitable(py, next, Patience::Forever);
        }
        if channel.is_special() {
            return receiving::arecv(py, this, true, Patience::Forever);
        }
        operation::new_next(this)
    }
}
