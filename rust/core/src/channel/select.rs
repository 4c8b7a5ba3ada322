//! Select: of several sends and receives exactly one.
//!
//! A pass over the cases, in random order, tries each as a lone `try_send` or `try_recv` would. Where none is ready,
//! a select that may wait arms its waiter once and leaves an entry of that one epoch in each of its channels:
//!
//! ```text
//! pass:   try, try, try ...                       --one took effect-->  done
//! link:   arm, then channel by channel in the order of their addresses,
//!         each under its channel's lock, if the case is still not ready there
//!            --one is ready-->   disarm, unlink all, begin with a pass again
//!            --all are linked--> wait
//! finish: unlink all; what the slots say is what happened
//! ```
//!
//! The epoch's one claim is what makes it "exactly one": whoever wants to serve any of the entries, close any of the
//! channels, or end the wait by a timer or a cancellation has to win it first, from the first entry on that is
//! linked. So the select can be served before it has linked the rest; it then finds out when it wants to disarm, or
//! by the outcome. Values of sends that did not happen go back to the caller from their slots.
//!
//! A send on a channel that throws values away is always ready. On one where a send fails instead of waiting
//! ([`Overflow::Error`](super::Overflow::Error)) it is not ready while that is full: not to wait is what a select is for.
//!
//! # Rates
//! A send on a channel with a [`Rate`](super::Rate) is ready when it would go through: the turn is free, or the select has
//! it, a token is there, and room. A pass takes the turn for the try only. A select that goes on to wait stands before the
//! channel's [`Turnstile`], as a sender does, once for all of its cases there ([`Turn`]); it has no
//! entry in the channel itself before it has the turn and a token. That it gets the turn, or that the token comes (the
//! wait times out then), is no case that took effect: the select begins with a pass again, and keeps the turn. It
//! passes that on when one of its cases has taken effect, or none will, and takes a token if it has sent there. To hold
//! several turns at once holds nobody up for good: who has one waits for its token and for room, never for another turn.
//!
//! # Which case it was
//! The claimer leaves its mark in the slot of the entry it serves: a receive has its value there, a send has its own no
//! more. A close leaves none. But it lasts, so a new pass finds that channel closed, or something else that is ready. A
//! channel of a clock puts a tick in the slot of a wait that has timed out, too; of several such ticks the select takes
//! one, and the others go to the next in line.
//!
//! # Selects that meet
//! Two selects may wait for each other's cases on a [`rendezvous`](super::rendezvous). Each would disarm for the sake of
//! the other's entry, again and again, if they linked in different orders. With one order for all, of those
//! whose lowest channel in common is `c` the first to link there stays armed, as far as they are concerned, and the others
//! find it. A select never meets itself: a pass has nothing linked, and linking looks past entries of
//! the own waiter.
//!
//! # "Nothing is ready"
//! A pass looks at one case after another, and what it found is old by the time it is through: a value may have moved
//! from a channel that it had yet to look at to one that it had seen empty, so that one of the two had a value at all times.
//! Where the answer is for the caller ([`try_select`]), the *versions* of all cases are read before and after: a version
//! moves whenever its case may have become ready. If none has, each case that a look found not ready stayed so until its
//! version was read again; thus none was ready at the moment between the looks and those second readings.
//! Versions only grow, so their sum stands for all. A select that goes on to wait needs none of this: linking
//! looks again, under the lock.
//!
//! Tried and dropped: a random start and then in order. With cases 0 and 1 of four ready it picks 0 three times in
//! four.
//!
//! Source: Go's runtime/select.go, for the passes, the random order of the first and the locking order of the second. It
//! holds all locks at once, and so needs no claim; here a peer is never kept waiting by more than one link.

use std::{
    hash::{BuildHasher, RandomState},
    mem::MaybeUninit,
    ptr::NonNull,
    time::Instant,
};

use super::{Channel, Step, Ticket, TryRecvError, TrySendError, Turnstile};
use crate::{
    sync::{Mode, Ordering, fence, per_thread},
    wait::{Armed, Entry, Epoch, Outcome, WaiterRef},
};

