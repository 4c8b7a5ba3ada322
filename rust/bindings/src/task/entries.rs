//! The raw entries: `go`, and the methods of a task that may wait.

use std::{ptr, sync::Arc};

use penstock_core::{scheduler::Scheduler, task::BeginJoin, wait::Outcome};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::PyString,
};

use super::{Take, TaskObject, Where, new_task, submit};
use crate::{
    boundary::Caller,
    convert::{Patience, parse},
    error::{Failure, Raised, raise},
    hot::Definition,
    object::{self, disown},
    operation,
    runtime::{self, RuntimeObject},
};

pub static FUNCTIONS: [Definition; 3] = [
    Definition::fast(c"go", go, GO_DOC),
    Definition::fast(
        c"_new_task",
        new_task_entry,
        c"_new_task(fn, /, *args, **kwargs)\n--\n\nMakes a task that `_submit` starts.",
    ),
    Definition::one_arg(
        c"_submit",
        submit_entry,
        c"_submit(task, /)\n--\n\nStarts a task of `_new_task`.",
    ),
];

pub static RUNTIME_METHODS: [Definition; 2] = [
    Definition::fast(c"go", runtime_go, RUNTIME_GO_DOC),
    Definition::fast(
        c"_spawn",
        runtime_spawn,
        c"_spawn($self, fn, args, kwargs, name, node, own_thread)\n--\n\nWhat `Runtime.spawn` comes down to.",
    ),
];

pub static METHODS: [Definition; 6] = [
    Definition::fast(c"result", result, RESULT_DOC),
    Definition::fast(c"exception", exception, EXCEPTION_DOC),
    Definition::fast(c"aresult", aresult, ARESULT_DOC),
    Definition::fast(c"aexception", aexception, AEXCEPTION_DOC),
    Definition::fast(
        c"_join",
        join,
        c"_join($self, /, call, awaitable, timeout=None)\n--\n\nWaits for the task to end, however it does; says whether it \
          has. The names are for the error in a coroutine.",
    ),
    Definition::fast(
        c"_ajoin",
        ajoin,
        c"_ajoin($self, /, timeout=None)\n--\n\nThe awaitable form of `_join`; raises when the time is up.",
    ),
];

const GO_DOC: &std::ffi::CStr = c"go(fn, /, *args, **kwargs)\n--\n\n\
Run ``fn(*args, **kwargs)`` as a task beside the caller, and return the `Task` at once.\n\n\
``fn`` is a plain callable or an ``async def`` function. A plain one needs no colour: where it has to wait, in a\n\
call of this package, it parks, and its worker runs other tasks. It runs in a copy of the caller's\n\
context (`contextvars`). Never waits. Inside a task it uses that task's runtime, elsewhere the default one, which\n\
it starts.\n\n\
Raises:\n    TypeError: ``fn`` is not callable, or is a coroutine: write ``go(fn, *args)``.\n    \
RuntimeError: the interpreter is about to exit.\n\n\
>>> from penstock import go\n>>> go(pow, 2, 10).result()\n1024\n";

const RUNTIME_GO_DOC: &std::ffi::CStr = c"go($self, fn, /, *args, **kwargs)\n--\n\n\
Run ``fn(*args, **kwargs)`` as a task of this runtime, and return the `Task` at once.\n\n\
Otherwise as `penstock.go`, and what the task starts by that runs here too. Any thread or task may call it, those of\n\
other runtimes too. Never waits; starts the runtime if need be.\n\n\
Raises:\n    TypeError: ``fn`` is not callable, or is a coroutine: write ``go(fn, *args)``.\n    \
RuntimeError: the runtime was shut down (its own tasks may go on to start others), no thread is to be had for its\n        \
first task, or the interpreter is about to exit.\n\n\
>>> import penstock\n>>> with penstock.Runtime(workers=1) as runtime:\n...     task = runtime.go(pow, 2, 10)\n\
>>> task.result()\n1024\n";

const RESULT_DOC: &std::ffi::CStr = c"result($self, /, timeout=None)\n--\n\n\
Wait for the task to end, and return what it returned or raise what it raised.\n\n\
Parks a task, blocks a thread; ``await task`` and ``task.aresult()`` are the awaitable forms. Any number of callers\n\
may wait, and ask again.\n\n\
Raises:\n    Cancelled: the task was cancelled, or the caller was while it waited.\n    \
TimeoutError: ``timeout`` seconds passed first; the task goes on.\n    \
ValueError: ``timeout`` is negative.\n    \
RuntimeError: this is a forked child, where the unfinished tasks of its parent do not exist.\n\n\
>>> from penstock import go\n>>> go(sorted, [3, 1, 2]).result(timeout=10)\n[1, 2, 3]\n";

