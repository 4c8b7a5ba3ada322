//! What a runtime is started with: arguments, then the environment, then the machine.

use penstock_core::topology::{CpuBudget, CpuSet, Layout, Pin, Topology};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::{PyString, PyTuple},
};

pub const MAX_WORKERS: usize = 4096;
/// How many threads there may be to run tasks, by default.
pub const MAX_THREADS: usize = 10_000;
/// As many tasks as a thread keeps the memory of.
pub const MAX_PREWARM: usize = 131_072;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parking {
    Auto,
    Fiber,
    Thread,
}

/// On which machine the workers are placed.
#[derive(Clone, Debug)]
pub enum Numa {
    /// This one.
    Auto,
    /// A machine of one node.
    Off,
    As(Topology),
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub workers: Option<usize>,
    /// `None` leaves it to the environment.
    numa: Option<Numa>,
    /// Likewise.
    pin: Option<Pin>,
    pub parking: Parking,
    pub prewarm_tasks: usize,
}

/// Of the default runtime, unless `configure()` says otherwise.
pub static DEFAULT: Settings = Settings {
    workers: None,
    numa: None,
    pin: None,
    parking: Parking::Auto,
    prewarm_tasks: 0,
};

impl Settings {
    /// `given` are workers, numa, pin, parking and `prewarm_tasks`.
    pub fn new(given: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let given: [Bound<'_, PyAny>; 5] = given.extract()?;
        let [workers, numa, pin, parking, prewarm_tasks] = &given;
        Ok(Self {
            numa: numa_from_argument(numa)?,
            pin: pin_from_argument(pin)?,
            workers: if workers.is_none() {
                None
            } else {
                Some(number("workers", workers, 1, MAX_WORKERS, "None or ")?)
            },
            parking: Parking::from_argument(parking)?,
            prewarm_tasks: number("prewarm_tasks", prewarm_tasks, 0, MAX_PREWARM, "")?,
        })
    }

    /// How many somebody has asked for; `None` leaves it to the machine.
    pub fn workers(&self) -> PyResult<Option<usize>> {
        let from_environment = workers_from_environment()?;
        Ok(self.workers.or(from_environment))
    }
}

/// How many workers this process may have now.
pub fn budget() -> usize {
    CpuBudget::detect().workers().min(MAX_WORKERS)
}

/// Where the workers go: seats for as many as there may ever be, where more than one may run.
pub fn layout(settings: &Settings, exclusive: bool) -> PyResult<Layout> {
    let numa = match &settings.numa {
        Some(numa) => numa.clone(),
        None => numa_from_environment()?,
    };
    let pin = match settings.pin {
        Some(pin) => pin,
        None => pin_from_environment()?,
    };
    let allowed: CpuSet = CpuBudget::detect().allowed;
    let topology = match numa {
        Numa::Auto => Topology::detect(),
        Numa::Off => Topology::single_node(allowed.clone(), 0),
        Numa::As(topology) => topology,
    };
    let seats = if exclusive { 1 } else { MAX_WORKERS };
    Ok(Layout::new(&topology, &allowed, pin, seats))
}

/// Reads a `numa=` argument; `None` is "auto", and leaves it to the environment.
pub fn numa_from_argument(value: &Bound<'_, PyAny>) -> PyResult<Option<Numa>> {
    let allowed = "\"auto\", \"off\" or a Topology";
    if let Ok(topology) = value.cast::<crate::topology::Topology>() {
        return Ok(Some(Numa::As(topology.get().core().clone())));
    }
    let Ok(text) = value.cast::<PyString>() else {
        return Err(PyTypeError::new_err(refusal("numa", value, allowed)?));
    };
    match text.to_str()? {
        "auto" => Ok(None),
        "off" => Ok(Some(Numa::Off)),
        _ => Err(PyValueError::new_err(refusal("numa", value, allowed)?)),
    }
}

fn pin_from_argument(value: &Bound<'_, PyAny>) -> PyResult<Option<Pin>> {
    let allowed = "None, \"node\" or \"core\"";
    if value.is_none() {
        return Ok(None);
    }
    let Ok(text) = value.cast::<PyString>() else {
        return Err(PyTypeError::new_err(refusal("pin", value, allowed)?));
    };
    match text.to_str()? {
        "node" => Ok(Some(Pin::Node)),
        "core" => Ok(Some(Pin::Core)),
        _ => Err(PyValueError::new_err(refusal("pin", value, allowed)?)),
    }
}

pub fn numa_from_environment() -> PyResult<Numa> {
    let choices = [("auto", Numa::Auto), ("off", Numa::Off)];
    Ok(choice_from_environment("PENSTOCK_NUMA", choices)?.unwrap_or(Numa::Auto))
}

fn pin_from_environment() -> PyResult<Pin> {
    let choices = [("none", Pin::Off), ("node", Pin::Node), ("core", Pin::Core)];
    Ok(choice_from_environment("PENSTOCK_PIN", choices)?.unwrap_or(Pin::Off))
}

fn choice_from_environment<T, const N: usize>(
    name: &str,
    choices: [(&str, T); N],
) -> PyResult<Option<T>> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    let words = choices.each_ref().map(|(word, _)| *word).join(", ");
    match choices.into_iter().find(|(word, _)| value == **word) {
        Some((_, choice)) => Ok(Some(choice)),
        None => Err(PyValueError::new_err(format!(
            "{name} must be one of {words}, not \"{}\"",
            value.display()
        ))),
    }
}

