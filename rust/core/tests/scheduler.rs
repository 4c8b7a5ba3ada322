//! What the scheduler guarantees, on a native host: with thread parking and with fibers, with threads that run at
//! once and with one at a time.
//!
//! Each test runs many rounds, because what it looks for is a race. `PENSTOCK_ROUNDS=2000` runs more of them. No test
//! sleeps: one that does not get on is a hang, which fails after a minute.
#![cfg(not(loom))]

mod native_host;

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use native_host::{
    Ch, Handle, Runtime, Step, Way, block_until, channel, gil, recv, send, sleep_until, spawn,
    watch, yield_now,
};
use penstock_core::{
    scheduler::{Machine, Scheduler, Totals},
    wait::Outcome,
};

const MS: Duration = Duration::from_millis(1);

/// How many rounds a test does, of which the plan is `planned`.
fn rounds(planned: usize) -> usize {
    let asked = std::env::var("PENSTOCK_ROUNDS").ok();
    asked
        .and_then(|rounds| rounds.parse().ok())
        .map_or(planned, |rounds: usize| (planned * rounds / 200).max(1))
}

/// Runs `round` again and again on one scheduler, which is quiet in between: spawned, started and finished
/// agree then.
fn on_one(way: Way, planned: usize, round: impl Fn(&Runtime) + Send + 'static) {
    watch("the test", move || {
        let runtime = Runtime::new(way);
        attached(way, || {
            for _ in 0..rounds(planned) {
                round(&runtime);
            }
            adds_up(&runtime);
        });
    });
}

/// Runs `round` on a new scheduler each time, so that its start is in the race too.
fn on_new(way: Way, planned: usize, round: impl Fn(&Runtime) + Send + 'static) {
    watch("the test", move || {
        attached(way, || {
            for _ in 0..rounds(planned) {
                let runtime = Runtime::new(way);
                round(&runtime);
                adds_up(&runtime);
            }
        });
    });
}

fn attached(way: Way, body: impl FnOnce()) {
    if way.gil { gil::within(body) } else { body() }
}

/// Waits for the counts to agree: a task that nobody has joined may be at its end still.
fn adds_up(runtime: &Runtime) {
    loop {
        let totals = totals_in_order(runtime);
        if totals.spawned == totals.finished {
            return;
        }
        gil::without(thread::yield_now);
    }
}

/// No task is counted as started or finished before it is counted as spawned or started.
fn totals_in_order(runtime: &Runtime) -> Totals {
    let totals = runtime.0.totals();
    assert!(totals.spawned >= totals.started, "{totals:?}");
    assert!(totals.started >= totals.finished, "{totals:?}");
    totals
}

fn join_all(tasks: Vec<Handle<()>>) {
    for task in tasks {
        task.join();
    }
}

/// Blocks the thread until all have come here.
fn wait_for_all(barrier: &Barrier) {
    gil::without(|| barrier.wait());
}

/// A thread that is no machine, whose end somebody waits for.
fn outside(body: impl FnOnce() + Send + 'static) -> Outside {
    let attach = gil::is_held();
    Outside(Some(thread::spawn(move || {
        if attach { gil::within(body) } else { body() }
    })))
}

struct Outside(Option<thread::JoinHandle<()>>);

impl Outside {
    fn join(mut self) {
        let thread = self.0.take().expect("joined once");
        gil::without(|| thread.join()).expect("it has not panicked");
    }
}

/// Counts how often each of `n` tasks has run.
#[derive(Clone)]
struct Tally(Arc<[AtomicUsize]>);

impl Tally {
    fn new(n: usize) -> Self {
        Self((0..n).map(|_| AtomicUsize::new(0)).collect())
    }

    fn mark(&self, task: usize) {
        self.0[task].fetch_add(1, SeqCst);
    }

    fn assert_each_once(&self) {
        for (task, times) in self.0.iter().enumerate() {
            assert_eq!(times.load(SeqCst), 1, "task {task}");
        }
    }
}

// ---- every submitted task runs exactly once ----

fn tasks_from_outside_run_once(way: Way) {
    on_new(way, 60, |runtime| {
        let tally = Tally::new(40);
        let tasks: Vec<_> = (0..40)
            .map(|task| {
                let tally = tally.clone();
                runtime.go(move || tally.mark(task))
            })
            .collect();
        join_all(tasks);
        tally.assert_each_once();
    });
}

