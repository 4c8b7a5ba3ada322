//! A picture of a pool: where its memory lies, and what each slot is good for.
//!
//! The books of spans, arenas and direct mappings are read under the pool's lock, so they agree with each
//! other. The bins of caches belong to their owners, who ask nobody: what a bin holds may change while it is
//! read. A picture stays consistent all the same: no more slots of a class are taken for cached than are
//! out of its spans, and the picture's [`Stats`] are counted from what is in it. So in every picture,
//! exactly:
//!
//! - `stats.in_use + stats.cached == stats.reserved`;
//! - `stats.reserved` is the bytes of all slots that are not bare, and of the direct mappings;
//! - `stats.cached` is the bytes of all `Cached` slots, and of what the caches hold.

use super::{
    cache::Cache,
    pool::{Pool, Stats},
    seats::PoolMode,
    size_class::{CLASSES, SizeClass},
};
use crate::sync::Mode;

/// A pool at one moment.
#[derive(Clone, Debug)]
pub struct Map {
    pub stats: Stats,
    /// In the order of their addresses.
    pub arenas: Vec<ArenaMap>,
    pub caches: Vec<CacheMap>,
    /// In the order of their addresses.
    pub direct: Vec<DirectMap>,
}

/// Address space that spans are cut from.
#[derive(Clone, Debug)]
pub struct ArenaMap {
    pub node: u32,
    pub base: usize,
    pub bytes: usize,
    /// Whether the system was asked for huge pages, and agreed.
    pub huge: bool,
    /// In the order of their addresses.
    pub spans: Vec<SpanMap>,
    /// What no span uses: offsets from `base`, and bytes.
    pub free: Vec<(usize, usize)>,
}

/// Pages cut into slots of one class.
#[derive(Clone, Debug)]
pub struct SpanMap {
    pub base: usize,
    /// Of its pages; what does not make a whole slot at the end is in no slot.
    pub bytes: usize,
    pub class_bytes: usize,
    /// In the order of their addresses.
    pub slots: Vec<SlotState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Not reserved: never touched, or its pages were given back.
    Bare,
    /// Free, in the central list of its class.
    Cached,
    /// In use, or in a cache.
    Out,
}

/// The slots that one owner has at hand.
#[derive(Clone, Debug)]
pub struct CacheMap {
    pub node: u32,
    /// Bytes of the class and how many slots: those bins that hold any.
    pub bins: Vec<(usize, usize)>,
    /// Slots on their way home from other threads.
    pub remote_slots: usize,
    /// Their bytes.
    pub remote_bytes: usize,
}

/// A mapping of its own.
#[derive(Clone, Copy, Debug)]
pub struct DirectMap {
    pub node: u32,
    pub base: usize,
    pub bytes: usize,
}

impl CacheMap {
    /// Bytes that it holds, those on their way home included.
    pub fn bytes(&self) -> usize {
        let bins = self
            .bins
            .iter()
            .map(|(class_bytes, slots)| class_bytes * slots);
        bins.sum::<usize>() + self.remote_bytes
    }

    /// What `cache` holds, but no more than `out` says is out of the spans, from which it is taken.
    /// `id` is how users know its node.
    pub(super) fn of<M: Mode>(cache: &Cache<M>, id: u32, out: &mut OutOfSpans) -> Self {
        let mut bins = Vec::new();
        for (class, slots) in cache.bins() {
            let slots = slots.min(out.slots[class.index()]);
            out.slots[class.index()] -= slots;
            if slots > 0 {
                bins.push((class.bytes(), slots));
            }
        }
        let (remote_slots, remote_bytes) = cache.sent();
        Self {
            node: id,
            bins,
            remote_slots,
            // Bounded by the caller, once all bins have been read: links have their classes in them, where
            // nobody but the owner may look.
            remote_bytes: usize::try_from(remote_bytes).unwrap_or(usize::MAX),
        }
    }
}

/// How many slots of each class are in use, as far as the spans know.
pub(super) struct OutOfSpans {
    slots: [usize; CLASSES],
}

impl OutOfSpans {
    fn of(arenas: &[ArenaMap]) -> Self {
        let mut slots = [0; CLASSES];
        for span in arenas.iter().flat_map(|arena| &arena.spans) {
            let class = SizeClass::of(span.class_bytes).expect("a span has a class");
            slots[class.index()] += span.count(SlotState::Out);
        }
        Self { slots }
    }

    fn bytes(&self) -> usize {
        SizeClass::all()
            .map(|class| class.bytes() * self.slots[class.index()])
            .sum()
    }
}

impl SpanMap {
    pub fn count(&self, state: SlotState) -> usize {
        self.slots.iter().filter(|slot| **slot == state).count()
    }
}

