//! Does our decoder read the same as the SDK's?
//!
//! Both get the same bytes: the SDK as the answer to a subscription, ours as a body that comes in pieces. Where they
//! differ, [`DIFFERENCES`] explains why.

use kinesis_testkit::frame;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition, SubscribeToShardEvent, SubscribeToShardEventStream};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use kinesis_input::internals::wire::Frame;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;
use tokio::runtime::Runtime;

use kinesis_input_fuzz::choices::Choices;
use kinesis_input_fuzz::forms::{self, Made, Quirk};
use kinesis_input_fuzz::said::{Child, Record, Said};
use kinesis_input_fuzz::{cbor, event, frames, kpl, reference};

/// The SDK, and the service's answer to it.
struct Sdk {
    runtime: Runtime,
    client: Client,
    answer: Answer,
}

/// A service that always gives the same answer.
#[derive(Debug, Clone, Default)]
struct Answer(Arc<Mutex<Vec<u8>>>);

impl HttpClient for Answer {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Answer {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let body = SdkBody::from(self.0.lock().unwrap().clone());
        HttpConnectorFuture::ready(Ok(HttpResponse::new(200.try_into().unwrap(), body)))
    }
}

impl Sdk {
    fn new() -> Self {
        let answer = Answer::default();
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .http_client(answer.clone())
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { runtime, client: Client::from_conf(config), answer }
    }

    /// Reads a body with the SDK, up to the first event that it refuses.
    fn read(&self, body: &[u8]) -> (Vec<SubscribeToShardEventStream>, Option<String>) {
        body.clone_into(&mut self.answer.0.lock().unwrap());
        let position = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build().unwrap();
        let call = self.client.subscribe_to_shard().starting_position(position);
        let call = call.consumer_arn("arn:aws:kinesis:us-east-1:000000000000:stream/s/consumer/c:1").shard_id("s");
        self.runtime.block_on(async {
            let mut read = Vec::new();
            let mut answer = match call.send().await {
                Ok(answer) => answer,
                Err(error) => return (read, Some(format!("{error:?}"))),
            };
            loop {
                match answer.event_stream.recv().await {
                    Ok(Some(event)) => read.push(event),
                    Ok(None) => return (read, None),
                    Err(error) => return (read, Some(format!("{error:?}"))),
                }
            }
        })
    }

    /// Reads an event with the SDK.
    fn event(&self, payload: &[u8]) -> Result<Said, String> {
        match self.read(&body(payload)) {
            (_, Some(error)) => Err(error),
            (mut events, None) => match events.pop() {
                Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)) => Ok(said(&event)),
                other => panic!("{other:?}"),
            },
        }
    }
}

