//! The machine: `Topology`, `Node` and `CpuBudget`, values that hold no Python object.

use std::{collections::BTreeMap, ffi::CStr, io, path::PathBuf};

use penstock_core::topology::{self as core, CPU_LIMIT, CpuSet, InvalidNodes, Placement};
use pyo3::{
    exceptions::{PyOSError, PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::{PyDict, PyType},
};

use crate::{convert::shown, runtime};

fn refuse<E: pyo3::PyTypeInfo>(name: &str, value: &Bound<'_, PyAny>, allowed: &str) -> PyErr {
    let shown = shown(value);
    PyErr::new::<E, _>(format!("{name} must be {allowed}, not {shown}"))
}

/// An integer from `least` to `most`.
fn integer(value: &Bound<'_, PyAny>, name: &str, least: u64, most: u64) -> PyResult<u64> {
    let allowed = || match most {
        u64::MAX => format!("an int >= {least}"),
        _ => format!("an int from {least} to {most}"),
    };
    // SAFETY: alive, and attached.
    if unsafe { ffi::PyIndex_Check(value.as_ptr()) } == 0 {
        return Err(refuse::<PyTypeError>(name, value, &allowed()));
    }
    match value.extract::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(refuse::<PyValueError>(name, value, &allowed())),
    }
}

/// The same for numbers of 32 bits.
fn small(value: &Bound<'_, PyAny>, name: &str, least: u32, most: u32) -> PyResult<u32> {
    let number = integer(value, name, least.into(), most.into())?;
    Ok(u32::try_from(number).expect("at most `most`"))
}

fn cpu_set(value: &Bound<'_, PyAny>) -> PyResult<CpuSet> {
    let items = value
        .try_iter()
        .map_err(|_| refuse::<PyTypeError>("cpus", value, "an iterable of ints"))?;
    items
        .map(|cpu| small(&cpu?, "each of cpus", 0, CPU_LIMIT - 1))
        .collect()
}

fn list(cpus: &CpuSet) -> Vec<u32> {
    cpus.iter().collect()
}

fn lists(groups: &[CpuSet]) -> Vec<Vec<u32>> {
    groups.iter().map(list).collect()
}

/// Groups of `cpus`, in order of their first ones; a CPU is in one of them at most.
fn groups(value: Option<&Bound<'_, PyAny>>, name: &str, cpus: &CpuSet) -> PyResult<Vec<CpuSet>> {
    let Some(value) = value else {
        return Ok(Vec::new());
    };
    let allowed = "an iterable of iterables of the node's CPUs, each in one at most";
    let refuse = |error: PyErr| {
        if error.is_instance_of::<PyTypeError>(value.py()) {
            refuse::<PyTypeError>(name, value, allowed)
        } else {
            refuse::<PyValueError>(name, value, allowed)
        }
    };
    let mut left = cpus.clone();
    let mut groups = Vec::new();
    for group in value.try_iter().map_err(refuse)? {
        let group = cpu_set(&group?).map_err(refuse)?;
        if group.is_empty() || group.intersection(&left) != group {
            return Err(refuse(PyValueError::new_err(())));
        }
        left = left.difference(&group);
        groups.push(group);
    }
    groups.sort_by_key(CpuSet::first);
    Ok(groups)
}

/// A NUMA node: CPUs that reach the same memory at the same cost. Immutable, and equal to any node like it.
///
/// ``id`` is the kernel's number of the node (numbers may have gaps), ``cpus`` its online CPUs, ``memory`` its bytes
/// (0 for none, or not known), ``distances`` how far each node of the machine is, itself included: a dict from
/// node id to the firmware's unit, in which 10 is no detour and 20 takes twice as long. ``cores`` and ``caches`` are its CPUs
/// by the core they are on and by the last cache they share: lists of lists, empty where that divides nothing.
///
/// >>> import penstock
/// >>> node = penstock.Node(0, cpus=[0, 1], memory=8 << 30, distances={0: 10})
/// >>> node.cpus, node.memory
/// ([0, 1], 8589934592)
#[pyclass(frozen, eq, hash, skip_from_py_object, module = "penstock")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Node {
    node: core::Node,
}

