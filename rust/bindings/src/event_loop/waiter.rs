//! A coroutine of an event loop, as the core's waiter.
//!
//! One is made for each wait, and never armed again: a wake that comes late (the coroutine was cancelled at that moment) then
//! finds nobody to resume, and disturbs no later wait.
//!
//! The call that waits is in here, so that a thread which finds the loop closed can abandon it. Who takes it out, finishes
//! or abandons it: the coroutine in its step, whoever drops that, or such a thread.

use std::{
    mem::offset_of,
    ptr::{self, NonNull},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicPtr, Ordering},
    },
};

use penstock_core::wait::{Epoch, Link, Outcome, Waiter, WaiterClass, WaiterRef, fork};
use pyo3::{ffi, intern, prelude::*, sync::PyOnceLock};

use super::{Library, function, home::Home};
use crate::{object::Object, pending::Pending, unwind};

#[repr(C)]
pub struct LoopWaiter {
    /// First field, so that the waiter's address is this struct's.
    waiter: Waiter,
    /// In the burst of its home.
    link: Link,
    home: Arc<Home>,
    /// What resumes the coroutine: asyncio's future, or trio's task. A strong reference, or null once somebody has taken it
    /// to resume the coroutine, or because that does not wait any more.
    sleeper: AtomicPtr<ffi::PyObject>,
    /// Locked for a line without Python code.
    call: Mutex<Option<Call>>,
    /// What it waits on shows the sleeper to the collector, as what keeps it alive. Elsewhere nobody does, and a coroutine
    /// that waits is never garbage.
    is_shown: bool,
    /// In a forked child those of the parent's were forgotten by all.
    generation: u32,
}

/// The call of a wait.
pub struct Call {
    pub epoch: Epoch,
    pub pending: Box<dyn Pending>,
}

static CLASS: WaiterClass = WaiterClass {
    retain: |waiter| {
        // SAFETY: the waiter is the first field of a `LoopWaiter` that an `Arc` holds.
        unsafe { Arc::increment_strong_count(waiter.cast::<LoopWaiter>().as_ptr()) };
    },
    release: |waiter| {
        // SAFETY: as above; gives up the caller's reference.
        unsafe { Arc::decrement_strong_count(waiter.cast::<LoopWaiter>().as_ptr()) };
    },
    wake: |waiter| {
        let this = waiter.cast::<LoopWaiter>().as_ptr();
        // SAFETY: as above; the claim's reference goes into the burst. From there on the waiter may be gone at any moment, so
        // its home is held; by a pointer, because a thread may be ended in the call.
        unsafe {
            let home = Arc::into_raw(Arc::clone(&(*this).home));
            Home::wake(home, NonNull::new_unchecked(&raw mut (*this).link));
            drop(Arc::from_raw(home));
        }
    },
};

impl LoopWaiter {
    /// `sleeper` resumes the coroutine.
    pub fn new(home: &Arc<Home>, sleeper: &Bound<'_, PyAny>, is_shown: bool) -> Arc<Self> {
        Arc::new(Self {
            waiter: Waiter::new(&CLASS),
            link: Link::default(),
            home: Arc::clone(home),
            sleeper: AtomicPtr::new(sleeper.clone().into_ptr()),
            call: Mutex::new(None),
            is_shown,
            generation: fork::generation(),
        })
    }

    pub fn waiter_ref(self: &Arc<Self>) -> WaiterRef {
        // SAFETY: embedded as its class expects, and alive; the pointer is to the whole struct.
        unsafe { WaiterRef::retain(NonNull::from(&**self).cast()) }
    }

    /// The waiter around the link of a burst.
    ///
    /// # Safety
    /// It is the link of one.
    pub unsafe fn of_link(link: NonNull<Link>) -> *const Self {
        // SAFETY: by the caller's promise.
        unsafe { link.as_ptr().byte_sub(offset_of!(Self, link)).cast() }
    }

