//! `after` and `tick`: channels whose values are moments of a clock.
//!
//! Nothing fires. A channel's ticks are known for all times to come, tick `n` (from 1) at `start + n * period`, so
//! whoever uses the channel first *replays* what has happened by now: each tick, at its moment, goes to the
//! longest-waiting receiver, else into the buffer of one, else it is dropped. An operation that replays under the
//! lock and then acts cannot be told from one on a channel that a timer sends to. So an unused channel costs nothing, needs
//! no thread and keeps nothing alive, and a channel that is looked at late has not drifted.
//!
//! Only a receiver that waits has to wake when a tick comes. It waits until the next one
//! ([`Timer::next_tick`]) and then resumes, which replays: whoever is first to wake hands the
//! tick to whom it belongs. So each of `n` waiting receivers wakes at each tick, which makes none depend on another's
//! being in time. (Tried: only the first in line has a timer and passes it on. A stuck first one then holds up
//! all others.) Receivers that wait in numbers wait for the one value of an `after`, and then all of them go.
//!
//! # Invariants
//! Whenever the lock is free:
//! 1. ticks below `next` were replayed: `next - 1 == received + dropped + buffered`;
//! 2. somebody is in line  =>  the buffer is empty, and the channel is open.
//!
//! # Who is in line
//! An entry is in line from its link until it is served, closed or forgotten, also while its wait has ended and its
//! owner is on the way here. So its slot belongs, unlike in other kinds, to whoever holds the lock, unless its claim is
//! held. A replay that meets an entry whose wait has timed out leaves the tick in its slot all the same: most likely
//! the wait ended because this very tick was due, and otherwise the tick came before the timeout was raised. Whoever
//! cannot use it gives it back ([`Timer::forget_receiver`]): to the next in line, or to the buffer. An entry whose
//! wait ended otherwise is passed over.

use std::time::{Duration, Instant};

use super::{
    BeginRecv, BeginSend, ChannelStats, Claimed, Guarded, RecvError, TryRecvError, TrySendError,
    waited::Waited,
};
use crate::{
    sync::{Mode, coarse_now_ns, spin_hint},
    wait::{Armed, Entry, Outcome, Place, WaiterList},
};

/// What a tick is as a value.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<T> {
    /// The time in nanoseconds on the values' clock when the channel was made.
    pub origin_nanos: u64,
    /// Makes a value of such a time. Called under the lock: it runs no foreign code.
    pub make: fn(u64) -> T,
}

pub(super) struct Timer<T, M: Mode> {
    start: Instant,
    /// 0 only where there is one tick. `None`: longer than any clock runs.
    period_nanos: Option<u64>,
    /// `after`: there is one tick, and with it the channel closes.
    is_single: bool,
    stamp: Stamp<T>,
    state: Guarded<State<T>, M>,
}

struct State<T> {
    /// The number of the first tick that was not replayed.
    next: u64,
    buffered: Option<T>,
    /// Ticks that were taken or handed over.
    received: u64,
    /// Ticks that found the buffer full.
    dropped: u64,
    closed: bool,
    line: WaiterList<T>,
    recv_waits: u64,
    recv_waited: Waited,
    /// Ticks that came back from those who could not use them.
    given_back: u64,
}

/// Whom to wake after the lock.
type Woken<T> = Vec<(Claimed<T>, Outcome)>;

fn wake<T>(woken: Woken<T>) {
    for ((entry, claim), outcome) in woken {
        claim.complete(outcome);
        drop(entry);
    }
}

/// Whether the owner of an entry, whose wait has ended, comes here for a tick.
fn comes_back<T>(entry: &Entry<T>) -> bool {
    while entry.waiter.is_claimed(entry.epoch) {
        spin_hint(); // for whoever claimed it, who needs nothing of ours
    }
    // Timed out, or settled since and about to resume.
    matches!(
        entry.waiter.outcome(entry.epoch),
        Some(Outcome::TimedOut) | None
    )
}

