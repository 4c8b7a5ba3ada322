//! Garbage-collection pacing: reads the interpreter's collector, asks the core's pacer, does what it says.
//!
//! Three places call in here. [`GcPacer::started`] and [`GcPacer::stopped`] are entries of `gc.callbacks`: they measure each
//! collection, and set the thresholds for the next. [`on_idle`] is the scheduler's, and may collect at once.
//!
//! A manager in `penstock.gc_pacing` makes one pacer, and decides when it is there: what is restored on the way out is there.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use penstock_core::{
    gc::{Collector, Finished, Pacer, Pauses, Policy, Thresholds, Trigger, idle::Decision},
    scheduler::{Machine, Spent},
    wait::ForkedMutex,
};
use pyo3::{
    exceptions::PyValueError,
    ffi, intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyString, PyTuple},
};

use crate::{object::Object, runtime, unwind};

/// What a pacer calls. Builtin functions, so none of them runs Python code, but for `collect`, whose finalizers may.
struct Functions {
    collect: Py<PyAny>,
    get_count: Py<PyAny>,
    get_threshold: Py<PyAny>,
    set_threshold: Py<PyAny>,
    is_enabled: Py<PyAny>,
    allocated_blocks: Py<PyAny>,
}

static FUNCTIONS: PyOnceLock<Functions> = PyOnceLock::new();

impl Functions {
    /// Found when the first pacer is made.
    fn load(py: Python<'_>) -> PyResult<()> {
        let find = || {
            let gc = py.import("gc")?;
            let of_gc = |name| PyResult::Ok(gc.getattr(name)?.unbind());
            PyResult::Ok(Self {
                collect: of_gc("collect")?,
                get_count: of_gc("get_count")?,
                get_threshold: of_gc("get_threshold")?,
                set_threshold: of_gc("set_threshold")?,
                is_enabled: of_gc("isenabled")?,
                allocated_blocks: py.import("sys")?.getattr("getallocatedblocks")?.unbind(),
            })
        };
        FUNCTIONS.get_or_try_init(py, find).map(drop)
    }

    fn get(py: Python<'_>) -> &Self {
        FUNCTIONS.get(py).expect("a pacer has been made")
    }

    fn counts(&self, py: Python<'_>) -> PyResult<[u64; 3]> {
        // Negative where more was freed than made.
        let (young, middle, old): (i64, i64, i64) = self.get_count.bind(py).call0()?.extract()?;
        Ok([young, middle, old].map(|count| u64::try_from(count).unwrap_or(0)))
    }

    fn thresholds(&self, py: Python<'_>) -> PyResult<Thresholds> {
        let thresholds: (i32, i32, i32) = self.get_threshold.bind(py).call0()?.extract()?;
        Ok(thresholds.into())
    }

    fn set_thresholds(&self, py: Python<'_>, thresholds: Thresholds) -> PyResult<()> {
        let thresholds = PyTuple::new(py, thresholds)?;
        self.set_threshold.bind(py).call1(thresholds).map(drop)
    }

    /// Blocks of the small-object allocator in use; `None` where there is no such allocator.
    fn blocks(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        let blocks: u64 = self.allocated_blocks.bind(py).call0()?.extract()?;
        Ok((blocks != 0).then_some(blocks))
    }
}

