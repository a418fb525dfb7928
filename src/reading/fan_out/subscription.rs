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
use pipeline_plugin_api::Message;
use tokio::time::{Instant, sleep_until, timeout};

use super::consumer::Consumer;
use super::frames::{Frames, SILENCE_CODE};
use crate::model::{ChildShard, SequenceNumber, StartPosition};
use crate::pool::{Permit, Pool};
use crate::reading::listing::{CONFIRMED_AFTER, ShardPresence, StreamIdentity, StreamListing};
use crate::reading::wire::{Event, Frame, Prelude};
use crate::reading::{ReadError, ReadEvent, STALL_TIMEOUT, ShardReader, ShardToRead, Step};
use crate::records::{Rows, bytes_needed, resident};
use crate::retry::backoff::Backoff;
use crate::retry::{self, Fault, Origin, Remedy};
use crate::telemetry::health::Health;

/// The first delay before a new subscription.
const FIRST_DELAY: Duration = Duration::from_millis(300);
/// How long the service may take to answer the call, and then again to send the first frame.
const FIRST_FRAME: Duration = Duration::from_secs(20);
/// A deleted stream may be recreated, which takes some minutes. The input gives up after this time.
const STREAM_GONE_AFTER: Duration = Duration::from_mins(5);
/// The number of takeovers within the time window that means another fleet uses the consumer. A subscription is
/// otherwise taken over only at a hand-over that went wrong, which is rare.
const TAKEN_OVER_OFTEN: usize = 4;
const TAKEN_OVER_WITHIN: Duration = Duration::from_mins(3);

