//! Notices tasks that block their thread, or compute on it, while others are parked there.
//!
//! Another machine takes over the worker of such a task, but nothing can move the stacks that are parked on its
//! thread: they wait for it. That is worth a message, once for each time.

use std::time::{Duration, Instant};

use super::{Machine, Scheduler, idle::Order};

/// How often within the time that makes a stall the machines are looked at.
const LOOKS: u32 = 4;

/// The machine has been at one task for too long.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    pub machine: &'static Machine,
    /// What the worker in its hand had turned to, at that time.
    turn: u64,
    /// Tasks that are parked on its thread.
    pub waiting: usize,
}

impl Stall {
    /// Whether the machine is at the same task still. Exact while its thread cannot run.
    pub fn goes_on(&self) -> bool {
        self.machine.turn() == Some(self.turn)
    }
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    turn: u64,
    since: Instant,
    reported: bool,
}

/// What the monitor remembers of each machine, by its number.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Vec<Option<Seen>>,
    look_at: Option<Instant>,
}

impl Watch {
    /// Looks if it is time to, and has each new stall reported. The monitor only.
    pub fn look(&mut self, scheduler: &'static Scheduler, now: Instant) {
        let limit = scheduler.stall_after;
        if self.look_at.is_some_and(|look_at| now < look_at) {
            return;
        }
        self.look_at = Some(now + limit / LOOKS);
        let machines = scheduler.machines.lock().clone();
        self.seen.resize(machines.len(), None);
        for (machine, seen) in machines.into_iter().zip(&mut self.seen) {
            let waiting = machine.parked();
            let turn = machine.turn().filter(|_| waiting != 0);
            let Some(turn) = turn else {
                *seen = None;
                continue;
            };
            match seen {
                Some(last) if last.turn == turn => {
                    if !last.reported && now - last.since >= limit {
                        let stall = Stall {
                            machine,
                            turn,
                            waiting,
                        };
                        last.reported = scheduler.order(Order::Report(stall));
                    }
                }
                _ => {
                    *seen = Some(Seen {
                        turn,
                        since: now,
                        reported: false,
                    });
                }
            }
        }
    }
}

/// After how long a stall is one, if nobody says otherwise.
pub const STALL_AFTER: Duration = Duration::from_secs(1);
