//! Stacks as coroutines, and the hub at the base of each thread.

use std::{
    cell::Cell,
    ptr::{self, NonNull},
};

use corosensei::{Coroutine, CoroutineResult, Yielder};
use penstock_core::scheduler::{Machine, Stack};

/// What the host keeps for a stack.
struct Fiber {
    coroutine: Coroutine<(), (), ()>,
    /// How the code on it gets back to the hub. Null until it has started.
    yielder: Cell<*const Yielder<(), ()>>,
}

thread_local! {
    /// The stack that the hub resumes next, or null: it is to make one.
    static NEXT: Cell<*mut Stack> = const { Cell::new(ptr::null_mut()) };
}

/// # Safety
/// `stack` was made by [`run_hub`] on this thread.
unsafe fn fiber(stack: NonNull<Stack>) -> *mut Fiber {
    // SAFETY: alive, by the caller's promise.
    unsafe { stack.as_ref() }.host.get().cast()
}

/// Goes to the hub, until it resumes `from`.
///
/// # Safety
/// `from` is the stack that runs.
unsafe fn leave(from: NonNull<Stack>, next: *mut Stack) -> bool {
    NEXT.set(next);
    // SAFETY: it runs, so it has started; its yielder lives as long as what runs on it.
    let yielder = unsafe { &*(*fiber(from)).yielder.get() };
    yielder.suspend(());
    true
}

/// The host's `switch`.
///
/// # Safety
/// See `Host::switch`.
pub unsafe fn switch(from: NonNull<Stack>, to: NonNull<Stack>) -> bool {
    // SAFETY: the caller's promise.
    unsafe { leave(from, to.as_ptr()) }
}

/// The host's `new_stack`.
///
/// # Safety
/// See `Host::new_stack`.
pub unsafe fn new_stack(from: NonNull<Stack>) -> bool {
    // SAFETY: the caller's promise.
    unsafe { leave(from, ptr::null_mut()) }
}

/// The body of a machine's thread.
pub fn run_hub(machine: &'static Machine) {
    let mut next = make(machine);
    loop {
        // SAFETY: made here, and suspended or not started, for the hub runs.
        while let CoroutineResult::Yield(()) = unsafe { (*fiber(next)).coroutine.resume(()) } {
            next = NonNull::new(NEXT.get()).unwrap_or_else(|| make(machine));
        }
        // SAFETY: its loop has returned.
        unsafe { free(next) };
        while let Some(idle) = machine.take_idle_stack() {
            machine.set_current_stack(idle);
            // SAFETY: an idle loop, which returns when it is resumed now.
            unsafe {
                assert!(matches!(
                    (*fiber(idle)).coroutine.resume(()),
                    CoroutineResult::Return(())
                ));
                free(idle);
            }
        }
        match machine.take_next_loop() {
            Some(stack) => next = stack,
            None => return,
        }
        machine.set_current_stack(next);
    }
}

fn make(machine: &'static Machine) -> NonNull<Stack> {
    let stack = NonNull::from(Box::leak(Stack::new(machine)));
    let address = stack.as_ptr() as usize;
    let coroutine = Coroutine::new(move |yielder, ()| {
        let stack = NonNull::new(address as *mut Stack).expect("from a reference");
        // SAFETY: the hub has made the fiber before it resumes it.
        unsafe { (*fiber(stack)).yielder.set(yielder) };
        // SAFETY: on the machine's thread, on the stack named below or by the hub.
        unsafe { machine.work() }
    });
    let fiber = Box::new(Fiber {
        coroutine,
        yielder: Cell::new(ptr::null()),
    });
    // SAFETY: alive, just made.
    unsafe { stack.as_ref() }
        .host
        .set(Box::into_raw(fiber).cast());
    machine.set_current_stack(stack);
    stack
}

/// # Safety
/// What ran on it has returned.
unsafe fn free(stack: NonNull<Stack>) {
    // SAFETY: made by `make`, and unused, by the caller's promise.
    unsafe {
        drop(Box::from_raw(fiber(stack)));
        drop(Box::from_raw(stack.as_ptr()));
    }
}
