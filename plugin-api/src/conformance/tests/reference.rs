//! An input over lanes of messages in memory that keeps every rule, unless it has a deliberate flaw.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::conformance::{Harness, Source, Support};
use crate::{
    AckError, Batch, BoxError, Demand, Input, InputError, Message, Receipt, Settle, State, Status, Verdict, Verdicts,
};

/// A deliberate flaw that breaks one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    StartsOverOnConnect,
    ClosesOnce,
    AlwaysConnected,
    ConnectFails,
    ClosesOnlyOpen,
    ReadsUnconnected,
    ReadsClosed,
    TooManyMessages,
    TooPatient,
    ErrorWhenIdle,
    SleepsThrough,
    NewestFirst,
    Stutters,
    Skips,
    Garbles,
    SeesOldOnly,
    RacesWithItself,
    TakesBeforeWaiting,
    ReconnectFails,
    ReconnectStartsOver,
    EndsEarly,
    NeverEnds,
    StoresNewest,
    NeedsOrderedAcks,
    IgnoresNacks,
    AcksWhatHasAReason,
    NackedLast,
    DroppedIsAcked,
    AnyCount,
    CloseHurries,
    CloseLingers,
    LateAcksCount,
    ForgetsProgress,
    StoresDelivered,
}

/// A factory of sources with this many lanes.
pub(super) struct Shelves {
    lanes: usize,
    flaw: Option<Flaw>,
    limited: bool,
}

impl Shelves {
    pub(super) fn new(lanes: usize, flaw: Option<Flaw>) -> Self {
        Self { lanes, flaw, limited: false }
    }

    /// Creates sources that can neither break nor end.
    pub(super) fn limited(self) -> Self {
        Self { limited: true, ..self }
    }
}

#[async_trait]
impl Harness for Shelves {
    async fn source(&self) -> Result<Box<dyn Source>, BoxError> {
        let stored = Stored { lanes: vec![Lane::default(); self.lanes], ..Stored::default() };
        let shelf = Arc::new(Shelf { stored: Mutex::new(stored), changed: Notify::new(), flaw: self.flaw });
        Ok(Box::new(ShelfSource { shelf, limited: self.limited }))
    }
}

struct ShelfSource {
    shelf: Arc<Shelf>,
    limited: bool,
}

#[async_trait]
impl Source for ShelfSource {
    fn lanes(&self) -> usize {
        self.shelf.stored.lock().unwrap().lanes.len()
    }

    async fn input(&self) -> Result<Arc<dyn Input>, BoxError> {
        let lanes = self.lanes();
        let session =
            Session { state: State::Disconnected, lanes: vec![Progress::default(); lanes], turn: 0, batches: 0 };
        Ok(Arc::new(ShelfInput { shelf: Arc::clone(&self.shelf), session: Arc::new(Mutex::new(session)) }))
    }

    async fn put(&self, lane: usize, payloads: Vec<Bytes>) -> Result<(), BoxError> {
        self.shelf.stored.lock().unwrap().lanes[lane].log.extend(payloads);
        if self.shelf.flaw != Some(Flaw::SleepsThrough) {
            self.shelf.changed.notify_waiters();
        }
        Ok(())
    }

    async fn break_connection(&self) -> Result<Support, BoxError> {
        if self.limited {
            return Ok(Support::Unsupported("it has no connection"));
        }
        self.shelf.stored.lock().unwrap().broken = true;
        self.shelf.changed.notify_waiters();
        Ok(Support::Done)
    }

    async fn end(&self) -> Result<Support, BoxError> {
        if self.limited {
            return Ok(Support::Unsupported("it has no end"));
        }
        self.shelf.stored.lock().unwrap().ended = true;
        self.shelf.changed.notify_waiters();
        Ok(Support::Done)
    }
}

/// The state that outlives an input.
struct Shelf {
    stored: Mutex<Stored>,
    changed: Notify,
    flaw: Option<Flaw>,
}

#[derive(Default)]
struct Stored {
    lanes: Vec<Lane>,
    open: bool,
    broken: bool,
    ended: bool,
}

#[derive(Clone, Default)]
struct Lane {
    log: Vec<Bytes>,
    /// Every message before this one is acknowledged.
    done: usize,
}

/// The state of one input.
struct Session {
    state: State,
    lanes: Vec<Progress>,
    turn: usize,
    batches: usize,
}

#[derive(Clone, Default)]
struct Progress {
    out: BTreeSet<usize>,
    acked: BTreeSet<usize>,
    nacked: BTreeSet<usize>,
    seen: usize,
}

impl Session {
    fn out(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.out.is_empty())
    }
}

