//! A stack (of an M): the state of one scheduling loop, which stays behind when its task parks.
//!
//! A coroutine that is pinned to a machine has no stack, and yet has to go on on that machine's thread: a *ticket* stands
//! for it in the inbox and among the ready stacks, and where a stack would be resumed its coroutine is stepped.

use std::{
    cell::Cell,
    ffi::c_void,
    ptr::{self, NonNull},
};

use super::Machine;
use crate::{
    sync::{AtomicPtr, Ordering, UnsafeCell},
    task::Task,
};

/// One stack of a machine. With fibers a machine has many; otherwise one, its thread's.
#[derive(Debug)]
pub struct Stack {
    pub machine: &'static Machine,
    /// The next stack in an inbox or a list of the machine: whoever put it there owns the link.
    next: UnsafeCell<*mut Stack>,
    /// Where it is in its machine's list of all. Its machine's thread only.
    pub(super) place: Cell<usize>,
    /// The task that runs or is parked on it, or null in the loop itself; a ticket's coroutine. Its machine's thread only.
    pub task: Cell<*const Task>,
    /// How often the coroutine of a ticket is pinned; 0 in a stack. Its machine's thread only.
    pub(super) pins: Cell<usize>,
    /// What the host keeps for it (a greenlet). Its machine's thread only.
    pub host: Cell<*mut c_void>,
}

impl Stack {
    pub fn new(machine: &'static Machine) -> Box<Self> {
        Box::new(Self {
            machine,
            next: UnsafeCell::new(ptr::null_mut()),
            place: Cell::new(0),
            task: Cell::new(ptr::null()),
            pins: Cell::new(0),
            host: Cell::new(ptr::null_mut()),
        })
    }

    /// The coroutine, if this is a ticket.
    #[inline]
    pub(super) fn coroutine(&self) -> Option<NonNull<Task>> {
        if self.pins.get() == 0 {
            return None;
        }
        NonNull::new(self.task.get().cast_mut())
    }
}

/// Stacks that other threads have made ready: pushed by anyone, taken whole by the machine.
#[derive(Debug)]
pub struct Inbox(AtomicPtr<Stack>);

impl Default for Inbox {
    fn default() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }
}

impl Inbox {
    pub fn push(&self, stack: NonNull<Stack>) {
        // Ordering: Relaxed, the exchange decides.
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: a readied stack is in no list, so its link is the caller's.
            unsafe { *stack.as_ref().next.get() = head };
            // Ordering: SeqCst, which is the Release that publishes the link, and the order against the sleep of
            // the machine: it says that it sleeps, then looks here; we push, then look whether it sleeps.
            match self.0.compare_exchange_weak(
                head,
                stack.as_ptr(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        // Ordering: SeqCst, see `push`.
        self.0.load(Ordering::SeqCst).is_null()
    }

    /// Moves everything to `to`, in the order it came. The machine only.
    pub fn drain_into(&self, to: &mut StackQueue) {
        // Ordering: Acquire pairs with the Release in `push`.
        let mut newest = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        let mut oldest = ptr::null_mut();
        while let Some(stack) = NonNull::new(newest) {
            // SAFETY: taken out of the inbox, its link is ours.
            unsafe { newest = std::mem::replace(&mut *stack.as_ref().next.get(), oldest) };
            oldest = stack.as_ptr();
        }
        while let Some(stack) = NonNull::new(oldest) {
            // SAFETY: as above.
            oldest = unsafe { *stack.as_ref().next.get() };
            to.push_back(stack);
        }
    }
}

/// Stacks (and tickets) in order, linked through themselves. The machine's thread only.
#[derive(Debug)]
pub struct StackQueue {
    head: *mut Stack,
    tail: *mut Stack,
    len: usize,
}

impl Default for StackQueue {
    fn default() -> Self {
        Self {
            head: ptr::null_mut(),
            tail: ptr::null_mut(),
            len: 0,
        }
    }
}

impl StackQueue {
    pub fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn push_back(&mut self, stack: NonNull<Stack>) {
        // SAFETY: the stack is in no list, so its link is ours; so is that of the list's tail.
        unsafe {
            *stack.as_ref().next.get() = ptr::null_mut();
            if self.tail.is_null() {
                self.head = stack.as_ptr();
            } else {
                *(*self.tail).next.get() = stack.as_ptr();
            }
        }
        self.tail = stack.as_ptr();
        self.len += 1;
    }

    pub fn push_front(&mut self, stack: NonNull<Stack>) {
        // SAFETY: the stack is in no list, so its link is ours.
        unsafe { *stack.as_ref().next.get() = self.head };
        self.head = stack.as_ptr();
        if self.tail.is_null() {
            self.tail = self.head;
        }
        self.len += 1;
    }

    /// Takes the first one unless it is a ticket, which only a loop can run.
    pub fn pop_stack(&mut self) -> Option<NonNull<Stack>> {
        // SAFETY: in this list, so it is alive.
        let is_stack = |stack: NonNull<Stack>| unsafe { stack.as_ref() }.coroutine().is_none();
        NonNull::new(self.head)
            .filter(|&first| is_stack(first))
            .and_then(|_| self.pop_front())
    }

    pub fn pop_front(&mut self) -> Option<NonNull<Stack>> {
        let stack = NonNull::new(self.head)?;
        // SAFETY: in this list, so its link is ours.
        self.head = unsafe { *stack.as_ref().next.get() };
        if self.head.is_null() {
            self.tail = ptr::null_mut();
        }
        self.len -= 1;
        Some(stack)
    }
}
