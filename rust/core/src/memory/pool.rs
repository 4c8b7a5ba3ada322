//! A pool of buffers: the ways in and out.
//!
//! A pool without a limit goes through caches: a request that finds its slot there touches no lock and no
//! atomic read-modify-write. A pool with a limit has none: a freed byte in another thread's cache would be
//! one that a waiter waits for in vain, so all its traffic passes the lock, where the budget is exact.
//! (Under [`Exclusive`] that lock costs nothing.)
//!
//! A slot remembers the cache it came from, its home. Released by the home's owner it goes into the bins,
//! released elsewhere into the home's remote list, and from a full bin or list to the central ones. So
//! memory does not pile up where it happens to be released.
//!
//! Waiting is two calls: [`Pool::begin_acquire`] leaves an entry in the list, the caller sleeps, and
//! [`Pool::finish_acquire`] says what came of it. Memory is handed over while the lock is held, so a
//! waiter that was served has its memory even if it is cancelled a moment later.

use std::{
    cell::{Cell, RefCell},
    io,
    ptr::{self, NonNull},
    sync::{Arc, Weak},
};

use super::{
    arena::Mapping,
    cache::{self, Cache, Chain, Slot},
    central::{Central, Refused, Size, Stake},
    size_class::SizeClass,
};
use crate::{
    sync::{Exclusive, Mode, RawLock, Shared, UnsafeCell},
    wait::{Claim, Entry, Outcome, Place, WaiterRef},
};

/// How a pool is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolOptions {
    /// The most that may be in use, rounded up to a size class as requests are.
    pub max_bytes: Option<usize>,
    /// Whether memory is cleared before it is handed out.
    pub zero: bool,
}

/// Bytes of size classes: `in_use + cached == reserved`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    pub in_use: usize,
    pub cached: usize,
    pub reserved: usize,
    /// The most that `reserved` has been.
    pub reserved_peak: usize,
}

/// Memory from a pool. It has to go back to it: a block that is dropped is lost until the pool ends.
#[derive(Debug)]
#[must_use = "a block that is dropped is lost until the pool ends"]
pub struct Block {
    address: NonNull<u8>,
    len: usize,
    /// Null for a direct mapping.
    span: *mut super::span::Span,
    /// The cache it came from, null if none.
    home: *const (),
}

// SAFETY: a block is memory that its holder alone uses; the pointers are for the pool, which takes
// blocks from any thread that may call it.
unsafe impl Send for Block {}
// SAFETY: `&Block` gives away an address and a length.
unsafe impl Sync for Block {}

impl Block {
    pub(super) fn of_slot(slot: Slot, len: usize) -> Self {
        Self {
            address: slot.address,
            len,
            span: slot.span.as_ptr(),
            home: ptr::null(),
        }
    }

    pub(super) fn of_mapping(mapping: Mapping, len: usize) -> Self {
        Self {
            address: mapping.into_raw(),
            len,
            span: ptr::null_mut(),
            home: ptr::null(),
        }
    }

    /// Where it starts: a multiple of [`ALIGN`](super::ALIGN).
    #[inline]
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// What was asked for.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a size, not a collection")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes of its slot, or `None` if it is a mapping of its own.
    pub fn slot_bytes(&self) -> Option<usize> {
        let class = SizeClass::of(self.len).filter(|_| !self.span.is_null())?;
        Some(class.bytes())
    }

    /// A second handle on the same memory.
    ///
    /// # Safety
    /// Only one of the two goes back to the pool, and neither is used after that.
    #[inline]
    pub unsafe fn alias(&self) -> Self {
        Self { ..*self }
    }
}

/// Why a request cannot be met now.
#[derive(Debug)]
pub enum TryAcquireError {
    /// It would have to wait.
    Full,
    /// It is more than the pool's limit.
    TooLarge,
    Failed(io::Error),
}

/// What became of [`Pool::begin_acquire`].
#[derive(Debug)]
pub enum Begun {
    Done(Block),
    /// It is more than the pool's limit.
    TooLarge,
    Failed(io::Error),
    /// The waiter is armed: wait for its outcome, then call [`Pool::finish_acquire`].
    Waiting(Arc<Entry<Stake>>),
}

