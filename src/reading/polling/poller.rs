//! How is one shard read by GetRecords, for years?
//!
//! An iterator stands for a position, and each answer brings the next one. The position itself is the last record that
//! was read: every iterator that is lost, refused or too old is replaced by one from there.
//!
//! ```text
//!        ┌────────────────────────── fault: wait as `retry` says ◀─────────────────┐
//!        ▼                                                                          │
//!   wait (pace) ──▶ iterator ──▶ reserve(bytes) ──▶ GetRecords ──▶ answer ──▶ handed out ──▶ (wait)
//!                                     ▲                │               │
//!                                     └── did not fit ─┘               └─▶ end of shard
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until, timeout};

use super::StreamAccess;
use super::pace::{Answered, Pace, Portion};
use crate::aws::{Encoding, RecordsAnswer};
use crate::model::{ChildShard, SequenceNumber, StartPosition};
use crate::pool::{Permit, Pool};
use crate::reading::body::next_piece;
use crate::reading::cursor::ShardCursor;
use crate::reading::listing::StreamIdentity;
use crate::reading::wire::{CborReader, Event, EventReader};
use crate::reading::{ReadError, STALL_TIMEOUT, ShardReader, ShardToRead, Step, held_bytes, name_their_parents};
use crate::records::{bytes_needed, resident};
use crate::retry::{self, Fault, Origin, Remedy};
use crate::telemetry;

/// How long the service may take to answer a call, and then again for each piece of the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The service refuses iterators that are older than five minutes.
const ITERATOR_AGES: Duration = Duration::from_mins(4);
/// Some local servers never name the children of a closed shard, and some go on with iterators. Those are asked for
/// this long before the listing is.
const IDLE: Duration = Duration::from_mins(5);
/// How often the listing is asked then.
const LOOKS_EVERY: Duration = Duration::from_mins(1);
/// A shard that the listing shows as closed has ended when nothing came for this long after that.
const CLOSED: Duration = Duration::from_secs(10);

/// The reader of one shard.
#[derive(Debug)]
pub(crate) struct Poller {
    shared: StreamAccess,
    cursor: ShardCursor,
    pace: Pace,
    portion: Portion,
    iterator: Option<ShardIterator>,
    /// Whether the stream may have been recreated since it was last known to be the same one. A position in the former
    /// stream would be taken for one in the new stream.
    is_unsure: bool,
    answers: AnswerReader,
    /// The children from the last answer, which announced the shard end; its records are returned first.
    ended: Option<Vec<ChildShard>>,
    /// Since when every answer was empty and nothing was left.
    idle: Option<Idle>,
}

/// A position at the service.
#[derive(Debug)]
struct ShardIterator {
    text: String,
    made_at: Instant,
}

/// A reader that finds nothing.
#[derive(Debug)]
struct Idle {
    /// Whether the answers bring no next iterator, either.
    is_over: bool,
    since: Instant,
    looked_at: Option<Instant>,
    /// The children of the shard, and since when a listing shows it as closed.
    closed: Option<(Instant, Vec<ChildShard>)>,
}

/// The step of a poll that failed.
#[derive(Debug)]
enum Failure {
    /// A call failed, and this is what to do about it.
    Call(Remedy, Fault),
    /// The service does not know the encoding of the call.
    UnknownEncoding,
    /// The answer takes more space than was reserved. Its length is known if the answer says so.
    TooLong(Option<u64>),
}

impl Failure {
    fn iterator(fault: Fault) -> Self {
        Self::Call(retry::iterator(&fault), fault)
    }

    fn records(fault: Fault) -> Self {
        Self::Call(retry::records(&fault), fault)
    }
}

