//! Models of what is lock-free in `memory`: the list through which slots come home, and the exports of a buffer.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --test loom_memory --release`.
#![cfg(loom)]

use std::ptr::NonNull;

use loom::{sync::Arc, thread};
use penstock_core::{
    memory::{
        Exports, Release, SizeClass,
        cache::{Chain, Link, REMOTE_SLOTS, RemoteList, Slot},
        span::Span,
    },
    sync::{Guarded, Shared},
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

/// A buffer: its memory, which must not be used once it is back, and its object, which must not be used once it is gone.
struct Buffer {
    exports: Exports<Shared>,
    memory: loom::cell::UnsafeCell<u32>,
    object: loom::cell::UnsafeCell<bool>,
    returns: loom::sync::atomic::AtomicUsize,
}

// SAFETY: loom's cells find every use that is not ordered.
unsafe impl Sync for Buffer {}
// SAFETY: as above.
unsafe impl Send for Buffer {}

impl Buffer {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            exports: Exports::default(),
            memory: loom::cell::UnsafeCell::new(0),
            object: loom::cell::UnsafeCell::new(true),
            returns: loom::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// Gives the memory back: nobody may use it any more.
    fn give_back(&self) {
        // SAFETY: loom looks for others.
        self.memory.with_mut(|memory| unsafe { *memory += 1000 });
        // Ordering: Relaxed, a count that is read when the threads have ended.
        self.returns
            .fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
    }

    /// A use of the object, by one thread at a time or by several that only look.
    fn look(&self) {
        // SAFETY: loom looks for others.
        assert!(self.object.with(|object| unsafe { *object }));
    }

    /// Uses the memory if it may, as a view does.
    fn view(&self) {
        if self.exports.begin().is_ok() {
            // SAFETY: loom looks for others.
            self.memory.with(|memory| assert_eq!(unsafe { *memory }, 0));
            if self.exports.end() {
                self.give_back();
            }
        }
    }

    fn returns(&self) -> usize {
        // Ordering: Relaxed, the threads have ended.
        self.returns.load(loom::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn memory_goes_back_once_and_after_its_last_export() {
    loom::model(|| {
        let buffer = Buffer::new();
        let viewers: Vec<_> = (0..2)
            .map(|_| {
                let buffer = Arc::clone(&buffer);
                thread::spawn(move || buffer.view())
            })
            .collect();
        if buffer.exports.release_at_last() == Release::Now {
            buffer.give_back();
        }
        for viewer in viewers {
            viewer.join().unwrap();
        }
        assert_eq!(buffer.returns(), 1);
    });
}

#[test]
fn two_releases_and_an_export_give_memory_back_once() {
    loom::model(|| {
        let buffer = Buffer::new();
        let viewer = {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || buffer.view())
        };
        let releaser = {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || {
                let release = buffer.exports.release_now();
                if release == Release::Now {
                    buffer.give_back();
                }
                release
            })
        };
        let release = buffer.exports.release_now();
        if release == Release::Now {
            buffer.give_back();
        }
        viewer.join().unwrap();
        let other = releaser.join().unwrap();
        let refused = [release, other].map(|release| matches!(release, Release::Exported(_)));
        assert_eq!(buffer.returns(), usize::from(refused != [true, true]));
    });
}

/// What `BufferScope` does, with one buffer: its end looks at the buffers that it lists under its lock; a buffer whose
/// last reference goes leaves the list before its object is gone.
#[test]
fn a_scope_that_ends_touches_no_buffer_that_is_gone() {
    loom::model(|| {
        let buffer = Buffer::new();
        let scope = Arc::new(Guarded::<_, Shared>::new(Some(Arc::clone(&buffer))));
        let ender = {
            let scope = Arc::clone(&scope);
            thread::spawn(move || {
                let released = scope.with(|listed| {
                    let buffer = listed.take()?;
                    buffer.look();
                    (buffer.exports.release_at_last() == Release::Now).then_some(buffer)
                });
                // The parts that it goes on with are its own by now; here they are the object's, but for the flag.
                if let Some(buffer) = released {
                    buffer.give_back();
                }
            })
        };
        if buffer.exports.release_now() == Release::Now {
            buffer.give_back();
        }
        scope.with(|listed| drop(listed.take()));
        // SAFETY: loom looks for others.
        buffer.object.with_mut(|object| unsafe { *object = false });
        ender.join().unwrap();
        assert_eq!(buffer.returns(), 1);
    });
}
