//! What a select guarantees, a test each, and a stress of all of it at once.
#![cfg(not(loom))]

mod channel_thread;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use channel_thread::{select, select_until, waiter};
use penstock_core::{
    channel::{
        BeginRecv, BeginSend, Channel, Overflow, Rate, TryRecvError, TrySendError,
        select::{BeginSelect, Case, Choice, EndSelect, Select, Selected, Served, try_select},
    },
    sync::{Exclusive, Mode, Shared},
    wait::{Outcome, WaiterRef},
};

fn exclusive() -> Exclusive {
    // SAFETY: each test that uses it keeps its channels on its own thread.
    unsafe { Exclusive::promise() }
}

fn sent<T>(index: usize) -> Selected<T> {
    Selected {
        index,
        served: Served::Sent,
    }
}

fn received<T>(index: usize, value: T) -> Selected<T> {
    Selected {
        index,
        served: Served::Received(value),
    }
}

fn closed<T>(index: usize) -> Selected<T> {
    Selected {
        index,
        served: Served::Closed,
    }
}

/// A select that waits, for tests of one thread.
fn waiting<M: Mode>(cases: &mut [Case<'_, u32, M>], waiter: &WaiterRef) -> Select<u32> {
    let mut select = Select::new(cases);
    // SAFETY: the tests finish each wait while the channels are there.
    match unsafe { select.begin(cases, Choice::Random, waiter) } {
        BeginSelect::Waiting(..) => select,
        BeginSelect::Done(selected) => panic!("did not wait: {selected:?}"),
    }
}

fn finish<M: Mode>(mut select: Select<u32>, cases: &mut [Case<'_, u32, M>]) -> EndSelect<u32> {
    // SAFETY: the tests finish each wait once it is over.
    unsafe { select.finish(cases) }
}

fn value_of<M: Mode>(case: &Case<'_, u32, M>) -> Option<u32> {
    match case {
        Case::Send(_, value) => *value,
        Case::Recv(_) => None,
    }
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
    fn a_send_that_throws_values_away_is_always_ready(mode) {
        for (overflow, left) in [(Overflow::DropNewest, 1), (Overflow::DropOldest, 3)] {
            let channel = Channel::bounded(1, mode).with_overflow(overflow);
            channel.try_send(1).unwrap();
            let mut cases = [Case::Send(&channel, Some(2))];
            assert_eq!(try_select(&mut cases[..], Choice::Random), Some(sent(0)));
            let mut cases = [Case::Send(&channel, Some(3))];
            let mut select = Select::new(&cases[..]);
            // SAFETY: it does not wait.
            let begun = unsafe { select.begin(&mut cases[..], Choice::Random, &waiter()) };
            assert!(matches!(begun, BeginSelect::Done(selected) if selected == sent(0)));
            assert_eq!(channel.try_recv(), Ok(left));
            assert_eq!(channel.stats().dropped, 2);
        }
    }

    fn a_send_that_would_fail_for_want_of_room_is_not_ready_and_waits(mode) {
        let channel = Channel::bounded(1, mode).with_overflow(Overflow::Error);
        channel.try_send(1).unwrap();
        let mut cases = [Case::Send(&channel, Some(2))];
        assert_eq!(try_select(&mut cases[..], Choice::Random), None);
        let select = waiting(&mut cases, &waiter());
        assert_eq!(channel.offer(3), Err(TrySendError::Full(3)));
        assert_eq!(channel.try_recv(), Ok(1));
        assert_eq!(finish(select, &mut cases), EndSelect::Done(sent(0)));
        assert_eq!(channel.try_recv(), Ok(2));
        assert_eq!(channel.stats().send_waits, 1);
    }

    fn a_send_that_has_its_turn_and_token_and_no_room_is_not_ready_and_leaves_both(mode) {
        let now = Instant::now();
        let rate = Rate { per_second: 1e-9, burst: 1 };
        let channel = Channel::bounded(0, mode).with_rate(rate, now, mode);
        let mut cases = [Case::Send(&channel, Some(1)), Case::Send(&channel, Some(2))];
        assert_eq!(try_select(&mut cases[..], Choice::Random), None);
        let turnstile = channel.turnstile().unwrap();
        let ticket = turnstile.try_enter(now).expect("the turn is free, and the token there");
        assert_eq!(try_select(&mut cases[..], Choice::Random), None);
        turnstile.leave(ticket, true, now);
        assert_eq!(try_select(&mut cases[..], Choice::Random), None);
    }

    fn one_ready_case_takes_effect(mode) {
        for choice in [Choice::Random, Choice::First] {
            let [a, b] = [1, 1].map(|capacity| Channel::bounded(capacity, mode));
            b.try_send(1).unwrap();
            let mut cases = [Case::Send(&b, Some(2)), Case::Recv(&a), Case::Recv(&b)];
            assert_eq!(try_select(&mut cases[..], choice), Some(received(2, 1)));
            assert_eq!(value_of(&cases[0]), Some(2), "its value is there again");
            let mut cases = [Case::Recv(&a), Case::Send(&b, Some(2))];
            assert_eq!(try_select(&mut cases[..], choice), Some(sent(1)));
            assert_eq!(value_of(&cases[1]), None);
            let mut cases = [Case::Send(&b, Some(3)), Case::Recv(&a)];
            assert_eq!(try_select(&mut cases[..], choice), None);
            assert_eq!((a.len(), b.len()), (0, 1));
        }
    }

    fn the_first_ready_case_comes_first_if_asked_for(mode) {
        let channels: Vec<_> = (0..20).map(|_| Channel::bounded(1, mode)).collect();
        for channel in &channels[7..] {
            channel.try_send(1).unwrap();
        }
        let mut cases: Vec<_> = channels.iter().map(Case::Recv).collect();
        for expected in 7..20 {
            assert_eq!(try_select(&mut cases[..], Choice::First), Some(received(expected, 1)));
        }
        assert_eq!(try_select(&mut cases[..], Choice::First), None);
    }

    fn the_choice_among_ready_cases_is_uniform(mode) {
        for (cases, ready) in [(4, 4), (4, 2), (8, 3), (9, 9), (50, 5)] {
            let channels: Vec<_> = (0..cases).map(|_| Channel::bounded(1, mode)).collect();
            let mut counts = vec![0; cases];
            for channel in &channels[..ready] {
                channel.try_send(0).unwrap();
            }
            for _ in 0..1000 * ready {
                let mut cases: Vec<_> = channels.iter().map(Case::Recv).collect();
                let selected = try_select(&mut cases[..], Choice::Random).unwrap();
                counts[selected.index] += 1;
                channels[selected.index].try_send(0).unwrap();
            }
            // Each is binomial, with mean 1000 and a standard deviation of at most 32.
            assert!(counts[..ready].iter().all(|count| (750..1250).contains(count)), "{counts:?}");
            assert!(counts[ready..].iter().all(|count| *count == 0), "{counts:?}");
        }
    }

    fn a_closed_channel_is_ready(mode) {
        let [a, b] = [0, 1].map(|capacity| Channel::bounded(capacity, mode));
        b.try_send(1).unwrap();
        b.close();
        let mut cases = [Case::Recv(&a), Case::Recv(&b)];
        assert_eq!(try_select(&mut cases[..], Choice::Random), Some(received(1, 1)));
        assert_eq!(try_select(&mut cases[..], Choice::Random), Some(closed(1)));
        let mut cases = [Case::Send(&b, Some(5)), Case::Recv(&a)];
        assert_eq!(try_select(&mut cases[..], Choice::Random), Some(closed(0)));
        assert_eq!(value_of(&cases[0]), Some(5), "its value is there again");
    }

    fn any_case_of_a_waiting_select_is_served(mode) {
        for capacity in [0, 1] {
            for served in 0..4 {
                let channels = [(); 4].map(|()| Channel::bounded(capacity, mode));
                let [a, b, c, d] = &channels;
                for channel in [c, d] {
                    for _ in 0..capacity {
                        channel.try_send(0).unwrap();
                    }
                }
                let mut cases =
                    [Case::Recv(a), Case::Recv(b), Case::Send(c, Some(2)), Case::Send(d, Some(3))];
                let me = waiter();
                let select = waiting(&mut cases, &me);
                if served < 2 {
                    assert_eq!(channels[served].try_send(7), Ok(()));
                    assert_eq!(finish(select, &mut cases), EndSelect::Done(received(served, 7)));
                } else {
                    let value = u32::try_from(served).unwrap();
                    for _ in 0..capacity {
                        assert_eq!(channels[served].try_recv(), Ok(0));
                    }
                    let taken = (capacity == 0).then(|| channels[served].try_recv());
                    assert_eq!(finish(select, &mut cases), EndSelect::Done(sent(served)));
                    assert_eq!(taken.unwrap_or_else(|| channels[served].try_recv()), Ok(value));
                }
                // Nobody waits at the others any more.
                for (index, channel) in channels.iter().enumerate().filter(|(at, _)| *at != served) {
                    if index < 2 {
                        assert_eq!(channel.try_send(1).is_ok(), capacity == 1);
                    } else {
                        assert_eq!(channel.try_recv().is_ok(), capacity == 1);
                        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
                        assert_eq!(value_of(&cases[index]), Some(u32::try_from(index).unwrap()));
                    }
                }
            }
        }
    }

    fn a_close_ends_the_wait_and_the_next_try_says_which(mode) {
        for capacity in [0, 1] {
            let [a, b] = [(); 2].map(|()| Channel::bounded(capacity, mode));
            let mut cases = [Case::Recv(&a), Case::Recv(&b)];
            let me = waiter();
            let mut select = waiting(&mut cases, &me);
            b.close();
            // SAFETY: closed, so it is over; and the channels are there.
            unsafe {
                assert_eq!(select.finish(&mut cases[..]), EndSelect::Again);
                let again = select.begin(&mut cases[..], Choice::Random, &me);
                assert!(matches!(again, BeginSelect::Done(selected) if selected == closed(1)));
            }
            assert_eq!(a.try_send(1).is_ok(), capacity == 1, "nobody waits there");
        }
    }

    fn a_wait_that_is_taken_back_leaves_nothing(mode) {
        for capacity in [0, 1] {
            let [a, b] = [(); 2].map(|()| Channel::bounded(capacity, mode));
            for _ in 0..capacity {
                b.try_send(0).unwrap();
            }
            let mut cases = [Case::Recv(&a), Case::Send(&b, Some(5)), Case::Recv(&a)];
            let me = waiter();
            let select = waiting(&mut cases, &me);
            assert!(me.disarm(me.armed().unwrap(), Outcome::Interrupted));
            assert_eq!(finish(select, &mut cases), EndSelect::Over);
            assert_eq!(value_of(&cases[1]), Some(5));
            assert_eq!(a.try_send(1).is_ok(), capacity == 1);
            assert_eq!(b.try_recv().is_ok(), capacity == 1);
            assert_eq!(b.try_recv(), Err(TryRecvError::Empty));
        }
    }

    fn a_select_does_not_meet_itself(mode) {
        let channel = Channel::bounded(0, mode);
        let mut cases = [Case::Send(&channel, Some(1)), Case::Recv(&channel), Case::Send(&channel, Some(2))];
        assert_eq!(try_select(&mut cases[..], Choice::Random), None);
        let [one, other] = [waiter(), waiter()];
        let select = waiting(&mut cases, &one);
        assert_eq!(channel.try_send(7), Ok(()));
        assert_eq!(finish(select, &mut cases), EndSelect::Done(received(1, 7)));

        let select = waiting(&mut cases, &one);
        assert_eq!(channel.try_recv(), Ok(1), "the first that was linked");
        assert_eq!(finish(select, &mut cases), EndSelect::Done(sent(0)));

        // Two of the kind meet each other.
        let mut mine = [Case::Send(&channel, Some(1)), Case::Recv(&channel)];
        let mut theirs = [Case::Recv(&channel), Case::Send(&channel, Some(2))];
        let select = waiting(&mut mine, &one);
        let met = channel_thread::select(&mut theirs, Choice::First, &other);
        assert_eq!(met, Ok(received(0, 1)));
        assert_eq!(finish(select, &mut mine), EndSelect::Done(sent(0)));
    }

    fn selects_and_plain_operations_stand_in_one_line(mode) {
        let [a, b] = [0, 0].map(|capacity| Channel::bounded(capacity, mode));
        let [one, two, three] = [waiter(), waiter(), waiter()];
        let BeginRecv::Waiting(first) = a.begin_recv(&one) else { panic!() };
        let mut cases = [Case::Recv(&b), Case::Recv(&a)];
        let second = waiting(&mut cases, &two);
        let BeginRecv::Waiting(third) = a.begin_recv(&three) else { panic!() };
        for value in 1..=3 {
            assert_eq!(a.try_send(value), Ok(()));
        }
        // SAFETY: handed over.
        unsafe {
            assert_eq!(a.finish_recv(&first), Ok(1));
            assert_eq!(finish(second, &mut cases), EndSelect::Done(received(1, 2)));
            assert_eq!(a.finish_recv(&third), Ok(3));
        }
    }

    fn a_slot_that_is_freed_belongs_to_the_select_that_waits_for_it(mode) {
        let [a, b] = [1, 1].map(|capacity| Channel::bounded(capacity, mode));
        a.try_send(0).unwrap();
        let me = waiter();
        let mut cases = [Case::Recv(&b), Case::Send(&a, Some(1))];
        let select = waiting(&mut cases, &me);
        assert_eq!(a.try_recv(), Ok(0));
        assert_eq!(a.try_send(2), Err(TrySendError::Full(2)));
        assert_eq!(finish(select, &mut cases), EndSelect::Done(sent(1)));
        assert_eq!(a.try_recv(), Ok(1));
    }

    fn a_thousand_cases_are_served_alike(mode) {
        const COUNT: usize = 1000;
        let channels: Vec<_> = (0..COUNT).map(|_| Channel::bounded(0, mode)).collect();
        let mut cases: Vec<_> = channels.iter().map(Case::Recv).collect();
        let me = waiter();
        for served in [0, 1, 500, COUNT - 1] {
            let select = waiting(&mut cases, &me);
            assert_eq!(channels[served].try_send(7), Ok(()));
            assert_eq!(finish(select, &mut cases), EndSelect::Done(received(served, 7)));
            assert!(channels.iter().all(|channel| channel.try_send(0).is_err()));
        }
    }
}

/// A generator of its own for each thread of a test: Marsaglia's xorshift.
struct Dice(u32);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % limit
    }
}

