//! The queue behind the local ones: what comes from outside the workers, and what overflowed.
//!
//! Under one lock, linked through the tasks themselves, so that half a ring goes in and out in a few
//! instructions; its length is readable without the lock.

use std::ptr::{self, NonNull};

use crate::{
    sync::{AtomicUsize, Lock, Ordering},
    task::Task,
};

#[derive(Debug)]
struct List {
    head: *mut Task,
    tail: *mut Task,
}

// SAFETY: the list owns the right to run its tasks; it is used under its lock.
unsafe impl Send for List {}

#[derive(Debug)]
pub struct Injector {
    list: Lock<List>,
    len: AtomicUsize,
}

impl Default for Injector {
    fn default() -> Self {
        Self {
            list: Lock::new(List {
                head: ptr::null_mut(),
                tail: ptr::null_mut(),
            }),
            len: AtomicUsize::new(0),
        }
    }
}

impl Injector {
    /// A hint, exact once the pushing thread has passed a fence.
    #[inline]
    pub fn len(&self) -> usize {
        // Ordering: SeqCst, a machine that is about to sleep says so, then looks here.
        self.len.load(Ordering::SeqCst)
    }

    pub fn push(&self, task: NonNull<Task>) {
        self.push_all(&[task.as_ptr()]);
    }

    /// Puts `tasks`, none of which is null or in a queue, last in their order.
    pub fn push_all(&self, tasks: &[*mut Task]) {
        let (Some(&first), Some(&last)) = (tasks.first(), tasks.last()) else {
            return;
        };
        for pair in tasks.windows(2) {
            // SAFETY: alive, and in no queue: their link is the caller's.
            unsafe { *(*pair[0]).next.get() = pair[1] };
        }
        // SAFETY: as above.
        unsafe { *(*last).next.get() = ptr::null_mut() };
        let mut queue = self.list.lock();
        if queue.tail.is_null() {
            queue.head = first;
        } else {
            // SAFETY: in this queue: its link is guarded by the lock.
            unsafe { *(*queue.tail).next.get() = first };
        }
        queue.tail = last;
        // Ordering: SeqCst, see `len`.
        self.len.fetch_add(tasks.len(), Ordering::SeqCst);
    }

    /// Takes the first task, and hands up to `extra` more to `also`.
    pub fn pop(&self, extra: usize, mut also: impl FnMut(NonNull<Task>)) -> Option<NonNull<Task>> {
        if self.len() == 0 {
            return None;
        }
        let mut list = self.list.lock();
        let first = Self::take(&mut list)?;
        let mut taken = 1;
        while taken <= extra {
            let Some(task) = Self::take(&mut list) else {
                break;
            };
            also(task);
            taken += 1;
        }
        // Ordering: SeqCst, see `len`.
        self.len.fetch_sub(taken, Ordering::SeqCst);
        Some(first)
    }

    fn take(list: &mut List) -> Option<NonNull<Task>> {
        let task = NonNull::new(list.head)?;
        // SAFETY: in this queue: its link is guarded by the lock.
        list.head = unsafe { *task.as_ref().next.get() };
        if list.head.is_null() {
            list.tail = ptr::null_mut();
        }
        Some(task)
    }
}
