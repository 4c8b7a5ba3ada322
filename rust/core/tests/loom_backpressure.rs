//! Every interleaving of what throws values away, moves many at once, takes turns, and tells of crossings.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_backpressure`
#![cfg(loom)]

mod channel_thread;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use channel_thread::{recv, send, sleep_until_over, waiter};
use loom::thread;
use penstock_core::{
    channel::{
        BeginRecv, Channel, Gauge, Overflow, Pressure, Rate, RecvError, Step, Ticket, TryRecvError,
        TrySendError, Turnstile,
    },
    sync::Shared,
    wait::Outcome,
};

type Ch = Channel<Box<u32>, Shared>;

/// Explores `body` with up to `preemptions` switches that no thread asked for.
fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 10_000;
    model.check(body);
}

fn in_thread<R: 'static>(
    channel: &Arc<Ch>,
    body: impl FnOnce(&Ch) -> R + 'static,
) -> thread::JoinHandle<R> {
    let channel = Arc::clone(channel);
    thread::spawn(move || body(&channel))
}

fn rest(channel: &Ch) -> Vec<u32> {
    std::iter::from_fn(|| channel.try_recv().ok())
        .map(|value| *value)
        .collect()
}

fn boxes(values: impl IntoIterator<Item = u32>) -> VecDeque<Box<u32>> {
    values.into_iter().map(Box::new).collect()
}

/// The first value is received or thrown away; the one that replaces it comes last.
#[test]
fn the_oldest_is_received_or_makes_way() {
    for capacity in [1, 2] {
        explore(3, move || {
            let channel =
                Arc::new(Ch::bounded(capacity, Shared).with_overflow(Overflow::DropOldest));
            let end = u32::try_from(capacity).unwrap();
            for value in 0..end {
                assert_eq!(channel.offer(Box::new(value)), Ok(None));
            }
            let receiver = in_thread(&channel, |ch| ch.try_recv().map(|value| *value));
            let dropped = channel.offer(Box::new(end)).unwrap().map(|value| *value);
            let received = receiver.join().unwrap().unwrap();
            let rest = rest(&channel);
            match dropped {
                None => assert_eq!(received, 0),
                Some(first) => assert_eq!((first, received), (0, 1)),
            }
            let mut all: Vec<_> = dropped.into_iter().chain([received]).collect();
            all.extend(&rest);
            assert_eq!(all, (0..=end).collect::<Vec<_>>());
            let stats = channel.stats();
            assert_eq!(stats.dropped, u64::from(dropped.is_some()));
            assert_eq!(
                (stats.sent, stats.received + stats.dropped),
                (u64::from(end) + 1, u64::from(end) + 1)
            );
        });
    }
}

#[test]
fn two_that_throw_the_oldest_away_take_turns() {
    explore(3, || {
        let channel = Arc::new(Ch::bounded(1, Shared).with_overflow(Overflow::DropOldest));
        let other = in_thread(&channel, |ch| ch.offer(Box::new(1)).unwrap());
        let mine = channel.offer(Box::new(2)).unwrap();
        let theirs = other.join().unwrap();
        let mut all: Vec<_> = [mine, theirs]
            .into_iter()
            .flatten()
            .map(|value| *value)
            .collect();
        assert_eq!(all.len(), 1);
        all.extend(rest(&channel));
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    });
}

/// A value comes back while the oldest makes way: the one in the ring does, and what came back is received, once.
#[test]
fn what_comes_back_stays_while_the_oldest_makes_way() {
    explore(3, || {
        let channel = Arc::new(Ch::bounded(1, Shared).with_overflow(Overflow::DropOldest));
        let BeginRecv::Waiting(gone) = channel.begin_recv(&waiter()) else {
            panic!("the channel is empty");
        };
        for value in [1, 2] {
            assert_eq!(channel.offer(Box::new(value)), Ok(None));
        }
        let sender = in_thread(&channel, |ch| ch.offer(Box::new(3)).unwrap());
        let receiver = in_thread(&channel, |ch| ch.try_recv().map(|value| *value));
        // SAFETY: from this channel's `begin_recv`, its wait is over, and it is ended once.
        assert_eq!(unsafe { channel.abandon_recv(&gone) }, None);
        let dropped = sender.join().unwrap().map(|value| *value);
        let received = receiver.join().unwrap().unwrap();
        assert_ne!(dropped, Some(1));
        let mut all: Vec<_> = dropped.into_iter().chain([received]).collect();
        all.extend(rest(&channel));
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(
            channel.try_send(Box::new(4)),
            Ok(()),
            "no bit is left behind"
        );
    });
}

