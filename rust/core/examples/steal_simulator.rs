//! What the steal order is worth on machines nobody here has: `cargo run --release --example steal_simulator`.
//!
//! Time goes in steps. In each step a worker runs one unit of its task, or, without one, looks at one victim: in the
//! order that the scheduler has from [`Victims`], or in a flat random one. A look at another node takes more steps, and
//! so does each unit of a task that runs on another node than it was made on (its memory is there). A worker that
//! finds nothing in its four passes sleeps; one that is made to run a task wakes the next, nearest first.
//!
//! Prints the table of `docs/design/numa.md`; with a path, writes the plot there too.

use std::{collections::VecDeque, fmt::Write as _, process::ExitCode};

use penstock_core::{
    scheduler::victims::{Random, Victims},
    topology::{Layout, Node, Pin, Topology},
};

/// Steps for a look at a queue: near, and on another node.
const NEAR_LOOK: u32 = 1;
const FAR_LOOK: u32 = 4;
/// Steps for a task at home, and for one whose memory is on another node.
const TASK: u32 = 200;
const FAR_TASK: u32 = 300;
/// Steps from a wake-up to the first look.
const WAKE: u32 = 50;
const PASSES: u32 = 4;
const SEEDS: u32 = 5;

#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Rings,
    Flat,
}

#[derive(Clone, Copy)]
enum Load {
    /// Each worker makes a task as often as it can run one.
    Uniform,
    /// All tasks are made by the workers of one node, half of what the machine can run.
    Skewed,
    /// One worker gets 32 tasks for each worker of the machine at once, now and then.
    Bursty,
}

#[derive(Clone, Copy)]
enum State {
    Running {
        left: u32,
    },
    /// Looks at victims: those still to come in this pass, the pass, and steps until the next look.
    Searching {
        pass: u32,
        busy: u32,
    },
    Asleep,
}

struct Worker {
    queue: VecDeque<usize>, // the node that each task was made on
    state: State,
    to_look_at: Vec<usize>,
    searches_far: bool,
}

#[derive(Default)]
struct Outcome {
    done: u64,
    near: u64,
    far: u64,
    wakes: u64,
    /// Steps from a burst until no worker has more than four tasks while another has none; summed, and how many.
    balance: (u64, u64),
}

struct Simulation<'a> {
    layout: &'a Layout,
    policy: Policy,
    workers: Vec<Worker>,
    random: Random,
    /// Who looks at other nodes, by node.
    far_searchers: Vec<bool>,
    outcome: Outcome,
}

fn machine(nodes: u32, cpus: u32) -> Layout {
    // A ring of nodes, as eight sockets are wired: the next is near, the opposite far.
    let hops = |a: u32, b: u32| a.abs_diff(b).min(nodes - a.abs_diff(b));
    let node = |id: u32| Node {
        cpus: (cpus * id..cpus * (id + 1)).collect(),
        distances: (0..nodes)
            .map(|other| (other, 10 + 11 * hops(id, other)))
            .collect(),
        ..Node::new(id)
    };
    let topology = Topology::new((0..nodes).map(node).collect()).expect("it is sound");
    let count = usize::try_from(nodes * cpus).expect("a few");
    Layout::new(&topology, &topology.cpus(), Pin::Node, count)
}

