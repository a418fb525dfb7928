//! Test support: a stream to read, an input to read it with, and the records that came out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use ferrokinesis::store::StoreOptions;
use kinesis_input::{KinesisInput, KinesisRecord};
use pipeline_plugin_api::config::{Document, Environment};
use pipeline_plugin_api::registry::Registry;
use pipeline_plugin_api::{Batch, Demand, Input, InputError, Message, Verdicts};

use kinesis_testkit::local_kinesis::LocalKinesis;

/// The options of a server that completes everything at once.
pub fn quick() -> StoreOptions {
    StoreOptions {
        create_stream_ms: 0,
        delete_stream_ms: 0,
        update_stream_ms: 0,
        shard_limit: 1000,
        ..StoreOptions::default()
    }
}

/// The SDK's client without TLS.
pub fn plain_http() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_http()
}

/// An SDK client for writing.
pub fn client(server: &LocalKinesis, http: SharedHttpClient) -> Client {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(http)
        .endpoint_url(server.endpoint())
        .build();
    Client::from_conf(config)
}

/// A server, a client for writing, and a folder for checkpoints.
pub struct Bench {
    pub server: LocalKinesis,
    pub client: Client,
    pub folder: tempfile::TempDir,
}

impl Bench {
    pub async fn start() -> Self {
        Self::with(LocalKinesis::start(quick()).await.unwrap(), plain_http())
    }

    pub fn with(server: LocalKinesis, http: SharedHttpClient) -> Self {
        let client = client(&server, http);
        Self { server, client, folder: tempfile::tempdir().unwrap() }
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.folder.path().join("checkpoints")
    }

    pub async fn create(&self, stream: &str, shards: i32) {
        self.client.create_stream().stream_name(stream).shard_count(shards).send().await.unwrap();
        self.until_active(stream).await;
    }

