//! `after` and `tick`: channels whose values come from a clock.

use std::sync::Arc;

use penstock_core::{
    channel::{BeginRecv, Channel, RecvError, Stamp, TryRecvError},
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{
    exceptions::{PyStopAsyncIteration, PyTypeError, PyValueError},
    ffi,
    prelude::*,
    sync::PyOnceLock,
};

use super::{ChannelObject, ends, entries::closed, receiving::list_of};
use crate::{
    convert,
    error::{Failure, Raised, raise},
    mode::mode,
    object::Object,
    pending::{Begun, Next, Pending},
};

/// A channel that delivers `time.monotonic()` once, ``seconds`` from now, and closes.
///
/// The value is the moment at which it was due. Nothing runs meanwhile: a channel that nobody refers to any more is
/// gone, timer and all, and none keeps the process alive. `close()` before the time stops it. Never waits itself;
/// receiving does. Nobody can send on it. As in Go.
///
/// Negative seconds, and what is not a number, are refused by a `ValueError`. `math.inf` never comes.
///
/// >>> import penstock, time
/// >>> start = time.monotonic()
/// >>> due = penstock.after(0.01)
/// >>> due.recv() - start >= 0.01
/// True
/// >>> list(due)  # it has closed
/// []
#[pyfunction]
pub fn after(seconds: &Bound<'_, PyAny>) -> PyResult<ChannelObject> {
    let py = seconds.py();
    let delay = convert::seconds(seconds, "seconds", "a number >= 0")?;
    let name = name_of(py, "after", seconds)?;
    Ok(timer(Channel::after(delay, stamp(py)?, mode()), name))
}

/// A channel that delivers `time.monotonic()` every ``seconds``, from now on.
///
/// The ticks are due at whole multiples of ``seconds`` after the call, so they never drift. The channel holds one: a
/// tick that finds the last one still there is dropped, and counted as such by `stats()`. Each goes to one receiver,
/// the longest-waiting; every receiver that waits wakes for each tick, so a tick is not for waiting in thousands.
/// `close()` stops it. Nothing runs while nobody waits: a channel that nobody refers to any more is gone, timer and
/// all, and none keeps the process alive. Never waits itself; receiving does. Nobody can send on it. As Go's `time.Tick`.
///
/// Less than a nanosecond, and what is not a number, is refused by a `ValueError`. `math.inf` never ticks.
///
/// >>> import penstock
/// >>> ticks = penstock.tick(0.01)
/// >>> first, second = ticks.recv(), ticks.recv()
/// >>> round((second - first) / 0.01) >= 1
/// True
/// >>> ticks.close()
#[pyfunction]
pub fn tick(seconds: &Bound<'_, PyAny>) -> PyResult<ChannelObject> {
    let py = seconds.py();
    let allowed = "a number > 0, and at least a nanosecond";
    let period = convert::seconds(seconds, "seconds", allowed)?;
    if period.is_some_and(|period| period.is_zero()) {
        let message = format!("seconds must be {allowed}, not {}", seconds.repr()?);
        return Err(PyValueError::new_err(message));
    }
    let name = name_of(py, "tick", seconds)?;
    Ok(timer(Channel::tick(period, stamp(py)?, mode()), name))
}

fn timer(core: Channel<Object, crate::mode::Mode>, name: Object) -> ChannelObject {
    ChannelObject::of(core, Some(name))
}

/// What its `repr` and errors show.
fn name_of(py: Python<'_>, function: &str, seconds: &Bound<'_, PyAny>) -> PyResult<Object> {
    let name = format!("{function}({})", seconds.repr()?);
    // SAFETY: a new reference, given away.
    Ok(unsafe { Object::steal(name.into_pyobject(py)?.into_ptr()) })
}

/// Reads the clock whose times are delivered. Before the core reads its own, so that a tick is not due there earlier.
fn stamp(py: Python<'_>) -> PyResult<Stamp<Object>> {
    static MONOTONIC_NS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let clock = MONOTONIC_NS.get_or_try_init(py, || {
        PyResult::Ok(py.import("time")?.getattr("monotonic_ns")?.unbind())
    })?;
    Ok(Stamp {
        origin_nanos: clock.bind(py).call0()?.extract()?,
        make: |nanos| {
            #[expect(clippy::cast_precision_loss, reason = "as `time.monotonic()` does")]
            let seconds = nanos as f64 / 1e9;
            // SAFETY: channels are used by attached threads. It runs no Python code.
            let value = unsafe { ffi::PyFloat_FromDouble(seconds) };
            assert!(!value.is_null(), "memory for a number");
            // SAFETY: a new reference.
            unsafe { Object::steal(value) }
        },
    })
}

/// What a send raises.
#[cold]
pub fn refuse_send(py: Python<'_>, channel: &ChannelObject) -> Raised {
    let name = channel
        .name(py)
        .map_or_else(String::new, |name| format!(" of {}", name.bind(py)));
    let message = format!("cannot send on the channel{name}: its values come from a clock");
    raise(py, PyTypeError::new_err(message))
}

/// A receive that waits for ticks until it gets one.
pub struct ReceiveTick {
    channel: Object,
    /// Left by the last wait, until that was finished: a receive that wakes for a tick of somebody else's goes on
    /// from it.
    entry: Option<Arc<Entry<Object>>>,
    form: Form,
}

/// The call that it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Recv,
    Arecv,
    /// They give a list of one: a channel of a clock never holds more.
    RecvMany,
    ArecvMany,
    /// A step of an `async for`, which its end ends.
    Anext,
}