thread_local! {
    /// Who has this thread begin a collection, if it is not the collector itself.
    static TRIGGER: Cell<Option<Trigger>> = const { Cell::new(None) };
    /// This thread's machine was asked what to do with a window, and has not slept since.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// A manager is active. Written when [`ACTIVE`] changes; read at each idle window, where nothing else is paid without one.
static IS_ACTIVE: AtomicBool = AtomicBool::new(false);
/// Its pacer.
static ACTIVE: ForkedMutex<Option<Object>> = ForkedMutex::new();

/// A collection under way.
#[derive(Clone, Copy)]
struct Running {
    began: Instant,
    trigger: Trigger,
    young: u64,
}

struct State {
    pacer: Pacer,
    pauses: Pauses,
    running: Option<Running>,
    /// The thresholds that were set last; `None` before, and once they are another's.
    planned: Option<Thresholds>,
    /// Blocks in use when the heap was looked at as a whole.
    blocks: Option<u64>,
    /// A thread reads the thresholds and sets others, one at a time: without the GIL two would undo each other's, and each
    /// would take what it finds for the program's. It holds no lock meanwhile, because other threads are stopped.
    is_planning: bool,
    /// It is to look once more before it stops.
    plans_again: bool,
}

impl State {
    /// Sets the thresholds to what the pacer plans, unless somebody else has set them.
    fn plan(&mut self, found: Thresholds) -> Option<Thresholds> {
        if self.planned != Some(found) {
            self.planned = None;
            return None;
        }
        let next = self.pacer.thresholds(found).filter(|&next| next != found)?;
        self.planned = Some(next);
        Some(next)
    }
}

/// Paces the interpreter's collector: ``penstock.manage_gc`` has one.
#[pyclass(frozen, module = "penstock._core")]
pub struct GcPacer {
    collector: Collector,
    policy: Policy,
    /// What the state begins with, also that of a forked child. Written while a heap is frozen.
    live: AtomicU64,
    frozen: AtomicU64,
    /// The thresholds are this pacer's. Written by whoever begins, ends or finds others; read in a forked child.
    plans: AtomicBool,
    /// `None` until it is first used, and again in a forked child: there a thread that is gone may have held the lock. No
    /// Python code runs under it.
    state: ForkedMutex<Option<State>>,
}

impl GcPacer {
    fn with_state<T>(&self, run: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        run(state.get_or_insert_with(|| {
            // Ordering: Relaxed throughout, estimates.
            let live = self.live.load(Ordering::Relaxed);
            let frozen = self.frozen.load(Ordering::Relaxed);
            State {
                pacer: Pacer::new(self.collector, self.policy, live, frozen),
                pauses: Pauses::default(),
                running: None,
                planned: None,
                blocks: None,
                is_planning: false,
                plans_again: false,
            }
        }))
    }

    /// Who wanted the collection that begins now.
    fn trigger(&self, py: Python<'_>, generation: u64, counts: [u64; 3]) -> PyResult<Trigger> {
        if let Some(trigger) = TRIGGER.get() {
            return Ok(trigger);
        }
        let thresholds = Functions::get(py).thresholds(py)?;
        let is_planned = self.with_state(|state| state.planned == Some(thresholds));
        // Without the GIL one count starts a collection, of whatever generation.
        let counted = match (self.collector, generation) {
            (Collector::WholeHeap, _) | (_, 0) => 0,
            (_, 1) => 1,
            (_, _) => 2,
        };
        let is_over = i128::from(counts[counted]) > i128::from(thresholds[counted]);
        Ok(match (is_over, self.collector) {
            (false, _) => Trigger::Manual, // `gc.collect()`, by somebody
            (true, Collector::WholeHeap) if is_planned => Trigger::Growth,
            (true, Collector::Generational) if is_planned && generation == 2 => Trigger::Growth,
            (true, _) => Trigger::Automatic,
        })
    }

    /// Looks at the heap's size where that matters.
    fn weigh(&self, py: Python<'_>, is_whole: bool) -> PyResult<()> {
        if self.collector != Collector::Generational {
            return Ok(());
        }
        let before = self.with_state(|state| {
            let matters = is_whole || state.pacer.is_due();
            matters.then_some(state.blocks)
        });
        let Some(before) = before else { return Ok(()) };
        let now = Functions::get(py).blocks(py)?;
        self.with_state(|state| match (before, now) {
            // What it counts as growth may have been freed: a cache that replaces its entries grows by nothing.
            (Some(before), Some(now)) if !is_whole => {
                state.pacer.grew_by_at_most(now.saturating_sub(before));
            }
            _ => state.blocks = now,
        });
        Ok(())
    }

    /// Sets the thresholds for what is to come.
    fn plan(&self, py: Python<'_>) -> PyResult<()> {
        let is_first = self.with_state(|state| {
            state.plans_again = state.is_planning;
            !std::mem::replace(&mut state.is_planning, true)
        });
        if !is_first {
            return Ok(()); // the first looks again
        }
        let mut result = Ok(());
        loop {
            let planned = self.set_thresholds(py);
            result = result.and(planned);
            let ends = |state: &mut State| {
                state.is_planning = std::mem::take(&mut state.plans_again);
                (!state.is_planning).then_some(state.planned.is_some())
            };
            if let Some(plans) = self.with_state(ends) {
                self.plans.store(plans, Ordering::Relaxed); // Ordering: Relaxed, read by a process with one thread.
                return result;
            }
        }
    }

    fn set_thresholds(&self, py: Python<'_>) -> PyResult<()> {
        let functions = Functions::get(py);
        let found = functions.thresholds(py)?;
        let next = self.with_state(|state| state.plan(found));
        next.map_or(Ok(()), |next| functions.set_thresholds(py, next))
    }
}

#[pymethods]
impl GcPacer {
    #[new]
    fn new(
        py: Python<'_>,
        collector: &str,
        pause_budget: f64,
        growth: f64,
        growth_min: u64,
    ) -> PyResult<Self> {
        Functions::load(py)?;
        let collector = match collector {
            "generational" => Collector::Generational,
            "incremental" => Collector::Incremental,
            "whole-heap" => Collector::WholeHeap,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "collector must be \"generational\", \"incremental\" or \"whole-heap\", not \"{collector}\""
                )));
            }
        };
        let pause_budget = Duration::try_from_secs_f64(pause_budget).unwrap_or(Duration::MAX);
        Ok(Self {
            collector,
            policy: Policy {
                pause_budget,
                growth,
                growth_min,
            },
            live: AtomicU64::new(0),
            frozen: AtomicU64::new(0),
            plans: AtomicBool::new(false),
            state: ForkedMutex::new(),
        })
    }

    /// The heap has so many objects, frozen ones included. Where it has just been collected: in so many seconds.
    fn frozen(&self, py: Python<'_>, live: u64, frozen: u64, seconds: Option<f64>) -> PyResult<()> {
        // Ordering: Relaxed throughout, estimates.
        self.live.store(live, Ordering::Relaxed);
        self.frozen.store(frozen, Ordering::Relaxed);
        let pause = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.with_state(|state| state.pacer.frozen(live, frozen, pause));
        self.weigh(py, true)?;
        self.plan(py)
    }

    /// Sets the thresholds, and uses the scheduler's idle windows from now on.
    fn begin(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let found = Functions::get(py).thresholds(py)?;
        this.get().with_state(|state| state.planned = Some(found));
        this.get().weigh(py, true)?;
        this.get().plan(py)?;
        // SAFETY: alive, and this thread is attached.
        let pacer = unsafe { Object::new(this.as_ptr()) };
        let before = ACTIVE.lock().replace(pacer);
        debug_assert!(before.is_none(), "one manager at a time");
        // Ordering: Relaxed, a flag that is seen soon enough.
        IS_ACTIVE.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// In a forked child: goes on, unless the parent's thresholds were somebody else's.
    fn begin_in_child(this: &Bound<'_, Self>) -> PyResult<()> {
        // Ordering: Relaxed, this process has one thread.
        if this.get().plans.load(Ordering::Relaxed) {
            Self::begin(this)?;
        }
        Ok(())
    }

    /// Does nothing any more but measure. Says whether the thresholds are what it has set.
    fn end(&self, py: Python<'_>) -> PyResult<bool> {
        IS_ACTIVE.store(false, Ordering::Relaxed); // Ordering: Relaxed, as above.
        let active = ACTIVE.lock().take();
        drop(active); // not under the lock
        // Another thread may be at it.
        while self.with_state(|state| std::mem::replace(&mut state.is_planning, true)) {
            py.detach(std::thread::yield_now);
        }
        let found = Functions::get(py).thresholds(py);
        let planned = self.with_state(|state| {
            state.is_planning = false;
            state.planned.take()
        });
        self.plans.store(false, Ordering::Relaxed); // Ordering: Relaxed, as in `plan`.
        Ok(planned == Some(found?))
    }

    /// What this thread collects from now on was asked for by the program, or is no more.
    #[staticmethod]
    fn told(is_told: bool) {
        TRIGGER.set(is_told.then_some(Trigger::Manual));
    }

    /// An entry of ``gc.callbacks``: the last of those that are called before a collection.
    fn started(&self, phase: &str, info: &Bound<'_, PyDict>) -> PyResult<()> {
        if phase != "start" {
            return Ok(());
        }
        let py = info.py();
        let generation = number(info, intern!(py, "generation"))?;
        let counts = Functions::get(py).counts(py)?;
        let trigger = self.trigger(py, generation, counts)?;
        let running = Running {
            trigger,
            young: counts[0],
            began: Instant::now(), // last, so that the time above is not the collector's
        };
        self.with_state(|state| state.running = Some(running));
        Ok(())
    }

    /// The same: the first of those that are called after one.
    fn stopped(&self, phase: &str, info: &Bound<'_, PyDict>) -> PyResult<()> {
        if phase != "stop" {
            return Ok(());
        }
        let now = Instant::now();
        let py = info.py();
        let generation = number(info, intern!(py, "generation"))?;
        let generation = u8::try_from(generation).unwrap_or(2);
        let garbage = number(info, intern!(py, "collected"))?;
        let Some(running) = self.with_state(|state| {
            let running = state.running.take()?;
            state.pacer.finished(Finished {
                generation,
                garbage,
                young: running.young,
                pause: now - running.began,
            });
            Some(running)
        }) else {
            return Ok(()); // it began before the block, or in the process that forked this one
        };
        let planned = self.weigh(py, generation == 2).and_then(|()| self.plan(py));
        self.with_state(|state| {
            let pause = running.began.elapsed(); // with what was done here
            state.pauses.record(pause, running.trigger);
        });
        planned
    }

    /// `(count, p50, p99, max, {trigger: count})`, in seconds.
    fn pauses(&self, py: Python<'_>) -> PyResult<(u64, f64, f64, f64, Py<PyDict>)> {
        let pauses = self.with_state(|state| state.pauses.clone());
        let by_trigger = PyDict::new(py);
        for trigger in Trigger::ALL {
            let name = match trigger {
                Trigger::Idle => "idle",
                Trigger::Growth => "growth",
                Trigger::Manual => "manual",
                Trigger::Automatic => "automatic",
            };
            by_trigger.set_item(name, pauses.of(trigger))?;
        }
        Ok((
            pauses.count(),
            pauses.percentile(50).as_secs_f64(),
            pauses.percentile(99).as_secs_f64(),
            pauses.longest().as_secs_f64(),
            by_trigger.unbind(),
        ))
    }
}

