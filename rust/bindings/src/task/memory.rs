//! Where `Task` objects come from, and where they go.
//!
//! One is made for every `go`, [by hand](ByHand), because `PyO3`'s way costs more than the task's run: in memory that is
//! fresh, or was a task before.
//!
//! Each thread keeps a list of such objects, so that a burst finds the memory of the one before: given back, it costs a
//! page fault for every twenty tasks, a third of the whole. What was not needed once in a period is given back, when
//! the thread rests or a full collection (generation 2) has begun, by any thread.

use std::{
    cell::Cell,
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use penstock_core::scheduler::Scheduler;
use pyo3::{ffi, prelude::*};

use super::TaskObject;
use crate::{by_hand::ByHand, object};

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
    let (class, offset) = (OBJECTS.class(), OBJECTS.offset());
    FREE.with(|free| {
        free.kept.set(free.kept.get().max(tasks));
        while free.count.get() < tasks {
            // SAFETY: attached; the memory has no task in it.
            unsafe {
                let object = ffi::PyObject_GC_New::<ffi::PyObject>(class);
                if object.is_null() {
                    return Err(PyErr::fetch(py));
                }
                OBJECTS.weak_references(object).write(ptr::null_mut());
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
    let offset = OBJECTS.offset();
    if offset != 0 {
        FREE.with(|free| {
            if free.count.get() != 0 {
                free.judge(offset);
            }
        });
    }
}

/// The objects.
static OBJECTS: ByHand<TaskObject> = ByHand::new();

/// Takes the class over. Called once, by the module's import.
pub fn load(py: Python<'_>) {
    let class = OBJECTS.take_over(py, dealloc);
    // SAFETY: attached, and no object of the class is there yet.
    unsafe { (*class).tp_finalize = Some(finalize) };
}

/// The Python object that `task` is in, borrowed.
#[inline]
pub fn object_around(task: &TaskObject) -> *mut ffi::PyObject {
    OBJECTS.object_around(task)
}

/// Makes an object that the garbage collector does not see; null with an exception set if there is no memory.
///
/// # Safety
/// Attached.
#[inline]
pub unsafe fn new(py: Python<'_>, task: TaskObject) -> *mut ffi::PyObject {
    let offset = OBJECTS.offset();
    if offset == 0 {
        return first(py, task);
    }
    // SAFETY: the memory has no task in it: it is fresh, or off the list.
    unsafe {
        let class = OBJECTS.class();
        let mut object = FREE.with(|free| free.take(offset));
        if object.is_null() {
            object = ffi::PyObject_GC_New::<ffi::PyObject>(class);
            if object.is_null() {
                drop(task);
                return object;
            }
            OBJECTS.weak_references(object).write(ptr::null_mut());
        } else {
            ffi::PyObject_Init(object, class);
        }
        OBJECTS.write(object, task);
        object
    }
}

/// Makes the first object, of which the collector does not know either.
#[cold]
fn first(py: Python<'_>, task: TaskObject) -> *mut ffi::PyObject {
    let object = OBJECTS.first(py, task);
    if !object.is_null() {
        // SAFETY: alive, and tracked by its allocation.
        unsafe { ffi::PyObject_GC_UnTrack(object.cast()) };
    }
    object
}

/// The collector found the task unreachable, with its exception, of which nothing is cleared yet.
unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on a task, attached; what refers to it is garbage.
    unsafe { object::get::<TaskObject>(object).report_unseen() };
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called by CPython on a task that nobody refers to, attached.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        OBJECTS.empty(object);
        let offset = OBJECTS.offset();
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
