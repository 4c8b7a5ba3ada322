//! Every interleaving of receivers that wake for a tick with each other, with a close and with a cancellation. The
//! time is told, so what is explored is who comes to the lock when, and who ends which wait.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use loom::thread;

use super::{sleeper::waiter, *};
use crate::{
    sync::Shared,
    wait::{Epoch, WaiterRef},
};

type Ticks = Timer<u64, Shared>;

const PERIOD: Duration = Duration::from_nanos(10);

fn explore(body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(body);
}

fn timer(is_single: bool) -> Arc<Ticks> {
    let stamp = Stamp {
        origin_nanos: 0,
        make: |nanos| nanos,
    };
    Arc::new(Timer::new(Some(PERIOD), is_single, stamp, Shared))
}

fn at(timer: &Ticks, tick: u32) -> Instant {
    timer.start + PERIOD * tick
}

fn begin(timer: &Ticks, waiter: &WaiterRef) -> Arc<Entry<u64>> {
    match timer.begin_recv_at(waiter, timer.start) {
        BeginRecv::Waiting(entry) => entry,
        other => panic!("did not wait: {other:?}"),
    }
}

fn end(waiter: &WaiterRef, epoch: Epoch, outcome: Outcome) {
    if let Some(claim) = waiter.claim(epoch) {
        claim.complete(outcome);
    }
}

/// What a receive comes to whose timer has gone off at `tick`. `None`: it waits on.
fn woken(timer: &Ticks, entry: &Entry<u64>, tick: u32) -> Option<Result<u64, RecvError>> {
    end(&entry.waiter, entry.epoch, Outcome::TimedOut);
    let outcome = loop {
        match entry.waiter.outcome(entry.epoch) {
            Some(outcome) => break outcome,
            None => thread::yield_now(),
        }
    };
    let now = at(timer, tick);
    // SAFETY: the wait has ended, and this is the first who asks.
    unsafe {
        if outcome == Outcome::TimedOut {
            timer.poll_recv_at(entry, now)
        } else {
            Some(timer.finish_recv_at(entry, outcome, now))
        }
    }
}

#[test]
fn one_tick_goes_to_the_first_of_two_who_wake_for_it() {
    explore(|| {
        let timer = timer(false);
        let first = begin(&timer, &waiter());
        let second = begin(&timer, &waiter());
        let other = {
            let timer = Arc::clone(&timer);
            thread::spawn(move || woken(&timer, &second, 1))
        };
        assert_eq!(woken(&timer, &first, 1), Some(Ok(10)));
        assert_eq!(other.join().unwrap(), None);
    });
}

#[test]
fn two_ticks_go_to_two_receivers_in_order() {
    explore(|| {
        let timer = timer(false);
        let first = begin(&timer, &waiter());
        let second = begin(&timer, &waiter());
        let other = {
            let timer = Arc::clone(&timer);
            thread::spawn(move || woken(&timer, &second, 2))
        };
        assert_eq!(woken(&timer, &first, 1), Some(Ok(10)));
        assert_eq!(other.join().unwrap(), Some(Ok(20)));
    });
}

#[test]
fn what_after_delivers_reaches_one_and_closes_the_other() {
    explore(|| {
        let timer = timer(true);
        let first = begin(&timer, &waiter());
        let second = begin(&timer, &waiter());
        let other = {
            let timer = Arc::clone(&timer);
            thread::spawn(move || woken(&timer, &second, 1))
        };
        assert_eq!(woken(&timer, &first, 1), Some(Ok(10)));
        assert_eq!(other.join().unwrap(), Some(Err(RecvError::Closed)));
    });
}

/// The tick is replayed by another receiver while the first is being cancelled.
#[test]
fn a_tick_beside_a_cancellation_is_received_or_passed_on() {
    explore(|| {
        let timer = timer(false);
        let first = begin(&timer, &waiter());
        let second = begin(&timer, &waiter());
        let (victim, epoch) = (first.waiter.clone(), first.epoch);
        let canceller = thread::spawn(move || end(&victim, epoch, Outcome::Interrupted));
        let other = woken(&timer, &second, 1);
        canceller.join().unwrap();
        match woken(&timer, &first, 1) {
            Some(Ok(10)) => assert_eq!(other, None),
            Some(Err(RecvError::Interrupted)) => assert_eq!(other, Some(Ok(10))),
            got => panic!("{got:?}"),
        }
    });
}

#[test]
fn a_tick_beside_a_close_is_received_or_never_was() {
    explore(|| {
        let timer = timer(false);
        let entry = begin(&timer, &waiter());
        let closer = {
            let timer = Arc::clone(&timer);
            thread::spawn(move || timer.close_at(timer.start))
        };
        let got = woken(&timer, &entry, 1);
        closer.join().unwrap();
        assert!(
            matches!(got, Some(Ok(10) | Err(RecvError::Closed))),
            "{got:?}"
        );
        assert_eq!(timer.try_recv_at(at(&timer, 1)), Err(TryRecvError::Closed));
    });
}

/// Who resumes stays before who came later, also while a replay goes on.
#[test]
fn a_receiver_that_resumes_is_served_before_the_next() {
    explore(|| {
        let timer = timer(false);
        let first = begin(&timer, &waiter());
        let second = begin(&timer, &waiter());
        end(&first.waiter, first.epoch, Outcome::TimedOut);
        let other = {
            let timer = Arc::clone(&timer);
            thread::spawn(move || woken(&timer, &second, 1))
        };
        let again = first.waiter.clone();
        // SAFETY: its wait has ended.
        let got = match unsafe { timer.resume_recv_at(&first, &again, timer.start) } {
            BeginRecv::Done(value) => Some(Ok(value)),
            BeginRecv::Waiting(entry) => woken(&timer, &entry, 1),
            BeginRecv::Closed => panic!("closed"),
        };
        assert_eq!(got, Some(Ok(10)));
        assert_eq!(other.join().unwrap(), None);
    });
}
