//! What the runtime has to know of the interpreter where `CPython` has no public function for it.
//!
//! `interpreter.c` reads the structures; this file says when that is allowed. Nothing here is on the
//! path of a call that goes through without waiting, but for what each task needs: its callable's kind, its creator's
//! context, and its reference to itself ([`share`]).

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi::{self, Py_ssize_t, PyObject};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString};

/// The thread that collects now, or 0. Written in [`collection_begins`] and [`collection_ends`] by that thread, read
/// by [`is_collecting_here`] on any.
static COLLECTOR: AtomicUsize = AtomicUsize::new(0);

/// `importlib._bootstrap._module_locks`: one entry for each module that is being imported now.
static MODULE_LOCKS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

mod shim {
    use std::ffi::c_int;

    use pyo3::ffi::{Py_ssize_t, PyObject};

    unsafe extern "C" {
        pub fn penstock_current_context() -> *mut PyObject;
        pub fn penstock_same_variables(first: *mut PyObject, second: *mut PyObject) -> c_int;
        pub fn penstock_collecting() -> c_int;
        pub fn penstock_this_thread() -> usize;
        pub fn penstock_is_traced() -> c_int;
        pub fn penstock_function_kind(callable: *mut PyObject) -> c_int;
        pub fn penstock_runs_in_file(filename: *mut PyObject) -> c_int;
        pub fn penstock_references_to(object: *mut PyObject) -> Py_ssize_t;
        pub fn penstock_spots(spots: *mut super::Spot, room: c_int) -> c_int;
        pub fn penstock_stop_the_world();
        pub fn penstock_start_the_world();
    }

    /// `struct penstock_hold`: only `interpreter.c` looks inside.
    #[cfg(Py_GIL_DISABLED)]
    #[repr(C)]
    pub struct Hold {
        _private: [u8; 0],
    }

    #[cfg(Py_GIL_DISABLED)]
    unsafe extern "C" {
        pub fn penstock_frames_match() -> c_int;
        pub fn penstock_uncount_object(class: *mut pyo3::ffi::PyTypeObject);
        pub fn penstock_hold_deferred(hold: *mut *mut Hold) -> c_int;
        pub fn penstock_drop_deferred(hold: *mut Hold);
        pub fn penstock_free_hold(hold: *mut Hold);
        pub fn penstock_disown_exception(exception: *mut PyObject);
    }
}

/// Calls `look` while no other thread is attached, so that what their machines hold may be read.
///
/// # Safety
/// `look` runs no Python code, does not detach, and drops no reference.
pub unsafe fn with_stopped_world<T>(_py: Python<'_>, look: impl FnOnce() -> T) -> T {
    // SAFETY: attached; the rest is the caller's promise.
    unsafe {
        shim::penstock_stop_the_world();
        let result = look();
        shim::penstock_start_the_world();
        result
    }
}

/// Whether a trace function is set on this thread.
#[inline]
pub fn is_traced(_py: Python<'_>) -> bool {
    // SAFETY: `_py` proves that the thread state is attached, which is all the shim needs.
    unsafe { shim::penstock_is_traced() != 0 }
}

/// This thread's current context, borrowed until this thread runs Python code again; null where it has
/// none yet.
pub fn current_context(_py: Python<'_>) -> *mut PyObject {
    // SAFETY: `_py` proves that the thread state is attached, which is all the shim needs.
    unsafe { shim::penstock_current_context() }
}

/// Whether `snapshot`, which nobody has entered, has the variables that this thread's current context has. A no may be wrong.
///
/// # Safety
/// `snapshot` is a context, and alive.
pub unsafe fn is_unchanged_since(py: Python<'_>, snapshot: *mut PyObject) -> bool {
    let context = current_context(py);
    // SAFETY: both are contexts, and alive (see `current_context`).
    !context.is_null() && unsafe { shim::penstock_same_variables(snapshot, context) != 0 }
}

/// Whether a copy of this thread's context would be empty, so that a task created here can do without.
pub fn context_is_empty(py: Python<'_>) -> bool {
    let context = current_context(py);
    // SAFETY: the context is alive (see `current_context`).
    context.is_null() || unsafe { crate::context::length(context) } == 0
}

