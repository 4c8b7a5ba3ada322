//! `BufferPool` and `Buffer`.
//!
//! A buffer counts its exports: the `memoryview`s, arrays and others that use its memory. One word says it
//! all, `exports << 1 | released`, because without the GIL a release on one thread may meet an export on
//! another: whoever changes the word first decides. Memory goes back to its pool in exactly one of these
//! transitions, each to `released` with no exports:
//!
//! ```text
//!   0 exports --- release, end of `with`, last reference ---------------------> back
//!   n exports --- release --> BufferError, nothing changes
//!   n exports --- end of `with` --> released, n exports --- last export ends --> back
//! ```
//!
//! Invariant: while `exports > 0` or not `released`, the block is out, and the pool hands it to nobody.
//!
//! Neither class takes part in garbage collection: a buffer refers to its pool and to nothing else, a pool
//! to no Python object, so no cycle passes through them. An export refers to its buffer, and whoever
//! holds it is the one to visit it.

use std::{io, os::raw::c_int, sync::Arc};

use penstock_core::{
    memory::{AcquireError, Begun, Block, Pool, PoolOptions, Stake, TryAcquireError},
    sync::{self, Ordering, Word},
    wait::{Entry, Outcome, WaiterRef},
};
use pyo3::{
    exceptions::{
        PyBufferError, PyIndexError, PyMemoryError, PyOSError, PyTypeError, PyValueError,
    },
    ffi,
    prelude::*,
    pyclass::CompareOp,
    types::{PyInt, PyIterator, PyMemoryView},
};

use crate::{
    convert::{Passed, Patience, parse},
    error::{Failure, Raised, raise},
    hot::{self, Definition},
    mode::{Mode, mode},
    object::Object,
    pending::{self, Next, Pending},
};

/// Puts the classes' raw entries in place.
pub fn add(py: Python<'_>) -> PyResult<()> {
    hot::add_methods(&py.get_type::<BufferPool>(), &POOL_ENTRIES)?;
    hot::add_methods(&py.get_type::<Buffer>(), &BUFFER_ENTRIES)
}

static POOL_ENTRIES: [Definition; 2] = [Definition::fast(
    c"acquire",
    acquire,
    c"acquire($self, nbytes, *, timeout=None)\n--\n\n\
Lend a buffer of ``nbytes`` bytes.\n\
\n\
``len()`` of it is ``nbytes`` (0 is allowed), its memory is aligned to 64 bytes, and what is in it is\n\
anything at all unless the pool was made with ``zero=True``. Where ``max_bytes`` leaves no room this\n\
waits until others have released enough; who waits is served in order, and nobody overtakes.\n\
Cancelled or timed out, it has taken nothing.\n\
\n\
Raises:\n\
    ValueError: ``nbytes`` is negative, or more than ``max_bytes``.\n\
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
    c"aacquire($self, nbytes, *, timeout=None)\n--\n\n\
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

static BUFFER_ENTRIES: [Definition; 1] = [Definition::no_args(
    c"release",
    release,
    c"release($self)\n--\n\n\
Give the memory back to the pool. Never waits; a second call does nothing.\n\
\n\
Raises:\n\
    BufferError: a memoryview, an array or another export still uses the memory. Nothing has changed.\n\
\n\
>>> from penstock import BufferPool\n\
>>> buffer = BufferPool().acquire(5)\n\
>>> view = memoryview(buffer)\n\
>>> buffer.release()\n\
Traceback (most recent call last):\n\
BufferError: the buffer still has 1 export: release that first\n\
>>> view.release()\n\
>>> buffer.release()\n",
)];

/// Bytes of a pool, counted as bytes of size classes: ``in_use + cached == reserved``.
///
/// ``reserved_peak`` is the most that ``reserved`` has been.
#[pyclass(frozen, eq, get_all, skip_from_py_object, module = "penstock")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferStats {
    in_use: usize,
    cached: usize,
    reserved: usize,
    reserved_peak: usize,
}

#[pymethods]
impl BufferStats {
    fn __repr__(&self) -> String {
        let Self {
            in_use,
            cached,
            reserved,
            reserved_peak,
        } = self;
        format!(
            "BufferStats(in_use={in_use}, cached={cached}, reserved={reserved}, \
             reserved_peak={reserved_peak})"
        )
    }
}

/// A pool of buffers: memory in size classes that is lent, and lent again when it comes back.
///
/// ``max_bytes`` bounds what is in use, counted in size classes (a request of n bytes takes at most an
/// eighth more from 1 KiB up, below that the next multiple of 64); ``acquire`` then waits where it would
/// be more. ``zero=True`` clears memory before it is lent. Any thread or task may acquire and release.
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
    pool: Pool<Mode>,
}

