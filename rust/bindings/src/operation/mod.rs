//! What `async def` tasks await: one operation each, in one object.
//!
//! An operation tries on its first step. If it has to wait it arms its task's waiter, leaves an entry, and
//! gives a marker up to the task, which then parks by returning. Whoever claims the waiter queues the task,
//! and the next step finishes the operation.
//!
//! In a coroutine of an event loop it waits as [`event_loop`] says. There it may be thrown an exception, or be
//! closed, at any moment: it has what a coroutine has, so that a loop can also make a task of it.
//!
//! [`class`] has what CPython sees of it.

mod class;

pub use class::clear_stop;

use std::{
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
    time::Instant,
};

use penstock_core::{
    channel::{BeginRecv, BeginSend, RecvError, SendError, TryRecvError, TrySendError},
    task::BeginJoin,
    wait::{Entry, Epoch, InPlace, Outcome},
};
use pyo3::{
    exceptions::{PyRuntimeError, PyStopAsyncIteration, PyTypeError},
    ffi::{self, PySendResult},
    prelude::*,
};

use crate::{
    blocking,
    boundary::{raise_interrupt, running_task},
    channel::{ChannelObject, ends},
    convert::Patience,
    debug,
    error::{Failure, Raised, raise},
    event_loop::{self, LoopWait, Stepped},
    interpreter,
    interrupt::earlier,
    object::{self, Object},
    pending::{self, Next, Pending},
    task::{Kind, Take, TaskObject},
    unwind,
};

/// What is awaited.
enum What {
    Send(Option<Object>),
    /// Raises `ChannelClosed` at the end, or ends an `async for`.
    Recv {
        iterates: bool,
    },
    Join(Take),
    /// A call of the blocking pool, made by the first step and joined.
    Call,
    Pending(Box<dyn Pending>),
    Sleep,
    Yield,
}

impl What {
    /// The call that made it.
    fn call(&self) -> &'static str {
        match self {
            What::Send(_) => "Channel.asend()",
            What::Recv { .. } => "Channel.arecv()",
            What::Join(_) => "the await of a task",
            What::Call => "penstock.ablocking()",
            What::Pending(pending) => pending.call(),
            What::Sleep | What::Yield => "penstock.asleep()",
        }
    }
}

enum State {
    New,
    /// Its task is parked in it.
    Waiting(Wait),
    /// Its task gave up its turn, and is queued again by its own step.
    Yielded,
    /// A coroutine of an event loop waits in it. In a box, because a million of tasks may each be parked in one of these.
    InLoop(Box<LoopWait>),
    /// A coroutine of an event loop steps through this, which is the loop's own.
    Delegated(Object, Then),
    Over,
}

/// What comes after an iterator of the loop's own.
enum Then {
    /// A sleep is over.
    Return,
    /// trio has seen the call's first checkpoint.
    Start,
    /// trio has seen the checkpoint of a call that did not wait; this is its result.
    Give(Object),
}

struct Wait {
    epoch: Epoch,
    entry: LeftEntry,
    /// It is timed out then in any case.
    until: Option<Instant>,
}

/// How the second try went, the one that leaves an entry.
enum Begun {
    /// A new reference to the result.
    Done(*mut ffi::PyObject),
    Waiting(Wait),
}

enum LeftEntry {
    /// In the operation's own object.
    Value,
    Join(Arc<Entry<()>>),
    /// What there is has the `Pending`.
    None,
}

/// Where the object around an operation has room for the entry of a send or a receive: there is one in it while the
/// operation waits with [`LeftEntry::Value`].
type Room = NonNull<MaybeUninit<Entry<Object>>>;

/// The Rust part of the object.
struct Operation {
    what: What,
    /// The channel, the task, or the call; null for what has none, or keeps it alive itself.
    subject: *mut ffi::PyObject,
    patience: Patience,
    state: State,
    /// The task that awaits, borrowed: it is alive while it does.
    task: *const TaskObject,
}

