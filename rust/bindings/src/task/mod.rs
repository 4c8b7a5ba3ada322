//! Tasks: `go`, the `Task` object, and running one.
//!
//! The Python object is the task: the core's cell is embedded in it, and there is no other allocation. From
//! `go` until it is done the task holds a reference to itself, which queues, stacks and waits borrow; so
//! nothing collects a task that is parked.
//!
//! For the same reason the garbage collector need not see it meanwhile: the object is tracked only once it is
//! done, and only if its result can be part of a cycle. A hundred thousand handles in a list then cost a
//! collection nothing.

mod memory;

use std::{
    cell::UnsafeCell,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use penstock_core::{
    scheduler::{Machine, Scheduler, Stack},
    task::{BeginJoin, Cancelling, Parking, Task, TaskVtable},
    wait::{Entry, Outcome, WaiterClass, WaiterRef},
};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyRuntimeError, PyTypeError},
    ffi,
    prelude::*,
    sync::PyOnceLock,
};

use crate::{
    boundary::Caller,
    callback,
    convert::{Patience, parse},
    error::{Failure, Raised, classes, raise},
    fiber,
    hot::Definition,
    interpreter,
    interrupt::Interrupts,
    operation, runtime, unwind,
};

/// What a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain callable: runs on a stack, parks with it.
    Call,
    /// An `async def` function: steps through its coroutine, parks by returning.
    Coroutine,
}

/// What an awaited task gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    Result,
    Exception,
    Nothing,
}

/// How a task that is done has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Returned,
    Raised,
    /// It raised `Cancelled`, or never ran.
    Cancelled,
}

/// The references of a task. Each is null or strong.
///
/// Touched by whoever runs the task until it is done; afterwards `result` and `end` are read only.
struct Fields {
    /// The callable; a coroutine task's coroutine once it has started; null when done.
    callable: *mut ffi::PyObject,
    /// A tuple; null when there are no arguments, and when done.
    args: *mut ffi::PyObject,
    /// A dict, or null.
    kwargs: *mut ffi::PyObject,
    /// Its own context; null while that is still empty.
    context: *mut ffi::PyObject,
    /// The result, or the exception.
    result: *mut ffi::PyObject,
    end: End,
}

/// A task: a function that runs beside others.
///
/// Made by `go()` and by `Group.go()`. `await task` gives what `result()` does, in asyncio and in an
/// `async def` task.
#[pyclass(frozen, weakref, module = "penstock", name = "Task")]
#[repr(C)]
pub struct TaskObject {
    /// First field, so that the cell's address is the address of this struct.
    core: Task,
    /// The Python object around this struct.
    object: UnsafeCell<*mut ffi::PyObject>,
    fields: UnsafeCell<Fields>,
    kind: Kind,
    /// Whether somebody has asked for the exception. Not an `AtomicBool` for fear of two words.
    retrieved: std::sync::atomic::AtomicBool,
    /// Given out when somebody asks for it.
    id: AtomicU64,
    interrupts: Interrupts,
}

// SAFETY: `fields` has one user at a time as its comment says; `object` is written once, before the task is
// known to anyone; Python references are touched by attached threads only.
unsafe impl Send for TaskObject {}
// SAFETY: as above.
unsafe impl Sync for TaskObject {}

static VTABLE: TaskVtable = TaskVtable {
    run,
    waiter: WaiterClass {
        retain: |waiter| {
            // SAFETY: a waiter of this class is in a `Task` in a `TaskObject`; the caller is attached.
            unsafe { ffi::Py_INCREF(TaskObject::of_core(waiter.cast()).as_ref().object()) };
        },
        release: |waiter| {
            // SAFETY: as above; gives up the caller's reference.
            unsafe { ffi::Py_DECREF(TaskObject::of_core(waiter.cast()).as_ref().object()) };
        },
        wake: |waiter| {
            // SAFETY: as above. The task's reference to itself outlives the claim's, but a wake may let it run to
            // its end at once on another thread, so the claim's is dropped last.
            unsafe {
                let task = Task::of_waiter(waiter);
                let object = TaskObject::of_core(task).as_ref().object();
                Task::wake(task);
                ffi::Py_DECREF(object);
            }
        },
    },
};

