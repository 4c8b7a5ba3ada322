//! What the workers of one NUMA node share: the queues for what comes from outside, and who looks at other nodes.
//!
//! A node has two such queues. What is in its *injector* is its workers' first and anyone's in the end: thieves of other
//! nodes come for it, and each busy worker looks at the injectors of other nodes now and then. What is *bound* to a node
//! starts there. Where the node has no worker, its *home*, the nearest node with one, has its bound tasks.
//!
//! Of each node one machine at a time looks at the queues of other nodes: more would only fill the links between the
//! nodes with misses. README.md proves that the others may sleep meanwhile.

use std::ptr::{self, NonNull};

use super::{Machine, Refused, Scheduler, idle::Place, injector::Injector, worker::Worker};
use crate::{
    sync::{AtomicBool, Ordering},
    task::Task,
    topology::affinity,
};

#[derive(Debug, Default)]
pub struct NodeQueues {
    /// What came from outside the workers, and what overflowed.
    pub injector: Injector,
    /// What was asked to start on this node.
    pub bound: Injector,
    /// A machine of this node looks at other nodes. Set and unset by that machine, while it counts as searching; read by
    /// the others of the node.
    searches_far: AtomicBool,
}

impl NodeQueues {
    /// Lets the caller, who counts as searching, look at other nodes, if nobody of this node does.
    pub fn begin_far_search(&self) -> bool {
        // Ordering: Relaxed, a look that spares the exchange; SeqCst, read by `far_search_is_on`.
        !self.searches_far.load(Ordering::Relaxed)
            && !self.searches_far.swap(true, Ordering::SeqCst)
    }

    /// The caller still counts as searching.
    pub fn end_far_search(&self) {
        // Ordering: SeqCst, before the count of searching machines goes down.
        self.searches_far.store(false, Ordering::SeqCst);
    }

    pub fn far_search_is_on(&self) -> bool {
        // Ordering: SeqCst, read by a machine after it said that it sleeps; see README.md.
        self.searches_far.load(Ordering::SeqCst)
    }
}

impl Scheduler {
    /// Queues a new task, which starts on a worker of `node`, an index that the layout gives, or of its home. Once it has
    /// waited for something it may go on anywhere, as any other.
    ///
    /// # Safety
    /// As for [`submit`](Self::submit).
    pub unsafe fn submit_to(
        &'static self,
        node: usize,
        task: NonNull<Task>,
    ) -> Result<(), Refused> {
        match Machine::current() {
            Some(machine) if ptr::eq(machine.scheduler, self) => machine.counters().spawned.add(1),
            _ => self.count_foreign()?,
        }
        self.nodes[node].bound.push(task);
        self.wake_worker_for(node);
        Ok(())
    }

    pub(super) fn home(&self, node: usize) -> usize {
        self.layout.home(node, self.slots.len())
    }

    /// The node that the calling thread is on: that of its worker, or its CPU's home.
    pub(super) fn caller_node(&'static self) -> usize {
        if self.nodes.len() == 1 {
            return 0;
        }
        if let Some(worker) = self.local_worker() {
            return worker.node;
        }
        let node = affinity::current_cpu().and_then(|cpu| self.layout.node_of_cpu(cpu));
        self.home(node.unwrap_or(0))
    }

    /// Queues a task that the calling thread has no worker for.
    pub(super) fn inject(&'static self, task: NonNull<Task>) {
        self.nodes[self.caller_node()].injector.push(task);
    }

    /// How many tasks are in the queues of the nodes; a figure.
    pub(super) fn queued_for_nodes(&self) -> usize {
        self.nodes
            .iter()
            .map(|node| node.injector.len() + node.bound.len())
            .sum()
    }

    /// Whether there is anything in an injector.
    pub(super) fn is_injected(&self) -> bool {
        self.nodes.iter().any(|node| node.injector.len() != 0)
    }

    /// The nodes whose bound tasks are for the workers of `node`.
    fn housed(&self, node: usize) -> impl Iterator<Item = &Injector> {
        let is_here = move |at: usize| at == node || self.home(at) == node;
        (0..)
            .zip(&self.nodes)
            .map(|(at, queues)| (at, &queues.bound))
            .filter(move |(at, bound)| bound.len() != 0 && is_here(*at))
            .map(|(_, bound)| bound)
    }

    pub(super) fn take_bound(&self, node: usize) -> Option<NonNull<Task>> {
        self.housed(node).find_map(|bound| bound.pop(0, |_| ()))
    }

    pub(super) fn is_bound(&self, node: usize) -> bool {
        self.housed(node).next().is_some()
    }

    /// How well a worker suits one who is on `node`, the lower the better.
    pub(super) fn distance_from(&self, node: usize) -> impl Fn(&Worker) -> Option<u32> {
        move |worker| Some(self.layout.distance(node, worker.node))
    }

    /// Sees to it that a worker looks at what is bound to `node`, if one that may is idle.
    #[cold]
    pub(super) fn wake_worker_for(&'static self, node: usize) {
        let mut idle = self.idle.lock();
        let node = self.home(node); // under the lock: it changes with the number of workers
        let is_here = |worker: &Worker| (worker.node == node).then_some(0);
        let sleeper = idle.sleepers.iter().copied().rfind(|machine| {
            machine.place(&idle) == Place::Sleeping
                && machine.worker().is_some_and(|worker| worker.node == node)
        });
        if let Some(machine) = sleeper {
            idle.put(machine, Place::Awake);
            self.publish(&idle);
            drop(idle);
            self.unpark(machine);
        } else if let Some(worker) = idle.find_worker(is_here) {
            self.publish(&idle);
            self.give_to_spare(idle, worker, false);
        }
    }
}

impl Machine {
    /// What a busy worker runs before its own queue: by turns first from its node's injector, from what is bound to its
    /// node, and from another node's injector, whose workers may all be busy for long.
    pub(super) fn take_in_turn(&self, worker: &Worker, turn: u32) -> Option<NonNull<Task>> {
        let (turn, nodes) = (turn as usize, &self.scheduler.nodes);
        let other = (worker.node + turn / 3) % nodes.len();
        let injected = |node: usize| nodes[node].injector.pop(0, |_| ());
        (turn..turn + 3).find_map(|look| match look % 3 {
            0 => injected(worker.node),
            1 => self.scheduler.take_bound(worker.node),
            _ if other == worker.node => None,
            _ => injected(other).inspect(|_| self.count_steals(1, true)),
        })
    }

    /// The calling thread, this machine's, has got `worker`: it goes to where that is bound.
    pub(super) fn settle(&'static self, worker: &Worker) {
        // Ordering: Relaxed, a preference of those who look for a worker for this machine.
        self.node.store(worker.node, Ordering::Relaxed);
        let layout = &self.scheduler.layout;
        let bound = layout.bound_of(worker.slot);
        if let Some(number) = bound
            && self.bound.replace(bound) != bound
        {
            affinity::bind(layout.bound(number));
        }
    }

    /// The id of the node that its worker is on, or was last.
    pub fn node_id(&self) -> u32 {
        // Ordering: Relaxed, for the machine's own thread, which wrote it.
        let node = self.node.load(Ordering::Relaxed);
        self.scheduler.layout.node_id(node)
    }

    /// The calling thread, this machine's, is an ordinary one from now on, in a forked child.
    pub(super) fn unsettle(&self) {
        if self.bound.take().is_some() {
            affinity::bind(self.scheduler.layout.allowed());
        }
    }
}
