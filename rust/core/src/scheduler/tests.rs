//! What the protocol does at one point, with a host that runs nothing: the test plays the threads, one step at a time.
//!
//! Each of these was a hang, or a monitor that never slept, before it was a test. `tests/scheduler.rs` races the whole.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind, panic_any},
    ptr::{self, NonNull},
    time::{Duration, Instant},
};

use super::{
    Config, Host, Machine, Refused, STALL_AFTER, Scheduler, Spent, Stack,
    idle::{Mission, Place},
    machine::{FAIRNESS_TURNS, Next, READY_DELAY},
    queue::Queue,
    worker::Worker,
};
use crate::{
    sync::Ordering,
    task::{Task, TaskVtable},
    topology::{Layout, Node, Pin, Topology},
    wait::{Waiter, WaiterClass, WaiterRef},
};

type Event = Box<dyn FnOnce(&'static Machine)>;
type Use = Box<dyn FnOnce(&'static Machine) -> Spent>;

thread_local! {
    /// What happens while a machine of this test sleeps, the last first.
    static SLEEPS: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
    /// What the host does with the idle windows of a machine of this test, the last first; nothing, once there is no more.
    static WINDOWS: RefCell<Vec<Use>> = const { RefCell::new(Vec::new()) };
    /// How long a machine of this test was to sleep at the latest, the last time.
    static SLEEPS_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The machines for which a thread was asked.
    static STARTED: RefCell<Vec<&'static Machine>> = const { RefCell::new(Vec::new()) };
    /// What happens instead when a thread is asked for: there is none.
    static REFUSED: RefCell<Option<Event>> = const { RefCell::new(None) };
}

static HOST: Host = Host {
    switch: |_, _| unreachable!("the test switches nothing"),
    new_stack: |_| unreachable!("the test switches nothing"),
    idle: |machine, deadline| {
        SLEEPS_UNTIL.set(deadline);
        let event = SLEEPS.with_borrow_mut(Vec::pop);
        event.expect("it was not to sleep here")(machine);
    },
    on_idle: |machine| {
        let event = WINDOWS.with_borrow_mut(Vec::pop);
        event.map_or(Spent::Nothing, |event| event(machine))
    },
    start_machine: |machine| {
        if let Some(event) = REFUSED.with_borrow_mut(Option::take) {
            event(machine);
            return false;
        }
        STARTED.with_borrow_mut(|started| started.push(machine));
        true
    },
    on_stall: |_| unreachable!("nobody watches"),
    show_tasks: |_| unreachable!("nobody watches"),
};

fn in_its_sleep(event: impl FnOnce(&'static Machine) + 'static) {
    SLEEPS.with_borrow_mut(|sleeps| sleeps.push(Box::new(event)));
}

fn in_its_window(event: impl FnOnce(&'static Machine) -> Spent + 'static) {
    WINDOWS.with_borrow_mut(|windows| windows.push(Box::new(event)));
}

fn instead_of_a_thread(event: impl FnOnce(&'static Machine) + 'static) {
    REFUSED.with_borrow_mut(|refused| *refused = Some(Box::new(event)));
}

fn started() -> Vec<&'static Machine> {
    STARTED.with_borrow_mut(std::mem::take)
}

/// A scheduler whose monitor is never started: the test plays it too.
fn scheduler(workers: usize) -> &'static Scheduler {
    parking(workers, true)
}

/// Some machine, for a stack to be of.
pub fn any_machine() -> &'static Machine {
    machine(scheduler(1)).0
}

fn parking(workers: usize, fibers: bool) -> &'static Scheduler {
    on(Layout::flat(workers), fibers)
}

/// One on `nodes` nodes in a line, each with as many workers.
fn scheduler_on(nodes: u32, workers: u32) -> &'static Scheduler {
    let node = |id: u32| Node {
        cpus: (workers * id..workers * (id + 1)).collect(),
        distances: (0..nodes)
            .map(|other| (other, 10 + 10 * id.abs_diff(other)))
            .collect(),
        ..Node::new(id)
    };
    let topology = Topology::new((0..nodes).map(node).collect()).unwrap();
    let count = usize::try_from(nodes * workers).unwrap();
    let cpus = topology.cpus();
    on(Layout::new(&topology, &cpus, Pin::Off, count), true)
}

fn on(layout: Layout, fibers: bool) -> &'static Scheduler {
    with_budget(layout, fibers, None)
}

fn with_budget(layout: Layout, fibers: bool, budget: Option<fn() -> usize>) -> &'static Scheduler {
    let scheduler = Scheduler::new(Config {
        host: &HOST,
        workers: layout.seats(),
        fibers,
        exclusive: false,
        stall_after: STALL_AFTER,
        budget,
        trace: None,
        layout,
    });
    // Ordering: Relaxed, one thread.
    scheduler.monitor_started.store(true, Ordering::Relaxed);
    scheduler.has_thread.store(true, Ordering::Relaxed); // a machine of the test, which submits from outside
    scheduler
}

/// A machine that runs, with a worker in hand.
fn machine(scheduler: &'static Scheduler) -> (&'static Machine, &'static Worker) {
    let any = |_: &Worker| Some(0);
    machine_with(scheduler, any)
}

