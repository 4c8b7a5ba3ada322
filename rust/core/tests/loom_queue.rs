//! Every interleaving of a worker and thieves on a ring of two slots.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --release --test loom_queue`
#![cfg(loom)]

use std::{ptr::NonNull, sync::Arc};

use loom::thread;
use penstock_core::{scheduler::queue::Queue, task::Task};

fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(body);
}

/// A task known by a number: a queue never looks into it.
fn task(number: usize) -> NonNull<Task> {
    NonNull::without_provenance((number << 4).try_into().unwrap())
}

fn number(task: NonNull<Task>) -> usize {
    task.addr().get() >> 4
}

/// Pushes, as the scheduler does; what overflows is the second part of the result.
fn push(queue: &Queue, number: usize, overflowed: &mut Vec<usize>) {
    if let Err(overflow) = queue.push(task(number)) {
        let tasks = overflow.tasks.iter().copied();
        overflowed.extend(tasks.map(|task| self::number(NonNull::new(task).unwrap())));
    }
}

fn pop_all(queue: &Queue) -> Vec<usize> {
    let pop = || queue.take_next().or_else(|| queue.pop());
    std::iter::from_fn(pop).map(number).collect()
}

/// Steals once, and gives what it got: the task to run, then those that came into its own ring.
fn steal(from: &Queue) -> Vec<usize> {
    let mine = Queue::default();
    let Some((first, moved)) = from.steal_into(&mine, 1) else {
        return Vec::new();
    };
    let mut got = vec![number(first)];
    got.extend(pop_all(&mine));
    assert_eq!(got.len(), moved as usize);
    got
}

fn assert_each_once(parts: impl IntoIterator<Item = Vec<usize>>, count: usize) {
    let mut all: Vec<usize> = parts.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (1..=count).collect::<Vec<_>>());
}

fn in_thread<R: 'static>(
    queue: &Arc<Queue>,
    body: impl FnOnce(&Queue) -> R + 'static,
) -> thread::JoinHandle<R> {
    let queue = Arc::clone(queue);
    thread::spawn(move || body(&queue))
}

#[test]
fn a_thief_and_the_owner_share_every_task() {
    explore(3, || {
        let queue = Arc::new(Queue::default());
        let mut over = Vec::new();
        push(&queue, 1, &mut over);
        let thief = in_thread(&queue, steal);
        push(&queue, 2, &mut over);
        let first = queue.pop().map(number);
        push(&queue, 3, &mut over); // the slot of the first, which a thief may still read
        let mine = pop_all(&queue);
        let stolen = thief.join().unwrap();
        assert_each_once([over, first.into_iter().collect(), mine, stolen], 3);
    });
}

#[test]
fn a_full_ring_overflows_under_a_thief() {
    explore(3, || {
        let queue = Arc::new(Queue::default());
        let mut over = Vec::new();
        push(&queue, 1, &mut over);
        push(&queue, 2, &mut over);
        let thief = in_thread(&queue, steal);
        push(&queue, 3, &mut over);
        push(&queue, 4, &mut over);
        let mine = pop_all(&queue);
        assert_each_once([over, mine, thief.join().unwrap()], 4);
    });
}

#[test]
fn two_thieves_and_the_owner_share_every_task() {
    explore(2, || {
        let queue = Arc::new(Queue::default());
        let mut over = Vec::new();
        push(&queue, 1, &mut over);
        push(&queue, 2, &mut over);
        let thieves = [(); 2].map(|()| in_thread(&queue, steal));
        push(&queue, 3, &mut over);
        let mine = pop_all(&queue);
        let [first, second] = thieves.map(|thief| thief.join().unwrap());
        assert_each_once([over, mine, first, second], 3);
    });
}

#[test]
fn thieves_from_the_beginning_see_a_tail_behind_each_head_that_moved() {
    explore(2, || {
        let queue = Arc::new(Queue::default());
        let mut over = Vec::new();
        let thieves = [(); 2].map(|()| in_thread(&queue, steal));
        for number in 1..=3 {
            push(&queue, number, &mut over);
        }
        let mine = pop_all(&queue);
        let [first, second] = thieves.map(|thief| thief.join().unwrap());
        assert_each_once([over, mine, first, second], 3);
    });
}

#[test]
fn the_task_readied_last_goes_to_one_of_two() {
    explore(3, || {
        let queue = Arc::new(Queue::default());
        let thief = in_thread(&queue, |queue| {
            queue.take_next().map(number).into_iter().collect()
        });
        let mut displaced = Vec::new();
        displaced.extend(queue.push_next(task(1)).map(number));
        displaced.extend(queue.push_next(task(2)).map(number));
        let mine = pop_all(&queue);
        assert_each_once([displaced, mine, thief.join().unwrap()], 2);
    });
}

/// What is written before a push is seen by who steals the task, or takes it from the run-next slot.
#[test]
fn what_was_written_before_a_push_comes_with_the_task() {
    explore(3, || {
        let queue = Arc::new(Queue::default());
        let data = [(); 2].map(|()| Arc::new(loom::cell::UnsafeCell::new(0)));
        let seen = data.clone();
        let thief = in_thread(&queue, move |queue| {
            for number in steal(queue)
                .into_iter()
                .chain(queue.take_next().map(self::number))
            {
                // SAFETY: who has the task has what was written for it.
                seen[number - 1].with(|value| assert_eq!(unsafe { *value }, number));
            }
        });
        for (at, cell) in data.iter().enumerate() {
            // SAFETY: the task is not queued yet.
            cell.with_mut(|value| unsafe { *value = at + 1 });
        }
        assert!(queue.push(task(1)).is_ok());
        assert!(queue.push_next(task(2)).is_none());
        thief.join().unwrap();
    });
}
