//! Sends that are more than a value and a wait for room: by a policy, with a token, many at once.
//!
//! An ordinary channel's single sends have their own way, in [`entries`](super::entries) and
//! [`operation`](crate::operation).

use std::{collections::VecDeque, ffi::CStr, ptr, sync::Arc, time::Instant};

use penstock_core::{
    channel::{BeginSend, Channel, Overflow, SendError, Step, Ticket, TrySendError},
    wait::{Entry, Epoch, Outcome, WaiterRef},
};
use pyo3::{ffi, prelude::*};

use super::{ChannelObject, ends, entries::closed, pressure, timer::refuse_send};
use crate::{
    convert::{Patience, parse},
    error::{Failure, Raised},
    hot::Definition,
    mode::Mode,
    object::{self, Object, none},
    pending::{self, Begun, Next, Pending},
    unwind,
};

pub static METHODS: [Definition; 2] = [
    Definition::fast(c"send_many", send_many, SEND_MANY_DOC),
    Definition::fast(c"asend_many", asend_many, ASEND_MANY_DOC),
];

pub const SEND_MANY_DOC: &CStr = c"send_many($self, iterable)\n--\n\n\
Put every item of ``iterable`` on the channel, in order, waiting while it is full.\n\n\
The same as ``for item in iterable: channel.send(item)``, by one call. Items of other senders may come between.\n\
A list or a tuple is read some hundred items ahead; of anything else an item is read once the one before it was\n\
sent, so the iterable may itself use the channel, and may be endless. Whatever ends it early, a failure of the\n\
iterable too, the items before that stay sent. Parks a task, blocks a thread.\n\n\
Raises:\n    \
ChannelClosed: the channel was closed, before or while waiting.\n    \
Full: it is full, and has ``overflow=\"error\"``.\n    \
Cancelled: the task was cancelled while it waited.\n    \
TypeError: ``iterable`` is none.\n\n\
>>> from penstock import Channel\n\
>>> numbers = Channel[int](capacity=8)\n\
>>> numbers.send_many(range(5))\n\
>>> numbers.recv_many(100)\n\
[0, 1, 2, 3, 4]\n";

pub const ASEND_MANY_DOC: &CStr = c"asend_many($self, iterable)\n--\n\n\
The awaitable form of `send_many`.\n";

/// How many items of a list or a tuple are read ahead.
const CHUNK_ITEMS: usize = 256;

/// After how many items of an iterable that never waits other threads get a chance, and signals are seen.
const ITEMS_PER_BREATH: u32 = 4096;

/// Why a send did not happen at once.
enum Refusal {
    Closed,
    Full,
    NoToken,
}

/// Sends by the channel's policy, with a token if it needs one, without waiting. Gives what was thrown away, a strong
/// reference or null.
///
/// # Safety
/// Attached; `value` is alive, and stays so during the call.
unsafe fn offer(
    core: &Channel<Object, Mode>,
    value: *mut ffi::PyObject,
) -> Result<*mut ffi::PyObject, Refusal> {
    // SAFETY: the caller's promise. What comes back of it is dropped while the caller's reference is there.
    let value = unsafe { Object::new(value) };
    let offered = |value| match core.offer(value) {
        Ok(dropped) => Ok(dropped.map_or(ptr::null_mut(), Object::into_ptr)),
        Err(TrySendError::Full(_)) => Err(Refusal::Full),
        Err(TrySendError::Closed(_)) => Err(Refusal::Closed),
    };
    let Some(turnstile) = core.turnstile() else {
        return offered(value);
    };
    let now = Instant::now();
    let Some(ticket) = turnstile.try_enter(now) else {
        return Err(if core.is_closed() {
            Refusal::Closed
        } else {
            Refusal::NoToken
        });
    };
    let result = offered(value);
    turnstile.leave(ticket, result.is_ok(), now);
    result
}

fn full(py: Python<'_>) -> Raised {
    Failure::Full.raise(py, "the channel is full")
}