fn tasks_from_many_threads_run_once(way: Way) {
    on_one(way, 200, |runtime| {
        let tally = Tally::new(30);
        let scheduler = Runtime(runtime.0);
        let scheduler = Arc::new(std::mem::ManuallyDrop::new(scheduler));
        let threads = [0, 10, 20].map(|from| {
            let (tally, scheduler) = (tally.clone(), Arc::clone(&scheduler));
            outside(move || {
                let tasks = (from..from + 10).map(|task| {
                    let tally = tally.clone();
                    scheduler.go(move || tally.mark(task))
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.join();
                }
            })
        });
        threads.into_iter().for_each(Outside::join);
        tally.assert_each_once();
    });
}

fn tasks_from_one_task_run_once(way: Way) {
    on_one(way, 60, |runtime| {
        let tally = Tally::new(700); // more than a ring and its overflow hold
        let seen = tally.clone();
        let parent = runtime.go(move || {
            let tasks: Vec<_> = (0..700)
                .map(|task| {
                    let tally = tally.clone();
                    spawn(move || tally.mark(task))
                })
                .collect();
            join_all(tasks);
        });
        parent.join();
        seen.assert_each_once();
    });
}

fn a_tree_of_tasks_runs_once(way: Way) {
    fn branch(tally: &Tally, node: usize) {
        tally.mark(node);
        let children = [2 * node + 1, 2 * node + 2]
            .into_iter()
            .filter(|child| *child < tally.0.len())
            .map(|child| {
                let tally = tally.clone();
                spawn(move || branch(&tally, child))
            });
        for child in children.collect::<Vec<_>>() {
            child.join();
        }
    }
    on_one(way, 100, |runtime| {
        let tally = Tally::new(31);
        let root = tally.clone();
        runtime.go(move || branch(&root, 0)).join();
        tally.assert_each_once();
    });
}

// ---- parking ----

fn relay(from: &Ch<usize>, to: &Ch<usize>, turns: usize, starts: bool) {
    for turn in 0..turns {
        if starts {
            send(to, turn).unwrap();
        }
        assert_eq!(recv(from), Ok(turn));
        if !starts {
            send(to, turn).unwrap();
        }
    }
}

fn pairs_that_wake_each_other_end(way: Way) {
    on_one(way, 60, move |runtime| {
        let pairs = 2 * way.workers + 1;
        let tasks: Vec<_> = (0..pairs)
            .flat_map(|pair| {
                let (there, back) = (channel(pair % 2), channel(pair % 2));
                let (there2, back2) = (Arc::clone(&there), Arc::clone(&back));
                [
                    runtime.go(move || relay(&back, &there, 20, true)),
                    runtime.go(move || relay(&there2, &back2, 20, false)),
                ]
            })
            .collect();
        join_all(tasks);
    });
}

fn a_pair_on_a_new_scheduler_ends(way: Way) {
    on_new(way, 100, move |runtime| {
        let (there, back) = (channel(0), channel(0));
        let (there2, back2) = (Arc::clone(&there), Arc::clone(&back));
        let first = runtime.go(move || relay(&back, &there, 3, true));
        let second = runtime.go(move || relay(&there2, &back2, 3, false));
        first.join();
        second.join();
    });
}

fn many_to_one_and_back_ends(way: Way) {
    on_one(way, 60, move |runtime| {
        let (jobs, results) = (channel(1), channel(0));
        let servers: Vec<_> = (0..3)
            .map(|_| {
                let (jobs, results) = (Arc::clone(&jobs), Arc::clone(&results));
                runtime.go(move || {
                    while let Ok(job) = recv::<usize>(&jobs) {
                        send(&results, job * 2).unwrap();
                    }
                })
            })
            .collect();
        let source = {
            let jobs = Arc::clone(&jobs);
            runtime.go(move || (0..20).for_each(|job| send(&jobs, job).unwrap()))
        };
        let sum: usize = (0..20).map(|_| recv(&results).unwrap()).sum();
        assert_eq!(sum, 380);
        source.join();
        jobs.close();
        join_all(servers);
    });
}

fn wakes_from_other_threads_arrive(way: Way) {
    on_one(way, 200, move |runtime| {
        let channels: Vec<Ch<usize>> = (0..3).map(|_| channel(0)).collect();
        let tasks: Vec<_> = channels
            .iter()
            .map(|ch| {
                let ch = Arc::clone(ch);
                runtime.go(move || (0..3).map(|_| recv(&ch).unwrap()).sum::<usize>())
            })
            .collect();
        let threads: Vec<_> = channels
            .into_iter()
            .map(|ch| outside(move || (1..=3).for_each(|value| send(&ch, value).unwrap())))
            .collect();
        for task in tasks {
            assert_eq!(task.join(), 6);
        }
        threads.into_iter().for_each(Outside::join);
    });
}

fn a_coroutine_is_never_entered_twice_nor_forgotten(way: Way) {
    on_one(way, 100, move |runtime| {
        const TURNS: usize = 20;
        let (armed, is_armed) = mpsc::channel();
        let mut left = TURNS;
        let steps = runtime.go_steps(move |me| {
            if left == 0 {
                return Step::Done;
            }
            left -= 1;
            if left.is_multiple_of(3) {
                return Step::Yield;
            }
            let waiter = me.waiter();
            let epoch = waiter.arm();
            armed.send((waiter, epoch)).unwrap();
            Step::Park
        });
        // Woken while it still leaves its step, as often as not.
        let waker = outside(move || {
            while let Ok((waiter, epoch)) = gil::without(|| is_armed.recv()) {
                let claim = waiter.claim(epoch).expect("nobody else claims");
                claim.complete(Outcome::Handed);
            }
        });
        steps.join();
        waker.join();
    });
}

fn a_pinned_coroutine_stays_on_its_thread(way: Way) {
    on_one(way, 100, move |runtime| {
        const TURNS: usize = 20;
        let mut threads = Vec::new();
        let mut tasks = Vec::new();
        for _ in 0..3 {
            let (armed, is_armed) = mpsc::channel();
            let (mut turn, mut home) = (0, None);
            tasks.push(runtime.go_steps(move |me| {
                turn += 1;
                if home.is_none() {
                    me.pin();
                    me.pin();
                    home = Some(thread::current().id());
                    me.unpin();
                }
                assert_eq!(home, Some(thread::current().id()), "it is still pinned");
                if turn == TURNS {
                    return Step::Done; // pinned to its end
                }
                if turn == TURNS / 2 {
                    me.unpin();
                    home = None;
                }
                if turn.is_multiple_of(3) {
                    return Step::Yield;
                }
                let waiter = me.waiter();
                let epoch = waiter.arm();
                armed.send((waiter, epoch)).unwrap();
                Step::Park
            }));
            threads.push(outside(move || {
                while let Ok((waiter, epoch)) = gil::without(|| is_armed.recv()) {
                    let claim = waiter.claim(epoch).expect("nobody else claims");
                    claim.complete(Outcome::Handed);
                }
            }));
        }
        // Beside them, what wants the same threads.
        let (there, back): (Ch<usize>, Ch<usize>) = (channel(0), channel(0));
        let others = (Arc::clone(&there), Arc::clone(&back));
        let left = runtime.go(move || relay(&back, &there, TURNS, true));
        let right = runtime.go(move || relay(&others.0, &others.1, TURNS, false));
        left.join();
        right.join();
        join_all(tasks);
        threads.into_iter().for_each(Outside::join);
    });
}

fn a_task_that_yields_lets_others_run(way: Way) {
    on_one(way, 100, |runtime| {
        let flag = Arc::new(AtomicUsize::new(0));
        let waits = Arc::clone(&flag);
        let patient = runtime.go(move || {
            let raise = Arc::clone(&waits);
            let other = spawn(move || {
                yield_now();
                raise.store(1, SeqCst);
            });
            while waits.load(SeqCst) == 0 {
                yield_now();
            }
            other.join();
        });
        patient.join();
    });
}

fn a_cancelled_wait_ends_once(way: Way) {
    on_one(way, 200, |runtime| {
        let ch: Ch<usize> = channel(0);
        let (parks, is_parking) = mpsc::channel();
        let receiver = {
            let ch = Arc::clone(&ch);
            runtime.go(move || {
                parks.send(()).unwrap();
                recv(&ch).ok()
            })
        };
        block_until(&is_parking);
        let sender = {
            let ch = Arc::clone(&ch);
            outside(move || {
                let _ = ch.try_send(7);
            })
        };
        receiver.cancel();
        sender.join();
        let sent = ch.stats().sent;
        // The item arrived, or stays here; it is not lost.
        let got = receiver.join().into_iter().len() as u64 + ch.try_recv().into_iter().len() as u64;
        assert_eq!(got, sent);
    });
}

// ---- a task that blocks its thread ----

fn a_blocked_thread_does_not_delay_queued_tasks(way: Way) {
    on_one(way, 30, |runtime| {
        let blocks = runtime.go(|| {
            let (tell, told) = mpsc::channel();
            let others: Vec<_> = (0..3)
                .map(|_| {
                    let tell = tell.clone();
                    spawn(move || tell.send(()).unwrap())
                })
                .collect();
            (0..3).for_each(|_| block_until(&told));
            join_all(others);
        });
        blocks.join();
    });
}

fn more_tasks_than_workers_may_block(way: Way) {
    on_one(way, 10, move |runtime| {
        let count = way.workers + 2;
        let barrier = Arc::new(Barrier::new(count));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                runtime.go(move || wait_for_all(&barrier))
            })
            .collect();
        join_all(tasks);
    });
}

