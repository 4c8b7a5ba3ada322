//! A pool of buffers: the ways in and out.
//!
//! A pool without a limit goes through caches: a request that finds its slot there touches no lock and no
//! atomic read-modify-write. A pool with a limit has none: a freed byte in another thread's cache would be
//! one that a waiter waits for in vain, so all its traffic passes the lock, where the budget is exact.
//! (Under [`Exclusive`](crate::sync::Exclusive) that lock costs nothing.)
//!
//! A slot remembers the cache it came from, its home. Released by the home's owner it goes into the bins,
//! released elsewhere into the home's remote list, and from a full bin or list to the central ones. So
//! memory does not pile up where it happens to be released.
//!
//! Waiting is two calls: [`Pool::begin_acquire`] leaves an entry in the list, the caller sleeps, and
//! [`Pool::finish_acquire`] says what came of it. Memory is handed over while the lock is held, so a
//! waiter that was served has its memory even if it is cancelled a moment later.

use std::{
    io,
    ptr::{self, NonNull},
    sync::Arc,
};

use super::{
    books::{Size, Stake},
    cache::{self, Cache, Slot},
    mapping::{Denied, Mapping},
    nodes::Nodes,
    seats::PoolMode,
    size_class::SizeClass,
    stock::{Stock, take_block_in_turn},
    trim,
};
use crate::wait::{Entry, Outcome, Place, WaiterRef};

/// How a pool is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolOptions {
    /// The most that may be in use, rounded up to a size class as requests are.
    pub max_bytes: Option<usize>,
    /// Whether memory is cleared before it is handed out.
    pub zero: bool,
    /// Whether the system is asked for huge pages.
    pub huge_pages: bool,
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

/// What a pool has on one of its nodes, in bytes of size classes: `in_use + cached == reserved`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStats {
    /// The kernel's number of the node.
    pub id: u32,
    pub in_use: usize,
    pub cached: usize,
    pub reserved: usize,
}