/// Nobody waits on a value that is thrown away: the receiver gets one of the two.
#[test]
fn a_receiver_that_goes_to_wait_is_served_by_who_would_throw_away() {
    explore(3, || {
        let channel = Arc::new(Ch::bounded(1, Shared).with_overflow(Overflow::DropOldest));
        let receiver = in_thread(&channel, |ch| recv(ch, &waiter()).map(|value| *value));
        let dropped: Vec<_> = [1, 2]
            .into_iter()
            .filter_map(|value| channel.offer(Box::new(value)).unwrap())
            .map(|value| *value)
            .collect();
        let mut all = dropped;
        all.push(receiver.join().unwrap().unwrap());
        all.extend(rest(&channel));
        assert_eq!(all, [1, 2]);
    });
}

#[test]
fn a_batch_receive_takes_a_prefix_of_a_batch_send() {
    for capacity in [1, 2] {
        explore(3, move || {
            let channel = Arc::new(Ch::bounded(capacity, Shared));
            let sender = in_thread(&channel, |ch| {
                let mut values = boxes(0..3);
                let sent = ch.try_send_many(&mut values);
                assert_eq!(sent.is_ok(), values.is_empty());
                values.len()
            });
            let mut got = Vec::new();
            let received = channel.try_recv_many(2, &mut got);
            assert_eq!(received.is_err(), got.is_empty());
            assert!(got.len() <= 2);
            let unsent = sender.join().unwrap();
            let mut all: Vec<_> = got.into_iter().map(|value| *value).collect();
            all.extend(rest(&channel));
            assert_eq!(all, (0..3).take(3 - unsent).collect::<Vec<_>>());
        });
    }
}

/// One of two slots is in use, until a receiver is done with it.
#[test]
fn a_batch_send_takes_no_slot_that_is_in_use() {
    explore(3, || {
        let channel = Arc::new(Ch::bounded(2, Shared));
        channel.try_send(Box::new(0)).unwrap();
        let receiver = in_thread(&channel, |ch| ch.try_recv().map(|value| *value));
        let mut values = boxes(1..3);
        let _ = channel.try_send_many(&mut values);
        assert_eq!(receiver.join().unwrap(), Ok(0));
        let mut all = rest(&channel);
        all.extend(values.into_iter().map(|value| *value));
        assert_eq!(all, [1, 2]);
    });
}

#[test]
fn a_batch_receive_lets_a_sender_in_that_goes_to_wait() {
    for capacity in [0, 1] {
        explore(2, move || {
            let channel = Arc::new(Ch::bounded(capacity, Shared));
            let sender = in_thread(&channel, |ch| {
                let waiter = waiter();
                for value in 0..2 {
                    assert_eq!(send(ch, Box::new(value), &waiter), Ok(()));
                }
            });
            let waiter = waiter();
            let mut got = Vec::new();
            while got.len() < 2 {
                if channel.try_recv_many(2, &mut got).is_err() {
                    got.push(recv(&channel, &waiter).unwrap());
                }
            }
            sender.join().unwrap();
            assert_eq!(got, [Box::new(0), Box::new(1)]);
        });
    }
}

#[test]
fn what_a_batch_sent_before_a_close_is_received_after_it() {
    explore(3, || {
        let channel = Arc::new(Ch::bounded(2, Shared));
        let sender = in_thread(&channel, |ch| {
            let mut values = boxes(0..2);
            let sent = ch.try_send_many(&mut values);
            (sent, values.len())
        });
        let closer = in_thread(&channel, Ch::close);
        let mut got = Vec::new();
        let received = channel.try_recv_many(2, &mut got);
        assert_eq!(received.is_err(), got.is_empty());
        let (sent, unsent) = sender.join().unwrap();
        closer.join().unwrap();
        assert_eq!(
            sent,
            if unsent == 0 {
                Ok(())
            } else {
                Err(TrySendError::Closed(()))
            }
        );
        let mut all: Vec<_> = got.into_iter().map(|value| *value).collect();
        all.extend(rest(&channel));
        assert_eq!(all, (0..2).take(2 - unsent).collect::<Vec<_>>());
        assert_eq!(channel.try_recv(), Err(TryRecvError::Closed));
    });
}

#[test]
fn two_batch_receives_share_what_is_there() {
    explore(3, || {
        let channel = Arc::new(Ch::bounded(2, Shared));
        channel.try_send_many(&mut boxes(0..2)).unwrap();
        let take = |ch: &Ch| {
            let mut got = Vec::new();
            let _ = ch.try_recv_many(2, &mut got);
            got
        };
        let other = in_thread(&channel, take);
        let mut all = take(&channel);
        all.extend(other.join().unwrap());
        all.sort_unstable();
        assert_eq!(all, [Box::new(0), Box::new(1)]);
    });
}

/// Gets the turn and a token, or waits in line; then sends.
fn send_in_turn(turnstile: &Turnstile<Shared>, now: Instant, sends: impl FnOnce()) {
    let waiter = waiter();
    let mut ticket = Ticket::default();
    loop {
        match turnstile.step(&mut ticket, &waiter, now) {
            Step::Send => break,
            Step::Closed => return turnstile.leave(ticket, false, now),
            Step::Sleep(epoch, _) => {
                let outcome = sleep_until_over(&waiter, epoch);
                turnstile.woken(&mut ticket, outcome, now);
            }
        }
    }
    sends();
    turnstile.leave(ticket, true, now);
}