fn a_woken_coroutine_does_not_wait_for_a_waker_that_blocks(way: Way) {
    on_one(way, 30, |runtime| {
        let (armed, is_armed) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let mut parked = false;
        let sleeper = runtime.go_steps(move |me| {
            if parked {
                tell.send(()).unwrap();
                return Step::Done;
            }
            parked = true;
            let waiter = me.waiter();
            let epoch = waiter.arm();
            armed.send((waiter, epoch)).unwrap();
            Step::Park
        });
        let waker = runtime.go(move || {
            let (waiter, epoch) = block_until(&is_armed);
            let claim = waiter.claim(epoch).expect("nobody else claims");
            claim.complete(Outcome::Handed); // it goes to this worker's run-next slot, and wakes nobody
            block_until(&told);
        });
        waker.join();
        sleeper.join();
    });
}

fn a_blocked_thread_does_not_delay_timers(way: Way) {
    on_one(way, 20, move |runtime| {
        let (tell, told) = mpsc::channel();
        let mut epoch = None;
        // A coroutine, because a fiber would be tied to the thread that blocks.
        let sleeper = runtime.go_steps(move |me| {
            if let Some(epoch) = epoch {
                assert_eq!(me.waiter().outcome(epoch), Some(Outcome::TimedOut));
                tell.send(()).unwrap();
                return Step::Done;
            }
            epoch = Some(me.arm_until(Instant::now() + MS));
            Step::Park
        });
        runtime.go(move || block_until(&told)).join();
        sleeper.join();
        if way.fibers {
            return;
        }
        let (tell, told) = mpsc::channel();
        let sleeper = runtime.go(move || {
            let outcome = sleep_until(Instant::now() + MS);
            tell.send(()).unwrap();
            outcome
        });
        runtime.go(move || block_until(&told)).join();
        assert_eq!(sleeper.join(), Outcome::TimedOut);
    });
}

