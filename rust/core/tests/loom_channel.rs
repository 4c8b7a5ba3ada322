//! Every interleaving of two or three threads on a channel of one or two slots.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_channel`
//!
//! A lost wake-up shows as loom's "deadlock", a value lost or twice as a failed assertion, a slot that
//! two threads touch at once as a causality violation.
#![cfg(loom)]

mod channel_thread;

use std::{mem::MaybeUninit, ptr::NonNull, sync::Arc};

use channel_thread::{recv, send, sleep, sleep_until_over, waiter};
use loom::thread;
use penstock_core::{
    channel::{BeginRecv, BeginSend, Channel, RecvError, SendError, TryRecvError, TrySendError},
    sync::Shared,
    wait::{Entry, InPlace, Outcome},
};

type Ch = Channel<Box<u32>, Shared>;

/// Explores `body` with up to `preemptions` switches that no thread asked for.
fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 10_000;
    model.check(body);
}

/// Stands for no capacity at all. Blocks have two slots in models.
const UNBOUNDED: usize = usize::MAX;

fn channel(capacity: usize) -> Arc<Ch> {
    Arc::new(match capacity {
        UNBOUNDED => Channel::unbounded(Shared),
        _ => Channel::bounded(capacity, Shared),
    })
}

fn in_thread<R: 'static>(
    channel: &Arc<Ch>,
    body: impl FnOnce(&Ch) -> R + 'static,
) -> thread::JoinHandle<R> {
    let channel = Arc::clone(channel);
    thread::spawn(move || body(&channel))
}

/// Sends the values in order, waiting while there is no room.
fn send_all(channel: &Ch, values: impl IntoIterator<Item = u32>) {
    let waiter = waiter();
    for value in values {
        assert_eq!(send(channel, Box::new(value), &waiter), Ok(()));
    }
}

fn recv_n(channel: &Ch, n: usize) -> Vec<u32> {
    let waiter = waiter();
    (0..n).map(|_| *recv(channel, &waiter).unwrap()).collect()
}

fn three_values_pass_in_order(capacity: usize, preemptions: usize) {
    explore(preemptions, move || {
        let channel = channel(capacity);
        let sender = in_thread(&channel, |channel| send_all(channel, 1..=3));
        assert_eq!(recv_n(&channel, 3), [1, 2, 3]);
        sender.join().unwrap();
        let stats = channel.stats();
        assert_eq!((stats.sent, stats.received), (3, 3));
        assert_eq!(channel.len(), 0);
    });
}

#[test]
fn values_pass_in_order_through_one_slot() {
    three_values_pass_in_order(1, 3);
}

#[test]
fn values_pass_in_order_through_two_slots() {
    three_values_pass_in_order(2, 3);
}

#[test]
fn values_pass_in_order_from_hand_to_hand() {
    three_values_pass_in_order(0, 3);
}

#[test]
fn values_pass_in_order_through_two_blocks() {
    three_values_pass_in_order(UNBOUNDED, 3);
}

