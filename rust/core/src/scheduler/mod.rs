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
//! Each worker has a place on a NUMA node, by the [`Layout`]. A node has queues of its own for what comes from outside its
//! workers; a thief looks at its own node first, and one of a node at a time goes over the others ([`victims`]).
//!
//! README.md proves that no wake-up is lost.

mod idle;
mod injector;
mod loops;
mod machine;
#[cfg(all(test, loom))]
mod model;
mod monitor;
mod nodes;
pub mod queue;
mod quiescence;
mod resize;
mod shutdown;
mod stack;
mod stall;
mod stats;
#[cfg(all(test, not(loom)))]
mod tests;
mod trace;
pub mod victims;
mod worker;

use std::{
    ptr,
    ptr::NonNull,
    time::{Duration, Instant},
};

pub use machine::{Machine, Window};
pub use stack::Stack;
pub use stall::{STALL_AFTER, Stall};
pub use stats::{Counters, Totals};
pub use trace::TraceConfig;

use self::{
    idle::Idle,
    monitor::{Monitor, micros},
    nodes::NodeQueues,
    resize::{Slots, slots_for},
    worker::Worker,
};
use crate::{
    sync::{
        AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, CachePadded, Lock, Ordering, start_thread,
    },
    task::Task,
    topology::Layout,
    wait::{Epoch, WaiterRef, fork},
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
    /// The machine has nothing to do, and may use the time before it sleeps: see [`Machine::window`]. It is awake, in no
    /// search, and the embedder's code runs here as in a task.
    pub on_idle: unsafe fn(machine: &'static Machine) -> Spent,
    /// Starts a thread that runs [`Machine::work`] for this machine. `false`: none is to be had.
    pub start_machine: fn(machine: &'static Machine) -> bool,
    /// A task has kept the thread on which others are parked for too long. Called on another machine's thread.
    pub on_stall: unsafe fn(stall: &Stall),
    /// Writes a line for each task of `scheduler` to the standard error, behind what the monitor has written. Called on a
    /// machine's thread.
    pub show_tasks: unsafe fn(scheduler: &'static Scheduler),
}

/// What the embedder did with an idle window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// Nothing.
    Nothing,
    /// It ran code of its own, so there may be something to do now.
    Some,
    /// Nothing, and wants to be asked again at that time.
    NothingUntil(Instant),
}

/// How a scheduler is made.
#[derive(Clone, Debug)]
pub struct Config {
    pub host: &'static Host,
    /// How many run at once.
    pub workers: usize,
    /// How many it may have now, at any time: asked each second while something runs, by the monitor, and followed until
    /// somebody else says how many there are to be. `None`: it keeps what it has.
    pub budget: Option<fn() -> usize>,
    /// Tasks park as fibers of their thread; otherwise each keeps its thread.
    pub fibers: bool,
    /// The embedder lets one thread run at a time (the GIL), so submitting needs no fence.
    pub exclusive: bool,
    /// After how long at one task a machine with parked tasks is reported to the host.
    pub stall_after: Duration,
    /// Print lines about the scheduler.
    pub trace: Option<TraceConfig>,
    /// Where the workers are; with at least as many seats.
    pub layout: Layout,
}

#[derive(Debug)]
pub struct Scheduler {
    host: &'static Host,
    /// The process that it was made in: its threads are there.
    generation: u32,
    /// As asked for. Written under the lock of `idle`.
    workers: AtomicUsize,
    budget: Option<fn() -> usize>,
    /// Nobody has said how many workers there are to be. Written under the lock of `idle`.
    follows_budget: AtomicBool,
    fibers: bool,
    exclusive: bool,
    stall_after: Duration,
    trace: Option<TraceConfig>,
    slots: Slots,
    /// A seat for each slot that there may be.
    layout: Layout,
    /// By the index that the layout gives a node.
    nodes: Box<[CachePadded<NodeQueues>]>,
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
    /// Those of them that have no thread, to be used again: there was none, or it has ended.
    unstarted: Lock<Vec<&'static Machine>>,
    /// Threads started so far.
    threads: AtomicU64,
    /// A machine that runs any task has got its thread. Set by submitters.
    has_thread: AtomicBool,
    monitor: Monitor,
    monitor_started: AtomicBool,
    /// No thread was to be had for a spare machine: when to try again, in microseconds since `origin`; 0 if none is
    /// owed. Written by who tried, read by machines between two tasks.
    spare_owed: AtomicU64,
    stopping: AtomicBool,
    /// Stopped machines return to their host instead of sleeping for ever. Set once, by `shut_down`.
    ending: AtomicBool,
    /// It ends once all tasks have; see [`shutdown`]. Written under the lock of `idle`.
    closing: AtomicBool,
    /// What runs then, before the threads are let go, or null. Taken under the lock of `idle`.
    last: AtomicPtr<Task>,
    origin: Instant,
    /// Tasks submitted, and wakes given, by threads that are no machine of ours.
    foreign: Lock<Foreign>,
}

#[derive(Debug, Default)]
struct Foreign {
    spawned: u64,
    wakes: u64,
    /// No more come from there.
    closed: bool,
}

/// Why a task was not queued. It is its caller's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The scheduler is closed to those who are no task of it.
    Closed,
    /// There is no thread that could run it, and none is to be had.
    NoThread,
}

impl Scheduler {
    /// Makes a scheduler, which lives as long as the process. No thread is started yet.
    pub fn new(config: Config) -> &'static Self {
        let origin = Instant::now();
        let count = slots_for(config.workers, config.exclusive, &config.layout);
        let workers: Vec<&'static Worker> = (0..count)
            .map(|slot| {
                let node = config.layout.node_of(slot);
                &*Box::leak(Box::new(Worker::new(slot, node, origin)))
            })
            .collect();
        let scheduler = Self {
            host: config.host,
            generation: fork::generation(),
            workers: AtomicUsize::new(config.workers.max(1)),
            budget: config.budget,
            follows_budget: AtomicBool::new(config.budget.is_some()),
            fibers: config.fibers,
            exclusive: config.exclusive,
            stall_after: config.stall_after,
            trace: config.trace,
            slots: Slots::new(&workers),
            nodes: (0..config.layout.nodes())
                .map(|_| CachePadded(NodeQueues::default()))
                .collect(),
            layout: config.layout,
            idle_workers: AtomicUsize::new(workers.len()),
            idle: Lock::new(Idle {
                free: workers,
                ..Idle::default()
            }),
            waiting_machines: AtomicUsize::new(0),
            orphans: AtomicUsize::new(0),
            searching: AtomicUsize::new(0),
            machines: Lock::new(Vec::new()),
            unstarted: Lock::new(Vec::new()),
            threads: AtomicU64::new(0),
            has_thread: AtomicBool::new(false),
            monitor: Monitor::default(),
            monitor_started: AtomicBool::new(false),
            spare_owed: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            last: AtomicPtr::new(ptr::null_mut()),
            origin,
            foreign: Lock::new(Foreign::default()),
        };
        Box::leak(Box::new(scheduler))
    }

    pub fn fibers(&self) -> bool {
        self.fibers
    }

    /// Whether it is of this process. In a forked child its parent's is not: it runs nothing, and a thread that does not
    /// exist there may hold any of its locks.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.generation == fork::generation()
    }

    fn new_worker(&self, slot: usize) -> &'static Worker {
        Box::leak(Box::new(Worker::new(
            slot,
            self.layout.node_of(slot),
            self.origin,
        )))
    }

    /// A machine without a thread.
    fn new_machine(&'static self) -> &'static Machine {
        if let Some(machine) = self.unstarted.lock().pop() {
            return machine;
        }
        let mut machines = self.machines.lock();
        let machine = Box::leak(Box::new(Machine::new(machines.len(), self)));
        machines.push(machine);
        machine
    }

    /// Has the host start `machine`'s thread.
    fn start_thread_of(&'static self, machine: &'static Machine) -> bool {
        let started = (self.host.start_machine)(machine);
        if started {
            self.threads.fetch_add(1, Ordering::Relaxed); // Ordering: Relaxed, a count.
        } else {
            self.keep_for_later(machine);
        }
        started
    }

    /// `machine` has no thread.
    fn keep_for_later(&self, machine: &'static Machine) {
        self.unstarted.lock().push(machine);
    }

    /// The same, and starts the monitor's with the first.
    fn start(&'static self, machine: &'static Machine) -> bool {
        if !self.start_thread_of(machine) {
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
        if !self.start_thread_of(machine) {
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

    /// The seats of the workers, and what they are bound to.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Queues a new task. It runs soon, on any worker; the scheduler runs it once.
    ///
    /// A task of this scheduler may submit others always; whoever else does is refused once it is closed.
    ///
    /// # Safety
    /// `task` is alive, new, and not queued; its reference to itself is the queue's from now on, unless it is refused.
    #[inline]
    pub unsafe fn submit(&'static self, task: NonNull<Task>) -> Result<(), Refused> {
        match Machine::current() {
            Some(machine) if ptr::eq(machine.scheduler, self) => {
                machine.counters().spawned.add(1);
                match machine.sound_worker() {
                    Some(worker) => self.push_local(worker, task),
                    None => self.inject(task),
                }
            }
            _ => {
                self.count_foreign()?;
                self.inject(task);
            }
        }
        self.notify();
        Ok(())
    }

    /// Runs a new task on a machine that is for this task alone, and ends with it. `NoThread`: there is none to be had,
    /// whatever other threads there are. It starts with a worker of `node`, an index that the layout gives, if one is idle.
    ///
    /// # Safety
    /// As for [`submit`](Self::submit).
    pub unsafe fn submit_alone(
        &'static self,
        node: Option<usize>,
        task: NonNull<Task>,
    ) -> Result<(), Refused> {
        // Not on the count of a machine, from which it could not be taken back.
        let mut foreign = self.foreign.lock();
        let is_ours = Machine::current().is_some_and(|machine| ptr::eq(machine.scheduler, self));
        if foreign.closed && !is_ours {
            return Err(Refused::Closed);
        }
        foreign.spawned += 1;
        drop(foreign);
        let machine = self.new_machine();
        machine.set_alone(task.as_ptr());
        // Ordering: Relaxed, before its thread is started, which orders it.
        machine.node.store(
            node.unwrap_or_else(|| self.caller_node()),
            Ordering::Relaxed,
        );
        if self.start(machine) {
            return Ok(());
        }
        machine.set_alone(ptr::null_mut());
        self.foreign.lock().spawned -= 1;
        self.end_if_quiet();
        Err(Refused::NoThread)
    }

    /// Counts a task of somebody who is no task of this scheduler, and may queue it then.
    fn count_foreign(&'static self) -> Result<(), Refused> {
        self.start_first()?;
        let mut foreign = self.foreign.lock();
        if foreign.closed {
            return Err(Refused::Closed);
        }
        foreign.spawned += 1;
        Ok(())
    }

    /// Sees to it that there is a thread, before the first task is queued: without one nobody would ever look at it.
    #[inline]
    fn start_first(&'static self) -> Result<(), Refused> {
        // Ordering: Relaxed, a flag that stays set; the queues order the rest.
        if self.has_thread.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut idle = self.idle.lock();
        let Some(worker) = idle.find_worker(self.distance_from(self.caller_node())) else {
            return Ok(()); // another thread is about to start the first
        };
        self.publish(&idle);
        if !self.give_to_spare(idle, worker, false) {
            return Err(Refused::NoThread);
        }
        self.has_thread.store(true, Ordering::Relaxed); // Ordering: Relaxed, as above.
        Ok(())
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
            self.nodes[worker.node].injector.push_all(&overflow.tasks);
        }
    }

    /// Queues a task that a woken waiter belongs to: on the worker that woke it, next in turn.
    fn requeue_woken(&'static self, task: NonNull<Task>) {
        let machine = self.count_wake();
        if let Some(worker) = machine.and_then(Machine::sound_worker) {
            // Alone, it needs no searcher: its waker is about to wait, most likely. If it goes on for long
            // instead, the monitor sees to it.
            if let Some(displaced) = worker.queue.push_next(task) {
                self.push_local(worker, displaced);
                self.notify();
            }
        } else {
            self.inject(task);
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
            None => self.inject(task),
        }
        self.notify();
    }

    /// Ends the wait `epoch` of `waiter` at `deadline`. Called by a task, which is about to park.
    pub fn set_timer(&'static self, deadline: Instant, waiter: WaiterRef, epoch: Epoch) {
        let worker = self.local_worker().unwrap_or_else(|| self.slots.first());
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

    /// How many may run at once, as asked for.
    pub fn workers(&self) -> usize {
        // Ordering: Relaxed, a number to show.
        self.workers.load(Ordering::Relaxed)
    }

    /// After how long a task that keeps others from their thread is reported.
    pub fn stall_after(&self) -> Duration {
        self.stall_after
    }

    pub fn totals(&self) -> Totals {
        let machines = self.machines.lock();
        let foreign = self.foreign.lock();
        let sum = |field: fn(&Counters) -> u64| machines.iter().map(|m| field(m.counters())).sum();
        // In this order, so that no task is seen to have started, or finished, that is not seen before it did.
        let finished = sum(|c| c.finished.get());
        let started = sum(|c| c.started.get());
        let spawned: u64 = sum(|c| c.spawned.get());
        Totals {
            spawned: spawned + foreign.spawned,
            started,
            finished,
            parks: sum(|c| c.parks.get()),
            wakes: sum(|c| c.wakes.get()) + foreign.wakes,
            steals: sum(|c| c.steals.get()),
            remote_steals: sum(|c| c.remote_steals.get()),
            handoffs: sum(|c| c.handoffs.get()),
            threads: self.threads.load(Ordering::Relaxed), // Ordering: Relaxed, a count.
        }
    }

    /// Gives the calling thread's machine, if it is one of ours.
    #[inline]
    fn count_wake(&'static self) -> Option<&'static Machine> {
        let machine = Machine::current().filter(|machine| ptr::eq(machine.scheduler, self));
        match machine {
            Some(machine) => machine.counters().wakes.add(1),
            None => self.foreign.lock().wakes += 1,
        }
        machine
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
    scheduler.requeue_woken(task);
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