/// The cases of a select, as its caller keeps them.
///
/// A select takes the value of a send out to try it, and puts it back if the send did not happen.
pub trait Cases<T, M: Mode> {
    fn count(&self) -> usize;

    /// The same channel for as long as the select lasts.
    fn channel(&self, index: usize) -> &Channel<T, M>;

    /// Whether it is a send; otherwise it is a receive.
    fn sends(&self, index: usize) -> bool;

    /// The value of a send.
    fn take(&mut self, index: usize) -> T;

    /// It was not sent.
    fn put_back(&mut self, index: usize, value: T);

    /// What a send threw away, by its channel's [`Overflow`](super::Overflow): to be dropped where foreign code may run.
    fn thrown_away(&mut self, value: T);
}

/// One case, for callers that have them in a row.
#[derive(Debug)]
pub enum Case<'a, T, M: Mode> {
    Recv(&'a Channel<T, M>),
    /// `None` once it was sent.
    Send(&'a Channel<T, M>, Option<T>),
}

impl<T, M: Mode> Cases<T, M> for [Case<'_, T, M>] {
    fn count(&self) -> usize {
        self.len()
    }

    fn channel(&self, index: usize) -> &Channel<T, M> {
        let (Case::Recv(channel) | Case::Send(channel, _)) = &self[index];
        channel
    }

    fn sends(&self, index: usize) -> bool {
        matches!(self[index], Case::Send(..))
    }

    fn take(&mut self, index: usize) -> T {
        match &mut self[index] {
            Case::Send(_, value) => value.take().expect("a send has its value until it is sent"),
            Case::Recv(_) => unreachable!("a receive has no value"),
        }
    }

    fn put_back(&mut self, index: usize, value: T) {
        self[index] = match self[index] {
            Case::Send(channel, _) => Case::Send(channel, Some(value)),
            Case::Recv(_) => unreachable!("a receive has no value"),
        };
    }

    fn thrown_away(&mut self, value: T) {
        drop(value);
    }
}

/// Which of several cases that are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Each alike.
    Random,
    /// The first of them.
    First,
}