/// Reads an event in pieces with our decoder.
fn ours(payload: &[u8], cuts: &[usize]) -> Result<Said, String> {
    match frames::read(frames::pieces(&body(payload), cuts)) {
        (_, Some(fault)) if fault.code == "BadEvent" => Err(fault.message),
        (read, None) => match &read[..] {
            [Frame::InitialResponse, Frame::Event(event)] => Ok(Said::from(event)),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn initial() -> Vec<u8> {
    frame::frame(&[(":message-type", "event"), (":event-type", "initial-response")], b"{}")
}

/// The body of a subscription with one event.
fn body(payload: &[u8]) -> Vec<u8> {
    let headers = [(":message-type", "event"), (":event-type", "SubscribeToShardEvent")];
    [initial(), frame::frame(&headers, payload)].concat()
}

/// The content of an event in the SDK's types.
fn said(event: &SubscribeToShardEvent) -> Said {
    let record = |record: &aws_sdk_kinesis::types::Record| Record {
        sequence: record.sequence_number().to_owned(),
        data: record.data().as_ref().to_vec(),
        key: record.partition_key().map(str::to_owned),
        arrival_millis: record.approximate_arrival_timestamp().map(nearest_millis),
    };
    let continuation = event.continuation_sequence_number();
    Said {
        records: event.records().iter().map(record).collect(),
        continuation: (!continuation.is_empty()).then(|| continuation.to_owned()),
        millis_behind: Some(event.millis_behind_latest()),
        children: event
            .child_shards()
            .iter()
            .map(|child| Child { id: child.shard_id().to_owned(), parents: child.parent_shards().to_vec() })
            .collect(),
    }
}

/// The SDK truncates nanoseconds: it reads `0.123` as 122 999 999 ns. The nearest milliseconds are meant.
fn nearest_millis(time: &DateTime) -> i64 {
    time.secs().saturating_mul(1000).saturating_add((i64::from(time.subsec_nanos()) + 500_000) / 1_000_000)
}

/// The content as the SDK would represent it: the SDK does not distinguish a lag of 0 from none.
fn told_as_the_sdk(mut said: Said) -> Said {
    said.millis_behind = said.millis_behind.or(Some(0));
    said
}

/// Which decoders accept a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Ours accepts it, the SDK doesn't.
    ByUs,
    /// The SDK accepts it, ours doesn't.
    BySdk,
    /// Both accept it, with different results.
    Otherwise,
}

/// The deliberate differences between the two decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    NullEvent,
    WholeNumberAsFloat,
    NumberOutOfRange,
    NumberForm,
    DeepUnknown,
    BadUnknown,
    PassedOver,
    NothingAtAll,
    NoSequenceNumber,
    BadSequenceNumber,
    NoChildId,
    LongKey,
    ManyShards,
    TimeInWords,
    NullAfterValue,
}

use Difference::{
    BadSequenceNumber, BadUnknown, DeepUnknown, LongKey, ManyShards, NoChildId, NoSequenceNumber, NothingAtAll,
    NullAfterValue, NullEvent, NumberForm, NumberOutOfRange, PassedOver, TimeInWords, WholeNumberAsFloat,
};
use Taken::{BySdk, ByUs, Otherwise};

/// The reason for each difference, and texts that show it.
#[rustfmt::skip]
const DIFFERENCES: &[(Difference, Taken, &str, &[&str])] = &[
    (NullEvent, ByUs, "an empty event is read as an empty one, in whatever form it is written", &[
        "null",
        " null\n",
    ]),
    (WholeNumberAsFloat, ByUs, "JSON has one kind of numbers: 1e3 is 1000. A fraction of a millisecond is dropped", &[
        r#"{"MillisBehindLatest":1e3}"#,
        r#"{"MillisBehindLatest":1000.0}"#,
        r#"{"MillisBehindLatest":2.5}"#,
    ]),
    (NumberOutOfRange, ByUs, "the lag and the times are for people: a number that is too large serves as well as the largest", &[
        r#"{"MillisBehindLatest":9223372036854775808}"#,
        r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":99999999999999999999}]}"#,
        r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":9223372036854775808}]}"#,
    ]),
    (NumberForm, ByUs, "not JSON; nothing else could be meant", &[
        r#"{"MillisBehindLatest":.5}"#,
        r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":+1}]}"#,
        r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":.5}]}"#,
    ]),
    (DeepUnknown, ByUs, "unknown values are skipped without recursion, so no stack can overflow", &[
        concat!(r#"{"x":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["#,
                r#"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["#,
                r#"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"#,
                r#"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}"#),
    ]),
    (BadUnknown, ByUs, "not JSON, but in a value that is skipped; checking it costs time and gains nothing", &[
        r#"{"x":[1 2]}"#,
        r#"{"x":[1,]}"#,
        r#"{"x":{"y"}}"#,
        r#"{"x":01}"#,
        r#"{"x":1-2}"#,
        r#"{"x":"\q"}"#,
        r#"{"x":"\u12"}"#,
        r#"{"\ud800":1}"#,
        r#"{"Records":[{"SequenceNumber":"1","x":[:]}]}"#,
    ]),
    (PassedOver, ByUs, "unused values are not read, so their type can't be wrong", &[
        r#"{"Records":[{"SequenceNumber":"1","EncryptionType":1}]}"#,
        r#"{"ChildShards":[{"ShardId":"a","HashKeyRange":[]}]}"#,
    ]),
    (NothingAtAll, BySdk, "the SDK takes an empty answer to a call for an empty object; an event without a byte is an \
                           accident", &[
        "",
        " \n",
    ]),
    (NoSequenceNumber, BySdk, "the SDK makes it up as \"\"; a record without a position can't be acknowledged", &[
        r#"{"Records":[{}]}"#,
        r#"{"Records":[{"SequenceNumber":null,"Data":"AAAA"}]}"#,
        r#"{"Records":[{"Data":"AAAA","PartitionKey":"k"}]}"#,
    ]),
    (BadSequenceNumber, BySdk, "a position is kept in checkpoints and sent back; a value that the service never makes isn't", &[
        r#"{"Records":[{"SequenceNumber":""}]}"#,
        r#"{"Records":[{"SequenceNumber":"1 2"}]}"#,
        r#"{"Records":[{"SequenceNumber":"ü"}]}"#,
        r#"{"Records":[{"SequenceNumber":"1\u0000"}]}"#,
        r#"{"ContinuationSequenceNumber":" "}"#,
        r#"{"ContinuationSequenceNumber":"\n"}"#,
    ]),
    (NoChildId, BySdk, "the SDK makes it up as \"\"; a shard without an id can't be read, and its records would be \
                        lost in silence", &[
        r#"{"ChildShards":[{}]}"#,
        r#"{"ChildShards":[{"ShardId":null,"ParentShards":["a"]}]}"#,
    ]),
    // The test makes this text, because it is long.
    (LongKey, BySdk, "a key has at most 256 characters; its length is kept in 16 bits", &[]),
    // The test makes this one too.
    (ManyShards, BySdk, "a shard ends with one or two children; the memory for them isn't counted by the pool", &[]),
    (TimeInWords, BySdk, "times come in seconds, as the protocol says; the SDK reads the formats of all its services", &[
        r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":"2023-11-14T22:13:20Z"}]}"#,
    ]),
    (NullAfterValue, Otherwise, "the last value counts, even if it is null; the SDK skips nulls", &[
        r#"{"MillisBehindLatest":5,"MillisBehindLatest":null}"#,
        r#"{"ContinuationSequenceNumber":"5","ContinuationSequenceNumber":null}"#,
        r#"{"Records":[{"SequenceNumber":"1"}],"Records":null}"#,
        r#"{"Records":[{"SequenceNumber":"1","Data":"AAAA","Data":null}]}"#,
        r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"k","PartitionKey":null}]}"#,
        r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":1,"ApproximateArrivalTimestamp":null}]}"#,
        r#"{"ChildShards":[{"ShardId":"a"}],"ChildShards":null}"#,
        r#"{"ChildShards":[{"ShardId":"a","ParentShards":["b"],"ParentShards":null}]}"#,
    ]),
];

