//! Receives that are more than one value and a wait for it: many at once, and of channels that tell of pressure.

use std::{ffi::CStr, ptr, sync::Arc};

use penstock_core::{
    channel::{BeginRecv, Channel, RecvError, TryRecvError},
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{
    exceptions::{PyStopAsyncIteration, PyTypeError, PyValueError},
    ffi,
    prelude::*,
};

use super::{
    ChannelObject, ends,
    entries::closed,
    pressure,
    timer::{Form, ReceiveTick},
};
use crate::{
    convert::{Patience, parse, shown},
    error::{Failure, Raised, raise},
    hot::Definition,
    mode::Mode,
    object::{self, Object},
    pending::{self, Begun, Next, Pending},
};

pub static METHODS: [Definition; 2] = [
    Definition::fast(c"recv_many", recv_many, RECV_MANY_DOC),
    Definition::fast(c"arecv_many", arecv_many, ARECV_MANY_DOC),
];

pub const RECV_MANY_DOC: &CStr = c"recv_many($self, max_items)\n--\n\n\
Take up to ``max_items`` of the oldest values at once, waiting only while there is none.\n\n\
Gives a list with at least one: what is there now, in order, the values of blocked senders included, which get\n\
the slots that become free. Cancelled, it has taken nothing. Parks a task, blocks a thread.\n\n\
Raises:\n    \
ChannelClosed: the channel is closed and drained.\n    \
Cancelled: the task was cancelled while it waited.\n    \
ValueError: ``max_items`` is below 1.\n\n\
>>> from penstock import Channel\n\
>>> numbers = Channel[int](capacity=8)\n\
>>> numbers.send_many([1, 2, 3])\n\
>>> numbers.recv_many(2), numbers.recv_many(2)\n\
([1, 2], [3])\n";

pub const ARECV_MANY_DOC: &CStr = c"arecv_many($self, max_items)\n--\n\n\
The awaitable form of `recv_many`. What it was handed and could not take comes back, as with `arecv`.\n";

/// `max_items` of the call `function`.
///
/// # Safety
/// The arguments are those of a vectorcall; attached.
unsafe fn max_items(
    py: Python<'_>,
    function: &str,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> Result<usize, Raised> {
    // SAFETY: the caller's promise.
    let [value] = unsafe { parse(py, function, ["max_items"], 1, arguments, count, keywords)? };
    // SAFETY: a live argument.
    let value = unsafe { Bound::ref_from_ptr(py, &value) };
    let refuse = |kind: fn(String) -> PyErr| {
        let shown = shown(value);
        raise(
            py,
            kind(format!("max_items must be an int >= 1, not {shown}")),
        )
    };
    // SAFETY: alive, and attached.
    unsafe {
        if ffi::PyIndex_Check(value.as_ptr()) == 0 {
            return Err(refuse(PyTypeError::new_err));
        }
        // What does not fit is cut off, at either end.
        let number = ffi::PyNumber_AsSsize_t(value.as_ptr(), ptr::null_mut());
        if number == -1 && !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        usize::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| refuse(PyValueError::new_err))
    }
}

/// `Channel.recv_many(max_items)`.
pub unsafe extern "C-unwind" fn recv_many(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall; nothing that has a destructor is
    // alive where Python code runs.
    unsafe {
        let py = Python::assume_attached();
        let Ok(max) = max_items(py, "recv_many", arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let channel = object::get::<ChannelObject>(this);
        let received = match take_more(py, channel.core(), Vec::new(), max) {
            Ok(Some(list)) => Ok(list),
            Ok(None) if channel.core().is_timer() => {
                let receiving = ReceiveTick::boxed(this, Form::RecvMany);
                pending::run(py, receiving, Patience::Forever)
            }
            Ok(None) => {
                let receiving = Box::new(Receiving::new(this, Wanted::Many(max), false));
                pending::run(py, receiving, Patience::Forever)
            }
            Err(Raised) => Err(Raised),
        };
        let Ok(list) = received else {
            return ptr::null_mut();
        };
        if channel.is_special() {
            pressure::tell(py, this);
        }
        list
    }
}

/// `Channel.arecv_many(max_items)`, or that of a receiver.
pub unsafe extern "C-unwind" fn arecv_many(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel` or an end of one, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        match max_items(py, "arecv_many", arguments, count, keywords) {
            Ok(_) if ends::channel_of(this).core().is_timer() => {
                if ends::is_closed_end(this) {
                    ends::raise_closed(py, this);
                    return ptr::null_mut();
                }
                let receiving = ReceiveTick::boxed(this, Form::ArecvMany);
                pending::awaitable(py, receiving, Patience::Forever)
            }
            Ok(max) => {
                let receiving = Receiving::new(this, Wanted::Many(max), true);
                pending::awaitable(py, Box::new(receiving), Patience::Forever)
            }
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// `arecv` on a channel that is special, or an end of one; with `iterates`, a step of an `async for`.
///
/// # Safety
/// Attached; `this` is alive.
#[cold]
pub unsafe fn arecv(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    iterates: bool,
    patience: Patience,
) -> *mut ffi::PyObject {
    let wanted = if iterates { Wanted::Next } else { Wanted::One };
    // SAFETY: the caller's promise.
    let receiving = unsafe { Receiving::new(this, wanted, true) };
    pending::awaitable(py, Box::new(receiving), patience)
}

/// Adds to `values` what is there, up to `max` in all: a new reference to the list, or `None` if there is nothing at
/// all.
fn take_more(
    py: Python<'_>,
    core: &Channel<Object, Mode>,
    mut values: Vec<Object>,
    max: usize,
) -> Result<Option<*mut ffi::PyObject>, Raised> {
    let more = max - values.len();
    match core.try_recv_many(more, &mut values) {
        Ok(()) => {}
        Err(_) if !values.is_empty() => {}
        Err(TryRecvError::Empty) => return Ok(None),
        Err(TryRecvError::Closed) => return Err(closed(py)),
    }
    list_of(values).map(Some)
}

/// A new reference.
pub fn list_of(values: Vec<Object>) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: attached, as every caller is; the list is ours, and gets an item in each place, each a strong reference.
    unsafe {
        let list = ffi::PyList_New(values.len().cast_signed());
        if list.is_null() {
            return Err(Raised);
        }
        for (index, value) in values.into_iter().enumerate() {
            ffi::PyList_SET_ITEM(list, index.cast_signed(), value.into_ptr());
        }
        Ok(list)
    }
}

/// What a receive gives.
#[derive(Clone, Copy)]
enum Wanted {
    One,
    /// Of an `async for`, which a closed channel ends.
    Next,
    /// A list of so many, at most.
    Many(usize),
}

struct Receiving {
    /// A channel, or an end of one: that is not dropped before the call is over.
    subject: Object,
    wanted: Wanted,
    entry: Option<Arc<Entry<Object>>>,
    /// It was tried, or begun. From then on it goes on whether or not its end is closed.
    has_begun: bool,
    /// A coroutine's: it tells of pressure itself, where a plain call leaves that to its raw entry.
    is_awaited: bool,
}

impl Receiving {
    /// # Safety
    /// Attached; `subject` is a channel or an end of one, and alive.
    unsafe fn new(subject: *mut ffi::PyObject, wanted: Wanted, is_awaited: bool) -> Self {
        Self {
            // SAFETY: the caller's promise.
            subject: unsafe { Object::new(subject) },
            wanted,
            entry: None,
            has_begun: false,
            is_awaited,
        }
    }

    /// Not tied to the borrow of `self`, which outlives each use.
    fn core<'a>(&self) -> &'a Channel<Object, Mode> {
        // SAFETY: a channel or an end of one, which this keeps alive.
        unsafe { ends::channel_of(self.subject.as_ptr()) }.core()
    }

    /// Before its first step: a call on an end that is closed is none.
    fn refuse_closed_end(&mut self, py: Python<'_>) -> Result<(), Raised> {
        // SAFETY: alive, this holds it.
        if !self.has_begun && unsafe { ends::is_closed_end(self.subject.as_ptr()) } {
            return Err(self.closed(py));
        }
        self.has_begun = true;
        Ok(())
    }

    fn closed(&self, py: Python<'_>) -> Raised {
        match self.wanted {
            Wanted::Next => raise(py, PyStopAsyncIteration::new_err(())),
            // SAFETY: alive, this holds it.
            Wanted::One | Wanted::Many(_) => unsafe {
                ends::raise_closed(py, self.subject.as_ptr())
            },
        }
    }

    /// A new reference to the result that begins with `value`.
    fn complete(&self, py: Python<'_>, value: Object) -> Result<*mut ffi::PyObject, Raised> {
        let result = match self.wanted {
            Wanted::One | Wanted::Next => value.into_ptr(),
            Wanted::Many(max) => match take_more(py, self.core(), vec![value], max)? {
                Some(list) => list,
                None => unreachable!("there is one"),
            },
        };
        self.tell(py);
        Ok(result)
    }

    fn tell(&self, py: Python<'_>) {
        if self.is_awaited {
            // SAFETY: alive, this holds it. In a coroutine's step, or an event loop's, which do not park.
            unsafe { pressure::tell_if_special(py, self.subject.as_ptr()) };
        }
    }
}

impl Pending for Receiving {
    fn call(&self) -> &'static str {
        match self.wanted {
            Wanted::One | Wanted::Next => "Channel.recv()",
            Wanted::Many(_) => "Channel.recv_many()",
        }
    }

    fn awaitable(&self) -> &'static str {
        match self.wanted {
            Wanted::One | Wanted::Next => "await channel.arecv()",
            Wanted::Many(_) => "await channel.arecv_many()",
        }
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.subject.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        self.refuse_closed_end(py)?;
        match self.core().try_recv() {
            Ok(value) => self.complete(py, value).map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Closed) => Err(self.closed(py)),
        }
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<Begun, Raised> {
        self.refuse_closed_end(py)?;
        match self.core().begin_recv(waiter) {
            BeginRecv::Done(value) => self.complete(py, value).map(Begun::Done),
            BeginRecv::Closed => Err(self.closed(py)),
            BeginRecv::Waiting(entry) => {
                let epoch = entry.epoch;
                self.entry = Some(entry);
                Ok(Begun::Waiting(epoch))
            }
        }
    }

    fn finish(&mut self, py: Python<'_>, _: Outcome) -> Result<Next, Raised> {
        let Some(entry) = self.entry.take() else {
            return Ok(Next::Over);
        };
        // SAFETY: this channel's entry, finished once, and its wait is over.
        match unsafe { self.core().finish_recv(&entry) } {
            Ok(value) => self.complete(py, value).map(Next::Done),
            Err(RecvError::Closed) => Err(self.closed(py)),
            Err(RecvError::TimedOut | RecvError::Interrupted) => Ok(Next::Over),
        }
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {
        if let Some(entry) = self.entry.take() {
            // SAFETY: as in `finish`.
            drop(unsafe { self.core().abandon_recv(&entry) });
        }
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        Failure::TimedOut.raise(py, "the channel stayed empty")
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.subject.as_ptr());
    }
}
