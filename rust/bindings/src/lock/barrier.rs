//! `_Barrier`, of which Python's `Barrier` is made.

use std::{
    ffi::CStr,
    ptr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use penstock_core::{
    lock::{Arrived, Barrier, BeginArrive, Lead},
    wait::{Entry, WaiterRef},
};
use pyo3::{PyTraverseError, PyVisit, exceptions::PyTypeError, ffi, prelude::*};

use super::{Begun, Call, Names, awaitable, int_within, or_null};
use crate::{
    convert::{Patience, parse, seconds},
    error::{Raised, raise},
    hot::Definition,
    mode::{Mode, mode},
    object::{self, Object},
    pending::Next,
    task::{self, Kind},
    unwind,
};

/// What Python's `Barrier` is made of.
#[pyclass(
    frozen,
    subclass,
    weakref,
    module = "penstock._core",
    name = "_Barrier"
)]
pub struct BarrierObject {
    core: Barrier<Mode>,
    /// What the last one to arrive calls. Emptied by the garbage collector only.
    action: Mutex<Option<Object>>,
    /// For a `wait` that has none of its own.
    timeout: Option<Duration>,
}

const PARTIES_MAX: i64 = u32::MAX as i64;

#[expect(
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "the signatures are PyO3's"
)]
#[pymethods]
impl BarrierObject {
    #[new]
    #[pyo3(signature = (parties, action=None, timeout=None))]
    fn new(
        parties: &Bound<'_, PyAny>,
        action: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = parties.py();
        let parties = int_within(
            parties,
            "parties",
            1,
            PARTIES_MAX,
            "an int from 1 to 2**32 - 1",
        )
        .map_err(|Raised| PyErr::fetch(py))?;
        if let Some(action) = action {
            let is_plain = action.is_callable()
                && task::kind_of(py, action.as_ptr()).map_err(|Raised| PyErr::fetch(py))?
                    == Kind::Call;
            if !is_plain {
                return Err(PyTypeError::new_err(format!(
                    "action must be None or a plain function, not {}",
                    action.repr()?
                )));
            }
        }
        let timeout = match timeout {
            Some(timeout) => seconds(timeout, "timeout", "None or a number of seconds >= 0")?,
            None => None,
        };
        Ok(Self {
            core: Barrier::new(usize::try_from(parties).unwrap_or(1), mode()),
            // SAFETY: alive, and attached.
            action: Mutex::new(action.map(|action| unsafe { Object::new(action.as_ptr()) })),
            timeout,
        })
    }

    /// How many have to arrive.
    #[getter]
    fn parties(&self) -> usize {
        self.core.parties()
    }

    /// How many have arrived and wait for the others.
    #[getter]
    fn n_waiting(&self) -> usize {
        self.core.waiters()
    }

    /// Whether it is broken.
    #[getter]
    fn broken(&self) -> bool {
        self.core.is_broken()
    }

    /// Begin anew, also after it was broken. Who waits gets a ``BrokenBarrierError``. Never waits.
    fn reset(&self) {
        self.core.reset();
    }

