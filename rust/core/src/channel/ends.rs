//! The directional ends of a channel: how many senders and receivers there are, and that the last has gone.
//!
//! A channel can be used without any. From the first end of a direction on, the last of that direction to go ends
//! the channel: after the last sender receivers drain what is left, after the last receiver nobody will, so what is
//! left is dropped, and counted. Either way senders fail from then on, and all who wait are woken.
//!
//! One word per direction decides everything:
//!
//! ```text
//!   0  --add-->  1  --add-->  2 ...        the number of ends; 0 only before the first
//!                1  --remove-->  GONE      for good: adding to it and removing from it change nothing
//! ```
//!
//! The race is an end that is added while the last one goes. Its order in the word is the order of the two: if the
//! new end is first, the other was not the last; if it comes to `GONE`, it closes the channel itself, because the
//! one that was the last may not have got to it yet. So an end that was added too late never sees an open channel,
//! and an end that was added in time never sees one that was closed over its head.

use super::Channel;
use crate::sync::{
    Mode,
    Ordering::{AcqRel, Acquire, Relaxed},
    Word,
};

const GONE: u64 = u64::MAX;

/// The ends of one channel, kept beside it.
#[derive(Debug)]
pub struct Ends<M: Mode> {
    /// Written by whoever adds or removes a sender.
    senders: M::Word,
    /// Written by whoever adds or removes a receiver.
    receivers: M::Word,
    /// Values that were left when the last receiver went. Written by whoever removed it.
    dropped: M::Word,
}

impl<M: Mode> Ends<M> {
    pub fn new(_: M) -> Self {
        Self {
            senders: M::Word::new(0),
            receivers: M::Word::new(0),
            dropped: M::Word::new(0),
        }
    }

    /// Counts a sender of `channel`, whose ends these are. Where the last has gone before, the channel is closed when
    /// this returns.
    pub fn add_sender<T>(&self, channel: &Channel<T, M>) {
        if !add::<M>(&self.senders) {
            channel.close();
        }
    }

    /// A sender that was added goes: the last one closes the channel.
    pub fn remove_sender<T>(&self, channel: &Channel<T, M>) {
        if remove::<M>(&self.senders) {
            channel.close();
        }
    }

    /// Counts a receiver, as [`add_sender`](Self::add_sender) counts a sender.
    pub fn add_receiver<T>(&self, channel: &Channel<T, M>) {
        if !add::<M>(&self.receivers) {
            channel.close();
        }
    }

    /// A receiver that was added goes: the last one closes the channel and drops what is left in it. No lock is held
    /// where a value is dropped, so that may run foreign code.
    pub fn remove_receiver<T>(&self, channel: &Channel<T, M>) {
        if remove::<M>(&self.receivers) {
            channel.close();
            self.drop_rest(channel);
        }
    }

    /// Drops what has come to `channel` in spite of that, where the last receiver has gone. For whoever gives a value
    /// back to a channel.
    pub fn drop_rest<T>(&self, channel: &Channel<T, M>) {
        // Ordering: Acquire pairs with the AcqRel in `remove`: the channel may be used as its last receiver left it.
        if self.receivers.load(Acquire) != GONE {
            return;
        }
        while let Ok(value) = channel.try_recv() {
            // Ordering: Relaxed, a count.
            self.dropped.fetch_add(1, Relaxed);
            drop(value);
        }
    }

    /// How many values were dropped, of those that the channel counts as received.
    pub fn dropped(&self) -> u64 {
        // Ordering: Relaxed, a count.
        self.dropped.load(Relaxed)
    }
}

/// Adds an end. `false`: too late, the last has gone.
#[must_use = "a channel whose last end has gone is to be closed"]
fn add<M: Mode>(ends: &M::Word) -> bool {
    // Ordering: Relaxed, the exchange decides.
    let mut count = ends.load(Relaxed);
    while count != GONE {
        // Ordering: Relaxed, who has an end to add to was given the channel; Acquire for `GONE`, as below.
        match ends.compare_exchange_weak(count, count + 1, Relaxed, Acquire) {
            Ok(_) => return true,
            Err(now) => count = now,
        }
    }
    false
}

/// Removes an end. `true`: it was the last, which nobody else is told.
#[must_use = "the last end closes the channel"]
fn remove<M: Mode>(ends: &M::Word) -> bool {
    // Ordering: Relaxed, the exchange decides.
    let mut count = ends.load(Relaxed);
    while count != GONE {
        debug_assert_ne!(count, 0, "an end goes that was not added");
        let left = if count == 1 { GONE } else { count - 1 };
        // Ordering: AcqRel, so that what was done with every end that went before is done when the last one closes the
        // channel, and is seen by who finds `GONE`. Relaxed, a loser looks again.
        match ends.compare_exchange_weak(count, left, AcqRel, Relaxed) {
            Ok(_) => return left == GONE,
            Err(now) => count = now,
        }
    }
    false
}
