//! `Buffer`: memory that a pool has lent.
//!
//! A buffer counts its exports: the `memoryview`s, arrays and others that use its memory. [`Exports`] decides between
//! those and a release on other threads.
//!
//! ```text
//!   0 exports --- release, end of `with` or scope, last reference ---------------------> back
//!   n exports --- release --> BufferError, nothing changes
//!   n exports --- end of `with` or scope --> released, n exports --- last export ends --> back
//! ```
//!
//! Invariant: while there are exports or it is not released, the block is out, and the pool hands it to nobody.
//!
//! Neither class takes part in garbage collection: a buffer refers to its pool, and maybe to the code that
//! acquired it ([`Record`]), a pool to no Python object, so no cycle passes through them. An export refers to
//! its buffer, and whoever holds it is the one to visit it.

use std::{
    os::raw::c_int,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
};

use penstock_core::memory::{Block, Exports, Release, Released};
use pyo3::{
    exceptions::{PyBufferError, PyIndexError, PyTypeError, PyValueError},
    ffi,
    prelude::*,
    pyclass::CompareOp,
    types::{PyInt, PyIterator, PyMemoryView},
};

use super::{
    buffer_object,
    pool::BufferPool,
    site::Site,
    watch::{self, Record},
};
use crate::{
    error::{put_aside, raise},
    hot::Definition,
    mode::Mode,
    object::{self, Object},
};

