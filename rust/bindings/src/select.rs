//! `select`, `select_nowait` and `aselect`: of several cases exactly one.
//!
//! The cases are read off the arguments, and tried as they lie there. Only a call that has to wait makes an object of
//! them, a [`Selecting`].

use std::{
    ffi::CStr,
    mem::MaybeUninit,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use penstock_core::{
    channel::{
        Channel,
        select::{
            BeginSelect, Cases, Choice, EndSelect, Select, Selected, Served, try_each, try_select,
        },
    },
    wait::{Outcome, WaiterRef},
};
use pyo3::{
    PyTypeInfo,
    exceptions::{PyTypeError, PyValueError},
    ffi,
    prelude::*,
};

use crate::{
    channel::{
        ChannelObject,
        ends::{Direction, channel_of_end},
        refuse_send, tell_if_special,
    },
    convert::{Patience, parse, shown},
    error::{Failure, Raised, put_aside, raise},
    hot::Definition,
    mode::{Mode, mode},
    object::{self, Object},
    pending::{self, Begun, Next, Pending},
    selected,
};

pub static FUNCTIONS: [Definition; 3] = [
    Definition::fast(c"select", select, SELECT_DOC),
    Definition::fast(c"select_nowait", select_nowait, SELECT_NOWAIT_DOC),
    Definition::fast(c"aselect", aselect, ASELECT_DOC),
];

const SELECT_DOC: &CStr = c"select(*cases, timeout=None, priority=False)\n--\n\n\
Wait until one of several sends and receives can go on, do it, and say which.\n\n\
A case is a channel or `Receiver`, to receive from, or a tuple of a channel or `Sender` and a value, to send. Exactly one takes effect, also when the\n\
call is cancelled or times out at that moment: then none, or the call returns. Of several that are ready one is taken\n\
at random, each alike, or the first of them with ``priority=True``. A closed channel is ready: a receive from it, once\n\
it is drained, gives ``closed=True``. Where nothing is ready it stands in the line of each channel, as a ``recv()`` or\n\
``send()`` would. A send on a channel that drops values is always ready, one that would raise `Full` for want of room is\n\
not ready, and waits; on a channel with a `Rate` it is ready when it is its turn, a token is there, and room: the token is\n\
taken only if that case is. Parks a task, blocks a thread. After Go's ``select``.\n\n\
Raises:\n    ChannelClosed: the case taken was a send, and its channel is closed.\n    \
TimeoutError: ``timeout`` seconds passed first; 0 tries once.\n    \
Cancelled: the task was cancelled while it waited.\n    \
ValueError: there is no case, or ``timeout`` is negative.\n    \
TypeError: a case is neither a channel nor a tuple of one and a value.\n\n\
>>> from penstock import Channel, select\n>>> words, numbers = Channel[str](1), Channel[int](1)\n\
>>> numbers.send(7)\n>>> got = select(words, numbers)\n>>> got.index, got.value, got.channel is numbers\n\
(1, 7, True)\n>>> select(words, (numbers, 8)).index\n1\n>>> numbers.recv()\n8\n";

const SELECT_NOWAIT_DOC: &CStr = c"select_nowait(*cases)\n--\n\n\
Do one of several sends and receives if one can go on now, else return ``None``; never waits.\n\n\
Cases and result are those of `select`. It looks at all cases as at one moment: ``None`` means that at some moment\n\
during the call none was ready.\n\n\
Raises:\n    ChannelClosed: the case taken was a send, and its channel is closed.\n    \
ValueError: there is no case.\n    \
TypeError: a case is neither a channel nor a tuple of one and a value.\n\n\
>>> from penstock import Channel, select_nowait\n>>> words = Channel[str](1)\n>>> select_nowait(words) is None\nTrue\n\
>>> select_nowait((words, \"one\")).index\n0\n";

const ASELECT_DOC: &CStr = c"aselect(*cases, timeout=None, priority=False)\n--\n\n\
The awaitable form of `select`, in an ``async def`` task, asyncio or trio.\n\n\
>>> from penstock import Channel, aselect, go\n>>> words = Channel[str](1)\n>>> words.send(\"one\")\n\
>>> async def first() -> str | None:\n...     return (await aselect(words)).value\n>>> go(first).result()\n'one'\n";

/// The class of channels. Written once, during the module's import.
static CHANNEL: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// Called once, by the module's import.
pub fn load(py: Python<'_>) {
    // Ordering: Relaxed, during the import.
    CHANNEL.store(ChannelObject::type_object_raw(py), Ordering::Relaxed);
}

type Core = Channel<Object, Mode>;

/// One case, as it lies in the arguments or in a [`Selecting`], which keep alive what it points to.
#[derive(Clone, Copy)]
struct Case {
    /// The object passed as its channel.
    passed: *mut ffi::PyObject,
    core: *const Core,
    /// What it sends; null for a receive.
    value: *mut ffi::PyObject,
}

impl Case {
    fn core(&self) -> &Core {
        // SAFETY: `passed` keeps it alive, and is alive as long as the case.
        unsafe { &*self.core }
    }
}

/// Those of a call, whose arguments keep the values alive.
struct Passed<'a> {
    cases: &'a [Case],
    /// A strong reference, or null: the caller drops it where nothing that has a destructor is alive.
    thrown_away: &'a mut *mut ffi::PyObject,
}

