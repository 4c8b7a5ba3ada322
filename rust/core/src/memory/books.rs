//! What one lock of a pool guards: the lists of a node, the budget, and who waits for it.
//!
//! A pool without a limit has a lock per node, so that nodes do not meet. A pool with one has a single lock over all
//! its nodes: the budget spans them, and is exact.
//!
//! Waiters are served strictly in order: freed bytes go to the longest waiter as soon as its request
//! fits, and until then to nobody, newcomers included. Otherwise a stream of small requests would starve
//! a large one for ever.
//!
//! The budget counts what is in use, not what is cached: cached slots of other classes and nodes are forgotten
//! (their pages go back to the system) before anybody has to wait. Invariants, in bytes:
//! - `cached <= reserved <= limit`;
//! - while the first waiter's request fits `limit - (reserved - cached)`, the lock is held by someone who
//!   is about to serve it, or the waiter has ended and its owner is on its way to take it off the list.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    cache::Slot,
    central::Central,
    map::DirectMap,
    mapping::{Backing, Denied, Mapping, page_bytes},
    pool::Block,
    size_class::{LARGEST, SizeClass},
};
use crate::wait::{Claim, WaiterList};

/// What a waiter's entry holds: first its request, then what became of it.
#[derive(Debug)]
pub enum Stake {
    Wants {
        nbytes: usize,
        /// Where it should lie, as an index.
        node: usize,
    },
    Holds(Block),
    Failed(io::Error),
}

/// What a request turns into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Class(SizeClass),
    /// A mapping of this many bytes.
    Direct(usize),
}

impl Size {
    /// `None`: no address space is that large.
    #[inline]
    pub fn of(nbytes: usize) -> Option<Self> {
        match SizeClass::of(nbytes) {
            Some(class) => Some(Self::Class(class)),
            None => Self::direct(nbytes),
        }
    }

    #[cold]
    fn direct(nbytes: usize) -> Option<Self> {
        debug_assert!(nbytes > LARGEST);
        nbytes
            .checked_next_multiple_of(page_bytes())
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .map(Self::Direct)
    }

    /// What it counts for.
    pub fn bytes(self) -> usize {
        match self {
            Self::Class(class) => class.bytes(),
            Self::Direct(bytes) => bytes,
        }
    }
}

/// Why there is nothing to hand out.
#[derive(Debug)]
pub enum Refused {
    /// It does not fit the budget now.
    Full,
    Failed(io::Error),
}

/// How much a pool has reserved, on all nodes, and the most it ever had. Not from `sync`: figures, nothing is
/// ordered by them.
#[derive(Debug, Default)]
pub struct Level {
    /// Written under the lock of the books that change it.
    now: AtomicUsize,
    /// Likewise; whoever looks at it holds all the locks.
    peak: AtomicUsize,
}

