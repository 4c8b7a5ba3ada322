//! A runtime from its start to its end, and what becomes of it in a fork and at exit.
//!
//! ```text
//!   not started --- first use ---> running --- close ---> shutting down --- last task ends ---> shut down
//!        '------------------------- close ---------------------------------------------------------^
//! ```
//!
//! A life is leaked like its scheduler: threads and tasks refer to both as long as they like.
//!
//! In a forked child the schedulers are those of threads that are not there, and any lock may be held by one of them for
//! ever. So what a child needs is read without a lock: a scheduler of the parent's counts as none, a lock of the
//! parent's is left behind with what it guards ([`ForkedMutex`]), and what was shut down stays so.

use std::{
    ffi::CString,
    ptr,
    sync::{
        MutexGuard,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
};

use penstock_core::{
    scheduler::{Config, Machine, Scheduler},
    wait::ForkedMutex,
};
use pyo3::{
    exceptions::{PyRuntimeError, PyRuntimeWarning},
    prelude::*,
};

use super::{
    host,
    settings::{self, Parking, Settings},
};
use crate::{
    blocking, debug,
    object::{self, Object},
    stall,
    task::{self, TaskObject},
};

/// The default runtime.
pub static DEFAULT: Life = Life::new(&settings::DEFAULT, None);
/// The interpreter is about to exit.
static OVER: AtomicBool = AtomicBool::new(false);
/// Those that have started in this process.
static LIVES: ForkedMutex<Vec<&'static Life>> = ForkedMutex::new();

pub struct Life {
    /// `None` is the default runtime.
    name: Option<String>,
    /// Null before the start; one of the parent's in a forked child. Written under `state`.
    scheduler: AtomicPtr<Scheduler>,
    /// What it starts with, leaked. Written under `state`.
    settings: AtomicPtr<Settings>,
    /// How many run at once, as somebody has set it since; 0 for what the settings say. Written under `state`.
    workers_set: AtomicUsize,
    /// Written under `state`.
    closed: AtomicBool,
    /// Locked for a few lines, in which no Python code runs.
    state: ForkedMutex<State>,
}

/// What a forked child has no use for.
#[derive(Default)]
struct State {
    /// The task that ends when all others have. `None` where none was there when it was closed.
    last: Option<Object>,
}

pub fn is_over() -> bool {
    // Ordering: Relaxed, a flag that is seen soon enough.
    OVER.load(Ordering::Relaxed)
}

/// Whether nothing runs in any runtime and nothing will by itself, with a number that changes when something happens:
/// see `Scheduler::quiescence`.
pub fn quiescence() -> Option<u64> {
    if !blocking::rests() {
        return None;
    }
    let lives = LIVES.lock();
    let mut schedulers = lives.iter().filter_map(|life| life.running());
    schedulers.try_fold(0, |sum: u64, scheduler| {
        Some(sum.wrapping_add(scheduler.quiescence()?))
    })
}

/// The machines of all runtimes.
pub fn machines() -> Vec<&'static Machine> {
    let lives = LIVES.lock();
    let schedulers = lives.iter().filter_map(|life| life.running());
    schedulers.flat_map(Scheduler::machines).collect()
}

pub fn over() -> PyErr {
    PyRuntimeError::new_err("penstock has stopped: the interpreter is about to exit")
}

impl Life {
    pub const fn new(settings: &'static Settings, name: Option<String>) -> Self {
        Self {
            name,
            scheduler: AtomicPtr::new(ptr::null_mut()),
            settings: AtomicPtr::new(ptr::from_ref(settings).cast_mut()),
            workers_set: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            state: ForkedMutex::new(),
        }
    }

