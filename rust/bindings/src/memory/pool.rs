//! `BufferPool`: the class, its nodes, and how many bytes an argument may ask for.

use penstock_core::{
    memory::{Nodes, Pool, PoolOptions, SizeClass, WarmError},
    scheduler::Machine,
};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::PyInt,
};

use super::{
    acquire,
    map::{Picture, picture},
    scope::BufferScope,
    stats::BufferStats,
    watch::Watch,
};
use crate::{
    convert::{Passed, shown},
    mode::{Mode, mode},
    runtime::{Numa, numa_from_argument, numa_from_environment},
};

/// A pool of buffers: memory in size classes that is lent, and lent again when it comes back.
///
/// ``max_bytes`` bounds what is in use, counted in size classes (a request of n bytes takes at most an
/// eighth more from 1 KiB up, below that the next multiple of 64); ``acquire`` then waits where it would
/// be more. ``zero=True`` clears memory before it is lent. Any thread or task may acquire and release.
///
/// ``numa`` says for which nodes the pool keeps memory apart: ``"auto"`` for those of this machine (or one, where
/// ``PENSTOCK_NUMA=off``), ``"off"`` for one, a `Topology` for its nodes. Memory comes from the caller's node, that is
/// its worker's in a runtime and its CPU's elsewhere, and goes home to it from wherever it is released. Where
/// the machine has several nodes, memory is bound to those it has; nodes that it has not are simulated: their figures
/// are their own, their memory is ordinary. ``max_bytes`` spans all nodes. ``huge_pages=True`` asks the system
/// for huge pages. What the system denies costs speed and nothing else, and shows in ``stats()``.
///
/// What nobody needed for some seconds goes back to the system, unless it was warmed.
///
/// >>> from penstock import BufferPool
/// >>> pool = BufferPool(max_bytes=1 << 20)
/// >>> buffer = pool.acquire(1000)
/// >>> len(buffer), pool.stats().in_use
/// (1000, 1024)
/// >>> buffer.release()
/// >>> pool.stats().in_use, pool.stats().cached
/// (0, 1024)
#[pyclass(frozen, weakref, module = "penstock")]
pub struct BufferPool {
    pub(super) pool: Pool<Mode>,
    pub(super) watch: Watch,
}

#[pymethods]
impl BufferPool {
    #[new]
    #[pyo3(
        signature = (max_bytes=None, numa=Passed::No, huge_pages=Passed::No, zero=Passed::No),
        text_signature = "(max_bytes=None, numa='auto', huge_pages=False, zero=False)"
    )]
    fn new(
        max_bytes: Option<&Bound<'_, PyAny>>,
        numa: Passed<'_>,
        huge_pages: Passed<'_>,
        zero: Passed<'_>,
    ) -> PyResult<Self> {
        let max_bytes = match max_bytes {
            None => None,
            Some(value) => Some(byte_count(value, "max_bytes", 1, "None or an int >= 1")?),
        };
        let nodes = nodes_from_argument(numa)?;
        let huge_pages = flag("huge_pages", huge_pages)?;
        let zero = flag("zero", zero)?;
        let watch = Watch::new(zero);
        let options = PoolOptions {
            max_bytes,
            zero: zero && !watch.clears(),
            huge_pages,
        };
        Ok(Self {
            pool: Pool::on(mode(), options, nodes),
            watch,
        })
    }

    /// Makes memory ready before it is needed: ``count`` buffers of ``nbytes`` on the caller's node.
    ///
    /// The next ``count`` calls of ``acquire(nbytes)`` on that node find their memory mapped and resident. It stays
    /// so until ``trim()``: what was warmed does not go back to the system by itself. It takes the time of writing to
    /// every page, during which others run. Calls do not add up: warming 10, then 20, makes 20.
    ///
    /// Raises:
    ///     `ValueError`: ``nbytes`` or ``count`` is negative; ``nbytes`` is above 1 MiB, from where on each buffer is
    ///         mapped when it is acquired; or ``max_bytes`` leaves no room for so many.
    ///     `MemoryError`: the system has no more memory to give. Nothing has changed.
    ///
    /// >>> from penstock import BufferPool
    /// >>> pool = BufferPool()
    /// >>> pool.warm(65536, 8)
    /// >>> pool.stats().cached
    /// 524288
    fn warm(&self, nbytes: &Bound<'_, PyAny>, count: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = nbytes.py();
        let bytes = byte_count(nbytes, "nbytes", 0, "an int >= 0")?;
        let slots = byte_count(count, "count", 0, "an int >= 0")?;
        let warming = self
            .pool
            .begin_warm(bytes, slots)
            .map_err(|error| match error {
                WarmError::NoClass => PyValueError::new_err(format!(
                    "nbytes must be at most {largest}, not {bytes}: above that each buffer is mapped when it is \
                     acquired",
                    largest = SizeClass::largest().bytes()
                )),
                WarmError::TooMuch { wanted, room } => PyValueError::new_err(format!(
                    "count must be such that the buffers fit the pool's max_bytes, of which {room} are free, not \
                     {slots} ({wanted} bytes)"
                )),
                WarmError::Failed(error) => acquire::system_error(error),
            })?;
        // The slots are ours meanwhile, and the pool is not touched.
        py.detach(|| warming.touch());
        self.pool.finish_warm(warming);
        Ok(())
    }

    /// Gives cached memory back to the system, what was warmed too, and returns the bytes by which ``reserved`` shrank.
    ///
    /// Never waits. It reaches into the caches of all threads; without the GIL it leaves alone a thread that is
    /// acquiring or releasing at that very moment, and, on systems other than Linux, every thread. What is in use stays.
    ///
    /// >>> from penstock import BufferPool
    /// >>> pool = BufferPool()
    /// >>> pool.acquire(5000).release()
    /// >>> pool.trim(), pool.stats().reserved
    /// (5120, 0)
    fn trim(&self) -> usize {
        self.pool.trim()
    }

    /// What the pool holds now.
    fn stats(&self) -> BufferStats {
        self.pool.report().into()
    }

    /// A block at whose end the buffers that were acquired in it are released: ``with pool.scope() as scope:``.
    ///
    /// >>> from penstock import BufferPool
    /// >>> with BufferPool().scope() as scope:
    /// ...     len(scope.acquire(4096))
    /// 4096
    fn scope(this: &Bound<'_, Self>) -> BufferScope {
        BufferScope::new(this)
    }

    /// Address, bytes, site and seconds of the buffers that are lent, as far as they were sampled; the longest first.
    fn _held(&self, py: Python<'_>) -> Vec<(usize, usize, String, f64)> {
        self.watch.held(py)
    }

    /// What the pool is made of now.
    fn _map<'py>(&self, py: Python<'py>) -> Picture<'py> {
        picture(py, self)
    }

    fn __repr__(this: &Bound<'_, Self>) -> String {
        let (pool, options) = (this.get().pool.stats(), this.get().pool.options());
        let limit = match options.max_bytes {
            Some(bytes) => format!(" of {bytes}"),
            None => String::new(),
        };
        format!(
            "<penstock.BufferPool at {:p}: {}{limit} bytes in use, {} cached>",
            this.as_ptr(),
            pool.in_use,
            pool.cached,
        )
    }

    #[expect(clippy::unused_self, reason = "a method of the protocol")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a BufferPool cannot be pickled or copied: the buffers it has lent have to come back to it",
        ))
    }
}

