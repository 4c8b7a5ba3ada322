//! Systems without an affinity mask: every CPU there is.

use super::CpuSet;

/// As many CPUs as the standard library counts.
pub fn allowed_cpus() -> CpuSet {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (0..super::CPU_LIMIT).take(count).collect()
}

/// Does nothing: threads run where the system puts them.
pub fn bind(_: &CpuSet) {}

/// Nobody tells.
pub fn current_cpu() -> Option<u32> {
    None
}
