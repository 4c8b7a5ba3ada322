//! Everywhere else, and in models: a mutex and a condition variable.

use std::time::Instant;

use crate::sync::{Condition, Lock};

#[derive(Debug, Default)]
pub struct Parker {
    notified: Lock<bool>,
    changed: Condition,
}

impl Parker {
    /// Blocks until unparked, until `deadline`, or for no reason. Owner only.
    pub fn park(&self, deadline: Option<Instant>) {
        let mut notified = self.notified.lock();
        if !*notified {
            notified = self.changed.wait(notified, deadline);
        }
        *notified = false;
    }

    /// Makes the current or the next `park` return.
    pub fn unpark(&self) {
        *self.notified.lock() = true;
        self.changed.notify_one();
    }
}