impl ReceiveTick {
    /// # Safety
    /// Attached; `channel` is alive, a timer or an end of one.
    pub unsafe fn boxed(channel: *mut ffi::PyObject, form: Form) -> Box<dyn Pending> {
        Box::new(Self {
            // SAFETY: the caller's promise.
            channel: unsafe { Object::new(channel) },
            entry: None,
            form,
        })
    }

    fn core(&self) -> &Channel<Object, crate::mode::Mode> {
        // SAFETY: a channel or an end of one, alive as long as the reference.
        unsafe { ends::channel_of(self.channel.as_ptr()) }.core()
    }

    fn closed(&self, py: Python<'_>) -> Raised {
        if self.form == Form::Anext {
            return raise(py, PyStopAsyncIteration::new_err(()));
        }
        closed(py)
    }

    /// A new reference to what the call gives for a tick.
    fn result(&self, tick: Object) -> Result<*mut ffi::PyObject, Raised> {
        match self.form {
            Form::RecvMany | Form::ArecvMany => list_of(vec![tick]),
            Form::Recv | Form::Arecv | Form::Anext => Ok(tick.into_ptr()),
        }
    }

    fn forget_entry(&mut self) {
        if let Some(entry) = self.entry.take() {
            // SAFETY: it was left by this channel, and its wait is over.
            drop(unsafe { self.core().abandon_recv(&entry) });
        }
    }
}

impl Pending for ReceiveTick {
    fn call(&self) -> &'static str {
        match self.form {
            Form::Recv => "Channel.recv()",
            Form::Arecv | Form::Anext => "Channel.arecv()",
            Form::RecvMany => "Channel.recv_many()",
            Form::ArecvMany => "Channel.arecv_many()",
        }
    }

    fn awaitable(&self) -> &'static str {
        match self.form {
            Form::RecvMany | Form::ArecvMany => "await channel.arecv_many()",
            Form::Recv | Form::Arecv | Form::Anext => "await channel.arecv()",
        }
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.channel.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        match self.core().try_recv() {
            Ok(value) => self.result(value).map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Closed) => Err(self.closed(py)),
        }
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<Begun, Raised> {
        let begun = match self.entry.take() {
            None => self.core().begin_recv(waiter),
            // SAFETY: it was left by this channel, and its wait has timed out.
            Some(entry) => unsafe { self.core().resume_recv(&entry, waiter) },
        };
        match begun {
            BeginRecv::Done(value) => self.result(value).map(Begun::Done),
            BeginRecv::Closed => Err(self.closed(py)),
            BeginRecv::Waiting(entry) => {
                let epoch = entry.epoch;
                self.entry = Some(entry);
                Ok(match self.core().next_tick() {
                    Some(moment) => Begun::Until(epoch, moment),
                    None => Begun::Waiting(epoch),
                })
            }
        }
    }

    fn finish(&mut self, py: Python<'_>, outcome: Outcome) -> Result<Next, Raised> {
        let Some(entry) = self.entry.take() else {
            return Ok(Next::Again);
        };
        let received = if outcome == Outcome::TimedOut {
            // SAFETY: it was left by this channel, and its wait has timed out.
            let polled = unsafe { self.core().poll_recv(&entry) };
            let Some(received) = polled else {
                self.entry = Some(entry);
                return Ok(Next::Again);
            };
            received
        } else {
            // SAFETY: it was left by this channel, and its wait is over.
            unsafe { self.core().finish_recv(&entry) }
        };
        match received {
            Ok(value) => self.result(value).map(Next::Done),
            Err(RecvError::Closed) => Err(self.closed(py)),
            Err(RecvError::TimedOut | RecvError::Interrupted) => Ok(Next::Over),
        }
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {
        self.forget_entry();
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        Failure::TimedOut.raise(py, "the channel stayed empty")
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.channel.as_ptr());
    }
}

/// One that was to be begun once more, and had no time left, is in line still.
impl Drop for ReceiveTick {
    fn drop(&mut self) {
        if self.entry.is_some() {
            // SAFETY: who drops a call is attached.
            let py = unsafe { Python::assume_attached() };
            let raised = PyErr::take(py);
            self.forget_entry();
            if let Some(raised) = raised {
                raised.restore(py);
            }
        }
    }
}
