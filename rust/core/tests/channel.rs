//! What a channel guarantees, a test each, and a stress of all of it at once.
#![cfg(not(loom))]

mod channel_thread;

use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use channel_thread::{recv, send, sleep, waiter};
use penstock_core::{
    channel::{
        BeginRecv, BeginSend, Channel, ChannelStats, Overflow, Rate, RecvError, SendError, Step,
        Ticket, TryRecvError, TrySendError,
    },
    sync::{Exclusive, Mode, Shared},
    wait::{Entry, Outcome, WaiterRef},
};

const CAPACITIES: [usize; 6] = [1, 2, 3, 4, 5, 100];
const ROUNDS: usize = if cfg!(miri) { 30 } else { 1000 };

/// A sender that waits, for tests of one thread.
fn blocked_sender<M: Mode>(
    channel: &Channel<u32, M>,
    value: u32,
    waiter: &WaiterRef,
) -> Arc<Entry<u32>> {
    match channel.begin_send(value, waiter) {
        BeginSend::Waiting(entry) => entry,
        other => panic!("did not wait: {other:?}"),
    }
}

/// A receiver that waits, for tests of one thread.
fn waiting_receiver<M: Mode>(channel: &Channel<u32, M>, waiter: &WaiterRef) -> Arc<Entry<u32>> {
    match channel.begin_recv(waiter) {
        BeginRecv::Waiting(entry) => entry,
        other => panic!("did not wait: {other:?}"),
    }
}

fn finish_send<M: Mode>(
    channel: &Channel<u32, M>,
    entry: &Entry<u32>,
) -> Result<(), SendError<u32>> {
    // SAFETY: the tests finish each entry once, on its channel, after its wait is over.
    unsafe { channel.finish_send(entry) }
}

fn finish_recv<M: Mode>(channel: &Channel<u32, M>, entry: &Entry<u32>) -> Result<u32, RecvError> {
    // SAFETY: the tests finish each entry once, on its channel, after its wait is over.
    unsafe { channel.finish_recv(entry) }
}

fn abandon_recv<M: Mode>(channel: &Channel<u32, M>, entry: &Entry<u32>) -> Option<u32> {
    // SAFETY: the tests end each entry once, on its channel, after its wait is over.
    unsafe { channel.abandon_recv(entry) }
}

fn end<T>(entry: &Entry<T>, outcome: Outcome) {
    entry
        .waiter
        .claim(entry.epoch)
        .expect("nobody else ended it")
        .complete(outcome);
}

fn exclusive() -> Exclusive {
    // SAFETY: each test that uses it keeps its channel on its own thread.
    unsafe { Exclusive::promise() }
}

