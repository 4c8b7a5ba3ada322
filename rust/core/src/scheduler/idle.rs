//! Where machines and workers are while they do not run, and who wakes which.
//!
//! One lock guards all of it; it is taken only when somebody goes to sleep, wakes up or waits for a worker.
//! README.md proves that no wake-up is lost.
//!
//! Invariant: a worker is either in the hands of exactly one machine (running it, or asleep with it), or in
//! `free`. A machine that is not `Awake` is in the list of its place, and only there.

use std::{cmp::Reverse, collections::VecDeque, time::Instant};

use super::{Machine, Scheduler, Stall, worker::Worker};
use crate::sync::{Ordering, fence};

/// What a machine does while it does not run. Written under the lock of [`Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It runs, or is on its way.
    Awake,
    /// Asleep with a worker, ready to run anything. In `sleepers`.
    Sleeping,
    /// Asleep with a worker, its thread taken by a parked task. In `sleepers`.
    Holding,
    /// Asleep without a worker, ready to run anything. In `spares`.
    Spare,
    /// Asleep without a worker, its thread taken by a parked task. In no list.
    Parked,
    /// It has ready stacks and no worker. In `waiting`.
    Waiting,
}

/// A spare machine's order to take over a slot whose worker has been at one task for too long.
#[derive(Clone, Copy, Debug)]
pub struct Mission {
    pub worker: &'static Worker,
    pub turn: u64,
    pub issued: Instant,
}

/// What the monitor wakes a spare machine for.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    TakeOver(Mission),
    /// The monitor cannot call the host itself.
    Report(Stall),
    /// Likewise, for the lines of the tasks in a trace.
    ShowTasks,
    /// Nor may it drop a task, or have a thread started: the budget allows so many workers now.
    Resize(usize),
    /// Nor may it use a pool of buffers: what nobody needed is to go back to the system.
    TendPools,
}

#[derive(Debug, Default)]
pub struct Idle {
    pub sleepers: Vec<&'static Machine>,
    pub spares: Vec<&'static Machine>,
    pub waiting: VecDeque<&'static Machine>,
    /// Workers in no machine's hands.
    pub free: Vec<&'static Worker>,
    /// Workers whose slot another has, still in the hands of a machine that does not answer.
    pub orphans: Vec<&'static Worker>,
    /// Orphans that came back, to be used again.
    pub pool: Vec<&'static Worker>,
}

fn take(list: &mut Vec<&'static Machine>, machine: &'static Machine) {
    let at = list.iter().position(|other| std::ptr::eq(*other, machine));
    list.swap_remove(at.expect("a machine is in the list of its place"));
}

impl Idle {
    /// Moves `machine` to `place`, and from the list of its old place to that of the new one.
    ///
    /// One step, never by way of `Awake`: a waker that saw a sleeping machine as awake would leave it asleep.
    pub fn put(&mut self, machine: &'static Machine, place: Place) {
        match machine.place(self) {
            Place::Awake | Place::Parked => {}
            Place::Sleeping | Place::Holding => take(&mut self.sleepers, machine),
            Place::Spare => take(&mut self.spares, machine),
            Place::Waiting => self.waiting.retain(|other| !std::ptr::eq(*other, machine)),
        }
        match place {
            Place::Awake | Place::Parked => {}
            Place::Sleeping | Place::Holding => self.sleepers.push(machine),
            Place::Spare => self.spares.push(machine),
            Place::Waiting => self.waiting.push_back(machine),
        }
        machine.set_place(self, place);
    }

    /// The machine that sleeps with `worker`.
    pub fn holder(&self, worker: &'static Worker) -> Option<&'static Machine> {
        let mut sleepers = self.sleepers.iter().copied();
        sleepers.find(|machine| machine.holds(worker))
    }

    /// Finds a worker that nobody runs, a free one or one that a sleeper has in hand: of those that `rank` gives a number
    /// the one with the lowest. Of equals rather a free one, or one of a machine whose thread is taken: the other
    /// machines can run something themselves.
    pub fn find_worker(
        &mut self,
        rank: impl Fn(&Worker) -> Option<u32>,
    ) -> Option<&'static Worker> {
        let free = self.free.iter().map(|&worker| (worker, None));
        let sleepers = self.sleepers.iter().copied();
        let asleep = sleepers.filter_map(|machine| Some((machine.worker()?, Some(machine))));
        let order = |sleeper: Option<&Machine>| match sleeper.map(|machine| machine.place(self)) {
            None => 0,
            Some(Place::Holding) => 1,
            Some(_) => 2,
        };
        let (_, worker, sleeper) = free
            .chain(asleep)
            .filter_map(|(worker, sleeper)| {
                Some(((rank(worker)?, order(sleeper)), worker, sleeper))
            })
            .max_by_key(|(key, ..)| Reverse(*key))?; // the last of the lowest
        if let Some(machine) = sleeper {
            self.disarm(machine);
        } else {
            self.free.retain(|other| !std::ptr::eq(*other, worker));
        }
        worker.set_idle(self, false);
        Some(worker)
    }