    fn with_call<R>(&self, change: impl FnOnce(&mut Option<Call>) -> R) -> R {
        change(&mut self.call.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The wait was begun: from here on the call is for who takes it.
    pub fn put_call(&self, call: Call) {
        let before = self.with_call(|place| place.replace(call));
        debug_assert!(before.is_none(), "a waiter is for one wait");
    }

    /// The call, if nobody else has taken it. Then nobody resumes the coroutine any more.
    pub fn take_call(&self) -> Option<Call> {
        let call = self.with_call(Option::take)?;
        if self.generation != fork::generation() {
            // Its entries are in lists that have been forgotten, with neighbours that are not there.
            std::mem::forget(call);
            return None;
        }
        drop(self.take_sleeper());
        Some(call)
    }

    /// What resumes the coroutine, if nobody else has taken it. Attached.
    pub fn take_sleeper(&self) -> Option<Object> {
        // Ordering: AcqRel, an exchange of ownership; what the owner of the object did before is in order.
        let sleeper = self.sleeper.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: a strong reference, which is taken out once.
        (!sleeper.is_null()).then(|| unsafe { Object::steal(sleeper) })
    }

    /// How the wait has ended. Where it has not it is taken back, or its claim is waited for.
    pub fn settle(&self, epoch: Epoch, ended_by: Outcome) -> Outcome {
        loop {
            if let Some(outcome) = self.waiter.outcome(epoch) {
                return outcome;
            }
            if self.waiter.disarm(epoch, ended_by) {
                return ended_by;
            }
            // Claimed: the claimer needs nothing of ours, and ends the wait in a few instructions.
            std::hint::spin_loop();
        }
    }

    /// Takes the wait back, if nobody has ended it.
    pub fn disarm(&self, epoch: Epoch, outcome: Outcome) -> bool {
        self.waiter.disarm(epoch, outcome)
    }

    /// The coroutine will never be resumed, and a peer has ended its wait: what that handed over goes to somebody else.
    pub fn abandon_woken(&self, py: Python<'_>) {
        if let Some(mut call) = self.take_call() {
            let outcome = self.settle(call.epoch, Outcome::Interrupted);
            call.pending.abandon(py, outcome);
        }
    }

    /// Resumes the coroutine, unless it does not wait any more. `false`: an exception is set.
    ///
    /// # Safety
    /// Attached, on the thread of the loop; `this` is alive. A thread may be ended in here.
    pub unsafe fn resume(py: Python<'_>, this: *const Self) -> bool {
        // SAFETY: alive, by the caller's promise.
        let (sleeper, library) = unsafe {
            let this = &*this;
            (this.take_sleeper(), this.home.library)
        };
        let Some(sleeper) = sleeper.map(Object::into_ptr) else {
            return true;
        };
        // SAFETY: attached; the reference is ours, and nothing with a destructor is alive in the calls.
        unsafe {
            let resumed = match library {
                Library::Asyncio => set_result(py, sleeper),
                Library::Trio => reschedule(py, sleeper),
            };
            ffi::Py_DECREF(sleeper);
            resumed
        }
    }

    /// Shows the collector what the call keeps alive. The world is stopped.
    pub fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        // A thread that stopped while it has the lock has the call, too.
        if let Ok(call) = self.call.try_lock()
            && let Some(call) = &*call
        {
            call.pending.traverse(visit);
        }
    }
}

impl Drop for LoopWaiter {
    fn drop(&mut self) {
        // SAFETY: asking is always allowed. Without a thread state the reference is leaked.
        if unsafe { ffi::PyGILState_Check() } != 0 {
            drop(self.take_sleeper());
        }
    }
}

/// Ends asyncio's future, unless it was cancelled.
///
/// # Safety
/// Attached, on the loop's thread, with nothing alive that has a destructor.
unsafe fn set_result(py: Python<'_>, future: *mut ffi::PyObject) -> bool {
    // SAFETY: attached; the future is alive.
    unsafe {
        let done = unwind::PyObject_VectorcallMethod(
            intern!(py, "done").as_ptr(),
            &raw const future,
            1,
            ptr::null_mut(),
        );
        if done.is_null() {
            return false;
        }
        ffi::Py_DECREF(done);
        if done == ffi::Py_True() {
            return true;
        }
        let arguments = [future, ffi::Py_None()];
        let set = unwind::PyObject_VectorcallMethod(
            intern!(py, "set_result").as_ptr(),
            arguments.as_ptr(),
            2,
            ptr::null_mut(),
        );
        ffi::Py_XDECREF(set);
        !set.is_null()
    }
}

/// Resumes trio's task, which waits to be.
///
/// # Safety
/// As for [`set_result`].
unsafe fn reschedule(py: Python<'_>, task: *mut ffi::PyObject) -> bool {
    static RESCHEDULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let reschedule = match RESCHEDULE.get_or_try_init(py, || function(py, "reschedule_in_trio")) {
        Ok(reschedule) => reschedule.as_ptr(),
        Err(error) => {
            error.restore(py);
            return false;
        }
    };
    // SAFETY: attached; the task is alive.
    unsafe {
        let done = unwind::PyObject_CallOneArg(reschedule, task);
        ffi::Py_XDECREF(done);
        !done.is_null()
    }
}

/// Shows the collector what resumes the coroutine behind `waiter`, for the one entry that this has somewhere: as long as
/// what it waits on is alive, the coroutine is.
pub fn show_sleeper(waiter: &WaiterRef, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
    if waiter.is_of(&CLASS) {
        let this: *const LoopWaiter = ptr::from_ref::<Waiter>(waiter).cast();
        // SAFETY: the class says what it is, and the world is stopped.
        let (is_shown, sleeper) =
            unsafe { ((*this).is_shown, (*this).sleeper.load(Ordering::Relaxed)) }; // Ordering: Relaxed, as above.
        if is_shown && !sleeper.is_null() {
            visit(sleeper);
        }
    }
}
