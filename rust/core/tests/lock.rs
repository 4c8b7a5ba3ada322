//! What locks and their kin guarantee, a test each, with plain cells and with atomics, and a stress of threads.
#![cfg(not(loom))]

mod channel_thread;

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use channel_thread::{sleep, waiter};
use penstock_core::{
    lock::{
        Arrived, Barrier, Begin, BeginArrive, Condition, Event, Lock, NotOwner, Once, OutOfRange,
        Owner, Semaphore, Turn, WaitGroup,
    },
    sync::{Exclusive, Mode, Shared},
    wait::{Entry, Outcome, WaiterRef},
};

const ME: u64 = 1;
const OTHER: u64 = 2;

fn owner(number: u64) -> Owner {
    Owner::new(number)
}

fn waits<T>(begun: Begin<Arc<Entry<T>>>) -> Arc<Entry<T>> {
    match begun {
        Begin::Waiting(entry) => entry,
        Begin::Done => panic!("did not wait"),
    }
}

fn ended<T>(entry: &Entry<T>) -> Option<Outcome> {
    entry.waiter.outcome(entry.epoch)
}

fn give_up<T>(entry: &Entry<T>) {
    assert!(entry.waiter.disarm(entry.epoch, Outcome::TimedOut));
}

/// Runs a test with each mode.
macro_rules! in_both_modes {
    ($($name:ident)*) => {
        mod with_plain_cells {
            $(#[test] fn $name() {
                // SAFETY: what is built with it is used by this thread only.
                super::$name(unsafe { super::Exclusive::promise() });
            })*
        }
        mod with_atomics {
            $(#[test] fn $name() { super::$name(super::Shared); })*
        }
    };
}

in_both_modes! {
    a_released_lock_belongs_to_the_longest_waiter
    only_the_owner_releases
    permits_go_to_those_who_wait_and_the_rest_to_whoever_comes
    more_permits_than_can_be_counted_are_refused
    an_event_wakes_those_who_wait_when_it_is_set
    a_wait_group_does_not_go_below_zero
    a_notify_goes_past_those_who_have_ended
    a_call_is_made_once
    a_barrier_in_which_one_has_ended_breaks_for_all
    who_comes_while_one_leads_arrives_again
    a_barrier_that_is_reset_while_one_leads_is_another_s
}

fn a_released_lock_belongs_to_the_longest_waiter<M: Mode>(mode: M) {
    let lock = Lock::new(mode);
    assert!(lock.try_acquire(owner(ME)));
    let waiters = [(); 3].map(|()| waiter());
    let entries: Vec<_> = (2..)
        .zip(&waiters)
        .map(|(number, waiter)| waits(lock.begin_acquire(owner(number), waiter)))
        .collect();
    give_up(&entries[0]);
    assert_eq!(lock.release(owner(ME)), Ok(()));
    assert_eq!(ended(&entries[1]), Some(Outcome::Handed));
    assert_eq!(lock.owner(), Some(owner(3)));
    assert!(!lock.try_acquire(owner(ME)), "it is another's already");
    // SAFETY: from this lock, each once, and their waits are over.
    unsafe {
        assert_eq!(lock.finish_acquire(&entries[0]), Outcome::TimedOut);
        assert_eq!(lock.finish_acquire(&entries[1]), Outcome::Handed);
        give_up(&entries[2]);
        assert_eq!(lock.finish_acquire(&entries[2]), Outcome::TimedOut);
    }
    assert_eq!(lock.waiters(), 0);
    assert_eq!(lock.release(owner(3)), Ok(()));
    assert_eq!(lock.owner(), None);
}

fn only_the_owner_releases<M: Mode>(mode: M) {
    let lock = Lock::new(mode);
    assert_eq!(lock.release(owner(ME)), Err(NotOwner(None)));
    assert!(lock.try_acquire(owner(ME)));
    assert_eq!(lock.release(owner(OTHER)), Err(NotOwner(Some(owner(ME)))));
    let waiter = waiter();
    let entry = waits(lock.begin_acquire(owner(OTHER), &waiter));
    assert_eq!(lock.release(owner(OTHER)), Err(NotOwner(Some(owner(ME)))));
    assert_eq!(lock.release(owner(ME)), Ok(()));
    // SAFETY: from this lock, once, and its wait is over.
    assert_eq!(unsafe { lock.finish_acquire(&entry) }, Outcome::Handed);
}

