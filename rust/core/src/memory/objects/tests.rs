use std::{
    collections::HashSet,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{Identity, ObjectStats, Objects, Returned};
use crate::sync::{Exclusive, Mode, Shared};

/// Its number is its identity.
#[derive(Debug, PartialEq, Eq)]
struct Thing(usize);

impl Identity for Thing {
    fn identity(&self) -> usize {
        self.0
    }
}

fn exclusive() -> Exclusive {
    // SAFETY: each test that uses it does so on its one thread.
    unsafe { Exclusive::promise() }
}

fn with_shelves(shelves: usize, max_idle: usize) -> Objects<Thing, Shared> {
    Objects::with_shelves(shelves, max_idle)
}

fn make<M: Mode>(objects: &Objects<Thing, M>, number: usize) -> Thing {
    let thing = Thing(number);
    objects.made(&thing, true);
    thing
}

fn stats<M: Mode>(objects: &Objects<Thing, M>) -> (usize, usize, usize) {
    let ObjectStats {
        in_use,
        idle,
        created,
    } = objects.stats();
    (in_use, idle, created)
}

fn what_comes_back_is_taken_again<M: Mode>(mode: M) {
    let objects = Objects::new(mode, 10);
    assert_eq!(objects.take(), None);
    let things = [1, 2].map(|number| make(&objects, number));
    assert_eq!(stats(&objects), (2, 0, 2));
    for thing in things {
        assert_eq!(objects.give_back(thing), Returned::Kept);
    }
    assert_eq!(stats(&objects), (0, 2, 2));
    assert_eq!(objects.take(), Some(Thing(2)), "the warmest first");
    assert_eq!(objects.take(), Some(Thing(1)));
    assert_eq!(objects.take(), None);
    assert_eq!(stats(&objects), (2, 0, 2));
}

#[test]
fn what_comes_back_is_taken_again_in_both_modes() {
    what_comes_back_is_taken_again(exclusive());
    what_comes_back_is_taken_again(Shared);
}

#[test]
fn what_is_not_out_is_refused() {
    let objects = Objects::new(exclusive(), 10);
    assert_eq!(objects.give_back(Thing(7)), Returned::NotOut(Thing(7)));
    let thing = make(&objects, 1);
    assert_eq!(objects.give_back(thing), Returned::Kept);
    assert_eq!(objects.give_back(Thing(1)), Returned::NotOut(Thing(1)));
    assert_eq!(objects.begin_return(1), None);
    assert_eq!(stats(&objects), (0, 1, 1));
}

#[test]
fn an_object_that_was_handed_out_twice_comes_back_twice() {
    let objects = Objects::new(exclusive(), 10);
    let first = make(&objects, 1);
    objects.made(&Thing(1), false);
    assert_eq!(objects.give_back(first), Returned::Kept);
    assert_eq!(objects.give_back(Thing(1)), Returned::Kept);
    assert_eq!(objects.give_back(Thing(1)), Returned::NotOut(Thing(1)));
}

#[test]
fn an_identity_that_is_used_anew_is_no_longer_that_of_what_was_dropped() {
    let objects = with_shelves(2, 10);
    objects.made_at(0, &Thing(1), true); // dropped
    objects.made_at(1, &Thing(1), true);
    assert_eq!(stats(&objects), (1, 0, 2));
    assert_eq!(objects.give_back_at(1, Thing(1)), Returned::Kept);
    assert_eq!(
        objects.give_back_at(1, Thing(1)),
        Returned::NotOut(Thing(1)),
        "else two would use it at once"
    );
}

#[test]
fn in_between_the_two_steps_of_a_return_it_is_in_use_and_back() {
    let objects = Objects::new(exclusive(), 10);
    let thing = make(&objects, 1);
    let home = objects.begin_return(1).unwrap();
    assert_eq!(objects.give_back(Thing(1)), Returned::NotOut(Thing(1)));
    assert_eq!(stats(&objects), (1, 0, 1));
    assert_eq!(objects.finish_return(home, thing), Ok(()));
    assert_eq!(stats(&objects), (0, 1, 1));

    let thing = objects.take().unwrap();
    let home = objects.begin_return(thing.0).unwrap();
    objects.discard(home);
    assert_eq!(stats(&objects), (0, 0, 1));
    make(&objects, 2);
    objects.forget(2);
    objects.forget(2);
    assert_eq!(stats(&objects), (0, 0, 2));
}

#[test]
fn what_is_idle_over_two_collections_is_let_go() {
    let objects = with_shelves(2, 10);
    for number in 1..=3 {
        objects.stock(Thing(number), true).unwrap();
    }
    assert!(objects.age().is_empty());
    assert_eq!(stats(&objects), (0, 3, 3), "a victim is idle");
    let used = objects.take().unwrap();
    assert_eq!(objects.give_back(used), Returned::Kept);
    assert_eq!(objects.age().len(), 2, "all but the one that was used");
    assert_eq!(stats(&objects), (0, 1, 3));
    assert_eq!(objects.age().len(), 1);
    assert!(objects.age().is_empty());
}

#[test]
fn an_idle_one_is_taken_before_a_victim_wherever_it_is() {
    let objects = with_shelves(2, 10);
    objects.made_at(0, &Thing(1), true);
    assert_eq!(objects.give_back_at(0, Thing(1)), Returned::Kept);
    assert!(objects.age().is_empty());
    objects.made_at(1, &Thing(2), true);
    assert_eq!(objects.give_back_at(1, Thing(2)), Returned::Kept);
    assert_eq!(objects.take_at(0), Some(Thing(2)));
    assert_eq!(objects.take_at(0), Some(Thing(1)));
}

#[test]
fn what_comes_back_elsewhere_goes_home() {
    let objects = with_shelves(4, 10);
    objects.made_at(1, &Thing(1), true);
    assert_eq!(objects.give_back_at(3, Thing(1)), Returned::Kept);
    assert_eq!(objects.stripes[1].with(|shelf| shelf.held()), 1);
    assert_eq!(objects.take_at(2), Some(Thing(1)), "who starves gets it");
    assert_eq!(objects.give_back_at(1, Thing(1)), Returned::Kept);
    assert_eq!(objects.stripes[2].with(|shelf| shelf.held()), 1);
}

#[test]
fn the_bound_is_exact_however_the_idle_are_spread() {
    for max_idle in [0, 1, 2, 7, 100] {
        let objects = with_shelves(4, max_idle);
        let count = max_idle + 5;
        for number in 0..count {
            objects.made_at(number % 4, &Thing(number), true);
        }
        let kept = (0..count)
            .filter(|&number| objects.give_back_at(number % 3, Thing(number)) == Returned::Kept)
            .count();
        assert_eq!((kept, objects.stats().idle), (max_idle, max_idle));
        // All of it may be on one shelf, and then on another.
        for shelf in [0, 3] {
            let taken: Vec<_> = std::iter::from_fn(|| objects.take_at(shelf)).collect();
            assert_eq!(taken.len(), max_idle);
            for thing in taken {
                assert_eq!(objects.give_back_at(shelf, thing), Returned::Kept);
            }
            assert_eq!(objects.stripes[shelf].with(|shelf| shelf.held()), max_idle);
        }
    }
}

#[test]
fn draining_gives_up_all() {
    let objects = with_shelves(2, 10);
    objects.stock(Thing(1), true).unwrap();
    assert!(objects.age().is_empty());
    objects.stock(Thing(2), true).unwrap();
    let mut seen = 0;
    // SAFETY: nobody else is here.
    unsafe {
        objects
            .visit_in_stopped_world(|_| {
                seen += 1;
                Ok::<_, ()>(())
            })
            .unwrap();
    }
    assert_eq!(seen, 2);
    assert_eq!(objects.drain().len(), 2);
    assert_eq!(objects.stats().idle, 0);
}

#[test]
fn on_many_threads_no_object_has_two_users() {
    const THREADS: usize = 4;
    const ROUNDS: usize = if cfg!(miri) { 50 } else { 20_000 };
    let objects = with_shelves(2, 3); // threads share shelves, and what is over the bound is let go
    let made = AtomicUsize::new(0);
    let users: Vec<AtomicUsize> = (0..THREADS * ROUNDS).map(|_| AtomicUsize::new(0)).collect();
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (objects, made, users, start) = (&objects, &made, &users, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    let here = (number + round) % 2;
                    let thing = objects.take_at(here).unwrap_or_else(|| {
                        let thing = Thing(made.fetch_add(1, Ordering::Relaxed));
                        objects.made_at(here, &thing, true);
                        thing
                    });
                    let identity = thing.0;
                    assert_eq!(users[identity].fetch_add(1, Ordering::Relaxed), 0);
                    users[identity].fetch_sub(1, Ordering::Relaxed);
                    if round % 97 == 0 {
                        drop(objects.age());
                    }
                    match objects.give_back_at(number % 2, thing) {
                        Returned::Kept | Returned::Full(_) => {}
                        Returned::NotOut(thing) => panic!("{thing:?} was out"),
                    }
                    assert!(objects.stats().idle <= 3 + 2, "{:?}", objects.stats());
                }
            });
        }
    });
    let stats = objects.stats();
    assert_eq!(stats.in_use, 0);
    assert!(stats.idle <= 3);
    assert_eq!(stats.created, made.into_inner());
    let left: HashSet<_> = objects.drain().into_iter().map(|thing| thing.0).collect();
    assert_eq!(left.len(), stats.idle);
}