/// What pickle makes a node of.
type NewArguments<'py> = ((u32, Vec<u32>, u64, BTreeMap<u32, u32>), Bound<'py, PyDict>);

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (id, cpus, memory, distances, *, cores=None, caches=None))]
    fn new(
        id: &Bound<'_, PyAny>,
        cpus: &Bound<'_, PyAny>,
        memory: &Bound<'_, PyAny>,
        distances: &Bound<'_, PyAny>,
        cores: Option<&Bound<'_, PyAny>>,
        caches: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let Ok(row) = distances.cast::<PyDict>() else {
            let allowed = "a dict from node id to distance";
            return Err(refuse::<PyTypeError>("distances", distances, allowed));
        };
        let all = cpu_set(cpus)?;
        let node = core::Node {
            id: small(id, "id", 0, u32::MAX)?,
            cores: groups(cores, "cores", &all)?,
            caches: groups(caches, "caches", &all)?,
            cpus: all,
            memory_bytes: integer(memory, "memory", 0, u64::MAX)?,
            distances: row
                .iter()
                .map(|(id, distance)| {
                    let id = small(&id, "each node id of distances", 0, u32::MAX)?;
                    let distance = small(&distance, "each of distances", 1, u32::MAX)?;
                    Ok((id, distance))
                })
                .collect::<PyResult<_>>()?,
        };
        Ok(Self { node })
    }

    /// The kernel's number of the node.
    #[getter]
    fn id(&self) -> u32 {
        self.node.id
    }

    /// Its online CPUs, lowest first: a new list each time. Empty for a node that has only memory.
    #[getter]
    fn cpus(&self) -> Vec<u32> {
        list(&self.node.cpus)
    }

    /// Its memory in bytes; 0 for none, or not known.
    #[getter]
    fn memory(&self) -> u64 {
        self.node.memory_bytes
    }

    /// How far each node is, itself included: a new dict each time.
    #[getter]
    fn distances(&self) -> BTreeMap<u32, u32> {
        self.node.distances.clone()
    }

    /// Its CPUs by core: a new list each time. Empty where each is a core by itself.
    #[getter]
    fn cores(&self) -> Vec<Vec<u32>> {
        lists(&self.node.cores)
    }

    /// Its CPUs by the last cache that they share: a new list each time. Empty where all share one, or each core has its own.
    #[getter]
    fn caches(&self) -> Vec<Vec<u32>> {
        lists(&self.node.caches)
    }

    fn __repr__(&self) -> String {
        let core::Node {
            id,
            cpus,
            memory_bytes,
            distances,
            cores,
            caches,
        } = &self.node;
        let groups = [("cores", cores), ("caches", caches)]
            .into_iter()
            .filter(|(_, groups)| !groups.is_empty())
            .map(|(name, groups)| format!(", {name}={:?}", lists(groups)));
        format!(
            "Node(id={id}, cpus={cpus:?}, memory={memory_bytes}, distances={distances:?}{groups})",
            cpus = list(cpus),
            groups = groups.collect::<String>(),
        )
    }

    fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: &Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf
    }

    fn __getnewargs_ex__<'py>(slf: &Bound<'py, Self>) -> PyResult<NewArguments<'py>> {
        let node = slf.get();
        let keywords = PyDict::new(slf.py());
        keywords.set_item("cores", node.cores())?;
        keywords.set_item("caches", node.caches())?;
        Ok((
            (node.id(), node.cpus(), node.memory(), node.distances()),
            keywords,
        ))
    }
}

/// The NUMA nodes of a machine: this one, a recorded one, or one made up of ``Node`` objects. Immutable, and equal to any
/// topology like it.
///
/// It describes the machine's online CPUs; which of them this process may use is ``CpuBudget``.
///
/// Raises:
///     `ValueError`: there is no node, two share an id or a CPU, or a node's distances do not name exactly these nodes.
///
/// >>> import penstock
/// >>> near = penstock.Node(0, cpus=[0, 1], memory=0, distances={0: 10, 1: 21})
/// >>> far = penstock.Node(1, cpus=[2, 3], memory=0, distances={0: 21, 1: 10})
/// >>> machine = penstock.Topology([near, far])
/// >>> machine.nodes[1].distances[0]
/// 21
/// >>> machine.place(3)
/// [0, 1, 0]
#[pyclass(frozen, eq, hash, skip_from_py_object, module = "penstock")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Topology {
    topology: core::Topology,
}

