//! Where each worker sits: its node, the CPUs it is bound to, and who is how far from it.
//!
//! A pure function of a topology, of the CPUs that are ours and of the number of seats, so that the scheduler and a
//! simulator ask the same. A layout of more workers begins with that of fewer (see [`Placement`]): a scheduler makes one
//! for as many workers as it may ever have, and names how many there are when it asks.
//!
//! The others are sorted into *rings* around a worker: those that share its cache, those of its node, then those of
//! other nodes by their distance. Whoever sits in the same place has the same rings, so that they are kept once per
//! place. Caches count only where workers are bound to cores: a worker that wanders over its node has no cache.

use super::{CpuSet, Placement, Topology};

/// To what a worker is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// To nothing.
    #[default]
    Off,
    /// To the CPUs of its node.
    Node,
    /// To one core of its node: all of its CPUs, where it has several.
    Core,
}

/// Workers that are equally far from a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// In order of their numbers.
    workers: Vec<u32>,
    /// They are on other nodes.
    pub is_far: bool,
}

impl Ring {
    /// Those of the first `count` workers that are in it.
    pub fn among(&self, count: usize) -> &[u32] {
        let end = self
            .workers
            .partition_point(|worker| (*worker as usize) < count);
        &self.workers[..end]
    }
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    /// An index into `nodes`.
    node: usize,
    /// An index into `rings`.
    place: usize,
    /// An index into `bounds`; `None`: bound to nothing.
    bound: Option<usize>,
}

/// What is kept of a node.
#[derive(Clone, Debug)]
struct Spot {
    id: u32,
    cpus: CpuSet,
    /// The nodes, this one included, as indices: the nearest first, and of equals the one with the lower id.
    by_distance: Vec<usize>,
    /// How far each is, in the order of the nodes.
    distances: Vec<u32>,
    first_worker: usize,
}

/// Seats for workers.
///
/// # Invariants
/// There is a seat and a node; each index is in range; the rings of a place hold each seat once.
#[derive(Clone, Debug)]
pub struct Layout {
    seats: Vec<Seat>,
    nodes: Vec<Spot>,
    bounds: Vec<CpuSet>,
    rings: Vec<Vec<Ring>>,
    allowed: CpuSet,
}

impl Layout {
    /// Seats for `workers` workers, at least one, on the nodes of `topology`; only on `allowed` CPUs, unless the topology
    /// has none of these (it is made up, say). Workers are then bound to nothing.
    pub fn new(topology: &Topology, allowed: &CpuSet, pin: Pin, workers: usize) -> Self {
        let workers = workers.max(1);
        let placement = Placement::new(topology, allowed, workers);
        let nodes: Vec<Spot> = (0..topology.nodes().len())
            .map(|node| Spot::new(topology, node, placement.nodes()))
            .collect();
        let mut bounds = Vec::new();
        let mut places: Vec<(usize, usize)> = Vec::new(); // node, cache
        let mut binders: Vec<Binder> = topology
            .nodes()
            .iter()
            .map(|node| Binder::new(node, allowed, pin, &mut bounds))
            .collect();
        let seats = placement
            .nodes()
            .iter()
            .map(|&node| {
                let (bound, cache) = binders[node].next();
                let place = places.iter().position(|place| *place == (node, cache));
                let place = place.unwrap_or_else(|| {
                    places.push((node, cache));
                    places.len() - 1
                });
                Seat { node, place, bound }
            })
            .collect::<Vec<_>>();
        let rings = (0..places.len())
            .map(|place| rings(place, &places, &seats, &nodes))
            .collect();
        Self {
            seats,
            nodes,
            bounds,
            rings,
            allowed: allowed.clone(),
        }
    }

    /// Seats of one node, bound to nothing.
    pub fn flat(workers: usize) -> Self {
        let topology = Topology::single_node(CpuSet::new(), 0);
        Self::new(&topology, &CpuSet::new(), Pin::Off, workers)
    }

