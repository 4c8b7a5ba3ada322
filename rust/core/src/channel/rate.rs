//! A rate of sends: a token bucket, and the line of senders in front of it.
//!
//! # The bucket
//! It holds up to `burst` tokens, starts full, and fills with `per_second`. It is arithmetic over readings of a
//! clock that others take: no thread fills it. Since it was last full, at `full_at`, `taken` tokens were taken; so the
//! next one is there from `full_at + (taken + 1 - burst) / per_second` on. A count and one division: nothing is added
//! up that rounding could make drift. (Kin of the generic cell rate algorithm of ATM, which keeps the one moment when
//! the bucket would be full.)
//!
//! # The line
//! Whoever sends on a channel with a rate first gets the *turn*, of which there is one. With it the sender waits for a
//! token, then sends, which may wait for room. If it has sent it takes the token, there and then: a token
//! belongs to the send that succeeds, and senders that wait for room save up none. Then it passes the turn on to
//! the longest-waiting in line. A sender that fails, is cancelled or runs out of time passes the turn on and takes
//! nothing.
//!
//! A [select](super::select) whose case is such a send stands here as one sender does, and in the lines of its other
//! cases too: so a wait here may end because of something else, with the turn or without it. Whoever passes the turn on
//! leaves a mark in the slot of the entry.
//!
//! ```text
//!   outside --turn is free--> holds it --token is there--> sends --> passes it on
//!      |                         ^  |                                    ^
//!      '--> in line --handed-----'  '--> sleeps until the token is there '
//! ```
//!
//! # Invariants, whenever the lock is free
//! - somebody stands in line  =>  the turn is held;
//! - somebody sleeps  =>  it holds the turn: at most one does;
//! - closed  =>  nobody stands in line, or sleeps.
//!
//! Where the answer is for a caller that does not wait, `version` says whether a send that was not possible may have
//! become so: it moves when a token comes, and when a turn that somebody missed is free.
//!
//! Only the holder takes tokens, so one that was there is there still when it has sent. After a fork the child knows
//! by the generation that whoever held the turn does not exist there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::waited::Waited;
use crate::{
    sync::{Guarded, Mode, coarse_now_ns},
    wait::{Entry, Epoch, Outcome, Place, WaiterList, fork},
};

/// So many sends a second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Finite and above 0.
    pub per_second: f64,
    /// At least 1.
    pub burst: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// When it was last known to be full.
    full_at: Instant,
    /// Since then.
    taken: u64,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Self {
        debug_assert!(rate.per_second > 0.0 && rate.per_second.is_finite() && rate.burst > 0);
        Self {
            rate,
            full_at: now,
            taken: 0,
        }
    }

    /// When the bucket has filled by `tokens` since it was full; `None`: later than the clock can say.
    fn filled_by(&self, tokens: u64) -> Option<Instant> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "above 2^53 tokens one more or less does not show"
        )]
        let seconds = tokens as f64 / self.rate.per_second;
        self.full_at
            .checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }

    /// When the next token is there: now, if that is not after `now`. `None`: never.
    pub fn ready_at(&self) -> Option<Instant> {
        self.filled_by((self.taken + 1).saturating_sub(self.rate.burst))
    }

    pub fn is_ready(&self, now: Instant) -> bool {
        self.ready_at().is_some_and(|ready| ready <= now)
    }

    /// Takes a token that is there.
    pub fn take(&mut self, now: Instant) {
        if self.filled_by(self.taken).is_some_and(|full| full <= now) {
            (self.full_at, self.taken) = (now, 0);
        }
        self.taken += 1;
    }
}

/// The turn of a channel with a rate.
pub struct Turnstile<M: Mode>(Guarded<State, M>);

struct State {
    bucket: Bucket,
    /// The generation of the process that the holder lives in.
    held_in: Option<u32>,
    line: WaiterList<()>,
    /// The holder, while it sleeps until a token is there: in a list so that a close finds it.
    sleeper: WaiterList<()>,
    closed: bool,
    /// See [`Turnstile::version`].
    version: u64,
    /// Somebody could not send because the turn was held, and may look at the version again.
    missed: bool,
    waits: u64,
    waited: Waited,
}

impl State {
    fn is_held(&self) -> bool {
        self.held_in == Some(fork::generation())
    }

    fn hold(&mut self) {
        self.held_in = Some(fork::generation());
    }

    /// Called before a list changes.
    fn pass_time(&mut self) {
        let waiters = self.line.len() + self.sleeper.len();
        self.waited.pass(coarse_now_ns(), waiters);
    }
}

