//! A mutex without poisoning: nothing of ours runs foreign code under a lock, so a panic under one
//! is a broken invariant, and the first panic is the one to report.

#[cfg(loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex, MutexGuard};
use std::{sync::PoisonError, time::Instant};

#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

pub type LockGuard<'a, T> = MutexGuard<'a, T>;

impl<T> Lock<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub fn lock(&self) -> LockGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable for a [`Lock`].
#[derive(Debug, Default)]
pub struct Condition(Condvar);

impl Condition {
    /// Lets go of the lock until notified, until `deadline` (in models: never), or for no reason.
    pub fn wait<'a, T>(
        &self,
        guard: LockGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> LockGuard<'a, T> {
        match deadline {
            None => self.0.wait(guard).unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let waited = self.0.wait_timeout(guard, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }
}