#[test]
fn one_holds_the_turn_and_everybody_gets_it() {
    explore(3, || {
        let now = Instant::now();
        let rate = Rate {
            per_second: 1.0,
            burst: 2,
        };
        let turnstile = Arc::new(Turnstile::new(rate, now, Shared));
        let inside = Arc::new(AtomicUsize::new(0));
        let go = {
            let (turnstile, inside) = (Arc::clone(&turnstile), Arc::clone(&inside));
            move || {
                send_in_turn(&turnstile, now, || {
                    assert_eq!(
                        inside.fetch_add(1, Ordering::SeqCst),
                        0,
                        "two hold the turn"
                    );
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        };
        let other = thread::spawn(go.clone());
        go();
        other.join().unwrap();
        assert!(turnstile.try_enter(now).is_none(), "both tokens are taken");
        assert!(turnstile.try_enter(now + Duration::from_secs(1)).is_some());
    });
}

/// Somebody in line gives up while the turn is passed to it: it has the turn then, and passes it on.
#[test]
fn a_turn_that_reaches_someone_who_gives_up_is_not_lost() {
    explore(3, || {
        let now = Instant::now();
        let rate = Rate {
            per_second: 1.0,
            burst: 9,
        };
        let turnstile = Arc::new(Turnstile::new(rate, now, Shared));
        let first = turnstile.try_enter(now).unwrap();
        let hasty = {
            let turnstile = Arc::clone(&turnstile);
            thread::spawn(move || {
                let waiter = waiter();
                let mut ticket = Ticket::default();
                if let Step::Sleep(epoch, _) = turnstile.step(&mut ticket, &waiter, now) {
                    let outcome = if waiter.disarm(epoch, Outcome::Interrupted) {
                        Outcome::Interrupted
                    } else {
                        sleep_until_over(&waiter, epoch)
                    };
                    turnstile.woken(&mut ticket, outcome, now);
                }
                turnstile.leave(ticket, false, now);
            })
        };
        turnstile.leave(first, true, now);
        send_in_turn(&turnstile, now, || {});
        hasty.join().unwrap();
        assert!(turnstile.try_enter(now).is_some(), "the turn is free");
    });
}

/// What was told, and how many are telling.
#[derive(Default)]
struct Told {
    crossings: Mutex<Vec<Pressure>>,
    telling: AtomicUsize,
}

/// Looks and tells, and checks that nobody else is telling at the same time.
fn look(gauge: &Gauge<Shared>, channel: &Ch, told: &Told) {
    if gauge.look(|| channel.len()) {
        while let Some(crossing) = gauge.next() {
            let telling = told.telling.fetch_add(1, Ordering::SeqCst);
            assert_eq!(telling, 0, "two tell at once");
            thread::yield_now();
            told.crossings.lock().unwrap().push(crossing);
            told.telling.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn crossings_alternate_and_the_last_one_is_right() {
    explore(3, || {
        let channel = Arc::new(Ch::bounded(1, Shared));
        let gauge = Arc::new(Gauge::new(1, 0, Shared));
        let told = Arc::new(Told::default());
        let receiver = {
            let (gauge, told) = (Arc::clone(&gauge), Arc::clone(&told));
            in_thread(&channel, move |channel| {
                let taken = channel.try_recv().is_ok();
                look(&gauge, channel, &told);
                taken
            })
        };
        channel.try_send(Box::new(1)).unwrap();
        look(&gauge, &channel, &told);
        let taken = receiver.join().unwrap();
        let told = told.crossings.lock().unwrap();
        for (index, crossing) in told.iter().enumerate() {
            let expected = if index % 2 == 0 {
                Pressure::High
            } else {
                Pressure::Low
            };
            assert_eq!(*crossing, expected);
        }
        let is_high = told.len() % 2 == 1;
        assert_eq!(is_high, !taken, "{told:?}");
    });
}

#[test]
fn a_closed_channel_wakes_who_stands_in_line() {
    explore(3, || {
        let now = Instant::now();
        let rate = Rate {
            per_second: 1.0,
            burst: 1,
        };
        let channel = Arc::new(Ch::bounded(1, Shared).with_rate(rate, now, Shared));
        let turnstile = channel.turnstile().unwrap();
        turnstile.leave(turnstile.try_enter(now).unwrap(), true, now);
        let sender = in_thread(&channel, move |channel| {
            send_in_turn(channel.turnstile().unwrap(), now, || {
                panic!("there is no token")
            });
        });
        channel.close();
        sender.join().unwrap();
        assert_eq!(recv(&channel, &waiter()), Err(RecvError::Closed));
    });
}
