//! Pools as their users see them: what goes out comes back, limits hold, waiters are served in order.

use std::{
    ptr::NonNull,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{books::Size, *};
use crate::{
    sync::{Exclusive, Shared},
    wait::{Entry, Outcome, Waiter, WaiterClass, WaiterRef},
};

/// More than a cache holds.
const MANY: usize = if cfg!(miri) { 200 } else { 1000 };

/// A waiter that counts its wakes and never sleeps.
#[repr(C)]
struct Sleeper {
    waiter: Waiter,
    references: AtomicUsize,
    wakes: AtomicUsize,
}

static CLASS: WaiterClass = WaiterClass {
    retain: |waiter| {
        // SAFETY: the waiter is the first field of a `Sleeper`.
        let sleeper = unsafe { waiter.cast::<Sleeper>().as_ref() };
        sleeper.references.fetch_add(1, Ordering::Relaxed);
    },
    release,
    wake: |waiter| {
        // SAFETY: as above.
        let sleeper = unsafe { waiter.cast::<Sleeper>().as_ref() };
        sleeper.wakes.fetch_add(1, Ordering::Relaxed);
        release(waiter);
    },
};

fn release(waiter: NonNull<Waiter>) {
    let sleeper = waiter.cast::<Sleeper>();
    // SAFETY: the waiter is the first field of a live `Sleeper`.
    if unsafe { sleeper.as_ref() }
        .references
        .fetch_sub(1, Ordering::AcqRel)
        == 1
    {
        // SAFETY: from a `Box`, and this was the last reference.
        drop(unsafe { Box::from_raw(sleeper.as_ptr()) });
    }
}

fn sleeper() -> WaiterRef {
    let sleeper = Box::leak(Box::new(Sleeper {
        waiter: Waiter::new(&CLASS),
        references: AtomicUsize::new(0),
        wakes: AtomicUsize::new(0),
    }));
    // SAFETY: embedded as the class expects, and alive.
    unsafe { WaiterRef::retain(NonNull::from(sleeper).cast()) }
}

fn unlimited() -> Pool<Shared> {
    Pool::new(Shared, PoolOptions::default())
}

fn limited(max_bytes: usize) -> Pool<Shared> {
    let max_bytes = Some(max_bytes);
    Pool::new(
        Shared,
        PoolOptions {
            max_bytes,
            ..PoolOptions::default()
        },
    )
}

fn give_back<M: PoolMode>(pool: &Pool<M>, block: Block) {
    // SAFETY: the tests give back each block once, to its pool, and use none after that.
    unsafe { pool.release(block) };
}

fn waits<M: PoolMode>(pool: &Pool<M>, nbytes: usize) -> Arc<Entry<Stake>> {
    match pool.begin_acquire(nbytes, None, &sleeper()) {
        Begun::Waiting(entry) => entry,
        other => panic!("{other:?}"),
    }
}

fn finish<M: PoolMode>(pool: &Pool<M>, entry: &Arc<Entry<Stake>>) -> Result<Block, AcquireError> {
    pool.finish_acquire(entry, outcome(entry).expect("the wait has ended"))
}

fn outcome(entry: &Entry<Stake>) -> Option<Outcome> {
    entry.waiter.outcome(entry.epoch)
}

fn check<M: PoolMode>(pool: &Pool<M>, in_use: usize, cached: usize) {
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.cached), (in_use, cached), "{stats:?}");
    assert_eq!(stats.in_use + stats.cached, stats.reserved);
}

fn round_trip<M: PoolMode>(pool: &Pool<M>) {
    for nbytes in [0, 1, 64, 65, 1024, 5000, 65_536, 65_537, 1 << 20] {
        let before = pool.stats();
        let bytes = SizeClass::of(nbytes).unwrap().bytes();
        let block = pool.try_acquire(nbytes).unwrap();
        assert_eq!(block.len(), nbytes);
        assert_eq!(block.address().addr().get() % 64, 0);
        // SAFETY: the block is ours.
        unsafe { block.address().write_bytes(0xEE, nbytes) };
        assert_eq!(pool.stats().in_use, before.in_use + bytes);
        let address = block.address();
        give_back(pool, block);
        assert_eq!(pool.stats().in_use, before.in_use);
        let again = pool.try_acquire(nbytes).unwrap();
        assert_eq!(
            again.address(),
            address,
            "what is cached is handed out first"
        );
        give_back(pool, again);
    }
}