impl Topology {
    pub fn core(&self) -> &core::Topology {
        &self.topology
    }
}

#[pymethods]
impl Topology {
    #[new]
    fn new(nodes: &Bound<'_, PyAny>) -> PyResult<Self> {
        let items = nodes
            .try_iter()
            .map_err(|_| refuse::<PyTypeError>("nodes", nodes, "an iterable of Node"))?;
        let parts = items
            .map(|item| {
                let item = item?;
                match item.cast::<Node>() {
                    Ok(node) => Ok(node.get().node.clone()),
                    Err(_) => Err(refuse::<PyTypeError>("each of nodes", &item, "a Node")),
                }
            })
            .collect::<PyResult<_>>()?;
        let refuse = |reason: String| PyValueError::new_err(format!("nodes must {reason}"));
        match core::Topology::new(parts) {
            Ok(topology) => Ok(Self { topology }),
            Err(InvalidNodes::Empty) => {
                Err(refuse("have at least one Node, and there is none".into()))
            }
            Err(InvalidNodes::SameId(id)) => {
                Err(refuse(format!("have different ids, and two have id {id}")))
            }
            Err(InvalidNodes::SharedCpu(cpu)) => {
                Err(refuse(format!("share no CPU, and two have CPU {cpu}")))
            }
            Err(InvalidNodes::Distances(id)) => Err(refuse(format!(
                "each have a distance to each of them and no other, and node {id} has not"
            ))),
        }
    }

    /// This machine. Where the system does not show its nodes (another system than Linux, or no ``/sys``), it is
    /// one node with the CPUs that this process may use.
    ///
    /// >>> import penstock
    /// >>> len(penstock.Topology.detect().nodes) >= 1
    /// True
    #[staticmethod]
    fn detect() -> Self {
        let topology = core::Topology::detect();
        Self { topology }
    }

    /// The machine that a sysfs describes: ``path`` holds ``sys/devices/system`` (as hwloc records machines), or is
    /// the sysfs itself and holds ``devices/system``.
    ///
    /// A file that is missing or damaged costs only what stood in it: a row of distances that is not one number
    /// per node, or has one below the node's own, becomes 10 for the node itself and 20 for any other. A CPU that
    /// several nodes claim is on the first of them. Without nodes there is one, with id 0 and all online CPUs.
    ///
    /// Raises:
    ///     `OSError`: there is no sysfs at ``path``, or it cannot be read.
    #[staticmethod]
    fn from_sysfs(py: Python<'_>, path: &Bound<'_, PyAny>) -> PyResult<Self> {
        let path: PathBuf = path
            .extract()
            .map_err(|_| refuse::<PyTypeError>("path", path, "a str or an os.PathLike"))?;
        match core::Topology::from_sysfs(&path) {
            Ok(topology) => Ok(Self { topology }),
            Err(error) => Err(os_error(py, &error, path)?),
        }
    }

    /// The nodes, in order of their ids: a new list each time, never empty.
    #[getter]
    fn nodes(&self) -> Vec<Node> {
        let nodes = self.topology.nodes().iter().cloned();
        nodes.map(|node| Node { node }).collect()
    }

    /// On which node each of ``workers`` workers goes: their ids, one per worker.
    ///
    /// The workers are dealt out in proportion to the nodes' CPUs (only those in ``cpus``, if given; where no
    /// node has one of these, all). As many workers as CPUs are one per CPU, and more workers move none of
    /// the fewer.
    ///
    /// >>> import penstock
    /// >>> penstock.Topology([penstock.Node(0, [0, 1], 0, {0: 10})]).place(2)
    /// [0, 0]
    #[pyo3(signature = (workers, cpus=None))]
    fn place(
        &self,
        workers: &Bound<'_, PyAny>,
        cpus: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<u32>> {
        let workers = integer(workers, "workers", 0, runtime::MAX_WORKERS as u64)?;
        let workers = usize::try_from(workers).expect("at most `MAX_WORKERS`");
        let allowed = cpus.map_or_else(|| Ok(self.topology.cpus()), cpu_set)?;
        let nodes = self.topology.nodes();
        let placement = Placement::new(&self.topology, &allowed, workers);
        Ok(placement.nodes().iter().map(|at| nodes[*at].id).collect())
    }

    fn __repr__(&self) -> String {
        let nodes: Vec<_> = self.nodes().iter().map(Node::__repr__).collect();
        format!("Topology(nodes=[{}])", nodes.join(", "))
    }

    fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: &Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyType>, (Vec<Node>,)) {
        (slf.get_type(), (slf.get().nodes(),))
    }
}

