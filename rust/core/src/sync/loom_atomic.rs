//! loom's atomics, with `SeqCst` given its meaning.
//!
//! loom takes a `SeqCst` access for an acquire-release one, so of two threads that each store one word and then load
//! the other's, both may miss the other's store in a model, although the language forbids it. It does follow
//! `SeqCst` fences. So each access here brings the fence that it stands for: a load before itself, whatever writes
//! after itself. That is what processors do for these accesses; the language promises a little less (a `SeqCst`
//! store is not ordered before a later weaker load), which is why a place that needs a fence has one.

use loom::sync::atomic;
pub use loom::sync::atomic::{Ordering, fence};

fn before_load(order: Ordering) {
    if order == Ordering::SeqCst {
        fence(order);
    }
}

fn after_write<R>(order: Ordering, written: R) -> R {
    if order == Ordering::SeqCst {
        fence(order);
    }
    written
}

macro_rules! atomic {
    ($name:ident $(<$parameter:ident>)?, $value:ty, $($update:ident)*) => {
        #[derive(Debug, Default)]
        pub struct $name $(<$parameter>)? (atomic::$name $(<$parameter>)?);

        #[allow(dead_code, reason = "the same methods for each type")]
        impl $(<$parameter>)? $name $(<$parameter>)? {
            #[track_caller]
            pub fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                before_load(order);
                self.0.load(order)
            }
            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                after_write(order, self.0.store(value, order));
            }
            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                after_write(order, self.0.swap(value, order))
            }
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let result = self.0.compare_exchange(current, new, success, failure);
                after_write(if result.is_ok() { success } else { failure }, result)
            }
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
            $(
                #[track_caller]
                pub fn $update(&self, by: $value, order: Ordering) -> $value {
                    after_write(order, self.0.$update(by, order))
                }
            )*
        }
    };
}

atomic!(AtomicBool, bool, fetch_or fetch_and);
atomic!(AtomicU32, u32, fetch_add fetch_sub fetch_or fetch_and);
atomic!(AtomicU64, u64, fetch_add fetch_sub fetch_or fetch_and);
atomic!(AtomicUsize, usize, fetch_add fetch_sub fetch_or fetch_and);
atomic!(AtomicPtr<T>, *mut T,);
