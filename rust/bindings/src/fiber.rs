//! greenlet's C API, and the rules of a moving stack.
//!
//! A loop of the scheduler runs in a greenlet; when its task parks, that greenlet stays behind. While it
//! does, its C stack is elsewhere, so nothing that another thread or fiber can reach may live on it: waiters
//! and entries are on the heap, no lock or borrow is held, and no frame between the park point and the loop
//! has a destructor to run (a thread may also be ended by a forced unwind, up to 3.13).
//!
//! A new loop is started from the *hub*, the greenlet at the base of the thread: started from the park point
//! it would inherit the recursion depth and the C stack of the parked task (the prototype died of
//! that at 332 parked tasks).
//!
//! The park point records the greenlet that is current, and the resume switches to that one: a task may park
//! inside a greenlet of its own making.

use std::{
    cell::Cell,
    ffi::c_void,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering},
};

use penstock_core::scheduler::{Machine, Stack};
use pyo3::{
    exceptions::{PyImportError, PyRuntimeError},
    ffi,
    prelude::*,
};

use crate::{
    boundary::Wait,
    context::{Base, Snapshot},
    error::raise,
    hot::Definition,
    interpreter::{self, DeferredHold},
};

/// Places in greenlet's table of functions (its `greenlet.h`).
const NEW: usize = 3;
const GET_CURRENT: usize = 4;
const SWITCH: usize = 6;

static API: AtomicPtr<*mut c_void> = AtomicPtr::new(ptr::null_mut());
/// The builtin that a loop's greenlet runs.
static LOOP: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

type NewGreenlet = unsafe extern "C-unwind" fn(
    run: *mut ffi::PyObject,
    parent: *mut ffi::PyObject,
) -> *mut ffi::PyObject;
type GetCurrent = unsafe extern "C-unwind" fn() -> *mut ffi::PyObject;
type Switch = unsafe extern "C-unwind" fn(
    greenlet: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// # Safety
/// `F` is the type of the function at `place` in greenlet's table, which [`load`] has found.
#[inline]
unsafe fn function<F: Copy>(place: usize) -> F {
    // Ordering: Relaxed, written once during the module's import.
    let table = API.load(Ordering::Relaxed);
    debug_assert!(!table.is_null());
    // SAFETY: the table has 12 entries, all function or object pointers; the type is the caller's promise.
    unsafe { *table.add(place).cast::<F>() }
}

/// Finds greenlet's C API. Called once, by the module's import.
pub fn load(py: Python<'_>) -> PyResult<()> {
    let greenlet = py.import("greenlet._greenlet")?;
    if cfg!(Py_GIL_DISABLED) {
        // As a thread ends it looks for leaked references to the greenlet at its base, and has none itself meanwhile:
        // where another thread drops the last one, that is freed under its hands (greenlet 3.5.6).
        greenlet.call_method1("enable_optional_cleanup", (false,))?;
    }
    // SAFETY: attached; the name is that of greenlet's capsule.
    let table = unsafe { ffi::PyCapsule_Import(c"greenlet._C_API".as_ptr(), 0) };
    if table.is_null() {
        return Err(
            PyErr::take(py).unwrap_or_else(|| PyImportError::new_err("greenlet has no C API"))
        );
    }
    // Ordering: Relaxed, during the import.
    API.store(table.cast(), Ordering::Relaxed);
    // SAFETY: the definition is static.
    let entry = unsafe { ffi::PyCFunction_New(LOOP_DEFINITION.get(), ptr::null_mut()) };
    if entry.is_null() {
        return Err(PyErr::fetch(py));
    }
    LOOP.store(entry, Ordering::Relaxed); // Ordering: Relaxed, as above.
    Ok(())
}

static LOOP_DEFINITION: Definition =
    Definition::no_args(c"_loop", loop_entry, c"Runs tasks until its thread ends.");

/// What the bindings keep for each stack.
pub struct StackState {
    /// The greenlet to resume: the loop's own, or one that the task made and parked in. Null with thread parking.
    greenlet: *mut ffi::PyObject,
    /// What its task waits for, while it is parked.
    pub wait: Wait,
    /// Deferred references of the parked frames (free-threaded builds; see `interpreter.c`).
    hold: DeferredHold,
    /// The context that tasks without one of their own run in.
    pub base: Base,
    /// The context of the tasks that its task makes.
    pub snapshot: Snapshot,
}

impl Default for StackState {
    fn default() -> Self {
        Self {
            greenlet: ptr::null_mut(),
            wait: Wait::default(),
            hold: DeferredHold::new(),
            base: Base::default(),
            snapshot: Snapshot::default(),
        }
    }
}

impl StackState {
    /// The greenlet in which its task is parked, borrowed; null with thread parking.
    pub fn greenlet(&self) -> *mut ffi::PyObject {
        self.greenlet
    }

    /// Prepares the running task to leave its stack. `false`: it must not now.
    pub fn hold(&mut self, py: Python<'_>, fibers: bool) -> bool {
        !fibers || self.hold.hold(py).is_ok()
    }

    /// The task is on its stack again.
    pub fn release(&mut self, py: Python<'_>) {
        self.hold.release(py);
    }
}

/// Makes a stack for `machine`, and makes it the current one.
fn new_stack_of(machine: &'static Machine) -> NonNull<Stack> {
    let stack = Stack::new(machine);
    stack
        .host
        .set(Box::into_raw(Box::<StackState>::default()).cast());
    let stack = NonNull::from(Box::leak(stack));
    machine.add_stack(stack);
    machine.set_current_stack(stack);
    stack
}

/// The bindings' part of `stack`. Its thread only; the reference must not outlive a line.
///
/// # Safety
/// `stack` was made by [`new_stack_of`], and the caller is on its machine's thread.
#[expect(
    clippy::mut_from_ref,
    reason = "one thread, and no reference outlives a line"
)]
pub unsafe fn state(stack: &Stack) -> &mut StackState {
    // SAFETY: set once by `new_stack_of`, freed with the stack.
    unsafe { &mut *stack.host.get().cast::<StackState>() }
}

