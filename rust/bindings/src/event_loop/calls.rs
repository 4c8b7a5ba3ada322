//! Sends, receives and joins in the form that a wait in an event loop takes. Elsewhere they have their own, which cost less.

use std::sync::Arc;

use penstock_core::{
    channel::{BeginRecv, BeginSend, RecvError, SendError, TryRecvError, TrySendError},
    task::BeginJoin,
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{exceptions::PyStopAsyncIteration, ffi, prelude::*};

use crate::{
    blocking,
    channel::ChannelObject,
    error::{Failure, Raised, raise},
    object::{self, Object},
    pending::{Begun, Next, Pending},
    task::{Take, TaskObject},
};

fn none(py: Python<'_>) -> *mut ffi::PyObject {
    py.None().into_ptr()
}

fn closed(py: Python<'_>) -> Raised {
    Failure::Closed.raise(py, "the channel is closed")
}

/// `await channel.asend(value)`.
pub struct Send {
    channel: Object,
    /// What is to be sent. `None` once it was, and while an entry has it.
    value: Option<Object>,
    entry: Option<Arc<Entry<Object>>>,
}

impl Send {
    /// `channel` is a `Channel`.
    pub fn new(channel: Object, value: Option<Object>) -> Self {
        Self {
            channel,
            value,
            entry: None,
        }
    }

    fn channel<'a>(&self) -> &'a ChannelObject {
        // SAFETY: a channel, which this keeps alive; the callers use the result while they have this.
        unsafe { object::get::<ChannelObject>(self.channel.as_ptr()) }
    }

    fn end(&mut self) -> Option<Result<(), SendError<Object>>> {
        let entry = self.entry.take()?;
        // SAFETY: from this channel's `begin_send`, taken out once, and the wait is over.
        Some(unsafe { self.channel().core().finish_send(&entry) })
    }
}

impl Pending for Send {
    fn call(&self) -> &'static str {
        "Channel.asend()"
    }

    fn awaitable(&self) -> &'static str {
        "await channel.asend()"
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.channel.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        let Some(value) = self.value.take() else {
            return Ok(Some(none(py)));
        };
        match self.channel().core().try_send(value) {
            Ok(()) => Ok(Some(none(py))),
            Err(TrySendError::Full(back)) => {
                self.value = Some(back);
                Ok(None)
            }
            Err(TrySendError::Closed(_)) => Err(closed(py)),
        }
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<Begun, Raised> {
        let Some(value) = self.value.take() else {
            return Ok(Begun::Done(none(py)));
        };
        match self.channel().core().begin_send(value, waiter) {
            BeginSend::Done => Ok(Begun::Done(none(py))),
            BeginSend::Closed(_) => Err(closed(py)),
            BeginSend::Waiting(entry) => {
                let epoch = entry.epoch;
                self.entry = Some(entry);
                Ok(Begun::Waiting(epoch))
            }
        }
    }

    fn finish(&mut self, py: Python<'_>, _: Outcome) -> Result<Next, Raised> {
        match self.end() {
            None | Some(Ok(())) => Ok(Next::Done(none(py))),
            Some(Err(SendError::Closed(_))) => Err(closed(py)),
            Some(Err(SendError::TimedOut(back) | SendError::Interrupted(back))) => {
                self.value = Some(back);
                Ok(Next::Over)
            }
        }
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {
        drop(self.end()); // delivered, or as if it had not been
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        Failure::TimedOut.raise(py, "the channel stayed full")
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.channel.as_ptr());
        if let Some(value) = &self.value {
            visit(value.as_ptr()); // the channel shows what an entry has
        }
    }
}

/// `await channel.arecv()`, or a step of `async for`.
pub struct Recv {
    channel: Object,
    /// A step of an iteration, which the end of the channel ends.
    iterates: bool,
    entry: Option<Arc<Entry<Object>>>,
}

impl Recv {
    /// `channel` is a `Channel`.
    pub fn new(channel: Object, iterates: bool) -> Self {
        Self {
            channel,
            iterates,
            entry: None,
        }
    }