impl Poller {
    /// Creates a reader that begins at `start` and makes no call before `begin`.
    pub(crate) fn new(shared: StreamAccess, shard: ShardToRead, start: StartPosition, begin: Instant) -> Self {
        let (listing, health) = (Arc::clone(&shared.shards), Arc::clone(&shared.health));
        let cursor = ShardCursor::new(shard, listing, health, start, shared.retry_ceiling);
        Self {
            pace: Pace::new(shared.period, begin, shared.round),
            portion: Portion::new(most_bytes(&shared.pool)),
            shared,
            cursor,
            iterator: None,
            is_unsure: true,
            answers: AnswerReader::default(),
            ended: None,
            idle: None,
        }
    }

    /// Makes one call, and reads its answer. What it brought is in the pool.
    async fn poll(&mut self) -> Result<(Event, Permit), Failure> {
        self.ensure_iterator().await.map_err(Failure::iterator)?;
        let reserved = self.reserve().await;
        // The wait for space may have been long.
        let iterator = self.ensure_iterator().await.map_err(Failure::iterator)?;
        let encoding = self.shared.encodings.next();
        let shard = &self.cursor.shard;
        let call = shard.service.get_records(&shard.names.stream, &iterator, self.portion.limit(), encoding);
        let answer = match timeout(ANSWER_WITHIN, call).await {
            // Other shards may have found out before.
            Ok(Err(fault))
                if encoding == Encoding::Cbor
                    && retry::is_unknown_encoding(&fault)
                    && self.shared.encodings.may_fall_back() =>
            {
                self.fall_back();
                return Err(Failure::UnknownEncoding);
            }
            Ok(answer) => answer.map_err(Failure::records)?,
            Err(_) => return Err(Failure::records(Fault::wire("Timeout", "the call was not answered"))),
        };
        if encoding == Encoding::Cbor && answer.encoding == Encoding::Json {
            self.fall_back();
        }
        let at = Instant::now();
        let len = answer.len;
        let read = self.answers.read(answer, self.portion.bytes()).await;
        let Ok(Some((mut event, bytes))) = read else {
            // The service counts what it sent, whether it was read or not. Data is three quarters of its base64.
            self.pace.answered(Answered { at, bytes: len.unwrap_or_default() / 4 * 3, is_at_tip: false });
            return Err(read.err().map_or(Failure::TooLong(len), Failure::records));
        };
        let is_behind = event.millis_behind.is_some_and(|millis| millis > 0);
        self.pace.answered(Answered {
            at,
            bytes: event.rows.data_bytes(),
            is_at_tip: event.rows.is_empty() && !is_behind,
        });
        self.portion.answered(bytes, event.rows.len(), is_behind);
        self.iterator = event.next_iterator.take().map(|text| ShardIterator { text, made_at: at });
        self.cursor.shard.deaggregate(&mut event.rows);
        let mut permit = reserved;
        permit.shrink_to(held_bytes(&event.rows));
        Ok((event, permit))
    }

    /// Returns an iterator that is not too old.
    async fn ensure_iterator(&mut self) -> Result<String, Fault> {
        // The next one begins behind the last record that was read, which is not the last that was acknowledged.
        if self.iterator.take_if(|iterator| iterator.made_at.elapsed() >= ITERATOR_AGES).is_some() {
            self.is_unsure = true;
        }
        if let Some(iterator) = &self.iterator {
            return Ok(iterator.text.clone());
        }
        let made_at = Instant::now();
        if matches!(self.cursor.start, StartPosition::After(_) | StartPosition::AtRecord(_)) {
            self.ensure_stream(made_at).await?;
        }
        let shard = &self.cursor.shard;
        let call = shard.service.shard_iterator(&shard.names.stream, &shard.names.shard, &self.cursor.start);
        let text = timeout(ANSWER_WITHIN, call)
            .await
            .map_err(|_| Fault::wire("Timeout", "the call for an iterator was not answered"))??;
        // The service refuses the position of another stream, but every stream has an oldest record, and the process may
        // have stood still since the shard was claimed.
        self.ensure_stream(Instant::now()).await?;
        self.iterator = Some(ShardIterator { text: text.clone(), made_at });
        Ok(text)
    }

