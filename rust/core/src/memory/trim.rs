//! Gives back to the system what nobody needs: all of it when asked, on a clock what was not needed for a while.
//!
//! The clock. In each [`PERIOD`] a class remembers the fewest slots that lay in its central list: so many were there for
//! nothing, and go at its end. At the end of each period what lies in caches is moved to the central lists as well. What
//! is in use then comes back at the price of one visit to the lists; what is not is seen to lie there for the whole
//! next period. So nothing on the fast way counts anything for the clock's sake, and what nobody needed any more
//! is gone after one to two periods. [Warmed](super::warm) memory stays.
//!
//! Who looks at the clock: whoever passes the slow way of a pool, for that pool; and, since a program that has gone
//! idle passes no way at all, whoever drives all pools with [`tend_all`], when [`begin_due`] says so. That is the
//! scheduler's monitor, which is there in any case and has a clock; it touches no pool itself (with the GIL it must
//! not) but has a machine do it. A driver that waits without a deadline when something becomes due is told through
//! [`on_due`]. In a program that never starts a runtime, memory goes back when a pool is next used.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{pool::Pool, seats::PoolMode, stock::Stock};
use crate::sync::{Mode, coarse_now_ns};

/// What nobody needs for so long goes back to the system; it may take twice as long.
pub const PERIOD: Duration = Duration::from_secs(2);
/// When a driver looks again at pools that have nothing to give back now, but something in use.
const LONG_PERIOD: Duration = Duration::from_secs(32);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a few seconds")
}

impl<M: PoolMode> Pool<M> {
    /// Gives everything that is cached back to the system, what was warmed too. Returns the bytes by which
    /// `reserved` shrank.
    ///
    /// What a thread has in its cache is fetched from there, whichever thread it is, unless that thread is taking or
    /// putting back a slot at this very moment, or the system has no way to tell ([`gate`](super::gate)).
    pub fn trim(&self) -> usize {
        for node in 0..self.stock.nodes.count() {
            self.stock.empty_caches(node);
        }
        self.stock.each_desk(|desk| {
            for central in desk.books.centrals_mut() {
                central.keep_nothing();
                central.judge_all();
            }
        });
        self.stock.forget_surplus()
    }
}

/// A pool that is to be looked after.
pub(super) trait Tended: Send + Sync {
    /// Ends the period if it is over.
    fn tend(&self, now_ns: u64) -> Condition;
}

/// What a pool may give back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// Nothing, now or later.
    Empty,
    /// Nothing now: all of it is in use, or warmed.
    InUse,
    /// Something is cached.
    Cached,
}

impl<M: Mode> Stock<M> {
    /// Gives up all surplus, a few slots at a time. Returns its bytes.
    fn forget_surplus(&self) -> usize {
        let mut forgotten = 0;
        for node in 0..self.nodes.count() {
            loop {
                let bytes = self.locked(node, |desk| desk.books.central(node).forget_surplus());
                if bytes == 0 {
                    break;
                }
                forgotten += bytes;
            }
        }
        forgotten
    }

    /// Before the slow way takes something: ends the period if it is over. Returns the time.
    pub(super) fn tend_if_due(&self) -> u64 {
        let now_ns = coarse_now_ns();
        if self.tended.is_due(now_ns) {
            self.tend(now_ns);
        }
        now_ns
    }
}

impl<M: Mode> Tended for Stock<M> {
    fn tend(&self, now_ns: u64) -> Condition {
        if self.tended.begin(now_ns) {
            for node in 0..self.nodes.count() {
                self.empty_caches(node);
            }
            self.each_desk(|desk| {
                desk.books
                    .centrals_mut()
                    .iter_mut()
                    .for_each(super::central::Central::judge);
            });
            self.forget_surplus();
        }
        let mut condition = Condition::Empty;
        self.each_desk(|desk| {
            for central in desk.books.centrals() {
                condition = condition.max(if central.spare() > 0 {
                    Condition::Cached
                } else if central.reserved() > 0 {
                    Condition::InUse
                } else {
                    Condition::Empty
                });
            }
        });
        condition
    }
}

