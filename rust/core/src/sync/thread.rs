//! Threads and what is local to them.

/// Starts a thread. `false`: none is to be had; under loom never, where a model starts its own.
pub fn start_thread(name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    #[cfg(not(loom))]
    return std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .is_ok();
    #[cfg(loom)]
    {
        let _ = (name, body);
        false
    }
}

/// `std::thread_local!` with a constant value, or loom's, whose threads share one of the system's.
macro_rules! per_thread {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr;) => {
        #[cfg(not(loom))]
        std::thread_local! { $(#[$attribute])* static $name: $type = const { $value }; }
        #[cfg(loom)]
        loom::thread_local! { $(#[$attribute])* static $name: $type = $value; }
    };
}
pub(crate) use per_thread;