/// Difficult texts on which both decoders agree.
#[rustfmt::skip]
const AGREED: &[&str] = &[
    // Accepted.
    "{}",
    "\r\n\t {\r\n\t } \r\n\t",
    r#"{"Records":[],"ContinuationSequenceNumber":"","MillisBehindLatest":0,"ChildShards":[]}"#,
    r#"{"Records":null,"ContinuationSequenceNumber":null,"MillisBehindLatest":null,"ChildShards":null}"#,
    r#"{"Records":[{"SequenceNumber":"1"}],"Records":[{"SequenceNumber":"2"},{"SequenceNumber":"3"}]}"#,
    r#"{"Records":null,"Records":[{"SequenceNumber":"2","Data":null,"Data":"AAAA"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"AAAA","Data":"BBBBBBBB","Data":"CA=="}]}"#,
    r#"{"\u0052ecords":[{"Sequence\u004eumber":"\u0031","\u0044at\u0061":"\u0041\u0041\u003D\u003d"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"\/\/\/\/"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\"\\\/\b\f\n\r\t\u0000\ud83d\ude00\uFFFF\uD7FF\uE000"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":""}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\\\\\""},{"SequenceNumber":"2","PartitionKey":"\\"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":-1.5}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":1.700000000999E9}]}"#,
    // The float is slightly smaller than the written number.
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":1.005}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":1700000000.001}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":0}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":-0.0}]}"#,
    r#"{"MillisBehindLatest":-9223372036854775808}"#,
    r#"{"MillisBehindLatest":9223372036854775807}"#,
    r#"{"x":"]}\"\\","y":{"Records":[{"Data":"*"}]},"z":"\ud800"}"#,
    r#"{"records":5,"RECORDS":6,"Records ":7,"":8,"__type":9,"Records\u0000":10}"#,
    r#"{"ChildShards":[{"ShardId":"","ParentShards":[]},{"ParentShards":["a","b"],"ShardId":"c"}]}"#,
    r#"{"ChildShards":[{"ShardId":"a","ParentShards":null,"HashKeyRange":null}]}"#,
    r#"{"ChildShards":[{"ShardId":"x","ShardId":"\u0061"}]}"#,
    "{\"Records\":[{\"SequenceNumber\":\"1\",\"PartitionKey\":\"a\nb\u{1f}\"}]}",
    // Refused.
    "[]", "\"\"", "1", "true", "nul", "nulll", "{", "}", "{]", "{}}", "{},", "{}{}", "\u{feff}{}", "{\"x\"}", "{\"x\":}", "{,}",
    r#"{"x":1,}"#,
    r#"{"x":1 "y":2}"#,
    r#"{"x" 1}"#,
    "{x:1}",
    "{'x':1}",
    r#"{"x":truth}"#,
    r#"{"x":"}"#,
    r#"{"x":"\"}"#,
    r#"{"x":[1}"#,
    r#"{"x":1/**/}"#,
    r#"{"Records":{}}"#,
    r#"{"Records":""}"#,
    r#"{"Records":[null]}"#,
    r#"{"Records":[[]]}"#,
    r#"{"Records":[{"SequenceNumber":"1"},]}"#,
    r#"{"Records":[,{"SequenceNumber":"1"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1"}{"SequenceNumber":"2"}]}"#,
    r#"{"Records":[{"SequenceNumber":1}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":1}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"A"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"AA"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"AA="}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"AB=="}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"AA==AAAA"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"AA AA"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"AA\nAA"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"-_-_"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"===="}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","Data":"\u0141AAA"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":1}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\ud800"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\ud800\u0041"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\ude00\ud83d"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\u+041"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\u004"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\x"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\U0041"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":"1"}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":1.2.3}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":-}]}"#,
    r#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":NaN}]}"#,
    r#"{"MillisBehindLatest":"1"}"#,
    r#"{"MillisBehindLatest":true}"#,
    r#"{"MillisBehindLatest":1e}"#,
    r#"{"ContinuationSequenceNumber":5}"#,
    r#"{"ChildShards":{}}"#,
    r#"{"ChildShards":[null]}"#,
    r#"{"ChildShards":[{"ShardId":"a","ParentShards":"b"}]}"#,
    r#"{"ChildShards":[{"ShardId":"a","ParentShards":[null]}]}"#,
    r#"{"ChildShards":[{"ShardId":"a","ParentShards":[1]}]}"#,
];

