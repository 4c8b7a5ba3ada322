//! Every interleaving of those who want to end one wait, and of a task that ends with one who waits for it.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_wait`
#![cfg(loom)]

mod channel_thread;
mod model_host;

use std::{ptr::NonNull, sync::Arc};

use channel_thread::waiter as thread_waiter;
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};
use model_host::{explore, job, scheduler};
use penstock_core::{
    task::{BeginJoin, Cancelling, Task},
    wait::{Burst, Epoch, Link, Outcome, Waiter, WaiterClass, WaiterRef},
};

/// A waiter whose owner spins, and that counts its wakes.
#[repr(C)]
struct Counted {
    /// First, so that a pointer to it is one to the whole.
    waiter: Waiter,
    wakes: AtomicUsize,
    /// Written by who holds the claim, read by the owner.
    handed: UnsafeCell<u32>,
}

// SAFETY: the cell is used by the rules of the claim word, which the model checks.
unsafe impl Sync for Counted {}
// SAFETY: as above.
unsafe impl Send for Counted {}

static COUNTED: WaiterClass = WaiterClass {
    retain: |waiter| {
        // SAFETY: every waiter of this class is the first field of a `Counted` in an `Arc`.
        unsafe { Arc::increment_strong_count(waiter.cast::<Counted>().as_ptr()) };
    },
    release: |waiter| {
        // SAFETY: as above.
        unsafe { Arc::decrement_strong_count(waiter.cast::<Counted>().as_ptr()) };
    },
    wake: |waiter| {
        // SAFETY: as above; the reference becomes ours.
        let counted = unsafe { Arc::from_raw(waiter.cast::<Counted>().as_ptr()) };
        // Ordering: Relaxed, a count.
        counted.wakes.fetch_add(1, Ordering::Relaxed);
    },
};

impl Counted {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            waiter: Waiter::new(&COUNTED),
            wakes: AtomicUsize::new(0),
            handed: UnsafeCell::new(0),
        })
    }

    fn waiter(self: &Arc<Self>) -> WaiterRef {
        // SAFETY: alive, embedded as its class expects, and the pointer is to the whole struct.
        unsafe { WaiterRef::retain(NonNull::from(&**self).cast()) }
    }

    /// Tries to end the wait, in a thread of its own.
    fn claimer(
        self: &Arc<Self>,
        epoch: Epoch,
        outcome: Outcome,
        hands: u32,
    ) -> thread::JoinHandle<bool> {
        let this = Arc::clone(self);
        thread::spawn(move || {
            let Some(claim) = this.waiter().claim(epoch) else {
                return false;
            };
            // SAFETY: the claim is ours, so the cell is.
            this.handed.with_mut(|value| unsafe { *value = hands });
            claim.complete(outcome);
            true
        })
    }
}

#[test]
fn one_of_a_peer_a_timer_and_the_owner_ends_a_wait() {
    explore(3, || {
        let owner = Counted::new();
        let epoch = owner.waiter.arm();
        let peer = owner.claimer(epoch, Outcome::Handed, 7);
        let timer = owner.claimer(epoch, Outcome::TimedOut, 8);
        let took_back = owner.waiter.disarm(epoch, Outcome::Interrupted);
        let outcome = loop {
            match owner.waiter.outcome(epoch) {
                Some(outcome) => break outcome,
                None => thread::yield_now(),
            }
        };
        // SAFETY: the owner has seen the outcome.
        let handed = owner.handed.with(|value| unsafe { *value });
        let (peer, timer) = (peer.join().unwrap(), timer.join().unwrap());
        let winners = [took_back, peer, timer];
        assert_eq!(winners.iter().filter(|won| **won).count(), 1, "{winners:?}");
        let expected = match outcome {
            Outcome::Interrupted => (took_back, 0),
            Outcome::Handed => (peer, 7),
            Outcome::TimedOut => (timer, 8),
            Outcome::Closed => unreachable!("nobody closes"),
        };
        assert_eq!((true, handed), expected);
        // Ordering: Relaxed, everybody has been joined.
        let wakes = owner.wakes.load(Ordering::Relaxed);
        assert_eq!(wakes, usize::from(!took_back), "one wake per claim");
    });
}

