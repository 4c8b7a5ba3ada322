//! `Borrowed`: an object of a pool for the length of a `with`.

use std::{ffi::CStr, ptr};

use penstock_core::{
    sync::{self, Ordering, Word},
    wait::{Outcome, WaiterRef},
};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyRuntimeError, PyTypeError},
    ffi,
    prelude::*,
    types::PyType,
};

use super::{borrowed_object, object_pool};
use crate::{
    convert::Patience,
    error::{Failure, Raised, raise},
    hot::Definition,
    mode::Mode,
    object::{self, Object, none},
    pending::{self, Next, Pending},
};

pub(super) static ENTRIES: [Definition; 4] = [
    Definition::no_args(c"__enter__", enter, ENTER_DOC),
    Definition::fast(c"__exit__", exit, EXIT_DOC),
    Definition::no_args(c"__aenter__", aenter, AENTER_DOC),
    Definition::fast(c"__aexit__", aexit, AEXIT_DOC),
];

const ENTER_DOC: &CStr = c"__enter__($self, /)\n--\n\nAcquire an object.";
const EXIT_DOC: &CStr = c"__exit__($self, /, *args)\n--\n\nRelease the object.";
const AENTER_DOC: &CStr = c"__aenter__($self, /)\n--\n\nThe awaitable form of `__enter__`.";
const AEXIT_DOC: &CStr = c"__aexit__($self, /, *args)\n--\n\nThe awaitable form of `__exit__`.";

/// An object of an `ObjectPool` for the length of a ``with`` or an ``async with``; made by `ObjectPool.borrow`.
///
/// It can be entered again when it was left. The object goes back however the block ends, by a cancellation too. One that
/// is dropped while it is entered gives nothing back, for somebody may still use the object.
///
/// >>> from penstock import ObjectPool, go
/// >>> lists = ObjectPool(list, reset=list.clear)
/// >>> async def count(text: str) -> int:
/// ...     async with lists.borrow() as words:
/// ...         words.extend(text.split())
/// ...         return len(words)
/// >>> go(count, 'a b c').result()
/// 3
#[pyclass(frozen, weakref, module = "penstock")]
pub struct Borrowed {
    /// An `ObjectPool`.
    pool: Object,
    /// The address of the object, with a reference to it, or 0. Whoever enters sets it, whoever leaves takes it.
    held: <Mode as sync::Mode>::Word,
}

impl Borrowed {
    /// What is borrowed now, or null. It stays alive while nobody leaves.
    fn held(&self) -> *mut ffi::PyObject {
        // Ordering: Acquire pairs with the Release in `hold`.
        to_pointer(self.held.load(Ordering::Acquire))
    }

    /// Has `object` from now on. `false`: it has one.
    fn hold(&self, object: *mut ffi::PyObject) -> bool {
        let address = object.expose_provenance() as u64;
        loop {
            match self.held.compare_exchange_weak(
                0,
                address,
                // Ordering: Release publishes the object to the Acquire in `held` and `take`.
                Ordering::Release,
                // Ordering: Relaxed, nothing follows from it.
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(0) => {} // failed for no reason
                Err(_) => return false,
            }
        }
    }

    /// Takes what it has, with the reference, or null.
    fn take(&self) -> *mut ffi::PyObject {
        // Ordering: Acquire pairs with the Release in `hold`.
        to_pointer(self.held.swap(0, Ordering::Acquire))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "it was an address, of 64 bits or fewer"
)]
fn to_pointer(address: u64) -> *mut ffi::PyObject {
    ptr::with_exposed_provenance_mut(address as usize)
}

#[expect(clippy::needless_pass_by_value, reason = "the signatures are PyO3's")]
#[pymethods]
impl Borrowed {
    fn __repr__(this: &Bound<'_, Self>) -> String {
        let borrowed = this.get();
        let state = if borrowed.held().is_null() {
            "not entered"
        } else {
            "entered"
        };
        format!(
            "<penstock.Borrowed at {:p}: {state}, of the pool at {:p}>",
            this.as_ptr(),
            borrowed.pool.as_ptr()
        )
    }

    #[expect(clippy::unused_self, reason = "a method of the protocol")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a Borrowed cannot be pickled or copied: it is a loan from a pool in this process",
        ))
    }

    #[classmethod]
    fn __class_getitem__(cls: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        crate::generic_alias(cls, item)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.pool.as_py())?;
        let held = self.held();
        if held.is_null() {
            return Ok(());
        }
        // SAFETY: an object with a reference of this one's, as an `Object` would be, which is not made: it would drop it.
        visit.call(unsafe { &*ptr::from_ref(&held).cast::<Py<PyAny>>() })
    }

    fn __clear__(&self) {
        self.forget();
    }
}