impl BufferPool {
    /// Reads a `node=` argument: an index, or `None` for the caller's node.
    pub(super) fn node_from_argument(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        if value.is_none() {
            return Ok(None);
        }
        let nodes = self.pool.nodes();
        let allowed = || format!("None or one of the pool's nodes {:?}", nodes.ids());
        let id = byte_count(value, "node", 0, &allowed())?;
        let index = u32::try_from(id).ok().and_then(|id| nodes.index_of(id));
        match index {
            Some(index) => Ok(Some(index)),
            None => Err(bad_count(value, "node", &allowed())),
        }
    }
}

fn nodes_from_argument(numa: Passed<'_>) -> PyResult<Nodes> {
    let given = match numa {
        Passed::No => None,
        Passed::As(value) => numa_from_argument(&value)?,
    };
    let numa = match given {
        Some(numa) => numa,
        None => numa_from_environment()?,
    };
    let of_worker = || Machine::current().map(Machine::node_id);
    Ok(match numa {
        Numa::Auto => Nodes::of_machine(of_worker),
        Numa::Off => Nodes::one(),
        Numa::As(topology) => Nodes::made_up(&topology, of_worker),
    })
}

fn flag(name: &str, value: Passed<'_>) -> PyResult<bool> {
    let Passed::As(value) = value else {
        return Ok(false);
    };
    value.extract().map_err(|_| {
        let shown = shown(&value);
        PyTypeError::new_err(format!("{name} must be a bool, not {shown}"))
    })
}

/// A number of bytes from an argument.
#[inline]
pub(super) fn byte_count(
    value: &Bound<'_, PyAny>,
    name: &str,
    least: isize,
    allowed: &str,
) -> PyResult<usize> {
    if value.is_exact_instance_of::<PyInt>() {
        // SAFETY: attached, with an int.
        let number = unsafe { ffi::PyLong_AsSsize_t(value.as_ptr()) };
        if number >= least {
            return Ok(number.cast_unsigned());
        }
    }
    any_byte_count(value, name, least, allowed)
}

#[cold]
fn any_byte_count(
    value: &Bound<'_, PyAny>,
    name: &str,
    least: isize,
    allowed: &str,
) -> PyResult<usize> {
    // SAFETY: attached, with a live object. A number too large to be one of bytes was an error, and is clipped here. -1
    // may be an error, and is refused below in any case.
    let number = unsafe {
        ffi::PyErr_Clear();
        ffi::PyNumber_AsSsize_t(value.as_ptr(), std::ptr::null_mut())
    };
    if number >= least {
        return Ok(number.cast_unsigned());
    }
    Err(bad_count(value, name, allowed))
}

#[cold]
fn bad_count(value: &Bound<'_, PyAny>, name: &str, allowed: &str) -> PyErr {
    let error = PyErr::take(value.py());
    let shown = shown(value);
    let message = format!("{name} must be {allowed}, not {shown}");
    match error {
        Some(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            PyTypeError::new_err(message)
        }
        Some(error) => error, // what the value's own `__index__` raised
        None => PyValueError::new_err(message),
    }
}