fn permits_go_to_those_who_wait_and_the_rest_to_whoever_comes<M: Mode>(mode: M) {
    let semaphore = Semaphore::new(1, mode);
    assert!(semaphore.try_acquire());
    let waiters = [(); 3].map(|()| waiter());
    let entries = waiters
        .each_ref()
        .map(|waiter| waits(semaphore.begin_acquire(waiter)));
    give_up(&entries[1]);
    assert!(semaphore.release(5));
    assert_eq!(semaphore.permits(), 3);
    assert_eq!(
        entries.each_ref().map(|entry| ended(entry)),
        [
            Some(Outcome::Handed),
            Some(Outcome::TimedOut),
            Some(Outcome::Handed)
        ]
    );
    for entry in &entries {
        // SAFETY: from this semaphore, once, and its wait is over.
        let _ = unsafe { semaphore.finish_acquire(entry) };
    }
    assert!(semaphore.try_acquire());
    assert_eq!(semaphore.permits(), 2);
}

fn more_permits_than_can_be_counted_are_refused<M: Mode>(mode: M) {
    let max = Semaphore::<M>::PERMITS_MAX;
    let semaphore = Semaphore::new(max - 1, mode);
    assert!(!semaphore.release(2));
    assert!(!semaphore.release(u64::MAX));
    assert!(semaphore.release(1));
    assert_eq!(semaphore.permits(), max);
}

fn an_event_wakes_those_who_wait_when_it_is_set<M: Mode>(mode: M) {
    let event = Event::new(mode);
    let (first, second) = (waiter(), waiter());
    let early = waits(event.begin_wait(&first));
    event.set();
    event.clear();
    assert_eq!(ended(&early), Some(Outcome::Handed));
    let late = waits(event.begin_wait(&second));
    assert_eq!(ended(&late), None);
    give_up(&late);
    // SAFETY: from this event, each once, and their waits are over.
    unsafe {
        assert_eq!(event.finish_wait(&early), Outcome::Handed);
        assert_eq!(event.finish_wait(&late), Outcome::TimedOut);
    }
    event.set();
    assert!(matches!(event.begin_wait(&first), Begin::Done));
}

fn a_wait_group_does_not_go_below_zero<M: Mode>(mode: M) {
    let group = WaitGroup::new(mode);
    assert_eq!(group.add(-1), Err(OutOfRange { count: 0 }));
    assert_eq!(group.add(2), Ok(()));
    assert_eq!(group.add(-3), Err(OutOfRange { count: 2 }));
    assert_eq!(group.add(i64::MAX), Err(OutOfRange { count: 2 }));
    let waiter = waiter();
    let entry = waits(group.begin_wait(&waiter));
    assert_eq!(group.add(-3), Err(OutOfRange { count: 2 }));
    assert_eq!(group.add(-1), Ok(()));
    assert_eq!(ended(&entry), None);
    assert_eq!(group.add(-1), Ok(()));
    assert_eq!(ended(&entry), Some(Outcome::Handed));
    assert_eq!(group.add(1), Ok(()), "the next round");
    // SAFETY: from this group, once, and its wait is over.
    assert_eq!(unsafe { group.finish_wait(&entry) }, Outcome::Handed);
    assert_eq!(group.count(), 1);
}

fn a_notify_goes_past_those_who_have_ended<M: Mode>(mode: M) {
    let condition = Condition::new(mode);
    let waiters = [(); 3].map(|()| waiter());
    let entries = waiters
        .each_ref()
        .map(|waiter| condition.begin_wait(waiter));
    give_up(&entries[0]);
    assert_eq!(condition.notify(1), 1);
    assert_eq!(ended(&entries[1]), Some(Outcome::Handed));
    assert_eq!(ended(&entries[2]), None);
    assert_eq!(condition.notify(usize::MAX), 1);
    for entry in &entries {
        // SAFETY: from this condition, once, and its wait is over.
        let _ = unsafe { condition.finish_wait(entry) };
    }
    assert_eq!(condition.notify(1), 0);
}

fn a_call_is_made_once<M: Mode>(mode: M) {
    let once = Once::new(mode);
    assert_eq!(once.claim(owner(ME)), Turn::Mine);
    assert_eq!(once.claim(owner(ME)), Turn::Nested);
    assert_eq!(once.claim(owner(OTHER)), Turn::TakenByOther);
    assert_eq!(once.runner(), Some(owner(ME)));
    let waiter = waiter();
    let entry = waits(once.begin_wait(&waiter));
    once.finish_run();
    // SAFETY: from this object, once, and its wait is over.
    assert_eq!(unsafe { once.finish_wait(&entry) }, Outcome::Handed);
    assert_eq!(once.claim(owner(OTHER)), Turn::Done);
    assert!(matches!(once.begin_wait(&waiter), Begin::Done));
}

fn arrives<M: Mode>(barrier: &Barrier<M>, leads: bool, waiter: &WaiterRef) -> Arc<Entry<usize>> {
    match barrier.begin_arrive(leads, waiter) {
        BeginArrive::Waiting(entry) => entry,
        other => panic!("did not wait: {other:?}"),
    }
}

fn finish<M: Mode>(barrier: &Barrier<M>, entry: &Entry<usize>) -> Arrived {
    // SAFETY: the tests finish each entry once, on its barrier, after its wait is over.
    unsafe { barrier.finish_arrive(entry) }
}

