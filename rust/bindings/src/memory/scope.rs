//! `BufferPool.scope()`: a block at whose end the buffers that were acquired in it are released.
//!
//! A scope does not keep its buffers alive: each tells it when it goes back. So what was dropped or released early costs
//! nothing any more, and a scope is as large as what is out. It knows them by address, which is sound because a buffer
//! leaves its scope, under the scope's lock, before its memory goes ([`Membership::end`], called last by its
//! deallocation), and is touched by the scope under that lock only.
//!
//! The race is a buffer's last reference against the end of the scope, on two threads. Whoever changes the buffer's word
//! to released gives the memory back; the other finds it released, and does nothing.

use std::{
    collections::BTreeMap,
    ptr::NonNull,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use penstock_core::{
    memory::{Block, Release},
    sync::Guarded,
};
use pyo3::{
    exceptions::{PyRuntimeError, PyTypeError},
    ffi,
    prelude::*,
};

use super::{
    acquire::{aacquire_in, acquire as acquire_from_pool},
    buffer::{Buffer, give_back},
    pool::BufferPool,
    site::Site,
    watch::Record,
};
use crate::{
    error::{Raised, raise},
    hot::Definition,
    mode::Mode,
    object::{self, Object},
};

pub(super) static ENTRIES: [Definition; 2] = [
    Definition::fast(
        c"acquire",
        acquire,
        c"acquire($self, nbytes, node=None, *, timeout=None)\n--\n\n\
Lend a buffer that is released at the end of the scope at the latest.\n\
\n\
Otherwise as `BufferPool.acquire`, which says when it waits and what it raises.\n\
\n\
Raises:\n\
    RuntimeError: the scope has ended, maybe while this waited, or was not entered yet. Nothing was taken.\n\
\n\
>>> from penstock import BufferPool\n\
>>> pool = BufferPool()\n\
>>> with pool.scope() as scope:\n\
...     buffer = scope.acquire(100)\n\
...     pool.stats().in_use\n\
128\n\
>>> pool.stats().in_use\n\
0\n",
    ),
    Definition::fast(
        c"aacquire",
        aacquire,
        c"aacquire($self, nbytes, node=None, *, timeout=None)\n--\n\n\
The awaitable form of `acquire`, for ``async def`` tasks.\n\
\n\
>>> from penstock import BufferPool, go\n\
>>> async def use() -> int:\n\
...     with BufferPool().scope() as scope:\n\
...         return len(await scope.aacquire(100))\n\
>>> go(use).result()\n\
100\n",
    ),
];

/// How many buffers are looked at before others may have the lock.
const BATCH: usize = 64;

/// A block that bounds the lives of buffers: what was acquired in it is released at its end.
///
/// Made by `BufferPool.scope`, and entered once. Its end never waits. Buffers that were released or dropped before cost
/// nothing any more; one that a memoryview, an array or another export still uses at the end is released for its users
/// (``ValueError`` on use), and its memory goes back with the last export: the end raises nothing, and `escapes` says
/// where such a buffer was acquired. Any thread or task may acquire in it.
///
/// >>> from penstock import BufferPool
/// >>> pool = BufferPool()
/// >>> with pool.scope() as scope:
/// ...     first, second = scope.acquire(4096), scope.acquire(4096)
/// ...     view = memoryview(second)
/// >>> pool.stats().in_use, len(scope.escapes())
/// (4096, 1)
/// >>> view.release()
/// >>> pool.stats().in_use
/// 0
#[pyclass(frozen, weakref, module = "penstock")]
pub struct BufferScope {
    pool: Py<BufferPool>,
    members: Arc<Members>,
    /// Where the buffers that outlived it were acquired. Set by its end.
    escaped: OnceLock<Vec<Site>>,
}

/// The buffers of a scope. Each of them has a share in it.
struct Members {
    inner: Guarded<Inner, Mode>,
    next: AtomicU64,
}

struct Inner {
    phase: Phase,
    /// By when they were acquired.
    buffers: BTreeMap<u64, Member>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Open,
    Ended,
}

/// A buffer that is alive as long as it is listed.
struct Member(NonNull<Buffer>);

// SAFETY: any thread may use a buffer; see the module on its life.
unsafe impl Send for Member {}

/// A buffer's place in its scope.
pub(super) struct Membership {
    members: Arc<Members>,
    number: u64,
}

impl Membership {
    /// The buffer is about to go back, or is deallocated: its scope does not know it any more after this.
    pub fn end(&self) {
        self.members
            .inner
            .with(|inner| inner.buffers.remove(&self.number));
    }
}

impl BufferScope {
    pub(super) fn new(pool: &Bound<'_, BufferPool>) -> Self {
        Self {
            pool: pool.clone().unbind(),
            members: Arc::new(Members {
                inner: Guarded::new(Inner {
                    phase: Phase::New,
                    buffers: BTreeMap::new(),
                }),
                next: AtomicU64::new(0),
            }),
            escaped: OnceLock::new(),
        }
    }

    fn check(&self, py: Python<'_>) -> Result<(), Raised> {
        match self.members.inner.with(|inner| inner.phase) {
            Phase::Open => Ok(()),
            phase => Err(refuse(py, phase)),
        }
    }

    /// Takes in a buffer that nobody else knows yet, and gives it back; or gives up its memory where the scope has ended.
    ///
    /// # Safety
    /// `buffer` is a reference to a buffer of the scope's pool, which only the caller has.
    pub(super) unsafe fn take_in(
        &self,
        py: Python<'_>,
        buffer: *mut ffi::PyObject,
        site: Option<Site>,
    ) -> Result<*mut ffi::PyObject, Raised> {
        // SAFETY: alive, by the caller's promise.
        let member = unsafe { object::get::<Buffer>(buffer) };
        let number = self.members.next.fetch_add(1, Ordering::Relaxed); // Ordering: Relaxed, a count.
        let record = member.record_or(|block| Record::of_member(py, block, site));
        let membership = Membership {
            members: Arc::clone(&self.members),
            number,
        };
        let is_first = record.membership.set(membership).is_ok();
        debug_assert!(is_first, "nobody else has it");
        let is_open = self.members.inner.with(|inner| {
            if inner.phase == Phase::Open {
                inner.buffers.insert(number, Member(NonNull::from(member)));
            }
            inner.phase == Phase::Open
        });
        if is_open {
            return Ok(buffer);
        }
        // SAFETY: the reference is the caller's, who does not get it back.
        unsafe { ffi::Py_DECREF(buffer) };
        Err(refuse(py, Phase::Ended))
    }

    /// Releases what is left.
    fn end(&self) {
        let mut escaped = Vec::new();
        loop {
            let mut released: Vec<(Block, Option<Arc<Record>>)> = Vec::with_capacity(BATCH);
            let mut outlived: Vec<Arc<Record>> = Vec::with_capacity(BATCH);
            let is_empty = self.members.inner.with(|inner| {
                inner.phase = Phase::Ended;
                for _ in 0..BATCH {
                    let Some((_, member)) = inner.buffers.pop_first() else {
                        return true;
                    };
                    // SAFETY: listed, so alive until the lock is let go of.
                    let buffer = unsafe { member.0.as_ref() };
                    match buffer.release_at_last() {
                        // SAFETY: released by this call, with no exports.
                        Release::Now => released.push(unsafe { buffer.parts() }),
                        Release::Exported(_) => outlived.extend(buffer.record()),
                        Release::Before => {} // another thread is giving it back
                    }
                }
                false
            });
            for (block, record) in released {
                // SAFETY: the parts of a buffer that was released above, with no exports.
                unsafe { give_back(self.pool.get(), block, record.as_ref()) };
            }
            escaped.extend(outlived.iter().map(|record| record.site().clone()));
            if is_empty {
                break;
            }
        }
        let _ = self.escaped.set(escaped); // set already: ended by two threads at once
    }
}

#[pymethods]
impl BufferScope {
    fn __enter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let is_first = this.get().members.inner.with(|inner| {
            let is_first = inner.phase == Phase::New;
            if is_first {
                inner.phase = Phase::Open;
            }
            is_first
        });
        if is_first {
            return Ok(this.clone());
        }
        Err(PyRuntimeError::new_err(
            "a scope is entered once: call pool.scope() for another one",
        ))
    }

    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> bool {
        self.end();
        false
    }

    /// Where the buffers that outlived the scope were acquired: ``"file:line"`` of each that was still exported at its
    /// end, in the order of their acquisition. Empty while the scope is open.
    ///
    /// >>> from penstock import BufferPool
    /// >>> with BufferPool().scope() as scope:
    /// ...     kept = scope.acquire(10)[2:4]
    /// ...     scope.escapes()
    /// []
    /// >>> [site] = scope.escapes()
    /// >>> site.rpartition(':')[2]
    /// '2'
    fn escapes(&self, py: Python<'_>) -> Vec<String> {
        let sites = self.escaped.get().map_or(&[][..], Vec::as_slice);
        sites.iter().map(|site| site.line(py)).collect()
    }

    fn __repr__(this: &Bound<'_, Self>) -> String {
        let (phase, count) = this
            .get()
            .members
            .inner
            .with(|inner| (inner.phase, inner.buffers.len()));
        let state = match phase {
            Phase::New => "not entered".to_owned(),
            Phase::Open => format!("open, {count} in use"),
            Phase::Ended => {
                let escaped = this.get().escaped.get().map_or(0, Vec::len);
                format!("ended, {escaped} escaped")
            }
        };
        format!("<penstock.BufferScope at {:p}: {state}>", this.as_ptr())
    }

    #[expect(clippy::unused_self, reason = "a method of the protocol")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a BufferScope cannot be pickled or copied: its end releases the buffers that were acquired in it",
        ))
    }
}

