//! `Selected`, what a select returns: a tuple with names.
//!
//! One is made for every select, so it has to cost little: made by `typing.NamedTuple` it would cost as much as the rest
//! of a select over four channels. So the class is made by hand, and its objects are used again.

use std::{
    cell::{Cell, UnsafeCell},
    ffi::{CStr, c_char, c_int, c_ulong, c_void},
    mem::offset_of,
    ptr,
};

use pyo3::{ffi, prelude::*};

use crate::error::Raised;

const DOC: &CStr = c"Selected(index, value, channel, closed)\n--\n\n\
The case of a `select` that took effect, and what came of it: a tuple whose items have names.\n\n\
>>> from penstock import Channel, select\n>>> numbers = Channel[int](capacity=1)\n\
>>> select((numbers, 7)).index\n0\n>>> index, value, channel, closed = select(numbers)\n>>> value, closed\n(7, False)\n\
>>> numbers.close()\n>>> select(numbers).closed\nTrue\n";

/// So many items it has.
const ITEMS: usize = 4;

/// How many objects may wait to be used again.
const FREE_MAX: usize = 64;

/// What CPython writes to: once at import, and reference counts, which are immortal; and [`Spare`].
struct Static<T>(UnsafeCell<T>);

// SAFETY: see the type.
unsafe impl<T> Sync for Static<T> {}

// SAFETY: a plain C struct, to which all zeros say "nothing here".
static CLASS: Static<ffi::PyTypeObject> = Static(UnsafeCell::new(unsafe { std::mem::zeroed() }));

static MEMBERS: Static<[ffi::PyMemberDef; ITEMS + 1]> = Static(UnsafeCell::new([
    member(0, c"index", c"Which of the cases, counted from 0."),
    member(
        1,
        c"value",
        c"What was received; ``None`` where it was a send, or the channel is closed.",
    ),
    member(2, c"channel", c"The object that was passed as its channel."),
    member(
        3,
        c"closed",
        c"Whether it was a receive from a channel that is closed and drained.",
    ),
    // SAFETY: all zeros are the end of the list.
    unsafe { std::mem::zeroed() },
]));

const fn member(at: usize, name: &'static CStr, doc: &'static CStr) -> ffi::PyMemberDef {
    let offset = offset_of!(ffi::PyTupleObject, ob_item) + at * size_of::<*mut ffi::PyObject>();
    ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: ffi::Py_T_OBJECT_EX,
        offset: offset.cast_signed(),
        flags: ffi::Py_READONLY,
        doc: doc.as_ptr(),
    }
}

static METHODS: Static<[ffi::PyMethodDef; 3]> = Static(UnsafeCell::new([
    method(
        c"__getnewargs__",
        get_new_args,
        ffi::METH_NOARGS,
        c"__getnewargs__($self, /)\n--\n\nThe items, for a copy.",
    ),
    method(
        c"__class_getitem__",
        ffi::Py_GenericAlias,
        ffi::METH_O | ffi::METH_CLASS,
        c"__class_getitem__($type, item, /)\n--\n\n`Selected[T]`.",
    ),
    ffi::PyMethodDef::zeroed(),
]));

const fn method(
    name: &'static CStr,
    function: ffi::PyCFunction,
    flags: c_int,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunction: function,
        },
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

/// What is used again. With the GIL, which guards it, there is one of these; without it, one for each thread.
struct Spare {
    /// The first of the objects, linked through their first items.
    first: Cell<*mut ffi::PyTupleObject>,
    count: Cell<usize>,
}

impl Spare {
    const fn new() -> Self {
        Self {
            first: Cell::new(ptr::null_mut()),
            count: Cell::new(0),
        }
    }
}

#[cfg(not(Py_GIL_DISABLED))]
static SPARE: Static<Spare> = Static(UnsafeCell::new(Spare::new()));
#[cfg(Py_GIL_DISABLED)]
thread_local! {
    static SPARE: Static<Spare> = const { Static(UnsafeCell::new(Spare::new())) };
}

/// # Safety
/// Attached, and this thread stays so while the result lives.
#[inline]
unsafe fn spare<'a>() -> &'a Spare {
    #[cfg(not(Py_GIL_DISABLED))]
    let spare = &SPARE;
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: a constant without a destructor, which lives as long as the thread.
    let spare = SPARE.with(|spare| unsafe { &*ptr::from_ref(spare) });
    // SAFETY: there is no other access than by shared references, of one thread at a time.
    unsafe { &*spare.0.get() }
}