/// The case that took effect.
#[derive(Debug, PartialEq, Eq)]
pub struct Selected<T> {
    pub index: usize,
    pub served: Served<T>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Served<T> {
    Sent,
    Received(T),
    /// A receive found its channel closed and drained, or a send found it closed.
    Closed,
}

/// How [`Select::begin`] went.
#[derive(Debug)]
#[must_use = "a wait must be finished, a value used"]
pub enum BeginSelect<T> {
    Done(Selected<T>),
    /// The waiter is armed; call [`Select::finish`] when the wait has ended. It is to time out at that moment, if there
    /// is one: a channel of a clock has something then.
    Waiting(Epoch, Option<Instant>),
}

/// What [`Select::finish`] found.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a value must be used"]
pub enum EndSelect<T> {
    Done(Selected<T>),
    /// No case took effect. The wait timed out, and goes on with the next [`Select::begin`] if that was not for good (and
    /// with [`Select::leave`] if it was); or a channel was closed, and the next one finds a case that is ready; or the
    /// select has the turn of a channel with a rate.
    Again,
    /// No case took effect: the wait was interrupted.
    Over,
}

/// Does one of the cases if one is ready; never waits.
///
/// `None`: there was a moment during the call when none was ready.
#[inline]
pub fn try_select<T, M: Mode>(
    cases: &mut (impl Cases<T, M> + ?Sized),
    choice: Choice,
) -> Option<Selected<T>> {
    if !M::SHARED {
        return try_each(cases, choice); // the whole call is one moment
    }
    let mut before = versions(cases);
    loop {
        if let Some(selected) = try_each(cases, choice) {
            return Some(selected);
        }
        // Ordering: SeqCst, the versions are read after every case was looked at, as all threads see it.
        fence(Ordering::SeqCst);
        let after = versions(cases);
        if after == before {
            return None;
        }
        before = after;
    }
}

/// The sum of what moves when a case may have become ready.
fn versions<T, M: Mode>(cases: &(impl Cases<T, M> + ?Sized)) -> u64 {
    (0..cases.count()).fold(0, |sum, index| {
        let channel = cases.channel(index);
        let version = if cases.sends(index) {
            let turn = |turnstile: &Turnstile<M>| turnstile.version(Instant::now());
            let turn = channel.turnstile().map_or(0, turn);
            channel.send_version().wrapping_add(turn)
        } else {
            channel.recv_version()
        };
        sum.wrapping_add(version)
    })
}

/// So many cases need no memory from the heap.
const FEW: usize = 8;

/// Tries the cases one after the other, once each: for who waits if none is ready.
#[inline]
pub fn try_each<T, M: Mode>(
    cases: &mut (impl Cases<T, M> + ?Sized),
    choice: Choice,
) -> Option<Selected<T>> {
    pass(cases, &mut [], choice)
}

#[inline]
fn pass<T, M: Mode>(
    cases: &mut (impl Cases<T, M> + ?Sized),
    turns: &mut [Turn],
    choice: Choice,
) -> Option<Selected<T>> {
    let count = cases.count();
    let attempt = |index| {
        let served = try_case(cases, turns, index)?;
        Some(Selected { index, served })
    };
    if choice == Choice::First {
        (0..count).find_map(attempt)
    } else if count <= FEW {
        let mut order: [u32; FEW] = std::array::from_fn(index_of);
        in_random_order::<_, M>(&mut order[..count], attempt)
    } else {
        let mut order: Box<[u32]> = (0..count).map(index_of).collect();
        in_random_order::<_, M>(&mut order, attempt)
    }
}

fn index_of(index: usize) -> u32 {
    u32::try_from(index).expect("so many cases have no room in memory")
}

/// Fisher's and Yates's shuffle, no further than it is needed.
#[inline]
fn in_random_order<R, M: Mode>(
    order: &mut [u32],
    mut attempt: impl FnMut(usize) -> Option<R>,
) -> Option<R> {
    let mut random = Random::here::<M>();
    let mut found = None;
    for at in 0..order.len() {
        let picked = at + random.below(order.len() - at);
        order.swap(at, picked);
        found = attempt(order[at] as usize);
        if found.is_some() {
            break;
        }
    }
    random.keep::<M>();
    found
}

#[inline]
fn try_case<T, M: Mode>(
    cases: &mut (impl Cases<T, M> + ?Sized),
    turns: &mut [Turn],
    index: usize,
) -> Option<Served<T>> {
    if cases.sends(index) {
        if cases.channel(index).turnstile().is_none() {
            try_send(cases, index)
        } else {
            try_send_in_turn(cases, turns, index)
        }
    } else if cases.channel(index).is_seen_empty() {
        None
    } else {
        match cases.channel(index).try_recv() {
            Ok(value) => Some(Served::Received(value)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Served::Closed),
        }
    }
}

#[inline]
fn try_send<T, M: Mode>(
    cases: &mut (impl Cases<T, M> + ?Sized),
    index: usize,
) -> Option<Served<T>> {
    let value = cases.take(index);
    let (back, served) = match cases.channel(index).offer(value) {
        Ok(None) => return Some(Served::Sent),
        Ok(Some(thrown_away)) => {
            cases.thrown_away(thrown_away);
            return Some(Served::Sent);
        }
        Err(TrySendError::Full(back)) => (back, None),
        Err(TrySendError::Closed(back)) => (back, Some(Served::Closed)),
    };
    cases.put_back(index, back);
    served
}

/// A send on a channel with a rate. A turn that it gets only here it passes on again.
#[cold]
#[inline(never)]
fn try_send_in_turn<T, M: Mode>(
    cases: &mut (impl Cases<T, M> + ?Sized),
    turns: &mut [Turn],
    index: usize,
) -> Option<Served<T>> {
    let now = Instant::now();
    let mut visitor = Ticket::default();
    let ticket = match turn_of(cases, turns, index) {
        Some(turn) => &mut turn.ticket,
        None => &mut visitor,
    };
    let had_turn = ticket.holds();
    let channel = cases.channel(index);
    if !turnstile_of(channel).may_send(ticket, now) {
        return channel.is_closed().then_some(Served::Closed);
    }
    let served = try_send(cases, index);
    let sent = matches!(served, Some(Served::Sent));
    if sent || !had_turn {
        turnstile_of(cases.channel(index)).leave(std::mem::take(ticket), sent, now);
    }
    served
}

fn turnstile_of<T, M: Mode>(channel: &Channel<T, M>) -> &Turnstile<M> {
    channel.turnstile().expect("asked where there is a rate")
}

/// Where a select stands before a channel with a rate that it wants to send to.
#[derive(Debug)]
struct Turn {
    /// One of its cases there.
    index: u32,
    ticket: Ticket,
}

/// The turn for a case that sends.
fn turn_of<'a, T, M: Mode>(
    cases: &(impl Cases<T, M> + ?Sized),
    turns: &'a mut [Turn],
    index: usize,
) -> Option<&'a mut Turn> {
    let channel = cases.channel(index);
    turns
        .iter_mut()
        .find(|turn| std::ptr::eq(cases.channel(turn.index as usize), channel))
}

