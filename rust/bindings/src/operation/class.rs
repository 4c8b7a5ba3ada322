//! The class of operations, and where their objects come from.
//!
//! One is made for every `await`, so it has to cost little: the class is made by hand, objects are reused, and the
//! garbage collector does not see one that waits in a task of ours (the task holds itself meanwhile, so nothing
//! there can be garbage). In an event loop it does: a loop that is closed leaves cycles behind.
//!
//! From 3.12 on the interpreter asks an awaited object by `tp_iternext`, so a result comes as a `StopIteration`, of which
//! it takes the value out at once. The exception is then as good as new, and is raised again.

use std::{
    cell::{Cell, UnsafeCell},
    ffi::{c_int, c_ulong, c_void},
    mem::{MaybeUninit, offset_of},
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

use penstock_core::wait::Entry;
use pyo3::{
    exceptions::PyRuntimeError,
    ffi::{self, PySendResult},
    prelude::*,
};

use super::{Operation, Room, State, Step, Then, What};
use crate::{
    convert::parse,
    error::{Raised, put_aside, raise},
    hot::Definition,
    object::Object,
};

#[repr(C)]
struct OperationObject {
    head: ffi::PyObject,
    operation: Operation,
    entry: UnsafeCell<MaybeUninit<Entry<Object>>>,
}

/// How many objects may wait to be used again.
const FREE_MAX: usize = 64;

/// What is used again. With the GIL, which guards it, there is one of these; without it, one for each thread.
struct Spare {
    /// The first of the objects, linked through `subject`.
    first: Cell<*mut OperationObject>,
    count: Cell<usize>,
    /// The exception raised last, a strong reference, or null; see [`stop_with`].
    #[cfg(Py_3_12)]
    stop: Cell<*mut ffi::PyStopIterationObject>,
}

impl Spare {
    const fn new() -> Self {
        Self {
            first: Cell::new(ptr::null_mut()),
            count: Cell::new(0),
            #[cfg(Py_3_12)]
            stop: Cell::new(ptr::null_mut()),
        }
    }
}

#[cfg(not(Py_GIL_DISABLED))]
static SPARE: Static<Spare> = Static(UnsafeCell::new(Spare::new()));
#[cfg(Py_GIL_DISABLED)]
thread_local! {
    static SPARE: Static<Spare> = const { Static(UnsafeCell::new(Spare::new())) };
}

/// # Safety
/// Attached, and this thread stays so while the result lives.
#[inline]
unsafe fn spare<'a>() -> &'a Spare {
    #[cfg(not(Py_GIL_DISABLED))]
    let spare = &SPARE;
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: a constant without a destructor, which lives as long as the thread.
    let spare = SPARE.with(|spare| unsafe { &*ptr::from_ref(spare) });
    // SAFETY: there is no other access than by shared references, of one thread at a time.
    unsafe { &*spare.0.get() }
}

/// What CPython writes to: once at import, and reference counts, which are immortal; and [`Spare`].
struct Static<T>(UnsafeCell<T>);

// SAFETY: see the type.
unsafe impl<T> Sync for Static<T> {}

// SAFETY: both are plain C structs, to which all zeros say "nothing here".
static CLASS: Static<ffi::PyTypeObject> = Static(UnsafeCell::new(unsafe { std::mem::zeroed() }));
// SAFETY: as above.
static SLOTS: Static<ffi::PyAsyncMethods> = Static(UnsafeCell::new(unsafe { std::mem::zeroed() }));

/// An empty tuple. Written once, during the module's import.
static NO_ARGUMENTS: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// Makes the class. Called once, by the module's import.
pub fn load(py: Python<'_>) -> PyResult<()> {
    // SAFETY: attached; nobody knows the class yet. A static class lives as long as the process.
    unsafe {
        let slots = SLOTS.0.get();
        (*slots).am_await = Some(ffi::PyObject_SelfIter);
        (*slots).am_send = Some(std::mem::transmute::<*mut c_void, ffi::sendfunc>(
            send as *mut c_void,
        ));
        let class = CLASS.0.get();
        (*class).ob_base.ob_base = ffi::PyObject_HEAD_INIT;
        (*class).tp_name = c"penstock._core._Operation".as_ptr();
        (*class).tp_basicsize = size_of::<OperationObject>().cast_signed();
        // An atomic without the GIL, of the same size.
        let flags = (&raw mut (*class).tp_flags).cast::<c_ulong>();
        flags.write(
            ffi::Py_TPFLAGS_DEFAULT
                | ffi::Py_TPFLAGS_HAVE_GC
                | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION
                | ffi::Py_TPFLAGS_IMMUTABLETYPE,
        );
        (*class).tp_dealloc = Some(dealloc);
        (*class).tp_traverse = Some(traverse);
        (*class).tp_clear = Some(clear);
        (*class).tp_iter = Some(ffi::PyObject_SelfIter);
        // "C" and "C-unwind" differ only in what an unwind through them does, and the caller is C.
        (*class).tp_iternext = Some(std::mem::transmute::<*mut c_void, ffi::iternextfunc>(
            next as *mut c_void,
        ));
        (*class).tp_as_async = slots;
        (*class).tp_methods = METHODS[0].get();
        if ffi::PyType_Ready(class) < 0 {
            return Err(PyErr::fetch(py));
        }
        NO_ARGUMENTS.store(ffi::PyTuple_New(0), Relaxed); // Ordering: Relaxed, during the import.
    }
    Ok(())
}

/// The operation in `object`, if it is one.
///
/// # Safety
/// `object` is alive, and nobody is in a step of it meanwhile.
pub unsafe fn operation_of<'a>(object: *mut ffi::PyObject) -> Option<&'a Operation> {
    // SAFETY: alive, and of our class.
    unsafe {
        (ffi::Py_TYPE(object) == CLASS.0.get())
            .then(|| &(*object.cast::<OperationObject>()).operation)
    }
}

/// Makes an object; null with an exception set if there is no memory.
///
/// # Safety
/// Attached.
#[inline]
pub unsafe fn new(operation: Operation) -> *mut ffi::PyObject {
    // SAFETY: an object of the class that is not tracked and has no operation yet: fresh, or off the list.
    unsafe {
        let spare = spare();
        let mut object = spare.first.get();
        if object.is_null() {
            object = ffi::PyObject_GC_New::<OperationObject>(CLASS.0.get());
            if object.is_null() {
                drop(operation);
                return ptr::null_mut();
            }
        } else {
            spare.first.set((*object).operation.subject.cast());
            spare.count.set(spare.count.get() - 1);
            // With the GIL all that it has lost since is its one reference.
            #[cfg(not(Py_GIL_DISABLED))]
            ffi::Py_INCREF(object.cast());
            #[cfg(Py_GIL_DISABLED)]
            ffi::PyObject_Init(object.cast(), CLASS.0.get());
        }
        (&raw mut (*object).entry).expose_provenance();
        (&raw mut (*object).operation).write(operation);
        object.cast()
    }
}

/// The room for an entry in the object that `operation` is in. Beside it, because a peer may be at the entry while the
/// owner's step has the operation borrowed.
#[inline]
pub fn room_beside(operation: &Operation) -> Room {
    const DISTANCE: usize =
        offset_of!(OperationObject, entry) - offset_of!(OperationObject, operation);
    let room = ptr::from_ref(operation).addr() + DISTANCE;
    // The reference reaches no further than the operation, so this goes by what `new` exposed.
    NonNull::new(ptr::with_exposed_provenance_mut(room)).expect("in an object")
}

/// # Safety
/// `object` is an operation.
unsafe fn operation<'a>(object: *mut ffi::PyObject) -> &'a mut Operation {
    // SAFETY: by the caller's promise.
    unsafe { &mut (*object.cast::<OperationObject>()).operation }
}

/// # Safety
/// Attached, in the step of whoever awaits it.
unsafe fn step(object: *mut ffi::PyObject, argument: *mut ffi::PyObject) -> Result<Step, Raised> {
    // SAFETY: called by CPython on an operation.
    unsafe {
        let this = operation(object);
        let py = Python::assume_attached();
        let stepped = this.step(py, argument);
        end_step(object);
        if stepped.is_err() && ffi::PyErr_ExceptionMatches(ffi::PyExc_StopIteration) != 0 {
            return Err(refuse_stop_iteration(py));
        }
        stepped
    }
}

/// Has the collector look at an operation that waits in an event loop, and lets go of what one that is over keeps: now, not
/// with the object, which somebody may keep, or which is left to the thread that made it (see `object::disown`).
///
/// # Safety
/// Attached; `object` is an operation.
#[inline]
unsafe fn end_step(object: *mut ffi::PyObject) {
    // SAFETY: by the caller's promise.
    unsafe {
        let this = operation(object);
        match this.state {
            State::Over => match this.what {
                What::Send(_) | What::Recv { .. } => ffi::Py_CLEAR(&raw mut this.subject),
                What::Pending(_) => this.what = What::Yield,
                _ => {}
            },
            State::InLoop(_) | State::Delegated(..) if ffi::PyObject_GC_IsTracked(object) == 0 => {
                ffi::PyObject_GC_Track(object.cast());
            }
            _ => {}
        }
    }
}

// What the abstract class `Coroutine` has: a loop makes tasks of such objects.
static METHODS: [Definition; 4] = [
    Definition::one_arg(
        c"send",
        send_method,
        c"send($self, value, /)\n--\n\nStep it.",
    ),
    Definition::fast(
        c"throw",
        throw_method,
        c"throw($self, error, /)\n--\n\nRaise an exception where it waits.",
    ),
    Definition::no_args(
        c"close",
        close_method,
        c"close($self, /)\n--\n\nGive it up.",
    ),
    Definition::end(),
];

/// The result of a step that is called as a method: every end is an exception.
///
/// # Safety
/// Attached.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it gives the references away"
)]
unsafe fn as_method(stepped: Result<Step, Raised>) -> *mut ffi::PyObject {
    match stepped {
        Ok(Step::GiveUp(value)) => value,
        Ok(Step::Return(value)) => {
            // SAFETY: attached; the reference is given away.
            unsafe {
                if value == ffi::Py_None() {
                    ffi::Py_DECREF(value);
                    ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
                } else {
                    stop_with(value);
                }
            }
            ptr::null_mut()
        }
        Err(Raised) => ptr::null_mut(),
    }
}

