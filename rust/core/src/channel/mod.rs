//! Channels: values from any sender to any receiver, first in, first out, each exactly once.
//!
//! - [`mod@array`]: a ring of `capacity` slots, without a lock while neither end has to wait;
//! - [`rendezvous`]: capacity 0, a value passes only from hand to hand;
//! - [`list`]: no capacity, linked blocks of slots, senders never wait;
//! - [`timer`]: `after` and `tick`, whose values are moments and which nobody sends on;
//! - [`select`]: of several sends and receives exactly one, whatever their kinds.
//!
//! [`ends`] counts the directional ends of a channel: the last of a direction to go closes it.
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
//! - a send on a channel with an [`Overflow`] policy does not wait for room ([`Channel::offer`]); with a [`Rate`], senders
//!   take turns and tokens first ([`Turnstile`]); [`Gauge`]s tell of a channel that fills up;
//! - a send that ended otherwise than [`Handed`](Outcome::Handed) gives its value back, and the value
//!   was never in the channel; such a receive took nothing, and what it did not take goes to the
//!   next, because a hand-over that loses the claim goes on to the next entry.
//!
//! A receiver may be gone after it was handed a value: its event loop cancelled it at that moment, or was closed. It
//! then calls [`abandon_recv`](Channel::abandon_recv) instead of `finish_recv`, and the value goes to the
//! longest-waiting receiver, or to the [`returned`] ones, which every receive looks at first.
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
mod ends;
mod error;
mod list;
mod many;
mod overflow;
mod pressure;
mod rate;
mod rendezvous;
mod returned;
pub mod select;
mod timer;
mod waited;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use array::Array;
use list::List;
use rendezvous::Rendezvous;
use returned::Returned;
use timer::Timer;
use waited::Waited;

pub use ends::Ends;
pub use error::{RecvError, SendError, TryRecvError, TrySendError};
pub use overflow::Overflow;
pub use pressure::{Gauge, Pressure};
pub use rate::{Bucket, Rate, Step, Ticket, Turnstile};
pub use timer::Stamp;

use crate::{
    sync::{Guarded, Mode, coarse_now_ns, spin_hint},
    wait::{Armed, Claim, Entry, Outcome, Place, Unlinked, WaiterList, WaiterRef},
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
    /// Values that receivers have taken out or been handed, without those that came back.
    pub received: u64,
    /// Values that nobody will receive: ticks that nobody took in time, what came back too late, values in the place of
    /// which another was sent, and those that were thrown away instead of being sent.
    pub dropped: u64,
    /// Sends that had to wait, for room or for a token: one that waited for both counts twice.
    pub send_waits: u64,
    /// Receives that had to wait.
    pub recv_waits: u64,
    /// How long senders have waited, all together, those included that wait now. By a coarse clock.
    pub send_waited: Duration,
    /// The same of receivers.
    pub recv_waited: Duration,
}

/// A channel of any kind. Dropping it drops what is left in it.
pub struct Channel<T, M: Mode> {
    kind: Kind<T, M>,
    overflow: Overflow,
    turnstile: Option<Box<Turnstile<M>>>,
}

enum Kind<T, M: Mode> {
    Array(Array<T, M>),
    Rendezvous(Rendezvous<T, M>),
    List(List<T, M>),
    Timer(Timer<T, M>),
}

