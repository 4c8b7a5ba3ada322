//! Objects that are costly to make, kept for the next one who needs one. The idea is Go's `sync.Pool`.
//!
//! An object is out, or idle, or not known here. The idle ones are on shelves, one for each thread (or, where callers
//! exclude each other anyway, one for all). A shelf has a lock of its own, which only its thread takes while there is
//! something on it, so it is never waited for and never leaves its CPU's cache. Who finds nothing looks on the others'
//! shelves, and who still finds nothing makes one. What comes back goes to the shelf that it was taken from.
//!
//! ```text
//!   made ──> out ──give_back──> idle ──age──> victim ──age──> let go
//!             ^                  │              │
//!             └──────take────────┴──────────────┘
//! ```
//!
//! [`age`](Objects::age) is called at each full collection. What was idle over two of them is let go: one alone would
//! empty the pool at every collection, also in the middle of the busiest time. A victim is taken only when nobody has
//! an idle one, so that a surplus gets old.
//!
//! Who is out is known by identity, so what was never here, and what came back already, is refused
//! (an object that was handed on twice would have two users). The pool has no reference to what is out: it may be
//! dropped instead of given back, and its identity may be that of a new object later. So whoever makes an object says
//! whether it can be one that is out, and if not, an old entry for its identity is forgotten.
//!
//! # Invariants
//! - `idle + victims <= room` on each shelf, and the rooms of all, with `spare`, are `max_idle`. A full shelf takes
//!   room from `spare`, then from shelves that have some left; so the bound is exact, and no counter is shared.
//! - An identity is in the `out` of one shelf per time that it is out.
//! - The lock of `spare` is taken before that of a shelf, and two shelves' locks only under it.
//!
//! Why the shelves have locks, where Go's have none: a goroutine cannot be taken off its processor while it is at one,
//! and Go's collector ages them while the world is stopped. Here what a thread keeps to itself could not be aged while
//! it sleeps, nor be had by one that starves; and the bound and the refusal would not be exact.

mod shelf;
mod thread_number;

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;

use self::shelf::{Part, Shelf, Stripe};
use crate::sync::{CachePadded, Guarded, Mode};

/// What tells one object from another: its address, say.
pub trait Identity {
    fn identity(&self) -> usize;
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectStats {
    /// Taken, and neither given back nor forgotten.
    pub in_use: usize,
    pub idle: usize,
    /// Made since the pool was.
    pub created: usize,
}

/// What became of an object that was to be given back.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Returned<T> {
    Kept,
    /// As many are idle as may be.
    Full(T),
    /// It is not out: it never was, or came back already.
    NotOut(T),
}

/// An object that is out has left this shelf, to which it is to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home(usize);

/// The most room that a shelf takes at once.
const CHUNK_MAX: usize = 32;

/// Idle objects, and who is out.
pub struct Objects<T, M: Mode> {
    /// A power of two of them.
    stripes: Box<[CachePadded<Stripe<T, M>>]>,
    /// The room that no shelf has.
    spare: Guarded<usize, M>,
    max_idle: usize,
}

impl<T: Identity, M: Mode> Objects<T, M> {
    /// An empty pool. `_mode` is the proof that the mode's rule is kept.
    pub fn new(_mode: M, max_idle: usize) -> Self {
        Self::with_shelves(if M::SHARED { shelves() } else { 1 }, max_idle)
    }

    fn with_shelves(count: usize, max_idle: usize) -> Self {
        debug_assert!(count.is_power_of_two());
        let only = count == 1;
        let room = if only { max_idle } else { 0 };
        Self {
            stripes: (0..count).map(|_| CachePadded(Stripe::new(room))).collect(),
            spare: Guarded::new(max_idle - room),
            max_idle,
        }
    }

    pub fn max_idle(&self) -> usize {
        self.max_idle
    }

    /// An idle object, which is out from now on.
    #[inline]
    pub fn take(&self) -> Option<T> {
        self.take_at(self.here())
    }

    /// A new object is out from now on. `is_new`: none that is out has its identity, so what was is gone.
    pub fn made(&self, object: &T, is_new: bool) {
        self.made_at(self.here(), object, is_new);
    }