impl TaskObject {
    /// The object around a core task.
    #[inline]
    pub fn of_core(task: NonNull<Task>) -> NonNull<Self> {
        task.cast() // the first field
    }

    #[inline]
    pub fn core(&self) -> &Task {
        &self.core
    }

    fn core_pointer(&self) -> NonNull<Task> {
        NonNull::from(&self.core)
    }

    #[inline]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    #[inline]
    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// The Python object, borrowed.
    #[inline]
    pub fn object(&self) -> *mut ffi::PyObject {
        // SAFETY: written once, before anyone knew the task.
        unsafe { *self.object.get() }
    }

    pub fn waiter_ref(&self) -> WaiterRef {
        // SAFETY: embedded as its class expects, and alive.
        unsafe { WaiterRef::retain(NonNull::from(self.core.waiter())) }
    }

    /// The struct in a `Task` object.
    ///
    /// # Safety
    /// `object` is a `Task` that outlives the reference.
    #[inline]
    pub unsafe fn from_object<'a>(object: *mut ffi::PyObject) -> &'a Self {
        // SAFETY: a `Task`, by the caller's promise; the class is frozen, so there is no borrow to take.
        unsafe {
            let py = Python::assume_attached();
            let bound = Bound::ref_from_ptr(py, &object);
            &*ptr::from_ref(bound.cast_unchecked::<Self>().get())
        }
    }

    /// # Safety
    /// The caller is the one user of the fields at this moment.
    #[expect(clippy::mut_from_ref, reason = "one user at a time, by the promise")]
    unsafe fn fields(&self) -> &mut Fields {
        // SAFETY: the promise.
        unsafe { &mut *self.fields.get() }
    }

    /// How it ended, and with what; `None` while it has not.
    fn outcome(&self) -> Option<(End, *mut ffi::PyObject)> {
        self.core.is_done().then(|| {
            // SAFETY: nobody writes the result after the task was seen done, and it is read only.
            let fields = unsafe { &*self.fields.get() };
            (fields.end, fields.result)
        })
    }

    /// Sets a new reference to the result, or raises.
    fn take_result(&self, py: Python<'_>) -> *mut ffi::PyObject {
        let Some((end, result)) = self.outcome() else {
            raise(py, PyRuntimeError::new_err("the task is not done"));
            return ptr::null_mut();
        };
        // Ordering: Relaxed, a flag that the last owner reads.
        self.retrieved.store(true, Ordering::Relaxed);
        match end {
            // SAFETY: the result is alive as long as the task.
            End::Returned => unsafe { ffi::Py_NewRef(result) },
            End::Raised => {
                // SAFETY: as above; the exception keeps its own traceback, to which the raise adds.
                unsafe { ffi::PyErr_SetObject(ffi::Py_TYPE(result).cast(), result) };
                ptr::null_mut()
            }
            End::Cancelled => {
                self.raise_cancelled(py, result);
                ptr::null_mut()
            }
        }
    }

    fn raise_cancelled(&self, py: Python<'_>, cause: *mut ffi::PyObject) -> Raised {
        let message = format!("{} was cancelled", self.shown_name());
        let raised = Failure::Cancelled.raise(py, &message);
        if !cause.is_null()
            && let Some(error) = PyErr::take(py)
        {
            // SAFETY: the cause is alive as long as the task.
            let cause = unsafe { Bound::from_borrowed_ptr(py, cause) };
            error.set_cause(py, Some(PyErr::from_value(cause)));
            error.restore(py);
        }
        raised
    }

    /// What `take` asks of a task that is done: a new reference, or null with an exception set.
    pub fn take(&self, py: Python<'_>, take: Take) -> *mut ffi::PyObject {
        match take {
            Take::Result => self.take_result(py),
            Take::Exception => self.take_exception(py),
            Take::Nothing => py.None().into_ptr(),
        }
    }

