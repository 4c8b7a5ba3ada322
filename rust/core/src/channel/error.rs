//! What can go wrong, an operation each. A send that fails gives its value back.

/// Why [`try_send`](super::Channel::try_send) did not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// It would have to wait.
    Full(T),
    /// The channel is closed.
    Closed(T),
}

/// Why [`try_recv`](super::Channel::try_recv) has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// It would have to wait.
    Empty,
    /// The channel is closed and drained.
    Closed,
}

/// Why a send that waited did not send: its value was never in the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// The channel was closed meanwhile.
    Closed(T),
    /// The deadline passed first.
    TimedOut(T),
    /// The waiter was cancelled, or took its wait back.
    Interrupted(T),
}

/// Why a receive that waited has no value: it took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvError {
    /// The channel was closed meanwhile, and is drained.
    Closed,
    /// The deadline passed first.
    TimedOut,
    /// The waiter was cancelled, or took its wait back.
    Interrupted,
}
