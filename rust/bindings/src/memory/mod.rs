//! Pools of buffers and of objects: a file per class, one for the call that may wait, and what is known of buffers that
//! are watched.

mod acquire;
mod borrowed;
mod borrowed_object;
mod buffer;
mod buffer_object;
mod map;
mod object_pool;
mod pool;
mod scope;
mod site;
mod stats;
mod watch;

use pyo3::prelude::*;

use crate::hot;

pub use self::{
    borrowed::Borrowed,
    buffer::Buffer,
    object_pool::{ObjectPool, ObjectStats, age_idle_objects},
    pool::BufferPool,
    scope::BufferScope,
    stats::{BufferNodeStats, BufferStats},
    watch::_watch_buffers,
};

/// Puts the classes' raw entries in place.
pub fn add(py: Python<'_>) -> PyResult<()> {
    borrowed_object::load(py);
    buffer_object::load(py);
    hot::add_methods(&py.get_type::<BufferPool>(), &acquire::ENTRIES)?;
    hot::add_methods(&py.get_type::<BufferScope>(), &scope::ENTRIES)?;
    hot::add_methods(&py.get_type::<Buffer>(), &buffer::ENTRIES)?;
    hot::add_methods(&py.get_type::<ObjectPool>(), &object_pool::ENTRIES)?;
    hot::add_methods(&py.get_type::<Borrowed>(), &borrowed::ENTRIES)
}
