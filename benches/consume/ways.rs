//! In which ways can a stream be read? Each is a process of its own, measured alone.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::subscribe_to_shard::builders::SubscribeToShardFluentBuilder;
use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition, SubscribeToShardEventStream};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame};
use kinesis_input::internals::{Frames, TakeBody, wire};
use pipeline_plugin_api::{Demand, Verdicts};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::AnyError;
use crate::client::Job;
use crate::process::Taken;
use kinesis_testkit::replay::stream::Stream;

/// The cost of a run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Cost {
    pub bytes: u64,
    pub cpu_seconds: f64,
    pub seconds: f64,
}

impl Cost {
    pub fn megabytes_per_cpu_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.cpu_seconds
    }
}

/// Measures from the first tenth of the bytes to the last.
struct Stopwatch {
    goal: u64,
    seen: AtomicU64,
    start: std::sync::OnceLock<(u64, Instant, f64)>,
}

impl Stopwatch {
    fn new(goal: u64) -> Self {
        Self { goal, seen: AtomicU64::new(0), start: std::sync::OnceLock::new() }
    }

    /// Counts payload. Returns true when it is enough.
    fn count(&self, bytes: u64) -> bool {
        let seen = self.seen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if seen >= self.goal / 10 {
            self.start.get_or_init(|| (seen, Instant::now(), Taken::here().cpu_seconds));
        }
        seen >= self.goal
    }

    fn cost(&self) -> Result<Cost, AnyError> {
        let (before, start, cpu) = *self.start.get().ok_or("nothing was read")?;
        Ok(Cost {
            bytes: self.seen.load(Ordering::Relaxed) - before,
            cpu_seconds: Taken::here().cpu_seconds - cpu,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// The call for a shard, from its oldest record on.
pub fn subscribe(client: &Client, shard: usize) -> Result<SubscribeToShardFluentBuilder, AnyError> {
    let position = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build()?;
    let call = client.subscribe_to_shard().shard_id(format!("shardId-{shard:012}")).starting_position(position);
    Ok(call.consumer_arn("arn:aws:kinesis:us-east-1:000000000000:stream/bench/consumer/bench:1"))
}

async fn body(client: &Client, shard: usize) -> Result<SdkBody, AnyError> {
    let take = TakeBody::default();
    let _ = subscribe(client, shard)?.customize().interceptor(take.clone()).send().await;
    take.good().ok_or_else(|| "no subscription".into())
}

/// The floor: our transport, and the bytes thrown away. Counts what the payload would be.
pub async fn drain(job: &Job) -> Result<Cost, AnyError> {
    let client = job.sdk(job.our_http()?);
    let stream = Stream::new(job.load.shape);
    let payload_per_wire_byte = stream.payload_bytes as f64 / stream.events[0].frame.len() as f64;
    each_shard(job, |watch, shard| {
        let client = client.clone();
        async move {
            let mut body = body(&client, shard).await?;
            loop {
                let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
                let Some(frame) = next else { return Ok(()) };
                let bytes = frame?.into_data().map_or(0, |data| data.len());
                if watch.count((bytes as f64 * payload_per_wire_byte) as u64) {
                    return Ok(());
                }
            }
        }
    })
    .await
}

/// Our decoder alone, over bytes in memory, in the pieces in which HTTP/2 hands them over.
pub async fn memory(job: &Job) -> Result<Cost, AnyError> {
    const PIECE: usize = 16 << 10;
    let watch = Stopwatch::new(job.bytes);
    let stream = Stream::new(job.load.shape);
    let pieces: Vec<_> =
        stream.events.iter().flat_map(|event| event.frame.chunks(PIECE)).map(Bytes::copy_from_slice).collect();
    let endless = futures::stream::iter(pieces.into_iter().cycle().map(|piece| Ok::<_, AnyError>(Frame::data(piece))));
    let mut frames = Frames::new(SdkBody::from_body_1_x(http_body_util::StreamBody::new(endless)));
    while let Some(prelude) = frames.prelude().await? {
        if let wire::Frame::Event(event) = frames.frame(&prelude).await?
            && watch.count(event.rows.iter().map(|record| record.data_ref().len() as u64).sum())
        {
            break;
        }
    }
    watch.cost()
}

/// Our transport and our decoder, and nothing behind them.
pub async fn decode(job: &Job) -> Result<Cost, AnyError> {
    let client = job.sdk(job.our_http()?);
    each_shard(job, |watch, shard| {
        let client = client.clone();
        async move {
            let mut frames = Frames::new(body(&client, shard).await?);
            while let Some(prelude) = frames.prelude().await? {
                if let wire::Frame::Event(event) = frames.frame(&prelude).await?
                    && watch.count(event.rows.iter().map(|record| record.data_ref().len() as u64).sum())
                {
                    return Ok(());
                }
            }
            Ok(())
        }
    })
    .await
}

/// The loop that a user would write with the SDK.
pub async fn sdk_loop(job: &Job) -> Result<Cost, AnyError> {
    let client = job.sdk(job.sdk_http()?);
    each_shard(job, |watch, shard| {
        let client = client.clone();
        async move {
            let mut answer = subscribe(&client, shard)?.send().await?;
            while let Some(event) = answer.event_stream.recv().await? {
                if let SubscribeToShardEventStream::SubscribeToShardEvent(event) = event
                    && watch.count(event.records().iter().map(|record| record.data().as_ref().len() as u64).sum())
                {
                    return Ok(());
                }
            }
            Ok(())
        }
    })
    .await
}

/// The loop that a user would write with the SDK, without a pause.
pub async fn sdk_poll(job: &Job) -> Result<Cost, AnyError> {
    let client = job.sdk(job.sdk_http()?);
    each_shard(job, |watch, shard| {
        let client = client.clone();
        async move {
            let call = client.get_shard_iterator().stream_name("bench").shard_id(format!("shardId-{shard:012}"));
            let mut iterator = call.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await?.shard_iterator;
            while let Some(current) = iterator {
                let answer = client.get_records().shard_iterator(current).send().await?;
                if watch.count(answer.records().iter().map(|record| record.data().as_ref().len() as u64).sum()) {
                    return Ok(());
                }
                iterator = answer.next_shard_iterator;
            }
            Ok(())
        }
    })
    .await
}

/// The whole plugin, as a host reads it.
pub async fn ours(job: &Job) -> Result<Cost, AnyError> {
    let (input, _folder) = job.input().await?;
    let watch = Stopwatch::new(job.bytes);
    let demand = Demand::new(usize::MAX, Duration::from_secs(1));
    loop {
        let (messages, receipt) = input.read_batch(demand).await?.into_parts();
        let bytes = messages.iter().map(|message| message.payload().len() as u64).sum();
        drop(messages);
        input.ack(receipt, Verdicts::ACK).await?;
        if watch.count(bytes) {
            break;
        }
    }
    let cost = watch.cost();
    input.close(Duration::from_secs(1)).await?;
    cost
}

/// Reads all shards until one of them has read enough.
async fn each_shard<F>(job: &Job, mut read: impl FnMut(Arc<Stopwatch>, usize) -> F) -> Result<Cost, AnyError>
where
    F: Future<Output = Result<(), AnyError>> + Send + 'static,
{
    let watch = Arc::new(Stopwatch::new(job.bytes));
    let mut shards = JoinSet::new();
    for shard in 0..job.load.shards {
        shards.spawn(read(Arc::clone(&watch), shard));
    }
    while let Some(ended) = shards.join_next().await {
        ended??;
        if watch.seen.load(Ordering::Relaxed) >= job.bytes {
            return watch.cost();
        }
    }
    Err("the server ended before enough was read".into())
}