fn a_timer_set_by_a_machine_that_lost_its_worker_fires(way: Way) {
    on_one(way, 20, |runtime| {
        let task = runtime.go(|| {
            let (tell, told) = mpsc::channel();
            let other = spawn(move || tell.send(()).unwrap());
            block_until(&told); // with one worker, `other` has run on another thread: the slot is gone
            let outcome = sleep_until(Instant::now() + MS);
            other.join();
            outcome
        });
        assert_eq!(task.join(), Outcome::TimedOut);
    });
}

fn a_timer_wakes_a_scheduler_that_sleeps(way: Way) {
    on_one(way, 50, |runtime| {
        let tasks = [1, 0, 2].map(|ms| runtime.go(move || sleep_until(Instant::now() + MS * ms)));
        for task in tasks {
            assert_eq!(task.join(), Outcome::TimedOut);
        }
    });
}

/// Tasks parked on more machines than there are workers, readied at once: each machine but one has lost its worker
/// while it slept, and others lose theirs while they are being woken.
fn ready_stacks_on_many_machines_take_turns(way: Way) {
    on_one(way, 30, move |runtime| {
        let machines = way.workers + 2;
        let gates: Vec<Ch<usize>> = (0..machines).map(|_| channel(0)).collect();
        let (parks, is_parking) = mpsc::channel();
        let barrier = Arc::new(Barrier::new(machines));
        let tasks: Vec<_> = gates
            .iter()
            .map(|gate| {
                let (gate, parks, barrier) =
                    (Arc::clone(gate), parks.clone(), Arc::clone(&barrier));
                runtime.go(move || {
                    wait_for_all(&barrier); // so each is on a machine of its own
                    parks.send(Machine::current().unwrap().id).unwrap();
                    (0..5).map(|_| recv(&gate).unwrap()).sum::<usize>()
                })
            })
            .collect();
        let mut on: Vec<_> = (0..machines).map(|_| block_until(&is_parking)).collect();
        on.sort_unstable();
        on.dedup();
        assert_eq!(on.len(), machines);
        let threads: Vec<_> = gates
            .into_iter()
            .map(|gate| outside(move || (0..5).for_each(|value| send(&gate, value).unwrap())))
            .collect();
        for task in tasks {
            assert_eq!(task.join(), 10);
        }
        threads.into_iter().for_each(Outside::join);
    });
}

/// Machines that search while their workers' slots change hands; then there is work again, for all of them.
fn searchers_that_lose_their_slot_leave_later_wakes_alone(way: Way) {
    on_one(way, 20, move |runtime| {
        let blocked: Vec<_> = (0..way.workers)
            .map(|_| {
                let (tell, told) = mpsc::channel();
                let other = runtime.go(move || tell.send(()).unwrap());
                let blocks = runtime.go(move || block_until(&told));
                (blocks, other)
            })
            .collect();
        for (blocks, other) in blocked {
            blocks.join();
            other.join();
        }
        // Each of these is worth a wake-up of its own: they wait for one another.
        let barrier = Arc::new(Barrier::new(way.workers));
        let tasks: Vec<_> = (0..way.workers)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                runtime.go(move || wait_for_all(&barrier))
            })
            .collect();
        join_all(tasks);
    });
}

