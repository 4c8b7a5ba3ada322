//! What timers guarantee, on a clock that the tests move.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{super::ChannelStats, sleeper::waiter, *};
use crate::{sync::Shared, wait::WaiterRef};

type Ticks = Timer<u64, Shared>;

const STAMP: Stamp<u64> = Stamp {
    origin_nanos: 1_000_000,
    make: |nanos| nanos,
};

fn tick(period_nanos: u64) -> Ticks {
    let period = Some(Duration::from_nanos(period_nanos));
    Timer::new(period, false, STAMP, Shared)
}

fn after(delay_nanos: u64) -> Ticks {
    let delay = Some(Duration::from_nanos(delay_nanos));
    Timer::new(delay, true, STAMP, Shared)
}

fn at(timer: &Ticks, nanos: u64) -> Instant {
    timer.start + Duration::from_nanos(nanos)
}

fn try_recv(timer: &Ticks, nanos: u64) -> Result<u64, TryRecvError> {
    let received = timer.try_recv_at(at(timer, nanos));
    received.map(|value| value - STAMP.origin_nanos)
}

fn begin(timer: &Ticks, waiter: &WaiterRef, nanos: u64) -> Arc<Entry<u64>> {
    match timer.begin_recv_at(waiter, at(timer, nanos)) {
        BeginRecv::Waiting(entry) => entry,
        other => panic!("did not wait: {other:?}"),
    }
}

fn end(entry: &Entry<u64>, outcome: Outcome) {
    let claim = entry.waiter.claim(entry.epoch);
    claim.expect("nobody else ended it").complete(outcome);
}

/// The wait of `entry` times out, and it resumes at `nanos`.
fn resume(timer: &Ticks, entry: &Entry<u64>, nanos: u64) -> Result<Arc<Entry<u64>>, u64> {
    let now = at(timer, nanos);
    if entry.waiter.outcome(entry.epoch).is_none() {
        end(entry, Outcome::TimedOut);
    }
    let waiter = entry.waiter.clone();
    // SAFETY: the wait has ended, and each entry is resumed once.
    match unsafe { timer.resume_recv_at(entry, &waiter, now) } {
        BeginRecv::Done(value) => Err(value - STAMP.origin_nanos),
        BeginRecv::Waiting(entry) => Ok(entry),
        BeginRecv::Closed => panic!("closed"),
    }
}

fn finish(timer: &Ticks, entry: &Entry<u64>, nanos: u64) -> Result<u64, RecvError> {
    let outcome = entry.waiter.outcome(entry.epoch).expect("ended");
    // SAFETY: the wait has ended, and each entry is finished once.
    let finished = unsafe { timer.finish_recv_at(entry, outcome, at(timer, nanos)) };
    finished.map(|value| value - STAMP.origin_nanos)
}

fn stats(timer: &Ticks, nanos: u64) -> (u64, u64, u64) {
    let ChannelStats {
        sent,
        received,
        dropped,
        ..
    } = timer.stats_at(at(timer, nanos));
    (sent, received, dropped)
}

#[test]
fn ticks_are_multiples_of_the_period_however_late_they_are_taken() {
    let timer = tick(10);
    assert_eq!(try_recv(&timer, 9), Err(TryRecvError::Empty));
    assert_eq!(try_recv(&timer, 10), Ok(10));
    assert_eq!(try_recv(&timer, 19), Err(TryRecvError::Empty));
    assert_eq!(try_recv(&timer, 27), Ok(20));
    assert_eq!(timer.next_tick_at(at(&timer, 27)), Some(at(&timer, 30)));
    assert_eq!(try_recv(&timer, 30), Ok(30));
}

#[test]
fn the_first_tick_that_nobody_took_is_kept_and_the_others_are_dropped() {
    let timer = tick(10);
    assert_eq!(stats(&timer, 35), (3, 0, 2));
    assert_eq!(try_recv(&timer, 58), Ok(10));
    assert_eq!(stats(&timer, 58), (5, 1, 4));
    assert_eq!(try_recv(&timer, 58), Err(TryRecvError::Empty));
    assert_eq!(try_recv(&timer, 60), Ok(60));
}

