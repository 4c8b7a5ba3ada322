//! What the protocol does at one point, with a host that runs nothing: the test plays the threads, one step at a time.
//!
//! Each of these was a hang, or a monitor that never slept, before it was a test. `tests/scheduler.rs` races the whole.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, panic_any},
    ptr::{self, NonNull},
    time::{Duration, Instant},
};

use super::{
    Config, Host, Machine, Scheduler, Stack,
    idle::{Mission, Place},
    machine::{FAIRNESS_TURNS, Next},
    queue::Queue,
    worker::Worker,
};
use crate::{
    sync::Ordering,
    task::{Task, TaskVtable},
    wait::{Waiter, WaiterClass, WaiterRef},
};

type Event = Box<dyn FnOnce(&'static Machine)>;

thread_local! {
    /// What happens while a machine of this test sleeps, the last first.
    static SLEEPS: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
    /// The machines for which a thread was asked.
    static STARTED: RefCell<Vec<&'static Machine>> = const { RefCell::new(Vec::new()) };
    /// What happens instead when a thread is asked for: there is none.
    static REFUSED: RefCell<Option<Event>> = const { RefCell::new(None) };
}

static HOST: Host = Host {
    switch: |_, _| unreachable!("the test switches nothing"),
    new_stack: |_| unreachable!("the test switches nothing"),
    idle: |machine, _| {
        let event = SLEEPS.with_borrow_mut(Vec::pop);
        event.expect("it was not to sleep here")(machine);
    },
    start_machine: |machine| {
        if let Some(event) = REFUSED.with_borrow_mut(Option::take) {
            event(machine);
            return false;
        }
        STARTED.with_borrow_mut(|started| started.push(machine));
        true
    },
};

fn in_its_sleep(event: impl FnOnce(&'static Machine) + 'static) {
    SLEEPS.with_borrow_mut(|sleeps| sleeps.push(Box::new(event)));
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
    let scheduler = Scheduler::new(Config {
        host: &HOST,
        workers,
        fibers,
        exclusive: false,
    });
    // Ordering: Relaxed, one thread.
    scheduler.monitor_started.store(true, Ordering::Relaxed);
    scheduler
}

/// A machine that runs, with a worker in hand.
fn machine(scheduler: &'static Scheduler) -> (&'static Machine, &'static Worker) {
    let machine = scheduler.new_machine();
    let mut idle = scheduler.idle.lock();
    let worker = idle.find_worker().expect("one is free");
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
    unsafe { scheduler.submit(task(scheduler)) };
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
        let taken = scheduler.idle.lock().find_worker();
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
    assert_eq!(scheduler.injector.len(), 0);
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
    assert_eq!(scheduler.injector.len(), 1);
}

#[test]
fn what_an_orphan_is_left_with_goes_to_a_machine_that_sleeps() {
    let scheduler = scheduler(1);
    let (_, worker) = machine(scheduler);
    let heir = take_over(scheduler, worker);
    put(heir, Place::Sleeping);
    assert!(worker.queue.push(task(scheduler)).is_ok());
    scheduler.rescue_from_orphans(&Queue::default());
    assert_eq!(scheduler.injector.len(), 1);
    assert!(was_unparked(heir));
}

/// Whether the monitor, which is told nothing meanwhile, goes to sleep.
fn monitor_sleeps(scheduler: &'static Scheduler) -> bool {
    scheduler.monitor.parker.unpark(); // which ends the sleep, if there is one
    scheduler.sleep_until_woken();
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
