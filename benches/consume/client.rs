//! The ways to read, each in a process of its own.

use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{
    BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RuntimeComponents, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition, SubscribeToShardEventStream};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame};
use kinesis_input::KinesisInput;
use kinesis_input::efo::Frames;
use kinesis_input::efo::wire;
use kinesis_input::transport::{Settings, SubscriptionClient};
use pipeline_plugin_api::config::{Document, Environment};
use pipeline_plugin_api::registry::Registry;
use pipeline_plugin_api::{Demand, Input, Verdicts};
use tokio::task::JoinSet;

use crate::AnyError;
use crate::stream::Stream;

/// What to read, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Job {
    #[arg(long)]
    pub endpoint: String,
    #[arg(long)]
    pub certificate: std::path::PathBuf,
    #[arg(long)]
    pub shards: usize,
    /// Payload to read, of all shards together.
    #[arg(long)]
    pub bytes: u64,
    #[arg(long, default_value_t = 512 << 10)]
    pub window: u32,
    /// The pool of the plugin, in MiB.
    #[arg(long, default_value_t = 256)]
    pub pool: u64,
}

/// What it cost.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Cost {
    pub bytes: u64,
    pub cpu_seconds: f64,
    pub seconds: f64,
    pub peak_kib: u64,
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

    /// Counts payload; true when it is enough.
    fn count(&self, bytes: u64) -> bool {
        let seen = self.seen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if seen >= self.goal / 10 {
            self.start.get_or_init(|| (seen, Instant::now(), cpu_seconds()));
        }
        seen >= self.goal
    }

    fn cost(&self) -> Result<Cost, AnyError> {
        let (before, start, cpu) = *self.start.get().ok_or("nothing was read")?;
        Ok(Cost {
            bytes: self.seen.load(Ordering::Relaxed) - before,
            cpu_seconds: cpu_seconds() - cpu,
            seconds: start.elapsed().as_secs_f64(),
            peak_kib: peak_kib(),
        })
    }
}

/// CPU time of this process, of all its threads, in user and system mode.
fn cpu_seconds() -> f64 {
    // In ticks of a hundredth of a second, which is the kernel's promise to user space.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn sdk(job: &Job, http: SharedHttpClient) -> Client {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("bench", "bench", None, None, "bench"))
        .endpoint_url(&job.endpoint)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(http)
        .build();
    Client::from_conf(config)
}

/// The SDK's own HTTP client.
fn sdk_http(certificate: &Path) -> Result<SharedHttpClient, AnyError> {
    let trust = TrustStore::default().with_pem_certificate(std::fs::read(certificate)?);
    let context = TlsContext::builder().with_trust_store(trust).build()?;
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    Ok(builder.tls_context(context).build_https())
}

fn our_http(job: &Job) -> Result<SharedHttpClient, AnyError> {
    let settings =
        Settings { stream_window: job.window, trusted: std::fs::read(&job.certificate)?, ..Settings::default() };
    Ok(SharedHttpClient::new(SubscriptionClient::new(settings)))
}

/// Takes the body out of an answer, as the plugin does.
#[derive(Debug, Clone, Default)]
struct TakeBody(Arc<std::sync::Mutex<Option<SdkBody>>>);

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for TakeBody {
    fn name(&self) -> &'static str {
        "TakeBody"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), AnyError> {
        let body = std::mem::replace(context.response_mut().body_mut(), SdkBody::empty());
        *self.0.lock().map_err(|_| "a poisoned lock")? = Some(body);
        Ok(())
    }
}

async fn body(client: &Client, shard: usize) -> Result<SdkBody, AnyError> {
    let take = TakeBody::default();
    let position = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build()?;
    let call = client
        .subscribe_to_shard()
        .consumer_arn("arn:aws:kinesis:us-east-1:000000000000:stream/bench/consumer/bench:1")
        .shard_id(format!("shardId-{shard:012}"))
        .starting_position(position);
    let _ = call.customize().interceptor(take.clone()).send().await;
    let body = take.0.lock().map_err(|_| "a poisoned lock")?.take();
    body.ok_or_else(|| "no subscription".into())
}

