//! Small numbers for threads: each that is alive has the lowest one that was free.
//!
//! So few threads have different shelves, also where threads come and go. In a forked child the numbers of threads that
//! are not there stay taken.

use std::{
    cell::Cell,
    // Not from `sync`: numbers outlive every model run, and nothing is ordered by them.
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// How many numbers there are, from 0 on.
pub const COUNT: usize = 128;

static TAKEN: [AtomicU64; COUNT / 64] = [const { AtomicU64::new(0) }; COUNT / 64];
/// How many threads got a number that is another's, too.
static SHARED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number plus one, or 0 before the thread has one. It has no destructor, so asking is one load.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    static HELD: Held = const { Held(Cell::new(None)) };
}

/// Gives a number back when its thread ends.
struct Held(Cell<Option<usize>>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(number) = self.0.get() {
            // Ordering: Relaxed, numbers order nothing: threads that have the same one share a shelf, correctly.
            TAKEN[number / 64].fetch_and(!(1 << (number % 64)), Ordering::Relaxed);
        }
    }
}

/// This thread's number.
#[inline]
pub fn current() -> usize {
    let known = CURRENT.get();
    if known != 0 {
        return known - 1;
    }
    assign()
}

#[cold]
fn assign() -> usize {
    let held = HELD.try_with(|held| {
        let number = claim();
        held.0.set(number);
        number
    });
    // Without one of its own (there are more threads than numbers, or this one is ending) it shares one, by turns.
    let number = held.ok().flatten().unwrap_or_else(|| {
        SHARED.fetch_add(1, Ordering::Relaxed) % COUNT // Ordering: Relaxed, as below.
    });
    CURRENT.set(number + 1);
    number
}

fn claim() -> Option<usize> {
    for (index, word) in TAKEN.iter().enumerate() {
        let mut taken = word.load(Ordering::Relaxed); // Ordering: Relaxed here and below, as above.
        while taken != u64::MAX {
            let bit = taken.trailing_ones() as usize;
            match word.compare_exchange_weak(
                taken,
                taken | 1 << bit,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(index * 64 + bit),
                Err(now) => taken = now,
            }
        }
    }
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::Barrier, thread};

    use super::current;

    #[test]
    fn threads_that_live_at_once_have_different_numbers_and_those_after_them_the_same() {
        let mine = current();
        assert_eq!(current(), mine);
        let round = || {
            let together = Barrier::new(4);
            let mut numbers: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            let number = current();
                            together.wait();
                            number
                        })
                    })
                    .collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), 4);
            assert!(!numbers.contains(&mine));
            numbers
        };
        // Numbers are used again: others that run tests beside this one take a few, never hundreds.
        assert!((0..100).all(|_| round().into_iter().all(|number| number < super::COUNT)));
    }
}