/// On one worker, so that both tasks are on one thread.
#[test]
fn a_task_that_keeps_the_thread_of_parked_ones_is_reported_once() {
    let way = Way {
        fibers: true,
        gil: false,
        workers: 1,
        nodes: 1,
    };
    on_one(way, 5, |runtime| {
        let told = runtime.stalls();
        let gate: Ch<()> = channel(0);
        let parked = {
            let gate = Arc::clone(&gate);
            runtime.go(move || recv(&gate))
        };
        let blocks = runtime.go(move || {
            assert_eq!(block_until(&told), 1);
            told
        });
        let told = blocks.join();
        runtime.go(move || send(&gate, ())).join().unwrap();
        parked.join().unwrap();
        assert!(told.try_recv().is_err(), "it was reported again");
    });
}

// ---- nobody starves ----

/// Keeps a worker's queue full until `flag` is up.
fn spin(flag: Arc<AtomicUsize>) {
    gil::without(|| ()); // as an interpreter makes its threads do
    if flag.load(SeqCst) == 0 {
        spawn(move || spin(flag));
    }
}

fn tasks_that_start_themselves_again_do_not_starve_a_new_one(way: Way) {
    on_one(way, 50, move |runtime| {
        let flag = Arc::new(AtomicUsize::new(0));
        for _ in 0..way.workers {
            let flag = Arc::clone(&flag);
            runtime.go(move || spin(flag));
        }
        runtime.go(move || flag.store(1, SeqCst)).join();
    });
}

fn workers_that_never_rest_give_themselves_to_a_machine_that_waits(way: Way) {
    on_one(way, 20, move |runtime| {
        let gates: Vec<Ch<()>> = (0..=way.workers).map(|_| channel(0)).collect();
        let (parks, is_parking) = mpsc::channel();
        let barrier = Arc::new(Barrier::new(gates.len()));
        let flag = Arc::new(AtomicUsize::new(0));
        let parked: Vec<_> = gates
            .iter()
            .map(|gate| {
                let (gate, parks) = (Arc::clone(gate), parks.clone());
                let (barrier, flag) = (Arc::clone(&barrier), Arc::clone(&flag));
                runtime.go(move || {
                    wait_for_all(&barrier); // so each is on a machine of its own
                    parks.send(()).unwrap();
                    recv(&gate).unwrap();
                    flag.fetch_add(1, SeqCst);
                })
            })
            .collect();
        for _ in &gates {
            block_until(&is_parking);
        }
        let all = Arc::new(AtomicUsize::new(0));
        for _ in 0..way.workers {
            let all = Arc::clone(&all);
            runtime.go(move || spin(all));
        }
        let sender = outside(move || {
            for gate in &gates {
                send(gate, ()).unwrap();
            }
        });
        join_all(parked);
        all.store(1, SeqCst);
        sender.join();
    });
}

fn a_pair_that_readies_each_other_does_not_starve_queued_tasks(way: Way) {
    on_one(way, 20, move |runtime| {
        let flag = Arc::new(AtomicUsize::new(0));
        let pairs: Vec<_> = (0..way.workers)
            .flat_map(|_| {
                let (there, back) = (channel(0), channel(0));
                let (there2, back2) = (Arc::clone(&there), Arc::clone(&back));
                let flag = Arc::clone(&flag);
                [
                    runtime.go(move || {
                        while flag.load(SeqCst) == 0 {
                            gil::without(|| ());
                            send(&there, ()).unwrap();
                            recv(&back).unwrap();
                        }
                        there.close();
                    }),
                    runtime.go(move || {
                        while recv(&there2).is_ok() {
                            send(&back2, ()).unwrap();
                        }
                    }),
                ]
            })
            .collect();
        runtime
            .go(move || spawn(move || flag.store(1, SeqCst)).join())
            .join();
        join_all(pairs);
    });
}

// ---- the end, and the numbers ----

fn counts_read_while_tasks_run_are_in_order(way: Way) {
    on_one(way, 5, move |runtime| {
        let flag = Arc::new(AtomicUsize::new(0));
        for _ in 0..way.workers {
            let flag = Arc::clone(&flag);
            runtime.go(move || spin(flag));
        }
        gil::without(|| {
            for _ in 0..2_000 {
                totals_in_order(runtime);
            }
        });
        flag.store(1, SeqCst);
    });
}