    pub fn seats(&self) -> usize {
        self.seats.len()
    }

    /// How many nodes there are, those without a worker included.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The node with this id, as an index.
    pub fn node_index(&self, id: u32) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// The id of a node.
    pub fn node_id(&self, node: usize) -> u32 {
        self.nodes[node].id
    }

    /// The node of a CPU.
    pub fn node_of_cpu(&self, cpu: u32) -> Option<usize> {
        self.nodes.iter().position(|node| node.cpus.contains(cpu))
    }

    /// The node of a worker.
    pub fn node_of(&self, worker: usize) -> usize {
        self.seats[worker].node
    }

    /// How far it is from one node to another.
    pub fn distance(&self, from: usize, to: usize) -> u32 {
        self.nodes[from].distances[to]
    }

    /// The nodes, from the nearest to the farthest of `node`, which is the first.
    pub fn by_distance(&self, node: usize) -> &[usize] {
        &self.nodes[node].by_distance
    }

    /// The nearest node that has one of the first `count` workers.
    pub fn home(&self, node: usize, count: usize) -> usize {
        let has_worker = |node: &&usize| self.nodes[**node].first_worker < count.max(1);
        let home = self.by_distance(node).iter().find(has_worker);
        *home.expect("the first worker has a node")
    }

    /// The number of what `worker` is bound to, by which two can be compared; see [`bound`](Self::bound).
    pub fn bound_of(&self, worker: usize) -> Option<usize> {
        self.seats[worker].bound
    }

    /// The CPUs that workers may be bound to, by number.
    pub fn bound(&self, number: usize) -> &CpuSet {
        &self.bounds[number]
    }

    /// The CPUs that are ours.
    pub fn allowed(&self) -> &CpuSet {
        &self.allowed
    }

    /// The rings around `worker`, the nearest first; it is in the first itself.
    pub fn rings(&self, worker: usize) -> &[Ring] {
        &self.rings[self.seats[worker].place]
    }
}

impl Spot {
    fn new(topology: &Topology, at: usize, placed: &[usize]) -> Self {
        let node = &topology.nodes()[at];
        let distances: Vec<u32> = node.distances.values().copied().collect();
        let mut by_distance: Vec<usize> = (0..distances.len()).collect();
        by_distance.sort_by_key(|&other| (other != at, distances[other]));
        Self {
            id: node.id,
            cpus: node.cpus.clone(),
            by_distance,
            distances,
            first_worker: placed
                .iter()
                .position(|node| *node == at)
                .unwrap_or(usize::MAX),
        }
    }
}

/// Binds the workers of one node, one after the other.
struct Binder {
    /// Indices into `bounds`, each with its cache; taken in turns.
    bounds: Vec<(usize, usize)>,
    given: usize,
}

impl Binder {
    fn new(node: &super::Node, allowed: &CpuSet, pin: Pin, bounds: &mut Vec<CpuSet>) -> Self {
        let ours = node.cpus.intersection(allowed);
        let parts = match pin {
            Pin::Off => Vec::new(),
            _ if ours.is_empty() => Vec::new(),
            Pin::Node => vec![ours],
            Pin::Core => split(&ours, &node.cores),
        };
        let cache_of = |cpus: &CpuSet| {
            let first = cpus.first().filter(|_| pin == Pin::Core);
            let cache = |cpu| node.caches.iter().position(|cache| cache.contains(cpu));
            first.and_then(cache).unwrap_or(usize::MAX)
        };
        let bounds = parts
            .into_iter()
            .map(|part| {
                let cache = cache_of(&part);
                bounds.push(part);
                (bounds.len() - 1, cache)
            })
            .collect();
        Self { bounds, given: 0 }
    }

    fn next(&mut self) -> (Option<usize>, usize) {
        if self.bounds.is_empty() {
            return (None, usize::MAX);
        }
        let (bound, cache) = self.bounds[self.given % self.bounds.len()];
        self.given += 1;
        (Some(bound), cache)
    }
}

