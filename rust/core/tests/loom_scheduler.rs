//! Every interleaving of a submitter or a waker with machines that go to rest.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_scheduler`
//!
//! The whole scheduler is in the model, less its monitor. A lost wake-up shows as loom's "deadlock".
#![cfg(loom)]

mod channel_thread;
mod model_host;

use std::sync::Arc;

use channel_thread::waiter;
use loom::{
    sync::{Condvar, Mutex},
    thread,
};
use model_host::{
    close, explore, go, go_on, go_steps, park, running, scheduler, scheduler_on_two_nodes, try_go,
};
use penstock_core::{
    scheduler::Machine,
    wait::{Epoch, Outcome, WaiterRef},
};

/// Where a task that parks leaves its wait, for who is to end it.
#[derive(Clone)]
struct Mailbox(Arc<(Mutex<Option<(WaiterRef, Epoch)>>, Condvar)>);

impl Mailbox {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(None), Condvar::new())))
    }

    fn put(&self, waiter: WaiterRef, epoch: Epoch) {
        *self.0.0.lock().unwrap() = Some((waiter, epoch));
        self.0.1.notify_one();
    }

    /// Ends the wait, when it has begun.
    fn wake(&self) {
        let mut wait = self.0.0.lock().unwrap();
        while wait.is_none() {
            wait = self.0.1.wait(wait).unwrap();
        }
        let (waiter, epoch) = wait.take().unwrap();
        drop(wait);
        let claim = waiter.claim(epoch).expect("nobody else claims");
        claim.complete(Outcome::Handed);
    }
}

#[test]
fn a_task_queued_while_the_only_machine_goes_to_rest_is_run() {
    explore(3, || {
        let scheduler = scheduler(1);
        let me = waiter();
        let first = go(scheduler, || ());
        let second = go(scheduler, || ());
        first.join(&me);
        second.join(&me);
        scheduler.shut_down();
    });
}

#[test]
fn tasks_queued_by_two_threads_are_run() {
    explore(2, || {
        let scheduler = scheduler(1);
        let other = thread::spawn(move || go(scheduler, || ()).join(&waiter()));
        go(scheduler, || ()).join(&waiter());
        other.join().unwrap();
        scheduler.shut_down();
    });
}

#[test]
fn a_task_queued_on_a_local_ring_is_run() {
    explore(1, || {
        let scheduler = scheduler(2);
        let me = waiter();
        let (put, child) = (Arc::new(Mutex::new(None)), Mailbox::new());
        let (slot, parks) = (Arc::clone(&put), child.clone());
        // The parent stays on its machine until its child has run: another worker has to steal it.
        let parent = go(scheduler, move || {
            let task = go(scheduler, move || child.wake());
            *slot.lock().unwrap() = Some(task);
            let outcome = park(|waiter, epoch| parks.put(waiter, epoch));
            assert_eq!(outcome, Outcome::Handed);
        });
        parent.join(&me);
        put.lock().unwrap().take().unwrap().join(&me);
        scheduler.shut_down();
    });
}

/// The submitter waits outside the scheduler then, so it never looks at its queue again: `notify` alone finds the other.
#[test]
fn a_task_queued_by_one_that_blocks_its_thread_is_run_by_a_machine_that_goes_to_rest() {
    explore(2, || {
        let scheduler = scheduler(2);
        let ran = Arc::new((Mutex::new(false), Condvar::new()));
        go(scheduler, || ());
        let parent = go(scheduler, move || {
            let signal = Arc::clone(&ran);
            go(scheduler, move || {
                *signal.0.lock().unwrap() = true;
                signal.1.notify_one();
            });
            let mut has_run = ran.0.lock().unwrap();
            while !*has_run {
                has_run = ran.1.wait(has_run).unwrap();
            }
        });
        parent.join(&waiter());
        scheduler.shut_down();
    });
}

#[test]
fn two_machines_run_what_comes_while_they_go_to_rest() {
    explore(2, || {
        let scheduler = scheduler(2);
        let me = waiter();
        let tasks = [(); 3].map(|()| go(scheduler, || ()));
        for task in tasks {
            task.join(&me);
        }
        scheduler.shut_down();
    });
}

