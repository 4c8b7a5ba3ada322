//! What a send does where it would have to wait for room.

/// What a send does where it would have to wait for room. With a rendezvous it can wait or fail; to throw a value
/// away, the channel has to hold one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It waits.
    #[default]
    Block,
    /// It throws its own value away.
    DropNewest,
    /// It throws away the oldest value that takes up room, and puts its own in, as one step. Values that came back take
    /// none, and stay.
    DropOldest,
    /// It fails.
    Error,
}

impl Overflow {
    /// Whether values are thrown away.
    pub fn drops(self) -> bool {
        matches!(self, Overflow::DropNewest | Overflow::DropOldest)
    }
}
