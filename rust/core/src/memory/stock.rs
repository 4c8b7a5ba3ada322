//! What the threads that use a pool share: its locks, what they guard, and the caches in front of them.
//!
//! A desk is a lock with its [`Books`] and with the caches of their node. A pool without a limit has one per node; a
//! pool with one has a single desk, whose budget is exact over all nodes, and no caches. Whoever needs all desks locks
//! them in their order.

use std::{
    io,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    books::{Books, Level, Refused, Size},
    cache::{self, Cache, Chain, Slot},
    mapping::Backing,
    nodes::Nodes,
    pool::{Block, TryAcquireError},
    size_class::SizeClass,
    trim::Period,
};
use crate::{
    sync::{Guarded, Mode, Shared},
    wait::{Claim, Outcome},
};

/// What one lock guards.
pub struct Desk<M: Mode> {
    pub books: Books,
    /// Those of the desk's node; each from a `Box`, freed with the stock.
    pub caches: Vec<NonNull<Cache<M>>>,
    /// Those of them whose threads have ended, for threads to come.
    vacant: Vec<NonNull<Cache<M>>>,
}

// SAFETY: nothing in it belongs to a thread; caches are owned by rule, not by where they live.
unsafe impl<M: Mode> Send for Desk<M> {}

/// What the threads share. Threads that end look here for their pools, weakly.
pub struct Stock<M: Mode> {
    /// No other stock has it, ever.
    pub id: u64,
    pub nodes: Nodes,
    desks: Box<[Guarded<Desk<M>, M>]>,
    /// Under [`Exclusive`](crate::sync::Exclusive), the caches: one per node, whoever calls. Listed in the desks too.
    pub common: Box<[NonNull<Cache<M>>]>,
    level: Arc<Level>,
    pub(super) tended: Period,
}

// SAFETY: what `common` points to is made for sharing and lives as long as the stock; the rest is Sync.
unsafe impl<M: Mode> Sync for Stock<M> {}
// SAFETY: as for a desk.
unsafe impl<M: Mode> Send for Stock<M> {}

impl<M: Mode> Stock<M> {
    /// `limit`: the budget, if there is one. `common_caches`: each node has a cache that every caller owns.
    pub fn new(nodes: Nodes, limit: Option<usize>, huge: bool, common_caches: bool) -> Self {
        let level = Arc::new(Level::default());
        let count = nodes.count();
        let backing = |node| Backing {
            bind_to: nodes.bind_to(node),
            huge,
        };
        let backings: Vec<_> = (0..count).map(backing).collect();
        let common: Box<[_]> = (0..count)
            .filter(|_| common_caches && limit.is_none())
            .map(new_cache)
            .collect();
        let desk = |which: Range<usize>| {
            Guarded::new(Desk {
                caches: common.get(which.clone()).unwrap_or_default().to_vec(),
                books: Books::new(which, backings.clone(), limit.unwrap_or(usize::MAX), &level),
                vacant: Vec::new(),
            })
        };
        let desks: Box<[_]> = match limit {
            Some(_) => Box::new([desk(0..count)]),
            None => (0..count).map(|node| desk(node..node + 1)).collect(),
        };
        Self {
            id: next_id(),
            nodes,
            desks,
            common,
            level,
            tended: Period::default(),
        }
    }

    /// Runs `action` with the lock of `node` held. Nothing in it comes back here.
    #[inline]
    pub fn locked<R>(&self, node: usize, action: impl FnOnce(&mut Desk<M>) -> R) -> R {
        let desk = if self.desks.len() == 1 { 0 } else { node };
        self.desks[desk].with(action)
    }

    /// Runs `action` with each lock held in turn.
    pub fn each_desk(&self, mut action: impl FnMut(&mut Desk<M>)) {
        self.desks.iter().for_each(|desk| desk.with(&mut action));
    }

    /// Runs `action` with all locks held: it sees one moment.
    pub fn at_one_moment<R>(&self, action: impl FnOnce(&[&Desk<M>]) -> R) -> R {
        fn lock_rest<M: Mode, R>(
            rest: &[Guarded<Desk<M>, M>],
            held: &mut Vec<*const Desk<M>>,
            action: impl FnOnce(&[&Desk<M>]) -> R,
        ) -> R {
            let Some((next, rest)) = rest.split_first() else {
                // SAFETY: their locks are held by the callers of this, and nobody changes them meanwhile.
                let all: Vec<_> = held.iter().map(|desk| unsafe { &**desk }).collect();
                return action(&all);
            };
            next.with(|desk| {
                held.push(desk);
                lock_rest(rest, held, action)
            })
        }
        lock_rest(&self.desks, &mut Vec::new(), action)
    }

    /// The most that was reserved; exact while all locks are held.
    pub fn reserved_peak(&self) -> usize {
        self.level.peak()
    }

    /// Runs `action`, which frees something on `node`, then hands it on to those who wait.
    pub fn freed(&self, node: usize, action: impl FnOnce(&mut Desk<M>)) {
        let mut woken = Vec::new();
        self.locked(node, |desk| {
            action(desk);
            desk.books.serve(&mut woken);
        });
        complete(woken);
    }

    /// Gives what came home to `node`, or did not get there, to its lists.
    pub fn take_in(&self, node: usize, chain: &Chain) {
        if !chain.is_empty() {
            self.freed(node, |desk| {
                let central = desk.books.central(node);
                // SAFETY: a chain's slots are its holder's, and are given up here.
                chain.for_each(|class, slot| unsafe { central.put(class, slot) });
            });
        }
    }