    /// The server changes streams in a task of its own; each call here waits for that task.
    pub async fn until_active(&self, stream: &str) {
        loop {
            let answer = self.client.describe_stream_summary().stream_name(stream).send().await.unwrap();
            if answer.stream_description_summary().unwrap().stream_status().as_str() == "ACTIVE" {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Puts records `from..to`; the partition key of each is its number, its data `number:` and padding.
    pub async fn put(&self, stream: &str, from: u64, to: u64) {
        for start in (from..to).step_by(500) {
            let records = (start..to.min(start + 500)).map(|number| {
                PutRecordsRequestEntry::builder()
                    .partition_key(number.to_string())
                    .data(Blob::new(format!("{number}:{}", "x".repeat((number % 300) as usize))))
                    .build()
                    .unwrap()
            });
            let answer = self
                .client
                .put_records()
                .stream_name(stream)
                .set_records(Some(records.collect()))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.failed_record_count(), Some(0));
        }
    }

    /// Puts one record with this hash key, which determines the shard.
    pub async fn put_at(&self, stream: &str, hash_key: u128, data: Vec<u8>) {
        let call = self.client.put_record().stream_name(stream).partition_key("key");
        call.explicit_hash_key(hash_key.to_string()).data(Blob::new(data)).send().await.unwrap();
    }

    /// Waits until the clock of the server, which counts arrivals in whole seconds, is past all arrivals so far: puts
    /// records into this stream of one shard until one arrives later than the first.
    pub async fn until_next_second(&self, stream: &str) {
        let shards = self.client.list_shards().stream_name(stream).send().await.unwrap();
        let call = self.client.get_shard_iterator().stream_name(stream).shard_id(shards.shards()[0].shard_id());
        let mut iterator = call.shard_iterator_type(ShardIteratorType::Latest).send().await.unwrap().shard_iterator;
        let mut first = None;
        loop {
            self.put_at(stream, 0, b"tick".to_vec()).await;
            let answer = self.client.get_records().set_shard_iterator(iterator).send().await.unwrap();
            for record in answer.records() {
                let arrived = record.approximate_arrival_timestamp().unwrap().secs();
                if arrived > *first.get_or_insert(arrived) {
                    return;
                }
            }
            iterator = answer.next_shard_iterator;
        }
    }

    pub async fn split(&self, stream: &str, shard: &str) {
        let shards = self.client.list_shards().stream_name(stream).send().await.unwrap();
        let range = shards.shards().iter().find(|found| found.shard_id() == shard).unwrap().hash_key_range().unwrap();
        let (low, high): (u128, u128) =
            (range.starting_hash_key().parse().unwrap(), range.ending_hash_key().parse().unwrap());
        let middle = (low + (high - low) / 2).to_string();
        let call = self.client.split_shard().stream_name(stream).shard_to_split(shard).new_starting_hash_key(middle);
        call.send().await.unwrap();
        self.until_active(stream).await;
    }

    pub async fn merge(&self, stream: &str, one: &str, other: &str) {
        let call = self.client.merge_shards().stream_name(stream).shard_to_merge(one).adjacent_shard_to_merge(other);
        call.send().await.unwrap();
        self.until_active(stream).await;
    }

    /// A configuration for these streams, with `more` lines.
    pub fn yaml(&self, streams: &str, more: &str) -> String {
        format!(
            "streams: [{streams:?}]\nregion: us-east-1\nendpoint: {}\ncheckpoint_file: \"{}\"\ncommit_period: 100ms\n\
             credentials: {{id: test, secret: test}}\n{}",
            self.server.endpoint(),
            self.checkpoints().display(),
            if more.contains("enhanced_fan_out") {
                more.to_owned()
            } else {
                format!("enhanced_fan_out: {{enabled: true}}\n{more}")
            }
        )
    }

    pub fn input(&self, streams: &str, more: &str) -> Arc<dyn Input> {
        build(KinesisInput::new(), &self.yaml(streams, more))
    }
}

pub fn build(plugin: KinesisInput, yaml: &str) -> Arc<dyn Input> {
    let mut registry = Registry::new();
    registry.register(plugin).unwrap();
    let registered = registry.get("aws_kinesis").unwrap();
    let document =
        Document::from_yaml("test.yaml", yaml, &Environment::process()).unwrap_or_else(|error| panic!("{error}"));
    registered.build(&document, &[]).unwrap_or_else(|error| panic!("{error}")).input
}

pub const SOON: Demand = Demand {
    max_messages: std::num::NonZeroUsize::new(1000).unwrap(),
    max_bytes: None,
    max_wait: Duration::from_secs(20),
};

/// The records that came out: by shard, their numbers in order.
#[derive(Default, Debug)]
pub struct Out {
    pub by_shard: BTreeMap<String, Vec<u64>>,
    pub times: BTreeMap<u64, u32>,
}

impl Out {
    pub fn take(&mut self, messages: &[Message]) {
        for message in messages {
            let record = KinesisRecord::of(message).unwrap();
            let number = number(message);
            assert_eq!(record.partition_key(), Some(number.to_string().as_str()));
            self.by_shard.entry(record.shard().to_string()).or_default().push(number);
            *self.times.entry(number).or_default() += 1;
        }
    }

    pub fn len(&self) -> u64 {
        self.times.len() as u64
    }

    /// Asserts that each of `from..to` came exactly once, in order within its shard.
    pub fn assert_exactly(&self, from: u64, to: u64) {
        let missing: Vec<_> = (from..to).filter(|number| !self.times.contains_key(number)).collect();
        assert!(missing.is_empty(), "{} lost, such as {:?}", missing.len(), &missing[..missing.len().min(5)]);
        let twice: Vec<_> = self.times.iter().filter(|(_, times)| **times > 1).take(5).collect();
        assert!(twice.is_empty(), "came more than once: {twice:?}");
        assert_eq!(self.len(), to - from);
        for (shard, numbers) in &self.by_shard {
            assert!(numbers.is_sorted(), "{shard} out of order");
        }
    }
}

pub fn number(message: &Message) -> u64 {
    let text = std::str::from_utf8(message.payload()).unwrap();
    text.split(':').next().unwrap().parse().unwrap()
}

/// Reads and acks until `count` different records came.
pub async fn read_until(input: &dyn Input, out: &mut Out, count: u64) {
    while out.len() < count {
        let batch = read(input).await;
        let (messages, receipt) = batch.into_parts();
        out.take(&messages);
        input.ack(receipt, Verdicts::ACK).await.unwrap();
    }
}

/// The next batch that isn't empty.
pub async fn read(input: &dyn Input) -> Batch {
    match input.read_batch(SOON).await {
        Ok(batch) if batch.is_empty() => panic!("nothing came"),
        Ok(batch) => batch,
        Err(error) => panic!("{error}"),
    }
}

/// Reads to the end of the input.
pub async fn read_to_end(input: &dyn Input, out: &mut Out) {
    loop {
        match input.read_batch(SOON).await {
            Ok(batch) => {
                assert!(!batch.is_empty(), "nothing came, and no end");
                let (messages, receipt) = batch.into_parts();
                out.take(&messages);
                input.ack(receipt, Verdicts::ACK).await.unwrap();
            }
            Err(InputError::EndOfInput) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

pub async fn close(input: &dyn Input) {
    input.close(Duration::from_secs(10)).await.unwrap();
}