impl Cases<Object, Mode> for Passed<'_> {
    fn count(&self) -> usize {
        self.cases.len()
    }

    fn channel(&self, index: usize) -> &Core {
        self.cases[index].core()
    }

    fn sends(&self, index: usize) -> bool {
        !self.cases[index].value.is_null()
    }

    fn take(&mut self, index: usize) -> Object {
        // SAFETY: an argument, or in one; attached.
        unsafe { Object::new(self.cases[index].value) }
    }

    fn put_back(&mut self, _: usize, value: Object) {
        drop(value); // the argument is still there
    }

    fn thrown_away(&mut self, value: Object) {
        debug_assert!(self.thrown_away.is_null(), "one case takes effect");
        *self.thrown_away = value.into_ptr();
    }
}

/// So many cases are read without memory from the heap.
const FEW: usize = 8;

/// Reads the cases off the arguments of a vectorcall, and calls `action` with them.
///
/// # Safety
/// The arguments are those of such a call; attached.
#[inline]
unsafe fn with_cases<R>(
    py: Python<'_>,
    function: &str,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    action: impl FnOnce(&[Case]) -> Result<R, Raised>,
) -> Result<R, Raised> {
    let count = count.cast_unsigned();
    // SAFETY: a vectorcall has `count` positional arguments.
    let case = |at| unsafe { case_of(py, function, at, *arguments.add(at)) };
    if count > FEW {
        let cases: Vec<Case> = (0..count).map(case).collect::<Result<_, _>>()?;
        return action(&cases);
    }
    if count == 0 {
        let message = format!("{function}() needs at least one case");
        return Err(raise(py, PyValueError::new_err(message)));
    }
    let mut cases = [const { MaybeUninit::<Case>::uninit() }; FEW];
    for (at, place) in cases.iter_mut().enumerate().take(count) {
        place.write(case(at)?);
    }
    // SAFETY: the first `count` were just written.
    let cases = unsafe { std::slice::from_raw_parts(cases.as_ptr().cast(), count) };
    action(cases)
}

/// # Safety
/// `object` is an argument; attached.
#[inline]
unsafe fn case_of(
    py: Python<'_>,
    function: &str,
    index: usize,
    object: *mut ffi::PyObject,
) -> Result<Case, Raised> {
    // SAFETY: alive, and so is what is in a tuple, which does not change.
    unsafe {
        let (passed, value) =
            if ffi::PyTuple_Check(object) != 0 && ffi::PyTuple_GET_SIZE(object) == 2 {
                (
                    ffi::PyTuple_GET_ITEM(object, 0),
                    ffi::PyTuple_GET_ITEM(object, 1),
                )
            } else {
                (object, ptr::null_mut())
            };
        let wanted = if value.is_null() {
            Direction::Receive
        } else {
            Direction::Send
        };
        let Some((channel, is_closed)) = channel_of(passed, wanted) else {
            return Err(refuse(py, function, index, object));
        };
        let core: *const Core = if is_closed { closed() } else { channel.core() };
        if wanted == Direction::Send && (*core).is_timer() {
            return Err(refuse_send(py, channel));
        }
        Ok(Case {
            passed,
            core,
            value,
        })
    }
}