/// When a pool's period began.
#[derive(Debug)]
pub(super) struct Period {
    /// By the coarse clock. Whoever ends a period writes it.
    since_ns: AtomicU64,
}

impl Default for Period {
    fn default() -> Self {
        Self {
            since_ns: AtomicU64::new(coarse_now_ns()),
        }
    }
}

impl Period {
    fn is_due(&self, now_ns: u64) -> bool {
        // Ordering: Relaxed, a time and nothing behind it.
        now_ns.saturating_sub(self.since_ns.load(Ordering::Relaxed)) >= nanos(PERIOD)
    }

    /// Whether the period was over, and the caller is the one to end it.
    fn begin(&self, now_ns: u64) -> bool {
        // Ordering: Relaxed throughout, as in `is_due`; of those who end it at once one wins.
        let since_ns = self.since_ns.load(Ordering::Relaxed);
        self.is_due(now_ns)
            && self
                .since_ns
                .compare_exchange(since_ns, now_ns, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

type Wake = Box<dyn Fn() + Send + Sync>;

/// All pools of the process, and when somebody is to look after them. Not from `sync`: it outlives every model run.
struct Driver {
    pools: Mutex<Vec<Weak<dyn Tended>>>,
    /// By the coarse clock; 0: not until a pool is used.
    due_ns: AtomicU64,
    /// Whom to tell, by number.
    wakes: Mutex<Vec<(u64, Wake)>>,
}

static DRIVER: Driver = Driver {
    pools: Mutex::new(Vec::new()),
    due_ns: AtomicU64::new(0),
    wakes: Mutex::new(Vec::new()),
};

fn locked<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has [`tend_all`] look after this pool.
pub(super) fn register(pool: Weak<dyn Tended>) {
    let mut pools = locked(&DRIVER.pools);
    pools.retain(|pool| pool.strong_count() > 0);
    pools.push(pool);
}

/// After the slow way took something, at `now_ns` or a little later: sees to it that somebody looks after it even if
/// nobody passes here again.
///
/// Whoever looks sets `due_ns` back first, and looks under the pool's lock then. So either what was taken is seen, or the
/// one who took it sees here, having held the lock after that, that nothing is due.
#[inline]
pub(super) fn arm(now_ns: u64) {
    let soon_ns = now_ns + nanos(PERIOD);
    // Ordering: Relaxed, the pool's lock orders it, see above.
    let due_ns = DRIVER.due_ns.load(Ordering::Relaxed);
    if due_ns == 0 || due_ns > soon_ns {
        arm_at(due_ns, soon_ns);
    }
}

#[cold]
fn arm_at(due_ns: u64, soon_ns: u64) {
    // Ordering: SeqCst, a driver says that it waits, then reads this; here it is written, then waiting drivers are told.
    let armed =
        DRIVER
            .due_ns
            .compare_exchange(due_ns, soon_ns, Ordering::SeqCst, Ordering::Relaxed);
    if armed.is_ok() {
        for (_, wake) in &*locked(&DRIVER.wakes) {
            wake();
        }
    }
}

/// How long until [`begin_due`] is to be asked; `None`: not until a pool is used.
pub fn due_in() -> Option<Duration> {
    // Ordering: SeqCst, see `arm_at`.
    match DRIVER.due_ns.load(Ordering::SeqCst) {
        0 => None,
        due_ns => Some(Duration::from_nanos(due_ns.saturating_sub(coarse_now_ns()))),
    }
}

/// Whether it is time, and the caller is the one who has [`tend_all`] called.
#[must_use]
pub fn begin_due() -> bool {
    // Ordering: Relaxed throughout, a time and nothing behind it; of several drivers one wins.
    let due_ns = DRIVER.due_ns.load(Ordering::Relaxed);
    if due_ns == 0 {
        return false;
    }
    let now_ns = coarse_now_ns();
    let later_ns = now_ns + nanos(PERIOD);
    due_ns <= now_ns
        && DRIVER
            .due_ns
            .compare_exchange(due_ns, later_ns, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
}

/// Has `wake` called, on any thread, when something becomes due that was not, or was not so soon: until the result is
/// dropped. It takes no time, and uses no pool.
#[must_use = "dropped, it ends"]
pub fn on_due(wake: impl Fn() + Send + Sync + 'static) -> DueWatch {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Ordering: Relaxed, only that numbers differ.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    locked(&DRIVER.wakes).push((number, Box::new(wake)));
    DueWatch(number)
}

/// See [`on_due`].
#[derive(Debug)]
pub struct DueWatch(u64);

impl Drop for DueWatch {
    fn drop(&mut self) {
        locked(&DRIVER.wakes).retain(|(number, _)| *number != self.0);
    }
}

/// Ends the period of each pool where it is over.
///
/// # Safety
/// The caller may use every pool of the process: it keeps the rule of each pool's mode.
pub unsafe fn tend_all() {
    // Ordering: Relaxed, the locks of the pools order it, see `arm`.
    DRIVER.due_ns.store(0, Ordering::Relaxed);
    let now_ns = coarse_now_ns();
    let pools = locked(&DRIVER.pools).clone();
    let pools = pools.iter().filter_map(Weak::upgrade);
    match pools.map(|pool| pool.tend(now_ns)).max() {
        Some(Condition::Cached) => arm(now_ns),
        // Ordering: Relaxed, as above; who has armed it meanwhile has done so for sooner.
        Some(Condition::InUse) => {
            let _ = DRIVER.due_ns.compare_exchange(
                0,
                now_ns + nanos(LONG_PERIOD),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        Some(Condition::Empty) | None => {}
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::{
        memory::{Block, PoolOptions, SizeClass},
        sync::{Exclusive, Shared},
    };

    fn pool<M: PoolMode>(mode: M) -> Pool<M> {
        Pool::new(mode, PoolOptions::default())
    }

    fn exclusive() -> Pool<Exclusive> {
        // SAFETY: this thread is the only one that sees the pool; nobody drives pools in these tests.
        pool(unsafe { Exclusive::promise() })
    }

    fn take<M: PoolMode>(pool: &Pool<M>, nbytes: usize, count: usize) -> Vec<Block> {
        (0..count)
            .map(|_| pool.try_acquire(nbytes).unwrap())
            .collect()
    }

    fn give_back<M: PoolMode>(pool: &Pool<M>, blocks: Vec<Block>) {
        for block in blocks {
            // SAFETY: each goes back once.
            unsafe { pool.release(block) };
        }
    }

    impl<M: PoolMode> Pool<M> {
        /// Lets a period go by, at the end of which somebody looks.
        pub(in crate::memory) fn end_period(&self) {
            let since_ns = self.stock.tended.since_ns.load(Ordering::Relaxed);
            self.stock.tend(since_ns + nanos(PERIOD));
        }
    }

    fn pass<M: PoolMode>(pool: &Pool<M>, periods: usize) {
        for _ in 0..periods {
            pool.end_period();
        }
    }

    fn trims_all<M: PoolMode>(pool: &Pool<M>) {
        for nbytes in [64, 1000, 5000, 65_536, 1 << 20] {
            let kept = pool.try_acquire(nbytes).unwrap();
            let bytes = SizeClass::of(nbytes).unwrap().bytes();
            let count = if cfg!(miri) { 10 } else { 100 };
            let blocks = take(pool, nbytes, count);
            give_back(pool, blocks);
            assert_eq!(pool.trim(), count * bytes, "{nbytes}");
            let stats = pool.stats();
            assert_eq!((stats.in_use, stats.cached), (bytes, 0));
            give_back(pool, vec![kept]);
            assert_eq!(pool.trim(), bytes);
            assert_eq!(pool.trim(), 0);
        }
        assert!(pool.map().arenas.iter().all(|arena| arena.spans.is_empty()));
    }

    #[test]
    fn trim_gives_back_all_that_is_cached_and_says_how_much() {
        trims_all(&pool(Shared));
        trims_all(&exclusive());
    }

    #[test]
    fn trim_reaches_the_caches_of_threads_that_are_elsewhere() {
        let pool = pool(Shared);
        let (ready, is_ready) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (pool, thread_ready) = (&pool, ready);
            scope.spawn(move || {
                give_back(pool, take(pool, 4096, 10));
                thread_ready.send(()).unwrap();
                let _ = may_go_on.recv();
                // Its cache is its own as before.
                give_back(pool, take(pool, 4096, 10));
                assert_eq!(pool.stats().cached, 10 * 4096);
            });
            is_ready.recv().unwrap();
            if crate::memory::gate::heavy_fence() {
                assert_eq!(pool.trim(), 10 * 4096);
                assert_eq!(pool.stats().reserved, 0);
            }
            go_on.send(()).unwrap();
        });
    }

    #[test]
    fn pools_that_are_in_use_can_be_trimmed_by_others() {
        let pool = pool(Shared);
        thread::scope(|scope| {
            let users: Vec<_> = [64, 1000, 65_536]
                .map(|nbytes| {
                    let pool = &pool;
                    scope.spawn(move || {
                        for round in 0..if cfg!(miri) { 30 } else { 3000 } {
                            let blocks = take(pool, nbytes, round % 40);
                            for (mark, block) in (0..).zip(&blocks) {
                                // SAFETY: the block is ours.
                                unsafe { block.address().write_bytes(mark, nbytes.min(256)) };
                            }
                            for (mark, block) in (0..).zip(&blocks) {
                                // SAFETY: as above.
                                assert_eq!(unsafe { block.address().read() }, mark);
                            }
                            give_back(pool, blocks);
                        }
                    })
                })
                .into();
            while users.iter().any(|user| !user.is_finished()) {
                pool.trim();
                pass(&pool, 1);
                let stats = pool.stats();
                assert_eq!(stats.in_use + stats.cached, stats.reserved);
            }
        });
        assert_eq!(pool.stats().in_use, 0);
        pool.trim();
        assert_eq!(pool.stats().reserved, 0);
    }

    fn forgets_what_is_not_needed<M: PoolMode>(pool: &Pool<M>) {
        let blocks = take(pool, 65_536, 100);
        give_back(pool, blocks);
        pass(pool, 1);
        assert!(pool.stats().reserved > 0, "it was needed in that period");
        // Thirty are needed in each period from now on.
        for _ in 0..3 {
            let blocks = take(pool, 65_536, 30);
            give_back(pool, blocks);
            pass(pool, 1);
        }
        // A cache takes a few at once.
        let reserved = pool.stats().reserved / 65_536;
        assert!((30..40).contains(&reserved), "{reserved}");
        pass(pool, 2);
        assert_eq!(pool.stats().reserved, 0);
    }

    #[test]
    fn what_a_period_did_not_need_goes_back_at_its_end() {
        forgets_what_is_not_needed(&pool(Shared));
        forgets_what_is_not_needed(&exclusive());
    }

    #[test]
    fn a_period_ends_once_and_not_before_its_time() {
        let pool = pool(Shared);
        give_back(&pool, take(&pool, 1 << 20, 3));
        pass(&pool, 1);
        let since_ns = pool.stock.tended.since_ns.load(Ordering::Relaxed);
        for early in 1..10 {
            assert!(pool.stock.tend(since_ns + early) == Condition::Cached);
        }
        assert_eq!(pool.stats().cached, 3 << 20);
        pass(&pool, 1);
        assert_eq!(pool.stats().cached, 0);
        let blocks = take(&pool, 1 << 20, 1);
        assert!(pool.stock.tend(0) == Condition::InUse);
        give_back(&pool, blocks);
        pool.trim();
        assert!(pool.stock.tend(0) == Condition::Empty);
    }

    #[test]
    fn small_slots_go_back_page_by_page() {
        let pool = pool(Shared);
        let mut blocks = take(&pool, 64, 1024);
        // One stays in each second page of 4 KiB.
        let mut kept = Vec::new();
        for page in (0..16).rev().step_by(2) {
            kept.push(blocks.swap_remove(page * 64));
        }
        give_back(&pool, blocks);
        assert_eq!(pool.trim(), (1024 - 8) * 64);
        for block in &kept {
            // SAFETY: the block is ours.
            unsafe { block.address().write_bytes(0x5A, 64) };
        }
        give_back(&pool, kept);
        assert_eq!(pool.trim(), 8 * 64);
    }
}
