//! How is one shard read by SubscribeToShard, for years?
//!
//! A subscription lives five minutes at most, and its connection can fail in every way. The reader handles all of
//! that: it retries indefinitely, behind the last position that it returned.
//!
//! ```text
//!        ┌──────────────────────────────── fault: wait as `retry` says ◀──────────────┐
//!        ▼                                                                             │
//!   subscribe ──▶ prelude ──▶ reserve(bytes) ──▶ frame ──▶ event ──▶ handed out ──▶ (next prelude)
//!                                 │ 30 s                     │
//!                                 └─▶ close, wait on         └─▶ end of shard
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until, timeout};

use super::consumer::Consumer;
use super::frames::{Frames, SILENCE_CODE};
use crate::model::{ChildShard, SequenceNumber, StartPosition};
use crate::pool::{Permit, Pool};
use crate::reading::cursor::{Search, ShardCursor};
use crate::reading::listing::StreamListing;
use crate::reading::wire::{Event, Frame, Prelude};
use crate::reading::{ReadError, STALL_TIMEOUT, ShardReader, ShardToRead, Step, held_bytes, name_their_parents};
use crate::records::{Rows, bytes_needed, resident};
use crate::retry::{self, Fault, Origin, Remedy};
use crate::telemetry::health::Health;

/// How long the service may take to answer the call, and then again to send the first frame.
const FIRST_FRAME: Duration = Duration::from_secs(20);
/// The number of takeovers within the time window that means another fleet uses the consumer. A subscription is
/// otherwise taken over only at a hand-over that went wrong, which is rare.
const TAKEN_OVER_OFTEN: usize = 4;
const TAKEN_OVER_WITHIN: Duration = Duration::from_mins(3);

/// The parts that all subscriptions of a stream share.
#[derive(Debug, Clone)]
pub(crate) struct StreamAccess {
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) shards: Arc<StreamListing>,
    pub(crate) pool: Pool,
    pub(crate) health: Arc<Health>,
    pub(crate) max_resubscribe_interval: Duration,
}

/// The reader of one shard.
#[derive(Debug)]
pub(crate) struct Subscription {
    shared: StreamAccess,
    cursor: ShardCursor,
    /// The open subscription, if there is one.
    open: Option<Open>,
    /// Space that was granted for a frame that is still to come, usually in the next subscription.
    kept: Option<Permit>,
    /// When the last subscription was granted.
    granted: Option<Instant>,
    /// The earliest time of the next call.
    not_before: Instant,
    /// The children from the last event, which announced the shard end; its records are returned first.
    ended: Option<Vec<ChildShard>>,
    /// The children of a shard that the listing shows as closed; the next subscription has to bring no record to
    /// confirm the end.
    confirming: Option<Vec<ChildShard>>,
    /// Whether the service reports idleness: it says now and then that there is nothing new.
    hears_of_idleness: bool,
    /// The times of the last few takeovers of this reader's subscriptions, none of which it caused itself.
    taken_over: VecDeque<Instant>,
}

/// An open subscription.
#[derive(Debug)]
struct Open {
    frames: Frames,
    /// The prelude of a frame that was announced and is not read yet.
    prelude: Option<Prelude>,
    received: Received,
}

/// What an open subscription has brought so far, which shows whether the shard has ended.
#[derive(Debug, Default)]
struct Received {
    events: u64,
    records: bool,
    /// Whether the last event named children beside a continuation.
    children: bool,
    /// Whether the last event said that the tip is further on.
    behind: bool,
}

impl Subscription {
    /// Creates a reader that begins at `start` and does not subscribe before `begin`. Nothing is opened yet.
    pub(crate) fn new(shared: StreamAccess, shard: ShardToRead, start: StartPosition, begin: Instant) -> Self {
        let (listing, health) = (Arc::clone(&shared.shards), Arc::clone(&shared.health));
        let cursor = ShardCursor::new(shard, listing, health, start, shared.max_resubscribe_interval);
        Self {
            shared,
            cursor,
            open: None,
            kept: None,
            granted: None,
            not_before: begin,
            ended: None,
            confirming: None,
            hears_of_idleness: false,
            taken_over: VecDeque::new(),
        }
    }

    /// Makes one attempt to subscribe.
    async fn subscribe(&mut self) -> Result<Open, Fault> {
        let arn = self.shared.consumer.arn();
        let call = self.cursor.shard.service.subscribe(&arn, &self.cursor.shard.names.shard, &self.cursor.start);
        let body = timeout(FIRST_FRAME, call)
            .await
            .map_err(|_| Fault::wire("Timeout", "the subscription was not answered"))??;
        // The time of the answer counts, because the service counts from the moment of its answer.
        self.granted = Some(Instant::now());
        let mut frames = Frames::new(body);
        let first = timeout(FIRST_FRAME, frames.prelude())
            .await
            .map_err(|_| Fault::wire("Timeout", "the first frame of the subscription did not come"))??
            .ok_or_else(|| Fault::wire("Disconnected", "the subscription ended before its first frame"))?;
        self.cursor.shard.meter.subscribed();
        self.shared.health.granted(self.cursor.names());
        Ok(Open { frames, prelude: Some(first), received: Received::default() })
    }

