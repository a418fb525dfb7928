//! Puts the records, and reshards the stream on the way.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, Shard, StreamStatus};
use kinesis_testkit::aggregate::aggregate;
use tokio::sync::watch;

use crate::{AnyError, check};

pub const STREAM: &str = "quickstart";
pub const REGION: &str = "us-east-1";
/// The most records and bytes of one call: the service limits the former, the local service the latter.
const BATCH: (u64, usize) = (500, 1 << 20);

/// The most user records in one aggregate.
const PACKED: u64 = 10;

/// Puts records `0..records`. There is one writer and one call at a time, because concurrent calls have no order.
pub struct Writer {
    client: Client,
    record_bytes: usize,
    /// Whether records are packed into aggregates, as the Kinesis Producer Library does.
    packs: bool,
    /// The number of records that have been put.
    put: watch::Sender<u64>,
}

impl Writer {
    pub async fn new(endpoint: String, shards: i32, record_bytes: usize, packs: bool) -> Result<Self, AnyError> {
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new("quickstart", "quickstart", None, None, "quickstart"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(endpoint)
            .build();
        let writer = Self { client: Client::from_conf(config), record_bytes, packs, put: watch::channel(0).0 };
        writer.client.create_stream().stream_name(STREAM).shard_count(shards).send().await?;
        writer.until_active().await?;
        Ok(writer)
    }

    /// Follows the number of records that have been put.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.put.subscribe()
    }

    /// Puts all records; after a third a shard is split, after two thirds two are merged.
    pub async fn run(&self, records: u64) -> Result<(), AnyError> {
        self.put(0, records / 3).await?;
        self.split().await?;
        self.put(records / 3, records * 2 / 3).await?;
        self.merge().await?;
        self.put(records * 2 / 3, records).await
    }

    async fn put(&self, from: u64, to: u64) -> Result<(), AnyError> {
        // An aggregate is a record, and has to fit into a call.
        let packed = PACKED.min((BATCH.1 / (self.record_bytes + 32)) as u64).max(1);
        let step = if self.packs { check::KEYS * packed } else { BATCH.0 };
        let mut start = from;
        while start < to {
            let end = to.min(start + step);
            let records = if self.packs { self.packed(start, end) } else { self.plain(start, end) };
            let size = records.first().map_or(1, |(_, data)| data.len().max(1));
            for batch in records.chunks((BATCH.1 / size).clamp(1, BATCH.0 as usize)) {
                self.put_batch(batch).await?;
            }
            self.put.send_replace(end);
            start = end;
        }
        Ok(())
    }

    /// These records, each with its partition key.
    fn plain(&self, start: u64, end: u64) -> Vec<(String, Vec<u8>)> {
        (start..end).map(|number| (partition_key(number), check::data(number, self.record_bytes))).collect()
    }

    /// These records in aggregates, one for each partition key.
    fn packed(&self, start: u64, end: u64) -> Vec<(String, Vec<u8>)> {
        let first = start..end.min(start + check::KEYS);
        let aggregates = first.map(|first| {
            let numbers = (first..end).step_by(check::KEYS as usize);
            let records = numbers.map(|number| (partition_key(number), check::data(number, self.record_bytes)));
            (partition_key(first), aggregate(records))
        });
        aggregates.collect()
    }

    async fn put_batch(&self, records: &[(String, Vec<u8>)]) -> Result<(), AnyError> {
        let entry = |(key, data): &(String, Vec<u8>)| {
            PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(data.as_slice())).build()
        };
        let entries = records.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let answer = self.client.put_records().stream_name(STREAM).set_records(Some(entries)).send().await?;
        if answer.failed_record_count().unwrap_or(0) > 0 {
            return Err("the local Kinesis refused records".into());
        }
        Ok(())
    }

    /// Splits the first open shard in the middle.
    async fn split(&self) -> Result<(), AnyError> {
        let open = self.open_shards().await?;
        let (id, low, high) = open.first().ok_or("no open shard")?;
        let middle = low + (high - low) / 2;
        let call = self.client.split_shard().stream_name(STREAM).shard_to_split(id);
        call.new_starting_hash_key(middle.to_string()).send().await?;
        self.until_active().await
    }

    /// Merges the last two open shards, which are neighbors.
    async fn merge(&self) -> Result<(), AnyError> {
        let open = self.open_shards().await?;
        let [.., (low, ..), (high, ..)] = &open[..] else { return Ok(()) };
        let call = self.client.merge_shards().stream_name(STREAM).shard_to_merge(low).adjacent_shard_to_merge(high);
        call.send().await?;
        self.until_active().await
    }

    /// The open shards, in the order of their hash keys.
    async fn open_shards(&self) -> Result<Vec<(String, u128, u128)>, AnyError> {
        let answer = self.client.list_shards().stream_name(STREAM).send().await?;
        let is_open = |shard: &&Shard| {
            shard.sequence_number_range().is_some_and(|range| range.ending_sequence_number().is_none())
        };
        let mut open = Vec::new();
        for shard in answer.shards().iter().filter(is_open) {
            let range = shard.hash_key_range().ok_or("a shard without hash keys")?;
            open.push((
                shard.shard_id().to_owned(),
                range.starting_hash_key().parse()?,
                range.ending_hash_key().parse()?,
            ));
        }
        open.sort_by_key(|(_, low, _)| *low);
        Ok(open)
    }

    async fn until_active(&self) -> Result<(), AnyError> {
        loop {
            let answer = self.client.describe_stream_summary().stream_name(STREAM).send().await?;
            if answer.stream_description_summary().is_some_and(|found| found.stream_status() == &StreamStatus::Active) {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }
}

fn partition_key(number: u64) -> String {
    format!("key-{}", check::key(number))
}
