//! `ObjectPool`: the class, its raw entries, and what a full collection does to every pool.
//!
//! The factory and `reset` are the user's code: they may wait, raise, and come back to the pool. So they are called from
//! raw entries with nothing alive that has a destructor, and without a lock: an object that is being reset is back for
//! everybody else already (a second `release` of it fails), and idle only when `reset` has returned.
//!
//! The pool owns what is idle and nothing else, so that is what the collector sees, with the factory and `reset`. Those
//! two are never cleared: they were there before the pool, so a cycle through them passes through something that was
//! changed later, and can be cleared there.

use std::{
    ffi::CStr,
    ptr,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use penstock_core::memory::objects::{Identity, Objects, Returned};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyTypeError, PyValueError},
    ffi,
    prelude::*,
    types::PyType,
};

use super::{borrowed, pool::byte_count};
use crate::{
    convert::{Passed, shown},
    error::{Raised, raise},
    hot::Definition,
    interpreter,
    mode::{Mode, mode},
    object::{self, Object, none},
    task::{self, Kind},
    unwind,
};

const MAX_IDLE: usize = 1024;

pub(super) static ENTRIES: [Definition; 4] = [
    Definition::no_args(c"acquire", acquire, ACQUIRE_DOC),
    Definition::one_arg(c"release", release, RELEASE_DOC),
    Definition::no_args(c"borrow", borrowed::borrow, BORROW_DOC),
    Definition::one_arg(c"warm", warm, WARM_DOC),
];

const ACQUIRE_DOC: &CStr = c"acquire($self, /)\n--\n\n\
Lend an idle object, or a new one that the factory makes. Never waits, unless the factory does.\n\
\n\
It is the caller's alone until `release`. One that is not fit for another use may be dropped instead; it stays counted\n\
in ``in_use``, for nobody can tell.\n\
\n\
Raises:\n    what the factory raises; nothing is counted then.\n\
\n\
>>> from penstock import ObjectPool\n\
>>> lists = ObjectPool(list, reset=list.clear)\n\
>>> first = lists.acquire()\n\
>>> first.append('a word')\n\
>>> lists.release(first)\n\
>>> second = lists.acquire()\n\
>>> second is first, second\n\
(True, [])\n";

const RELEASE_DOC: &CStr = c"release($self, obj, /)\n--\n\n\
Give an object back: ``reset(obj)`` is called, then it is idle. Never waits, unless ``reset`` does.\n\
\n\
Any thread or task may do it, not only the one that acquired. Where ``max_idle`` are idle already, the object is let go.\n\
\n\
Raises:\n    ValueError: ``obj`` is not from this pool, or came back already. (Of an object that was dropped instead, and\n        \
whose address another has now, the pool cannot know.)\n    \
what ``reset`` raises: the object is discarded.\n\
\n\
>>> from penstock import ObjectPool\n\
>>> lists = ObjectPool(list)\n\
>>> lists.release([])\n\
Traceback (most recent call last):\n\
ValueError: obj must be an object that this pool lent and that is not back yet, not []\n";

const BORROW_DOC: &CStr = c"borrow($self, /)\n--\n\n\
Lend an object for the length of a ``with`` or an ``async with``: `acquire` at its start, `release` at its end.\n\
\n\
>>> from penstock import ObjectPool\n\
>>> lists = ObjectPool(list, reset=list.clear)\n\
>>> with lists.borrow() as words:\n\
...     words.extend('a b c'.split())\n\
...     len(words)\n\
3\n\
>>> lists.stats()\n\
ObjectStats(in_use=0, idle=1, created=1)\n";

const WARM_DOC: &CStr = c"warm($self, n, /)\n--\n\n\
Make objects until ``n`` are idle, so that the first users need not.\n\
\n\
Raises:\n    ValueError: ``n`` is negative, or more than ``max_idle``.\n    \
what the factory raises; the objects made before stay.\n\
\n\
>>> from penstock import ObjectPool\n\
>>> tables = ObjectPool(dict)\n\
>>> tables.warm(10)\n\
>>> tables.stats()\n\
ObjectStats(in_use=0, idle=10, created=10)\n";

