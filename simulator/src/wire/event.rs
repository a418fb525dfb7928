//! What frames does a subscription consist of?

use base64_simd::STANDARD;
use std::fmt::Write as _;

use super::frame;
use crate::kinesis::{Event, ServiceError};

const CONTENT: (&str, &str) = (":content-type", "application/json");

/// The first frame of every subscription.
pub(crate) fn initial() -> Vec<u8> {
    frame::write(&[(":message-type", "event"), (":event-type", "initial-response"), CONTENT], b"{}")
}

/// An event.
pub(crate) fn event(event: &Event) -> Vec<u8> {
    of_type("SubscribeToShardEvent", &json(event))
}

/// An event of the given type.
pub(crate) fn of_type(kind: &str, json: &str) -> Vec<u8> {
    frame::write(&[(":message-type", "event"), (":event-type", kind), CONTENT], json.as_bytes())
}

/// An exception in the stream.
pub(crate) fn exception(error: &ServiceError) -> Vec<u8> {
    let headers = [(":message-type", "exception"), (":exception-type", error.code), CONTENT];
    let message = serde_json::json!({ "message": error.message }).to_string();
    frame::write(&headers, message.as_bytes())
}

/// An error that is not in the service's model.
pub(crate) fn error(code: &str, message: &str) -> Vec<u8> {
    frame::write(&[(":message-type", "error"), (":error-code", code), (":error-message", message)], b"")
}

/// The payload of an event, in the form that the service writes.
pub(crate) fn json(event: &Event) -> String {
    let data: usize = event.records.iter().map(|record| record.data.len() * 4 / 3 + 200).sum();
    let mut out = String::with_capacity(data + 256);
    out.push_str("{\"Records\":[");
    for (at, record) in event.records.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "{comma}{{\"SequenceNumber\":\"{}\",\"ApproximateArrivalTimestamp\":{:.3},\"Data\":\"",
            record.number,
            record.arrived.seconds()
        );
        STANDARD.encode_append(&record.data, &mut out);
        out.push('"');
        if let Some(key) = &record.key {
            let _ = write!(out, ",\"PartitionKey\":{}", serde_json::Value::from(key.as_str()));
        }
        out.push('}');
    }
    out.push_str("],");
    if let Some(continuation) = event.continuation {
        let _ = write!(out, "\"ContinuationSequenceNumber\":\"{continuation}\",");
    }
    let _ = write!(out, "\"MillisBehindLatest\":{}", event.millis_behind);
    if !event.children.is_empty() {
        let children = event.children.iter().map(|child| {
            serde_json::json!({
                "ShardId": child.id,
                "ParentShards": child.parents,
                "HashKeyRange": {
                    "StartingHashKey": child.hashes.0.to_string(), "EndingHashKey": child.hashes.1.to_string(),
                },
            })
        });
        let _ = write!(out, ",\"ChildShards\":{}", children.collect::<serde_json::Value>());
    }
    out.push('}');
    out
}