/// Whether this thread is inside a garbage collection, where it must not leave its stack: the collector's
/// list heads are on it.
///
/// The interpreter only says that some thread collects. So `gc.callbacks` notes which one
/// ([`watch_collections`]), and when it has done: without the GIL another thread's collection says that it is under way
/// before it calls back, and this thread would take it for its own last one.
pub fn is_collecting_here(_py: Python<'_>) -> bool {
    // SAFETY: `_py` proves that the thread state is attached, which is all the shim needs.
    let collecting: c_int = unsafe { shim::penstock_collecting() };
    // Ordering: Relaxed, because a thread acts only on what it stored itself.
    collecting != 0 && COLLECTOR.load(Ordering::Relaxed) == this_thread()
}

/// Has [`collection_begins`] called first in each collection from now on, and [`collection_ends`] last. Calling it
/// twice does nothing.
///
/// First and last, because a callback outside of ours could wait, and its thread would not be known.
pub fn watch_collections(py: Python<'_>) -> PyResult<()> {
    static WATCHED: PyOnceLock<()> = PyOnceLock::new();
    WATCHED.get_or_try_init(py, || {
        let callbacks = py
            .import("gc")?
            .getattr("callbacks")?
            .cast_into::<PyList>()?;
        callbacks.insert(0, pyo3::wrap_pyfunction!(collection_begins, py)?)?;
        callbacks.append(pyo3::wrap_pyfunction!(collection_ends, py)?)
    })?;
    Ok(())
}

/// An entry of `gc.callbacks`.
#[pyfunction]
fn collection_begins(phase: &str, info: &Bound<'_, PyDict>) {
    if phase == "start" {
        // Ordering: Relaxed, because a thread acts only on what it stored itself.
        COLLECTOR.store(this_thread(), Ordering::Relaxed);
        if is_full(info) {
            crate::task::collection_begins();
        }
    }
}

/// An entry of `gc.callbacks`.
#[pyfunction]
fn collection_ends(phase: &str, info: &Bound<'_, PyDict>) {
    if phase == "stop" {
        if is_full(info) {
            crate::memory::age_idle_objects();
        }
        // Ordering: Relaxed, as above.
        COLLECTOR.store(0, Ordering::Relaxed);
        crate::boundary::collection_ends();
    }
}

/// Whether the collection looks at every object. Without the GIL each one does, whatever it says: those that begin by
/// themselves call themselves young.
fn is_full(info: &Bound<'_, PyDict>) -> bool {
    if cfg!(Py_GIL_DISABLED) {
        return true;
    }
    let generation = info.get_item(intern!(info.py(), "generation"));
    generation.is_ok_and(|found| {
        found.is_some_and(|number| number.extract::<u8>().is_ok_and(|number| number == 2))
    })
}