impl<M: PoolMode> Pool<M> {
    /// A picture of the pool. It takes time in proportion to the slots there are, under the pool's locks.
    pub fn map(&self) -> Map {
        let id = |node| self.stock.nodes.id(node);
        self.stock.at_one_moment(|desks| {
            let centrals = desks.iter().flat_map(|desk| desk.books.centrals());
            let arenas = centrals.flat_map(|central| central.arenas(id(central.node())));
            let mut arenas: Vec<_> = arenas.collect();
            arenas.sort_unstable_by_key(|arena| arena.base);
            let direct = desks[0].books.direct(id);
            let mut out = OutOfSpans::of(&arenas);
            let mut caches: Vec<_> = desks
                .iter()
                .flat_map(|desk| &desk.caches)
                .map(|cache| {
                    // SAFETY: caches live as long as the stock.
                    let cache = unsafe { cache.as_ref() };
                    CacheMap::of(cache, id(cache.node()), &mut out)
                })
                .collect();
            let mut left = out.bytes();
            for cache in &mut caches {
                cache.remote_bytes = cache.remote_bytes.min(left);
                left -= cache.remote_bytes;
            }
            let mapped: usize = direct.iter().map(|mapping| mapping.bytes).sum();
            let reserved = mapped + slot_bytes(&arenas, |state| state != SlotState::Bare);
            debug_assert_eq!(
                reserved,
                desks.iter().map(|desk| desk.books.reserved()).sum(),
                "the books and the spans disagree"
            );
            let in_use = mapped + left;
            Map {
                stats: Stats {
                    in_use,
                    cached: reserved - in_use,
                    reserved,
                    reserved_peak: self.stock.reserved_peak(),
                },
                arenas,
                caches,
                direct,
            }
        })
    }
}

fn slot_bytes(arenas: &[ArenaMap], which: impl Fn(SlotState) -> bool) -> usize {
    let spans = arenas.iter().flat_map(|arena| &arena.spans);
    spans
        .map(|span| span.class_bytes * span.slots.iter().filter(|slot| which(**slot)).count())
        .sum()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{
        memory::PoolOptions,
        sync::{Exclusive, Shared},
    };

    fn check(map: &Map) {
        let Stats {
            in_use,
            cached,
            reserved,
            ..
        } = map.stats;
        assert_eq!(in_use + cached, reserved);
        let mapped: usize = map.direct.iter().map(|mapping| mapping.bytes).sum();
        let in_caches: usize = map.caches.iter().map(CacheMap::bytes).sum();
        let central = slot_bytes(&map.arenas, |state| state == SlotState::Cached);
        let out = slot_bytes(&map.arenas, |state| state == SlotState::Out);
        assert_eq!(reserved, mapped + central + out);
        assert_eq!(cached, central + in_caches);
        for arena in &map.arenas {
            let spans: usize = arena.spans.iter().map(|span| span.bytes).sum();
            let free: usize = arena.free.iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(spans + free, arena.bytes, "{arena:?}");
            assert!(arena.spans.is_sorted_by_key(|span| span.base));
            for span in &arena.spans {
                assert!(arena.base <= span.base);
                assert!(span.base + span.bytes <= arena.base + arena.bytes);
                assert!(span.slots.len() * span.class_bytes <= span.bytes);
            }
        }
    }

    fn draws_what_is_there<M: PoolMode>(mode: M, max_bytes: Option<usize>) {
        let pool = Pool::new(
            mode,
            PoolOptions {
                max_bytes,
                ..PoolOptions::default()
            },
        );
        check(&pool.map());
        let mut blocks = Vec::new();
        for nbytes in [64, 64, 1000, 5000, 65_536, 65_536, 300_000, (1 << 20) + 1] {
            blocks.push(pool.try_acquire(nbytes).unwrap());
            check(&pool.map());
            assert_eq!(pool.map().stats, pool.stats());
        }
        let map = pool.map();
        assert_eq!(map.direct.len(), 1);
        assert_eq!(map.stats.cached, 0);
        let classes: Vec<_> = {
            let spans = map.arenas.iter().flat_map(|arena| &arena.spans);
            spans
                .map(|span| (span.class_bytes, span.count(SlotState::Out)))
                .collect()
        };
        assert!(
            classes.contains(&(64, 2)) && classes.contains(&(5120, 1)),
            "{classes:?}"
        );
        for block in blocks {
            // SAFETY: each goes back once.
            unsafe { pool.release(block) };
            check(&pool.map());
            assert_eq!(pool.map().stats, pool.stats());
        }
        let map = pool.map();
        assert_eq!((map.stats.in_use, map.direct.len()), (0, 0));
        if max_bytes.is_none() {
            assert_eq!(map.caches[0].bins[0], (64, 2));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic without end, and nothing unsafe")]
    fn a_picture_shows_what_is_there_and_its_sums_are_exact() {
        for max_bytes in [None, Some(4 << 20)] {
            draws_what_is_there(Shared, max_bytes);
            // SAFETY: this thread is the only one that sees the pool.
            draws_what_is_there(unsafe { Exclusive::promise() }, max_bytes);
        }
    }

    #[test]
    fn a_picture_of_a_pool_in_use_by_threads_is_consistent() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let pool = Pool::new(Shared, PoolOptions::default());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for nbytes in [64, 1000] {
                let (pool, over) = (&pool, &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let blocks: Vec<_> = (0..if cfg!(miri) { 5 } else { 100 })
                            .map(|_| pool.try_acquire(nbytes).unwrap())
                            .collect();
                        for block in blocks {
                            // SAFETY: each goes back once.
                            unsafe { pool.release(block) };
                        }
                    }
                });
            }
            for _ in 0..if cfg!(miri) { 5 } else { 200 } {
                check(&pool.map());
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn slots_on_their_way_home_are_in_the_picture() {
        let pool = Pool::new(Shared, PoolOptions::default());
        let blocks: Vec<_> = (0..3).map(|_| pool.try_acquire(100).unwrap()).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for block in blocks {
                    // SAFETY: each goes back once.
                    unsafe { pool.release(block) };
                }
            });
        });
        let map = pool.map();
        check(&map);
        let sent: Vec<_> = map
            .caches
            .iter()
            .map(|cache| (cache.remote_slots, cache.remote_bytes))
            .collect();
        assert!(sent.contains(&(3, 3 * 128)), "{sent:?}");
    }
}
