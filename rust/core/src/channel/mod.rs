//! Channels: values from any sender to any receiver, first in, first out, each exactly once.
//!
//! - [`mod@array`]: a ring of `capacity` slots, without a lock while neither end has to wait;
//! - [`rendezvous`]: capacity 0, a value passes only from hand to hand;
//! - [`list`]: no capacity, linked blocks of slots, senders never wait;
//! - [`timer`]: `after` and `tick`, whose values are moments and which nobody sends on;
//! - [`select`]: of several sends and receives exactly one, whatever their kinds.
//!
//! A waiting operation is two calls, for the core never blocks: `begin_send` or `begin_recv` does the
//! work or leaves an [`Entry`] where a peer finds it, with the caller's waiter armed; the caller
//! sleeps until `entry.waiter.outcome(entry.epoch)` says how it ended (or disarms the waiter), then
//! calls `finish_send` or `finish_recv`. (On a timer a receiver's wait is to time out at `next_tick`, and then goes on
//! with `resume_recv`.) Between the two, a peer that wants to serve the entry claims
//! its waiter first, so of a hand-over, a close, a timeout and a cancellation exactly one happens:
//!
//! - a waiting receiver is served before the buffer, the longest-waiting one first;
//! - a freed slot belongs to the longest-blocked sender: whoever receives from a full ring moves that
//!   sender's value in, so nobody can be faster;
//! - a send that ended otherwise than [`Handed`](Outcome::Handed) gives its value back, and the value
//!   was never in the channel; such a receive took nothing, and what it did not take goes to the
//!   next, because a hand-over that loses the claim goes on to the next entry.
//!
//! Lists of waiters, and all that is not on the fast way, live in [`Guarded`], under the mode's tiny
//! lock. Under it no foreign code runs: no `T` is dropped and no claim completed there.
//!
//! After a fork the lists forget the waiters of the parent ([`fork`](crate::wait::fork)), and the bits
//! that say "someone waits" are put right by the next operation that trips over them: it finds the
//! list empty, as if all of its waiters had timed out. A fork must not happen while another thread is
//! inside an operation (it would take a claimed slot or the lock with it), so the caller stops its
//! threads first, as an interpreter does.

mod array;
mod error;
mod list;
mod rendezvous;
pub mod select;
mod timer;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use array::Array;
use list::List;
use rendezvous::Rendezvous;
use timer::Timer;

pub use error::{RecvError, SendError, TryRecvError, TrySendError};
pub use timer::Stamp;

use crate::{
    sync::{Guarded, Mode, spin_hint},
    wait::{Armed, Claim, Entry, Outcome, Place, Unlinked, WaiterList},
};

/// How [`Channel::begin_send`] went.
#[derive(Debug)]
#[must_use = "an entry must be finished, a refused value handled"]
pub enum BeginSend<T, L = Arc<Entry<T>>> {
    /// Sent.
    Done,
    /// The channel is closed.
    Closed(T),
    /// The waiter is armed; call [`Channel::finish_send`] with the entry when the wait has ended.
    Waiting(L),
}

/// How [`Channel::begin_recv`] went.
#[derive(Debug)]
#[must_use = "an entry must be finished, a value used"]
pub enum BeginRecv<T, L = Arc<Entry<T>>> {
    /// Received.
    Done(T),
    /// The channel is closed and drained.
    Closed,
    /// The waiter is armed; call [`Channel::finish_recv`] with the entry when the wait has ended.
    Waiting(L),
}

/// What happened in a channel since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelStats {
    /// Values that senders have put in or handed over.
    pub sent: u64,
    /// Values that receivers have taken out or been handed.
    pub received: u64,
    /// Values that nobody took in time: ticks.
    pub dropped: u64,
    /// Sends that had to wait.
    pub send_waits: u64,
    /// Receives that had to wait.
    pub recv_waits: u64,
}

/// A channel of any kind. Dropping it drops what is left in it.
pub struct Channel<T, M: Mode>(Kind<T, M>);

enum Kind<T, M: Mode> {
    Array(Array<T, M>),
    Rendezvous(Rendezvous<T, M>),
    List(List<T, M>),
    Timer(Timer<T, M>),
}

/// Calls the method of the kind at hand.
macro_rules! of_kind {
    ($channel:expr, $kind:ident => $call:expr) => {
        match &$channel.0 {
            Kind::Array($kind) => $call,
            Kind::Rendezvous($kind) => $call,
            Kind::List($kind) => $call,
            Kind::Timer($kind) => $call,
        }
    };
}