#[test]
fn a_stack_readied_while_its_machine_goes_to_rest_runs_on() {
    explore(3, || {
        let scheduler = scheduler(1);
        let me = waiter();
        let mailbox = Mailbox::new();
        let parks = mailbox.clone();
        let task = go(scheduler, move || {
            park(|waiter, epoch| parks.put(waiter, epoch));
        });
        mailbox.wake();
        task.join(&me);
        scheduler.shut_down();
    });
}

#[test]
fn a_stack_readied_while_its_machine_loses_its_worker_runs_on() {
    explore(1, || {
        let scheduler = scheduler(1);
        let me = waiter();
        let mailbox = Mailbox::new();
        let parks = mailbox.clone();
        let parked = go(scheduler, move || {
            park(|waiter, epoch| parks.put(waiter, epoch));
        });
        let waker = thread::spawn(move || mailbox.wake());
        let task = go(scheduler, || ()); // the worker, if the first task is parked, goes to another machine for it
        task.join(&me);
        parked.join(&me);
        waker.join().unwrap();
        scheduler.shut_down();
    });
}

#[test]
fn two_machines_take_turns_with_one_worker() {
    explore(1, || {
        let scheduler = scheduler(1);
        let me = waiter();
        let mailboxes = [Mailbox::new(), Mailbox::new()];
        let parked = mailboxes.clone().map(|parks| {
            go(scheduler, move || {
                park(|waiter, epoch| parks.put(waiter, epoch));
            })
        });
        mailboxes.iter().for_each(Mailbox::wake);
        for task in parked {
            task.join(&me);
        }
        scheduler.shut_down();
    });
}

/// It pins itself, parks, and looks where it goes on; `ends` is what it does last.
fn pinned(mailbox: Mailbox, ends: impl Fn(&'static Machine) + Send) -> impl FnMut() -> bool + Send {
    let mut home: Option<usize> = None;
    move || {
        let (machine, task, waiter) = running();
        if let Some(home) = home {
            assert_eq!(machine.id, home);
            ends(machine);
            return false;
        }
        home = Some(machine.id);
        // SAFETY: in its step.
        unsafe { machine.pin(task) };
        let epoch = waiter.arm();
        mailbox.put(waiter, epoch);
        true
    }
}

#[test]
fn a_pinned_coroutine_woken_while_it_leaves_its_step_goes_on_on_its_machine() {
    explore(3, || {
        let scheduler = scheduler(1);
        let me = waiter();
        let mailbox = Mailbox::new();
        let task = go_steps(scheduler, pinned(mailbox.clone(), |_| ()));
        mailbox.wake();
        task.join(&me);
        scheduler.shut_down();
    });
}

#[test]
fn a_pinned_coroutine_whose_machine_gives_its_worker_away_goes_on_there() {
    explore(2, || {
        let scheduler = scheduler(1);
        let me = waiter();
        let mailbox = Mailbox::new();
        let unpin = |machine: &'static Machine| {
            let (_, task, _) = running();
            // SAFETY: in its step, and it is pinned.
            unsafe { machine.unpin(task) };
        };
        let task = go_steps(scheduler, pinned(mailbox.clone(), unpin));
        let other = go(scheduler, || ());
        other.join(&me);
        mailbox.wake();
        task.join(&me);
        scheduler.shut_down();
    });
}

// ---- while the number of workers changes ----

#[test]
fn a_task_queued_while_a_worker_is_taken_away_is_run() {
    explore(1, || {
        let scheduler = scheduler(2);
        let me = waiter();
        let first = go(scheduler, || ());
        let resizer = thread::spawn(move || scheduler.set_workers(1));
        let second = go(scheduler, || ());
        first.join(&me);
        second.join(&me);
        resizer.join().unwrap();
        scheduler.shut_down();
    });
}