struct ShelfInput {
    shelf: Arc<Shelf>,
    session: Arc<Mutex<Session>>,
}

impl ShelfInput {
    fn has(&self, flaw: Flaw) -> bool {
        self.shelf.flaw == Some(flaw)
    }

    /// Chooses the next messages and their lane, without taking them.
    fn choose(&self, max: usize) -> Result<Option<(usize, Vec<usize>)>, InputError> {
        let session = self.session.lock().unwrap();
        let stored = self.shelf.stored.lock().unwrap();
        let closed = session.state == State::Closed && !self.has(Flaw::ReadsClosed);
        let early = session.state == State::Disconnected && !self.has(Flaw::ReadsUnconnected);
        if closed || early || stored.broken {
            return Err(InputError::NotConnected("there is no connection".into()));
        }
        let count = stored.lanes.len();
        let max = if self.has(Flaw::TooManyMessages) { max + 1 } else { max };
        for turn in 0..count {
            let lane = (session.turn + turn) % count;
            let (log, progress) = (&stored.lanes[lane], &session.lanes[lane]);
            let free = |at: &usize| !progress.out.contains(at) && !progress.acked.contains(at);
            let end = if self.has(Flaw::SeesOldOnly) { log.log.len().min(8) } else { log.log.len() };
            let mut all: Vec<usize> = (log.done..end).filter(free).collect();
            match self.shelf.flaw {
                Some(Flaw::NewestFirst) => all.reverse(),
                Some(Flaw::NackedLast) => all.sort_by_key(|at| progress.nacked.contains(at)),
                Some(Flaw::IgnoresNacks) => all.retain(|at| !progress.nacked.contains(at)),
                Some(Flaw::Skips) => all.retain(|at| *at != 5),
                _ => {}
            }
            all.truncate(max);
            if !all.is_empty() {
                return Ok(Some((lane, all)));
            }
        }
        let settled = !session.out() || self.has(Flaw::EndsEarly);
        if stored.ended && settled && !self.has(Flaw::NeverEnds) {
            return Err(InputError::EndOfInput);
        }
        Ok(None)
    }

    fn take(&self, lane: usize, chosen: &[usize]) {
        let mut session = self.session.lock().unwrap();
        session.turn = lane + 1;
        session.batches += 1;
        let progress = &mut session.lanes[lane];
        progress.out.extend(chosen);
        progress.seen = chosen.iter().fold(progress.seen, |seen, at| seen.max(at + 1));
        if self.has(Flaw::StoresDelivered) {
            let seen = progress.seen;
            self.shelf.stored.lock().unwrap().lanes[lane].done = seen;
        }
    }

    fn batch(&self, lane: usize, chosen: Vec<usize>) -> Batch {
        let stored = self.shelf.stored.lock().unwrap();
        let mut messages: Vec<_> = chosen.iter().map(|at| Message::new(stored.lanes[lane].log[*at].clone())).collect();
        if self.has(Flaw::Garbles) {
            messages[0] = Message::new("something else");
        }
        drop(stored);
        if self.has(Flaw::Stutters) && chosen.contains(&4) {
            self.session.lock().unwrap().lanes[lane].out.remove(&4);
        }
        let settlement =
            Settlement { shelf: Arc::clone(&self.shelf), session: Arc::clone(&self.session), lane, ids: chosen };
        Batch::new(messages, Receipt::new(settlement.ids.len(), settlement))
    }
}

#[async_trait]
impl Input for ShelfInput {
    async fn connect(&self) -> Result<(), InputError> {
        let mut session = self.session.lock().unwrap();
        let mut stored = self.shelf.stored.lock().unwrap();
        if self.has(Flaw::ConnectFails) || (self.has(Flaw::ReconnectFails) && stored.broken) {
            return Err(InputError::NotConnected("refused".into()));
        }
        if session.state == State::Connected {
            if self.has(Flaw::StartsOverOnConnect) || (self.has(Flaw::ReconnectStartsOver) && stored.broken) {
                session.lanes.fill(Progress::default());
                stored.lanes.iter_mut().for_each(|lane| lane.done = 0);
            }
            stored.broken = false;
            return Ok(());
        }
        if session.state == State::Closed {
            return Err(InputError::Fatal("it is closed".into()));
        }
        if stored.open {
            return Err(InputError::NotConnected("another input is open".into()));
        }
        stored.open = true;
        stored.broken = false;
        session.state = State::Connected;
        Ok(())
    }

