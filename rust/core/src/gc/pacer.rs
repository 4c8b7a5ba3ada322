//! The plan: thresholds for the collector, and what to collect in an idle window.

use std::time::{Duration, Instant};

use super::{
    Collector,
    cost::Cost,
    idle::{Decision, Windows},
};

/// What the program's author has decided.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The longest pause that the pacer plans, growth collections aside.
    pub pause_budget: Duration,
    /// By which share of what was alive the heap may grow before it is looked at as a whole.
    pub growth: f64,
    /// Objects by which it may grow anyway.
    pub growth_min: u64,
}

/// Collections of the youngest generation to a slice.
const NURSERIES: u64 = 8;
/// The smallest slice: as many objects as `CPython` 3.11 looks at in eight of its collections.
const SLICE_MIN: u64 = NURSERIES * 700;
/// A window is used for more than the budget if it is expected to last so many times as long as that takes.
const MARGIN: u32 = 4;
/// What the count of a free-threaded build, of 32 bits, surely gets past.
const THRESHOLD_MAX: i32 = i32::MAX / 2;
/// A frozen object costs a free-threaded collection this fraction of another: it is passed over, one by one.
const FROZEN_SHARE: u64 = 2;

/// When the collector acts on its own, as `gc.set_threshold` has it.
pub type Thresholds = [i32; 3];

/// A collection that is over.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    pub generation: u8,
    /// Objects in the youngest generation when it began.
    pub young: u64,
    /// Objects that it found to be garbage.
    pub garbage: u64,
    pub pause: Duration,
}

/// What it knows of the heap are estimates: objects that were freed because nobody referred to them any more leave a
/// generation without notice. Counts err on the high side for it, and costs on the low side by as much.
#[derive(Clone, Debug)]
pub struct Pacer {
    collector: Collector,
    policy: Policy,
    /// Objects that were alive when the heap was looked at as a whole, frozen ones included.
    live: u64,
    /// Those that no collection looks at.
    frozen: u64,
    /// Survivors of one collection.
    middle: u64,
    /// Survivors of more, which only a whole collection looks at.
    old: u64,
    /// By how much `old` has grown since the last of these.
    grown: u64,
    /// By generation, because what was made just now is in the processor's caches: looking at an object of a slice takes
    /// three times as long.
    costs: [Cost; 3],
    windows: Windows,
    /// Since when there is nothing to do, and at which turn of the scheduler that was.
    idle_since: Option<(Instant, u64)>,
    /// When the scheduler woke up last.
    woke_at: Option<Instant>,
}

impl Pacer {
    /// `live` objects, `frozen` of which no collection looks at.
    pub fn new(collector: Collector, policy: Policy, live: u64, frozen: u64) -> Self {
        Self {
            collector,
            policy,
            live,
            frozen,
            middle: 0,
            old: live.saturating_sub(frozen),
            grown: 0,
            costs: [Cost::default(); 3],
            windows: Windows::default(),
            idle_since: None,
            woke_at: None,
        }
    }

    /// The heap was counted, behind a collection of all that took `pause`, and frozen or unfrozen.
    pub fn frozen(&mut self, live: u64, frozen: u64, pause: Option<Duration>) {
        if let Some(pause) = pause {
            self.costs[2].learn(live, pause);
        }
        (self.live, self.frozen) = (live, frozen);
        (self.middle, self.old, self.grown) = (0, live.saturating_sub(frozen), 0);
    }