/// Objects of an `ObjectPool`: how many are ``in_use`` (acquired and not released), ``idle``, and were ``created`` so far.
///
/// The objects that ``reset`` runs on are in use.
#[pyclass(frozen, eq, get_all, skip_from_py_object, module = "penstock")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectStats {
    in_use: usize,
    idle: usize,
    created: usize,
}

#[pymethods]
impl ObjectStats {
    fn __repr__(&self) -> String {
        let Self {
            in_use,
            idle,
            created,
        } = self;
        format!("ObjectStats(in_use={in_use}, idle={idle}, created={created})")
    }
}

/// A pool of objects that are costly to make: lent, and lent again when they come back.
///
/// ``factory()`` makes one where none is idle; ``reset(obj)`` makes one that came back as good as new. Both are plain
/// functions, called by whoever acquires or releases. At most ``max_idle`` are kept, the one that came back last is lent
/// first, and what nobody needed from one full garbage collection to the second after it is let go, so a pool that was
/// large once does not stay so. (The idea is that of Go's ``sync.Pool``.)
///
/// Any thread or task may acquire and release. Without the GIL each thread has idle objects of its own, and takes from
/// the others' when it has none.
///
/// Raises:
///     `TypeError`: ``factory`` or ``reset`` is not a plain callable.
///     `ValueError`: ``max_idle`` is negative.
///
/// >>> from penstock import ObjectPool
/// >>> pages = ObjectPool(lambda: bytearray(4096))
/// >>> with pages.borrow() as page:
/// ...     page[:5] = b'hello'
/// ...     bytes(page[:5])
/// b'hello'
#[pyclass(frozen, weakref, module = "penstock")]
pub struct ObjectPool {
    factory: Object,
    reset: Option<Object>,
    core: Arc<Objects<Object, Mode>>,
}

#[expect(clippy::needless_pass_by_value, reason = "the signatures are PyO3's")]
#[pymethods]
impl ObjectPool {
    #[new]
    #[pyo3(
        signature = (factory, reset=None, max_idle=Passed::No),
        text_signature = "(factory, reset=None, max_idle=1024)"
    )]
    fn new(
        py: Python<'_>,
        factory: &Bound<'_, PyAny>,
        reset: Option<&Bound<'_, PyAny>>,
        max_idle: Passed<'_>,
    ) -> PyResult<Self> {
        let max_idle = match max_idle {
            Passed::No => MAX_IDLE,
            Passed::As(value) => byte_count(&value, "max_idle", 0, "an int >= 0")?,
        };
        let factory = plain_callable(py, factory, "factory", "a plain callable")?;
        let reset = reset
            .map(|reset| plain_callable(py, reset, "reset", "None or a plain callable"))
            .transpose()?;
        let core = Arc::new(Objects::new(mode(), max_idle));
        ALL.enter(&core);
        Ok(Self {
            factory,
            reset,
            core,
        })
    }

    /// How many objects there are now.
    fn stats(&self) -> ObjectStats {
        let stats = self.core.stats();
        ObjectStats {
            in_use: stats.in_use,
            idle: stats.idle,
            created: stats.created,
        }
    }

    fn __repr__(this: &Bound<'_, Self>) -> String {
        let core = &this.get().core;
        let stats = core.stats();
        format!(
            "<penstock.ObjectPool at {:p}: {} in use, {} of {} idle>",
            this.as_ptr(),
            stats.in_use,
            stats.idle,
            core.max_idle()
        )
    }

    #[expect(clippy::unused_self, reason = "a method of the protocol")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "an ObjectPool cannot be pickled or copied: the objects it has lent have to come back to it",
        ))
    }

    #[classmethod]
    fn __class_getitem__(cls: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        crate::generic_alias(cls, item)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.factory.as_py())?;
        if let Some(reset) = &self.reset {
            visit.call(reset.as_py())?;
        }
        // SAFETY: the collector has stopped every other thread, by the GIL or by stopping the world.
        unsafe {
            self.core
                .visit_in_stopped_world(|object| visit.call(object.as_py()))
        }
    }

    fn __clear__(&self) {
        drop(self.core.drain());
    }
}

