//! The one place where a call waits: parks a task, or blocks a thread with the interpreter released.
//!
//! A waiting entry has four steps: [`Caller::here`] says who waits (or why it may not), the core's `begin`
//! arms the caller's waiter and leaves an entry, [`Caller::wait`] sleeps until the wait has ended, the core's
//! `finish` says what came of it. Across [`Caller::wait`] the entry holds nothing with a destructor: a fiber's
//! stack moves, and a thread may be ended there by a forced unwind.
//!
//! The main thread sleeps in slices and runs Python's signal handlers after each, because the kernel may
//! have given the signal to another thread.

use std::{
    cell::Cell,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
    time::{Duration, Instant},
};

use penstock_core::{
    park::Parker,
    scheduler::{Machine, Stack},
    wait::{Epoch, Outcome, Waiter, WaiterClass, WaiterRef},
};
use pyo3::{exceptions::PyRuntimeError, ffi, prelude::*};

use crate::{
    deadlock, debug,
    error::{Failure, Raised, raise},
    event_loop, fiber, interpreter,
    interrupt::{Interrupts, earlier},
    task::{Kind, TaskObject},
    tracer, unwind,
};

/// How long the main thread sleeps at most before it looks for signals.
const SIGNAL_SLICE: Duration = Duration::from_millis(50);

/// A thread that is no machine of ours, or a task's that must not leave its stack now.
#[repr(C)]
pub struct ThreadWaiter {
    /// First field, so that the waiter's address is this struct's.
    waiter: Waiter,
    parker: Parker,
    pub interrupts: Interrupts,
}

static THREAD_CLASS: WaiterClass = WaiterClass {
    retain: |waiter| {
        // SAFETY: the waiter is the first field of a `ThreadWaiter` that an `Arc` holds.
        unsafe { Arc::increment_strong_count(waiter.cast::<ThreadWaiter>().as_ptr()) };
    },
    release: |waiter| {
        // SAFETY: as above; gives up the caller's reference.
        unsafe { Arc::decrement_strong_count(waiter.cast::<ThreadWaiter>().as_ptr()) };
    },
    wake: |waiter| {
        // SAFETY: as above; consumes the claim's reference.
        unsafe { Arc::from_raw(waiter.cast::<ThreadWaiter>().as_ptr()) }
            .parker
            .unpark();
    },
};

thread_local! {
    static THREAD: Cell<*const ThreadWaiter> = const { Cell::new(std::ptr::null()) };
    static THREAD_OWNER: Owner = const { Owner };
}

/// Lets go of the thread's waiter when the thread ends.
struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        let waiter = THREAD.replace(std::ptr::null());
        if !waiter.is_null() {
            // SAFETY: made by `Arc::into_raw` in `ThreadWaiter::here`.
            drop(unsafe { Arc::from_raw(waiter) });
        }
    }
}

impl ThreadWaiter {
    /// The calling thread's own; it lives as long as the thread.
    pub fn here() -> &'static Self {
        let mut waiter = THREAD.get();
        if waiter.is_null() {
            waiter = Arc::into_raw(Arc::new(ThreadWaiter {
                waiter: Waiter::new(&THREAD_CLASS),
                parker: Parker::default(),
                interrupts: Interrupts::default(),
            }));
            THREAD.set(waiter);
            THREAD_OWNER.with(|_| ());
        }
        // SAFETY: alive until the thread's end, and the callers of this are calls on the thread.
        unsafe { &*waiter }
    }

    /// A reference that outlives the thread.
    pub fn shared(&self) -> Arc<Self> {
        // SAFETY: made by `Arc::into_raw`, and alive.
        unsafe {
            Arc::increment_strong_count(std::ptr::from_ref(self));
            Arc::from_raw(std::ptr::from_ref(self))
        }
    }

    pub fn waiter_ref(&self) -> WaiterRef {
        // SAFETY: embedded as its class expects, and alive.
        unsafe { WaiterRef::retain(NonNull::from(&self.waiter)) }
    }
}