/// Why a wait ended without memory.
#[derive(Debug)]
pub enum AcquireError {
    Timeout,
    Interrupted,
    Failed(io::Error),
}

/// How the two modes find the caller's cache.
pub trait PoolMode: Mode {
    /// Whether each thread has a cache, or the pool one for all.
    #[doc(hidden)]
    const CACHE_PER_THREAD: bool;

    /// The cache that the caller owns in this pool, if it has one.
    #[doc(hidden)]
    fn cache(stock: &Arc<Stock<Self>>) -> Option<&Cache<Self>>;
}

impl PoolMode for Exclusive {
    const CACHE_PER_THREAD: bool = false;

    #[inline]
    fn cache(stock: &Arc<Stock<Self>>) -> Option<&Cache<Self>> {
        // SAFETY: only `Shared` ever touches `caches` after `Pool::new`, and the first lives as long as
        // the stock.
        unsafe { (*stock.caches.get()).first().map(|cache| cache.as_ref()) }
    }
}

impl PoolMode for Shared {
    const CACHE_PER_THREAD: bool = true;

    #[inline]
    fn cache(stock: &Arc<Stock<Self>>) -> Option<&Cache<Self>> {
        let cache = SEATS
            // A thread whose seats are gone already does without a cache.
            .try_with(|seats| {
                let (id, cache) = seats.last.get();
                if id == stock.id {
                    cache
                } else {
                    seats.find_or_adopt(stock)
                }
            })
            .ok()?;
        // SAFETY: caches live as long as their stock, and ids are never used again.
        Some(unsafe { &*cache })
    }
}

/// What the threads share. Threads that end look here for their pools, weakly.
#[doc(hidden)]
pub struct Stock<M: Mode> {
    id: u64,
    lock: M::Lock,
    /// Guarded by `lock`.
    central: UnsafeCell<Central>,
    /// All caches of the pool; each from a `Box`, freed with the stock. Guarded by `lock`.
    caches: UnsafeCell<Vec<NonNull<Cache<M>>>>,
    /// Those whose threads have ended, for threads to come. Guarded by `lock`.
    vacant: UnsafeCell<Vec<NonNull<Cache<M>>>>,
}

// SAFETY: `lock` guards the cells, or the callers exclude each other, which `Exclusive` stands for.
unsafe impl<M: Mode> Sync for Stock<M> {}
// SAFETY: nothing in it belongs to a thread; caches are owned by rule, not by where they live.
unsafe impl<M: Mode> Send for Stock<M> {}

/// A pool of buffers, in size classes, in spans.
pub struct Pool<M: PoolMode> {
    pub(super) stock: Arc<Stock<M>>,
    options: PoolOptions,
}

impl<M: PoolMode> Pool<M> {
    /// An empty pool. `_mode` is the proof that the mode's rule is kept.
    ///
    /// # Panics
    /// If `max_bytes` is more than the address space.
    pub fn new(_mode: M, options: PoolOptions) -> Self {
        let limit = options.max_bytes.map_or(usize::MAX, |bytes| {
            Size::of(bytes)
                .expect("a limit in the address space")
                .bytes()
        });
        let caches = if options.max_bytes.is_none() && !M::CACHE_PER_THREAD {
            vec![new_cache()]
        } else {
            Vec::new()
        };
        Self {
            stock: Arc::new(Stock {
                id: next_id(),
                lock: M::Lock::default(),
                central: UnsafeCell::new(Central::new(limit)),
                caches: UnsafeCell::new(caches),
                vacant: UnsafeCell::new(Vec::new()),
            }),
            options,
        }
    }

    pub fn options(&self) -> PoolOptions {
        self.options
    }

    /// Memory of `nbytes`, if it can be had without waiting for somebody else's.
    #[inline]
    pub fn try_acquire(&self, nbytes: usize) -> Result<Block, TryAcquireError> {
        if let Some((cache, class)) = self.cache_for(nbytes) {
            // SAFETY: the cache is the caller's, and `cache_for` asked for the class.
            if let Some(slot) = unsafe { cache.pop(class) } {
                return Ok(self.cleared(from_cache(cache, slot, nbytes)));
            }
        }
        self.try_acquire_slowly(nbytes)
    }