    fn take_exception(&self, py: Python<'_>) -> *mut ffi::PyObject {
        match self.outcome() {
            Some((End::Raised, result)) => {
                // Ordering: Relaxed, as in `take_result`.
                self.retrieved.store(true, Ordering::Relaxed);
                // SAFETY: alive as long as the task.
                unsafe { ffi::Py_NewRef(result) }
            }
            Some((End::Returned, _)) => py.None().into_ptr(),
            _ => self.take_result(py), // raises
        }
    }

    fn number(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Ordering: Relaxed throughout, numbers are only unique.
        let known = self.id.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let new = NEXT.fetch_add(1, Ordering::Relaxed);
        match self
            .id
            .compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => new,
            Err(theirs) => theirs,
        }
    }

    fn shown_name(&self) -> String {
        format!("Task-{}", self.number())
    }

    /// Starts to wait for its end.
    pub fn begin_join(&self, waiter: &WaiterRef) -> BeginJoin {
        self.core.begin_join(waiter)
    }

    pub fn finish_join(&self, entry: &Arc<Entry<()>>) {
        self.core.finish_join(entry);
    }

    /// Stores how it ended, lets go of everything else, wakes who waits, and drops the task's own reference.
    ///
    /// # Safety
    /// Called by whoever runs the task, once; `result` is a strong reference, given away here.
    unsafe fn finish(&self, machine: &Machine, end: End, result: *mut ffi::PyObject) {
        // SAFETY: the caller runs the task, so it is the one user of the fields.
        unsafe {
            let fields = self.fields();
            fields.end = end;
            fields.result = result;
            if ffi::PyObject_IS_GC(result) != 0 {
                ffi::PyObject_GC_Track(self.object().cast());
            }
            self.let_go();
            machine.counters().finished.add(1); // before anyone who waits for it can look
            self.core.finish();
            ffi::Py_DECREF(self.object());
        }
    }

    /// A task that was cancelled before it started, and so is done, reaches the end of its queue.
    ///
    /// # Safety
    /// The caller has it from a queue.
    unsafe fn finish_unrun(&self, machine: &Machine) {
        // SAFETY: nobody else uses what is let go of; the reference is the task's to itself.
        unsafe {
            self.let_go();
            machine.counters().finished.add(1);
            ffi::Py_DECREF(self.object());
        }
    }

    /// Drops what a task that is done needs no more.
    ///
    /// # Safety
    /// The caller is the one user of these fields.
    unsafe fn let_go(&self) {
        // SAFETY: the promise; each field is cleared before its reference is dropped.
        unsafe {
            let fields = self.fields();
            ffi::Py_CLEAR(&raw mut fields.args);
            ffi::Py_CLEAR(&raw mut fields.kwargs);
            ffi::Py_CLEAR(&raw mut fields.context);
            ffi::Py_CLEAR(&raw mut fields.callable);
        }
    }
}

/// Makes a task that is not submitted yet. Gives a new reference, or null with an exception set.
///
/// # Safety
/// Attached; `args` is null or a tuple, `kwargs` null or a dict, both strong references that are given away.
#[inline]
unsafe fn new_task(
    py: Python<'_>,
    scheduler: &'static Scheduler,
    callable: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: attached; the references are ours to give back.
    let give_up = || unsafe {
        ffi::Py_XDECREF(args);
        ffi::Py_XDECREF(kwargs);
        ptr::null_mut()
    };
    let Ok(kind) = kind_of(py, callable) else {
        return give_up();
    };
    let context = if interpreter::context_is_empty(py) {
        ptr::null_mut()
    } else {
        // SAFETY: attached.
        let copy = unsafe { ffi::PyContext_CopyCurrent() };
        if copy.is_null() {
            return give_up();
        }
        copy
    };
    // SAFETY: the callable is alive.
    unsafe { ffi::Py_INCREF(callable) };
    let task = TaskObject {
        core: Task::new(&VTABLE, scheduler),
        object: UnsafeCell::new(ptr::null_mut()),
        fields: UnsafeCell::new(Fields {
            callable,
            args,
            kwargs,
            context,
            result: ptr::null_mut(),
            end: End::Cancelled, // if it never runs
        }),
        kind,
        retrieved: std::sync::atomic::AtomicBool::new(false),
        id: AtomicU64::new(0),
        interrupts: Interrupts::default(),
    };
    // SAFETY: attached; the object is new and ours alone.
    unsafe {
        let object = memory::new(py, task);
        if !object.is_null() {
            *TaskObject::from_object(object).object.get() = object;
        }
        object
    }
}

