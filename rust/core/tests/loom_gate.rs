//! Models of the gate of a cache: its owner and those who visit are never inside together.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p penstock-core --test loom_gate --release`.
#![cfg(loom)]

use std::ptr::NonNull;

use loom::{sync::Arc, thread};
use penstock_core::{
    memory::{
        SizeClass,
        cache::{Cache, Slot, visit},
        gate::{Gate, heavy_fence},
        span::Span,
    },
    sync::{Shared, UnsafeCell},
};

/// A slot known by a number, which stands for its address.
fn slot(number: usize) -> Slot {
    Slot {
        address: NonNull::without_provenance(number.try_into().unwrap()),
        span: NonNull::<Span>::dangling(),
    }
}

/// What a gate keeps for one at a time. Loom sees two who touch it at once.
struct Kept {
    gate: Gate<Shared>,
    value: UnsafeCell<u32>,
}

// SAFETY: `value` is touched inside the gate alone, which is what the models check.
unsafe impl Sync for Kept {}
// SAFETY: as above.
unsafe impl Send for Kept {}

impl Kept {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::default(),
            value: UnsafeCell::new(0),
        })
    }

    fn use_as_owner(&self) -> u32 {
        if !self.gate.enter() {
            return 0;
        }
        // SAFETY: inside, alone.
        unsafe { *self.value.get() += 1 };
        self.gate.leave();
        1
    }

    fn use_as_visitor(&self) -> u32 {
        if !self.gate.announce() {
            return 0;
        }
        let inside = heavy_fence() && self.gate.is_left();
        if inside {
            // SAFETY: inside, alone.
            unsafe { *self.value.get() += 1 };
        }
        self.gate.go();
        inside.into()
    }
}

#[test]
fn an_owner_and_a_visitor_are_never_inside_together() {
    loom::model(|| {
        let kept = Kept::new();
        let visitor = {
            let kept = Arc::clone(&kept);
            thread::spawn(move || kept.use_as_visitor())
        };
        let used = kept.use_as_owner() + kept.use_as_owner();
        let used = used + visitor.join().unwrap();
        // Nobody keeps the other out for good.
        assert_eq!(kept.use_as_owner() + kept.use_as_visitor(), 2);
        // SAFETY: nobody else is left.
        assert_eq!(unsafe { *kept.value.get() }, used + 2);
    });
}

#[test]
fn of_two_visitors_and_an_owner_one_is_inside() {
    loom::model(|| {
        let kept = Kept::new();
        let visitors: Vec<_> = (0..2)
            .map(|_| {
                let kept = Arc::clone(&kept);
                thread::spawn(move || kept.use_as_visitor())
            })
            .collect();
        let mut used = kept.use_as_owner();
        for visitor in visitors {
            used += visitor.join().unwrap();
        }
        assert_eq!(kept.use_as_owner(), 1);
        // SAFETY: nobody else is left.
        assert_eq!(unsafe { *kept.value.get() }, used + 1);
    });
}

#[test]
fn a_visitor_and_the_owner_find_each_slot_of_a_cache_once() {
    loom::model(|| {
        let cache = Arc::new(Cache::<Shared>::new(0));
        let class = SizeClass::at(0);
        // SAFETY: here and below: this thread is the owner, and the slots are only numbers.
        assert!(unsafe { cache.push(class, slot(1)) });
        assert!(unsafe { cache.push(class, slot(2)) });
        let visitor = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                let mut found = Vec::new();
                visit(&[&*cache], |cache| {
                    // SAFETY: a visitor is alone inside.
                    unsafe { cache.drain_inside(|_, slot| found.push(slot.address.addr().get())) };
                });
                found
            })
        };
        let mut found = Vec::new();
        if let Some(slot) = unsafe { cache.pop(class) } {
            found.push(slot.address.addr().get());
        }
        if !unsafe { cache.push(class, slot(3)) } {
            found.push(3);
        }
        found.extend(visitor.join().unwrap());
        // An owner that ends waits for the visitor to go.
        unsafe {
            cache.alone(|| cache.drain_inside(|_, slot| found.push(slot.address.addr().get())));
        }
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
        assert_eq!(cache.bytes(), 0);
    });
}
