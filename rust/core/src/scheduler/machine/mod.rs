//! The machine (M): a thread that runs tasks for a worker, and the stacks on it.
//!
//! The loop takes, in this order: a ready stack of its own, the task readied last, the local queue, the
//! injector, another worker's queue. Each 61st turn it looks at the injector and at the machines that wait for
//! a worker first, so that neither starves behind tasks that keep readying each other.
//!
//! A task runs directly on the loop's stack. When it parks, the loop stays behind with it and the machine goes on
//! on another stack: one that is ready, an idle loop, or a new one. A stack never leaves its thread.
//!
//! What it does besides is in files of their own: [`search`] for work elsewhere, [`parking`], [`pinned`] coroutines, and
//! machines that are there for one task [`alone`], whether to look elsewhere at all ([`haul`]), and what the host may do
//! before it sleeps ([`window`]).
//!
//! Frames here lie under the embedder's code, through which a thread may be ended by a forced unwind: no
//! value with a destructor is alive across a call that runs a task, switches stacks or sleeps.

mod alone;
mod haul;
mod parking;
mod pinned;
mod search;
mod window;

use std::{
    cell::Cell,
    ptr::{self, NonNull},
    time::{Duration, Instant},
};

use haul::Haul;
pub use window::Window;

use super::{
    Scheduler, Stack,
    idle::{Idle, Order, Place},
    loops::Loops,
    stack::{Inbox, StackQueue},
    stats::Counters,
    victims::Random,
    worker::Worker,
};
use crate::{
    park::{Parker, ThreadId, computes, current_thread},
    sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, UnsafeCell, spin_until},
    task::Task,
};

/// Turns between two looks at the injector and the waiting machines. Prime, so that it does not beat with
/// patterns in the load (Go's number).
pub(super) const FAIRNESS_TURNS: u32 = 61;
/// Ready stacks resumed in a row while queued tasks wait: a pair that readies each other for ever must
/// not starve them.
const STACKS_IN_A_ROW: u32 = 16;
/// How long ready stacks let queued tasks go first that end at once: some forty switches.
pub(super) const READY_DELAY: Duration = Duration::from_micros(20);
/// How often in a row the task readied last goes before the queue.
const RUN_NEXT_IN_A_ROW: u32 = 16;
/// Tasks moved from the injector at once.
const INJECTOR_BATCH: usize = 128;
/// How long a machine with parked stacks looks out for one before it sleeps, where others run meanwhile: two tasks
/// that answer each other from two threads save two wake-ups a round.
const LOOK_OUT: Duration = Duration::from_micros(20);
/// How long a spare machine stays before its thread ends, and how many stay anyway.
const SPARE_TIME: Duration = Duration::from_secs(10);
const SPARES_KEPT: usize = 4;

crate::sync::per_thread! {
    static CURRENT: Cell<Option<&'static Machine>> = Cell::new(None);
}

/// How the task that just ran left its turn.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Turn {
    #[default]
    Parked,
    /// It gave it up: queued tasks go first, once.
    Yielded,
    /// It came back to the loop that ran it.
    Ended,
}

/// What only the machine's own thread touches.
#[derive(Debug, Default)]
struct Own {
    /// Stacks whose task can go on.
    ready: StackQueue,
    loops: Loops,
    /// Every stack there is, each in its place.
    stacks: Vec<NonNull<Stack>>,
    turn: u32,
    stacks_in_a_row: u32,
    next_in_a_row: u32,
    /// Coroutines pinned to it.
    pinned: usize,
    random: Random,
    haul: Haul,
    /// The node for which it looks at others.
    searches_far_of: Option<usize>,
    last_turn: Turn,
    /// Since when ready stacks let queued tasks go first.
    deferring: Option<Instant>,
    /// Idle loops that are resumed return.
    ends_loops: bool,
    /// When the host wants to be asked again what it does with an idle window.
    ask_at: Option<Instant>,
    /// The thread is about to end.
    retiring: bool,
}

