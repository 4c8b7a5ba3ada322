//! Every interleaving of selects with selects, plain operations, closes and timers, on two channels.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_select`
//!
//! A lost wake-up shows as loom's "deadlock", two cases that took effect as a failed assertion. That two selects may
//! not chase each other for ever no bounded model shows: see the test of the order beside the code.
#![cfg(loom)]

mod channel_thread;

use std::{sync::Arc, time::Instant};

use channel_thread::{recv, select, select_until, send, sleep, waiter};
use loom::thread;
use penstock_core::{
    channel::{
        BeginSend, Channel, Rate, RecvError, TryRecvError,
        select::{Case, Choice, Selected, Served, try_select},
    },
    sync::Shared,
    wait::{Entry, Epoch, Outcome, WaiterRef},
};

type Ch = Channel<Box<u32>, Shared>;

/// Explores `body` with up to `preemptions` switches that no thread asked for.
fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 10_000;
    model.check(body);
}

fn channels(capacity: usize) -> Arc<[Ch; 2]> {
    Arc::new([(); 2].map(|()| Channel::bounded(capacity, Shared)))
}

fn in_thread<R: 'static>(
    channels: &Arc<[Ch; 2]>,
    body: impl FnOnce(&[Ch; 2]) -> R + 'static,
) -> thread::JoinHandle<R> {
    let channels = Arc::clone(channels);
    thread::spawn(move || body(&channels))
}

fn sends(channel: &Ch, value: u32) -> Case<'_, Box<u32>, Shared> {
    Case::Send(channel, Some(Box::new(value)))
}

/// Which case took effect, and what it received.
fn seen(selected: Selected<Box<u32>>) -> (usize, Option<u32>) {
    match selected.served {
        Served::Received(value) => (selected.index, Some(*value)),
        Served::Sent => (selected.index, None),
        Served::Closed => panic!("nobody closes"),
    }
}