    fn settings(&self) -> &'static Settings {
        // Ordering: Acquire pairs with the Release in `configure`.
        // SAFETY: never null, and leaked.
        unsafe { &*self.settings.load(Ordering::Acquire) }
    }

    fn is_closed(&self, _: &MutexGuard<'_, State>) -> bool {
        self.closed.load(Ordering::Relaxed) // Ordering: Relaxed, under the lock.
    }

    /// `false`: it was before.
    fn set_closed(&self, _: &MutexGuard<'_, State>) -> bool {
        !self.closed.swap(true, Ordering::Relaxed) // Ordering: Relaxed, as above.
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("default")
    }

    /// Whose thread a machine's is. `None` in a forked child.
    pub fn of(machine: &Machine) -> Option<&'static Life> {
        let lives = LIVES.lock();
        let mut lives = lives.iter().copied();
        lives.find(|life| {
            let scheduler = life.running();
            scheduler.is_some_and(|scheduler| ptr::eq(scheduler, machine.scheduler))
        })
    }

    /// The name of a machine's thread.
    pub fn name_of_thread(&self, machine: &Machine) -> String {
        match &self.name {
            Some(name) => format!("penstock-{name}-{}", machine.id),
            None => format!("penstock-{}", machine.id),
        }
    }

    pub fn running(&self) -> Option<&'static Scheduler> {
        // Ordering: Acquire pairs with the Release in `start`.
        // SAFETY: null or leaked.
        let scheduler = unsafe { self.scheduler.load(Ordering::Acquire).as_ref() };
        scheduler.filter(|scheduler| scheduler.is_here())
    }

    /// The scheduler, started if need be.
    #[inline]
    pub fn scheduler(&'static self, py: Python<'_>) -> PyResult<&'static Scheduler> {
        match self.running() {
            Some(scheduler) => Ok(scheduler),
            None => self.start(py),
        }
    }

    /// The same, for a call that needs it to go on.
    pub fn open_scheduler(&'static self, py: Python<'_>) -> PyResult<&'static Scheduler> {
        let scheduler = self.scheduler(py)?;
        if is_over() {
            return Err(over());
        }
        if self.is_closed(&self.state.lock()) {
            return Err(self.refusal());
        }
        Ok(scheduler)
    }

    /// What a task from outside gets when it is closed.
    pub fn refusal(&self) -> PyErr {
        PyRuntimeError::new_err(format!("the runtime '{}' was shut down", self.name()))
    }

    #[cold]
    fn start(&'static self, py: Python<'_>) -> PyResult<&'static Scheduler> {
        if is_over() {
            return Err(over());
        }
        host::prepare(py)?;
        let stall_after = stall::limit()?;
        let mut obstacle = None;
        let mut tested = false;
        // The self-test runs Python code, so it comes before the lock; it comes again if `configure()` came meanwhile.
        let state = loop {
            let state = self.state.lock();
            if self.is_closed(&state) {
                return Err(self.refusal());
            }
            if let Some(scheduler) = self.running() {
                return Ok(scheduler);
            }
            if tested || self.settings().parking == Parking::Thread {
                break state;
            }
            drop(state);
            obstacle = fiber_obstacle(py)?;
            tested = true;
        };
        let settings = self.settings();
        if settings.parking == Parking::Fiber
            && let Some(obstacle) = obstacle
        {
            return Err(PyRuntimeError::new_err(format!(
                "parking=\"fiber\" was asked for, and fibers do not work here: {obstacle}"
            )));
        }
        let workers = self.workers_asked()?;
        let exclusive = cfg!(not(Py_GIL_DISABLED));
        let scheduler = Scheduler::new(Config {
            host: &host::HOST,
            workers: workers.unwrap_or_else(settings::budget),
            budget: workers.is_none().then_some(settings::budget),
            fibers: settings.parking != Parking::Thread && obstacle.is_none(),
            exclusive,
            stall_after,
            trace: debug::trace(),
            layout: settings::layout(settings, exclusive)?,
        });
        let mut lives = LIVES.lock();
        lives.retain(|life| !life.has_ended());
        lives.push(self); // before others can use the scheduler: for its threads they look here
        drop(lives);
        // Ordering: Release publishes the scheduler to the Acquire in `running`.
        self.scheduler
            .store(ptr::from_ref(scheduler).cast_mut(), Ordering::Release);
        drop(state);
        task::prewarm(py, scheduler, settings.prewarm_tasks)?;
        if let Some(obstacle) = obstacle
            && settings.parking == Parking::Auto
        {
            warn_of_threads(py, &obstacle)?;
        }
        Ok(scheduler)
    }

    /// Sets it up anew; `false`: it has started, or was shut down.
    pub fn configure(&self, settings: Settings) -> bool {
        let state = self.state.lock();
        let may = self.running().is_none() && !self.is_closed(&state);
        if may {
            let settings = Box::into_raw(Box::new(settings));
            // Ordering: Release publishes them to the Acquire in `settings`. The old ones are leaked: somebody may read them.
            self.settings.store(settings, Ordering::Release);
            self.workers_set.store(0, Ordering::Relaxed); // Ordering: Relaxed, a number of its own.
        }
        may
    }

    /// How many tasks the memory is set aside for.
    pub fn prewarm_tasks(&self) -> usize {
        self.settings().prewarm_tasks
    }

    /// How many run at once, or will.
    pub fn workers(&self) -> PyResult<usize> {
        match self.running() {
            Some(scheduler) => Ok(scheduler.workers()),
            None => Ok(self.workers_asked()?.unwrap_or_else(settings::budget)),
        }
    }

    /// How many somebody has asked for; `None`: as many as the machine has for it.
    fn workers_asked(&self) -> PyResult<Option<usize>> {
        // Ordering: Relaxed, a number of its own.
        match self.workers_set.load(Ordering::Relaxed) {
            0 => self.settings().workers(),
            set => Ok(Some(set)),
        }
    }

    pub fn set_workers(&'static self, workers: usize) -> PyResult<()> {
        if is_over() {
            return Err(over());
        }
        let state = self.state.lock();
        if self.is_closed(&state) {
            return Err(self.refusal());
        }
        self.workers_set.store(workers, Ordering::Relaxed); // Ordering: Relaxed, as above.
        drop(state);
        if let Some(scheduler) = self.running() {
            scheduler.set_workers(workers);
        }
        Ok(())
    }

    /// Takes no more tasks from outside. Gives the task that ends when all others have, or `None` if they have.
    pub fn close(&'static self, py: Python<'_>) -> PyResult<Option<Object>> {
        loop {
            // Made before the lock: it may run a collection, which runs Python code.
            let last = match self.running() {
                Some(scheduler) => Some(task::new_idle(py, scheduler)?),
                None => None,
            };
            let mut state = self.state.lock();
            if !self.is_closed(&state) {
                let Some(scheduler) = self.running() else {
                    self.set_closed(&state);
                    return Ok(None);
                };
                let Some(last) = last else {
                    continue; // it started meanwhile
                };
                self.set_closed(&state);
                // SAFETY: attached; a new task.
                if unsafe { task::close(scheduler, &last) } {
                    state.last = Some(last);
                }
            }
            // SAFETY: alive, and attached.
            let last = |last: &Object| unsafe { Object::new(last.as_ptr()) };
            return Ok(state.last.as_ref().map(last));
        }
    }

    /// The same where nobody will wait.
    pub fn close_unseen(&'static self) {
        let state = self.state.lock();
        if self.set_closed(&state)
            && let Some(scheduler) = self.running()
        {
            // SAFETY: no task.
            unsafe { scheduler.close(None) };
        }
    }

    fn has_ended(&self) -> bool {
        self.running().is_some_and(Scheduler::has_ended)
    }

    /// "not started", "running", "shutting down", "shut down" or "stopped".
    pub fn state(&self) -> &'static str {
        let state = self.state.lock();
        let closed = self.is_closed(&state);
        let is_done = |last: &Object| {
            // SAFETY: a task, which `state` keeps alive; attached, as every caller is.
            let last = unsafe { object::get::<TaskObject>(last.as_ptr()) };
            last.core().is_done()
        };
        if closed && state.last.as_ref().is_none_or(is_done) {
            "shut down"
        } else if is_over() {
            "stopped"
        } else if closed {
            "shutting down"
        } else if self.running().is_some() {
            "running"
        } else {
            "not started"
        }
    }
}