/// Makes the class. Called once, by the module's import.
pub fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    // SAFETY: attached; nobody knows the class yet. A static class lives as long as the process.
    unsafe {
        let base = &raw mut ffi::PyTuple_Type;
        let class = CLASS.0.get();
        (*class).ob_base.ob_base = ffi::PyObject_HEAD_INIT;
        (*class).tp_name = c"penstock.Selected".as_ptr();
        (*class).tp_doc = DOC.as_ptr();
        (*class).tp_base = base;
        (*class).tp_basicsize = (*base).tp_basicsize;
        (*class).tp_itemsize = (*base).tp_itemsize;
        // An atomic without the GIL, of the same size.
        let flags = (&raw mut (*class).tp_flags).cast::<c_ulong>();
        flags.write(
            ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_IMMUTABLETYPE,
        );
        (*class).tp_members = MEMBERS.0.get().cast();
        (*class).tp_methods = METHODS.0.get().cast();
        (*class).tp_new = Some(new_from_python);
        (*class).tp_repr = Some(repr);
        (*class).tp_traverse = (*base).tp_traverse;
        (*class).tp_dealloc = Some(dealloc);
        (*class).tp_free = Some(ffi::PyObject_GC_Del);
        if ffi::PyType_Ready(class) < 0 {
            return Err(PyErr::fetch(py));
        }
        let class = Bound::from_borrowed_ptr(py, class.cast());
        let names = ("index", "value", "channel", "closed").into_pyobject(py)?;
        let dict = (*CLASS.0.get()).tp_dict;
        if ffi::PyDict_SetItemString(dict, c"__match_args__".as_ptr(), names.as_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        ffi::PyType_Modified(CLASS.0.get());
        module.add("Selected", class)
    }
}

/// Its `channel`, borrowed from it.
///
/// # Safety
/// Attached; `object` is one, and alive.
#[inline]
pub unsafe fn channel(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a tuple of four, by the caller's promise.
    unsafe { ffi::PyTuple_GET_ITEM(object, 2) }
}

/// A new object of these items, which it takes over, also where it fails for lack of memory.
///
/// # Safety
/// Attached; the items are strong references.
#[inline]
pub unsafe fn new(items: [*mut ffi::PyObject; ITEMS]) -> Result<*mut ffi::PyObject, Raised> {
    // SAFETY: an object of the class that nobody knows and that is not tracked: fresh, or off the list.
    unsafe {
        let spare = spare();
        let mut object = spare.first.get();
        if object.is_null() {
            object = ffi::PyObject_GC_NewVar(CLASS.0.get(), ITEMS.cast_signed());
            if object.is_null() {
                for item in items {
                    ffi::Py_DECREF(item);
                }
                return Err(Raised);
            }
        } else {
            spare.first.set((*object).ob_item[0].cast());
            spare.count.set(spare.count.get() - 1);
            ffi::PyObject_Init(object.cast(), CLASS.0.get()); // its count of references is 1 again
        }
        #[cfg(Py_3_14)]
        {
            (*object).ob_hash = -1; // not known
        }
        let first = (&raw mut (*object).ob_item).cast::<*mut ffi::PyObject>();
        for (at, item) in items.into_iter().enumerate() {
            first.add(at).write(item);
        }
        ffi::PyObject_GC_Track(object.cast());
        Ok(object.cast())
    }
}

unsafe extern "C" fn new_from_python(
    _: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let mut items = [ptr::null_mut::<ffi::PyObject>(); ITEMS];
    let mut names: [*const c_char; ITEMS + 1] = [
        c"index".as_ptr(),
        c"value".as_ptr(),
        c"channel".as_ptr(),
        c"closed".as_ptr(),
        ptr::null(),
    ];
    // SAFETY: called by CPython, attached; four places for four objects, and a list of names that null ends.
    unsafe {
        let [index, value, channel, closed] = items.each_mut().map(ptr::from_mut);
        let parsed = ffi::PyArg_ParseTupleAndKeywords(
            arguments,
            keywords,
            c"OOOO:Selected".as_ptr(),
            names.as_mut_ptr().cast(),
            index,
            value,
            channel,
            closed,
        );
        if parsed == 0 {
            return ptr::null_mut();
        }
        new(items.map(|item| ffi::Py_NewRef(item))).unwrap_or(ptr::null_mut())
    }
}

unsafe extern "C" fn repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an object of the class, attached.
    unsafe {
        let item = |at| ffi::PyTuple_GET_ITEM(object, at);
        let format = c"Selected(index=%R, value=%R, channel=%R, closed=%R)";
        ffi::PyUnicode_FromFormat(format.as_ptr(), item(0), item(1), item(2), item(3))
    }
}

unsafe extern "C" fn get_new_args(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on an object of the class, attached.
    unsafe { ffi::PyTuple_GetSlice(object, 0, ITEMS.cast_signed()) }
}

/// A result may have been received that has another one for its value, and so on, so this goes down such a chain by a
/// loop instead of on the stack.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    let mut next = object;
    while !next.is_null() {
        let object = next.cast::<ffi::PyTupleObject>();
        next = ptr::null_mut();
        // SAFETY: called by CPython, attached, on an object that nobody refers to; its items are strong references.
        unsafe {
            ffi::PyObject_GC_UnTrack(object.cast::<c_void>());
            let first = (&raw mut (*object).ob_item).cast::<*mut ffi::PyObject>();
            for at in 0..ITEMS {
                let item = *first.add(at);
                if ffi::Py_TYPE(item) == CLASS.0.get()
                    && ffi::Py_REFCNT(item) == 1
                    && next.is_null()
                {
                    next = item;
                } else {
                    ffi::Py_DECREF(item);
                }
            }
            let spare = spare();
            if spare.count.get() == FREE_MAX {
                ffi::PyObject_GC_Del(object.cast());
            } else {
                // INVARIANT: what is on the list has no items, but for the link in the place of the first.
                first.write(spare.first.replace(object).cast());
                spare.count.set(spare.count.get() + 1);
            }
        }
    }
}
