//! A host for models: tasks are closures, machines are threads of loom, and a task that parks keeps its thread.
//!
//! There is no monitor, for a model has no time: nothing mends a lost wake-up, so it shows as a deadlock.

use std::{
    ptr::{self, NonNull},
    sync::{Arc, Mutex},
};

use loom::thread;
use penstock_core::{
    scheduler::{Config, Host, Machine, Refused, STALL_AFTER, Scheduler, Spent, Stack},
    task::{BeginJoin, Parking, Task, TaskVtable},
    topology::{CPU_LIMIT, Layout, Node, Pin, Topology},
    wait::{Epoch, Outcome, WaiterClass, WaiterRef},
};

/// Explores `body` with up to `preemptions` switches that no thread asked for.
pub fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 20_000;
    model.check(body);
}

static HOST: Host = Host {
    switch: |_, _| unreachable!("there are no fibers"),
    new_stack: |_| unreachable!("there are no fibers"),
    idle: |machine, deadline| machine.sleep(deadline),
    on_idle: |_| Spent::Nothing,
    start_machine: |machine| {
        thread::spawn(move || run_machine(machine));
        true
    },
    on_stall: |_| unreachable!("a model ends sooner"),
    show_tasks: |_| unreachable!("a model ends sooner"),
};

fn run_machine(machine: &'static Machine) {
    assert!(machine.enter(), "a thread for each machine");
    let stack = NonNull::from(Box::leak(Stack::new(machine)));
    machine.set_current_stack(stack);
    // SAFETY: on the machine's thread, on the stack named last.
    unsafe { machine.work() };
    // SAFETY: its loop has returned, and so has every task that was on it.
    drop(unsafe { Box::from_raw(stack.as_ptr()) });
}

#[allow(dead_code, reason = "each test file uses its own half")]
pub fn scheduler(workers: usize) -> &'static Scheduler {
    on(Layout::flat(workers), workers)
}

/// One on two nodes with a worker each. Its CPUs are none of this machine, or the node of a thread would be another one in
/// each run; so threads outside count as on the first.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn scheduler_on_two_nodes() -> &'static Scheduler {
    let node = |id: u32| Node {
        cpus: [CPU_LIMIT - 1 - id].into_iter().collect(),
        distances: (0..2)
            .map(|other| (other, 10 + 10 * id.abs_diff(other)))
            .collect(),
        ..Node::new(id)
    };
    let topology = Topology::new(vec![node(0), node(1)]).unwrap();
    on(Layout::new(&topology, &topology.cpus(), Pin::Off, 2), 2)
}

fn on(layout: Layout, workers: usize) -> &'static Scheduler {
    Scheduler::new(Config {
        host: &HOST,
        workers,
        fibers: false,
        exclusive: false,
        stall_after: STALL_AFTER,
        budget: None,
        trace: None,
        layout,
    })
}

/// Runs to its end, or (`true`) parks by returning, its waiter armed.
type Call = Box<dyn FnMut() -> bool + Send>;

#[repr(C)]
pub struct Job {
    /// First, so that a pointer to it is one to the whole.
    pub core: Task,
    /// Taken by the worker that runs it, for as long.
    call: Mutex<Option<Call>>,
}

static VTABLE: TaskVtable = TaskVtable {
    run: |task| {
        // SAFETY: every task of this table is the first field of a `Job` in an `Arc`; its reference to itself is
        // alive until it is done.
        let job = unsafe { task.cast::<Job>().as_ref() };
        let machine = Machine::current().expect("tasks run on machines");
        if job.core.is_new() {
            assert!(job.core.start(), "run twice");
        } else {
            job.core.resume_step();
        }
        let stack = machine.current_stack().expect("a loop has a stack");
        stack.task.set(task.as_ptr());
        let mut call = job.call.lock().unwrap().take().expect("on one worker");
        let parks = call();
        *job.call.lock().unwrap() = parks.then_some(call);
        stack.task.set(ptr::null());
        if parks {
            if job.core.leave_step() == Parking::Notified {
                // SAFETY: woken before it had left, so it is ours to queue.
                unsafe { machine.scheduler.requeue_last(task) };
            }
            return;
        }
        machine.counters().finished.add(1);
        job.core.finish();
        // SAFETY: `finish` gave us the reference that the task held to itself.
        unsafe { Arc::decrement_strong_count(task.cast::<Job>().as_ptr()) };
    },
    waiter: WaiterClass {
        retain: |waiter| {
            // SAFETY: as in `run`; the waiter is the first field of the task.
            unsafe { Arc::increment_strong_count(waiter.cast::<Job>().as_ptr()) };
        },
        release: |waiter| {
            // SAFETY: as above.
            unsafe { Arc::decrement_strong_count(waiter.cast::<Job>().as_ptr()) };
        },
        wake: |waiter| {
            // SAFETY: as above; called by who has just completed the claim, with a reference that keeps the task.
            unsafe {
                Task::wake(Task::of_waiter(waiter));
                Arc::decrement_strong_count(waiter.cast::<Job>().as_ptr());
            }
        },
    },
};