/// The exception for `error`, met while reading the sysfs at `path`.
fn os_error(py: Python<'_>, error: &io::Error, path: PathBuf) -> PyResult<PyErr> {
    let Some(code) = error.raw_os_error() else {
        // Not from the system: a path no system call takes.
        let allowed = "a path without null characters";
        let shown = path.into_pyobject(py)?;
        return Ok(refuse::<PyValueError>("path", &shown, allowed));
    };
    let text = if error.kind() == io::ErrorKind::NotFound && path.exists() {
        "No sys/devices/system and no devices/system in the folder".to_owned()
    } else {
        // SAFETY: returns a string that lives until this thread's next call of it.
        let text = unsafe { CStr::from_ptr(libc::strerror(code)) };
        text.to_string_lossy().into_owned()
    };
    // Python picks the class by the number: `FileNotFoundError`, `PermissionError`.
    Ok(PyOSError::new_err((code, text, path)))
}

fn cpus_of_quota(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let allowed = "None or a number of CPUs > 0";
    match value.extract::<f64>() {
        Ok(quota) if quota.is_finite() && quota > 0.0 => Ok(quota),
        Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            Err(refuse::<PyTypeError>("quota", value, allowed))
        }
        _ => Err(refuse::<PyValueError>("quota", value, allowed)),
    }
}

/// The CPUs that this process may use, now: ``cpus``, those in the calling thread's affinity mask, and ``quota``, how
/// much CPU time its control group leaves it, in CPUs (``None``: no limit). ``workers`` follows from the two.
///
/// >>> import penstock
/// >>> penstock.CpuBudget(cpus=range(8), quota=2.5).workers
/// 3
/// >>> penstock.CpuBudget.detect().workers >= 1
/// True
#[pyclass(frozen, eq, skip_from_py_object, module = "penstock")]
#[derive(Clone, PartialEq)]
pub struct CpuBudget {
    budget: core::CpuBudget,
}

#[pymethods]
impl CpuBudget {
    #[new]
    #[pyo3(signature = (cpus, quota=None))]
    fn new(cpus: &Bound<'_, PyAny>, quota: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let allowed = cpu_set(cpus)?;
        let quota = quota.map(cpus_of_quota).transpose()?;
        Ok(Self {
            budget: core::CpuBudget { allowed, quota },
        })
    }

    /// The budget of this process: its affinity mask, and the tightest CPU quota (of either cgroup version) on it.
    #[staticmethod]
    fn detect() -> Self {
        Self {
            budget: core::CpuBudget::detect(),
        }
    }

    /// The CPUs of the affinity mask, lowest first: a new list each time.
    #[getter]
    fn cpus(&self) -> Vec<u32> {
        list(&self.budget.allowed)
    }

    /// How many CPUs' worth of time the control group leaves, or ``None``.
    #[getter]
    fn quota(&self) -> Option<f64> {
        self.budget.quota
    }

    /// The default number of workers: as many as CPUs, or as the quota, rounded up, if that is less; at least 1.
    #[getter]
    fn workers(&self) -> usize {
        self.budget.workers()
    }

    fn __repr__(&self) -> String {
        let quota = self.budget.quota;
        let quota = quota.map_or_else(|| "None".to_owned(), |cpus| format!("{cpus:?}"));
        format!("CpuBudget(cpus={:?}, quota={quota})", self.cpus())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyType>, (Vec<u32>, Option<f64>)) {
        (slf.get_type(), (slf.get().cpus(), slf.get().quota()))
    }
}

/// CPU numbers as the kernel writes them: ``0-3,8``.
#[pyfunction]
pub fn _cpu_ranges(cpus: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(cpu_set(cpus)?.to_string())
}

/// The number in ``PENSTOCK_WORKERS``, if it is set.
#[pyfunction]
pub fn _workers_from_environment() -> PyResult<Option<usize>> {
    runtime::workers_from_environment()
}