#[test]
fn what_goes_out_comes_back_and_out_again() {
    round_trip(&unlimited());
    round_trip(&limited(1 << 20));
    // SAFETY: this thread is the only one that ever sees the pool.
    round_trip(&Pool::new(
        unsafe { Exclusive::promise() },
        PoolOptions::default(),
    ));
}

#[test]
fn a_direct_mapping_is_gone_once_released() {
    let pool = unlimited();
    let block = pool.try_acquire((1 << 20) + 1).unwrap();
    check(&pool, (1 << 20) + mapping::page_bytes(), 0);
    give_back(&pool, block);
    check(&pool, 0, 0);
    assert!(matches!(
        pool.try_acquire(usize::MAX),
        Err(TryAcquireError::Failed(_))
    ));
}

#[test]
fn more_than_a_cache_holds_goes_to_the_central_lists_and_back() {
    let pool = unlimited();
    let blocks: Vec<_> = (0..MANY).map(|_| pool.try_acquire(1000).unwrap()).collect();
    check(&pool, MANY * 1024, 0);
    for block in blocks {
        give_back(&pool, block);
    }
    check(&pool, 0, MANY * 1024);
    let blocks: Vec<_> = (0..MANY).map(|_| pool.try_acquire(1000).unwrap()).collect();
    check(&pool, MANY * 1024, 0);
    for block in blocks {
        give_back(&pool, block);
    }
}

#[test]
fn memory_released_elsewhere_comes_home() {
    let pool = unlimited();
    let mine: Vec<_> = (0..MANY / 2)
        .map(|_| pool.try_acquire(64).unwrap())
        .collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for block in mine {
                give_back(&pool, block);
            }
        });
    });
    check(&pool, 0, MANY / 2 * 64);
    let again: Vec<_> = (0..MANY / 2)
        .map(|_| pool.try_acquire(64).unwrap())
        .collect();
    check(&pool, MANY / 2 * 64, 0);
    for block in again {
        give_back(&pool, block);
    }
}

#[test]
fn the_cache_of_a_thread_that_ends_is_not_lost() {
    let pool = unlimited();
    let (out, blocks) = mpsc::channel();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            for _ in 0..3 {
                out.send(pool.try_acquire(4096).unwrap()).unwrap();
            }
            give_back(&pool, pool.try_acquire(512).unwrap());
        });
        // Joined by name: a scope alone does not wait for what a thread does after its closure.
        thread.join().unwrap();
    });
    check(&pool, 3 * 4096, 512);
    for _ in 0..3 {
        // Their home has no owner any more.
        give_back(&pool, blocks.recv().unwrap());
    }
    check(&pool, 0, 3 * 4096 + 512);
    let block = pool.try_acquire(512).unwrap();
    check(&pool, 512, 3 * 4096);
    give_back(&pool, block);
}

#[test]
fn a_pool_may_end_before_its_threads() {
    let (pool, block) = {
        let pool = unlimited();
        let block = pool.try_acquire(100).unwrap();
        (pool, block)
    };
    give_back(&pool, block);
    drop(pool);
    let other = unlimited();
    give_back(&other, other.try_acquire(100).unwrap());
    check(&other, 0, 128);
}

#[test]
fn no_memory_is_handed_out_twice_under_threads() {
    const THREADS: usize = 4;
    let pool = unlimited();
    let exchange = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for mark in 1..=THREADS {
            let (pool, exchange) = (&pool, &exchange);
            scope.spawn(move || {
                for round in 0..if cfg!(miri) { 40 } else { 2000_usize } {
                    let nbytes = (round * 7919 + mark * 104_729) % 5000 + 8;
                    let block = pool.try_acquire(nbytes).unwrap();
                    let value = u8::try_from(round % 251).unwrap();
                    // SAFETY: the block is ours alone, which is what is tested.
                    unsafe { block.address().write_bytes(value, nbytes) };
                    exchange.lock().unwrap().push((value, block));
                    let mut stock = exchange.lock().unwrap();
                    if stock.len() > 16 {
                        let (value, block) = stock.remove(round % 16);
                        drop(stock);
                        // SAFETY: taken off the stock, so ours.
                        let bytes = unsafe {
                            std::slice::from_raw_parts(block.address().as_ptr(), block.len())
                        };
                        assert!(bytes.iter().all(|&byte| byte == value));
                        give_back(pool, block);
                    }
                }
            });
        }
    });
    for (_, block) in exchange.into_inner().unwrap() {
        give_back(&pool, block);
    }
    assert_eq!(pool.stats().in_use, 0);
}