/// Hands a new task to its scheduler.
///
/// # Safety
/// `object` is a `Task` that was never submitted.
#[inline]
unsafe fn submit(object: *mut ffi::PyObject) {
    // SAFETY: a new task, by the caller's promise; the reference is the one that it holds to itself.
    unsafe {
        ffi::Py_INCREF(object);
        let core = TaskObject::from_object(object).core_pointer();
        core.as_ref().scheduler().submit(core);
    }
}

/// Plain or async, as `inspect.iscoroutinefunction` says; an error for what cannot be called.
#[inline]
fn kind_of(py: Python<'_>, callable: *mut ffi::PyObject) -> Result<Kind, Raised> {
    match interpreter::function_kind(py, callable) {
        interpreter::FunctionKind::Plain => Ok(Kind::Call),
        interpreter::FunctionKind::Coroutine => Ok(Kind::Coroutine),
        interpreter::FunctionKind::Unknown => {
            // SAFETY: alive, it is an argument.
            let callable = unsafe { Bound::ref_from_ptr(py, &callable) };
            slow_kind_of(callable).map_err(|error| raise(py, error))
        }
    }
}

#[cold]
fn slow_kind_of(callable: &Bound<'_, PyAny>) -> PyResult<Kind> {
    static IS_COROUTINE_FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = callable.py();
    // SAFETY: alive.
    if unsafe { ffi::PyCoro_CheckExact(callable.as_ptr()) } != 0 {
        return Err(PyTypeError::new_err(
            "go() takes a function and its arguments, not a coroutine: write go(fn, *args), not go(fn(*args))",
        ));
    }
    if !callable.is_callable() {
        return Err(PyTypeError::new_err(format!(
            "fn must be callable, not {}",
            callable.repr()?
        )));
    }
    let is_coroutine_function = IS_COROUTINE_FUNCTION.get_or_try_init(py, || {
        PyResult::Ok(
            py.import("inspect")?
                .getattr("iscoroutinefunction")?
                .unbind(),
        )
    })?;
    let is_async = is_coroutine_function
        .bind(py)
        .call1((callable,))?
        .is_truthy()?;
    Ok(if is_async {
        Kind::Coroutine
    } else {
        Kind::Call
    })
}

// ---- running ----

/// The task table's `run`.
///
/// # Safety
/// See `TaskVtable::run`; on a machine's thread, attached.
unsafe fn run(core: NonNull<Task>) {
    let machine = Machine::current().expect("tasks run on machines");
    let stack = machine.current_stack().expect("a loop has a stack");
    // SAFETY: the task's reference to itself is alive until `finish`, which each way ends with.
    unsafe {
        let task = &*TaskObject::of_core(core).as_ptr();
        let starts = task.core.is_new();
        if starts && !task.core.start() || !starts && task.core.is_done() {
            // Cancelled before it started: done long since, but for what it holds.
            task.finish_unrun(machine);
            return;
        }
        if starts {
            machine.counters().started.add(1);
        } else {
            task.core.resume_step();
        }
        stack.task.set(core.as_ptr());
        match task.kind {
            Kind::Call => task.call(machine, stack),
            Kind::Coroutine => task.step(machine, stack, starts),
        }
    }
}