/// Ends a plain call: drops what its send threw away, and tells of the pressure that it has changed.
///
/// # Safety
/// In a raw entry, with nothing that has a destructor alive. `done` is its result: null with an exception set, `None`, or a
/// `Selected` of its arguments; `thrown_away` is a strong reference, or null.
#[inline]
unsafe fn end_call(
    py: Python<'_>,
    done: *mut ffi::PyObject,
    thrown_away: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe {
        if !done.is_null() && done != ffi::Py_None() {
            ffi::Py_XDECREF(thrown_away);
            tell_if_special(py, selected::channel(done));
        } else if !thrown_away.is_null() {
            let aside = put_aside(py);
            ffi::Py_DECREF(thrown_away);
            aside.restore(py);
        }
        done
    }
}

/// The channel that a case with `object` is about, and whether `object` is an end of it that is closed. `None` where it is
/// no channel, nor an end of the `wanted` direction.
///
/// # Safety
/// Attached, and `object` is alive, and outlives the result.
#[inline]
unsafe fn channel_of<'a>(
    object: *mut ffi::PyObject,
    wanted: Direction,
) -> Option<(&'a ChannelObject, bool)> {
    // SAFETY: alive; `Channel` has no subclasses; an end keeps its channel.
    unsafe {
        // Ordering: Relaxed, see `load`.
        if ffi::Py_TYPE(object) == CHANNEL.load(Ordering::Relaxed) {
            return Some((object::get::<ChannelObject>(object), false));
        }
        let end = channel_of_end(object).filter(|end| end.direction == wanted)?;
        Some((object::get::<ChannelObject>(end.channel), end.is_closed))
    }
}

/// What a closed end is to a select, whatever its channel is: a closed channel.
fn closed() -> &'static Core {
    static CLOSED: OnceLock<Core> = OnceLock::new();
    CLOSED.get_or_init(|| {
        let channel = Channel::bounded(0, mode());
        channel.close();
        channel
    })
}

/// # Safety
/// As for [`case_of`].
#[cold]
unsafe fn refuse(
    py: Python<'_>,
    function: &str,
    index: usize,
    object: *mut ffi::PyObject,
) -> Raised {
    // SAFETY: alive.
    let (object, is_tuple) = unsafe {
        let is_tuple = ffi::PyTuple_Check(object) != 0 && ffi::PyTuple_GET_SIZE(object) != 2;
        (Bound::from_borrowed_ptr(py, object), is_tuple)
    };
    let shown = shown(&object);
    let message = format!(
        "{function}(): a case must be a channel or receiver (to receive), or a tuple of a channel or sender and a value \
         (to send), and case {index} is {shown}"
    );
    if is_tuple {
        raise(py, PyValueError::new_err(message))
    } else {
        raise(py, PyTypeError::new_err(message))
    }
}