pub(super) static ENTRIES: [Definition; 1] = [Definition::no_args(
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
    /// Out while the exports say so.
    block: Block,
    /// A `BufferPool`.
    pool: Object,
    exports: Exports<Mode>,
    /// What is known of it, a share in it, or null. Set by whoever made the buffer, before anybody else has it.
    record: AtomicPtr<Record>,
}

impl Buffer {
    fn new(pool: Object, block: Block, record: *const Record) -> Self {
        Self {
            block,
            pool,
            exports: Exports::default(),
            record: AtomicPtr::new(record.cast_mut()),
        }
    }

    fn pool(&self) -> &BufferPool {
        // SAFETY: attached, as whoever uses a buffer; it is a pool, which this keeps alive.
        unsafe { object::get(self.pool.as_ptr()) }
    }

    /// A share in what is known of it.
    pub(super) fn record(&self) -> Option<Arc<Record>> {
        let record = self.record.load(Ordering::Relaxed); // Ordering: Relaxed, see the field.
        // SAFETY: a share of an `Arc` that this keeps.
        (!record.is_null()).then(|| unsafe {
            Arc::increment_strong_count(record);
            Arc::from_raw(record)
        })
    }

    /// The same, made now if there is none. Called by whoever has made the buffer, before anybody else has it.
    pub(super) fn record_or(&self, make: impl FnOnce(&Block) -> Arc<Record>) -> Arc<Record> {
        self.record().unwrap_or_else(|| {
            let record = make(&self.block);
            let share = Arc::into_raw(Arc::clone(&record)).cast_mut();
            self.record.store(share, Ordering::Relaxed); // Ordering: Relaxed, see the field.
            record
        })
    }

    /// What goes back to the pool.
    ///
    /// # Safety
    /// The buffer was released by the caller, and has no exports.
    pub(super) unsafe fn parts(&self) -> (Block, Option<Arc<Record>>) {
        // SAFETY: the alias is the one that goes back, by the caller's promise.
        (unsafe { self.block.alias() }, self.record())
    }

    /// Whether its deallocation now would be a leak that is told.
    #[inline]
    pub(super) fn is_leak(&self) -> bool {
        let record = self.record.load(Ordering::Relaxed); // Ordering: Relaxed, see the field.
        // SAFETY: a share of an `Arc` that this keeps.
        !record.is_null() && !self.exports.is_released() && unsafe { (*record).tells_leak() }
    }

    /// The buffer, whose last reference is gone, gives back its memory, and the leak is told.
    pub(super) fn report_leak(&self, py: Python<'_>, object: *mut ffi::PyObject) {
        if let Release::Now = self.exports.release_now() {
            self.give_back();
        }
        if let Some(record) = self.record() {
            record.report_leak(py, object);
        }
    }

    /// Counts one more export.
    fn export(&self) -> PyResult<()> {
        self.exports.begin().map_err(|Released| released())?;
        if let Some(record) = self.record() {
            self.pool().watch.check(&record);
        }
        Ok(())
    }

    /// One export is over, and the memory goes back if it was the last one of a released buffer.
    fn end_export(&self) {
        if self.exports.end() {
            self.give_back();
        }
    }

    /// Releases, now or with the last export: what a scope does at its end.
    pub(super) fn release_at_last(&self) -> Release {
        self.exports.release_at_last()
    }

    /// Called once per buffer, by whoever made it released with no exports.
    #[inline]
    fn give_back(&self) {
        // SAFETY: the pool lent the block, nobody uses it any more and nobody will: the word says so. The
        // alias is the one that goes back.
        unsafe {
            if self.record.load(Ordering::Relaxed).is_null() {
                // Ordering: Relaxed, see the field.
                self.pool().pool.release(self.block.alias());
            } else {
                let (block, record) = self.parts();
                give_back(self.pool(), block, record.as_ref());
            }
        }
    }

    /// The end of a buffer with a record, which a scope may be about to release too.
    #[cold]
    fn drop_recorded(&mut self) {
        if let Release::Now = self.exports.release_now() {
            self.give_back();
        }
        // SAFETY: the share that this kept.
        let record = unsafe { Arc::from_raw(*self.record.get_mut()) };
        // INVARIANT: a scope lists no buffer that is gone. Where its end is at this one now, this waits for it.
        if let Some(membership) = record.membership.get() {
            membership.end();
        }
    }

    fn check(&self) -> PyResult<()> {
        if self.exports.is_released() {
            return Err(released());
        }
        Ok(())
    }
}

/// Gives the memory of a buffer back, and all that is known of it.
///
/// # Safety
/// The [parts](Buffer::parts) are those of a buffer of this pool, and nobody uses its memory any more.
#[cold]
pub(super) unsafe fn give_back(pool: &BufferPool, block: Block, record: Option<&Arc<Record>>) {
    if let Some(record) = record {
        let may_link = pool.pool.may_link(&block);
        pool.watch.returned(record, &block, may_link);
    }
    // SAFETY: as promised by the caller.
    unsafe { pool.pool.release(block) };
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if !self.record.get_mut().is_null() {
            self.drop_recorded();
            return;
        }
        // An export refers to the buffer, and a buffer in a scope has a record: so there is none, and nobody else is
        // at it.
        if !self.exports.is_released() {
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
        let state = match (buffer.exports.is_released(), buffer.exports.count()) {
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

/// `Buffer.release()`
unsafe extern "C-unwind" fn release(
    this: *mut ffi::PyObject,
    _unused: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls methods attached, and the descriptor has checked the class of `this`.
    let (py, buffer) = unsafe { (Python::assume_attached(), object::get::<Buffer>(this)) };
    match buffer.exports.release_now() {
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

/// The object around a block; null with an exception set if there is no memory for it.
#[inline]
pub(super) fn lend(py: Python<'_>, pool: *mut ffi::PyObject, block: Block) -> *mut ffi::PyObject {
    if watch::is_due(py) {
        return lend_sample(py, pool, block, None);
    }
    // SAFETY: the callers pass a live pool.
    let pool = unsafe { Object::new(pool) };
    buffer_object::new(py, Buffer::new(pool, block, ptr::null()))
}

/// The same for a call that began elsewhere.
pub(super) fn lend_at(
    py: Python<'_>,
    pool: *mut ffi::PyObject,
    block: Block,
    site: Option<Site>,
) -> *mut ffi::PyObject {
    if watch::is_due(py) {
        return lend_sample(py, pool, block, site);
    }
    // SAFETY: the callers pass a live pool.
    let pool = unsafe { Object::new(pool) };
    buffer_object::new(py, Buffer::new(pool, block, ptr::null()))
}

/// The same for one that may be a sample.
#[cold]
fn lend_sample(
    py: Python<'_>,
    pool: *mut ffi::PyObject,
    block: Block,
    site: Option<Site>,
) -> *mut ffi::PyObject {
    // SAFETY: the callers pass a live pool.
    let pool = unsafe { Object::new(pool) };
    if !watch::is_sample(py) {
        return buffer_object::new(py, Buffer::new(pool, block, ptr::null()));
    }
    // SAFETY: a pool, alive.
    let watch = unsafe { &object::get::<BufferPool>(pool.as_ptr()).watch };
    let (record, damage) = watch.lent(py, &block, site);
    let buffer = Buffer::new(pool, block, Arc::into_raw(record));
    if damage.is_some_and(|damage| damage.report(py).is_err()) {
        // The warning is an error here: it takes the place of the buffer, which goes back.
        let aside = put_aside(py);
        drop(buffer);
        aside.restore(py);
        return ptr::null_mut();
    }
    buffer_object::new(py, buffer)
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