/// The cause of a difference over a text, if there is one.
struct Compared {
    ours: Result<Said, String>,
    sdk: Result<Said, String>,
}

impl Compared {
    fn new(sdk: &Sdk, payload: &[u8], cuts: &[usize]) -> Self {
        Self { ours: ours(payload, cuts).map(told_as_the_sdk), sdk: sdk.event(payload) }
    }

    fn taken(&self) -> Option<Taken> {
        match (&self.ours, &self.sdk) {
            (Ok(_), Err(_)) => Some(ByUs),
            (Err(_), Ok(_)) => Some(BySdk),
            (Ok(ours), Ok(sdk)) if ours != sdk => Some(Otherwise),
            _ => None,
        }
    }

    /// Whether one of the differences above explains the results for this text.
    fn explained(&self, payload: &[u8], repeats: bool) -> bool {
        match (&self.ours, &self.sdk, self.taken()) {
            (_, _, None) => true,
            // This is not JSON, but it is skipped where it can't mislead; or it is one of the values of which ours
            // accepts more.
            (Ok(_), _, Some(ByUs)) => {
                let Ok(value) = serde_json::from_slice::<Value>(payload) else { return true };
                let is_odd = |value: &Value| value.is_number() && !value.is_i64();
                value.is_null()
                    || is_odd(&value["MillisBehindLatest"])
                    || elements(&value["Records"]).any(|record| {
                        is_odd(&record["ApproximateArrivalTimestamp"])
                            || !matches!(record["EncryptionType"], Value::String(_) | Value::Null)
                    })
                    || elements(&value["ChildShards"]).any(|child| child.get("HashKeyRange").is_some())
            }
            (_, Ok(sdk), Some(BySdk)) => {
                // The error may be in a value that was replaced, and that the SDK does not return.
                repeats
                    || payload.trim_ascii().is_empty()
                    || sdk.records.iter().any(|record| reference::sequence_number(&record.sequence).is_err())
                    || sdk.continuation.as_ref().is_some_and(|text| reference::sequence_number(text).is_err())
                    || sdk.children.iter().any(|child| child.id.is_empty())
            }
            (_, _, _) => payload.windows(4).any(|bytes| bytes == b"null"),
        }
    }
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

impl fmt::Debug for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\nours: {:?}\nsdk:  {:?}", self.ours, self.sdk)
    }
}

