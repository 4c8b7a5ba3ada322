//! On which CPUs threads may run, and do.

use super::CpuSet;

/// Enough for [`super::CPU_LIMIT`] CPUs.
const WORDS_MAX: usize = super::CPU_LIMIT as usize / libc::c_ulong::BITS as usize;

/// The CPUs this process may run on: the mask of its main thread, which new threads inherit, since the calling one may be
/// bound to fewer by us. Where the kernel does not tell, as many as the standard library counts.
pub fn allowed_cpus() -> CpuSet {
    // 1,024 CPUs to begin with, as the C library's own type has.
    let mut words: Vec<libc::c_ulong> = vec![0; 1024 / libc::c_ulong::BITS as usize];
    let main = libc::pid_t::try_from(std::process::id()).unwrap_or(0);
    // SAFETY: the kernel writes at most the `size_of_val` bytes of `words`, which any bits are valid for.
    while unsafe {
        libc::sched_getaffinity(
            main,
            size_of_val(words.as_slice()),
            words.as_mut_ptr().cast(),
        )
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

/// Has the calling thread run on `cpus` only. Where the kernel denies that, it goes on where it may.
pub fn bind(cpus: &CpuSet) {
    const BITS: u32 = libc::c_ulong::BITS;
    let end = cpus.iter().last().map_or(0, |last| last as usize + 1);
    let mut words: Vec<libc::c_ulong> = vec![0; end.div_ceil(BITS as usize)];
    for cpu in cpus.iter() {
        words[(cpu / BITS) as usize] |= 1 << (cpu % BITS);
    }
    // SAFETY: the kernel reads the `size_of_val` bytes of `words`.
    unsafe { libc::sched_setaffinity(0, size_of_val(words.as_slice()), words.as_ptr().cast()) };
}

/// The CPU that the calling thread is on, for now.
pub fn current_cpu() -> Option<u32> {
    // SAFETY: no precondition.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask of the calling thread.
    fn own_mask() -> CpuSet {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let list = status.split_once("Cpus_allowed_list:").unwrap().1;
        CpuSet::parse_list(list.lines().next().unwrap()).unwrap()
    }

    #[test]
    fn a_bound_thread_stays_on_its_cpus_and_the_process_keeps_its_own() {
        let all = allowed_cpus();
        let last: CpuSet = all.iter().last().into_iter().collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                bind(&last);
                assert_eq!(own_mask(), last);
                assert_eq!(current_cpu(), last.first());
                assert_eq!(allowed_cpus(), all);
                bind(&[crate::topology::CPU_LIMIT - 1].into_iter().collect());
                assert_eq!(own_mask(), last, "there is no such CPU");
            });
        });
    }
}