/// # Safety
/// Nothing runs or is parked on `stack` any more.
unsafe fn free_stack(stack: NonNull<Stack>) {
    // SAFETY: made by `new_stack_of`, and unused, by the caller's promise.
    unsafe {
        stack.as_ref().machine.remove_stack(stack);
        let mut state = Box::from_raw(stack.as_ref().host.get().cast::<StackState>());
        state.base.leave();
        state.snapshot.clear();
        ffi::Py_CLEAR(&raw mut state.greenlet);
        drop(Box::from_raw(stack.as_ptr()));
    }
}

thread_local! {
    /// The greenlet at the base of this thread. Borrowed: the thread's main greenlet lives as long as it.
    static HUB: Cell<*mut ffi::PyObject> = const { Cell::new(ptr::null_mut()) };
    /// Why the hub is entered: the loop that it is to start, or else the one that has returned.
    static STARTS: Cell<*mut Stack> = const { Cell::new(ptr::null_mut()) };
    static RETURNED: Cell<*mut Stack> = const { Cell::new(ptr::null_mut()) };
}

/// The host's `switch`.
///
/// # Safety
/// See `Host::switch`.
pub unsafe fn switch(from: NonNull<Stack>, to: NonNull<Stack>) -> bool {
    // SAFETY: both are stacks of this thread.
    let target = unsafe { state(to.as_ref()).greenlet };
    // SAFETY: `from` is the stack that runs.
    unsafe { leave(state(from.as_ref()), target) }
}