impl TaskObject {
    /// Runs a plain task to its end.
    ///
    /// # Safety
    /// In `run`. Nothing with a destructor may be alive in here while Python code runs.
    unsafe fn call(&self, machine: &Machine, stack: &Stack) {
        // SAFETY: in `run`, attached, the one user of the fields.
        unsafe {
            let context = self.fields().context;
            let entered = if context.is_null() {
                fiber::state(stack).base.enter()
            } else {
                ffi::PyContext_Enter(context) == 0
            };
            let mut result = ptr::null_mut();
            if entered {
                let fields = self.fields();
                result = if fields.args.is_null() && fields.kwargs.is_null() {
                    unwind::PyObject_Vectorcall(fields.callable, ptr::null(), 0, ptr::null_mut())
                } else if fields.args.is_null() {
                    let none = ffi::PyTuple_New(0);
                    let result = unwind::PyObject_Call(fields.callable, none, fields.kwargs);
                    ffi::Py_DECREF(none);
                    result
                } else {
                    unwind::PyObject_Call(fields.callable, fields.args, fields.kwargs)
                };
            }
            if in_child() {
                runtime::end_child(result);
            }
            if context.is_null() {
                drop(fiber::state(stack).base.settle());
            } else if entered {
                ffi::PyContext_Exit(context);
            }
            stack.task.set(ptr::null());
            self.end_with(machine, result, true);
        }
    }

    /// Ends the task with what its code returned, or with the exception that is set.
    ///
    /// # Safety
    /// As for [`finish`](Self::finish).
    unsafe fn end_with(&self, machine: &Machine, result: *mut ffi::PyObject, plain: bool) {
        // SAFETY: attached, the one user of the fields.
        unsafe {
            let py = Python::assume_attached();
            if !result.is_null() && (!plain || ffi::PyCoro_CheckExact(result) == 0) {
                self.finish(machine, End::Returned, result);
                return;
            }
            if !result.is_null() {
                close_coroutine(py, result);
            }
            let error = PyErr::fetch(py);
            let end = if error.is_instance(py, classes(py).cancelled.bind(py)) {
                End::Cancelled
            } else {
                End::Raised
            };
            self.finish(machine, end, error.into_value(py).into_ptr());
        }
    }

    /// Runs one step of a coroutine.
    ///
    /// # Safety
    /// In `run`.
    unsafe fn step(&self, machine: &Machine, stack: &Stack, starts: bool) {
        // SAFETY: in `run`, attached, the one user of the fields.
        unsafe {
            let py = Python::assume_attached();
            let own_context = self.fields().context;
            let entered = if own_context.is_null() {
                fiber::state(stack).base.enter()
            } else {
                ffi::PyContext_Enter(own_context) == 0
            };
            let mut result = ptr::null_mut();
            let mut sent = ffi::PySendResult::PYGEN_ERROR;
            if entered && (!starts || self.make_coroutine(py).is_ok()) {
                sent = unwind::PyIter_Send(self.fields().callable, ffi::Py_None(), &raw mut result);
            }
            while sent == ffi::PySendResult::PYGEN_NEXT && !operation::is_marker(result) {
                // It awaits something that is not ours: say so at the very `await`.
                sent = operation::refuse_foreign(py, self.fields().callable, &mut result);
            }
            if in_child() {
                runtime::end_child(result);
            }
            if own_context.is_null() {
                if let Some(dirty) = fiber::state(stack).base.settle() {
                    self.fields().context = dirty.into_ptr();
                }
            } else if entered {
                ffi::PyContext_Exit(own_context);
            }
            stack.task.set(ptr::null());
            match sent {
                ffi::PySendResult::PYGEN_NEXT => {
                    let gives_up_turn = operation::is_yield_marker(result);
                    ffi::Py_DECREF(result);
                    self.leave_step(machine, gives_up_turn);
                }
                ffi::PySendResult::PYGEN_RETURN => self.end_with(machine, result, false),
                ffi::PySendResult::PYGEN_ERROR => self.end_with(machine, ptr::null_mut(), false),
            }
        }
    }