    /// Memory of `nbytes`, or a place in the line of those who wait for it.
    pub fn begin_acquire(&self, nbytes: usize, waiter: &WaiterRef) -> Begun {
        match self.try_acquire(nbytes) {
            Ok(block) => return Begun::Done(block),
            Err(TryAcquireError::TooLarge) => return Begun::TooLarge,
            Err(TryAcquireError::Failed(error)) => return Begun::Failed(error),
            Err(TryAcquireError::Full) => {}
        }
        let waiting = self.stock.locked(|central| {
            match take_in_turn(central, nbytes) {
                Ok(block) => return Ok(block),
                Err(TryAcquireError::Full) => {}
                Err(error) => return Err(Err(error)),
            }
            Err(Ok(
                waiter.link(&mut central.waiters, Some(Stake::Wants(nbytes)))
            ))
        });
        match waiting {
            Ok(block) => Begun::Done(self.cleared(block)),
            Err(Ok(entry)) => Begun::Waiting(entry),
            Err(Err(TryAcquireError::Failed(error))) => Begun::Failed(error),
            Err(Err(_)) => Begun::TooLarge,
        }
    }

    /// What became of a wait that has ended with `outcome`. Called by its owner, before it waits for
    /// anything else.
    pub fn finish_acquire(
        &self,
        entry: &Arc<Entry<Stake>>,
        outcome: Outcome,
    ) -> Result<Block, AcquireError> {
        if outcome == Outcome::Handed {
            // SAFETY: the owner has seen the outcome.
            return match unsafe { entry.take() } {
                Some(Stake::Holds(block)) => Ok(self.cleared(block)),
                Some(Stake::Failed(error)) => Err(AcquireError::Failed(error)),
                Some(Stake::Wants(_)) | None => unreachable!("handed nothing"),
            };
        }
        let mut woken = Vec::new();
        self.stock.locked(|central| {
            central.waiters.remove(entry);
            // It may have been what stood before a request that fits.
            central.serve(&mut woken);
        });
        complete(woken);
        Err(match outcome {
            Outcome::TimedOut => AcquireError::Timeout,
            Outcome::Interrupted => AcquireError::Interrupted,
            Outcome::Handed | Outcome::Closed => unreachable!("a pool is never closed"),
        })
    }

    /// Gives memory back, and to whoever waits for it.
    ///
    /// # Safety
    /// `block` came from this pool, nobody uses its memory any more, and no [alias](Block::alias) of it
    /// has gone back.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the block is given up")]
    pub unsafe fn release(&self, block: Block) {
        if !block.home.is_null()
            && let Some((cache, class)) = self.cache_for(block.len)
            && ptr::eq(block.home, ptr::from_ref(cache).cast())
        {
            // SAFETY: the cache is the caller's, and the slot came from it; the caller gives it up.
            if unsafe { cache.push(class, slot_of(&block)) } {
                return;
            }
        }
        // SAFETY: as promised by the caller.
        unsafe { self.release_slowly(&block) };
    }

    /// Whether a release of `block` by the caller may write to its first [`LINK_BYTES`](cache::LINK_BYTES): on a thread
    /// that is not its home's owner.
    pub fn may_link(&self, block: &Block) -> bool {
        !block.home.is_null()
            && self
                .cache_for(block.len)
                .is_none_or(|(cache, _)| !ptr::eq(block.home, ptr::from_ref(cache).cast()))
    }

    pub fn stats(&self) -> Stats {
        self.stock.read(|central, caches| {
            let in_caches: usize = caches
                .iter()
                // SAFETY: caches live as long as the stock.
                .map(|cache| unsafe { cache.as_ref() }.bytes())
                .sum();
            let reserved = central.reserved();
            // Slots on their way between a thread and its cache may be seen twice, or not at all.
            let cached = (central.cached() + in_caches).min(reserved);
            Stats {
                in_use: reserved - cached,
                cached,
                reserved,
                reserved_peak: central.reserved_peak(),
            }
        })
    }