/// `cpus`, core by core: one that no core names is one by itself.
fn split(cpus: &CpuSet, cores: &[CpuSet]) -> Vec<CpuSet> {
    let mut left = cpus.clone();
    let mut parts = Vec::new();
    for cpu in cpus.iter() {
        if !left.contains(cpu) {
            continue;
        }
        let core = cores.iter().find(|core| core.contains(cpu));
        let part = core.map_or_else(
            || std::iter::once(cpu).collect(),
            |core| core.intersection(&left),
        );
        left = left.difference(&part);
        parts.push(part);
    }
    parts
}

fn rings(place: usize, places: &[(usize, usize)], seats: &[Seat], nodes: &[Spot]) -> Vec<Ring> {
    let (node, _) = places[place];
    let distances = &nodes[node].distances;
    // Same place, same node, other nodes.
    let rank = |seat: &Seat| {
        if seat.node == node {
            (u32::from(seat.place != place), 0)
        } else {
            (2, distances[seat.node])
        }
    };
    let mut ranked: Vec<_> = (0..)
        .zip(seats)
        .map(|(at, seat)| (rank(seat), at))
        .collect();
    ranked.sort_unstable();
    ranked
        .chunk_by(|(a, _), (b, _)| a == b)
        .map(|ring| Ring {
            workers: ring.iter().map(|(_, worker)| *worker).collect(),
            is_far: ring[0].0.0 == 2,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::node, *};

    fn set(cpus: &str) -> CpuSet {
        CpuSet::parse_list(cpus).unwrap()
    }

    /// Nodes with these CPUs and rows of distances.
    fn machine(nodes: &[(&str, &[u32])]) -> Topology {
        let ids = || (0..).zip(nodes).map(|(id, _)| id);
        let nodes = (0..)
            .zip(nodes)
            .map(|(id, (cpus, row))| super::super::Node {
                distances: ids().zip(row.iter().copied()).collect(),
                ..node(id, cpus, &[])
            });
        Topology::new(nodes.collect()).unwrap()
    }

    fn two_by_four() -> Topology {
        machine(&[("0-3", &[10, 21]), ("4-7", &[21, 10])])
    }

    fn sorted(ring: &Ring) -> Vec<u32> {
        ring.among(usize::MAX).to_vec()
    }

    #[test]
    fn the_own_node_is_the_first_ring_and_others_follow_by_distance() {
        let line = machine(&[
            ("0", &[10, 20, 40, 20]),
            ("1", &[20, 10, 20, 40]),
            ("2", &[40, 20, 10, 20]),
            ("3", &[20, 40, 20, 10]),
        ]);
        let layout = Layout::new(&line, &line.cpus(), Pin::Off, 8);
        let rings = layout.rings(0);
        let expected = [
            (vec![0, 4], false),
            (vec![1, 3, 5, 7], true),
            (vec![2, 6], true),
        ];
        assert_eq!(rings.len(), expected.len());
        for (ring, (workers, is_far)) in rings.iter().zip(expected) {
            assert_eq!((sorted(ring), ring.is_far), (workers, is_far));
        }
        assert_eq!(rings[1].among(4), [1, 3]);
        assert_eq!(rings[2].among(2), []);
        assert_eq!(layout.by_distance(0), [0, 1, 3, 2]);
    }

    #[test]
    fn a_node_is_nearest_to_itself_whatever_the_firmware_says() {
        let odd = machine(&[("0", &[10, 10]), ("1", &[10, 10])]);
        let layout = Layout::new(&odd, &odd.cpus(), Pin::Off, 2);
        assert_eq!(layout.by_distance(1), [1, 0]);
        assert_eq!(sorted(&layout.rings(1)[0]), [1]);
        assert!(layout.rings(1)[1].is_far);
    }

    #[test]
    fn every_ring_list_holds_each_worker_once() {
        let topology = two_by_four();
        for pin in [Pin::Off, Pin::Node, Pin::Core] {
            let layout = Layout::new(&topology, &set("0-6"), pin, 9);
            for worker in 0..9 {
                let mut all: Vec<_> = layout.rings(worker).iter().flat_map(sorted).collect();
                all.sort_unstable();
                assert_eq!(all, (0..9).collect::<Vec<_>>());
                assert!(sorted(&layout.rings(worker)[0]).contains(&worker.try_into().unwrap()));
            }
        }
    }

    #[test]
    fn workers_are_bound_to_the_allowed_cpus_of_their_node() {
        let topology = two_by_four();
        let bound = |pin, worker| {
            let layout = Layout::new(&topology, &set("1-6"), pin, 8);
            let number = layout.bound_of(worker);
            number.map(|number| layout.bound(number).to_string())
        };
        assert_eq!(bound(Pin::Off, 0), None);
        assert_eq!(bound(Pin::Node, 0).as_deref(), Some("1-3"));
        assert_eq!(bound(Pin::Node, 1).as_deref(), Some("4-6"));
        let cores: Vec<_> = (0..8)
            .filter_map(|worker| bound(Pin::Core, worker))
            .collect();
        assert_eq!(cores, ["1", "4", "2", "5", "3", "6", "1", "4"]);
    }

    #[test]
    fn a_topology_without_our_cpus_binds_nobody() {
        let layout = Layout::new(&two_by_four(), &set("100"), Pin::Core, 2);
        assert_eq!((layout.bound_of(0), layout.bound_of(1)), (None, None));
    }

    #[test]
    fn a_core_is_all_its_cpus_and_each_gets_a_worker_before_one_gets_two() {
        let mut one = node(0, "0-7", &[0]);
        one.cores = ["0,4", "1,5", "2,6", "3,7"].map(set).to_vec();
        let topology = Topology::new(vec![one]).unwrap();
        let layout = Layout::new(&topology, &set("0-6"), Pin::Core, 5);
        let bound = |worker| layout.bound(layout.bound_of(worker).unwrap()).to_string();
        let bounds: Vec<_> = (0..5).map(bound).collect();
        assert_eq!(bounds, ["0,4", "1,5", "2,6", "3", "0,4"]);
    }

    #[test]
    fn workers_on_cores_of_one_cache_are_nearest() {
        let mut first = node(0, "0-3", &[0, 1]);
        first.caches = ["0-1", "2-3"].map(set).to_vec();
        let topology = Topology::new(vec![first, node(1, "4-5", &[0, 1])]).unwrap();
        let workers = |pin| {
            let layout = Layout::new(&topology, &topology.cpus(), pin, 6);
            layout.rings(0).iter().map(sorted).collect::<Vec<_>>()
        };
        // Of six workers, 0, 1, 3 and 4 are on node 0, on CPUs 0, 1, 2 and 3.
        assert_eq!(workers(Pin::Core), [vec![0, 1], vec![3, 4], vec![2, 5]]);
        assert_eq!(workers(Pin::Node), [vec![0, 1, 3, 4], vec![2, 5]]);
    }

    #[test]
    fn home_is_the_nearest_node_with_a_worker() {
        let topology = machine(&[
            ("0-3", &[10, 20, 30]),
            ("4-5", &[20, 10, 15]),
            ("", &[30, 15, 10]), // memory only
        ]);
        let layout = Layout::new(&topology, &topology.cpus(), Pin::Off, 6);
        assert_eq!([0, 1, 2].map(|node| layout.home(node, 6)), [0, 1, 1]);
        assert_eq!([0, 1, 2].map(|node| layout.home(node, 1)), [0, 0, 0]);
    }

    #[test]
    fn a_flat_layout_is_one_ring() {
        let layout = Layout::flat(3);
        assert_eq!((layout.nodes(), layout.seats()), (1, 3));
        assert_eq!(sorted(&layout.rings(2)[0]), [0, 1, 2]);
        assert_eq!(layout.bound_of(0), None);
    }
}
