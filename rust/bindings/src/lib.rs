//! The compiled module `penstock._core`: the list of what Python sees.
//!
//! It converts, calls the core and converts back; it holds no algorithm.

mod atomic;
mod blocking;
mod boundary;
mod by_hand;
mod callback;
mod channel;
mod context;
mod convert;
mod deadlock;
mod debug;
mod error;
mod event_loop;
mod fiber;
mod gc;
mod hot;
mod interpreter;
mod interrupt;
mod lock;
mod memory;
mod mode;
mod object;
mod operation;
mod pending;
mod pinned;
mod runtime;
mod scope;
mod select;
mod selected;
mod stall;
mod task;
mod tasks;
mod topology;
mod tracer;
mod unwind;

use pyo3::{ffi, prelude::*, types::PyType};

/// `Class[item]` at run time.
fn generic_alias(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    // SAFETY: both are alive; the result is a new reference.
    unsafe {
        let alias = ffi::Py_GenericAlias(class.as_ptr(), item.as_ptr());
        Bound::from_owned_ptr_or_err(class.py(), alias).map(Bound::unbind)
    }
}

#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::{
        atomic::{AtomicBoolObject, AtomicIntObject, AtomicRefObject},
        callback::CallbackObject,
        channel::{
            ChannelObject, after,
            ends::{ReceiverObject, SenderObject},
            tick,
        },
        deadlock::{_ignore_deadlocks, _parked_tasks, _wait_of},
        debug::{_running_task, _trace_schedule, _watch_locks},
        gc::GcPacer,
        interrupt::{_outranks, Mark},
        lock::{
            BarrierObject, ConditionObject, EventObject, LockObject, OnceObject, SemaphoreObject,
            WaitGroupObject,
        },
        memory::{
            _watch_buffers, Borrowed, Buffer, BufferNodeStats, BufferPool, BufferScope,
            BufferStats, ObjectPool, ObjectStats,
        },
        pinned::{_pin, _unpin},
        runtime::{_after_fork_in_child, _at_exit, _frames_match, RuntimeObject, build_profile},
        scope::{_seconds, ScopeObject},
        task::TaskObject,
        tasks::{_is_of, _on_stacks},
        topology::{_cpu_ranges, _workers_from_environment, CpuBudget, Node, Topology},
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        crate::interpreter::refuse_subinterpreters()?;
        crate::error::load(py)?;
        crate::fiber::load(py)?;
        crate::operation::load(py)?;
        crate::task::load(py);
        crate::select::load(py);
        crate::selected::add(module)?;
        crate::interpreter::watch_collections(py)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        crate::memory::add(py)?;
        crate::lock::add(py)?;
        crate::hot::add_functions(module, &crate::task::FUNCTIONS)?;
        for functions in crate::runtime::functions() {
            crate::hot::add_functions(module, functions)?;
        }
        crate::hot::add_functions(module, &crate::fiber::FUNCTIONS)?;
        crate::hot::add_functions(module, &crate::blocking::FUNCTIONS)?;
        crate::hot::add_functions(module, &crate::select::FUNCTIONS)?;
        crate::hot::add_methods(&py.get_type::<TaskObject>(), &crate::task::METHODS)?;
        crate::hot::add_methods(
            &py.get_type::<RuntimeObject>(),
            &crate::task::RUNTIME_METHODS,
        )?;
        for entries in crate::channel::methods() {
            crate::hot::add_methods(&py.get_type::<ChannelObject>(), entries)?;
        }
        crate::channel::ends::load(py)?;
        crate::hot::add_methods(
            &py.get_type::<AtomicIntObject>(),
            &crate::atomic::INT_METHODS,
        )?;
        crate::hot::add_methods(
            &py.get_type::<AtomicBoolObject>(),
            &crate::atomic::BOOL_METHODS,
        )?;
        crate::hot::add_methods(
            &py.get_type::<AtomicRefObject>(),
            &crate::atomic::REF_METHODS,
        )?;
        // PyO3 lists what it exported itself; the package's own `__all__` says what is public.
        module.dict().del_item("__all__")
    }
}