/// In a forked child: the thread's waiter was its parent's. The deadlines that the forking task or thread is in hold for
/// the child's thread.
///
/// `forked` is the task, if one forked.
pub fn forget_thread(forked: Option<NonNull<TaskObject>>) {
    let thread = THREAD.replace(std::ptr::null());
    // SAFETY: the task runs on, as a call of this thread. The thread's waiter stays behind, alive.
    let interrupts = unsafe {
        match forked {
            Some(task) => Some(task.as_ref().interrupts()),
            None => thread.as_ref().map(|thread| &thread.interrupts),
        }
    };
    let here = ThreadWaiter::here();
    if let Some(interrupts) = interrupts {
        here.interrupts.adopt(interrupts);
    }
    // Ordering: Relaxed, the process has a single thread. The reference is never given back: scopes point there.
    FORKED.store(Arc::into_raw(here.shared()).cast_mut(), Ordering::Relaxed);
}

/// In a forked child: the waiter of its main thread, or null.
static FORKED: AtomicPtr<ThreadWaiter> = AtomicPtr::new(std::ptr::null_mut());

/// The main thread of a forked child, which goes on in the scopes that its parent's task or thread was in. `None` in a
/// process that was not forked.
pub fn forked_thread() -> Option<&'static ThreadWaiter> {
    // Ordering: Relaxed, see `forget_thread`: other threads were started later.
    // SAFETY: null or never freed.
    unsafe { FORKED.load(Ordering::Relaxed).as_ref() }
}

/// What is waited for: a call, on an object that it keeps alive or on none.
#[derive(Clone, Copy)]
pub struct Wait {
    pub call: &'static str,
    pub subject: *mut ffi::PyObject,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            call: "",
            subject: std::ptr::null_mut(),
        }
    }
}

/// Who waits.
#[derive(Clone, Copy)]
pub enum Caller {
    /// A plain task, which parks. Alive during its own calls.
    Task {
        machine: &'static Machine,
        task: NonNull<TaskObject>,
        stack: NonNull<Stack>,
    },
    /// A thread, which blocks.
    Thread(&'static ThreadWaiter, Wait),
    /// A task that must not leave its stack now, and so blocks its thread.
    Blocked {
        task: NonNull<TaskObject>,
        thread: &'static ThreadWaiter,
    },
}

impl Caller {
    /// Who calls, and may wait here. `awaitable` names the form that a coroutine has to use instead.
    ///
    /// Each caller that is made is also [`done`](Self::done) with.
    pub fn here(py: Python<'_>, call: &'static str, awaitable: &str) -> Result<Self, Raised> {
        let wait = Wait {
            call,
            ..Wait::default()
        };
        let Some((machine, task, stack)) = running_task() else {
            return Ok(Caller::Thread(ThreadWaiter::here(), wait));
        };
        // Who only happens to run the collector, an import or a log handler is not to blame for what that waits for.
        let must_block = must_block_thread(py)?;
        if !must_block {
            // SAFETY: it runs on this very stack, so it is alive.
            refuse_to_park(py, unsafe { task.as_ref() }, call, awaitable)?;
        }
        let may_park = !must_block && {
            // SAFETY: it runs on this very stack, so it is alive.
            debug::look_at_locks(py, unsafe { task.as_ref() }, call)?;
            // SAFETY: on the stack's thread.
            let state = unsafe { fiber::state(stack.as_ref()) };
            state.wait = wait;
            state.hold(py, machine.fibers())
        };
        if !may_park {
            let thread = ThreadWaiter::here();
            // SAFETY: alive, as above.
            unsafe { task.as_ref() }
                .interrupts()
                .block(thread.waiter_ref());
            return Ok(Caller::Blocked { task, thread });
        }
        // SAFETY: alive, as above.
        unsafe { task.as_ref() }.core().set_stack(stack.as_ptr());
        Ok(Caller::Task {
            machine,
            task,
            stack,
        })
    }

    /// Says what it waits for: an argument of the call.
    pub fn on(mut self, subject: *mut ffi::PyObject) -> Self {
        match &mut self {
            Caller::Task { stack, .. } => {
                // SAFETY: on the stack's thread.
                unsafe { fiber::state(stack.as_ref()) }.wait.subject = subject;
            }
            Caller::Thread(_, wait) => wait.subject = subject,
            Caller::Blocked { .. } => {} // nobody asks while a worker is kept
        }
        self
    }

    /// The waiter that the core's `begin` arms.
    pub fn waiter_ref(&self) -> WaiterRef {
        match self {
            // SAFETY: alive during its own call, and its waiter is embedded as its class expects.
            Caller::Task { task, .. } => unsafe {
                WaiterRef::retain(NonNull::from(task.as_ref().core().waiter()))
            },
            Caller::Thread(thread, _) | Caller::Blocked { thread, .. } => thread.waiter_ref(),
        }
    }