const EXCEPTION_DOC: &std::ffi::CStr = c"exception($self, /, timeout=None)\n--\n\n\
Wait for the task to end, and return the exception it raised, or ``None`` if it returned.\n\n\
Waits and raises as `result` does, ``Cancelled`` included.\n\n\
>>> from penstock import go\n>>> go(int, \"x\").exception()\n\
ValueError(\"invalid literal for int() with base 10: 'x'\")\n";

const ARESULT_DOC: &std::ffi::CStr = c"aresult($self, /, timeout=None)\n--\n\n\
The awaitable form of `result`; without a timeout the same as awaiting the task itself.\n";

const AEXCEPTION_DOC: &std::ffi::CStr = c"aexception($self, /, timeout=None)\n--\n\n\
The awaitable form of `exception`.\n";

/// `go(fn, *args, **kwargs)`.
unsafe extern "C-unwind" fn go(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the arguments of a vectorcall; a task that was just made is submitted once.
    unsafe {
        let task = new_unsubmitted("go", arguments, count, keywords);
        if !task.is_null() {
            return started(task, Where::default());
        }
        task
    }
}

/// Starts a new task; null with an exception set if it is refused.
///
/// # Safety
/// Attached; `task` is a strong reference to a `Task` that was never submitted.
#[inline]
unsafe fn started(task: *mut ffi::PyObject, place: Where) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe {
        if let Err(Raised) = submit(task, place) {
            ffi::Py_DECREF(task);
            return ptr::null_mut();
        }
    }
    task
}

unsafe extern "C-unwind" fn new_task_entry(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the arguments of a vectorcall.
    unsafe { new_unsubmitted("go", arguments, count, keywords) }
}

/// Makes a task of the arguments of `function`; null with an exception set if they are not right.
///
/// # Safety
/// Attached, with the arguments of a vectorcall.
pub unsafe fn new_unsubmitted(
    function: &str,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: attached, with `count` arguments and then one per keyword.
    unsafe {
        let py = Python::assume_attached();
        match runtime::current_scheduler(py) {
            Ok(scheduler) => new_from(py, function, scheduler, arguments, count, keywords),
            Err(error) => {
                raise(py, error);
                ptr::null_mut()
            }
        }
    }
}

/// Makes the task that `go(fn, *args, **kwargs)` asks for.
///
/// # Safety
/// Attached; the arguments are those of a vectorcall.
#[inline]
unsafe fn new_from(
    py: Python<'_>,
    function: &str,
    scheduler: &'static Scheduler,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: attached, with `count` arguments and then one per keyword.
    unsafe {
        if count < 1 {
            let message = format!("{function}() missing required argument 'fn'");
            raise(py, PyTypeError::new_err(message));
            return ptr::null_mut();
        }
        if runtime::is_over() {
            raise(py, runtime::over());
            return ptr::null_mut();
        }
        let mut args = ptr::null_mut();
        if count > 1 {
            args = ffi::PyTuple_New(count - 1);
            if args.is_null() {
                return ptr::null_mut();
            }
            for index in 1..count {
                let value = *arguments.add(index.cast_unsigned());
                ffi::PyTuple_SET_ITEM(args, index - 1, ffi::Py_NewRef(value));
            }
            // The worker drops it, and with it what only the task had.
            disown(args);
        }
        let mut kwargs = ptr::null_mut();
        if !keywords.is_null() && ffi::PyTuple_GET_SIZE(keywords) > 0 {
            kwargs = ffi::PyDict_New();
            for index in 0..ffi::PyTuple_GET_SIZE(keywords) {
                let name = ffi::PyTuple_GET_ITEM(keywords, index);
                let value = *arguments.add((count + index).cast_unsigned());
                if kwargs.is_null() || ffi::PyDict_SetItem(kwargs, name, value) < 0 {
                    ffi::Py_XDECREF(args);
                    ffi::Py_XDECREF(kwargs);
                    return ptr::null_mut();
                }
            }
            disown(kwargs);
        }
        new_task(py, scheduler, *arguments, args, kwargs, ptr::null_mut())
    }
}