/// The host's `new_stack`.
///
/// # Safety
/// See `Host::new_stack`.
pub unsafe fn new_stack(from: NonNull<Stack>) -> bool {
    // SAFETY: `from` is the stack that runs; the hub waits at the base of this thread. The loop is made here, where
    // somebody can be told that there is no memory for it.
    unsafe {
        let Some(stack) = new_loop(from.as_ref().machine) else {
            from.as_ref().machine.set_current_stack(from);
            return false;
        };
        STARTS.set(stack.as_ptr());
        let back = leave(state(from.as_ref()), HUB.get());
        if STARTS.get() == stack.as_ptr() {
            // No memory to leave with: the hub has not run.
            STARTS.set(ptr::null_mut());
            free_stack(stack);
            from.as_ref().machine.set_current_stack(from);
        }
        back
    }
}

/// Leaves the stack of `from` for the greenlet `target`, until somebody switches back.
///
/// # Safety
/// `from` is of the stack that runs, on the heap, and stays there; `target` is a greenlet of this thread.
#[inline]
unsafe fn leave(from: *mut StackState, target: *mut ffi::PyObject) -> bool {
    // SAFETY: on this thread, attached, with greenlet loaded. What is written to the stack's state is read on this
    // thread only. Nothing with a destructor is alive across the switch.
    unsafe {
        let here = function::<GetCurrent>(GET_CURRENT)();
        let old = std::mem::replace(&mut (*from).greenlet, here);
        ffi::Py_XDECREF(old);
        let result = function::<Switch>(SWITCH)(target, ptr::null_mut(), ptr::null_mut());
        if result.is_null() {
            return false;
        }
        ffi::Py_DECREF(result);
        true
    }
}

/// `_leave_for(greenlet)`: a park without a task, for the self-test at start (`penstock._parking`).
///
/// It holds, leaves and releases by the functions that a park uses, in their order.
unsafe extern "C-unwind" fn leave_for(
    _: *mut ffi::PyObject,
    target: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached; greenlet raises where `target` is no greenlet of this thread. The state
    // is on the heap and referred to by pointer, so nothing with a destructor is alive across the switch.
    unsafe {
        let py = Python::assume_attached();
        let state = Box::into_raw(Box::<StackState>::default());
        let mut back = false;
        if (*state).hold(py, true) {
            back = leave(state, target);
            (*state).release(py);
        } else {
            raise(py, PyRuntimeError::new_err("the stack cannot be left now"));
        }
        ffi::Py_CLEAR(&raw mut (*state).greenlet);
        drop(Box::from_raw(state));
        if back {
            ffi::Py_NewRef(ffi::Py_None())
        } else {
            ptr::null_mut()
        }
    }
}

/// `_references_to(object)`: how many the interpreter counts, as far as this thread can see.
unsafe extern "C-unwind" fn references_to(
    _: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with an argument that is alive.
    unsafe {
        ffi::PyLong_FromSsize_t(interpreter::references_to(
            Python::assume_attached(),
            object,
        ))
    }
}

pub static FUNCTIONS: [Definition; 2] = [
    Definition::one_arg(
        c"_leave_for",
        leave_for,
        c"_leave_for(greenlet, /)\n--\n\nParks without a task: leaves this stack for that of the greenlet.",
    ),
    Definition::one_arg(
        c"_references_to",
        references_to,
        c"_references_to(object, /)\n--\n\nHow many references to it are counted, as far as this thread sees.",
    ),
];

/// Runs a loop in its greenlet. A raw entry, because a forced unwind may pass through.
unsafe extern "C-unwind" fn loop_entry(
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let machine = Machine::current().expect("a loop runs on a machine's thread");
    // SAFETY: on the machine's thread, attached, on the stack that the hub named.
    unsafe {
        machine.work();
        let stack = machine.current_stack();
        RETURNED.set(stack.map_or(ptr::null_mut(), |stack| ptr::from_ref(stack).cast_mut()));
        ffi::Py_NewRef(ffi::Py_None())
    }
}

