//! Preheats a pool: memory that is mapped and resident before anybody asks for it.
//!
//! Three steps, so that the long one, writing to every page, needs neither a lock nor the GIL: take slots as if they
//! were to be used, touch their pages, put them in the central list. What was cached is touched as well: a
//! buffer that nobody wrote to left its pages as it found them.

use std::io;

use super::{
    books::Refused, cache::Slot, mapping::touch, pool::Pool, seats::PoolMode, size_class::SizeClass,
};

/// Slots that are about to be touched. It has to go back to its pool: dropped, its slots are lost until the pool ends.
#[derive(Debug)]
#[must_use = "what is dropped is lost until the pool ends"]
pub struct Warming {
    slots: Vec<Slot>,
    class: SizeClass,
    node: usize,
}

// SAFETY: the slots are memory that their holder alone uses.
unsafe impl Send for Warming {}
// SAFETY: `&Warming` writes to the slots' pages, and what is written there is nobody's.
unsafe impl Sync for Warming {}

/// Why there is nothing to warm.
#[derive(Debug)]
pub enum WarmError {
    /// Above the largest class each request is a mapping of its own, made when it comes.
    NoClass,
    /// The budget has room for so many bytes, and so many are wanted.
    TooMuch {
        wanted: usize,
        room: usize,
    },
    Failed(io::Error),
}

/// How many slots are taken or put back under one hold of a lock.
const CHUNK: usize = 64;

impl Warming {
    /// Writes to every page of it.
    pub fn touch(&self) {
        for slot in &self.slots {
            // SAFETY: the slot is this one's, and as long as its class.
            unsafe { touch(slot.address, self.class.bytes()) };
        }
    }
}

impl<M: PoolMode> Pool<M> {
    /// Takes `count` slots that hold `nbytes`, on the caller's node. The caller [touches](Warming::touch) them, then
    /// hands them to [`finish_warm`](Self::finish_warm).
    pub fn begin_warm(&self, nbytes: usize, count: usize) -> Result<Warming, WarmError> {
        let class = SizeClass::of(nbytes).ok_or(WarmError::NoClass)?;
        let node = self.stock.nodes.of_caller();
        let wanted = count.saturating_mul(class.bytes());
        // What lies in caches is taken first, as the rest of what is there.
        self.stock.empty_caches(node);
        let room = self.stock.locked(node, |desk| {
            let books = &mut desk.books;
            if books.waiters.is_empty() {
                books.room()
            } else {
                0
            }
        });
        if wanted > room {
            return Err(WarmError::TooMuch { wanted, room });
        }
        let mut warming = Warming {
            slots: Vec::new(),
            class,
            node,
        };
        while warming.slots.len() < count {
            let most = CHUNK.min(count - warming.slots.len());
            let taken = self.stock.locked(node, |desk| {
                for _ in 0..most {
                    warming.slots.push(desk.books.take_slot(class, node)?);
                }
                Ok(())
            });
            if let Err(refused) = taken {
                self.put_back(&warming);
                return Err(match refused {
                    // Others were faster, and have it in use.
                    Refused::Full => WarmError::TooMuch { wanted, room: 0 },
                    Refused::Failed(error) => WarmError::Failed(error),
                });
            }
        }
        Ok(warming)
    }

    /// Puts what was warmed where the next requests find it, and keeps so much of it from going back to the system
    /// unasked.
    #[expect(clippy::needless_pass_by_value, reason = "it is given up")]
    pub fn finish_warm(&self, warming: Warming) {
        self.stock.locked(warming.node, |desk| {
            let central = desk.books.central(warming.node);
            central.keep(warming.class, warming.slots.len());
        });
        self.put_back(&warming);
    }

    fn put_back(&self, warming: &Warming) {
        for some in warming.slots.chunks(CHUNK) {
            self.stock.freed(warming.node, |desk| {
                let central = desk.books.central(warming.node);
                for slot in some {
                    // SAFETY: the slot was taken from here, and its holder gives it up.
                    unsafe { central.put(warming.class, *slot) };
                }
            });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{
        memory::{Block, PoolOptions, TryAcquireError},
        sync::Shared,
    };

    fn pool(max_bytes: Option<usize>) -> Pool<Shared> {
        let options = PoolOptions {
            max_bytes,
            ..PoolOptions::default()
        };
        Pool::new(Shared, options)
    }

    fn warm(pool: &Pool<Shared>, nbytes: usize, count: usize) {
        let warming = pool.begin_warm(nbytes, count).unwrap();
        warming.touch();
        pool.finish_warm(warming);
    }

    fn give_back(pool: &Pool<Shared>, blocks: Vec<Block>) {
        for block in blocks {
            // SAFETY: each goes back once.
            unsafe { pool.release(block) };
        }
    }

    #[test]
    fn what_is_warmed_is_there_and_no_more_than_that_is_made() {
        let pool = pool(None);
        warm(&pool, 5000, 100);
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.cached), (0, 100 * 5120));
        let blocks: Vec<_> = (0..100).map(|_| pool.try_acquire(5000).unwrap()).collect();
        assert_eq!(pool.stats().reserved, 100 * 5120);
        give_back(&pool, blocks);
        // What is cached counts, wherever it lies.
        warm(&pool, 5000, 50);
        warm(&pool, 5000, 100);
        assert_eq!(pool.stats().reserved, 100 * 5120);
        warm(&pool, 5000, 120);
        assert_eq!(pool.stats().reserved, 120 * 5120);
        warm(&pool, 64, 0);
        assert_eq!(pool.stats().reserved, 120 * 5120);
    }

    #[test]
    fn a_limit_holds_for_what_is_warmed() {
        let pool = pool(Some(10 * 1024));
        let refused = |wanted: usize, room| {
            matches!(
                pool.begin_warm(1024, wanted),
                Err(WarmError::TooMuch { wanted: w, room: r }) if (w, r) == (wanted * 1024, room)
            )
        };
        assert!(refused(11, 10 * 1024));
        let block = pool.try_acquire(1000).unwrap();
        assert!(refused(10, 9 * 1024));
        assert!(matches!(
            pool.begin_warm(1024, usize::MAX),
            Err(WarmError::TooMuch { .. })
        ));
        warm(&pool, 1024, 9);
        assert_eq!(pool.stats().cached, 9 * 1024);
        give_back(&pool, vec![block]);
        // It is cached, not in use: nobody has to wait for it.
        let block = pool.try_acquire(10 * 1024).unwrap();
        assert!(matches!(pool.try_acquire(64), Err(TryAcquireError::Full)));
        give_back(&pool, vec![block]);
    }

    #[test]
    fn what_is_above_the_largest_class_is_not_warmed() {
        let pool = pool(None);
        assert!(matches!(
            pool.begin_warm((1 << 20) + 1, 1),
            Err(WarmError::NoClass)
        ));
    }

    #[test]
    fn what_was_warmed_stays_until_it_is_trimmed() {
        let pool = pool(None);
        warm(&pool, 65_536, 10);
        let blocks: Vec<_> = (0..30).map(|_| pool.try_acquire(65_536).unwrap()).collect();
        give_back(&pool, blocks);
        for _ in 0..3 {
            pool.end_period();
        }
        assert_eq!(pool.stats().cached, 10 * 65_536);
        assert_eq!(pool.trim(), 10 * 65_536);
        give_back(&pool, vec![pool.try_acquire(65_536).unwrap()]);
        for _ in 0..3 {
            pool.end_period();
        }
        assert_eq!(
            pool.stats().reserved,
            0,
            "trimmed, it is not warmed any more"
        );
    }
}