    /// A new object is idle from now on, unless there is no room.
    pub fn stock(&self, object: T, is_new: bool) -> Result<(), T> {
        let here = self.here();
        if is_new {
            self.forget_gone(object.identity());
        }
        self.stripes[here].with(|shelf| shelf.created += 1);
        self.put(here, object)
    }

    /// Puts an object that is out back among the idle.
    #[inline]
    pub fn give_back(&self, object: T) -> Returned<T> {
        self.give_back_at(self.here(), object)
    }

    /// The same in two steps, for who has to do something to the object in between, in which it is still in use and
    /// already back for everybody else. `None`: it is not out.
    #[must_use]
    pub fn begin_return(&self, identity: usize) -> Option<Home> {
        self.find(self.here(), |shelf| shelf.remove(identity))
    }

    /// The second step, unless that is [`discard`](Self::discard). `Err`: as many are idle as may be.
    pub fn finish_return(&self, home: Home, object: T) -> Result<(), T> {
        self.discard(home);
        self.put(home.0, object)
    }

    /// The second step where the object is not to be used again.
    pub fn discard(&self, home: Home) {
        self.stripes[home.0].with(|shelf| shelf.in_use -= 1);
    }

    /// Forgets an object that is out and will not come back.
    pub fn forget(&self, identity: usize) {
        if let Some(home) = self.begin_return(identity) {
            self.discard(home);
        }
    }

    /// Makes victims of the idle, and gives up the victims: the caller drops them.
    #[must_use = "the caller drops them"]
    pub fn age(&self) -> Vec<T> {
        self.collect(Shelf::age)
    }

    /// Gives up all that is idle.
    #[must_use = "the caller drops them"]
    pub fn drain(&self) -> Vec<T> {
        self.collect(|shelf| {
            let mut all = std::mem::take(&mut shelf.idle);
            all.append(&mut shelf.victims);
            all
        })
    }

    pub fn stats(&self) -> ObjectStats {
        let mut in_use = 0_isize;
        let mut stats = ObjectStats::default();
        for stripe in &self.stripes {
            stripe.with(|shelf| {
                in_use += shelf.in_use;
                stats.idle += shelf.held();
                stats.created += shelf.created;
            });
        }
        // Between one shelf and the next an object may have moved.
        stats.in_use = in_use.max(0).cast_unsigned();
        stats
    }

    /// Shows all that is idle.
    ///
    /// # Safety
    /// Nobody else uses the pool meanwhile.
    pub unsafe fn visit_in_stopped_world<E>(
        &self,
        mut visit: impl FnMut(&T) -> Result<(), E>,
    ) -> Result<(), E> {
        for stripe in &self.stripes {
            // SAFETY: as promised by the caller.
            let content = unsafe { stripe.shelf.get_in_stopped_world() };
            content
                .idle
                .iter()
                .chain(&content.victims)
                .try_for_each(&mut visit)?;
        }
        Ok(())
    }

    /// The number of the caller's shelf.
    #[inline]
    fn here(&self) -> usize {
        if M::SHARED {
            thread_number::current() & (self.stripes.len() - 1)
        } else {
            0
        }
    }

    #[inline]
    fn take_at(&self, here: usize) -> Option<T> {
        let taken = self.stripes[here].with(|shelf| {
            let object = shelf.idle.pop()?;
            shelf.lend(object.identity());
            Some(object)
        });
        taken.or_else(|| self.take_elsewhere(here))
    }

    #[cold]
    fn take_elsewhere(&self, here: usize) -> Option<T> {
        let object = [Part::Idle, Part::Victims].into_iter().find_map(|part| {
            self.all_from(here)
                .filter(|&number| self.stripes[number].may_have(part))
                .find_map(|number| self.stripes[number].with(|shelf| shelf.pop(part)))
        })?;
        self.stripes[here].with(|shelf| shelf.lend(object.identity()));
        Some(object)
    }

    fn made_at(&self, here: usize, object: &T, is_new: bool) {
        if is_new {
            self.forget_gone(object.identity());
        }
        self.stripes[here].with(|shelf| {
            shelf.created += 1;
            shelf.lend(object.identity());
        });
    }

