//! A host in plain Rust: tasks are closures, machines are threads of the standard library.
//!
//! Three things vary, as [`Way`] says: a task that parks keeps its thread or leaves it as a fiber; threads run at once
//! or one at a time, under a lock that stands for CPython's GIL; and how many workers there are.
//!
//! A fiber is a coroutine of `corosensei`, which knows only resuming and suspending. The base of each thread is
//! the hub: it resumes the next stack, and a switch is to name the next one and suspend.

mod fiber;
pub mod gil;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::{self, NonNull},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use penstock_core::{
    channel::{BeginRecv, BeginSend, Channel, RecvError, SendError},
    scheduler::{Config, Host, Machine, Refused, Scheduler, Spent, Stack},
    sync::Shared,
    task::{BeginJoin, Parking, Task, TaskVtable},
    topology::{Layout, Node, Pin, Topology},
    wait::{Epoch, Outcome, Waiter, WaiterClass, WaiterRef},
};

/// After this long a test hangs. Nothing else depends on it.
const HANGS_AFTER: Duration = Duration::from_secs(60);

// ---- schedulers ----

#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub fibers: bool,
    pub gil: bool,
    pub workers: usize,
    pub nodes: u32,
}

/// A scheduler whose threads end with it, unless tasks are parked or blocked on them.
pub struct Runtime(pub &'static Scheduler);

impl Runtime {
    pub fn new(way: Way) -> Self {
        Self(Scheduler::new(Config {
            host: if way.gil { &WITH_GIL } else { &FREE },
            workers: way.workers,
            fibers: way.fibers,
            exclusive: way.gil,
            stall_after: Duration::from_millis(50),
            budget: None,
            trace: None,
            layout: layout(way),
        }))
    }

    /// Is told of each stall from now on.
    pub fn stalls(&self) -> mpsc::Receiver<usize> {
        let (tell, told) = mpsc::channel();
        let of = ptr::from_ref(self.0).addr();
        STALLS.lock().unwrap().push((of, tell));
        told
    }

    /// Runs `body` as a task that starts on `node`.
    pub fn go_on<T: Send + 'static>(
        &self,
        node: usize,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Handle<T> {
        let task = unsubmitted(self.0, body);
        // SAFETY: alive and new.
        unsafe { self.0.submit_to(node, pointer(&task.job)) }.expect("it is open");
        task
    }

    /// Runs `body` as a task.
    pub fn go<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> Handle<T> {
        go(self.0, body)
    }

    /// Runs `body` as a task with a thread of its own.
    pub fn go_alone<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Handle<T> {
        let task = unsubmitted(self.0, body);
        // SAFETY: alive and new.
        unsafe { self.0.submit_alone(None, pointer(&task.job)) }.expect("it is open");
        task
    }

    /// Says that no task comes from outside any more, and gives the one that is run when all have ended.
    pub fn close(&self) -> Option<Handle<()>> {
        let last = unsubmitted(self.0, || ());
        // SAFETY: alive and new.
        let waits = unsafe { self.0.close(Some(pointer(&last.job))) };
        waits.then_some(last)
    }

    /// Runs `body` as a task, unless the scheduler is closed.
    pub fn try_go<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Handle<T>> {
        let task = unsubmitted(self.0, body);
        // SAFETY: alive and new.
        match unsafe { self.0.submit(pointer(&task.job)) } {
            Ok(()) => Some(task),
            Err(refused) => {
                assert_eq!(refused, Refused::Closed);
                None
            }
        }
    }

    /// How many of its threads have run their machine to the end.
    pub fn ended_threads(&self) -> u64 {
        let ended = ENDED.lock().unwrap();
        let address = ptr::from_ref(self.0).addr();
        ended.iter().filter(|one| **one == address).count() as u64
    }

    /// Runs `step` as a task that parks by returning, until it says that it is done.
    pub fn go_steps(&self, step: impl FnMut(&Me) -> Step + Send + 'static) -> Handle<()> {
        let job = Job::new(self.0, Body::Steps(Box::new(step)));
        let value = Arc::new(Mutex::new(Some(())));
        submit(&job);
        Handle { job, value }
    }
}

/// More than the workers of any test.
const SEATS: usize = 16;

/// A made-up machine: the first nodes have a CPU that may be there, so that threads from outside are on them.
fn layout(way: Way) -> Layout {
    let node = |id| Node {
        cpus: [id].into_iter().collect(),
        distances: (0..way.nodes)
            .map(|other| (other, 10 + 10 * other.abs_diff(id)))
            .collect(),
        ..Node::new(id)
    };
    let topology = Topology::new((0..way.nodes).map(node).collect()).expect("it is sound");
    Layout::new(
        &topology,
        &topology.cpus(),
        Pin::Off,
        way.workers.max(SEATS),
    )
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

const fn host(idle: unsafe fn(&'static Machine, Option<Instant>)) -> Host {
    Host {
        switch: fiber::switch,
        new_stack: fiber::new_stack,
        idle,
        on_idle: |_| Spent::Nothing,
        start_machine,
        show_tasks: |_| unreachable!("nothing is traced"),
        on_stall: |stall| {
            let of = ptr::from_ref(stall.machine.scheduler).addr();
            let mut listeners = STALLS.lock().unwrap();
            listeners.retain(|(scheduler, listener)| {
                *scheduler != of || listener.send(stall.waiting).is_ok()
            });
        },
    }
}

/// Who wants to know of the stalls of which scheduler: how many tasks wait, each time.
static STALLS: Mutex<Vec<(usize, mpsc::Sender<usize>)>> = Mutex::new(Vec::new());

static FREE: Host = host(Machine::sleep);
static WITH_GIL: Host = host(|machine, deadline| gil::without(|| machine.sleep(deadline)));

/// The schedulers of the threads that have ended.
static ENDED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn start_machine(machine: &'static Machine) -> bool {
    let attach = gil::is_held();
    thread::Builder::new()
        .name(format!("machine-{}", machine.id))
        .stack_size(256 << 10)
        .spawn(move || {
            if attach {
                gil::within(|| run_machine(machine));
            } else {
                run_machine(machine);
            }
            let scheduler = ptr::from_ref(machine.scheduler).addr();
            ENDED.lock().unwrap().push(scheduler);
        })
        .is_ok()
}

fn run_machine(machine: &'static Machine) {
    assert!(machine.enter(), "a thread for each machine");
    if machine.fibers() {
        fiber::run_hub(machine);
        machine.leave();
        return;
    }
    let stack = NonNull::from(Box::leak(Stack::new(machine)));
    machine.set_current_stack(stack);
    // SAFETY: on the machine's thread, on the stack named last.
    unsafe { machine.work() };
    // SAFETY: its loop has returned, and so has every task that was on it.
    drop(unsafe { Box::from_raw(stack.as_ptr()) });
    machine.leave();
}

// ---- tasks ----

/// What a step of a task wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It has armed its waiter.
    Park,
    Yield,
    Done,
}

enum Body {
    Call(Box<dyn FnOnce() + Send>),
    Steps(Box<dyn FnMut(&Me) -> Step + Send>),
    Gone,
}

/// The task that runs, for its own steps.
pub struct Me(NonNull<Task>);

impl Me {
    pub fn waiter(&self) -> WaiterRef {
        // SAFETY: it runs, so it is alive, and its waiter is embedded as its class expects.
        unsafe { WaiterRef::retain(self.0.cast()) }
    }

    /// Keeps the task on this machine.
    pub fn pin(&self) {
        let machine = Machine::current().expect("in a task");
        // SAFETY: in its step.
        unsafe { machine.pin(self.0) };
    }

    /// Undoes one `pin`.
    pub fn unpin(&self) {
        let machine = Machine::current().expect("in a task");
        // SAFETY: in its step, and it is pinned.
        unsafe { machine.unpin(self.0) };
    }

    /// Begins a wait that ends at `deadline`.
    pub fn arm_until(&self, deadline: Instant) -> Epoch {
        let waiter = self.waiter();
        let epoch = waiter.arm();
        let scheduler = Machine::current().expect("in a task").scheduler;
        scheduler.set_timer(deadline, waiter, epoch);
        epoch
    }
}

#[repr(C)]
struct Job {
    /// First, so that a pointer to it is one to the whole.
    core: Task,
    /// Locked by the worker that runs it, which nobody else does at the same time.
    body: Mutex<Body>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

static VTABLE: TaskVtable = TaskVtable {
    run,
    waiter: WaiterClass {
        retain: |waiter| {
            // SAFETY: every waiter of this class is the first field of the `Task` of a `Job` in an `Arc`.
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

impl Job {
    fn new(scheduler: &'static Scheduler, body: Body) -> Arc<Self> {
        Arc::new(Self {
            core: Task::new(&VTABLE, scheduler),
            body: Mutex::new(body),
            panic: Mutex::new(None),
        })
    }
}

fn unsubmitted<T: Send + 'static>(
    scheduler: &'static Scheduler,
    body: impl FnOnce() -> T + Send + 'static,
) -> Handle<T> {
    let value = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&value);
    let call = move || *slot.lock().unwrap() = Some(body());
    let job = Job::new(scheduler, Body::Call(Box::new(call)));
    Handle { job, value }
}

fn go<T: Send + 'static>(
    scheduler: &'static Scheduler,
    body: impl FnOnce() -> T + Send + 'static,
) -> Handle<T> {
    let task = unsubmitted(scheduler, body);
    submit(&task.job);
    task
}

/// Starts a task from a task, on the same scheduler.
pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Handle<T> {
    go(Machine::current().expect("in a task").scheduler, body)
}

/// The pointer that is queued: to the whole struct, with the reference that the task holds to itself.
fn pointer(job: &Arc<Job>) -> NonNull<Task> {
    NonNull::new(Arc::into_raw(Arc::clone(job)).cast_mut().cast()).unwrap()
}

fn submit(job: &Arc<Job>) {
    // SAFETY: alive and new.
    unsafe { job.core.scheduler().submit(pointer(job)) }.expect("it is open");
}

/// The table's `run`.
unsafe fn run(task: NonNull<Task>) {
    let machine = Machine::current().expect("tasks run on machines");
    // SAFETY: the task's reference to itself is alive until it is done, which each way ends with.
    let job = unsafe { task.cast::<Job>().as_ref() };
    let first = job.core.is_new();
    if first {
        if !job.core.start() {
            // SAFETY: cancelled before it started; the reference is the one it held to itself.
            unsafe { Arc::decrement_strong_count(task.cast::<Job>().as_ptr()) };
            return;
        }
        machine.counters().started.add(1);
    } else {
        job.core.resume_step();
    }
    running(machine).task.set(task.as_ptr());
    let body = {
        let mut body = job
            .body
            .try_lock()
            .expect("nobody else is in the same task");
        match &mut *body {
            Body::Steps(step) => catch_unwind(AssertUnwindSafe(|| step(&Me(task)))),
            Body::Call(_) => {
                let Body::Call(call) = std::mem::replace(&mut *body, Body::Gone) else {
                    unreachable!()
                };
                drop(body);
                catch_unwind(AssertUnwindSafe(call)).map(|()| Step::Done)
            }
            Body::Gone => panic!("run twice"),
        }
    };
    running(machine).task.set(ptr::null());
    match body {
        Ok(Step::Done) => {}
        Ok(step) => {
            let again = step == Step::Yield || {
                machine.counters().parks.add(1);
                job.core.leave_step() == Parking::Notified
            };
            if step == Step::Yield {
                job.core.yield_step();
            }
            if again {
                // SAFETY: it yielded, or was woken before it had left: it is ours to queue.
                unsafe { machine.scheduler.requeue_last(task) };
            }
            return;
        }
        Err(payload) => *job.panic.lock().unwrap() = Some(payload),
    }
    machine.counters().finished.add(1);
    job.core.finish();
    // SAFETY: `finish` gave us the reference that the task held to itself.
    unsafe { Arc::decrement_strong_count(task.cast::<Job>().as_ptr()) };
}

fn running(machine: &'static Machine) -> &'static Stack {
    machine.current_stack().expect("a loop has a stack")
}

/// A task that was started.
pub struct Handle<T> {
    job: Arc<Job>,
    value: Arc<Mutex<Option<T>>>,
}

impl<T> Handle<T> {
    /// Waits until it is done, and gives what it returned.
    pub fn join(self) -> T {
        let caller = Caller::here();
        let waiting = self.job.core.begin_join(&caller.waiter());
        if let BeginJoin::Waiting(entry) = waiting {
            caller.wait(entry.epoch, None);
            self.job.core.finish_join(&entry);
        }
        assert!(self.job.core.is_done());
        if let Some(payload) = self.job.panic.lock().unwrap().take() {
            resume_unwind(payload);
        }
        let value = self.value.lock().unwrap().take();
        value.expect("a task that is done has a value")
    }

    pub fn is_done(&self) -> bool {
        self.job.core.is_done()
    }

    /// Asks for the cancellation, and ends the wait that the task is in.
    pub fn cancel(&self) {
        self.job.core.cancel();
        let unseen = || self.job.core.cancel_pending();
        // SAFETY: alive while the handle is.
        unsafe { Task::interrupt(NonNull::from(&*self.job).cast(), unseen) };
    }
}

// ---- waiting ----

/// A thread that is no machine, as a waiter.
#[repr(C)]
struct Outsider {
    /// First, so that a pointer to it is one to the whole.
    waiter: Waiter,
    thread: thread::Thread,
}

static OUTSIDER: WaiterClass = WaiterClass {
    retain: |waiter| {
        // SAFETY: every waiter of this class is the first field of an `Outsider` in an `Arc`.
        unsafe { Arc::increment_strong_count(waiter.cast::<Outsider>().as_ptr()) };
    },
    release: |waiter| {
        // SAFETY: as above.
        unsafe { Arc::decrement_strong_count(waiter.cast::<Outsider>().as_ptr()) };
    },
    wake: |waiter| {
        // SAFETY: as above; the reference becomes ours.
        let outsider = unsafe { Arc::from_raw(waiter.cast::<Outsider>().as_ptr()) };
        outsider.thread.unpark();
    },
};

/// Who calls: a task, which parks, or another thread, which blocks.
enum Caller {
    Task(&'static Machine, NonNull<Job>),
    Thread(Arc<Outsider>),
}

impl Caller {
    fn here() -> Self {
        let task = Machine::current().and_then(|machine| {
            let task = NonNull::new(running(machine).task.get().cast_mut())?;
            // SAFETY: it runs, so it is alive.
            unsafe { task.as_ref() }.set_stack(running(machine));
            Some(Caller::Task(machine, task.cast()))
        });
        task.unwrap_or_else(|| {
            Caller::Thread(Arc::new(Outsider {
                waiter: Waiter::new(&OUTSIDER),
                thread: thread::current(),
            }))
        })
    }

    fn core(&self) -> Option<&Task> {
        match self {
            // SAFETY: alive during its own call.
            Caller::Task(_, job) => Some(unsafe { &job.as_ref().core }),
            Caller::Thread(_) => None,
        }
    }

    fn waiter(&self) -> WaiterRef {
        let waiter = match self {
            Caller::Task(_, job) => job.cast(),
            Caller::Thread(outsider) => NonNull::from(&**outsider).cast(),
        };
        // SAFETY: alive, embedded as its class expects, and the pointer is to the whole struct.
        unsafe { WaiterRef::retain(waiter) }
    }

    fn wait(&self, epoch: Epoch, deadline: Option<Instant>) -> Outcome {
        let waiter = self.waiter();
        if self.core().is_some_and(Task::cancel_pending)
            && waiter.disarm(epoch, Outcome::Interrupted)
        {
            return Outcome::Interrupted;
        }
        if let (Caller::Task(machine, _), Some(deadline)) = (self, deadline) {
            machine.scheduler.set_timer(deadline, waiter.clone(), epoch);
        }
        loop {
            match self {
                // SAFETY: in the task, whose waiter is armed for this stack. What is on the stack is reached
                // from there only.
                Caller::Task(machine, _) => assert!(unsafe { machine.park() }),
                Caller::Thread(_) if waiter.outcome(epoch).is_none() => {
                    assert!(deadline.is_none(), "no test needs a timer in a thread");
                    gil::without(thread::park);
                }
                Caller::Thread(_) => {}
            }
            if let Some(outcome) = waiter.outcome(epoch) {
                return outcome;
            }
        }
    }
}

/// Parks the task until `deadline`.
pub fn sleep_until(deadline: Instant) -> Outcome {
    let caller = Caller::here();
    let epoch = caller.waiter().arm();
    caller.wait(epoch, Some(deadline))
}

/// Lets others run first.
pub fn yield_now() {
    let machine = Machine::current().expect("in a task");
    // SAFETY: in a task that is in no wait.
    assert!(unsafe { machine.yield_now() });
}

pub type Ch<T> = Arc<Channel<T, Shared>>;

pub fn channel<T: Send>(capacity: usize) -> Ch<T> {
    Arc::new(Channel::bounded(capacity, Shared))
}

pub fn send<T: Send>(channel: &Channel<T, Shared>, value: T) -> Result<(), SendError<T>> {
    let caller = Caller::here();
    match channel.begin_send(value, &caller.waiter()) {
        BeginSend::Done => Ok(()),
        BeginSend::Closed(value) => Err(SendError::Closed(value)),
        BeginSend::Waiting(entry) => {
            caller.wait(entry.epoch, None);
            // SAFETY: from this channel's `begin_send`, and the wait is over.
            unsafe { channel.finish_send(&entry) }
        }
    }
}

pub fn recv<T: Send>(channel: &Channel<T, Shared>) -> Result<T, RecvError> {
    let caller = Caller::here();
    match channel.begin_recv(&caller.waiter()) {
        BeginRecv::Done(value) => Ok(value),
        BeginRecv::Closed => Err(RecvError::Closed),
        BeginRecv::Waiting(entry) => {
            caller.wait(entry.epoch, None);
            // SAFETY: from this channel's `begin_recv`, and the wait is over.
            unsafe { channel.finish_recv(&entry) }
        }
    }
}

// ---- what blocks a thread ----

/// Waits as code does that knows nothing of tasks.
pub fn block_until<T>(told: &mpsc::Receiver<T>) -> T {
    gil::without(|| told.recv().expect("somebody tells"))
}

/// Runs `body` in a thread, and fails when it takes as long as only a hang does.
pub fn watch(what: &str, body: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    let hangs = is_done.recv_timeout(HANGS_AFTER) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!hangs, "{what} hangs");
    if let Err(payload) = thread.join() {
        resume_unwind(payload);
    }
}
