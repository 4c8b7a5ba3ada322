//! The processor (P): a run queue and timers. A machine that has one runs tasks.
//!
//! A slot of the scheduler names the worker that is in it. When a task blocks its thread, the machine that
//! runs it keeps its worker as an *orphan* and another machine puts a new worker in the slot: so
//! nobody ever takes a queue from under an owner that may be in the middle of a push, and taking over
//! needs no handshake with a thread that does not answer. What is left in an orphan is stolen like from any
//! other worker; its machine gives it up when it comes back.

use std::time::Instant;

use super::{idle::Idle, queue::Queue};
use crate::{
    sync::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    timer::Timers,
};

#[derive(Debug)]
pub struct Worker {
    /// Its place in the scheduler's slots, kept while it is an orphan.
    pub slot: usize,
    /// The node it is on, as the scheduler's layout numbers them.
    pub node: usize,
    pub queue: Queue,
    pub timers: Timers,
    /// Counts what its machine has turned to: written by that machine, watched by the monitor, to which the
    /// same number twice means "still at the same task".
    turn: AtomicU64,
    /// Its slot has another worker. Set by the machine that takes over, read by its own at each turn.
    orphaned: AtomicBool,
    /// Parked tasks in a row that it was handed to by thread parking, past its queue. Its machine only.
    handed_in_a_row: AtomicU32,
    /// Nobody runs it: it is free, or its machine sleeps. Written under the lock of `idle`, read by the monitor.
    idle: AtomicBool,
}

impl Worker {
    pub fn new(slot: usize, node: usize, origin: Instant) -> Self {
        Self {
            slot,
            node,
            queue: Queue::default(),
            timers: Timers::new(origin),
            turn: AtomicU64::new(0),
            orphaned: AtomicBool::new(false),
            handed_in_a_row: AtomicU32::new(0),
            idle: AtomicBool::new(true),
        }
    }

    /// The machine turns to something else. Its machine only.
    #[inline]
    pub fn next_turn(&self) {
        // Ordering: Relaxed, one writer, and the monitor only compares.
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
    }

    /// Nobody runs it, and it has nothing to run, now or later.
    pub fn rests(&self) -> bool {
        self.is_idle() && self.queue.is_empty() && !self.timers.is_armed()
    }

    pub fn turn(&self) -> u64 {
        // Ordering: Relaxed, as above.
        self.turn.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn is_orphaned(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `orphan`. A stale "no" is harmless: what its machine
        // pushes meanwhile is stolen by the monitor's rounds.
        self.orphaned.load(Ordering::Acquire)
    }

    /// Is about to be put in its slot, new or again, and run.
    pub fn adopt(&self, idle: &mut Idle) {
        self.set_idle(idle, false);
        // Ordering: Release, published with the slot.
        self.orphaned.store(false, Ordering::Release);
    }

    /// The argument is the proof that the lock is held.
    pub fn set_idle(&self, _: &mut Idle, idle: bool) {
        // Ordering: SeqCst. A machine that wakes says so, then looks whether the monitor is dormant; the monitor
        // says that it is, then looks here.
        self.idle.store(idle, Ordering::SeqCst);
    }

    pub fn is_idle(&self) -> bool {
        // Ordering: SeqCst, as above.
        self.idle.load(Ordering::SeqCst)
    }

    /// It goes to a machine that waits (`true`), or to one that looks at the queues. Says how often in a row it
    /// went to the former before. Its machine only.
    pub fn hand(&self, past_its_queue: bool) -> u32 {
        // Ordering: Relaxed, one writer at a time, and the hand-over orders them.
        let before = self.handed_in_a_row.load(Ordering::Relaxed);
        let now = if past_its_queue {
            before.saturating_add(1)
        } else {
            0
        };
        self.handed_in_a_row.store(now, Ordering::Relaxed);
        before
    }

    pub fn orphan(&self) {
        // Ordering: Release, see `is_orphaned`.
        self.orphaned.store(true, Ordering::Release);
    }
}