/// Calls the method of the kind at hand.
macro_rules! of_kind {
    ($channel:expr, $kind:ident => $call:expr) => {
        match &$channel.kind {
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
        Some(Self::of(if capacity == 0 {
            Kind::Rendezvous(Rendezvous::new(mode))
        } else {
            Kind::Array(Array::try_new(capacity, mode)?)
        }))
    }

    fn of(kind: Kind<T, M>) -> Self {
        Self {
            kind,
            overflow: Overflow::Block,
            turnstile: None,
        }
    }

    /// The same channel with another policy.
    ///
    /// # Panics
    /// Where the policy throws values away, and the channel holds none.
    #[must_use]
    pub fn with_overflow(mut self, overflow: Overflow) -> Self {
        assert!(
            !overflow.drops() || self.capacity() != Some(0),
            "a rendezvous has nothing to drop"
        );
        self.overflow = overflow;
        self
    }

    /// The same channel with senders that take turns; see [`Turnstile`]. Its tokens are for those who ask for them:
    /// [`offer`](Self::offer) and the other sends do not.
    #[must_use]
    pub fn with_rate(mut self, rate: Rate, now: Instant, mode: M) -> Self {
        self.turnstile = Some(Box::new(Turnstile::new(rate, now, mode)));
        self
    }

    /// What a send does that would have to wait.
    #[inline]
    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// Where senders wait for tokens.
    #[inline]
    pub fn turnstile(&self) -> Option<&Turnstile<M>> {
        self.turnstile.as_deref()
    }

    /// A channel that holds any number of values: a send never waits.
    pub fn unbounded(mode: M) -> Self {
        Self::of(Kind::List(List::new(mode)))
    }

    /// A channel that delivers the moment `delay` from now, once, and closes. `None` is longer than any clock runs.
    pub fn after(delay: Option<Duration>, stamp: Stamp<T>, mode: M) -> Self {
        Self::of(Kind::Timer(Timer::new(delay, true, stamp, mode)))
    }

    /// A channel that delivers the moments that are multiples of `period`, which is not zero, from now, and drops those
    /// that nobody took in time.
    pub fn tick(period: Option<Duration>, stamp: Stamp<T>, mode: M) -> Self {
        Self::of(Kind::Timer(Timer::new(period, false, stamp, mode)))
    }

    /// How many values fit; `None` where any number does.
    #[inline]
    pub fn capacity(&self) -> Option<usize> {
        match &self.kind {
            Kind::Array(array) => Some(array.capacity()),
            Kind::Rendezvous(_) => Some(0),
            Kind::List(_) => None,
            Kind::Timer(_) => Some(1),
        }
    }

    /// Whether values come from a clock. Nobody sends on such a channel: a send answers as if it were closed.
    #[inline]
    pub fn is_timer(&self) -> bool {
        matches!(self.kind, Kind::Timer(_))
    }

    /// How many values are buffered or came back: right at one moment during the call. It may be more than
    /// [`capacity`](Self::capacity), because what comes back takes no slot.
    pub fn len(&self) -> usize {
        of_kind!(self, kind => kind.len())
    }

    /// Whether nothing can be received without a sender.
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
        if let Some(turnstile) = &self.turnstile {
            turnstile.close();
        }
    }

    /// Sends without waiting. Never overtakes a sender that waits.
    #[inline]
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        // The two kinds that have a fast way become part of the caller; all four would be a call and a table of jumps.
        match &self.kind {
            Kind::Array(array) => array.try_send(value),
            Kind::List(list) => list.try_send(value),
            _ => self.try_send_slow_kind(value),
        }
    }

    #[inline(never)]
    fn try_send_slow_kind(&self, value: T) -> Result<(), TrySendError<T>> {
        of_kind!(self, kind => kind.try_send(value))
    }

    /// Sends without waiting, by the channel's [`Overflow`]: `Full` says that it has to wait or to fail, which is not
    /// for us to do. What was thrown away, if anything, is the caller's to drop.
    #[inline]
    pub fn offer(&self, value: T) -> Result<Option<T>, TrySendError<T>> {
        match self.try_send(value) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(value)) if self.overflow.drops() => self.offer_to_full(value),
            Err(error) => Err(error),
        }
    }

    #[cold]
    #[inline(never)]
    fn offer_to_full(&self, mut value: T) -> Result<Option<T>, TrySendError<T>> {
        let mut backoff = Backoff::new();
        loop {
            value = match (self.try_send(value), &self.kind, self.overflow) {
                (Ok(()), ..) => return Ok(None),
                (Err(TrySendError::Full(value)), Kind::Array(array), Overflow::DropNewest) => {
                    array.count_refused();
                    return Ok(Some(value));
                }
                (Err(TrySendError::Full(value)), Kind::Array(array), Overflow::DropOldest) => {
                    match array.replace_first(value) {
                        Ok(first) => return Ok(Some(first)),
                        Err(back) => back,
                    }
                }
                (Err(error), ..) => return Err(error),
            };
            // A receiver was faster, or a sender has yet to fill the first slot.
            backoff.pause();
        }
    }

    /// Receives without waiting.
    #[inline]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        // As in `try_send`.
        match &self.kind {
            Kind::Array(array) => array.try_recv(),
            Kind::List(list) => list.try_recv(),
            _ => self.try_recv_slow_kind(),
        }
    }

    #[inline(never)]
    fn try_recv_slow_kind(&self) -> Result<T, TryRecvError> {
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
        if let Kind::Timer(timer) = &self.kind {
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

    fn timer(&self) -> &Timer<T, M> {
        match &self.kind {
            Kind::Timer(timer) => timer,
            _ => unreachable!("asked of no other kind"),
        }
    }

    /// Ends a receive that waited and whose receiver is gone. A value that it was handed goes to the
    /// longest-waiting receiver; where none waits, the next receive gets it, before all that were sent later.
    ///
    /// Gives a value that nobody will receive, because the channel was [cleared](Self::clear), to be dropped where foreign
    /// code may run.
    ///
    /// # Safety
    /// As for [`finish_recv`](Self::finish_recv), which is not called as well.
    #[must_use = "what is dropped here may run foreign code"]
    pub unsafe fn abandon_recv(&self, entry: &Entry<T>) -> Option<T> {
        if self.is_timer() || outcome_of(entry) != Outcome::Handed {
            // A timer gives the tick to the next in line itself.
            of_kind!(self, kind => kind.forget_receiver(entry));
            return None;
        }
        // SAFETY: the owner, who is the caller, saw the outcome.
        let value = unsafe { entry.take() }.expect("a hand-over leaves a value");
        self.give_back(entry, value)
    }

    /// Takes back the value that the receiver of `entry` was handed.
    fn give_back(&self, entry: &Entry<T>, value: T) -> Option<T> {
        match &self.kind {
            Kind::Array(array) => array.give_back(entry, value),
            Kind::Rendezvous(rendezvous) => rendezvous.give_back(entry, value),
            Kind::List(list) => list.give_back(entry, value),
            Kind::Timer(_) => unreachable!("a timer gives its ticks to the next in line itself"),
        }
    }

    pub fn stats(&self) -> ChannelStats {
        let mut stats = of_kind!(self, kind => kind.stats());
        if let Some(turnstile) = &self.turnstile {
            let (waits, waited) = turnstile.waits();
            stats.send_waits += waits;
            stats.send_waited += waited;
        }
        stats
    }

    // What a select needs of each kind.

    /// Whether a receive would have to wait, where that is seen at less cost than by trying.
    #[inline]
    fn is_seen_empty(&self) -> bool {
        match &self.kind {
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
        if let Kind::Timer(timer) = &self.kind {
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

    /// Calls `visit` for each value that the channel keeps alive: the buffered ones, those that came back and those of
    /// blocked senders. For a garbage collector. A value that was handed to a receiver which has not
    /// run yet is the receiver's.
    ///
    /// # Safety
    /// Nobody else uses the channel during the call: the world is stopped.
    pub unsafe fn for_each(&self, visit: impl FnMut(&T)) {
        // SAFETY: the caller's promise.
        of_kind!(self, kind => unsafe { kind.for_each(visit) });
    }

    /// Calls `visit` for each waiter that an entry here has: what is alive as long as the channel is, because it is
    /// waited for here. For a garbage collector.
    ///
    /// # Safety
    /// As for [`for_each`](Self::for_each).
    pub unsafe fn for_each_waiter(&self, mut visit: impl FnMut(&WaiterRef)) {
        // SAFETY: the caller's promise.
        let waiting = unsafe {
            match &self.kind {
                Kind::Array(array) => array.waiting_in_stopped_world(),
                Kind::Rendezvous(rendezvous) => rendezvous.waiting_in_stopped_world(),
                Kind::List(list) => list.waiting_in_stopped_world(),
                Kind::Timer(_) => return, // who waits for the time is no garbage
            }
        };
        waiting.receivers.for_each(|entry| visit(&entry.waiter));
        waiting.senders.for_each(|entry| visit(&entry.waiter));
    }

    /// No receiver will come any more, or a garbage collector breaks a cycle: closes the channel and takes out what is
    /// in it, for the caller to drop where foreign code may run. Blocked senders get their values back. What is taken
    /// out, and what comes back from now on, counts as dropped.
    #[must_use = "what is dropped here may run foreign code"]
    pub fn clear(&self) -> Vec<T> {
        self.close();
        self.with_waiting(Waiting::refuse_returns);
        let left: Vec<T> = std::iter::from_fn(|| self.try_recv().ok()).collect();
        self.with_waiting(|waiting| waiting.dropped += left.len() as u64);
        left
    }

    /// Changes what the lock guards. A timer has no such thing: what it keeps it can make again.
    fn with_waiting(&self, change: impl FnOnce(&mut Waiting<T>)) {
        match &self.kind {
            Kind::Array(array) => array.waiting(change),
            Kind::Rendezvous(rendezvous) => rendezvous.waiting(change),
            Kind::List(list) => list.waiting(change),
            Kind::Timer(_) => {}
        }
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
    /// What receivers were handed and could not take. Empty while a receiver is linked.
    returned: Returned<T>,
    /// Values that went from a sender's hand to a receiver's and never were in a ring. It numbers them, too.
    handed: u64,
    /// Values that were taken out of a ring to make room.
    replaced: u64,
    /// Values that were not put in for want of room.
    refused: u64,
    /// Values that were in the channel, and that nobody will receive.
    dropped: u64,
    send_waits: u64,
    recv_waits: u64,
    send_waited: Waited,
    recv_waited: Waited,
}

/// An entry taken off its list, to be served, and the claim to complete after the lock.
type Claimed<T> = (Unlinked<T>, Claim);

impl<T> Waiting<T> {
    fn new() -> Self {
        Self {
            receivers: WaiterList::default(),
            senders: WaiterList::default(),
            returned: Returned::default(),
            handed: 0,
            replaced: 0,
            refused: 0,
            dropped: 0,
            send_waits: 0,
            recv_waits: 0,
            send_waited: Waited::default(),
            recv_waited: Waited::default(),
        }
    }

    /// Called before the list of senders changes.
    fn senders_pass_time(&mut self) {
        self.send_waited.pass(coarse_now_ns(), self.senders.len());
    }

    /// Called before the list of receivers changes.
    fn receivers_pass_time(&mut self) {
        self.recv_waited.pass(coarse_now_ns(), self.receivers.len());
    }

    fn claim_sender(&mut self) -> Option<Claimed<T>> {
        if self.senders.is_empty() {
            return None; // nobody's time passes, and the clock costs more than the look
        }
        self.senders_pass_time();
        self.senders.claim_first()
    }

    fn claim_receiver(&mut self) -> Option<Claimed<T>> {
        if self.receivers.is_empty() {
            return None; // as above
        }
        self.receivers_pass_time();
        self.receivers.claim_first()
    }

    /// Unlinks a sender whose wait is over, and says whether it was linked.
    fn forget_sender(&mut self, entry: &Entry<T>) -> bool {
        self.senders_pass_time();
        self.senders.remove(entry)
    }

    /// Unlinks a receiver whose wait is over, and says whether it was linked.
    fn forget_receiver(&mut self, entry: &Entry<T>) -> bool {
        self.receivers_pass_time();
        self.receivers.remove(entry)
    }

    /// Links an entry as the last sender. From here on others may end its wait.
    fn link_sender<P: Place<T>>(&mut self, value: T, place: P) -> P::Left {
        self.send_waits += 1;
        self.senders_pass_time();
        place.link(&mut self.senders, Some(value))
    }

    /// Links an entry as the last receiver. From here on others may end its wait.
    fn link_receiver<P: Place<T>>(&mut self, place: P) -> P::Left {
        self.recv_waits += 1;
        self.receivers_pass_time();
        place.link(&mut self.receivers, None)
    }

    /// Puts a sender's value in the hand of the longest-waiting receiver, whose claim the caller completes outside the
    /// lock. Gives it back where none waits: then nobody is linked any more.
    fn hand_over(&mut self, value: T) -> Result<Claimed<T>, T> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "numbers wrap, see `Returned`"
        )]
        let claimed = self.put_in_hand(value, self.handed as u32)?;
        self.handed += 1;
        Ok(claimed)
    }

    fn put_in_hand(&mut self, value: T, number: u32) -> Result<Claimed<T>, T> {
        let Some((entry, claim)) = self.claim_receiver() else {
            return Err(value);
        };
        // SAFETY: the claim makes the slot ours until it completes, and the lock is held.
        unsafe {
            entry.put(value);
            entry.set_number(number);
        }
        Ok((entry, claim))
    }

    /// Takes back what the receiver of `entry` was handed.
    fn give_back(&mut self, entry: &Entry<T>, value: T) -> GivenBack<T> {
        // SAFETY: the lock is held.
        let number = unsafe { entry.number() };
        let value = match self.put_in_hand(value, number) {
            Ok(claimed) => return GivenBack::Handed(claimed),
            Err(value) => value,
        };
        match self.returned.put(number, value) {
            Ok(()) => GivenBack::Kept,
            Err(value) => {
                self.dropped += 1;
                GivenBack::Dropped(value)
            }
        }
    }

    /// Nobody will receive: what comes back from now on is dropped.
    fn refuse_returns(&mut self) {
        self.returned.refuse();
    }

    /// Takes everybody off the lists, for a close. The vector grows under the lock, once in a
    /// channel's life.
    fn claim_all(&mut self) -> Vec<Claimed<T>> {
        self.receivers_pass_time();
        self.senders_pass_time();
        let mut all: Vec<_> = std::iter::from_fn(|| self.receivers.claim_first()).collect();
        all.extend(std::iter::from_fn(|| self.senders.claim_first()));
        all
    }

    /// `sent` and `taken` are what went into a ring and out of it.
    fn stats(&mut self, sent: u64, taken: u64) -> ChannelStats {
        self.receivers_pass_time();
        self.senders_pass_time();
        let left = taken.wrapping_add(self.handed);
        let lost = self.dropped.wrapping_add(self.replaced);
        ChannelStats {
            sent: sent.wrapping_add(self.handed),
            received: left
                .wrapping_sub(self.returned.len() as u64)
                .wrapping_sub(lost),
            dropped: lost.wrapping_add(self.refused),
            send_waits: self.send_waits,
            recv_waits: self.recv_waits,
            send_waited: self.send_waited.total(),
            recv_waited: self.recv_waited.total(),
        }
    }

    /// Shows the values that no ring holds.
    fn visit(&mut self, mut visit: impl FnMut(&T)) {
        self.returned.for_each(&mut visit);
        self.senders.for_each(|entry| {
            // SAFETY: called with the world stopped, so nobody touches the slot.
            if let Some(value) = unsafe { entry.peek() } {
                visit(value);
            }
        });
    }
}

/// What became of a value that came back.
enum GivenBack<T> {
    /// A receiver waited for it. Its claim is completed outside the lock.
    Handed(Claimed<T>),
    /// It is among the returned ones.
    Kept,
    /// Nobody will receive it. It is dropped outside the lock.
    Dropped(T),
}

impl<T> GivenBack<T> {
    /// Wakes the receiver that got it. Called outside the lock.
    fn settle(self) -> Option<T> {
        match self {
            GivenBack::Handed(claimed) => wake_handed(claimed),
            GivenBack::Kept => {}
            GivenBack::Dropped(value) => return Some(value),
        }
        None
    }
}

/// Wakes the peer that was served. Called outside the lock.
fn wake_handed<T>((entry, claim): Claimed<T>) {
    drop(entry); // its owner has a reference, and a thread may be ended in the wake
    claim.complete(Outcome::Handed);
}

/// Ends the waits that a close claimed. Called outside the lock.
fn wake_closed<T>(all: Vec<Claimed<T>>) {
    for (entry, claim) in all {
        drop(entry);
        claim.complete(Outcome::Closed);
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