/// Runs a test of one thread with atomics and with plain cells.
macro_rules! in_both_modes {
    ($(fn $name:ident($mode:ident) $body:block)*) => {
        mod shared {
            $(#[test] fn $name() { super::$name(super::Shared); })*
        }
        mod exclusive {
            $(#[test] fn $name() { super::$name(super::exclusive()); })*
        }
        $(fn $name<M: Mode>($mode: M) $body)*
    };
}

in_both_modes! {
    fn values_come_out_in_order_and_never_over_capacity(mode) {
        for capacity in CAPACITIES {
            let channel = Channel::bounded(capacity, mode);
            assert_eq!(channel.capacity(), Some(capacity));
            let (mut next_in, mut next_out) = (0, 0);
            for round in 0..ROUNDS {
                for _ in 0..=(round % (capacity + 1)) {
                    match channel.try_send(next_in) {
                        Ok(()) => next_in += 1,
                        Err(error) => {
                            assert_eq!(error, TrySendError::Full(next_in));
                            assert_eq!(next_in - next_out, capacity);
                        }
                    }
                }
                assert_eq!(channel.len(), next_in - next_out);
                for _ in 0..=((round * 7) % (capacity + 1)) {
                    match channel.try_recv() {
                        Ok(value) => {
                            assert_eq!(value, next_out);
                            next_out += 1;
                        }
                        Err(error) => {
                            assert_eq!(error, TryRecvError::Empty);
                            assert_eq!(next_in, next_out);
                        }
                    }
                }
                assert_eq!(channel.len(), next_in - next_out);
            }
            let stats = channel.stats();
            assert_eq!((stats.sent, stats.received), (next_in as u64, next_out as u64));
        }
    }

    fn a_waiting_receiver_is_handed_the_value_itself(mode) {
        for capacity in [0, 1, 3] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter()];
            let entries = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            assert_eq!(channel.try_send(1), Ok(()));
            assert_eq!(channel.len(), 0, "handed over, not buffered");
            assert_eq!(channel.try_send(2), Ok(()));
            let got = entries.map(|entry| finish_recv(&channel, &entry));
            assert_eq!(got, [Ok(1), Ok(2)], "the longest-waiting first");
            assert_eq!(channel.try_send(3).is_ok(), capacity > 0);
            let sent = if capacity > 0 { 3 } else { 2 };
            assert_eq!(
                channel.stats(),
                ChannelStats {
                    sent,
                    received: 2,
                    recv_waits: 2,
                    recv_waited: channel.stats().recv_waited,
                    ..ChannelStats::default()
                }
            );
        }
    }

    fn a_freed_slot_belongs_to_the_longest_blocked_sender(mode) {
        for capacity in [1, 2, 3] {
            let channel = Channel::bounded(capacity, mode);
            let end = u32::try_from(capacity).unwrap();
            for value in 0..end {
                channel.try_send(value).unwrap();
            }
            let waiters = [waiter(), waiter()];
            let [first, second] = [0, 1].map(|i| blocked_sender(&channel, end + i, &waiters[i as usize]));
            assert_eq!(channel.try_send(99), Err(TrySendError::Full(99)));
            assert_eq!(channel.try_recv(), Ok(0));
            assert_eq!(channel.len(), capacity);
            assert_eq!(channel.try_send(99), Err(TrySendError::Full(99)), "not overtaken");
            assert_eq!(finish_send(&channel, &first), Ok(()));
            assert_eq!(second.waiter.outcome(second.epoch), None);
            assert_eq!(channel.try_recv(), Ok(1));
            assert_eq!(finish_send(&channel, &second), Ok(()));
            for value in 2..end + 2 {
                assert_eq!(channel.try_recv(), Ok(value));
            }
            assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
            assert_eq!(channel.try_send(7), Ok(()), "no bit is left behind");
        }
    }

    fn a_rendezvous_takes_the_longest_blocked_senders_value(mode) {
        let channel = Channel::bounded(0, mode);
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(channel.try_send(9), Err(TrySendError::Full(9)));
        let waiters = [waiter(), waiter()];
        let entries = [0, 1].map(|i| blocked_sender(&channel, i, &waiters[i as usize]));
        assert_eq!(channel.len(), 0);
        assert_eq!([channel.try_recv(), channel.try_recv()], [Ok(0), Ok(1)]);
        assert_eq!(entries.map(|entry| finish_send(&channel, &entry)), [Ok(()), Ok(())]);
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
    }

    fn close_wakes_all_and_receivers_drain_what_is_left(mode) {
        for capacity in [0, 1, 3] {
            let channel = Channel::bounded(capacity, mode);
            let buffered = u32::try_from(capacity).unwrap();
            for value in 0..buffered {
                channel.try_send(value).unwrap();
            }
            let waiters = [waiter(), waiter()];
            let entries = [10, 11].map(|value| {
                blocked_sender(&channel, value, &waiters[value as usize - 10])
            });
            channel.close();
            channel.close();
            assert!(channel.is_closed());
            let ended = entries.map(|entry| finish_send(&channel, &entry));
            assert_eq!(ended, [10, 11].map(|value| Err(SendError::Closed(value))));
            assert_eq!(channel.try_send(5), Err(TrySendError::Closed(5)));
            assert!(matches!(channel.begin_send(5, &waiters[0]), BeginSend::Closed(5)));
            for value in 0..buffered {
                assert_eq!(channel.try_recv(), Ok(value));
            }
            assert_eq!(channel.try_recv(), Err(TryRecvError::Closed));
            assert!(matches!(channel.begin_recv(&waiters[0]), BeginRecv::Closed));
        }
    }

    fn close_wakes_every_waiting_receiver(mode) {
        for capacity in [0, 2] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter()];
            let entries = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            channel.close();
            let ended = entries.map(|entry| finish_recv(&channel, &entry));
            assert_eq!(ended, [Err(RecvError::Closed); 2]);
        }
    }

    fn a_send_that_did_not_happen_gives_its_value_back(mode) {
        for capacity in [0, 1] {
            let channel = Channel::bounded(capacity, mode);
            for _ in 0..capacity {
                channel.try_send(0).unwrap();
            }
            let waiters = [waiter(), waiter(), waiter()];
            let [late, cancelled, last] =
                [1, 2, 3].map(|value| blocked_sender(&channel, value, &waiters[value as usize - 1]));
            end(&late, Outcome::TimedOut);
            assert!(cancelled.waiter.disarm(cancelled.epoch, Outcome::Interrupted));
            assert_eq!(finish_send(&channel, &cancelled), Err(SendError::Interrupted(2)));
            // `late` is still linked: a receiver passes over it.
            let mut got: Vec<_> = std::iter::from_fn(|| channel.try_recv().ok()).collect();
            assert_eq!(got.pop(), Some(3));
            assert_eq!(got.len(), capacity);
            assert_eq!(finish_send(&channel, &last), Ok(()));
            assert_eq!(finish_send(&channel, &late), Err(SendError::TimedOut(1)));
            assert_eq!(channel.try_send(4).is_ok(), capacity > 0, "no bit is left behind");
        }
    }

    fn the_last_sender_that_gives_up_leaves_the_channel_as_it_was(mode) {
        let channel = Channel::bounded(1, mode);
        channel.try_send(0).unwrap();
        let waiter = waiter();
        for value in 1..4 {
            let entry = blocked_sender(&channel, value, &waiter);
            end(&entry, Outcome::TimedOut);
            if value == 2 {
                // A receiver finds only a sender that has given up.
                assert_eq!(channel.try_recv(), Ok(0));
                assert_eq!(channel.try_send(0), Ok(()));
            }
            assert_eq!(finish_send(&channel, &entry), Err(SendError::TimedOut(value)));
        }
        assert_eq!((channel.try_recv(), channel.len()), (Ok(0), 0));
    }

    fn a_receive_that_timed_out_takes_nothing(mode) {
        for capacity in [0, 1] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter()];
            let [late, next] = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            end(&late, Outcome::TimedOut);
            assert_eq!(channel.try_send(1), Ok(()), "goes to the next");
            assert_eq!(finish_recv(&channel, &late), Err(RecvError::TimedOut));
            assert_eq!(finish_recv(&channel, &next), Ok(1));
            // Alone, and finished only after a sender met it.
            let alone = waiting_receiver(&channel, &waiters[0]);
            assert!(alone.waiter.disarm(alone.epoch, Outcome::TimedOut));
            assert_eq!(channel.try_send(2).is_ok(), capacity > 0);
            assert_eq!(finish_recv(&channel, &alone), Err(RecvError::TimedOut));
            assert_eq!(channel.try_recv().is_ok(), capacity > 0);
        }
    }

    fn what_gone_receivers_were_handed_is_received_first_in_its_order(mode) {
        for capacity in [0, 1, 3] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter(), waiter()];
            let entries = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            for value in 0..3 {
                channel.try_send(value).unwrap();
            }
            let buffered = u32::try_from(capacity).unwrap();
            for value in 0..buffered {
                channel.try_send(3 + value).unwrap();
            }
            for (at, len) in [(2, 1), (0, 2), (1, 3)] {
                assert_eq!(abandon_recv(&channel, &entries[at]), None);
                assert_eq!(channel.len(), capacity + len, "above the capacity");
            }
            let stats = channel.stats();
            assert_eq!((stats.sent, stats.received), (u64::from(3 + buffered), 0));
            assert!(channel.try_send(9).is_err(), "no slot got free");
            for value in 0..3 + buffered {
                assert_eq!(channel.try_recv(), Ok(value));
            }
            assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
            let stats = channel.stats();
            assert_eq!((stats.sent, stats.received, stats.dropped), (stats.sent, stats.sent, 0));
            assert_eq!(channel.try_send(9).is_ok(), capacity > 0, "no bit is left behind");
        }
    }

    fn a_receiver_takes_what_came_back_before_it_serves_a_blocked_sender(mode) {
        for capacity in [0, 1] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter()];
            let gone = waiting_receiver(&channel, &waiters[0]);
            channel.try_send(1).unwrap();
            for _ in 0..capacity {
                channel.try_send(2).unwrap();
            }
            let sender = blocked_sender(&channel, 3, &waiters[1]);
            assert_eq!(abandon_recv(&channel, &gone), None);
            assert!(matches!(channel.begin_recv(&waiters[0]), BeginRecv::Done(1)));
            assert_eq!(sender.waiter.outcome(sender.epoch), None, "still blocked");
            for value in (2..4).skip(1 - capacity) {
                assert_eq!(channel.try_recv(), Ok(value));
            }
            assert_eq!(finish_send(&channel, &sender), Ok(()));
            assert!(channel.is_empty());
        }
    }

    fn what_comes_back_goes_to_the_longest_waiting_receiver(mode) {
        for capacity in [0, 1] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter(), waiter(), waiter()];
            let [gone, late, next, last] =
                waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            channel.try_send(1).unwrap();
            end(&late, Outcome::TimedOut);
            assert_eq!(abandon_recv(&channel, &gone), None);
            assert_eq!(channel.len(), 0);
            // And once more, with its old place.
            channel.try_send(2).unwrap();
            assert_eq!(abandon_recv(&channel, &last), None);
            assert_eq!(abandon_recv(&channel, &next), None);
            assert_eq!([channel.try_recv(), channel.try_recv()], [Ok(1), Ok(2)]);
            assert_eq!(abandon_recv(&channel, &late), None);
            assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
            assert_eq!(channel.try_send(3).is_ok(), capacity > 0, "no bit is left behind");
        }
    }

    fn what_comes_back_to_a_closed_channel_is_delivered(mode) {
        for capacity in [0, 1] {
            let channel = Channel::bounded(capacity, mode);
            let waiter = waiter();
            let gone = waiting_receiver(&channel, &waiter);
            channel.try_send(1).unwrap();
            channel.close();
            assert_eq!(channel.try_recv(), Err(TryRecvError::Closed));
            assert_eq!(abandon_recv(&channel, &gone), None);
            assert_eq!(channel.len(), 1);
            assert!(matches!(channel.begin_recv(&waiter), BeginRecv::Done(1)));
            assert!(matches!(channel.begin_recv(&waiter), BeginRecv::Closed));
        }
    }

    fn what_nobody_will_receive_counts_as_dropped(mode) {
        for capacity in [0, 1] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter(), waiter()];
            let entries = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            for value in 0..3 {
                channel.try_send(value).unwrap();
            }
            for value in 3..3 + u32::try_from(capacity).unwrap() {
                channel.try_send(value).unwrap();
            }
            assert_eq!(abandon_recv(&channel, &entries[1]), None);
            assert_eq!(channel.clear(), [1, 3][..=capacity]);
            assert_eq!(abandon_recv(&channel, &entries[0]), Some(0), "to be dropped");
            assert_eq!(finish_recv(&channel, &entries[2]), Ok(2));
            let stats = channel.stats();
            let dropped = 2 + capacity as u64;
            assert_eq!((stats.sent, stats.received, stats.dropped), (dropped + 1, 1, dropped));
            assert!(channel.is_empty());
        }
    }

    fn a_collector_sees_buffered_and_blocked_values_once(mode) {
        for capacity in [0, 3] {
            let channel = Channel::bounded(capacity, mode);
            for _ in 0..2 {
                // The ring's first lap is half over, so that its values wrap around.
                channel.try_send(0).ok();
                channel.try_recv().ok();
            }
            let gone_waiter = waiter();
            let gone = (capacity > 0).then(|| {
                let gone = waiting_receiver(&channel, &gone_waiter);
                channel.try_send(100).unwrap();
                gone
            });
            let buffered = u32::try_from(capacity).unwrap();
            for value in 0..buffered {
                channel.try_send(value).unwrap();
            }
            let waiters = [waiter(), waiter()];
            let entries = [0, 1].map(|i| blocked_sender(&channel, buffered + i, &waiters[i as usize]));
            if let Some(gone) = gone {
                assert_eq!(abandon_recv(&channel, &gone), None);
            }
            let mut seen = Vec::new();
            // SAFETY: nobody else uses the channel.
            unsafe { channel.for_each(|value| seen.push(*value)) };
            seen.sort_unstable();
            let returned = [100].into_iter().filter(|_| capacity > 0);
            assert_eq!(seen, (0..buffered + 2).chain(returned.clone()).collect::<Vec<_>>());
            assert_eq!(channel.clear(), returned.chain(0..buffered).collect::<Vec<_>>());
            assert!(channel.is_closed() && channel.is_empty());
            let ended = entries.map(|entry| finish_send(&channel, &entry));
            assert_eq!(ended, [0, 1].map(|i| Err(SendError::Closed(buffered + i))));
        }
    }

    fn the_newest_is_dropped_where_there_is_no_room(mode) {
        let channel = Channel::bounded(2, mode).with_overflow(Overflow::DropNewest);
        let offered = [0, 1, 2, 3].map(|value| channel.offer(value));
        assert_eq!(offered, [Ok(None), Ok(None), Ok(Some(2)), Ok(Some(3))]);
        assert_eq!((channel.try_recv(), channel.offer(4)), (Ok(0), Ok(None)));
        let stats = channel.stats();
        assert_eq!((stats.sent, stats.received, stats.dropped), (3, 1, 2));
        channel.close();
        assert_eq!(channel.offer(5), Err(TrySendError::Closed(5)));
        assert_eq!(channel.clear(), [1, 4]);
    }

    fn the_oldest_makes_way_for_the_newest(mode) {
        for capacity in CAPACITIES {
            let channel = Channel::bounded(capacity, mode).with_overflow(Overflow::DropOldest);
            let count = u32::try_from(capacity).unwrap();
            for value in 0..5 * count {
                let makes_way = value.checked_sub(count);
                assert_eq!(channel.offer(value), Ok(makes_way));
            }
            let stats = channel.stats();
            let dropped = u64::from(4 * count);
            assert_eq!((stats.sent, stats.received, stats.dropped), (u64::from(5 * count), 0, dropped));
            assert_eq!(channel.len(), capacity);
            assert_eq!(channel.try_send(9), Err(TrySendError::Full(9)));
            channel.close();
            assert_eq!(channel.offer(9), Err(TrySendError::Closed(9)));
            assert_eq!(channel.clear(), (4 * count..5 * count).collect::<Vec<_>>());
            let stats = channel.stats();
            assert_eq!((stats.received, stats.dropped), (0, u64::from(5 * count)));
        }
    }

    fn the_oldest_in_the_ring_makes_way_and_what_came_back_stays(mode) {
        for capacity in [1, 3] {
            let channel = Channel::bounded(capacity, mode).with_overflow(Overflow::DropOldest);
            let end = 3 + u32::try_from(capacity).unwrap();
            let waiters = [waiter(), waiter()];
            let entries = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            for value in 1..end {
                assert_eq!(channel.offer(value), Ok(None));
            }
            for entry in &entries {
                assert_eq!(abandon_recv(&channel, entry), None);
            }
            assert_eq!(channel.offer(end), Ok(Some(3)));
            assert_eq!(channel.offer(end + 1), Ok(Some(4)));
            assert_eq!(channel.len(), capacity + 2);
            let mut left = vec![1, 2];
            left.extend(5..=end + 1);
            let mut got = Vec::new();
            assert_eq!(channel.try_recv_many(1, &mut got), Ok(()));
            assert_eq!(channel.try_recv_many(9, &mut got), Ok(()));
            assert_eq!(got, left);
            assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
            let stats = channel.stats();
            let (sent, received) = (u64::from(end) + 1, left.len() as u64);
            assert_eq!((stats.sent, stats.received, stats.dropped), (sent, received, 2));
            assert_eq!(channel.try_send(9), Ok(()), "no bit is left behind");
        }
    }

    fn a_batch_takes_what_came_back_first_and_lets_blocked_senders_in(mode) {
        for capacity in [0, 1, 3] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter(), waiter()];
            let gone = [0, 1].map(|at| waiting_receiver(&channel, &waiters[at]));
            let end = 2 + u32::try_from(capacity).unwrap();
            for value in 0..end {
                channel.try_send(value).unwrap();
            }
            let sender = blocked_sender(&channel, end, &waiters[2]);
            for entry in gone.iter().rev() {
                assert_eq!(abandon_recv(&channel, entry), None);
            }
            let mut got = Vec::new();
            assert_eq!(channel.try_recv_many(1, &mut got), Ok(()));
            assert_eq!(got, [0]);
            assert_eq!(channel.try_recv_many(99, &mut got), Ok(()));
            assert_eq!(got, (0..=end).collect::<Vec<_>>());
            assert_eq!(finish_send(&channel, &sender), Ok(()));
            let stats = channel.stats();
            assert_eq!((stats.sent, stats.received), (u64::from(end) + 1, u64::from(end) + 1));
            assert!(channel.is_empty());
        }
    }

    fn a_waiting_receiver_is_served_by_every_policy(mode) {
        for overflow in [Overflow::Block, Overflow::DropNewest, Overflow::DropOldest, Overflow::Error] {
            let channel = Channel::bounded(1, mode).with_overflow(overflow);
            let waiter = waiter();
            let entry = waiting_receiver(&channel, &waiter);
            assert_eq!(channel.offer(1), Ok(None));
            assert_eq!(finish_recv(&channel, &entry), Ok(1));
            assert_eq!(channel.offer(2), Ok(None));
            let full = channel.offer(3);
            match overflow {
                Overflow::Block | Overflow::Error => assert_eq!(full, Err(TrySendError::Full(3))),
                Overflow::DropNewest => assert_eq!(full, Ok(Some(3))),
                Overflow::DropOldest => assert_eq!(full, Ok(Some(2))),
            }
        }
    }

    fn many_go_in_and_come_out_in_order_as_far_as_there_is_room(mode) {
        for capacity in CAPACITIES.into_iter().chain([64, 65, 200]) {
            let channel = Channel::bounded(capacity, mode);
            let (mut next_in, mut next_out) = (0, 0);
            for round in 0..50 {
                let offered = (round * 7) % (2 * capacity) + 1;
                let room = capacity - channel.len();
                let mut values: VecDeque<_> = (next_in..next_in + offered).collect();
                let sent = channel.try_send_many(&mut values);
                let rest = offered.saturating_sub(room);
                assert_eq!(sent.is_ok(), rest == 0);
                assert_eq!(values.len(), rest, "in a ring of {capacity}");
                next_in += offered - rest;
                let mut got = Vec::new();
                let max = (round * 3) % (2 * capacity) + 1;
                let there = channel.len();
                assert_eq!(channel.try_recv_many(max, &mut got).is_ok(), there > 0);
                assert_eq!(got, (next_out..next_out + max.min(there)).collect::<Vec<_>>());
                next_out += got.len();
            }
        }
    }

    fn a_batch_receive_lets_blocked_senders_in(mode) {
        for capacity in [0, 1, 2] {
            let channel = Channel::bounded(capacity, mode);
            let buffered = u32::try_from(capacity).unwrap();
            channel.try_send_many(&mut (0..buffered).collect()).unwrap();
            let waiters = [waiter(), waiter(), waiter()];
            let entries =
                [0, 1, 2].map(|i| blocked_sender(&channel, buffered + i, &waiters[i as usize]));
            let mut got = Vec::new();
            assert_eq!(channel.try_recv_many(capacity + 2, &mut got), Ok(()));
            assert_eq!(got, (0..buffered + 2).collect::<Vec<_>>());
            let [first, second, third] = entries;
            assert_eq!(finish_send(&channel, &first), Ok(()));
            assert_eq!(finish_send(&channel, &second), Ok(()));
            assert_eq!(third.waiter.outcome(third.epoch).is_some(), capacity > 0);
            assert_eq!(channel.try_recv_many(100, &mut got), Ok(()));
            assert_eq!(got, (0..buffered + 3).collect::<Vec<_>>());
            assert_eq!(finish_send(&channel, &third), Ok(()));
            assert_eq!(channel.try_recv_many(1, &mut got), Err(TryRecvError::Empty));
            channel.close();
            assert_eq!(channel.try_recv_many(1, &mut got), Err(TryRecvError::Closed));
        }
    }

    fn a_batch_send_serves_waiting_receivers_first(mode) {
        for capacity in [0, 2] {
            let channel = Channel::bounded(capacity, mode);
            let waiters = [waiter(), waiter()];
            let entries = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            let mut values: VecDeque<u32> = (0..10).collect();
            assert_eq!(channel.try_send_many(&mut values), Err(TrySendError::Full(())));
            assert_eq!(values.len(), 8 - capacity);
            assert_eq!(entries.map(|entry| finish_recv(&channel, &entry)), [Ok(0), Ok(1)]);
            channel.close();
            assert_eq!(channel.try_send_many(&mut values), Err(TrySendError::Closed(())));
            assert_eq!(values.len(), 8 - capacity, "what was not sent is still there");
        }
    }

    fn a_turn_is_passed_on_in_order_and_only_who_sent_takes_a_token(mode) {
        let now = Instant::now();
        let rate = Rate { per_second: 10.0, burst: 2 };
        let channel = Channel::<u32, _>::bounded(9, mode).with_rate(rate, now, mode);
        let turnstile = channel.turnstile().unwrap();
        let first = turnstile.try_enter(now).expect("a token is there");
        assert!(turnstile.try_enter(now).is_none(), "there is one turn");
        let waiters = [waiter(), waiter(), waiter()];
        let mut tickets = [(); 3].map(|()| Ticket::default());
        let epochs: Vec<_> = tickets
            .iter_mut()
            .zip(&waiters)
            .map(|(ticket, waiter)| match turnstile.step(ticket, waiter, now) {
                Step::Sleep(epoch, None) => epoch,
                other => panic!("{other:?}"),
            })
            .collect();
        let [mut one, mut two, mut three] = tickets;
        turnstile.leave(first, true, now);
        assert_eq!(waiters[0].outcome(epochs[0]), Some(Outcome::Handed));
        assert_eq!(waiters[1].outcome(epochs[1]), None);
        assert!(turnstile.woken(&mut one, Outcome::Handed, now));
        assert_eq!(turnstile.step(&mut one, &waiters[0], now), Step::Send, "the second token");
        // The next in line gives up, and does not get the turn.
        assert!(waiters[1].disarm(epochs[1], Outcome::Interrupted));
        assert!(!turnstile.woken(&mut two, Outcome::Interrupted, now));
        turnstile.leave(two, false, now);
        turnstile.leave(one, false, now); // it failed: the token is still there
        assert_eq!(waiters[2].outcome(epochs[2]), Some(Outcome::Handed));
        assert!(turnstile.woken(&mut three, Outcome::Handed, now));
        assert_eq!(turnstile.step(&mut three, &waiters[2], now), Step::Send);
        turnstile.leave(three, true, now);
        assert!(turnstile.try_enter(now).is_none(), "both tokens are taken");
        // Alone, and it has to wait for a token.
        let mut ticket = Ticket::default();
        let Step::Sleep(epoch, Some(until)) = turnstile.step(&mut ticket, &waiters[0], now) else {
            panic!("there is no token");
        };
        assert_eq!(until, now + Duration::from_millis(100));
        assert!(waiters[0].disarm(epoch, Outcome::TimedOut));
        assert!(turnstile.woken(&mut ticket, Outcome::TimedOut, until));
        assert_eq!(turnstile.step(&mut ticket, &waiters[0], until), Step::Send);
        turnstile.leave(ticket, true, until);
        assert_eq!(channel.stats().send_waits, 4);
    }

    fn a_close_wakes_those_who_wait_for_tokens(mode) {
        let now = Instant::now();
        let rate = Rate { per_second: 1.0, burst: 1 };
        let channel = Channel::<u32, _>::bounded(9, mode).with_rate(rate, now, mode);
        let turnstile = channel.turnstile().unwrap();
        turnstile.leave(turnstile.try_enter(now).unwrap(), true, now);
        let waiters = [waiter(), waiter()];
        let mut tickets = [(); 2].map(|()| Ticket::default());
        let epochs: Vec<_> = tickets
            .iter_mut()
            .zip(&waiters)
            .map(|(ticket, waiter)| match turnstile.step(ticket, waiter, now) {
                Step::Sleep(epoch, _) => epoch,
                other => panic!("{other:?}"),
            })
            .collect();
        channel.close();
        for ((mut ticket, waiter), epoch) in tickets.into_iter().zip(&waiters).zip(epochs) {
            assert_eq!(waiter.outcome(epoch), Some(Outcome::Closed));
            assert!(!turnstile.woken(&mut ticket, Outcome::Closed, now));
            assert_eq!(turnstile.step(&mut ticket, waiter, now), Step::Closed);
            turnstile.leave(ticket, false, now);
        }
        assert!(turnstile.try_enter(now + Duration::from_secs(9)).is_none());
    }

    fn an_unbounded_channel_takes_any_number_and_gives_them_back_in_order(mode) {
        // Every fill level from 0 to beyond two blocks, so that each end meets each place of a block.
        let channel = Channel::unbounded(mode);
        assert_eq!((channel.capacity(), channel.len()), (None, 0));
        let (mut next_in, mut next_out) = (0, 0);
        for held in (0..70).chain([1000, 0]).chain((0..70).rev()) {
            while next_in - next_out < held {
                assert_eq!(channel.try_send(next_in), Ok(()));
                next_in += 1;
            }
            assert_eq!(channel.len() as u64, next_in - next_out);
            while next_in - next_out > held / 2 {
                assert_eq!(channel.try_recv(), Ok(next_out));
                next_out += 1;
            }
            let stats = channel.stats();
            assert_eq!((stats.sent, stats.received), (next_in, next_out));
        }
        while let Ok(value) = channel.try_recv() {
            assert_eq!(value, next_out);
            next_out += 1;
        }
        assert_eq!((channel.try_recv(), next_out), (Err(TryRecvError::Empty), next_in));
    }

    fn an_unbounded_send_never_waits_and_serves_the_longest_waiting_receiver(mode) {
        let channel = Channel::unbounded(mode);
        let waiters = [waiter(), waiter(), waiter()];
        for round in 0..40 {
            // At each place of a block, the gap between two included.
            let [late, first, second] = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
            end(&late, Outcome::TimedOut);
            assert!(matches!(channel.begin_send(round, &waiters[0]), BeginSend::Done));
            assert_eq!(channel.try_send(round + 1), Ok(()));
            assert_eq!(channel.len(), 0, "handed over");
            assert_eq!([&first, &second].map(|entry| finish_recv(&channel, entry)), [Ok(round), Ok(round + 1)]);
            assert_eq!(finish_recv(&channel, &late), Err(RecvError::TimedOut));
            assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
            assert_eq!((channel.try_send(round), channel.try_recv()), (Ok(()), Ok(round)));
        }
        let stats = channel.stats();
        assert_eq!((stats.sent, stats.received), (120, 120));
        assert_eq!((stats.send_waits, stats.recv_waits), (0, 120));
    }

    fn the_last_receiver_that_gives_up_leaves_an_unbounded_channel_as_it_was(mode) {
        let channel = Channel::unbounded(mode);
        let waiter = waiter();
        for value in 0..40 {
            let entry = waiting_receiver(&channel, &waiter);
            end(&entry, Outcome::TimedOut);
            if value % 2 == 0 {
                // A sender finds only a receiver that has given up.
                assert_eq!(channel.try_send(value), Ok(()));
                assert_eq!(finish_recv(&channel, &entry), Err(RecvError::TimedOut));
            } else {
                assert_eq!(finish_recv(&channel, &entry), Err(RecvError::TimedOut));
                assert_eq!(channel.try_send(value), Ok(()));
            }
            assert_eq!((channel.len(), channel.try_recv()), (1, Ok(value)));
        }
    }

    fn an_unbounded_channel_is_drained_after_its_close(mode) {
        for held in [0, 1, 31, 32, 100] {
            let channel = Channel::unbounded(mode);
            for value in 0..held {
                channel.try_send(value).unwrap();
            }
            channel.close();
            channel.close();
            assert!(channel.is_closed());
            assert_eq!(channel.try_send(5), Err(TrySendError::Closed(5)));
            let waiter = waiter();
            assert!(matches!(channel.begin_send(5, &waiter), BeginSend::Closed(5)));
            let drained: Vec<_> = std::iter::from_fn(|| channel.try_recv().ok()).collect();
            assert_eq!(drained, (0..held).collect::<Vec<_>>());
            assert_eq!(channel.try_recv(), Err(TryRecvError::Closed));
            assert!(matches!(channel.begin_recv(&waiter), BeginRecv::Closed));
        }
        let channel = Channel::<u32, _>::unbounded(mode);
        let waiters = [waiter(), waiter()];
        let entries = waiters.each_ref().map(|waiter| waiting_receiver(&channel, waiter));
        channel.close();
        assert_eq!(entries.map(|entry| finish_recv(&channel, &entry)), [Err(RecvError::Closed); 2]);
    }

    fn a_collector_sees_each_value_of_an_unbounded_channel_once(mode) {
        for taken in [0, 1, 30, 31, 32, 62, 70] {
            let channel = Channel::unbounded(mode);
            for value in 0..70 {
                channel.try_send(value).unwrap();
            }
            for value in 0..taken {
                assert_eq!(channel.try_recv(), Ok(value));
            }
            let mut seen = Vec::new();
            // SAFETY: nobody else uses the channel.
            unsafe { channel.for_each(|value| seen.push(*value)) };
            assert_eq!(seen, (taken..70).collect::<Vec<_>>());
            assert_eq!(channel.clear(), seen);
            assert!(channel.is_closed() && channel.is_empty());
        }
    }

    fn a_dropped_unbounded_channel_drops_what_is_left_in_it(mode) {
        for held in [0, 1, 30, 31, 32, 62, 100] {
            let value = Arc::new(());
            let channel = Channel::unbounded(mode);
            for _ in 0..held + 5 {
                channel.try_send(Arc::clone(&value)).unwrap();
            }
            for _ in 0..5 {
                channel.try_recv().unwrap();
            }
            assert_eq!(Arc::strong_count(&value), held + 1);
            drop(channel);
            assert_eq!(Arc::strong_count(&value), 1);
        }
    }

    fn a_dropped_channel_drops_what_is_left_in_it(mode) {
        for capacity in CAPACITIES {
            let value = Arc::new(());
            let channel = Channel::bounded(capacity, mode);
            channel.try_send(Arc::clone(&value)).unwrap();
            channel.try_recv().unwrap();
            for _ in 0..capacity {
                channel.try_send(Arc::clone(&value)).unwrap();
            }
            assert_eq!(Arc::strong_count(&value), capacity + 1);
            drop(channel);
            assert_eq!(Arc::strong_count(&value), 1);
        }
    }
}