/// Says "parked" to the task.
static PARKED: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());
/// Says "queue me again" to the task.
static YIELDED: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// Whether a coroutine gave this up because one of our operations told it to.
#[inline]
pub fn is_marker(object: *mut ffi::PyObject) -> bool {
    // Ordering: Relaxed throughout, written during the module's import.
    object == PARKED.load(Ordering::Relaxed) || is_yield_marker(object)
}

#[inline]
pub fn is_yield_marker(object: *mut ffi::PyObject) -> bool {
    object == YIELDED.load(Ordering::Relaxed)
}

/// Makes the class and the markers. Called once, by the module's import.
pub fn load(py: Python<'_>) -> PyResult<()> {
    class::load(py)?;
    let object = py.import("builtins")?.getattr("object")?;
    // Ordering: Relaxed, during the import.
    PARKED.store(object.call0()?.into_ptr(), Ordering::Relaxed);
    YIELDED.store(object.call0()?.into_ptr(), Ordering::Relaxed);
    Ok(())
}

/// Makes an operation; null with an exception set if there is no memory.
///
/// # Safety
/// Attached; `subject` is null or alive.
unsafe fn new(what: What, subject: *mut ffi::PyObject, patience: Patience) -> *mut ffi::PyObject {
    // SAFETY: attached, by the caller's promise.
    unsafe {
        ffi::Py_XINCREF(subject);
        class::new(Operation {
            what,
            subject,
            patience,
            state: State::New,
            task: ptr::null(),
        })
    }
}

/// `await task`, and its kin.
pub fn join(task: &Bound<'_, TaskObject>, take: Take, patience: Patience) -> PyResult<Py<PyAny>> {
    let py = task.py();
    // SAFETY: attached, and the task is alive.
    unsafe {
        let object = new(What::Join(take), task.as_ptr(), patience);
        Bound::from_owned_ptr_or_err(py, object).map(Bound::unbind)
    }
}

/// `ablocking(fn)`.
///
/// # Safety
/// Attached; `call` is one of `blocking`'s.
pub unsafe fn new_call(call: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: alive, by the caller's promise.
    unsafe { new(What::Call, call, Patience::Forever) }
}

/// `channel.asend(value)`, or that of a sender.
///
/// # Safety
/// Attached; both are alive.
pub unsafe fn new_send(
    channel: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    patience: Patience,
) -> *mut ffi::PyObject {
    // SAFETY: alive, by the caller's promise.
    unsafe { new(What::Send(Some(Object::new(value))), channel, patience) }
}

/// `channel.arecv()`, or that of a receiver.
///
/// # Safety
/// Attached; the channel is alive.
pub unsafe fn new_recv(channel: *mut ffi::PyObject, patience: Patience) -> *mut ffi::PyObject {
    // SAFETY: alive, by the caller's promise.
    unsafe { new(What::Recv { iterates: false }, channel, patience) }
}

/// A step of `async for value in channel`.
///
/// # Safety
/// Attached; the channel is alive.
pub unsafe fn new_next(channel: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: alive, by the caller's promise.
    unsafe { new(What::Recv { iterates: true }, channel, Patience::Forever) }
}

/// A call that is made by being awaited.
pub fn new_pending(
    _: Python<'_>,
    pending: Box<dyn Pending>,
    patience: Patience,
) -> *mut ffi::PyObject {
    // SAFETY: attached.
    unsafe { new(What::Pending(pending), ptr::null_mut(), patience) }
}

/// `asleep(seconds)`; for no time at all it gives up the turn.
pub fn new_sleep(patience: Patience) -> *mut ffi::PyObject {
    let what = if patience == Patience::None {
        What::Yield
    } else {
        What::Sleep
    };
    // SAFETY: attached, as every caller is.
    unsafe { new(what, ptr::null_mut(), patience) }
}