#[derive(Debug)]
pub struct Machine {
    pub id: usize,
    /// It has its thread. Set by that thread.
    entered: AtomicBool,
    /// Which thread that is, or 0. Set by it, read by the monitor.
    thread: AtomicU32,
    pub scheduler: &'static Scheduler,
    /// The worker in hand, or null. Written by its thread while it is awake, by others while it sleeps, under
    /// the lock of `idle`.
    worker: AtomicPtr<Worker>,
    /// Tasks parked on this thread, which alone writes it; the monitor reads it.
    parked: AtomicUsize,
    /// Stacks of this machine that other threads made ready.
    pub(super) inbox: Inbox,
    pub(super) parker: Parker,
    /// `place` is not `Awake`. Written with it, read by wakers without the lock.
    asleep: AtomicBool,
    /// It counts among the searching ones. Set by a waker before the wake, else its own thread's.
    searching: AtomicBool,
    place: UnsafeCell<Place>,
    order: UnsafeCell<Option<Order>>,
    /// The one task that it is for, or null. Written before its thread is started.
    alone: AtomicPtr<Task>,
    /// The node of the worker it had last. Written by its thread, read by who looks for a worker for it.
    pub(super) node: AtomicUsize,
    /// What its thread is bound to, as the layout numbers it. Its thread's.
    pub(super) bound: Cell<Option<usize>>,
    /// The stack that runs. Its thread's.
    current: Cell<*mut Stack>,
    own: UnsafeCell<Own>,
    pub(super) counters: Counters,
}

// SAFETY: `place` and `order` are guarded by the lock of `idle`, `own`, `bound` and `current` belong to the machine's
// thread, the rest is atomic.
unsafe impl Send for Machine {}
// SAFETY: as above.
unsafe impl Sync for Machine {}

#[derive(Debug)]
pub(super) enum Next {
    Stack(NonNull<Stack>),
    Task(NonNull<Task>),
    Return,
}

impl Next {
    /// What a ready stack, or a ticket, is there for.
    #[inline]
    fn of(ready: NonNull<Stack>) -> Self {
        // SAFETY: ready, so it is alive.
        match unsafe { ready.as_ref() }.coroutine() {
            Some(task) => Next::Task(task),
            None => Next::Stack(ready),
        }
    }
}

impl Machine {
    pub(super) fn new(id: usize, scheduler: &'static Scheduler) -> Self {
        Self {
            id,
            entered: AtomicBool::new(false),
            thread: AtomicU32::new(0),
            scheduler,
            worker: AtomicPtr::new(ptr::null_mut()),
            parked: AtomicUsize::new(0),
            inbox: Inbox::default(),
            parker: Parker::default(),
            asleep: AtomicBool::new(false),
            searching: AtomicBool::new(false),
            place: UnsafeCell::new(Place::Awake),
            order: UnsafeCell::new(None),
            alone: AtomicPtr::new(ptr::null_mut()),
            node: AtomicUsize::new(0),
            bound: Cell::new(None),
            current: Cell::new(ptr::null_mut()),
            own: UnsafeCell::new(Own {
                random: Random::new(u32::try_from(id).unwrap_or(0)),
                ..Own::default()
            }),
            counters: Counters::default(),
        }
    }

