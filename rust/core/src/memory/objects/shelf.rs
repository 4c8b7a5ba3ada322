//! One shelf: some of the idle objects, and who was taken from here.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    mem,
};

use crate::sync::{Guarded, Mode, Ordering, Word};

/// What a shelf may have.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Idle,
    Victims,
    Out,
}

impl Part {
    const fn bit(self) -> u64 {
        1 << self as u64
    }
}

/// A shelf, and what can be told of it from outside its lock.
pub struct Stripe<T, M: Mode> {
    pub shelf: Guarded<Shelf<T>, M>,
    /// The [bits](Part::bit) of what is there. Written under the lock, read by those who decide whether to take it.
    parts: M::Word,
}

impl<T, M: Mode> Stripe<T, M> {
    pub fn new(room: usize) -> Self {
        Self {
            shelf: Guarded::new(Shelf::new(room)),
            parts: M::Word::new(0),
        }
    }

    /// Calls `action` under the lock. It drops no object and runs no foreign code.
    #[inline]
    pub fn with<R>(&self, action: impl FnOnce(&mut Shelf<T>) -> R) -> R {
        self.shelf.with(|shelf| {
            let result = action(shelf);
            debug_assert!(
                shelf.held() <= shelf.room,
                "more idle than there is room for"
            );
            if M::SHARED {
                // Ordering: Relaxed, see `may_have`.
                self.parts.store(shelf.parts(), Ordering::Relaxed);
            }
            result
        })
    }

    /// Whether a look is worth while. An idle object that was put here a moment ago may be missed. One that is out
    /// is not: whoever has it to give back got it, by some way that orders, from the thread that took it.
    pub fn may_have(&self, part: Part) -> bool {
        // Ordering: Relaxed, no object is reached by it: that needs the lock.
        !M::SHARED || self.parts.load(Ordering::Relaxed) & part.bit() != 0
    }
}

pub struct Shelf<T> {
    pub idle: Vec<T>,
    /// Idle since before the last full collection.
    pub victims: Vec<T>,
    /// How many may be on it.
    pub room: usize,
    /// One that is out and not in `out`: an object that comes back before the next one is taken needs no table.
    first_out: Option<usize>,
    /// How often each other identity is out: more than once where one object is handed out as several.
    out: HashMap<usize, usize, BuildHasherDefault<AddressHasher>>,
    /// How many are in use: less than zero if more were discarded here than were taken from here.
    pub in_use: isize,
    pub created: usize,
}

impl<T> Shelf<T> {
    fn new(room: usize) -> Self {
        Self {
            idle: Vec::new(),
            victims: Vec::new(),
            room,
            first_out: None,
            out: HashMap::default(),
            in_use: 0,
            created: 0,
        }
    }

    #[inline]
    pub fn held(&self) -> usize {
        self.idle.len() + self.victims.len()
    }

    #[inline]
    pub fn has_room(&self) -> bool {
        self.held() < self.room
    }

    #[inline]
    pub fn lend(&mut self, identity: usize) {
        self.in_use += 1;
        if self.first_out.is_none() {
            self.first_out = Some(identity);
        } else {
            self.lend_another(identity);
        }
    }

    #[cold]
    fn lend_another(&mut self, identity: usize) {
        *self.out.entry(identity).or_insert(0) += 1;
    }

    /// Whether it was out.
    #[inline]
    pub fn remove(&mut self, identity: usize) -> bool {
        if self.first_out == Some(identity) {
            self.first_out = None;
            return true;
        }
        !self.out.is_empty() && self.remove_another(identity)
    }

    #[cold]
    fn remove_another(&mut self, identity: usize) -> bool {
        let Entry::Occupied(mut times) = self.out.entry(identity) else {
            return false;
        };
        *times.get_mut() -= 1;
        if *times.get() == 0 {
            times.remove();
        }
        true
    }

    /// What has this identity is out no more, however often it was.
    pub fn forget_all(&mut self, identity: usize) {
        if self.first_out == Some(identity) {
            self.first_out = None;
            self.in_use -= 1;
        }
        if let Some(times) = self.out.remove(&identity) {
            self.in_use -= times.cast_signed();
        }
    }

    pub fn pop(&mut self, part: Part) -> Option<T> {
        match part {
            Part::Idle => self.idle.pop(),
            Part::Victims => self.victims.pop(),
            Part::Out => None,
        }
    }

    pub fn age(&mut self) -> Vec<T> {
        mem::replace(&mut self.victims, mem::take(&mut self.idle))
    }

    /// Half of the room that it does not need, at least one place if there is one.
    pub fn give_up_room(&mut self) -> usize {
        let given = (self.room - self.held()).div_ceil(2);
        self.room -= given;
        given
    }

    #[inline]
    fn parts(&self) -> u64 {
        let bit = |is_there, part: Part| if is_there { part.bit() } else { 0 };
        bit(!self.idle.is_empty(), Part::Idle)
            | bit(!self.victims.is_empty(), Part::Victims)
            | bit(self.first_out.is_some() || !self.out.is_empty(), Part::Out)
    }
}

/// Spreads addresses, whose low bits are all alike, over all bits: Fibonacci hashing.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("an identity is a usize");
    }

    #[inline]
    fn write_usize(&mut self, identity: usize) {
        let product = (identity as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15); // 2^64 / golden ratio
        self.0 = product ^ (product >> 32);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}
