//! Models of what is lock-free in `memory`: the list through which slots come home, and the gate of a cache.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --test loom_memory --release`.
#![cfg(loom)]

use std::ptr::NonNull;

use loom::{sync::Arc, thread};
use penstock_core::{
    memory::{
        SizeClass,
        cache::{Cache, Chain, Link, REMOTE_SLOTS, RemoteList, Slot, visit},
        gate::{Gate, heavy_fence},
        span::Span,
    },
    sync::{Shared, UnsafeCell},
};

/// A slot known by a number, which stands for its address.
fn slot(number: usize) -> Slot {
    Slot {
        address: NonNull::without_provenance(number.try_into().unwrap()),
        span: NonNull::<Span>::dangling(),
    }
}

fn link(number: usize) -> NonNull<Link> {
    NonNull::from(Box::leak(Box::new(Link::new(
        SizeClass::at(number % 8),
        slot(number),
    ))))
}

/// A link that is freed by whoever gets its chain: the slot's number is the link's own address.
fn addressed_link() -> NonNull<Link> {
    let memory = NonNull::from(Box::leak(Box::new(Link::new(SizeClass::at(0), slot(1)))));
    let itself = Slot {
        address: memory.cast(),
        span: NonNull::<Span>::dangling(),
    };
    // SAFETY: fresh memory of a `Box`, in no list.
    unsafe { *memory.as_ptr() = Link::new(SizeClass::at(0), itself) };
    memory
}

fn numbers(chain: &Chain) -> Vec<usize> {
    let mut numbers = Vec::new();
    chain.for_each(|class, slot| {
        let number = slot.address.addr().get();
        assert_eq!(class, SizeClass::at(number % 8), "the link came over whole");
        numbers.push(number);
    });
    numbers
}

#[test]
fn every_slot_comes_home_once() {
    loom::model(|| {
        let list = Arc::new(RemoteList::default());
        let senders: Vec<_> = [1, 2]
            .map(|first| {
                let list = Arc::clone(&list);
                thread::spawn(move || {
                    for number in [first, first + 2] {
                        // SAFETY: a fresh link, in no list.
                        unsafe { list.push(link(number)) }.expect("open, and far from full");
                    }
                })
            })
            .into();
        let mut home = numbers(&list.take_all());
        home.extend(numbers(&list.take_all()));
        for sender in senders {
            sender.join().unwrap();
        }
        home.extend(numbers(&list.take_all()));
        home.sort_unstable();
        assert_eq!(home, [1, 2, 3, 4]);
    });
}

#[test]
fn an_owner_that_ends_strands_nothing() {
    loom::model(|| {
        let list = Arc::new(RemoteList::default());
        let senders: Vec<_> = [1, 2]
            .map(|number| {
                let list = Arc::clone(&list);
                thread::spawn(move || {
                    // SAFETY: a fresh link, in no list.
                    match unsafe { list.push(link(number)) } {
                        Ok(()) => Vec::new(),
                        Err(refused) => numbers(&refused),
                    }
                })
            })
            .into();
        let mut found = numbers(&list.close());
        for sender in senders {
            found.extend(sender.join().unwrap());
        }
        found.sort_unstable();
        assert_eq!(found, [1, 2]);
        // The next owner starts with nothing.
        list.reopen();
        assert!(list.take_all().is_empty());
        // SAFETY: a fresh link, in no list.
        unsafe { list.push(link(3)) }.expect("open again");
        assert_eq!(numbers(&list.take_all()), [3]);
    });
}

#[test]
fn a_full_list_comes_back_to_whoever_fills_it() {
    loom::model(|| {
        let list = Arc::new(RemoteList::default());
        for number in 1..REMOTE_SLOTS {
            // SAFETY: a fresh link, in no list.
            unsafe { list.push(link(number)) }.expect("not yet full");
        }
        let senders: Vec<_> = [0, 1]
            .map(|more| {
                let list = Arc::clone(&list);
                thread::spawn(move || {
                    // SAFETY: a fresh link, in no list.
                    match unsafe { list.push(link(REMOTE_SLOTS + more)) } {
                        Ok(()) => Vec::new(),
                        Err(all) => numbers(&all),
                    }
                })
            })
            .into();
        let mut found: Vec<_> = senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap())
            .collect();
        assert_eq!(found.len(), REMOTE_SLOTS + 1);
        found.extend(numbers(&list.take_all()));
        found.sort_unstable();
        assert!(found.into_iter().eq(1..=REMOTE_SLOTS + 1));
    });
}

#[test]
fn a_slot_may_be_sent_home_again_while_another_is_on_its_way() {
    loom::model(|| {
        let list = Arc::new(RemoteList::default());
        let first = addressed_link();
        // SAFETY: a fresh link, in no list.
        unsafe { list.push(first) }.unwrap();
        let sender = {
            let list = Arc::clone(&list);
            thread::spawn(move || {
                // SAFETY: a fresh link, in no list.
                unsafe { list.push(addressed_link()) }.unwrap();
            })
        };
        // Takes what is there, and sends the same address again: what a compare-and-swap may confuse.
        let mut again = Vec::new();
        list.take_all()
            .for_each(|_, slot| again.push(slot.address.cast::<Link>()));
        let taken = again.len();
        for link in again {
            // SAFETY: out of its chain, so in no list.
            unsafe { list.push(link) }.unwrap();
        }
        sender.join().unwrap();
        let mut left = 0;
        list.take_all().for_each(|_, slot| {
            left += 1;
            // SAFETY: from a `Box`, and out of every list.
            drop(unsafe { Box::from_raw(slot.address.cast::<Link>().as_ptr()) });
        });
        assert!(taken >= 1);
        assert_eq!(left, 2);
    });
}

