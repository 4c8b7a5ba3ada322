//! What is known of one event loop, and how a burst of wake-ups gets into it by one call.
//!
//! A thread that wakes a coroutine puts its waiter in the loop's [`Burst`]; the first one has the loop call
//! [`drain`](Home::drain), which resumes all who are there by then. Where the thread is the loop's own and one of the
//! loop's tasks is in its step there, it resumes them at once: the loop is not asleep, so there is no need to write to the
//! pipe that wakes it. (Asking for the thread alone would not do: a signal handler runs on it while the loop sleeps.)
//!
//! A loop is found by its address, and known by a weak reference: it may be gone when a peer wakes who waited in it.
//! trio has a token for each of its runs, which is treated as a loop is.
//!
//! # A closed loop
//! It takes no calls, and drops those that it has not made. Whoever notices (the waker whose call is refused, or who
//! drops the last reference to a call) buries the burst: each call in it is abandoned, so that a value handed over goes to somebody else.
//! That may wake others of the same loop, in place of a recursion as deep as there are waiters one thread at a time does
//! it, and goes round again for what was put in meanwhile.

use std::{
    collections::HashMap,
    ffi::CStr,
    ptr,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
};

use penstock_core::wait::{Burst, Link};
use pyo3::{
    ffi,
    prelude::*,
    types::{PyWeakrefMethods, PyWeakrefReference},
};

use super::{Library, waiter::LoopWaiter};
use crate::{
    boundary,
    error::put_aside,
    hot::Definition,
    object::{self, Object},
    runtime, unwind,
};

pub struct Home {
    pub library: Library,
    /// A weak reference to the loop, or to trio's token.
    target: Object,
    burst: Burst,
    /// A thread is burying the burst.
    buries: AtomicBool,
    /// The thread on which a coroutine of the loop waited last: elsewhere none of its tasks is in a step, but for the first
    /// after a move. Written by that thread, read by wakers.
    thread: AtomicUsize,
}

/// By address. An entry outlives its loop until others come.
static HOMES: LazyLock<Mutex<HashMap<usize, Arc<Home>>>> = LazyLock::new(Mutex::default);