/// Where one sender stands. Whoever has one steps it until it may send or must not, and then gives it back by
/// [`Turnstile::leave`].
#[derive(Debug, Default)]
pub struct Ticket(Stand);

#[derive(Debug, Default)]
enum Stand {
    #[default]
    Outside,
    InLine(Arc<Entry<()>>),
    Sleeping(Arc<Entry<()>>, Option<Instant>),
    Holding,
}

impl Ticket {
    /// Whether its owner may send: it holds the turn, and saw a token there.
    pub fn holds(&self) -> bool {
        matches!(self.0, Stand::Holding)
    }

    /// Whether it is left in a wait, which [`woken`](Turnstile::woken) ends.
    pub(super) fn waits(&self) -> bool {
        matches!(self.0, Stand::InLine(_) | Stand::Sleeping(..))
    }

    /// When that wait is to time out.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.0 {
            Stand::Sleeping(_, ready) => ready,
            _ => None,
        }
    }
}

/// What the owner of a [`Ticket`] does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the waiter may be armed"]
pub enum Step {
    /// Send, then [`leave`](Turnstile::leave).
    Send,
    /// The channel is closed.
    Closed,
    /// Sleep: the waiter is armed; then say how the wait ended ([`woken`](Turnstile::woken)). With an instant, it ends
    /// then, at the latest: as timed out.
    Sleep(Epoch, Option<Instant>),
}

impl<M: Mode> Turnstile<M> {
    pub fn new(rate: Rate, now: Instant, _: M) -> Self {
        Self(Guarded::new(State {
            bucket: Bucket::new(rate, now),
            held_in: None,
            line: WaiterList::default(),
            sleeper: WaiterList::default(),
            closed: false,
            version: 0,
            missed: false,
            waits: 0,
            waited: Waited::default(),
        }))
    }

    /// Gets the turn if nobody has it or stands before it, and a token is there. Whoever got it sends without
    /// waiting and leaves.
    pub fn try_enter(&self, now: Instant) -> Option<Ticket> {
        let mut ticket = Ticket::default();
        self.may_send(&mut ticket, now).then_some(ticket)
    }

    /// Whether the ticket's owner, who is in no wait, may send now: it has the turn, or gets it as by
    /// [`try_enter`](Self::try_enter), and a token is there.
    pub(super) fn may_send(&self, ticket: &mut Ticket, now: Instant) -> bool {
        debug_assert!(!ticket.waits(), "asked in the middle of a wait");
        self.0.with(|state| {
            if !ticket.holds() && state.is_held() {
                state.missed = true;
                return false;
            }
            let is_ready = !state.closed && state.bucket.is_ready(now);
            if is_ready {
                state.hold();
                ticket.0 = Stand::Holding;
            }
            is_ready
        })
    }

    /// Moves, and only up, whenever a send that [`may_send`](Self::may_send) refused may have become possible. Not by
    /// each turn that comes and goes: two that only look would keep each other looking.
    pub(super) fn version(&self, now: Instant) -> u64 {
        self.0
            .with(|state| state.version + u64::from(state.bucket.is_ready(now)))
    }

    /// Goes on towards a send. The waiter of `place` is armed where the answer is `Sleep`; if it was in no wait, only
    /// there.
    pub fn step(
        &self,
        ticket: &mut Ticket,
        place: impl Place<(), Left = Arc<Entry<()>>>,
        now: Instant,
    ) -> Step {
        self.0.with(|state| {
            if state.closed {
                return Step::Closed;
            }
            if matches!(ticket.0, Stand::Outside) {
                state.pass_time();
                if state.is_held() {
                    state.waits += 1;
                    let entry = place.link(&mut state.line, None);
                    let epoch = entry.epoch;
                    ticket.0 = Stand::InLine(entry);
                    return Step::Sleep(epoch, None);
                }
                state.hold();
                ticket.0 = Stand::Holding;
                if !state.bucket.is_ready(now) {
                    state.waits += 1;
                }
            }
            debug_assert!(ticket.holds(), "stepped in the middle of a wait");
            if state.bucket.is_ready(now) {
                return Step::Send;
            }
            state.pass_time();
            let ready = state.bucket.ready_at();
            let entry = place.link(&mut state.sleeper, None);
            let epoch = entry.epoch;
            ticket.0 = Stand::Sleeping(entry, ready);
            Step::Sleep(epoch, ready)
        })
    }