fn two_senders_and_a_receiver(capacity: usize) {
    explore(2, move || {
        let channel = channel(capacity);
        let senders = [1, 2].map(|value| in_thread(&channel, move |ch| send_all(ch, [value])));
        let mut got = recv_n(&channel, 2);
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn two_blocked_senders_are_both_let_in() {
    two_senders_and_a_receiver(1);
}

#[test]
fn two_senders_meet_one_receiver() {
    two_senders_and_a_receiver(0);
}

#[test]
fn two_senders_of_an_unbounded_channel_are_both_received() {
    two_senders_and_a_receiver(UNBOUNDED);
}

fn a_sender_and_two_receivers(capacity: usize, preemptions: usize) {
    explore(preemptions, move || {
        let channel = channel(capacity);
        let receivers = [(); 2].map(|()| in_thread(&channel, |ch| recv_n(ch, 1)[0]));
        send_all(&channel, [1, 2]);
        let mut got = receivers.map(|receiver| receiver.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

#[test]
fn two_waiting_receivers_are_both_served() {
    a_sender_and_two_receivers(1, 1);
}

#[test]
fn two_receivers_meet_one_sender() {
    a_sender_and_two_receivers(0, 2);
}

#[test]
fn two_receivers_of_an_unbounded_channel_are_both_served() {
    a_sender_and_two_receivers(UNBOUNDED, 1);
}

#[test]
fn try_send_and_try_recv_lose_and_repeat_nothing() {
    explore(3, || {
        let channel = channel(2);
        let sender = in_thread(&channel, |channel| {
            let mut sent = Vec::new();
            for value in 1..=3 {
                match channel.try_send(Box::new(value)) {
                    Ok(()) => sent.push(value),
                    Err(TrySendError::Full(back)) => assert_eq!(*back, value),
                    Err(TrySendError::Closed(_)) => unreachable!("nobody closes"),
                }
            }
            sent
        });
        let receiver = in_thread(&channel, |channel| {
            (0..2)
                .filter_map(|_| channel.try_recv().ok())
                .map(|value| *value)
                .collect::<Vec<_>>()
        });
        let sent = sender.join().unwrap();
        let mut got = receiver.join().unwrap();
        got.extend(std::iter::from_fn(|| channel.try_recv().ok()).map(|value| *value));
        assert_eq!(got, sent);
    });
}

#[test]
fn two_fast_senders_never_share_a_slot() {
    explore(3, || {
        let channel = channel(2);
        let other = in_thread(&channel, |ch| ch.try_send(Box::new(1)).is_ok());
        assert!(channel.try_send(Box::new(2)).is_ok());
        assert!(other.join().unwrap());
        let mut got = recv_n(&channel, 2);
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

#[test]
fn try_recv_finds_what_a_finished_send_left() {
    explore(3, || {
        let channel = channel(2);
        let early = in_thread(&channel, |ch| ch.try_recv().ok().map(|value| *value));
        assert!(channel.try_send(Box::new(1)).is_ok());
        assert!(channel.try_send(Box::new(2)).is_ok());
        // One receiver took at most one of two: this one must find the other.
        let mine = *channel.try_recv().expect("a value is there");
        let theirs = early.join().unwrap();
        let rest = channel.try_recv().ok().map(|value| *value);
        let mut all: Vec<_> = [Some(mine), theirs, rest].into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    });
}

/// The value of a send either arrives or comes back, whatever closes meanwhile.
fn close_against_a_blocking_send(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        for _ in 0..capacity {
            channel.try_send(Box::new(0)).unwrap();
        }
        let sender = in_thread(&channel, |ch| send(ch, Box::new(7), &waiter()));
        channel.close();
        let got: Vec<u32> = std::iter::from_fn(|| channel.try_recv().ok())
            .map(|value| *value)
            .collect();
        assert_eq!(got, vec![0; capacity]);
        assert_eq!(channel.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(sender.join().unwrap(), Err(SendError::Closed(Box::new(7))));
    });
}

#[test]
fn close_wakes_a_blocked_sender_and_gives_the_value_back() {
    close_against_a_blocking_send(1);
}

#[test]
fn close_wakes_a_sender_at_a_rendezvous() {
    close_against_a_blocking_send(0);
}

fn close_against_a_blocking_recv(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let receiver = in_thread(&channel, |ch| recv(ch, &waiter()));
        channel.close();
        assert_eq!(receiver.join().unwrap(), Err(RecvError::Closed));
    });
}

#[test]
fn close_wakes_a_waiting_receiver() {
    close_against_a_blocking_recv(1);
}

#[test]
fn close_wakes_a_receiver_at_a_rendezvous() {
    close_against_a_blocking_recv(0);
}

#[test]
fn close_wakes_a_receiver_of_an_unbounded_channel() {
    close_against_a_blocking_recv(UNBOUNDED);
}

fn what_was_sent_before_a_close_is_received_after_it(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let closer = in_thread(&channel, |ch| {
            let sent = ch.try_send(Box::new(7));
            ch.close();
            sent
        });
        let first = recv(&channel, &waiter());
        assert_eq!(closer.join().unwrap(), Ok(()));
        assert_eq!(first, Ok(Box::new(7)));
        assert_eq!(recv(&channel, &waiter()), Err(RecvError::Closed));
    });
}

#[test]
fn what_a_ring_held_at_its_close_is_received() {
    what_was_sent_before_a_close_is_received_after_it(1);
}

#[test]
fn what_an_unbounded_channel_held_at_its_close_is_received() {
    what_was_sent_before_a_close_is_received_after_it(UNBOUNDED);
}

fn a_send_that_races_a_close_arrives_or_comes_back(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let sender = in_thread(&channel, |ch| ch.try_send(Box::new(7)));
        let closer = in_thread(&channel, Ch::close);
        let got = recv(&channel, &waiter());
        closer.join().unwrap();
        match sender.join().unwrap() {
            Ok(()) => assert_eq!(got, Ok(Box::new(7))),
            Err(back) => {
                assert_eq!(back, TrySendError::Closed(Box::new(7)));
                assert_eq!(got, Err(RecvError::Closed));
            }
        }
    });
}

#[test]
fn a_send_to_a_ring_that_races_a_close_arrives_or_comes_back() {
    a_send_that_races_a_close_arrives_or_comes_back(2);
}

#[test]
fn a_send_to_an_unbounded_channel_that_races_a_close_arrives_or_comes_back() {
    a_send_that_races_a_close_arrives_or_comes_back(UNBOUNDED);
}

/// A timer ends the wait of a receiver while a sender hands over: the value reaches the receiver or
/// stays in the channel.
fn timeout_against_a_hand_over_to_a_receiver(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let waiter = waiter();
        let BeginRecv::Waiting(entry) = channel.begin_recv(&waiter) else {
            panic!("the channel is empty");
        };
        let epoch = entry.epoch;
        let timer_waiter = waiter.clone();
        let timer = thread::spawn(move || {
            if let Some(claim) = timer_waiter.claim(epoch) {
                claim.complete(Outcome::TimedOut);
            }
        });
        let sender = in_thread(&channel, |ch| ch.try_send(Box::new(7)));
        sleep(&entry);
        // SAFETY: from this channel's `begin_recv`, and the wait is over.
        let got = unsafe { channel.finish_recv(&entry) };
        let sent = sender.join().unwrap();
        timer.join().unwrap();
        match (got, sent) {
            (Ok(value), Ok(())) => assert_eq!(*value, 7),
            (Err(RecvError::TimedOut), Ok(())) => assert_eq!(channel.try_recv(), Ok(Box::new(7))),
            (Err(RecvError::TimedOut), Err(TrySendError::Full(value))) => {
                assert_eq!((*value, capacity), (7, 0));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn a_receive_that_times_out_leaves_the_value_in_the_ring() {
    timeout_against_a_hand_over_to_a_receiver(1);
}

#[test]
fn a_receive_that_times_out_leaves_the_value_in_the_block() {
    timeout_against_a_hand_over_to_a_receiver(UNBOUNDED);
}

#[test]
fn a_receive_that_times_out_at_a_rendezvous_took_nothing() {
    timeout_against_a_hand_over_to_a_receiver(0);
}

/// A timer ends the wait of a sender while a receiver takes its value: it arrives or comes back.
fn timeout_against_a_hand_over_from_a_sender(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        for _ in 0..capacity {
            channel.try_send(Box::new(0)).unwrap();
        }
        let waiter = waiter();
        let BeginSend::Waiting(entry) = channel.begin_send(Box::new(7), &waiter) else {
            panic!("the channel is full");
        };
        let epoch = entry.epoch;
        let timer_waiter = waiter.clone();
        let timer = thread::spawn(move || {
            if let Some(claim) = timer_waiter.claim(epoch) {
                claim.complete(Outcome::TimedOut);
            }
        });
        let receiver = in_thread(&channel, |ch| ch.try_recv());
        sleep(&entry);
        // SAFETY: from this channel's `begin_send`, and the wait is over.
        let sent = unsafe { channel.finish_send(&entry) };
        let mut got: Vec<u32> = receiver
            .join()
            .unwrap()
            .ok()
            .map(|value| *value)
            .into_iter()
            .collect();
        timer.join().unwrap();
        got.extend(std::iter::from_fn(|| channel.try_recv().ok()).map(|value| *value));
        let mut expected = vec![0; capacity];
        match sent {
            Ok(()) => expected.push(7),
            Err(SendError::TimedOut(value)) => assert_eq!(*value, 7),
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(got, expected);
        // The bit that says "senders wait" must be gone, and the slot free.
        if capacity > 0 {
            assert_eq!(channel.try_send(Box::new(8)), Ok(()));
        }
    });
}

#[test]
fn a_send_that_times_out_never_appears_in_the_ring() {
    timeout_against_a_hand_over_from_a_sender(1);
}

#[test]
fn a_send_that_times_out_at_a_rendezvous_never_appears() {
    timeout_against_a_hand_over_from_a_sender(0);
}

/// The first of two waiting receivers takes its wait back while a value comes: the value reaches one
/// of them.
fn a_receiver_that_gives_up_does_not_eat_the_others_wake_up(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let waiter = waiter();
        let BeginRecv::Waiting(first) = channel.begin_recv(&waiter) else {
            panic!("the channel is empty");
        };
        let second = in_thread(&channel, |ch| recv(ch, &channel_thread::waiter()).unwrap());
        let sender = in_thread(&channel, |ch| send_all(ch, [7]));
        if !waiter.disarm(first.epoch, Outcome::Interrupted) {
            sleep(&first);
        }
        // SAFETY: from this channel's `begin_recv`, and the wait is over.
        match unsafe { channel.finish_recv(&first) } {
            Ok(value) => send_all(&channel, [*value]),
            Err(error) => assert_eq!(error, RecvError::Interrupted),
        }
        assert_eq!(*second.join().unwrap(), 7);
        sender.join().unwrap();
    });
}

#[test]
fn a_receiver_of_a_ring_that_gives_up_does_not_eat_the_others_wake_up() {
    a_receiver_that_gives_up_does_not_eat_the_others_wake_up(1);
}

#[test]
fn a_receiver_of_an_unbounded_channel_that_gives_up_does_not_eat_the_others_wake_up() {
    a_receiver_that_gives_up_does_not_eat_the_others_wake_up(UNBOUNDED);
}

/// Two receivers leave the first block, one moves on to the second, and the last to leave frees it under nobody.
#[test]
fn two_fast_receivers_leave_a_block_that_a_sender_has_just_left() {
    explore(3, || {
        let channel = channel(UNBOUNDED);
        for value in 1..=2 {
            channel.try_send(Box::new(value)).unwrap();
        }
        let sender = in_thread(&channel, |ch| ch.try_send(Box::new(3)).is_ok());
        let other = in_thread(&channel, |ch| ch.try_recv().ok().map(|value| *value));
        let mut got: Vec<u32> = (0..2)
            .filter_map(|_| channel.try_recv().ok())
            .map(|value| *value)
            .collect();
        assert!(sender.join().unwrap());
        got.extend(other.join().unwrap());
        got.extend(std::iter::from_fn(|| channel.try_recv().ok()).map(|value| *value));
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3]);
    });
}

/// Two senders stand before the same gap: one links a block.
#[test]
fn two_senders_link_one_block() {
    explore(3, || {
        let channel = channel(UNBOUNDED);
        let other = in_thread(&channel, |ch| {
            ch.try_send(Box::new(1)).is_ok() && ch.try_send(Box::new(2)).is_ok()
        });
        assert!(channel.try_send(Box::new(3)).is_ok());
        assert!(other.join().unwrap());
        assert_eq!(channel.len(), 3);
        let got = recv_n(&channel, 3);
        let theirs: Vec<_> = got.iter().filter(|value| **value != 3).collect();
        assert_eq!((got.len(), theirs), (3, vec![&1, &2]));
    });
}

/// A freed slot belongs to the blocked sender, whoever else tries at that moment.
#[test]
fn try_send_does_not_overtake_a_blocked_sender() {
    explore(3, || {
        let channel = channel(1);
        channel.try_send(Box::new(0)).unwrap();
        let waiter = waiter();
        let BeginSend::Waiting(entry) = channel.begin_send(Box::new(1), &waiter) else {
            panic!("the channel is full");
        };
        let hasty = in_thread(&channel, |ch| ch.try_send(Box::new(2)));
        assert_eq!(channel.try_recv(), Ok(Box::new(0)));
        assert_eq!(sleep(&entry), Outcome::Handed);
        // SAFETY: from this channel's `begin_send`, and the wait is over.
        assert_eq!(unsafe { channel.finish_send(&entry) }, Ok(()));
        assert_eq!(hasty.join().unwrap(), Err(TrySendError::Full(Box::new(2))));
        assert_eq!(channel.try_recv(), Ok(Box::new(1)));
        assert_eq!(channel.len(), 0);
    });
}

/// Receives through an entry in memory of the caller's, which it has to itself again at the end. `gives_up`: it takes
/// the wait back if nobody was faster.
fn recv_in_place(channel: &Ch, gives_up: bool) -> Result<u32, RecvError> {
    let waiter = waiter();
    let mut memory = Box::new(MaybeUninit::<Entry<Box<u32>>>::uninit());
    // SAFETY: both outlive the wait, which is finished below, and nobody else touches the memory.
    let place = unsafe { InPlace::new(NonNull::from(&*waiter), NonNull::from(&mut *memory)) };
    let epoch = match channel.begin_recv(place) {
        BeginRecv::Done(value) => return Ok(*value),
        BeginRecv::Closed => return Err(RecvError::Closed),
        BeginRecv::Waiting(epoch) => epoch,
    };
    if !gives_up || !waiter.disarm(epoch, Outcome::Interrupted) {
        sleep_until_over(&waiter, epoch);
    }
    // SAFETY: there is an entry in it, as the channel had to wait.
    let entry = unsafe { memory.assume_init_ref() };
    // SAFETY: from this channel's `begin_recv`, and the wait is over.
    let got = unsafe { channel.finish_recv(entry) };
    // SAFETY: the entry is the caller's alone again. loom would see somebody else at the slot.
    assert!(unsafe { entry.peek() }.is_none());
    got.map(|value| *value)
}

fn one_in_place_receives_or_gives_up(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let receiver = in_thread(&channel, |channel| recv_in_place(channel, true));
        let sent = channel.try_send(Box::new(7));
        match receiver.join().unwrap() {
            Ok(value) => assert_eq!((value, sent), (7, Ok(()))),
            Err(error) => {
                assert_eq!(error, RecvError::Interrupted);
                // What it has not taken is still there, or was never in.
                assert_eq!(channel.try_recv().is_ok(), sent.is_ok());
            }
        }
    });
}