    /// Takes its worker from a machine that sleeps with one.
    pub fn disarm(&mut self, machine: &'static Machine) {
        let place = match machine.place(self) {
            Place::Holding => Place::Parked,
            _ => Place::Spare,
        };
        self.put(machine, place);
        machine.take_worker();
    }
}

impl Scheduler {
    /// Recounts what is read without the lock. Called under it, after each change.
    pub(super) fn publish(&self, idle: &Idle) {
        let workers = idle.sleepers.len() + idle.free.len();
        // Ordering: SeqCst, read by submitters after their fence; see README.md.
        self.idle_workers.store(workers, Ordering::SeqCst);
        self.waiting_machines
            .store(idle.waiting.len(), Ordering::SeqCst);
        self.orphans.store(idle.orphans.len(), Ordering::SeqCst);
    }

    /// There is new work that any worker may run: sees to it that one looks, if one is idle.
    #[inline]
    pub fn notify(&'static self) {
        if !self.exclusive {
            // Ordering: SeqCst, the submitter's half of README.md's proof: queue the task, fence, read the counts.
            fence(Ordering::SeqCst);
        }
        // Ordering: Relaxed, ordered by the fence.
        if self.idle_workers.load(Ordering::Relaxed) != 0
            && self.searching.load(Ordering::Relaxed) == 0
        {
            self.wake_searcher();
        }
    }

    /// Wakes one idle worker to search, unless one searches already.
    #[cold]
    pub(super) fn wake_searcher(&'static self) {
        let mut idle = self.idle.lock();
        // Ordering: SeqCst, under the lock; the count is also changed outside it.
        if self.searching.load(Ordering::SeqCst) != 0 {
            return;
        }
        // Rather a machine that only has to wake up than a worker that needs another thread.
        let distance = self.distance_from(self.caller_node());
        let sleepers = idle.sleepers.iter().copied().rev();
        let sleeper = sleepers
            .filter(|machine| machine.place(&idle) == Place::Sleeping)
            .min_by_key(|machine| machine.worker().and_then(&distance));
        if let Some(machine) = sleeper {
            idle.put(machine, Place::Awake);
            self.searching.fetch_add(1, Ordering::SeqCst); // Ordering: SeqCst, as above.
            machine.set_searching();
            self.publish(&idle);
            drop(idle);
            self.unpark(machine);
            return;
        }
        let Some(worker) = idle.find_worker(distance) else {
            return;
        };
        self.searching.fetch_add(1, Ordering::SeqCst); // Ordering: SeqCst, as above.
        self.publish(&idle);
        self.give_to_spare(idle, worker, true);
    }

    /// Has a spare machine, or a new one, run `worker`; `false`: there is no thread for one. Ends the lock.
    pub(super) fn give_to_spare(
        &'static self,
        mut idle: crate::sync::LockGuard<'_, Idle>,
        worker: &'static Worker,
        searching: bool,
    ) -> bool {
        if let Some(&machine) = idle.spares.last() {
            idle.put(machine, Place::Awake);
            machine.put_worker(worker);
            if searching {
                machine.set_searching();
            }
            let spare_left = !idle.spares.is_empty();
            self.publish(&idle);
            drop(idle);
            self.unpark(machine);
            if !spare_left {
                self.start_spare();
            }
            return true;
        }
        drop(idle);
        let machine = self.new_machine();
        machine.put_worker(worker);
        if searching {
            machine.set_searching();
        }
        let started = self.start(machine);
        if started {
            self.monitor.workers_awake();
        } else {
            machine.give_up_start();
        }
        started
    }

    /// Leaves `worker` to whoever comes by next, or gives it to the machine that has waited longest: while the worker was
    /// in no list that one may have looked for it in vain.
    pub(super) fn set_free(&'static self, worker: &'static Worker) {
        let mut idle = self.idle.lock();
        if worker.is_orphaned() {
            drop(idle);
            self.retire(worker);
            return;
        }
        if let Some(&waiting) = idle.waiting.front() {
            idle.put(waiting, Place::Awake);
            waiting.put_worker(worker);
            worker.set_idle(&mut idle, false);
            self.publish(&idle);
            drop(idle);
            self.unpark(waiting);
            return;
        }
        worker.set_idle(&mut idle, true);
        idle.free.push(worker);
        self.publish(&idle);
        drop(idle);
        self.end_if_quiet();
    }