const SELECTORS: u32 = 4;
const ROUNDS: u32 = if cfg!(miri) { 20 } else { 20_000 };

/// All send on and receive from the same channels, by selects with random cases of which some time out and by plain
/// operations; what was sent and what was received is the same.
fn everything_at_once(capacities: [usize; 3]) {
    let channels = capacities.map(|capacity| Channel::bounded(capacity, Shared));
    let next = AtomicUsize::new(0);
    let running = AtomicUsize::new(SELECTORS as usize);
    let tallies: Vec<[Vec<usize>; 2]> = thread::scope(|scope| {
        let selector = |seed: u32| {
            let (channels, next, running) = (&channels, &next, &running);
            scope.spawn(move || {
                let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9) | 1);
                let (mut sent, mut received) = (Vec::new(), Vec::new());
                let me = waiter();
                for _ in 0..ROUNDS {
                    let value = next.fetch_add(1, Ordering::Relaxed);
                    let mut cases: Vec<_> = (0..=dice.below(5))
                        .map(|_| {
                            let channel = &channels[dice.below(3) as usize];
                            if dice.below(2) == 0 {
                                Case::Recv(channel)
                            } else {
                                Case::Send(channel, Some(value))
                            }
                        })
                        .collect();
                    let selected = match dice.below(4) {
                        0 => try_select(&mut cases[..], Choice::Random),
                        1 => select_until(&mut cases, Choice::Random, &me, |epoch| {
                            if let Some(claim) = me.claim(epoch) {
                                claim.complete(Outcome::TimedOut);
                            }
                        })
                        .ok(),
                        // Others end these waits, as long as they run.
                        _ => select_until(&mut cases, Choice::Random, &me, |epoch| {
                            for _ in 0..dice.below(200) {
                                std::hint::spin_loop();
                            }
                            me.disarm(epoch, Outcome::Interrupted);
                        })
                        .ok(),
                    };
                    match selected.map(|selected| selected.served) {
                        Some(Served::Sent) => sent.push(value),
                        Some(Served::Received(value)) => received.push(value),
                        Some(Served::Closed) => panic!("nobody closes"),
                        None => {}
                    }
                }
                running.fetch_sub(1, Ordering::Relaxed);
                [sent, received]
            })
        };
        let selectors: Vec<_> = (1..=SELECTORS).map(selector).collect();
        let plain = scope.spawn(|| {
            let mut dice = Dice(77);
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            while running.load(Ordering::Relaxed) > 0 {
                let channel = &channels[dice.below(3) as usize];
                let value = next.fetch_add(1, Ordering::Relaxed);
                if dice.below(2) == 0 {
                    received.extend(channel.try_recv());
                } else if channel.try_send(value).is_ok() {
                    sent.push(value);
                }
            }
            [sent, received]
        });
        let mut all: Vec<_> = selectors
            .into_iter()
            .map(|one| one.join().unwrap())
            .collect();
        all.push(plain.join().unwrap());
        all
    });
    let mut balance: HashMap<usize, i32> = HashMap::new();
    let left = channels
        .iter()
        .flat_map(|channel| std::iter::from_fn(|| channel.try_recv().ok()));
    for value in left.chain(
        tallies
            .iter()
            .flat_map(|[_, received]| received.iter().copied()),
    ) {
        *balance.entry(value).or_default() -= 1;
    }
    for value in tallies.iter().flat_map(|[sent, _]| sent) {
        *balance.entry(*value).or_default() += 1;
    }
    let wrong: Vec<_> = balance.iter().filter(|(_, count)| **count != 0).collect();
    assert!(wrong.is_empty(), "lost (1) or twice (-1): {wrong:?}");
    assert!(tallies.iter().any(|[sent, _]| !sent.is_empty()));
}

