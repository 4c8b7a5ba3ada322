//! A mutex that a forked child finds open.

// Not from `sync`: it outlives every model run, and none is about it.
use std::{
    marker::PhantomData,
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicPtr, Ordering},
    },
};

use super::fork;

/// Made when it is first used, and anew in a forked child: there a thread that does not exist may hold the parent's, and
/// may have left what it guards half changed. The parent's is leaked.
#[derive(Debug)]
pub struct ForkedMutex<T>(AtomicPtr<Made<T>>, PhantomData<Mutex<T>>);

#[derive(Debug)]
struct Made<T> {
    /// In which process, see [`fork`].
    generation: u32,
    mutex: Mutex<T>,
}

impl<T> Default for ForkedMutex<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> ForkedMutex<T> {
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()), PhantomData)
    }
}

impl<T: Default> ForkedMutex<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.here().lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> &Mutex<T> {
        let generation = fork::generation();
        loop {
            // Ordering: Acquire pairs with the Release below.
            let known = self.0.load(Ordering::Acquire);
            // SAFETY: null or leaked.
            if let Some(made) = unsafe { known.as_ref() }
                && made.generation == generation
            {
                return &made.mutex;
            }
            let new = Box::into_raw(Box::new(Made {
                generation,
                mutex: Mutex::default(),
            }));
            // Ordering: AcqRel, publishes the new one; whoever is not the first looks again.
            if self
                .0
                .compare_exchange(known, new, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                // SAFETY: ours, and nobody has seen it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}