#[test]
fn a_slot_comes_home_once_whoever_takes_it() {
    loom::model(|| {
        let list = Arc::new(RemoteList::default());
        let sender = {
            let list = Arc::clone(&list);
            thread::spawn(move || {
                for number in [1, 2] {
                    // SAFETY: a fresh link, in no list.
                    unsafe { list.push(link(number)) }.expect("open, and far from full");
                }
            })
        };
        // One who fetches what the owner does not need.
        let visitor = {
            let list = Arc::clone(&list);
            thread::spawn(move || numbers(&list.take_all()))
        };
        let mut home = numbers(&list.take_all());
        home.extend(visitor.join().unwrap());
        sender.join().unwrap();
        home.extend(numbers(&list.take_all()));
        home.sort_unstable();
        assert_eq!(home, [1, 2]);
    });
}

#[test]
fn a_list_that_is_closed_stays_closed_whoever_looks() {
    loom::model(|| {
        let list = Arc::new(RemoteList::default());
        // SAFETY: a fresh link, in no list.
        unsafe { list.push(link(1)) }.expect("open");
        let visitor = {
            let list = Arc::clone(&list);
            thread::spawn(move || numbers(&list.take_all()))
        };
        let mut found = numbers(&list.close());
        found.extend(visitor.join().unwrap());
        assert_eq!(found, [1]);
        // SAFETY: a fresh link, in no list.
        let refused = unsafe { list.push(link(2)) }.expect_err("closed");
        assert_eq!(numbers(&refused), [2]);
    });
}

/// What a gate keeps for one at a time. Loom sees two who touch it at once.
struct Kept {
    gate: Gate<Shared>,
    value: UnsafeCell<u32>,
}

// SAFETY: `value` is touched inside the gate alone, which is what the models check.
unsafe impl Sync for Kept {}
// SAFETY: as above.
unsafe impl Send for Kept {}

impl Kept {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::default(),
            value: UnsafeCell::new(0),
        })
    }

    fn use_as_owner(&self) -> u32 {
        if !self.gate.enter() {
            return 0;
        }
        // SAFETY: inside, alone.
        unsafe { *self.value.get() += 1 };
        self.gate.leave();
        1
    }

    fn use_as_visitor(&self) -> u32 {
        if !self.gate.announce() {
            return 0;
        }
        let inside = heavy_fence() && self.gate.is_left();
        if inside {
            // SAFETY: inside, alone.
            unsafe { *self.value.get() += 1 };
        }
        self.gate.go();
        inside.into()
    }
}

#[test]
fn an_owner_and_a_visitor_are_never_inside_together() {
    loom::model(|| {
        let kept = Kept::new();
        let visitor = {
            let kept = Arc::clone(&kept);
            thread::spawn(move || kept.use_as_visitor())
        };
        let used = kept.use_as_owner() + kept.use_as_owner();
        let used = used + visitor.join().unwrap();
        // Nobody keeps the other out for good.
        assert_eq!(kept.use_as_owner() + kept.use_as_visitor(), 2);
        // SAFETY: nobody else is left.
        assert_eq!(unsafe { *kept.value.get() }, used + 2);
    });
}

#[test]
fn of_two_visitors_and_an_owner_one_is_inside() {
    loom::model(|| {
        let kept = Kept::new();
        let visitors: Vec<_> = (0..2)
            .map(|_| {
                let kept = Arc::clone(&kept);
                thread::spawn(move || kept.use_as_visitor())
            })
            .collect();
        let mut used = kept.use_as_owner();
        for visitor in visitors {
            used += visitor.join().unwrap();
        }
        assert_eq!(kept.use_as_owner(), 1);
        // SAFETY: nobody else is left.
        assert_eq!(unsafe { *kept.value.get() }, used + 1);
    });
}

#[test]
fn a_visitor_and_the_owner_find_each_slot_of_a_cache_once() {
    loom::model(|| {
        let cache = Arc::new(Cache::<Shared>::new(0));
        let class = SizeClass::at(0);
        // SAFETY: here and below: this thread is the owner, and the slots are only numbers.
        assert!(unsafe { cache.push(class, slot(1)) });
        assert!(unsafe { cache.push(class, slot(2)) });
        let visitor = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                let mut found = Vec::new();
                visit(&[&*cache], |cache| {
                    // SAFETY: a visitor is alone inside.
                    unsafe { cache.drain_inside(|_, slot| found.push(slot.address.addr().get())) };
                });
                found
            })
        };
        let mut found = Vec::new();
        if let Some(slot) = unsafe { cache.pop(class) } {
            found.push(slot.address.addr().get());
        }
        if !unsafe { cache.push(class, slot(3)) } {
            found.push(3);
        }
        found.extend(visitor.join().unwrap());
        // An owner that ends waits for the visitor to go.
        unsafe {
            cache.alone(|| cache.drain_inside(|_, slot| found.push(slot.address.addr().get())));
        }
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
        assert_eq!(cache.bytes(), 0);
    });
}
