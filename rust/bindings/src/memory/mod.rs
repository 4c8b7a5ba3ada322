//! Pooled buffers: a file per class, and one for the call that may wait.

mod acquire;
mod buffer;
mod pool;
mod stats;

use pyo3::prelude::*;

use crate::hot;

pub use self::{
    buffer::Buffer,
    pool::BufferPool,
    stats::{BufferNodeStats, BufferStats},
};

/// Puts the classes' raw entries in place.
pub fn add(py: Python<'_>) -> PyResult<()> {
    hot::add_methods(&py.get_type::<BufferPool>(), &acquire::ENTRIES)?;
    hot::add_methods(&py.get_type::<Buffer>(), &buffer::ENTRIES)
}
