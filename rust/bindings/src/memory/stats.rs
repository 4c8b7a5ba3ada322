//! `BufferStats` and `BufferNodeStats`: the figures of a pool.

use penstock_core::memory::{self as core, Report};
use pyo3::{prelude::*, types::PyTuple};

/// Bytes of a pool, counted as bytes of size classes: ``in_use + cached == reserved``.
///
/// ``reserved_peak`` is the most that ``reserved`` has been. ``nodes`` is a tuple with a `BufferNodeStats` for each NUMA
/// node of the pool, in the order of their ids; their sums are the figures of the pool. ``binding_denied``: memory was
/// to be bound to a node, and the system denied it, so it lies where the system put it. ``huge_pages_denied``: the
/// same for huge pages.
///
/// >>> from penstock import BufferPool
/// >>> pool = BufferPool(numa='off')
/// >>> with pool.acquire(1000):
/// ...     pool.stats().nodes
/// (BufferNodeStats(id=0, in_use=1024, cached=0, reserved=1024),)
#[pyclass(frozen, eq, skip_from_py_object, module = "penstock")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferStats {
    #[pyo3(get)]
    in_use: usize,
    #[pyo3(get)]
    cached: usize,
    #[pyo3(get)]
    reserved: usize,
    #[pyo3(get)]
    reserved_peak: usize,
    nodes: Vec<BufferNodeStats>,
    #[pyo3(get)]
    binding_denied: bool,
    #[pyo3(get)]
    huge_pages_denied: bool,
}

/// What a pool has on one NUMA node, in bytes of size classes: ``in_use + cached == reserved``. ``id`` is the kernel's
/// number of the node.
#[pyclass(frozen, eq, get_all, skip_from_py_object, module = "penstock")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferNodeStats {
    id: u32,
    in_use: usize,
    cached: usize,
    reserved: usize,
}

impl From<Report> for BufferStats {
    fn from(report: Report) -> Self {
        let core::Stats {
            in_use,
            cached,
            reserved,
            reserved_peak,
        } = report.stats;
        let node = |node: &core::NodeStats| BufferNodeStats {
            id: node.id,
            in_use: node.in_use,
            cached: node.cached,
            reserved: node.reserved,
        };
        Self {
            in_use,
            cached,
            reserved,
            reserved_peak,
            nodes: report.nodes.iter().map(node).collect(),
            binding_denied: report.denied.binding,
            huge_pages_denied: report.denied.huge,
        }
    }
}

#[pymethods]
impl BufferStats {
    #[getter]
    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.nodes.iter().copied())
    }

    fn __repr__(&self) -> String {
        let Self {
            in_use,
            cached,
            reserved,
            reserved_peak,
            nodes,
            binding_denied,
            huge_pages_denied,
        } = self;
        let bool = |flag: &bool| if *flag { "True" } else { "False" };
        let nodes: Vec<_> = nodes.iter().map(BufferNodeStats::__repr__).collect();
        let comma = if nodes.len() == 1 { "," } else { "" };
        format!(
            "BufferStats(in_use={in_use}, cached={cached}, reserved={reserved}, \
             reserved_peak={reserved_peak}, nodes=({}{comma}), binding_denied={}, huge_pages_denied={})",
            nodes.join(", "),
            bool(binding_denied),
            bool(huge_pages_denied),
        )
    }
}

#[pymethods]
impl BufferNodeStats {
    fn __repr__(&self) -> String {
        let Self {
            id,
            in_use,
            cached,
            reserved,
        } = self;
        format!("BufferNodeStats(id={id}, in_use={in_use}, cached={cached}, reserved={reserved})")
    }
}