    fn waiter(&self) -> &Waiter {
        match self {
            // SAFETY: alive during its own call.
            Caller::Task { task, .. } => unsafe { task.as_ref() }.core().waiter(),
            Caller::Thread(thread, _) | Caller::Blocked { thread, .. } => &thread.waiter,
        }
    }

    fn task(&self) -> Option<&TaskObject> {
        match self {
            Caller::Task { task, .. } | Caller::Blocked { task, .. } => {
                // SAFETY: alive during its own call.
                Some(unsafe { task.as_ref() })
            }
            Caller::Thread(..) => None,
        }
    }

    fn interrupts(&self) -> &Interrupts {
        match self {
            Caller::Task { task, .. } | Caller::Blocked { task, .. } => {
                // SAFETY: alive during its own call.
                unsafe { task.as_ref() }.interrupts()
            }
            Caller::Thread(thread, _) => &thread.interrupts,
        }
    }

    /// Whether it is in a deadline, which will end the next wait.
    pub fn has_deadline(&self) -> bool {
        self.interrupts().limit(None).is_some()
    }

    /// Whether somebody wants to interrupt the next wait.
    #[inline]
    pub fn interrupt_pending(&self) -> bool {
        match self.task() {
            Some(task) => task.interrupt_pending(),
            None => self.interrupts().pending(),
        }
    }

    /// Sleeps until the wait `epoch`, which the core began for this caller, has ended.
    ///
    /// `deadline` is that of the call. Where one that the caller is in comes first, this raises it.
    ///
    /// # Safety
    /// Attached, and nothing with a destructor is alive in the frames up to the raw entry.
    pub unsafe fn wait(&self, epoch: Epoch, deadline: Option<Instant>) -> Result<Outcome, Raised> {
        if self.interrupt_pending() && self.waiter().disarm(epoch, Outcome::Interrupted) {
            return Ok(Outcome::Interrupted);
        }
        let limit = self.interrupts().limit(deadline);
        // SAFETY: as for this function.
        let ended = unsafe { self.sleep(epoch, limit) }?;
        if ended == Outcome::TimedOut {
            // SAFETY: attached, by the caller's promise.
            let py = unsafe { Python::assume_attached() };
            if let Some(raised) = self.interrupts().raise_expired(py, deadline) {
                return Err(raised);
            }
        }
        Ok(ended)
    }

    /// # Safety
    /// As for [`Caller::wait`](Self::wait).
    unsafe fn sleep(&self, epoch: Epoch, deadline: Option<Instant>) -> Result<Outcome, Raised> {
        match *self {
            Caller::Task {
                machine,
                task,
                stack,
            } => {
                if let Some(deadline) = deadline {
                    machine
                        .scheduler
                        .set_timer(deadline, self.waiter_ref(), epoch);
                }
                // SAFETY: in the task, whose waiter is armed for this stack; the frames are the caller's promise.
                unsafe { park(machine, task, stack, epoch) }
            }
            // SAFETY: attached; the frames are the caller's promise.
            Caller::Thread(thread, wait) => unsafe { block(thread, wait, epoch, deadline) },
            Caller::Blocked { thread, .. } => {
                // SAFETY: as above.
                unsafe { block(thread, Wait::default(), epoch, deadline) }
            }
        }
    }

    /// Lets others run first, after raising what interrupts the caller.
    ///
    /// # Safety
    /// As for [`Caller::wait`](Self::wait), with no wait begun.
    pub unsafe fn give_up_turn(&self) -> Result<(), Raised> {
        // SAFETY: attached, by the caller's promise.
        let py = unsafe { Python::assume_attached() };
        if self.interrupt_pending() {
            return Err(self.raise_interrupt(py));
        }
        if let Some(raised) = self.interrupts().raise_passed(py) {
            return Err(raised);
        }
        match self {
            Caller::Task { machine, .. } => {
                // SAFETY: in the task, on its machine's thread; the frames are the caller's promise.
                let resumed = unsafe { machine.yield_now() };
                if !resumed {
                    return Err(Raised);
                }
                // SAFETY: as above.
                unsafe { tracer::task_goes_on(py) };
                Ok(())
            }
            Caller::Thread(..) | Caller::Blocked { .. } => {
                // SAFETY: attached; a forced unwind out of the re-attachment meets no destructor.
                unsafe {
                    let state = ffi::PyEval_SaveThread();
                    std::thread::yield_now();
                    unwind::PyEval_RestoreThread(state);
                    if unwind::PyErr_CheckSignals() < 0 {
                        return Err(Raised);
                    }
                }
                Ok(())
            }
        }
    }

