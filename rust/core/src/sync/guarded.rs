//! A value under a [`Mode`]'s tiny lock: who waits on a structure, and all that is not on its fast way.

use super::{Mode, RawLock, UnsafeCell};

/// A value under the mode's tiny lock.
pub struct Guarded<V, M: Mode> {
    lock: M::Lock,
    value: UnsafeCell<V>,
}

// SAFETY: `with` gives the value to one caller at a time, and `get_in_stopped_world` to the only one.
unsafe impl<V: Send, M: Mode> Sync for Guarded<V, M> {}

impl<V, M: Mode> Guarded<V, M> {
    pub fn new(value: V) -> Self {
        Self {
            lock: M::Lock::default(),
            value: UnsafeCell::new(value),
        }
    }

    /// Calls `change` under the lock. It runs no foreign code.
    #[inline]
    pub fn with<R>(&self, change: impl FnOnce(&mut V) -> R) -> R {
        /// Unlocks also where `change` panics, so that the panic is seen and not a hang.
        struct Unlock<'a, L: RawLock>(&'a L);
        impl<L: RawLock> Drop for Unlock<'_, L> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        self.lock.lock();
        let _unlock = Unlock(&self.lock);
        // SAFETY: the lock is held, and what runs under it does not come back here.
        change(unsafe { &mut *self.value.get() })
    }

    /// # Safety
    /// Nobody else uses the value, or holds the lock, while the result lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise")]
    pub unsafe fn get_in_stopped_world(&self) -> &mut V {
        // SAFETY: no other user, by the caller's promise.
        unsafe { &mut *self.value.get() }
    }
}
