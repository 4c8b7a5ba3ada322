//! A mutex without poisoning: nothing of ours runs foreign code under a lock, so a panic under one
//! is a broken invariant, and the first panic is the one to report.

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

pub type LockGuard<'a, T> = MutexGuard<'a, T>;

impl<T> Lock<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub fn lock(&self) -> LockGuard<'_, T> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
