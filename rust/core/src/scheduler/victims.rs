//! In which order a thief looks at the queues of others: a pure function of the layout and of random numbers, which the
//! scheduler and its simulator share.
//!
//! Near workers (of the same cache, then of the same node) are all looked at, each ring from a random start: a fixed
//! one would send all thieves to the same victim. Far ones are *sampled*: ring `r` of them, counted from 1, is
//! picked with a weight of `1/r²`, and each worker of a ring alike. So most looks go to the nearest, and a machine with
//! many nodes is not swept by each thief. A complete sweep of the far ones, the nearest first, comes only
//! where a thief would give up otherwise.
//!
//! Source: libfork's NUMA-aware scheduler, for the rings and their weights.

use crate::topology::{Layout, Ring};

/// Random numbers that are good enough to scatter thieves, at three instructions each (xorshift, Marsaglia 2003).
///
/// # Invariants
/// The state is not 0, which would stay 0.
#[derive(Clone, Copy, Debug)]
pub struct Random(u32);

impl Default for Random {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Random {
    /// Another sequence for each seed, but for the lowest bit.
    pub fn new(seed: u32) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9) | 1)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % limit
    }
}

/// The others as one thief sees them.
#[derive(Clone, Copy, Debug)]
pub struct Victims<'a> {
    rings: &'a [Ring],
    /// How many of `rings` are near; they come first.
    near: usize,
    /// How many workers there are.
    count: usize,
}

impl<'a> Victims<'a> {
    /// As `thief`, one of the first `count` workers of `layout`, sees them.
    pub fn of(layout: &'a Layout, thief: usize, count: usize) -> Self {
        let rings = layout.rings(thief);
        Self {
            rings,
            near: rings.partition_point(|ring| !ring.is_far),
            count,
        }
    }

    /// All near ones, the thief included: it finds nothing with itself.
    pub fn near(self, random: &mut Random) -> impl Iterator<Item = usize> {
        self.sweep(&self.rings[..self.near], random)
    }

    /// All far ones, the nearest first.
    pub fn far(self, random: &mut Random) -> impl Iterator<Item = usize> {
        self.sweep(&self.rings[self.near..], random)
    }

    /// One of the far ones, more often one that is less far; `None` where there is none.
    pub fn sample_far(self, random: &mut Random) -> Option<usize> {
        // Of rings without a worker nothing is weighed, so that the others are not looked at more rarely for them.
        let weighed = || {
            let rings = self.rings[self.near..].iter();
            let filled = rings
                .map(|ring| ring.among(self.count))
                .filter(|ring| !ring.is_empty());
            (1..)
                .zip(filled)
                .map(|(number, ring)| (WEIGHT / (number * number), ring))
        };
        let total: usize = weighed().map(|(weight, _)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut mark = random.below(total);
        for (weight, ring) in weighed() {
            if mark < weight {
                return Some(ring[random.below(ring.len())] as usize);
            }
            mark -= weight;
        }
        unreachable!("the mark is below the sum of the weights")
    }

    /// Whether there is anybody far.
    pub fn has_far(self) -> bool {
        let mut rings = self.rings[self.near..].iter();
        rings.any(|ring| !ring.among(self.count).is_empty())
    }

    /// How many are near, the thief included. So many far ones it samples before it looks at the near ones again: half of
    /// its looks stay near, however large the machine.
    pub fn near_count(self) -> usize {
        let rings = self.rings[..self.near].iter();
        rings.map(|ring| ring.among(self.count).len()).sum()
    }

    fn sweep(self, rings: &'a [Ring], random: &mut Random) -> impl Iterator<Item = usize> {
        rings.iter().flat_map(move |ring| {
            let ring = ring.among(self.count);
            let start = random.below(ring.len().max(1));
            let (before, from) = ring.split_at(start);
            from.iter().chain(before).map(|worker| *worker as usize)
        })
    }
}

/// The weight of the nearest ring of far ones. There are never so many rings that the last has none.
const WEIGHT: usize = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{CpuSet, Node, Pin, Topology};

    /// Four nodes in a line, with two workers each; the next is 20 away, the others more.
    fn line() -> Layout {
        let node = |id: u32| Node {
            cpus: CpuSet::parse_list(&format!("{}-{}", 2 * id, 2 * id + 1)).unwrap(),
            distances: (0..4)
                .map(|other| (other, 10 + 10 * id.abs_diff(other)))
                .collect(),
            ..Node::new(id)
        };
        let topology = Topology::new((0..4).map(node).collect()).unwrap();
        Layout::new(&topology, &topology.cpus(), Pin::Off, 8)
    }

    #[test]
    fn a_sweep_meets_each_once_the_nearest_first() {
        let layout = line();
        let mut random = Random::new(7);
        for thief in 0..8 {
            let victims = Victims::of(&layout, thief, 8);
            let near: Vec<_> = victims.near(&mut random).collect();
            assert!(
                near.iter().all(|victim| victim % 4 == thief % 4),
                "{near:?}"
            );
            let far: Vec<_> = victims.far(&mut random).collect();
            let distance = |victim: &usize| (victim % 4).abs_diff(thief % 4);
            assert!(far.is_sorted_by_key(distance), "{far:?}");
            let mut all = [near, far].concat();
            all.sort_unstable();
            assert_eq!(all, (0..8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_sweep_begins_anywhere_in_its_ring() {
        let layout = Layout::flat(5);
        let mut random = Random::new(1);
        let victims = Victims::of(&layout, 0, 5);
        let mut first = [0; 5];
        for _ in 0..1000 {
            first[victims.near(&mut random).next().unwrap()] += 1;
        }
        assert!(first.iter().all(|count| *count > 100), "{first:?}");
    }

    #[test]
    fn the_nearer_ring_is_sampled_more_by_the_square_of_its_number() {
        let layout = line();
        let mut random = Random::new(3);
        let mut by_node = [0_u32; 4];
        for _ in 0..49_000 {
            let victim = Victims::of(&layout, 0, 8).sample_far(&mut random).unwrap();
            by_node[victim % 4] += 1;
        }
        // 1, 1/4 and 1/9 of 49/36.
        assert_eq!(by_node[0], 0);
        for (count, expected) in by_node[1..].iter().zip([36_000, 9_000, 4_000]) {
            assert!(count.abs_diff(expected) < expected / 20, "{by_node:?}");
        }
    }

    #[test]
    fn workers_that_are_not_there_are_never_victims() {
        let layout = line();
        let mut random = Random::new(5);
        let victims = Victims::of(&layout, 0, 3);
        assert_eq!(victims.near(&mut random).collect::<Vec<_>>(), [0]);
        assert_eq!(victims.far(&mut random).collect::<Vec<_>>(), [1, 2]);
        assert!((0..1000).all(|_| victims.sample_far(&mut random).unwrap() < 3));
        let alone = Victims::of(&layout, 0, 1);
        assert_eq!(alone.sample_far(&mut random), None);
        assert_eq!(alone.far(&mut random).count(), 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_order() {
        let layout = line();
        let order = |seed| {
            let mut random = Random::new(seed);
            let victims = Victims::of(&layout, 2, 8);
            let samples: Vec<_> = (0..20).map(|_| victims.sample_far(&mut random)).collect();
            (samples, victims.far(&mut random).collect::<Vec<_>>())
        };
        assert_eq!(order(9), order(9));
        assert_ne!(order(9), order(12));
    }
}
