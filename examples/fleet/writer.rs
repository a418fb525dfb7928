//! Puts records at a steady rate, and reshards the stream on request.

use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, Shard, StreamStatus};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{AnyError, check};

pub const STREAM: &str = "fleet";
pub const REGION: &str = "us-east-1";
const TICK: Duration = Duration::from_millis(100);

/// Puts records. There is one call at a time, and none while the stream is changed, because concurrent calls of the
/// local service have no order.
pub struct Writer {
    client: Client,
    per_tick: u64,
    changing: tokio::sync::Mutex<()>,
}

impl Writer {
    pub async fn new(endpoint: String, shards: i32, rate: u64) -> Result<Self, AnyError> {
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new("fleet", "fleet", None, None, "fleet"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(endpoint)
            .build();
        let writer = Self {
            client: Client::from_conf(config),
            per_tick: (rate / 10).clamp(1, 500),
            changing: tokio::sync::Mutex::new(()),
        };
        writer.client.create_stream().stream_name(STREAM).shard_count(shards).send().await?;
        writer.until_active().await?;
        Ok(writer)
    }

    /// Puts records until this time. Returns how many.
    pub async fn run(&self, until: Instant) -> Result<u64, AnyError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut put = 0;
        while Instant::now() < until {
            ticks.tick().await;
            let _turn = self.changing.lock().await;
            let entries = (put..put + self.per_tick)
                .map(|number| {
                    PutRecordsRequestEntry::builder()
                        .partition_key(format!("key-{}", check::key(number)))
                        .data(Blob::new(number.to_string()))
                        .build()
                })
                .collect::<Result<Vec<_>, _>>()?;
            let answer = self.client.put_records().stream_name(STREAM).set_records(Some(entries)).send().await?;
            if answer.failed_record_count().unwrap_or(0) > 0 {
                return Err("the local Kinesis refused records".into());
            }
            put += self.per_tick;
        }
        Ok(put)
    }

    /// Splits an open shard in the middle.
    pub async fn split(&self, random: &mut fastrand::Rng) -> Result<(), AnyError> {
        let _turn = self.changing.lock().await;
        let open = self.open_shards().await?;
        let (id, low, high) = &open[random.usize(..open.len())];
        let middle = low + (high - low) / 2;
        let call = self.client.split_shard().stream_name(STREAM).shard_to_split(id);
        call.new_starting_hash_key(middle.to_string()).send().await?;
        self.until_active().await
    }

    /// Merges two open shards that are neighbors.
    pub async fn merge(&self, random: &mut fastrand::Rng) -> Result<(), AnyError> {
        let _turn = self.changing.lock().await;
        let open = self.open_shards().await?;
        if open.len() < 2 {
            return Ok(());
        }
        let at = random.usize(..open.len() - 1);
        let call = self.client.merge_shards().stream_name(STREAM);
        call.shard_to_merge(&open[at].0).adjacent_shard_to_merge(&open[at + 1].0).send().await?;
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
            let (low, high) = (range.starting_hash_key().parse()?, range.ending_hash_key().parse()?);
            open.push((shard.shard_id().to_owned(), low, high));
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
            sleep(Duration::from_millis(10)).await;
        }
    }
}
