//! Atomics for Python: `AtomicInt`, `AtomicBool`, `AtomicRef`.
//!
//! With the GIL, plain cells: no call lets go of it between looking and changing. Without it, atomics, and for
//! `AtomicRef` a lock bit under which a pointer is moved or a reference counted, and nothing else.

use std::{ffi::CStr, ptr};

use penstock_core::atomic::{Integer, Reference};
use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyOverflowError, PyTypeError},
    ffi,
    prelude::*,
    types::PyType,
};

use crate::{
    convert::{Passed, parse, shown},
    error::{Raised, raise},
    hot::Definition,
    mode::{Mode, mode},
    object::{self, Object},
};

/// A 64-bit integer that any number of threads and tasks change, one whole change at a time.
///
/// Nothing is lost between reading and writing, and no call waits: no lock is taken, on either build. All operations
/// on all atomics happen in one order that everybody sees (as in Go's `sync/atomic`), so what was written before a
/// `store` is there for who has loaded its value. Arithmetic wraps around at 64 bits, as Go's does; an argument that
/// does not fit raises `OverflowError`. `int(counter)` and `bool(counter)` load it; two atomics are equal only if they
/// are the same one.
///
/// >>> from penstock import AtomicInt, Group
/// >>> hits = AtomicInt()
/// >>> with Group() as group:
/// ...     tasks = [group.go(hits.add, 1) for _ in range(100)]
/// >>> hits.load()
/// 100
#[pyclass(frozen, weakref, module = "penstock", name = "AtomicInt")]
pub struct AtomicIntObject(Integer<Mode>);

#[expect(clippy::unused_self, reason = "the signatures are PyO3's")]
#[pymethods]
impl AtomicIntObject {
    #[new]
    #[pyo3(signature = (value=Passed::No), text_signature = "(value=0)")]
    fn new(value: Passed<'_>) -> PyResult<Self> {
        let value = match value {
            Passed::No => 0,
            Passed::As(value) => integer(&value, "value")?,
        };
        Ok(Self(Integer::new(value, mode())))
    }

    fn __int__(&self) -> i64 {
        self.0.load()
    }

    fn __bool__(&self) -> bool {
        self.0.load() != 0
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let value = slf.get().0.load();
        format!("<penstock.AtomicInt at {:p}: {value}>", slf.as_ptr())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_copy("AtomicInt"))
    }
}

/// A flag that any number of threads and tasks change, one whole change at a time.
///
/// No call waits: no lock is taken, on either build. All operations on all atomics happen in one order that everybody
/// sees, so what was written before `store(True)` is there for who has loaded ``True``. Values are ``True`` and
/// ``False`` and nothing that is merely true. `bool(flag)` loads it; to wait for a flag, use an `Event`.
///
/// >>> from penstock import AtomicBool
/// >>> started = AtomicBool()
/// >>> [started.swap(True) for _ in range(3)]  # one caller finds it unset
/// [False, True, True]
#[pyclass(frozen, weakref, module = "penstock", name = "AtomicBool")]
pub struct AtomicBoolObject(Integer<Mode>);

#[expect(clippy::unused_self, reason = "the signatures are PyO3's")]
#[pymethods]
impl AtomicBoolObject {
    #[new]
    #[pyo3(signature = (value=Passed::No), text_signature = "(value=False)")]
    fn new(value: Passed<'_>) -> PyResult<Self> {
        let value = match value {
            Passed::No => false,
            Passed::As(value) => flag(&value, "value")?,
        };
        Ok(Self(Integer::new(value.into(), mode())))
    }

    fn __bool__(&self) -> bool {
        self.0.load() != 0
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let value = if slf.get().__bool__() {
            "True"
        } else {
            "False"
        };
        format!("<penstock.AtomicBool at {:p}: {value}>", slf.as_ptr())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_copy("AtomicBool"))
    }
}

