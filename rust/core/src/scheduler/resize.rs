//! The slots: how many workers may run, and which; changed while they run.
//!
//! The table of slots is replaced as a whole and leaked, like the workers: whoever has an old one finds workers in it that are
//! orphans by now, which is what readers without the lock have to reckon with anyway.
//!
//! A slot that is gone leaves an orphan without an heir of its own: the machine that has it in hand gives it up at its next
//! turn, and what it still gets goes to the first slot, which is never gone. So fewer workers are a take-over for which
//! nobody comes: tasks that are parked on its thread wait for a worker like all others, and take turns.

use std::ptr;

use super::{Scheduler, idle::Idle, queue::Queue, worker::Worker};
use crate::{
    sync::{AtomicPtr, LockGuard, Ordering},
    topology::Layout,
};

type Table = Box<[AtomicPtr<Worker>]>;

/// How many slots there are where so many may run at once.
///
/// Where the embedder lets one thread run at a time, a second running worker only takes the interpreter away from the first.
/// The others come in as the monitor sees that one blocked.
pub fn slots_for(workers: usize, exclusive: bool, layout: &Layout) -> usize {
    if exclusive {
        1
    } else {
        workers.clamp(1, layout.seats())
    }
}

/// The workers that may run. Each slot always has one; changed under the lock of `idle`.
#[derive(Debug)]
pub struct Slots(AtomicPtr<Table>);

fn leak(workers: &[&'static Worker]) -> *mut Table {
    let slots = workers.iter();
    let slots = slots.map(|worker| AtomicPtr::new(ptr::from_ref(*worker).cast_mut()));
    Box::into_raw(Box::new(slots.collect()))
}

fn load(slot: &AtomicPtr<Worker>) -> &'static Worker {
    // Ordering: Acquire pairs with the Release that put the worker there.
    // SAFETY: slots are never empty, and workers are leaked.
    unsafe { &*slot.load(Ordering::Acquire) }
}

impl Slots {
    pub fn new(workers: &[&'static Worker]) -> Self {
        Self(AtomicPtr::new(leak(workers)))
    }

    #[inline]
    pub fn get(&self) -> &'static [AtomicPtr<Worker>] {
        // Ordering: Acquire pairs with the Release in `set`.
        // SAFETY: tables are leaked.
        unsafe { &*self.0.load(Ordering::Acquire) }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.get().len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &'static Worker> {
        self.get().iter().map(load)
    }

    pub fn first(&self) -> &'static Worker {
        load(&self.get()[0])
    }

    /// Who has the slot of an orphan, or stands in for it.
    pub fn heir(&self, orphan: &Worker) -> &'static Worker {
        self.get()
            .get(orphan.slot)
            .map_or_else(|| self.first(), load)
    }

    /// Puts `worker` in its slot. The argument is the proof that the lock is held.
    pub fn put(&self, _: &mut Idle, worker: &'static Worker) {
        // Ordering: Release publishes the worker to the Acquire in `load`.
        self.get()[worker.slot].store(ptr::from_ref(worker).cast_mut(), Ordering::Release);
    }

    /// As above.
    fn set(&self, _: &mut Idle, workers: &[&'static Worker]) {
        // Ordering: Release publishes the table to the Acquire in `get`.
        self.0.store(leak(workers), Ordering::Release);
    }
}

impl Idle {
    /// Takes `worker` from where it is while nobody runs it; `false`: somebody does.
    fn take_idle(&mut self, worker: &'static Worker) -> bool {
        if let Some(at) = self.free.iter().position(|free| ptr::eq(*free, worker)) {
            self.free.swap_remove(at);
            return true;
        }
        let holder = self.holder(worker);
        if let Some(machine) = holder {
            self.disarm(machine);
        }
        holder.is_some()
    }
}

impl Scheduler {
    /// A worker for `slot`: one that was there before, or a new one.
    pub(super) fn worker_for(&self, slot: usize, idle: &mut Idle) -> &'static Worker {
        let at = idle.pool.iter().position(|worker| worker.slot == slot);
        match at {
            Some(at) => idle.pool.swap_remove(at),
            None => self.new_worker(slot),
        }
    }

    /// Changes how many may run at once, whatever the budget says from now on. More come in as there is work; of fewer,
    /// one whose task runs goes when that parks or ends. Called on a thread that may drop a task.
    pub fn set_workers(&'static self, workers: usize) {
        let idle = self.idle.lock();
        self.follows_budget.store(false, Ordering::Relaxed); // Ordering: Relaxed, under the lock.
        self.resize(idle, workers);
    }

    /// The same for a number that was the budget a moment ago: nothing if somebody has set another since.
    pub(super) fn follow_budget(&'static self, workers: usize) {
        let idle = self.idle.lock();
        // Ordering: Relaxed, under the lock.
        if self.follows_budget.load(Ordering::Relaxed) {
            self.resize(idle, workers);
        }
    }

    fn resize(&'static self, mut idle: LockGuard<'static, Idle>, workers: usize) {
        // Ordering: Relaxed, a number to show.
        self.workers.store(workers.max(1), Ordering::Relaxed);
        let count = slots_for(workers, self.exclusive, &self.layout);
        let mut remaining: Vec<_> = self.slots.iter().collect();
        let gone = remaining.split_off(count.min(remaining.len()));
        let added: Vec<_> = (remaining.len()..count)
            .map(|slot| self.worker_for(slot, &mut idle))
            .collect();
        for worker in &added {
            worker.adopt(&mut idle);
        }
        remaining.extend(&added);
        self.slots.set(&mut idle, &remaining);
        for &worker in &gone {
            worker.orphan(); // after the table: whoever sees it looks for the heir there
            if idle.take_idle(worker) {
                worker.set_idle(&mut idle, true);
                idle.pool.push(worker);
            } else {
                idle.orphans.push(worker);
            }
        }
        self.publish(&idle);
        drop(idle);
        for worker in added {
            self.set_free(worker);
        }
        for worker in gone {
            self.empty(worker, &Queue::default());
            self.timer_added(worker);
        }
        self.notify();
        // What is bound to a node may have another home now.
        for (node, queues) in self.nodes.iter().enumerate() {
            if queues.bound.len() != 0 {
                self.wake_worker_for(node);
            }
        }
    }
}