impl<T, M: Mode> Channel<T, M> {
    /// A channel that holds up to `capacity` values; with 0, a send waits until it is received.
    ///
    /// # Panics
    /// Where there is no memory for `capacity` slots.
    pub fn bounded(capacity: usize, mode: M) -> Self {
        Self::try_bounded(capacity, mode).expect("memory for the slots")
    }

    /// The same; `None` where there is no memory for `capacity` slots.
    pub fn try_bounded(capacity: usize, mode: M) -> Option<Self> {
        Some(Self(if capacity == 0 {
            Kind::Rendezvous(Rendezvous::new(mode))
        } else {
            Kind::Array(Array::try_new(capacity, mode)?)
        }))
    }

    /// A channel that holds any number of values: a send never waits.
    pub fn unbounded(mode: M) -> Self {
        Self(Kind::List(List::new(mode)))
    }

    /// A channel that delivers the moment `delay` from now, once, and closes. `None` is longer than any clock runs.
    pub fn after(delay: Option<Duration>, stamp: Stamp<T>, mode: M) -> Self {
        Self(Kind::Timer(Timer::new(delay, true, stamp, mode)))
    }

    /// A channel that delivers the moments that are multiples of `period`, which is not zero, from now, and drops those
    /// that nobody took in time.
    pub fn tick(period: Option<Duration>, stamp: Stamp<T>, mode: M) -> Self {
        Self(Kind::Timer(Timer::new(period, false, stamp, mode)))
    }

    /// How many values fit; `None` where any number does.
    #[inline]
    pub fn capacity(&self) -> Option<usize> {
        match &self.0 {
            Kind::Array(array) => Some(array.capacity()),
            Kind::Rendezvous(_) => Some(0),
            Kind::List(_) => None,
            Kind::Timer(_) => Some(1),
        }
    }

    /// Whether values come from a clock. Nobody sends on such a channel: a send answers as if it were closed.
    #[inline]
    pub fn is_timer(&self) -> bool {
        matches!(self.0, Kind::Timer(_))
    }

    /// How many values are buffered: right at one moment during the call.
    pub fn len(&self) -> usize {
        of_kind!(self, kind => kind.len())
    }

