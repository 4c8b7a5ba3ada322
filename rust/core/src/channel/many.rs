//! Many values by one call: runs of slots where there is a ring, one by one where peers wait.
//!
//! A batch is no unit: other senders' values may stand between those of one batch, where it had to go on in a second
//! run. What makes it cheap is one move of an index word for a run, and one call for all.

use std::collections::VecDeque;

use super::{Channel, Kind, TryRecvError, TrySendError};
use crate::sync::Mode;

impl<T, M: Mode> Channel<T, M> {
    /// Sends values from the front without waiting, as many as there is room for. What is left after an error was not
    /// sent. Never overtakes a sender that waits, and knows nothing of the channel's policy.
    pub fn try_send_many(&self, values: &mut VecDeque<T>) -> Result<(), TrySendError<()>> {
        while !values.is_empty() {
            if let Kind::Array(array) = &self.kind
                && array.send_run(values) > 0
            {
                continue;
            }
            let Some(value) = values.pop_front() else {
                break;
            };
            let (back, error) = match self.try_send(value) {
                Ok(()) => continue,
                Err(TrySendError::Full(back)) => (back, TrySendError::Full(())),
                Err(TrySendError::Closed(back)) => (back, TrySendError::Closed(())),
            };
            values.push_front(back);
            return Err(error);
        }
        Ok(())
    }

    /// Receives up to `max` values without waiting, and puts them last in `values`. What came back is first, and blocked
    /// senders are let in, as by single receives; their values count. An error says that there was not one.
    pub fn try_recv_many(&self, max: usize, values: &mut Vec<T>) -> Result<(), TryRecvError> {
        let end = values.len().saturating_add(max);
        let mut is_first = true;
        while values.len() < end {
            let wanted = end - values.len();
            if let Kind::Array(array) = &self.kind
                && array.recv_run(wanted, values) > 0
            {
                is_first = false;
                continue;
            }
            match self.try_recv() {
                Ok(value) => values.push(value),
                Err(error) if is_first => return Err(error),
                Err(_) => break,
            }
            is_first = false;
        }
        Ok(())
    }
}