/// The keywords of `select()` and `aselect()`.
///
/// # Safety
/// As for [`parse`].
unsafe fn options(
    py: Python<'_>,
    function: &str,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> Result<(Patience, Choice), Raised> {
    if keywords.is_null() {
        return Ok((Patience::Forever, Choice::Random));
    }
    // SAFETY: their values come after the positional arguments.
    let [timeout, priority] = unsafe {
        let values = arguments.add(count.cast_unsigned());
        parse(
            py,
            function,
            ["timeout", "priority"],
            0,
            values,
            0,
            keywords,
        )
    }?;
    let patience = Patience::from_optional(py, timeout)?;
    // SAFETY: the constants may be compared with; an argument is alive.
    unsafe {
        if priority.is_null() || priority == ffi::Py_False() {
            Ok((patience, Choice::Random))
        } else if priority == ffi::Py_True() {
            Ok((patience, Choice::First))
        } else {
            let shown = shown(Bound::ref_from_ptr(py, &priority));
            let message = format!("priority must be True or False, not {shown}");
            Err(raise(py, PyTypeError::new_err(message)))
        }
    }
}

/// A new `Selected`, or `ChannelClosed` where the case taken was a send.
fn result(
    py: Python<'_>,
    cases: &[Case],
    taken: Selected<Object>,
) -> Result<*mut ffi::PyObject, Raised> {
    let Selected { index, served } = taken;
    let case = &cases[index];
    // SAFETY: attached.
    let none = || unsafe { ffi::Py_NewRef(ffi::Py_None()) };
    let (value, is_closed) = match served {
        Served::Received(value) => (value.into_ptr(), false),
        Served::Closed if !case.value.is_null() => {
            let message = format!("the channel of case {index} is closed");
            return Err(Failure::Closed.raise(py, &message));
        }
        // SAFETY: attached.
        Served::Closed => (none(), true),
        Served::Sent => (none(), false),
    };
    // SAFETY: attached; what the case points to is alive.
    unsafe {
        let index = ffi::PyLong_FromSize_t(index);
        if index.is_null() {
            ffi::Py_DECREF(value);
            return Err(Raised);
        }
        let closed = if is_closed {
            ffi::Py_True()
        } else {
            ffi::Py_False()
        };
        let channel = ffi::Py_NewRef(case.passed);
        selected::new([index, value, channel, ffi::Py_NewRef(closed)])
    }
}

/// `select(*cases, timeout=None, priority=False)`.
unsafe extern "C-unwind" fn select(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    /// How the first look went.
    enum First {
        Done(*mut ffi::PyObject),
        Wait(Box<Selecting>),
    }
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall. Nothing with a destructor is alive
    // in the wait: the box is moved there.
    unsafe {
        let py = Python::assume_attached();
        let Ok((patience, choice)) = options(py, "select", arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let mut thrown_away = ptr::null_mut();
        let first = with_cases(py, "select", arguments, count, |cases| {
            let mut passed = Passed {
                cases,
                thrown_away: &mut thrown_away,
            };
            let found = if patience == Patience::None {
                try_select(&mut passed, choice)
            } else {
                try_each(&mut passed, choice)
            };
            match found {
                Some(selected) => result(py, cases, selected).map(First::Done),
                None if patience == Patience::None => Err(timed_out(py)),
                None => Selecting::new(cases, choice, false).map(First::Wait),
            }
        });
        let done = match first {
            Ok(First::Done(done)) => Ok(done),
            Ok(First::Wait(selecting)) => pending::run(py, selecting, patience),
            Err(Raised) => Err(Raised),
        };
        end_call(py, done.unwrap_or(ptr::null_mut()), thrown_away)
    }
}

/// `select_nowait(*cases)`.
unsafe extern "C-unwind" fn select_nowait(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let values = arguments.add(count.cast_unsigned());
        if parse(py, "select_nowait", [], 0, values, 0, keywords).is_err() {
            return ptr::null_mut();
        }
        let mut thrown_away = ptr::null_mut();
        let done = with_cases(py, "select_nowait", arguments, count, |cases| {
            let mut passed = Passed {
                cases,
                thrown_away: &mut thrown_away,
            };
            match try_select(&mut passed, Choice::Random) {
                Some(selected) => result(py, cases, selected),
                None => Ok(ffi::Py_NewRef(ffi::Py_None())),
            }
        });
        end_call(py, done.unwrap_or(ptr::null_mut()), thrown_away)
    }
}

/// `aselect(*cases, timeout=None, priority=False)`.
unsafe extern "C-unwind" fn aselect(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let Ok((patience, choice)) = options(py, "aselect", arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let selecting = with_cases(py, "aselect", arguments, count, |cases| {
            Selecting::new(cases, choice, true)
        });
        match selecting {
            Ok(selecting) => pending::awaitable(py, selecting, patience),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

fn timed_out(py: Python<'_>) -> Raised {
    Failure::TimedOut.raise(py, "no case became ready")
}

/// A select that may have to wait.
struct Selecting {
    cases: Held,
    /// A tuple of the channels, as they were passed.
    channels: Object,
    choice: Choice,
    /// Made by the first wait.
    select: Option<Select<Object>>,
    /// A coroutine's: it tells of pressure itself, where a plain call leaves that to its raw entry.
    is_awaited: bool,
}

// SAFETY: the pointers are to what `channels` keeps alive.
unsafe impl Send for Selecting {}

/// Its cases, and their values where they are not in a channel's line, in whose care they are meanwhile.
struct Held {
    cases: Box<[Case]>,
    values: Box<[Option<Object>]>,
    /// It goes with this: a plain call must not run Python code meanwhile.
    thrown_away: Option<Object>,
}

impl Cases<Object, Mode> for Held {
    fn count(&self) -> usize {
        self.cases.len()
    }

    fn channel(&self, index: usize) -> &Core {
        self.cases[index].core()
    }

    fn sends(&self, index: usize) -> bool {
        !self.cases[index].value.is_null()
    }

    fn take(&mut self, index: usize) -> Object {
        self.values[index]
            .take()
            .expect("a send has its value until it is sent")
    }

    fn put_back(&mut self, index: usize, value: Object) {
        self.values[index] = Some(value);
    }

    fn thrown_away(&mut self, value: Object) {
        self.thrown_away = Some(value);
    }
}

impl Selecting {
    /// Takes references to what the cases point to.
    ///
    /// # Safety
    /// They are those of a call that goes on; attached.
    unsafe fn new(cases: &[Case], choice: Choice, is_awaited: bool) -> Result<Box<Self>, Raised> {
        // SAFETY: attached; what the cases point to is alive.
        unsafe {
            let channels = ffi::PyTuple_New(cases.len().cast_signed());
            if channels.is_null() {
                return Err(Raised);
            }
            for (at, case) in (0..).zip(cases) {
                ffi::PyTuple_SET_ITEM(channels, at, ffi::Py_NewRef(case.passed));
            }
            let value = |case: &Case| (!case.value.is_null()).then(|| Object::new(case.value));
            Ok(Box::new(Self {
                cases: Held {
                    cases: cases.into(),
                    values: cases.iter().map(value).collect(),
                    thrown_away: None,
                },
                channels: Object::steal(channels),
                choice,
                select: None,
                is_awaited,
            }))
        }
    }

    /// A new reference to the result of the call.
    fn complete(
        &self,
        py: Python<'_>,
        taken: Selected<Object>,
    ) -> Result<*mut ffi::PyObject, Raised> {
        let passed = self.cases.cases[taken.index].passed;
        let done = result(py, &self.cases.cases, taken)?;
        if self.is_awaited {
            // SAFETY: `channels` keeps it. In a coroutine's step, or an event loop's, which do not park.
            unsafe { tell_if_special(py, passed) };
        }
        Ok(done)
    }

    /// Ends a wait.
    fn end(&mut self) -> EndSelect<Object> {
        let select = self.select.as_mut().expect("made before the wait");
        // SAFETY: called where the wait is over.
        unsafe { select.finish(&mut self.cases) }
    }
}

impl Pending for Selecting {
    fn call(&self) -> &'static str {
        "select()"
    }

    fn awaitable(&self) -> &'static str {
        "await penstock.aselect()"
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.channels.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        try_select(&mut self.cases, self.choice)
            .map(|selected| self.complete(py, selected))
            .transpose()
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<Begun, Raised> {
        let select = self.select.get_or_insert_with(|| Select::new(&self.cases));
        // SAFETY: `channels` keeps them alive, and each wait is finished or abandoned before this is dropped.
        match unsafe { select.begin(&mut self.cases, self.choice, waiter) } {
            BeginSelect::Done(selected) => self.complete(py, selected).map(Begun::Done),
            BeginSelect::Waiting(epoch, None) => Ok(Begun::Waiting(epoch)),
            BeginSelect::Waiting(epoch, Some(tick)) => Ok(Begun::Until(epoch, tick)),
        }
    }

    fn finish(&mut self, py: Python<'_>, _: Outcome) -> Result<Next, Raised> {
        match self.end() {
            EndSelect::Done(selected) => self.complete(py, selected).map(Next::Done),
            EndSelect::Again => Ok(Next::Again),
            EndSelect::Over => Ok(Next::Over),
        }
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {
        let select = self.select.as_mut().expect("made before the wait");
        // SAFETY: called where the wait is over.
        drop(unsafe { select.abandon(&mut self.cases) });
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        timed_out(py)
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.channels.as_ptr());
        let values = self.cases.values.iter().flatten();
        for value in values.chain(&self.cases.thrown_away) {
            visit(value.as_ptr());
        }
    }
}

/// A call whose time ran out as it was to go on still has the turns of channels with a rate.
impl Drop for Selecting {
    fn drop(&mut self) {
        if let Some(select) = self.select.as_mut().filter(|select| select.has_turns()) {
            // SAFETY: values are dropped by attached threads.
            let py = unsafe { Python::assume_attached() };
            let raised = PyErr::take(py); // whoever is woken may be woken by Python code
            select.leave(&self.cases);
            if let Some(raised) = raised {
                raised.restore(py);
            }
        }
    }
}
