//! The calling thread's affinity mask, which new threads inherit.

use super::CpuSet;

/// Enough for [`super::CPU_LIMIT`] CPUs.
const WORDS_MAX: usize = super::CPU_LIMIT as usize / libc::c_ulong::BITS as usize;

/// The CPUs this thread may run on; where the kernel does not tell, as many as the standard library counts.
pub fn allowed_cpus() -> CpuSet {
    // 1,024 CPUs to begin with, as the C library's own type has.
    let mut words: Vec<libc::c_ulong> = vec![0; 1024 / libc::c_ulong::BITS as usize];
    // SAFETY: the kernel writes at most the `size_of_val` bytes of `words`, which any bits are valid for.
    while unsafe {
        libc::sched_getaffinity(0, size_of_val(words.as_slice()), words.as_mut_ptr().cast())
    } != 0
    {
        // The kernel's own mask is longer than ours: EINVAL.
        let too_short = std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL);
        if !too_short || words.len() >= WORDS_MAX {
            let count = std::thread::available_parallelism().map_or(1, usize::from);
            return (0..super::CPU_LIMIT).take(count).collect();
        }
        words = vec![0; 2 * words.len()];
    }
    (0..)
        .step_by(libc::c_ulong::BITS as usize)
        .zip(words)
        .flat_map(|(first, word)| {
            (0..libc::c_ulong::BITS)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| first + bit)
        })
        .collect()
}
