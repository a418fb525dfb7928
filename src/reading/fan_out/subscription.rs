//! How is one shard read by SubscribeToShard, for years?
//!
//! A subscription lives five minutes at most, and everything that can happen to a connection happens to it. All that
//! stays in here: this retries on its own, for ever, behind the last place it has handed out.
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
use super::wire::{Event, Frame, Prelude};
use crate::model::{ChildShard, SequenceNumber, StartPosition};
use crate::pool::{Permit, Pool};
use crate::reading::listing::{CONFIRMED_AFTER, ShardPresence, StreamIdentity, StreamListing};
use crate::reading::{ReadError, ReadEvent, STALL_TIMEOUT, ShardReader, ShardToRead, Step};
use crate::records::{Rows, bytes_needed, resident};
use crate::retry::backoff::Backoff;
use crate::retry::{self, Fault, Origin, Remedy};
use crate::telemetry::health::Health;

/// The first delay before subscribing again.
const FIRST_DELAY: Duration = Duration::from_millis(300);
/// How long the service may take to answer the call, and then again to send the first frame.
const FIRST_FRAME: Duration = Duration::from_secs(20);
/// A stream that was deleted may be made again, which takes some minutes. After this time the input gives up.
const STREAM_GONE_AFTER: Duration = Duration::from_mins(5);
/// A subscription is taken over at a hand-over that went wrong, which is rare. Taken over this often within this time, it is
/// taken by another fleet.
const TAKEN_OVER_OFTEN: usize = 4;
const TAKEN_OVER_WITHIN: Duration = Duration::from_mins(3);

/// What came of looking for what is not found.
enum Search {
    /// It is there, or the service did not say.
    There,
    /// It may come; why not now.
    NotYet(String),
    /// The shard is past retention. These are its children, as far as they are listed.
    Over(Vec<ChildShard>),
}

/// What every subscription of a stream shares.
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
    /// Where the next subscription starts.
    start: StartPosition,
    /// The subscription, while there is one.
    open: Option<Open>,
    /// Space that was granted when there was no frame any more to fill it with.
    kept: Option<Permit>,
    backoff: Backoff,
    slow_backoff: Backoff,
    /// When the last subscription was granted.
    granted: Option<Instant>,
    /// The next call must not be made before.
    not_before: Instant,
    /// The end of the shard was in the last event; its records come first.
    ended: Option<Vec<ChildShard>>,
    /// The listing shows the shard closed, with these children; the next subscription has to bring no record.
    confirming: Option<Vec<ChildShard>>,
    /// When the first listing was asked for that does not show the shard.
    missing_since: Option<Instant>,
    /// Since when the stream itself has not been there.
    stream_gone_since: Option<Instant>,
    /// The service says now and then that there is nothing new.
    hears_of_idleness: bool,
    /// When subscriptions were taken over that nothing of ours took over, the last few.
    taken_over: VecDeque<Instant>,
}

/// A subscription that is open.
#[derive(Debug)]
struct Open {
    frames: Frames,
    /// A frame that was announced and is not read yet.
    prelude: Option<Prelude>,
    received: Received,
}

/// What an open subscription has brought so far, for telling whether the shard is over.
#[derive(Debug, Default)]
struct Received {
    events: u64,
    records: bool,
    /// The last event named children beside a continuation.
    children: bool,
    /// The last event said that the tip is further on.
    behind: bool,
}

impl Subscription {
    /// A reader that begins at `start`, and subscribes not before `begin`. Nothing is opened yet.
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