#[test]
fn a_limit_holds_and_what_is_released_goes_to_who_waits() {
    let pool = limited(4096);
    assert!(matches!(
        pool.try_acquire(4097),
        Err(TryAcquireError::TooLarge)
    ));
    let first = pool.try_acquire(2048).unwrap();
    let second = pool.try_acquire(2048).unwrap();
    assert!(matches!(pool.try_acquire(1), Err(TryAcquireError::Full)));
    let entry = waits(&pool, 2048);
    let address = first.address();
    assert_eq!(outcome(&entry), None);
    give_back(&pool, first);
    assert_eq!(outcome(&entry), Some(Outcome::Handed));
    let third = finish(&pool, &entry).unwrap();
    assert_eq!(third.address(), address);
    check(&pool, 4096, 0);
    give_back(&pool, second);
    give_back(&pool, third);
    check(&pool, 0, 4096);
}

#[test]
fn a_small_request_does_not_overtake_a_large_one() {
    let pool = limited(4096);
    let blocks: Vec<_> = (0..4).map(|_| pool.try_acquire(1024).unwrap()).collect();
    let large = waits(&pool, 2048);
    let small = waits(&pool, 64);
    let mut blocks = blocks.into_iter();
    give_back(&pool, blocks.next().unwrap());
    assert_eq!((outcome(&large), outcome(&small)), (None, None));
    assert!(matches!(pool.try_acquire(64), Err(TryAcquireError::Full)));
    give_back(&pool, blocks.next().unwrap());
    assert_eq!(
        (outcome(&large), outcome(&small)),
        (Some(Outcome::Handed), None)
    );
    give_back(&pool, blocks.next().unwrap());
    assert_eq!(outcome(&small), Some(Outcome::Handed));
    for entry in [large, small] {
        give_back(&pool, finish(&pool, &entry).unwrap());
    }
    for block in blocks {
        give_back(&pool, block);
    }
    assert_eq!(pool.stats().in_use, 0);
}

#[test]
fn one_release_serves_all_who_fit() {
    let pool = limited(4096);
    let block = pool.try_acquire(4096).unwrap();
    let entries: Vec<_> = (0..4).map(|_| waits(&pool, 1024)).collect();
    let last = waits(&pool, 1024);
    give_back(&pool, block);
    assert!(
        entries
            .iter()
            .all(|entry| outcome(entry) == Some(Outcome::Handed))
    );
    assert_eq!(outcome(&last), None);
    for entry in entries {
        give_back(&pool, finish(&pool, &entry).unwrap());
    }
    give_back(&pool, finish(&pool, &last).unwrap());
}

#[test]
fn one_that_gives_up_lets_the_next_one_through() {
    let pool = limited(4096);
    let block = pool.try_acquire(2048).unwrap();
    let large = waits(&pool, 4096);
    let small = waits(&pool, 1024);
    let claim = large.waiter.claim(large.epoch).unwrap();
    claim.complete(Outcome::TimedOut);
    assert_eq!(outcome(&small), None);
    assert!(matches!(finish(&pool, &large), Err(AcquireError::Timeout)));
    assert_eq!(outcome(&small), Some(Outcome::Handed));
    give_back(&pool, finish(&pool, &small).unwrap());
    give_back(&pool, block);
    check(&pool, 0, 3072);
}

#[test]
fn what_is_cached_in_another_class_is_no_reason_to_wait() {
    const LIMIT: usize = if cfg!(miri) { 16 << 10 } else { 1 << 20 };
    let pool = limited(LIMIT);
    for nbytes in [64, 1024, 5000, LIMIT / 11, LIMIT, 64, LIMIT] {
        let blocks: Vec<_> = std::iter::from_fn(|| pool.try_acquire(nbytes).ok()).collect();
        let bytes = SizeClass::of(nbytes).unwrap().bytes();
        assert_eq!(blocks.len(), LIMIT / bytes, "{nbytes}");
        assert!(pool.stats().reserved <= LIMIT);
        for block in blocks {
            give_back(&pool, block);
        }
    }
}

