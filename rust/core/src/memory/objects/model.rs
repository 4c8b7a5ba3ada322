//! Every interleaving of two threads at two shelves.

use std::sync::{
    Arc,
    // Not loom's: what a model checks with, and no part of it.
    atomic::{AtomicUsize, Ordering},
};

use loom::thread;

use super::{Identity, Objects, Returned};
use crate::sync::Shared;

struct Thing(usize);

impl Identity for Thing {
    fn identity(&self) -> usize {
        self.0
    }
}

fn objects(max_idle: usize) -> Arc<Objects<Thing, Shared>> {
    Arc::new(Objects::with_shelves(2, max_idle))
}

/// Takes one or makes number `here`, and gives it back on the other shelf's thread, so to speak. Says whether it was kept.
fn use_one(objects: &Objects<Thing, Shared>, here: usize, users: &AtomicUsize) -> bool {
    let thing = objects.take_at(here).unwrap_or_else(|| {
        let thing = Thing(here);
        objects.made_at(here, &thing, true);
        thing
    });
    let bit = 1 << thing.0;
    assert_eq!(users.fetch_or(bit, Ordering::Relaxed) & bit, 0, "two users");
    users.fetch_and(!bit, Ordering::Relaxed);
    match objects.give_back_at(1 - here, thing) {
        Returned::Kept => true,
        Returned::Full(_) => false,
        Returned::NotOut(_) => panic!("it was out"),
    }
}

#[test]
fn two_that_use_one_each_never_have_the_same_and_keep_the_bound() {
    loom::model(|| {
        let (objects, users) = (objects(1), Arc::new(AtomicUsize::new(0)));
        let other = {
            let (objects, users) = (Arc::clone(&objects), Arc::clone(&users));
            thread::spawn(move || use_one(&objects, 1, &users))
        };
        let kept = [use_one(&objects, 0, &users), other.join().unwrap()];
        let stats = objects.stats();
        assert_eq!((stats.in_use, stats.idle), (0, 1));
        assert!(kept.contains(&true));
    });
}

#[test]
fn of_two_that_give_back_the_same_one_is_refused() {
    loom::model(|| {
        let objects = objects(2);
        objects.made_at(0, &Thing(7), true);
        let other = {
            let objects = Arc::clone(&objects);
            thread::spawn(move || matches!(objects.give_back_at(1, Thing(7)), Returned::Kept))
        };
        let kept = matches!(objects.give_back_at(0, Thing(7)), Returned::Kept);
        assert!(kept ^ other.join().unwrap(), "kept once");
        assert_eq!(objects.drain().len(), 1);
    });
}

#[test]
fn two_that_fill_their_shelves_share_the_room_to_the_last_place() {
    loom::model(|| {
        let objects = objects(2);
        let fill = |objects: &Objects<Thing, Shared>, here: usize| {
            let number = 10 + here;
            objects.made_at(here, &Thing(number), true);
            matches!(objects.give_back_at(here, Thing(number)), Returned::Kept)
        };
        let other = {
            let objects = Arc::clone(&objects);
            thread::spawn(move || fill(&objects, 1))
        };
        assert!(fill(&objects, 0));
        assert!(other.join().unwrap(), "there is room for two");
        assert_eq!(objects.stats().idle, 2);
    });
}

#[test]
fn what_is_aged_while_it_is_taken_is_let_go_or_taken_never_both() {
    loom::model(|| {
        let objects = objects(2);
        objects.made_at(0, &Thing(7), true);
        assert!(matches!(objects.give_back_at(0, Thing(7)), Returned::Kept));
        assert!(objects.age().is_empty());
        let other = {
            let objects = Arc::clone(&objects);
            thread::spawn(move || objects.age().len())
        };
        let taken = objects.take_at(1).is_some();
        let gone = other.join().unwrap();
        assert_eq!(usize::from(taken) + gone, 1);
    });
}
