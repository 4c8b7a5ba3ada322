//! A worker's run queue: a ring that its owner fills and empties, and from which others steal half.
//!
//! The owner alone moves `tail`. `head` moves by compare-and-swap, by the owner for one task or by a thief
//! for half of them; whoever moves it owns the slots it passed. Beside the ring stands `run_next`: the task
//! that was readied last, run before the ring while its data is warm. Thieves leave it alone until they have
//! found nothing else (Go's way: freely stealable, it costs a third of the throughput of a message relay;
//! never stealable, it waits for as long as its worker is busy).
//!
//! Invariant: `head <= tail <= head + CAPACITY` (wrapping), and slots `head..tail` hold tasks.
//!
//! The hardest race: a thief copies slots, the owner wraps around and overwrites them. The owner writes
//! a slot only when `tail - head < CAPACITY` for a `head` it has read, and `head` never moves back, so the
//! thief's compare-and-swap fails if its slots were given to somebody else meanwhile.
//!
//! Source: the local run queue of Go's scheduler. `crossbeam-deque` was the alternative: it has no bound, no
//! run-next, and a fence in each owner's pop.

use std::ptr::{self, NonNull};

use crate::{
    sync::{AtomicPtr, AtomicU32, CachePadded, Ordering},
    task::Task,
};

#[cfg(not(loom))]
const CAPACITY: u32 = 256;
#[cfg(loom)]
const CAPACITY: u32 = 2;

/// The ring is full: the half of it that the owner took out, and the task that did not fit.
#[derive(Debug)]
pub struct Overflow {
    pub tasks: [*mut Task; CAPACITY as usize / 2 + 1],
}

#[derive(Debug)]
pub struct Queue {
    /// Moved by the owner and by thieves.
    head: CachePadded<AtomicU32>,
    /// Moved by the owner, read by thieves.
    tail: CachePadded<AtomicU32>,
    /// Null, or the task readied last. Swapped by the owner, and by a thief as a last resort.
    run_next: AtomicPtr<Task>,
    slots: Box<[AtomicPtr<Task>]>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            head: CachePadded(AtomicU32::new(0)),
            tail: CachePadded(AtomicU32::new(0)),
            run_next: AtomicPtr::new(ptr::null_mut()),
            slots: (0..CAPACITY)
                .map(|_| AtomicPtr::new(ptr::null_mut()))
                .collect(),
        }
    }
}

impl Queue {
    #[inline]
    fn slot(&self, index: u32) -> &AtomicPtr<Task> {
        &self.slots[(index % CAPACITY) as usize]
    }

    /// A hint for everyone but the owner.
    pub fn is_empty(&self) -> bool {
        // Ordering: SeqCst, a machine that is about to sleep says so, then looks here.
        let head = self.head.load(Ordering::SeqCst);
        self.tail.load(Ordering::SeqCst) == head && self.run_next.load(Ordering::SeqCst).is_null()
    }

    /// How many are in it; a figure for everyone but the owner.
    pub fn len(&self) -> usize {
        // Ordering: Relaxed throughout, a figure.
        let next = !self.run_next.load(Ordering::Relaxed).is_null();
        let head = self.head.load(Ordering::Relaxed);
        let queued = self.tail.load(Ordering::Relaxed).wrapping_sub(head);
        queued as usize + usize::from(next)
    }

    /// Puts `task` last. Owner only.
    #[inline]
    pub fn push(&self, task: NonNull<Task>) -> Result<(), Box<Overflow>> {
        // Ordering: Relaxed, only the owner writes `tail`.
        let tail = self.tail.load(Ordering::Relaxed);
        // Ordering: Acquire pairs with the Release of `head` in `steal_into`: a slot seen free has been read.
        let head = self.head.load(Ordering::Acquire);
        if tail.wrapping_sub(head) < CAPACITY {
            // Ordering: Relaxed, published by `tail`.
            self.slot(tail).store(task.as_ptr(), Ordering::Relaxed);
            // Ordering: Release publishes the slot to the Acquire of `tail` in `steal_into`.
            self.tail.store(tail.wrapping_add(1), Ordering::Release);
            return Ok(());
        }
        self.overflow(task, head)
    }