#[test]
fn a_late_claim_does_not_end_the_next_wait() {
    explore(3, || {
        let owner = Counted::new();
        let first = owner.waiter.arm();
        let late = owner.claimer(first, Outcome::TimedOut, 8);
        if owner.waiter.disarm(first, Outcome::Interrupted) {
            owner.waiter.settle(first);
            let second = owner.waiter.arm();
            assert!(!late.join().unwrap());
            assert_eq!(owner.waiter.outcome(second), None);
        } else {
            assert!(late.join().unwrap());
        }
    });
}

/// The canceller marks the task, then ends the wait that it sees; the task arms, then looks for the mark.
#[test]
fn a_cancelled_task_does_not_sleep_on() {
    explore(3, || {
        let scheduler = scheduler(1);
        let task = job(scheduler, || ());
        assert!(task.core.start());
        let canceller = {
            let task = Arc::clone(&task);
            thread::spawn(move || {
                assert_eq!(task.core.cancel(), Cancelling::Asked);
                let waiter = task.core.waiter();
                let claim = waiter.armed();
                // `Task::interrupt`, less the wake of a task that no machine runs.
                claim.is_some_and(|epoch| {
                    // SAFETY: alive, and the pointer is to the whole struct.
                    let waiter = unsafe { WaiterRef::retain(NonNull::from(&*task).cast()) };
                    waiter.claim(epoch).map(std::mem::forget).is_some()
                })
            })
        };
        let epoch = task.core.waiter().arm();
        let interrupted =
            task.core.cancel_pending() && task.core.waiter().disarm(epoch, Outcome::Interrupted);
        let claimed = canceller.join().unwrap();
        assert_ne!(interrupted, claimed, "one of the two ends the wait");
        assert!(task.core.take_cancel());
    });
}

/// The owner may see a mark by itself, before the one who marks has looked which wait it is in.
#[test]
fn what_was_seen_in_one_wait_does_not_end_the_next() {
    explore(3, || {
        let owner = Counted::new();
        let mark = Arc::new(AtomicBool::new(false));
        let interrupter = {
            let (owner, mark) = (Arc::clone(&owner), Arc::clone(&mark));
            thread::spawn(move || {
                // Ordering: SeqCst throughout, as for a cancellation: see `Waiter::arm`.
                mark.store(true, Ordering::SeqCst);
                owner.waiter().interrupt(|| mark.load(Ordering::SeqCst));
            })
        };
        let mut seen = 0;
        for _ in 0..2 {
            let epoch = owner.waiter.arm();
            if !mark.load(Ordering::SeqCst) || !owner.waiter.disarm(epoch, Outcome::Interrupted) {
                owner.waiter.disarm(epoch, Outcome::Handed); // a peer's, if the wait has not ended
            }
            let outcome = loop {
                match owner.waiter.outcome(epoch) {
                    Some(outcome) => break outcome,
                    None => thread::yield_now(),
                }
            };
            if outcome == Outcome::Interrupted {
                assert!(mark.swap(false, Ordering::SeqCst), "woken for nothing");
                seen += 1;
            }
        }
        interrupter.join().unwrap();
        let unseen = usize::from(mark.load(Ordering::SeqCst));
        assert_eq!(seen + unseen, 1, "raised once, or left for the next wait");
    });
}

#[test]
fn a_task_is_started_or_cancelled_not_both() {
    explore(3, || {
        let task = job(scheduler(1), || ());
        let canceller = {
            let task = Arc::clone(&task);
            thread::spawn(move || task.core.cancel())
        };
        let started = task.core.start();
        match canceller.join().unwrap() {
            Cancelling::NeverRuns => assert!(!started && task.core.is_done()),
            Cancelling::Asked => assert!(started && task.core.cancel_pending()),
            Cancelling::TooLate => unreachable!("nobody finishes it"),
        }
    });
}

