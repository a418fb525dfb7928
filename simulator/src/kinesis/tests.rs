//! Does the model keep the rules? Each test is a script of calls, at the times that matter for its rule.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders";
const START: Time = Time::from_millis(1_767_225_600_000);

/// An account with one stream of one shard and one consumer, both active.
struct Account {
    kinesis: Kinesis,
    now: Time,
}

impl Account {
    fn new() -> Self {
        let mut account = Self { kinesis: Kinesis::new(Settings::default()), now: START };
        account.call("CreateStream", &json!({ "StreamName": "orders", "ShardCount": 1 }));
        account.pass(3);
        account.call("RegisterStreamConsumer", &json!({ "StreamARN": ARN, "ConsumerName": "one" }));
        account.pass(6);
        account
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    fn ask(&mut self, operation: &str, input: &Value) -> Result<Reply, ServiceError> {
        self.kinesis.call(operation, input, self.now)
    }

    fn call(&mut self, operation: &str, input: &Value) -> Value {
        match self.ask(operation, input) {
            Ok(Reply::Json(answer)) => answer,
            other => panic!("{operation}: {other:?}"),
        }
    }

    fn consumer(&mut self) -> String {
        let asked = json!({ "StreamARN": ARN, "ConsumerName": "one" });
        let answer = self.call("DescribeStreamConsumer", &asked);
        answer["ConsumerDescription"]["ConsumerARN"].as_str().unwrap().to_owned()
    }

    fn subscribe(&mut self, shard: u32, position: &Value) -> Result<SubscriptionId, ServiceError> {
        let consumer = self.consumer();
        let asked = json!({ "ConsumerARN": consumer, "ShardId": shard_id(shard), "StartingPosition": position });
        match self.ask("SubscribeToShard", &asked)? {
            Reply::Subscription(id) => Ok(id),
            Reply::Json(answer) => panic!("{answer}"),
        }
    }

    fn put(&mut self, data: &'static str) -> String {
        self.kinesis.put("orders", data, data.into(), self.now).unwrap().1.to_string()
    }

    fn next(&mut self, id: SubscriptionId) -> Next {
        self.kinesis.next(id, self.now)
    }

    /// The next event, whenever it comes.
    fn event(&mut self, id: SubscriptionId) -> Event {
        loop {
            match self.next(id) {
                Next::Event(event) => return event,
                Next::Wait(until) => self.now = until,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn oldest() -> Value {
    json!({ "Type": "TRIM_HORIZON" })
}

fn data(event: &Event) -> Vec<&[u8]> {
    event.records.iter().map(|record| &*record.data).collect()
}

#[test]
fn second_subscription_is_refused_for_five_seconds_and_then_takes_over() {
    let mut account = Account::new();
    let first = account.subscribe(0, &oldest()).unwrap();
    assert_eq!(account.subscribe(0, &oldest()).unwrap_err().code, "LimitExceededException", "one call a second");
    account.pass(4);
    assert_eq!(account.subscribe(0, &oldest()).unwrap_err().code, "ResourceInUseException");
    account.pass(1);
    let second = account.subscribe(0, &oldest()).unwrap();
    let Next::Exception(error) = account.next(first) else { panic!() };
    assert_eq!(error.code, "ResourceInUseException");
    assert_eq!(account.next(first), Next::End);
    account.event(second);
    assert_eq!(account.kinesis.counters().takeovers, 1);
}

#[test]
fn subscription_lives_five_minutes_with_an_event_every_five_seconds() {
    let mut account = Account::new();
    let id = account.subscribe(0, &oldest()).unwrap();
    let (begun, mut heartbeats, mut last) = (account.now, 0, None);
    loop {
        match account.next(id) {
            Next::Event(event) => {
                assert!(event.records.is_empty() && event.continuation > last, "the position advances");
                last = event.continuation;
                heartbeats += 1;
            }
            Next::Wait(until) => account.now = until,
            Next::End => break,
            other @ (Next::Exception(_) | Next::Reset) => panic!("{other:?}"),
        }
    }
    assert_eq!(account.now.since(begun), Duration::from_mins(5));
    assert_eq!(heartbeats, 59);
}

#[test]
fn records_come_once_behind_a_continuation_even_of_an_idle_shard() {
    let mut account = Account::new();
    account.put("a");
    let id = account.subscribe(0, &oldest()).unwrap();
    assert_eq!(data(&account.event(id)), [b"a"]);
    let idle = account.event(id).continuation.unwrap().to_string();
    // The record arrives in the same millisecond in which the continuation was given.
    account.put("b");
    account.pass(5);
    let position = json!({ "Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": idle });
    let id = account.subscribe(0, &position).unwrap();
    let event = account.event(id);
    assert_eq!(data(&event), [b"b"]);
    account.pass(5);
    let position = json!({ "Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": event.continuation.unwrap().to_string() });
    let id = account.subscribe(0, &position).unwrap();
    assert_eq!(data(&account.event(id)), [b"b"], "AT_ delivers it again");
}

#[test]
fn shard_that_is_split_ends_with_its_children_and_they_merge_again() {
    let mut account = Account::new();
    account.put("before");
    account.call("SplitShard", &json!({ "StreamName": "orders", "ShardToSplit": shard_id(0) }));
    account.pass(6);
    let id = account.subscribe(0, &oldest()).unwrap();
    assert_eq!(data(&account.event(id)), [b"before"]);
    let end = account.event(id);
    assert_eq!(end.continuation, None);
    let children: Vec<_> = end.children.iter().map(|child| child.id.clone()).collect();
    assert_eq!(children, [shard_id(1), shard_id(2)]);
    assert_eq!(account.next(id), Next::End);
    let merge = json!({ "StreamName": "orders", "ShardToMerge": shard_id(1), "AdjacentShardToMerge": shard_id(2) });
    account.call("MergeShards", &merge);
    account.pass(6);
    let listed = account.call("ListShards", &json!({ "StreamName": "orders" }));
    let merged = &listed["Shards"][3];
    assert_eq!([&merged["ParentShardId"], &merged["AdjacentParentShardId"]], [&shard_id(1), &shard_id(2)]);
    assert_eq!(account.kinesis.open_shards("orders"), [3]);
    // A subscription to a shard that was read to its end receives the end again.
    let id = account.subscribe(1, &oldest()).unwrap();
    assert_eq!(account.event(id).children[0].id, shard_id(3));
}

#[test]
fn expired_records_are_gone_and_positions_in_them_are_refused() {
    let mut account = Account::new();
    let old = account.put("old");
    account.pass(25 * 3600);
    let position = json!({ "Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": old });
    assert_eq!(account.subscribe(0, &position).unwrap_err().code, "InvalidArgumentException");
    account.put("new");
    account.pass(1);
    let id = account.subscribe(0, &oldest()).unwrap();
    assert_eq!(data(&account.event(id)), [b"new"]);
}

#[test]
fn consumer_reads_only_while_active_and_its_deletion_ends_subscriptions() {
    let mut account = Account::new();
    let asked = json!({ "StreamARN": ARN, "ConsumerName": "two" });
    let made = account.call("RegisterStreamConsumer", &asked);
    assert_eq!(account.ask("RegisterStreamConsumer", &asked).unwrap_err().code, "ResourceInUseException");
    let early = json!({
        "ConsumerARN": made["Consumer"]["ConsumerARN"], "ShardId": shard_id(0), "StartingPosition": oldest(),
    });
    assert_eq!(account.ask("SubscribeToShard", &early).unwrap_err().code, "ResourceInUseException");
    let id = account.subscribe(0, &oldest()).unwrap();
    account.call("DeregisterStreamConsumer", &json!({ "StreamARN": ARN, "ConsumerName": "one" }));
    let Next::Exception(error) = account.next(id) else { panic!() };
    assert_eq!(error.code, "ResourceNotFoundException");
}

#[test]
fn key_that_cannot_be_used_ends_subscriptions_and_refuses_writers() {
    let mut account = Account::new();
    let id = account.subscribe(0, &oldest()).unwrap();
    account.kinesis.set_key("orders", Key::Denied).unwrap();
    let Next::Exception(error) = account.next(id) else { panic!() };
    assert_eq!(error.code, "KMSAccessDeniedException");
    let refused = account.kinesis.put("orders", "a", "a".into(), account.now).unwrap_err();
    assert_eq!(refused.code, "KMSAccessDeniedException");
}

#[test]
fn iterator_reads_to_the_end_of_a_shard_and_expires() {
    let mut account = Account::new();
    account.put("a");
    account.pass(1);
    let asked = json!({ "StreamName": "orders", "ShardId": shard_id(0), "ShardIteratorType": "TRIM_HORIZON" });
    let iterator = account.call("GetShardIterator", &asked)["ShardIterator"].clone();
    let answer = account.call("GetRecords", &json!({ "ShardIterator": iterator }));
    assert_eq!(answer["Records"][0]["Data"], "YQ==");
    account.call("SplitShard", &json!({ "StreamName": "orders", "ShardToSplit": shard_id(0) }));
    account.pass(6);
    let end = account.call("GetRecords", &json!({ "ShardIterator": answer["NextShardIterator"] }));
    assert_eq!((&end["NextShardIterator"], end["ChildShards"].as_array().unwrap().len()), (&Value::Null, 2));
    account.pass(301);
    let expired = account.ask("GetRecords", &json!({ "ShardIterator": iterator })).unwrap_err();
    assert_eq!(expired.code, "ExpiredIteratorException");
}

#[test]
fn unread_subscription_is_broken_off() {
    let mut account = Account::new();
    let id = account.subscribe(0, &oldest()).unwrap();
    let Next::Wait(until) = account.next(id) else { panic!() };
    account.now = until + Duration::from_mins(2);
    assert!(matches!(account.next(id), Next::Event(_)), "slow, but in time");
    account.pass(121);
    assert_eq!(account.next(id), Next::Reset);
    assert_eq!(account.next(id), Next::End);
    assert_eq!((account.kinesis.counters().unread, account.kinesis.open_subscriptions()), (1, 0));
}

#[test]
fn key_is_optional_and_ignored_where_the_service_distributes_records() {
    let mut account = Account::new();
    let auto = json!({
        "StreamName": "spread", "ShardCount": 4, "StreamModeDetails": { "StreamMode": "ON_DEMAND" },
        "RecordDistributionStrategy": "AUTO",
    });
    account.call("CreateStream", &auto);
    account.pass(3);
    let mut put = |key: Option<&'static str>| account.kinesis.put("spread", key, "x".into(), account.now).unwrap().0;
    let shards: std::collections::BTreeSet<u32> = (0..50).map(|_| put(Some("one key"))).collect();
    assert_eq!(shards.len(), 4);
    put(None);
    let asked = json!({ "StreamName": "spread" });
    let summary = &account.call("DescribeStreamSummary", &asked)["StreamDescriptionSummary"];
    assert_eq!(summary["RecordDistributionStrategy"], "AUTO");
    // Back to distribution by key: a key is required again.
    let arn = summary["StreamARN"].clone();
    account.call(
        "UpdateStreamRecordDistributionStrategy",
        &json!({ "StreamARN": arn, "RecordDistributionStrategy": "USER_PARTITION_KEY" }),
    );
    assert_eq!(account.kinesis.put("spread", None, "x".into(), account.now).unwrap_err().code, "ValidationException");
    let provisioned = json!({ "StreamARN": ARN, "RecordDistributionStrategy": "AUTO" });
    let refused = account.ask("UpdateStreamRecordDistributionStrategy", &provisioned).unwrap_err();
    assert_eq!(refused.code, "InvalidArgumentException");
}

#[test]
fn rates_are_five_reads_and_a_thousand_writes_a_second() {
    let mut account = Account::new();
    account.pass(10);
    let asked = json!({ "StreamName": "orders", "ShardId": shard_id(0), "ShardIteratorType": "TRIM_HORIZON" });
    let iterator = account.call("GetShardIterator", &asked)["ShardIterator"].clone();
    for _ in 0..5 {
        account.call("GetRecords", &json!({ "ShardIterator": iterator }));
    }
    let refused = account.ask("GetRecords", &json!({ "ShardIterator": iterator })).unwrap_err();
    assert_eq!(refused.code, "ProvisionedThroughputExceededException");
    let put = |account: &mut Account| account.kinesis.put("orders", "a", "a".into(), account.now);
    for _ in 0..1000 {
        put(&mut account).unwrap();
    }
    assert_eq!(put(&mut account).unwrap_err().code, "ProvisionedThroughputExceededException");
}

#[test]
fn data_beyond_two_megabytes_a_second_waits() {
    let mut account = Account::new();
    for _ in 0..8 {
        account.kinesis.put("orders", "a", vec![0; 1 << 20].into(), account.now).unwrap();
        account.pass(2);
    }
    let (id, begun) = (account.subscribe(0, &oldest()).unwrap(), account.now);
    let mut records = 0;
    while records < 8 {
        records += account.event(id).records.len();
    }
    let took = account.now.since(begun);
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
}
