//! Looking for work in other workers' queues.

use std::{
    ptr::{self, NonNull},
    time::Duration,
};

use super::{
    super::{victims::Victims, worker::Worker},
    Machine,
};
use crate::{
    sync::{Ordering, spin_until},
    task::Task,
};

/// How long its owner may keep a task that is alone in its queue from thieves (Go: 3 us; a parking fiber needs more). About
/// the time it takes to wake a thief.
const LONE_TASK_DELAY: Duration = Duration::from_micros(20);

impl Machine {
    pub(in crate::scheduler) fn set_searching(&self) {
        // Ordering: Relaxed, published by the wake.
        self.searching.store(true, Ordering::Relaxed);
    }

    pub(in crate::scheduler) fn unset_searching(&self) {
        // Ordering: Relaxed, as above.
        self.searching.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_searching(&self) -> bool {
        // Ordering: Relaxed, its thread's while it is awake.
        self.searching.load(Ordering::Relaxed)
    }

    /// Counts as searching, unless half of the workers that are awake do.
    pub(super) fn begin_search(&self) -> bool {
        if self.is_searching() {
            return true;
        }
        let scheduler = self.scheduler;
        // Ordering: SeqCst throughout, counts that are also changed under the lock.
        let idle = scheduler.idle_workers.load(Ordering::SeqCst);
        let awake = scheduler.slots.len().saturating_sub(idle);
        if 2 * scheduler.searching.load(Ordering::SeqCst) >= awake {
            return false;
        }
        scheduler.searching.fetch_add(1, Ordering::SeqCst);
        self.set_searching();
        true
    }

    /// Stops to count as searching. Having found something, the last one wakes the next if more is there: see README.md.
    pub(super) fn stop_searching(&'static self, found: bool) {
        if !self.is_searching() {
            return;
        }
        self.unset_searching();
        if let Some(node) = self.own().searches_far_of.take() {
            self.scheduler.nodes[node].end_far_search();
        }
        // Ordering: SeqCst, the searcher's half of the proof: give the count up, then look at the queues.
        let is_last = self.scheduler.searching.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && found && self.scheduler.work_is_visible(self) {
            self.scheduler.notify();
        }
    }

    /// The others, `count` workers in all; the caller may be one too many, and none of them.
    pub(super) fn victims(&self, worker: &Worker, count: usize) -> Victims<'static> {
        Victims::of(&self.scheduler.layout, worker.slot, count)
    }

    /// Looks at other workers' queues, in the order of [`Victims`], four times. A task that is alone in its queue, and
    /// the one readied last, are taken only at the end and after a while: their owner may be about to run them, and a pair
    /// of tasks that talk to each other costs fifty times as much on two threads as on one. Queues of other nodes
    /// are left alone in the first pass, looked at here and there in the next, and all of them in the last.
    pub(super) fn search(&'static self, worker: &'static Worker) -> Option<NonNull<Task>> {
        const PASSES: u32 = 4;
        let scheduler = self.scheduler;
        let slots = scheduler.slots.get();
        let count = slots.len();
        // Ordering: SeqCst, counts that are also changed under the lock.
        let orphans = scheduler.orphans.load(Ordering::SeqCst);
        if count == 1 && orphans == 0 {
            return None;
        }
        if !self.begin_search() {
            return None; // enough of us search: more would only fight over the same queues
        }
        let victims = self.victims(worker, count);
        let mut random = self.own().random;
        let mut found = None;
        for pass in 1..=PASSES {
            let is_last = pass == PASSES;
            if is_last
                && scheduler
                    .slots
                    .iter()
                    .any(|victim| !victim.queue.is_empty())
            {
                spin_until(LONE_TASK_DELAY, || false);
            }
            let steal_at = |slot: usize| {
                // Ordering: Acquire pairs with the Release that put the worker there.
                // SAFETY: slots are never empty, and workers are leaked.
                let victim = unsafe { &*slots[slot].load(Ordering::Acquire) };
                self.steal(worker, victim, is_last)
            };
            found = victims.near(&mut random).find_map(steal_at);
            if found.is_none() && pass > 1 && victims.has_far() && self.may_search_far(worker) {
                found = if is_last {
                    let far = victims.far(&mut random).find_map(steal_at);
                    far.or_else(|| self.take_injected_far(worker))
                } else {
                    let mut looks = 0..victims.near_count();
                    looks.find_map(|_| victims.sample_far(&mut random).and_then(steal_at))
                };
            }
            if found.is_none() && orphans != 0 {
                let victims = scheduler.idle.lock().orphans.clone();
                found = victims
                    .iter()
                    .find_map(|&victim| self.steal(worker, victim, is_last));
            }
            if found.is_some() {
                break;
            }
        }
        self.own().random = random;
        found.or_else(|| self.take_injected(worker))
    }

    /// Takes half of the victim's queue, and what may only be taken in the last pass.
    fn steal(&self, worker: &Worker, victim: &Worker, is_last: bool) -> Option<NonNull<Task>> {
        if ptr::eq(victim, worker) {
            return None;
        }
        let least = if is_last { 1 } else { 2 };
        let stolen = victim.queue.steal_into(&worker.queue, least);
        let next = || victim.queue.take_next().map(|task| (task, 1));
        let (task, moved) = stolen.or_else(|| is_last.then(next).flatten())?;
        self.count_steals(moved.into(), victim.node != worker.node);
        Some(task)
    }

    /// One task from the injector of another node, the nearest that has any.
    fn take_injected_far(&self, worker: &Worker) -> Option<NonNull<Task>> {
        let scheduler = self.scheduler;
        let nodes = &scheduler.layout.by_distance(worker.node)[1..];
        let task = nodes
            .iter()
            .find_map(|&node| scheduler.nodes[node].injector.pop(0, |_| ()))?;
        self.count_steals(1, true);
        Some(task)
    }

    pub(in crate::scheduler) fn count_steals(&self, moved: u64, is_far: bool) {
        self.counters.steals.add(moved);
        if is_far {
            self.counters.remote_steals.add(moved);
        }
    }

    /// Whether this machine, which counts as searching, may look at other nodes: one of each node at a time.
    fn may_search_far(&'static self, worker: &Worker) -> bool {
        let own = self.own();
        if own.searches_far_of.is_none() && self.scheduler.nodes[worker.node].begin_far_search() {
            own.searches_far_of = Some(worker.node);
        }
        own.searches_far_of.is_some()
    }
}