impl<T> State<T> {
    /// Gives a tick to the first in line that wants it, or to the buffer. What comes back was dropped.
    fn deliver(&mut self, value: T, woken: &mut Woken<T>) -> Option<T> {
        while let Some((entry, claim)) = self.line.unlink_first() {
            if claim.is_none() && !comes_back(&entry) {
                continue;
            }
            // SAFETY: the slot of an entry in line is the lock's, or its claim is ours.
            unsafe { entry.put(value) };
            self.received += 1;
            woken.extend(claim.map(|claim| ((entry, claim), Outcome::Handed)));
            return None;
        }
        if self.buffered.is_some() {
            self.dropped += 1;
            return Some(value);
        }
        self.buffered = Some(value);
        None
    }

    /// Gives a tick to the next one: who has it cannot use it. What comes back was dropped.
    fn give_back(&mut self, value: T, woken: &mut Woken<T>) -> Option<T> {
        // INVARIANT: 1, the tick is not received after all.
        self.received -= 1;
        self.given_back += 1;
        self.deliver(value, woken)
    }

    fn close(&mut self, woken: &mut Woken<T>) {
        self.closed = true;
        while let Some(claimed) = self.line.claim_first() {
            woken.push((claimed, Outcome::Closed));
        }
    }
}

impl<T, M: Mode> Timer<T, M> {
    /// `period`: `None` is longer than any clock runs; zero only where `is_single`.
    pub(super) fn new(period: Option<Duration>, is_single: bool, stamp: Stamp<T>, _: M) -> Self {
        debug_assert!(
            is_single || period != Some(Duration::ZERO),
            "ticks without end"
        );
        Self {
            start: Instant::now(),
            period_nanos: period.and_then(|period| u64::try_from(period.as_nanos()).ok()),
            is_single,
            stamp,
            state: Guarded::new(State {
                next: 1,
                buffered: None,
                received: 0,
                dropped: 0,
                closed: false,
                line: WaiterList::default(),
                recv_waits: 0,
                recv_waited: Waited::default(),
                given_back: 0,
            }),
        }
    }

    /// How many ticks there are until `now`.
    fn ticks(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        match self.period_nanos {
            Some(period) if elapsed >= period => {
                if self.is_single {
                    1
                } else {
                    elapsed / period
                }
            }
            _ => 0,
        }
    }

    /// Nanoseconds from the start to a tick.
    fn nanos(&self, tick: u64) -> Option<u64> {
        self.period_nanos?.checked_mul(tick)
    }

    /// When a tick comes; `None` if never.
    fn due(&self, tick: u64) -> Option<Instant> {
        self.start
            .checked_add(Duration::from_nanos(self.nanos(tick)?))
    }

    /// Calls `change` under the lock, after the replay of all ticks until `now`. Wakes whom both have claimed.
    fn at<R>(&self, now: Instant, change: impl FnOnce(&mut State<T>, &mut Woken<T>) -> R) -> R {
        let mut woken = Vec::new();
        let result = self.state.with(|state| {
            state.recv_waited.pass(coarse_now_ns(), state.line.len());
            self.replay(state, now, &mut woken);
            change(state, &mut woken)
        });
        wake(woken);
        result
    }

    fn replay(&self, state: &mut State<T>, now: Instant, woken: &mut Woken<T>) {
        let ticks = self.ticks(now);
        while state.next <= ticks && !state.closed {
            // INVARIANT: 1, the tick is handed over, buffered, or dropped, and those after it if nobody is in line.
            if state.line.is_empty() && state.buffered.is_some() {
                state.dropped += ticks - state.next + 1;
                state.next = ticks + 1;
                return;
            }
            let nanos = self.nanos(state.next).unwrap_or(u64::MAX);
            let value = (self.stamp.make)(self.stamp.origin_nanos.saturating_add(nanos));
            state.next += 1;
            let refused = state.deliver(value, woken);
            debug_assert!(
                refused.is_none(),
                "somebody is in line, or the buffer is empty"
            );
            if self.is_single {
                state.close(woken);
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.at(Instant::now(), |state, _| state.closed)
    }

    pub(super) fn close(&self) {
        self.close_at(Instant::now());
    }

    fn close_at(&self, now: Instant) {
        self.at(now, State::close);
    }

    pub(super) fn len(&self) -> usize {
        self.at(Instant::now(), |state, _| {
            usize::from(state.buffered.is_some())
        })
    }

    pub(super) fn stats(&self) -> ChannelStats {
        self.stats_at(Instant::now())
    }

    fn stats_at(&self, now: Instant) -> ChannelStats {
        self.at(now, |state, _| ChannelStats {
            sent: state.next - 1,
            received: state.received,
            dropped: state.dropped,
            send_waits: 0,
            recv_waits: state.recv_waits,
            send_waited: Duration::ZERO,
            recv_waited: state.recv_waited.total(),
        })
    }

    /// Nobody sends here.
    #[expect(clippy::unused_self, reason = "as the other kinds have it")]
    pub(super) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        Err(TrySendError::Closed(value))
    }

    #[expect(clippy::unused_self, reason = "as the other kinds have it")]
    pub(super) fn begin_send<P: Place<T>>(&self, value: T, _: P) -> BeginSend<T, P::Left> {
        BeginSend::Closed(value)
    }

    #[expect(clippy::unused_self, reason = "as the other kinds have it")]
    pub(super) fn forget_sender(&self, _: &Entry<T>) {}

    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.try_recv_at(Instant::now())
    }