unsafe extern "C-unwind" fn send_method(
    object: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an operation, attached.
    unsafe { as_method(step(object, argument)) }
}

/// `throw(error)`, or the older `throw(class, error=None, traceback=None)`.
unsafe extern "C-unwind" fn throw_method(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an operation, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let names = ["error", "value", "traceback"];
        let Ok([class, value, _]) = parse(py, "throw", names, 1, arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let thrown = if value.is_null() || value == ffi::Py_None() {
            class
        } else {
            value
        };
        // `from_value` makes an instance of a class, and a `TypeError` of what is no exception.
        let error = PyErr::from_value(Bound::from_borrowed_ptr(py, thrown));
        let stepped = operation(object).throw(py, error);
        end_step(object);
        as_method(stepped)
    }
}

unsafe extern "C-unwind" fn close_method(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an operation, attached.
    unsafe {
        operation(object).abandon();
        ffi::Py_NewRef(ffi::Py_None())
    }
}

/// A `StopIteration` that a task raised would look like the end of the `await`, with its value for the result. As
/// where a coroutine raises one itself (PEP 479), it becomes the cause of a `RuntimeError`.
#[cold]
fn refuse_stop_iteration(py: Python<'_>) -> Raised {
    let error = PyRuntimeError::new_err("what was awaited raised StopIteration");
    error.set_cause(py, PyErr::take(py));
    raise(py, error)
}