#[test]
fn a_limit_above_the_largest_class_counts_mappings_too() {
    let pool = limited(4 << 20);
    let block = pool.try_acquire(3 << 20).unwrap();
    let entry = waits(&pool, 2 << 20);
    give_back(&pool, block);
    give_back(&pool, finish(&pool, &entry).unwrap());
    check(&pool, 0, 0);
    assert_eq!(pool.stats().reserved_peak, 3 << 20);
}

#[test]
fn a_pool_that_zeroes_hands_out_zeroes() {
    let pool = Pool::new(
        Shared,
        PoolOptions {
            zero: true,
            ..PoolOptions::default()
        },
    );
    for nbytes in [100, 65_536, 2 << 20] {
        for _ in 0..2 {
            let block = pool.try_acquire(nbytes).unwrap();
            // SAFETY: the block is ours.
            unsafe {
                let bytes = std::slice::from_raw_parts(block.address().as_ptr(), nbytes);
                assert!(bytes.iter().all(|&byte| byte == 0));
                block.address().write_bytes(0xFF, nbytes);
            }
            give_back(&pool, block);
        }
    }
}

#[test]
fn pages_of_a_class_nobody_uses_serve_another() {
    let pool = unlimited();
    // Above what caches hold, so that the spans are free at once.
    let blocks: Vec<_> = (0..4).map(|_| pool.try_acquire(1 << 20).unwrap()).collect();
    for block in blocks {
        give_back(&pool, block);
    }
    check(&pool, 0, 4 << 20);
    let block = pool.try_acquire(500_000).unwrap();
    check(&pool, 512 << 10, 0);
    give_back(&pool, block);
}

/// A pool on the nodes 3 and 8, neither of which the machine has; callers are on `node`.
fn on_nodes<M: PoolMode>(mode: M, max_bytes: Option<usize>, node: fn() -> Option<u32>) -> Pool<M> {
    let made_up = |id| crate::topology::Node {
        distances: [(3, 10), (8, 10)].into(),
        ..crate::topology::Node::new(id)
    };
    let topology = crate::topology::Topology::new(vec![made_up(3), made_up(8)]).unwrap();
    let options = PoolOptions {
        max_bytes,
        ..PoolOptions::default()
    };
    Pool::on(mode, options, Nodes::of(&topology, &topology, node))
}

fn in_use_and_cached<M: PoolMode>(pool: &Pool<M>) -> [(usize, usize); 2] {
    let report = pool.report();
    let of = |figure: fn(&NodeStats) -> usize| report.nodes.iter().map(figure).sum::<usize>();
    assert_eq!(of(|node| node.in_use), report.stats.in_use);
    assert_eq!(of(|node| node.cached), report.stats.cached);
    assert_eq!(of(|node| node.reserved), report.stats.reserved);
    assert_eq!(
        report.nodes.iter().map(|node| node.id).collect::<Vec<_>>(),
        [3, 8]
    );
    [0, 1].map(|index| (report.nodes[index].in_use, report.nodes[index].cached))
}

fn keeps_nodes_apart<M: PoolMode>(pool: &Pool<M>) {
    for nbytes in [64, 5000, 65_536, 300_000, (1 << 20) + 1] {
        let bytes = Size::of(nbytes).unwrap().bytes();
        let here = pool.try_acquire(nbytes).unwrap();
        let there = pool.try_acquire_on(nbytes, Some(0)).unwrap();
        let also_here = pool.try_acquire_on(nbytes, Some(1)).unwrap();
        assert_eq!(in_use_and_cached(pool), [(bytes, 0), (2 * bytes, 0)]);
        let cached = if nbytes > 1 << 20 { 0 } else { bytes };
        for block in [here, there, also_here] {
            give_back(pool, block);
        }
        assert_eq!(in_use_and_cached(pool), [(0, cached), (0, 2 * cached)]);
        let map = pool.map();
        assert!(map.arenas.iter().all(|arena| [3, 8].contains(&arena.node)));
        pool.trim();
        assert_eq!(in_use_and_cached(pool), [(0, 0), (0, 0)]);
    }
}

