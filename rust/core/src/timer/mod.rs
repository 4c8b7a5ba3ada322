//! Deadlines: a heap per worker, which any worker may take over.
//!
//! A timer ends one wait of one waiter. It is never taken out when that wait ends otherwise: its claim
//! fails then, because the epoch is over. So that timers of ended waits cannot pile up, a push sweeps
//! them out each time the heap has doubled; the cost is constant per push on average.
//!
//! A timer holds a reference to its waiter, so a heap is used by threads only that may drop one.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

use crate::{
    sync::{AtomicU64, Lock, Ordering},
    wait::{Epoch, Outcome, WaiterRef},
};

const NEVER: u64 = u64::MAX;
const SWEEP_FROM: usize = 64;

#[derive(Debug)]
struct Timer {
    deadline: Instant,
    waiter: WaiterRef,
    epoch: Epoch,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.deadline == other.deadline
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.deadline.cmp(&other.deadline)
    }
}

#[derive(Debug, Default)]
struct Heap {
    timers: BinaryHeap<Reverse<Timer>>,
    sweep_at: usize,
}

/// The timers of one worker.
#[derive(Debug)]
pub struct Timers {
    heap: Lock<Heap>,
    /// The earliest deadline in nanoseconds since `origin`, or `NEVER`: read without the lock.
    next: AtomicU64,
    origin: Instant,
}

impl Timers {
    /// `origin` is the same for all heaps of a scheduler.
    pub fn new(origin: Instant) -> Self {
        Self {
            heap: Lock::new(Heap::default()),
            next: AtomicU64::new(NEVER),
            origin,
        }
    }

    fn publish_next(&self, heap: &Heap) {
        let next = heap.timers.peek().map_or(NEVER, |Reverse(timer)| {
            let since = timer.deadline.saturating_duration_since(self.origin);
            u64::try_from(since.as_nanos()).unwrap_or(NEVER - 1)
        });
        // Ordering: Relaxed, a hint: who acts on it takes the lock.
        self.next.store(next, Ordering::Relaxed);
    }

    /// Ends the wait `epoch` of `waiter` at `deadline`, unless it has ended by then.
    pub fn push(&self, deadline: Instant, waiter: WaiterRef, epoch: Epoch) {
        let mut ended = BinaryHeap::new(); // dropped after the lock: a reference may be the last
        let mut heap = self.heap.lock();
        if heap.timers.len() >= heap.sweep_at.max(SWEEP_FROM) {
            let (waiting, over) = std::mem::take(&mut heap.timers)
                .into_iter()
                .partition(|Reverse(timer)| timer.waiter.armed() == Some(timer.epoch));
            heap.timers = waiting;
            ended = over;
            heap.sweep_at = heap.timers.len() * 2;
        }
        heap.timers.push(Reverse(Timer {
            deadline,
            waiter,
            epoch,
        }));
        self.publish_next(&heap);
        drop(heap);
        drop(ended);
    }

    /// The earliest deadline, of a wait that may have ended already.
    pub fn next(&self) -> Option<Instant> {
        // Ordering: Relaxed, see `publish_next`.
        match self.next.load(Ordering::Relaxed) {
            NEVER => None,
            nanos => Some(self.origin + std::time::Duration::from_nanos(nanos)),
        }
    }

    /// Whether a timer here may still end a wait.
    pub fn is_armed(&self) -> bool {
        let heap = self.heap.lock();
        heap.timers
            .iter()
            .any(|Reverse(timer)| timer.waiter.armed() == Some(timer.epoch))
    }

    /// Ends every wait whose deadline has passed, and says how many it ended.
    pub fn fire(&self, now: Instant) -> usize {
        let mut fired = 0;
        loop {
            let mut heap = self.heap.lock();
            let due = heap
                .timers
                .peek()
                .is_some_and(|Reverse(timer)| timer.deadline <= now);
            if !due {
                return fired;
            }
            let Some(Reverse(timer)) = heap.timers.pop() else {
                return fired;
            };
            self.publish_next(&heap);
            drop(heap); // a wake takes other locks
            if let Some(claim) = timer.waiter.claim(timer.epoch) {
                fired += 1;
                claim.complete(Outcome::TimedOut);
            }
        }
    }

    /// Moves all timers here: their worker is stuck.
    pub fn take_over(&self, other: &Timers) {
        let taken = {
            let mut heap = other.heap.lock();
            let taken = std::mem::take(&mut heap.timers);
            other.publish_next(&heap);
            taken
        };
        if !taken.is_empty() {
            let mut heap = self.heap.lock();
            heap.timers.extend(taken);
            self.publish_next(&heap);
        }
    }
}