    #[cold]
    fn overflow(&self, task: NonNull<Task>, head: u32) -> Result<(), Box<Overflow>> {
        const HALF: u32 = CAPACITY / 2;
        let mut tasks = [ptr::null_mut(); HALF as usize + 1];
        for (offset, task) in (0..HALF).zip(&mut tasks) {
            // Ordering: Relaxed, the owner wrote these slots itself.
            *task = self.slot(head.wrapping_add(offset)).load(Ordering::Relaxed);
        }
        // Ordering: Release on success, as in `pop`; Relaxed on failure, a thief made room.
        let moved = self.head.compare_exchange(
            head,
            head.wrapping_add(HALF),
            Ordering::Release,
            Ordering::Relaxed,
        );
        if moved.is_err() {
            return self.push(task);
        }
        tasks[HALF as usize] = task.as_ptr();
        Err(Box::new(Overflow { tasks }))
    }

    /// Puts `task` first, and gives back the one that was first. Owner only.
    #[inline]
    pub fn push_next(&self, task: NonNull<Task>) -> Option<NonNull<Task>> {
        // Ordering: Release hands `task` to the Acquire of a thief in `take_next`; the old one its owner put there itself.
        NonNull::new(self.run_next.swap(task.as_ptr(), Ordering::Release))
    }

    /// Takes the task that was readied last. Owner, or a thief that found nothing else.
    #[inline]
    pub fn take_next(&self) -> Option<NonNull<Task>> {
        // Ordering: Relaxed, a hint that spares the swap.
        if self.run_next.load(Ordering::Relaxed).is_null() {
            return None;
        }
        // Ordering: Acquire, see `push_next`; the null says nothing.
        NonNull::new(self.run_next.swap(ptr::null_mut(), Ordering::Acquire))
    }

    /// Takes the first task of the ring. Owner only.
    #[inline]
    pub fn pop(&self) -> Option<NonNull<Task>> {
        // Ordering: Relaxed, the exchange below decides.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Ordering: Relaxed, only the owner writes `tail`.
            if self.tail.load(Ordering::Relaxed) == head {
                return None;
            }
            // Ordering: Relaxed, the owner wrote the slot itself.
            let task = self.slot(head).load(Ordering::Relaxed);
            // Ordering: Release, so that a thief that sees the head there sees a tail behind it.
            match self.head.compare_exchange_weak(
                head,
                head.wrapping_add(1),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return NonNull::new(task),
                Err(seen) => head = seen,
            }
        }
    }

    /// Moves half of `self`'s ring to `to`, whose owner the caller is, and takes one of them to run.
    /// Also says how many tasks were moved, that one included. `at_least` as many have to be there: a single one its
    /// owner is about to run, most likely.
    pub fn steal_into(&self, to: &Queue, at_least: u32) -> Option<(NonNull<Task>, u32)> {
        // Ordering: Relaxed, only the caller writes `to`'s tail.
        let to_tail = to.tail.load(Ordering::Relaxed);
        // Ordering: Acquire, as in `push`: a slot seen free has been read out by its thief.
        let to_free = CAPACITY - to_tail.wrapping_sub(to.head.load(Ordering::Acquire));
        // Ordering: Relaxed, the exchange below decides.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Ordering: Acquire pairs with the Release in `push`: the slots up to `tail` are written.
            let tail = self.tail.load(Ordering::Acquire);
            let waiting = tail.wrapping_sub(head);
            if waiting == 0 || waiting > CAPACITY {
                // Empty; or `head` is old, which the exchange would find out; or it is newer than `tail`.
                if waiting == 0 {
                    return None;
                }
                // Ordering: Acquire pairs with the Release of all who move `head`: the next `tail` is behind it.
                head = self.head.load(Ordering::Acquire);
                continue;
            }
            if waiting < at_least {
                return None;
            }
            // One more than fits in the ring can be moved: one is run at once.
            let count = (waiting - waiting / 2).min(to_free + 1);
            // Ordering: Relaxed, see `tail` above.
            let first = self.slot(head).load(Ordering::Relaxed);
            for offset in 1..count {
                let task = self.slot(head.wrapping_add(offset)).load(Ordering::Relaxed);
                // Ordering: Relaxed, published by the store of `to.tail` below.
                to.slot(to_tail.wrapping_add(offset - 1))
                    .store(task, Ordering::Relaxed);
            }
            // Ordering: Release on success, the slots are read out, and the tail that was seen goes with the head;
            // Relaxed on failure, as for the first look.
            match self.head.compare_exchange(
                head,
                head.wrapping_add(count),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    // Ordering: Release publishes the slots to thieves of `to`.
                    to.tail
                        .store(to_tail.wrapping_add(count - 1), Ordering::Release);
                    return NonNull::new(first).map(|task| (task, count));
                }
                Err(seen) => head = seen,
            }
        }
    }
}