    /// The machine of the calling thread.
    #[inline]
    pub fn current() -> Option<&'static Machine> {
        CURRENT.with(Cell::get)
    }

    /// In a forked child: this thread is an ordinary one.
    pub fn forget_current() {
        if let Some(machine) = CURRENT.with(|current| current.replace(None)) {
            machine.unsettle();
        }
    }

    /// The calling thread, which the host started for this machine, is it from now on. `false`: another one is, because
    /// the host started two, and this one is to end.
    #[must_use]
    pub fn enter(&'static self) -> bool {
        // Ordering: Relaxed, whichever comes first; a started thread is ordered by its start.
        let is_first = !self.entered.swap(true, Ordering::Relaxed);
        if is_first {
            CURRENT.with(|current| current.set(Some(self)));
            // Ordering: Relaxed, for the monitor, which sees it soon enough.
            self.thread.store(current_thread(), Ordering::Relaxed);
            if let Some(worker) = self.worker() {
                self.settle(worker);
            }
        }
        is_first
    }

    // ---- guarded by the lock of `idle`: the argument is the proof that it is held ----

    pub(super) fn place(&self, _: &Idle) -> Place {
        // SAFETY: the lock is held.
        unsafe { *self.place.get() }
    }

    pub(super) fn set_place(&self, _: &mut Idle, place: Place) {
        // SAFETY: the lock is held.
        unsafe { *self.place.get() = place };
        // Ordering: SeqCst, the sleeper's half of `push_ready`: say that we sleep, then look at the inbox.
        self.asleep.store(place != Place::Awake, Ordering::SeqCst);
    }

    pub(super) fn set_order(&self, _: &mut Idle, order: Order) {
        // SAFETY: the lock is held.
        unsafe { *self.order.get() = Some(order) };
    }

    // ---- the worker in hand ----

    #[inline]
    pub(super) fn worker(&self) -> Option<&'static Worker> {
        // Ordering: Acquire pairs with the Release in `put_worker`.
        // SAFETY: workers are leaked, never freed.
        unsafe { self.worker.load(Ordering::Acquire).as_ref() }
    }

    /// The worker in hand, if its slot is still its own.
    #[inline]
    pub(super) fn sound_worker(&self) -> Option<&'static Worker> {
        self.worker().filter(|worker| !worker.is_orphaned())
    }

    pub(super) fn put_worker(&self, worker: &'static Worker) {
        debug_assert!(self.worker().is_none(), "two workers in one hand");
        // Ordering: Release hands the worker's queue over to the Acquire in `worker`.
        self.worker
            .store(ptr::from_ref(worker).cast_mut(), Ordering::Release);
    }

    pub(super) fn take_worker(&self) -> &'static Worker {
        // Ordering: AcqRel, takes over what its last machine did with it.
        let worker = self.worker.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: workers are leaked, never freed.
        unsafe { worker.as_ref() }.expect("a worker is in hand")
    }

    /// There is no thread for it, or its thread cannot run: leaves the worker in hand to others.
    pub fn give_up_start(&'static self) {
        if self.worker().is_none() {
            return; // a spare one
        }
        let worker = self.take_worker();
        if self.is_searching() {
            self.unset_searching();
            // Ordering: SeqCst, also changed under the lock.
            self.scheduler.searching.fetch_sub(1, Ordering::SeqCst);
        }
        self.scheduler.set_free(worker);
    }

    /// The node of its worker, or of the one it had last, as the layout numbers it.
    pub fn node(&self) -> usize {
        // Ordering: Relaxed, a preference.
        let last = || self.node.load(Ordering::Relaxed);
        self.worker().map_or_else(last, |worker| worker.node)
    }

    /// Whether its thread computes, as far as one can tell: it does not wait for anything outside.
    pub(super) fn computes(&self) -> bool {
        // Ordering: Relaxed, see `enter`.
        computes(self.thread.load(Ordering::Relaxed))
    }

    /// Its thread, once it has one.
    pub fn thread(&self) -> ThreadId {
        // Ordering: Relaxed, see `enter`.
        self.thread.load(Ordering::Relaxed)
    }

    pub(super) fn holds(&self, worker: &'static Worker) -> bool {
        self.worker().is_some_and(|mine| ptr::eq(mine, worker))
    }

    /// What its worker has turned to last, while it runs one.
    pub(super) fn turn(&self) -> Option<u64> {
        self.worker()
            .filter(|worker| !worker.is_idle())
            .map(Worker::turn)
    }

    /// How many tasks are parked on its thread.
    pub fn parked(&self) -> usize {
        // Ordering: Relaxed, one writer; to others it is a figure.
        self.parked.load(Ordering::Relaxed)
    }

    fn set_parked(&self, parked: usize) {
        // Ordering: Relaxed, as above.
        self.parked.store(parked, Ordering::Relaxed);
    }

    pub(super) fn count_handoff(&self) {
        self.counters.handoffs.add(1);
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The stack that runs. The machine's thread only.
    #[inline]
    pub fn current_stack(&self) -> Option<&Stack> {
        // SAFETY: null, or the stack of the loop that runs, which outlives what it runs.
        unsafe { self.current.get().as_ref() }
    }

    /// The host has made `stack`. The machine's thread only.
    pub fn add_stack(&self, stack: NonNull<Stack>) {
        let stacks = &mut self.own().stacks;
        // SAFETY: just made, so it is alive.
        unsafe { stack.as_ref() }.place.set(stacks.len());
        stacks.push(stack);
    }

    /// The host is about to free `stack`. The machine's thread only.
    pub fn remove_stack(&self, stack: NonNull<Stack>) {
        let stacks = &mut self.own().stacks;
        // SAFETY: alive until the host frees it, as is every stack in the list.
        unsafe {
            let place = stack.as_ref().place.get();
            stacks.swap_remove(place);
            if let Some(moved) = stacks.get(place) {
                moved.as_ref().place.set(place);
            }
        }
    }

    /// All stacks of the machine.
    ///
    /// # Safety
    /// Its thread cannot run meanwhile, or is the calling one.
    pub unsafe fn stacks(&self) -> &[NonNull<Stack>] {
        &self.own().stacks
    }

    /// The host has made `stack` and is about to run [`work`](Self::work) on it.
    pub fn set_current_stack(&self, stack: NonNull<Stack>) {
        self.current.set(stack.as_ptr());
    }

    #[expect(
        clippy::mut_from_ref,
        reason = "one thread, and no reference outlives a line"
    )]
    fn own(&self) -> &mut Own {
        // SAFETY: called on the machine's thread only; each use ends before the next begins, and none is
        // alive across a call that may come back here.
        unsafe { &mut *self.own.get() }
    }

    // ---- the loop ----

    /// Runs tasks on the current stack until the thread is to end, once the host has ended its idle loops.
    ///
    /// # Safety
    /// Called by the host on the machine's thread, on a stack it named with
    /// [`set_current_stack`](Self::set_current_stack), inside the embedder's runtime (attached).
    pub unsafe fn work(&'static self) {
        // Ordering: Relaxed, see `set_alone`.
        if let Some(task) = NonNull::new(self.alone.load(Ordering::Relaxed)) {
            // SAFETY: the caller's promise.
            return unsafe { self.work_alone(task) };
        }
        loop {
            match self.next() {
                Next::Task(task) => {
                    if let Some(worker) = self.worker() {
                        worker.next_turn();
                    }
                    // SAFETY: taken from a queue, so it is alive and ours to run.
                    unsafe { Task::run(task) };
                    self.end_turn();
                }
                Next::Stack(stack) => {
                    if let Some(worker) = self.worker() {
                        worker.next_turn();
                    }
                    let me = self.current.get();
                    if let Some(me) = NonNull::new(me) {
                        self.own().loops.put(me);
                        self.switch(me, stack);
                    }
                    if self.own().ends_loops {
                        return;
                    }
                }
                Next::Return => return,
            }
        }
    }

    /// Leaves `from` behind and runs `to`, until somebody switches back.
    fn switch(&'static self, from: NonNull<Stack>, to: NonNull<Stack>) -> bool {
        self.current.set(to.as_ptr());
        // SAFETY: both are stacks of this thread, `from` is the one that runs, `to` one that waits.
        unsafe { (self.scheduler.host.switch)(from, to) }
    }

    /// After a loop has returned: an idle one that is to end too. The host resumes each until it has returned.
    pub fn take_idle_stack(&'static self) -> Option<NonNull<Stack>> {
        let own = self.own();
        let stack = if own.retiring {
            own.loops.take()
        } else {
            own.loops.take_surplus()
        };
        own.ends_loops = stack.is_some();
        stack
    }

    /// After that: the idle loop with which the thread goes on, or `None` if it is to end.
    pub fn take_next_loop(&'static self) -> Option<NonNull<Stack>> {
        if self.own().retiring {
            return None;
        }
        let stack = self.own().loops.take();
        debug_assert!(stack.is_some(), "some are kept");
        stack
    }

    /// What to run now, or that the loop is to end.
    #[inline(never)] // `work` stays on the stack of each parked task: what is inlined there is paid for by all of them
    pub(super) fn next(&'static self) -> Next {
        let scheduler = self.scheduler;
        loop {
            // Ordering: Relaxed, a flag that is seen soon enough.
            if scheduler.stopping.load(Ordering::Relaxed) {
                self.halt(false);
                self.own().retiring = true;
                return Next::Return;
            }
            if self.own().pinned != 0 && !scheduler.fibers {
                return Next::of(self.next_on_thread());
            }
            let Some(worker) = self.worker() else {
                if self.rest(false) {
                    self.own().retiring = true;
                    return Next::Return;
                }
                if self.own().loops.judge(Instant::now) {
                    return Next::Return;
                }
                continue;
            };
            if worker.is_orphaned() {
                // It may have been woken to search, and lost its slot on the way.
                self.stop_searching(false);
                self.give_up_orphan();
                continue;
            }
            if let Some(next) = self.find(worker) {
                self.stop_searching(true);
                return next;
            }
            // Without a worker it must not count as searching: nobody would be woken again.
            if self.worker().is_none() || scheduler.give_to_waiting(self) {
                self.stop_searching(true);
                continue;
            }
            if self.pauses(worker) {
                continue;
            }
            if let Some(task) = self.search(worker) {
                self.brought();
                self.stop_searching(true);
                return Next::Task(task);
            }
            self.stop_searching(false);
            if self.spends_window() {
                continue;
            }
            if !self.looks_out(worker) && self.rest(false) {
                self.own().retiring = true;
                return Next::Return;
            }
            if self.own().loops.judge(Instant::now) {
                return Next::Return;
            }
        }
    }

    /// Waits for a ready stack without sleeping, if one may well come soon.
    fn looks_out(&'static self, worker: &Worker) -> bool {
        let injector = &self.scheduler.nodes[worker.node].injector;
        !self.scheduler.exclusive
            && self.parked() != 0
            && spin_until(LOOK_OUT, || !self.inbox.is_empty() || injector.len() != 0)
    }

    /// Work that is here already: this thread's stacks, the worker's queue and timers, the injector.
    #[inline]
    pub(super) fn find(&'static self, worker: &'static Worker) -> Option<Next> {
        if !self.inbox.is_empty() {
            self.inbox.drain_into(&mut self.own().ready);
        }
        let own = self.own();
        own.turn = own.turn.wrapping_add(1);
        if own.turn.is_multiple_of(FAIRNESS_TURNS) {
            self.scheduler.start_owed_spare();
            if self.scheduler.give_to_waiting(self) {
                return None;
            }
            let turn = self.own().turn / FAIRNESS_TURNS;
            if let Some(task) = self.take_in_turn(worker, turn) {
                return Some(Next::Task(task));
            }
        }
        if let Some(deadline) = worker.timers.next() {
            let now = Instant::now();
            if deadline <= now {
                worker.timers.fire(now);
            }
        }
        let last = std::mem::take(&mut self.own().last_turn);
        let tasks_first = last == Turn::Yielded
            || self.own().stacks_in_a_row >= STACKS_IN_A_ROW
            || (last == Turn::Ended && self.defers(worker));
        let own = self.own();
        if !tasks_first && let Some(stack) = own.ready.pop_front() {
            own.deferring = None;
            own.stacks_in_a_row += 1;
            return Some(Next::of(stack));
        }
        own.stacks_in_a_row = 0;
        if let Some(task) = self.next_queued(worker) {
            return Some(Next::Task(task));
        }
        if let Some(stack) = self.own().ready.pop_front() {
            return Some(Next::of(stack));
        }
        if !self.spares_others()
            && let Some(task) = self.take_injected(worker)
        {
            self.brought();
            return Some(Next::Task(task));
        }
        self.scheduler.take_bound(worker.node).map(Next::Task)
    }

    /// A task came back to the loop that ran it.
    pub(in crate::scheduler) fn end_turn(&self) {
        let last = &mut self.own().last_turn;
        if *last == Turn::Parked {
            *last = Turn::Ended;
        }
    }

    /// Whether ready stacks let queued tasks go first for now: while those end at once, and not for long. A task that waits
    /// for a hundred others, or takes what they send, is then resumed once for many of them, not after each.
    #[inline]
    fn defers(&self, worker: &Worker) -> bool {
        let own = self.own();
        if own.ready.is_empty() || worker.queue.is_empty() {
            own.deferring = None;
            return false;
        }
        let now = Instant::now();
        now.duration_since(*own.deferring.get_or_insert(now)) < READY_DELAY
    }

    #[inline]
    fn next_queued(&self, worker: &Worker) -> Option<NonNull<Task>> {
        let own = self.own();
        if own.next_in_a_row < RUN_NEXT_IN_A_ROW
            && let Some(task) = worker.queue.take_next()
        {
            own.next_in_a_row += 1;
            return Some(task);
        }
        own.next_in_a_row = 0;
        worker.queue.pop().or_else(|| worker.queue.take_next())
    }

    fn take_injected(&self, worker: &Worker) -> Option<NonNull<Task>> {
        let injector = &self.scheduler.nodes[worker.node].injector;
        let waiting = injector.len();
        if waiting == 0 {
            return None;
        }
        let takers = self
            .victims(worker, self.scheduler.slots.len())
            .near_count()
            .max(1);
        let share = (waiting / takers).min(INJECTOR_BATCH);
        injector.pop(share, |task| {
            // The queue is empty and the batch is half of it, so it fits.
            let pushed = worker.queue.push(task);
            debug_assert!(pushed.is_ok(), "a batch does not fit");
        })
    }

    /// The slot has another worker: gives the old one back, with what is left in its queue.
    fn give_up_orphan(&'static self) {
        self.scheduler.retire(self.take_worker());
    }

    /// Sleeps until there is something to do. `occupied`: a parked task has the thread. Says whether the
    /// thread is to end.
    pub(super) fn rest(&'static self, occupied: bool) -> bool {
        let scheduler = self.scheduler;
        let (deadline, retire_at);
        debug_assert!(!self.is_searching(), "nobody else would be woken");
        // What others made ready decides where this machine waits.
        self.inbox.drain_into(&mut self.own().ready);
        {
            let mut idle = scheduler.idle.lock();
            let ready = !self.own().ready.is_empty();
            if ready && self.worker().is_some() {
                return false; // the second look below sees the inbox, not what was taken out of it
            }
            if self.worker().is_none()
                && ready
                && let Some(worker) = idle.find_worker(scheduler.distance_from(self.node()))
            {
                self.put_worker(worker);
                scheduler.publish(&idle);
                drop(idle);
                self.settle(worker);
                scheduler.monitor.workers_awake();
                return false;
            }
            let worker = self.worker();
            let place = match (worker, occupied, ready) {
                (Some(_), false, _) => Place::Sleeping,
                (Some(_), true, _) => Place::Holding,
                (None, _, true) => Place::Waiting,
                (None, true, false) => Place::Parked,
                (None, false, false) => Place::Spare,
            };
            // Also with a worker: it may be taken meanwhile, which makes a spare machine of this one.
            retire_at = (!occupied && !ready).then(|| Instant::now() + SPARE_TIME);
            let timer = worker.and_then(|worker| worker.timers.next());
            let judge_at = self.own().loops.judge_at(Instant::now);
            let ask_at = self.own().ask_at.take();
            deadline = [retire_at, timer, judge_at, ask_at]
                .into_iter()
                .flatten()
                .min();
            if let Some(worker) = worker {
                worker.set_idle(&mut idle, true);
            }
            idle.put(self, place);
            scheduler.publish(&idle);
        }
        scheduler.end_if_quiet();
        // The sleeper's half: say that we sleep, look once more. The stores under the lock and the loads here are SeqCst.
        let look_again = match self.worker() {
            Some(_) => scheduler.work_is_visible(self),
            None => !self.inbox.is_empty(),
        };
        if look_again {
            // It may be another's: one that counts as searching, and has not got to what it found yet.
            crate::sync::spin_hint();
        } else {
            // SAFETY: on the machine's thread, and nothing with a destructor is alive here.
            unsafe { (scheduler.host.idle)(self, deadline) };
        }
        self.end_rest(retire_at)
    }

    fn end_rest(&'static self, retire_at: Option<Instant>) -> bool {
        let scheduler = self.scheduler;
        let mut idle = scheduler.idle.lock();
        let place = self.place(&idle);
        let too_many = idle.spares.len() > SPARES_KEPT;
        idle.put(self, Place::Awake);
        if let Some(worker) = self.worker() {
            worker.set_idle(&mut idle, false);
        }
        // SAFETY: the lock is held.
        let order = unsafe { (*self.order.get()).take() };
        scheduler.publish(&idle);
        drop(idle);
        match order {
            Some(Order::TakeOver(mission)) => scheduler.take_over(self, &mission),
            // SAFETY: on a machine's thread, and nothing with a destructor is alive here.
            Some(Order::Report(stall)) => unsafe { (scheduler.host.on_stall)(&stall) },
            // SAFETY: as above.
            Some(Order::ShowTasks) => unsafe { (scheduler.host.show_tasks)(scheduler) },
            Some(Order::Resize(workers)) => scheduler.follow_budget(workers),
            // SAFETY: on a machine's thread, which the embedder lets run: it may use every pool.
            Some(Order::TendPools) => unsafe { crate::memory::trim::tend_all() },
            None => {}
        }
        if let Some(worker) = self.worker() {
            self.settle(worker);
            scheduler.monitor.workers_awake(); // a deadline woke it, maybe, and nobody else told
            scheduler.start_owed_spare();
        }
        place == Place::Spare
            && too_many
            && self.parked() == 0
            && self.own().pinned == 0
            && retire_at.is_some_and(|retire_at| retire_at <= Instant::now())
    }

    /// Nothing runs here any more. The process is about to end, most likely, so nothing is torn down; unless
    /// the scheduler is shut down, which ends the threads that no parked task has.
    fn halt(&'static self, occupied: bool) {
        // Ordering: Acquire pairs with the Release in `shut_down`, whose unpark comes after.
        while occupied || !self.scheduler.ending.load(Ordering::Acquire) {
            // SAFETY: on the machine's thread, and nothing with a destructor is alive here.
            unsafe { (self.scheduler.host.idle)(self, None) };
        }
    }

    pub(super) fn push_ready(&'static self, stack: NonNull<Stack>) {
        if Machine::current().is_some_and(|current| ptr::eq(current, self)) {
            self.own().ready.push_back(stack);
            return;
        }
        self.inbox.push(stack);
        // Ordering: SeqCst, see `Inbox::push`.
        if self.asleep.load(Ordering::SeqCst) {
            self.scheduler.rouse(self);
        }
    }
}