impl Simulation<'_> {
    fn new(layout: &Layout, policy: Policy, seed: u32) -> Simulation<'_> {
        let idle = || Worker {
            queue: VecDeque::new(),
            state: State::Asleep,
            to_look_at: Vec::new(),
            searches_far: false,
        };
        Simulation {
            layout,
            policy,
            workers: (0..layout.seats()).map(|_| idle()).collect(),
            random: Random::new(seed),
            far_searchers: vec![false; layout.nodes()],
            outcome: Outcome::default(),
        }
    }

    fn submit(&mut self, worker: usize, tasks: usize) {
        let node = self.layout.node_of(worker);
        self.workers[worker]
            .queue
            .extend(std::iter::repeat_n(node, tasks));
        self.notify(worker);
    }

    /// Wakes one, unless one searches; the nearest with rings, any without.
    fn notify(&mut self, by: usize) {
        let searching = |worker: &Worker| matches!(worker.state, State::Searching { .. });
        if self.workers.iter().any(searching) {
            return;
        }
        let asleep: Vec<usize> = (0..self.workers.len())
            .filter(|at| matches!(self.workers[*at].state, State::Asleep))
            .collect();
        if asleep.is_empty() {
            return;
        }
        let start = self.random.below(asleep.len());
        let (before, from) = asleep.split_at(start);
        let distance = |at: &&usize| match self.policy {
            Policy::Rings => self
                .layout
                .distance(self.layout.node_of(by), self.layout.node_of(**at)),
            Policy::Flat => 0,
        };
        let woken = *from
            .iter()
            .chain(before)
            .min_by_key(distance)
            .expect("not empty");
        self.outcome.wakes += 1;
        self.workers[woken].to_look_at.clear();
        self.workers[woken].state = State::Searching {
            pass: 0,
            busy: WAKE,
        };
    }

    /// Whom `thief` looks at in a pass: what the scheduler does in `Machine::search`.
    fn victims(&mut self, thief: usize, pass: u32) -> Vec<usize> {
        let count = self.workers.len();
        let random = &mut self.random;
        if self.policy == Policy::Flat {
            let start = random.below(count);
            return (0..count).map(|at| (start + at) % count).collect();
        }
        let victims = Victims::of(self.layout, thief, count);
        let mut all: Vec<usize> = victims.near(random).collect();
        let node = self.layout.node_of(thief);
        if pass > 1 && (self.workers[thief].searches_far || !self.far_searchers[node]) {
            self.far_searchers[node] = true;
            self.workers[thief].searches_far = true;
            if pass == PASSES {
                all.extend(victims.far(random));
            } else {
                all.extend((0..victims.near_count()).filter_map(|_| victims.sample_far(random)));
            }
        }
        all
    }

    fn stop_searching(&mut self, thief: usize) {
        if std::mem::take(&mut self.workers[thief].searches_far) {
            self.far_searchers[self.layout.node_of(thief)] = false;
        }
    }

    /// What a worker looks at once more before it sleeps: the other nodes only while nobody of its own looks there.
    fn work_is_visible(&self, thief: usize) -> bool {
        let node = self.layout.node_of(thief);
        let only_near = self.policy == Policy::Rings && self.far_searchers[node];
        let counts = |at: usize| !only_near || self.layout.node_of(at) == node;
        (0..self.workers.len()).any(|at| counts(at) && !self.workers[at].queue.is_empty())
    }

    fn look(&mut self, thief: usize, mut pass: u32) {
        if self.workers[thief].to_look_at.is_empty() {
            pass += 1;
            if pass > PASSES {
                self.stop_searching(thief);
                self.workers[thief].state = if self.work_is_visible(thief) {
                    State::Searching {
                        pass: 0,
                        busy: NEAR_LOOK,
                    }
                } else {
                    State::Asleep
                };
                return;
            }
            let mut order = self.victims(thief, pass);
            order.reverse();
            self.workers[thief].to_look_at = order;
        }
        let victim = self.workers[thief]
            .to_look_at
            .pop()
            .expect("a pass is not empty");
        let is_far = self.layout.node_of(victim) != self.layout.node_of(thief);
        // A task that is alone is taken in the last pass only.
        let waiting = self.workers[victim].queue.len();
        let take = if victim == thief { 0 } else { waiting / 2 };
        let take = if pass == PASSES && victim != thief {
            take.max(waiting.min(1))
        } else {
            take
        };
        if take == 0 {
            let busy = if is_far { FAR_LOOK } else { NEAR_LOOK };
            self.workers[thief].state = State::Searching { pass, busy };
            return;
        }
        *(if is_far {
            &mut self.outcome.far
        } else {
            &mut self.outcome.near
        }) += take as u64;
        let stolen: Vec<usize> = self.workers[victim].queue.drain(..take).collect();
        self.workers[thief].queue.extend(stolen);
        self.workers[thief].to_look_at.clear();
        self.stop_searching(thief);
        self.run_next(thief);
        self.notify(thief); // the last searcher that finds something wakes the next
    }

    fn run_next(&mut self, worker: usize) {
        let node = self.layout.node_of(worker);
        let Some(made_on) = self.workers[worker].queue.pop_front() else {
            self.workers[worker].state = State::Searching {
                pass: 0,
                busy: NEAR_LOOK,
            };
            return;
        };
        let left = if made_on == node { TASK } else { FAR_TASK };
        self.workers[worker].state = State::Running { left };
    }

    fn step(&mut self) {
        for at in 0..self.workers.len() {
            match self.workers[at].state {
                State::Running { left: 1 } => {
                    self.outcome.done += 1;
                    self.run_next(at);
                }
                State::Running { left } => {
                    self.workers[at].state = State::Running { left: left - 1 }
                }
                State::Searching { pass, busy: 0 | 1 } if self.workers[at].queue.is_empty() => {
                    self.look(at, pass);
                }
                State::Searching { busy: 0 | 1, .. } => {
                    self.stop_searching(at);
                    self.run_next(at);
                }
                State::Searching { pass, busy } => {
                    self.workers[at].state = State::Searching {
                        pass,
                        busy: busy - 1,
                    };
                }
                State::Asleep if self.workers[at].queue.is_empty() => {}
                State::Asleep => self.run_next(at),
            }
        }
    }

    fn is_balanced(&self) -> bool {
        let idle = |worker: &Worker| {
            worker.queue.is_empty() && !matches!(worker.state, State::Running { .. })
        };
        self.workers.iter().all(|worker| worker.queue.len() <= 4) || !self.workers.iter().any(idle)
    }

    fn run(mut self, load: Load, steps: u32) -> Outcome {
        let count = self.workers.len();
        let node_size = count / self.layout.nodes();
        let mut unbalanced_since = None;
        for step in 0..steps {
            match load {
                Load::Uniform => {
                    for worker in 0..count {
                        if self.random.below(TASK as usize * 10 / 8) == 0 {
                            self.submit(worker, 1);
                        }
                    }
                }
                Load::Skewed => {
                    for number in 0..count / 2 {
                        if self.random.below(TASK as usize) == 0 {
                            // Workers of node 0: the first of each round of the placement.
                            let worker = (number % node_size) * self.layout.nodes();
                            self.submit(worker, 1);
                        }
                    }
                }
                Load::Bursty => {
                    if step % 20_000 == 0 {
                        let worker = self.random.below(count);
                        self.submit(worker, 32 * count);
                        unbalanced_since = Some(step);
                    }
                }
            }
            self.step();
            if let Some(since) = unbalanced_since
                && self.is_balanced()
            {
                self.outcome.balance.0 += u64::from(step - since);
                self.outcome.balance.1 += 1;
                unbalanced_since = None;
            }
        }
        self.outcome
    }
}

