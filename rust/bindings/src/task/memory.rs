//! Where `Task` objects come from, and where they go.
//!
//! One is made for every `go`. `PyO3` allocates it cleared and tracked by the garbage collector, and takes it apart
//! inside a guard, which together cost more than the task's run; so the class's deallocator is replaced by
//! [`dealloc`], and [`new`] writes into memory that is fresh, or was a task before.
//!
//! Each thread keeps a list of such objects, so that a burst finds the memory of the one before: given back, it costs a
//! page fault for every twenty tasks, a third of the whole. What was not needed once in a period is given back, when
//! the thread rests or a full collection (generation 2) has begun, by any thread.

use std::{
    cell::Cell,
    ptr,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use penstock_core::scheduler::Scheduler;
use pyo3::{ffi, prelude::*};

use super::TaskObject;

/// How many objects a thread keeps at most: 25 MB.
const FREE_MAX: usize = 131_072;

/// The objects of one thread that wait to be used again.
struct Free {
    /// The first of them, linked through the first word of their struct.
    first: Cell<*mut ffi::PyObject>,
    count: Cell<usize>,
    /// The fewest there were in this period.
    low: Cell<usize>,
    /// How many stay anyway.
    kept: Cell<usize>,
    /// When this period began.
    since: Cell<Option<Instant>>,
    /// The full collections that it was judged for.
    judged: Cell<usize>,
}

const PERIOD: Duration = Duration::from_secs(1);

thread_local! {
    static FREE: Free = const {
        Free {
            first: Cell::new(ptr::null_mut()),
            count: Cell::new(0),
            low: Cell::new(0),
            kept: Cell::new(0),
            since: Cell::new(None),
            judged: Cell::new(0),
        }
    };
}

/// How many full collections there were.
static FULL_COLLECTIONS: AtomicUsize = AtomicUsize::new(0);

impl Free {
    #[inline]
    fn take(&self, offset: usize) -> *mut ffi::PyObject {
        self.keep_up(offset);
        let object = self.first.get();
        if !object.is_null() {
            // SAFETY: on the list, so its first word is the link.
            self.first
                .set(unsafe { object.byte_add(offset).cast::<*mut ffi::PyObject>().read() });
            self.count.set(self.count.get() - 1);
            self.low.set(self.low.get().min(self.count.get()));
        }
        object
    }

    /// Says whether there was room for it.
    ///
    /// # Safety
    /// `object` has the memory of a task, and nothing in it.
    unsafe fn put(&self, object: *mut ffi::PyObject, offset: usize) -> bool {
        self.keep_up(offset);
        if self.count.get() == FREE_MAX {
            return false;
        }
        let next = self.first.replace(object);
        // SAFETY: nothing is in it.
        unsafe {
            object
                .byte_add(offset)
                .cast::<*mut ffi::PyObject>()
                .write(next);
        };
        self.count.set(self.count.get() + 1);
        true
    }

    /// Looks whether there was a full collection since.
    #[inline]
    fn keep_up(&self, offset: usize) {
        let collections = FULL_COLLECTIONS.load(Ordering::Relaxed); // Ordering: Relaxed, a count.
        if self.judged.get() != collections {
            self.judged.set(collections);
            self.judge(offset);
        }
    }

    /// At the end of a period, gives back what was not needed in it.
    #[cold]
    fn judge(&self, offset: usize) {
        let now = Instant::now();
        match self.since.get() {
            Some(since) if now - since < PERIOD => return,
            Some(_) => {
                let surplus = self.low.get().saturating_sub(self.kept.get());
                for _ in 0..surplus {
                    let object = self.first.get();
                    // SAFETY: there are at least so many on the list; see `take`.
                    unsafe {
                        self.first
                            .set(object.byte_add(offset).cast::<*mut ffi::PyObject>().read());
                        ffi::PyObject_GC_Del(object.cast());
                    }
                }
                self.count.set(self.count.get() - surplus);
            }
            None => {}
        }
        self.since.set(Some(now));
        self.low.set(self.count.get());
    }
}

/// Sets the memory of so many tasks aside, for this thread and for good.
pub fn prewarm(py: Python<'_>, scheduler: &'static Scheduler, tasks: usize) -> PyResult<()> {
    if tasks == 0 {
        return Ok(());
    }
    drop(super::new_idle(py, scheduler)?); // the first object of all tells the offset
    // Ordering: Relaxed throughout, see `new`.
    let class = CLASS.load(Ordering::Relaxed);
    let offset = OFFSET.load(Ordering::Relaxed);
    FREE.with(|free| {
        free.kept.set(free.kept.get().max(tasks));
        while free.count.get() < tasks {
            // SAFETY: attached; the memory has no task in it.
            unsafe {
                let object = ffi::PyObject_GC_New::<ffi::PyObject>(class);
                if object.is_null() {
                    return Err(PyErr::fetch(py));
                }
                weak_references(object).write(ptr::null_mut());
                ffi::Py_DECREF(class.cast());
                free.put(object, offset);
            }
        }
        Ok(())
    })
}

/// A full collection begins.
pub fn collection_begins() {
    FULL_COLLECTIONS.fetch_add(1, Ordering::Relaxed); // Ordering: Relaxed, a count.
}

/// This thread, which is attached, has nothing to do.
pub fn rest() {
    let offset = OFFSET.load(Ordering::Relaxed); // Ordering: Relaxed, see `new`.
    if offset != 0 {
        FREE.with(|free| {
            if free.count.get() != 0 {
                free.judge(offset);
            }
        });
    }
}

/// The class. Written once, during the module's import.
static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// How many bytes into an object its [`TaskObject`] is, or 0 before the first object.
static OFFSET: AtomicUsize = AtomicUsize::new(0);

/// Takes the class over. Called once, by the module's import.
pub fn load(py: Python<'_>) {
    let class = py.get_type::<TaskObject>().as_type_ptr();
    // SAFETY: attached, and no object of the class is there yet.
    unsafe {
        (*class).tp_dealloc = Some(dealloc);
        (*class).tp_finalize = Some(finalize);
    }
    // Ordering: Relaxed, during the import.
    CLASS.store(class, Ordering::Relaxed);
}

/// The list of weak references to `object`, or null.
///
/// # Safety
/// `object` has the memory of a task.
unsafe fn weak_references(object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject {
    // SAFETY: the class says where.
    unsafe {
        let class = CLASS.load(Ordering::Relaxed); // Ordering: Relaxed, see `load`.
        object.byte_offset((*class).tp_weaklistoffset).cast()
    }
}

/// The Python object that `task` is in, borrowed.
#[inline]
pub fn object_around(task: &TaskObject) -> *mut ffi::PyObject {
    let offset = OFFSET.load(Ordering::Relaxed); // Ordering: Relaxed, known before the first task is.
    ptr::from_ref(task)
        .cast_mut()
        .wrapping_byte_sub(offset)
        .cast()
}

/// Makes an object that the garbage collector does not see; null with an exception set if there is no memory.
///
/// # Safety
/// Attached.
#[inline]
pub unsafe fn new(py: Python<'_>, task: TaskObject) -> *mut ffi::PyObject {
    let offset = OFFSET.load(Ordering::Relaxed); // Ordering: Relaxed, a constant once it is known.
    if offset == 0 {
        return first(py, task);
    }
    // SAFETY: the memory has no task in it: it is fresh, or off the list.
    unsafe {
        let class = CLASS.load(Ordering::Relaxed); // Ordering: Relaxed, see `load`.
        let mut object = FREE.with(|free| free.take(offset));
        if object.is_null() {
            object = ffi::PyObject_GC_New::<ffi::PyObject>(class);
            if object.is_null() {
                drop(task);
                return object;
            }
            weak_references(object).write(ptr::null_mut());
        } else {
            ffi::PyObject_Init(object, class);
        }
        object.byte_add(offset).cast::<TaskObject>().write(task);
        object
    }
}

/// Makes the first object in `PyO3`'s own way, and so finds out where it puts the struct.
#[cold]
fn first(py: Python<'_>, task: TaskObject) -> *mut ffi::PyObject {
    match Bound::new(py, task) {
        Ok(task) => {
            let address = ptr::from_ref(task.get()).addr();
            let object = task.into_ptr();
            // Ordering: Relaxed, whoever stores it stores the same.
            OFFSET.store(address - object.addr(), Ordering::Relaxed);
            // SAFETY: alive, and tracked by its allocation.
            unsafe { ffi::PyObject_GC_UnTrack(object.cast()) };
            object
        }
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    }
}

/// The collector found the task unreachable, with its exception, of which nothing is cleared yet.
unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on a task, attached; what refers to it is garbage.
    unsafe { TaskObject::from_object(object).report_unseen() };
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on a task that nobody refers to, attached. There is an object, so the offset is known.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        if !(*weak_references(object)).is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        let offset = OFFSET.load(Ordering::Relaxed); // Ordering: Relaxed, see `new`.
        ptr::drop_in_place(object.byte_add(offset).cast::<TaskObject>());
        let class = ffi::Py_TYPE(object);
        // INVARIANT: what is on a list has no task in it and no weak references.
        // One that the collector has finalized would not be again.
        let is_spent = ffi::PyObject_GC_IsFinalized(object) != 0;
        if is_spent || !FREE.with(|free| free.put(object, offset)) {
            ffi::PyObject_GC_Del(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}