    /// A wait of the ticket's owner ended with `outcome`. Whether to go on: it has the turn, or its token is there. If
    /// not, the wait ended for a reason of the owner's own, or by a close.
    pub fn woken(&self, ticket: &mut Ticket, outcome: Outcome, now: Instant) -> bool {
        match std::mem::take(&mut ticket.0) {
            Stand::InLine(entry) => {
                // SAFETY: the wait is over, and the owner of the entry, who is the caller, knows.
                if unsafe { entry.take() }.is_some() {
                    ticket.0 = Stand::Holding;
                    return true;
                }
                self.0.with(|state| {
                    state.pass_time();
                    state.line.remove(&entry)
                });
                false
            }
            Stand::Sleeping(entry, ready) => {
                ticket.0 = Stand::Holding;
                self.0.with(|state| {
                    state.pass_time();
                    state.sleeper.remove(&entry)
                });
                outcome == Outcome::TimedOut && ready.is_some_and(|ready| ready <= now)
            }
            stand => {
                ticket.0 = stand; // it waited for room
                false
            }
        }
    }

    /// The owner is done: with the turn it passes that on, and takes a token if it has `sent`. Not in the middle of a
    /// wait.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is used up")]
    pub fn leave(&self, ticket: Ticket, sent: bool, now: Instant) {
        if !ticket.holds() {
            debug_assert!(matches!(ticket.0, Stand::Outside), "left in a wait");
            return;
        }
        let next = self.0.with(|state| {
            if sent {
                state.bucket.take(now);
                state.version += 1; // for the token that was there, and may have been the last
            }
            state.held_in = None;
            state.pass_time();
            let next = state.line.claim_first();
            if let Some((entry, _)) = &next {
                state.hold();
                // SAFETY: the claim makes the slot ours until it completes.
                unsafe { entry.put(()) };
            } else if std::mem::take(&mut state.missed) {
                state.version += 1;
            }
            next
        });
        if let Some((entry, claim)) = next {
            claim.complete(Outcome::Handed);
            drop(entry);
        }
    }

    /// The channel is closed: wakes all who stand here.
    pub(super) fn close(&self) {
        let all = self.0.with(|state| {
            state.closed = true;
            state.pass_time();
            let mut all: Vec<_> = std::iter::from_fn(|| state.line.claim_first()).collect();
            all.extend(state.sleeper.claim_first());
            all
        });
        super::wake_closed(all);
    }

    /// How many waits there were, and how long all together.
    pub(super) fn waits(&self) -> (u64, Duration) {
        self.0.with(|state| {
            state.pass_time();
            (state.waits, state.waited.total())
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn bucket(per_second: f64, burst: u64) -> (Bucket, Instant) {
        let start = Instant::now();
        (Bucket::new(Rate { per_second, burst }, start), start)
    }

    fn take_all(bucket: &mut Bucket, now: Instant) -> u32 {
        let mut taken = 0;
        while bucket.is_ready(now) {
            bucket.take(now);
            taken += 1;
        }
        taken
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn it_starts_full_and_fills_at_its_rate_up_to_the_burst() {
        let (mut bucket, start) = bucket(10.0, 3);
        assert_eq!(take_all(&mut bucket, start), 3);
        assert_eq!(take_all(&mut bucket, start + ms(99)), 0);
        assert_eq!(take_all(&mut bucket, start + ms(100)), 1);
        assert_eq!(take_all(&mut bucket, start + ms(250)), 1);
        assert_eq!(
            take_all(&mut bucket, start + ms(300)),
            1,
            "no fraction is lost"
        );
        assert_eq!(
            take_all(&mut bucket, start + ms(60_000)),
            3,
            "never over the burst"
        );
    }

    #[test]
    fn the_next_token_is_there_when_it_said() {
        let (mut bucket, mut now) = bucket(3.0, 1);
        for _ in 0..1000 {
            now = now.max(bucket.ready_at().unwrap());
            assert!(bucket.is_ready(now));
            bucket.take(now);
            assert!(!bucket.is_ready(now));
        }
        let (mut bucket, start) = self::bucket(3.0, 1);
        let mut last = start;
        for _ in 0..3001 {
            last = last.max(bucket.ready_at().unwrap());
            bucket.take(last);
        }
        let elapsed = last.duration_since(start);
        assert!(
            (ms(999_999)..ms(1_000_001)).contains(&elapsed),
            "drifts: {elapsed:?}"
        );
    }

    #[test]
    fn a_rate_beyond_the_clock_is_ready_always_or_never() {
        let (mut fast, start) = bucket(1e300, 1);
        for _ in 0..1000 {
            assert!(fast.is_ready(start));
            fast.take(start);
        }
        let (mut slow, start) = bucket(1e-300, 2);
        assert_eq!(take_all(&mut slow, start), 2);
        assert_eq!(slow.ready_at(), None);
        assert!(!slow.is_ready(start + ms(1 << 40)));
    }
}