    /// The caller's cache, where requests of this size go through caches.
    #[inline]
    fn cache_for(&self, nbytes: usize) -> Option<(&Cache<M>, SizeClass)> {
        if self.options.max_bytes.is_some() {
            return None;
        }
        let class = SizeClass::of(nbytes).filter(|&class| cache::is_cached(class))?;
        M::cache(&self.stock).map(|cache| (cache, class))
    }

    #[cold]
    fn try_acquire_slowly(&self, nbytes: usize) -> Result<Block, TryAcquireError> {
        if self.options.max_bytes.is_some_and(|most| nbytes > most) {
            return Err(TryAcquireError::TooLarge);
        }
        let block = match self.cache_for(nbytes) {
            Some((cache, class)) => self.stock.refill(cache, class, nbytes),
            None => self.stock.locked(|central| take_in_turn(central, nbytes)),
        }?;
        Ok(self.cleared(block))
    }

    /// # Safety
    /// As for [`release`](Self::release).
    #[cold]
    unsafe fn release_slowly(&self, block: &Block) {
        let Some(class) = SizeClass::of(block.len).filter(|_| !block.span.is_null()) else {
            let mut bytes = 0;
            self.stock
                .freed(|central| bytes = central.unmap(block.address));
            // SAFETY: the block is a mapping of as many bytes, and the caller gives it up.
            drop(unsafe { Mapping::from_raw(block.address, bytes) });
            return;
        };
        let slot = slot_of(block);
        let home = block.home.cast::<Cache<M>>();
        if home.is_null() {
            // SAFETY: the slot came from here, and the caller gives it up.
            self.stock
                .freed(|central| unsafe { central.put(class, slot) });
            return;
        }
        if let Some((cache, _)) = self.cache_for(block.len)
            && ptr::eq(cache, home)
        {
            // SAFETY: as above; the cache is the caller's.
            self.stock.freed(|central| unsafe {
                central.put(class, slot);
                for _ in 0..cache.batch(class) {
                    let Some(slot) = cache.pop(class) else { break };
                    central.put(class, slot);
                }
            });
            return;
        }
        // SAFETY: a home lives as long as its pool; the slot is of a cached class, and given up.
        if let Err(chain) = unsafe { (*home).send_home(class, slot) } {
            self.stock.take_in(&chain);
        }
    }

    #[inline]
    fn cleared(&self, block: Block) -> Block {
        // A mapping is new each time, and so zero.
        if self.options.zero && !block.span.is_null() {
            // SAFETY: the block is the caller's, and `len` bytes long.
            unsafe { block.address.write_bytes(0, block.len) };
        }
        block
    }
}

