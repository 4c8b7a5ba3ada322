//! The runtime of penstock, with nothing of Python in it.
//!
//! A module uses only those above it in this list:
//!
//! | module | owns |
//! | --- | --- |
//! | [`sync`] | the one door to atomics, cells and locks: std, or loom in model tests |
//! | [`atomic`] | an integer and a reference that threads share |
//! | [`topology`] | NUMA nodes, CPUs and distances; what of them this process may use |
//! | [`park`] | blocking and waking one thread |
//! | [`wait`] | who waits, the claim word that decides who ends a wait, and lists of waiters |
//! | [`memory`] | pooled buffers: size classes, spans, caches, the budget |
//! | [`gc`] | when to collect garbage, as arithmetic over readings |
//! | [`task`] | the task cell: state, cancellation, who waits for it |
//! | [`timer`] | deadlines |
//! | [`scheduler`] | workers, machines, queues, and who runs what |
//! | [`channel`] | typed queues between tasks: bounded, unbounded, rendezvous, of a clock; select |
//! | [`lock`] | locks, semaphores, events, barriers and their kin |

pub mod atomic;
pub mod channel;
pub mod gc;
pub mod lock;
pub mod memory;
pub mod park;
pub mod scheduler;
pub mod sync;
pub mod task;
pub mod timer;
pub mod topology;
pub mod wait;