    /// Makes sure that the stream at `since` was the one that the shard belongs to.
    async fn ensure_stream(&mut self, since: Instant) -> Result<(), Fault> {
        if !self.is_unsure {
            return Ok(());
        }
        match self.cursor.listing.identity(since).await {
            StreamIdentity::Same => {
                self.is_unsure = false;
                Ok(())
            }
            StreamIdentity::Unknown => Err(Fault::wire("Unknown", "the stream could not be described")),
            StreamIdentity::Gone | StreamIdentity::Recreated => {
                let (origin, code) = (Origin::Call, "ResourceNotFoundException".to_owned());
                Err(Fault { origin, code, message: "the stream is not the one that was read".into() })
            }
        }
    }

    /// Reserves the space for an answer.
    async fn reserve(&self) -> Permit {
        let mut granted = self.shared.pool.reserve(space_for(self.portion.bytes()));
        if let Ok(permit) = timeout(STALL_TIMEOUT, &mut granted).await {
            return permit;
        }
        let _waiting = self.shared.health.waits_for_space(self.cursor.names());
        granted.await
    }

    /// Uses JSON from now on, if that is allowed.
    fn fall_back(&self) {
        if self.shared.encodings.fall_back() {
            telemetry::no_cbor(&self.cursor.names().stream);
        }
    }

    /// Takes the records, the position and the children from an answer.
    async fn take(&mut self, event: Event, permit: Permit) -> Option<Step> {
        let Event { rows, millis_behind, children, .. } = event;
        if let Some(millis) = millis_behind {
            self.cursor.shard.meter.behind(millis);
        }
        self.cursor.shard.meter.polled();
        let complete = name_their_parents(&children);
        let is_empty = rows.is_empty();
        let step = if let Some(place) = rows.last().map(|last| SequenceNumber::read(last.sequence())) {
            self.cursor.advance(rows, place, permit)
        } else {
            self.cursor.note_read();
            None
        };
        match (&self.iterator, complete) {
            (None, true) => self.ended = Some(children),
            (Some(_), false) if children.is_empty() => {}
            _ => {
                // It is asked again, from behind the last record.
                self.cursor.shard.meter.unread_shard_end("iterator and children contradict each other");
                self.iterator = None;
                let delay = self.cursor.next_delay();
                self.pace.wait_until(Instant::now() + delay);
            }
        }
        let is_over = self.iterator.is_none();
        if is_empty && self.ended.is_none() && (is_over || millis_behind.unwrap_or_default() <= 0) {
            self.note_idle(is_over).await;
        } else {
            self.idle = None;
        }
        step
    }

    /// Notes that there was nothing, and finds out whether the shard has ended without a word.
    async fn note_idle(&mut self, is_over: bool) {
        let now = Instant::now();
        let idle = self.idle.take_if(|idle| idle.is_over == is_over);
        let mut idle = idle.unwrap_or(Idle { is_over, since: now, looked_at: None, closed: None });
        let looks = is_over
            || now.duration_since(idle.since) >= IDLE
                && idle.looked_at.is_none_or(|at| now.duration_since(at) >= LOOKS_EVERY);
        match &idle.closed {
            Some((since, children)) if now.duration_since(*since) >= CLOSED => self.ended = Some(children.clone()),
            None if looks => {
                idle.looked_at = Some(now);
                let children = self.shared.shards.closed(&self.cursor.shard.names.shard).await;
                // Only what is asked for from now on shows that nothing was written before the shard was closed.
                idle.closed = children.map(|children| (Instant::now(), children));
            }
            _ => {}
        }
        self.idle = Some(idle);
    }