impl<M: Mode> Stock<M> {
    #[inline]
    fn locked<R>(&self, action: impl FnOnce(&mut Central) -> R) -> R {
        struct Unlock<'a, L: RawLock>(&'a L);
        impl<L: RawLock> Drop for Unlock<'_, L> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        self.lock.lock();
        let _unlock = Unlock(&self.lock);
        // SAFETY: the lock is held; nothing that runs under it comes back here.
        action(unsafe { &mut *self.central.get() })
    }

    /// Reads the books and the caches at one moment.
    pub(super) fn read<R>(&self, action: impl FnOnce(&Central, &[NonNull<Cache<M>>]) -> R) -> R {
        // SAFETY: the lock is held.
        self.locked(|central| action(central, unsafe { &*self.caches.get() }))
    }

    /// Runs `action`, which frees something, then hands it on to those who wait.
    fn freed(&self, action: impl FnOnce(&mut Central)) {
        let mut woken = Vec::new();
        self.locked(|central| {
            action(central);
            central.serve(&mut woken);
        });
        complete(woken);
    }

    /// Gives what came home, or did not get there, to the central lists.
    fn take_in(&self, chain: &Chain) {
        if !chain.is_empty() {
            // SAFETY: a chain's slots are its holder's, and are given up here.
            self.freed(|central| chain.for_each(|class, slot| unsafe { central.put(class, slot) }));
        }
    }

    /// A block for the owner of `cache`, whose bin of `class` is empty: from what other threads sent home,
    /// from the central lists together with a few more, or from fresh pages.
    fn refill(
        &self,
        cache: &Cache<M>,
        class: SizeClass,
        nbytes: usize,
    ) -> Result<Block, TryAcquireError> {
        // SAFETY: here and below: the cache is the caller's.
        let sent = unsafe { cache.take_sent() };
        let mut over = Vec::new();
        sent.for_each(|class, slot| {
            // SAFETY: a chain's slots are its holder's.
            if !unsafe { cache.push(class, slot) } {
                over.push((class, slot));
            }
        });
        // SAFETY: as above.
        let had = unsafe { cache.pop(class) };
        if let Some(slot) = had
            && over.is_empty()
        {
            return Ok(from_cache(cache, slot, nbytes));
        }
        self.locked(|central| {
            for (class, slot) in over {
                // SAFETY: the slots came home and nobody has them.
                unsafe { central.put(class, slot) };
            }
            let Some(slot) = had.or_else(|| central.take_cached(class)) else {
                let block = take_in_turn(central, nbytes)?;
                return Ok(from_cache(cache, slot_of(&block), nbytes));
            };
            for _ in 1..cache.batch(class) {
                let Some(more) = central.take_cached(class) else {
                    break;
                };
                // SAFETY: as above; a slot that does not fit goes straight back.
                unsafe {
                    if !cache.push(class, more) {
                        central.put(class, more);
                        break;
                    }
                }
            }
            Ok(from_cache(cache, slot, nbytes))
        })
    }
}

impl Stock<Shared> {
    /// A cache for a thread that has none here yet.
    fn adopt(&self) -> *const Cache<Shared> {
        self.locked(|_| {
            // SAFETY: the lock is held.
            let (caches, vacant) = unsafe { (&mut *self.caches.get(), &mut *self.vacant.get()) };
            let cache = if let Some(cache) = vacant.pop() {
                // SAFETY: the thread that had it closed it and is gone.
                unsafe { cache.as_ref().reopen() };
                cache
            } else {
                let cache = new_cache();
                caches.push(cache);
                cache
            };
            cache.as_ptr().cast_const()
        })
    }

    /// Takes in what the cache of a thread that ends still has.
    ///
    /// # Safety
    /// The caller owns the cache, and does not any more after this.
    unsafe fn vacate(&self, cache: NonNull<Cache<Shared>>) {
        // SAFETY: caches live as long as the stock, and this one is the caller's.
        let (sent, cache_ref) = unsafe { (cache.as_ref().close(), cache.as_ref()) };
        self.take_in(&sent);
        self.freed(|central| {
            // SAFETY: the cache is the caller's, and its slots are given up here.
            unsafe { cache_ref.drain(|class, slot| central.put(class, slot)) };
            // SAFETY: the lock is held.
            unsafe { (*self.vacant.get()).push(cache) };
        });
    }
}

impl<M: Mode> Drop for Stock<M> {
    fn drop(&mut self) {
        // SAFETY: nobody else is left.
        for cache in unsafe { &mut *self.caches.get() }.drain(..) {
            // SAFETY: each came from a `Box` and is in the list once.
            drop(unsafe { Box::from_raw(cache.as_ptr()) });
        }
    }
}

/// A thread's caches, one per pool it has used.
struct Seats {
    /// The one used last, by the id of its pool; 0 is nobody's. The pool may be gone, and the cache with
    /// it: a pool that asks is there.
    last: Cell<(u64, *const Cache<Shared>)>,
    all: RefCell<Vec<Seat>>,
}

struct Seat {
    id: u64,
    cache: NonNull<Cache<Shared>>,
    stock: Weak<Stock<Shared>>,
}

thread_local! {
    static SEATS: Seats = const {
        Seats { last: Cell::new((0, ptr::null())), all: RefCell::new(Vec::new()) }
    };
}