/// `Runtime.go(fn, *args, **kwargs)`.
unsafe extern "C-unwind" fn runtime_go(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a raw entry of `_Runtime`, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let task = match scheduler_of(py, this) {
            Ok(scheduler) => new_from(py, "go", scheduler, arguments, count, keywords),
            Err(Raised) => ptr::null_mut(),
        };
        if task.is_null() {
            task
        } else {
            started(task, Where::default())
        }
    }
}

/// The node that `node=` names, as an index; `None` for `None`.
///
/// # Safety
/// Attached; `node` is alive.
unsafe fn node_of(
    py: Python<'_>,
    scheduler: &Scheduler,
    node: *mut ffi::PyObject,
) -> Result<Option<usize>, Raised> {
    // SAFETY: alive, by the caller's promise.
    let node = unsafe { Bound::ref_from_ptr(py, &node) };
    if node.is_none() {
        return Ok(None);
    }
    let layout = scheduler.layout();
    let known = node.extract().ok().and_then(|id| layout.node_index(id));
    if known.is_some() {
        return Ok(known);
    }
    let ids: Vec<_> = (0..layout.nodes())
        .map(|node| layout.node_id(node))
        .collect();
    let message = match node.repr() {
        Ok(shown) => format!("node must be None or the id of a node, one of {ids:?}, not {shown}"),
        Err(error) => return Err(raise(py, error)),
    };
    // SAFETY: alive, and attached.
    let is_number = unsafe { ffi::PyIndex_Check(node.as_ptr()) } != 0;
    Err(raise(
        py,
        if is_number {
            PyValueError::new_err(message)
        } else {
            PyTypeError::new_err(message)
        },
    ))
}

/// The scheduler of a `_Runtime`, started if need be.
///
/// # Safety
/// Attached; `runtime` is one.
unsafe fn scheduler_of(
    py: Python<'_>,
    runtime: *mut ffi::PyObject,
) -> Result<&'static Scheduler, Raised> {
    // SAFETY: alive during the call, and of that class, by the caller's promise.
    let runtime = unsafe { Bound::ref_from_ptr(py, &runtime).cast_unchecked::<RuntimeObject>() };
    let scheduler = runtime.get().life().scheduler(py);
    scheduler.map_err(|error| raise(py, error))
}

/// `Runtime._spawn(fn, args, kwargs, name, node, own_thread)`: a tuple, a dict or `None`, a `str` or `None`, anything, a
/// bool.
unsafe extern "C-unwind" fn runtime_spawn(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let names = ["fn", "args", "kwargs", "name", "node", "own_thread"];
    // SAFETY: a raw entry of `_Runtime`, called by its subclass with such arguments. What is made here is given to the
    // task.
    unsafe {
        let py = Python::assume_attached();
        let parsed = parse(py, "_spawn", names, 6, arguments, count, keywords);
        let (Ok([callable, args, kwargs, name, node, own_thread]), Ok(scheduler)) =
            (parsed, scheduler_of(py, this))
        else {
            return ptr::null_mut();
        };
        let or_null = |object: *mut ffi::PyObject| {
            if object == ffi::Py_None() {
                ptr::null_mut()
            } else {
                object
            }
        };
        let (kwargs, name) = (or_null(kwargs), or_null(name));
        let Ok(node) = node_of(py, scheduler, node) else {
            return ptr::null_mut();
        };
        ffi::Py_INCREF(args);
        ffi::Py_XINCREF(kwargs);
        let task = new_task(py, scheduler, callable, args, kwargs, name);
        if task.is_null() {
            task
        } else {
            let own_thread = own_thread == ffi::Py_True();
            started(task, Where { node, own_thread })
        }
    }
}