    #[inline]
    fn give_back_at(&self, here: usize, object: T) -> Returned<T> {
        let identity = object.identity();
        let mut object = Some(object);
        let home = self.find(here, |shelf| {
            let found = shelf.remove(identity);
            if found {
                shelf.in_use -= 1;
                if shelf.has_room() {
                    shelf.idle.extend(object.take());
                }
            }
            found
        });
        match (object, home) {
            (None, _) => Returned::Kept,
            (Some(object), None) => Returned::NotOut(object),
            (Some(object), Some(home)) => match self.put(home.0, object) {
                Ok(()) => Returned::Kept,
                Err(object) => Returned::Full(object),
            },
        }
    }

    /// The shelf where `found` says that it is the one, the caller's first.
    #[inline]
    fn find(&self, here: usize, mut found: impl FnMut(&mut Shelf<T>) -> bool) -> Option<Home> {
        if self.stripes[here].with(&mut found) {
            return Some(Home(here));
        }
        self.find_elsewhere(here, found)
    }

    #[cold]
    fn find_elsewhere(
        &self,
        here: usize,
        mut found: impl FnMut(&mut Shelf<T>) -> bool,
    ) -> Option<Home> {
        self.all_from(here)
            .skip(1)
            .filter(|&number| self.stripes[number].may_have(Part::Out))
            .find(|&number| self.stripes[number].with(&mut found))
            .map(Home)
    }

    /// What had this identity is gone: it was dropped while it was out.
    fn forget_gone(&self, identity: usize) {
        for stripe in &self.stripes {
            if stripe.may_have(Part::Out) {
                stripe.with(|shelf| shelf.forget_all(identity));
            }
        }
    }

    /// Puts an object on a shelf, if there is room on any.
    fn put(&self, home: usize, object: T) -> Result<(), T> {
        let mut object = Some(object);
        loop {
            self.stripes[home].with(|shelf| {
                if shelf.has_room() {
                    shelf.idle.extend(object.take());
                }
            });
            match object.take() {
                None => return Ok(()),
                // Another thread may use up the new room first; then this tries again.
                Some(refused) if self.widen(home) => object = Some(refused),
                Some(refused) => return Err(refused),
            }
        }
    }

    /// Gets more room for a shelf that has none left. `false`: there is none anywhere.
    #[cold]
    fn widen(&self, home: usize) -> bool {
        if self.stripes.len() == 1 {
            return false;
        }
        let chunk = (self.max_idle / (4 * self.stripes.len())).clamp(1, CHUNK_MAX);
        self.spare.with(|spare| {
            let mut more = chunk.min(*spare);
            *spare -= more;
            if more == 0 {
                more = self
                    .all_from(home)
                    .map(|number| self.stripes[number].with(Shelf::give_up_room))
                    .find(|&room| room > 0)
                    .unwrap_or(0);
            }
            // INVARIANT: what left `spare` or a shelf is added here, under the lock of `spare`.
            self.stripes[home].with(|shelf| shelf.room += more);
            more > 0
        })
    }

    /// The numbers of all shelves, `first` first.
    fn all_from(&self, first: usize) -> impl Iterator<Item = usize> + use<T, M> {
        let count = self.stripes.len();
        (0..count).map(move |step| (first + step) & (count - 1))
    }

    fn collect(&self, mut from: impl FnMut(&mut Shelf<T>) -> Vec<T>) -> Vec<T> {
        let mut all = Vec::new();
        for stripe in &self.stripes {
            all.append(&mut stripe.with(&mut from));
        }
        all
    }
}

impl<T, M: Mode> std::fmt::Debug for Objects<T, M> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Objects").finish_non_exhaustive()
    }
}

/// How many shelves: two for each CPU, so that a thread has one for itself unless many more run than can.
fn shelves() -> usize {
    use std::sync::OnceLock;
    static SHELVES: OnceLock<usize> = OnceLock::new();
    *SHELVES.get_or_init(|| {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        (2 * cpus).next_power_of_two().min(thread_number::COUNT)
    })
}
