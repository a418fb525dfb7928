//! How does a host treat an input? This input is in memory and counts the calls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pipeline_plugin_api::{
    Batch, Demand, Input, InputError, Message, Receipt, Settle, State, Status, Verdict, Verdicts,
};
use tokio::sync::Notify;

/// A queue that outlives the inputs that read it, as a stream does. Clones share it.
///
/// Like an input with a lock on its checkpoint file, only one [`MemoryInput`] can be connected to it at a time.
#[derive(Debug, Clone, Default)]
pub struct MemoryQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Inside>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    waiting: VecDeque<(u64, Message)>,
    /// The messages in flight, by the order in which they were pushed.
    in_flight: BTreeMap<u64, Message>,
    next: u64,
    finished: bool,
    counts: Counts,
}

/// Counts of what has happened to a [`MemoryQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Inputs that are connected now.
    pub open: usize,
    /// Inputs that were connected and then closed.
    pub closed: usize,
    /// Attempts to connect while another input was connected.
    pub refused: usize,
    /// Messages that were delivered, including redeliveries.
    pub delivered: usize,
    /// Messages acked.
    pub acked: usize,
    /// Messages nacked.
    pub nacked: usize,
}

impl MemoryQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds messages at the end.
    pub fn push(&self, messages: impl IntoIterator<Item = Message>) {
        let mut inside = self.inside();
        for message in messages {
            let at = inside.next;
            inside.next += 1;
            inside.waiting.push_back((at, message));
        }
        drop(inside);
        self.0.changed.notify_waiters();
    }

    /// Declares that nothing more will be pushed: once everything is acked, the input has ended.
    pub fn finish(&self) {
        self.inside().finished = true;
        self.0.changed.notify_waiters();
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.inside().counts
    }

    /// Waits until the counts satisfy `enough`.
    pub async fn until(&self, enough: impl Fn(Counts) -> bool) -> Counts {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let counts = self.counts();
            if enough(counts) {
                return counts;
            }
            changed.await;
        }
    }

    /// An input that reads this queue.
    pub fn input(&self) -> MemoryInput {
        MemoryInput { queue: self.clone(), state: Mutex::new(State::Disconnected), ended: Arc::default() }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns messages to the queue, to be delivered again in their old order.
    fn put_back(inside: &mut Inside, mut messages: Vec<(u64, Message)>) {
        messages.extend(inside.waiting.drain(..));
        messages.sort_by_key(|(at, _)| *at);
        inside.waiting = messages.into();
    }
}

/// An input that reads a [`MemoryQueue`].
#[derive(Debug)]
pub struct MemoryInput {
    queue: MemoryQueue,
    state: Mutex<State>,
    /// Set, under the queue's lock, once receipts of this input have no effect any more.
    ended: Arc<AtomicBool>,
}

impl MemoryInput {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch, the end, or nothing yet.
    fn take(&self, demand: &Demand) -> Result<Option<Batch>, InputError> {
        let mut inside = self.queue.inside();
        let mut bytes = 0;
        let mut fits = |message: &Message| {
            bytes += message.payload().len() as u64;
            demand.max_bytes.is_none_or(|most| bytes <= most)
        };
        let fitting = inside.waiting.iter().map(|(_, message)| message).take_while(|message| fits(message));
        let fitting = fitting.take(demand.max_messages.get()).count();
        // The first message comes however large it is.
        let count = fitting.max(1).min(demand.max_messages.get()).min(inside.waiting.len());
        if count == 0 {
            return if inside.finished && inside.in_flight.is_empty() { Err(InputError::EndOfInput) } else { Ok(None) };
        }
        let taken: Vec<_> = inside.waiting.drain(..count).collect();
        inside.in_flight.extend(taken.iter().cloned());
        inside.counts.delivered += count;
        drop(inside);
        self.queue.0.changed.notify_waiters();
        let (ids, messages): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
        let settlement = Settlement { queue: self.queue.clone(), ids, ended: Arc::clone(&self.ended) };
        Ok(Some(Batch::new(messages, Receipt::new(settlement.ids.len(), settlement))))
    }

    /// Returns what is in flight to the queue, and allows another input to connect.
    fn disconnect(&self, inside: &mut Inside) {
        self.ended.store(true, Ordering::Release);
        let in_flight: Vec<_> = std::mem::take(&mut inside.in_flight).into_iter().collect();
        MemoryQueue::put_back(inside, in_flight);
        inside.counts.open -= 1;
    }
}

impl Drop for MemoryInput {
    fn drop(&mut self) {
        if *self.state() == State::Connected {
            self.disconnect(&mut self.queue.inside());
            self.queue.0.changed.notify_waiters();
        }
    }
}

#[async_trait]
impl Input for MemoryInput {
    async fn connect(&self) -> Result<(), InputError> {
        let mut state = self.state();
        match *state {
            State::Disconnected => {}
            State::Closed => return Err(InputError::Fatal("the input has been closed".into())),
            _ => return Ok(()),
        }
        let mut inside = self.queue.inside();
        if inside.counts.open > 0 {
            inside.counts.refused += 1;
            drop(inside);
            self.queue.0.changed.notify_waiters();
            return Err(InputError::NotConnected("another input holds the queue".into()));
        }
        inside.counts.open += 1;
        *state = State::Connected;
        Ok(())
    }

    async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError> {
        if *self.state() != State::Connected {
            return Err(InputError::NotConnected("connect has not succeeded yet".into()));
        }
        let until = pipeline_plugin_api::deadline(demand.max_wait);
        loop {
            let changed = self.queue.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(batch) = self.take(&demand)? {
                return Ok(batch);
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return Ok(Batch::empty());
            }
        }
    }

    async fn close(&self, within: Duration) -> Result<(), InputError> {
        let before = std::mem::replace(&mut *self.state(), State::Closed);
        if before != State::Connected {
            return Ok(());
        }
        let settled = async {
            loop {
                let changed = self.queue.0.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.queue.inside().in_flight.is_empty() {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(within, settled).await;
        let mut inside = self.queue.inside();
        self.disconnect(&mut inside);
        inside.counts.closed += 1;
        drop(inside);
        self.queue.0.changed.notify_waiters();
        Ok(())
    }

    fn status(&self) -> Status {
        let mut status = Status::new(*self.state(), "memory");
        status.pending_messages = self.queue.inside().in_flight.len() as u64;
        status
    }
}

/// The settlement of a batch: acked messages are gone, and nacked ones wait in their old order.
struct Settlement {
    queue: MemoryQueue,
    ids: Vec<u64>,
    ended: Arc<AtomicBool>,
}

impl Settle for Settlement {
    fn settle(self: Box<Self>, verdicts: Verdicts) {
        let mut inside = self.queue.inside();
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        let mut again = Vec::new();
        for (index, id) in self.ids.iter().enumerate() {
            let acked = match &verdicts {
                Verdicts::All(verdict) => verdict.is_ack(),
                Verdicts::Each(each) => each.get(index).is_some_and(Verdict::is_ack),
            };
            let Some(message) = inside.in_flight.remove(id) else { continue };
            if acked {
                inside.counts.acked += 1;
            } else {
                inside.counts.nacked += 1;
                again.push((*id, message));
            }
        }
        MemoryQueue::put_back(&mut inside, again);
        drop(inside);
        self.queue.0.changed.notify_waiters();
    }
}