#[pymethods]
impl BufferPool {
    #[new]
    #[pyo3(
        signature = (max_bytes=None, *, zero=Passed::No),
        text_signature = "(max_bytes=None, *, zero=False)"
    )]
    fn new(max_bytes: Option<&Bound<'_, PyAny>>, zero: Passed<'_>) -> PyResult<Self> {
        let max_bytes = match max_bytes {
            None => None,
            Some(value) => Some(byte_count(value, "max_bytes", 1, "None or an int >= 1")?),
        };
        let zero = match zero {
            Passed::No => false,
            Passed::As(value) => value.extract().map_err(|_| {
                let shown = value
                    .repr()
                    .map_or_else(|_| "?".to_owned(), |text| text.to_string());
                PyTypeError::new_err(format!("zero must be a bool, not {shown}"))
            })?,
        };
        Ok(Self {
            pool: Pool::new(mode(), PoolOptions { max_bytes, zero }),
        })
    }

    /// What the pool holds now.
    fn stats(&self) -> BufferStats {
        let stats = self.pool.stats();
        BufferStats {
            in_use: stats.in_use,
            cached: stats.cached,
            reserved: stats.reserved,
            reserved_peak: stats.reserved_peak,
        }
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

const RELEASED: u64 = 1;
const EXPORT: u64 = 2;

/// What became of an attempt to release.
#[must_use]
enum Release {
    /// The caller has to give the block back.
    Now,
    /// It was released before.
    Before,
    Exported(u64),
}

/// Memory lent by a pool: writable, contiguous, with the buffer protocol.
///
/// It goes back to the pool on ``release()``, at the end of its ``with``, or with its last reference. Memory
/// that a memoryview, an array or another export still uses is never handed out again: ``release()`` raises
/// ``BufferError`` then, and so does leaving a ``with``, unless an exception is on its way; after a ``with``
/// the memory goes back with the last export. A released buffer raises ``ValueError`` on use.
///
/// A slice is a memoryview; items, iteration and comparison are as for a memoryview of bytes.
///
/// >>> from penstock import BufferPool
/// >>> with BufferPool().acquire(4) as buffer:
/// ...     buffer[:] = b'abcd'
/// ...     buffer[0], buffer == b'abcd', list(buffer[2:])
/// (97, True, [99, 100])
#[pyclass(frozen, weakref, module = "penstock")]
pub struct Buffer {
    /// Out while the word says so.
    block: Block,
    pool: Py<BufferPool>,
    /// `exports << 1 | released`; any thread that uses the buffer changes it.
    word: <Mode as sync::Mode>::Word,
}

impl Buffer {
    /// Counts one more export.
    fn export(&self) -> PyResult<()> {
        // Ordering: Relaxed, the compare-and-swap decides.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & RELEASED != 0 {
                return Err(released());
            }
            match self.word.compare_exchange_weak(
                word,
                word + EXPORT,
                // Ordering: Relaxed, whoever has a buffer got it with its memory; Relaxed, tried again.
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// One export is over, and the memory goes back if it was the last one of a released buffer.
    fn end_export(&self) {
        // Ordering: Release publishes what was written through the export to whoever gives the memory back,
        // Acquire for the case that it is this one.
        let old = self.word.fetch_add(EXPORT.wrapping_neg(), Ordering::AcqRel);
        debug_assert!(old >= EXPORT, "an export ended that never began");
        if old == RELEASED | EXPORT {
            self.give_back();
        }
    }

    /// Releases if there are no exports.
    fn try_release(&self) -> Release {
        loop {
            match self.word.compare_exchange_weak(
                0,
                RELEASED,
                // Ordering: Acquire pairs with the Release in `end_export`: all writes through exports are done.
                Ordering::Acquire,
                // Ordering: Relaxed, nothing follows from it.
                Ordering::Relaxed,
            ) {
                Ok(_) => return Release::Now,
                Err(0) => {} // failed for no reason
                Err(word) if word & RELEASED != 0 => return Release::Before,
                Err(word) => return Release::Exported(word / EXPORT),
            }
        }
    }

    /// Releases, now or with the last export.
    fn release_at_last(&self) -> Release {
        // Ordering: Acquire, as in `try_release`.
        match self.word.fetch_or(RELEASED, Ordering::Acquire) {
            0 => Release::Now,
            word if word & RELEASED != 0 => Release::Before,
            word => Release::Exported(word / EXPORT),
        }
    }

    /// Called once per buffer, by whoever made it released with no exports.
    fn give_back(&self) {
        // SAFETY: the pool lent the block, nobody uses it any more and nobody will: the word says so. The
        // alias is the one that goes back.
        unsafe { self.pool.get().pool.release(self.block.alias()) };
    }

    fn check(&self) -> PyResult<()> {
        // Ordering: Relaxed, a released buffer is recognised, not used.
        if self.word.load(Ordering::Relaxed) & RELEASED != 0 {
            return Err(released());
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // An export refers to the buffer, so there is none.
        if let Release::Now = self.try_release() {
            self.give_back();
        }
    }
}

#[pymethods]
impl Buffer {
    fn __len__(&self) -> PyResult<usize> {
        self.check().map(|()| self.block.len())
    }

    fn __getitem__<'py>(
        this: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if !key.is_exact_instance_of::<PyInt>() {
            return PyMemoryView::from(this)?.get_item(key);
        }
        let buffer = this.get();
        buffer.check()?;
        let len = buffer.block.len();
        let index = key.extract::<isize>().ok().and_then(|index| {
            let index = if index < 0 {
                len.checked_sub(index.unsigned_abs())?
            } else {
                index.unsigned_abs()
            };
            (index < len).then_some(index)
        });
        let Some(index) = index else {
            return Err(PyIndexError::new_err(format!(
                "index {key} is out of bounds of a buffer of {len} bytes"
            )));
        };
        buffer.export()?;
        // SAFETY: inside the block, which stays out during the export; a byte of it may be written at the
        // same time by another thread, as in any buffer that threads share.
        let byte = unsafe { buffer.block.address().add(index).read_volatile() };
        buffer.end_export();
        Ok(byte.into_pyobject(this.py())?.into_any())
    }

    fn __setitem__(
        this: &Bound<'_, Self>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        PyMemoryView::from(this)?.set_item(key, value)
    }

    fn __delitem__(this: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<()> {
        PyMemoryView::from(this)?.del_item(key)
    }

    fn __iter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyIterator>> {
        PyMemoryView::from(this)?.try_iter()
    }

    fn __richcmp__<'py>(
        this: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        operation: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        this.get().check()?;
        if !matches!(operation, CompareOp::Eq | CompareOp::Ne) {
            return Ok(this.py().NotImplemented().into_bound(this.py()));
        }
        PyMemoryView::from(this)?.rich_compare(other, operation)
    }

    fn __enter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        this.get().check().map(|()| this.clone())
    }

    fn __exit__(
        &self,
        kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        match self.release_at_last() {
            Release::Now => self.give_back(),
            Release::Exported(count) if kind.is_none() => return Err(exported(count)),
            Release::Exported(_) | Release::Before => {}
        }
        Ok(false)
    }

    fn __repr__(this: &Bound<'_, Self>) -> String {
        let buffer = this.get();
        // Ordering: Relaxed, a picture of the moment.
        let word = buffer.word.load(Ordering::Relaxed);
        let state = match (word & RELEASED != 0, word / EXPORT) {
            (false, 0) => "in use".to_owned(),
            (false, count) => format!("in use, {}", exports(count)),
            (true, 0) => "released".to_owned(),
            (true, count) => format!("released, {} left", exports(count)),
        };
        format!(
            "<penstock.Buffer at {:p}: {} bytes, {state}>",
            this.as_ptr(),
            buffer.block.len()
        )
    }

    #[expect(clippy::unused_self, reason = "a method of the protocol")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a Buffer cannot be pickled or copied: it is a loan from a pool in this process; bytes(buffer) copies \
             what is in it",
        ))
    }

    /// # Safety
    /// Called by the interpreter, with a view to fill.
    unsafe fn __getbuffer__(
        this: &Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let buffer = this.get();
        if let Err(error) = buffer.export() {
            // SAFETY: the view is the caller's; a failed export leaves it without an owner.
            unsafe { (*view).obj = std::ptr::null_mut() };
            return Err(error);
        }
        // SAFETY: the block stays out while the export lasts, which the view's reference to `this` stands for.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                this.as_ptr(),
                buffer.block.address().as_ptr().cast(),
                buffer.block.len().cast_signed(),
                0,
                flags,
            )
        };
        if filled < 0 {
            buffer.end_export();
            return Err(PyErr::fetch(this.py()));
        }
        Ok(())
    }

    /// # Safety
    /// Called by the interpreter, once per view that was filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.end_export();
    }
}