/// The same, with a worker of `node`.
fn machine_of(scheduler: &'static Scheduler, node: usize) -> (&'static Machine, &'static Worker) {
    machine_with(scheduler, |worker| (worker.node == node).then_some(0))
}

fn machine_with(
    scheduler: &'static Scheduler,
    rank: impl Fn(&Worker) -> Option<u32>,
) -> (&'static Machine, &'static Worker) {
    let machine = scheduler.new_machine();
    let mut idle = scheduler.idle.lock();
    let worker = idle.find_worker(rank).expect("one is free");
    machine.put_worker(worker);
    scheduler.publish(&idle);
    (machine, worker)
}

/// Puts `machine` to sleep, as `rest` does.
fn put(machine: &'static Machine, place: Place) {
    let mut idle = machine.scheduler.idle.lock();
    idle.put(machine, place);
    machine.scheduler.publish(&idle);
}

fn place(machine: &'static Machine) -> Place {
    machine.place(&machine.scheduler.idle.lock())
}

/// Another thread makes a stack of `machine` ready.
fn ready(machine: &'static Machine) {
    machine.push_ready(NonNull::from(Box::leak(Stack::new(machine))));
}

/// The monitor has another machine take the slot of `worker`, which is at a task.
fn take_over(scheduler: &'static Scheduler, worker: &'static Worker) -> &'static Machine {
    worker.set_idle(&mut scheduler.idle.lock(), false);
    let heir = scheduler.new_machine();
    let mission = Mission {
        worker,
        turn: worker.turn(),
        issued: Instant::now(),
    };
    scheduler.take_over(heir, &mission);
    assert!(worker.is_orphaned());
    heir
}

/// Runs the loop of `machine` on this thread until the scheduler is shut down, in one of its sleeps.
fn work(machine: &'static Machine) {
    assert!(machine.enter());
    // SAFETY: this thread is the machine's; nothing is queued that would need a stack.
    unsafe { machine.work() };
    Machine::forget_current();
}

/// Has `machine` look for work up to the turn in which it looks around first, and says whether it found some then.
fn fairness_turn(machine: &'static Machine, worker: &'static Worker) -> bool {
    for _ in 1..FAIRNESS_TURNS {
        machine.find(worker);
    }
    machine.find(worker).is_some()
}

/// A task that is never run.
fn task(scheduler: &'static Scheduler) -> NonNull<Task> {
    static VTABLE: TaskVtable = TaskVtable {
        run: |_| unreachable!("the test runs nothing"),
        waiter: WaiterClass {
            retain: |_| (),
            release: |_| (),
            wake: |_| (),
        },
    };
    NonNull::from(Box::leak(Box::new(Task::new(&VTABLE, scheduler))))
}

/// Somebody who is not a machine queues a task.
fn submit(scheduler: &'static Scheduler) {
    // SAFETY: alive and new.
    unsafe { scheduler.submit(task(scheduler)) }.expect("it is open");
}

/// Queues more tasks on `worker` than it turns to before it looks around.
fn keep_busy(scheduler: &'static Scheduler, worker: &'static Worker) {
    for _ in 0..2 * FAIRNESS_TURNS {
        assert!(worker.queue.push(task(scheduler)).is_ok());
    }
}