impl Identity for Object {
    #[inline]
    fn identity(&self) -> usize {
        self.as_ptr().addr()
    }
}

fn plain_callable(
    py: Python<'_>,
    value: &Bound<'_, PyAny>,
    name: &str,
    allowed: &str,
) -> PyResult<Object> {
    if value.is_callable() {
        match task::kind_of(py, value.as_ptr()) {
            // SAFETY: an argument, and attached.
            Ok(Kind::Call) => return Ok(unsafe { Object::new(value.as_ptr()) }),
            Ok(Kind::Coroutine) => {}
            Err(Raised) => return Err(PyErr::fetch(py)),
        }
    }
    Err(PyTypeError::new_err(format!(
        "{name} must be {allowed}, not {}",
        shown(value)
    )))
}

/// Whether nobody else can have `object`, so that it is not one that is out.
///
/// # Safety
/// Attached; one reference to it is the caller's.
unsafe fn is_new(object: *mut ffi::PyObject) -> bool {
    // SAFETY: attached, by the caller's promise.
    interpreter::references_to(unsafe { Python::assume_attached() }, object) == 1
}

/// `ObjectPool.acquire()`
///
/// # Safety
/// Called by CPython, or as it would: `this` is an `ObjectPool`, attached; with nothing alive that has a destructor.
#[inline]
pub(super) unsafe extern "C-unwind" fn acquire(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: by the caller's promise.
    unsafe {
        match object::get::<ObjectPool>(this).core.take() {
            Some(object) => object.into_ptr(),
            None => make(this),
        }
    }
}

/// # Safety
/// As for [`acquire`].
#[cold]
unsafe fn make(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: by the caller's promise; `this` keeps the factory alive.
    unsafe {
        let pool = object::get::<ObjectPool>(this);
        let made = unwind::call(pool.factory.as_ptr(), []);
        if made.is_null() {
            return made;
        }
        let object = Object::steal(made);
        pool.core.made(&object, is_new(made));
        object.into_ptr()
    }
}

/// `ObjectPool.release(obj)`
///
/// # Safety
/// As for [`acquire`]; `object` is alive until this returns.
#[inline]
pub(super) unsafe extern "C-unwind" fn release(
    this: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: by the caller's promise.
    unsafe {
        let pool = object::get::<ObjectPool>(this);
        if let Some(reset) = &pool.reset {
            return release_after(pool, reset.as_ptr(), object);
        }
        match pool.core.give_back(Object::new(object)) {
            Returned::Kept | Returned::Full(_) => none(),
            Returned::NotOut(_) => not_out(object),
        }
    }
}

/// Gives back what `reset` was called with.
///
/// # Safety
/// As for [`release`].
unsafe fn release_after(
    pool: &ObjectPool,
    reset: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: by the caller's promise; nothing with a destructor is alive while `reset` runs.
    unsafe {
        let Some(home) = pool.core.begin_return(object.addr()) else {
            return not_out(object);
        };
        let done = unwind::PyObject_CallOneArg(reset, object);
        if done.is_null() {
            pool.core.discard(home);
            return done;
        }
        ffi::Py_DECREF(done);
        drop(pool.core.finish_return(home, Object::new(object)));
        none()
    }
}

#[cold]
fn not_out(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by attached threads, with an argument.
    let (py, object) = unsafe {
        let py = Python::assume_attached();
        (py, Bound::from_borrowed_ptr(py, object))
    };
    let message = format!(
        "obj must be an object that this pool lent and that is not back yet, not {}",
        shown(&object)
    );
    raise(py, PyValueError::new_err(message));
    ptr::null_mut()
}