    /// # Safety
    /// At the end of a step that has not finished the task.
    unsafe fn leave_step(&self, machine: &Machine, gives_up_turn: bool) {
        let core = self.core_pointer();
        let scheduler = self.core.scheduler();
        if gives_up_turn {
            self.core.yield_step();
        } else {
            machine.counters().parks.add(1);
            if self.core.leave_step() == Parking::Parked {
                return; // whoever claims its waiter may have queued it already: it is not ours any more
            }
        }
        // SAFETY: it gave up its turn, or was woken before it had left: it is ours to queue.
        unsafe { scheduler.requeue_last(core) };
    }

    /// Calls the `async def` function, on the worker that runs the first step: a task that never starts has no
    /// coroutine that was "never awaited".
    ///
    /// # Safety
    /// As for [`step`](Self::step).
    unsafe fn make_coroutine(&self, py: Python<'_>) -> Result<(), Raised> {
        // SAFETY: attached, the one user of the fields.
        unsafe {
            let fields = self.fields();
            let coroutine = if fields.args.is_null() {
                let none = ffi::PyTuple_New(0);
                let coroutine = unwind::PyObject_Call(fields.callable, none, fields.kwargs);
                ffi::Py_DECREF(none);
                coroutine
            } else {
                unwind::PyObject_Call(fields.callable, fields.args, fields.kwargs)
            };
            if coroutine.is_null() {
                return Err(Raised);
            }
            if ffi::PyCoro_CheckExact(coroutine) == 0 && ffi::PyIter_Check(coroutine) == 0 {
                let coroutine = Bound::from_owned_ptr(py, coroutine);
                let message = format!("an async function gave {coroutine:?}, not a coroutine");
                return Err(raise(py, PyTypeError::new_err(message)));
            }
            let fields = self.fields();
            let callable = std::mem::replace(&mut fields.callable, coroutine);
            let args = std::mem::replace(&mut fields.args, ptr::null_mut());
            let kwargs = std::mem::replace(&mut fields.kwargs, ptr::null_mut());
            ffi::Py_DECREF(callable);
            ffi::Py_XDECREF(args);
            ffi::Py_XDECREF(kwargs);
        }
        Ok(())
    }
}

/// Whether the task that just returned had forked, and this is the child: its thread is no machine any more.
fn in_child() -> bool {
    Machine::current().is_none()
}

/// A plain function returned a coroutine that nobody will await.
///
/// # Safety
/// `coroutine` is a strong reference, given away here.
unsafe fn close_coroutine(py: Python<'_>, coroutine: *mut ffi::PyObject) {
    // SAFETY: ours, by the caller's promise.
    let coroutine = unsafe { Bound::from_owned_ptr(py, coroutine) };
    let name = coroutine
        .getattr("__qualname__")
        .map_or_else(|_| "a function".to_owned(), |name| name.to_string());
    if let Err(error) = coroutine.call_method0("close") {
        error.write_unraisable(py, Some(&coroutine));
    }
    let message = format!(
        "a plain function returned the coroutine of {name}: pass the async function itself, go(fn, *args)"
    );
    raise(py, PyTypeError::new_err(message));
}

// ---- what Python sees ----

#[expect(
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "the signatures are PyO3's"
)]
#[pymethods]
impl TaskObject {
    /// Whether the task has ended: returned, raised, or cancelled. Never waits.
    fn done(&self) -> bool {
        self.core.is_done()
    }

    /// Whether the task ended by `Cancelled`, or was cancelled before it started. Never waits.
    fn cancelled(&self) -> bool {
        matches!(self.outcome(), Some((End::Cancelled, _)))
    }

    /// Asks the task to end. Never waits, and says whether the task will notice.
    ///
    /// `Cancelled` is raised in it once, at its next call that has to wait; one that has not started never
    /// runs. A hand-over that came first wins, and `Cancelled` comes at the next such call.
    fn cancel(&self) -> bool {
        match self.core.cancel() {
            Cancelling::TooLate => false,
            Cancelling::NeverRuns => true,
            Cancelling::Asked => {
                // SAFETY: alive, Python holds it during the call.
                unsafe { Task::interrupt(self.core_pointer()) };
                true
            }
        }
    }