/// A value whose drop uses its channel, as a Python object's `__del__` may.
struct Reentrant(RefCell<Option<Arc<Channel<Reentrant, Shared>>>>);

// SAFETY: each value of the test stays on one thread.
unsafe impl Send for Reentrant {}

impl Drop for Reentrant {
    fn drop(&mut self) {
        if let Some(channel) = self.0.borrow_mut().take() {
            assert!(channel.stats().sent <= 2, "takes the lock");
            channel.close();
        }
    }
}

#[test]
fn a_value_is_never_dropped_under_the_lock() {
    for capacity in [0, 1] {
        let channel = Arc::new(Channel::bounded(capacity, Shared));
        let value = || Reentrant(RefCell::new(Some(Arc::clone(&channel))));
        for _ in 0..capacity {
            channel.try_send(value()).ok().unwrap();
        }
        drop(channel.try_send(value()));
        let waiter = waiter();
        // Closed by that drop; what comes back now is dropped out here too.
        drop(channel.begin_send(value(), &waiter));
        drop(channel.clear());
        assert!(channel.is_closed());
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no fork()")]
fn a_forked_child_forgets_the_waiters_and_keeps_the_items() {
    // In a process of its own: the generation is global, and other tests have waiters.
    // SAFETY: the child uses memory and channels only, then leaves without running anything else.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    let check = || {
        let ring = Channel::bounded(1, Shared);
        let empty = Channel::bounded(1, Shared);
        let hands = Channel::bounded(0, Shared);
        let list = Channel::unbounded(Shared);
        let waiters = [waiter(), waiter(), waiter(), waiter()];
        ring.try_send(1).unwrap();
        std::mem::forget([
            blocked_sender(&ring, 2, &waiters[0]),
            waiting_receiver(&empty, &waiters[1]),
            waiting_receiver(&hands, &waiters[2]),
            waiting_receiver(&list, &waiters[3]),
        ]);
        penstock_core::wait::fork::entered_child();
        let right = [
            ring.try_recv() == Ok(1),
            ring.try_recv() == Err(TryRecvError::Empty),
            ring.try_send(3) == Ok(()),
            empty.try_send(4) == Ok(()),
            empty.len() == 1,
            hands.try_send(5) == Err(TrySendError::Full(5)),
            list.try_send(6) == Ok(()),
            list.len() == 1,
            list.try_recv() == Ok(6),
        ];
        std::mem::forget((ring, empty, hands, list, waiters));
        right.iter().all(|&ok| ok)
    };
    if child == 0 {
        let status = std::panic::catch_unwind(check).map_or(2, |right| i32::from(!right));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}

/// A cheap source of chance, the same in every run.
struct Chance(u64);

impl Chance {
    fn one_in(&mut self, n: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.is_multiple_of(n)
    }
}

/// Waits for the entry, or now and then takes the wait back; a third party may time it out as well.
fn sleep_or_give_up<T>(entry: &Entry<T>, chance: &mut Chance) {
    if chance.one_in(3) {
        if entry.waiter.disarm(entry.epoch, Outcome::Interrupted) {
            return;
        }
    } else if chance.one_in(3)
        && let Some(claim) = entry.waiter.claim(entry.epoch)
    {
        claim.complete(Outcome::TimedOut);
    }
    sleep(entry);
}

/// `producers` send, `consumers` receive, everybody gives up now and then; each value arrives once,
/// those of one producer in order, unless `gone` consumers give back what they were handed, each now and then: another
/// may have received a later one by then.
fn nothing_is_lost_or_twice(
    channel: &Channel<(u32, u32), Shared>,
    producers: u32,
    consumers: u32,
    gone: bool,
) {
    const EACH: u32 = if cfg!(miri) { 60 } else { 3_000 };
    let start = Barrier::new((producers + consumers) as usize);
    let sending = AtomicUsize::new(producers as usize);
    let mut got: Vec<Vec<(u32, u32)>> = thread::scope(|scope| {
        for producer in 0..producers {
            let (start, sending) = (&start, &sending);
            scope.spawn(move || {
                let (waiter, mut chance) = (waiter(), Chance(u64::from(producer) + 1));
                start.wait();
                for value in 0..EACH {
                    let mut message = (producer, value);
                    loop {
                        if chance.one_in(2) {
                            match channel.try_send(message) {
                                Ok(()) => break,
                                Err(error) => assert_eq!(error, TrySendError::Full(message)),
                            }
                        }
                        match channel.begin_send(message, &waiter) {
                            BeginSend::Done => break,
                            BeginSend::Closed(_) => unreachable!("closed when all are done"),
                            BeginSend::Waiting(entry) => {
                                sleep_or_give_up(&entry, &mut chance);
                                // SAFETY: from this channel, once, and the wait is over.
                                match unsafe { channel.finish_send(&entry) } {
                                    Ok(()) => break,
                                    Err(
                                        SendError::TimedOut(back) | SendError::Interrupted(back),
                                    ) => {
                                        assert_eq!(back, message);
                                        message = back;
                                    }
                                    Err(SendError::Closed(_)) => {
                                        unreachable!("closed when all are done")
                                    }
                                }
                            }
                        }
                    }
                }
                if sending.fetch_sub(1, Ordering::AcqRel) == 1 {
                    channel.close();
                }
            });
        }
        let consumers: Vec<_> = (0..consumers)
            .map(|consumer| {
                let start = &start;
                scope.spawn(move || {
                    let (waiter, mut chance) = (waiter(), Chance(u64::from(consumer) + 1000));
                    let mut got = Vec::new();
                    start.wait();
                    loop {
                        match channel.begin_recv(&waiter) {
                            BeginRecv::Done(message) => got.push(message),
                            BeginRecv::Closed => return got,
                            BeginRecv::Waiting(entry) => {
                                sleep_or_give_up(&entry, &mut chance);
                                if gone && chance.one_in(3) {
                                    // SAFETY: as below.
                                    let dropped = unsafe { channel.abandon_recv(&entry) };
                                    assert_eq!(dropped, None);
                                    continue;
                                }
                                // SAFETY: from this channel, once, and the wait is over.
                                match unsafe { channel.finish_recv(&entry) } {
                                    Ok(message) => got.push(message),
                                    Err(RecvError::Closed) => return got,
                                    Err(RecvError::TimedOut | RecvError::Interrupted) => {}
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        consumers
            .into_iter()
            .map(|consumer| consumer.join().unwrap())
            .collect()
    });
    // What came back after the last consumer had found the channel closed and drained.
    got.push(std::iter::from_fn(|| channel.try_recv().ok()).collect());
    let total = u64::from(producers * EACH);
    let mut seen = HashSet::new();
    for one_consumers in &got {
        for producer in 0..producers {
            let values = one_consumers.iter().filter(|message| message.0 == producer);
            assert!(
                gone || values.is_sorted_by_key(|message| message.1),
                "out of order"
            );
        }
        for message in one_consumers {
            assert!(seen.insert(*message), "{message:?} came twice");
        }
    }
    assert_eq!(seen.len() as u64, total, "lost");
    let stats = channel.stats();
    assert_eq!((stats.sent, stats.received), (total, total));
    assert_eq!(channel.len(), 0);
}

#[test]
fn stress_nothing_is_lost_or_twice_at_a_rendezvous() {
    nothing_is_lost_or_twice(&Channel::bounded(0, Shared), 3, 3, false);
    nothing_is_lost_or_twice(&Channel::bounded(0, Shared), 3, 3, true);
}

#[test]
fn stress_nothing_is_lost_or_twice_through_one_slot() {
    nothing_is_lost_or_twice(&Channel::bounded(1, Shared), 4, 2, false);
    nothing_is_lost_or_twice(&Channel::bounded(1, Shared), 4, 2, true);
}

#[test]
fn stress_nothing_is_lost_or_twice_through_a_few_slots() {
    nothing_is_lost_or_twice(&Channel::bounded(3, Shared), 2, 4, false);
    nothing_is_lost_or_twice(&Channel::bounded(3, Shared), 2, 4, true);
}

#[test]
fn stress_nothing_is_lost_or_twice_through_many_slots() {
    nothing_is_lost_or_twice(&Channel::bounded(64, Shared), 3, 3, false);
    nothing_is_lost_or_twice(&Channel::bounded(64, Shared), 3, 3, true);
}

#[test]
fn stress_nothing_is_lost_or_twice_through_many_blocks() {
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 3, 3, false);
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 3, 3, true);
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 4, 1, false);
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 4, 1, true);
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 1, 4, false);
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 1, 4, true);
}

/// No cancellation here, so a lost wake-up hangs the test instead of being healed by a retry.
#[test]
fn stress_every_wait_ends() {
    const EACH: u32 = if cfg!(miri) { 50 } else { 4_000 };
    let bounded = [0, 1, 2, 7].map(|capacity| Channel::<u32, _>::bounded(capacity, Shared));
    for channel in bounded.into_iter().chain([Channel::unbounded(Shared)]) {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let waiter = waiter();
                    for value in 0..EACH {
                        assert_eq!(send(&channel, value, &waiter), Ok(()));
                    }
                });
                scope.spawn(|| {
                    let waiter = waiter();
                    for _ in 0..EACH {
                        assert!(recv(&channel, &waiter).is_ok());
                    }
                });
            }
        });
        assert_eq!(
            (channel.stats().sent, channel.len()),
            (3 * u64::from(EACH), 0)
        );
    }
}

