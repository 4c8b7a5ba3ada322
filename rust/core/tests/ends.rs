//! What the directional ends of a channel do as the last of them goes.
#![cfg(not(loom))]

mod channel_thread;

use std::{cell::RefCell, sync::Arc, thread};

use channel_thread::{recv, send, waiter};
use penstock_core::{
    channel::{Channel, Ends, RecvError, SendError, TryRecvError, TrySendError},
    sync::{Exclusive, Mode, Shared},
};

/// A channel of `capacity` with its ends, made for `mode`.
fn with_ends<M: Mode>(capacity: usize, mode: M) -> (Channel<u32, M>, Ends<M>) {
    (Channel::bounded(capacity, mode), Ends::new(mode))
}

fn exclusive() -> Exclusive {
    // SAFETY: each test that uses it keeps its channel on its own thread.
    unsafe { Exclusive::promise() }
}

fn only_the_last_sender_closes<M: Mode>(mode: M) {
    let (channel, ends) = with_ends(2, mode);
    ends.add_sender(&channel);
    ends.add_sender(&channel);
    ends.remove_sender(&channel);
    ends.add_sender(&channel);
    ends.remove_sender(&channel);
    assert_eq!(channel.try_send(1), Ok(()));
    ends.remove_sender(&channel);
    assert_eq!(channel.try_send(2), Err(TrySendError::Closed(2)));
    assert_eq!(channel.try_recv(), Ok(1));
    assert_eq!(channel.try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn the_last_sender_closes_and_what_is_left_is_drained() {
    only_the_last_sender_closes(Shared);
    only_the_last_sender_closes(exclusive());
}

fn the_last_receiver_drops<M: Mode>(mode: M) {
    let (channel, ends) = with_ends(2, mode);
    ends.add_receiver(&channel);
    ends.add_receiver(&channel);
    channel.try_send(1).unwrap();
    channel.try_send(2).unwrap();
    ends.remove_receiver(&channel);
    assert_eq!((channel.len(), ends.dropped()), (2, 0));
    ends.remove_receiver(&channel);
    assert_eq!((channel.len(), ends.dropped()), (0, 2));
    assert_eq!(channel.try_send(3), Err(TrySendError::Closed(3)));
    assert_eq!(channel.try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn the_last_receiver_closes_and_what_is_left_is_dropped_and_counted() {
    the_last_receiver_drops(Shared);
    the_last_receiver_drops(exclusive());
}

#[test]
fn the_other_direction_is_not_concerned() {
    let (channel, ends) = with_ends(1, Shared);
    ends.add_receiver(&channel);
    channel.try_send(1).unwrap();
    ends.add_sender(&channel);
    ends.remove_sender(&channel);
    assert_eq!((channel.len(), ends.dropped()), (1, 0));
    assert_eq!(channel.try_recv(), Ok(1));
}

#[test]
fn an_end_added_after_the_last_has_gone_changes_nothing() {
    let (channel, ends) = with_ends(1, Shared);
    ends.add_sender(&channel);
    ends.remove_sender(&channel);
    ends.add_sender(&channel);
    assert!(channel.is_closed());
    ends.remove_sender(&channel);
    ends.remove_sender(&channel);
    assert!(channel.is_closed());
}

#[test]
fn blocked_peers_wake_as_the_last_end_goes() {
    let shared = Arc::new(with_ends(0, Shared));
    let (channel, ends) = &*shared;
    ends.add_receiver(channel);
    let blocked = Arc::clone(&shared);
    let sender = thread::spawn(move || send(&blocked.0, 7, &waiter()));
    while channel.stats().send_waits == 0 {
        thread::yield_now();
    }
    ends.remove_receiver(channel);
    assert_eq!(sender.join().unwrap(), Err(SendError::Closed(7)));

    let shared = Arc::new(with_ends(0, Shared));
    let (channel, ends) = &*shared;
    ends.add_sender(channel);
    let blocked = Arc::clone(&shared);
    let receiver = thread::spawn(move || recv(&blocked.0, &waiter()));
    while channel.stats().recv_waits == 0 {
        thread::yield_now();
    }
    ends.remove_sender(channel);
    assert_eq!(receiver.join().unwrap(), Err(RecvError::Closed));
}

/// A value whose drop uses its channel and the ends, as a Python object's `__del__` may.
struct Reentrant(RefCell<Option<Arc<Pair>>>);

type Pair = (Channel<Reentrant, Shared>, Ends<Shared>);

// SAFETY: each value of the test stays on one thread.
unsafe impl Send for Reentrant {}

impl Drop for Reentrant {
    fn drop(&mut self) {
        if let Some(shared) = self.0.borrow_mut().take() {
            let (channel, ends) = &*shared;
            ends.add_receiver(channel);
            ends.remove_receiver(channel);
            assert!(channel.is_closed());
            assert_eq!(channel.stats().sent, 3, "takes the lock");
        }
    }
}

#[test]
fn a_value_dropped_by_the_last_receiver_may_use_the_channel() {
    let shared = Arc::new((Channel::bounded(3, Shared), Ends::new(Shared)));
    let (channel, ends) = &*shared;
    ends.add_receiver(channel);
    for _ in 0..3 {
        let value = Reentrant(RefCell::new(Some(Arc::clone(&shared))));
        channel.try_send(value).ok().unwrap();
    }
    ends.remove_receiver(channel);
    assert_eq!((channel.len(), ends.dropped()), (0, 3));
    assert_eq!(Arc::strong_count(&shared), 1);
}

#[test]
fn a_value_that_comes_back_after_the_last_receiver_is_dropped_too() {
    let (channel, ends) = with_ends(2, Shared);
    ends.add_receiver(&channel);
    channel.try_send(1).unwrap();
    ends.drop_rest(&channel);
    assert_eq!(
        (channel.len(), ends.dropped()),
        (1, 0),
        "a receiver is there"
    );
    ends.remove_receiver(&channel);
    ends.drop_rest(&channel);
    assert_eq!(ends.dropped(), 1);
}