/// A reference to an object, which any number of threads and tasks exchange, one whole exchange at a time.
///
/// What is compared is identity (``is``), never equality. Without the GIL a call takes a lock bit of its own for a few
/// instructions, under which no Python code runs; with it, none. The object that was there before is dropped by the
/// call that replaced it, before it returns. All operations on all atomics happen in one order that everybody sees, so
/// an object is whole for who has loaded it. Takes part in garbage collection.
///
/// >>> from penstock import AtomicRef
/// >>> settings = AtomicRef[dict[str, int]]({"limit": 10})
/// >>> old = settings.load()
/// >>> settings.compare_exchange(old, old | {"limit": 20})  # nobody replaced it meanwhile
/// True
/// >>> settings.load()
/// {'limit': 20}
#[pyclass(frozen, weakref, module = "penstock", name = "AtomicRef")]
pub struct AtomicRefObject(Reference<Object, Mode>);

#[expect(
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "the signatures are PyO3's"
)]
#[pymethods]
impl AtomicRefObject {
    #[new]
    fn new(obj: Bound<'_, PyAny>) -> Self {
        // SAFETY: an argument, and attached.
        Self(Reference::new(unsafe { Object::new(obj.as_ptr()) }, mode()))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        // Not the object's own `repr`, which may lead back here, or be of any length.
        // SAFETY: the reference is a new one, to an object that is alive.
        let object = unsafe {
            let object = slf.get().0.load(copy).into_ptr();
            Bound::from_owned_ptr(slf.py(), object)
        };
        Ok(format!(
            "<penstock.AtomicRef at {:p}: {} object at {:p}>",
            slf.as_ptr(),
            object.get_type().name()?,
            object.as_ptr()
        ))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_copy("AtomicRef"))
    }

    #[classmethod]
    fn __class_getitem__(cls: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        crate::generic_alias(cls, item)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector has stopped every other thread, by the GIL or by stopping the world.
        visit.call(unsafe { self.0.peek() }.as_py())
    }

    fn __clear__(&self) {
        drop(self.0.swap(none()));
    }
}

/// From 3.14 on the interpreter puts off what is freed too deep inside of others. Before, a long chain of references
/// to references would overflow the stack: its links are dropped one after the other here.
#[cfg(not(Py_3_14))]
impl Drop for AtomicRefObject {
    fn drop(&mut self) {
        let mut object = std::mem::replace(self.0.get_mut(), none());
        // SAFETY: attached, with the GIL, so nobody takes a reference (a weak one would do) before the link is empty.
        unsafe {
            let class = <Self as pyo3::PyTypeInfo>::type_object_raw(Python::assume_attached());
            while ffi::Py_TYPE(object.as_ptr()) == class && ffi::Py_REFCNT(object.as_ptr()) == 1 {
                let next = object::get::<Self>(object.as_ptr()).0.swap(none());
                drop(std::mem::replace(&mut object, next));
            }
        }
    }
}

fn refuse_copy(class: &str) -> PyErr {
    PyTypeError::new_err(format!(
        "an {class} cannot be pickled or copied: it is shared by threads of this process, and a copy would be \
         another one; copy what load() returns"
    ))
}

/// A new reference to `None`.
fn none() -> Object {
    // SAFETY: called by attached threads.
    unsafe { Object::new(ffi::Py_None()) }
}

/// A second reference. Under the lock of an `AtomicRef`: counting runs no Python code.
#[inline]
fn copy(object: &Object) -> Object {
    // SAFETY: called by attached threads, of an object that a reference is held to meanwhile.
    unsafe { Object::new(object.as_ptr()) }
}

/// An argument that is an int of 64 bits. An `__index__` of the caller's runs here, before anything is looked at.
#[inline]
fn integer(value: &Bound<'_, PyAny>, name: &str) -> PyResult<i64> {
    let mut overflow = 0;
    // SAFETY: alive, and attached.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &raw mut overflow) };
    // SAFETY: attached.
    if number == -1 && (overflow != 0 || !unsafe { ffi::PyErr_Occurred() }.is_null()) {
        return Err(refuse_integer(value, name));
    }
    Ok(number)
}

