//! Every interleaving of an end that comes while the last one goes.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_ends`
#![cfg(loom)]

mod channel_thread;

use std::sync::Arc;

use channel_thread::{recv, send, waiter};
use loom::thread;
use penstock_core::{
    channel::{Channel, Ends, SendError, TrySendError},
    sync::Shared,
};

type Pair = Arc<(Channel<Box<u32>, Shared>, Ends<Shared>)>;

fn explore(body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.max_branches = 10_000;
    model.check(body);
}

fn pair(capacity: usize) -> Pair {
    Arc::new((Channel::bounded(capacity, Shared), Ends::new(Shared)))
}

fn in_thread<R: 'static>(
    pair: &Pair,
    body: impl FnOnce(&Channel<Box<u32>, Shared>, &Ends<Shared>) -> R + 'static,
) -> thread::JoinHandle<R> {
    let pair = Arc::clone(pair);
    thread::spawn(move || body(&pair.0, &pair.1))
}

/// A sender that comes as the last one goes finds the channel open for as long as it is there, or closed at once.
#[test]
fn a_sender_that_comes_as_the_last_goes_is_in_time_or_too_late_and_nothing_between() {
    explore(|| {
        let pair = pair(2);
        let (channel, ends) = &*pair;
        ends.add_sender(channel);
        let other = in_thread(&pair, |channel, ends| {
            ends.add_sender(channel);
            let sends = [channel.try_send(Box::new(1)), channel.try_send(Box::new(2))];
            ends.remove_sender(channel);
            sends.map(|sent| sent.is_ok())
        });
        ends.remove_sender(channel);
        let sent = other.join().unwrap();
        assert!(sent == [true, true] || sent == [false, false], "{sent:?}");
        assert!(channel.is_closed(), "the last has gone by now");
        assert_eq!(channel.len(), if sent[0] { 2 } else { 0 });
    });
}

#[test]
fn of_two_senders_that_go_the_last_wakes_the_receiver_after_all_that_was_sent() {
    explore(|| {
        let pair = pair(1);
        let (channel, ends) = &*pair;
        ends.add_sender(channel);
        ends.add_sender(channel);
        let one = in_thread(&pair, |channel, ends| {
            channel.try_send(Box::new(1)).unwrap();
            ends.remove_sender(channel);
        });
        let two = in_thread(&pair, |channel, ends| ends.remove_sender(channel));
        let waiter = waiter();
        assert_eq!(*recv(channel, &waiter).unwrap(), 1);
        assert!(recv(channel, &waiter).is_err());
        one.join().unwrap();
        two.join().unwrap();
    });
}

/// Loom's "deadlock" would be a sender that sleeps on, a leak of its box a value that nobody dropped.
#[test]
fn a_sender_that_goes_to_wait_as_the_last_receiver_goes_is_refused() {
    for capacity in [0, 1] {
        explore(move || {
            let pair = pair(capacity);
            let (channel, ends) = &*pair;
            ends.add_receiver(channel);
            for _ in 0..capacity {
                channel.try_send(Box::new(0)).unwrap();
            }
            let sender = in_thread(&pair, |channel, _| send(channel, Box::new(1), &waiter()));
            ends.remove_receiver(channel);
            assert!(matches!(sender.join().unwrap(), Err(SendError::Closed(_))));
            assert_eq!(ends.dropped(), capacity as u64);
        });
    }
}

/// What was sent is dropped and counted, what was not comes back: nothing stays in the channel.
#[test]
fn a_value_sent_as_the_last_receiver_goes_is_dropped_or_comes_back() {
    explore(|| {
        let pair = pair(1);
        let (channel, ends) = &*pair;
        ends.add_receiver(channel);
        let sender = in_thread(&pair, |channel, _| channel.try_send(Box::new(1)));
        ends.remove_receiver(channel);
        let sent = sender.join().unwrap();
        assert!(matches!(sent, Ok(()) | Err(TrySendError::Closed(_))));
        assert_eq!(ends.dropped(), u64::from(sent.is_ok()));
        assert_eq!(channel.len(), 0);
    });
}