/// A number out of what the collector tells its callbacks.
fn number(info: &Bound<'_, PyDict>, key: &Bound<'_, PyString>) -> PyResult<u64> {
    let value = info.get_item(key)?;
    value.map_or(Ok(0), |value| value.extract())
}

/// Calls `run` with the pacer of the manager that is active, if one is.
fn with_active<T>(py: Python<'_>, run: impl FnOnce(&GcPacer) -> T) -> Option<T> {
    // SAFETY: this thread is attached.
    let share = |pacer: &Object| unsafe { Object::new(pacer.as_ptr()) };
    let pacer = ACTIVE.lock().as_ref().map(share)?;
    let pointer = pacer.as_ptr();
    // SAFETY: a pacer, alive as long as `pacer`.
    let this = unsafe { Bound::ref_from_ptr(py, &pointer).cast_unchecked::<GcPacer>() };
    Some(run(this.get()))
}

/// The host's `on_idle`.
///
/// # Safety
/// See `Host::on_idle`; attached, with nothing alive that has a destructor.
#[inline]
pub unsafe fn on_idle(machine: &'static Machine) -> Spent {
    // Ordering: Relaxed, a flag that is seen soon enough.
    if !IS_ACTIVE.load(Ordering::Relaxed) || runtime::is_over() {
        return Spent::Nothing;
    }
    // SAFETY: the caller's promise.
    unsafe { spend(machine) }
}

