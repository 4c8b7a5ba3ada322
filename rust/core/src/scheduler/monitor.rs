//! The monitor: a native thread that notices workers whose task blocks its thread (Go's sysmon).
//!
//! A worker that has been at one task for the probation while other work waits for it is taken over: a spare
//! machine is woken, and once the embedder lets it run, it puts a new worker in the slot. The monitor
//! does not ask whether the task computes or waits. A take-over that came through at once shows that the task
//! had let the interpreter go, so the next one is tried sooner; one that came too late sets the time back.
//!
//! It never touches anything of the embedder's, and sleeps when all workers sleep.
//!
//! Having a clock, it also sees to it that pooled memory which nobody needs goes back to the system
//! ([`trim`]), in a program that has gone idle too: a spare machine does it.

use std::time::{Duration, Instant};

use super::{
    Machine, Scheduler,
    idle::{Mission, Order, Place},
    queue::Queue,
    stall,
    worker::Worker,
};
use crate::{
    memory::trim,
    park::Parker,
    sync::{AtomicBool, AtomicU64, Ordering, fence},
};

/// How long one task may keep a worker from waiting work: before anything is known, after a take-over that
/// found the interpreter free, and after several in a row.
const PROBATION: Duration = Duration::from_millis(10);
const PROBATION_SHORT: Duration = Duration::from_millis(1);
const PROBATION_SHORTEST: Duration = Duration::from_micros(200);
const STREAK: u32 = 4;
/// The same for a task that computes, where the embedder lets several threads run: a second thread for its worker
/// makes one more run than there are workers, which is worth it only where others would starve.
const PROBATION_COMPUTING: Duration = Duration::from_millis(100);
/// How long such a task is left alone before the monitor looks again.
const COMPUTING_PAUSE: Duration = Duration::from_millis(5);
/// After so many rounds in which it had nothing to do the monitor sleeps twice as long (Go's way), up to this.
const QUIET_ROUNDS: u32 = 50;
const INTERVAL_MAX: Duration = Duration::from_millis(5);
/// A take-over is "at once" within this time of its order.
const AT_ONCE: Duration = Duration::from_millis(2);
/// How often it asks how many workers there may be. That reads a few small files.
const BUDGET_INTERVAL: Duration = Duration::from_secs(1);
/// How long it goes on watching after the last worker fell asleep: a burst must not wake it each time.
const LINGER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Monitor {
    pub(super) parker: Parker,
    /// It sleeps until a worker wakes.
    pub(super) dormant: AtomicBool,
    probation_us: AtomicU64,
    /// Take-overs in a row that found the interpreter free. Written by machines that took over.
    streak: AtomicU64,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            parker: Parker::default(),
            dormant: AtomicBool::new(false),
            probation_us: AtomicU64::new(micros(PROBATION)),
            streak: AtomicU64::new(0),
        }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Monitor {
    /// A machine has been woken.
    pub fn workers_awake(&self) {
        // Ordering: SeqCst, the monitor says that it sleeps, then looks whether somebody is awake.
        if self.dormant.load(Ordering::SeqCst) && self.dormant.swap(false, Ordering::SeqCst) {
            self.parker.unpark();
        }
    }

    fn learned(&self, at_once: bool) {
        // Ordering: Relaxed throughout, a heuristic.
        if at_once {
            let streak = self.streak.fetch_add(1, Ordering::Relaxed);
            let probation = if streak >= u64::from(STREAK) {
                PROBATION_SHORTEST
            } else {
                PROBATION_SHORT
            };
            self.probation_us
                .store(micros(probation), Ordering::Relaxed);
        } else {
            self.streak.store(0, Ordering::Relaxed);
            self.probation_us
                .store(micros(PROBATION), Ordering::Relaxed);
        }
    }

    fn probation(&self) -> Duration {
        // Ordering: Relaxed, a heuristic.
        Duration::from_micros(self.probation_us.load(Ordering::Relaxed))
    }
}

/// What the monitor remembers of one slot.
#[derive(Clone, Copy)]
struct Seen {
    worker: *const Worker,
    turn: u64,
    since: Instant,
    /// Not to be looked at more closely before that.
    look_at: Instant,
    ordered: bool,
}