/// A turn for each channel with a rate that a case sends to.
fn turns_of<T, M: Mode>(cases: &(impl Cases<T, M> + ?Sized)) -> Vec<Turn> {
    let mut turns = Vec::new();
    for index in 0..cases.count() {
        let has_rate = cases.sends(index) && cases.channel(index).turnstile().is_some();
        if has_rate && turn_of(cases, &mut turns, index).is_none() {
            turns.push(Turn {
                index: index_of(index),
                ticket: Ticket::default(),
            });
        }
    }
    turns
}

/// What a select that waits leaves in its channels. Made when it first has to wait, and used for as often as it has to.
///
/// # Invariants
/// The entries of the cases that are `linked` are there, and may be in lists, from [`begin`](Self::begin) to
/// [`finish`](Self::finish), and only there. In between no ticket is in a wait.
#[derive(Debug)]
pub struct Select<T> {
    /// The cases in the order in which they are linked.
    order: Box<[Stake]>,
    /// As many as there are cases; a box's memory, to which the lists point too.
    entries: NonNull<MaybeUninit<Entry<T>>>,
    turns: Vec<Turn>,
    wait: Option<(WaiterRef, Epoch)>,
}

/// What a select has in one of its channels.
#[derive(Debug)]
struct Stake {
    index: u32,
    /// Whether its entry is there.
    linked: bool,
}

// SAFETY: the entries are this struct's, and cross threads as `T` does.
unsafe impl<T: Send> Send for Select<T> {}

impl<T> Select<T> {
    /// For these cases, in all calls.
    pub fn new<M: Mode>(cases: &(impl Cases<T, M> + ?Sized)) -> Self {
        let stake = |index| Stake {
            index: index_of(index),
            linked: false,
        };
        let mut order: Box<[Stake]> = (0..cases.count()).map(stake).collect();
        order.sort_by_key(|stake| std::ptr::from_ref(cases.channel(stake.index as usize)).addr());
        let entries = Box::<[Entry<T>]>::new_uninit_slice(order.len());
        Self {
            order,
            // SAFETY: a box is never null.
            entries: unsafe { NonNull::new_unchecked(Box::into_raw(entries)) }.cast(),
            turns: turns_of(cases),
            wait: None,
        }
    }

    /// Does one of the cases, or leaves an entry in each of their channels. `waiter` is in no wait, and is armed
    /// where the answer is `Waiting`, and only there.
    ///
    /// # Safety
    /// The channels, and `self`, are not dropped before the wait has been finished.
    pub unsafe fn begin<M: Mode>(
        &mut self,
        cases: &mut (impl Cases<T, M> + ?Sized),
        choice: Choice,
        waiter: &WaiterRef,
    ) -> BeginSelect<T> {
        debug_assert!(self.wait.is_none(), "begun twice");
        loop {
            if let Some(selected) = pass(cases, &mut self.turns, choice) {
                self.leave(cases);
                return BeginSelect::Done(selected);
            }
            // SAFETY: the caller's promise.
            if let Some(epoch) = unsafe { self.link(cases, waiter) } {
                let ticks = (0..cases.count()).filter_map(|at| cases.channel(at).next_tick());
                let tokens = self.turns.iter().filter_map(|turn| turn.ticket.until());
                return BeginSelect::Waiting(epoch, ticks.chain(tokens).min());
            }
        }
    }

