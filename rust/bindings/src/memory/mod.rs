//! Pools of buffers and of objects: a file per class, and one for the call that may wait.

mod acquire;
mod borrowed;
mod buffer;
mod objects;
mod pool;

use pyo3::prelude::*;

use crate::hot;

pub use self::{
    borrowed::Borrowed,
    buffer::Buffer,
    objects::{ObjectPool, ObjectStats, age_idle_objects},
    pool::{BufferPool, BufferStats},
};

/// Puts the classes' raw entries in place.
pub fn add(py: Python<'_>) -> PyResult<()> {
    hot::add_methods(&py.get_type::<BufferPool>(), &acquire::ENTRIES)?;
    hot::add_methods(&py.get_type::<Buffer>(), &buffer::ENTRIES)?;
    hot::add_methods(&py.get_type::<ObjectPool>(), &objects::ENTRIES)?;
    hot::add_methods(&py.get_type::<Borrowed>(), &borrowed::ENTRIES)
}