    /// The call is over, with or without a wait.
    pub fn done(&self, py: Python<'_>) {
        match self {
            // SAFETY: on the stack's thread.
            Caller::Task { stack, .. } => unsafe { fiber::state(stack.as_ref()) }.release(py),
            Caller::Blocked { .. } => self.interrupts().unblock(),
            Caller::Thread(..) => {}
        }
    }

    /// Raises what interrupted the wait.
    pub fn raise_interrupt(&self, py: Python<'_>) -> Raised {
        // SAFETY: an error indicator may be read while attached.
        if !unsafe { ffi::PyErr_Occurred() }.is_null() {
            return Raised; // a signal handler's, or thrown into the greenlet
        }
        raise_interrupt(py, self.task().map(TaskObject::core), self.interrupts())
    }
}

/// Raises the cancellation that is pending: one of a scope, or the task's own.
pub fn raise_interrupt(
    py: Python<'_>,
    core: Option<&penstock_core::task::Task>,
    interrupts: &Interrupts,
) -> Raised {
    if core.is_some_and(penstock_core::task::Task::take_cancel) {
        interrupts.cancelled(py);
        return Failure::Cancelled.raise(py, "the task was cancelled");
    }
    interrupts.raise(py)
}

/// A garbage collection on this thread has ended: what interrupted a wait inside it is raised again at the next one.
pub fn collection_ends() {
    if let Some((_, task, _)) = running_task() {
        // SAFETY: it runs on this very stack, so it is alive.
        let task = unsafe { task.as_ref() };
        if task.interrupts().restore() {
            task.core().keep_cancel();
        }
    } else {
        // SAFETY: null, or alive until the thread's end.
        let thread = unsafe { THREAD.get().as_ref() };
        let is_task = thread.is_some_and(|thread| thread.interrupts.restore());
        debug_assert!(!is_task, "a thread is not cancelled");
    }
}

/// The task that runs on this thread now, with its machine and stack.
#[inline]
pub fn running_task() -> Option<(&'static Machine, NonNull<TaskObject>, NonNull<Stack>)> {
    let machine = Machine::current()?;
    let stack = machine.current_stack()?;
    let task = NonNull::new(stack.task.get().cast_mut())?;
    Some((machine, TaskObject::of_core(task), NonNull::from(stack)))
}

/// # Safety
/// See [`Caller::wait`].
unsafe fn park(
    machine: &'static Machine,
    task: NonNull<TaskObject>,
    stack: NonNull<Stack>,
    epoch: Epoch,
) -> Result<Outcome, Raised> {
    loop {
        // SAFETY: in the task, whose waiter is armed for this stack; the frames are the caller's promise.
        let resumed = unsafe { machine.park() };
        // SAFETY: it is parked here, so it is alive.
        let waiter = unsafe { task.as_ref() }.core().waiter();
        if resumed {
            if let Some(outcome) = waiter.outcome(epoch) {
                // SAFETY: in the task, attached; the frames are the caller's promise.
                unsafe { tracer::task_goes_on(Python::assume_attached()) };
                return Ok(outcome);
            }
            continue; // somebody else switched to the greenlet
        }
        // An exception was thrown into the greenlet. It ends the wait, unless a peer has already: then the
        // outcome counts, or an item would be lost, and the exception comes with the next statement.
        if waiter.disarm(epoch, Outcome::Interrupted) {
            return Err(Raised);
        }
        machine.take_back(stack);
        raise_later();
        while waiter.outcome(epoch).is_none() {
            std::hint::spin_loop();
        }
        if let Some(outcome) = waiter.outcome(epoch) {
            return Ok(outcome);
        }
    }
}

/// # Safety
/// Attached; nothing with a destructor is alive in the frames up to the raw entry.
unsafe fn block(
    thread: &'static ThreadWaiter,
    wait: Wait,
    epoch: Epoch,
    deadline: Option<Instant>,
) -> Result<Outcome, Raised> {
    let is_main = is_main_thread();
    let may_be_for_ever = deadline.is_none();
    let counts = may_be_for_ever && !is_main && Machine::current().is_none();
    let mut watch = deadlock::Watch::default();
    loop {
        if let Some(outcome) = thread.waiter.outcome(epoch) {
            return Ok(outcome);
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now)
            && thread.waiter.disarm(epoch, Outcome::TimedOut)
        {
            return Ok(Outcome::TimedOut);
        }
        let slice = is_main.then(|| now + SIGNAL_SLICE);
        let until = earlier(deadline, slice);
        // SAFETY: attached; a forced unwind out of the re-attachment meets no destructor.
        unsafe {
            let state = ffi::PyEval_SaveThread();
            if counts {
                deadlock::thread_waits();
            }
            thread.parker.park(until);
            if counts {
                deadlock::thread_goes_on();
            }
            unwind::PyEval_RestoreThread(state);
        }
        // SAFETY: attached.
        if is_main && unsafe { unwind::PyErr_CheckSignals() } < 0 {
            if thread.waiter.disarm(epoch, Outcome::Interrupted) {
                return Err(Raised);
            }
            raise_later();
        }
        let looks = is_main && may_be_for_ever && thread.waiter.outcome(epoch).is_none();
        // SAFETY: attached; the frames are the caller's promise.
        if looks && unsafe { watch.finds_deadlock(wait) } {
            if thread.waiter.disarm(epoch, Outcome::Interrupted) {
                return Err(Raised);
            }
            // It has ended after all.
            // SAFETY: attached.
            if unsafe { ffi::PyErr_ExceptionMatches(ffi::PyExc_Exception) } == 0 {
                raise_later();
            } else {
                // SAFETY: as above.
                unsafe { ffi::PyErr_Clear() };
            }
        }
    }
}

/// Puts the current exception off to the next moment that the interpreter looks for pending calls: a peer has
/// completed the call that it would have interrupted.
pub fn raise_later() {
    extern "C" fn raise_now(exception: *mut std::ffi::c_void) -> std::ffi::c_int {
        // SAFETY: attached, on the main thread; the reference was given to the pending call.
        unsafe {
            let exception = exception.cast::<ffi::PyObject>();
            ffi::PyErr_SetObject(ffi::Py_TYPE(exception).cast(), exception);
            ffi::Py_DECREF(exception);
        }
        -1
    }
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let Some(error) = PyErr::take(py) else { return };
    let exception = error.into_value(py).into_ptr();
    // SAFETY: the function takes over the reference.
    if unsafe { ffi::Py_AddPendingCall(Some(raise_now), exception.cast()) } != 0 {
        // SAFETY: the queue is full, so the reference is still ours. The exception is shown, not lost.
        unsafe {
            ffi::PyErr_SetObject(ffi::Py_TYPE(exception).cast(), exception);
            ffi::PyErr_WriteUnraisable(exception);
            ffi::Py_DECREF(exception);
        }
    }
}

/// Whether this is the thread that runs Python's signal handlers; also right in a forked child.
#[cfg(target_os = "linux")]
pub fn is_main_thread() -> bool {
    // SAFETY: neither call has a precondition.
    unsafe { libc::gettid() == libc::getpid() }
}

#[cfg(not(target_os = "linux"))]
pub fn is_main_thread() -> bool {
    // SAFETY: no precondition.
    unsafe { libc::pthread_main_np() == 1 }
}

/// Raises where the calling task cannot park in a plain call: it is a coroutine, or its thread runs an event loop.
fn refuse_to_park(
    py: Python<'_>,
    task: &TaskObject,
    call: &str,
    awaitable: &str,
) -> Result<(), Raised> {
    if task.kind() == Kind::Coroutine {
        let message = format!(
            "{call} would have to wait, which a coroutine cannot do in a plain call: use '{awaitable}'"
        );
        return Err(raise(py, PyRuntimeError::new_err(message)));
    }
    let running = event_loop::running_asyncio_loop(py).map_err(|error| raise(py, error))?;
    if running.is_some() {
        let message = format!(
            "{call} would have to park a task whose thread runs an event loop: use '{awaitable}' in its \
             coroutines, or another task"
        );
        return Err(raise(py, PyRuntimeError::new_err(message)));
    }
    Ok(())
}

/// Whether the calling task must keep its stack: other tasks would find a half-made world on this thread.
fn must_block_thread(py: Python<'_>) -> Result<bool, Raised> {
    if interpreter::is_collecting_here(py) {
        return Ok(true);
    }
    if interpreter::is_importing_here(py).map_err(|error| raise(py, error))? {
        return Ok(true);
    }
    interpreter::is_logging_here(py).map_err(|error| raise(py, error))
}