/// What is wrong with an argument that is no int, or has no room in 64 bits; what an `__index__` raised stays.
#[cold]
fn refuse_integer(value: &Bound<'_, PyAny>, name: &str) -> PyErr {
    let raised = PyErr::take(value.py());
    // SAFETY: alive, and attached.
    let is_integer = unsafe { ffi::PyIndex_Check(value.as_ptr()) } != 0;
    let message = format!(
        "{name} must be an int from -2**63 to 2**63 - 1, not {}",
        shown(value)
    );
    match raised {
        Some(raised) if is_integer => raised,
        Some(_) => PyTypeError::new_err(message),
        None => PyOverflowError::new_err(message),
    }
}

/// An argument that is `True` or `False`.
#[inline]
fn flag(value: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    // SAFETY: immortal objects.
    let (yes, no) = unsafe { (ffi::Py_True(), ffi::Py_False()) };
    if value.as_ptr() == yes {
        Ok(true)
    } else if value.as_ptr() == no {
        Ok(false)
    } else {
        let message = format!("{name} must be True or False, not {}", shown(value));
        Err(PyTypeError::new_err(message))
    }
}

// The raw entries. Each has the thread attached and `this` of its class; none waits.

/// The object to return for a number, or null with the exception set.
///
/// # Safety
/// Attached.
#[inline]
unsafe fn answer(py: Python<'_>, number: PyResult<i64>) -> *mut ffi::PyObject {
    match number {
        // SAFETY: attached.
        Ok(number) => unsafe { ffi::PyLong_FromLongLong(number) },
        Err(error) => {
            raise(py, error);
            ptr::null_mut()
        }
    }
}

/// The same for a truth.
///
/// # Safety
/// Attached.
#[inline]
unsafe fn answer_bool(py: Python<'_>, truth: PyResult<bool>) -> *mut ffi::PyObject {
    match truth {
        // SAFETY: attached.
        Ok(truth) => unsafe { ffi::PyBool_FromLong(truth.into()) },
        Err(error) => {
            raise(py, error);
            ptr::null_mut()
        }
    }
}

/// The same for a call that returns nothing.
///
/// # Safety
/// Attached.
#[inline]
unsafe fn answer_none(py: Python<'_>, done: PyResult<()>) -> *mut ffi::PyObject {
    match done {
        Ok(()) => none().into_ptr(),
        Err(error) => {
            raise(py, error);
            ptr::null_mut()
        }
    }
}

/// The two arguments of a `compare_exchange`.
///
/// # Safety
/// The arguments are those of a vectorcall; attached.
#[inline]
unsafe fn expected_and_new<'a>(
    py: Python<'_>,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> Result<[Borrowed<'a, '_, PyAny>; 2], Raised> {
    // SAFETY: by the caller's promise; the arguments live as long as the call.
    unsafe {
        let both = if count == 2 && keywords.is_null() {
            [*arguments, *arguments.add(1)]
        } else {
            parse(
                py,
                "compare_exchange",
                ["expected", "new"],
                2,
                arguments,
                count,
                keywords,
            )?
        };
        Ok(both.map(|argument| Borrowed::from_ptr(py, argument)))
    }
}

/// Entries of `AtomicInt` that take an int and return what the core returns.
macro_rules! integer_entries {
    ($($name:ident($argument:literal) -> $answer:ident)*) => {
        $(unsafe extern "C-unwind" fn $name(
            this: *mut ffi::PyObject,
            argument: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: called by CPython on an `AtomicInt`, attached.
            unsafe {
                let py = Python::assume_attached();
                let argument = Bound::ref_from_ptr(py, &argument);
                let number = integer(argument, $argument);
                let atomic = &object::get::<AtomicIntObject>(this).0;
                $answer(py, number.map(|number| atomic.$name(number)))
            }
        })*
    };
}