#[cold]
fn refuse(py: Python<'_>, phase: Phase) -> Raised {
    let message = if phase == Phase::New {
        "the scope has not been entered: with pool.scope() as scope: ..."
    } else {
        "the scope has ended: its buffers are gone, and it lends no more"
    };
    raise(py, PyRuntimeError::new_err(message))
}

/// `BufferScope.acquire(nbytes, node=None, *, timeout=None)`
unsafe extern "C-unwind" fn acquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls methods attached, with a live `this` of the class that the descriptor has checked; it
    // keeps its pool alive. Nothing here has a destructor while the pool's entry waits.
    unsafe {
        let py = Python::assume_attached();
        let scope = object::get::<BufferScope>(this);
        if scope.check(py).is_err() {
            return std::ptr::null_mut();
        }
        let buffer = acquire_from_pool(scope.pool.as_ptr(), arguments, count, keywords);
        if buffer.is_null() {
            return buffer;
        }
        let taken_in = scope.take_in(py, buffer, None);
        taken_in.unwrap_or(std::ptr::null_mut())
    }
}

/// `BufferScope.aacquire(nbytes, node=None, *, timeout=None)`
unsafe extern "C-unwind" fn aacquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe {
        let py = Python::assume_attached();
        let scope = object::get::<BufferScope>(this);
        if scope.check(py).is_err() {
            return std::ptr::null_mut();
        }
        let pool = scope.pool.as_ptr();
        aacquire_in(
            py,
            pool,
            Some(Object::new(this)),
            arguments,
            count,
            keywords,
        )
    }
}
