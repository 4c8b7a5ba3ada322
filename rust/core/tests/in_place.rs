//! Waits whose entries lie in memory of their owners': who touches that memory when, which Miri checks.
#![cfg(not(loom))]

mod channel_thread;

use std::{mem::MaybeUninit, ptr::NonNull, sync::Arc, thread};

use channel_thread::{recv, send, sleep_until_over, waiter};
use penstock_core::{
    channel::{BeginRecv, BeginSend, Channel, RecvError, SendError},
    sync::Shared,
    wait::{Entry, InPlace, Outcome, WaiterRef},
};

type Ch = Channel<Box<u32>, Shared>;

/// Room for one entry, as an operation of the bindings has it: reached by one pointer.
struct Room(NonNull<MaybeUninit<Entry<Box<u32>>>>);

impl Room {
    fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(MaybeUninit::uninit()))))
    }

    fn place(&self, waiter: &WaiterRef) -> InPlace<Box<u32>> {
        // SAFETY: the tests keep both until the wait has been finished.
        unsafe { InPlace::new(waiter.as_ptr(), self.0) }
    }

    fn entry(&self) -> &Entry<Box<u32>> {
        // SAFETY: called where the operation had to wait, so there is one.
        unsafe { self.0.cast().as_ref() }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak`, and no wait goes on in it. The entry, if there was one, has no destructor to run.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Sleeps, or takes the wait back.
fn end_wait(waiter: &WaiterRef, room: &Room, gives_up: bool) {
    let epoch = room.entry().epoch;
    if !gives_up || !waiter.disarm(epoch, Outcome::Interrupted) {
        sleep_until_over(waiter, epoch);
    }
}

fn recv_in_place(channel: &Ch, gives_up: bool) -> Result<u32, RecvError> {
    let (waiter, room) = (waiter(), Room::new());
    match channel.begin_recv(room.place(&waiter)) {
        BeginRecv::Done(value) => return Ok(*value),
        BeginRecv::Closed => return Err(RecvError::Closed),
        BeginRecv::Waiting(_) => end_wait(&waiter, &room, gives_up),
    }
    // SAFETY: the entry of this channel's `begin_recv`, and the wait is over.
    unsafe { channel.finish_recv(room.entry()) }.map(|value| *value)
}

fn send_in_place(channel: &Ch, value: u32, gives_up: bool) -> Result<(), SendError<Box<u32>>> {
    let (waiter, room) = (waiter(), Room::new());
    match channel.begin_send(Box::new(value), room.place(&waiter)) {
        BeginSend::Done => return Ok(()),
        BeginSend::Closed(value) => return Err(SendError::Closed(value)),
        BeginSend::Waiting(_) => end_wait(&waiter, &room, gives_up),
    }
    // SAFETY: the entry of this channel's `begin_send`, and the wait is over.
    unsafe { channel.finish_send(room.entry()) }
}

#[test]
fn values_pass_through_entries_in_place() {
    for capacity in [0, 1] {
        let channel = Arc::new(Ch::bounded(capacity, Shared));
        let receiver = Arc::clone(&channel);
        let receiver = thread::spawn(move || {
            (0..20)
                .map(|_| recv_in_place(&receiver, false))
                .collect::<Vec<_>>()
        });
        for value in 0..20 {
            send_in_place(&channel, value, false).unwrap();
        }
        assert_eq!(
            receiver.join().unwrap(),
            (0..20).map(Ok).collect::<Vec<_>>()
        );
    }
}

/// Entries of both kinds in one list, and one in the middle of it that gives up.
#[test]
fn who_gives_up_leaves_its_neighbours_linked() {
    for capacity in [0, 1] {
        let channel = Arc::new(Ch::bounded(capacity, Shared));
        for value in 0..capacity {
            channel
                .try_send(Box::new(u32::try_from(value).unwrap()))
                .unwrap();
        }
        let waits = |count: u64| {
            while channel.stats().send_waits < count {
                thread::yield_now();
            }
        };
        let other = Arc::clone(&channel);
        let first = thread::spawn(move || send(&other, Box::new(10), &waiter()));
        waits(1);
        let given_up = send_in_place(&channel, 11, true);
        assert_eq!(given_up, Err(SendError::Interrupted(Box::new(11))));
        let other = Arc::clone(&channel);
        let last = thread::spawn(move || send_in_place(&other, 12, false));
        waits(3);
        let got: Vec<_> = (0..capacity + 2)
            .map(|_| *recv(&channel, &waiter()).unwrap())
            .collect();
        assert_eq!(&got[capacity..], [10, 12]);
        first.join().unwrap().unwrap();
        last.join().unwrap().unwrap();
    }
}

#[test]
fn a_close_ends_waits_in_place() {
    let channel = Arc::new(Ch::bounded(0, Shared));
    let other = Arc::clone(&channel);
    let receiver = thread::spawn(move || recv_in_place(&other, false));
    while channel.stats().recv_waits == 0 {
        thread::yield_now();
    }
    channel.close();
    assert_eq!(receiver.join().unwrap(), Err(RecvError::Closed));
    assert_eq!(recv_in_place(&channel, false), Err(RecvError::Closed));
    let refused = send_in_place(&channel, 1, false);
    assert_eq!(refused, Err(SendError::Closed(Box::new(1))));
}
