//! Every interleaving of two or three threads on a lock and its kin.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_lock`
//!
//! A lost wake-up shows as loom's "deadlock", two owners at once as a causality violation of what the lock guards.
#![cfg(loom)]

mod channel_thread;

use std::sync::Arc;

use channel_thread::{sleep, waiter};
use loom::{cell::UnsafeCell, thread};
use penstock_core::{
    lock::{
        Arrived, Barrier, Begin, BeginArrive, Condition, Event, Lock, Once, Owner, Semaphore, Turn,
        WaitGroup,
    },
    sync::Shared,
    wait::{Entry, Outcome},
};

/// Explores `body` with up to `preemptions` switches that no thread asked for.
fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 10_000;
    model.check(body);
}

fn in_thread<S: Send + Sync + 'static, R: 'static>(
    shared: &Arc<S>,
    body: impl FnOnce(&S) -> R + 'static,
) -> thread::JoinHandle<R> {
    let shared = Arc::clone(shared);
    thread::spawn(move || body(&shared))
}

/// Ends the wait as a timer would, unless a peer was faster.
fn give_up<T>(entry: &Entry<T>) {
    if !entry.waiter.disarm(entry.epoch, Outcome::TimedOut) {
        sleep(entry);
    }
}

/// A number that only the owner of the lock touches.
struct Guarded {
    lock: Lock<Shared>,
    number: UnsafeCell<u32>,
}

// SAFETY: the lock guards the number, which the models check.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: Lock::new(Shared),
            number: UnsafeCell::new(0),
        })
    }

    fn acquire(&self, me: Owner) {
        if let Begin::Waiting(entry) = self.lock.begin_acquire(me, &waiter()) {
            sleep(&entry);
            // SAFETY: from this lock, and the wait is over.
            assert_eq!(unsafe { self.lock.finish_acquire(&entry) }, Outcome::Handed);
        }
    }

    /// Takes the lock or gives up waiting for it; says whether it had it.
    fn try_for_a_while(&self, me: Owner) -> bool {
        if let Begin::Waiting(entry) = self.lock.begin_acquire(me, &waiter()) {
            give_up(&entry);
            // SAFETY: from this lock, and the wait is over.
            if unsafe { self.lock.finish_acquire(&entry) } != Outcome::Handed {
                return false;
            }
        }
        self.count();
        self.lock.release(me).expect("it is ours");
        true
    }

    /// Called by the owner.
    fn count(&self) {
        // SAFETY: the lock is held.
        self.number.with_mut(|number| unsafe { *number += 1 });
    }
}