    /// Calls `fn(task)` when the task has ended, on the thread that ends it, or at once if it has.
    ///
    /// What it raises goes to `sys.unraisablehook`. It should be short: a worker waits for it.
    fn add_done_callback(slf: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
        if !r#fn.is_callable() {
            return Err(PyTypeError::new_err(format!(
                "fn must be callable, not {}",
                r#fn.repr()?
            )));
        }
        callback::when_done(slf, r#fn);
        Ok(())
    }

    /// A name for people: `Task-7`.
    #[getter]
    fn name(&self) -> String {
        self.shown_name()
    }

    /// A number that no other task of this process has.
    #[getter]
    fn id(&self) -> u64 {
        self.number()
    }

    fn __await__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        operation::join(slf, Take::Result, Patience::Forever)
    }

    fn __repr__(&self) -> String {
        let state = match self.outcome() {
            Some((End::Returned, _)) => "finished",
            Some((End::Raised, _)) => "failed",
            Some((End::Cancelled, _)) => "cancelled",
            None if self.core.is_new() => "waiting to start",
            None => "running or parked",
        };
        format!("<penstock.Task {} {state}>", self.shown_name())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a Task cannot be pickled or copied: it runs in this process only",
        ))
    }

    #[classmethod]
    fn __class_getitem__(
        cls: &Bound<'_, pyo3::types::PyType>,
        item: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        crate::generic_alias(cls, item)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Only a task that is done is tracked, and only its result is left then. The task holds a reference to
        // itself before, so no cycle through it could be garbage.
        if let Some((_, result)) = self.outcome()
            && !result.is_null()
        {
            let field = self.fields.get();
            // SAFETY: not null, and nobody writes it while the world is stopped; `Py` is such a pointer.
            let result = unsafe { &*(&raw const (*field).result).cast::<Py<PyAny>>() };
            visit.call(result)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        if self.core.is_done() {
            // SAFETY: the collector found the task unreachable, so nobody reads the result any more.
            let result = unsafe { std::mem::replace(&mut self.fields().result, ptr::null_mut()) };
            // SAFETY: ours.
            unsafe { ffi::Py_XDECREF(result) };
        }
    }
}

impl Drop for TaskObject {
    fn drop(&mut self) {
        let fields = self.fields.get_mut();
        // Ordering: Relaxed, this is the last owner.
        let unseen = fields.end == End::Raised
            && !fields.result.is_null()
            && !self.retrieved.load(Ordering::Relaxed);
        // SAFETY: attached (an object is deallocated by an attached thread), and each is ours or null.
        unsafe {
            if unseen {
                report_unseen(fields.result);
            }
            for pointer in [
                fields.callable,
                fields.args,
                fields.kwargs,
                fields.context,
                fields.result,
            ] {
                ffi::Py_XDECREF(pointer);
            }
        }
    }
}

/// Shows an exception that nobody asked for.
///
/// # Safety
/// Attached; `exception` is alive.
unsafe fn report_unseen(exception: *mut ffi::PyObject) {
    // SAFETY: attached and alive. The error that may be set belongs to whoever drops the task.
    unsafe {
        let py = Python::assume_attached();
        let current = PyErr::take(py);
        ffi::PyErr_SetObject(ffi::Py_TYPE(exception).cast(), exception);
        ffi::PyErr_WriteUnraisable(ptr::null_mut());
        if let Some(error) = current {
            error.restore(py);
        }
    }
}

pub use memory::{collection_begins, load, rest};

pub static FUNCTIONS: [Definition; 3] = [
    Definition::fast(c"go", go, GO_DOC),
    Definition::fast(
        c"_new_task",
        new_unsubmitted,
        c"_new_task(fn, /, *args, **kwargs)\n--\n\nMakes a task that `_submit` starts.",
    ),
    Definition::one_arg(
        c"_submit",
        submit_entry,
        c"_submit(task, /)\n--\n\nStarts a task of `_new_task`.",
    ),
];

