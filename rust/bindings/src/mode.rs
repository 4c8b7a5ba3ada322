//! How the core's structures are built here: with plain cells under the GIL, with atomics without it.

#[cfg(not(Py_GIL_DISABLED))]
pub use penstock_core::sync::Exclusive as Mode;
#[cfg(Py_GIL_DISABLED)]
pub use penstock_core::sync::Shared as Mode;

#[cfg(Py_GIL_DISABLED)]
pub fn mode() -> Mode {
    Mode
}

/// What is built with the result is used and dropped by attached threads only.
#[cfg(not(Py_GIL_DISABLED))]
pub fn mode() -> Mode {
    // SAFETY: whoever touches a channel, a pool or a lock is attached, so it holds the GIL, and keeps it during each use.
    unsafe { Mode::promise() }
}
