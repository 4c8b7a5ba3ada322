//! A clock that is cheap enough for each wait, and as coarse as the system's timer tick: a few milliseconds.

/// Nanoseconds since some moment. Under loom, where time does not pass, always 0.
#[cfg(all(target_os = "linux", not(loom)))]
pub fn coarse_now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is ours; the clock has been in Linux since 2.6.32, and where it is missing `now` stays 0.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    u64::try_from(now.tv_sec)
        .unwrap_or(0)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// The same where there is no such clock.
#[cfg(all(not(target_os = "linux"), not(loom)))]
pub fn coarse_now_ns() -> u64 {
    use std::{sync::OnceLock, time::Instant};
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(loom)]
pub fn coarse_now_ns() -> u64 {
    0
}