/// A coroutine task awaits something that is not ours: raises in it, and steps it on.
///
/// # Safety
/// In the task's step, attached; `result` is what it gave up, a strong reference.
pub unsafe fn refuse_foreign(
    py: Python<'_>,
    coroutine: *mut ffi::PyObject,
    result: &mut *mut ffi::PyObject,
) -> PySendResult {
    // SAFETY: ours, by the caller's promise.
    let foreign = unsafe { Bound::from_owned_ptr(py, std::mem::replace(result, ptr::null_mut())) };
    // SAFETY: alive, the task owns it.
    let coroutine = unsafe { Bound::from_borrowed_ptr(py, coroutine) };
    let shown = foreign
        .get_type()
        .fully_qualified_name()
        .map_or_else(|_| "an object".to_owned(), |name| name.to_string());
    let message = format!(
        "an async penstock task can only await penstock's own operations, and this gave up {shown}: an event \
         loop's futures need that loop; run the code there (asyncio.run in a task of its own)"
    );
    // The class, not an instance: throw() makes one at the very `await`.
    let thrown = coroutine.call_method1("throw", (PyTypeError::new_err(message).into_value(py),));
    match thrown {
        Ok(next) => {
            *result = next.into_ptr();
            PySendResult::PYGEN_NEXT
        }
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyStopIteration>(py) => {
            match error.value(py).getattr("value") {
                Ok(value) => {
                    *result = value.into_ptr();
                    PySendResult::PYGEN_RETURN
                }
                Err(error) => {
                    error.restore(py);
                    PySendResult::PYGEN_ERROR
                }
            }
        }
        Err(error) => {
            error.restore(py);
            PySendResult::PYGEN_ERROR
        }
    }
}