fn run(cases: &mut [Case<'_, Box<u32>, Shared>]) -> (usize, Option<u32>) {
    seen(select(cases, Choice::First, &waiter()).expect("nobody interrupts"))
}

/// One sends on the first channel or receives on the second, the other the other way round; each lists
/// them in either order.
fn two_selects_meet(swapped: bool) {
    explore(5, move || {
        let channels = channels(0);
        let other = in_thread(&channels, move |[a, b]| {
            let mut cases = [Case::Recv(a), sends(b, 2)];
            if swapped {
                cases.swap(0, 1);
            }
            let (index, got) = run(&mut cases);
            (index ^ usize::from(swapped), got)
        });
        let [a, b] = &*channels;
        let mine = run(&mut [sends(a, 1), Case::Recv(b)]);
        match (mine, other.join().unwrap()) {
            ((0, None), (0, Some(1))) | ((1, Some(2)), (1, None)) => {}
            both => panic!("{both:?}"),
        }
    });
}

#[test]
fn two_selects_that_list_their_channels_alike_meet_once() {
    two_selects_meet(false);
}

#[test]
fn two_selects_that_list_their_channels_in_different_orders_meet_once() {
    two_selects_meet(true);
}

/// Three selects on one channel: two of them meet, and then the third one meets who is left.
#[test]
fn selects_that_send_and_receive_on_one_channel_meet_each_other_only() {
    explore(3, || {
        let channels = channels(0);
        let other = in_thread(&channels, |[a, _]| run(&mut [sends(a, 2), Case::Recv(a)]));
        let [a, _] = &*channels;
        let mine = run(&mut [Case::Recv(a), sends(a, 1)]);
        match (mine, other.join().unwrap()) {
            ((0, Some(2)), (0, None)) | ((1, None), (1, Some(1))) => {}
            both => panic!("{both:?}"),
        }
    });
}

fn two_senders_and_a_select(capacity: usize) {
    explore(2, move || {
        let channels = channels(capacity);
        let senders = [0, 1].map(|at| {
            in_thread(&channels, move |channels| {
                let value = u32::try_from(at).unwrap();
                send(&channels[at], Box::new(value), &waiter())
            })
        });
        let waiter = waiter();
        let [a, b] = &*channels;
        let selected = select(&mut [Case::Recv(a), Case::Recv(b)], Choice::First, &waiter);
        let (index, got) = seen(selected.unwrap());
        assert_eq!(got, Some(u32::try_from(index).unwrap()));
        let rest = recv(&channels[1 - index], &waiter).map(|value| *value);
        assert_eq!(rest, Ok(u32::try_from(1 - index).unwrap()));
        for sender in senders {
            assert_eq!(sender.join().unwrap(), Ok(()));
        }
    });
}

#[test]
fn a_select_takes_one_value_and_leaves_the_other() {
    two_senders_and_a_select(1);
}

#[test]
fn a_select_takes_one_value_at_a_rendezvous_and_leaves_the_other() {
    two_senders_and_a_select(0);
}

fn two_receivers_and_a_select(capacity: usize) {
    explore(2, move || {
        let channels = channels(capacity);
        for channel in &*channels {
            for _ in 0..capacity {
                channel.try_send(Box::new(0)).unwrap();
            }
        }
        let receivers = [0, 1].map(|at| {
            in_thread(&channels, move |channels| {
                let waiter = waiter();
                let skipped: Vec<_> = (0..capacity)
                    .map(|_| recv(&channels[at], &waiter))
                    .collect();
                assert!(skipped.iter().all(Result::is_ok));
                recv(&channels[at], &waiter).map(|value| *value)
            })
        });
        let [a, b] = &*channels;
        let (index, got) = run(&mut [sends(a, 7), sends(b, 7)]);
        assert_eq!(got, None);
        // The value of the other case was never sent.
        channels[1 - index].close();
        for (at, receiver) in receivers.into_iter().enumerate() {
            let expected = if at == index {
                Ok(7)
            } else {
                Err(RecvError::Closed)
            };
            assert_eq!(receiver.join().unwrap(), expected);
        }
    });
}

#[test]
fn a_select_sends_one_value_and_keeps_the_other() {
    two_receivers_and_a_select(1);
}

#[test]
fn a_select_sends_one_value_at_a_rendezvous_and_keeps_the_other() {
    two_receivers_and_a_select(0);
}

fn close_against_a_select(capacity: usize) {
    explore(3, move || {
        let channels = channels(capacity);
        let closer = in_thread(&channels, |[a, _]| a.close());
        let sender = in_thread(&channels, |[_, b]| b.try_send(Box::new(7)));
        let [a, b] = &*channels;
        let mut cases = [Case::Recv(a), Case::Recv(b)];
        let selected = select(&mut cases, Choice::First, &waiter()).unwrap();
        closer.join().unwrap();
        let sent = sender.join().unwrap();
        match (selected.index, selected.served) {
            (0, Served::Closed) => assert_eq!(b.try_recv().is_ok(), sent.is_ok()),
            (1, Served::Received(value)) => assert_eq!((*value, sent), (7, Ok(()))),
            other => panic!("{other:?}"),
        }
        assert_eq!(b.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn a_close_is_one_of_the_things_a_select_finds() {
    close_against_a_select(1);
}

#[test]
fn a_close_at_a_rendezvous_is_one_of_the_things_a_select_finds() {
    close_against_a_select(0);
}

/// The value of a send case is there again when its channel was closed instead.
#[test]
fn a_close_gives_a_selects_value_back() {
    explore(3, || {
        let channels = channels(0);
        let closer = in_thread(&channels, |[a, b]| {
            a.close();
            b.close();
        });
        let [a, b] = &*channels;
        let mut cases = [sends(a, 1), sends(b, 2)];
        let selected = select(&mut cases, Choice::First, &waiter()).unwrap();
        assert_eq!(selected.served, Served::Closed);
        assert!(matches!(
            &cases,
            [Case::Send(_, Some(one)), Case::Send(_, Some(two))] if **one == 1 && **two == 2
        ));
        closer.join().unwrap();
    });
}

fn end_by_a_timer(waiter: &WaiterRef, epoch: Epoch) -> thread::JoinHandle<()> {
    let waiter = waiter.clone();
    thread::spawn(move || {
        if let Some(claim) = waiter.claim(epoch) {
            claim.complete(Outcome::TimedOut);
        }
    })
}

fn timer_against_hand_overs(capacity: usize) {
    explore(2, move || {
        let channels = channels(capacity);
        let waiter = waiter();
        let [a, b] = &*channels;
        let (mut timer, mut sender) = (None, None);
        let mut cases = [Case::Recv(a), Case::Recv(b)];
        let selected = select_until(&mut cases, Choice::First, &waiter, |epoch| {
            timer = Some(end_by_a_timer(&waiter, epoch));
            sender = Some(in_thread(&channels, |[a, b]| {
                [
                    a.try_send(Box::new(0)).is_ok(),
                    b.try_send(Box::new(1)).is_ok(),
                ]
            }));
        });
        timer.unwrap().join().unwrap();
        let mut expected = sender.unwrap().join().unwrap();
        match selected {
            Ok(selected) => {
                let (index, got) = seen(selected);
                assert_eq!(got, Some(u32::try_from(index).unwrap()));
                assert!(std::mem::replace(&mut expected[index], false));
            }
            Err(outcome) => assert_eq!(outcome, Outcome::TimedOut),
        }
        // What was sent and not taken is there; what was not sent is not.
        let left = [a, b].map(|channel| channel.try_recv().is_ok());
        assert_eq!(left, expected);
    });
}

#[test]
fn a_select_that_times_out_at_a_hand_over_has_one_outcome() {
    timer_against_hand_overs(1);
}

#[test]
fn a_select_that_times_out_at_a_rendezvous_has_one_outcome() {
    timer_against_hand_overs(0);
}

/// A select that is cancelled passes on the wake-up it was about to get.
#[test]
fn a_select_that_is_cancelled_takes_nothing_from_its_neighbour() {
    explore(3, || {
        let channels = channels(0);
        let waiter = waiter();
        let [a, b] = &*channels;
        let (mut timer, mut others) = (None, None);
        let mut cases = [Case::Recv(a), Case::Recv(b)];
        let selected = select_until(&mut cases, Choice::First, &waiter, |epoch| {
            timer = Some(end_by_a_timer(&waiter, epoch));
            others = Some(in_thread(&channels, |[a, _]| {
                send(a, Box::new(7), &channel_thread::waiter())
            }));
        });
        timer.unwrap().join().unwrap();
        if selected.is_err() {
            assert_eq!(recv(a, &waiter), Ok(Box::new(7)));
        }
        assert_eq!(others.unwrap().join().unwrap(), Ok(()));
    });
}

/// A value is in one of two channels at every moment, while it moves from the one to the other and back.
fn a_value_that_moves_is_found(capacity: usize) {
    explore(3, move || {
        let channels = channels(capacity);
        let [a, b] = &*channels;
        a.try_send(Box::new(0)).unwrap();
        let mover = in_thread(&channels, |[a, b]| {
            b.try_send(Box::new(1)).unwrap();
            let first = a.try_recv().is_ok();
            if first {
                a.try_send(Box::new(2)).unwrap();
                return [first, b.try_recv().is_ok()];
            }
            [first, false]
        });
        let mut cases = [Case::Recv(a), Case::Recv(b)];
        let selected = try_select(&mut cases[..], Choice::First).expect("there always was one");
        let (index, _) = seen(selected);
        let [first, second] = mover.join().unwrap();
        assert!(first || index == 0);
        assert!(second || index <= 1);
    });
}

#[test]
fn nothing_is_the_answer_only_where_nothing_was_there_at_one_moment() {
    a_value_that_moves_is_found(2);
}

/// The same with free slots instead of values, and with receivers that meet senders.
#[test]
fn a_free_slot_that_moves_is_found() {
    explore(3, || {
        let channels = channels(1);
        let [a, b] = &*channels;
        b.try_send(Box::new(0)).unwrap();
        let mover = in_thread(&channels, |[a, b]| {
            b.try_recv().unwrap();
            let filled = a.try_send(Box::new(1)).is_ok();
            if filled {
                a.try_recv().unwrap();
                let _ = b.try_send(Box::new(2));
            }
        });
        let mut cases = [sends(a, 3), sends(b, 3)];
        assert!(try_select(&mut cases[..], Choice::First).is_some());
        mover.join().unwrap();
    });
}

/// A sender waits at the second of two rendezvous, then at the first: it is met at one.
#[test]
fn a_sender_that_waits_first_here_and_then_there_is_met() {
    fn begin(channel: &Ch, waiter: &WaiterRef) -> Option<Arc<Entry<Box<u32>>>> {
        match channel.begin_send(Box::new(0), waiter) {
            BeginSend::Waiting(entry) => Some(entry),
            _ => None,
        }
    }
    /// Whether it was met, once it does not wait any more.
    fn end(channel: &Ch, entry: &Entry<Box<u32>>) -> bool {
        if !entry.waiter.disarm(entry.epoch, Outcome::Interrupted) {
            sleep(entry);
        }
        // SAFETY: its wait is over.
        unsafe { channel.finish_send(entry) }.is_ok()
    }
    explore(3, || {
        let channels = channels(0);
        let [a, b] = &*channels;
        let waiter = waiter();
        let at_b = begin(b, &waiter).expect("nobody receives");
        let mover = in_thread(&channels, move |[a, b]| {
            let waiter = channel_thread::waiter();
            let at_a = begin(a, &waiter).expect("nobody waits to receive");
            let met_at_b = end(b, &at_b);
            // Nobody was met at the second, so somebody is at the first: this wait has no other end.
            let met_at_a = if met_at_b {
                end(a, &at_a)
            } else {
                sleep(&at_a) == Outcome::Handed
            };
            assert!(met_at_a != met_at_b);
            if !met_at_b {
                // SAFETY: its wait is over.
                assert_eq!(unsafe { a.finish_send(&at_a) }, Ok(()));
            }
        });
        let mut cases = [Case::Recv(a), Case::Recv(b)];
        assert!(try_select(&mut cases[..], Choice::First).is_some());
        mover.join().unwrap();
    });
}

/// Two channels with a rate, of so many tokens each that never become more.
fn channels_with_tokens(tokens: u64) -> Arc<[Ch; 2]> {
    let rate = Rate {
        per_second: 1e-9,
        burst: tokens,
    };
    Arc::new([(); 2].map(|()| Ch::bounded(1, Shared).with_rate(rate, Instant::now(), Shared)))
}

/// How many sends it allows.
fn tokens_left(channel: &Ch) -> usize {
    let turnstile = channel.turnstile().unwrap();
    let now = Instant::now();
    std::iter::from_fn(|| {
        let ticket = turnstile.try_enter(now)?;
        turnstile.leave(ticket, true, now);
        Some(())
    })
    .count()
}

/// The turn reaches a select in the moment when its other case is served, or its time is up. It is passed on, and
/// costs a token only where the select has sent.
#[test]
fn a_turn_that_reaches_a_select_is_used_or_passed_on() {
    explore(2, || {
        let channels = channels_with_tokens(3);
        let waiter = waiter();
        let [a, b] = &*channels;
        let now = Instant::now();
        let mut first = a.turnstile().unwrap().try_enter(now);
        let (mut timer, mut sender) = (None, None);
        let mut cases = [sends(a, 1), Case::Recv(b)];
        let selected = select_until(&mut cases, Choice::First, &waiter, |epoch| {
            let Some(ticket) = first.take() else {
                panic!("it waits once: then the turn is free");
            };
            timer = Some(end_by_a_timer(&waiter, epoch));
            sender = Some(in_thread(&channels, move |[a, b]| {
                a.turnstile().unwrap().leave(ticket, true, now);
                b.try_send(Box::new(2)).unwrap();
            }));
        });
        timer.unwrap().join().unwrap();
        sender.unwrap().join().unwrap();
        let sent = a.try_recv().is_ok();
        match selected {
            Ok(selected) => match seen(selected) {
                (0, None) => assert!(sent),
                taken => assert_eq!((taken, sent), ((1, Some(2)), false)),
            },
            Err(outcome) => assert_eq!((outcome, sent), (Outcome::TimedOut, false)),
        }
        assert_eq!(tokens_left(a), 2 - usize::from(sent), "the turn is free");
    });
}

/// A select that waits in line of two channels gets both turns, and keeps none.
#[test]
fn a_select_that_gets_two_turns_sends_once_and_keeps_none() {
    explore(2, || {
        let channels = channels_with_tokens(2);
        let [a, b] = &*channels;
        let now = Instant::now();
        let [first, second] = [a, b].map(|one| one.turnstile().unwrap().try_enter(now).unwrap());
        let other = in_thread(&channels, move |[a, _]| {
            a.turnstile().unwrap().leave(first, false, now);
        });
        let another = in_thread(&channels, move |[_, b]| {
            b.turnstile().unwrap().leave(second, false, now);
        });
        let (index, _) = run(&mut [sends(a, 1), sends(b, 2)]);
        other.join().unwrap();
        another.join().unwrap();
        let got = [a, b].map(|channel| channel.try_recv().ok());
        assert_eq!(got[1 - index], None);
        assert_eq!(got[index].as_deref(), Some(&[1, 2][index]));
        assert_eq!(tokens_left([a, b][index]), 1);
        assert_eq!(tokens_left([a, b][1 - index]), 2);
    });
}

/// One of two turns is free at every moment.
#[test]
fn a_turn_that_becomes_free_is_found() {
    explore(3, || {
        let channels = channels_with_tokens(9);
        let [a, b] = &*channels;
        let now = Instant::now();
        let first = b.turnstile().unwrap().try_enter(now).unwrap();
        let mover = in_thread(&channels, move |[a, b]| {
            let (a, b) = (a.turnstile().unwrap(), b.turnstile().unwrap());
            b.leave(first, false, now);
            if let Some(ticket) = a.try_enter(now) {
                a.leave(ticket, false, now);
            }
        });
        let mut cases = [sends(a, 1), sends(b, 2)];
        let selected = try_select(&mut cases[..], Choice::First);
        assert!(selected.is_some(), "there always was one");
        mover.join().unwrap();
    });
}
