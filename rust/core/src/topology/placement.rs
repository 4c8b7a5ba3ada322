//! Which worker goes to which node.

use super::{CpuSet, Topology};

/// A node for each worker.
///
/// Workers are dealt out in proportion to the allowed CPUs of the nodes: each goes to the node that has the
/// most of them per worker, counting the new one, and to the first of equals. This is the method of D'Hondt,
/// for two of its properties. As many workers as CPUs are exactly one per CPU. And a placement of more workers
/// begins with that of fewer, so that growing a runtime moves nobody; rounding each share on its own has
/// neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// For each worker an index into `Topology::nodes`.
    nodes: Vec<usize>,
}

impl Placement {
    /// Places `workers` on the nodes of `topology` by their `allowed` CPUs. Where no node has one (a made-up
    /// topology, say), by all their CPUs; where none has any, on the first node.
    pub fn new(topology: &Topology, allowed: &CpuSet, workers: usize) -> Self {
        let count = |cpus: &dyn Fn(&CpuSet) -> usize| -> Vec<usize> {
            topology
                .nodes()
                .iter()
                .map(|node| cpus(&node.cpus))
                .collect()
        };
        let mut cpus = count(&|cpus| cpus.intersection(allowed).len());
        if cpus.iter().all(|count| *count == 0) {
            cpus = count(&CpuSet::len);
        }
        let mut placed = vec![0; cpus.len()];
        let nodes = (0..workers)
            .map(|_| {
                let mut best = 0;
                for node in 1..cpus.len() {
                    // cpus[node] / (placed[node] + 1) > cpus[best] / (placed[best] + 1), without fractions.
                    if cpus[node] * (placed[best] + 1) > cpus[best] * (placed[node] + 1) {
                        best = node;
                    }
                }
                placed[best] += 1;
                best
            })
            .collect();
        Self { nodes }
    }

    /// For each worker its node, as an index into [`Topology::nodes`].
    pub fn nodes(&self) -> &[usize] {
        &self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::node, *};

    fn topology(nodes: &[&str]) -> Topology {
        let ids: Vec<u32> = (0..).zip(nodes).map(|(id, _)| id).collect();
        let nodes = ids
            .iter()
            .zip(nodes)
            .map(|(id, cpus)| node(*id, cpus, &ids));
        Topology::new(nodes.collect()).unwrap()
    }

    fn place(nodes: &[&str], allowed: &str, workers: usize) -> Vec<usize> {
        let allowed = CpuSet::parse_list(allowed).unwrap();
        Placement::new(&topology(nodes), &allowed, workers).nodes
    }

    #[test]
    fn equal_nodes_take_turns() {
        assert_eq!(place(&["0-3", "4-7"], "0-7", 5), [0, 1, 0, 1, 0]);
    }

    #[test]
    fn as_many_workers_as_allowed_cpus_are_one_per_cpu() {
        let nodes = ["0-1", "", "2-13", "14", "15-21"];
        for allowed in ["0-21", "0,2-6,14-20", "3-21"] {
            let set = CpuSet::parse_list(allowed).unwrap();
            let placed = place(&nodes, allowed, set.len());
            for (index, node) in topology(&nodes).nodes().iter().enumerate() {
                let workers = placed.iter().filter(|at| **at == index).count();
                assert_eq!(workers, node.cpus.intersection(&set).len(), "{allowed}");
            }
        }
    }

    #[test]
    fn more_workers_move_none_of_the_fewer() {
        let all = place(&["0-2", "3-9", "10"], "0-10", 40);
        for workers in 0..40 {
            assert_eq!(
                place(&["0-2", "3-9", "10"], "0-10", workers),
                all[..workers]
            );
        }
    }

    #[test]
    fn a_node_without_allowed_cpus_gets_nobody() {
        assert_eq!(place(&["0-3", "4-7", ""], "5", 3), [1, 1, 1]);
    }

    #[test]
    fn a_topology_of_other_cpus_is_filled_by_its_own() {
        assert_eq!(place(&["", "64-65"], "0-1", 2), [1, 1]);
        assert_eq!(place(&["", ""], "0-1", 2), [0, 0]);
    }
}