    fn try_recv_at(&self, now: Instant) -> Result<T, TryRecvError> {
        self.at(now, |state, _| match state.buffered.take() {
            Some(value) => {
                state.received += 1;
                Ok(value)
            }
            None if state.closed => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        })
    }

    pub(super) fn begin_recv<P: Place<T>>(&self, place: P) -> BeginRecv<T, P::Left> {
        self.begin_recv_at(place, Instant::now())
    }

    fn begin_recv_at<P: Place<T>>(&self, place: P, now: Instant) -> BeginRecv<T, P::Left> {
        self.at(now, |state, _| {
            if let Some(value) = state.buffered.take() {
                state.received += 1;
                return BeginRecv::Done(value);
            }
            if state.closed {
                return BeginRecv::Closed;
            }
            state.recv_waits += 1;
            BeginRecv::Waiting(place.link(&mut state.line, None))
        })
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.next_tick_at(Instant::now())
    }

    fn next_tick_at(&self, now: Instant) -> Option<Instant> {
        self.at(now, |state, _| {
            self.due(state.next).filter(|_| !state.closed)
        })
    }

    /// What a receive has come to whose wait has timed out. `None`: it is in line as before.
    ///
    /// # Safety
    /// As for [`Channel::poll_recv`](super::Channel::poll_recv).
    pub(super) unsafe fn poll_recv(&self, entry: &Entry<T>) -> Option<Result<T, RecvError>> {
        // SAFETY: the caller's promise.
        unsafe { self.poll_recv_at(entry, Instant::now()) }
    }

    unsafe fn poll_recv_at(&self, entry: &Entry<T>, now: Instant) -> Option<Result<T, RecvError>> {
        self.at(now, |state, _| {
            // SAFETY: its wait has ended without a claim of ours, so the slot is the lock's.
            match unsafe { entry.take() } {
                Some(value) => Some(Ok(value)),
                None if state.line.contains(entry) => None,
                None => Some(Err(RecvError::Closed)), // what else takes an entry out of the line
            }
        })
    }

    /// Begins the next wait of such a receive, in the same place in line.
    ///
    /// # Safety
    /// As for [`Channel::resume_recv`](super::Channel::resume_recv).
    pub(super) unsafe fn resume_recv<P: Place<T>>(
        &self,
        entry: &Entry<T>,
        place: P,
    ) -> BeginRecv<T, P::Left> {
        // SAFETY: the caller's promise.
        unsafe { self.resume_recv_at(entry, place, Instant::now()) }
    }

    unsafe fn resume_recv_at<P: Place<T>>(
        &self,
        entry: &Entry<T>,
        place: P,
        now: Instant,
    ) -> BeginRecv<T, P::Left> {
        self.at(now, |state, _| {
            // SAFETY: its wait has ended without a claim of ours, so the slot is the lock's.
            if let Some(value) = unsafe { entry.take() } {
                return BeginRecv::Done(value);
            }
            match state.line.replace(entry, place) {
                Some(left) => BeginRecv::Waiting(left),
                None => BeginRecv::Closed,
            }
        })
    }