fn joiner(task: &Arc<model_host::Job>, result: &Arc<UnsafeCell<u32>>) -> thread::JoinHandle<()> {
    let (task, result) = (Arc::clone(task), Arc::clone(result));
    thread::spawn(move || {
        task.join(&thread_waiter());
        // SAFETY: the task is done, so its result is stored and nobody writes it.
        result.with(|value| assert_eq!(unsafe { *value }, 7));
    })
}

fn finish(task: &Task, result: &UnsafeCell<u32>) {
    // SAFETY: the task stores its result before it is done, and nobody reads it sooner.
    result.with_mut(|value| unsafe { *value = 7 });
    task.finish();
}

#[test]
fn whoever_joins_a_task_that_ends_sees_its_result() {
    explore(3, || {
        let task = job(scheduler(1), || ());
        assert!(task.core.start());
        let result = Arc::new(UnsafeCell::new(0));
        let joiner = joiner(&task, &result);
        finish(&task.core, &result);
        joiner.join().unwrap();
    });
}

#[test]
fn two_who_join_are_both_woken() {
    explore(2, || {
        let task = job(scheduler(1), || ());
        assert!(task.core.start());
        let result = Arc::new(UnsafeCell::new(0));
        let joiners = [(); 2].map(|()| joiner(&task, &result));
        finish(&task.core, &result);
        for joiner in joiners {
            joiner.join().unwrap();
        }
    });
}

#[test]
fn who_joins_a_task_that_is_cancelled_before_it_starts_is_woken() {
    explore(3, || {
        let task = job(scheduler(1), || ());
        let joiner = {
            let task = Arc::clone(&task);
            thread::spawn(move || {
                let thread = thread_waiter();
                if let BeginJoin::Waiting(entry) = task.core.begin_join(&thread) {
                    channel_thread::sleep(&entry);
                }
                assert!(task.core.is_done());
            })
        };
        assert_eq!(task.core.cancel(), Cancelling::NeverRuns);
        joiner.join().unwrap();
    });
}

/// Whoever is first in a burst calls the loop, and each call takes those who are there: nobody is left behind, nobody comes
/// twice, and there are not more calls than wakes.
#[test]
fn everybody_in_a_burst_reaches_the_loop_by_the_call_of_the_first() {
    explore(3, || {
        let burst = Arc::new(Burst::default());
        let calls = Arc::new(AtomicUsize::new(0));
        let called = thread::current();
        let links = [(); 2].map(|()| Arc::new(Link::default()));
        let wakers = links.clone().map(|link| {
            let (burst, calls, called) = (Arc::clone(&burst), Arc::clone(&calls), called.clone());
            thread::spawn(move || {
                // SAFETY: the links outlive the threads, and each is pushed once.
                if unsafe { burst.push(NonNull::from(&*link)) } {
                    // Ordering: Release pairs with the Acquire below: the call brings the burst along.
                    calls.fetch_add(1, Ordering::Release);
                    called.unpark();
                }
            })
        });
        let (mut taken, mut answered) = (Vec::new(), 0);
        while taken.len() < 2 {
            // Ordering: Acquire, see above.
            if calls.load(Ordering::Acquire) == answered {
                thread::park();
                continue;
            }
            answered += 1;
            taken.extend(burst.take().map(NonNull::as_ptr));
        }
        for waker in wakers {
            waker.join().unwrap();
        }
        let pushed = links.each_ref().map(|link| std::ptr::from_ref(&**link));
        assert!(pushed.iter().all(|link| taken.contains(&link.cast_mut())));
        assert_eq!(burst.take().count(), 0);
    });
}
