//! Everywhere else: a mutex and a condition variable.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

#[derive(Debug, Default)]
pub struct Parker {
    notified: Mutex<bool>,
    changed: Condvar,
}

impl Parker {
    /// Blocks until unparked, until `deadline`, or for no reason. Owner only.
    pub fn park(&self, deadline: Option<Instant>) {
        let mut notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
        if !*notified {
            notified = match deadline {
                None => self
                    .changed
                    .wait(notified)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let waited = self.changed.wait_timeout(notified, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *notified = false;
    }

    /// Makes the current or the next `park` return.
    pub fn unpark(&self) {
        *self.notified.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}
