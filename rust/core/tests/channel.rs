//! What a channel guarantees, a test each, and a stress of all of it at once.
#![cfg(not(loom))]

mod channel_thread;

use std::{
    cell::RefCell,
    collections::HashSet,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use channel_thread::{recv, send, sleep, waiter};
use penstock_core::{
    channel::{
        BeginRecv, BeginSend, Channel, ChannelStats, RecvError, SendError, TryRecvError,
        TrySendError,
    },
    sync::{Exclusive, Mode, Shared},
    wait::{Entry, Outcome, WaiterRef},
};

const CAPACITIES: [usize; 6] = [1, 2, 3, 4, 5, 100];

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
            for round in 0..1000 {
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
                ChannelStats { sent, received: 2, recv_waits: 2, ..ChannelStats::default() }
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

    fn a_collector_sees_buffered_and_blocked_values_once(mode) {
        for capacity in [0, 3] {
            let channel = Channel::bounded(capacity, mode);
            for _ in 0..2 {
                // The ring's first lap is half over, so that its values wrap around.
                channel.try_send(0).ok();
                channel.try_recv().ok();
            }
            let buffered = u32::try_from(capacity).unwrap();
            for value in 0..buffered {
                channel.try_send(value).unwrap();
            }
            let waiters = [waiter(), waiter()];
            let entries = [0, 1].map(|i| blocked_sender(&channel, buffered + i, &waiters[i as usize]));
            let mut seen = Vec::new();
            // SAFETY: nobody else uses the channel.
            unsafe { channel.for_each(|value| seen.push(*value)) };
            assert_eq!(seen, (0..buffered + 2).collect::<Vec<_>>());
            assert_eq!(channel.clear(), (0..buffered).collect::<Vec<_>>());
            assert!(channel.is_closed() && channel.is_empty());
            let ended = entries.map(|entry| finish_send(&channel, &entry));
            assert_eq!(ended, [0, 1].map(|i| Err(SendError::Closed(buffered + i))));
        }
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
/// those of one producer in order.
fn nothing_is_lost_or_twice(channel: &Channel<(u32, u32), Shared>, producers: u32, consumers: u32) {
    const EACH: u32 = 3_000;
    let start = Barrier::new((producers + consumers) as usize);
    let sending = AtomicUsize::new(producers as usize);
    let got: Vec<Vec<(u32, u32)>> = thread::scope(|scope| {
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
    let total = u64::from(producers * EACH);
    let mut seen = HashSet::new();
    for one_consumers in &got {
        for producer in 0..producers {
            let values = one_consumers.iter().filter(|message| message.0 == producer);
            assert!(values.is_sorted_by_key(|message| message.1), "out of order");
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
    nothing_is_lost_or_twice(&Channel::bounded(0, Shared), 3, 3);
}

#[test]
fn stress_nothing_is_lost_or_twice_through_one_slot() {
    nothing_is_lost_or_twice(&Channel::bounded(1, Shared), 4, 2);
}

#[test]
fn stress_nothing_is_lost_or_twice_through_a_few_slots() {
    nothing_is_lost_or_twice(&Channel::bounded(3, Shared), 2, 4);
}

#[test]
fn stress_nothing_is_lost_or_twice_through_many_slots() {
    nothing_is_lost_or_twice(&Channel::bounded(64, Shared), 3, 3);
}

#[test]
fn stress_nothing_is_lost_or_twice_through_many_blocks() {
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 3, 3);
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 4, 1);
    nothing_is_lost_or_twice(&Channel::unbounded(Shared), 1, 4);
}

/// No cancellation here, so a lost wake-up hangs the test instead of being healed by a retry.
#[test]
fn stress_every_wait_ends() {
    let bounded = [0, 1, 2, 7].map(|capacity| Channel::<u32, _>::bounded(capacity, Shared));
    for channel in bounded.into_iter().chain([Channel::unbounded(Shared)]) {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let waiter = waiter();
                    for value in 0..4_000 {
                        assert_eq!(send(&channel, value, &waiter), Ok(()));
                    }
                });
                scope.spawn(|| {
                    let waiter = waiter();
                    for _ in 0..4_000 {
                        assert!(recv(&channel, &waiter).is_ok());
                    }
                });
            }
        });
        assert_eq!((channel.stats().sent, channel.len()), (12_000, 0));
    }
}