/// Batches on both ends, of all sizes, and single operations between them.
#[test]
fn stress_batches_lose_and_repeat_nothing() {
    for capacity in [0, 1, 3, 64, 300] {
        const EACH: u32 = 20_000;
        let channel = Channel::<(u32, u32), _>::bounded(capacity, Shared);
        let sending = AtomicUsize::new(3);
        let got: Vec<Vec<(u32, u32)>> = thread::scope(|scope| {
            for producer in 0..3 {
                let (channel, sending) = (&channel, &sending);
                scope.spawn(move || {
                    let (waiter, mut chance) = (waiter(), Chance(u64::from(producer) + 1));
                    let mut values: VecDeque<_> = VecDeque::new();
                    let mut next = 0;
                    while next < EACH || !values.is_empty() {
                        while next < EACH && !chance.one_in(20) {
                            values.push_back((producer, next));
                            next += 1;
                        }
                        if channel.try_send_many(&mut values).is_err()
                            && let Some(value) = values.pop_front()
                        {
                            assert_eq!(send(channel, value, &waiter), Ok(()));
                        }
                    }
                    if sending.fetch_sub(1, Ordering::AcqRel) == 1 {
                        channel.close();
                    }
                });
            }
            let receivers: Vec<_> = (0..2)
                .map(|number| {
                    let channel = &channel;
                    scope.spawn(move || {
                        let (waiter, mut chance) = (waiter(), Chance(number + 100));
                        let mut got = Vec::new();
                        loop {
                            let max = if chance.one_in(3) { 1 } else { 100 };
                            if channel.try_recv_many(max, &mut got).is_err() {
                                match recv(channel, &waiter) {
                                    Ok(value) => got.push(value),
                                    Err(_) => return got,
                                }
                            }
                        }
                    })
                })
                .collect();
            receivers
                .into_iter()
                .map(|receiver| receiver.join().unwrap())
                .collect()
        });
        let mut seen = HashSet::new();
        for one_receivers in &got {
            for producer in 0..3 {
                let values = one_receivers.iter().filter(|value| value.0 == producer);
                assert!(values.is_sorted_by_key(|value| value.1), "out of order");
            }
            for value in one_receivers {
                assert!(seen.insert(*value), "{value:?} came twice");
            }
        }
        assert_eq!(seen.len(), 3 * EACH as usize, "lost");
    }
}