    /// `None`: one of them is ready, and nothing is linked.
    ///
    /// # Safety
    /// As for [`begin`](Self::begin).
    unsafe fn link<M: Mode>(
        &mut self,
        cases: &mut (impl Cases<T, M> + ?Sized),
        waiter: &WaiterRef,
    ) -> Option<Epoch> {
        let epoch = waiter.arm();
        for at in 0..self.order.len() {
            let index = self.order[at].index as usize;
            let to_link = match self.turn(cases, index, (waiter, epoch)) {
                ToLink::InChannel => true,
                ToLink::Stands => continue,
                ToLink::IsReady => false,
            };
            // SAFETY: the memory is there until this is dropped, and no entry is in it. The waiter is kept alive by
            // `wait`, or its reference in this call.
            let place = unsafe { Armed::new(waiter.as_ptr(), epoch, self.entry(at)) };
            let is_linked = if !to_link {
                false
            } else if cases.sends(index) {
                let value = cases.take(index);
                match cases.channel(index).link_armed_sender(value, place) {
                    Ok(()) => true,
                    Err(back) => {
                        cases.put_back(index, back);
                        false
                    }
                }
            } else {
                cases.channel(index).link_armed_receiver(place)
            };
            if is_linked {
                self.order[at].linked = true;
            } else if waiter.disarm(epoch, Outcome::Interrupted) {
                // SAFETY: disarmed.
                let served = unsafe { self.unlink(cases, Outcome::Interrupted, true) };
                debug_assert!(served.is_none(), "served without a claim");
                waiter.settle(epoch);
                return None;
            } else {
                break; // claimed: the wait has ended, or is about to
            }
        }
        self.wait = Some((waiter.clone(), epoch));
        Some(epoch)
    }

    /// Goes on towards the turn, if the case needs one. `place` is of the waiter, which is armed for that epoch.
    fn turn<M: Mode>(
        &mut self,
        cases: &(impl Cases<T, M> + ?Sized),
        index: usize,
        place: (&WaiterRef, Epoch),
    ) -> ToLink {
        if self.turns.is_empty() || !cases.sends(index) {
            return ToLink::InChannel;
        }
        let Some(turn) = turn_of(cases, &mut self.turns, index) else {
            return ToLink::InChannel;
        };
        if turn.ticket.waits() {
            return ToLink::Stands; // for another case
        }
        let channel = cases.channel(index);
        match turnstile_of(channel).step(&mut turn.ticket, place, Instant::now()) {
            Step::Send if channel.overflow().drops() => ToLink::IsReady, // it waits for no room
            Step::Send => ToLink::InChannel,
            Step::Closed => ToLink::IsReady,
            Step::Sleep(..) => ToLink::Stands,
        }
    }

    /// Passes on the turns that it has. For a select that is not begun again after [`EndSelect::Again`]; otherwise it has
    /// none left. Somebody may be woken.
    pub fn leave<M: Mode>(&mut self, cases: &(impl Cases<T, M> + ?Sized)) {
        self.leave_but(cases, None);
    }

    /// Whether [`leave`](Self::leave) would pass on a turn.
    pub fn has_turns(&self) -> bool {
        self.turns.iter().any(|turn| turn.ticket.holds())
    }

    /// The same, where that case has sent.
    fn leave_but<M: Mode>(&mut self, cases: &(impl Cases<T, M> + ?Sized), sent: Option<usize>) {
        for turn in &mut self.turns {
            let channel = cases.channel(turn.index as usize);
            let has_sent = sent.is_some_and(|sent| std::ptr::eq(cases.channel(sent), channel));
            let ticket = std::mem::take(&mut turn.ticket);
            turnstile_of(channel).leave(ticket, has_sent, Instant::now());
        }
    }