    /// Decides how to handle a failure, and how long to wait first.
    async fn handle(&mut self, failure: Failure) -> Result<Option<Step>, ReadError> {
        let (remedy, fault) = match failure {
            Failure::TooLong(len) => {
                self.portion.did_not_fit(len);
                return Ok(None);
            }
            Failure::UnknownEncoding => return Ok(None),
            Failure::Call(remedy, fault) => (remedy, fault),
        };
        let now = Instant::now();
        self.idle = None;
        self.shared.health.read_failed(self.cursor.names(), &fault);
        let mut delay = None;
        match remedy {
            Remedy::Retry | Remedy::RetryAfterTakeover => {}
            Remedy::RenewIterator => {
                self.iterator = None;
                self.is_unsure = true;
            }
            Remedy::SlowDown => delay = Some(self.pace.throttled(now, fastrand::f64())),
            Remedy::RetrySlowly => delay = Some(self.cursor.unreadable(&fault)),
            Remedy::LookAgain => {
                self.iterator = None;
                self.is_unsure = true;
                let search = match self.cursor.search_stream(now).await? {
                    Some(search) => search,
                    None => self.cursor.search_shard(now).await,
                };
                match self.cursor.searched(search) {
                    Ok(wait) => delay = wait,
                    Err(end) => return Ok(Some(end)),
                }
            }
            Remedy::StartExpired => delay = self.cursor.start_expired(&fault, now).await,
            Remedy::Fatal => return Err(self.cursor.fatal(&fault)),
        }
        let delay = delay.unwrap_or_else(|| self.cursor.next_delay());
        self.cursor.failed(&fault, delay);
        self.pace.failed(Instant::now(), delay);
        Ok(None)
    }
}

#[async_trait]
impl ShardReader for Poller {
    async fn next(&mut self) -> Result<Step, ReadError> {
        loop {
            if let Some(children) = self.ended.take() {
                return Ok(Step::End(children));
            }
            sleep_until(self.pace.next()).await;
            let step = match self.poll().await {
                Ok((event, permit)) => self.take(event, permit).await,
                Err(failure) => self.handle(failure).await?,
            };
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    fn start_at(&mut self, start: StartPosition) {
        self.cursor.start = start;
    }

    /// Nothing is open between two calls.
    fn pause(&mut self) {}
}

/// The space that an answer of this length may need at once.
fn space_for(len: usize) -> u64 {
    resident(bytes_needed(len))
}

/// The most bytes of an ordinary answer: two fit into the pool at once.
fn most_bytes(pool: &Pool) -> usize {
    let half = pool.bytes().capacity / 2;
    let (mut fits, mut too_many) = (1, 16 << 20);
    while too_many - fits > 1 {
        let between = usize::midpoint(fits, too_many);
        if space_for(between) <= half { fits = between } else { too_many = between }
    }
    fits
}

/// Reads the bodies of answers.
#[derive(Debug, Default)]
pub(crate) struct AnswerReader {
    json: EventReader,
    cbor: CborReader,
}

impl AnswerReader {
    /// Reads an answer, and returns it with its length. The result is `None` if it is longer than `most` bytes.
    pub(crate) async fn read(&mut self, answer: RecordsAnswer, most: usize) -> Result<Option<(Event, usize)>, Fault> {
        let RecordsAnswer { mut body, encoding, len } = answer;
        let len = match len.map(usize::try_from) {
            Some(Ok(len)) if len <= most => len,
            Some(_) => return Ok(None),
            None => most,
        };
        match encoding {
            Encoding::Json => self.json.begin(len),
            Encoding::Cbor => self.cbor.begin(len),
        }
        let silence = || Fault::wire("Timeout", "the rest of the answer did not come");
        let mut read = 0;
        while let Some(piece) = next_piece(&mut body, ANSWER_WITHIN, silence).await? {
            read += piece.len();
            if read > most {
                return Ok(None);
            }
            match encoding {
                Encoding::Json => self.json.feed(&piece),
                Encoding::Cbor => self.cbor.feed(&piece),
            }
            .map_err(|error| Fault::wire("BadAnswer", error))?;
        }
        let event = match encoding {
            Encoding::Json => self.json.finish(),
            Encoding::Cbor => self.cbor.finish(),
        };
        Ok(Some((event.map_err(|error| Fault::wire("BadAnswer", error))?, read)))
    }
}