/// The body of a machine's thread. `false`: it is a second one of the same machine, and has done nothing.
///
/// # Safety
/// Called attached, on a thread that was started for `machine`. A forced unwind may pass through.
pub unsafe fn run_machine(machine: &'static Machine) -> bool {
    if !machine.enter() {
        return false;
    }
    // SAFETY: attached, on the machine's thread.
    unsafe {
        if machine.fibers() {
            run_hub(machine);
        } else {
            let stack = new_stack_of(machine);
            machine.work();
            state(stack.as_ref()).base.exit();
            free_stack(stack);
        }
    }
    machine.leave();
    true
}

/// The base of a thread with fibers: starts its loops.
///
/// # Safety
/// Attached, on the machine's thread. A forced unwind may pass through.
unsafe fn run_hub(machine: &'static Machine) {
    // SAFETY: attached, greenlet is loaded; the main greenlet of a thread outlives what runs on it.
    unsafe {
        let hub = function::<GetCurrent>(GET_CURRENT)();
        HUB.set(hub);
        ffi::Py_DECREF(hub);
    }
    // The hub's own frames (the thread's bootstrap) are out of the collector's sight while a loop runs. They do not
    // change, so one hold does for the life of the thread.
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let mut frames = DeferredHold::new();
    let first = match frames.hold(py) {
        // SAFETY: attached, on the machine's thread.
        Ok(()) => unsafe { new_loop(machine) },
        Err(_) => None,
    };
    if first.is_none() {
        // SAFETY: attached; the error is set, or there is none to show.
        unsafe { ffi::PyErr_WriteUnraisable(ptr::null_mut()) };
        machine.give_up_start(); // no memory: the thread ends before it has taken anything
    }
    let mut next = first;
    while let Some(stack) = next.take() {
        // SAFETY: a loop that was just made, or waits.
        if !unsafe { enter_loop(stack) } {
            break;
        }
        next = NonNull::new(STARTS.replace(ptr::null_mut()));
        if next.is_some() {
            continue;
        }
        let Some(returned) = NonNull::new(RETURNED.replace(ptr::null_mut())) else {
            break;
        };
        // SAFETY: its loop has returned; each idle one does at once when it is resumed now, and its greenlet ends.
        unsafe {
            free_stack(returned);
            while let Some(idle) = machine.take_idle_stack() {
                machine.set_current_stack(idle);
                if !enter_loop(idle) {
                    break;
                }
                RETURNED.set(ptr::null_mut());
                free_stack(idle);
            }
        }
        next = machine.take_next_loop();
        if let Some(stack) = next {
            machine.set_current_stack(stack);
        }
    }
    frames.release(py);
}

/// Makes a loop for `machine`, and makes its stack the current one. `None`: there is no memory for it, and an exception
/// is set.
///
/// # Safety
/// Attached, on the machine's thread.
unsafe fn new_loop(machine: &'static Machine) -> Option<NonNull<Stack>> {
    let stack = new_stack_of(machine);
    // SAFETY: attached; the new greenlet's parent is the hub, which is where it ends.
    unsafe {
        let run = LOOP.load(Ordering::Relaxed); // Ordering: Relaxed, written during the import.
        let greenlet = function::<NewGreenlet>(NEW)(run, HUB.get());
        if greenlet.is_null() {
            free_stack(stack);
            return None;
        }
        state(stack.as_ref()).greenlet = greenlet;
    }
    Some(stack)
}

/// Switches from the hub to a loop, until something switches to the hub. `false`: an exception came instead, which is
/// shown.
///
/// # Safety
/// Called by the hub; `stack` has a greenlet.
unsafe fn enter_loop(stack: NonNull<Stack>) -> bool {
    // SAFETY: on this thread, attached.
    unsafe {
        let target = state(stack.as_ref()).greenlet;
        let result = function::<Switch>(SWITCH)(target, ptr::null_mut(), ptr::null_mut());
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(target);
            return false;
        }
        ffi::Py_DECREF(result);
        true
    }
}
