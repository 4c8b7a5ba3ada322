//! Linux: `/proc` tells the state of any thread of this process.

use std::fs;

/// Names a thread of this process.
pub type ThreadId = u32;

/// The calling thread's name.
pub fn current_thread() -> ThreadId {
    // SAFETY: no precondition.
    unsafe { libc::gettid() }.cast_unsigned()
}

/// Whether the thread computes, or would if a processor were free: it does not wait for anything. `false` also where
/// nobody can tell.
pub fn computes(thread: ThreadId) -> bool {
    // "12 (a name) R 1 ...": the name may hold anything, and the state comes behind its last bracket.
    fs::read(format!("/proc/self/task/{thread}/stat")).is_ok_and(|line| {
        let name_end = line.iter().rposition(|&byte| byte == b')');
        name_end.and_then(|end| line.get(end + 2)) == Some(&b'R')
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_asks_computes_and_one_that_waits_does_not() {
        assert!(computes(current_thread()));
        let (name, named) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let waiter = std::thread::spawn(move || {
            name.send(current_thread()).expect("the test listens");
            left.recv().expect("the test tells");
        });
        let waiting = named.recv().expect("the thread tells");
        while computes(waiting) {
            std::thread::yield_now();
        }
        leave.send(()).expect("the thread listens");
        waiter.join().expect("the thread ends");
        while computes(waiting) {
            std::thread::yield_now(); // it may take the kernel a moment to forget the thread
        }
    }
}