    /// A block for the owner of `cache`, whose bin of `class` is empty: from what other threads sent home,
    /// from the central lists together with a few more, or from fresh pages.
    pub fn refill(
        &self,
        cache: &Cache<M>,
        class: SizeClass,
        nbytes: usize,
    ) -> Result<Block, TryAcquireError> {
        let mut over = Vec::new();
        cache.take_sent().for_each(|class, slot| {
            // SAFETY: here and below: the cache is the caller's; a chain's slots are its holder's.
            if !unsafe { cache.push(class, slot) } {
                over.push((class, slot));
            }
        });
        // SAFETY: as above.
        let had = unsafe { cache.pop(class) };
        if let Some(slot) = had
            && over.is_empty()
        {
            return Ok(Block::from_cache(cache, slot, nbytes));
        }
        let node = cache.node();
        self.locked(node, |desk| {
            let central = desk.books.central(node);
            for (class, slot) in over {
                // SAFETY: the slots came home and nobody has them.
                unsafe { central.put(class, slot) };
            }
            let Some(slot) = had.or_else(|| central.take_cached(class)) else {
                let slot = take_in_turn(&mut desk.books, |books| books.take_slot(class, node))?;
                return Ok(Block::from_cache(cache, slot, nbytes));
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
            Ok(Block::from_cache(cache, slot, nbytes))
        })
    }

    /// Puts what the caches of `node` hold in the central lists, but for those whose owners are at them just now. The
    /// caller need not own any.
    pub fn empty_caches(&self, node: usize) {
        let caches = self.locked(node, |desk| desk.caches.clone());
        // SAFETY: caches live as long as the stock.
        let caches: Vec<_> = caches
            .iter()
            .map(|cache| unsafe { cache.as_ref() })
            .collect();
        for cache in &caches {
            self.freed(node, |desk| {
                let central = desk.books.central(node);
                // SAFETY: a chain's slots are its holder's, and are given up here.
                let put = |class, slot| unsafe { central.put(class, slot) };
                cache.take_sent().for_each(put);
            });
        }
        cache::visit(&caches, |cache| {
            // Under the lock, so that whoever counts sees each slot here or there.
            self.freed(node, |desk| {
                let central = desk.books.central(node);
                // SAFETY: a visitor is alone inside; the slots are given up here.
                unsafe { cache.drain_inside(|class, slot| central.put(class, slot)) };
            });
        });
    }
}

impl Stock<Shared> {
    /// A cache on `node` for a thread that has none there yet.
    pub fn adopt(&self, node: usize) -> NonNull<Cache<Shared>> {
        self.locked(node, |desk| {
            if let Some(cache) = desk.vacant.pop() {
                // SAFETY: the thread that had it closed it and is gone, or has moved on.
                unsafe { cache.as_ref().reopen() };
                cache
            } else {
                let cache = new_cache(node);
                desk.caches.push(cache);
                cache
            }
        })
    }

    /// Takes in what the cache of a thread that ends, or moves to another node, still has.
    ///
    /// # Safety
    /// The caller owns the cache, and does not any more after this.
    pub unsafe fn vacate(&self, cache: NonNull<Cache<Shared>>) {
        // SAFETY: caches live as long as the stock, and this one is the caller's.
        let (sent, cache_ref) = unsafe { (cache.as_ref().close(), cache.as_ref()) };
        let node = cache_ref.node();
        self.take_in(node, &sent);
        let hand_in = |desk: &mut Desk<Shared>| {
            let central = desk.books.central(node);
            // SAFETY: the owner is alone inside; the slots are given up here.
            unsafe { cache_ref.drain_inside(|class, slot| central.put(class, slot)) };
            desk.vacant.push(cache);
        };
        // SAFETY: the cache is the caller's.
        unsafe { cache_ref.alone(|| self.freed(node, hand_in)) };
    }
}

impl<M: Mode> Drop for Stock<M> {
    fn drop(&mut self) {
        self.each_desk(|desk| {
            for cache in desk.caches.drain(..) {
                // SAFETY: each came from a `Box` and is in one list once; nobody else is left.
                drop(unsafe { Box::from_raw(cache.as_ptr()) });
            }
        });
    }
}

/// Takes memory unless somebody waits for some already: nobody is overtaken.
pub fn take_in_turn<T>(
    books: &mut Books,
    take: impl FnOnce(&mut Books) -> Result<T, Refused>,
) -> Result<T, TryAcquireError> {
    if !books.waiters.is_empty() {
        return Err(TryAcquireError::Full);
    }
    take(books).map_err(|refused| match refused {
        Refused::Full => TryAcquireError::Full,
        Refused::Failed(error) => TryAcquireError::Failed(error),
    })
}

/// The same for a block of any size.
pub fn take_block_in_turn(
    books: &mut Books,
    nbytes: usize,
    node: usize,
) -> Result<Block, TryAcquireError> {
    let Some(size) = Size::of(nbytes) else {
        return Err(TryAcquireError::Failed(io::ErrorKind::OutOfMemory.into()));
    };
    take_in_turn(books, |books| books.take(nbytes, size, node))
}

pub fn complete(woken: Vec<Claim>) {
    for claim in woken {
        claim.complete(Outcome::Handed);
    }
}

fn new_cache<M: Mode>(node: usize) -> NonNull<Cache<M>> {
    NonNull::from(Box::leak(Box::new(Cache::new(node))))
}

fn next_id() -> u64 {
    // Not from `sync`: ids outlive every model run, and nothing is ordered by them.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Ordering: Relaxed, only that ids differ.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Block {
    #[inline]
    pub(super) fn from_cache<M: Mode>(cache: &Cache<M>, slot: Slot, nbytes: usize) -> Self {
        Self::of_slot(slot, nbytes).with_home(std::ptr::from_ref(cache).cast())
    }
}