unsafe extern "C-unwind" fn submit_entry(
    _: *mut ffi::PyObject,
    task: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by `penstock.group` only, with a task of `_new_task` that it submits once.
    unsafe {
        match submit(task, Where::default()) {
            Ok(()) => ffi::Py_NewRef(ffi::Py_None()),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// Waits until the task is done. `Ok(false)`: not within `timeout`.
///
/// # Safety
/// In a raw entry, with nothing that has a destructor alive.
pub unsafe fn wait_done(
    py: Python<'_>,
    task: &TaskObject,
    patience: Patience,
    call: &'static str,
    awaitable: &str,
) -> Result<bool, Raised> {
    if task.core.is_done() {
        return Ok(true);
    }
    task.check_is_here(py)?;
    if patience == Patience::None {
        return Ok(false);
    }
    let caller = Caller::here(py, call, awaitable)?.on(task.object());
    let entry = match task.begin_join(&caller.waiter_ref()) {
        BeginJoin::Done => {
            caller.done(py);
            return Ok(true);
        }
        BeginJoin::Waiting(entry) => Arc::into_raw(entry),
    };
    // SAFETY: the entry is alive, its reference is held as a raw pointer across the wait.
    let ended = unsafe { caller.wait((*entry).epoch, patience.deadline()) };
    // SAFETY: the reference from above.
    task.finish_join(&unsafe { Arc::from_raw(entry) });
    caller.done(py);
    match ended? {
        Outcome::Handed | Outcome::Closed => Ok(true),
        Outcome::TimedOut => Ok(task.core.is_done()),
        Outcome::Interrupted => Err(caller.raise_interrupt(py)),
    }
}

/// `Task.result` and `Task.exception`.
///
/// # Safety
/// In a raw entry, called on a `Task`.
unsafe fn wait_and_take(
    this: *mut ffi::PyObject,
    function: &'static str,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
    [call, awaitable]: [&'static str; 2],
    take: fn(&TaskObject, Python<'_>) -> *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Task`, attached, with the arguments of a vectorcall. The caller of the
    // method holds a reference to the task during the call.
    unsafe {
        let py = Python::assume_attached();
        let Ok(patience) = Patience::parse(py, function, arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let task = object::get::<TaskObject>(this);
        match wait_done(py, task, patience, call, awaitable) {
            Ok(true) => take(task, py),
            Ok(false) => {
                Failure::TimedOut.raise(py, "the task has not ended in time");
                ptr::null_mut()
            }
            Err(Raised) => ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn result(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a raw entry of `Task`.
    unsafe {
        let forms = ["Task.result()", "await task.aresult()"];
        wait_and_take(
            this,
            "result",
            arguments,
            count,
            keywords,
            forms,
            TaskObject::take_result,
        )
    }
}

unsafe extern "C-unwind" fn exception(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a raw entry of `Task`.
    unsafe {
        let forms = ["Task.exception()", "await task.aexception()"];
        wait_and_take(
            this,
            "exception",
            arguments,
            count,
            keywords,
            forms,
            TaskObject::take_exception,
        )
    }
}

/// `Task.aresult` and `Task.aexception`.
///
/// # Safety
/// In a raw entry, called on a `Task`.
unsafe fn awaitable(
    this: *mut ffi::PyObject,
    function: &'static str,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
    take: Take,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Task`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let Ok(patience) = Patience::parse(py, function, arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let task = Bound::ref_from_ptr(py, &this).cast_unchecked::<TaskObject>();
        if task.get().check_is_here(py).is_err() {
            return ptr::null_mut();
        }
        match operation::join(task, take, patience) {
            Ok(awaitable) => awaitable.into_ptr(),
            Err(error) => {
                raise(py, error);
                ptr::null_mut()
            }
        }
    }
}

unsafe extern "C-unwind" fn aresult(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a raw entry of `Task`.
    unsafe { awaitable(this, "aresult", arguments, count, keywords, Take::Result) }
}

unsafe extern "C-unwind" fn aexception(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a raw entry of `Task`.
    unsafe {
        awaitable(
            this,
            "aexception",
            arguments,
            count,
            keywords,
            Take::Exception,
        )
    }
}

unsafe extern "C-unwind" fn join(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Task`, attached, with the arguments of a vectorcall, which are alive during it. The
    // two names are strings: this is called by our own modules only, with constants, which their code keeps alive.
    unsafe {
        let py = Python::assume_attached();
        let names = ["call", "awaitable", "timeout"];
        let Ok([call, awaitable, timeout]) =
            parse(py, "_join", names, 2, arguments, count, keywords)
        else {
            return ptr::null_mut();
        };
        let name = |text| -> &'static str {
            let text = Bound::ref_from_ptr(py, text).cast_unchecked::<PyString>();
            &*ptr::from_ref(text.to_str().unwrap_or_default())
        };
        let task = object::get::<TaskObject>(this);
        let waited = Patience::from_optional(py, timeout)
            .and_then(|patience| wait_done(py, task, patience, name(&call), name(&awaitable)));
        match waited {
            Ok(is_done) => ffi::PyBool_FromLong(is_done.into()),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn ajoin(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a raw entry of `Task`.
    unsafe { awaitable(this, "_ajoin", arguments, count, keywords, Take::Nothing) }
}