/// Lengths of the pieces in which a body comes.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0_usize..70, 0..8)
}

/// The bytes that decide the content of an event: few bytes for many plain ones, and many for a few that are not.
fn decisions() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..1500)
}

#[test]
fn sdk_and_ours_read_the_same_in_every_form_of_an_event() {
    let sdk = Sdk::new();
    let config = ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(decisions in decisions(), cuts in cuts())| {
        let Made { said, text, quirks, .. } = forms::make(&mut Choices::new(&decisions));
        let compared = Compared::new(&sdk, text.as_bytes(), &cuts);
        prop_assert_eq!(compared.ours.as_ref(), Ok(&told_as_the_sdk(said)), "{}", text);
        let known = quirks.iter().map(|quirk| match quirk {
            Quirk::WholeNumberAsFloat => WholeNumberAsFloat,
            Quirk::DeepUnknown => DeepUnknown,
        });
        let expected = known.map(taken).next();
        prop_assert_eq!(compared.taken(), expected, "{}{:?}", text, compared);
    });
}

#[test]
fn difference_over_a_spoiled_event_has_a_known_reason() {
    let sdk = Sdk::new();
    // Random seeds could find an unknown difference with two causes; the fuzzer looks for new ones.
    let seed = RngSeed::Fixed(1);
    let config = ProptestConfig { cases: 512, failure_persistence: None, rng_seed: seed, ..ProptestConfig::default() };
    proptest!(config, |(decisions in decisions(), damage in proptest::collection::vec(any::<u8>(), 0..30), cuts in cuts())| {
        let Made { text, repeats, .. } = forms::make(&mut Choices::new(&decisions));
        let payload = forms::spoil(&text, &mut Choices::new(&damage));
        let compared = Compared::new(&sdk, &payload, &cuts);
        prop_assert!(compared.explained(&payload, repeats), "{}{:?}", String::from_utf8_lossy(&payload), compared);
        event::check(&payload);
    });
}

fn taken(difference: Difference) -> Taken {
    DIFFERENCES.iter().find(|row| row.0 == difference).unwrap().1
}

