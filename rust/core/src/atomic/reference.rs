//! One value of any type, taken out and put in whole.
//!
//! A reader has to count its reference before the value it found can be replaced and dropped, and no word holds both
//! a pointer and a count that lies behind it. Hazard pointers and epochs answer that with a delay: the old value is
//! dropped later, by somebody else. Here it is to be dropped by who replaced it, before the call returns. So there is
//! a lock, held while a reference is copied or exchanged: a few instructions, nothing foreign, no drop.

use std::{fmt, mem};

use crate::sync::{Mode, RawLock, UnsafeCell};

pub struct Reference<T, M: Mode> {
    lock: M::Lock,
    /// Read and written under `lock`.
    value: UnsafeCell<T>,
}

// SAFETY: values are cloned, moved and compared by whichever thread comes, one at a time: `lock` sees to it, or the
// promise behind an `Exclusive`. No reference to one is given out.
unsafe impl<T: Send, M: Mode> Sync for Reference<T, M> {}

impl<T, M: Mode> Reference<T, M> {
    pub fn new(value: T, _: M) -> Self {
        Self {
            lock: M::Lock::default(),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `work` under the lock. It must not drop a `T`, wait, or call foreign code.
    #[inline]
    fn locked<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        self.lock.lock();
        // SAFETY: the lock is ours, and the reference ends before it is let go.
        let result = work(unsafe { &mut *self.value.get() });
        self.lock.unlock();
        result
    }

    /// A second reference to what is there. `copy` counts it, under the lock.
    #[inline]
    pub fn load(&self, copy: impl FnOnce(&T) -> T) -> T {
        self.locked(|value| copy(value))
    }

    /// Puts `new` in; what was there before is the caller's to drop.
    #[inline]
    pub fn swap(&self, new: T) -> T {
        self.locked(|value| mem::replace(value, new))
    }

    /// Puts `new` in if `is_expected` says so of what is there, and returns that; otherwise gives `new` back.
    /// `is_expected` looks at the value itself, under the lock, and at nothing behind it.
    #[inline]
    pub fn compare_exchange(&self, is_expected: impl FnOnce(&T) -> bool, new: T) -> Result<T, T> {
        self.locked(|value| {
            if is_expected(value) {
                Ok(mem::replace(value, new))
            } else {
                Err(new)
            }
        })
    }

    /// The value as it is.
    ///
    /// # Safety
    /// Nobody else uses `self` while the result lives: no call on it is going on, and none begins.
    pub unsafe fn peek(&self) -> &T {
        // SAFETY: by the caller's promise nobody writes.
        unsafe { &*self.value.get() }
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T, M: Mode> fmt::Debug for Reference<T, M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reference").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::Reference;
    use crate::sync::Shared;

    #[test]
    fn what_was_there_comes_back_to_be_dropped() {
        let [first, second, third] = [1, 2, 3].map(Arc::new);
        let reference = Reference::new(Arc::clone(&first), Shared);
        assert!(Arc::ptr_eq(&reference.load(Arc::clone), &first));
        assert!(Arc::ptr_eq(&reference.swap(Arc::clone(&second)), &first));
        assert_eq!(Arc::strong_count(&first), 1);

        let refused =
            reference.compare_exchange(|now| Arc::ptr_eq(now, &first), Arc::clone(&third));
        assert!(Arc::ptr_eq(&refused.unwrap_err(), &third));
        let replaced =
            reference.compare_exchange(|now| Arc::ptr_eq(now, &second), Arc::clone(&third));
        assert!(Arc::ptr_eq(&replaced.unwrap(), &second));
        drop(reference);
        assert_eq!([&first, &second, &third].map(Arc::strong_count), [1; 3]);
    }
}