    /// An orphan that was in hand till now is done with: passes on what is left in it, and keeps it for later.
    pub(super) fn retire(&'static self, worker: &'static Worker) {
        let mut left = Vec::new();
        while let Some(task) = worker.queue.take_next().or_else(|| worker.queue.pop()) {
            left.push(task.as_ptr());
        }
        self.nodes[worker.node].injector.push_all(&left);
        if worker.timers.next().is_some() {
            self.timer_added(worker); // set after the take-over
        }
        let mut idle = self.idle.lock();
        idle.orphans.retain(|other| !std::ptr::eq(*other, worker));
        idle.pool.push(worker);
        self.publish(&idle);
        drop(idle);
        self.notify();
    }

    /// A timer was added to a worker whose machine may sleep past it, or may have lost its slot since: sees to
    /// it that a machine looks at the timers again.
    pub(super) fn timer_added(&'static self, mut worker: &'static Worker) {
        let mut idle = self.idle.lock();
        while worker.is_orphaned() {
            drop(idle); // moving timers drops none, but takes their locks
            let heir = self.slots.heir(worker);
            heir.timers.take_over(&worker.timers);
            worker = heir;
            idle = self.idle.lock();
        }
        if let Some(at) = idle
            .free
            .iter()
            .position(|free| std::ptr::eq(*free, worker))
        {
            idle.free.swap_remove(at);
            worker.set_idle(&mut idle, false);
            self.publish(&idle);
            self.give_to_spare(idle, worker, false);
        } else if let Some(machine) = idle.holder(worker) {
            drop(idle);
            machine.parker.unpark(); // it sleeps again, but not for longer than the timer
        }
        // Else its machine is awake, and reads the deadline under the lock before it sleeps.
    }

    /// Sees to it that `machine`, which sleeps and has got a ready stack, runs.
    #[cold]
    pub(super) fn rouse(&'static self, machine: &'static Machine) {
        let mut idle = self.idle.lock();
        match machine.place(&idle) {
            Place::Awake | Place::Waiting => return,
            Place::Sleeping | Place::Holding => idle.put(machine, Place::Awake),
            Place::Spare | Place::Parked => {
                if let Some(worker) = idle.find_worker(self.distance_from(machine.node())) {
                    idle.put(machine, Place::Awake);
                    machine.put_worker(worker);
                } else {
                    idle.put(machine, Place::Waiting);
                    self.publish(&idle);
                    return;
                }
            }
        }
        self.publish(&idle);
        drop(idle);
        self.unpark(machine);
    }

    /// Lets a machine run on that has been taken out of its place, and the monitor watch again.
    pub(super) fn unpark(&self, machine: &'static Machine) {
        machine.parker.unpark();
        self.monitor.workers_awake();
    }

    /// Gives the worker of the calling machine to the machine that has waited longest for one.
    pub(super) fn give_to_waiting(&'static self, machine: &'static Machine) -> bool {
        // Ordering: Relaxed, a hint; the lock decides.
        if self.waiting_machines.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut idle = self.idle.lock();
        let Some(&next) = idle.waiting.front() else {
            return false;
        };
        idle.put(next, Place::Awake);
        next.put_worker(machine.take_worker());
        self.publish(&idle);
        drop(idle);
        machine.count_handoff();
        self.unpark(next);
        true
    }

    /// Whether anything is there that a worker without work of its own could run; on other nodes only while no machine of
    /// its node looks there.
    pub(super) fn work_is_visible(&self, machine: &Machine) -> bool {
        let node = machine.node();
        let only_near = self.nodes.len() > 1 && self.nodes[node].far_search_is_on();
        let queued = |worker: &'static Worker| !worker.queue.is_empty();
        let injected = if only_near {
            self.nodes[node].injector.len() != 0
        } else {
            self.is_injected()
        };
        injected
            || self.is_bound(node)
            || !machine.inbox.is_empty()
            // Ordering: SeqCst, after the stores of the machine that is about to sleep.
            || self.waiting_machines.load(Ordering::SeqCst) != 0
            || self
                .slots
                .iter()
                .any(|worker| (!only_near || worker.node == node) && queued(worker))
            || (self.orphans.load(Ordering::SeqCst) != 0
                && self.idle.lock().orphans.iter().copied().any(queued))
    }
}