#[test]
fn each_deliberate_difference_exists() {
    let sdk = Sdk::new();
    let long_key = format!(r#"{{"Records":[{{"SequenceNumber":"1","PartitionKey":"{}"}}]}}"#, "k".repeat(65_535));
    let many_shards = format!(r#"{{"ChildShards":[{{"ShardId":"a","ParentShards":[{}""]}}]}}"#, r#""","#.repeat(999));
    let made = [(LongKey, &long_key[..]), (ManyShards, &many_shards[..])];
    let written = DIFFERENCES.iter().flat_map(|row| row.3.iter().map(|text| (row.0, *text)));
    let mut seen = Vec::new();
    for (difference, text) in written.chain(made) {
        let compared = Compared::new(&sdk, text.as_bytes(), &[1, 5]);
        assert_eq!(compared.taken(), Some(taken(difference)), "{difference:?}: {text}{compared:?}");
        event::check(text.as_bytes());
        seen.push(difference);
    }
    assert!(DIFFERENCES.iter().all(|row| seen.contains(&row.0)), "a difference that nothing shows");
}

#[test]
fn sdk_and_ours_agree_on_difficult_events() {
    let sdk = Sdk::new();
    let refused = AGREED.iter().position(|text| *text == "[]").unwrap();
    for (at, text) in AGREED.iter().enumerate() {
        let compared = Compared::new(&sdk, text.as_bytes(), &[7, 0, 1]);
        assert_eq!(compared.taken(), None, "{text}{compared:?}");
        assert_eq!(compared.ours.is_ok(), at < refused, "{text}{compared:?}");
        event::check(text.as_bytes());
    }
}

#[test]
fn sdk_and_ours_refuse_invalid_utf_8() {
    let sdk = Sdk::new();
    for bytes in [&b"\xff"[..], b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
        for (before, after) in [
            (r#"{"Records":[{"SequenceNumber":"1","PartitionKey":""#, r#""}]}"#),
            (r#"{"Records":[{"SequenceNumber":"1","PartitionKey":"\n"#, r#""}]}"#),
            (r#"{"Records":[{"SequenceNumber":"1","Data":""#, r#""}]}"#),
            (r#"{"Records":[{"SequenceNumber":""#, r#""}]}"#),
            (r#"{"ContinuationSequenceNumber":""#, r#""}"#),
            (r#"{"ChildShards":[{"ShardId":""#, r#""}]}"#),
        ] {
            let payload = [before.as_bytes(), bytes, after.as_bytes()].concat();
            let compared = Compared::new(&sdk, &payload, &[]);
            assert!(compared.ours.is_err() && compared.sdk.is_err(), "{bytes:x?} in {before}{compared:?}");
        }
        // Neither decoder checks what it skips.
        let payload = [b"{\"x\":\"", bytes, b"\"}"].concat();
        assert_eq!(Compared::new(&sdk, &payload, &[]).taken(), None);
    }
}

#[test]
fn sdk_and_ours_recognize_the_same_kinds_of_frames() {
    let sdk = Sdk::new();
    let event = |json: &str| frame::event(json);
    let exception = |name: &str| {
        frame::frame(&[(":message-type", "exception"), (":exception-type", name)], br#"{"message":"why"}"#)
    };
    let unknown = frame::frame(&[(":message-type", "event"), (":event-type", "Tomorrow")], b"{}");
    let mut broken = event("{}");
    *broken.last_mut().unwrap() ^= 1;
    let mut bad_prelude = event("{}");
    bad_prelude[9] ^= 1;
    let half = event("{}")[..20].to_vec();
    let bodies = [
        vec![event("{}"), event(r#"{"MillisBehindLatest":1}"#)],
        vec![unknown, event("{}")],
        vec![event("{}"), exception("ResourceInUseException"), event("{}")],
        vec![event("{}"), exception("KMSThrottlingException")],
        vec![event("{}"), exception("TomorrowException")],
        vec![event("{}"), broken, event("{}")],
        vec![event("{}"), bad_prelude],
        vec![event("{}"), half],
        vec![],
    ];
    for frames in bodies {
        let body = [initial(), frames.concat()].concat();
        let (ours, fault) = frames::read(frames::pieces(&body, &[3, 50]));
        let (sdk, error) = sdk.read(&body);
        let mut ours = ours.into_iter().skip_while(|frame| *frame == Frame::InitialResponse);
        for event in sdk {
            match (ours.next(), event) {
                (Some(Frame::Event(_)), SubscribeToShardEventStream::SubscribeToShardEvent(_)) => {}
                (Some(Frame::Unknown(_)), other) if other.is_unknown() => {}
                (ours, sdk) => panic!("{ours:?} {sdk:?}"),
            }
        }
        match (ours.next(), error) {
            (Some(Frame::Exception { code: name, .. }), Some(error)) => {
                assert!(name == "TomorrowException" || error.contains(&name), "{name} {error}");
            }
            (None, error) => assert_eq!(fault.is_some(), error.is_some(), "{fault:?} {error:?}"),
            (ours, error) => panic!("{ours:?} {error:?}"),
        }
        frames::check(&body, &[1]);
    }
}

#[test]
fn seeds_of_the_fuzzer_pass() {
    type Check = fn(&[u8]);
    let checks: [(&str, Check); 4] = [
        ("cbor", cbor::check),
        ("event", event::check_input),
        ("frames", frames::check_input),
        ("kpl", kpl::check_input),
    ];
    for (folder, check) in checks {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(folder);
        let mut seeds = 0;
        for seed in std::fs::read_dir(&folder).unwrap() {
            let path = seed.unwrap().path();
            check(&std::fs::read(&path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0, "no seeds in {}", folder.display());
    }
}