#[test]
fn an_entry_in_its_owners_memory_is_left_alone_after_the_wait() {
    one_in_place_receives_or_gives_up(1);
}

#[test]
fn an_entry_in_its_owners_memory_is_left_alone_by_an_unbounded_channel() {
    one_in_place_receives_or_gives_up(UNBOUNDED);
}

#[test]
fn an_entry_in_its_owners_memory_is_left_alone_after_a_rendezvous() {
    one_in_place_receives_or_gives_up(0);
}

fn two_in_place_of_whom_one_gives_up(capacity: usize, preemptions: usize) {
    explore(preemptions, move || {
        let channel = channel(capacity);
        let patient = in_thread(&channel, |channel| recv_in_place(channel, false));
        let hasty = in_thread(&channel, |channel| recv_in_place(channel, true));
        send_all(&channel, [1]);
        let hasty_got = hasty.join().unwrap();
        if hasty_got.is_ok() {
            send_all(&channel, [1]);
        }
        assert_eq!(patient.join().unwrap(), Ok(1));
    });
}

#[test]
fn who_gives_up_in_place_takes_no_value_from_its_neighbour() {
    two_in_place_of_whom_one_gives_up(1, 1);
}

#[test]
fn who_gives_up_a_rendezvous_in_place_takes_no_value_from_its_neighbour() {
    two_in_place_of_whom_one_gives_up(0, 2);
}