/// What was sent is received or dropped, each once, and what is received is in order.
#[test]
fn stress_the_oldest_makes_way_and_nothing_is_lost() {
    for capacity in [1, 2, 5] {
        const EACH: u32 = 30_000;
        let channel =
            Channel::<(u32, u32), _>::bounded(capacity, Shared).with_overflow(Overflow::DropOldest);
        let sending = AtomicUsize::new(2);
        let (mut got, mut dropped) = (Vec::new(), Vec::new());
        thread::scope(|scope| {
            let senders: Vec<_> = (0..2)
                .map(|producer| {
                    let (channel, sending) = (&channel, &sending);
                    scope.spawn(move || {
                        let mut dropped = Vec::new();
                        for value in 0..EACH {
                            dropped.extend(channel.offer((producer, value)).unwrap());
                        }
                        if sending.fetch_sub(1, Ordering::AcqRel) == 1 {
                            channel.close();
                        }
                        dropped
                    })
                })
                .collect();
            let waiter = waiter();
            while let Ok(value) = recv(&channel, &waiter) {
                got.push(value);
            }
            for sender in senders {
                dropped.extend(sender.join().unwrap());
            }
        });
        for producer in 0..2 {
            let values = got.iter().filter(|value| value.0 == producer);
            assert!(values.is_sorted_by_key(|value| value.1), "out of order");
        }
        let stats = channel.stats();
        assert_eq!(stats.dropped, dropped.len() as u64);
        assert_eq!(stats.received, got.len() as u64);
        assert_eq!(stats.sent, u64::from(2 * EACH));
        got.extend(dropped);
        assert_eq!(got.iter().collect::<HashSet<_>>().len(), got.len(), "twice");
        assert_eq!(got.len(), 2 * EACH as usize, "lost");
    }
}