    /// Reads the next event with content. The result is `None` when the subscription ended properly.
    async fn read(&mut self) -> Result<Option<(Event, Permit)>, Fault> {
        loop {
            let Some(open) = &mut self.open else { return Ok(None) };
            let prelude = match open.prelude.take() {
                Some(prelude) => prelude,
                None => match open.frames.prelude().await? {
                    Some(prelude) => prelude,
                    None => return Ok(None),
                },
            };
            let Some(mut permit) = self.reserve(&prelude).await else {
                // The subscription was closed during the wait: the frame comes again in the next subscription.
                return Ok(None);
            };
            let is_spare = permit.amount() > resident(bytes_needed(prelude.total_len()));
            let Some(open) = &mut self.open else { return Ok(None) };
            match open.frames.frame(&prelude).await? {
                // Space that was granted for a larger frame is kept for it: only frames without records come before
                // it.
                Frame::Event(event) if is_spare && event.rows.is_empty() => {
                    let kept = permit.split(held_bytes(&event.rows));
                    self.kept = Some(permit);
                    return Ok(Some((event, kept)));
                }
                Frame::Event(mut event) => {
                    self.cursor.shard.deaggregate(&mut event.rows);
                    permit.shrink_to(held_bytes(&event.rows));
                    return Ok(Some((event, permit)));
                }
                Frame::InitialResponse => self.kept = Some(permit).filter(|_| is_spare),
                Frame::Exception { code, payload } => {
                    let message = message_of(&payload);
                    return Err(Fault { origin: Origin::Stream, code, message });
                }
                Frame::Error { code, message } => return Err(Fault { origin: Origin::Stream, code, message }),
                // The unknown frame may have said anything, so the frames after it are not trusted either.
                Frame::Unknown(what) => {
                    return Err(Fault::wire("UnknownEvent", format_args!("a frame of the unknown kind {what:?}")));
                }
            }
        }
    }

    /// Reserves space for a frame; more if that is available at once. The result is `None` when the wait was so long
    /// that the subscription was closed; the space is kept.
    async fn reserve(&mut self, prelude: &Prelude) -> Option<Permit> {
        let needed = resident(bytes_needed(prelude.total_len()));
        // A permit that is too small is released first: kept during the wait, it could keep a frame out that needs
        // the whole pool.
        if let Some(kept) = self.kept.take().filter(|kept| kept.amount() >= needed) {
            return Some(kept);
        }
        let mut granted = self.shared.pool.reserve(needed);
        if let Ok(permit) = timeout(STALL_TIMEOUT, &mut granted).await {
            Some(permit)
        } else {
            self.pause();
            let _waiting = self.shared.health.waits_for_space(self.cursor.names());
            // The reservation stays queued: the space that it gets is for the same frame in the next subscription,
            // whatever comes there before it.
            self.kept = Some(granted.await);
            None
        }
    }

    /// Takes the records, the continuation and the children from an event.
    fn take(&mut self, event: Event, permit: Permit) -> Option<Step> {
        let Event { rows, continuation, millis_behind, children, .. } = event;
        if let Some(millis) = millis_behind {
            self.cursor.shard.meter.behind(millis);
        }
        if !rows.is_empty() {
            self.confirming = None;
        }
        let complete = name_their_parents(&children);
        let malformed = match &continuation {
            None => !complete,
            Some(_) => !children.is_empty() && !complete,
        };
        if let Some(open) = &mut self.open {
            open.received.events += 1;
            open.received.records |= !rows.is_empty();
            open.received.children = continuation.is_some() && complete;
            open.received.behind = millis_behind.is_some_and(|millis| millis > 0);
        }
        if continuation.is_none() && complete {
            self.ended = Some(children);
        }
        // Without a continuation, the last record is the position.
        let last = rows.last().map(|last| SequenceNumber::read(last.sequence()));
        let step = continuation.or(last).and_then(|place| self.advance(rows, place, permit));
        if malformed {
            self.cursor.shard.meter.unread_shard_end("continuation and children contradict each other");
            self.open = None;
            self.wait_for_next();
        }
        step
    }

    /// Advances behind an event. The result is `None` if the event brought nothing new.
    fn advance(&mut self, rows: Rows, place: SequenceNumber, permit: Permit) -> Option<Step> {
        self.hears_of_idleness |= rows.is_empty();
        if self.taken_over.back().is_some_and(|at| at.elapsed() >= TAKEN_OVER_WITHIN) {
            self.taken_over.clear();
            self.shared.health.own_consumer(self.cursor.names());
        }
        self.cursor.advance(rows, place, permit)
    }

