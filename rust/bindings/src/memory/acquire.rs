//! `BufferPool.acquire` and `aacquire`: the raw entries, and the wait behind them.

use std::{io, sync::Arc};

use penstock_core::{
    memory::{AcquireError, Begun, Block, Stake, TryAcquireError},
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{
    exceptions::{PyMemoryError, PyOSError, PyTypeError, PyValueError},
    ffi,
    prelude::*,
};

use super::{
    buffer::{lend, lend_at},
    pool::{BufferPool, byte_count},
    scope::BufferScope,
    site::Site,
    watch,
};
use crate::{
    convert::{Patience, parse},
    error::{Failure, Raised, raise},
    hot::Definition,
    object::{self, Object},
    pending::{self, Next, Pending},
};

pub(super) static ENTRIES: [Definition; 2] = [Definition::fast(
    c"acquire",
    acquire,
    c"acquire($self, nbytes, node=None, *, timeout=None)\n--\n\n\
Lend a buffer of ``nbytes`` bytes.\n\
\n\
``len()`` of it is ``nbytes`` (0 is allowed), its memory is aligned to 64 bytes, and what is in it is\n\
anything at all unless the pool was made with ``zero=True``. Where ``max_bytes`` leaves no room this\n\
waits until others have released enough; who waits is served in order, and nobody overtakes.\n\
Cancelled or timed out, it has taken nothing.\n\
\n\
The memory lies on the caller's NUMA node, or on ``node``, the id of one of the pool's nodes.\n\
\n\
Raises:\n\
    ValueError: ``nbytes`` is negative, or more than ``max_bytes``, or the pool has no such ``node``.\n\
    TimeoutError: ``timeout`` seconds passed first.\n\
    MemoryError: the system has no more memory to give.\n\
\n\
>>> from penstock import BufferPool\n\
>>> with BufferPool().acquire(5) as buffer:\n\
...     buffer[:] = b'hello'\n\
...     bytes(buffer[1:3])\n\
b'el'\n",
), Definition::fast(
    c"aacquire",
    aacquire,
    c"aacquire($self, nbytes, node=None, *, timeout=None)\n--\n\n\
The awaitable form of `acquire`, for ``async def`` tasks.\n\
\n\
It stands in the same line as those who wait in `acquire`, and raises the same.\n\
\n\
>>> from penstock import BufferPool, go\n\
>>> pool = BufferPool(max_bytes=4096)\n\
>>> async def use() -> int:\n\
...     with await pool.aacquire(100) as buffer:\n\
...         return len(buffer)\n\
>>> go(use).result()\n\
100\n",
)];

/// `BufferPool.acquire(nbytes, node=None, *, timeout=None)`
pub(super) unsafe extern "C-unwind" fn acquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls methods attached, with a live `this` and as many arguments as it says.
    let (py, request) = unsafe {
        let py = Python::assume_attached();
        (
            py,
            Request::parse(py, &this, "acquire", arguments, count, keywords),
        )
    };
    let Ok(request) = request else {
        return std::ptr::null_mut();
    };
    // SAFETY: the method's descriptor has checked the class of `this`.
    let pool = unsafe { object::get::<BufferPool>(this) };
    match pool.pool.try_acquire_on(request.nbytes, request.node) {
        Ok(block) => lend(py, this, block),
        Err(TryAcquireError::Full) if request.patience == Patience::None => {
            timed_out(py, request.nbytes);
            std::ptr::null_mut()
        }
        Err(TryAcquireError::Full) => {
            // SAFETY: in a raw entry of the pool `this`; nothing here has a destructor.
            unsafe {
                let acquire = Box::new(Acquire::new(this, request));
                pending::run(py, acquire, request.patience).unwrap_or(std::ptr::null_mut())
            }
        }
        Err(TryAcquireError::TooLarge) => {
            too_large(py, pool, request.nbytes);
            std::ptr::null_mut()
        }
        Err(TryAcquireError::Failed(error)) => {
            failed(py, error);
            std::ptr::null_mut()
        }
    }
}