    /// Whether nothing is buffered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        of_kind!(self, kind => kind.is_closed())
    }

    /// Closes the channel: senders fail from now on, receivers drain what is left. Wakes all who wait.
    /// Closing twice does nothing.
    pub fn close(&self) {
        of_kind!(self, kind => kind.close());
    }

    /// Sends without waiting. Never overtakes a sender that waits.
    #[inline]
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        of_kind!(self, kind => kind.try_send(value))
    }

    /// Receives without waiting.
    #[inline]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        of_kind!(self, kind => kind.try_recv())
    }

    /// Sends, or leaves `value` in an entry that a receiver will find. `place` says where, and whose: a
    /// waiter that is in no wait, and is armed where the answer is `Waiting`, and only there.
    #[inline]
    pub fn begin_send<P: Place<T>>(&self, value: T, place: P) -> BeginSend<T, P::Left> {
        of_kind!(self, kind => kind.begin_send(value, place))
    }

    /// Ends a send that waited.
    ///
    /// # Safety
    /// `entry` came from [`begin_send`](Self::begin_send) on this channel, was not finished before, and
    /// its wait is over: it has an outcome, or the caller, who owns the waiter, disarmed it.
    pub unsafe fn finish_send(&self, entry: &Entry<T>) -> Result<(), SendError<T>> {
        let outcome = outcome_of(entry);
        if outcome == Outcome::Handed {
            return Ok(());
        }
        self.forget_sender(entry);
        // SAFETY: the wait ended without a hand-over and the entry is in no list, so the slot is the
        // owner's again, who is the caller.
        let value = unsafe { entry.take() }.expect("a send that failed has its value");
        Err(match outcome {
            Outcome::Handed => unreachable!("answered above"),
            Outcome::Closed => SendError::Closed(value),
            Outcome::TimedOut => SendError::TimedOut(value),
            Outcome::Interrupted => SendError::Interrupted(value),
        })
    }

    /// Receives, or leaves an entry that a sender will find, in `place` as for [`begin_send`](Self::begin_send).
    #[inline]
    pub fn begin_recv<P: Place<T>>(&self, place: P) -> BeginRecv<T, P::Left> {
        of_kind!(self, kind => kind.begin_recv(place))
    }

    /// Ends a receive that waited.
    ///
    /// # Safety
    /// As for [`finish_send`](Self::finish_send), with [`begin_recv`](Self::begin_recv).
    pub unsafe fn finish_recv(&self, entry: &Entry<T>) -> Result<T, RecvError> {
        let outcome = outcome_of(entry);
        if let Kind::Timer(timer) = &self.0 {
            // SAFETY: the caller's promise.
            return unsafe { timer.finish_recv(entry, outcome) };
        }
        if outcome == Outcome::Handed {
            // SAFETY: the owner, who is the caller, saw the outcome.
            return Ok(unsafe { entry.take() }.expect("a hand-over leaves a value"));
        }
        self.forget_receiver(entry);
        Err(match outcome {
            Outcome::Handed => unreachable!("answered above"),
            Outcome::Closed => RecvError::Closed,
            Outcome::TimedOut => RecvError::TimedOut,
            Outcome::Interrupted => RecvError::Interrupted,
        })
    }

    /// When the wait of a receiver is to time out, so that it resumes: the next tick of a timer that is open. Asked
    /// once the receiver waits; if a tick came in between and was the receiver's, its wait is over.
    pub fn next_tick(&self) -> Option<Instant> {
        self.is_timer().then(|| self.timer().next_tick())?
    }

    /// What a receive on a timer has come to whose wait has timed out, at [`next_tick`](Self::next_tick) or otherwise.
    /// `None`: it is in line as before, to be resumed, finished or abandoned.
    ///
    /// # Safety
    /// As for [`finish_recv`](Self::finish_recv), which this stands for where it is not `None`.
    pub unsafe fn poll_recv(&self, entry: &Entry<T>) -> Option<Result<T, RecvError>> {
        // SAFETY: the caller's promise.
        unsafe { self.timer().poll_recv(entry) }
    }

    /// Begins the next wait of such a receive, in the same place in line. `place` is as for
    /// [`begin_recv`](Self::begin_recv), and not where `entry` is.
    ///
    /// # Safety
    /// As for [`finish_recv`](Self::finish_recv), which this stands for.
    pub unsafe fn resume_recv<P: Place<T>>(
        &self,
        entry: &Entry<T>,
        place: P,
    ) -> BeginRecv<T, P::Left> {
        // SAFETY: the caller's promise.
        unsafe { self.timer().resume_recv(entry, place) }
    }

    /// Ends a receive on a timer that waited, where nobody takes what came of it: that goes to the next in line.
    ///
    /// # Safety
    /// As for [`finish_recv`](Self::finish_recv), which this stands for.
    pub unsafe fn abandon_recv(&self, entry: &Entry<T>) {
        self.timer().forget_receiver(entry);
    }

    fn timer(&self) -> &Timer<T, M> {
        match &self.0 {
            Kind::Timer(timer) => timer,
            _ => unreachable!("asked of no other kind"),
        }
    }

    pub fn stats(&self) -> ChannelStats {
        of_kind!(self, kind => kind.stats())
    }

    // What a select needs of each kind.

    /// Whether a receive would have to wait, where that is seen at less cost than by trying.
    #[inline]
    fn is_seen_empty(&self) -> bool {
        match &self.0 {
            Kind::Array(array) => array.is_seen_empty(),
            Kind::List(list) => list.is_seen_empty(),
            Kind::Rendezvous(_) | Kind::Timer(_) => false,
        }
    }

    /// Links an entry for a waiter that is armed already, as the last sender. `Err`: a send need not wait, and is the
    /// caller's to try; who waits is no other than the same waiter.
    fn link_armed_sender(&self, value: T, place: Armed<T>) -> Result<(), T> {
        of_kind!(self, kind => kind.link_armed_sender(value, place))
    }

    /// The same for a receiver. `false`: a receive need not wait.
    fn link_armed_receiver(&self, place: Armed<T>) -> bool {
        of_kind!(self, kind => kind.link_armed_receiver(place))
    }

    /// Unlinks a sender, if it is linked.
    fn forget_sender(&self, entry: &Entry<T>) {
        of_kind!(self, kind => kind.forget_sender(entry));
    }

    /// Unlinks a receiver, if it is linked.
    fn forget_receiver(&self, entry: &Entry<T>) {
        of_kind!(self, kind => kind.forget_receiver(entry));
    }

    /// The same for a receiver whose wait is over, and what it was given, if it wants that; otherwise that goes to the
    /// next in line.
    ///
    /// # Safety
    /// As for [`finish_recv`](Self::finish_recv).
    unsafe fn take_back_receiver(&self, entry: &Entry<T>, wants: bool) -> Option<T> {
        if let Kind::Timer(timer) = &self.0 {
            // SAFETY: the caller's promise.
            return unsafe { timer.take_back_receiver(entry, wants) };
        }
        self.forget_receiver(entry);
        // SAFETY: off its list, and its wait is over: the slot is the owner's again. Other kinds give nothing to who
        // has been given something elsewhere.
        unsafe { entry.take() }
    }

    /// Moves, and only up, whenever a send that would have to wait may no longer have to. So if it is the same before
    /// such a send was tried and after, the send would have had to wait all the time between the try and the second
    /// reading.
    fn send_version(&self) -> u64 {
        of_kind!(self, kind => kind.send_version())
    }

    /// The same for a receive.
    fn recv_version(&self) -> u64 {
        of_kind!(self, kind => kind.recv_version())
    }

    /// Calls `visit` for each value that the channel keeps alive: the buffered ones and those of
    /// blocked senders. For a garbage collector. A value that was handed to a receiver which has not
    /// run yet is the receiver's.
    ///
    /// # Safety
    /// Nobody else uses the channel during the call: the world is stopped.
    pub unsafe fn for_each(&self, visit: impl FnMut(&T)) {
        // SAFETY: the caller's promise.
        of_kind!(self, kind => unsafe { kind.for_each(visit) });
    }

    /// Closes the channel and takes out what is buffered, for the caller to drop where foreign code may
    /// run. For a garbage collector that breaks a cycle. Blocked senders get their values back.
    #[must_use = "what is dropped here may run foreign code"]
    pub fn clear(&self) -> Vec<T> {
        self.close();
        std::iter::from_fn(|| self.try_recv().ok()).collect()
    }
}