    /// Break it: who waits, and who comes, gets a ``BrokenBarrierError``, until it is reset. Never waits.
    fn abort(&self) {
        self.core.abort();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let core = &slf.get().core;
        let broken = if core.is_broken() { "broken, " } else { "" };
        format!(
            "<penstock.Barrier at {:p}: {broken}{}/{} waiting>",
            slf.as_ptr(),
            core.waiters(),
            core.parties()
        )
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(super::not_pickled("Barrier"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let action = self.action.lock().unwrap_or_else(PoisonError::into_inner);
        action
            .as_ref()
            .map_or(Ok(()), |action| visit.call(action.as_py()))
    }

    fn __clear__(&self) {
        let action = self
            .action
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(action); // outside the lock
    }
}

pub static METHODS: [Definition; 3] = [
    Definition::fast(c"wait", wait, WAIT_DOC),
    Definition::fast(c"_arrive", arrive, c"_arrive($self, /, timeout=None)\n--\n\nThe awaitable form of the first half of `wait`: the index, or what `_lead` needs."),
    Definition::one_arg(c"_lead", lead, c"_lead($self, round, /)\n--\n\nThe second half of `wait`, where that is below zero."),
];

const WAIT_DOC: &CStr = c"wait($self, /, timeout=None)\n--\n\n\
Wait until all parties have come; returns the index of this one, from 0 for the first.\n\n\
The last one calls ``action``, if there is one, before the others go on; where it raises, the barrier breaks. All go on or\n\
none: who times out, or is cancelled, before it was let go on breaks the barrier for all. Without a ``timeout`` that of\n\
the barrier holds. Parks a task, blocks a thread.\n\n\
Raises:\n    threading.BrokenBarrierError: the barrier is broken, or was broken or reset while it waited.\n    \
penstock.exceptions.BarrierTimeout: ``timeout`` seconds passed first; a ``TimeoutError`` and a ``BrokenBarrierError``.\n    \
Cancelled: the task was cancelled while it waited.\n    ValueError: ``timeout`` is negative.\n";

struct Arrive {
    names: &'static Names,
    leads: bool,
}

static WAIT: Names = Names {
    call: "Barrier.wait()",
    awaitable: "await barrier.await_()",
    timed_out: "the parties did not come in time: the barrier is broken",
};
static AWAIT: Names = Names {
    call: "Barrier.await_()",
    awaitable: "await barrier.await_()",
    timed_out: "the parties did not come in time: the barrier is broken",
};

/// # Safety
/// `barrier` is a `_Barrier`, alive as long as the result is used.
unsafe fn object<'a>(barrier: *mut ffi::PyObject) -> &'a BarrierObject {
    // SAFETY: by the caller's promise.
    unsafe { object::get(barrier) }
}

impl BarrierObject {
    /// The action, a new reference, or null.
    fn action(&self) -> *mut ffi::PyObject {
        let action = self.action.lock().unwrap_or_else(PoisonError::into_inner);
        action.as_ref().map_or(ptr::null_mut(), |action| {
            // SAFETY: alive while it is in there; attached, as every caller is.
            unsafe { ffi::Py_NewRef(action.as_ptr()) }
        })
    }

    fn leads(&self) -> bool {
        self.action
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    fn index_of_last(&self) -> Result<*mut ffi::PyObject, Raised> {
        int(self.core.parties() - 1)
    }

    /// How long a `wait` may, with that `timeout`, an argument or null. No time at all is a wait that is over at once: it
    /// breaks the barrier as any other that is.
    fn patience(&self, py: Python<'_>, timeout: *mut ffi::PyObject) -> Result<Patience, Raised> {
        let until = |time| {
            Instant::now()
                .checked_add(time)
                .map_or(Patience::Forever, Patience::Until)
        };
        Ok(match Patience::from_optional(py, timeout)? {
            Patience::Forever => self.timeout.map_or(Patience::Forever, until),
            Patience::None => until(Duration::ZERO),
            patience @ Patience::Until(_) => patience,
        })
    }
}

fn int(index: usize) -> Result<*mut ffi::PyObject, Raised> {
    long(index.cast_signed() as i64) // below `PARTIES_MAX`
}

fn long(value: i64) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: attached, as every caller is.
    let value = unsafe { ffi::PyLong_FromLongLong(value) };
    if value.is_null() {
        Err(Raised)
    } else {
        Ok(value)
    }
}

/// What stands for a round to be led: below zero, as no index is.
fn shown(lead: Lead) -> i64 {
    -1 - lead.round.cast_signed()
}

fn broken(py: Python<'_>) -> Raised {
    let raised = py
        .import("threading")
        .and_then(|module| {
            module
                .getattr("BrokenBarrierError")?
                .call1(("the barrier is broken",))
        })
        .map(PyErr::from_value);
    match raised {
        Ok(error) | Err(error) => raise(py, error),
    }
}

impl Arrive {
    fn answer<L>(
        py: Python<'_>,
        barrier: &BarrierObject,
        begun: BeginArrive<L>,
        waiting: impl FnOnce(L) -> Result<Begun<usize>, Raised>,
    ) -> Result<Begun<usize>, Raised> {
        match begun {
            BeginArrive::Through => barrier.index_of_last().map(Begun::Done),
            BeginArrive::Lead(lead) => long(shown(lead)).map(Begun::Done),
            BeginArrive::Broken => Err(broken(py)),
            BeginArrive::Waiting(left) => waiting(left),
        }
    }
}

impl Call for Arrive {
    type Slot = usize;

    fn names(&self) -> &'static Names {
        self.names
    }

    fn try_now(
        &mut self,
        py: Python<'_>,
        barrier: *mut ffi::PyObject,
    ) -> Result<Option<*mut ffi::PyObject>, Raised> {
        // SAFETY: a barrier, alive.
        let barrier = unsafe { object(barrier) };
        let Some(begun) = barrier.core.try_arrive(self.leads) else {
            return Ok(None);
        };
        match Self::answer(py, barrier, begun, |never| match never {})? {
            Begun::Done(value) => Ok(Some(value)),
            Begun::Waiting(_) => Ok(None),
        }
    }

    fn begin(
        &mut self,
        py: Python<'_>,
        barrier: *mut ffi::PyObject,
        waiter: &WaiterRef,
    ) -> Result<Begun<usize>, Raised> {
        // SAFETY: a barrier, alive.
        let barrier = unsafe { object(barrier) };
        let begun = barrier.core.begin_arrive(self.leads, waiter);
        Self::answer(py, barrier, begun, |entry| Ok(Begun::Waiting(entry)))
    }

    fn finish(
        &mut self,
        py: Python<'_>,
        barrier: *mut ffi::PyObject,
        entry: &Entry<usize>,
    ) -> Result<Next, Raised> {
        // SAFETY: a barrier, alive; the entry is from it, and its wait is over.
        match unsafe { object(barrier).core.finish_arrive(entry) } {
            Arrived::Through(index) => int(index).map(Next::Done),
            Arrived::Again => Ok(Next::Again),
            Arrived::Broken => Err(broken(py)),
            Arrived::Left(_) => Ok(Next::Over),
        }
    }

    fn abandon(&mut self, barrier: *mut ffi::PyObject, entry: &Entry<usize>) {
        // SAFETY: as above. Who was let go on is let go on, whatever it does with that.
        let _ = unsafe { object(barrier).core.finish_arrive(entry) };
    }

    fn timed_out(&self, py: Python<'_>, _: *mut ffi::PyObject) -> Raised {
        let raised = py
            .import("penstock.exceptions")
            .and_then(|module| {
                module
                    .getattr("BarrierTimeout")?
                    .call1((self.names.timed_out,))
            })
            .map(PyErr::from_value);
        match raised {
            Ok(error) | Err(error) => raise(py, error),
        }
    }
}

/// `Barrier.wait(timeout=None)`.
unsafe extern "C-unwind" fn wait(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Barrier`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let barrier = object(this);
        let patience = parse(py, "wait", ["timeout"], 0, arguments, count, keywords)
            .and_then(|[timeout]| barrier.patience(py, timeout));
        let Ok(patience) = patience else {
            return ptr::null_mut();
        };
        let names = &WAIT;
        let leads = barrier.leads();
        let mut arrive = Arrive { names, leads };
        // The last one need not wait.
        let index = match arrive.try_now(py, this) {
            Ok(Some(index)) => index,
            Ok(None) => match super::wait(py, this, arrive, patience) {
                Ok(index) => index,
                Err(Raised) => return ptr::null_mut(),
            },
            Err(Raised) => return ptr::null_mut(),
        };
        let round = ffi::PyLong_AsLongLong(index);
        if round >= 0 {
            return index;
        }
        ffi::Py_DECREF(index);
        or_null(lead_round(py, this, round))
    }
}

/// Calls the action, and lets the others go on.
///
/// # Safety
/// In a raw entry of the barrier `this`, with nothing that has a destructor alive; `round` is what [`shown`] gave.
unsafe fn lead_round(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    round: i64,
) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: the caller's promise.
    let barrier = unsafe { object(this) };
    let lead = Lead {
        round: (-1 - round).cast_unsigned(),
    };
    let action = barrier.action();
    if !action.is_null() {
        // SAFETY: alive, by the reference that was made for this call; attached.
        let failed = unsafe {
            let result = unwind::call(action, []);
            ffi::Py_DECREF(action);
            ffi::Py_XDECREF(result);
            result.is_null()
        };
        if failed {
            barrier.core.fail_lead(lead);
            return Err(Raised);
        }
    }
    if barrier.core.finish_lead(lead) {
        barrier.index_of_last()
    } else {
        Err(broken(py))
    }
}

unsafe extern "C-unwind" fn arrive(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `_Barrier`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let barrier = object(this);
        let patience = parse(py, "await_", ["timeout"], 0, arguments, count, keywords)
            .and_then(|[timeout]| barrier.patience(py, timeout));
        let Ok(patience) = patience else {
            return ptr::null_mut();
        };
        let names = &AWAIT;
        let leads = barrier.leads();
        awaitable(py, this, Arrive { names, leads }, patience)
    }
}

unsafe extern "C-unwind" fn lead(
    this: *mut ffi::PyObject,
    round: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by our Python code on a `_Barrier`, attached, with what `_arrive` gave.
    unsafe {
        let py = Python::assume_attached();
        let round = ffi::PyLong_AsLongLong(round);
        or_null(lead_round(py, this, round))
    }
}