struct Row {
    name: String,
    /// Percent of the stolen tasks that were stolen on the thief's node.
    local: f64,
    wakes: f64,
    balance: Option<f64>,
    done: f64,
}

fn measure(layout: &Layout, machine: &str, policy: Policy, load: Load, kind: &str) -> Row {
    const STEPS: u32 = 60_000;
    let mut sum = Outcome::default();
    for seed in 1..=SEEDS {
        let one = Simulation::new(layout, policy, seed).run(load, STEPS);
        sum.done += one.done;
        sum.near += one.near;
        sum.far += one.far;
        sum.wakes += one.wakes;
        sum.balance.0 += one.balance.0;
        sum.balance.1 += one.balance.1;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of a few millions")]
    let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let by_policy = if policy == Policy::Rings {
        "rings"
    } else {
        "flat"
    };
    Row {
        name: format!("{machine}, {kind}, {by_policy}"),
        local: 100.0 * ratio(sum.near, sum.near + sum.far),
        wakes: 1000.0 * ratio(sum.wakes, sum.done),
        balance: (sum.balance.1 > 0).then(|| ratio(sum.balance.0, sum.balance.1)),
        done: ratio(sum.done, u64::from(SEEDS * STEPS)),
    }
}

fn plot(rows: &[Row]) -> String {
    let mut svg = String::new();
    let height = 30 + 22 * rows.len();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"640\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"220\" y=\"18\">stolen on the thief's own node, percent of all stolen tasks</text>"
    );
    for (at, row) in rows.iter().enumerate() {
        let y = 30 + 22 * at;
        let colour = if row.name.ends_with("rings") {
            "#2b6cb0"
        } else {
            "#a0aec0"
        };
        let _ = writeln!(
            svg,
            "<text x=\"210\" y=\"{text_y}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"220\" y=\"{y}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>\n\
             <text x=\"{value_x:.1}\" y=\"{text_y}\">{local:.1}</text>",
            text_y = y + 12,
            name = row.name,
            width = 3.6 * row.local,
            value_x = 225.0 + 3.6 * row.local,
            local = row.local,
        );
    }
    svg + "</svg>\n"
}

fn main() -> ExitCode {
    let mut rows = Vec::new();
    println!(
        "| machine, load, order | stolen near, % | wake-ups per 1,000 tasks | steps to balance | tasks per step |"
    );
    println!("| --- | --- | --- | --- | --- |");
    for (nodes, cpus) in [(2, 64), (8, 32)] {
        let layout = machine(nodes, cpus);
        for (load, kind) in [
            (Load::Uniform, "uniform"),
            (Load::Skewed, "skewed"),
            (Load::Bursty, "bursty"),
        ] {
            for policy in [Policy::Rings, Policy::Flat] {
                let row = measure(&layout, &format!("{nodes} x {cpus}"), policy, load, kind);
                let balance = row
                    .balance
                    .map_or_else(|| "-".to_owned(), |steps| format!("{steps:.0}"));
                println!(
                    "| {} | {:.1} | {:.1} | {balance} | {:.2} |",
                    row.name, row.local, row.wakes, row.done
                );
                rows.push(row);
            }
        }
    }
    let Some(path) = std::env::args_os().nth(1) else {
        return ExitCode::SUCCESS;
    };
    if let Err(error) = std::fs::write(&path, plot(&rows)) {
        eprintln!("{}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
