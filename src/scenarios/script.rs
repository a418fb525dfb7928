//! A service that gives scripted answers, and remembers the calls.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use crate::aws::{ConsumerDescription, ConsumerStatus, Encoding, RecordsAnswer, Service};
use crate::model::{ListedShard, ShardId, StartPosition, Stream};
use crate::retry::{Fault, Origin};
use crate::sync::{Mutex, lock};
use kinesis_testkit::frame;

/// The answer to a call for a subscription.
#[derive(Debug)]
pub(super) enum Answer {
    Refused(Fault),
    /// No answer.
    Silence,
    /// The calling task panics.
    Panic,
    /// A body of these pieces.
    Body(Vec<Piece>),
}

/// A piece of a body. After the last piece the body ends properly.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    Wait(Duration),
    Broken,
    /// Nothing more, and no end.
    Hang,
}

/// The answer to a call of GetRecords.
#[derive(Debug)]
pub(super) enum Polled {
    Refused(Fault),
    /// Calls in CBOR are refused; one in JSON gets the next answer.
    RefusesCbor(Fault),
    /// No answer.
    Silence,
    /// A body, and whether its length is announced.
    Body {
        encoding: Encoding,
        pieces: Vec<Piece>,
        announces_len: bool,
    },
}

/// A call of GetRecords.
#[derive(Debug, Clone)]
pub(super) struct PollCall {
    pub(super) at: Instant,
    pub(super) shard: ShardId,
    pub(super) iterator: String,
    pub(super) limit: u32,
    pub(super) encoding: Encoding,
}

/// A call for a subscription, or for an iterator, which has no ARN.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) at: Instant,
    pub(super) arn: String,
    pub(super) shard: ShardId,
    pub(super) start: StartPosition,
}

#[derive(Debug)]
pub(super) struct Script {
    core: Mutex<Core>,
    called: Notify,
}

#[derive(Debug)]
struct Core {
    answers: HashMap<ShardId, VecDeque<Answer>>,
    /// The answer to subscriptions that have no scripted answer left.
    otherwise: Option<Fault>,
    listing: Vec<ListedShard>,
    /// The time on the clock of the service.
    time: Option<std::time::SystemTime>,
    /// When the stream was created.
    created: Option<i64>,
    /// The error with which the stream is not found.
    unfound: Option<Fault>,
    /// Whether calls for the listing get no answer.
    listing_is_silent: bool,
    /// The number of calls for subscriptions that are admitted in a second, over all shards.
    rate: Option<usize>,
    /// The times of the calls admitted within the last second.
    let_through: Vec<Instant>,
    arn: String,
    /// Whether the consumer has not been registered yet.
    unregistered: bool,
    deregistered: usize,
    calls: Vec<Call>,
    polled: HashMap<ShardId, VecDeque<Polled>>,
    polls: Vec<PollCall>,
    /// The faults of the next calls for iterators.
    iterators: VecDeque<Fault>,
}

impl Script {
    /// One stream with these open shards.
    pub(super) fn new<S: AsRef<str>>(shards: impl IntoIterator<Item = S>) -> Self {
        let listing = shards.into_iter().map(|shard| listed(shard.as_ref(), &[], false)).collect();
        let core = Core {
            answers: HashMap::new(),
            otherwise: None,
            listing,
            time: None,
            created: None,
            unfound: None,
            listing_is_silent: false,
            rate: None,
            let_through: Vec::new(),
            arn: "arn:orders/consumer/one".into(),
            unregistered: false,
            deregistered: 0,
            calls: Vec::new(),
            polled: HashMap::new(),
            polls: Vec::new(),
            iterators: VecDeque::new(),
        };
        Self { core: Mutex::new(core), called: Notify::new() }
    }