impl Borrowed {
    fn forget(&self) {
        let object = self.take();
        if !object.is_null() {
            // SAFETY: attached, as who drops or clears an object is; the pool is alive, and the reference was held here.
            unsafe {
                object_pool::forget(self.pool.as_ptr(), object);
                ffi::Py_DECREF(object);
            }
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.forget();
    }
}

/// `ObjectPool.borrow()`
pub(super) unsafe extern "C-unwind" fn borrow(
    pool: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `ObjectPool`, attached.
    unsafe {
        let borrowed = Borrowed {
            pool: Object::new(pool),
            held: Word::new(0),
        };
        borrowed_object::new(Python::assume_attached(), borrowed)
    }
}

/// Acquires, and gives a borrowed reference, or null.
///
/// # Safety
/// In a raw entry of the `Borrowed` that is `this`, with nothing alive that has a destructor.
unsafe fn acquire(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: by the caller's promise.
    unsafe {
        let borrowed = object::get::<Borrowed>(this);
        let pool = borrowed.pool.as_ptr();
        if !borrowed.held().is_null() {
            return entered_already();
        }
        let object = object_pool::acquire(pool, ptr::null_mut());
        if object.is_null() || borrowed.hold(object) {
            return object;
        }
        // The factory entered it, or another thread did.
        object_pool::give_back_unused(pool, Object::steal(object));
        entered_already()
    }
}

#[cold]
fn entered_already() -> *mut ffi::PyObject {
    // SAFETY: called by attached threads.
    let py = unsafe { Python::assume_attached() };
    let message = "it is entered already: each block needs its own borrow()";
    raise(py, PyRuntimeError::new_err(message));
    ptr::null_mut()
}

/// Releases. `false`: an exception is set.
///
/// # Safety
/// As for [`acquire`].
unsafe fn release(this: *mut ffi::PyObject) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let borrowed = object::get::<Borrowed>(this);
        let object = borrowed.take();
        if object.is_null() {
            let message = "it is not entered, so there is nothing to give back";
            raise(Python::assume_attached(), PyRuntimeError::new_err(message));
            return false;
        }
        let done = object_pool::release(borrowed.pool.as_ptr(), object);
        ffi::Py_DECREF(object);
        ffi::Py_XDECREF(done);
        !done.is_null()
    }
}

unsafe extern "C-unwind" fn enter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Borrowed`, attached.
    unsafe {
        let object = acquire(this);
        ffi::Py_XINCREF(object);
        object
    }
}

unsafe extern "C-unwind" fn exit(
    this: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Borrowed`, attached.
    unsafe {
        if release(this) {
            none()
        } else {
            ptr::null_mut()
        }
    }
}

unsafe extern "C-unwind" fn aenter(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Borrowed`, attached.
    unsafe {
        if acquire(this).is_null() {
            return ptr::null_mut();
        }
        let entered = Entered {
            borrowed: Some(Object::new(this)),
        };
        pending::awaitable(
            Python::assume_attached(),
            Box::new(entered),
            Patience::Forever,
        )
    }
}

unsafe extern "C-unwind" fn aexit(
    this: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a `Borrowed`, attached.
    unsafe {
        if release(this) {
            crate::lock::nothing_to_await(Python::assume_attached())
        } else {
            ptr::null_mut()
        }
    }
}

/// The start of an `async with`: it has nothing to wait for, but trio may cancel it before it is over. Then the block does
/// not begin, and the object, which nobody has seen, goes back.
struct Entered {
    /// Until it is over.
    borrowed: Option<Object>,
}

impl Entered {
    fn over(&mut self) -> *mut ffi::PyObject {
        let Some(borrowed) = self.borrowed.take() else {
            // SAFETY: attached, as every caller is.
            return unsafe { none() }; // it is awaited once
        };
        // SAFETY: as above; a `Borrowed`, alive. Another thread that left it meanwhile has given the object back.
        unsafe {
            let held = object::get::<Borrowed>(borrowed.as_ptr()).held();
            if held.is_null() {
                none()
            } else {
                ffi::Py_NewRef(held)
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Some(borrowed) = self.borrowed.take() else {
            return;
        };
        // SAFETY: attached, as who drops an awaitable is; a `Borrowed`, alive, and so is its pool.
        unsafe {
            let borrowed = object::get::<Borrowed>(borrowed.as_ptr());
            let object = borrowed.take();
            if !object.is_null() {
                object_pool::give_back_unused(borrowed.pool.as_ptr(), Object::steal(object));
            }
        }
    }
}

impl Pending for Entered {
    fn call(&self) -> &'static str {
        "__aenter__()"
    }

    fn awaitable(&self) -> &'static str {
        "async with objects.borrow()"
    }

    fn subject(&self) -> *mut ffi::PyObject {
        ptr::null_mut()
    }

    fn try_now(&mut self, _: Python<'_>) -> Result<Option<*mut ffi::PyObject>, Raised> {
        Ok(Some(self.over()))
    }

    fn begin(&mut self, _: Python<'_>, _: &WaiterRef) -> Result<pending::Begun, Raised> {
        Ok(pending::Begun::Done(self.over()))
    }

    fn finish(&mut self, _: Python<'_>, _: Outcome) -> Result<Next, Raised> {
        Ok(Next::Over) // it never waits
    }

    fn abandon(&mut self, _: Python<'_>, _: Outcome) {}

    fn timed_out(&self, py: Python<'_>) -> Raised {
        Failure::TimedOut.raise(py, "") // it never waits
    }

    fn traverse(&self, visit: &mut dyn FnMut(*mut ffi::PyObject)) {
        if let Some(borrowed) = &self.borrowed {
            visit(borrowed.as_ptr());
        }
    }
}