#[test]
fn a_lock_has_one_owner_at_a_time_and_none_in_the_end() {
    explore(3, || {
        let guarded = Guarded::new();
        let threads = [1, 2].map(|number| {
            in_thread(&guarded, move |guarded| {
                let me = Owner::new(number);
                guarded.acquire(me);
                guarded.count();
                guarded.lock.release(me).expect("it is ours");
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(guarded.lock.owner(), None);
        guarded.acquire(Owner::new(3));
        guarded.count();
        // SAFETY: the lock is held.
        assert_eq!(guarded.number.with(|number| unsafe { *number }), 3);
    });
}

#[test]
fn a_lock_goes_past_a_waiter_that_gives_up_to_the_next() {
    explore(2, || {
        let guarded = Guarded::new();
        let me = Owner::new(1);
        guarded.acquire(me);
        let leaver = in_thread(&guarded, |guarded| guarded.try_for_a_while(Owner::new(2)));
        let waiter = in_thread(&guarded, |guarded| {
            guarded.acquire(Owner::new(3));
            guarded.count();
            guarded.lock.release(Owner::new(3)).expect("it is ours");
        });
        guarded.count();
        guarded.lock.release(me).expect("it is ours");
        waiter.join().unwrap();
        let had_it = leaver.join().unwrap();
        assert_eq!(guarded.lock.owner(), None);
        assert_eq!(guarded.lock.waiters(), 0);
        assert!(guarded.lock.try_acquire(me), "the fast way is open again");
        // SAFETY: the lock is held.
        let number = guarded.number.with(|number| unsafe { *number });
        assert_eq!(number, 2 + u32::from(had_it));
    });
}

#[test]
fn a_permit_goes_past_a_waiter_that_gives_up_to_the_next() {
    explore(2, || {
        let semaphore = Arc::new(Semaphore::new(0, Shared));
        let leaver = in_thread(&semaphore, |semaphore: &Semaphore<Shared>| {
            let Begin::Waiting(entry) = semaphore.begin_acquire(&waiter()) else {
                return true;
            };
            give_up(&entry);
            // SAFETY: from this semaphore, and the wait is over.
            unsafe { semaphore.finish_acquire(&entry) == Outcome::Handed }
        });
        let taker = in_thread(&semaphore, |semaphore| {
            if let Begin::Waiting(entry) = semaphore.begin_acquire(&waiter()) {
                sleep(&entry);
                // SAFETY: as above.
                assert_eq!(unsafe { semaphore.finish_acquire(&entry) }, Outcome::Handed);
            }
        });
        assert!(semaphore.release(1));
        if leaver.join().unwrap() {
            assert!(semaphore.release(1));
        }
        taker.join().unwrap();
        assert_eq!(semaphore.permits(), 0);
        assert!(semaphore.release(2));
        assert_eq!(semaphore.permits(), 2, "the fast way is open again");
    });
}

#[test]
fn two_permits_given_at_once_reach_two_waiters() {
    explore(2, || {
        let semaphore = Arc::new(Semaphore::new(0, Shared));
        let takers = [(); 2].map(|()| {
            in_thread(&semaphore, |semaphore: &Semaphore<Shared>| {
                if let Begin::Waiting(entry) = semaphore.begin_acquire(&waiter()) {
                    sleep(&entry);
                    // SAFETY: from this semaphore, and the wait is over.
                    assert_eq!(unsafe { semaphore.finish_acquire(&entry) }, Outcome::Handed);
                }
            })
        });
        assert!(semaphore.release(2));
        for taker in takers {
            taker.join().unwrap();
        }
        assert_eq!(semaphore.permits(), 0);
    });
}

struct Published<S> {
    by: S,
    value: UnsafeCell<u32>,
}

// SAFETY: written before it is published, read after; the models check it.
unsafe impl<S: Sync> Sync for Published<S> {}
// SAFETY: as above.
unsafe impl<S: Send> Send for Published<S> {}

impl<S> Published<S> {
    fn new(by: S) -> Arc<Self> {
        Arc::new(Self {
            by,
            value: UnsafeCell::new(0),
        })
    }

    fn write(&self) {
        // SAFETY: not published yet.
        self.value.with_mut(|value| unsafe { *value = 7 });
    }

    fn read(&self) {
        // SAFETY: published.
        self.value.with(|value| assert_eq!(unsafe { *value }, 7));
    }
}

#[test]
fn who_waits_for_an_event_sees_what_came_before_it_was_set() {
    explore(3, || {
        let event = Published::new(Event::new(Shared));
        let waits = in_thread(&event, |event| {
            if let Begin::Waiting(entry) = event.by.begin_wait(&waiter()) {
                sleep(&entry);
                // SAFETY: from this event, and the wait is over.
                assert_eq!(unsafe { event.by.finish_wait(&entry) }, Outcome::Handed);
            }
            event.read();
        });
        let leaves = in_thread(&event, |event| {
            if let Begin::Waiting(entry) = event.by.begin_wait(&waiter()) {
                give_up(&entry);
                // SAFETY: as above.
                if unsafe { event.by.finish_wait(&entry) } != Outcome::Handed {
                    return;
                }
            }
            event.read();
        });
        event.write();
        event.by.set();
        waits.join().unwrap();
        leaves.join().unwrap();
        assert!(event.by.is_set());
        assert_eq!(event.by.waiters(), 0);
    });
}

#[test]
fn an_event_that_is_cleared_has_woken_or_keeps_its_waiter() {
    explore(3, || {
        let event = Arc::new(Event::new(Shared));
        let waits = in_thread(&event, |event: &Event<Shared>| {
            let Begin::Waiting(entry) = event.begin_wait(&waiter()) else {
                return;
            };
            sleep(&entry);
            // SAFETY: from this event, and the wait is over.
            assert_eq!(unsafe { event.finish_wait(&entry) }, Outcome::Handed);
        });
        event.set();
        event.clear();
        assert!(!event.is_set());
        event.set();
        waits.join().unwrap();
        assert!(event.is_set());
    });
}

#[test]
fn who_waits_for_a_group_sees_what_was_done() {
    explore(2, || {
        let group = Arc::new((WaitGroup::new(Shared), [(); 2].map(|()| UnsafeCell::new(0))));
        struct Shown(Arc<(WaitGroup<Shared>, [UnsafeCell<u32>; 2])>);
        // SAFETY: each cell is written by one thread before it is done, and read when all are.
        unsafe impl Send for Shown {}
        // SAFETY: as above.
        unsafe impl Sync for Shown {}
        let group = Arc::new(Shown(group));
        group.0.0.add(2).expect("not below zero");
        let workers = [0, 1].map(|index| {
            in_thread(&group, move |group| {
                // SAFETY: this thread's cell.
                group.0.1[index].with_mut(|value| unsafe { *value = 7 });
                group.0.0.add(-1).expect("not below zero");
            })
        });
        if let Begin::Waiting(entry) = group.0.0.begin_wait(&waiter()) {
            sleep(&entry);
            // SAFETY: from this group, and the wait is over.
            assert_eq!(unsafe { group.0.0.finish_wait(&entry) }, Outcome::Handed);
        }
        for cell in &group.0.1 {
            // SAFETY: all are done.
            cell.with(|value| assert_eq!(unsafe { *value }, 7));
        }
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(group.0.0.count(), 0);
        assert!(group.0.0.add(-1).is_err());
    });
}

#[test]
fn a_notify_wakes_who_waits_or_is_not_spent() {
    explore(3, || {
        struct Shown(Lock<Shared>, Condition<Shared>);
        let both = Arc::new(Shown(Lock::new(Shared), Condition::new(Shared)));
        let me = Owner::new(1);
        assert!(both.0.try_acquire(me));
        let entry = both.1.begin_wait(&waiter());
        both.0.release(me).expect("it is ours");
        let notifier = in_thread(&both, |both| {
            let me = Owner::new(2);
            while !both.0.try_acquire(me) {
                thread::yield_now();
            }
            let notified = both.1.notify(1);
            both.0.release(me).expect("it is ours");
            notified
        });
        give_up(&entry);
        // SAFETY: from this condition, and the wait is over.
        let outcome = unsafe { both.1.finish_wait(&entry) };
        let notified = notifier.join().unwrap();
        assert_eq!(notified == 1, outcome == Outcome::Handed);
        assert_eq!(both.1.waiters(), 0);
    });
}

#[test]
fn one_of_two_makes_the_call_and_the_other_sees_what_it_did() {
    explore(3, || {
        let once = Published::new(Once::new(Shared));
        let other = in_thread(&once, |once| do_once(once, 2));
        let mine = do_once(&once, 1);
        assert_ne!(mine, other.join().unwrap(), "one makes the call");
        assert!(once.by.is_done());
    });

    fn do_once(once: &Published<Once<Shared>>, me: u64) -> bool {
        match once.by.claim(Owner::new(me)) {
            Turn::Done => {}
            Turn::Mine => {
                once.write();
                once.by.finish_run();
                return true;
            }
            Turn::Nested => panic!("nobody calls twice"),
            Turn::TakenByOther => {
                if let Begin::Waiting(entry) = once.by.begin_wait(&waiter()) {
                    sleep(&entry);
                    // SAFETY: from this object, and the wait is over.
                    assert_eq!(unsafe { once.by.finish_wait(&entry) }, Outcome::Handed);
                }
            }
        }
        once.read();
        false
    }
}

/// One of two parties may give up while the other arrives: both go on, or both are told that the barrier is broken.
fn both_go_on_or_neither(leads: bool) {
    explore(3, move || {
        let barrier = Arc::new(Barrier::new(2, Shared));
        let other = in_thread(&barrier, move |barrier| arrive(barrier, leads, true));
        let mine = arrive(&barrier, leads, false);
        let other = other.join().unwrap();
        assert_eq!(mine, other, "both or neither");
        assert_eq!(barrier.is_broken(), !mine);
        assert_eq!(barrier.waiters(), 0);
    });

    fn arrive(barrier: &Barrier<Shared>, leads: bool, gives_up: bool) -> bool {
        match barrier.begin_arrive(leads, &waiter()) {
            BeginArrive::Through => true,
            BeginArrive::Lead(lead) => barrier.finish_lead(lead),
            BeginArrive::Broken => false,
            BeginArrive::Waiting(entry) => {
                if gives_up {
                    give_up(&entry);
                } else {
                    sleep(&entry);
                }
                // SAFETY: from this barrier, and the wait is over.
                match unsafe { barrier.finish_arrive(&entry) } {
                    Arrived::Through(index) => {
                        assert_eq!(index, 0);
                        true
                    }
                    Arrived::Again => panic!("there is one round"),
                    Arrived::Broken | Arrived::Left(_) => false,
                }
            }
        }
    }
}

#[test]
fn a_barrier_lets_all_go_on_or_none() {
    both_go_on_or_neither(false);
}

#[test]
fn a_barrier_with_a_leader_lets_all_go_on_or_none() {
    both_go_on_or_neither(true);
}