/// Whether this thread holds the lock of a module that is being imported, where it must not run other
/// tasks: the lock belongs to the thread, so another task would pass it and see half a module.
///
/// `importlib` forgets a module's lock when the import ends. So almost always this is the length of an
/// empty `dict`, and the answer is exact: a module executed without a lock (`runpy`, a bare
/// `Loader.exec_module`) is no import to anybody else. It runs Python code only where modules are being
/// imported now.
pub fn is_importing_here(py: Python<'_>) -> PyResult<bool> {
    let locks = MODULE_LOCKS.get_or_try_init(py, || {
        let bootstrap = py.import("_frozen_importlib")?;
        PyResult::Ok(
            bootstrap
                .getattr("_module_locks")?
                .cast_into::<PyDict>()?
                .unbind(),
        )
    })?;
    let locks = locks.bind(py);
    if locks.is_empty() {
        return Ok(false);
    }
    // A copy, because an import that ends on another thread takes its entry out meanwhile.
    for reference in locks.values() {
        let lock = reference.call0()?;
        // `None` is a lock that went meanwhile; an owner of `None` is a lock that nobody holds.
        let Ok(owner) = lock.getattr("owner") else {
            continue;
        };
        if !owner.is_none() && owner.extract::<usize>()? == this_thread() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether [`DeferredHold`] knows the frames of the running interpreter. Where not, fibers stay off: wheels
/// are built for 3.14, and a patch release is free to move what is in a frame.
pub fn frames_match(_py: Python<'_>) -> bool {
    #[cfg(Py_GIL_DISABLED)]
    {
        // SAFETY: it reads constants that the interpreter publishes.
        unsafe { shim::penstock_frames_match() != 0 }
    }
    #[cfg(not(Py_GIL_DISABLED))]
    true
}

/// How many references to `object` are counted, as far as this thread can see: a comparison of two readings tells
/// whether one was taken in between.
pub fn references_to(_py: Python<'_>, object: *mut PyObject) -> Py_ssize_t {
    // SAFETY: `_py` proves that the thread state is attached, and an argument is alive.
    unsafe { shim::penstock_references_to(object) }
}

/// Lets whoever drops the last reference to an exception free it, with its traceback and frames: see
/// [`disown`](crate::object::disown), which is for objects that nobody else knows yet.
#[cfg_attr(
    not(Py_GIL_DISABLED),
    expect(unused_variables, reason = "with the GIL anybody may")
)]
pub fn disown_exception(_py: Python<'_>, exception: *mut PyObject) {
    // SAFETY: `_py` proves that the thread state is attached, and an argument is an exception, alive.
    #[cfg(Py_GIL_DISABLED)]
    unsafe {
        shim::penstock_disown_exception(exception);
    }
}

/// `struct penstock_spot`: a place in code that runs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Spot {
    /// The code, a strong reference.
    pub code: *mut PyObject,
    /// How many bytes into its instructions.
    pub offset: c_int,
}

/// An object of `class` is gone, which was counted by `PyObject_New` or `PyObject_Init`.
///
/// # Safety
/// Attached; the object had a reference to the class, which is given up here.
#[inline]
pub unsafe fn uncount_object(class: *mut ffi::PyTypeObject) {
    // SAFETY: as promised by the caller.
    unsafe {
        #[cfg(Py_GIL_DISABLED)]
        shim::penstock_uncount_object(class);
        #[cfg(not(Py_GIL_DISABLED))]
        ffi::Py_DECREF(class.cast());
    }
}

/// Where the Python frames of this greenlet stand, the innermost first; says how many of `spots` it has filled.
pub fn calling_spots(_py: Python<'_>, spots: &mut [Spot]) -> usize {
    let room = c_int::try_from(spots.len()).unwrap_or(c_int::MAX);
    // SAFETY: `_py` proves that the thread state is attached, and there is room for as many.
    let filled = unsafe { shim::penstock_spots(spots.as_mut_ptr(), room) };
    usize::try_from(filled).unwrap_or(0)
}

/// The switch must not happen now: the call has to block its thread.
#[derive(Debug)]
pub struct CannotSwitch;

/// The strong references of a fiber to what only its stack refers to, and what the collector of a free-threaded
/// build would therefore take from under it (`interpreter.c` has the argument). With the GIL the stack's
/// references are counted, and this is nothing.
///
/// It belongs in the fiber's record on the heap. The order is: [`hold`](Self::hold), switch away, be switched
/// back to; then [`release`](Self::release) at once, or as late as the fiber's next park, its task's end
/// or a collection that this thread begins, whichever is first. Late is cheaper: a task that waits at one spot
/// again and again then writes no count at all.
///
/// A hub, and whoever else switches away with Python frames below, needs one too: its frames are as
/// invisible meanwhile as those of a fiber.
///
/// # Invariants
/// While its fiber is parked it holds what the fiber's frames refer to, and nobody changes it.
#[derive(Debug)]
pub struct DeferredHold {
    /// Null until the first park. Written by the fiber's thread only.
    #[cfg(Py_GIL_DISABLED)]
    block: *mut shim::Hold,
}

impl DeferredHold {
    pub const fn new() -> Self {
        Self {
            #[cfg(Py_GIL_DISABLED)]
            block: std::ptr::null_mut(),
        }
    }