/// All figures of a pool, of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub stats: Stats,
    /// In the order of their numbers. Their sums are those in `stats`.
    pub nodes: Vec<NodeStats>,
    /// What the system has not done.
    pub denied: Denied,
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
    pub(super) fn with_home(self, home: *const ()) -> Self {
        Self { home, ..self }
    }

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

    #[inline]
    fn slot(&self) -> Slot {
        Slot {
            address: self.address,
            span: NonNull::new(self.span).expect("a block of a class lies in a span"),
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

/// A pool of buffers, in size classes, in spans.
pub struct Pool<M: PoolMode> {
    pub(super) stock: Arc<Stock<M>>,
    options: PoolOptions,
}

impl<M: PoolMode> Pool<M> {
    /// An empty pool on one node. `mode` is the proof that the mode's rule is kept.
    ///
    /// # Panics
    /// If `max_bytes` is more than the address space.
    pub fn new(mode: M, options: PoolOptions) -> Self {
        Self::on(mode, options, Nodes::one())
    }

    /// An empty pool on `nodes`.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn on(_mode: M, options: PoolOptions, nodes: Nodes) -> Self {
        let limit = options.max_bytes.map(|bytes| {
            let size = Size::of(bytes).expect("a limit in the address space");
            size.bytes()
        });
        let common_caches = !M::CACHE_PER_THREAD;
        let stock = Arc::new(Stock::new(nodes, limit, options.huge_pages, common_caches));
        let weak = Arc::downgrade(&stock);
        trim::register(weak);
        Self { stock, options }
    }

    pub fn options(&self) -> PoolOptions {
        self.options
    }

    pub fn nodes(&self) -> &Nodes {
        &self.stock.nodes
    }

    /// Memory of `nbytes` on the caller's node, if it can be had without waiting for somebody else's.
    #[inline]
    pub fn try_acquire(&self, nbytes: usize) -> Result<Block, TryAcquireError> {
        self.try_acquire_on(nbytes, None)
    }

    /// The same on `node`, an index into [`nodes`](Self::nodes), or on the caller's.
    #[inline]
    pub fn try_acquire_on(
        &self,
        nbytes: usize,
        node: Option<usize>,
    ) -> Result<Block, TryAcquireError> {
        let here = self.stock.nodes.of_caller();
        let node = node.unwrap_or(here);
        let cached = self.cache_for(nbytes, node, here);
        if let Some((cache, class)) = cached {
            // SAFETY: the cache is the caller's, and `cache_for` asked for the class.
            if let Some(slot) = unsafe { cache.pop(class) } {
                return Ok(self.cleared(Block::from_cache(cache, slot, nbytes)));
            }
        }
        self.try_acquire_slowly(nbytes, node, cached)
    }

    /// Memory of `nbytes`, or a place in the line of those who wait for it.
    pub fn begin_acquire(&self, nbytes: usize, node: Option<usize>, waiter: &WaiterRef) -> Begun {
        match self.try_acquire_on(nbytes, node) {
            Ok(block) => return Begun::Done(block),
            Err(TryAcquireError::TooLarge) => return Begun::TooLarge,
            Err(TryAcquireError::Failed(error)) => return Begun::Failed(error),
            Err(TryAcquireError::Full) => {}
        }
        let node = node.unwrap_or_else(|| self.stock.nodes.of_caller());
        let waiting = self.stock.locked(node, |desk| {
            let books = &mut desk.books;
            match take_block_in_turn(books, nbytes, node) {
                Ok(block) => return Ok(block),
                Err(TryAcquireError::Full) => {}
                Err(error) => return Err(Err(error)),
            }
            let wants = Stake::Wants { nbytes, node };
            Err(Ok(waiter.link(&mut books.waiters, Some(wants))))
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
                Some(Stake::Wants { .. }) | None => unreachable!("handed nothing"),
            };
        }
        // Who waits does so in the first books: only a pool with a limit has waiters, and it has no others.
        self.stock.freed(0, |desk| {
            // Others may fit now: it may have been what stood before them.
            desk.books.waiters.remove(entry);
        });
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
            && let Some(class) = SizeClass::of(block.len)
            // SAFETY: a block's home is a cache of its pool.
            && let Some(cache) = unsafe { M::owned(&self.stock, block.home.cast()) }
        {
            // SAFETY: the cache is the caller's, and the slot came from it; the caller gives it up.
            if unsafe { cache.push(class, block.slot()) } {
                return;
            }
        }
        // SAFETY: as promised by the caller.
        unsafe { self.release_slowly(&block) };
    }

    /// Whether a release of `block` by the caller may write to its first [`LINK_BYTES`](cache::LINK_BYTES): on a thread
    /// that is not its home's owner.
    pub fn may_link(&self, block: &Block) -> bool {
        let home = block.home.cast::<Cache<M>>();
        // SAFETY: a block's home is a cache of its pool.
        !home.is_null() && unsafe { M::owned(&self.stock, home) }.is_none()
    }

    pub fn stats(&self) -> Stats {
        self.report().stats
    }

    /// All figures, of one moment.
    pub fn report(&self) -> Report {
        let nodes = &self.stock.nodes;
        self.stock.at_one_moment(|desks| {
            let mut denied = Denied::default();
            let mut all: Vec<_> = (0..nodes.count())
                .map(|node| NodeStats {
                    id: nodes.id(node),
                    in_use: desks[0].books.mapped_on(node),
                    cached: 0,
                    reserved: 0,
                })
                .collect();
            for desk in desks {
                denied |= desk.books.denied();
                for central in desk.books.centrals() {
                    all[central.node()].reserved = central.reserved();
                    all[central.node()].cached = central.cached();
                }
                for cache in &desk.caches {
                    // SAFETY: caches live as long as the stock.
                    let cache = unsafe { cache.as_ref() };
                    all[cache.node()].cached += cache.bytes();
                }
            }
            for node in &mut all {
                // Slots on their way between a thread and its cache may be seen twice, or not at all.
                node.cached = node.cached.min(node.reserved);
                node.in_use += node.reserved - node.cached;
                node.reserved = node.in_use + node.cached;
            }
            let sum = |figure: fn(&NodeStats) -> usize| all.iter().map(figure).sum();
            Report {
                stats: Stats {
                    in_use: sum(|node| node.in_use),
                    cached: sum(|node| node.cached),
                    reserved: sum(|node| node.reserved),
                    reserved_peak: self.stock.reserved_peak(),
                },
                nodes: all,
                denied,
            }
        })
    }

    /// The cache on `node` that the caller, who is `here`, owns, where requests of this size go through caches.
    #[inline]
    fn cache_for(&self, nbytes: usize, node: usize, here: usize) -> Option<(&Cache<M>, SizeClass)> {
        if self.options.max_bytes.is_some() || (M::CACHE_PER_THREAD && node != here) {
            return None;
        }
        let class = SizeClass::of(nbytes).filter(|&class| cache::is_cached(class))?;
        M::cache(&self.stock, node).map(|cache| (cache, class))
    }

    #[cold]
    fn try_acquire_slowly(
        &self,
        nbytes: usize,
        node: usize,
        cached: Option<(&Cache<M>, SizeClass)>,
    ) -> Result<Block, TryAcquireError> {
        if self.options.max_bytes.is_some_and(|most| nbytes > most) {
            return Err(TryAcquireError::TooLarge);
        }
        let now_ns = self.stock.tend_if_due();
        let block = if let Some((cache, class)) = cached {
            self.stock.refill(cache, class, nbytes)
        } else {
            // Mappings of their own are all in the first books.
            let desk = SizeClass::of(nbytes).map_or(0, |_| node);
            self.stock.locked(desk, |desk| {
                take_block_in_turn(&mut desk.books, nbytes, node)
            })
        }?;
        trim::arm(now_ns);
        Ok(self.cleared(block))
    }

    /// # Safety
    /// As for [`release`](Self::release).
    #[cold]
    unsafe fn release_slowly(&self, block: &Block) {
        let Some(class) = SizeClass::of(block.len).filter(|_| !block.span.is_null()) else {
            let mut bytes = 0;
            self.stock
                .freed(0, |desk| bytes = desk.books.unmap(block.address));
            // SAFETY: the block is a mapping of as many bytes, and the caller gives it up.
            drop(unsafe { Mapping::from_raw(block.address, bytes) });
            return;
        };
        let slot = block.slot();
        let home = block.home.cast::<Cache<M>>();
        if home.is_null() {
            // SAFETY: a span is alive while a slot of it is out, and its node never changes.
            let node = unsafe { slot.span.as_ref() }.node();
            // SAFETY: the slot came from here, and the caller gives it up.
            self.stock.freed(node, |desk| unsafe {
                desk.books.central(node).put(class, slot);
            });
            return;
        }
        // SAFETY: a block's home is a cache of its pool.
        if let Some(cache) = unsafe { M::owned(&self.stock, home) } {
            let node = cache.node();
            // SAFETY: as above; the cache is the caller's.
            self.stock.freed(node, |desk| unsafe {
                let central = desk.books.central(node);
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
            // SAFETY: as above.
            self.stock.take_in(unsafe { (*home).node() }, &chain);
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
