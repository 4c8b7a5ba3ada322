//! NUMA nodes, their CPUs and distances, read once; and what of the machine this process may use.
//!
//! Three questions, kept apart because they have different answers:
//!
//! - What is the machine? [`Topology`] has its online CPUs, each on one node, whoever may use them.
//! - How much of it is ours? [`CpuBudget`]: the affinity mask and the cgroup's quota.
//! - Which worker goes where? [`Placement`], a pure function of the two, and [`Layout`], which adds to what it is bound and
//!   who is how far from it.
//!
//! Nothing here is shared or changes: a topology is a value, also one that was made up, so that the
//! scheduler and a simulator can ask about machines nobody here has.
//!
//! What sysfs says is not always true: firmware writes the distances, and recordings of machines have gaps.
//! So a file that is missing or damaged costs what stood in it and nothing else: [`Topology::from_sysfs`]
//! fails only where there is no sysfs at all, and [`Topology::detect`] never. Linking hwloc was dropped:
//! a C library inside a wheel, for a few text files.

mod budget;
mod cgroup;
mod cpu_set;
mod layout;
mod placement;
mod sysfs;

#[cfg_attr(target_os = "linux", path = "affinity_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "affinity_elsewhere.rs")]
pub(crate) mod affinity;

pub use budget::CpuBudget;
pub use cpu_set::{CPU_LIMIT, CpuSet};
pub use layout::{Layout, Pin, Ring};
pub use placement::Placement;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

/// The distance of a node to itself, where the machine does not say: firmware's unit.
pub const LOCAL_DISTANCE: u32 = 10;
/// The distance between two nodes, where the machine does not say.
pub const REMOTE_DISTANCE: u32 = 20;

/// A part of the machine whose CPUs reach the same memory at the same cost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The kernel's number for it; they may have gaps.
    pub id: u32,
    /// Its online CPUs. Empty for a node that has only memory.
    pub cpus: CpuSet,
    /// Its memory in bytes; 0 for none, or not known.
    pub memory_bytes: u64,
    /// How far each node is, this one included: [`LOCAL_DISTANCE`] is no detour, twice as much twice the time.
    pub distances: BTreeMap<u32, u32>,
    /// Its CPUs by the core they are on; none where each is a core by itself, or nobody tells.
    pub cores: Vec<CpuSet>,
    /// Its CPUs by the last cache that they share; none where all share one or each core has its
    /// own, or nobody tells.
    pub caches: Vec<CpuSet>,
}

impl Node {
    /// A node with nothing, and no distance to anything.
    pub fn new(id: u32) -> Self {
        Self {
            id,
            cpus: CpuSet::new(),
            memory_bytes: 0,
            distances: BTreeMap::new(),
            cores: Vec::new(),
            caches: Vec::new(),
        }
    }
}

/// The nodes of a machine.
///
/// # Invariants
/// There is a node; they are in order of their ids, which differ; no CPU is on two of them; each one's
/// distances name exactly the nodes there are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topology {
    nodes: Vec<Node>,
}

/// Why nodes do not make a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidNodes {
    /// There is none.
    Empty,
    /// Two have this id.
    SameId(u32),
    /// This CPU is on two of them.
    SharedCpu(u32),
    /// The distances of the node with this id do not name exactly the nodes there are.
    Distances(u32),
}