    async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError> {
        let until = Instant::now() + demand.max_wait;
        loop {
            let changed = self.shelf.changed.notified();
            if let Some((lane, chosen)) = self.choose(demand.max_messages.get())? {
                if self.has(Flaw::RacesWithItself) {
                    tokio::task::yield_now().await;
                }
                self.take(lane, &chosen);
                if self.has(Flaw::TakesBeforeWaiting) {
                    tokio::task::yield_now().await;
                }
                return Ok(self.batch(lane, chosen));
            }
            if self.has(Flaw::TooPatient) {
                changed.await;
            } else if tokio::time::timeout_at(until, changed).await.is_err() {
                let idle = InputError::NotConnected("nothing there".into());
                return if self.has(Flaw::ErrorWhenIdle) { Err(idle) } else { Ok(Batch::empty()) };
            }
        }
    }

    async fn ack(&self, receipt: Receipt, verdicts: Verdicts) -> Result<(), AckError> {
        let expected = receipt.expected();
        match verdicts {
            Verdicts::Each(each) if self.has(Flaw::AnyCount) && each.len() != expected => receipt.settle(Verdicts::ACK),
            verdicts => receipt.settle(verdicts),
        }
    }

    async fn close(&self, within: Duration) -> Result<(), InputError> {
        let before = self.session.lock().unwrap().state;
        if before == State::Closed {
            return if self.has(Flaw::ClosesOnce) { Err(InputError::NotConnected("closed".into())) } else { Ok(()) };
        }
        if before != State::Connected {
            while self.has(Flaw::ClosesOnlyOpen) {
                self.shelf.changed.notified().await;
            }
            self.session.lock().unwrap().state = State::Closed;
            return Ok(());
        }
        let until = Instant::now() + within;
        while !self.has(Flaw::CloseHurries) {
            let changed = self.shelf.changed.notified();
            if !self.session.lock().unwrap().out() {
                break;
            }
            if self.has(Flaw::CloseLingers) {
                changed.await;
            } else if tokio::time::timeout_at(until, changed).await.is_err() {
                break;
            }
        }
        self.session.lock().unwrap().state = State::Closed;
        self.shelf.stored.lock().unwrap().open = false;
        self.shelf.changed.notify_waiters();
        Ok(())
    }

    fn status(&self) -> Status {
        let state = self.session.lock().unwrap().state;
        Status::new(if self.has(Flaw::AlwaysConnected) { State::Connected } else { state }, "shelves")
    }
}

impl Drop for ShelfInput {
    fn drop(&mut self) {
        let mut session = self.session.lock().unwrap();
        if session.state == State::Connected {
            self.shelf.stored.lock().unwrap().open = false;
        }
        session.state = State::Closed;
    }
}

struct Settlement {
    shelf: Arc<Shelf>,
    session: Arc<Mutex<Session>>,
    lane: usize,
    ids: Vec<usize>,
}

impl Settle for Settlement {
    fn settle(self: Box<Self>, verdicts: Verdicts) {
        let mut session = self.session.lock().unwrap();
        let flaw = self.shelf.flaw;
        if session.state == State::Closed && flaw != Some(Flaw::LateAcksCount) {
            return;
        }
        let progress = &mut session.lanes[self.lane];
        let mut stored = self.shelf.stored.lock().unwrap();
        let lane = &mut stored.lanes[self.lane];
        for (index, &at) in self.ids.iter().enumerate() {
            let verdict = match &verdicts {
                Verdicts::All(verdict) => verdict,
                Verdicts::Each(each) => &each[index],
            };
            let acked = match verdict {
                Verdict::Ack => true,
                Verdict::Nack(None) => flaw == Some(Flaw::DroppedIsAcked) && matches!(verdicts, Verdicts::All(_)),
                Verdict::Nack(Some(_)) => flaw == Some(Flaw::AcksWhatHasAReason),
            };
            if flaw != Some(Flaw::Stutters) && !progress.out.remove(&at) {
                continue;
            }
            progress.out.remove(&at);
            if !acked {
                progress.nacked.insert(at);
                continue;
            }
            if flaw == Some(Flaw::Stutters) && at == 4 && progress.nacked.insert(at) {
                continue;
            }
            progress.nacked.remove(&at);
            progress.acked.insert(at);
        }
        match flaw {
            Some(Flaw::ForgetsProgress) => {}
            Some(Flaw::StoresNewest) => lane.done = progress.acked.last().map_or(0, |at| at + 1).max(lane.done),
            Some(Flaw::NeedsOrderedAcks) if !self.ids.contains(&lane.done) => {}
            Some(Flaw::NeedsOrderedAcks) => lane.done = self.ids.last().map_or(0, |at| at + 1),
            _ => {
                while progress.acked.contains(&lane.done) {
                    lane.done += 1;
                }
            }
        }
        drop((stored, session));
        self.shelf.changed.notify_waiters();
    }
}