impl Level {
    pub fn rise(&self, bytes: usize) {
        // Ordering: Relaxed throughout, figures that whoever reads them gets through the locks.
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    pub fn fall(&self, bytes: usize) {
        // Ordering: Relaxed, as in `rise`.
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn peak(&self) -> usize {
        // Ordering: Relaxed, as in `rise`.
        self.peak.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Direct {
    bytes: usize,
    /// An index.
    node: usize,
}

/// The part of a pool that one lock guards.
#[derive(Debug)]
pub struct Books {
    /// The lists of one node, or of all of them, in order.
    centrals: Vec<Central>,
    /// The direct mappings, by address: the whole pool's are in its first books.
    direct: BTreeMap<usize, Direct>,
    /// Their bytes.
    mapped: usize,
    /// How memory of each node of the pool is mapped.
    backings: Vec<Backing>,
    limit: usize,
    level: Arc<Level>,
    /// Of direct mappings; the lists know their own.
    denied: Denied,
    pub waiters: WaiterList<Stake>,
}

impl Books {
    /// Books of the nodes `which`, indices into `backings` that follow each other.
    pub fn new(
        which: Range<usize>,
        backings: Vec<Backing>,
        limit: usize,
        level: &Arc<Level>,
    ) -> Self {
        let central = |node| Central::new(node, backings[node], Arc::clone(level));
        Self {
            centrals: which.map(central).collect(),
            direct: BTreeMap::new(),
            mapped: 0,
            backings,
            limit,
            level: Arc::clone(level),
            denied: Denied::default(),
            waiters: WaiterList::default(),
        }
    }

    pub fn centrals(&self) -> &[Central] {
        &self.centrals
    }

    pub fn centrals_mut(&mut self) -> &mut [Central] {
        &mut self.centrals
    }

    /// The lists of `node`, which is one of these.
    pub fn central(&mut self, node: usize) -> &mut Central {
        let first = self.centrals[0].node();
        &mut self.centrals[node - first]
    }

    pub fn reserved(&self) -> usize {
        self.centrals.iter().map(Central::reserved).sum::<usize>() + self.mapped
    }

    pub fn cached(&self) -> usize {
        self.centrals.iter().map(Central::cached).sum()
    }

    /// Bytes of the direct mappings of a node.
    pub fn mapped_on(&self, node: usize) -> usize {
        let mappings = self.direct.values();
        mappings
            .filter(|mapping| mapping.node == node)
            .map(|mapping| mapping.bytes)
            .sum()
    }

    /// What the system has not done for anything in these books.
    pub fn denied(&self) -> Denied {
        let mut denied = self.denied;
        for central in &self.centrals {
            denied |= central.denied();
        }
        denied
    }

    /// Takes a slot of `class` on `node`, from what is cached there if it can.
    pub fn take_slot(&mut self, class: SizeClass, node: usize) -> Result<Slot, Refused> {
        if let Some(slot) = self.central(node).take_cached(class) {
            return Ok(slot);
        }
        self.make_room(class.bytes())?;
        self.central(node).take_bare(class).map_err(Refused::Failed)
    }

    /// Takes memory for `nbytes` on `node`.
    pub fn take(&mut self, nbytes: usize, size: Size, node: usize) -> Result<Block, Refused> {
        match size {
            Size::Class(class) => {
                let slot = self.take_slot(class, node)?;
                Ok(Block::of_slot(slot, nbytes))
            }
            Size::Direct(bytes) => {
                self.make_room(bytes)?;
                let (mapping, denied) =
                    Mapping::backed(bytes, self.backings[node]).map_err(Refused::Failed)?;
                self.denied |= denied;
                self.direct
                    .insert(mapping.base().addr().get(), Direct { bytes, node });
                self.mapped += bytes;
                self.level.rise(bytes);
                Ok(Block::of_mapping(mapping, nbytes))
            }
        }
    }

    /// The direct mapping at `base` is about to go. Returns its bytes.
    pub fn unmap(&mut self, base: NonNull<u8>) -> usize {
        let mapping = self.direct.remove(&base.addr().get());
        let bytes = mapping
            .expect("a direct mapping is listed until it is given up")
            .bytes;
        self.mapped -= bytes;
        self.level.fall(bytes);
        bytes
    }

    /// The direct mappings, in the order of their addresses. `id` says how users know a node.
    pub fn direct(&self, id: impl Fn(usize) -> u32) -> Vec<DirectMap> {
        let mappings = self.direct.iter();
        mappings
            .map(|(&base, mapping)| DirectMap {
                node: id(mapping.node),
                base,
                bytes: mapping.bytes,
            })
            .collect()
    }

    /// Hands memory to those who wait for it, in order, as long as the next request fits. The claims are
    /// completed by the caller after it has let go of the lock.
    pub fn serve(&mut self, woken: &mut Vec<Claim>) {
        while !self.waiters.is_empty() {
            let room = self.room();
            let mut wanted = (0, 0);
            let fits = |stake: Option<&Stake>| {
                let Some(&Stake::Wants { nbytes, node }) = stake else {
                    unreachable!("a linked entry holds its request");
                };
                wanted = (nbytes, node);
                Size::of(nbytes).is_none_or(|size| size.bytes() <= room)
            };
            // SAFETY: while an entry is linked, its slot is touched under the lock alone.
            let first = unsafe { self.waiters.claim_first_if(fits) };
            let Some((entry, claim)) = first else {
                return;
            };
            let (nbytes, node) = wanted;
            let stake = match Size::of(nbytes).map(|size| self.take(nbytes, size, node)) {
                Some(Ok(block)) => Stake::Holds(block),
                Some(Err(Refused::Failed(error))) => Stake::Failed(error),
                Some(Err(Refused::Full)) => unreachable!("it fits, as was just seen"),
                None => Stake::Failed(io::ErrorKind::OutOfMemory.into()),
            };
            // SAFETY: the claim is held, so the slot is ours.
            unsafe {
                entry.take();
                entry.put(stake);
            }
            woken.push(claim);
        }
    }

    /// What may still be in use.
    pub fn room(&self) -> usize {
        self.limit - (self.reserved() - self.cached())
    }

    /// Sees to it that `bytes` more may be reserved.
    fn make_room(&mut self, bytes: usize) -> Result<(), Refused> {
        if self.limit == usize::MAX {
            return Ok(());
        }
        let over = (self.reserved().saturating_add(bytes)).saturating_sub(self.limit);
        if over > self.cached() {
            return Err(Refused::Full);
        }
        let mut left = over;
        for central in &mut self.centrals {
            left = left.saturating_sub(central.forget(left));
        }
        Ok(())
    }
}