pub fn job(scheduler: &'static Scheduler, call: impl FnOnce() + Send + 'static) -> Arc<Job> {
    let mut call = Some(call);
    steps(scheduler, move || {
        call.take().expect("runs once")();
        false
    })
}

fn steps(scheduler: &'static Scheduler, step: impl FnMut() -> bool + Send + 'static) -> Arc<Job> {
    Arc::new(Job {
        core: Task::new(&VTABLE, scheduler),
        call: Mutex::new(Some(Box::new(step))),
    })
}

/// Runs `call` as a task of `scheduler`.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn go(scheduler: &'static Scheduler, call: impl FnOnce() + Send + 'static) -> Arc<Job> {
    let job = job(scheduler, call);
    submit(&job).expect("it is open");
    job
}

/// The same, unless the scheduler is closed.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn try_go(
    scheduler: &'static Scheduler,
    call: impl FnOnce() + Send + 'static,
) -> Option<Arc<Job>> {
    let job = job(scheduler, call);
    submit(&job).is_ok().then_some(job)
}

/// The same as a task that starts on `node`.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn go_on(
    scheduler: &'static Scheduler,
    node: usize,
    call: impl FnOnce() + Send + 'static,
) -> Arc<Job> {
    let job = job(scheduler, call);
    // SAFETY: alive and new.
    unsafe { scheduler.submit_to(node, job.of_its_own()) }.expect("it is open");
    job
}

/// Closes `scheduler`, and waits in a thread whose waiter is `thread` until all tasks have ended.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn close(scheduler: &'static Scheduler, thread: &WaiterRef) {
    let last = job(scheduler, || ());
    // SAFETY: alive and new.
    if unsafe { scheduler.close(Some(last.of_its_own())) } {
        last.join(thread);
    }
}

/// Runs `step` as a task of `scheduler` that parks by returning `true`, until it returns `false`.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn go_steps(
    scheduler: &'static Scheduler,
    step: impl FnMut() -> bool + Send + 'static,
) -> Arc<Job> {
    let job = steps(scheduler, step);
    submit(&job).expect("it is open");
    job
}

fn submit(job: &Arc<Job>) -> Result<(), Refused> {
    // SAFETY: alive and new.
    unsafe { job.core.scheduler().submit(job.of_its_own()) }
}

impl Job {
    /// The pointer that the scheduler gets: to the whole struct, with the reference that the task holds to itself.
    fn of_its_own(self: &Arc<Self>) -> NonNull<Task> {
        NonNull::new(Arc::into_raw(Arc::clone(self)).cast_mut().cast()).unwrap()
    }

    /// Waits, in a thread whose waiter is `thread`, until it is done.
    #[allow(dead_code, reason = "each test file uses its own half")]
    pub fn join(&self, thread: &WaiterRef) {
        if let BeginJoin::Waiting(entry) = self.core.begin_join(thread) {
            assert_eq!(crate::channel_thread::sleep(&entry), Outcome::Handed);
            self.core.finish_join(&entry);
        }
        assert!(self.core.is_done());
    }
}

/// The task that runs, its machine and its waiter.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn running() -> (&'static Machine, NonNull<Task>, WaiterRef) {
    let machine = Machine::current().expect("in a task");
    let stack = machine.current_stack().expect("a loop has a stack");
    let task = NonNull::new(stack.task.get().cast_mut()).expect("in a task");
    // SAFETY: alive, embedded as its class expects; the pointer came from the whole struct.
    (machine, task, unsafe { WaiterRef::retain(task.cast()) })
}

/// Arms the waiter of the task that runs, for its stack, and shows it to `show`; then parks until the wait ends.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn park(show: impl FnOnce(WaiterRef, Epoch)) -> Outcome {
    let (machine, task, waiter) = running();
    let stack = machine.current_stack().expect("a loop has a stack");
    // SAFETY: the task that runs is alive.
    unsafe { task.as_ref() }.set_stack(stack);
    let epoch = waiter.arm();
    show(waiter.clone(), epoch);
    loop {
        // SAFETY: in the task, whose waiter is armed for this stack.
        unsafe { machine.park() };
        if let Some(outcome) = waiter.outcome(epoch) {
            return outcome;
        }
    }
}