/// What the monitor found at a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watched {
    Idle,
    Runs,
    /// It was at one task for too long, and a machine was sent.
    TakenOver,
}

impl Scheduler {
    /// The monitor's thread.
    pub(super) fn watch(&'static self) {
        let mut seen: Vec<Option<Seen>> = Vec::new();
        let rescue = Queue::default();
        let mut last_awake = Instant::now();
        let mut quiet = 0_u32;
        let mut stalls = stall::Watch::default();
        let mut trace_at = None;
        let mut budget_at = last_awake + BUDGET_INTERVAL;
        let _pools = trim::on_due(move || self.monitor.workers_awake());
        // Ordering: Relaxed, a flag that is seen soon enough.
        while !self.stopping.load(Ordering::Relaxed) {
            let interval = self.monitor.probation() / 2 * (1 << (quiet / QUIET_ROUNDS).min(8));
            let now = Instant::now();
            self.monitor
                .parker
                .park(Some(now + interval.min(INTERVAL_MAX)));
            let now = Instant::now();
            let (mut awake, mut acted) = (false, false);
            seen.resize(self.slots.len(), None);
            for (worker, seen) in self.slots.iter().zip(&mut seen) {
                let watched = self.watch_slot(worker, seen, now);
                awake |= watched != Watched::Idle;
                acted |= watched == Watched::TakenOver;
            }
            self.rescue_from_orphans(&rescue);
            stalls.look(self, now);
            self.trace_if_due(&mut trace_at, now);
            self.look_at_budget(&mut budget_at, now);
            if trim::begin_due() {
                self.order(Order::TendPools); // without a spare machine it is due again in a while
            }
            quiet = if acted { 0 } else { quiet.saturating_add(1) };
            if awake {
                last_awake = now;
            } else if now - last_awake > LINGER {
                self.sleep_until_woken(trace_at);
                last_awake = Instant::now();
            }
        }
    }

    fn watch_slot(
        &'static self,
        worker: &'static Worker,
        seen: &mut Option<Seen>,
        now: Instant,
    ) -> Watched {
        if worker.is_idle() {
            *seen = None;
            return Watched::Idle;
        }
        let turn = worker.turn();
        match seen {
            Some(last) if last.turn == turn && std::ptr::eq(last.worker, worker) => {
                let stuck = now >= last.look_at && now - last.since >= self.monitor.probation();
                if stuck && !last.ordered && self.waits_behind(worker, now) {
                    if now - last.since < PROBATION_COMPUTING && self.only_computes(worker) {
                        last.look_at = now + COMPUTING_PAUSE;
                    } else {
                        last.ordered = self.order_take_over(worker, turn, now);
                        return Watched::TakenOver;
                    }
                }
            }
            _ => {
                *seen = Some(Seen {
                    worker,
                    turn,
                    since: now,
                    look_at: now,
                    ordered: false,
                });
            }
        }
        Watched::Runs
    }

    /// Whether the task that keeps `worker` is at work, and nothing is gained by a second thread. Where one thread
    /// runs at a time the interpreter decides that, and lets the others in now and then.
    fn only_computes(&self, worker: &'static Worker) -> bool {
        if self.exclusive {
            return false;
        }
        let machine = {
            let machines = self.machines.lock();
            machines.iter().copied().find(|one| one.holds(worker))
        };
        machine.is_some_and(Machine::computes)
    }

    fn waits_behind(&self, worker: &Worker, now: Instant) -> bool {
        !worker.queue.is_empty()
            || self.is_injected()
            || self.is_bound(worker.node)
            // Ordering: Relaxed, a hint.
            || self.waiting_machines.load(Ordering::Relaxed) != 0
            || worker.timers.next().is_some_and(|deadline| deadline <= now)
    }

    fn order_take_over(&'static self, worker: &'static Worker, turn: u64, now: Instant) -> bool {
        self.order(Order::TakeOver(Mission {
            worker,
            turn,
            issued: now,
        }))
    }