    /// Decides after the ordinary end of a subscription whether the shard has ended or continues.
    ///
    /// AWS says so in an event. Some local servers don't, or say it beside a continuation. With them a shard has
    /// ended when the listing shows it closed and a subscription that was made after that brings no record.
    async fn finish(&mut self, received: Received) {
        if received.events > 0 && !received.records && !received.behind {
            if let Some(children) = self.confirming.take() {
                self.ended = Some(children);
                return;
            }
            self.confirming = self.shared.shards.closed(&self.cursor.shard.names.shard).await;
        }
        self.wait_for_next();
    }

    fn wait_for_next(&mut self) {
        let delay = self.cursor.next_delay();
        self.wait_at_least(delay);
    }

    /// Decides how to handle a fault, and how long to wait first.
    async fn handle_fault(&mut self, fault: Fault) -> Result<Option<Step>, ReadError> {
        self.open = None;
        // The reader may need long to recover, and other readers may wait for the space.
        self.kept = None;
        let now = Instant::now();
        let mut delay = self.cursor.next_delay();
        let names = Arc::clone(self.cursor.names());
        // Some servers send nothing for idle shards.
        if fault.code != SILENCE_CODE || self.hears_of_idleness {
            self.shared.health.read_failed(&names, &fault);
        }
        match retry::subscription(&fault) {
            Remedy::Retry | Remedy::RenewIterator | Remedy::SlowDown => {}
            Remedy::RetryAfterTakeover => {
                // A subscription was granted a moment ago: to this reader, to another one, or to this reader without
                // its knowledge.
                let ours = self.granted.map(|granted| granted + retry::TAKEOVER_AFTER).filter(|free| *free > now);
                delay = delay.max(ours.map_or(retry::TAKEOVER_AFTER, |free| free - now));
                if fault.origin == Origin::Stream {
                    self.note_taken_over(now);
                }
            }
            Remedy::RetrySlowly => delay = self.cursor.unreadable(&fault),
            Remedy::LookAgain => {
                let search = self.search().await?;
                match self.cursor.searched(search) {
                    Ok(wait) => delay = wait.unwrap_or(delay),
                    Err(end) => return Ok(Some(end)),
                }
            }
            Remedy::StartExpired => delay = self.cursor.start_expired(&fault, now).await.unwrap_or(delay),
            Remedy::Fatal => return Err(self.cursor.fatal(&fault)),
        }
        self.cursor.failed(&fault, delay);
        self.wait_at_least(delay);
        Ok(None)
    }

    /// Finds out whether the consumer, the shard or the stream is missing.
    async fn search(&mut self) -> Result<Search, ReadError> {
        let now = Instant::now();
        if let Some(search) = self.cursor.search_stream(now).await? {
            return Ok(search);
        }
        if let Err(error) = self.shared.consumer.refresh().await {
            return Ok(Search::NotYet(error.to_string()));
        }
        Ok(self.cursor.search_shard(now).await)
    }

    /// Notes that a subscription of this reader was taken over. The reader's own requests don't cause that: each
    /// waits for the one before.
    fn note_taken_over(&mut self, now: Instant) {
        self.taken_over.push_back(now);
        self.taken_over.retain(|at| now.duration_since(*at) < TAKEN_OVER_WITHIN);
        if self.taken_over.len() >= TAKEN_OVER_OFTEN {
            self.taken_over.drain(..self.taken_over.len() - TAKEN_OVER_OFTEN);
            self.shared.health.shared_consumer(self.cursor.names(), self.shared.consumer.label());
        }
    }

    fn wait_at_least(&mut self, delay: Duration) {
        self.not_before = self.not_before.max(Instant::now() + delay);
    }
}

#[async_trait]
impl ShardReader for Subscription {
    async fn next(&mut self) -> Result<Step, ReadError> {
        loop {
            if let Some(children) = self.ended.take() {
                self.open = None;
                return Ok(Step::End(children));
            }
            // Local servers may send children beside a continuation, without a record, indefinitely.
            if let Some(open) = self.open.take_if(|open| open.received.children && !open.received.records) {
                self.finish(open.received).await;
                continue;
            }
            if self.open.is_none() {
                sleep_until(self.not_before).await;
                match self.subscribe().await {
                    Ok(open) => self.open = Some(open),
                    Err(fault) => {
                        if let Some(step) = self.handle_fault(fault).await? {
                            return Ok(step);
                        }
                        continue;
                    }
                }
            }
            match self.read().await {
                Ok(Some((event, permit))) => {
                    if let Some(step) = self.take(event, permit) {
                        return Ok(step);
                    }
                }
                Ok(None) => {
                    if let Some(open) = self.open.take() {
                        self.finish(open.received).await;
                    }
                }
                Err(fault) => {
                    if let Some(step) = self.handle_fault(fault).await? {
                        return Ok(step);
                    }
                }
            }
        }
    }

    fn start_at(&mut self, start: StartPosition) {
        self.cursor.start = start;
    }

    fn pause(&mut self) {
        if self.open.take().is_some() {
            self.cursor.shard.meter.closed_for_backpressure();
        }
    }
}

/// The `message` in the payload of an exception.
fn message_of(payload: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    let message = json.get("message").or_else(|| json.get("Message")).and_then(serde_json::Value::as_str);
    message.unwrap_or_default().to_owned()
}