    fn channel<'a>(&self) -> &'a ChannelObject {
        // SAFETY: a channel, which this keeps alive; the callers use the result while they have this.
        unsafe { object::get::<ChannelObject>(self.channel.as_ptr()) }
    }

    fn closed(&self, py: Python<'_>) -> Raised {
        if self.iterates {
            return raise(py, PyStopAsyncIteration::new_err(()));
        }
        closed(py)
    }
}

impl Pending for Recv {
    fn call(&self) -> &'static str {
        "Channel.arecv()"
    }

    fn awaitable(&self) -> &'static str {
        "await channel.arecv()"
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.channel.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        match self.channel().core().try_recv() {
            Ok(value) => Ok(Some(value.into_ptr())),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Closed) => Err(self.closed(py)),
        }
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<Begun, Raised> {
        match self.channel().core().begin_recv(waiter) {
            BeginRecv::Done(value) => Ok(Begun::Done(value.into_ptr())),
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
        // SAFETY: from this channel's `begin_recv`, taken out once, and the wait is over.
        match unsafe { self.channel().core().finish_recv(&entry) } {
            Ok(value) => Ok(Next::Done(value.into_ptr())),
            Err(RecvError::Closed) => Err(self.closed(py)),
            Err(RecvError::TimedOut | RecvError::Interrupted) => Ok(Next::Over),
        }
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {
        if let Some(entry) = self.entry.take() {
            // SAFETY: from this channel's `begin_recv`, taken out once, and the wait is over.
            drop(unsafe { self.channel().core().abandon_recv(&entry) });
        }
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        Failure::TimedOut.raise(py, "the channel stayed empty")
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.channel.as_ptr());
    }
}

/// `await task` and its kin, and `await ablocking(fn)`, which was handed to the pool.
pub struct Join {
    task: Object,
    take: Take,
    /// It is a call of the blocking pool: abandoned where nobody waits for it.
    is_call: bool,
    entry: Option<Arc<Entry<()>>>,
}

impl Join {
    /// `task` is a `Task`, or a call of the blocking pool.
    pub fn new(task: Object, take: Take, is_call: bool) -> Self {
        Self {
            task,
            take,
            is_call,
            entry: None,
        }
    }

    fn task<'a>(&self) -> &'a TaskObject {
        // SAFETY: a task, which this keeps alive; the callers use the result while they have this.
        unsafe { object::get::<TaskObject>(self.task.as_ptr()) }
    }

    fn take_off(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.task().finish_join(&entry);
        }
    }
}

impl Pending for Join {
    fn call(&self) -> &'static str {
        if self.is_call {
            "penstock.ablocking()"
        } else {
            "the await of a task"
        }
    }

    fn awaitable(&self) -> &'static str {
        "await task"
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.task.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        if !self.task().core().is_done() {
            return Ok(None);
        }
        let value = self.task().take(py, self.take);
        if value.is_null() {
            Err(Raised)
        } else {
            Ok(Some(value))
        }
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<Begun, Raised> {
        match self.task().begin_join(waiter) {
            BeginJoin::Done => match self.try_now(py)? {
                Some(value) => Ok(Begun::Done(value)),
                None => Ok(Begun::Done(none(py))),
            },
            BeginJoin::Waiting(entry) => {
                let epoch = entry.epoch;
                self.entry = Some(entry);
                Ok(Begun::Waiting(epoch))
            }
        }
    }

    fn finish(&mut self, py: Python<'_>, _: Outcome) -> Result<Next, Raised> {
        self.take_off();
        Ok(self.try_now(py)?.map_or(Next::Over, Next::Done))
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {
        self.take_off();
        if self.is_call {
            // SAFETY: attached; a call of the pool.
            unsafe { blocking::abandon(self.task.as_ptr()) };
        }
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        Failure::TimedOut.raise(py, "the task has not ended in time")
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.task.as_ptr());
    }
}
