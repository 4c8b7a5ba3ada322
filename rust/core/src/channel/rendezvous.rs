//! Capacity 0: a value passes from a sender's hand to a receiver's, never through a buffer.
//!
//! Every operation takes the lock: there is no way to pass a value here without waking a peer, which
//! costs many times more.
//!
//! Invariant, whenever the lock is free: no two entries in different lists can be claimed, unless they are of one
//! waiter, a select that both sends and receives here. For an operation links itself only after it found nobody to
//! serve in the other list. Once `closed` is set both lists are empty and stay so. Receivers are linked only where no value
//! came back.

use super::{
    BeginRecv, BeginSend, ChannelStats, Claimed, Guarded, TryRecvError, TrySendError, Waiting,
    wake_closed, wake_handed,
};
use crate::{
    sync::Mode,
    wait::{Armed, Entry, Place},
};

pub(super) struct Rendezvous<T, M: Mode>(Guarded<State<T>, M>);

struct State<T> {
    waiting: Waiting<T>,
    closed: bool,
    /// Moves whenever an operation may have become ready: somebody was linked, or the channel closed.
    version: u64,
}

impl<T> State<T> {
    /// Puts `value` in the hand of the longest-waiting receiver.
    fn hand_over(&mut self, value: T) -> Result<Claimed<T>, TrySendError<T>> {
        if self.closed {
            return Err(TrySendError::Closed(value));
        }
        self.waiting.hand_over(value).map_err(TrySendError::Full)
    }

    /// Takes a value that came back, else that of the longest-blocked sender, who is to be woken.
    fn take_over(&mut self) -> Result<(T, Option<Claimed<T>>), TryRecvError> {
        if let Some(value) = self.waiting.returned.take() {
            return Ok((value, None));
        }
        if self.closed {
            return Err(TryRecvError::Closed);
        }
        let Some((entry, claim)) = self.waiting.claim_sender() else {
            return Err(TryRecvError::Empty);
        };
        // SAFETY: the claim makes the slot ours until it completes.
        let value = unsafe { entry.take() }.expect("a blocked sender has its value");
        self.waiting.handed += 1;
        Ok((value, Some((entry, claim))))
    }

    fn link_sender<P: Place<T>>(&mut self, value: T, place: P) -> P::Left {
        self.version += 1;
        self.waiting.link_sender(value, place)
    }

    fn link_receiver<P: Place<T>>(&mut self, place: P) -> P::Left {
        self.version += 1;
        self.waiting.link_receiver(place)
    }
}

impl<T, M: Mode> Rendezvous<T, M> {
    pub(super) fn new(_: M) -> Self {
        Self(Guarded::new(State {
            waiting: Waiting::new(),
            closed: false,
            version: 0,
        }))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.with(|state| state.closed)
    }

    pub(super) fn close(&self) {
        wake_closed(self.0.with(|state| {
            state.closed = true;
            state.version += 1;
            state.waiting.claim_all()
        }));
    }

    pub(super) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        wake_handed(self.0.with(|state| state.hand_over(value))?);
        Ok(())
    }

    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        let (value, served) = self.0.with(State::take_over)?;
        if let Some(served) = served {
            wake_handed(served);
        }
        Ok(value)
    }

    pub(super) fn begin_send<P: Place<T>>(&self, value: T, place: P) -> BeginSend<T, P::Left> {
        let begun = self.0.with(|state| match state.hand_over(value) {
            Ok(served) => Ok(served),
            Err(TrySendError::Closed(value)) => Err(BeginSend::Closed(value)),
            Err(TrySendError::Full(value)) => {
                Err(BeginSend::Waiting(state.link_sender(value, place)))
            }
        });
        match begun {
            Ok(served) => {
                wake_handed(served);
                BeginSend::Done
            }
            Err(other) => other,
        }
    }

    pub(super) fn begin_recv<P: Place<T>>(&self, place: P) -> BeginRecv<T, P::Left> {
        let begun = self.0.with(|state| match state.take_over() {
            Ok(taken) => Ok(taken),
            Err(TryRecvError::Closed) => Err(BeginRecv::Closed),
            Err(TryRecvError::Empty) => Err(BeginRecv::Waiting(state.link_receiver(place))),
        });
        match begun {
            Ok((value, served)) => {
                if let Some(served) = served {
                    wake_handed(served);
                }
                BeginRecv::Done(value)
            }
            Err(other) => other,
        }
    }

    /// See [`Channel`](super::Channel::link_armed_sender).
    pub(super) fn link_armed_sender(&self, value: T, place: Armed<T>) -> Result<(), T> {
        self.0.with(|state| {
            let receivers = &mut state.waiting.receivers;
            if state.closed || receivers.any(|entry| place.may_meet(entry)) {
                return Err(value);
            }
            state.link_sender(value, place);
            Ok(())
        })
    }

    /// See [`Channel`](super::Channel::link_armed_receiver).
    pub(super) fn link_armed_receiver(&self, place: Armed<T>) -> bool {
        self.0.with(|state| {
            let senders = &mut state.waiting.senders;
            let any_sends = senders.any(|entry| place.may_meet(entry));
            if state.closed || any_sends || !state.waiting.returned.is_empty() {
                return false;
            }
            state.link_receiver(place);
            true
        })
    }

    /// Who waits on the other side is what makes an operation ready.
    pub(super) fn send_version(&self) -> u64 {
        self.0.with(|state| state.version)
    }

    /// So does a value that came back.
    pub(super) fn recv_version(&self) -> u64 {
        self.0
            .with(|state| state.version + state.waiting.returned.version())
    }

    /// Unlinks a sender whose wait ended without a hand-over.
    pub(super) fn forget_sender(&self, entry: &Entry<T>) {
        self.0.with(|state| state.waiting.forget_sender(entry));
    }

    /// Unlinks a receiver whose wait ended without a hand-over.
    pub(super) fn forget_receiver(&self, entry: &Entry<T>) {
        self.0.with(|state| state.waiting.forget_receiver(entry));
    }

    /// Takes back what the receiver of `entry` was handed; gives it where it is to be dropped.
    pub(super) fn give_back(&self, entry: &Entry<T>, value: T) -> Option<T> {
        self.0
            .with(|state| state.waiting.give_back(entry, value))
            .settle()
    }

    /// Changes what the lock guards.
    pub(super) fn waiting(&self, change: impl FnOnce(&mut Waiting<T>)) {
        self.0.with(|state| change(&mut state.waiting));
    }

    /// # Safety
    /// As for [`Channel::for_each`](super::Channel::for_each), while the result lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise")]
    pub(super) unsafe fn waiting_in_stopped_world(&self) -> &mut Waiting<T> {
        // SAFETY: the caller's promise.
        &mut unsafe { self.0.get_in_stopped_world() }.waiting
    }

    pub(super) fn len(&self) -> usize {
        self.0.with(|state| state.waiting.returned.len())
    }

    pub(super) fn stats(&self) -> ChannelStats {
        self.0.with(|state| state.waiting.stats(0, 0))
    }

    /// # Safety
    /// As for [`Channel::for_each`](super::Channel::for_each).
    pub(super) unsafe fn for_each(&self, visit: impl FnMut(&T)) {
        // SAFETY: nobody else uses the channel, by the caller's promise.
        unsafe { self.0.get_in_stopped_world() }
            .waiting
            .visit(visit);
    }
}