    /// Sets the answers to the next subscriptions of a shard, in turn. After them a subscription stays open and silent.
    pub(super) fn answer(&self, shard: &str, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.core).answers.entry(shard.into()).or_default().extend(answers);
    }

    /// Sets the answers to the next calls of GetRecords of a shard, in turn. After them nothing is new.
    pub(super) fn poll(&self, shard: &str, answers: impl IntoIterator<Item = Polled>) {
        lock(&self.core).polled.entry(shard.into()).or_default().extend(answers);
    }

    /// The next calls for iterators fail.
    pub(super) fn refuse_iterators(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.core).iterators.extend(faults);
    }

    /// The calls of GetRecords so far.
    pub(super) fn polls(&self) -> Vec<PollCall> {
        lock(&self.core).polls.clone()
    }

    pub(super) fn polls_of(&self, shard: &str) -> Vec<PollCall> {
        self.polls().into_iter().filter(|call| call.shard == shard.into()).collect()
    }

    /// Waits until there were this many calls of GetRecords.
    pub(super) async fn polled(&self, count: usize) {
        self.until(|| self.polls().len() >= count).await;
    }

    /// Every subscription gets this answer, until `None`.
    pub(super) fn refuse_all(&self, fault: Option<Fault>) {
        lock(&self.core).otherwise = fault;
    }

    pub(super) fn limit_rate(&self, per_second: usize) {
        lock(&self.core).rate = Some(per_second);
    }

    pub(super) fn list(&self, listing: Vec<ListedShard>) {
        lock(&self.core).listing = listing;
    }

    /// From now on the listing gets no answer.
    pub(super) fn silence_listing(&self) {
        lock(&self.core).listing_is_silent = true;
    }

    /// From now on the stream can't be found.
    pub(super) fn lose_stream(&self, fault: Fault) {
        lock(&self.core).unfound = Some(fault);
    }

    /// Sets the time on the clock of the service.
    pub(super) fn tell_time(&self, time: std::time::SystemTime) {
        lock(&self.core).time = Some(time);
    }

    /// Sets the time at which the stream was created. A deleted stream exists again, without its consumer.
    pub(super) fn create_stream(&self, created: i64) {
        let mut core = lock(&self.core);
        (core.created, core.unfound) = (Some(created), None);
        core.arn = format!("arn:orders/consumer/of-{created}");
    }

    /// Replaces the consumer.
    pub(super) fn consumer(&self, arn: &str) {
        lock(&self.core).arn = arn.into();
    }

    /// There is no consumer until one is registered.
    pub(super) fn without_consumer(self) -> Self {
        lock(&self.core).unregistered = true;
        self
    }

    /// How often a consumer was deregistered.
    pub(super) fn deregistered(&self) -> usize {
        lock(&self.core).deregistered
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        lock(&self.core).calls.clone()
    }

    pub(super) fn calls_of(&self, shard: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.shard == shard.into()).collect()
    }

    /// Waits until there were this many calls for subscriptions.
    pub(super) async fn called(&self, count: usize) {
        self.until(|| self.calls().len() >= count).await;
    }

    /// Waits until there was a call for a subscription of a shard.
    pub(super) async fn called_for(&self, shard: &str) {
        self.until(|| !self.calls_of(shard).is_empty()).await;
    }

    async fn until(&self, is: impl Fn() -> bool) {
        loop {
            let called = self.called.notified();
            let mut called = std::pin::pin!(called);
            called.as_mut().enable();
            if is() {
                return;
            }
            called.await;
        }
    }
}

pub(super) fn listed(id: &str, parents: &[&str], closed: bool) -> ListedShard {
    let parents = parents.iter().map(|parent| ShardId::from(*parent)).collect();
    ListedShard { id: id.into(), parents, closed, begin: None, hash_range: None }
}

/// A fault of a call.
pub(super) fn fault(code: &str) -> Fault {
    Fault { origin: Origin::Call, code: code.into(), message: "injected by the test".into() }
}

/// The frame that every body begins with.
pub(super) fn initial() -> Piece {
    Piece::Bytes(frame::frame(&[(":message-type", "event"), (":event-type", "initial-response")], b"{}"))
}

/// A body that begins as it should.
pub(super) fn body(pieces: impl IntoIterator<Item = Piece>) -> Answer {
    Answer::Body(std::iter::once(initial()).chain(pieces).collect())
}

/// An event with these records.
pub(super) fn event(
    records: impl IntoIterator<Item = u64>,
    continuation: Option<u64>,
    children: &[(&str, &[&str])],
) -> Piece {
    Piece::Bytes(frame::event(&event_json(records, continuation, children, 8)))
}

/// An event with records and a continuation behind the last.
pub(super) fn records(numbers: impl IntoIterator<Item = u64> + Clone) -> Piece {
    let last = numbers.clone().into_iter().last();
    event(numbers, last, &[])
}

/// An event of one record of this many bytes.
pub(super) fn large(number: u64, bytes: usize) -> Piece {
    Piece::Bytes(frame::event(&event_json([number], Some(number), &[], bytes)))
}

/// An event of these records with these data, and a continuation behind the last.
pub(super) fn data(records: &[(u64, Vec<u8>)]) -> Piece {
    let continuation = records.last().map(|(number, _)| number.to_string());
    let records: Vec<_> = records
        .iter()
        .map(|(number, data)| {
            serde_json::json!({
                "SequenceNumber": number.to_string(),
                "Data": base64_simd::STANDARD.encode_to_string(data),
                "PartitionKey": "outer",
                "ApproximateArrivalTimestamp": 4_000_000_000 + number,
            })
        })
        .collect();
    let event = serde_json::json!({
        "Records": records, "MillisBehindLatest": 0, "ChildShards": [], "ContinuationSequenceNumber": continuation,
    });
    Piece::Bytes(frame::event(&event.to_string()))
}