    /// By how many objects the heap may grow before it is looked at as a whole.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a bound; `growth` is not negative, and a float that is too large becomes the largest integer"
    )]
    pub fn bound(&self) -> u64 {
        let share = (self.live as f64 * self.policy.growth) as u64;
        share.max(self.policy.growth_min).max(1)
    }

    /// Whether it has.
    pub fn is_due(&self) -> bool {
        self.grown >= self.bound()
    }

    /// The heap has grown by no more than so many objects, by another count: what was freed was not counted here.
    pub fn grew_by_at_most(&mut self, objects: u64) {
        let freed = self.grown.saturating_sub(objects);
        self.grown -= freed;
        self.old = self.old.saturating_sub(freed);
    }

    /// Objects that a slice has.
    fn slice(&self) -> u64 {
        let in_budget = self.costs[1].objects_in(self.policy.pause_budget);
        in_budget.min(self.bound() / 4).max(SLICE_MIN)
    }

    /// When the collector is to act on its own. `None`: as it sees fit.
    pub fn thresholds(&self, found: Thresholds) -> Option<Thresholds> {
        let limited = |objects: u64| i32::try_from(objects).unwrap_or(i32::MAX);
        match self.collector {
            // A slice is a collection of the middle generation, because `CPython` makes one of the old on conditions of
            // its own. Those are met when it is due: the survivors of slices are more than a quarter of what it looked at.
            Collector::Generational => {
                let young = self.slice() / NURSERIES;
                let is_slice_due = self.middle + young >= self.slice();
                let open_if = |is_due| if is_due { 0 } else { i32::MAX };
                Some([
                    limited(young),
                    open_if(is_slice_due),
                    open_if(self.is_due()),
                ])
            }
            Collector::Incremental => None,
            // The 0 takes away two conditions of `CPython`'s: that a quarter of what was alive has been made, which the bound
            // is not below, and that the process has grown by a tenth, which is no bound for garbage that fills its holes.
            Collector::WholeHeap => {
                let bound = limited(self.bound()).min(THRESHOLD_MAX);
                Some([bound, 0, found[2]])
            }
        }
    }

    /// How many objects a collection of this generation looks at.
    fn looks_at(&self, generation: u8, young: u64) -> u64 {
        match (self.collector, generation) {
            (Collector::WholeHeap, _) => {
                self.frozen / FROZEN_SHARE + self.old + self.middle + young
            }
            (_, 0) => young,
            (_, 1) => young + self.middle,
            (_, _) => young + self.middle + self.old,
        }
    }

    /// Which of the three a collection of this generation really is.
    fn kind(&self, generation: u8) -> usize {
        match self.collector {
            Collector::WholeHeap => 2,
            _ => usize::from(generation.min(2)),
        }
    }

    /// A collection is over, whoever asked for it.
    pub fn finished(&mut self, collection: Finished) {
        let objects = self.looks_at(collection.generation, collection.young);
        let survivors = objects.saturating_sub(collection.garbage);
        let kind = self.kind(collection.generation);
        self.costs[kind].learn(objects, collection.pause);
        match kind {
            0 => self.middle += survivors,
            1 => {
                self.middle = 0;
                self.old += survivors;
                self.grown += survivors;
            }
            _ => {
                self.old =
                    (self.old + self.middle + collection.young).saturating_sub(collection.garbage);
                self.live = self.frozen + self.old;
                (self.middle, self.grown) = (0, 0);
            }
        }
    }

    /// There is nothing to do now; at the latest at `until` there is again. `turn` is a number that is the same as long as
    /// there was nothing else to do, and `young` how many objects the youngest generation has.
    pub fn idle(
        &mut self,
        now: Instant,
        until: Option<Instant>,
        turn: u64,
        young: u64,
    ) -> Decision {
        let age = now.saturating_duration_since(self.idle_since(now, turn));
        let rest = until.map(|until| until.saturating_duration_since(now));
        let expected = self.windows.expected(age, rest);
        let mut ask_after = None;
        for generation in self.worth_it(young) {
            let takes = self.costs[self.kind(generation)].of(self.looks_at(generation, young));
            let with_margin = takes * MARGIN;
            if with_margin <= expected || takes <= expected.min(self.policy.pause_budget) {
                return Decision::Collect(generation);
            }
            // It will do no harm if nothing comes before.
            let wait = with_margin.saturating_sub(age);
            if rest.is_none_or(|rest| wait + with_margin <= rest) {
                ask_after = Some(ask_after.map_or(wait, |sooner: Duration| sooner.min(wait)));
            }
        }
        ask_after.map_or(Decision::Sleep, Decision::AskAfter)
    }

    /// When the window that is there at `turn` began. The one before is over then, and is learned from.
    fn idle_since(&mut self, now: Instant, turn: u64) -> Instant {
        match self.idle_since {
            Some((since, last)) if last == turn => since,
            before => {
                let slept = |(since, _)| self.woke_at?.checked_duration_since(since);
                if let Some(length) = before.and_then(slept) {
                    self.windows.learn(length);
                }
                self.idle_since = Some((now, turn));
                now
            }
        }
    }

    /// The scheduler, which had nothing to do, has slept until now.
    pub fn woke(&mut self, now: Instant) {
        self.woke_at = Some(now);
    }

    /// The generations that have enough in them, the oldest first.
    fn worth_it(&self, young: u64) -> impl Iterator<Item = u8> + use<> {
        let slice = self.slice();
        let is_old_due = self.grown + self.middle + young >= (self.bound() / 2).max(SLICE_MIN);
        let (is_middle_due, is_young_due) = match self.collector {
            Collector::Generational => (
                self.middle + young >= slice / 2,
                // It would only make a slice larger that is full.
                young >= slice / NURSERIES / 2 && self.middle + young < slice,
            ),
            Collector::Incremental => (false, young >= SLICE_MIN / NURSERIES),
            Collector::WholeHeap => (false, false),
        };
        [(is_old_due, 2), (is_middle_due, 1), (is_young_due, 0)]
            .into_iter()
            .filter_map(|(is_due, generation)| is_due.then_some(generation))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Collector, Decision, Duration, Finished, Instant, NURSERIES, Pacer, Policy, SLICE_MIN,
        THRESHOLD_MAX,
    };

    const MS: Duration = Duration::from_millis(1);
    const POLICY: Policy = Policy {
        pause_budget: Duration::from_millis(5),
        growth: 2.0,
        growth_min: 100_000,
    };
    const FOUND: super::Thresholds = [700, 10, 10];

    /// A program on a clock of its own, with a collector that does as the thresholds say, at 100 ns an object.
    struct Program {
        pacer: Pacer,
        counts: [u64; 3],
        /// Live objects in each generation, as the collector knows them.
        generations: [u64; 3],
        pauses: Vec<(u8, Duration)>,
        now: Instant,
        turn: u64,
    }

    impl Program {
        fn new(collector: Collector, live: u64, frozen: u64) -> Self {
            Self {
                pacer: Pacer::new(collector, POLICY, live, frozen),
                counts: [0; 3],
                generations: [0, 0, live - frozen],
                pauses: Vec::new(),
                now: Instant::now(),
                turn: 0,
            }
        }

        /// It makes `objects`, of which so many percent survive the next collection; the rest is garbage.
        fn make(&mut self, objects: u64, kept_percent: u64) {
            for _ in 0..objects {
                self.counts[0] += 1;
                self.generations[0] += 1;
                let thresholds = self.pacer.thresholds(FOUND).unwrap_or(FOUND);
                let is_over = |&generation: &usize| {
                    let threshold = u64::try_from(thresholds[generation]).unwrap();
                    self.counts[generation] > threshold
                };
                if self.counts[0] > u64::try_from(thresholds[0]).unwrap() {
                    let generation = (0..3).rev().find(is_over).unwrap();
                    self.collect(u8::try_from(generation).unwrap(), kept_percent);
                }
            }
        }

        fn collect(&mut self, generation: u8, kept_percent: u64) {
            let index = usize::from(generation);
            let young = self.counts[0];
            let objects: u64 = self.generations[..=index].iter().sum();
            let garbage = young - young * kept_percent / 100;
            let pause = Duration::from_nanos(100 * objects);
            self.pauses.push((generation, pause));
            self.counts[..=index].fill(0);
            self.generations[..=index].fill(0);
            let next = (index + 1).min(2);
            self.generations[next] += objects - garbage;
            if index < 2 {
                self.counts[next] += 1;
            }
            self.now += pause;
            self.pacer.finished(Finished {
                generation,
                young,
                garbage,
                pause,
            });
        }

        fn longest(&self, generation: u8) -> Duration {
            let of_it = self.pauses.iter().filter(|pause| pause.0 == generation);
            of_it.map(|pause| pause.1).max().unwrap_or_default()
        }

        fn asks(&mut self, window: Option<Duration>) -> Decision {
            let until = window.map(|window| self.now + window);
            self.pacer.idle(self.now, until, self.turn, self.counts[0])
        }

        /// It has nothing to do for so long, then something.
        fn sleeps(&mut self, length: Duration) {
            self.now += length;
            self.pacer.woke(self.now);
            self.turn += 1;
        }

        fn is_used_to_windows_of(&mut self, length: Duration) {
            for _ in 0..9 {
                let _ = self.asks(Some(length));
                self.sleeps(length);
            }
        }
    }

    #[test]
    fn a_busy_program_collects_in_slices_within_the_budget() {
        let mut program = Program::new(Collector::Generational, 8_000_000, 8_000_000);
        program.make(2_000_000, 100);
        assert!(program.longest(1) <= POLICY.pause_budget + MS / 5);
        assert!(
            program.longest(1) >= POLICY.pause_budget * 4 / 5,
            "small ones cost more in all"
        );
        assert_eq!(program.longest(2), Duration::ZERO);
    }

    #[test]
    fn windows_that_fit_the_young_alone_make_no_slice_larger() {
        let mut program = Program::new(Collector::Generational, 8_000_000, 8_000_000);
        program.is_used_to_windows_of(MS);
        for _ in 0..1_000 {
            program.make(4_000, 100);
            if let Decision::Collect(generation) = program.asks(Some(MS)) {
                assert_eq!(generation, 0);
                program.collect(0, 100);
            }
            program.sleeps(MS);
        }
        assert!(program.longest(1) <= POLICY.pause_budget * 5 / 4);
        assert!(program.pauses.iter().any(|pause| pause.0 == 1));
    }

    #[test]
    fn a_slice_has_survivors_however_many_collections_that_takes() {
        let mut program = Program::new(Collector::Generational, 8_000_000, 8_000_000);
        program.make(1_000_000, 10); // nine of ten objects die at once
        let slices: Vec<_> = program.pauses.iter().filter(|pause| pause.0 == 1).collect();
        assert_eq!(slices.len(), 2, "of 50,000");
    }

    #[test]
    fn a_dearer_object_makes_smaller_slices() {
        let mut pacer = Pacer::new(Collector::Generational, POLICY, 8_000_000, 8_000_000);
        let before = pacer.thresholds(FOUND).unwrap()[0];
        for _ in 0..50 {
            pacer.finished(Finished {
                generation: 1,
                young: 50_000,
                garbage: 50_000,
                pause: 10 * MS,
            });
        }
        let after = pacer.thresholds(FOUND).unwrap()[0];
        assert_eq!(before, 50_000 / 8);
        assert!(
            (3_100..=3_150).contains(&after),
            "half of it, at 200 ns an object: {after}"
        );
    }

    #[test]
    fn a_slice_is_not_smaller_than_what_cpython_would_do() {
        let mut pacer = Pacer::new(Collector::Generational, POLICY, 0, 0);
        pacer.finished(Finished {
            generation: 1,
            young: 50_000,
            garbage: 0,
            pause: MS * 1_000,
        });
        let thresholds = pacer.thresholds(FOUND).unwrap();
        assert_eq!(u64::try_from(thresholds[0]).unwrap(), SLICE_MIN / NURSERIES);
    }

    #[test]
    fn growth_past_its_bound_is_looked_at_as_a_whole_and_not_before() {
        let mut program = Program::new(Collector::Generational, 100_000, 100_000);
        program.make(190_000, 100);
        assert_eq!(program.longest(2), Duration::ZERO);
        program.make(80_000, 100);
        let whole: Vec<_> = program.pauses.iter().filter(|pause| pause.0 == 2).collect();
        assert_eq!(
            whole.len(),
            1,
            "one, after 200,000 and at most a slice and a nursery more"
        );
        assert!(whole[0].1 <= Duration::from_micros(25_700));
        assert_eq!(program.pacer.bound(), 2 * program.pacer.live);
    }

    #[test]
    fn garbage_that_dies_young_does_not_count_as_growth() {
        let mut program = Program::new(Collector::Generational, 100_000, 100_000);
        program.make(3_000_000, 0);
        assert_eq!(program.longest(2), Duration::ZERO);
    }

    #[test]
    fn a_small_heap_may_grow_by_the_least_bound() {
        let pacer = Pacer::new(Collector::Generational, POLICY, 1_000, 0);
        assert_eq!(pacer.bound(), POLICY.growth_min);
    }

    #[test]
    fn what_was_freed_without_notice_is_no_growth() {
        let mut program = Program::new(Collector::Generational, 100_000, 100_000);
        program.make(150_000, 100);
        let grown = program.pacer.grown;
        program.pacer.grew_by_at_most(1_000);
        assert_eq!(program.pacer.grown, 1_000);
        assert_eq!(program.pacer.old, 1_000);
        program.pacer.grew_by_at_most(grown);
        assert_eq!(program.pacer.grown, 1_000);
    }

    #[test]
    fn on_a_free_threaded_build_the_bound_is_the_threshold() {
        let pacer = Pacer::new(Collector::WholeHeap, POLICY, 1_000_000, 1_000_000);
        assert_eq!(pacer.thresholds([2_000, 10, 10]), Some([2_000_000, 0, 10]));
        let large = Pacer::new(Collector::WholeHeap, POLICY, 1 << 40, 0);
        assert_eq!(
            large.thresholds([2_000, 10, 10]),
            Some([THRESHOLD_MAX, 0, 10])
        );
    }

    #[test]
    fn an_incremental_collector_keeps_its_thresholds() {
        let pacer = Pacer::new(Collector::Incremental, POLICY, 1_000_000, 0);
        assert_eq!(pacer.thresholds(FOUND), None);
    }

    #[test]
    fn a_window_takes_the_oldest_generation_that_fits() {
        let mut program = Program::new(Collector::Generational, 100_000, 100_000);
        program.is_used_to_windows_of(200 * MS);
        program.make(40_000, 100);
        assert_eq!(program.asks(Some(200 * MS)), Decision::Collect(1));
        program.collect(1, 100);
        assert_eq!(
            program.asks(Some(200 * MS)),
            Decision::Sleep,
            "nothing is left"
        );
        program.make(65_000, 100);
        assert_eq!(
            program.asks(Some(200 * MS)),
            Decision::Collect(2),
            "half of the bound"
        );
    }

    #[test]
    fn a_window_that_is_too_short_is_left_alone() {
        let mut program = Program::new(Collector::Generational, 100_000, 100_000);
        program.is_used_to_windows_of(200 * MS);
        program.make(42_000, 100); // 4.2 ms
        assert_eq!(
            program.asks(Some(MS * 3)),
            Decision::Collect(0),
            "what is new since the last slice"
        );
        program.collect(0, 100);
        assert_eq!(program.asks(Some(MS * 3)), Decision::Sleep);
    }

    #[test]
    fn a_far_timer_is_no_promise() {
        let mut program = Program::new(Collector::Generational, 100_000, 100_000);
        program.is_used_to_windows_of(MS / 10);
        program.make(40_000, 100);
        let Decision::AskAfter(wait) = program.asks(Some(10_000 * MS)) else {
            panic!("the last windows were short");
        };
        program.now += wait;
        assert!(matches!(
            program.asks(Some(10_000 * MS)),
            Decision::Collect(_)
        ));
    }

    #[test]
    fn more_than_the_budget_needs_a_window_four_times_as_long() {
        let mut program = Program::new(Collector::WholeHeap, 1_000_000, 0);
        program.make(1_500_000, 100); // 250 ms, and more than half of the bound
        program.is_used_to_windows_of(900 * MS);
        assert_eq!(program.asks(None), Decision::AskAfter(1_000 * MS));
        program.sleeps(900 * MS);
        program.is_used_to_windows_of(1_100 * MS);
        assert_eq!(program.asks(None), Decision::Collect(2));
        assert_eq!(program.asks(Some(900 * MS)), Decision::Sleep);
    }

    #[test]
    fn who_has_been_idle_for_long_stays_so() {
        let mut program = Program::new(Collector::WholeHeap, 1_000_000, 0);
        program.make(1_500_000, 100);
        assert_eq!(program.asks(None), Decision::AskAfter(1_000 * MS));
        program.now += 1_000 * MS;
        assert_eq!(program.asks(None), Decision::Collect(2));
    }

    #[test]
    fn an_idle_program_without_garbage_is_left_asleep() {
        for collector in [
            Collector::Generational,
            Collector::Incremental,
            Collector::WholeHeap,
        ] {
            let mut program = Program::new(collector, 1_000_000, 0);
            program.is_used_to_windows_of(10_000 * MS);
            assert_eq!(program.asks(None), Decision::Sleep);
        }
    }
}