integer_entries! {
    store("value") -> answer_none
    add("by") -> answer
    sub("by") -> answer
    swap("value") -> answer
    fetch_max("other") -> answer
    fetch_min("other") -> answer
}

unsafe extern "C-unwind" fn load(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicInt`, attached.
    unsafe { ffi::PyLong_FromLongLong(object::get::<AtomicIntObject>(this).0.load()) }
}

unsafe extern "C-unwind" fn compare_exchange(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicInt`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let Ok([expected, new]) = expected_and_new(py, arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let atomic = &object::get::<AtomicIntObject>(this).0;
        let exchange = || {
            let (expected, new) = (integer(&expected, "expected")?, integer(&new, "new")?);
            Ok(atomic.compare_exchange(expected, new))
        };
        answer_bool(py, exchange())
    }
}

unsafe extern "C-unwind" fn load_flag(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicBool`, attached.
    unsafe {
        let truth = object::get::<AtomicBoolObject>(this).__bool__();
        answer_bool(Python::assume_attached(), Ok(truth))
    }
}

unsafe extern "C-unwind" fn store_flag(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicBool`, attached.
    unsafe {
        let py = Python::assume_attached();
        let value = flag(Bound::ref_from_ptr(py, &value), "value");
        let atomic = &object::get::<AtomicBoolObject>(this).0;
        answer_none(py, value.map(|value| atomic.store(value.into())))
    }
}

unsafe extern "C-unwind" fn swap_flag(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicBool`, attached.
    unsafe {
        let py = Python::assume_attached();
        let value = flag(Bound::ref_from_ptr(py, &value), "value");
        let atomic = &object::get::<AtomicBoolObject>(this).0;
        answer_bool(py, value.map(|value| atomic.swap(value.into()) != 0))
    }
}

unsafe extern "C-unwind" fn compare_exchange_flag(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicBool`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let Ok([expected, new]) = expected_and_new(py, arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let atomic = &object::get::<AtomicBoolObject>(this).0;
        let exchange = || {
            let (expected, new) = (flag(&expected, "expected")?, flag(&new, "new")?);
            Ok(atomic.compare_exchange(expected.into(), new.into()))
        };
        answer_bool(py, exchange())
    }
}

unsafe extern "C-unwind" fn load_object(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicRef`, attached.
    unsafe { object::get::<AtomicRefObject>(this).0.load(copy).into_ptr() }
}

unsafe extern "C-unwind" fn store_object(
    this: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicRef`, attached. Dropping the old object may run any code, even on `this`.
    unsafe {
        drop(
            object::get::<AtomicRefObject>(this)
                .0
                .swap(Object::new(object)),
        );
    }
    none().into_ptr()
}