    /// Holds what the frames of the running greenlet refer to, and no more of what it held before.
    ///
    /// On an error it holds nothing. No Python code may run between this and the switch.
    #[cfg_attr(
        not(Py_GIL_DISABLED),
        expect(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            reason = "only without the GIL"
        )
    )]
    pub fn hold(&mut self, _py: Python<'_>) -> Result<(), CannotSwitch> {
        #[cfg(Py_GIL_DISABLED)]
        // SAFETY: `_py` proves that the thread state is attached; `block` is null or came from this function.
        if unsafe { shim::penstock_hold_deferred(&raw mut self.block) } < 0 {
            return Err(CannotSwitch);
        }
        Ok(())
    }

    /// Holds nothing any more; keeps the memory for the next park.
    #[cfg_attr(
        not(Py_GIL_DISABLED),
        expect(clippy::unused_self, reason = "only without the GIL")
    )]
    pub fn release(&mut self, _py: Python<'_>) {
        #[cfg(Py_GIL_DISABLED)]
        // SAFETY: `_py` proves that the thread state is attached; `block` is null or from `hold`.
        unsafe {
            shim::penstock_drop_deferred(self.block);
        }
    }
}

/// Gives the memory back. What is still held then stays alive for good, as a fiber that is dropped while it is
/// parked is leaked with its stack: here may be no thread state to let go of objects with.
#[cfg(Py_GIL_DISABLED)]
impl Drop for DeferredHold {
    fn drop(&mut self) {
        // SAFETY: `block` is null or from `hold`, and nothing has it after this.
        unsafe { shim::penstock_free_hold(self.block) }
    }
}

/// An error in any interpreter of the process but the main one. Called first by the module's import; releases that
/// refuse on their own account never get there.
pub fn refuse_subinterpreters() -> PyResult<()> {
    // SAFETY: attached, because a module is being imported.
    let number = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if number == 0 {
        return Ok(());
    }
    Err(PyImportError::new_err(
        "penstock does not support subinterpreters: import it in the main interpreter, whose tasks share one runtime",
    ))
}

/// What `threading.get_ident()` gives here.
fn this_thread() -> usize {
    // SAFETY: it has no precondition.
    unsafe { shim::penstock_this_thread() }
}

/// What can be told of a callable at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    Plain,
    Coroutine,
    /// `inspect.iscoroutinefunction` has to say.
    Unknown,
}

/// Whether `callable` is a plain or an `async def` function.
#[inline]
pub fn function_kind(_py: Python<'_>, callable: *mut PyObject) -> FunctionKind {
    // SAFETY: `_py` proves that the thread state is attached, and an argument is alive.
    match unsafe { shim::penstock_function_kind(callable) } {
        0 => FunctionKind::Plain,
        1 => FunctionKind::Coroutine,
        _ => FunctionKind::Unknown,
    }
}

/// Whether this thread is inside code of the `logging` package, whose handlers' locks belong to the thread: another
/// task on it would pass them and write into the middle of a record.
pub fn is_logging_here(py: Python<'_>) -> PyResult<bool> {
    static LOGGING_FILE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let file = if let Some(file) = LOGGING_FILE.get(py) {
        file
    } else {
        let Some(logging) = imported(py, intern!(py, "logging"))? else {
            return Ok(false);
        };
        // It is being imported, or is no more what it was: then there is no handler yet.
        let Ok(handle) = logging
            .getattr("Handler")
            .and_then(|class| class.getattr("handle"))
        else {
            return Ok(false);
        };
        let file = handle.getattr("__code__")?.getattr("co_filename")?.unbind();
        LOGGING_FILE.get_or_init(py, || file)
    };
    // SAFETY: `py` proves that the thread state is attached, and the string is kept alive above.
    Ok(unsafe { shim::penstock_runs_in_file(file.as_ptr()) } != 0)
}

/// The module of this name if anybody has imported it: a look into `sys.modules`, no import.
pub fn imported<'py>(
    py: Python<'py>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let modules = MODULES.get_or_try_init(py, || {
        let modules = py.import("sys")?.getattr("modules")?;
        PyResult::Ok(modules.cast_into::<PyDict>()?.unbind())
    })?;
    modules.bind(py).get_item(name)
}