fn a_stopped_scheduler_starts_nothing(way: Way) {
    on_new_quietly(way, 20, |runtime| {
        let (there, back) = (channel(0), channel(0));
        let (there2, back2) = (Arc::clone(&there), Arc::clone(&back));
        let turns = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&turns);
        runtime.go(move || {
            for turn in 0.. {
                count.fetch_add(1, SeqCst);
                gil::without(thread::yield_now); // it goes on for ever
                send(&there, turn).unwrap();
                assert_eq!(recv(&back), Ok(turn));
            }
        });
        runtime.go(move || {
            while let Ok(turn) = recv::<usize>(&there2) {
                send(&back2, turn).unwrap();
            }
        });
        while turns.load(SeqCst) < 10 {
            gil::without(thread::yield_now);
        }
        runtime.0.stop();
        // The pair comes to its end within a few turns, whoever of the two is parked.
        let at_stop = turns.load(SeqCst);
        let mut before = at_stop;
        for _ in 0..20 {
            gil::without(thread::yield_now);
            let now = turns.load(SeqCst);
            assert!(now < at_stop + 1000, "it goes on after the stop");
            if now == before {
                break;
            }
            before = now;
        }
        let late = runtime.go(|| unreachable!("started after the stop"));
        (0..5).for_each(|_| gil::without(thread::yield_now));
        assert!(!late.is_done());
    });
}

fn on_new_quietly(way: Way, planned: usize, round: impl Fn(&Runtime) + Send + 'static) {
    watch("the test", move || {
        attached(way, || {
            for _ in 0..rounds(planned) {
                round(&Runtime::new(way));
            }
        });
    });
}

fn parks_and_wakes_are_counted(way: Way) {
    on_new(way, 30, |runtime| {
        let gate: Ch<()> = channel(0);
        let task = {
            let gate = Arc::clone(&gate);
            runtime.go(move || (0..5).for_each(|_| recv(&gate).unwrap()))
        };
        for _ in 0..5 {
            while gate.try_send(()).is_err() {
                gil::without(thread::yield_now); // until it is parked there
            }
        }
        task.join();
        let totals = runtime.0.totals();
        assert_eq!((totals.parks, totals.wakes), (5, 5), "{totals:?}");
    });
}

/// From outside and from a task, all at once: each starts on its node, or on the only one that has a worker.
fn a_task_for_a_node_starts_there(way: Way) {
    on_one(way, 200, move |runtime| {
        let nodes = usize::try_from(way.nodes).expect("a few");
        let start = move |node| {
            move || {
                let started_on = Machine::current().expect("in a task").node();
                assert_eq!(started_on, if way.gil { 0 } else { node });
            }
        };
        let tasks: Vec<_> = (0..4 * nodes)
            .map(|number| runtime.go_on(number % nodes, start(number % nodes)))
            .collect();
        tasks.into_iter().for_each(Handle::join);
    });
}

// ---- a thread of one's own ----

fn a_task_alone_on_its_thread_has_it_to_its_end(way: Way) {
    on_one(way, 50, |runtime| {
        let gate: Ch<usize> = channel(0);
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let gate = Arc::clone(&gate);
                runtime.go_alone(move || {
                    let mut threads = vec![thread::current().id()];
                    for _ in 0..3 {
                        recv(&gate).unwrap();
                        threads.push(thread::current().id());
                        yield_now();
                        threads.push(thread::current().id());
                    }
                    threads.dedup();
                    threads
                })
            })
            .collect();
        // Others run meanwhile, on other threads.
        let (send_gate, count) = (Arc::clone(&gate), tasks.len() * 3);
        let sender = runtime.go(move || (0..count).for_each(|i| send(&send_gate, i).unwrap()));
        let mut threads: Vec<_> = tasks.into_iter().flat_map(Handle::join).collect();
        sender.join();
        assert_eq!(threads.len(), 4, "each stayed on one");
        threads.sort_by_key(|id| format!("{id:?}"));
        threads.dedup();
        assert_eq!(threads.len(), 4, "each had one of its own");
    });
}

fn tasks_alone_and_others_talk(way: Way) {
    on_one(way, 50, move |runtime| {
        let tasks: Vec<_> = (0..=way.workers)
            .flat_map(|pair| {
                let (there, back) = (channel(pair % 2), channel(pair % 2));
                let (there2, back2) = (Arc::clone(&there), Arc::clone(&back));
                let other = move || relay(&there2, &back2, 20, false);
                [
                    runtime.go_alone(move || relay(&back, &there, 20, true)),
                    if pair % 2 == 0 {
                        runtime.go(other)
                    } else {
                        runtime.go_alone(other)
                    },
                ]
            })
            .collect();
        join_all(tasks);
    });
}

// ---- more workers, and fewer ----