#[test]
fn a_task_queued_while_a_worker_is_added_is_run() {
    explore(1, || {
        let scheduler = scheduler(2);
        scheduler.set_workers(1);
        let me = waiter();
        let resizer = thread::spawn(move || scheduler.set_workers(2));
        let task = go(scheduler, || ());
        task.join(&me);
        resizer.join().unwrap();
        scheduler.shut_down();
    });
}

/// The child is pushed to the ring of a worker whose slot goes at that moment, or that is not its parent's any more.
#[test]
fn a_task_queued_on_the_ring_of_a_worker_that_is_taken_away_is_run() {
    explore(1, || {
        let scheduler = scheduler(2);
        let child = Mailbox::new();
        let parks = child.clone();
        let parent = go(scheduler, move || {
            go(scheduler, move || child.wake());
            park(|waiter, epoch| parks.put(waiter, epoch));
        });
        scheduler.set_workers(1);
        parent.join(&waiter());
        scheduler.shut_down();
    });
}

// ---- while it is closed: a forgotten end shows as a deadlock, too, for the machines' threads do not end ----

#[test]
fn a_task_submitted_while_the_scheduler_is_closed_runs_or_is_refused_and_it_ends() {
    explore(2, || {
        let scheduler = scheduler(1);
        let closer = thread::spawn(move || close(scheduler, &waiter()));
        if let Some(task) = try_go(scheduler, || ()) {
            task.join(&waiter());
        }
        closer.join().unwrap();
    });
}

#[test]
fn a_scheduler_that_is_closed_while_its_task_starts_another_ends_after_both() {
    explore(2, || {
        let scheduler = scheduler(1);
        let ended = Arc::new(Mutex::new(0));
        let both = Arc::clone(&ended);
        go(scheduler, move || {
            let child = Arc::clone(&ended);
            go(scheduler, move || *child.lock().unwrap() += 1);
            *ended.lock().unwrap() += 1;
        });
        close(scheduler, &waiter());
        assert_eq!(*both.lock().unwrap(), 2);
    });
}

// ---- two nodes ----

#[test]
fn a_task_bound_to_a_node_whose_worker_goes_to_rest_is_run() {
    explore(2, || {
        let scheduler = scheduler_on_two_nodes();
        let me = waiter();
        let first = go_on(scheduler, 1, || ());
        let second = go_on(scheduler, 1, || ());
        first.join(&me);
        second.join(&me);
        scheduler.shut_down();
    });
}

#[test]
fn a_task_bound_to_a_node_is_run_while_the_worker_of_another_goes_to_rest() {
    explore(1, || {
        let scheduler = scheduler_on_two_nodes();
        let me = waiter();
        let first = go(scheduler, || ());
        let second = go_on(scheduler, 1, || ());
        let third = go_on(scheduler, 0, || ());
        for task in [first, second, third] {
            task.join(&me);
        }
        scheduler.shut_down();
    });
}

/// Its home goes: another node's worker has to take it.
#[test]
fn a_task_bound_to_a_node_that_loses_its_worker_is_run() {
    explore(1, || {
        let scheduler = scheduler_on_two_nodes();
        let me = waiter();
        let resizer = thread::spawn(move || scheduler.set_workers(1));
        let task = go_on(scheduler, 1, || ());
        task.join(&me);
        resizer.join().unwrap();
        scheduler.shut_down();
    });
}

#[test]
fn a_task_queued_by_one_that_blocks_its_thread_is_run_by_the_worker_of_another_node() {
    explore(1, || {
        let scheduler = scheduler_on_two_nodes();
        let ran = Arc::new((Mutex::new(false), Condvar::new()));
        go_on(scheduler, 1, || ());
        let parent = go_on(scheduler, 0, move || {
            let signal = Arc::clone(&ran);
            go(scheduler, move || {
                *signal.0.lock().unwrap() = true;
                signal.1.notify_one();
            });
            let mut has_run = ran.0.lock().unwrap();
            while !*has_run {
                has_run = ran.1.wait(has_run).unwrap();
            }
        });
        parent.join(&waiter());
        scheduler.shut_down();
    });
}