    /// Ends a wait.
    ///
    /// # Safety
    /// The wait that [`begin`](Self::begin) answered with is over: it has an outcome, or the caller, who owns the
    /// waiter, disarmed it. The cases are the same.
    pub unsafe fn finish<M: Mode>(
        &mut self,
        cases: &mut (impl Cases<T, M> + ?Sized),
    ) -> EndSelect<T> {
        let (waiter, epoch) = self.wait.take().expect("finished without a wait");
        let outcome = waiter
            .outcome(epoch)
            .expect("finished while the wait goes on");
        // SAFETY: the outcome was seen.
        let served = unsafe { self.unlink(cases, outcome, true) };
        if let Some(selected) = served {
            self.leave_but(cases, sent_by(&selected));
            return EndSelect::Done(selected);
        }
        match outcome {
            Outcome::Handed => {
                assert!(self.has_turns(), "a hand-over leaves its mark");
                EndSelect::Again
            }
            // Timed out, it may have been for a token, or for a tick, which somebody else has got.
            Outcome::Closed | Outcome::TimedOut => EndSelect::Again,
            Outcome::Interrupted => {
                self.leave(cases);
                EndSelect::Over
            }
        }
    }

    /// Ends a wait of somebody who is gone: what it received goes to the next receiver, as in
    /// [`abandon_recv`](Channel::abandon_recv), or comes back to be dropped where foreign code may run.
    ///
    /// # Safety
    /// As for [`finish`](Self::finish), which is not called as well.
    #[must_use = "what is dropped here may run foreign code"]
    pub unsafe fn abandon<M: Mode>(
        &mut self,
        cases: &mut (impl Cases<T, M> + ?Sized),
    ) -> Option<T> {
        let (waiter, epoch) = self.wait.take().expect("abandoned without a wait");
        let outcome = waiter
            .outcome(epoch)
            .expect("abandoned while the wait goes on");
        // SAFETY: the caller's promise.
        let selected = unsafe { self.unlink(cases, outcome, false) };
        self.leave_but(cases, selected.as_ref().and_then(sent_by));
        let selected = selected?;
        let Served::Received(value) = selected.served else {
            return None;
        };
        let is_its = |stake: &Stake| stake.index as usize == selected.index;
        let at = self.order.iter().position(is_its)?;
        // SAFETY: it was linked, and nothing has taken its place.
        let entry = unsafe { self.entry(at).cast::<Entry<T>>().as_ref() };
        cases.channel(selected.index).give_back(entry, value)
    }

    /// Takes all entries off their lists, and says which of them was served. A tick is left to others unless `wants`.
    /// Turns are kept.
    ///
    /// # Safety
    /// The wait is over, as for [`finish`](Self::finish).
    unsafe fn unlink<M: Mode>(
        &mut self,
        cases: &mut (impl Cases<T, M> + ?Sized),
        outcome: Outcome,
        wants: bool,
    ) -> Option<Selected<T>> {
        for turn in &mut self.turns {
            let turnstile = turnstile_of(cases.channel(turn.index as usize));
            turnstile.woken(&mut turn.ticket, outcome, Instant::now());
        }
        let mut selected = None;
        for at in 0..self.order.len() {
            if !std::mem::take(&mut self.order[at].linked) {
                continue;
            }
            let index = self.order[at].index as usize;
            // SAFETY: it was linked, so it is there.
            let entry = unsafe { self.entry(at).cast::<Entry<T>>().as_ref() };
            let channel = cases.channel(index);
            let served = if cases.sends(index) {
                channel.forget_sender(entry);
                // SAFETY: off its list, and its wait is over: the slot is the owner's again.
                if let Some(back) = unsafe { entry.take() } {
                    cases.put_back(index, back);
                    continue;
                }
                Served::Sent
            } else {
                // SAFETY: its wait is over.
                match unsafe { channel.take_back_receiver(entry, wants && selected.is_none()) } {
                    Some(value) => Served::Received(value),
                    None => continue,
                }
            };
            debug_assert!(selected.is_none(), "two cases took effect");
            selected = Some(Selected { index, served });
        }
        selected
    }

    fn entry(&self, at: usize) -> NonNull<MaybeUninit<Entry<T>>> {
        debug_assert!(at < self.order.len());
        // SAFETY: within the box.
        unsafe { self.entries.add(at) }
    }
}