/// A task that is parked in an operation, the call that made it, and what that waits for.
pub type ParkedIn = (Py<PyAny>, &'static str, Option<Py<PyAny>>);

/// Who is parked in `object`; `None` where it is no operation of ours, or nobody is.
pub fn wait_of(object: &Bound<'_, PyAny>) -> Option<ParkedIn> {
    let py = object.py();
    let look = || {
        // SAFETY: alive, and nobody is in a step of it while the world is stopped.
        let operation = unsafe { class::operation_of(object.as_ptr()) }?;
        let State::Waiting(_) = operation.state else {
            return None;
        };
        let subject = match &operation.what {
            What::Pending(pending) => pending.subject(),
            _ => operation.subject,
        };
        // SAFETY: its task is parked in it, so both are alive.
        unsafe {
            let subject = (!subject.is_null()).then(|| Object::new(subject));
            let task = Object::new((*operation.task).object());
            Some((task, operation.what.call(), subject))
        }
    };
    // SAFETY: it reads, and counts references.
    let (task, call, subject) = unsafe { interpreter::with_stopped_world(py, look) }?;
    let shown = |object: &Object| object.as_py().clone_ref(py);
    Some((shown(&task), call, subject.as_ref().map(shown)))
}

// ---- steps ----

enum Step {
    /// A new reference.
    Return(*mut ffi::PyObject),
    /// A new reference.
    GiveUp(*mut ffi::PyObject),
}

fn marker(which: &AtomicPtr<ffi::PyObject>) -> Step {
    // SAFETY: made at import, never freed; attached.
    Step::GiveUp(unsafe { ffi::Py_NewRef(which.load(Ordering::Relaxed)) }) // Ordering: Relaxed, see `load`.
}

impl Operation {
    /// # Safety
    /// Attached, in the step of whoever awaits it.
    unsafe fn step(
        &mut self,
        py: Python<'_>,
        argument: *mut ffi::PyObject,
    ) -> Result<Step, Raised> {
        if matches!(self.state, State::New) {
            self.state = State::Over;
            // SAFETY: as for this function.
            return unsafe { self.start(py) };
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::New => unreachable!("answered above"),
            State::Waiting(wait) => {
                // SAFETY: the task is in its step, so it is alive.
                let outcome = unsafe { (*self.task).core().waiter().outcome(wait.epoch) };
                let Some(outcome) = outcome else {
                    // Stepped by somebody else than its task.
                    self.state = State::Waiting(wait);
                    return Ok(marker(&PARKED));
                };
                match self.finish(py, &wait, outcome) {
                    Ok(Some(value)) => Ok(Step::Return(value)),
                    Ok(None) => self.begin_or_park(py),
                    Err(raised) => {
                        if matches!(self.what, What::Pending(_)) {
                            self.what = What::Yield; // lets go of what it would have begun again from
                        }
                        Err(raised)
                    }
                }
            }
            State::Yielded => Ok(Step::Return(py.None().into_ptr())),
            State::InLoop(wait) => {
                let stepped = wait.step(py, argument)?;
                Ok(self.in_loop(stepped))
            }
            State::Delegated(iterator, then) => self.delegate(py, iterator, then, argument),
            State::Over => Err(raise(
                py,
                PyRuntimeError::new_err("an operation can be awaited once"),
            )),
        }
    }

    /// # Safety
    /// As for [`step`](Self::step).
    unsafe fn start(&mut self, py: Python<'_>) -> Result<Step, Raised> {
        if self.end_is_closed() {
            return Err(self.closed(py));
        }
        let running = running_task().filter(|(_, task, _)| {
            // SAFETY: it runs on this stack, so it is alive.
            unsafe { task.as_ref() }.kind() == Kind::Coroutine
        });
        let may_wait = self.patience != Patience::None || matches!(self.what, What::Yield);
        let (Some((_, task, _)), true) = (running, may_wait) else {
            let in_trio = event_loop::is_in_trio(py).map_err(|error| raise(py, error))?;
            if in_trio && !matches!(self.what, What::Sleep | What::Yield) {
                return self.checkpoint(py, Then::Start);
            }
            // SAFETY: as for this function.
            return unsafe { self.start_foreign(py, false) };
        };
        self.task = task.as_ptr();
        // SAFETY: it runs on this stack.
        let task = unsafe { task.as_ref() };
        debug::look_at_locks(py, task, "an await")?;
        if matches!(self.what, What::Yield) {
            if task.interrupt_pending() {
                return Err(raise_interrupt(py, Some(task.core()), task.interrupts()));
            }
            if let Some(raised) = task.interrupts().raise_passed(py) {
                return Err(raised);
            }
            self.state = State::Yielded;
            return Ok(marker(&YIELDED));
        }
        if !task.core().waiter().is_settled() {
            let message = "the task has begun another operation that it has not awaited to its end: await that, or \
                           drop it, first";
            return Err(raise(py, PyRuntimeError::new_err(message)));
        }
        if matches!(self.what, What::Call) {
            if task.core().cancel_pending() || task.interrupts().pending() {
                return Err(raise_interrupt(py, Some(task.core()), task.interrupts()));
            }
            // SAFETY: alive, the operation holds it, and this is its first step.
            unsafe { blocking::submit(py, self.subject)? };
        }
        self.begin_or_park(py)
    }

    /// Does it, or parks the task.
    fn begin_or_park(&mut self, py: Python<'_>) -> Result<Step, Raised> {
        // SAFETY: the task is in its step, so it is alive.
        let task = unsafe { &*self.task };
        let wait = match self.begin(py, task)? {
            Begun::Done(value) => return Ok(Step::Return(value)),
            Begun::Waiting(wait) => wait,
        };
        if task.interrupt_pending()
            && task
                .core()
                .waiter()
                .disarm(wait.epoch, Outcome::Interrupted)
        {
            let none = || py.None().into_ptr();
            let finished = self.finish(py, &wait, Outcome::Interrupted)?;
            return Ok(Step::Return(finished.unwrap_or_else(none)));
        }
        if let Some(deadline) = task.interrupts().limit(self.limit(&wait)) {
            let scheduler = task.core().scheduler();
            scheduler.set_timer(deadline, task.waiter_ref(), wait.epoch);
        }
        self.state = State::Waiting(wait);
        Ok(marker(&PARKED))
    }

    /// The channel of a send or a receive. Not tied to the borrow of `self`: the object outlives each step.
    fn channel<'a>(&self) -> &'a ChannelObject {
        // SAFETY: a send or a receive has a channel, or an end of one, which it keeps alive.
        unsafe { ends::channel_of(self.subject) }
    }

    /// Whether it was made by an end of a channel that is closed.
    fn end_is_closed(&self) -> bool {
        // SAFETY: alive, the operation holds it.
        matches!(self.what, What::Send(_) | What::Recv { .. })
            && unsafe { ends::is_closed_end(self.subject) }
    }

    /// The entry of a send or a receive that waits, as above.
    ///
    /// # Safety
    /// [`begin`](Self::begin) left one, and it was not finished.
    unsafe fn entry<'a>(&self) -> &'a Entry<Object> {
        // SAFETY: there is one, by the caller's promise.
        unsafe { class::room_beside(self).cast().as_ref() }
    }

    /// What a join asks of its task.
    fn take(&self) -> Take {
        match self.what {
            What::Join(take) => take,
            _ => Take::Result,
        }
    }

    /// The task of a join, or the call, as above.
    fn joined<'a>(&self) -> &'a TaskObject {
        // SAFETY: a join has a task, which it keeps alive.
        unsafe { object::get::<TaskObject>(self.subject) }
    }

    /// Does it at once if it can; gives a new reference.
    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        let none = || py.None().into_ptr();
        let subject = self.subject;
        match &mut self.what {
            What::Send(value) => {
                // SAFETY: a send has a channel, or an end of one, which it keeps alive.
                let channel = unsafe { ends::channel_of(subject) };
                let Some(sent) = value.take() else {
                    return Ok(Some(none()));
                };
                match channel.core().try_send(sent) {
                    Ok(()) => Ok(Some(none())),
                    Err(TrySendError::Full(back)) => {
                        *value = Some(back);
                        Ok(None)
                    }
                    Err(TrySendError::Closed(_)) => Err(self.closed(py)),
                }
            }
            What::Recv { .. } => match self.channel().core().try_recv() {
                Ok(value) => Ok(Some(value.into_ptr())),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Closed) => Err(self.closed(py)),
            },
            What::Join(_) | What::Call => {
                let task = self.joined();
                if !task.core().is_done() {
                    return Ok(None);
                }
                let value = task.take(py, self.take());
                if value.is_null() {
                    Err(Raised)
                } else {
                    Ok(Some(value))
                }
            }
            What::Pending(pending) => pending.try_now(py),
            What::Sleep | What::Yield => Ok(None),
        }
    }

    /// Does it, or arms the task's waiter if it has to wait.
    #[inline]
    fn begin(&mut self, py: Python<'_>, task: &TaskObject) -> Result<Begun, Raised> {
        let waiting = |epoch, entry| {
            let until = None;
            Ok(Begun::Waiting(Wait {
                epoch,
                entry,
                until,
            }))
        };
        let none = || Ok(Begun::Done(py.None().into_ptr()));
        // SAFETY: the task outlives this (see `TaskObject::finish`), the object stays where it is until the wait was finished
        // or abandoned, and nobody touches the room before that.
        let place = unsafe {
            InPlace::new(
                NonNull::from(task.core().waiter()),
                class::room_beside(self),
            )
        };
        let subject = self.subject;
        match &mut self.what {
            What::Send(value) => {
                let Some(sent) = value.take() else {
                    return none();
                };
                // SAFETY: a send has a channel, or an end of one, which it keeps alive.
                let channel = unsafe { ends::channel_of(subject) };
                match channel.core().begin_send(sent, place) {
                    BeginSend::Done => none(),
                    BeginSend::Closed(_) => Err(self.closed(py)),
                    BeginSend::Waiting(epoch) => waiting(epoch, LeftEntry::Value),
                }
            }
            What::Recv { .. } => match self.channel().core().begin_recv(place) {
                BeginRecv::Done(value) => Ok(Begun::Done(value.into_ptr())),
                BeginRecv::Closed => Err(self.closed(py)),
                BeginRecv::Waiting(epoch) => waiting(epoch, LeftEntry::Value),
            },
            What::Join(_) | What::Call => {
                if let Some(value) = self.try_now(py)? {
                    return Ok(Begun::Done(value));
                }
                match self.joined().begin_join(&task.waiter_ref()) {
                    BeginJoin::Done => match self.try_now(py)? {
                        Some(value) => Ok(Begun::Done(value)),
                        None => none(),
                    },
                    BeginJoin::Waiting(entry) => waiting(entry.epoch, LeftEntry::Join(entry)),
                }
            }
            What::Pending(pending) => {
                let (epoch, until) = match pending.begin(py, &task.waiter_ref())? {
                    pending::Begun::Done(value) => return Ok(Begun::Done(value)),
                    pending::Begun::Waiting(epoch) => (epoch, None),
                    pending::Begun::Until(epoch, moment) => (epoch, Some(moment)),
                };
                let entry = LeftEntry::None;
                Ok(Begun::Waiting(Wait {
                    epoch,
                    entry,
                    until,
                }))
            }
            What::Sleep | What::Yield => waiting(task.core().waiter().arm(), LeftEntry::None),
        }
    }

    /// Ends a wait that had `outcome`: a new reference to the result. `None`: there is more to wait for.
    fn finish(
        &mut self,
        py: Python<'_>,
        wait: &Wait,
        outcome: Outcome,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        let finished = self.finish_unsettled(py, wait, outcome);
        // SAFETY: the task is in its step, so it is alive.
        unsafe { (*self.task).core().waiter().settle(wait.epoch) };
        finished
    }

    fn finish_unsettled(
        &mut self,
        py: Python<'_>,
        wait: &Wait,
        outcome: Outcome,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        let none = || Ok(Some(py.None().into_ptr()));
        match &wait.entry {
            LeftEntry::Value if matches!(self.what, What::Recv { .. }) => {
                // SAFETY: the wait has ended.
                match unsafe { self.channel().core().finish_recv(self.entry()) } {
                    Ok(value) => Ok(Some(value.into_ptr())),
                    Err(RecvError::Closed) => Err(self.closed(py)),
                    Err(RecvError::TimedOut) => Err(self.timed_out(py)),
                    Err(RecvError::Interrupted) => Err(self.interrupted(py)),
                }
            }
            // SAFETY: the wait has ended.
            LeftEntry::Value => match unsafe { self.channel().core().finish_send(self.entry()) } {
                Ok(()) => none(),
                Err(SendError::Closed(_)) => Err(self.closed(py)),
                Err(SendError::TimedOut(_)) => Err(self.timed_out(py)),
                Err(SendError::Interrupted(_)) => Err(self.interrupted(py)),
            },
            LeftEntry::Join(entry) => {
                self.joined().finish_join(entry);
                match outcome {
                    Outcome::Interrupted => Err(self.interrupted(py)),
                    Outcome::TimedOut if !self.joined().core().is_done() => Err(self.timed_out(py)),
                    _ => self.try_now(py)?.map_or_else(none, |value| Ok(Some(value))),
                }
            }
            LeftEntry::None => match (&mut self.what, outcome) {
                (What::Pending(pending), outcome) => {
                    let next = pending.finish(py, outcome)?;
                    if let Next::Done(value) = next {
                        return Ok(Some(value));
                    }
                    if outcome == Outcome::Interrupted {
                        return Err(self.interrupted(py));
                    }
                    if outcome == Outcome::TimedOut
                        && let Some(raised) = self.expired(py, self.limit(wait))
                    {
                        return Err(raised);
                    }
                    match next {
                        Next::Again if pending::goes_on(outcome, self.patience.deadline()) => {
                            Ok(None)
                        }
                        _ => Err(self.timed_out(py)),
                    }
                }
                (What::Yield, _) => none(),
                (_, Outcome::TimedOut) => self.expired(py, self.limit(wait)).map_or_else(none, Err),
                _ => Err(self.interrupted(py)),
            },
        }
    }

    fn closed(&self, py: Python<'_>) -> Raised {
        if matches!(self.what, What::Recv { iterates: true }) {
            return raise(py, PyStopAsyncIteration::new_err(()));
        }
        // SAFETY: alive, the operation holds it.
        unsafe { ends::raise_closed(py, self.subject) }
    }

    fn interrupted(&self, py: Python<'_>) -> Raised {
        // SAFETY: the task is in its step.
        let task = unsafe { &*self.task };
        raise_interrupt(py, Some(task.core()), task.interrupts())
    }

    /// When the wait is timed out, if its task is in no deadline that comes first.
    fn limit(&self, wait: &Wait) -> Option<Instant> {
        earlier(self.patience.deadline(), wait.until)
    }

    /// Raises the deadline that ended the wait, if it was one that its task is in and not `own`.
    fn expired(&self, py: Python<'_>, own: Option<Instant>) -> Option<Raised> {
        // SAFETY: null while there is no task, or it is in its step.
        let task = unsafe { self.task.as_ref() }?;
        task.interrupts().raise_expired(py, own)
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        if let Some(raised) = self.expired(py, self.patience.deadline()) {
            return raised;
        }
        if let What::Pending(pending) = &self.what {
            return pending.timed_out(py);
        }
        Failure::TimedOut.raise(
            py,
            match self.what {
                What::Send(_) => "the channel stayed full",
                What::Recv { .. } => "the channel stayed empty",
                _ => "the task has not ended in time",
            },
        )
    }

    // ---- in an event loop ----

    /// # Safety
    /// As for [`step`](Self::step).
    unsafe fn start_foreign(&mut self, py: Python<'_>, in_trio: bool) -> Result<Step, Raised> {
        let give = |this: &mut Self, value: *mut ffi::PyObject| {
            if in_trio {
                // SAFETY: a strong reference.
                this.checkpoint(py, Then::Give(unsafe { Object::steal(value) }))
            } else {
                Ok(Step::Return(value))
            }
        };
        if let Some(value) = self.try_now(py)? {
            return give(self, value);
        }
        let failed = |error| raise(py, error);
        if matches!(self.what, What::Sleep | What::Yield) {
            let left = self.patience.deadline().map(|deadline| {
                deadline
                    .saturating_duration_since(Instant::now())
                    .as_secs_f64()
            });
            let never = matches!(self.patience, Patience::Forever).then_some(f64::INFINITY);
            let seconds = left.or(never).unwrap_or(0.0);
            let iterator = event_loop::sleep(py, seconds).map_err(failed)?;
            // SAFETY: a strong reference, given away; attached.
            return unsafe {
                let iterator = Object::steal(iterator.into_ptr());
                self.delegate(py, iterator, Then::Return, ffi::Py_None())
            };
        }
        if self.patience == Patience::None {
            return Err(self.timed_out(py));
        }
        let home = event_loop::here(py).map_err(failed)?;
        if matches!(self.what, What::Call) {
            // SAFETY: as in `start`.
            unsafe { blocking::submit(py, self.subject)? };
        }
        let is_shown = matches!(self.what, What::Send(_) | What::Recv { .. });
        let pending = self.take_pending();
        match LoopWait::begin(py, &home, pending, self.patience, is_shown)? {
            Stepped::Done(value) => give(self, value),
            stepped @ Stepped::GaveUp(..) => Ok(self.in_loop(stepped)),
        }
    }

    /// The call in the form that a wait in a loop takes. What is left here waits for nothing.
    fn take_pending(&mut self) -> Box<dyn Pending> {
        let what = std::mem::replace(&mut self.what, What::Yield);
        let subject = || {
            // SAFETY: alive, the operation holds it; attached.
            unsafe { Object::new(self.subject) }
        };
        match what {
            What::Send(value) => Box::new(event_loop::Send::new(subject(), value)),
            What::Recv { iterates } => Box::new(event_loop::Recv::new(subject(), iterates)),
            What::Join(take) => Box::new(event_loop::Join::new(subject(), take, false)),
            What::Call => Box::new(event_loop::Join::new(subject(), Take::Result, true)),
            What::Pending(pending) => pending,
            What::Sleep | What::Yield => unreachable!("the loop's own sleep is awaited"),
        }
    }

    fn in_loop(&mut self, stepped: Stepped) -> Step {
        match stepped {
            Stepped::GaveUp(result, wait) => {
                self.state = State::InLoop(Box::new(wait));
                Step::GiveUp(result)
            }
            Stepped::Done(value) => Step::Return(value),
        }
    }

    /// Steps through a checkpoint of trio's.
    fn checkpoint(&mut self, py: Python<'_>, then: Then) -> Result<Step, Raised> {
        let done = matches!(then, Then::Give(_));
        let iterator = event_loop::checkpoint(py, done).map_err(|error| raise(py, error))?;
        // SAFETY: a strong reference, given away; attached.
        unsafe {
            let iterator = Object::steal(iterator.into_ptr());
            self.delegate(py, iterator, then, ffi::Py_None())
        }
    }

    fn delegate(
        &mut self,
        py: Python<'_>,
        iterator: Object,
        then: Then,
        argument: *mut ffi::PyObject,
    ) -> Result<Step, Raised> {
        let mut result = ptr::null_mut();
        // SAFETY: both are alive.
        let sent = unsafe { unwind::PyIter_Send(iterator.as_ptr(), argument, &raw mut result) };
        self.delegated(py, iterator, then, (sent, result))
    }

    fn delegated(
        &mut self,
        py: Python<'_>,
        iterator: Object,
        then: Then,
        (sent, result): (PySendResult, *mut ffi::PyObject),
    ) -> Result<Step, Raised> {
        match sent {
            PySendResult::PYGEN_NEXT => {
                self.state = State::Delegated(iterator, then);
                Ok(Step::GiveUp(result))
            }
            PySendResult::PYGEN_RETURN => {
                // SAFETY: a strong reference.
                drop(unsafe { Object::steal(result) });
                match then {
                    Then::Return => Ok(Step::Return(py.None().into_ptr())),
                    // SAFETY: attached, in the step of whoever awaits it.
                    Then::Start => unsafe { self.start_foreign(py, true) },
                    Then::Give(value) => Ok(Step::Return(value.into_ptr())),
                }
            }
            PySendResult::PYGEN_ERROR => Err(Raised),
        }
    }

    /// Whoever awaits it throws an exception in. What the loop's own iterators make of it counts; anywhere else it ends the
    /// operation.
    ///
    /// # Safety
    /// As for [`step`](Self::step).
    #[cold]
    unsafe fn throw(&mut self, py: Python<'_>, error: PyErr) -> Result<Step, Raised> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::InLoop(wait) => {
                let stepped = wait.throw(py, error)?;
                Ok(self.in_loop(stepped))
            }
            State::Delegated(iterator, then) => {
                let thrown = event_loop::throw_into(py, &iterator, error);
                self.delegated(py, iterator, then, thrown)
            }
            state => {
                self.state = state;
                self.abandon();
                Err(raise(py, error))
            }
        }
    }

    /// The operation is dropped, or its coroutine is closed, before it is over.
    #[cold]
    fn abandon(&mut self) {
        if matches!(self.what, What::Call) {
            // SAFETY: alive, the operation holds it.
            unsafe { blocking::abandon(self.subject) };
        }
        let state = std::mem::replace(&mut self.state, State::Over);
        if let State::InLoop(wait) = state {
            // SAFETY: who drops an operation is attached.
            wait.abandon(unsafe { Python::assume_attached() });
        } else if let State::Waiting(wait) = state {
            // SAFETY: the task outlives this, see `TaskObject::finish`.
            let waiter = unsafe { (*self.task).core().waiter() };
            if !waiter.disarm(wait.epoch, Outcome::Interrupted) {
                // Claimed: the claimer, who needs nothing of ours, ends the wait in a few instructions, if it has
                // not yet. Until then the entry is not ours.
                while waiter.outcome(wait.epoch).is_none() {
                    std::hint::spin_loop();
                }
            }
            match wait.entry {
                LeftEntry::Value if matches!(self.what, What::Recv { .. }) => {
                    // SAFETY: the wait has ended, or was taken back.
                    drop(unsafe { self.channel().core().abandon_recv(self.entry()) });
                }
                LeftEntry::Value => {
                    // SAFETY: the wait has ended, or was taken back.
                    drop(unsafe { self.channel().core().finish_send(self.entry()) });
                }
                LeftEntry::Join(entry) => self.joined().finish_join(&entry),
                LeftEntry::None => {
                    if let What::Pending(pending) = &mut self.what {
                        // SAFETY: who drops an operation is attached.
                        let py = unsafe { Python::assume_attached() };
                        let outcome = waiter.outcome(wait.epoch).unwrap_or(Outcome::Interrupted);
                        pending.abandon(py, outcome);
                    }
                }
            }
            waiter.settle(wait.epoch);
        }
    }
}
