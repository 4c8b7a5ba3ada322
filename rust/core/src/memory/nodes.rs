//! The nodes of a pool: which there are, which of them memory is bound to, and on which a caller is.
//!
//! A pool counts its nodes from 0; users know them by the kernel's numbers. A caller is where its worker is, and
//! a thread that is no worker's where its CPU is. Nodes that the machine has not are simulated: their memory is
//! ordinary, their books are their own.

use std::{fs, sync::OnceLock};

use crate::topology::{CpuSet, Topology, affinity};

/// Tells on which node the calling thread's worker is, by the kernel's number.
pub type Whereabouts = fn() -> Option<u32>;

/// The nodes that a pool keeps memory for.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Their numbers, in order; never empty.
    ids: Vec<u32>,
    /// Whether memory is bound to the node, in the same order.
    bound: Vec<bool>,
    /// An index by CPU; where nobody says, 0.
    of_cpu: Vec<u16>,
    worker: Whereabouts,
}

impl Nodes {
    /// One, which memory is not bound to.
    pub fn one() -> Self {
        Self {
            ids: vec![0],
            bound: vec![false],
            of_cpu: Vec::new(),
            worker: || None,
        }
    }

    /// Those of this machine, which is looked at once.
    pub fn of_machine(worker: Whereabouts) -> Self {
        // A look at one file tells most machines' story: a whole topology is some files for each CPU.
        let online = fs::read_to_string("/sys/devices/system/node/online");
        let online = online.ok().and_then(|list| CpuSet::parse_list(list.trim()));
        if online.is_some_and(|nodes| nodes.iter().eq([0])) {
            return Self::one();
        }
        Self::of(machine(), machine(), worker)
    }

    /// Those of a topology that was made up, or describes this machine or another one.
    pub fn made_up(topology: &Topology, worker: Whereabouts) -> Self {
        Self::of(topology, machine(), worker)
    }

    /// Those of `topology`, a description of `machine` or one that was made up. Memory is bound to those that
    /// the machine has too, if it has more than one: otherwise all memory is equally far.
    pub fn of(topology: &Topology, machine: &Topology, worker: Whereabouts) -> Self {
        let real: Vec<_> = machine.nodes().iter().map(|node| node.id).collect();
        let mut of_cpu = Vec::new();
        for (index, node) in (0..).zip(topology.nodes()) {
            for cpu in node.cpus.iter().map(|cpu| cpu as usize) {
                of_cpu.resize(of_cpu.len().max(cpu + 1), 0);
                of_cpu[cpu] = index;
            }
        }
        let ids: Vec<_> = topology.nodes().iter().map(|node| node.id).collect();
        Self {
            bound: ids
                .iter()
                .map(|id| real.len() > 1 && real.contains(id))
                .collect(),
            ids,
            of_cpu,
            worker,
        }
    }

    #[inline]
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// The kernel's number of node `index`.
    pub fn id(&self, index: usize) -> u32 {
        self.ids[index]
    }

    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Which one has the number `id`.
    pub fn index_of(&self, id: u32) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    /// Where the memory of node `index` is bound to.
    pub(super) fn bind_to(&self, index: usize) -> Option<u32> {
        self.bound[index].then(|| self.ids[index])
    }

    /// The node that the caller is on.
    #[inline]
    pub fn of_caller(&self) -> usize {
        if self.ids.len() == 1 {
            return 0;
        }
        self.look_for_caller()
    }

    fn look_for_caller(&self) -> usize {
        let of_worker = (self.worker)().and_then(|id| self.index_of(id));
        let of_cpu = || {
            let cpu = affinity::current_cpu()? as usize;
            self.of_cpu.get(cpu).map(|index| usize::from(*index))
        };
        of_worker.or_else(of_cpu).unwrap_or(0)
    }
}

/// This machine, as it was when somebody first asked.
fn machine() -> &'static Topology {
    static MACHINE: OnceLock<Topology> = OnceLock::new();
    MACHINE.get_or_init(Topology::detect)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::topology::Node;

    fn topology(ids: &[u32], cpus: &[&[u32]]) -> Topology {
        let nodes = ids.iter().zip(cpus).map(|(id, cpus)| Node {
            cpus: cpus.iter().copied().collect(),
            distances: ids.iter().map(|to| (*to, 10)).collect(),
            ..Node::new(*id)
        });
        Topology::new(nodes.collect()).unwrap()
    }

    #[test]
    fn memory_is_bound_to_nodes_that_the_machine_has_if_there_are_several() {
        let two = topology(&[0, 2], &[&[0], &[1]]);
        let made_up = topology(&[2, 3], &[&[0], &[1]]);
        let one = topology(&[0], &[&[0, 1]]);
        let bound = |nodes: &Topology, machine: &Topology| {
            let nodes = Nodes::of(nodes, machine, || None);
            (0..nodes.count())
                .map(|index| nodes.bind_to(index))
                .collect::<Vec<_>>()
        };
        assert_eq!(bound(&two, &two), [Some(0), Some(2)]);
        assert_eq!(bound(&made_up, &two), [Some(2), None]);
        assert_eq!(bound(&one, &one), [None]);
        assert_eq!(bound(&two, &one), [None, None]);
    }

    #[test]
    fn a_caller_is_where_its_worker_is_or_else_its_cpu() {
        let most = if cfg!(miri) {
            8
        } else {
            crate::topology::CPU_LIMIT
        };
        let everywhere: Vec<_> = (0..most).collect();
        let made_up = topology(&[4, 7], &[&[], &everywhere]);
        let at = |worker| Nodes::of(&made_up, &made_up, worker).of_caller();
        assert_eq!(at(|| Some(4)), 0);
        assert_eq!(at(|| Some(7)), 1);
        if cfg!(all(target_os = "linux", not(miri))) {
            assert_eq!(at(|| None), 1);
            assert_eq!(at(|| Some(5)), 1, "its worker is on no node of this pool");
        }
    }
}