fn tasks_run_once_while_the_workers_change(way: Way) {
    on_one(way, 60, |runtime| {
        let tally = Tally::new(300);
        let (scheduler, stop) = (runtime.0, Arc::new(AtomicUsize::new(0)));
        let stopped = Arc::clone(&stop);
        let resizer = outside(move || {
            for workers in [3, 1, 5, 2, 1, 4].into_iter().cycle() {
                scheduler.set_workers(workers);
                if stopped.load(SeqCst) != 0 {
                    return;
                }
                gil::without(thread::yield_now);
            }
        });
        let tasks: Vec<_> = (0..30)
            .map(|batch| {
                let tally = tally.clone();
                runtime.go(move || {
                    let tasks: Vec<_> = (0..9)
                        .map(|task| {
                            let tally = tally.clone();
                            spawn(move || {
                                yield_now();
                                tally.mark(batch * 10 + task);
                            })
                        })
                        .collect();
                    assert_eq!(sleep_until(Instant::now()), Outcome::TimedOut);
                    tally.mark(batch * 10 + 9);
                    join_all(tasks);
                })
            })
            .collect();
        join_all(tasks);
        tally.assert_each_once();
        stop.store(1, SeqCst);
        resizer.join();
    });
}

/// Each worker has tasks in its queue, a timer, and a parked task on its thread, when all but one go.
fn fewer_workers_leave_no_task_and_no_timer_behind(way: Way) {
    on_new(way, 30, move |runtime| {
        let barrier = Arc::new(Barrier::new(way.workers));
        let gate: Ch<()> = channel(0);
        let tasks: Vec<_> = (0..way.workers)
            .map(|_| {
                let (barrier, gate) = (Arc::clone(&barrier), Arc::clone(&gate));
                runtime.go(move || {
                    wait_for_all(&barrier); // so each is on a machine of its own
                    let queued: Vec<_> = (0..5).map(|_| spawn(|| ())).collect();
                    let soon = Instant::now() + MS;
                    let sleeper = spawn(move || assert_eq!(sleep_until(soon), Outcome::TimedOut));
                    recv(&gate).unwrap();
                    join_all(queued);
                    sleeper.join();
                })
            })
            .collect();
        runtime.0.set_workers(1);
        assert_eq!(runtime.0.workers(), 1);
        for _ in &tasks {
            send(&gate, ()).unwrap();
        }
        join_all(tasks);
    });
}

/// Tasks that wait for one another on their threads: they run at once, or never end. (With a GIL the monitor sees to it.)
fn more_workers_run_what_waits(way: Way) {
    on_new(way, 20, move |runtime| {
        let count = way.workers + 3;
        let barrier = Arc::new(Barrier::new(count));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                runtime.go(move || wait_for_all(&barrier))
            })
            .collect();
        runtime.0.set_workers(count);
        assert_eq!(runtime.0.workers(), count);
        join_all(tasks);
    });
}

// ---- several schedulers ----

fn runs_on(scheduler: &Scheduler) -> bool {
    std::ptr::eq(Machine::current().expect("in a task").scheduler, scheduler)
}

fn tasks_of_two_schedulers_talk(way: Way) {
    on_one(way, 60, move |runtime| {
        let other = Runtime::new(way);
        let tasks: Vec<_> = (0..3)
            .flat_map(|pair| {
                let (there, back) = (channel(pair % 2), channel(pair % 2));
                let (there2, back2) = (Arc::clone(&there), Arc::clone(&back));
                let scheduler = other.0;
                [
                    runtime.go(move || {
                        assert!(!runs_on(scheduler));
                        relay(&back, &there, 20, true);
                    }),
                    other.go(move || {
                        assert!(runs_on(scheduler));
                        relay(&there2, &back2, 20, false);
                    }),
                ]
            })
            .collect();
        join_all(tasks);
        adds_up(&other);
    });
}

// ---- a scheduler that is closed ----

fn a_closed_scheduler_ends_when_its_last_task_does(way: Way) {
    on_new_quietly(way, 40, |runtime| {
        let (gate, left): (Ch<()>, _) = (channel(0), Arc::new(AtomicUsize::new(0)));
        let (at, count) = (Arc::clone(&gate), Arc::clone(&left));
        let root = runtime.go(move || {
            recv(&at).unwrap();
            for _ in 0..3 {
                let count = Arc::clone(&count);
                spawn(move || {
                    yield_now();
                    let more = Arc::clone(&count);
                    spawn(move || more.fetch_add(1, SeqCst));
                    count.fetch_add(1, SeqCst);
                });
            }
        });
        let alone = Arc::clone(&left);
        let alone = runtime.go_alone(move || alone.fetch_add(1, SeqCst));
        let last = runtime.close().expect("a task waits");
        assert!(runtime.try_go(|| ()).is_none());
        assert!(!last.is_done());
        send(&gate, ()).unwrap();
        last.join();
        assert_eq!(left.load(SeqCst), 7);
        root.join();
        alone.join();
    });
}