fn a_barrier_in_which_one_has_ended_breaks_for_all<M: Mode>(mode: M) {
    let barrier = Barrier::new(3, mode);
    let waiters = [(); 3].map(|()| waiter());
    assert!(barrier.try_arrive(false).is_none());
    let stays = arrives(&barrier, false, &waiters[0]);
    let leaves = arrives(&barrier, false, &waiters[1]);
    give_up(&leaves); // and has not said so yet
    assert!(matches!(
        barrier.begin_arrive(false, &waiters[2]),
        BeginArrive::Broken
    ));
    assert_eq!(finish(&barrier, &stays), Arrived::Broken);
    barrier.reset();
    assert_eq!(
        finish(&barrier, &leaves),
        Arrived::Left(Outcome::TimedOut),
        "of a round that is over"
    );
    assert!(!barrier.is_broken());
}

fn who_comes_while_one_leads_arrives_again<M: Mode>(mode: M) {
    let barrier = Barrier::new(2, mode);
    let waiters = [(); 2].map(|()| waiter());
    let first = arrives(&barrier, true, &waiters[0]);
    let Some(BeginArrive::Lead(lead)) = barrier.try_arrive(true) else {
        panic!("the last one leads");
    };
    assert!(barrier.try_arrive(true).is_none());
    let late = arrives(&barrier, true, &waiters[1]);
    assert!(barrier.finish_lead(lead));
    assert_eq!(finish(&barrier, &first), Arrived::Through(0));
    assert_eq!(finish(&barrier, &late), Arrived::Again);
    assert!(!barrier.finish_lead(lead), "once");
    let late = arrives(&barrier, true, &waiters[1]);
    barrier.abort();
    assert_eq!(finish(&barrier, &late), Arrived::Broken);
}

fn a_barrier_that_is_reset_while_one_leads_is_another_s<M: Mode>(mode: M) {
    let barrier = Barrier::new(2, mode);
    let waiters = [(); 2].map(|()| waiter());
    let first = arrives(&barrier, true, &waiters[0]);
    let Some(BeginArrive::Lead(lead)) = barrier.try_arrive(true) else {
        panic!("the last one leads");
    };
    barrier.reset();
    assert_eq!(finish(&barrier, &first), Arrived::Broken);
    let next = arrives(&barrier, true, &waiters[1]);
    barrier.fail_lead(lead);
    assert!(!barrier.finish_lead(lead));
    assert!(!barrier.is_broken());
    assert_eq!(ended(&next), None);
    barrier.abort();
    assert_eq!(finish(&barrier, &next), Arrived::Broken);
}

/// A number that is changed under the lock only.
struct Guarded {
    lock: Lock<Shared>,
    permits: Semaphore<Shared>,
    number: Cell<usize>,
    gave_up: AtomicUsize,
}

// SAFETY: the lock guards the number.
unsafe impl Sync for Guarded {}

#[test]
fn threads_that_wait_or_give_up_lose_neither_the_lock_nor_a_permit() {
    const THREADS: u64 = 4;
    const ROUNDS: usize = 5_000;
    let guarded = Guarded {
        lock: Lock::new(Shared),
        permits: Semaphore::new(2, Shared),
        number: Cell::new(0),
        gave_up: AtomicUsize::new(0),
    };
    let guarded = &guarded;
    thread::scope(|scope| {
        for number in 1..=THREADS {
            scope.spawn(move || {
                let (me, waiter) = (owner(number), waiter());
                for round in 0..ROUNDS {
                    if let Begin::Waiting(entry) = guarded.permits.begin_acquire(&waiter) {
                        sleep(&entry);
                        // SAFETY: from this semaphore, once, and its wait is over.
                        let _ = unsafe { guarded.permits.finish_acquire(&entry) };
                    }
                    if let Begin::Waiting(entry) = guarded.lock.begin_acquire(me, &waiter) {
                        let gives_up =
                            round % 3 == 0 && entry.waiter.disarm(entry.epoch, Outcome::TimedOut);
                        if !gives_up {
                            sleep(&entry);
                        }
                        // SAFETY: from this lock, once, and its wait is over.
                        if unsafe { guarded.lock.finish_acquire(&entry) } != Outcome::Handed {
                            guarded.gave_up.fetch_add(1, Ordering::Relaxed);
                            assert!(guarded.permits.release(1));
                            continue;
                        }
                    }
                    guarded.number.set(guarded.number.get() + 1);
                    guarded.lock.release(me).expect("it is ours");
                    assert!(guarded.permits.release(1));
                }
            });
        }
    });
    let total = guarded.number.get() + guarded.gave_up.load(Ordering::Relaxed);
    assert_eq!(total, usize::try_from(THREADS).unwrap() * ROUNDS);
    assert_eq!(guarded.lock.owner(), None);
    assert_eq!(guarded.permits.permits(), 2);
}