impl Seats {
    #[cold]
    fn find_or_adopt(&self, stock: &Arc<Stock<Shared>>) -> *const Cache<Shared> {
        let mut all = self.all.borrow_mut();
        let known = all.iter().find(|known| known.id == stock.id);
        let cache = if let Some(seat) = known {
            seat.cache.as_ptr().cast_const()
        } else {
            all.retain(|old| old.stock.strong_count() > 0);
            let cache = stock.adopt();
            all.push(Seat {
                id: stock.id,
                cache: NonNull::new(cache.cast_mut()).expect("from a `Box`"),
                stock: Arc::downgrade(stock),
            });
            cache
        };
        self.last.set((stock.id, cache));
        cache
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        for seat in self.all.take() {
            if let Some(stock) = seat.stock.upgrade() {
                // SAFETY: the cache is this thread's, which ends.
                unsafe { stock.vacate(seat.cache) };
            }
        }
    }
}

#[inline]
fn from_cache<M: Mode>(cache: &Cache<M>, slot: Slot, nbytes: usize) -> Block {
    Block {
        home: ptr::from_ref(cache).cast(),
        ..Block::of_slot(slot, nbytes)
    }
}

#[inline]
fn slot_of(block: &Block) -> Slot {
    Slot {
        address: block.address,
        span: NonNull::new(block.span).expect("a block of a class lies in a span"),
    }
}

/// Takes memory unless somebody waits for some already: nobody is overtaken.
fn take_in_turn(central: &mut Central, nbytes: usize) -> Result<Block, TryAcquireError> {
    if !central.waiters.is_empty() {
        return Err(TryAcquireError::Full);
    }
    let Some(size) = Size::of(nbytes) else {
        return Err(TryAcquireError::Failed(io::ErrorKind::OutOfMemory.into()));
    };
    central.take(nbytes, size).map_err(|refused| match refused {
        Refused::Full => TryAcquireError::Full,
        Refused::Failed(error) => TryAcquireError::Failed(error),
    })
}

fn complete(woken: Vec<Claim>) {
    for claim in woken {
        claim.complete(Outcome::Handed);
    }
}

fn new_cache<M: Mode>() -> NonNull<Cache<M>> {
    NonNull::from(Box::leak(Box::<Cache<M>>::default()))
}

fn next_id() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    // Not from `sync`: ids outlive every model run, and nothing is ordered by them.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Ordering: Relaxed, only that ids differ.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread,
    };

    use super::*;
    use crate::wait::{Waiter, WaiterClass};

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
        match pool.begin_acquire(nbytes, &sleeper()) {
            Begun::Waiting(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    fn finish<M: PoolMode>(
        pool: &Pool<M>,
        entry: &Arc<Entry<Stake>>,
    ) -> Result<Block, AcquireError> {
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
        check(&pool, (1 << 20) + super::super::arena::page_bytes(), 0);
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
        let blocks: Vec<_> = (0..1000).map(|_| pool.try_acquire(1000).unwrap()).collect();
        check(&pool, 1000 * 1024, 0);
        for block in blocks {
            give_back(&pool, block);
        }
        check(&pool, 0, 1000 * 1024);
        let blocks: Vec<_> = (0..1000).map(|_| pool.try_acquire(1000).unwrap()).collect();
        check(&pool, 1000 * 1024, 0);
        for block in blocks {
            give_back(&pool, block);
        }
    }

    #[test]
    fn memory_released_elsewhere_comes_home() {
        let pool = unlimited();
        let mine: Vec<_> = (0..500).map(|_| pool.try_acquire(64).unwrap()).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                for block in mine {
                    give_back(&pool, block);
                }
            });
        });
        check(&pool, 0, 500 * 64);
        let again: Vec<_> = (0..500).map(|_| pool.try_acquire(64).unwrap()).collect();
        check(&pool, 500 * 64, 0);
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
                    for round in 0..2000_usize {
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
        let pool = limited(1 << 20);
        for nbytes in [64, 1024, 5000, 100_000, 1 << 20, 64, 1 << 20] {
            let blocks: Vec<_> = std::iter::from_fn(|| pool.try_acquire(nbytes).ok()).collect();
            let bytes = SizeClass::of(nbytes).unwrap().bytes();
            assert_eq!(blocks.len(), (1 << 20) / bytes, "{nbytes}");
            assert!(pool.stats().reserved <= 1 << 20);
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
}