#[test]
fn a_close_ends_a_wait_in_place() {
    explore(3, || {
        let channel = channel(1);
        let receiver = in_thread(&channel, |channel| recv_in_place(channel, true));
        channel.close();
        let ended = receiver.join().unwrap();
        assert!(matches!(
            ended,
            Err(RecvError::Closed | RecvError::Interrupted)
        ));
    });
}

/// A receive that was handed 1 and whose receiver is gone.
fn handed_to_nobody(channel: &Ch) -> Arc<Entry<Box<u32>>> {
    let BeginRecv::Waiting(entry) = channel.begin_recv(&waiter()) else {
        panic!("the channel is empty");
    };
    channel.try_send(Box::new(1)).unwrap();
    assert_eq!(entry.waiter.outcome(entry.epoch), Some(Outcome::Handed));
    entry
}

fn give_back(channel: &Ch, entry: &Entry<Box<u32>>) {
    // SAFETY: from this channel's `begin_recv`, its wait is over, and it is ended once.
    assert_eq!(unsafe { channel.abandon_recv(entry) }, None);
}

/// What comes back reaches a receiver that waits, comes to wait, or looks, whichever it does at that moment.
fn a_receiver_gets_what_comes_back(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let gone = handed_to_nobody(&channel);
        let receiver = in_thread(&channel, |ch| recv(ch, &waiter()));
        give_back(&channel, &gone);
        assert_eq!(receiver.join().unwrap(), Ok(Box::new(1)));
        assert_eq!(channel.len(), 0);
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
        // No bit is left behind.
        assert_eq!(channel.try_send(Box::new(2)).is_ok(), capacity > 0);
    });
}