fn a_task_submitted_while_the_scheduler_is_closed_runs_or_is_refused(way: Way) {
    on_new_quietly(way, 60, |runtime| {
        let (scheduler, run) = (
            Arc::new(std::mem::ManuallyDrop::new(Runtime(runtime.0))),
            Arc::new(AtomicUsize::new(0)),
        );
        let count = Arc::clone(&run);
        let submitter = outside(move || {
            let task = || {
                let count = Arc::clone(&count);
                scheduler.try_go(move || count.fetch_add(1, SeqCst))
            };
            while task().is_some() {
                gil::without(thread::yield_now);
            }
        });
        while run.load(SeqCst) == 0 {
            gil::without(thread::yield_now);
        }
        if let Some(last) = runtime.close() {
            last.join();
        }
        // All that were taken have run by now, and no other is taken.
        let totals = runtime.0.totals();
        assert_eq!(totals.spawned, totals.finished, "{totals:?}");
        submitter.join();
        assert_eq!(runtime.0.totals().spawned, totals.spawned);
    });
}

fn the_threads_of_a_closed_scheduler_end(way: Way) {
    on_new_quietly(way, 20, |runtime| {
        let barrier = Arc::new(Barrier::new(3));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                runtime.go(move || wait_for_all(&barrier))
            })
            .collect();
        assert!(runtime.ended_threads() < runtime.0.totals().threads);
        runtime.close();
        join_all(tasks);
        while runtime.ended_threads() != runtime.0.totals().threads {
            gil::without(thread::yield_now);
        }
    });
}

macro_rules! in_every_way {
    ($($test:ident)*) => {
        in_every_way! { @ threads_of_one: false, false, 1, 1; $($test)* }
        in_every_way! { @ threads_of_two: false, false, 2, 1; $($test)* }
        in_every_way! { @ threads_of_four: false, false, 4, 1; $($test)* }
        in_every_way! { @ threads_on_three_nodes: false, false, 6, 3; $($test)* }
        in_every_way! { @ threads_with_a_gil: false, true, 2, 1; $($test)* }
        in_every_way! { @ fibers_of_one: true, false, 1, 1; $($test)* }
        in_every_way! { @ fibers_of_two: true, false, 2, 1; $($test)* }
        in_every_way! { @ fibers_of_four: true, false, 4, 1; $($test)* }
        in_every_way! { @ fibers_on_three_nodes: true, false, 6, 3; $($test)* }
        in_every_way! { @ fibers_with_a_gil: true, true, 2, 2; $($test)* }
    };
    (@ $way:ident: $fibers:expr, $gil:expr, $workers:expr, $nodes:expr; $($test:ident)*) => {
        mod $way {
            use super::Way;
            const WAY: Way = Way { fibers: $fibers, gil: $gil, workers: $workers, nodes: $nodes };
            $(
                #[test]
                fn $test() {
                    super::$test(WAY);
                }
            )*
        }
    };
}

in_every_way! {
    tasks_from_outside_run_once
    tasks_from_many_threads_run_once
    tasks_from_one_task_run_once
    a_tree_of_tasks_runs_once
    pairs_that_wake_each_other_end
    a_pair_on_a_new_scheduler_ends
    many_to_one_and_back_ends
    wakes_from_other_threads_arrive
    a_coroutine_is_never_entered_twice_nor_forgotten
    a_pinned_coroutine_stays_on_its_thread
    a_task_that_yields_lets_others_run
    a_cancelled_wait_ends_once
    a_blocked_thread_does_not_delay_queued_tasks
    more_tasks_than_workers_may_block
    a_woken_coroutine_does_not_wait_for_a_waker_that_blocks
    a_blocked_thread_does_not_delay_timers
    a_timer_set_by_a_machine_that_lost_its_worker_fires
    a_timer_wakes_a_scheduler_that_sleeps
    ready_stacks_on_many_machines_take_turns
    searchers_that_lose_their_slot_leave_later_wakes_alone
    tasks_that_start_themselves_again_do_not_starve_a_new_one
    workers_that_never_rest_give_themselves_to_a_machine_that_waits
    a_pair_that_readies_each_other_does_not_starve_queued_tasks
    a_stopped_scheduler_starts_nothing
    parks_and_wakes_are_counted
    counts_read_while_tasks_run_are_in_order
    a_task_alone_on_its_thread_has_it_to_its_end
    tasks_alone_and_others_talk
    tasks_run_once_while_the_workers_change
    fewer_workers_leave_no_task_and_no_timer_behind
    more_workers_run_what_waits
    tasks_of_two_schedulers_talk
    a_closed_scheduler_ends_when_its_last_task_does
    a_task_submitted_while_the_scheduler_is_closed_runs_or_is_refused
    the_threads_of_a_closed_scheduler_end
    a_task_for_a_node_starts_there
}