    /// Follows the budget, if it is time to look at it. While nothing runs the monitor sleeps, and does not look.
    pub(super) fn look_at_budget(&'static self, due_at: &mut Instant, now: Instant) {
        // Ordering: Relaxed, a hint; `follow_budget` decides under the lock.
        let Some(budget) = self
            .budget
            .filter(|_| self.follows_budget.load(Ordering::Relaxed))
        else {
            return;
        };
        if now < *due_at {
            return;
        }
        *due_at = now + BUDGET_INTERVAL;
        let workers = budget();
        if workers != self.workers() {
            self.order(Order::Resize(workers)); // without a spare machine it is tried again next time
        }
    }

    /// Wakes a spare machine for `order`. `false`: there is none now.
    pub(super) fn order(&'static self, order: Order) -> bool {
        let mut idle = self.idle.lock();
        let Some(&machine) = idle.spares.last() else {
            return false;
        };
        idle.put(machine, Place::Awake);
        machine.set_order(&mut idle, order);
        self.publish(&idle);
        drop(idle);
        machine.parker.unpark();
        true
    }

    /// On the spare machine: puts a new worker in the slot, unless the old one has moved on.
    pub(super) fn take_over(&'static self, machine: &'static Machine, mission: &Mission) {
        let at_once = mission.issued.elapsed() < AT_ONCE;
        // The next spare machine comes first: its start takes longer than the shortest probation, and whoever has a
        // worker is taken to be at a task.
        if self.idle.lock().spares.is_empty() {
            self.start_spare();
        }
        let old = mission.worker;
        let mut idle = self.idle.lock();
        let same = !old.is_orphaned() && old.turn() == mission.turn && !old.is_idle();
        if !same {
            drop(idle);
            self.monitor.learned(false);
            return;
        }
        let new = self.worker_for(old.slot, &mut idle);
        new.adopt(&mut idle);
        self.slots.put(&mut idle, new);
        old.orphan();
        idle.orphans.push(old);
        machine.put_worker(new);
        self.publish(&idle);
        drop(idle);
        self.monitor.learned(at_once);
        machine.count_handoff();
        new.timers.take_over(&old.timers);
        self.empty(old, &new.queue);
        self.notify();
    }

    /// Moves what is in `from`'s queue to the injector, by way of `through`, whose owner the caller is.
    pub(super) fn empty(&self, from: &Worker, through: &Queue) {
        let injector = &self.nodes[from.node].injector;
        while let Some((task, _)) = from.queue.steal_into(through, 1) {
            injector.push(task);
            while let Some(task) = through.pop() {
                injector.push(task);
            }
        }
        if let Some(task) = from.queue.take_next() {
            injector.push(task);
        }
    }

    /// A machine that has lost its slot may go on pushing to its old queue for a moment, or for as long as
    /// its task runs and takes no notice.
    pub(super) fn rescue_from_orphans(&'static self, through: &Queue) {
        // Ordering: Relaxed, a hint; the next round sees it.
        if self.orphans.load(Ordering::Relaxed) == 0 {
            return;
        }
        let orphans = self.idle.lock().orphans.clone();
        for orphan in orphans {
            if !orphan.queue.is_empty() {
                self.empty(orphan, through);
                // Ordering: SeqCst, a submitter's half of README.md's proof.
                fence(Ordering::SeqCst);
                self.wake_sleeping_machine();
            }
        }
    }

    /// Wakes a machine that can run at once; unlike `wake_searcher` it starts no thread.
    fn wake_sleeping_machine(&'static self) {
        let sleeper = self.idle.lock().sleepers.last().copied();
        if let Some(machine) = sleeper {
            machine.parker.unpark(); // it looks around, and sleeps again if there is nothing
        }
    }

    /// Or until `deadline`, or the pools of buffers are to be looked after.
    pub(super) fn sleep_until_woken(&'static self, deadline: Option<Instant>) {
        // Ordering: SeqCst, see `workers_awake`.
        self.monitor.dormant.store(true, Ordering::SeqCst);
        let idle = self.slots.iter().all(Worker::is_idle);
        let orphans = self.orphans.load(Ordering::SeqCst) != 0;
        if idle && !orphans {
            let pools_at = trim::due_in().map(|time| Instant::now() + time);
            self.monitor
                .parker
                .park(deadline.into_iter().chain(pools_at).min());
        }
        self.monitor.dormant.store(false, Ordering::SeqCst);
    }
}