/// The event that ends a shard.
pub(super) fn end(records: impl IntoIterator<Item = u64>, children: &[(&str, &[&str])]) -> Piece {
    event(records, None, children)
}

fn event_json(
    records: impl IntoIterator<Item = u64>,
    continuation: Option<u64>,
    children: &[(&str, &[&str])],
    bytes: usize,
) -> String {
    let records: Vec<_> = records
        .into_iter()
        .map(|number| {
            let data = "x".repeat(bytes);
            serde_json::json!({
                "SequenceNumber": number.to_string(),
                "Data": base64_simd::STANDARD.encode_to_string(data),
                "PartitionKey": "key",
                // This is long after any time to start from.
                "ApproximateArrivalTimestamp": 4_000_000_000 + number,
            })
        })
        .collect();
    let children: Vec<_> =
        children.iter().map(|(id, parents)| serde_json::json!({ "ShardId": id, "ParentShards": parents })).collect();
    let mut event = serde_json::json!({ "Records": records, "MillisBehindLatest": 0, "ChildShards": children });
    if let Some(continuation) = continuation {
        event["ContinuationSequenceNumber"] = continuation.to_string().into();
    }
    event.to_string()
}

/// An exception inside the stream.
pub(super) fn exception(code: &str) -> Piece {
    let headers = [(":message-type", "exception"), (":exception-type", code)];
    Piece::Bytes(frame::frame(&headers, br#"{"message":"injected by the test"}"#))
}

/// The bytes of a frame, to be cut or altered.
pub(super) fn bytes(piece: Piece) -> Vec<u8> {
    match piece {
        Piece::Bytes(bytes) => bytes,
        other => panic!("{other:?} has no bytes"),
    }
}

#[async_trait]
impl Service for Script {
    fn time(&self) -> Option<std::time::SystemTime> {
        lock(&self.core).time
    }

    async fn describe_stream(&self, name_or_arn: &str) -> Result<Stream, Fault> {
        assert!(["orders", "arn:orders"].contains(&name_or_arn), "{name_or_arn}");
        if let Some(fault) = lock(&self.core).unfound.clone() {
            return Err(fault);
        }
        Ok(Stream::new("orders", "arn:orders").created_at(lock(&self.core).created))
    }

    async fn list_shards(&self, _: &Stream) -> Result<Vec<ListedShard>, Fault> {
        let listing = {
            let core = lock(&self.core);
            (!core.listing_is_silent).then(|| core.listing.clone())
        };
        match listing {
            Some(listing) => Ok(listing),
            None => std::future::pending().await,
        }
    }

    async fn describe_consumer(&self, _: &Stream, _: &str) -> Result<ConsumerDescription, Fault> {
        let core = lock(&self.core);
        if core.unregistered {
            return Err(fault("ResourceNotFoundException"));
        }
        Ok(ConsumerDescription { arn: core.arn.clone(), status: ConsumerStatus::Active })
    }

    async fn describe_consumer_arn(&self, arn: &str) -> Result<ConsumerDescription, Fault> {
        Ok(ConsumerDescription { arn: arn.into(), status: ConsumerStatus::Active })
    }

    async fn register_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault> {
        lock(&self.core).unregistered = false;
        self.describe_consumer(stream, name).await
    }

    async fn deregister_consumer(&self, _: &str) -> Result<(), Fault> {
        lock(&self.core).deregistered += 1;
        Ok(())
    }

    async fn subscribe(&self, consumer_arn: &str, shard: &ShardId, start: &StartPosition) -> Result<SdkBody, Fault> {
        let answer = {
            let mut core = lock(&self.core);
            let call =
                Call { at: Instant::now(), arn: consumer_arn.into(), shard: shard.clone(), start: start.clone() };
            let second = Duration::from_secs(1);
            core.let_through.retain(|before| call.at - *before < second);
            let limited = core.rate.is_some_and(|rate| core.let_through.len() >= rate);
            if !limited {
                core.let_through.push(call.at);
            }
            core.calls.push(call);
            if consumer_arn != core.arn {
                Some(Answer::Refused(fault("ResourceNotFoundException")))
            } else if limited {
                Some(Answer::Refused(fault("LimitExceededException")))
            } else {
                let next = core.answers.get_mut(shard).and_then(VecDeque::pop_front);
                next.or_else(|| core.otherwise.clone().map(Answer::Refused))
            }
        };
        self.called.notify_waiters();
        match answer.unwrap_or_else(|| body([Piece::Hang])) {
            Answer::Refused(fault) => Err(fault),
            Answer::Silence => std::future::pending().await,
            Answer::Panic => panic!("injected by the test"),
            Answer::Body(pieces) => Ok(SdkBody::from_body_1_x(Body { pieces: pieces.into(), waiting: None })),
        }
    }

    async fn shard_iterator(&self, _: &Stream, shard: &ShardId, start: &StartPosition) -> Result<String, Fault> {
        let refused = {
            let mut core = lock(&self.core);
            let (at, arn) = (Instant::now(), String::new());
            core.calls.push(Call { at, arn, shard: shard.clone(), start: start.clone() });
            core.iterators.pop_front()
        };
        self.called.notify_waiters();
        // An iterator names its shard, so that calls can be told apart.
        refused.map_or_else(|| Ok(format!("{shard}/first")), Err)
    }

    async fn get_records(
        &self,
        _: &Stream,
        iterator: &str,
        limit: u32,
        encoding: Encoding,
    ) -> Result<RecordsAnswer, Fault> {
        let (shard, _) = iterator.split_once('/').unwrap();
        let shard = ShardId::from(shard);
        let answer = {
            let mut core = lock(&self.core);
            let iterator = iterator.to_owned();
            core.polls.push(PollCall { at: Instant::now(), shard: shard.clone(), iterator, limit, encoding });
            let answers = core.polled.entry(shard.clone()).or_default();
            if encoding == Encoding::Json {
                answers.pop_front_if(|answer| matches!(answer, Polled::RefusesCbor(_)));
            }
            answers.pop_front()
        };
        self.called.notify_waiters();
        match answer.unwrap_or_else(|| got([], 0)) {
            Polled::Refused(fault) | Polled::RefusesCbor(fault) => {
                // So that the calls of other shards are under way too.
                sleep(Duration::from_millis(1)).await;
                Err(fault)
            }
            Polled::Silence => std::future::pending().await,
            Polled::Body { encoding, pieces, announces_len } => {
                let named = |bytes: Vec<u8>| {
                    let text = String::from_utf8_lossy(&bytes).replace("\"next\"", &format!("\"{shard}/next\""));
                    if encoding == Encoding::Json { text.into_bytes() } else { bytes }
                };
                let named = |piece| if let Piece::Bytes(bytes) = piece { Piece::Bytes(named(bytes)) } else { piece };
                let pieces: VecDeque<Piece> = pieces.into_iter().map(named).collect();
                let len = |piece: &Piece| if let Piece::Bytes(bytes) = piece { bytes.len() as u64 } else { 0 };
                let len = announces_len.then(|| pieces.iter().map(len).sum());
                let body = SdkBody::from_body_1_x(Body { pieces, waiting: None });
                Ok(RecordsAnswer { body, encoding, len })
            }
        }
    }
}

/// An answer of GetRecords in JSON with these records, `behind` milliseconds behind the tip.
pub(super) fn got(records: impl IntoIterator<Item = u64>, behind: u64) -> Polled {
    answer(records, behind, true, &[], 8)
}

/// An answer of GetRecords of one record of this many bytes.
pub(super) fn got_large(number: u64, bytes: usize) -> Polled {
    answer([number], 0, true, &[], bytes)
}

/// The answer of GetRecords that ends a shard.
pub(super) fn got_end(records: impl IntoIterator<Item = u64>, children: &[(&str, &[&str])]) -> Polled {
    answer(records, 0, false, children, 8)
}

/// An answer of GetRecords in JSON. Its iterator counts the answers.
pub(super) fn answer(
    records: impl IntoIterator<Item = u64>,
    behind: u64,
    has_next: bool,
    children: &[(&str, &[&str])],
    bytes: usize,
) -> Polled {
    let mut answer: serde_json::Value = serde_json::from_str(&event_json(records, None, children, bytes)).unwrap();
    answer["MillisBehindLatest"] = behind.into();
    if has_next {
        answer["NextShardIterator"] = "next".into();
    }
    let pieces = vec![Piece::Bytes(answer.to_string().into_bytes())];
    Polled::Body { encoding: Encoding::Json, pieces, announces_len: true }
}

struct Body {
    pieces: VecDeque<Piece>,
    waiting: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection broke")]
struct BrokenConnection;

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BrokenConnection;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenConnection>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            match self.pieces.pop_front() {
                None => return Poll::Ready(None),
                Some(Piece::Bytes(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes.into())))),
                Some(Piece::Wait(time)) => self.waiting = Some(Box::pin(sleep(time))),
                Some(Piece::Broken) => return Poll::Ready(Some(Err(BrokenConnection))),
                Some(Piece::Hang) => {
                    self.pieces.push_front(Piece::Hang);
                    return Poll::Pending;
                }
            }
        }
    }
}