/// `BufferPool.aacquire(nbytes, node=None, *, timeout=None)`
unsafe extern "C-unwind" fn aacquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls methods attached, with a live `this` and as many arguments as it says.
    unsafe {
        let py = Python::assume_attached();
        aacquire_in(py, this, None, arguments, count, keywords)
    }
}

/// The same for a buffer that belongs to `scope`, if there is one.
///
/// # Safety
/// `pool` is one, alive, that of the scope; the arguments are those of a vectorcall.
pub(super) unsafe fn aacquire_in(
    py: Python<'_>,
    pool: *mut ffi::PyObject,
    scope: Option<Object>,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe {
        let Ok(request) = Request::parse(py, &pool, "aacquire", arguments, count, keywords) else {
            return std::ptr::null_mut();
        };
        let mut acquire = Box::new(Acquire::new(pool, request));
        acquire.site = match scope {
            None => watch::site_of_call(py),
            Some(_) => Some(watch::site_of_member(py)),
        };
        acquire.scope = scope;
        pending::awaitable(py, acquire, request.patience)
    }
}

/// A call of `acquire` that found the pool full, or of `aacquire`.
struct Acquire {
    pool: Object,
    nbytes: usize,
    node: Option<usize>,
    entry: Option<Arc<Entry<Stake>>>,
    /// Where it was called, if the buffer comes elsewhere.
    site: Option<Site>,
    /// The `BufferScope` that the buffer will belong to.
    scope: Option<Object>,
}

impl Acquire {
    /// # Safety
    /// `pool` is one, alive; attached.
    unsafe fn new(pool: *mut ffi::PyObject, request: Request) -> Self {
        Self {
            // SAFETY: alive, by the caller's promise.
            pool: unsafe { Object::new(pool) },
            nbytes: request.nbytes,
            node: request.node,
            entry: None,
            site: None,
            scope: None,
        }
    }

    fn pool<'a>(&self, _: Python<'a>) -> &'a BufferPool {
        // SAFETY: a pool that this keeps alive; the callers use the result while they have this.
        unsafe { object::get(self.pool.as_ptr()) }
    }

    fn lend(&mut self, py: Python<'_>, block: Block) -> Result<*mut ffi::PyObject, Raised> {
        let site = self.site.take();
        let site_in_scope = self.scope.as_ref().and(site.clone());
        let buffer = lend_at(py, self.pool.as_ptr(), block, site);
        if buffer.is_null() {
            return Err(Raised);
        }
        let Some(scope) = &self.scope else {
            return Ok(buffer);
        };
        // SAFETY: this keeps the scope alive; the buffer was lent by its pool just now.
        unsafe { object::get::<BufferScope>(scope.as_ptr()).take_in(py, buffer, site_in_scope) }
    }
}

impl Pending for Acquire {
    fn call(&self) -> &'static str {
        "BufferPool.acquire()"
    }

    fn awaitable(&self) -> &'static str {
        "await pool.aacquire()"
    }

    fn subject(&self) -> *mut ffi::PyObject {
        self.pool.as_ptr()
    }

    fn try_now(&mut self, py: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        match self.pool(py).pool.try_acquire_on(self.nbytes, self.node) {
            Ok(block) => self.lend(py, block).map(Some),
            Err(TryAcquireError::Full) => Ok(None),
            Err(TryAcquireError::TooLarge) => Err(too_large(py, self.pool(py), self.nbytes)),
            Err(TryAcquireError::Failed(error)) => Err(failed(py, error)),
        }
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<pending::Begun, Raised> {
        match self
            .pool(py)
            .pool
            .begin_acquire(self.nbytes, self.node, waiter)
        {
            Begun::Done(block) => self.lend(py, block).map(pending::Begun::Done),
            Begun::Waiting(entry) => {
                let epoch = entry.epoch;
                self.entry = Some(entry);
                Ok(pending::Begun::Waiting(epoch))
            }
            Begun::TooLarge => Err(too_large(py, self.pool(py), self.nbytes)),
            Begun::Failed(error) => Err(failed(py, error)),
        }
    }

    fn finish(&mut self, py: Python<'_>, outcome: Outcome) -> Result<Next, Raised> {
        let Some(entry) = self.entry.take() else {
            return Ok(Next::Over);
        };
        match self.pool(py).pool.finish_acquire(&entry, outcome) {
            Ok(block) => self.lend(py, block).map(Next::Done),
            Err(AcquireError::Timeout | AcquireError::Interrupted) => Ok(Next::Over),
            Err(AcquireError::Failed(error)) => Err(failed(py, error)),
        }
    }

    fn abandon(&mut self, py: Python<'_>, outcome: Outcome) {
        let Some(entry) = self.entry.take() else {
            return;
        };
        let pool = &self.pool(py).pool;
        if let Ok(block) = pool.finish_acquire(&entry, outcome) {
            // SAFETY: it came from this pool just now, and nobody else knows it.
            unsafe { pool.release(block) };
        }
    }

    fn timed_out(&self, py: Python<'_>) -> Raised {
        timed_out(py, self.nbytes)
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        visit(self.pool.as_ptr());
        if let Some(scope) = &self.scope {
            visit(scope.as_ptr());
        }
    }
}