/// A machine with a ready stack, for which no worker was left.
fn waiting(scheduler: &'static Scheduler) -> &'static Machine {
    let machine = scheduler.new_machine();
    put(machine, Place::Waiting);
    machine
}

static NOBODY: WaiterClass = WaiterClass {
    retain: |_| (),
    release: |_| (),
    wake: |_| (),
};

/// Somebody who is not a machine sets a timer.
fn set_timer(scheduler: &'static Scheduler) {
    let waiter: &'static Waiter = Box::leak(Box::new(Waiter::new(&NOBODY)));
    let epoch = waiter.arm();
    // SAFETY: its class does nothing with it, and it is never freed.
    let waiter = unsafe { WaiterRef::retain(NonNull::from(waiter)) };
    scheduler.set_timer(Instant::now() + Duration::from_secs(1000), waiter, epoch);
}

/// Whether the machine's next sleep ends at once.
fn was_unparked(machine: &'static Machine) -> bool {
    let limit = Instant::now() + Duration::from_secs(5);
    machine.parker.park(Some(limit));
    Instant::now() < limit
}

fn searching(scheduler: &'static Scheduler) -> usize {
    // Ordering: Relaxed, one thread.
    scheduler.searching.load(Ordering::Relaxed)
}

#[test]
fn a_machine_whose_worker_was_taken_in_its_sleep_is_roused() {
    for (before, after) in [
        (Place::Sleeping, Place::Spare),
        (Place::Holding, Place::Parked),
    ] {
        let scheduler = scheduler(1);
        let (sleeper, worker) = machine(scheduler);
        put(sleeper, before);
        let taken = scheduler.idle.lock().find_worker(|_| Some(0));
        assert!(taken.is_some_and(|taken| ptr::eq(taken, worker)));
        assert_eq!(place(sleeper), after);
        ready(sleeper);
        assert_eq!(place(sleeper), Place::Waiting, "it waits for a worker now");
    }
}

#[test]
fn a_sleeping_machine_with_a_ready_stack_takes_the_worker_of_another() {
    let scheduler = scheduler(1);
    let (holder, worker) = machine(scheduler);
    let sleeper = scheduler.new_machine();
    put(holder, Place::Sleeping);
    put(sleeper, Place::Spare);
    ready(sleeper);
    assert_eq!(
        (place(sleeper), place(holder)),
        (Place::Awake, Place::Spare)
    );
    assert!(sleeper.holds(worker));
    assert!(was_unparked(sleeper));
}

#[test]
fn a_searcher_that_lost_its_slot_does_not_count_on() {
    let scheduler = scheduler(2);
    let (searcher, worker) = machine(scheduler);
    put(searcher, Place::Sleeping);
    scheduler.wake_searcher();
    assert_eq!((place(searcher), searching(scheduler)), (Place::Awake, 1));
    take_over(scheduler, worker);
    started(); // the spare that replaces the heir
    in_its_sleep(move |_| {
        // What it had is offered to the other worker, which nobody would be woken for if it still counted.
        let woken = started();
        assert_eq!((woken.len(), searching(scheduler)), (1, 1));
        scheduler.shut_down();
    });
    work(searcher);
}

#[test]
fn a_timer_on_a_free_worker_starts_a_machine() {
    let scheduler = scheduler(1);
    set_timer(scheduler);
    let [machine] = started()[..] else {
        panic!("one machine is started");
    };
    assert!(machine.sound_worker().is_some());
}

#[test]
fn a_timer_ends_the_sleep_of_the_machine_that_has_its_worker() {
    let scheduler = scheduler(1);
    let (sleeper, _) = machine(scheduler);
    put(sleeper, Place::Sleeping);
    set_timer(scheduler);
    assert!(was_unparked(sleeper));
}

#[test]
fn a_timer_that_came_to_an_orphan_moves_to_its_heir() {
    let scheduler = scheduler(1);
    let (_, worker) = machine(scheduler);
    set_timer(scheduler);
    let deadline = worker.timers.next();
    let heir = take_over(scheduler, worker);
    let new = heir.sound_worker().expect("the heir has the slot");
    assert_eq!((worker.timers.next(), new.timers.next()), (None, deadline));
    worker.timers.take_over(&new.timers); // as if it had been set after the take-over
    scheduler.timer_added(worker);
    assert_eq!((worker.timers.next(), new.timers.next()), (None, deadline));
}

#[test]
fn a_machine_that_a_deadline_wakes_wakes_the_monitor() {
    let scheduler = scheduler(1);
    let (sleeper, _) = machine(scheduler);
    // Ordering: Relaxed, one thread.
    let dormant = move || scheduler.monitor.dormant.load(Ordering::Relaxed);
    in_its_sleep(move |_| {
        scheduler.monitor.dormant.store(true, Ordering::Relaxed); // Ordering: as above
        // It wakes for no reason that anybody has told the monitor, and sleeps again.
        in_its_sleep(move |_| {
            assert!(!dormant());
            scheduler.shut_down();
        });
    });
    work(sleeper);
}

#[test]
fn a_worker_for_which_there_is_no_thread_is_free_and_idle() {
    let scheduler = scheduler(1);
    instead_of_a_thread(|_| ());
    scheduler.notify();
    let idle = scheduler.idle.lock();
    assert_eq!(idle.free.len(), 1);
    assert!(idle.free[0].is_idle(), "the monitor may sleep");
    drop(idle);
    assert_eq!(searching(scheduler), 0);
}

#[test]
fn a_worker_for_which_there_is_no_thread_goes_to_a_machine_that_waits() {
    let scheduler = scheduler(1);
    let waits = scheduler.new_machine();
    put(waits, Place::Parked);
    instead_of_a_thread(move |_| {
        ready(waits);
        assert_eq!(place(waits), Place::Waiting);
    });
    scheduler.notify();
    assert_eq!(place(waits), Place::Awake);
    assert!(waits.sound_worker().is_some() && was_unparked(waits));
    assert_eq!(searching(scheduler), 0);
}

#[test]
fn the_last_spare_machine_is_replaced() {
    let scheduler = scheduler(1);
    let spare = scheduler.new_machine();
    put(spare, Place::Spare);
    scheduler.notify();
    assert!(spare.sound_worker().is_some());
    assert_eq!(started().len(), 1);
    let worker = spare.sound_worker().expect("as above");
    take_over(scheduler, worker);
    assert_eq!(started().len(), 1, "and for a take-over");
}

#[test]
fn a_machine_that_takes_over_has_no_worker_yet_while_it_starts_a_thread() {
    let scheduler = scheduler(1);
    let (_, worker) = machine(scheduler);
    // Else the monitor would take it to be at a task, and send the new thread to take over from it.
    instead_of_a_thread(move |_| assert!(!worker.is_orphaned()));
    take_over(scheduler, worker);
    REFUSED.with_borrow(|refused| assert!(refused.is_none(), "a thread was asked for"));
}

/// Some time after no thread was to be had.
fn let_retry(scheduler: &'static Scheduler) {
    // Ordering: Relaxed, one thread.
    assert_ne!(scheduler.spare_owed.load(Ordering::Relaxed), 0);
    scheduler.spare_owed.store(1, Ordering::Relaxed); // Ordering: as above
}

#[test]
fn a_spare_machine_for_which_there_was_no_thread_is_tried_again_after_a_sleep() {
    let scheduler = scheduler(1);
    let (sleeper, _) = machine(scheduler);
    instead_of_a_thread(|_| ());
    scheduler.start_spare();
    in_its_sleep(move |_| {
        assert!(started().is_empty(), "not at once");
        let_retry(scheduler);
        in_its_sleep(move |_| {
            assert_eq!(started().len(), 1);
            scheduler.shut_down();
        });
    });
    work(sleeper);
}

#[test]
fn a_spare_machine_for_which_there_was_no_thread_is_tried_again_by_a_busy_worker() {
    let scheduler = scheduler(1);
    let (busy, worker) = machine(scheduler);
    instead_of_a_thread(|_| ());
    scheduler.start_spare();
    let_retry(scheduler);
    fairness_turn(busy, worker);
    assert_eq!(started().len(), 1);
}

#[test]
fn a_task_that_is_readied_after_the_stop_does_not_go_on() {
    let scheduler = parking(1, false);
    let (sleeper, _) = machine(scheduler);
    let stack = NonNull::from(Box::leak(Stack::new(sleeper)));
    assert!(sleeper.enter());
    sleeper.set_current_stack(stack);
    in_its_sleep(move |machine| {
        scheduler.stop();
        machine.push_ready(stack);
        in_its_sleep(|_| panic_any("it sleeps for ever")); // which the test cannot wait for
    });
    // SAFETY: this thread is the machine's, and its stack is the one that is readied.
    let parked = catch_unwind(AssertUnwindSafe(|| unsafe { sleeper.park() }));
    Machine::forget_current();
    assert!(parked.is_err());
}

#[test]
fn what_a_thread_that_is_taken_over_leaves_behind_is_found() {
    let scheduler = scheduler(1);
    let (_, worker) = machine(scheduler);
    let heir = take_over(scheduler, worker);
    assert_eq!(started().len(), 1);
    // It takes no notice, and pushes.
    assert!(worker.queue.push(task(scheduler)).is_ok());
    assert!(scheduler.work_is_visible(heir));
}

#[test]
fn the_last_searcher_that_finds_something_wakes_another_for_the_rest() {
    for (queued, woken) in [(1, 0), (2, 1)] {
        let scheduler = scheduler(2);
        let (searcher, _) = machine(scheduler);
        put(searcher, Place::Sleeping);
        scheduler.wake_searcher();
        (0..queued).for_each(|_| submit(scheduler));
        assert!(started().is_empty(), "somebody searches already");
        assert!(matches!(searcher.next(), Next::Task(_)));
        assert_eq!((started().len(), searching(scheduler)), (woken, woken));
    }
}

#[test]
fn a_worker_without_work_of_its_own_goes_to_who_waits_before_it_steals() {
    let scheduler = scheduler(2);
    let (idler, _) = machine(scheduler);
    let (_, busy) = machine(scheduler);
    keep_busy(scheduler, busy);
    let waits = waiting(scheduler);
    in_its_sleep(move |_| scheduler.shut_down());
    assert!(matches!(idler.next(), Next::Return));
    assert_eq!(place(waits), Place::Awake);
    assert!(waits.sound_worker().is_some() && was_unparked(waits));
}

#[test]
fn a_busy_worker_goes_to_who_waits_now_and_then() {
    let scheduler = scheduler(1);
    let (busy, worker) = machine(scheduler);
    keep_busy(scheduler, worker);
    let waits = waiting(scheduler);
    assert!(!fairness_turn(busy, worker));
    assert!(waits.holds(worker) && was_unparked(waits));
}

#[test]
fn a_busy_worker_takes_from_the_injector_now_and_then() {
    let scheduler = scheduler(1);
    let (busy, worker) = machine(scheduler);
    keep_busy(scheduler, worker);
    submit(scheduler);
    assert!(fairness_turn(busy, worker));
    assert_eq!(scheduler.nodes[0].injector.len(), 0);
}

#[test]
fn a_machine_does_not_sleep_with_a_worker_while_another_waits_for_one() {
    let scheduler = scheduler(1);
    let (idler, _) = machine(scheduler);
    waiting(scheduler); // after the idler looked, and before it takes the lock
    assert!(!idler.rest(false));
}

#[test]
fn what_was_queued_behind_a_task_that_blocks_is_offered_to_idle_workers() {
    let scheduler = scheduler(2);
    let (_, worker) = machine(scheduler);
    assert!(worker.queue.push(task(scheduler)).is_ok());
    take_over(scheduler, worker);
    let with_workers = started()
        .into_iter()
        .filter(|machine| machine.sound_worker().is_some());
    assert_eq!(with_workers.count(), 1);
    assert_eq!(scheduler.nodes[0].injector.len(), 1);
}

#[test]
fn what_an_orphan_is_left_with_goes_to_a_machine_that_sleeps() {
    let scheduler = scheduler(1);
    let (_, worker) = machine(scheduler);
    let heir = take_over(scheduler, worker);
    put(heir, Place::Sleeping);
    assert!(worker.queue.push(task(scheduler)).is_ok());
    scheduler.rescue_from_orphans(&Queue::default());
    assert_eq!(scheduler.nodes[0].injector.len(), 1);
    assert!(was_unparked(heir));
}

/// Whether the monitor, which is told nothing meanwhile, goes to sleep.
fn monitor_sleeps(scheduler: &'static Scheduler) -> bool {
    scheduler.monitor.parker.unpark(); // which ends the sleep, if there is one
    scheduler.sleep_until_woken(None);
    let limit = Instant::now() + Duration::from_millis(200);
    scheduler.monitor.parker.park(Some(limit));
    Instant::now() >= limit
}

#[test]
fn the_monitor_sleeps_only_when_nobody_runs_and_nothing_is_orphaned() {
    let scheduler = scheduler(1);
    assert!(monitor_sleeps(scheduler));
    let (_, worker) = machine(scheduler);
    assert!(!monitor_sleeps(scheduler), "somebody runs");
    let heir = take_over(scheduler, worker);
    let new = heir.sound_worker().expect("the heir has the slot");
    new.set_idle(&mut scheduler.idle.lock(), true);
    assert!(!monitor_sleeps(scheduler), "there is an orphan");
}

/// What `machine`, which finds nothing else, finds at other workers.
fn search(machine: &'static Machine) -> Option<NonNull<Task>> {
    match machine.next() {
        Next::Task(task) => Some(task),
        _ => None,
    }
}

#[test]
fn a_thief_looks_at_its_own_node_first() {
    let scheduler = scheduler_on(3, 2);
    let (thief, _) = machine_of(scheduler, 1);
    for node in 0..3 {
        let (_, victim) = machine_of(scheduler, node);
        keep_busy(scheduler, victim);
    }
    assert!(search(thief).is_some());
    let counted = |totals: super::Totals| (totals.steals > 0, totals.remote_steals);
    assert_eq!(counted(scheduler.totals()), (true, 0));
}

#[test]
fn a_thief_that_finds_nothing_near_takes_from_other_nodes() {
    let scheduler = scheduler_on(2, 1);
    let (thief, _) = machine_of(scheduler, 0);
    let (_, victim) = machine_of(scheduler, 1);
    keep_busy(scheduler, victim);
    assert!(search(thief).is_some());
    let totals = scheduler.totals();
    assert!(totals.remote_steals > 0);
    assert_eq!(totals.remote_steals, totals.steals);
}

#[test]
fn a_thief_that_finds_nothing_else_takes_from_the_injector_of_another_node() {
    let scheduler = scheduler_on(3, 1);
    let (thief, _) = machine_of(scheduler, 0);
    let near = task(scheduler);
    scheduler.nodes[2].injector.push(task(scheduler));
    scheduler.nodes[1].injector.push(near);
    assert_eq!(search(thief), Some(near), "and not the farther one");
    assert_eq!(scheduler.totals().remote_steals, 1);
}

#[test]
fn one_machine_of_a_node_searches_far_and_the_others_sleep_meanwhile() {
    let scheduler = scheduler_on(2, 3);
    let (second, _) = machine_of(scheduler, 0);
    let (_, victim) = machine_of(scheduler, 1);
    keep_busy(scheduler, victim);
    assert!(scheduler.nodes[0].begin_far_search(), "as a first one does");
    in_its_sleep(move |_| {
        assert!(!scheduler.work_is_visible(second));
        scheduler.nodes[0].end_far_search();
        assert!(scheduler.work_is_visible(second), "it may look now");
        scheduler.shut_down();
    });
    assert!(search(second).is_none());
    assert_eq!(scheduler.totals().steals, 0);
}

#[test]
fn who_searched_far_lets_others_when_it_stops() {
    let scheduler = scheduler_on(2, 2);
    let (first, _) = machine_of(scheduler, 0);
    let (_, victim) = machine_of(scheduler, 1);
    keep_busy(scheduler, victim);
    assert!(search(first).is_some());
    assert!(!scheduler.nodes[0].far_search_is_on());
}

#[test]
fn a_searcher_is_woken_on_the_node_of_who_submits() {
    let scheduler = scheduler_on(3, 2);
    let sleepers = [0, 1, 2].map(|node| machine_of(scheduler, node).0);
    let (submitter, _) = machine_of(scheduler, 1);
    for sleeper in sleepers {
        put(sleeper, Place::Sleeping);
    }
    assert!(submitter.enter());
    submit(scheduler);
    Machine::forget_current();
    let places = sleepers.map(place);
    assert_eq!(places, [Place::Sleeping, Place::Awake, Place::Sleeping]);
}

#[test]
fn a_stack_goes_on_with_a_worker_of_its_node() {
    let scheduler = scheduler_on(3, 1);
    let (stays, worker) = machine_of(scheduler, 1);
    stays.settle(worker);
    put(stays, Place::Parked);
    let given_up = stays.take_worker();
    let mut idle = scheduler.idle.lock();
    given_up.set_idle(&mut idle, true);
    idle.free.insert(0, given_up);
    drop(idle);
    ready(stays);
    assert_eq!(place(stays), Place::Awake);
    assert!(stays.holds(worker));
}

/// Somebody who is not a machine asks for a task on `node`.
fn submit_to(scheduler: &'static Scheduler, node: usize) -> NonNull<Task> {
    let task = task(scheduler);
    // SAFETY: alive and new.
    unsafe { scheduler.submit_to(node, task) }.expect("it is open");
    task
}

#[test]
fn a_task_for_a_node_wakes_one_of_its_machines_though_somebody_searches() {
    let scheduler = scheduler_on(2, 1);
    let (here, _) = machine_of(scheduler, 1);
    let (searcher, _) = machine_of(scheduler, 0);
    put(here, Place::Sleeping);
    put(searcher, Place::Sleeping);
    scheduler.wake_searcher();
    let woken = [here, searcher].map(|machine| place(machine) == Place::Awake);
    if woken == [true, false] {
        return; // the test's own thread may be on either node
    }
    submit_to(scheduler, 1);
    assert_eq!(place(here), Place::Awake);
    assert!(was_unparked(here));
}

#[test]
fn a_task_for_a_node_takes_the_worker_of_a_machine_whose_thread_is_taken() {
    let scheduler = scheduler_on(2, 1);
    let (holder, worker) = machine_of(scheduler, 1);
    put(holder, Place::Holding);
    submit_to(scheduler, 1);
    assert_eq!(place(holder), Place::Parked);
    let [machine] = started()[..] else {
        panic!("one machine is started");
    };
    assert!(machine.holds(worker));
}

#[test]
fn a_task_for_a_node_is_nobody_else_s() {
    let scheduler = scheduler_on(2, 1);
    let (here, worker) = machine_of(scheduler, 1);
    let (other, others_worker) = machine_of(scheduler, 0);
    let task = submit_to(scheduler, 1);
    assert!(!scheduler.work_is_visible(other));
    assert!(!(0..4).any(|_| fairness_turn(other, others_worker)));
    assert!(scheduler.work_is_visible(here));
    assert!(matches!(here.find(worker), Some(Next::Task(found)) if found == task));
}

#[test]
fn a_busy_worker_takes_what_is_bound_to_its_node_now_and_then() {
    let scheduler = scheduler_on(2, 1);
    let (busy, worker) = machine_of(scheduler, 1);
    keep_busy(scheduler, worker);
    for _ in 0..100 {
        scheduler.nodes[1].injector.push(task(scheduler));
    }
    let waiting = submit_to(scheduler, 1);
    let found = (0..3 * FAIRNESS_TURNS)
        .filter_map(|_| match busy.find(worker) {
            Some(Next::Task(task)) => Some(task),
            _ => None,
        })
        .any(|task| task == waiting);
    assert!(found);
}

#[test]
fn a_busy_worker_looks_at_the_injectors_of_other_nodes_now_and_then() {
    let scheduler = scheduler_on(3, 1);
    let (busy, worker) = machine_of(scheduler, 0);
    keep_busy(scheduler, worker);
    let others = [1, 2].map(|node| {
        let task = task(scheduler);
        scheduler.nodes[node].injector.push(task);
        task
    });
    let turns = (0..9 * FAIRNESS_TURNS).filter_map(|_| match busy.find(worker) {
        Some(Next::Task(task)) => Some(task),
        _ => None,
    });
    let found = turns.filter(|task| others.contains(task)).count();
    assert_eq!(found, 2);
}

#[test]
fn a_node_without_a_worker_has_its_tasks_run_at_its_home() {
    let memory = Node {
        distances: [(0, 30), (1, 10)].into(),
        ..Node::new(1)
    };
    let with_cpu = Node {
        cpus: [0].into_iter().collect(),
        distances: [(0, 10), (1, 30)].into(),
        ..Node::new(0)
    };
    let topology = Topology::new(vec![with_cpu, memory]).unwrap();
    let layout = Layout::new(&topology, &topology.cpus(), Pin::Off, 1);
    let scheduler = on(layout, true);
    let (machine, worker) = machine(scheduler);
    let task = submit_to(scheduler, 1);
    assert!(matches!(machine.find(worker), Some(Next::Task(found)) if found == task));
}

// ---- workers that come and go ----

fn free(scheduler: &'static Scheduler) -> usize {
    scheduler.idle.lock().free.len()
}

#[test]
fn workers_that_are_added_are_free_and_those_that_go_are_used_again() {
    let scheduler = scheduler(4);
    scheduler.set_workers(1);
    let searchers = started().len(); // one is woken to look around
    assert_eq!((scheduler.slots.len(), free(scheduler)), (1, 1 - searchers));
    scheduler.set_workers(3);
    let searchers = searchers + started().len();
    assert_eq!((scheduler.slots.len(), free(scheduler)), (3, 3 - searchers));
    assert_eq!(scheduler.idle.lock().pool.len(), 1);
    assert!(scheduler.slots.iter().all(|worker| !worker.is_orphaned()));
}

#[test]
fn a_worker_that_goes_leaves_its_tasks_and_its_timers_to_others() {
    let scheduler = scheduler(2);
    let (one, worker) = machine(scheduler);
    let (goes, gone) = if worker.slot == 1 {
        (one, worker)
    } else {
        machine(scheduler)
    };
    gone.queue.push(task(scheduler)).unwrap();
    let waiter: &'static Waiter = Box::leak(Box::new(Waiter::new(&NOBODY)));
    let epoch = waiter.arm();
    // SAFETY: leaked.
    let waiter = unsafe { WaiterRef::retain(NonNull::from(waiter)) };
    gone.timers
        .push(Instant::now() + Duration::from_secs(1000), waiter, epoch);
    scheduler.set_workers(1);
    assert!(gone.is_orphaned() && gone.queue.is_empty() && gone.timers.next().is_none());
    assert!(scheduler.slots.first().timers.next().is_some());
    assert_eq!(scheduler.nodes[0].injector.len(), 1);
    // Its machine gives it up at its next turn.
    scheduler.retire(goes.take_worker());
    assert!(scheduler.idle.lock().orphans.is_empty());
}

#[test]
fn a_worker_that_is_added_goes_to_a_machine_that_waits() {
    let scheduler = scheduler(2);
    let machines = [machine(scheduler), machine(scheduler)];
    scheduler.set_workers(1);
    let (goes, _) = machines[usize::from(machines[1].1.slot == 1)];
    scheduler.retire(goes.take_worker());
    let waits = waiting(scheduler);
    scheduler.set_workers(2);
    assert_eq!(place(waits), Place::Awake);
    assert!(waits.sound_worker().is_some());
}

#[test]
fn a_worker_that_goes_is_taken_from_a_machine_that_sleeps_with_it() {
    let scheduler = scheduler(2);
    let machines = [machine(scheduler), machine(scheduler)];
    for (machine, worker) in machines {
        worker.set_idle(&mut scheduler.idle.lock(), true);
        put(machine, Place::Sleeping);
    }
    scheduler.set_workers(1);
    let (goes, _) = machines[usize::from(machines[1].1.slot == 1)];
    assert_eq!(place(goes), Place::Spare);
    assert!(scheduler.idle.lock().orphans.is_empty());
}

#[test]
fn where_no_thread_is_to_be_had_the_first_task_is_refused_and_nothing_counted() {
    let scheduler = scheduler(1);
    scheduler.has_thread.store(false, Ordering::Relaxed); // Ordering: Relaxed, one thread.
    for _ in 0..3 {
        instead_of_a_thread(|_| {});
        // SAFETY: alive and new.
        let refused = unsafe { scheduler.submit(task(scheduler)) };
        assert_eq!(refused, Err(Refused::NoThread));
        instead_of_a_thread(|_| {});
        // SAFETY: alive and new.
        let refused = unsafe { scheduler.submit_alone(None, task(scheduler)) };
        assert_eq!(refused, Err(Refused::NoThread));
    }
    assert_eq!(scheduler.totals().spawned, 0);
    assert_eq!(
        scheduler.machines.lock().len(),
        1,
        "one machine is tried again and again"
    );
    // SAFETY: alive and new.
    unsafe { scheduler.submit(task(scheduler)) }.expect("there is a thread");
    assert_eq!(started().len(), 1);
}

// ---- who goes first ----

/// What `machine` turns to next.
fn takes_stack(machine: &'static Machine, worker: &'static Worker) -> bool {
    matches!(machine.find(worker), Some(Next::Stack(_)))
}

#[test]
fn a_ready_stack_waits_for_tasks_that_end_at_once_but_not_for_long() {
    let scheduler = scheduler(1);
    let (machine, worker) = machine(scheduler);
    keep_busy(scheduler, worker);
    ready(machine);
    machine.end_turn();
    assert!(!takes_stack(machine, worker));
    let until = Instant::now() + READY_DELAY;
    while Instant::now() < until {}
    machine.end_turn();
    assert!(takes_stack(machine, worker));
}

#[test]
fn a_ready_stack_goes_first_after_one_that_parked_or_with_nothing_queued() {
    let scheduler = scheduler(1);
    let (machine, worker) = machine(scheduler);
    ready(machine);
    machine.end_turn();
    assert!(takes_stack(machine, worker));
    keep_busy(scheduler, worker);
    ready(machine);
    assert!(takes_stack(machine, worker));
}

/// Two machines that run, of which the first pauses beside the queue of the other.
fn pausing() -> (&'static Machine, &'static Machine, &'static Worker) {
    let scheduler = scheduler(2);
    let (thief, _) = machine(scheduler);
    let (other, victim) = machine(scheduler);
    keep_busy(scheduler, victim);
    thief.pause_for(Duration::from_secs(60));
    (thief, other, victim)
}

#[test]
fn a_thief_that_pauses_steals_nothing_and_counts_as_searching() {
    let (thief, _, victim) = pausing();
    let (left, scheduler) = (victim.queue.len(), thief.scheduler);
    in_its_sleep(move |_| {
        assert_eq!(victim.queue.len(), left, "it stole");
        // Ordering: SeqCst, as everywhere.
        assert_eq!(scheduler.searching.load(Ordering::SeqCst), 1);
        ready(thief);
    });
    assert!(matches!(thief.next(), Next::Stack(_)));
    assert_eq!(scheduler.searching.load(Ordering::SeqCst), 0); // Ordering: as above.
}

#[test]
fn nobody_pauses_when_no_other_worker_runs() {
    let (thief, other, victim) = pausing();
    victim.set_idle(&mut thief.scheduler.idle.lock(), true);
    put(other, Place::Sleeping);
    assert!(matches!(thief.next(), Next::Task(_)));
}

thread_local! {
    /// What the machine has for the scheduler of this test, and how often somebody has asked.
    static BUDGET: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn budget() -> usize {
    let (workers, asked) = BUDGET.get();
    BUDGET.set((workers, asked + 1));
    workers
}

/// What the monitor does while something runs, `seconds` after the start, while `spare` sleeps.
fn monitor_looks_at_budget(
    spare: &'static Machine,
    due_at: &mut Instant,
    now: Instant,
    workers: usize,
) {
    BUDGET.set((workers, 0));
    let mut due = *due_at;
    let scheduler = spare.scheduler;
    in_its_sleep(move |_| {
        scheduler.look_at_budget(&mut due, now);
        scheduler.look_at_budget(&mut due, now); // too early for another
        DUE.set(Some(due));
    });
    spare.rest(false);
    *due_at = DUE.take().expect("it has looked");
}

thread_local! {
    static DUE: Cell<Option<Instant>> = const { Cell::new(None) };
}

#[test]
fn the_workers_follow_the_budget_each_second() {
    let scheduler = with_budget(Layout::flat(8), true, Some(budget));
    let spare = scheduler.new_machine();
    let start = Instant::now();
    let mut due_at = start;
    for (second, workers) in [(0, 3), (1, 3), (2, 1), (3, 8)] {
        let now = start + Duration::from_secs(second);
        monitor_looks_at_budget(spare, &mut due_at, now, workers);
        assert_eq!(BUDGET.get(), (workers, 1));
        assert_eq!(
            (scheduler.workers(), scheduler.slots.len()),
            (workers, workers)
        );
    }
    drop(started());
}

#[test]
fn workers_that_somebody_has_set_do_not_follow_the_budget() {
    let scheduler = with_budget(Layout::flat(8), true, Some(budget));
    let spare = scheduler.new_machine();
    let start = Instant::now();
    BUDGET.set((2, 0));
    in_its_sleep(move |_| {
        scheduler.look_at_budget(&mut start.clone(), start);
        scheduler.set_workers(5); // while the order is on its way
    });
    spare.rest(false);
    assert_eq!((scheduler.workers(), BUDGET.get()), (5, (2, 1)));
    monitor_looks_at_budget(spare, &mut start.clone(), start, 3);
    assert_eq!((scheduler.workers(), BUDGET.get()), (5, (3, 0)));
    drop(started());
}

#[test]
fn a_machine_with_a_ready_stack_rather_takes_a_worker_of_its_own_node() {
    for node in [2, 0, 1] {
        let scheduler = scheduler_on(3, 2);
        // It had a worker of that node, and gave it up; from there it comes to rest with a stack that others made ready.
        let (machine, worker) = machine_of(scheduler, node);
        let (other, _) = machine_of(scheduler, (node + 1) % 3);
        machine.settle(worker);
        scheduler.set_free(machine.take_worker());
        scheduler.set_free(other.take_worker()); // the one that is found where nobody asks for a node
        machine
            .inbox
            .push(NonNull::from(Box::leak(Stack::new(machine))));
        assert!(!machine.rest(false));
        assert_eq!(machine.worker().map(|worker| worker.node), Some(node));
    }
}

#[test]
fn the_host_has_an_idle_window_before_its_machine_counts_as_asleep() {
    let scheduler = scheduler(1);
    let (idler, worker) = machine(scheduler);
    in_its_window(move |machine| {
        assert_eq!(place(machine), Place::Awake);
        assert!(machine.holds(worker));
        assert_eq!(searching(scheduler), 0);
        let window = machine.window().expect("nothing is to do");
        assert_eq!((window.until, window.turn), (None, worker.turn()));
        submit(scheduler);
        assert_eq!(machine.window(), None, "now there is");
        Spent::Some
    });
    assert!(matches!(idler.next(), Next::Task(_)), "it does not sleep");
}

#[test]
fn a_window_ends_with_the_next_timer_of_any_worker() {
    let scheduler = scheduler(2);
    let (sleeper, theirs) = machine(scheduler);
    let (idler, _) = machine(scheduler);
    put(sleeper, Place::Sleeping);
    set_timer(scheduler);
    let timers = || scheduler.slots.iter().filter_map(|slot| slot.timers.next());
    assert_eq!(timers().count(), 1);
    assert_eq!(idler.window().unwrap().until, timers().min());
    let _ = theirs;
}

#[test]
fn there_is_no_window_while_another_worker_runs() {
    let scheduler = scheduler(2);
    let (_runner, _) = machine(scheduler);
    let (idler, _) = machine(scheduler);
    assert_eq!(idler.window(), None);
}

#[test]
fn a_host_that_wants_to_be_asked_again_is() {
    let scheduler = scheduler(1);
    let (idler, _) = machine(scheduler);
    let ask_at = Instant::now() + Duration::from_secs(1); // a machine sleeps longer
    in_its_window(|_| panic_any("it was asked again")); // the last, so it comes after the next
    in_its_window(move |_| Spent::NothingUntil(ask_at));
    in_its_sleep(|_| ());
    let asked = catch_unwind(AssertUnwindSafe(|| idler.next()));
    assert_eq!(
        asked.unwrap_err().downcast_ref(),
        Some(&"it was asked again")
    );
    assert_eq!(SLEEPS_UNTIL.get(), Some(ask_at));
}