    /// Subscribes, once.
    async fn subscribe(&mut self) -> Result<Open, Fault> {
        let arn = self.shared.consumer.arn();
        let call = self.shard.service.subscribe(&arn, &self.shard.names.shard, &self.start);
        let body = timeout(FIRST_FRAME, call)
            .await
            .map_err(|_| Fault::wire("Timeout", "the subscription was not answered"))??;
        // Counted from the answer: the service counts from when it gave it.
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

    /// Reads the next event that says anything. `None` when the subscription ended in good order.
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
                // Closed while we waited: the frame will come again in the next subscription.
                return Ok(None);
            };
            let is_spare = permit.amount() > resident(bytes_needed(prelude.total_len()));
            let Some(open) = &mut self.open else { return Ok(None) };
            match open.frames.frame(&prelude).await? {
                // What was granted for a larger frame waits for it: what comes before it are frames without records.
                Frame::Event(event) if is_spare && event.rows.is_empty() => {
                    let kept = permit.split(held_bytes(&event.rows));
                    self.kept = Some(permit);
                    return Ok(Some((event, kept)));
                }
                Frame::Event(event) => {
                    permit.shrink_to(held_bytes(&event.rows));
                    return Ok(Some((event, permit)));
                }
                Frame::InitialResponse => self.kept = Some(permit).filter(|_| is_spare),
                Frame::Exception { code, payload } => {
                    let message = message_of(&payload);
                    return Err(Fault { origin: Origin::Stream, code, message });
                }
                Frame::Error { code, message } => return Err(Fault { origin: Origin::Stream, code, message }),
                // It may have said anything, so what follows is not trusted either.
                Frame::Unknown(what) => {
                    return Err(Fault::wire("UnknownEvent", format_args!("a frame of the unknown kind {what:?}")));
                }
            }
        }
    }

    /// Reserves space for a frame, or more if more is at hand. `None` when it took so long that the subscription was closed;
    /// the space is kept.
    async fn reserve(&mut self, prelude: &Prelude) -> Option<Permit> {
        let needed = resident(bytes_needed(prelude.total_len()));
        // What is too small goes back first: held beside the wait it could keep what is larger than the pool out of it.
        if let Some(kept) = self.kept.take().filter(|kept| kept.amount() >= needed) {
            return Some(kept);
        }
        let mut granted = self.shared.pool.reserve(needed);
        if let Ok(permit) = timeout(STALL_TIMEOUT, &mut granted).await {
            Some(permit)
        } else {
            self.pause();
            let _waiting = self.shared.health.waits_for_space(&self.shard.names);
            // The place in the queue is kept: what is granted now is for the same frame in the next subscription, whatever
            // comes there before it.
            self.kept = Some(granted.await);
            None
        }
    }

    /// Takes what an event says about where the shard goes on.
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
        // Without a continuation, the last record is the place.
        let last = rows.last().map(|last| SequenceNumber::read(last.sequence()));
        let step = continuation.or(last).and_then(|place| self.advance(rows, place, permit));
        if malformed {
            self.shard.meter.unread_shard_end("continuation and children contradict each other");
            self.open = None;
            self.wait_for_next();
        }
        step
    }

    /// Moves on behind an event. `None` if it said nothing new.
    fn advance(&mut self, rows: Rows, place: SequenceNumber, permit: Permit) -> Option<Step> {
        self.hears_of_idleness |= rows.is_empty();
        let moved = !rows.is_empty() || self.start != StartPosition::After(place.clone());
        let not_before = match self.start {
            StartPosition::At(time) => Some(time),
            _ => None,
        };
        // As long as nothing that is wanted has come, the next subscription asks by time again: a place would say
        // that all behind it is wanted.
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

    /// After the ordinary end of a subscription: is the shard over, or does it go on?
    ///
    /// AWS says so in an event. Some local servers don't, or say it beside a continuation. There a shard is over when
    /// the listing shows it closed and a subscription that was made after that brings no record.
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

    /// Decides what to do about a fault, and how long to wait first.
    async fn handle_fault(&mut self, fault: Fault) -> Result<Option<Step>, ReadError> {
        self.open = None;
        // It may take long to come back, and others may wait for the space.
        self.kept = None;
        let now = Instant::now();
        let mut delay = self.backoff.next_delay(fastrand::f64());
        let names = Arc::clone(&self.shard.names);
        // Some servers say nothing of idle shards.
        if fault.code != SILENCE_CODE || self.hears_of_idleness {
            self.shared.health.read_failed(&names, &fault);
        }
        match retry::subscription(&fault) {
            Remedy::Retry => {}
            Remedy::RetryAfterTakeover => {
                // Somebody was granted it a moment ago: we, or another, or we without hearing of it.
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
                // A number of the stream that had this name before is no expired one.
                StartPosition::After(_) if self.shared.shards.identity(now).await == StreamIdentity::Recreated => {
                    delay = self.slow_backoff.next_delay(fastrand::f64());
                }
                StartPosition::After(place) => {
                    self.shard.meter.expired(place.as_str());
                    self.start = StartPosition::Oldest;
                }
                // A time ahead of the service's clock is refused, and ours may be ahead of it. It comes. And what is odd
                // about one shard is that shard's.
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

    /// Something is not found: the consumer, the shard or the stream.
    async fn search(&mut self) -> Result<Search, ReadError> {
        let now = Instant::now();
        match self.shared.shards.identity(now).await {
            // The coordinator hears of it too, and has this reader stopped.
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
                // A stream that was made again in the meantime may have fewer shards.
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

    /// A subscription of ours was taken over. Our own requests don't do that: they wait for the one before.
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
            // Children beside a continuation, and no record: local servers may go on like this for ever.
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
        // Ended, lost or stopped: reading it is over here.
        self.shared.health.forget(&self.shard.names);
    }
}

/// Bytes of memory that records hold until they are acknowledged, with the messages that they are handed out as.
fn held_bytes(rows: &Rows) -> u64 {
    resident((rows.kept_bytes() + rows.len() * size_of::<Message>()) as u64)
}

/// The `message` in the payload of an exception.
fn message_of(payload: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    let message = json.get("message").or_else(|| json.get("Message")).and_then(serde_json::Value::as_str);
    message.unwrap_or_default().to_owned()
}
