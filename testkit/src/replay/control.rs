//! How are the control calls of a consumer answered? There are one stream, one consumer, and any number of shards.

use serde_json::{Value, json};

/// The answer to an operation.
pub(super) fn answer(operation: &str, shards: usize) -> Value {
    const STREAM: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/bench";
    let consumer = json!({
        "ConsumerName": "bench", "ConsumerARN": format!("{STREAM}/consumer/bench:1"),
        "ConsumerStatus": "ACTIVE", "ConsumerCreationTimestamp": 1.7E9, "StreamARN": STREAM,
    });
    match operation {
        "DescribeStreamSummary" => json!({ "StreamDescriptionSummary": {
            "StreamName": "bench", "StreamARN": STREAM, "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1.7E9, "EnhancedMonitoring": [], "OpenShardCount": shards, "ConsumerCount": 1,
        }}),
        "ListShards" => {
            let width = u128::MAX / shards.max(1) as u128;
            let shards: Vec<_> = (0..shards)
                .map(|shard| {
                    let start = width * shard as u128;
                    let end = if shard + 1 == shards { u128::MAX } else { start + width - 1 };
                    json!({
                        "ShardId": format!("shardId-{shard:012}"),
                        "HashKeyRange": { "StartingHashKey": start.to_string(), "EndingHashKey": end.to_string() },
                        "SequenceNumberRange": { "StartingSequenceNumber": format!("496{:053}", 0) },
                    })
                })
                .collect();
            json!({ "Shards": shards })
        }
        "DescribeStreamConsumer" => json!({ "ConsumerDescription": consumer }),
        "RegisterStreamConsumer" => json!({ "Consumer": consumer }),
        _ => json!({}),
    }
}