impl Topology {
    /// A topology of `nodes`, in any order.
    pub fn new(mut nodes: Vec<Node>) -> Result<Self, InvalidNodes> {
        nodes.sort_by_key(|node| node.id);
        if nodes.is_empty() {
            return Err(InvalidNodes::Empty);
        }
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(InvalidNodes::SameId(pair[0].id));
        }
        let mut seen = CpuSet::new();
        for node in &nodes {
            if let Some(cpu) = node.cpus.intersection(&seen).iter().next() {
                return Err(InvalidNodes::SharedCpu(cpu));
            }
            seen.extend(node.cpus.iter());
        }
        let ids: BTreeSet<_> = nodes.iter().map(|node| node.id).collect();
        match nodes
            .iter()
            .find(|node| !node.distances.keys().eq(ids.iter()))
        {
            Some(node) => Err(InvalidNodes::Distances(node.id)),
            // INVARIANT: each was just checked.
            None => Ok(Self { nodes }),
        }
    }

    /// A machine whose memory is equally far from all its `cpus`.
    pub fn single_node(cpus: CpuSet, memory_bytes: u64) -> Self {
        let distances = BTreeMap::from([(0, LOCAL_DISTANCE)]);
        // INVARIANT: one node, which names itself.
        Self {
            nodes: vec![Node {
                cpus,
                memory_bytes,
                distances,
                ..Node::new(0)
            }],
        }
    }

    /// This machine. Where the system does not show it (no sysfs, or another system than Linux), it is
    /// one node with the CPUs that this process may use.
    pub fn detect() -> Self {
        match sysfs::read(Path::new("/")) {
            Ok(topology) if !topology.cpus().is_empty() => topology,
            _ => Self::single_node(affinity::allowed_cpus(), 0),
        }
    }

    /// The machine that the sysfs at `root` describes: a folder with `sys/devices/system` in it, as
    /// hwloc records machines, or a sysfs itself, with `devices/system`.
    ///
    /// - A CPU is online where `cpu/online` says so, else its own `online`; without either, if its node lists it.
    /// - A CPU that several nodes claim is on the first of them; the others keep their memory.
    /// - Cores and caches are those that the first CPU of each names, as far as they are on one node.
    /// - A node's row of distances counts if it has one number per node and none is below the node's own; the
    ///   numbers of any other row are [`LOCAL_DISTANCE`] and [`REMOTE_DISTANCE`].
    /// - Without nodes there is one, 0, with all online CPUs and the memory that `proc/meminfo` beside the sysfs tells.
    pub fn from_sysfs(root: &Path) -> io::Result<Self> {
        sysfs::read(root)
    }

    /// The nodes, in order of their ids; at least one.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The online CPUs of all nodes.
    pub fn cpus(&self) -> CpuSet {
        self.nodes
            .iter()
            .flat_map(|node| node.cpus.iter())
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A node that is as far from each of `near` as from itself.
    pub fn node(id: u32, cpus: &str, near: &[u32]) -> Node {
        Node {
            cpus: CpuSet::parse_list(cpus).unwrap(),
            distances: near.iter().map(|other| (*other, 10)).collect(),
            ..Node::new(id)
        }
    }

    #[test]
    fn nodes_are_sorted_by_id() {
        let topology = Topology::new(vec![node(8, "2", &[0, 8]), node(0, "5", &[0, 8])]).unwrap();
        assert_eq!(
            topology
                .nodes()
                .iter()
                .map(|node| node.id)
                .collect::<Vec<_>>(),
            [0, 8]
        );
        assert_eq!(topology.cpus().to_string(), "2,5");
    }

    #[test]
    fn nodes_that_contradict_each_other_are_refused() {
        let two = |a, b| Topology::new(vec![a, b]).unwrap_err();
        assert_eq!(Topology::new(vec![]).unwrap_err(), InvalidNodes::Empty);
        assert_eq!(
            two(node(1, "0", &[1]), node(1, "1", &[1])),
            InvalidNodes::SameId(1)
        );
        assert_eq!(
            two(node(0, "0-3", &[0, 1]), node(1, "3-4", &[0, 1])),
            InvalidNodes::SharedCpu(3)
        );
        assert_eq!(
            two(node(0, "0", &[0, 1]), node(1, "1", &[1])),
            InvalidNodes::Distances(1)
        );
    }

    #[test]
    fn this_machine_has_a_node_with_a_cpu() {
        assert!(!Topology::detect().cpus().is_empty());
    }
}