pub static METHODS: [Definition; 6] = [
    Definition::fast(c"result", result, RESULT_DOC),
    Definition::fast(c"exception", exception, EXCEPTION_DOC),
    Definition::fast(c"aresult", aresult, ARESULT_DOC),
    Definition::fast(c"aexception", aexception, AEXCEPTION_DOC),
    Definition::no_args(
        c"_join",
        join,
        c"_join($self, /)\n--\n\nWaits for the task to end, however it does.",
    ),
    Definition::no_args(
        c"_ajoin",
        ajoin,
        c"_ajoin($self, /)\n--\n\nThe awaitable form of `_join`.",
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

const RESULT_DOC: &std::ffi::CStr = c"result($self, /, timeout=None)\n--\n\n\
Wait for the task to end, and return what it returned or raise what it raised.\n\n\
Parks a task, blocks a thread; ``await task`` and ``task.aresult()`` are the awaitable forms. Any number of callers\n\
may wait, and ask again.\n\n\
Raises:\n    Cancelled: the task was cancelled, or the caller was while it waited.\n    \
TimeoutError: ``timeout`` seconds passed first; the task goes on.\n    \
ValueError: ``timeout`` is negative.\n\n\
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
    module: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the arguments of a vectorcall; a task that was just made is submitted once.
    unsafe {
        let task = new_unsubmitted(module, arguments, count, keywords);
        if !task.is_null() {
            submit(task);
        }
        task
    }
}

unsafe extern "C-unwind" fn new_unsubmitted(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with `count` arguments and then one per keyword.
    unsafe {
        let py = Python::assume_attached();
        if count < 1 {
            raise(
                py,
                PyTypeError::new_err("go() missing required argument 'fn'"),
            );
            return ptr::null_mut();
        }
        let scheduler = match Machine::current() {
            Some(machine) => machine.scheduler,
            None => match runtime::default_scheduler(py) {
                Ok(scheduler) => scheduler,
                Err(error) => {
                    raise(py, error);
                    return ptr::null_mut();
                }
            },
        };
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
        }
        new_task(py, scheduler, *arguments, args, kwargs)
    }
}

unsafe extern "C-unwind" fn submit_entry(
    _: *mut ffi::PyObject,
    task: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by `penstock.group` only, with a task of `_new_task` that it submits once.
    unsafe {
        submit(task);
        ffi::Py_NewRef(ffi::Py_None())
    }
}

/// Waits until the task is done. `Ok(false)`: not within `timeout`.
///
/// # Safety
/// In a raw entry, with nothing that has a destructor alive.
unsafe fn wait_done(
    py: Python<'_>,
    task: &TaskObject,
    patience: Patience,
    call: &'static str,
    awaitable: &'static str,
) -> Result<bool, Raised> {
    if task.core.is_done() {
        return Ok(true);
    }
    if patience == Patience::None {
        return Ok(false);
    }
    let caller = Caller::here(py, call, awaitable)?;
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
        let Ok([timeout]) = parse(py, function, ["timeout"], 0, arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let Ok(patience) = Patience::from_optional(py, timeout) else {
            return ptr::null_mut();
        };
        let task = TaskObject::from_object(this);
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
        let Ok([timeout]) = parse(py, function, ["timeout"], 0, arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let Ok(patience) = Patience::from_optional(py, timeout) else {
            return ptr::null_mut();
        };
        let task = Bound::ref_from_ptr(py, &this).cast_unchecked::<TaskObject>();
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
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a raw entry of `Task`.
    unsafe {
        let py = Python::assume_attached();
        let task = TaskObject::from_object(this);
        match wait_done(
            py,
            task,
            Patience::Forever,
            "leaving a group",
            "async with group",
        ) {
            Ok(_) => ffi::Py_NewRef(ffi::Py_None()),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn ajoin(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Task`, attached.
    unsafe {
        let py = Python::assume_attached();
        let task = Bound::ref_from_ptr(py, &this).cast_unchecked::<TaskObject>();
        match operation::join(task, Take::Nothing, Patience::Forever) {
            Ok(awaitable) => awaitable.into_ptr(),
            Err(error) => {
                raise(py, error);
                ptr::null_mut()
            }
        }
    }
}