unsafe extern "C-unwind" fn send(
    object: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> PySendResult {
    // SAFETY: called by CPython on an operation, attached.
    unsafe {
        let (value, sent) = match step(object, argument) {
            Ok(Step::Return(value)) => (value, PySendResult::PYGEN_RETURN),
            Ok(Step::GiveUp(value)) => (value, PySendResult::PYGEN_NEXT),
            Err(Raised) => (ptr::null_mut(), PySendResult::PYGEN_ERROR),
        };
        *result = value;
        sent
    }
}

unsafe extern "C-unwind" fn next(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an operation, attached.
    unsafe {
        match step(object, ffi::Py_None()) {
            Ok(Step::GiveUp(value)) => value,
            Ok(Step::Return(value)) => {
                stop_with(value);
                ptr::null_mut()
            }
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// Passes `value` on as the end of an iteration. `None` needs no exception.
///
/// # Safety
/// Attached; `value` is a strong reference, given away here.
#[cfg(Py_3_12)]
unsafe fn stop_with(value: *mut ffi::PyObject) {
    // SAFETY: attached; the exception is ours alone until it is set.
    unsafe {
        if value == ffi::Py_None() {
            ffi::Py_DECREF(value);
            return;
        }
        let spare = spare();
        let mut stop = spare.stop.get();
        if !stop.is_null() && is_as_new(stop) {
            ffi::Py_INCREF(stop.cast());
        } else {
            // By the class's own `new`, without the arguments that nobody reads: a third of the cost of a call.
            let class = ffi::PyExc_StopIteration.cast::<ffi::PyTypeObject>();
            let make = (*class).tp_new.expect("exceptions are made by `new`");
            // Ordering: Relaxed, see `load`.
            stop = make(class, NO_ARGUMENTS.load(Relaxed), ptr::null_mut()).cast();
            if stop.is_null() {
                ffi::Py_DECREF(value);
                return;
            }
            ffi::Py_CLEAR(&raw mut (*stop).value);
            ffi::Py_INCREF(stop.cast());
            ffi::Py_XDECREF(spare.stop.replace(stop).cast());
        }
        (*stop).value = value;
        ffi::PyErr_SetRaisedException(stop.cast());
    }
}

/// Whether nobody else has kept the exception, or left a trace in it.
///
/// # Safety
/// Attached; `stop` is alive.
#[cfg(Py_3_12)]
unsafe fn is_as_new(stop: *mut ffi::PyStopIterationObject) -> bool {
    // SAFETY: alive; with a count of one these fields have no other user.
    unsafe {
        ffi::Py_REFCNT(stop.cast()) == 1
            && (*stop).value.is_null()
            && (*stop).traceback.is_null()
            && (*stop).context.is_null()
            && (*stop).cause.is_null()
            && (*stop).notes.is_null()
            && (*stop).dict.is_null()
    }
}

/// Lets go of the value that the exception raised last has brought to who awaited.
///
/// # Safety
/// Attached, and the operation is over, or the step in which it was.
#[inline]
pub unsafe fn clear_stop() {
    #[cfg(Py_3_12)]
    // SAFETY: the exception is null, or alive; whoever else refers to it may want the value.
    unsafe {
        let stop = spare().stop.get();
        if !stop.is_null() && !(*stop).value.is_null() && ffi::Py_REFCNT(stop.cast()) == 1 {
            ffi::Py_CLEAR(&raw mut (*stop).value);
        }
    }
}

/// # Safety
/// As above.
#[cfg(not(Py_3_12))]
unsafe fn stop_with(value: *mut ffi::PyObject) {
    // SAFETY: attached.
    unsafe {
        if value != ffi::Py_None() {
            let is_taken_for_arguments =
                ffi::PyTuple_Check(value) != 0 || ffi::PyExceptionInstance_Check(value) != 0;
            if is_taken_for_arguments {
                let stop = ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, value);
                if !stop.is_null() {
                    ffi::PyErr_SetObject(ffi::PyExc_StopIteration, stop);
                    ffi::Py_DECREF(stop);
                }
            } else {
                ffi::PyErr_SetObject(ffi::PyExc_StopIteration, value); // becomes an instance if somebody looks
            }
        }
        ffi::Py_DECREF(value);
    }
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: called by the collector on an operation, with the world stopped.
    unsafe {
        let this = operation(object);
        let value = match &this.what {
            What::Send(Some(value)) => value.as_ptr(),
            _ => ptr::null_mut(),
        };
        let mut stop = 0;
        let mut show = |pointer: *mut ffi::PyObject| {
            if !pointer.is_null() && stop == 0 {
                stop = visit(pointer, argument);
            }
        };
        for pointer in [this.subject, value] {
            show(pointer);
        }
        match &this.state {
            State::InLoop(wait) => wait.traverse(&mut show),
            State::Delegated(iterator, then) => {
                show(iterator.as_ptr());
                if let Then::Give(value) = then {
                    show(value.as_ptr());
                }
            }
            _ => {}
        }
        if let What::Pending(pending) = &this.what {
            pending.traverse(&mut show);
        }
        stop
    }
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: called by the collector on an unreachable operation, attached.
    unsafe {
        let this = operation(object);
        this.abandon();
        this.what = What::Yield;
        ffi::Py_CLEAR(&raw mut this.subject);
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on an operation that nobody refers to, attached.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = operation(object);
        // A call that was made goes on although its wait is over.
        if !matches!(this.state, State::Over) || matches!(this.what, What::Call) {
            let py = Python::assume_attached();
            let aside = put_aside(py);
            this.abandon();
            aside.restore(py);
        }
        // What has a destructor: the rest of it is in `state`, which is over.
        ptr::drop_in_place(&raw mut this.what);
        ffi::Py_XDECREF(this.subject);
        clear_stop();
        let spare = spare();
        if spare.count.get() == FREE_MAX {
            ffi::PyObject_GC_Del(object.cast());
            return;
        }
        // INVARIANT: what is on the list has no operation, but for the link in `subject`.
        let object = object.cast::<OperationObject>();
        (&raw mut (*object).operation.subject).write(spare.first.replace(object).cast());
        spare.count.set(spare.count.get() + 1);
    }
}
