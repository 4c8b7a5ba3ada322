//! The one door to atomics, cells and locks.
//!
//! Under `--cfg loom` the same names are loom's, so that a model test compiles the very file that
//! ships. Nothing else in this crate names `std::sync::atomic`, `UnsafeCell` or `Mutex`.
//!
//! [`Mode`] is how one algorithm serves two builds: [`Shared`] is atomics and a real lock, for
//! threads that run at the same time; [`Exclusive`] is plain cells and no lock, for callers that
//! already exclude each other (CPython's GIL), where an atomic read-modify-write would be a third
//! of the cost of the whole operation.

mod guarded;
mod lock;
#[cfg(loom)]
mod loom_atomic;
mod mode;
mod thread;

#[cfg(not(loom))]
pub use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(loom)]
pub use loom_atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(loom)]
pub use loom_cell::UnsafeCell;

pub use guarded::Guarded;
pub use lock::{Condition, Lock, LockGuard};
pub use mode::{Exclusive, Mode, RawLock, Shared, SpinLock, Word};
pub(crate) use thread::per_thread;
pub use thread::start_thread;

/// Keeps two words that different threads write on different cache lines (two lines on x86, whose
/// prefetcher fetches pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CachePadded<T>(pub T);

impl<T> std::ops::Deref for CachePadded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// loom's cell checks each access; this gives it the shape of std's, which hands out a pointer.
#[cfg(loom)]
mod loom_cell {
    #[derive(Debug)]
    pub struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        /// The pointer is used at once, so loom sees the access as one exclusive one.
        pub fn get(&self) -> *mut T {
            self.0.with_mut(|pointer| pointer)
        }

        pub fn get_mut(&mut self) -> &mut T {
            // SAFETY: `&mut self` excludes every other access.
            unsafe { &mut *self.get() }
        }

        pub fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }
}

/// A hint that the caller spins; under loom, the point where another thread gets its turn.
pub fn spin_hint() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Spins until `condition` holds, for `time` at most, and says whether it does. In a model, where time does not
/// pass, it looks once.
pub fn spin_until(time: std::time::Duration, mut condition: impl FnMut() -> bool) -> bool {
    #[cfg(not(loom))]
    {
        let until = std::time::Instant::now() + time;
        while std::time::Instant::now() < until {
            if condition() {
                return true;
            }
            spin_hint();
        }
    }
    #[cfg(loom)]
    let _ = time;
    condition()
}