#[test]
fn a_clock_that_was_read_earlier_changes_nothing() {
    let timer = tick(10);
    assert_eq!(try_recv(&timer, 25), Ok(10));
    assert_eq!(try_recv(&timer, 15), Err(TryRecvError::Empty));
    assert_eq!(stats(&timer, 15), (2, 1, 1));
}

#[test]
fn after_delivers_once_and_is_closed_then() {
    for delay in [0, 10] {
        let timer = after(delay);
        if delay > 0 {
            assert_eq!(try_recv(&timer, 9), Err(TryRecvError::Empty));
            assert!(!timer.at(at(&timer, 9), |state, _| state.closed));
        }
        assert!(timer.at(at(&timer, 50), |state, _| state.closed));
        assert_eq!(try_recv(&timer, 60), Ok(delay));
        assert_eq!(try_recv(&timer, 70), Err(TryRecvError::Closed));
        assert_eq!(stats(&timer, 70), (1, 1, 0));
        assert_eq!(timer.next_tick_at(at(&timer, 70)), None);
    }
}

#[test]
fn a_timer_that_is_closed_before_its_time_delivers_nothing() {
    for timer in [after(10), tick(10)] {
        timer.close_at(at(&timer, 9));
        assert_eq!(try_recv(&timer, 50), Err(TryRecvError::Closed));
        assert_eq!(stats(&timer, 50), (0, 0, 0));
    }
}

#[test]
fn a_tick_that_was_due_before_the_close_is_drained() {
    let timer = tick(10);
    timer.close_at(at(&timer, 15));
    assert_eq!(try_recv(&timer, 50), Ok(10));
    assert_eq!(try_recv(&timer, 50), Err(TryRecvError::Closed));
}

#[test]
fn what_no_clock_reaches_never_comes() {
    let never = Timer::<u64, _>::new(None, true, STAMP, Shared);
    let huge = Timer::new(Some(Duration::MAX), false, STAMP, Shared);
    let late = Timer::new(Some(Duration::from_nanos(u64::MAX)), false, STAMP, Shared);
    for timer in [never, huge, late] {
        assert_eq!(
            try_recv(&timer, u64::from(u32::MAX)),
            Err(TryRecvError::Empty)
        );
        let entry = begin(&timer, &waiter(), 0);
        end(&entry, Outcome::Interrupted);
        assert_eq!(finish(&timer, &entry, 0), Err(RecvError::Interrupted));
    }
}

#[test]
fn who_waits_is_served_in_order_whoever_wakes_first() {
    let timer = tick(10);
    let waiters = [waiter(), waiter(), waiter()];
    let [a, b, c] = waiters.each_ref().map(|waiter| begin(&timer, waiter, 0));
    assert_eq!(try_recv(&timer, 5), Err(TryRecvError::Empty));
    // The last one wakes first: the tick goes to the first, whose wait that ends.
    let c = resume(&timer, &c, 10).expect("it is not its turn");
    assert_eq!(a.waiter.outcome(a.epoch), Some(Outcome::Handed));
    assert_eq!(finish(&timer, &a, 11), Ok(10));
    let b = resume(&timer, &b, 12).expect("it is not its turn");
    assert_eq!(
        try_recv(&timer, 13),
        Err(TryRecvError::Empty),
        "not overtaken"
    );
    // It has kept its place before the last one, and both are owed a tick by now.
    assert_eq!(resume(&timer, &c, 33).unwrap_err(), 30);
    assert_eq!(finish(&timer, &b, 34), Ok(20));
    assert_eq!(stats(&timer, 34), (3, 3, 0));
}

#[test]
fn each_keeps_its_place_in_line_when_it_resumes() {
    let timer = tick(10);
    let waiters = [waiter(), waiter(), waiter(), waiter()];
    let mut line = waiters.each_ref().map(|waiter| begin(&timer, waiter, 0));
    for at_place in [3, 1, 2, 0, 2, 3, 1, 0] {
        line[at_place] = resume(&timer, &line[at_place], 5).expect("no tick yet");
    }
    for (entry, due) in line.iter().zip([10, 20, 30, 40]) {
        assert_eq!(resume(&timer, entry, due).unwrap_err(), due);
    }
}

