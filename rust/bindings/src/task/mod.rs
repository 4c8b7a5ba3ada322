//! Tasks: `go`, the `Task` object, and running one.
//!
//! The Python object is the task: the core's cell is embedded in it, and there is no other allocation. From
//! `go` until it is done the task holds a reference to itself, which queues, stacks and waits borrow; so
//! nothing collects a task that is parked.
//!
//! For the same reason the garbage collector need not see it meanwhile: the object is tracked only once it is
//! done, and only if its result can be part of a cycle. A hundred thousand handles in a list then cost a
//! collection nothing.

mod entries;
mod memory;
mod run;

pub use entries::{FUNCTIONS, METHODS, RUNTIME_METHODS, new_unsubmitted, wait_done};
pub use memory::{collection_begins, load, prewarm, rest};
pub use run::close_coroutine;

use std::{
    cell::UnsafeCell,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use penstock_core::{
    scheduler::{Machine, Refused, Scheduler},
    task::{BeginJoin, Cancelling, Task, TaskVtable},
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
    callback,
    convert::Patience,
    error::{Failure, Raised, raise},
    fiber,
    hot::Definition,
    interpreter,
    interrupt::Interrupts,
    object::{self, Object},
    operation,
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
    /// A snapshot of its creator's context before it has started, its own after; null while that is still empty.
    context: *mut ffi::PyObject,
    /// The result, or the exception.
    result: *mut ffi::PyObject,
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
    fields: UnsafeCell<Fields>,
    /// How it ended: written with the result, and read as that is. Not among the fields, which would be a word longer.
    end: UnsafeCell<End>,
    kind: Kind,
    /// What `spawn` called it, a `str`; else null. Written before anyone knows the task.
    name: *mut ffi::PyObject,
    /// Whether somebody has asked for the exception. Not an `AtomicBool` for fear of two words.
    retrieved: std::sync::atomic::AtomicBool,
    /// Given out when somebody asks for it.
    id: AtomicU64,
    interrupts: Interrupts,
}

// SAFETY: `fields` and `end` have one user at a time, as the comments say; Python references are touched by attached
// threads only.
unsafe impl Send for TaskObject {}
// SAFETY: as above.
unsafe impl Sync for TaskObject {}

static VTABLE: TaskVtable = TaskVtable {
    run: run::run,
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
        memory::object_around(self)
    }

    pub fn waiter_ref(&self) -> WaiterRef {
        // SAFETY: embedded as its class expects, and alive.
        unsafe { WaiterRef::retain(NonNull::from(self.core.waiter())) }
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
            unsafe { (*self.end.get(), (*self.fields.get()).result) }
        })
    }

    /// Sets a new reference to the result, or raises.
    pub fn take_result(&self, py: Python<'_>) -> *mut ffi::PyObject {
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

    /// Nobody will ask for the exception, and nobody is to see it.
    pub fn forget_exception(&self) {
        self.retrieved.store(true, Ordering::Relaxed); // Ordering: Relaxed, as in `take_result`.
    }

    pub fn number(&self) -> u64 {
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
        if self.name.is_null() {
            return format!("Task-{}", self.number());
        }
        // SAFETY: a `str` that lives as long as the task; attached, as every caller is.
        let name = unsafe { Bound::ref_from_ptr(Python::assume_attached(), &self.name) };
        name.to_string()
    }

    /// Whether something wants to interrupt its next wait.
    #[inline]
    pub fn interrupt_pending(&self) -> bool {
        self.core.cancel_pending() || self.interrupts.pending()
    }

    /// Ends the wait that it is in, if it is in one: it is to see what it was asked to.
    pub fn end_wait(&self) {
        // SAFETY: alive, as the caller's reference shows.
        unsafe { Task::interrupt(self.core_pointer(), || self.interrupt_pending()) };
        if let Some(claim) = self.interrupts.claim_blocked(|| self.core.cancel_pending()) {
            claim.complete(Outcome::Interrupted);
        }
    }

    /// An error where it will never end: in a forked child, of a task that its parent had.
    #[inline]
    pub fn check_is_here(&self, py: Python<'_>) -> Result<(), Raised> {
        if self.is_here() {
            return Ok(());
        }
        let message = format!(
            "{} does not exist in this process: it is a task of the process that forked this one",
            self.shown_name()
        );
        Err(raise(py, PyRuntimeError::new_err(message)))
    }

    /// Whether it has ended, or is of this process.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.core.is_done() || self.core.scheduler().is_here()
    }

    /// Starts to wait for its end.
    pub fn begin_join(&self, waiter: &WaiterRef) -> BeginJoin {
        self.core.begin_join(waiter)
    }

    pub fn finish_join(&self, entry: &Arc<Entry<()>>) {
        self.core.finish_join(entry);
    }

    /// Stores how it ended, lets go of everything else, wakes who waits, and drops the task's own reference. `machine`
    /// is the one that ran it, unless it was a call of the blocking pool.
    ///
    /// # Safety
    /// Called by whoever runs the task, once; `result` is a strong reference, given away here.
    unsafe fn finish(&self, machine: Option<&Machine>, end: End, result: *mut ffi::PyObject) {
        // SAFETY: the caller runs the task, so it is the one user of the fields.
        unsafe {
            *self.end.get() = end;
            self.fields().result = result;
            if ffi::PyObject_IS_GC(result) != 0 {
                ffi::PyObject_GC_Track(self.object().cast());
            }
            self.let_go();
            if !self.core.waiter().is_settled() && self.kind == Kind::Coroutine {
                // It stepped an operation by hand, left it waiting and gave it to somebody: that still points here.
                ffi::Py_INCREF(self.object());
            }
            if let Some(machine) = machine {
                machine.counters().finished.add(1); // before anyone who waits for it can look
            }
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
/// Attached; `args` is null or a tuple, `kwargs` null or a dict, both strong references that are given away; `name` is
/// null or a `str`.
#[inline]
unsafe fn new_task(
    py: Python<'_>,
    scheduler: &'static Scheduler,
    callable: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
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
        // SAFETY: attached, on the stack's thread, in its task.
        let snapshot = unsafe {
            match Machine::current().and_then(Machine::current_stack) {
                Some(stack) => fiber::state(stack).snapshot.take(py),
                None => ffi::PyContext_CopyCurrent(),
            }
        };
        if snapshot.is_null() {
            return give_up();
        }
        snapshot
    };
    // SAFETY: both are alive, or null.
    unsafe {
        ffi::Py_INCREF(callable);
        ffi::Py_XINCREF(name);
    }
    let task = TaskObject {
        core: Task::new(&VTABLE, scheduler),
        fields: UnsafeCell::new(Fields {
            callable,
            args,
            kwargs,
            context,
            result: ptr::null_mut(),
        }),
        end: UnsafeCell::new(End::Cancelled), // if it never runs
        kind,
        name,
        retrieved: std::sync::atomic::AtomicBool::new(false),
        id: AtomicU64::new(0),
        interrupts: Interrupts::default(),
    };
    // SAFETY: attached; the object is new and ours alone.
    unsafe { memory::new(py, task) }
}

/// Where a task starts.
#[derive(Clone, Copy, Default)]
struct Where {
    /// On a worker of this node, as the layout numbers it.
    node: Option<usize>,
    own_thread: bool,
}

/// Hands a new task to its scheduler. A task that is refused is cancelled, so that nobody waits for it for ever.
///
/// # Safety
/// Attached; `object` is a `Task` that was never submitted.
#[inline]
unsafe fn submit(object: *mut ffi::PyObject, place: Where) -> Result<(), Raised> {
    // SAFETY: a new task, by the caller's promise; the reference is the one that it holds to itself.
    unsafe {
        ffi::Py_INCREF(object);
        let core = object::get::<TaskObject>(object).core_pointer();
        let scheduler = core.as_ref().scheduler();
        let submitted = match place {
            Where {
                node,
                own_thread: true,
            } => scheduler.submit_alone(node, core),
            Where {
                node: Some(node), ..
            } => scheduler.submit_to(node, core),
            Where { node: None, .. } => scheduler.submit(core),
        };
        submitted.map_err(|refused| give_back(object, refused))
    }
}

/// # Safety
/// As for [`submit`], which has just been refused.
#[cold]
unsafe fn give_back(object: *mut ffi::PyObject, refused: Refused) -> Raised {
    // SAFETY: attached; the reference is the one that the task would hold to itself.
    unsafe {
        let _ = object::get::<TaskObject>(object).core.cancel();
        ffi::Py_DECREF(object);
        let message = match refused {
            Refused::Closed => "the runtime was shut down: it takes no more tasks",
            Refused::NoThread => {
                "there is no thread for the task: the system or PENSTOCK_MAX_THREADS allows no more"
            }
        };
        raise(Python::assume_attached(), PyRuntimeError::new_err(message))
    }
}

/// A task that does nothing: for [`close`], and to wait for without ever being run.
pub fn new_idle(py: Python<'_>, scheduler: &'static Scheduler) -> PyResult<Object> {
    static NOTHING: Definition = Definition::no_args(c"_nothing", nothing, c"");
    unsafe extern "C-unwind" fn nothing(
        _: *mut ffi::PyObject,
        _: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject {
        // SAFETY: called by CPython, attached.
        unsafe { ffi::Py_NewRef(ffi::Py_None()) }
    }
    // SAFETY: attached; the definition is static. What is made is ours.
    unsafe {
        let callable = ffi::PyCFunction_New(NOTHING.get(), ptr::null_mut());
        let callable = Bound::from_owned_ptr_or_err(py, callable)?;
        let none = ptr::null_mut();
        let task = new_task(py, scheduler, callable.as_ptr(), none, none, none);
        Ok(Object::steal(
            Bound::from_owned_ptr_or_err(py, task)?.into_ptr(),
        ))
    }
}

/// Closes `scheduler`, with `last` to run when all others have ended. `false`: they have, and it does not run.
///
/// # Safety
/// Attached; `last` is from [`new_idle`], for this scheduler.
pub unsafe fn close(scheduler: &'static Scheduler, last: &Object) -> bool {
    // SAFETY: a new task, with the reference that it holds to itself.
    unsafe {
        ffi::Py_INCREF(last.as_ptr());
        let waits = scheduler.close(Some(
            object::get::<TaskObject>(last.as_ptr()).core_pointer(),
        ));
        if !waits {
            ffi::Py_DECREF(last.as_ptr());
        }
        waits
    }
}

/// Plain or async, as `inspect.iscoroutinefunction` says; an error for what cannot be called.
#[inline]
pub fn kind_of(py: Python<'_>, callable: *mut ffi::PyObject) -> Result<Kind, Raised> {
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
    /// runs. A hand-over that came first wins, and `Cancelled` comes at the next such call. In a forked child
    /// a task of its parent does not exist, and so notices nothing.
    fn cancel(&self) -> bool {
        if !self.is_here() {
            return false;
        }
        match self.core.cancel() {
            Cancelling::TooLate => false,
            Cancelling::NeverRuns => true,
            Cancelling::Asked => {
                self.end_wait();
                true
            }
        }
    }

    /// Calls `fn(task)` when the task has ended, on the thread that ends it, or at once if it has.
    ///
    /// What it raises goes to `sys.unraisablehook`. It should be short: a worker waits for it.
    /// In a forked child it raises `RuntimeError` for a task of the parent's that had not ended.
    fn add_done_callback(slf: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
        if !r#fn.is_callable() {
            return Err(PyTypeError::new_err(format!(
                "fn must be callable, not {}",
                r#fn.repr()?
            )));
        }
        callback::when_done(slf, r#fn).map(drop)
    }

    /// A task of the same runtime that is never run: to cancel it ends the waits for it.
    fn _gate<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        slf.get()
            .check_is_here(py)
            .map_err(|Raised| PyErr::fetch(py))?;
        let gate = new_idle(py, slf.get().core.scheduler())?;
        // SAFETY: a strong reference to a task, given away.
        Ok(unsafe { Bound::from_owned_ptr(py, gate.into_ptr()).cast_into_unchecked() })
    }

    /// Whether it will never end: this is a forked child, and it is a task of the parent's.
    fn _is_elsewhere(&self) -> bool {
        !self.is_here()
    }

    /// Whether the task ended by an exception, asked without retrieving it.
    fn _failed(&self) -> bool {
        matches!(self.outcome(), Some((End::Raised, _)))
    }

    /// A name for people: what `spawn` was given, or `Task-7`.
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
        slf.get()
            .check_is_here(slf.py())
            .map_err(|Raised| PyErr::fetch(slf.py()))?;
        operation::join(slf, Take::Result, Patience::Forever)
    }

    fn __repr__(&self) -> String {
        let state = match self.outcome() {
            Some((End::Returned, _)) => "finished",
            Some((End::Raised, _)) => "failed",
            Some((End::Cancelled, _)) => "cancelled",
            None if !self.is_here() => "of another process",
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
        // SAFETY: attached (an object is deallocated by an attached thread), and nobody else has it.
        unsafe { self.report_unseen() };
        let fields = self.fields.get_mut();
        // SAFETY: attached, and each is ours or null.
        unsafe {
            for pointer in [
                fields.callable,
                fields.args,
                fields.kwargs,
                fields.context,
                fields.result,
                self.name,
            ] {
                ffi::Py_XDECREF(pointer);
            }
        }
    }
}

impl TaskObject {
    /// Shows the exception that nobody asked for, once. Nothing before the task is done.
    ///
    /// # Safety
    /// Attached, and nobody else refers to the task, or has anything but garbage to do so.
    unsafe fn report_unseen(&self) {
        let Some((End::Raised, exception)) = self.outcome() else {
            return;
        };
        // Ordering: Relaxed, nobody else has it.
        if !exception.is_null() && !self.retrieved.swap(true, Ordering::Relaxed) {
            // SAFETY: attached; the task keeps it alive.
            unsafe { show_unraisable(exception) };
        }
    }
}

/// # Safety
/// Attached; `exception` is alive.
unsafe fn show_unraisable(exception: *mut ffi::PyObject) {
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