/// Calls `change` under the lock. It runs no Python code and drops no home.
fn with_homes<R>(change: impl FnOnce(&mut HashMap<usize, Arc<Home>>) -> R) -> R {
    change(&mut HOMES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// In a forked child: only one of the parent's threads is there, and who waited in its loop was forgotten by everybody.
pub fn forget_homes() {
    std::mem::forget(with_homes(std::mem::take));
}

/// Tells threads apart, and costs no call.
fn this_thread() -> usize {
    thread_local! {
        static HERE: u8 = const { 0 };
    }
    HERE.with(|here| ptr::from_ref(here).addr())
}

impl Home {
    /// The home of a loop that runs on this thread.
    pub fn of(library: Library, target: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        let key = target.as_ptr().addr();
        let known = with_homes(|homes| homes.get(&key).cloned());
        let home = match known {
            Some(home) if home.target(target.py()).is_some_and(|one| one.is(target)) => home,
            _ => Self::new(library, target)?,
        };
        home.thread.store(this_thread(), Ordering::Relaxed); // Ordering: Relaxed, see `thread`: a hint.
        Ok(home)
    }

    #[cold]
    fn new(library: Library, target: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        library.functions(target.py())?; // so that a waker finds them
        let weak = PyWeakrefReference::new(target)?;
        let home = Arc::new(Self {
            library,
            // SAFETY: a strong reference, given away.
            target: unsafe { Object::steal(weak.into_ptr()) },
            burst: Burst::default(),
            buries: AtomicBool::new(false),
            thread: AtomicUsize::new(0),
        });
        // Outside the lock: what is dead is asked of the interpreter.
        let mut known: Vec<_> = with_homes(|homes| homes.values().cloned().collect());
        known.retain(|home| home.target(target.py()).is_none());
        let gone: Vec<_> = with_homes(|homes| {
            let before = homes.insert(target.as_ptr().addr(), Arc::clone(&home));
            let is_dead = |home: &Arc<Home>| known.iter().any(|dead| Arc::ptr_eq(dead, home));
            before
                .into_iter()
                .chain(
                    homes
                        .extract_if(|_, home| is_dead(home))
                        .map(|(_, home)| home),
                )
                .collect()
        });
        drop(gone);
        Ok(home)
    }

    /// The loop, while there is one.
    pub fn target<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        // SAFETY: a weak reference, alive as long as this.
        let weak = unsafe {
            self.target
                .as_py()
                .bind(py)
                .cast_unchecked::<PyWeakrefReference>()
        };
        weak.upgrade()
    }

    /// Puts a waiter in the burst, and sees to it that the loop resumes it. Called by any thread, attached or not.
    ///
    /// # Safety
    /// `this` is alive; `link` is that of a [`LoopWaiter`] whose reference is given away here. A thread may be ended in
    /// here: nothing with a destructor is alive that has to run.
    pub unsafe fn wake(this: *const Self, link: ptr::NonNull<Link>) {
        // SAFETY: by the caller's promise; whoever takes it has the reference that keeps it where it is.
        unsafe {
            let first = (*this).burst.push(link);
            if ffi::PyGILState_Check() != 0 {
                Self::call(Python::assume_attached(), this, first);
            } else if first && !runtime::is_over() {
                let state = unwind::PyGILState_Ensure();
                Self::call(Python::assume_attached(), this, first);
                ffi::PyGILState_Release(state);
            }
        }
    }

    /// # Safety
    /// As for [`wake`](Self::wake), attached.
    unsafe fn call(py: Python<'_>, this: *const Self, first: bool) {
        // SAFETY: by the caller's promise.
        let thread = unsafe { (*this).thread.load(Ordering::Relaxed) }; // Ordering: Relaxed, see `thread`.
        let may_step_here = thread == this_thread();
        if !first && !may_step_here {
            return;
        }
        let aside = put_aside(py);
        // SAFETY: by the caller's promise.
        unsafe {
            let steps_here = may_step_here && Self::steps_here(py, this);
            let raised = put_aside(py);
            if steps_here {
                if !Self::drain(py, this) {
                    report_later();
                }
            } else if first {
                Self::have_it_drained(py, this);
            }
            raised.restore(py);
        }
        report_later();
        aside.restore(py);
    }

    /// # Safety
    /// As for [`call`](Self::call).
    unsafe fn steps_here(py: Python<'_>, this: *const Self) -> bool {
        // SAFETY: by the caller's promise; the functions are never freed.
        unsafe {
            let Some(target) = (*this).target(py).map(Bound::into_ptr) else {
                return false;
            };
            let Ok(functions) = (*this).library.functions(py) else {
                ffi::PyErr_Clear();
                return false;
            };
            let answer = unwind::call(functions.steps_here.as_ptr(), [target]);
            if answer.is_null() {
                return false; // an exception is set
            }
            ffi::Py_DECREF(answer);
            answer == ffi::Py_True()
        }
    }

    /// Has the loop call [`drain`](Self::drain).
    ///
    /// # Safety
    /// As for [`call`](Self::call).
    unsafe fn have_it_drained(py: Python<'_>, this: *const Self) {
        /// An exception may come in between (a signal handler's), after the loop has taken the call or before: so it is
        /// made again.
        const ATTEMPTS: usize = 10;
        let mut raised = None;
        let mut taken = false;
        // SAFETY: by the caller's promise; the functions are never freed.
        unsafe {
            for _ in 0..ATTEMPTS {
                let Some(target) = (*this).target(py).map(Bound::into_ptr) else {
                    break;
                };
                let Ok(functions) = (*this).library.functions(py) else {
                    ffi::PyErr_Clear();
                    ffi::Py_DECREF(target);
                    break;
                };
                let drain = new_drain(py, this);
                let call = if drain.is_null() {
                    ptr::null_mut()
                } else {
                    ffi::PyCFunction_NewEx(DRAIN.get(), drain, ptr::null_mut())
                };
                let called = unwind::call(functions.call.as_ptr(), [target, call]);
                taken = called == ffi::Py_True();
                if taken {
                    object::get::<Drain>(drain)
                        .state
                        .store(TAKEN, Ordering::Relaxed); // Ordering: Relaxed, see `state`.
                }
                ffi::Py_XDECREF(drain);
                if !called.is_null() {
                    ffi::Py_DECREF(called);
                    break;
                }
                // Not passed on before the call was made: it would come up in the next one.
                let error = put_aside(py);
                if raised.is_none() {
                    raised = Some(error);
                } else {
                    error.discard();
                }
            }
            if !taken {
                (*this).bury(py);
            }
        }
        if let Some(error) = raised {
            error.restore(py);
            report_later();
        }
    }

    /// Resumes everybody in the burst. `false`: an exception is set, and everybody was resumed all the same.
    ///
    /// # Safety
    /// As for [`call`](Self::call), on the loop's thread.
    unsafe fn drain(py: Python<'_>, this: *const Self) -> bool {
        let mut raised = None;
        // SAFETY: by the caller's promise.
        for link in unsafe { (*this).burst.take() } {
            // SAFETY: what is in a burst is a waiter's, with a reference that is now ours.
            let resumed = unsafe {
                let waiter = LoopWaiter::of_link(link);
                let resumed = LoopWaiter::resume(py, waiter);
                drop(Arc::from_raw(waiter));
                resumed
            };
            if !resumed {
                let error = put_aside(py);
                if raised.is_none() {
                    raised = Some(error);
                } else {
                    error.discard();
                }
            }
        }
        raised.is_none_or(|error| {
            error.restore(py);
            false
        })
    }

    /// Abandons the calls of all who are in the burst: the loop will resume nobody any more.
    fn bury(&self, py: Python<'_>) {
        loop {
            // Ordering: SeqCst. Who comes puts itself in, then looks whether somebody buries; who has buried says so,
            // then looks whether somebody has come.
            if self.buries.swap(true, Ordering::SeqCst) {
                return;
            }
            let mut found = false;
            for link in self.burst.take() {
                found = true;
                // SAFETY: as in `drain`.
                let waiter = unsafe { Arc::from_raw(LoopWaiter::of_link(link)) };
                waiter.abandon_woken(py);
            }
            self.buries.store(false, Ordering::SeqCst); // Ordering: SeqCst, as above.
            if !found {
                return;
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // SAFETY: asking is always allowed.
        if unsafe { ffi::PyGILState_Check() } == 0 {
            // Leaked: a weak reference, and there is no thread state to let go of it with.
            // SAFETY: `target` is not used after this.
            std::mem::forget(unsafe { ptr::read(&raw const self.target) });
        }
    }
}

/// Passes the exception that is set, if one is, on to where it can be raised: a peer was served by the call in which it
/// came up.
fn report_later() {
    // SAFETY: attached, as every caller is.
    if unsafe { ffi::PyErr_Occurred() }.is_null() {
        return;
    }
    if boundary::is_main_thread() {
        boundary::raise_later();
    } else {
        // SAFETY: attached.
        unsafe { ffi::PyErr_WriteUnraisable(ptr::null_mut()) };
    }
}

/// The call of a loop that drains a burst. A loop drops what it has not called when it is closed: then the call is
/// made anew, which finds that out.
#[pyclass(frozen, module = "penstock._core", name = "_Drain")]
struct Drain {
    home: Arc<Home>,
    /// Written by who gives the call to the loop, while it has a reference, and by the loop; read by who drops it.
    state: AtomicU8,
}

const NEW: u8 = 0;
const TAKEN: u8 = 1;
const MADE: u8 = 2;

impl Drop for Drain {
    fn drop(&mut self) {
        // Ordering: Relaxed, whoever drops it has the last reference.
        if self.state.load(Ordering::Relaxed) == TAKEN {
            // SAFETY: objects are dropped by attached threads.
            let py = unsafe { Python::assume_attached() };
            let aside = put_aside(py);
            // SAFETY: alive here.
            unsafe { Home::have_it_drained(py, Arc::as_ptr(&self.home)) };
            aside.restore(py);
        }
    }
}

const DRAIN_DOC: &CStr = c"Resumes the coroutines that penstock has woken.";

// A raw entry: below it runs code of the loop, where a thread may be ended.
static DRAIN: Definition = Definition::no_args(c"resume_woken", drain, DRAIN_DOC);

/// A [`Drain`]; null with an exception set if there is no memory for it.
///
/// # Safety
/// `home` is alive.
unsafe fn new_drain(py: Python<'_>, home: *const Home) -> *mut ffi::PyObject {
    // SAFETY: alive, and in an `Arc`, as all homes are.
    let home = unsafe {
        Arc::increment_strong_count(home);
        Arc::from_raw(home)
    };
    let state = AtomicU8::new(NEW);
    match Py::new(py, Drain { home, state }) {
        Ok(drain) => drain.into_ptr(),
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    }
}

unsafe extern "C-unwind" fn drain(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, on a `Drain`, which is frozen and outlives the call.
    unsafe {
        let py = Python::assume_attached();
        let this = ptr::from_ref(object::get::<Drain>(this));
        (*this).state.store(MADE, Ordering::Relaxed); // Ordering: Relaxed, see `state`.
        if Home::drain(py, Arc::as_ptr(&(*this).home)) {
            ffi::Py_NewRef(ffi::Py_None())
        } else {
            ptr::null_mut()
        }
    }
}
