//! What the core costs by itself: tasks, pairs, atomics, pooled objects, round trips.
//!
//! `cargo bench -p penstock-core --bench core` prints the median of some rounds and the spread. With `--questions` it
//! answers `ROW COUNT` lines on its standard input with the nanoseconds that so many operations took, as the sides
//! of `penstock bench` do: `asv_bench/core_figures.py` asks it and a Go program in turn.
//!
//! Tasks run on the native host of the tests. Where only their start and end is measured, they are the least that the
//! scheduler takes: their memory is the host's affair and made before the clock starts, and the last one says so.

#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/native_host/mod.rs"]
mod native_host;

use std::{
    hint::black_box,
    io::{BufRead, stdin},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Instant,
};

use native_host::{Runtime, Way, channel, recv, send};
use penstock_core::{
    atomic::Integer,
    channel::Channel,
    memory::objects::{Identity, Objects, Returned},
    scheduler::Machine,
    sync::{Exclusive, Mode, Shared},
    task::{Task, TaskVtable},
    wait::WaiterClass,
};

/// A row: its name, how many operations a sample of its own has, and the nanoseconds that a count of them takes.
type Row = (&'static str, usize, fn(usize) -> u128);

const ROWS: [Row; 9] = [
    ("spawn", 100_000, |count| spawn(count, 2)),
    ("spawn_one", 100_000, |count| spawn(count, 1)),
    ("pair", 1_000_000, |count| pair(count, Shared)),
    ("pair_plain", 1_000_000, |count| pair(count, exclusive())),
    ("atomic", 1_000_000, |count| add(count, Shared)),
    ("atomic_plain", 1_000_000, |count| add(count, exclusive())),
    ("objects", 1_000_000, |count| lend(count, Shared)),
    ("objects_plain", 1_000_000, |count| lend(count, exclusive())),
    ("pingpong", 50_000, pingpong),
];
const ROUNDS: usize = 15;

fn main() {
    if std::env::args().any(|argument| argument == "--questions") {
        answer();
    } else {
        for row in ROWS {
            report(row);
        }
    }
}

/// A line of JSON for each line of standard input, after one that says what there is to ask.
fn answer() {
    let names = ROWS.map(|(name, _, _)| format!("\"{name}\"")).join(", ");
    println!("{{\"rows\": [{names}]}}");
    for line in stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let asked = line.split_once(' ').and_then(|(row, count)| {
            let (_, _, run) = ROWS.iter().find(|(name, _, _)| *name == row)?;
            Some(run(count.parse().ok()?))
        });
        match asked {
            Some(ns) => println!("{{\"amount\": {ns}}}"),
            None => println!("{{\"error\": \"not a question: {line}\"}}"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second")]
fn report((name, count, run): Row) {
    run(count / 10);
    let mut ns: Vec<f64> = (0..ROUNDS)
        .map(|_| run(count) as f64 / count as f64)
        .collect();
    ns.sort_by(f64::total_cmp);
    println!(
        "{name:12} {:8.2} ns ({:.2} to {:.2})",
        ns[ROUNDS / 2],
        ns[0],
        ns[ROUNDS - 1]
    );
}

fn exclusive() -> Exclusive {
    // SAFETY: what is built with it stays on the thread that built it.
    unsafe { Exclusive::promise() }
}

// ---- tasks ----

const fn way(workers: usize) -> Way {
    Way {
        fibers: true,
        gil: false,
        workers,
        nodes: 1,
    }
}

/// A task that does nothing.
#[repr(C)]
struct Empty {
    /// First, so that a pointer to it is one to the whole.
    core: Task,
    batch: *const Batch,
}

/// Tasks that are measured together. It outlives them: who waits for it is told by the last one.
struct Batch {
    /// Tasks that have not ended.
    left: AtomicUsize,
    owner: Thread,
}

static EMPTY: TaskVtable = TaskVtable {
    run,
    waiter: WaiterClass {
        retain: |_| {}, // all are freed together, when the last has ended
        release: |_| {},
        wake: |_| unreachable!("none of them waits"),
    },
};

/// # Safety
/// `task` is an [`Empty`] that is run for the first time.
unsafe fn run(task: NonNull<Task>) {
    let machine = Machine::current().expect("tasks run on machines");
    // SAFETY: by the caller's promise; it lives until the batch is told of its end.
    let (task, batch) = unsafe {
        let empty = task.cast::<Empty>();
        (&(*empty.as_ptr()).core, &*(*empty.as_ptr()).batch)
    };
    assert!(task.start());
    machine.counters().started.add(1);
    machine.counters().finished.add(1);
    task.finish();
    let owner = batch.owner.clone();
    // Ordering: AcqRel, so that the last, and by it the owner, comes after every other's end.
    if batch.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        owner.unpark();
    }
}

/// Empty tasks, started by one task, until the last of them has ended.
fn spawn(count: usize, workers: usize) -> u128 {
    let runtime = Runtime::new(way(workers));
    let scheduler = runtime.0;
    let batch = Batch {
        left: AtomicUsize::new(count),
        owner: thread::current(),
    };
    let mut tasks: Vec<Empty> = (0..count)
        .map(|_| Empty {
            core: Task::new(&EMPTY, scheduler),
            batch: &raw const batch,
        })
        .collect();
    let first = tasks.as_mut_ptr().expose_provenance();
    let started = runtime.go(move || {
        let start = Instant::now();
        for index in 0..count {
            let task = std::ptr::with_exposed_provenance_mut::<Empty>(first).wrapping_add(index);
            let task = NonNull::new(task.cast::<Task>()).expect("in a vector");
            // SAFETY: alive and new.
            unsafe { scheduler.submit(task) }.expect("it is open");
        }
        start
    });
    // Ordering: Acquire pairs with the decrements, so that all have ended for us, and may be freed.
    while batch.left.load(Ordering::Acquire) > 0 {
        thread::park();
    }
    let end = Instant::now();
    (end - started.join()).as_nanos()
}

/// Round trips between two tasks with stacks of their own, over two rendezvous channels.
fn pingpong(count: usize) -> u128 {
    let runtime = Runtime::new(way(2));
    let (there, back) = (channel::<usize>(0), channel::<usize>(0));
    let (far_there, far_back) = (Arc::clone(&there), Arc::clone(&back));
    let ping = runtime.go(move || {
        let pong = native_host::spawn(move || {
            for _ in 0..count {
                let value = recv(&far_there).expect("it stays open");
                send(&far_back, value).expect("it stays open");
            }
        });
        let start = Instant::now();
        for turn in 0..count {
            send(&there, turn).expect("it stays open");
            assert_eq!(recv(&back), Ok(turn));
        }
        let ns = start.elapsed().as_nanos();
        pong.join();
        ns
    });
    ping.join()
}

// ---- what never waits ----

/// Sends and receives on a channel where nobody waits.
fn pair<M: Mode>(count: usize, mode: M) -> u128 {
    let channel = Channel::bounded(16, mode);
    let start = Instant::now();
    for value in 0..count {
        assert!(black_box(&channel).try_send(black_box(value)).is_ok());
        assert!(black_box(black_box(&channel).try_recv()).is_ok());
    }
    start.elapsed().as_nanos()
}

/// An object known by its address.
struct Thing(Box<u64>);

impl Identity for Thing {
    fn identity(&self) -> usize {
        std::ptr::from_ref(&*self.0).addr()
    }
}

/// An idle object is taken and given back.
fn lend<M: Mode>(count: usize, mode: M) -> u128 {
    let objects = Objects::new(mode, 1024);
    let first = Thing(Box::new(0));
    objects.made(&first, true);
    assert!(matches!(objects.give_back(first), Returned::Kept));
    let start = Instant::now();
    for _ in 0..count {
        let thing = objects.take().expect("it is idle");
        assert!(matches!(
            objects.give_back(black_box(thing)),
            Returned::Kept
        ));
    }
    start.elapsed().as_nanos()
}

/// Additions to one number.
fn add<M: Mode>(count: usize, mode: M) -> u128 {
    let number = Integer::new(0, mode);
    let start = Instant::now();
    for _ in 0..count {
        black_box(&number).add(black_box(1));
    }
    let ns = start.elapsed().as_nanos();
    assert_eq!(usize::try_from(number.load()), Ok(count));
    ns
}