/// The arguments of `acquire` and `aacquire`.
#[derive(Clone, Copy)]
struct Request {
    nbytes: usize,
    /// An index; `None`: the caller's.
    node: Option<usize>,
    patience: Patience,
}

impl Request {
    /// # Safety
    /// The arguments are those of a vectorcall of a method of `this`, a pool.
    #[inline]
    unsafe fn parse(
        py: Python<'_>,
        this: &*mut ffi::PyObject,
        function: &'static str,
        arguments: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        keywords: *mut ffi::PyObject,
    ) -> Result<Self, Raised> {
        if count == 1 && keywords.is_null() {
            // SAFETY: there is one argument, and it is alive.
            let value = unsafe { Bound::ref_from_ptr(py, &*arguments) };
            return Self::new(py, value, None, Patience::Forever);
        }
        if count > 2 {
            let message = format!(
                "BufferPool.{function}() takes at most 2 positional arguments ({count} given)"
            );
            return Err(raise(py, PyTypeError::new_err(message)));
        }
        // SAFETY: as promised by the caller.
        let [nbytes, node, timeout] = unsafe {
            parse(
                py,
                function,
                ["nbytes", "node", "timeout"],
                1,
                arguments,
                count,
                keywords,
            )
        }?;
        let patience = if timeout.is_null() {
            Patience::Forever
        } else {
            Patience::from_timeout(py, timeout)?
        };
        let node = if node.is_null() {
            None
        } else {
            // SAFETY: `this` is a pool, the argument is there, and both are alive.
            let node = unsafe {
                object::get::<BufferPool>(*this).node_from_argument(Bound::ref_from_ptr(py, &node))
            };
            node.map_err(|error| raise(py, error))?
        };
        // SAFETY: a required argument is there, and alive.
        Self::new(
            py,
            unsafe { Bound::ref_from_ptr(py, &nbytes) },
            node,
            patience,
        )
    }

    #[inline]
    fn new(
        py: Python<'_>,
        nbytes: &Bound<'_, PyAny>,
        node: Option<usize>,
        patience: Patience,
    ) -> Result<Self, Raised> {
        match byte_count(nbytes, "nbytes", 0, "an int >= 0") {
            Ok(nbytes) => Ok(Self {
                nbytes,
                node,
                patience,
            }),
            Err(error) => Err(raise(py, error)),
        }
    }
}

#[cold]
fn too_large(py: Python<'_>, pool: &BufferPool, nbytes: usize) -> Raised {
    let most = pool.pool.options().max_bytes.unwrap_or(usize::MAX);
    let message = format!("nbytes must be at most the pool's max_bytes ({most}), not {nbytes}");
    raise(py, PyValueError::new_err(message))
}

#[cold]
fn timed_out(py: Python<'_>, nbytes: usize) -> Raised {
    let message = format!("no {nbytes} bytes were released in time");
    Failure::TimedOut.raise(py, &message)
}

#[cold]
fn failed(py: Python<'_>, error: io::Error) -> Raised {
    raise(py, system_error(error))
}

/// The system has said no.
pub(super) fn system_error(error: io::Error) -> PyErr {
    if error.kind() == io::ErrorKind::OutOfMemory {
        PyMemoryError::new_err("the system has no more memory to give")
    } else {
        PyOSError::new_err(error)
    }
}
