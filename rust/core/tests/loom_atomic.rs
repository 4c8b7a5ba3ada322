//! Models of the atomics: two or three threads, every order.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_atomic`
#![cfg(loom)]

use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};
use penstock_core::{
    atomic::{Integer, Reference},
    sync::Shared,
};

#[test]
fn no_addition_is_lost_and_each_sees_a_sum_of_its_own() {
    loom::model(|| {
        let number = Arc::new(Integer::new(0, Shared));
        let other = Arc::clone(&number);
        let other = thread::spawn(move || [other.add(1), other.add(2)]);
        let ours = [number.add(10), number.sub(20)];
        let theirs = other.join().unwrap();
        assert_eq!(number.load(), -7);
        let mut sums = [ours, theirs].concat();
        assert!(sums.contains(&-7), "somebody was last: {sums:?}");
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), 4);
    });
}

#[test]
fn the_greatest_of_three_stays_and_one_thread_raised_it() {
    loom::model(|| {
        let number = Arc::new(Integer::new(1, Shared));
        let raise = |to: i64| {
            let number = Arc::clone(&number);
            thread::spawn(move || number.fetch_max(to))
        };
        let (low, high) = (raise(2), raise(3));
        let (low, high) = (low.join().unwrap(), high.join().unwrap());
        assert_eq!(number.load(), 3);
        // In one of the two orders.
        assert!(matches!((low, high), (1, 2) | (3, 1)), "{low} {high}");
    });
}

#[test]
fn one_of_two_exchanges_takes_place() {
    loom::model(|| {
        let number = Arc::new(Integer::new(0, Shared));
        let other = Arc::clone(&number);
        let other = thread::spawn(move || other.compare_exchange(0, 1));
        let ours = number.compare_exchange(0, 2);
        let theirs = other.join().unwrap();
        assert!(ours != theirs);
        assert_eq!(number.load(), if ours { 2 } else { 1 });
    });
}

#[test]
fn of_two_that_store_and_look_at_the_other_one_sees_it() {
    loom::model(|| {
        let numbers = Arc::new([Integer::new(0, Shared), Integer::new(0, Shared)]);
        let theirs = Arc::clone(&numbers);
        let other = thread::spawn(move || {
            theirs[0].store(1);
            theirs[1].load()
        });
        numbers[1].store(1);
        let seen = (numbers[0].load(), other.join().unwrap());
        assert_ne!(seen, (0, 0), "stores have one order, and it is everybody's");
    });
}

/// A value whose references are counted where loom can see it: it fails on a count after the drop, on a drop under
/// the lock and on one that never comes.
struct Counted {
    references: AtomicUsize,
    name: usize,
}

struct Handle(Arc<Counted>);

impl Handle {
    fn new(name: usize) -> (Self, Arc<Counted>) {
        let counted = Arc::new(Counted {
            references: AtomicUsize::new(1),
            name,
        });
        (Self(Arc::clone(&counted)), counted)
    }

    fn copy(&self) -> Self {
        let before = self.0.references.fetch_add(1, Relaxed);
        assert_ne!(before, 0, "counted after it was dropped");
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let before = self.0.references.fetch_sub(1, Relaxed);
        assert_ne!(before, 0, "dropped twice");
    }
}

#[test]
fn a_reader_counts_its_reference_before_the_value_is_replaced_and_dropped() {
    loom::model(|| {
        let (first, first_count) = Handle::new(1);
        let (second, second_count) = Handle::new(2);
        let reference = Arc::new(Reference::new(first, Shared));
        let reader = {
            let reference = Arc::clone(&reference);
            thread::spawn(move || reference.load(Handle::copy).0.name)
        };
        drop(reference.swap(second));
        assert!([1, 2].contains(&reader.join().unwrap()));
        assert_eq!(first_count.references.load(Relaxed), 0);
        assert_eq!(second_count.references.load(Relaxed), 1);
        drop(reference);
        assert_eq!(second_count.references.load(Relaxed), 0);
    });
}

#[test]
fn of_two_that_replace_the_same_value_one_does_and_the_other_keeps_its_own() {
    loom::model(|| {
        let (first, first_count) = Handle::new(0);
        let reference = Arc::new(Reference::new(first, Shared));
        let replace = |name: usize| {
            let (mine, count) = Handle::new(name);
            let reference = Arc::clone(&reference);
            let replaced = move || {
                let result = reference.compare_exchange(|now| now.0.name == 0, mine);
                result.map(|old| old.0.name).map_err(|mine| mine.0.name)
            };
            (thread::spawn(replaced), count)
        };
        let ((one, one_count), (two, two_count)) = (replace(1), replace(2));
        let results = (one.join().unwrap(), two.join().unwrap());
        assert!(
            matches!(results, (Ok(0), Err(2)) | (Err(1), Ok(0))),
            "{results:?}"
        );
        assert_eq!(first_count.references.load(Relaxed), 0);
        let kept = one_count.references.load(Relaxed) + two_count.references.load(Relaxed);
        assert_eq!(kept, 1, "the one in the reference");
        assert_eq!(
            reference.load(Handle::copy).0.name,
            if results.0.is_ok() { 1 } else { 2 }
        );
    });
}