#[test]
fn nothing_is_lost_or_doubled_at_rendezvous() {
    everything_at_once([0, 0, 0]);
}

#[test]
fn nothing_is_lost_or_doubled_in_rings() {
    everything_at_once([1, 2, 3]);
}

#[test]
fn nothing_is_lost_or_doubled_in_a_mixture() {
    everything_at_once([0, 1, 4]);
}

/// Two loops whose selects meet only each other go on for ever, so neither waits for good and they do not chase.
#[test]
fn two_loops_of_selects_that_meet_only_each_other_get_on() {
    let [a, b] = [0, 0].map(|capacity| Channel::bounded(capacity, Shared));
    thread::scope(|scope| {
        let (a, b) = (&a, &b);
        let rounds = ROUNDS;
        let other = scope.spawn(move || {
            let me = waiter();
            (0..rounds)
                .map(|round| {
                    let mut cases = [Case::Send(b, Some(round)), Case::Recv(a)];
                    select(&mut cases, Choice::Random, &me).unwrap().index
                })
                .filter(|index| *index == 1)
                .count()
        });
        let me = waiter();
        let sent = (0..rounds)
            .map(|round| {
                let mut cases = [Case::Send(a, Some(round)), Case::Recv(b)];
                select(&mut cases, Choice::Random, &me).unwrap().index
            })
            .filter(|index| *index == 0)
            .count();
        assert_eq!(sent, other.join().unwrap());
    });
}

/// A close reaches selects that wait on several channels, and gives every value back.
#[test]
fn a_close_reaches_every_select() {
    for _ in 0..ROUNDS / 20 {
        let [a, b] = [0, 1].map(|capacity| Channel::bounded(capacity, Shared));
        b.try_send(0).unwrap();
        thread::scope(|scope| {
            let selectors: Vec<_> = (0..3)
                .map(|value| {
                    let (a, b) = (&a, &b);
                    scope.spawn(move || {
                        let mut cases = [Case::Recv(a), Case::Send(b, Some(value))];
                        let selected = select(&mut cases, Choice::Random, &waiter()).unwrap();
                        (selected, value_of(&cases[1]), value)
                    })
                })
                .collect();
            a.close();
            for selector in selectors {
                let (selected, back, value) = selector.join().unwrap();
                assert_eq!((selected, back), (closed(0), Some(value)));
            }
        });
        assert_eq!(b.try_recv(), Ok(0));
        assert_eq!(b.try_recv(), Err(TryRecvError::Empty));
        let me = waiter();
        assert!(matches!(b.begin_send(1, &me), BeginSend::Done));
    }
}
