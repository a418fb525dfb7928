//! The calls of writers.

use serde_json::{Value, json};

use super::number::shard_id;
use super::request::Request;
use super::{Kinesis, ServiceError};

type Answer = Result<Value, ServiceError>;

/// The most bytes of a record, including its key.
const LARGEST: usize = 10 << 20;

impl Kinesis {
    pub(super) fn put_record(&mut self, request: Request<'_>) -> Answer {
        let stream = request.stream()?;
        let (shard, number) = self.put_one(stream, request)?;
        Ok(json!({ "ShardId": shard_id(shard), "SequenceNumber": number, "EncryptionType": "NONE" }))
    }

    pub(super) fn put_records(&mut self, request: Request<'_>) -> Answer {
        let stream = request.stream()?;
        let records = request.list("Records").ok_or_else(|| ServiceError::validation("Records"))?;
        if records.is_empty() || records.len() > 500 {
            return Err(ServiceError::validation("Records must have 1 to 500 members."));
        }
        let mut failed = 0;
        let mut answers = Vec::with_capacity(records.len());
        for record in records {
            match self.put_one(stream, Request(record)) {
                Ok((shard, number)) => answers.push(json!({ "ShardId": shard_id(shard), "SequenceNumber": number })),
                Err(error) if matches!(error.code, "ProvisionedThroughputExceededException" | "InternalFailure") => {
                    failed += 1;
                    answers.push(json!({ "ErrorCode": error.code, "ErrorMessage": error.message }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(json!({ "FailedRecordCount": failed, "Records": answers, "EncryptionType": "NONE" }))
    }

    fn put_one(&mut self, stream: &str, request: Request<'_>) -> Result<(u32, String), ServiceError> {
        let key = request.text("PartitionKey");
        let data = request.data("Data")?;
        if data.len() + key.map_or(0, str::len) > LARGEST {
            return Err(ServiceError::validation(format!("A record has at most {LARGEST} bytes.")));
        }
        let hash = request.hash_key("ExplicitHashKey")?;
        let now = self.now;
        let (shard, number) = self.stream_mut(stream)?.put(key, hash, data, now)?;
        self.counters.records += 1;
        self.touch(stream, Some(shard));
        Ok((shard, number.to_string()))
    }
}