/// The floor: our transport, and the bytes thrown away. Counts what the payload would be.
pub async fn drain(job: &Job, payload_per_wire_byte: f64) -> Result<Cost, AnyError> {
    let client = sdk(job, our_http(job)?);
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
pub async fn memory(job: &Job, stream: &Stream) -> Result<Cost, AnyError> {
    const PIECE: usize = 16 << 10;
    let watch = Stopwatch::new(job.bytes);
    let pieces: Vec<_> =
        stream.events.iter().flat_map(|event| event.chunks(PIECE)).map(Bytes::copy_from_slice).collect();
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
    let client = sdk(job, our_http(job)?);
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
    let client = sdk(job, sdk_http(&job.certificate)?);
    each_shard(job, |watch, shard| {
        let client = client.clone();
        async move {
            let position = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build()?;
            let mut answer = client
                .subscribe_to_shard()
                .consumer_arn("arn:aws:kinesis:us-east-1:000000000000:stream/bench/consumer/bench:1")
                .shard_id(format!("shardId-{shard:012}"))
                .starting_position(position)
                .send()
                .await?;
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

/// Reads all shards until one of them has seen enough.
async fn each_shard<F>(job: &Job, mut read: impl FnMut(Arc<Stopwatch>, usize) -> F) -> Result<Cost, AnyError>
where
    F: Future<Output = Result<(), AnyError>> + Send + 'static,
{
    let watch = Arc::new(Stopwatch::new(job.bytes));
    let mut shards = JoinSet::new();
    for shard in 0..job.shards {
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

/// The plugin with an output that takes everything and acknowledges nothing, until nothing more comes.
pub async fn blocked(job: &Job) -> Result<Cost, AnyError> {
    const QUIET: Duration = Duration::from_mins(1);
    let (input, _folder) = input(job).await?;
    let start = Instant::now();
    let mut held = Vec::new();
    let mut bytes = 0;
    loop {
        let (messages, receipt) =
            input.read_batch(Demand { max_messages: NonZeroUsize::MAX, max_wait: QUIET }).await?.into_parts();
        if messages.is_empty() {
            break;
        }
        bytes += messages.iter().map(|message| message.payload().len() as u64).sum::<u64>();
        // As a queue in front of a blocked output holds them.
        held.push((messages, receipt));
    }
    let cost = Cost { bytes, cpu_seconds: cpu_seconds(), seconds: start.elapsed().as_secs_f64(), peak_kib: peak_kib() };
    drop(held);
    input.close(Duration::ZERO).await?;
    Ok(cost)
}

/// The whole plugin, as a host reads it.
pub async fn ours(job: &Job) -> Result<Cost, AnyError> {
    let (input, _folder) = input(job).await?;
    let watch = Stopwatch::new(job.bytes);
    let demand = Demand { max_messages: NonZeroUsize::MAX, max_wait: Duration::from_secs(1) };
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

/// A connected input, and the folder of its checkpoints.
async fn input(job: &Job) -> Result<(Arc<dyn Input>, tempfile::TempDir), AnyError> {
    let folder = tempfile::tempdir()?;
    let mut registry = Registry::new();
    registry.register(KinesisInput::new().trust_certificates(std::fs::read(&job.certificate)?))?;
    let yaml = format!(
        "streams: [bench]\nregion: us-east-1\nendpoint: {}\ncredentials: {{id: bench, secret: bench}}\n\
         checkpoint_file: \"{}\"\nenhanced_fan_out: {{enabled: true, max_pending_bytes: {}MiB, stream_window: {}KiB}}\n",
        job.endpoint,
        folder.path().join("checkpoints").display(),
        job.pool,
        job.window >> 10,
    );
    let document = Document::from_yaml("bench.yaml", &yaml, &Environment::empty())?;
    let input = registry.get("aws_kinesis").ok_or("not registered")?.build(&document, &[])?.input;
    input.connect().await?;
    Ok((input, folder))
}
