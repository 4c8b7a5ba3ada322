//! Every interleaving of a coroutine that leaves a step with who wakes it.

use std::sync::Arc;

use loom::{cell::UnsafeCell, thread};

use super::{Cancelling, Parking, Task, TaskVtable};
use crate::{
    scheduler::{Config, Host, STALL_AFTER, Scheduler},
    topology::Layout,
    wait::WaiterClass,
};

static HOST: Host = Host {
    switch: |_, _| unreachable!("nothing runs"),
    new_stack: |_| unreachable!("nothing runs"),
    idle: |_, _| unreachable!("nothing runs"),
    on_idle: |_| unreachable!("nothing runs"),
    start_machine: |_| unreachable!("nothing runs"),
    on_stall: |_| unreachable!("nothing runs"),
    show_tasks: |_| unreachable!("nothing runs"),
};

static VTABLE: TaskVtable = TaskVtable {
    run: |_| unreachable!("nothing runs"),
    waiter: WaiterClass {
        retain: |_| unreachable!("nobody waits"),
        release: |_| unreachable!("nobody waits"),
        wake: |_| unreachable!("nobody waits"),
    },
};

/// A coroutine whose frame is one number, the count of its steps.
struct Coroutine {
    task: Task,
    frame: UnsafeCell<u32>,
}

// SAFETY: the frame is its step's, which the model checks.
unsafe impl Sync for Coroutine {}

impl Coroutine {
    fn new() -> Arc<Self> {
        let scheduler = Scheduler::new(Config {
            host: &HOST,
            workers: 1,
            fibers: false,
            exclusive: false,
            stall_after: STALL_AFTER,
            budget: None,
            trace: None,
            layout: Layout::flat(1),
        });
        Arc::new(Self {
            task: Task::new(&VTABLE, scheduler),
            frame: UnsafeCell::new(0),
        })
    }

    fn step(&self) -> u32 {
        // SAFETY: loom fails the model if another thread is in a step.
        self.frame.with_mut(|frame| unsafe {
            *frame += 1;
            *frame
        })
    }

    /// What a worker does that took it from a queue after a wake.
    fn resume(&self) {
        self.task.resume_step();
        assert_eq!(self.step(), 2);
    }
}

/// One wake while it leaves its step: it is queued by one of the two, once.
#[test]
fn a_wake_while_a_coroutine_leaves_its_step_is_neither_lost_nor_doubled() {
    loom::model(|| {
        let coroutine = Coroutine::new();
        assert!(coroutine.task.start());
        let waker = {
            let coroutine = Arc::clone(&coroutine);
            thread::spawn(move || {
                let queued = coroutine.task.notify();
                if queued {
                    coroutine.resume(); // on another worker, at once
                }
                queued
            })
        };
        coroutine.step();
        let notified = coroutine.task.leave_step() == Parking::Notified;
        if notified {
            coroutine.resume();
        }
        let queued = waker.join().unwrap();
        assert_ne!(notified, queued, "one of the two queues it");
    });
}

/// The same with a canceller, who changes the word beside the phase.
#[test]
fn a_cancellation_disturbs_no_handshake() {
    loom::model(|| {
        let coroutine = Coroutine::new();
        assert!(coroutine.task.start());
        let (waker, canceller) = (Arc::clone(&coroutine), Arc::clone(&coroutine));
        let waker = thread::spawn(move || {
            waker.task.notify() && {
                waker.resume();
                true
            }
        });
        let canceller = thread::spawn(move || canceller.task.cancel());
        coroutine.step();
        let notified = coroutine.task.leave_step() == Parking::Notified;
        if notified {
            coroutine.resume();
        }
        assert_ne!(notified, waker.join().unwrap());
        assert_eq!(canceller.join().unwrap(), Cancelling::Asked);
        assert!(coroutine.task.cancel_pending());
    });
}