/// Shows the state, never the values: their `Debug` may be foreign code.
impl<T, M: Mode> fmt::Debug for Channel<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .field("closed", &self.is_closed())
            .finish()
    }
}

fn outcome_of<T>(entry: &Entry<T>) -> Outcome {
    entry
        .waiter
        .outcome(entry.epoch)
        .expect("finished while the wait goes on")
}

/// Who waits, and what only the slow way counts.
struct Waiting<T> {
    /// Their slots are empty until a hand-over.
    receivers: WaiterList<T>,
    /// Their slots hold what they send.
    senders: WaiterList<T>,
    /// Values that went from a sender's hand to a receiver's and never were in a ring.
    handed: u64,
    send_waits: u64,
    recv_waits: u64,
}

/// An entry taken off its list, to be served, and the claim to complete after the lock.
type Claimed<T> = (Unlinked<T>, Claim);

impl<T> Waiting<T> {
    fn new() -> Self {
        Self {
            receivers: WaiterList::default(),
            senders: WaiterList::default(),
            handed: 0,
            send_waits: 0,
            recv_waits: 0,
        }
    }

    /// Links an entry as the last sender. From here on others may end its wait.
    fn link_sender<P: Place<T>>(&mut self, value: T, place: P) -> P::Left {
        self.send_waits += 1;
        place.link(&mut self.senders, Some(value))
    }

    /// Links an entry as the last receiver. From here on others may end its wait.
    fn link_receiver<P: Place<T>>(&mut self, place: P) -> P::Left {
        self.recv_waits += 1;
        place.link(&mut self.receivers, None)
    }

    /// Takes everybody off the lists, for a close. The vector grows under the lock, once in a
    /// channel's life.
    fn claim_all(&mut self) -> Vec<Claimed<T>> {
        let mut all: Vec<_> = std::iter::from_fn(|| self.receivers.claim_first()).collect();
        all.extend(std::iter::from_fn(|| self.senders.claim_first()));
        all
    }

    /// `sent` and `received` are what passed through a ring.
    fn stats(&self, sent: u64, received: u64) -> ChannelStats {
        ChannelStats {
            sent: sent.wrapping_add(self.handed),
            received: received.wrapping_add(self.handed),
            dropped: 0,
            send_waits: self.send_waits,
            recv_waits: self.recv_waits,
        }
    }

    fn visit_senders(&mut self, mut visit: impl FnMut(&T)) {
        self.senders.for_each(|entry| {
            // SAFETY: called with the world stopped, so nobody touches the slot.
            if let Some(value) = unsafe { entry.peek() } {
                visit(value);
            }
        });
    }
}

/// Ends the waits that a close claimed. Called outside the lock.
fn wake_closed<T>(all: Vec<Claimed<T>>) {
    for (entry, claim) in all {
        claim.complete(Outcome::Closed);
        drop(entry);
    }
}

/// Waits for a peer that is between two steps of an operation: it holds no lock and needs none, so
/// it is done in a few instructions, unless the system took its processor away.
struct Backoff(u32);

impl Backoff {
    const SPINS_BEFORE_YIELD: u32 = 64;

    fn new() -> Self {
        Self(0)
    }

    fn pause(&mut self) {
        self.0 += 1;
        spin_hint();
        if self.0 > Self::SPINS_BEFORE_YIELD {
            std::thread::yield_now();
        }
    }
}