/// The result of a search for a consumer, shard or stream that was not found.
enum Search {
    /// Everything exists, or the service did not say.
    There,
    /// Something may still appear; the text says why it is missing now.
    NotYet(String),
    /// The shard is past retention. These are its children, as far as they are listed.
    Over(Vec<ChildShard>),
}

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
    shard: ShardToRead,
    /// The position at which the next subscription starts.
    start: StartPosition,
    /// The open subscription, if there is one.
    open: Option<Open>,
    /// Space that was granted for a frame that is still to come, usually in the next subscription.
    kept: Option<Permit>,
    backoff: Backoff,
    slow_backoff: Backoff,
    /// When the last subscription was granted.
    granted: Option<Instant>,
    /// The earliest time of the next call.
    not_before: Instant,
    /// The children from the last event, which announced the shard end; its records are returned first.
    ended: Option<Vec<ChildShard>>,
    /// The children of a shard that the listing shows as closed; the next subscription has to bring no record to
    /// confirm the end.
    confirming: Option<Vec<ChildShard>>,
    /// When the first listing that does not show the shard was requested.
    missing_since: Option<Instant>,
    /// The time since which the stream itself has been missing.
    stream_gone_since: Option<Instant>,
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
        let ceiling = shared.max_resubscribe_interval;
        Self {
            shared,
            shard,
            start,
            open: None,
            kept: None,
            backoff: Backoff::new(FIRST_DELAY, ceiling),
            slow_backoff: Backoff::new(retry::SLOW_RETRY, retry::SLOW_RETRY_CEILING),
            granted: None,
            not_before: begin,
            ended: None,
            confirming: None,
            missing_since: None,
            stream_gone_since: None,
            hears_of_idleness: false,
            taken_over: VecDeque::new(),
        }
    }

    /// Makes one attempt to subscribe.
    async fn subscribe(&mut self) -> Result<Open, Fault> {
        let arn = self.shared.consumer.arn();
        let call = self.shard.service.subscribe(&arn, &self.shard.names.shard, &self.start);
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
        self.shard.meter.subscribed();
        self.shared.health.granted(&self.shard.names);
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
                    self.shard.deaggregate(&mut event.rows);
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
            let _waiting = self.shared.health.waits_for_space(&self.shard.names);
            // The reservation stays queued: the space that it gets is for the same frame in the next subscription,
            // whatever comes there before it.
            self.kept = Some(granted.await);
            None
        }
    }

    /// Takes the records, the continuation and the children from an event.
    fn take(&mut self, event: Event, permit: Permit) -> Option<Step> {
        let Event { rows, continuation, millis_behind, children } = event;
        if let Some(millis) = millis_behind {
            self.shard.meter.behind(millis);
        }
        if !rows.is_empty() {
            self.confirming = None;
        }
        let complete = !children.is_empty() && children.iter().all(|child| !child.parents.is_empty());
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
            self.shard.meter.unread_shard_end("continuation and children contradict each other");
            self.open = None;
            self.wait_for_next();
        }
        step
    }

    /// Advances behind an event. The result is `None` if the event brought nothing new.
    fn advance(&mut self, rows: Rows, place: SequenceNumber, permit: Permit) -> Option<Step> {
        self.hears_of_idleness |= rows.is_empty();
        let moved = !rows.is_empty() || self.start != StartPosition::After(place.clone());
        let not_before = match self.start {
            StartPosition::At(time) => Some(time),
            _ => None,
        };
        // The next subscription starts by time again until a wanted record has arrived: a sequence number would mean
        // that every record behind it is wanted.
        let all_unwanted = not_before
            .is_some_and(|time| rows.iter().all(|record| record.arrival_millis().is_some_and(|millis| millis < time)));
        if !all_unwanted || rows.is_empty() {
            self.start = StartPosition::After(place.clone());
        }
        if moved {
            self.backoff.reset();
            self.slow_backoff.reset();
        }
        self.shared.health.reads(&self.shard.names);
        (self.missing_since, self.stream_gone_since) = (None, None);
        if self.taken_over.back().is_some_and(|at| at.elapsed() >= TAKEN_OVER_WITHIN) {
            self.taken_over.clear();
            self.shared.health.own_consumer(&self.shard.names);
        }
        moved.then_some(Step::Event(ReadEvent { rows, continuation: place, permit, not_before }))
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
            self.confirming = self.shared.shards.closed(&self.shard.names.shard).await;
        }
        self.wait_for_next();
    }

    fn wait_for_next(&mut self) {
        let delay = self.backoff.next_delay(fastrand::f64());
        self.wait_at_least(delay);
    }

    /// Decides how to handle a fault, and how long to wait first.
    async fn handle_fault(&mut self, fault: Fault) -> Result<Option<Step>, ReadError> {
        self.open = None;
        // The reader may need long to recover, and other readers may wait for the space.
        self.kept = None;
        let now = Instant::now();
        let mut delay = self.backoff.next_delay(fastrand::f64());
        let names = Arc::clone(&self.shard.names);
        // Some servers send nothing for idle shards.
        if fault.code != SILENCE_CODE || self.hears_of_idleness {
            self.shared.health.read_failed(&names, &fault);
        }
        match retry::subscription(&fault) {
            Remedy::Retry => {}
            Remedy::RetryAfterTakeover => {
                // A subscription was granted a moment ago: to this reader, to another one, or to this reader without
                // its knowledge.
                let ours = self.granted.map(|granted| granted + retry::TAKEOVER_AFTER).filter(|free| *free > now);
                delay = delay.max(ours.map_or(retry::TAKEOVER_AFTER, |free| free - now));
                if fault.origin == Origin::Stream {
                    self.note_taken_over(now);
                }
            }
            Remedy::RetrySlowly => {
                delay = self.slow_backoff.next_delay(fastrand::f64());
                self.shared.health.unreadable(&names, &fault);
            }
            Remedy::LookAgain => match self.search().await? {
                Search::Over(children) => {
                    self.shard.meter.vanished();
                    return Ok(Some(Step::End(children)));
                }
                Search::There => {}
                Search::NotYet(reason) => {
                    delay = self.slow_backoff.next_delay(fastrand::f64());
                    self.shared.health.unreadable(&names, &reason);
                }
            },
            Remedy::StartExpired => match &self.start {
                // The sequence number may come from a former stream of this name; then it is not an expired one.
                StartPosition::After(_) | StartPosition::AtRecord(_)
                    if self.shared.shards.identity(now).await == StreamIdentity::Recreated =>
                {
                    delay = self.slow_backoff.next_delay(fastrand::f64());
                }
                StartPosition::After(place) | StartPosition::AtRecord(place) => {
                    self.shard.meter.expired(place.as_str());
                    self.start = StartPosition::Oldest;
                }
                // The service refuses a time ahead of its clock, and the clock of this host may be ahead; the time
                // will come. An odd fault of one shard concerns that shard only.
                StartPosition::At(_) | StartPosition::Oldest => {
                    delay = self.slow_backoff.next_delay(fastrand::f64());
                    self.shared.health.unreadable(&names, &fault);
                }
            },
            Remedy::Fatal => return Err(self.fatal(&fault)),
        }
        self.shard.meter.fault(&fault, self.backoff.tries(), delay);
        self.wait_at_least(delay);
        Ok(None)
    }

    /// Finds out whether the consumer, the shard or the stream is missing.
    async fn search(&mut self) -> Result<Search, ReadError> {
        let now = Instant::now();
        match self.shared.shards.identity(now).await {
            // The coordinator is notified too, and has this reader stopped.
            StreamIdentity::Recreated => return Ok(Search::NotYet("the stream was deleted and recreated".into())),
            StreamIdentity::Gone => {
                let since = *self.stream_gone_since.get_or_insert(now);
                if now.duration_since(since) >= STREAM_GONE_AFTER {
                    return Err(self.fatal(&"the stream no longer exists"));
                }
                return Ok(Search::NotYet("the stream does not exist; waiting for one of its name".into()));
            }
            StreamIdentity::Same => self.stream_gone_since = None,
            StreamIdentity::Unknown => {}
        }
        if let Err(error) = self.shared.consumer.refresh().await {
            return Ok(Search::NotYet(error.to_string()));
        }
        let shard = &self.shard.names.shard;
        match self.shared.shards.presence(shard, now).await {
            Some(ShardPresence::Missing { asked_at, children }) => {
                let since = *self.missing_since.get_or_insert(asked_at);
                if asked_at.duration_since(since) < CONFIRMED_AFTER {
                    return Ok(Search::NotYet("the shard is not listed".into()));
                }
                // A recreated stream may have fewer shards.
                match self.shared.shards.identity(asked_at).await {
                    StreamIdentity::Same => Ok(Search::Over(children)),
                    _ => Ok(Search::NotYet("the shard is not listed".into())),
                }
            }
            Some(ShardPresence::Listed) => {
                self.missing_since = None;
                Ok(Search::There)
            }
            None => Ok(Search::There),
        }
    }

    /// Notes that a subscription of this reader was taken over. The reader's own requests don't cause that: each
    /// waits for the one before.
    fn note_taken_over(&mut self, now: Instant) {
        self.taken_over.push_back(now);
        self.taken_over.retain(|at| now.duration_since(*at) < TAKEN_OVER_WITHIN);
        if self.taken_over.len() >= TAKEN_OVER_OFTEN {
            self.taken_over.drain(..self.taken_over.len() - TAKEN_OVER_OFTEN);
            self.shared.health.shared_consumer(&self.shard.names, self.shared.consumer.label());
        }
    }

    fn wait_at_least(&mut self, delay: Duration) {
        self.not_before = self.not_before.max(Instant::now() + delay);
    }

    fn fatal(&self, cause: &dyn std::fmt::Display) -> ReadError {
        let names = &self.shard.names;
        ReadError { stream: names.stream.to_string(), shard: names.shard.to_string(), cause: cause.to_string() }
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
        self.start = start;
    }

    fn pause(&mut self) {
        if self.open.take().is_some() {
            self.shard.meter.closed_for_backpressure();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The shard has ended, or its lease was lost, or the input stops: this reader reports nothing about it any
        // more.
        self.shared.health.forget(&self.shard.names);
    }
}

/// The bytes of memory that records and their messages hold until they are acknowledged.
fn held_bytes(rows: &Rows) -> u64 {
    resident((rows.kept_bytes() + rows.len() * size_of::<Message>()) as u64)
}

/// The `message` in the payload of an exception.
fn message_of(payload: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    let message = json.get("message").or_else(|| json.get("Message")).and_then(serde_json::Value::as_str);
    message.unwrap_or_default().to_owned()
}