unsafe extern "C-unwind" fn swap_object(
    this: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicRef`, attached.
    unsafe {
        object::get::<AtomicRefObject>(this)
            .0
            .swap(Object::new(object))
            .into_ptr()
    }
}

unsafe extern "C-unwind" fn compare_exchange_object(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an `AtomicRef`, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let Ok([expected, new]) = expected_and_new(py, arguments, count, keywords) else {
            return ptr::null_mut();
        };
        let exchanged = object::get::<AtomicRefObject>(this).0.compare_exchange(
            |now| now.as_ptr() == expected.as_ptr(),
            Object::new(new.as_ptr()),
        );
        // Either is dropped here: the old object, or the argument, which its caller still holds.
        answer_bool(py, Ok(exchanged.is_ok()))
    }
}

pub static INT_METHODS: [Definition; 8] = [
    Definition::no_args(c"load", load, INT_LOAD_DOC),
    Definition::one_arg(c"store", store, INT_STORE_DOC),
    Definition::one_arg(c"add", add, ADD_DOC),
    Definition::one_arg(c"sub", sub, SUB_DOC),
    Definition::one_arg(c"swap", swap, INT_SWAP_DOC),
    Definition::fast(c"compare_exchange", compare_exchange, INT_EXCHANGE_DOC),
    Definition::one_arg(c"fetch_max", fetch_max, MAX_DOC),
    Definition::one_arg(c"fetch_min", fetch_min, MIN_DOC),
];

pub static BOOL_METHODS: [Definition; 4] = [
    Definition::no_args(c"load", load_flag, BOOL_LOAD_DOC),
    Definition::one_arg(c"store", store_flag, BOOL_STORE_DOC),
    Definition::one_arg(c"swap", swap_flag, BOOL_SWAP_DOC),
    Definition::fast(
        c"compare_exchange",
        compare_exchange_flag,
        BOOL_EXCHANGE_DOC,
    ),
];

pub static REF_METHODS: [Definition; 4] = [
    Definition::no_args(c"load", load_object, REF_LOAD_DOC),
    Definition::one_arg(c"store", store_object, REF_STORE_DOC),
    Definition::one_arg(c"swap", swap_object, REF_SWAP_DOC),
    Definition::fast(
        c"compare_exchange",
        compare_exchange_object,
        REF_EXCHANGE_DOC,
    ),
];

const INT_LOAD_DOC: &CStr = c"load($self, /)\n--\n\n\
The value it has now. Never waits.\n\n\
>>> from penstock import AtomicInt\n>>> AtomicInt(7).load()\n7\n";

const INT_STORE_DOC: &CStr = c"store($self, value, /)\n--\n\n\
Give it another value. Never waits.\n\n\
Raises:\n    OverflowError: ``value`` does not fit into 64 bits.\n\n\
>>> from penstock import AtomicInt\n>>> number = AtomicInt()\n>>> number.store(7)\n>>> number.load()\n7\n";

const ADD_DOC: &CStr = c"add($self, by, /)\n--\n\n\
Add ``by`` and return the sum, which no other call returns for this addition. Wraps around at 64 bits. Never waits.\n\n\
Raises:\n    OverflowError: ``by`` itself does not fit into 64 bits.\n\n\
>>> from penstock import AtomicInt\n>>> number = AtomicInt(2**63 - 1)\n>>> number.add(-1) == 2**63 - 2\nTrue\n\
>>> number.add(2) == -2**63  # as in Go\nTrue\n";

const SUB_DOC: &CStr = c"sub($self, by, /)\n--\n\n\
Subtract ``by`` and return the difference. Wraps around at 64 bits. Never waits.\n\n\
Raises:\n    OverflowError: ``by`` itself does not fit into 64 bits.\n\n\
>>> from penstock import AtomicInt\n>>> left = AtomicInt(2)\n>>> left.sub(1), left.sub(1)\n(1, 0)\n";

const INT_SWAP_DOC: &CStr = c"swap($self, value, /)\n--\n\n\
Give it another value and return the one it had. Never waits.\n\n\
Raises:\n    OverflowError: ``value`` does not fit into 64 bits.\n\n\
>>> from penstock import AtomicInt\n>>> hits = AtomicInt(3)\n>>> hits.swap(0)  # read and reset, no hit lost\n3\n";

const INT_EXCHANGE_DOC: &CStr = c"compare_exchange($self, expected, new)\n--\n\n\
Make it ``new`` if it is ``expected`` now; return whether it was.\n\n\
It fails only on another value, never for nothing (a strong exchange). Never waits.\n\n\
Raises:\n    OverflowError: an argument does not fit into 64 bits.\n\n\
>>> from penstock import AtomicInt\n>>> number = AtomicInt(3)\n\
>>> while not number.compare_exchange(old := number.load(), old * 2):\n...     pass  # somebody else was faster\n\
>>> number.load()\n6\n";

const MAX_DOC: &CStr = c"fetch_max($self, other, /)\n--\n\n\
Make it ``other`` if that is greater; return the value it had. Never waits.\n\n\
Raises:\n    OverflowError: ``other`` does not fit into 64 bits.\n\n\
>>> from penstock import AtomicInt\n>>> highest = AtomicInt(3)\n>>> highest.fetch_max(5), highest.fetch_max(4)\n(3, 5)\n";

const MIN_DOC: &CStr = c"fetch_min($self, other, /)\n--\n\n\
Make it ``other`` if that is less; return the value it had. Never waits.\n\n\
Raises:\n    OverflowError: ``other`` does not fit into 64 bits.\n\n\
>>> from penstock import AtomicInt\n>>> lowest = AtomicInt(3)\n>>> lowest.fetch_min(5), lowest.fetch_min(2), lowest.load()\n(3, 3, 2)\n";

const BOOL_LOAD_DOC: &CStr = c"load($self, /)\n--\n\n\
The value it has now. Never waits.\n\n\
>>> from penstock import AtomicBool\n>>> AtomicBool().load()\nFalse\n";

const BOOL_STORE_DOC: &CStr = c"store($self, value, /)\n--\n\n\
Set or clear it. Never waits.\n\n\
Raises:\n    TypeError: ``value`` is neither ``True`` nor ``False``.\n\n\
>>> from penstock import AtomicBool\n>>> stopped = AtomicBool()\n>>> stopped.store(True)\n>>> bool(stopped)\nTrue\n";

const BOOL_SWAP_DOC: &CStr = c"swap($self, value, /)\n--\n\n\
Set or clear it and return the value it had. Never waits.\n\n\
Raises:\n    TypeError: ``value`` is neither ``True`` nor ``False``.\n\n\
>>> from penstock import AtomicBool\n>>> claimed = AtomicBool()\n>>> claimed.swap(True), claimed.swap(True)\n(False, True)\n";

const BOOL_EXCHANGE_DOC: &CStr = c"compare_exchange($self, expected, new)\n--\n\n\
Make it ``new`` if it is ``expected`` now; return whether it was. Never waits.\n\n\
Raises:\n    TypeError: an argument is neither ``True`` nor ``False``.\n\n\
>>> from penstock import AtomicBool\n>>> claimed = AtomicBool()\n>>> claimed.compare_exchange(False, True)\nTrue\n\
>>> claimed.compare_exchange(False, True)\nFalse\n";

const REF_LOAD_DOC: &CStr = c"load($self, /)\n--\n\n\
The object it refers to now.\n\n\
>>> from penstock import AtomicRef\n>>> AtomicRef(\"configuration\").load()\n'configuration'\n";

const REF_STORE_DOC: &CStr = c"store($self, obj, /)\n--\n\n\
Let it refer to another object. The old one is dropped before the call returns; what its ``__del__`` raises goes to\n\
`sys.unraisablehook`.\n\n\
>>> from penstock import AtomicRef\n>>> latest = AtomicRef[str | None](None)\n>>> latest.store(\"news\")\n\
>>> latest.load()\n'news'\n";

const REF_SWAP_DOC: &CStr = c"swap($self, obj, /)\n--\n\n\
Let it refer to another object and return the one it had.\n\n\
>>> from penstock import AtomicRef\n>>> batch = AtomicRef(list(range(3)))\n>>> batch.swap([])  # taken whole, by one caller\n[0, 1, 2]\n";

const REF_EXCHANGE_DOC: &CStr = c"compare_exchange($self, expected, new)\n--\n\n\
Let it refer to ``new`` if it refers to ``expected`` now; return whether it did.\n\n\
Compared by identity: an equal object is another one. Numbers and strings that look the same may be the same\n\
object or not, so compare with what `load` returned.\n\n\
>>> from penstock import AtomicRef\n>>> first, second = [1], [1]\n>>> items = AtomicRef(first)\n\
>>> items.compare_exchange(second, [2]), items.compare_exchange(first, [2])\n(False, True)\n";