impl<T> Drop for Select<T> {
    fn drop(&mut self) {
        debug_assert!(self.wait.is_none(), "dropped in a wait");
        debug_assert!(!self.has_turns(), "dropped with a turn");
        let entries = NonNull::slice_from_raw_parts(self.entries, self.order.len());
        // SAFETY: the box from `new`. Its entries are in no list, have nothing in their slots and do not count their
        // waiter.
        drop(unsafe { Box::from_raw(entries.as_ptr()) });
    }
}

/// Where a case is to be linked.
enum ToLink {
    InChannel,
    /// The select stands before the channel, and in a wait.
    Stands,
    /// Nowhere: the case is ready.
    IsReady,
}

fn sent_by<T>(selected: &Selected<T>) -> Option<usize> {
    matches!(selected.served, Served::Sent).then_some(selected.index)
}

per_thread! {
    /// The state of the thread's generator; 0 until it is seeded.
    static RANDOM: std::cell::Cell<u64> = std::cell::Cell::new(0);
}

/// The same for all who exclude each other: it costs less to find. Should it be used by two at once, both draw the same.
#[cfg(not(loom))]
static RANDOM_OF_ALL: crate::sync::AtomicU64 = crate::sync::AtomicU64::new(0);

/// Random numbers that are good enough to be fair: `SplitMix64` (Steele, Lea and Flood 2014), which has every state once.
struct Random(u64);

impl Random {
    #[inline]
    fn here<M: Mode>() -> Self {
        #[cfg(not(loom))]
        if !M::SHARED {
            // Ordering: Relaxed, any state will do.
            return Self::of(RANDOM_OF_ALL.load(Ordering::Relaxed));
        }
        Self::of(RANDOM.with(std::cell::Cell::get))
    }

    #[inline]
    fn of(state: u64) -> Self {
        if state == 0 {
            return Self::seeded();
        }
        Self(state)
    }

    #[cold]
    fn seeded() -> Self {
        Self(RandomState::new().hash_one(0))
    }

    /// So that the next one goes on from here.
    #[inline]
    fn keep<M: Mode>(self) {
        #[cfg(not(loom))]
        if !M::SHARED {
            // Ordering: Relaxed, as above.
            return RANDOM_OF_ALL.store(self.0, Ordering::Relaxed);
        }
        RANDOM.with(|state| state.set(self.0));
    }

    /// A number below `limit`, each alike: one more often than another by less than one time in 2³² / `limit`.
    #[inline]
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((mixed >> 32) * limit as u64) >> 32) as usize
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn selects_link_their_channels_in_one_order_however_they_list_them() {
        let channels: [_; 5] =
            std::array::from_fn(|_| Channel::<u32, _>::bounded(0, crate::sync::Shared));
        let linked = |listed: &[usize]| -> Vec<usize> {
            let cases: Vec<_> = listed.iter().map(|at| Case::Recv(&channels[*at])).collect();
            let select = Select::<u32>::new(&cases[..]);
            let stakes = select.order.iter();
            stakes.map(|stake| listed[stake.index as usize]).collect()
        };
        assert_eq!(linked(&[0, 1, 2, 3, 4]), linked(&[4, 2, 0, 1, 3]));
        assert_eq!(linked(&[1, 3]), linked(&[3, 1]));
    }

    #[test]
    fn every_order_is_as_likely_as_another() {
        const ROUNDS: usize = 24_000;
        let mut counts = std::collections::HashMap::new();
        for _ in 0..ROUNDS {
            let mut order = [0, 1, 2, 3];
            let mut seen = Vec::new();
            let none: Option<()> = in_random_order::<_, crate::sync::Shared>(&mut order, |index| {
                seen.push(index);
                None
            });
            assert_eq!(none, None);
            *counts.entry(seen).or_insert(0_usize) += 1;
        }
        assert_eq!(counts.len(), 24);
        // Each is binomial, with mean 1000 and standard deviation 31.
        for (order, count) in counts {
            assert!((750..1250).contains(&count), "{order:?} came {count} times");
        }
    }
}