#[test]
fn a_tick_that_came_before_the_timeout_was_raised_is_received() {
    let timer = tick(10);
    let entry = begin(&timer, &waiter(), 0);
    end(&entry, Outcome::TimedOut);
    assert_eq!(finish(&timer, &entry, 9), Err(RecvError::TimedOut));
    let entry = begin(&timer, &waiter(), 9);
    end(&entry, Outcome::TimedOut);
    assert_eq!(finish(&timer, &entry, 10), Ok(10));
}

#[test]
fn a_cancelled_receiver_is_passed_over() {
    let timer = tick(10);
    let (first, second) = (waiter(), waiter());
    let cancelled = begin(&timer, &first, 0);
    let next = begin(&timer, &second, 0);
    end(&cancelled, Outcome::Interrupted);
    assert_eq!(resume(&timer, &next, 10).unwrap_err(), 10);
    assert_eq!(finish(&timer, &cancelled, 11), Err(RecvError::Interrupted));
    assert_eq!(stats(&timer, 12), (1, 1, 0));
}

#[test]
fn a_tick_that_is_given_back_goes_to_the_next_in_line() {
    let timer = tick(10);
    let (first, second) = (waiter(), waiter());
    let left = begin(&timer, &first, 0);
    let next = begin(&timer, &second, 0);
    end(&left, Outcome::TimedOut);
    assert_eq!(
        timer.next_tick_at(at(&timer, 12)),
        Some(at(&timer, 20)),
        "replays"
    );
    timer.forget_receiver_at(&left, at(&timer, 13));
    assert_eq!(next.waiter.outcome(next.epoch), Some(Outcome::Handed));
    assert_eq!(finish(&timer, &next, 14), Ok(10));
    let last = begin(&timer, &first, 14);
    end(&last, Outcome::TimedOut);
    timer.forget_receiver_at(&last, at(&timer, 21));
    assert_eq!(
        try_recv(&timer, 22),
        Ok(20),
        "to the buffer, where nobody waits"
    );
    assert_eq!(stats(&timer, 22), (2, 2, 0));
}

#[test]
fn a_tick_that_is_given_back_too_late_is_dropped() {
    let timer = tick(10);
    let entry = begin(&timer, &waiter(), 0);
    end(&entry, Outcome::TimedOut);
    assert_eq!(stats(&timer, 25), (2, 1, 0));
    timer.forget_receiver_at(&entry, at(&timer, 26));
    assert_eq!(stats(&timer, 26), (2, 0, 1));
    assert_eq!(try_recv(&timer, 27), Ok(20));
}

#[test]
fn the_first_in_line_gets_what_after_delivers_and_the_others_find_it_closed() {
    let timer = after(10);
    let waiters = [waiter(), waiter(), waiter()];
    let [a, b, c] = waiters.each_ref().map(|waiter| begin(&timer, waiter, 0));
    end(&a, Outcome::TimedOut);
    end(&b, Outcome::TimedOut);
    // SAFETY: its wait has ended.
    let polled = unsafe { timer.poll_recv_at(&b, at(&timer, 10)) };
    assert_eq!(polled, Some(Err(RecvError::Closed)));
    assert_eq!(finish(&timer, &a, 11), Ok(10));
    assert_eq!(finish(&timer, &c, 12), Err(RecvError::Closed));
    assert_eq!(c.waiter.outcome(c.epoch), Some(Outcome::Closed));
}

#[test]
fn close_wakes_everyone_in_line() {
    let timer = tick(10);
    let waiters = [waiter(), waiter()];
    let [a, b] = waiters.each_ref().map(|waiter| begin(&timer, waiter, 0));
    end(&a, Outcome::TimedOut);
    timer.close_at(at(&timer, 5));
    assert_eq!(finish(&timer, &a, 20), Err(RecvError::Closed));
    assert_eq!(finish(&timer, &b, 20), Err(RecvError::Closed));
}
