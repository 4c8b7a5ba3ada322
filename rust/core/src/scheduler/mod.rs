//! Runs tasks on workers: which worker runs what, and which sleeps.
//!
//! The names are Go's: a task (G) runs on a machine (M, a thread with its stacks) that has a worker (P, a
//! run queue with timers) in hand. Everything hangs on P and M being two things:
//!
//! - a task that has not started, and a coroutine between two steps, is in a worker's queue and may run anywhere;
//! - a task that parks with its stack is tied to its machine, and goes to that machine's inbox when it is ready; so does
//!   a coroutine while it is pinned;
//! - a machine with ready stacks and no worker takes an idle worker or waits for one; each worker looks for such
//!   machines each 61st turn and before it searches, gives itself up, and its old machine becomes a spare;
//! - a task that blocks its thread keeps the machine; the [`monitor`] has another machine take over the slot.
//!
//! Schedulers, machines and workers are leaked, never freed: a thread may be ended under us at process exit, and a
//! forked child has the memory of threads that do not exist.
//!
//! README.md proves that no wake-up is lost.

mod idle;
mod injector;
mod loops;
mod machine;
#[cfg(all(test, loom))]
mod model;
mod monitor;
pub mod queue;
mod stack;
mod stats;
#[cfg(all(test, not(loom)))]
mod tests;
mod worker;

use std::{
    ptr,
    ptr::NonNull,
    time::{Duration, Instant},
};

pub use machine::Machine;
pub use stack::Stack;
pub use stats::{Counters, Totals};

use self::{
    idle::Idle,
    injector::Injector,
    monitor::{Monitor, micros},
    worker::Worker,
};
use crate::{
    sync::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Lock, Ordering, start_thread},
    task::Task,
    wait::{Epoch, WaiterRef},
};

/// After how long a spare machine for which there was no thread is tried again: each try may cost the host a message.
const SPARE_RETRY: Duration = Duration::from_millis(100);

/// What the embedder does for the scheduler. A forced unwind may pass through each of the first three.
#[derive(Debug)]
pub struct Host {
    /// Leaves `from`, the stack that runs, and resumes `to`, of the same thread. Returns when something
    /// resumes `from`; `false` says that it was an error of the embedder's own.
    pub switch: unsafe fn(from: NonNull<Stack>, to: NonNull<Stack>) -> bool,
    /// Leaves `from` and runs [`Machine::work`] on a new stack, which is started from the base of the thread,
    /// never from here: nested starts would inherit the depth of `from`.
    pub new_stack: unsafe fn(from: NonNull<Stack>) -> bool,
    /// Lets go of the embedder's runtime, calls [`Machine::sleep`], and enters it again.
    pub idle: unsafe fn(machine: &'static Machine, deadline: Option<Instant>),
    /// Starts a thread that runs [`Machine::work`] for this machine. `false`: none is to be had.
    pub start_machine: fn(machine: &'static Machine) -> bool,
}

/// How a scheduler is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub host: &'static Host,
    /// How many run at once.
    pub workers: usize,
    /// Tasks park as fibers of their thread; otherwise each keeps its thread.
    pub fibers: bool,
    /// The embedder lets one thread run at a time (the GIL), so submitting needs no fence.
    pub exclusive: bool,
}

#[derive(Debug)]
pub struct Scheduler {
    host: &'static Host,
    workers: usize,
    fibers: bool,
    exclusive: bool,
    /// The workers that may run. Each slot always has one; changed under the lock of `idle`.
    slots: Box<[AtomicPtr<Worker>]>,
    injector: Injector,
    idle: Lock<Idle>,
    /// `idle.sleepers.len() + idle.free.len()`, published under the lock, read by submitters.
    idle_workers: AtomicUsize,
    /// `idle.waiting.len()`, as above.
    waiting_machines: AtomicUsize,
    /// `idle.orphans.len()`, as above.
    orphans: AtomicUsize,
    /// Machines that look for work, or have been woken to.
    searching: AtomicUsize,
    machines: Lock<Vec<&'static Machine>>,
    monitor: Monitor,
    monitor_started: AtomicBool,
    /// No thread was to be had for a spare machine: when to try again, in microseconds since `origin`; 0 if none is
    /// owed. Written by who tried, read by machines between two tasks.
    spare_owed: AtomicU64,
    stopping: AtomicBool,
    /// Stopped machines return to their host instead of sleeping for ever. Set once, by `shut_down`.
    ending: AtomicBool,
    origin: Instant,
    /// Tasks submitted, and wakes given, by threads that are no machine of ours.
    foreign: Lock<Foreign>,
}

#[derive(Debug, Default)]
struct Foreign {
    spawned: u64,
    wakes: u64,
}

impl Scheduler {
    /// Makes a scheduler, which lives as long as the process. No thread is started yet.
    pub fn new(config: Config) -> &'static Self {
        let origin = Instant::now();
        // Where the embedder lets one thread run at a time, a second running worker only takes the interpreter
        // away from the first. The others come in as the monitor sees that one blocked.
        let slots = if config.exclusive {
            1
        } else {
            config.workers.max(1)
        };
        let workers: Vec<&'static Worker> = (0..slots)
            .map(|slot| &*Box::leak(Box::new(Worker::new(slot, origin))))
            .collect();
        let scheduler = Self {
            host: config.host,
            workers: config.workers.max(1),
            fibers: config.fibers,
            exclusive: config.exclusive,
            slots: workers
                .iter()
                .map(|worker| AtomicPtr::new(ptr::from_ref(*worker).cast_mut()))
                .collect(),
            injector: Injector::default(),
            idle_workers: AtomicUsize::new(workers.len()),
            idle: Lock::new(Idle {
                free: workers,
                ..Idle::default()
            }),
            waiting_machines: AtomicUsize::new(0),
            orphans: AtomicUsize::new(0),
            searching: AtomicUsize::new(0),
            machines: Lock::new(Vec::new()),
            monitor: Monitor::default(),
            monitor_started: AtomicBool::new(false),
            spare_owed: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            origin,
            foreign: Lock::new(Foreign::default()),
        };
        Box::leak(Box::new(scheduler))
    }

