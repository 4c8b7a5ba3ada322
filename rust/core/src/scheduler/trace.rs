//! Lines about the scheduler, as Go's `GODEBUG=schedtrace` prints them: written to the standard error by the
//! monitor's thread, one write each, whether anything runs or not.
//!
//! The figures are read without stopping anybody, so they are each right and not all of one moment.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

use super::{
    Scheduler,
    idle::{Order, Place},
};
use crate::sync::Ordering;

/// What is printed, and how often.
#[derive(Clone, Copy, Debug)]
pub struct TraceConfig {
    pub interval: Duration,
    /// A line for each worker and each machine, too, and for each task: that one is the host's, since only it knows tasks.
    pub detail: bool,
}

impl Scheduler {
    /// Prints if it is time to. Says when it is next, if ever. The monitor only.
    pub(super) fn trace_if_due(&'static self, due_at: &mut Option<Instant>, now: Instant) {
        let Some(config) = self.trace else { return };
        if due_at.is_some_and(|due_at| now < due_at) {
            return;
        }
        *due_at = Some(now + config.interval);
        let text = self.describe(config.detail);
        // There is nobody to tell that the standard error is closed.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        if config.detail {
            self.order(Order::ShowTasks); // without a spare machine there are none this time
        }
    }

    pub(super) fn describe(&self, detail: bool) -> String {
        let mut text = String::new();
        // Writing to a string never fails.
        let _ = self.write_description(&mut text, detail);
        text
    }

    fn write_description(&self, text: &mut String, detail: bool) -> std::fmt::Result {
        let machines = self.machines.lock().clone();
        let idle = self.idle.lock();
        write!(
            text,
            "SCHED {}ms: workers={} idle={} threads={} searching={} spare={} waiting={} blocked={} injector={} [",
            self.origin.elapsed().as_millis(),
            self.slots.len(),
            idle.sleepers.len() + idle.free.len(),
            machines.len(),
            self.searching.load(Ordering::Relaxed), // Ordering: Relaxed, a figure.
            idle.spares.len(),
            idle.waiting.len(),
            idle.orphans.len(),
            self.queued_for_nodes(),
        )?;
        for (slot, worker) in self.slots.iter().enumerate() {
            let space = if slot == 0 { "" } else { " " };
            write!(text, "{space}{}", worker.queue.len())?;
        }
        writeln!(text, "]")?;
        if !detail {
            return Ok(());
        }
        for worker in self.slots.iter().chain(idle.orphans.iter().copied()) {
            let holder = machines.iter().find(|machine| machine.holds(worker));
            let state = match (worker.is_idle(), worker.is_orphaned()) {
                (true, _) => "idle",
                (false, true) => "blocked",
                (false, false) => "running",
            };
            write!(text, "  P{}: {state} machine=", worker.slot)?;
            match holder {
                Some(machine) => write!(text, "{}", machine.id)?,
                None => write!(text, "none")?,
            }
            writeln!(text, " turn={} queue={}", worker.turn(), worker.queue.len())?;
        }
        for machine in machines {
            let state = match machine.place(&idle) {
                Place::Awake => "awake",
                Place::Sleeping => "asleep",
                Place::Holding | Place::Parked => "parked",
                Place::Spare => "spare",
                Place::Waiting => "waiting",
            };
            writeln!(
                text,
                "  M{}: {state} parked={}",
                machine.id,
                machine.parked()
            )?;
        }
        Ok(())
    }
}
