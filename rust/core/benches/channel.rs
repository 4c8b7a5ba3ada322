//! How long is an uncontended send and receive, with atomics and with plain cells?
//!
//! `cargo bench -p penstock-core --bench channel`. Prints the median of some rounds and the spread.

use std::{hint::black_box, time::Instant};

use penstock_core::{
    channel::Channel,
    sync::{Exclusive, Mode, Shared},
};

const PAIRS: u32 = 1_000_000;
const ROUNDS: usize = 15;

fn main() {
    // SAFETY: this program has one thread.
    let exclusive = unsafe { Exclusive::promise() };
    for capacity in [1, 16, 1000] {
        report(
            "shared",
            Some(capacity),
            &Channel::bounded(capacity, Shared),
        );
        report(
            "exclusive",
            Some(capacity),
            &Channel::bounded(capacity, exclusive),
        );
    }
    report("shared", None, &Channel::unbounded(Shared));
    report("exclusive", None, &Channel::unbounded(exclusive));
}

fn report<M: Mode>(mode: &str, capacity: Option<usize>, channel: &Channel<usize, M>) {
    let mut ns_per_pair: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for value in 0..PAIRS as usize {
                let sent = black_box(channel).try_send(black_box(value));
                assert!(sent.is_ok());
                let received = black_box(channel).try_recv();
                assert!(black_box(received).is_ok());
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(PAIRS)
        })
        .collect();
    ns_per_pair.sort_by(f64::total_cmp);
    let capacity = capacity.map_or_else(|| "none".to_owned(), |capacity| capacity.to_string());
    println!(
        "send + recv pair, {mode:9} capacity {capacity:>4}: {:6.2} ns ({:.2} to {:.2})",
        ns_per_pair[ROUNDS / 2],
        ns_per_pair[0],
        ns_per_pair[ROUNDS - 1],
    );
}