/// `send` on a channel that is special.
///
/// # Safety
/// In a raw entry of the channel `this`, with nothing that has a destructor alive; `value` and `timeout` are
/// arguments, or null.
#[cold]
pub unsafe fn send(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    timeout: *mut ffi::PyObject,
) -> Result<(), Raised> {
    let patience = Patience::from_optional(py, timeout)?;
    // SAFETY: the caller's promise; nothing that has a destructor is alive where Python code runs.
    unsafe {
        let core = object::get::<ChannelObject>(this).core();
        match offer(core, value) {
            Ok(dropped) => ffi::Py_XDECREF(dropped),
            Err(Refusal::Closed) => return Err(closed(py)),
            Err(Refusal::Full) if core.overflow() == Overflow::Error => return Err(full(py)),
            Err(refusal) => {
                let sending = Sending::one(this, value, false);
                if patience == Patience::None {
                    drop(sending);
                    return Err(timed_out(py, matches!(refusal, Refusal::Full)));
                }
                ffi::Py_DECREF(pending::run(py, Box::new(sending), patience)?);
            }
        }
        pressure::tell(py, this);
    }
    Ok(())
}

/// `send_nowait` on a channel that is special.
///
/// # Safety
/// As for [`send`].
#[cold]
pub unsafe fn send_nowait(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> Result<(), Raised> {
    // SAFETY: the caller's promise; nothing that has a destructor is alive where Python code runs.
    unsafe {
        match offer(object::get::<ChannelObject>(this).core(), value) {
            Ok(dropped) => ffi::Py_XDECREF(dropped),
            Err(Refusal::Closed) => return Err(closed(py)),
            Err(Refusal::Full) => return Err(full(py)),
            Err(Refusal::NoToken) => {
                return Err(Failure::Full.raise(py, "the channel's rate allows no send now"));
            }
        }
        pressure::tell(py, this);
    }
    Ok(())
}

/// `asend` on a channel that is special, or an end of one.
///
/// # Safety
/// Attached; both are alive.
#[cold]
pub unsafe fn asend(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    patience: Patience,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    let sending = unsafe { Sending::one(this, value, true) };
    pending::awaitable(py, Box::new(sending), patience)
}

/// `Channel.send_many(iterable)`.
pub unsafe extern "C-unwind" fn send_many(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let parsed = parse(py, "send_many", ["iterable"], 1, arguments, count, keywords);
        let Ok([iterable]) = parsed else {
            return ptr::null_mut();
        };
        let channel = object::get::<ChannelObject>(this);
        if channel.core().is_timer() {
            refuse_send(py, channel);
            return ptr::null_mut();
        }
        let sent = match Source::in_place(iterable) {
            Some(source) if !channel.is_special() => send_all_in(py, this, source),
            source => {
                drop(source);
                send_each_of(py, this, iterable)
            }
        };
        match sent {
            Ok(()) => none(),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// # Safety
/// As for [`send`]; the channel is not special.
unsafe fn send_all_in(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    source: Source,
) -> Result<(), Raised> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sending = Box::new(Sending::many(this, source, false));
        let result = match sending.try_now(py)? {
            Some(value) => value,
            None => pending::run(py, sending, Patience::Forever)?,
        };
        ffi::Py_DECREF(result);
    }
    Ok(())
}

/// # Safety
/// As for [`send`].
unsafe fn send_each_of(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    iterable: *mut ffi::PyObject,
) -> Result<(), Raised> {
    // SAFETY: the caller's promise. A thread that is ended in the iterable leaks what is in here.
    unsafe {
        let iterator = unwind::PyObject_GetIter(iterable);
        if iterator.is_null() {
            return Err(Raised);
        }
        let mut breath = ITEMS_PER_BREATH;
        let sent = loop {
            let item = unwind::PyIter_Next(iterator);
            if item.is_null() {
                let failed = !ffi::PyErr_Occurred().is_null();
                break if failed { Err(Raised) } else { Ok(()) };
            }
            let sent = super::entries::send_one(py, this, item);
            ffi::Py_DECREF(item);
            if sent.is_err() {
                break sent;
            }
            breath -= 1;
            if breath == 0 {
                breath = ITEMS_PER_BREATH;
                let state = ffi::PyEval_SaveThread();
                unwind::PyEval_RestoreThread(state);
                if unwind::PyErr_CheckSignals() < 0 {
                    break Err(Raised);
                }
            }
        };
        ffi::Py_DECREF(iterator);
        sent
    }
}

/// `Channel.asend_many(iterable)`, or that of a sender.
pub unsafe extern "C-unwind" fn asend_many(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Channel` or an end of one, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let names = ["iterable"];
        let parsed = parse(py, "asend_many", names, 1, arguments, count, keywords);
        let Ok([iterable]) = parsed else {
            return ptr::null_mut();
        };
        let channel = ends::channel_of(this);
        if channel.core().is_timer() {
            refuse_send(py, channel);
            return ptr::null_mut();
        }
        let source = if let Some(source) = Source::in_place(iterable) {
            source
        } else {
            let iterator = unwind::PyObject_GetIter(iterable);
            if iterator.is_null() {
                return ptr::null_mut();
            }
            Source::Iterator(Object::steal(iterator))
        };
        let sending = Box::new(Sending::many(this, source, true));
        pending::awaitable(py, sending, Patience::Forever)
    }
}

/// Where the next items come from.
enum Source {
    Nothing,
    /// A list, and how many of its items were read.
    List(Object, usize),
    /// A tuple, in the same way.
    Tuple(Object, usize),
    /// Of an awaitable form only: to read it runs Python code, in a coroutine, which cannot park in there.
    Iterator(Object),
}

impl Source {
    /// Of what can be read without running Python code.
    ///
    /// # Safety
    /// Attached; `iterable` is alive.
    unsafe fn in_place(iterable: *mut ffi::PyObject) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            if ffi::PyList_CheckExact(iterable) != 0 {
                Some(Source::List(Object::new(iterable), 0))
            } else if ffi::PyTuple_CheckExact(iterable) != 0 {
                Some(Source::Tuple(Object::new(iterable), 0))
            } else {
                None
            }
        }
    }

    /// Reads some items, at least one unless there is none left.
    fn read(&mut self, values: &mut VecDeque<Object>) -> Result<(), Raised> {
        // SAFETY: attached, as every caller is; the sources are alive, and of their kinds.
        unsafe {
            match self {
                Source::Nothing => {}
                Source::Tuple(tuple, at) => {
                    let len = ffi::PyTuple_GET_SIZE(tuple.as_ptr()).cast_unsigned();
                    let end = len.min(*at + CHUNK_ITEMS);
                    values.reserve(end - *at);
                    for index in *at..end {
                        let item = ffi::PyTuple_GET_ITEM(tuple.as_ptr(), index.cast_signed());
                        values.push_back(Object::new(item));
                    }
                    *at = end;
                }
                Source::List(list, at) => {
                    let len = ffi::PyList_GET_SIZE(list.as_ptr()).cast_unsigned();
                    let end = len.min(*at + CHUNK_ITEMS);
                    values.reserve(end.saturating_sub(*at));
                    while *at < end {
                        let item = list_item(list.as_ptr(), at.cast_signed());
                        if item.is_null() {
                            break; // somebody shortened it meanwhile
                        }
                        values.push_back(Object::steal(item));
                        *at += 1;
                    }
                }
                Source::Iterator(iterator) => {
                    let item = unwind::PyIter_Next(iterator.as_ptr());
                    if !item.is_null() {
                        values.push_back(Object::steal(item));
                    } else if !ffi::PyErr_Occurred().is_null() {
                        return Err(Raised);
                    }
                }
            }
        }
        Ok(())
    }

    fn object(&self) -> Option<&Object> {
        match self {
            Source::Nothing => None,
            Source::List(object, _) | Source::Tuple(object, _) | Source::Iterator(object) => {
                Some(object)
            }
        }
    }
}

/// A new reference to an item of a list, or null where it has none at `index`.
///
/// # Safety
/// Attached; `list` is one, alive.
unsafe fn list_item(list: *mut ffi::PyObject, index: ffi::Py_ssize_t) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise. With the GIL the length is still what it was when the caller looked.
    #[cfg(not(Py_GIL_DISABLED))]
    unsafe {
        ffi::Py_NewRef(ffi::PyList_GET_ITEM(list, index))
    }
    // SAFETY: the caller's promise; the function looks at the length itself.
    #[cfg(Py_GIL_DISABLED)]
    unsafe {
        let item = ffi::PyList_GetItemRef(list, index);
        if item.is_null() {
            ffi::PyErr_Clear();
        }
        item
    }
}

/// One value, or many, on their way.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own"
)]
struct Sending {
    /// A channel, or an end of one: that is not dropped before the call is over.
    subject: Object,
    source: Source,
    /// Read, and not sent.
    values: VecDeque<Object>,
    /// Where it stands before a channel with a rate.
    ticket: Ticket,
    /// Waits for room.
    entry: Option<Arc<Entry<Object>>>,
    /// What the channel has thrown away, of a call that must not run Python code meanwhile: it goes with this.
    dropped: Vec<Object>,
    /// The last wait was for room, not for a token.
    is_full: bool,
    is_many: bool,
    /// It was tried, or begun. From then on it goes on whether or not its end is closed.
    has_begun: bool,
    /// A coroutine's: it runs Python code itself, where a plain call leaves that to its raw entry.
    is_awaited: bool,
}

/// How far a [`Sending`] got.
enum Progress {
    Done,
    /// It was not asked to wait.
    WouldWait,
    Waits(Epoch, Option<Instant>),
}

impl Sending {
    /// # Safety
    /// Attached; `subject` is a channel or an end of one, and alive, as is `value`.
    unsafe fn one(
        subject: *mut ffi::PyObject,
        value: *mut ffi::PyObject,
        is_awaited: bool,
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sending = Self::many(subject, Source::Nothing, is_awaited);
            sending.values.push_back(Object::new(value));
            sending.is_many = false;
            sending
        }
    }

    /// # Safety
    /// Attached; `subject` is a channel or an end of one, and alive.
    unsafe fn many(subject: *mut ffi::PyObject, source: Source, is_awaited: bool) -> Self {
        Self {
            // SAFETY: the caller's promise.
            subject: unsafe { Object::new(subject) },
            source,
            values: VecDeque::new(),
            ticket: Ticket::default(),
            entry: None,
            dropped: Vec::new(),
            is_full: false,
            is_many: true,
            has_begun: false,
            is_awaited,
        }
    }

    /// Not tied to the borrow of `self`, which outlives each use.
    fn core<'a>(&self) -> &'a Channel<Object, Mode> {
        // SAFETY: a channel or an end of one, which this keeps alive.
        unsafe { ends::channel_of(self.subject.as_ptr()) }.core()
    }

    /// Sends what can be sent without a wait, and begins one if there is a waiter.
    fn advance(&mut self, py: Python<'_>, waiter: Option<&WaiterRef>) -> Result<Progress, Raised> {
        let core = self.core();
        let closed = |this: &mut Self| {
            this.leave(false);
            Err(closed(py))
        };
        // SAFETY: alive, this holds it.
        if !self.has_begun && unsafe { ends::is_closed_end(self.subject.as_ptr()) } {
            // SAFETY: as above.
            return Err(unsafe { ends::raise_closed(py, self.subject.as_ptr()) });
        }
        self.has_begun = true;
        loop {
            if self.values.is_empty() {
                self.source.read(&mut self.values)?;
            }
            if self.values.is_empty() {
                return Ok(Progress::Done);
            }
            if let Some(turnstile) = core.turnstile() {
                let now = Instant::now();
                match waiter {
                    Some(waiter) => match turnstile.step(&mut self.ticket, waiter, now) {
                        Step::Send => {}
                        Step::Closed => return closed(self),
                        Step::Sleep(epoch, until) => {
                            self.is_full = false;
                            return Ok(Progress::Waits(epoch, until));
                        }
                    },
                    None => match turnstile.try_enter(now) {
                        Some(ticket) => self.ticket = ticket,
                        None if core.is_closed() => return closed(self),
                        None => return Ok(Progress::WouldWait),
                    },
                }
            }
            match self.send_some(core) {
                Ok(()) => self.sent(py),
                Err(TrySendError::Closed(())) => return closed(self),
                Err(TrySendError::Full(())) if core.overflow() == Overflow::Error => {
                    self.leave(false);
                    return Err(full(py));
                }
                Err(TrySendError::Full(())) => {
                    self.tell(py); // of those that were sent before it
                    let Some(waiter) = waiter else {
                        self.leave(false);
                        return Ok(Progress::WouldWait);
                    };
                    let Some(value) = self.values.pop_front() else {
                        continue;
                    };
                    match core.begin_send(value, waiter) {
                        BeginSend::Done => self.sent(py),
                        BeginSend::Closed(_) => return closed(self),
                        BeginSend::Waiting(entry) => {
                            let epoch = entry.epoch;
                            self.entry = Some(entry);
                            self.is_full = true;
                            return Ok(Progress::Waits(epoch, None));
                        }
                    }
                }
            }
        }
    }

    /// Sends one value by the channel's policy, or as many as fit where it has none.
    fn send_some(&mut self, core: &Channel<Object, Mode>) -> Result<(), TrySendError<()>> {
        if core.overflow() == Overflow::Block && core.turnstile().is_none() {
            return core.try_send_many(&mut self.values);
        }
        let Some(value) = self.values.pop_front() else {
            return Ok(());
        };
        match core.offer(value) {
            Ok(dropped) => {
                self.dropped.extend(dropped);
                Ok(())
            }
            Err(TrySendError::Full(back)) => {
                self.values.push_front(back);
                Err(TrySendError::Full(()))
            }
            Err(TrySendError::Closed(back)) => {
                self.values.push_front(back);
                Err(TrySendError::Closed(()))
            }
        }
    }

    fn sent(&mut self, py: Python<'_>) {
        self.leave(true);
        if self.is_awaited {
            self.dropped.clear();
        }
        self.tell(py);
    }

    fn tell(&self, py: Python<'_>) {
        if self.is_awaited {
            // SAFETY: alive, this holds it. In a coroutine's step, or an event loop's, which do not park.
            unsafe { pressure::tell_if_special(py, self.subject.as_ptr()) };
        }
    }

    /// Passes the turn on, if there are turns and this has it.
    fn leave(&mut self, sent: bool) {
        if let Some(turnstile) = self.core().turnstile()
            && self.ticket.holds()
        {
            turnstile.leave(std::mem::take(&mut self.ticket), sent, Instant::now());
        }
    }

    /// Takes back what is left of a wait for a token. Whether to go on.
    fn woken(&mut self, outcome: Outcome) -> bool {
        self.core()
            .turnstile()
            .is_some_and(|turnstile| turnstile.woken(&mut self.ticket, outcome, Instant::now()))
    }
}

/// A call whose time ran out as it was to go on still has the turn.
impl Drop for Sending {
    fn drop(&mut self) {
        if self.ticket.holds() {
            // SAFETY: values are dropped by attached threads.
            let py = unsafe { Python::assume_attached() };
            let raised = PyErr::take(py); // whoever is woken may be woken by Python code
            self.leave(false);
            if let Some(raised) = raised {
                raised.restore(py);
            }
        }
    }
}

fn timed_out(py: Python<'_>, is_full: bool) -> Raised {
    let message = if is_full {
        "the channel stayed full"
    } else {
        "the channel's rate allowed no send in time"
    };
    Failure::TimedOut.raise(py, message)
}

impl Pending for Sending {
    fn call(&self) -> &'static str {
        if self.is_many {
            "Channel.send_many()"
        } else {
            "Channel.send()"
        }
    }

    fn awaitable(&self) -> &'static str {
        if self.is_many {
            "await channel.asend_many()"
        } else {
            "await channel.asend()"
        }
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.subject.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        match self.advance(py, None)? {
            // SAFETY: attached.
            Progress::Done => Ok(Some(unsafe { none() })),
            Progress::WouldWait | Progress::Waits(..) => Ok(None),
        }
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<Begun, Raised> {
        match self.advance(py, Some(waiter))? {
            Progress::Waits(epoch, None) => Ok(Begun::Waiting(epoch)),
            Progress::Waits(epoch, Some(until)) => Ok(Begun::Until(epoch, until)),
            // SAFETY: attached.
            Progress::Done | Progress::WouldWait => Ok(Begun::Done(unsafe { none() })),
        }
    }

    fn finish(&mut self, py: Python<'_>, outcome: Outcome) -> Result<Next, Raised> {
        if let Some(entry) = self.entry.take() {
            // SAFETY: this channel's entry, finished once, and its wait is over.
            let sent = unsafe { self.core().finish_send(&entry) };
            if sent.is_ok() {
                self.sent(py);
                return Ok(Next::Again);
            }
            self.leave(false);
            return match sent {
                Err(SendError::Closed(_)) => Err(closed(py)),
                _ => Ok(Next::Over),
            };
        }
        if self.woken(outcome) {
            return Ok(Next::Again);
        }
        self.leave(false);
        if outcome == Outcome::Closed {
            Err(closed(py))
        } else {
            Ok(Next::Over)
        }
    }

    fn abandon(&mut self, _: Python<'_>, outcome: Outcome) {
        if let Some(entry) = self.entry.take() {
            // SAFETY: as in `finish`.
            let sent = unsafe { self.core().finish_send(&entry) }.is_ok();
            self.leave(sent);
        } else {
            self.woken(outcome);
            self.leave(false);
        }
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        timed_out(py, self.is_full)
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.subject.as_ptr());
        for object in self
            .source
            .object()
            .into_iter()
            .chain(&self.values)
            .chain(&self.dropped)
        {
            visit(object.as_ptr());
        }
    }
}
