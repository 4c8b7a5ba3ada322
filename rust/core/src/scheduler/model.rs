//! Every interleaving of those who share the injector and an inbox. The ring, and the scheduler as a whole, have their
//! models in `tests/`.

use std::{ptr::NonNull, sync::Arc};

use loom::thread;

use super::{
    Config, Host, Machine, STALL_AFTER, Scheduler, Stack,
    injector::Injector,
    stack::{Inbox, StackQueue},
};
use crate::{
    task::{Task, TaskVtable},
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

fn scheduler() -> &'static Scheduler {
    Scheduler::new(Config {
        host: &HOST,
        workers: 1,
        fibers: false,
        exclusive: false,
        stall_after: STALL_AFTER,
        budget: None,
        trace: None,
        layout: Layout::flat(1),
    })
}

/// What a thread of the model may take with it: an address that nobody else uses meanwhile.
struct Sent<T>(NonNull<T>);

impl<T> Clone for Sent<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Sent<T> {}

// SAFETY: see the type.
unsafe impl<T> Send for Sent<T> {}

impl<T> Sent<T> {
    fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    /// # Safety
    /// Nobody uses it any more.
    unsafe fn free(self) {
        // SAFETY: from `new`, and unused, by the caller's promise.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

fn assert_same<T>(got: Vec<NonNull<T>>, sent: &[Sent<T>]) {
    let mut got: Vec<_> = got.into_iter().map(NonNull::as_ptr).collect();
    let mut sent: Vec<_> = sent.iter().map(|sent| sent.0.as_ptr()).collect();
    got.sort_unstable();
    sent.sort_unstable();
    assert_eq!(got, sent);
}

#[test]
fn the_injector_gives_each_task_once() {
    loom::model(|| {
        let scheduler = scheduler();
        let tasks = [(); 3].map(|()| Sent::new(Task::new(&VTABLE, scheduler)));
        let injector = Arc::new(Injector::default());
        let pusher = {
            let injector = Arc::clone(&injector);
            thread::spawn(move || {
                injector.push_all(
                    &tasks[..2]
                        .iter()
                        .map(|task| task.0.as_ptr())
                        .collect::<Vec<_>>(),
                )
            })
        };
        injector.push(tasks[2].0);
        let mut got = Vec::new();
        let first = injector.pop(1, |task| got.push(task));
        got.extend(first);
        pusher.join().unwrap();
        while let Some(task) = injector.pop(0, |_| ()) {
            got.push(task);
        }
        assert_eq!(injector.len(), 0);
        assert_same(got, &tasks);
        for task in tasks {
            // SAFETY: the model is over.
            unsafe { task.free() };
        }
    });
}

#[test]
fn the_inbox_gives_each_stack_once_in_its_order() {
    loom::model(|| {
        let scheduler = scheduler();
        let machine: &'static Machine = Box::leak(Box::new(Machine::new(0, scheduler)));
        let stacks = [(); 3].map(|()| Sent::new(*Stack::new(machine)));
        let inbox = Arc::new(Inbox::default());
        let pusher = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || stacks[..2].iter().for_each(|stack| inbox.push(stack.0)))
        };
        let other = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.push(stacks[2].0))
        };
        let mut ready = StackQueue::default();
        inbox.drain_into(&mut ready);
        pusher.join().unwrap();
        other.join().unwrap();
        inbox.drain_into(&mut ready);
        assert!(inbox.is_empty());
        let got: Vec<_> = std::iter::from_fn(|| ready.pop_front()).collect();
        let place = |stack: Sent<Stack>| got.iter().position(|got| *got == stack.0);
        assert!(
            place(stacks[0]) < place(stacks[1]),
            "in the order they came"
        );
        assert_same(got.clone(), &stacks);
        for stack in stacks {
            // SAFETY: the model is over.
            unsafe { stack.free() };
        }
    });
}

/// The monitor says that it sleeps, then looks whether somebody runs; who wakes a worker says so, then looks whether the
/// monitor sleeps.
#[test]
fn a_machine_that_is_woken_while_the_monitor_falls_asleep_wakes_it() {
    loom::model(|| {
        let scheduler = scheduler();
        let monitor = thread::spawn(move || scheduler.sleep_until_woken(None));
        let worker = scheduler.idle.lock().find_worker(|_| Some(0));
        assert!(worker.is_some());
        scheduler.monitor.workers_awake();
        monitor.join().unwrap();
    });
}