#[test]
fn a_receiver_of_a_ring_gets_what_comes_back() {
    a_receiver_gets_what_comes_back(1);
}

#[test]
fn a_receiver_at_a_rendezvous_gets_what_comes_back() {
    a_receiver_gets_what_comes_back(0);
}

/// A receiver gives up while something comes back: it has it, or the channel has.
fn a_receiver_that_gives_up_does_not_eat_what_comes_back(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let gone = handed_to_nobody(&channel);
        let receiver = in_thread(&channel, |ch| recv_in_place(ch, true));
        give_back(&channel, &gone);
        match receiver.join().unwrap() {
            Ok(value) => assert_eq!((value, channel.len()), (1, 0)),
            Err(error) => {
                assert_eq!((error, channel.len()), (RecvError::Interrupted, 1));
                assert_eq!(channel.try_recv(), Ok(Box::new(1)));
            }
        }
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn who_gives_up_does_not_eat_what_comes_back_to_a_ring() {
    a_receiver_that_gives_up_does_not_eat_what_comes_back(1);
}

#[test]
fn who_gives_up_does_not_eat_what_comes_back_to_a_rendezvous() {
    a_receiver_that_gives_up_does_not_eat_what_comes_back(0);
}

/// A receiver finds the channel closed, or what came back; never both, and nothing is lost.
fn what_comes_back_outlives_a_close(capacity: usize) {
    explore(3, move || {
        let channel = channel(capacity);
        let gone = handed_to_nobody(&channel);
        let closer = in_thread(&channel, Ch::close);
        let receiver = in_thread(&channel, |ch| recv(ch, &waiter()));
        give_back(&channel, &gone);
        closer.join().unwrap();
        match receiver.join().unwrap() {
            Ok(value) => assert_eq!(*value, 1),
            Err(error) => {
                assert_eq!((error, channel.len()), (RecvError::Closed, 1));
                assert_eq!(channel.try_recv(), Ok(Box::new(1)));
            }
        }
        assert_eq!(channel.try_recv(), Err(TryRecvError::Closed));
    });
}

#[test]
fn what_comes_back_to_a_ring_outlives_a_close() {
    what_comes_back_outlives_a_close(1);
}

#[test]
fn what_comes_back_to_a_rendezvous_outlives_a_close() {
    what_comes_back_outlives_a_close(0);
}

/// Receivers on the fast way, a blocked sender, and a value that comes back meet in a full ring: each value comes out once,
/// and `len` is never less than what is certainly there.
#[test]
fn what_comes_back_to_a_full_ring_is_taken_once_and_frees_no_slot() {
    explore(3, || {
        let channel = channel(1);
        let gone = handed_to_nobody(&channel);
        channel.try_send(Box::new(2)).unwrap();
        let sender = in_thread(&channel, |ch| send(ch, Box::new(3), &waiter()));
        let receiver = in_thread(&channel, |ch| *ch.try_recv().expect("the ring is full"));
        give_back(&channel, &gone);
        assert!(channel.len() >= 1);
        let mut got = vec![receiver.join().unwrap()];
        got.extend(recv_n(&channel, 2));
        sender.join().unwrap().unwrap();
        // 1 is first, unless it came back too late for the receiver.
        assert!(matches!(got[..], [1, 2, 3] | [2, 1, 3]), "{got:?}");
        assert_eq!(channel.len(), 0);
        assert_eq!(channel.try_send(Box::new(4)), Ok(()));
    });
}