/// Why plain tasks cannot park as fibers here, by the self-test of `penstock._parking`; `None` where they can.
fn fiber_obstacle(py: Python<'_>) -> PyResult<Option<String>> {
    py.import("penstock._parking")?
        .getattr("obstacle")?
        .call0()?
        .extract()
}

/// Says once in a process that each parked task takes a thread, and why.
fn warn_of_threads(py: Python<'_>, obstacle: &str) -> PyResult<()> {
    static SAID: AtomicBool = AtomicBool::new(false);
    // Ordering: Relaxed, a flag of its own.
    if SAID.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let message = format!(
        "penstock parks each waiting task on a thread of its own, because fibers do not work here: {obstacle}"
    );
    let message = CString::new(message).unwrap_or_default();
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)
}

/// At exit, before `threading` joins its threads: nothing of any runtime starts or goes on.
pub fn stop_all() {
    // Ordering: Relaxed, a flag that is seen soon enough.
    OVER.store(true, Ordering::Relaxed);
    for life in LIVES.lock().iter() {
        if let Some(scheduler) = life.running() {
            scheduler.stop();
        }
    }
}

/// In a forked child: it is not about to exit, whatever its parent was.
pub fn begin_in_child() {
    OVER.store(false, Ordering::Relaxed); // Ordering: Relaxed, the process has a single thread.
}
