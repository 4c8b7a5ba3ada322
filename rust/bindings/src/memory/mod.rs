//! Pooled buffers: a file per class, one for the call that may wait, and what is known of buffers that are watched.

mod acquire;
mod buffer;
mod map;
mod object;
mod pool;
mod scope;
mod site;
mod watch;

use pyo3::prelude::*;

use crate::hot;

pub use self::{
    buffer::Buffer,
    pool::{BufferPool, BufferStats},
    scope::BufferScope,
    watch::_watch_buffers,
};

/// Puts the classes' raw entries in place.
pub fn add(py: Python<'_>) -> PyResult<()> {
    object::load(py);
    hot::add_methods(&py.get_type::<BufferPool>(), &acquire::ENTRIES)?;
    hot::add_methods(&py.get_type::<BufferScope>(), &scope::ENTRIES)?;
    hot::add_methods(&py.get_type::<Buffer>(), &buffer::ENTRIES)
}