    pub fn fibers(&self) -> bool {
        self.fibers
    }

    fn new_worker(&self, slot: usize) -> &'static Worker {
        Box::leak(Box::new(Worker::new(slot, self.origin)))
    }

    fn new_machine(&'static self) -> &'static Machine {
        let mut machines = self.machines.lock();
        let machine = Box::leak(Box::new(Machine::new(machines.len(), self)));
        machines.push(machine);
        machine
    }

    /// Has the host start `machine`'s thread, and the monitor's with the first.
    fn start(&'static self, machine: &'static Machine) -> bool {
        if !(self.host.start_machine)(machine) {
            return false;
        }
        // Ordering: AcqRel, one thread starts it.
        if !self.monitor_started.swap(true, Ordering::AcqRel)
            && start_thread("penstock-monitor", move || self.watch())
        {
            self.start_spare();
        }
        true
    }

    /// Starts a machine without a worker, so that the monitor always finds one to take over with.
    fn start_spare(&'static self) {
        let machine = self.new_machine();
        if !(self.host.start_machine)(machine) {
            let retry_at = micros(self.origin.elapsed() + SPARE_RETRY);
            // Ordering: Relaxed, a time that is seen soon enough.
            self.spare_owed.store(retry_at, Ordering::Relaxed);
        }
    }

    /// Tries again to start the spare machine for which there was no thread. On a machine's thread, since the
    /// monitor has none that may call the host.
    #[inline]
    fn start_owed_spare(&'static self) {
        // Ordering: Relaxed, as above.
        let retry_at = self.spare_owed.load(Ordering::Relaxed);
        if retry_at != 0
            && micros(self.origin.elapsed()) >= retry_at
            && self.spare_owed.swap(0, Ordering::Relaxed) != 0
            && self.idle.lock().spares.is_empty()
        {
            self.start_spare();
        }
    }

    /// Queues a new task. It runs soon, on any worker; the scheduler runs it once.
    ///
    /// # Safety
    /// `task` is alive, new, and not queued; its reference to itself is the queue's from now on.
    #[inline]
    pub unsafe fn submit(&'static self, task: NonNull<Task>) {
        match Machine::current() {
            Some(machine) if ptr::eq(machine.scheduler, self) => {
                machine.counters().spawned.add(1);
                match machine.sound_worker() {
                    Some(worker) => self.push_local(worker, task),
                    None => self.injector.push(task),
                }
            }
            _ => {
                self.foreign.lock().spawned += 1;
                self.injector.push(task);
            }
        }
        self.notify();
    }

    /// The worker in the calling thread's hand, if it may push there.
    #[inline]
    fn local_worker(&'static self) -> Option<&'static Worker> {
        Machine::current()
            .filter(|machine| ptr::eq(machine.scheduler, self))
            .and_then(Machine::sound_worker)
    }

    #[inline]
    fn push_local(&self, worker: &Worker, task: NonNull<Task>) {
        if let Err(overflow) = worker.queue.push(task) {
            self.injector.push_all(&overflow.tasks);
        }
    }

    /// Queues a task that a woken waiter belongs to: on the worker that woke it, next in turn.
    fn requeue(&'static self, task: NonNull<Task>) {
        if let Some(worker) = self.local_worker() {
            // Alone, it needs no searcher: its waker is about to wait, most likely. If it goes on for long
            // instead, the monitor sees to it.
            if let Some(displaced) = worker.queue.push_next(task) {
                self.push_local(worker, displaced);
                self.notify();
            }
        } else {
            self.injector.push(task);
            self.notify();
        }
    }

    /// Queues a task that gave up its turn: behind all others.
    ///
    /// # Safety
    /// `task` is alive and the caller's to queue.
    pub unsafe fn requeue_last(&'static self, task: NonNull<Task>) {
        // SAFETY: alive, by the caller's promise.
        if let Some(ticket) = unsafe { task.as_ref() }.ticket() {
            // SAFETY: the task is the caller's, so nobody undoes its pin.
            let machine = unsafe { ticket.as_ref() }.machine;
            machine.push_last(ticket); // it has just been in a step, on that machine
            return;
        }
        match self.local_worker() {
            Some(worker) => self.push_local(worker, task),
            None => self.injector.push(task),
        }
        self.notify();
    }

    /// Ends the wait `epoch` of `waiter` at `deadline`. Called by a task, which is about to park.
    pub fn set_timer(&'static self, deadline: Instant, waiter: WaiterRef, epoch: Epoch) {
        let worker = self
            .local_worker()
            .or_else(|| self.slots().next())
            .expect("a scheduler has a worker");
        worker.timers.push(deadline, waiter, epoch);
        if !self
            .local_worker()
            .is_some_and(|local| ptr::eq(local, worker))
        {
            self.timer_added(worker);
        }
    }

    /// From now on no task starts or goes on; machines sleep for ever as they come to their loop.
    pub fn stop(&self) {
        // Ordering: Relaxed, a flag that is seen soon enough.
        self.stopping.store(true, Ordering::Relaxed);
        self.monitor.workers_awake();
    }

    /// Stops, and lets the threads go: each machine returns to its host as it comes to its loop. A task that is parked
    /// with its thread keeps it for ever. For an embedder that outlives its schedulers.
    pub fn shut_down(&self) {
        // Ordering: Release, ordered before the unparks; a machine that parks no more comes by the flag's Acquire.
        self.ending.store(true, Ordering::Release);
        self.stop();
        for machine in self.machines.lock().iter() {
            machine.parker.unpark();
        }
    }

    /// How many may run at once, as asked for.
    pub fn workers(&self) -> usize {
        self.workers
    }

    pub fn totals(&self) -> Totals {
        let machines = self.machines.lock();
        let foreign = self.foreign.lock();
        let sum = |field: fn(&Counters) -> u64| machines.iter().map(|m| field(m.counters())).sum();
        Totals {
            spawned: sum(|c| c.spawned.get()) + foreign.spawned,
            started: sum(|c| c.started.get()),
            finished: sum(|c| c.finished.get()),
            parks: sum(|c| c.parks.get()),
            wakes: sum(|c| c.wakes.get()) + foreign.wakes,
            steals: sum(|c| c.steals.get()),
            handoffs: sum(|c| c.handoffs.get()),
            threads: machines.len() as u64,
        }
    }

    fn count_wake(&'static self) {
        match Machine::current() {
            Some(machine) if ptr::eq(machine.scheduler, self) => machine.counters().wakes.add(1),
            _ => self.foreign.lock().wakes += 1,
        }
    }
}

/// Queues a woken coroutine on the scheduler it belongs to.
///
/// # Safety
/// `task` is alive and the caller's to queue.
pub(crate) unsafe fn ready_task(task: NonNull<Task>) {
    // SAFETY: alive, by the caller's promise.
    let (scheduler, ticket) = unsafe { (task.as_ref().scheduler(), task.as_ref().ticket()) };
    if let Some(ticket) = ticket {
        // SAFETY: the task is pinned there, and was not readied since.
        unsafe { ready_stack(ticket) };
        return;
    }
    scheduler.count_wake();
    scheduler.requeue(task);
}

/// Makes a parked stack run on.
///
/// # Safety
/// `stack` is alive and parked (or about to be), and was not readied since.
pub(crate) unsafe fn ready_stack(stack: NonNull<Stack>) {
    // SAFETY: alive, by the caller's promise.
    let machine = unsafe { stack.as_ref() }.machine;
    machine.scheduler.count_wake();
    machine.push_ready(stack);
}
