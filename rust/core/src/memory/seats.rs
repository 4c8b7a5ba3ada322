//! Which caches a thread owns: how the two modes find the caller's.
//!
//! Where threads run at once each has a seat per pool it has used: a cache on one node. A thread that has moved to
//! another node turns its cache in, which is then empty, and takes one there. With the GIL callers exclude each other,
//! so each node's one cache is everybody's.

use std::{
    cell::{Cell, RefCell},
    ptr::{self, NonNull},
    sync::{Arc, Weak},
};

use super::{cache::Cache, stock::Stock};
use crate::sync::{Exclusive, Mode, Shared};

/// How the two modes find the caller's cache.
pub trait PoolMode: Mode {
    /// Whether each thread has a cache, or each node one for all.
    #[doc(hidden)]
    const CACHE_PER_THREAD: bool;

    /// The cache that the caller, who is on `node`, owns there, if it may have one.
    #[doc(hidden)]
    fn cache(stock: &Arc<Stock<Self>>, node: usize) -> Option<&Cache<Self>>;

    /// `home`, if the caller owns it.
    ///
    /// # Safety
    /// `home` is a cache of `stock`.
    #[doc(hidden)]
    unsafe fn owned(stock: &Arc<Stock<Self>>, home: *const Cache<Self>) -> Option<&Cache<Self>>;
}

impl PoolMode for Exclusive {
    const CACHE_PER_THREAD: bool = false;

    #[inline]
    fn cache(stock: &Arc<Stock<Self>>, node: usize) -> Option<&Cache<Self>> {
        // SAFETY: caches live as long as their stock.
        stock
            .common
            .get(node)
            .map(|cache| unsafe { cache.as_ref() })
    }

    #[inline]
    unsafe fn owned(_: &Arc<Stock<Self>>, home: *const Cache<Self>) -> Option<&Cache<Self>> {
        // SAFETY: caches live as long as their stock, which the caller has.
        Some(unsafe { &*home })
    }
}

impl PoolMode for Shared {
    const CACHE_PER_THREAD: bool = true;

    #[inline]
    fn cache(stock: &Arc<Stock<Self>>, node: usize) -> Option<&Cache<Self>> {
        let cache = SEATS
            // A thread whose seats are gone already does without a cache.
            .try_with(|seats| {
                let (id, cache) = seats.last.get();
                // SAFETY: ids are never used again, so the stock is the caller's, and its caches live as long.
                if id == stock.id && unsafe { (*cache).node() } == node {
                    cache
                } else {
                    seats.find_or_adopt(stock, node).as_ptr().cast_const()
                }
            })
            .ok()?;
        // SAFETY: as above.
        Some(unsafe { &*cache })
    }

    #[inline]
    unsafe fn owned(stock: &Arc<Stock<Self>>, home: *const Cache<Self>) -> Option<&Cache<Self>> {
        let is_own =
            SEATS.try_with(|seats| seats.last.get() == (stock.id, home) || seats.owns(stock, home));
        // SAFETY: caches live as long as their stock, which the caller has.
        is_own.unwrap_or(false).then(|| unsafe { &*home })
    }
}

/// A thread's caches, one per pool it has used.
struct Seats {
    /// The one used last, by the id of its pool; 0 is nobody's. The pool may be gone, and the cache with
    /// it: a pool that asks is there.
    last: Cell<(u64, *const Cache<Shared>)>,
    all: RefCell<Vec<Seat>>,
}

#[derive(Clone)]
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
    fn find(&self, stock: &Stock<Shared>) -> Option<Seat> {
        let all = self.all.borrow();
        all.iter().find(|seat| seat.id == stock.id).cloned()
    }

    #[cold]
    fn owns(&self, stock: &Stock<Shared>, home: *const Cache<Shared>) -> bool {
        let own = self
            .find(stock)
            .map(|seat| seat.cache.as_ptr().cast_const());
        if let Some(cache) = own {
            self.last.set((stock.id, cache));
        }
        own == Some(home)
    }

    #[cold]
    fn find_or_adopt(&self, stock: &Arc<Stock<Shared>>, node: usize) -> NonNull<Cache<Shared>> {
        let known = self.find(stock).map(|seat| seat.cache);
        // SAFETY: caches live as long as their stock.
        let cache = match known.filter(|cache| unsafe { cache.as_ref() }.node() == node) {
            Some(cache) => cache,
            None => self.adopt(stock, node, known),
        };
        self.last.set((stock.id, cache.as_ptr()));
        cache
    }

    /// Takes a cache on `node`, and gives up the `old` one.
    fn adopt(
        &self,
        stock: &Arc<Stock<Shared>>,
        node: usize,
        old: Option<NonNull<Cache<Shared>>>,
    ) -> NonNull<Cache<Shared>> {
        let mut all = self.all.borrow_mut();
        all.retain(|seat| seat.id != stock.id && seat.stock.strong_count() > 0);
        if let Some(old) = old {
            // SAFETY: the cache is this thread's, and was just taken off its seats.
            unsafe { stock.vacate(old) };
        }
        let cache = stock.adopt(node);
        all.push(Seat {
            id: stock.id,
            cache,
            stock: Arc::downgrade(stock),
        });
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