/// Forgets an object that was acquired and will not come back.
///
/// # Safety
/// `pool` is an `ObjectPool`, alive; attached.
pub(super) unsafe fn forget(pool: *mut ffi::PyObject, object: *mut ffi::PyObject) {
    // SAFETY: by the caller's promise.
    unsafe { object::get::<ObjectPool>(pool) }
        .core
        .forget(object.addr());
}

/// Gives back an object that nobody has used, as it is.
///
/// # Safety
/// As for [`forget`].
pub(super) unsafe fn give_back_unused(pool: *mut ffi::PyObject, object: Object) {
    // SAFETY: by the caller's promise.
    drop(
        unsafe { object::get::<ObjectPool>(pool) }
            .core
            .give_back(object),
    );
}

/// How many objects `warm` makes between two looks for signals.
const MADE_AT_ONCE: usize = 64;

/// `ObjectPool.warm(n)`
unsafe extern "C-unwind" fn warm(
    this: *mut ffi::PyObject,
    number: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `ObjectPool`, attached; nothing with a destructor is alive while the factory runs.
    unsafe {
        let pool = object::get::<ObjectPool>(this);
        let Ok(wanted) = idle_count(pool, number) else {
            return ptr::null_mut();
        };
        let missing = wanted.saturating_sub(pool.core.stats().idle);
        for count in 1..=missing {
            let made = unwind::call(pool.factory.as_ptr(), []);
            if made.is_null() {
                return made;
            }
            drop(pool.core.stock(Object::steal(made), is_new(made)));
            if count % MADE_AT_ONCE == 0 && unwind::PyErr_CheckSignals() < 0 {
                return ptr::null_mut();
            }
        }
        none()
    }
}

/// # Safety
/// `number` is an argument; attached.
unsafe fn idle_count(pool: &ObjectPool, number: *mut ffi::PyObject) -> Result<usize, Raised> {
    // SAFETY: by the caller's promise.
    let (py, number) = unsafe {
        let py = Python::assume_attached();
        (py, Bound::from_borrowed_ptr(py, number))
    };
    let most = pool.core.max_idle();
    let allowed = format!("an int from 0 to max_idle ({most})");
    match byte_count(&number, "n", 0, &allowed) {
        Ok(wanted) if wanted <= most => Ok(wanted),
        Ok(wanted) => {
            let message = format!("n must be {allowed}, not {wanted}");
            Err(raise(py, PyValueError::new_err(message)))
        }
        Err(error) => Err(raise(py, error)),
    }
}

/// Every pool, weakly.
struct All(Mutex<Entered>);

struct Entered {
    pools: Vec<Weak<Objects<Object, Mode>>>,
    /// How many there may be before those that are gone are looked for.
    most: usize,
}

static ALL: All = All(Mutex::new(Entered {
    pools: Vec::new(),
    most: 64,
}));

impl All {
    fn enter(&self, pool: &Arc<Objects<Object, Mode>>) {
        let mut entered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entered.pools.len() >= entered.most {
            entered.pools.retain(|pool| pool.strong_count() > 0);
            entered.most = 2 * entered.pools.len() + 64;
        }
        entered.pools.push(Arc::downgrade(pool));
    }

    fn alive(&self) -> Vec<Arc<Objects<Object, Mode>>> {
        let entered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entered.pools.iter().filter_map(Weak::upgrade).collect()
    }
}

/// A full collection ends, on this thread: what was idle at the last one, too, is let go.
///
/// At its end, when the collector has its lists in order again: what is let go may run any code. As in the finalizers that
/// a collection itself calls, another collection does not begin meanwhile, and a call that has to wait blocks the thread.
pub fn age_idle_objects() {
    for pool in ALL.alive() {
        drop(pool.age());
    }
}