    /// Ends a receive that waited.
    ///
    /// # Safety
    /// As for [`Channel::finish_recv`](super::Channel::finish_recv).
    pub(super) unsafe fn finish_recv(
        &self,
        entry: &Entry<T>,
        outcome: Outcome,
    ) -> Result<T, RecvError> {
        // SAFETY: the caller's promise.
        unsafe { self.finish_recv_at(entry, outcome, Instant::now()) }
    }

    unsafe fn finish_recv_at(
        &self,
        entry: &Entry<T>,
        outcome: Outcome,
        now: Instant,
    ) -> Result<T, RecvError> {
        if outcome == Outcome::Handed {
            // SAFETY: the owner, who is the caller, saw the outcome.
            return Ok(unsafe { entry.take() }.expect("a hand-over leaves a value"));
        }
        self.at(now, |state, _| {
            let was_in_line = state.line.remove(entry);
            // SAFETY: its wait has ended without a claim of ours, so the slot is the lock's.
            match (unsafe { entry.take() }, outcome) {
                (Some(value), _) => Ok(value),
                (None, Outcome::Interrupted) => Err(RecvError::Interrupted),
                (None, Outcome::TimedOut) if was_in_line => Err(RecvError::TimedOut),
                _ => Err(RecvError::Closed),
            }
        })
    }

    /// Takes a receiver out of the line whose wait ended otherwise than by this channel, and which wants no tick.
    pub(super) fn forget_receiver(&self, entry: &Entry<T>) {
        self.forget_receiver_at(entry, Instant::now());
    }

    fn forget_receiver_at(&self, entry: &Entry<T>, now: Instant) {
        let dropped = self.at(now, |state, woken| {
            state.line.remove(entry);
            // SAFETY: its wait has ended without a claim of ours, so the slot is the lock's.
            let value = unsafe { entry.take() }?;
            state.give_back(value, woken)
        });
        drop(dropped); // outside the lock
    }

    /// See [`Channel`](super::Channel::link_armed_sender): nobody sends here.
    #[expect(clippy::unused_self, reason = "as the other kinds have it")]
    pub(super) fn link_armed_sender(&self, value: T, _: Armed<T>) -> Result<(), T> {
        Err(value)
    }

    /// See [`Channel`](super::Channel::link_armed_receiver). The wait is to time out at [`next_tick`](Self::next_tick).
    pub(super) fn link_armed_receiver(&self, place: Armed<T>) -> bool {
        self.at(Instant::now(), |state, _| {
            if state.buffered.is_some() || state.closed {
                return false;
            }
            state.recv_waits += 1;
            place.link(&mut state.line, None);
            true
        })
    }

    /// Takes a receiver out of the line whose wait is over, and what it was given, if it wants that.
    ///
    /// # Safety
    /// As for [`Channel::finish_recv`](super::Channel::finish_recv).
    pub(super) unsafe fn take_back_receiver(&self, entry: &Entry<T>, wants: bool) -> Option<T> {
        let (taken, dropped) = self.at(Instant::now(), |state, woken| {
            state.line.remove(entry);
            // SAFETY: its wait is over: the slot is the lock's, or has what it was handed.
            match unsafe { entry.take() } {
                Some(value) if wants => (Some(value), None),
                Some(value) => (None, state.give_back(value, woken)),
                None => (None, None),
            }
        });
        drop(dropped); // outside the lock
        taken
    }

    /// A send never has to wait.
    #[expect(clippy::unused_self, reason = "as the other kinds have it")]
    pub(super) fn send_version(&self) -> u64 {
        0
    }

    /// There is something to receive once a tick was due or was given back, and no more once it is closed.
    pub(super) fn recv_version(&self) -> u64 {
        self.at(Instant::now(), |state, _| {
            state.next + state.given_back + u64::from(state.closed)
        })
    }

    /// # Safety
    /// As for [`Channel::for_each`](super::Channel::for_each).
    pub(super) unsafe fn for_each(&self, mut visit: impl FnMut(&T)) {
        // SAFETY: nobody else uses the channel, by the caller's promise.
        let state = unsafe { self.state.get_in_stopped_world() };
        if let Some(value) = &state.buffered {
            visit(value);
        }
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(test)]
mod sleeper;
#[cfg(all(test, not(loom)))]
mod tests;
