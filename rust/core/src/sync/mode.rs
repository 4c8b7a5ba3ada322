//! One algorithm, two builds: see [`Mode`].

use std::cell::Cell;

#[cfg(not(loom))]
use super::{AtomicBool, spin_hint};
use super::{AtomicU64, Ordering};

/// How a structure's words and its tiny lock are made.
///
/// A value of the type is the proof that its rule is kept, so a structure takes one to be built.
pub trait Mode: Copy + Send + Sync + 'static {
    type Word: Word;
    type Lock: RawLock;
    /// Whether others may be at a structure during a use of it.
    const SHARED: bool;
}

/// Any number of threads at once: atomics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared;

impl Mode for Shared {
    type Word = AtomicU64;
    type Lock = SpinLock;
    const SHARED: bool = true;
}

/// One caller at a time, by a lock that the callers hold already: plain cells, no lock.
#[derive(Clone, Copy, Debug)]
pub struct Exclusive(());

impl Exclusive {
    /// # Safety
    /// Every use of every structure built with the result, its drop included, happens while the
    /// caller holds one and the same lock (CPython's GIL), which is not let go of during the use.
    pub const unsafe fn promise() -> Self {
        Self(())
    }
}

impl Mode for Exclusive {
    type Word = PlainWord;
    type Lock = NoLock;
    const SHARED: bool = false;
}

/// A 64-bit word with the operations of an atomic one. The orderings are for [`Shared`]; under
/// [`Exclusive`] the callers' own lock orders everything.
pub trait Word: Send + Sync {
    fn new(value: u64) -> Self;
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn swap(&self, value: u64, order: Ordering) -> u64;
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64;
    fn fetch_add(&self, by: u64, order: Ordering) -> u64;
    /// May fail spuriously: always called in a loop.
    fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        AtomicU64::new(value)
    }
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }
    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
    #[inline]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }
    #[inline]
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.fetch_or(bits, order)
    }
    #[inline]
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.fetch_and(bits, order)
    }
    #[inline]
    fn fetch_add(&self, by: u64, order: Ordering) -> u64 {
        self.fetch_add(by, order)
    }
    #[inline]
    fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.compare_exchange_weak(current, new, success, failure)
    }
}

/// The word of [`Exclusive`].
#[derive(Debug)]
pub struct PlainWord(Cell<u64>);

// SAFETY: an `Exclusive` exists only by the promise that all uses happen under one lock, which
// orders them and makes them visible; so no two threads are ever in here at once.
unsafe impl Sync for PlainWord {}

impl PlainWord {
    #[inline]
    fn update(&self, change: impl FnOnce(u64) -> u64) -> u64 {
        let old = self.0.get();
        self.0.set(change(old));
        old
    }
}

impl Word for PlainWord {
    fn new(value: u64) -> Self {
        Self(Cell::new(value))
    }
    #[inline]
    fn load(&self, _: Ordering) -> u64 {
        self.0.get()
    }
    #[inline]
    fn store(&self, value: u64, _: Ordering) {
        self.0.set(value);
    }
    #[inline]
    fn swap(&self, value: u64, _: Ordering) -> u64 {
        self.0.replace(value)
    }
    #[inline]
    fn fetch_or(&self, bits: u64, _: Ordering) -> u64 {
        self.update(|old| old | bits)
    }
    #[inline]
    fn fetch_and(&self, bits: u64, _: Ordering) -> u64 {
        self.update(|old| old & bits)
    }
    #[inline]
    fn fetch_add(&self, by: u64, _: Ordering) -> u64 {
        self.update(|old| old.wrapping_add(by))
    }
    #[inline]
    fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        _: Ordering,
        _: Ordering,
    ) -> Result<u64, u64> {
        let old = self.0.get();
        if old == current {
            self.0.set(new);
            Ok(old)
        } else {
            Err(old)
        }
    }
}

/// A lock with no data of its own, held for a few instructions.
pub trait RawLock: Default + Send + Sync {
    fn lock(&self);
    /// Called by the holder only.
    fn unlock(&self);
}

/// The lock of [`Exclusive`]: the callers hold theirs already.
#[derive(Debug, Default)]
pub struct NoLock;

impl RawLock for NoLock {
    #[inline]
    fn lock(&self) {}
    #[inline]
    fn unlock(&self) {}
}

/// The lock of [`Shared`]: spins a little, then lets the holder's thread run. Its holders never
/// block, allocate at most one small node and never run foreign code, so the wait is short.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct SpinLock(AtomicBool);

#[cfg(not(loom))]
impl Default for SpinLock {
    fn default() -> Self {
        Self(AtomicBool::new(false))
    }
}

#[cfg(not(loom))]
const SPINS_BEFORE_YIELD: u32 = 64;

#[cfg(not(loom))]
impl RawLock for SpinLock {
    #[inline]
    fn lock(&self) {
        let mut spins = 0;
        // Ordering: Acquire pairs with the Release in `unlock`.
        while self.0.swap(true, Ordering::Acquire) {
            // Ordering: Relaxed, a hint; the swap decides.
            while self.0.load(Ordering::Relaxed) {
                spins += 1;
                if spins < SPINS_BEFORE_YIELD {
                    spin_hint();
                } else {
                    std::thread::yield_now();
                }
            }
        }
    }
    #[inline]
    fn unlock(&self) {
        // Ordering: Release publishes what the holder wrote to the next Acquire in `lock`.
        self.0.store(false, Ordering::Release);
    }
}

/// Under loom a lock that blocks: a spinning one multiplies the interleavings of whatever uses it,
/// past what a model can explore, and says nothing about its user.
#[cfg(loom)]
#[derive(Default)]
pub struct SpinLock {
    mutex: loom::sync::Mutex<()>,
    /// The holder's; it outlives no borrow of `mutex`, for nobody moves or drops a lock that is held.
    guard: Cell<Option<loom::sync::MutexGuard<'static, ()>>>,
}

// SAFETY: `guard` is touched by the holder of `mutex` only, on the thread that locked it.
#[cfg(loom)]
unsafe impl Send for SpinLock {}
// SAFETY: as above.
#[cfg(loom)]
unsafe impl Sync for SpinLock {}

#[cfg(loom)]
impl RawLock for SpinLock {
    fn lock(&self) {
        let guard = self.mutex.lock().expect("loom's mutex has no poison");
        // SAFETY: only the lifetime changes; see `guard`.
        let guard = unsafe {
            std::mem::transmute::<loom::sync::MutexGuard<'_, ()>, loom::sync::MutexGuard<'static, ()>>(
                guard,
            )
        };
        self.guard.set(Some(guard));
    }
    fn unlock(&self) {
        drop(self.guard.take());
    }
}