/// `BufferPool.acquire(nbytes, *, timeout=None)`
unsafe extern "C-unwind" fn acquire(
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
            Request::parse(py, "acquire", arguments, count, keywords),
        )
    };
    let Ok(request) = request else {
        return std::ptr::null_mut();
    };
    // SAFETY: the method's descriptor has checked the class of `this`.
    let pool = unsafe { pool_of(py, &this) };
    match pool.pool.try_acquire(request.nbytes) {
        Ok(block) => lend(py, this, block),
        Err(TryAcquireError::Full) if request.patience == Patience::None => {
            timed_out(py, request.nbytes);
            std::ptr::null_mut()
        }
        Err(TryAcquireError::Full) => {
            // SAFETY: in a raw entry of the pool `this`; nothing here has a destructor.
            unsafe {
                let acquire = Box::new(Acquire::new(this, request.nbytes));
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

/// `BufferPool.aacquire(nbytes, *, timeout=None)`
unsafe extern "C-unwind" fn aacquire(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls methods attached, with a live `this` and as many arguments as it says.
    unsafe {
        let py = Python::assume_attached();
        let Ok(request) = Request::parse(py, "aacquire", arguments, count, keywords) else {
            return std::ptr::null_mut();
        };
        let acquire = Box::new(Acquire::new(this, request.nbytes));
        pending::awaitable(py, acquire, request.patience)
    }
}

/// A call of `acquire` that found the pool full, or of `aacquire`.
struct Acquire {
    pool: Object,
    nbytes: usize,
    entry: Option<Arc<Entry<Stake>>>,
}

impl Acquire {
    /// # Safety
    /// `pool` is one, alive; attached.
    unsafe fn new(pool: *mut ffi::PyObject, nbytes: usize) -> Self {
        Self {
            // SAFETY: alive, by the caller's promise.
            pool: unsafe { Object::new(pool) },
            nbytes,
            entry: None,
        }
    }

    fn pool<'a>(&self, py: Python<'a>) -> &'a BufferPool {
        let pool = self.pool.as_ptr();
        // SAFETY: a pool that this keeps alive; the callers use the result while they have this.
        unsafe { &*std::ptr::from_ref(pool_of(py, &pool)) }
    }

    fn lend(&self, py: Python<'_>, block: Block) -> Result<*mut ffi::PyObject, Raised> {
        let buffer = lend(py, self.pool.as_ptr(), block);
        if buffer.is_null() {
            Err(Raised)
        } else {
            Ok(buffer)
        }
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
        match self.pool(py).pool.try_acquire(self.nbytes) {
            Ok(block) => self.lend(py, block).map(Some),
            Err(TryAcquireError::Full) => Ok(None),
            Err(TryAcquireError::TooLarge) => Err(too_large(py, self.pool(py), self.nbytes)),
            Err(TryAcquireError::Failed(error)) => Err(failed(py, error)),
        }
    }

    fn begin(&mut self, py: Python<'_>, waiter: &WaiterRef) -> Result<pending::Begun, Raised> {
        match self.pool(py).pool.begin_acquire(self.nbytes, waiter) {
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
    }
}

/// `Buffer.release()`
unsafe extern "C-unwind" fn release(
    this: *mut ffi::PyObject,
    _unused: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls methods attached, and the descriptor has checked the class of `this`.
    let (py, buffer) = unsafe {
        let py = Python::assume_attached();
        let buffer = Bound::ref_from_ptr(py, &this).cast_unchecked::<Buffer>();
        (py, buffer.get())
    };
    match buffer.try_release() {
        Release::Now => buffer.give_back(),
        Release::Before => {}
        Release::Exported(count) => {
            raise(py, exported(count));
            return std::ptr::null_mut();
        }
    }
    // SAFETY: attached.
    unsafe { ffi::Py_NewRef(ffi::Py_None()) }
}

/// # Safety
/// `this` is a `BufferPool`, alive as long as the result is used.
#[inline]
unsafe fn pool_of<'a>(py: Python<'a>, this: &'a *mut ffi::PyObject) -> &'a BufferPool {
    // SAFETY: as promised by the caller.
    unsafe { Bound::ref_from_ptr(py, this).cast_unchecked::<BufferPool>() }.get()
}

/// The object around a block; null with an exception set if there is no memory for it.
#[inline]
fn lend(py: Python<'_>, pool: *mut ffi::PyObject, block: Block) -> *mut ffi::PyObject {
    let buffer = Buffer {
        block,
        // SAFETY: the callers pass a live pool.
        pool: unsafe { Bound::ref_from_ptr(py, &pool).cast_unchecked::<BufferPool>() }
            .clone()
            .unbind(),
        word: Word::new(0),
    };
    match Py::new(py, buffer) {
        Ok(buffer) => buffer.into_ptr(),
        Err(error) => {
            raise(py, error);
            std::ptr::null_mut()
        }
    }
}

/// The arguments of `acquire` and `aacquire`.
#[derive(Clone, Copy)]
struct Request {
    nbytes: usize,
    patience: Patience,
}

impl Request {
    /// # Safety
    /// The arguments are those of a vectorcall.
    #[inline]
    unsafe fn parse(
        py: Python<'_>,
        function: &'static str,
        arguments: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        keywords: *mut ffi::PyObject,
    ) -> Result<Self, Raised> {
        if count == 1 && keywords.is_null() {
            // SAFETY: there is one argument, and it is alive.
            let value = unsafe { Bound::ref_from_ptr(py, &*arguments) };
            return Self::new(py, value, Patience::Forever);
        }
        if count > 1 {
            let message =
                format!("BufferPool.{function}() takes 1 positional argument ({count} given)");
            return Err(raise(py, PyTypeError::new_err(message)));
        }
        // SAFETY: as promised by the caller.
        let [nbytes, timeout] = unsafe {
            parse(
                py,
                function,
                ["nbytes", "timeout"],
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
        // SAFETY: a required argument is there, and alive.
        Self::new(py, unsafe { Bound::ref_from_ptr(py, &nbytes) }, patience)
    }

    #[inline]
    fn new(py: Python<'_>, nbytes: &Bound<'_, PyAny>, patience: Patience) -> Result<Self, Raised> {
        match byte_count(nbytes, "nbytes", 0, "an int >= 0") {
            Ok(nbytes) => Ok(Self { nbytes, patience }),
            Err(error) => Err(raise(py, error)),
        }
    }
}

/// A number of bytes from an argument.
#[inline]
fn byte_count(
    value: &Bound<'_, PyAny>,
    name: &str,
    least: isize,
    allowed: &str,
) -> PyResult<usize> {
    // SAFETY: attached, with a live object. -1 may be an error, and is refused below in any case.
    let number = unsafe { ffi::PyNumber_AsSsize_t(value.as_ptr(), std::ptr::null_mut()) };
    if number >= least {
        return Ok(number.cast_unsigned());
    }
    Err(bad_count(value, name, allowed))
}

#[cold]
fn bad_count(value: &Bound<'_, PyAny>, name: &str, allowed: &str) -> PyErr {
    let error = PyErr::take(value.py());
    let shown = value
        .repr()
        .map_or_else(|_| "?".to_owned(), |text| text.to_string());
    let message = format!("{name} must be {allowed}, not {shown}");
    match error {
        Some(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            PyTypeError::new_err(message)
        }
        Some(error) => error, // what the value's own `__index__` raised
        None => PyValueError::new_err(message),
    }
}

fn released() -> PyErr {
    PyValueError::new_err("the buffer has been released")
}

fn exported(count: u64) -> PyErr {
    let which = if count == 1 { "that" } else { "those" };
    PyBufferError::new_err(format!(
        "the buffer still has {}: release {which} first",
        exports(count)
    ))
}

fn exports(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} export{plural}")
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
    let out_of_memory = error.kind() == io::ErrorKind::OutOfMemory;
    raise(
        py,
        if out_of_memory {
            PyMemoryError::new_err("the system has no more memory to give")
        } else {
            PyOSError::new_err(error)
        },
    )
}