impl Parking {
    fn from_argument(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let allowed = "\"auto\", \"fiber\" or \"thread\"";
        let Ok(text) = value.cast::<PyString>() else {
            return Err(PyTypeError::new_err(refusal("parking", value, allowed)?));
        };
        match text.to_str()? {
            "auto" => Ok(Parking::Auto),
            "fiber" => Ok(Parking::Fiber),
            "thread" => Ok(Parking::Thread),
            _ => Err(PyValueError::new_err(refusal("parking", value, allowed)?)),
        }
    }
}

/// The new `workers` of a runtime that runs.
pub fn workers_from_argument(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    number("workers", value, 1, MAX_WORKERS, "")
}

fn refusal(name: &str, value: &Bound<'_, PyAny>, allowed: &str) -> PyResult<String> {
    Ok(format!("{name} must be {allowed}, not {}", value.repr()?))
}

fn number(
    name: &str,
    value: &Bound<'_, PyAny>,
    from: usize,
    to: usize,
    or: &str,
) -> PyResult<usize> {
    let allowed = format!("{or}an int from {from} to {to}");
    // SAFETY: alive, and attached.
    if unsafe { ffi::PyIndex_Check(value.as_ptr()) } == 0 {
        return Err(PyTypeError::new_err(refusal(name, value, &allowed)?));
    }
    match value.extract::<usize>() {
        Ok(number) if (from..=to).contains(&number) => Ok(number),
        _ => Err(PyValueError::new_err(refusal(name, value, &allowed)?)),
    }
}

/// What `PENSTOCK_WORKERS` says, if it is set.
pub fn workers_from_environment() -> PyResult<Option<usize>> {
    number_from_environment("PENSTOCK_WORKERS", MAX_WORKERS)
}

/// What `PENSTOCK_MAX_THREADS` says, or the default.
pub fn max_threads() -> PyResult<usize> {
    Ok(number_from_environment("PENSTOCK_MAX_THREADS", 1_000_000)?.unwrap_or(MAX_THREADS))
}

fn number_from_environment(name: &str, to: usize) -> PyResult<Option<usize>> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(number) if (1..=to).contains(&number) => Ok(Some(number)),
        _ => Err(PyValueError::new_err(format!(
            "{name} must be a number from 1 to {to}, not \"{}\"",
            value.display()
        ))),
    }
}