#[test]
fn each_node_has_books_of_its_own_and_memory_comes_home_to_it() {
    for limit in [None, Some(8 << 20)] {
        keeps_nodes_apart(&on_nodes(Shared, limit, || Some(8)));
        // SAFETY: this thread is the only one that ever sees the pool.
        let exclusive = unsafe { Exclusive::promise() };
        keeps_nodes_apart(&on_nodes(exclusive, limit, || Some(8)));
    }
}

#[test]
fn what_is_released_on_another_node_goes_home() {
    thread_local! {
        static HERE: std::cell::Cell<u32> = const { std::cell::Cell::new(3) };
    }
    let pool = on_nodes(Shared, None, || Some(HERE.get()));
    for nbytes in [64, 65_536, 300_000] {
        let bytes = SizeClass::of(nbytes).unwrap().bytes();
        let blocks: Vec<_> = (0..3).map(|_| pool.try_acquire(nbytes).unwrap()).collect();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                HERE.set(8);
                let own = pool.try_acquire(nbytes).unwrap();
                for block in blocks {
                    give_back(&pool, block);
                }
                assert_eq!(in_use_and_cached(&pool), [(0, 3 * bytes), (bytes, 0)]);
                give_back(&pool, own);
            });
            thread.join().unwrap();
        });
        assert_eq!(in_use_and_cached(&pool), [(0, 3 * bytes), (0, bytes)]);
        pool.trim();
    }
}

#[test]
fn a_thread_that_moves_takes_memory_where_it_is() {
    thread_local! {
        static HERE: std::cell::Cell<u32> = const { std::cell::Cell::new(3) };
    }
    fn moves<M: PoolMode>(pool: &Pool<M>) {
        HERE.set(3);
        let (old, kept) = (
            pool.try_acquire(100).unwrap(),
            pool.try_acquire(100).unwrap(),
        );
        give_back(pool, old);
        HERE.set(8);
        let new = pool.try_acquire(100).unwrap();
        assert_eq!(in_use_and_cached(pool), [(128, 128), (128, 0)]);
        give_back(pool, kept);
        give_back(pool, new);
        assert_eq!(in_use_and_cached(pool), [(0, 256), (0, 128)]);
        HERE.set(3);
        let back = pool.try_acquire(100).unwrap();
        assert_eq!(in_use_and_cached(pool), [(128, 128), (0, 128)]);
        give_back(pool, back);
    }
    moves(&on_nodes(Shared, None, || Some(HERE.get())));
    // SAFETY: this thread is the only one that ever sees the pool.
    let exclusive = unsafe { Exclusive::promise() };
    moves(&on_nodes(exclusive, None, || Some(HERE.get())));
}

#[test]
fn a_limit_spans_the_nodes_and_what_is_cached_on_one_is_no_reason_to_wait_on_the_other() {
    let pool = on_nodes(Shared, Some(4096), || Some(3));
    let block = pool.try_acquire_on(4096, Some(1)).unwrap();
    assert!(matches!(pool.try_acquire(64), Err(TryAcquireError::Full)));
    let entry = waits(&pool, 4096);
    give_back(&pool, block);
    let block = finish(&pool, &entry).unwrap();
    assert_eq!(in_use_and_cached(&pool), [(4096, 0), (0, 0)]);
    give_back(&pool, block);
    give_back(&pool, pool.try_acquire_on(4096, Some(1)).unwrap());
    assert_eq!(in_use_and_cached(&pool), [(0, 0), (0, 4096)]);
}

#[test]
fn huge_pages_are_asked_for_or_said_to_be_denied() {
    let pool = Pool::new(
        Shared,
        PoolOptions {
            huge_pages: true,
            ..PoolOptions::default()
        },
    );
    let blocks = [64, 3 << 20].map(|nbytes| pool.try_acquire(nbytes).unwrap());
    let map = pool.map();
    assert_eq!(map.arenas[0].huge, !pool.report().denied.huge);
    assert_eq!(map.arenas[0].base % mapping::HUGE_BYTES, 0);
    assert_eq!(map.direct[0].base % mapping::HUGE_BYTES, 0);
    for block in blocks {
        give_back(&pool, block);
    }
}