/// # Safety
/// As for [`on_idle`].
#[cold]
unsafe fn spend(machine: &'static Machine) -> Spent {
    // SAFETY: attached, by the caller's promise.
    let py = unsafe { Python::assume_attached() };
    let (decision, collected) = match decide(py, machine) {
        Ok(Some(decided)) => decided,
        Ok(None) => return Spent::Nothing,
        Err(error) => {
            error.write_unraisable(py, None);
            return Spent::Nothing;
        }
    };
    match decision {
        Decision::Sleep => Spent::Nothing,
        Decision::AskAfter(wait) => Spent::NothingUntil(Instant::now() + wait),
        Decision::Collect(generation) => {
            // SAFETY: attached, and nothing with a destructor is alive while Python code runs.
            unsafe { collect(py, generation) };
            // Another thread may be at it, without the GIL: then there is nothing for this one to do.
            match count(py) {
                Some(count) if count != collected => Spent::Some,
                _ => Spent::Nothing,
            }
        }
    }
}

/// How many collections have been counted.
fn count(py: Python<'_>) -> Option<u64> {
    with_active(py, |pacer| pacer.with_state(|state| state.pauses.count()))
}

/// What to do now, and how many collections there were before.
fn decide(py: Python<'_>, machine: &'static Machine) -> PyResult<Option<(Decision, u64)>> {
    let functions = Functions::get(py);
    let Some(window) = machine.window() else {
        return Ok(None);
    };
    if !functions.is_enabled.bind(py).call0()?.extract::<bool>()? {
        return Ok(None); // the program has turned it off meanwhile
    }
    let found = functions.thresholds(py)?;
    let young = functions.counts(py)?[0];
    ASKED.set(true);
    let ask = |state: &mut State| {
        if state.planned != Some(found) {
            return None; // somebody else has set the thresholds, so the collector is theirs
        }
        let now = Instant::now();
        let decision = state.pacer.idle(now, window.until, window.turn, young);
        Some((decision, state.pauses.count()))
    };
    Ok(with_active(py, |pacer| pacer.with_state(ask)).flatten())
}

/// # Safety
/// Attached, with nothing alive that has a destructor.
unsafe fn collect(py: Python<'_>, generation: u8) {
    let function = Functions::get(py).collect.as_ptr();
    TRIGGER.set(Some(Trigger::Idle));
    // SAFETY: the caller's promise; the function is alive for good.
    unsafe {
        let result = unwind::call(function, [ffi::PyLong_FromLong(generation.into())]);
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(function);
        }
        ffi::Py_XDECREF(result);
    }
    TRIGGER.set(None);
}

/// A machine has slept until now. If it is the one that was asked, the pacer learns how long the window was.
#[inline]
pub fn woke(py: Python<'_>) {
    // Ordering: Relaxed, as in `on_idle`.
    if IS_ACTIVE.load(Ordering::Relaxed) && ASKED.take() {
        let now = Instant::now();
        with_active(py, |pacer| {
            pacer.with_state(|state| state.pacer.woke(now));
        });
    }
}
