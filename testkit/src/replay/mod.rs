//! A server that sends event streams over TLS and HTTP/2 as fast as the reader's windows allow.

mod control;
pub mod stream;

use control::answer as control_answer;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{Request, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::stream::{Shape, Stream, counted};
use crate::AnyError;

/// The interval of events on an idle shard.
const IDLE: Duration = Duration::from_secs(5);
/// The content type of calls and answers in CBOR.
const CBOR: &str = "application/x-amz-cbor-1.1";
/// The number of bytes handed to HTTP/2 at once.
const CHUNK: usize = 64 << 10;

/// The load that the shards send.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Load {
    pub shape: Shape,
    pub shards: usize,
    /// The payload that each shard sends before it becomes idle.
    pub bytes_per_shard: u64,
    /// The payload that each shard sends in a second; `None` for as much as windows allow.
    pub rate: Option<f64>,
    /// Whether sequence numbers rise indefinitely, and events say when they were written. This costs the server some
    /// time.
    pub rising: bool,
}

/// The shards.
struct Shards {
    load: Load,
    stream: Stream,
    seen: Arc<Seen>,
}

/// The server's view of its readers.
#[derive(Debug, Default)]
pub struct Seen {
    /// The number of bytes sent on subscriptions.
    pub sent: AtomicU64,
    /// The number of subscriptions whose window is full.
    pub full: AtomicUsize,
    /// Notified of every change.
    pub changed: Notify,
}

/// Serves until the process ends. Reports the address first.
pub async fn serve(
    load: Load,
    certificate: &[u8],
    key: &[u8],
    report: impl FnOnce(SocketAddr) -> Result<(), AnyError>,
    seen: Arc<Seen>,
) -> Result<(), AnyError> {
    let certificates = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_slice(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    report(listener.local_addr()?)?;
    let shards = Arc::new(Shards { stream: Stream::new(load.shape), load, seen });
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let (acceptor, shards) = (acceptor.clone(), Arc::clone(&shards));
        connections.spawn(async move {
            let Ok(socket) = acceptor.accept(socket).await else { return };
            let mut builder = h2::server::Builder::new();
            let Ok(mut connection) = builder.max_concurrent_streams(1000).handshake(socket).await else { return };
            let mut answers = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                answers.spawn(answer(request, respond, Arc::clone(&shards)));
            }
        });
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, shards: Arc<Shards>) {
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let kind = request.headers().get("content-type").and_then(|value| value.to_str().ok());
    let in_cbor = kind == Some(CBOR);
    let mut body = request.into_body();
    let mut asked = Vec::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        asked.extend_from_slice(&chunk);
    }
    if operation == "SubscribeToShard" {
        let head = Response::builder().header("content-type", "application/vnd.amazon.eventstream").body(());
        if let Ok(head) = head
            && let Ok(stream) = respond.send_response(head, false)
        {
            // The reader disconnects when it has enough.
            let _ = shards.events(stream, after(&asked)).await;
        }
        return;
    }
    if operation == "GetRecords" {
        let _ = shards.poll(&mut respond, &asked, in_cbor).await;
        return;
    }
    let head = Response::builder().header("content-type", "application/x-amz-json-1.1").body(());
    if let Ok(head) = head
        && let Ok(mut stream) = respond.send_response(head, false)
    {
        let answer = if operation == "GetShardIterator" {
            json!({ "ShardIterator": "0" })
        } else {
            control_answer(&operation, shards.load.shards)
        };
        let _ = stream.send_data(Bytes::from(answer.to_string()), true);
    }
}

/// The number after which a subscription begins.
fn after(request: &[u8]) -> u64 {
    let request: Value = serde_json::from_slice(request).unwrap_or_default();
    request["StartingPosition"]["SequenceNumber"].as_str().and_then(counted).map_or(0, |last| last + 1)
}

impl Shards {
    /// Answers a call of GetRecords. An iterator is the payload that was sent before.
    async fn poll(&self, respond: &mut SendResponse<Bytes>, asked: &[u8], in_cbor: bool) -> io::Result<()> {
        // The field is a text in both encodings.
        let asked: Value = if in_cbor {
            ciborium::from_reader(asked).unwrap_or_default()
        } else {
            serde_json::from_slice(asked).unwrap_or_default()
        };
        let sent: u64 = asked["ShardIterator"].as_str().and_then(|sent| sent.parse().ok()).unwrap_or_default();
        let is_idle = sent >= self.load.bytes_per_shard;
        let records = self.stream.records as u64;
        let first = self.load.rising.then(|| sent / (self.stream.payload_bytes as u64).max(1) * records);
        let (answer, sent) = if is_idle {
            (&self.stream.polled_idle, sent)
        } else {
            (&self.stream.polled, sent + self.stream.payload_bytes as u64)
        };
        let pieces = answer.with_iterator(&sent.to_string(), in_cbor, first);
        let len: usize = pieces.iter().map(Bytes::len).sum();
        let head = Response::builder()
            .header("content-type", if in_cbor { CBOR } else { "application/x-amz-json-1.1" })
            .header("content-length", len);
        let head = head.body(()).map_err(io::Error::other)?;
        let mut stream = respond.send_response(head, false).map_err(io::Error::other)?;
        for piece in pieces {
            self.send(&mut stream, piece).await?;
        }
        stream.send_data(Bytes::new(), true).map_err(io::Error::other)
    }

    /// Sends the events of one subscription, from a number on.
    async fn events(&self, mut stream: SendStream<Bytes>, first: u64) -> io::Result<()> {
        let Stream { initial, events, records, payload_bytes, idle, .. } = &self.stream;
        self.send(&mut stream, initial.clone()).await?;
        // The phases differ, so that the shards don't send at the same time.
        let phase = fastrand::f64();
        let pace = self.load.rate.map(|rate| Duration::from_secs_f64(*payload_bytes as f64 / rate));
        let mut due = Instant::now() + pace.unwrap_or_default().mul_f64(phase);
        let mut next = first;
        let mut sent = 0;
        for event in events.iter().cycle() {
            if sent >= self.load.bytes_per_shard {
                break;
            }
            if let Some(pace) = pace {
                sleep_until(due).await;
                due += pace;
            }
            let bytes = if self.load.rising { event.from(next, now_nanos()) } else { event.frame.clone() };
            self.send(&mut stream, bytes).await?;
            next += *records as u64;
            sent += *payload_bytes as u64;
        }
        let mut wait = IDLE.mul_f64(phase);
        loop {
            sleep(wait).await;
            self.send(&mut stream, idle.clone()).await?;
            wait = IDLE;
        }
    }

    async fn send(&self, stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            stream.reserve_capacity(bytes.len().min(CHUNK));
            let granted = self.capacity(stream).await.ok_or(io::ErrorKind::BrokenPipe)?.map_err(io::Error::other)?;
            let chunk = bytes.split_to(granted.min(bytes.len()));
            self.seen.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            stream.send_data(chunk, false).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Waits for room in the window.
    async fn capacity(&self, stream: &mut SendStream<Bytes>) -> Option<Result<usize, h2::Error>> {
        let mut waits = None;
        poll_fn(|cx| {
            let granted = stream.poll_capacity(cx);
            if granted.is_pending() {
                waits.get_or_insert_with(|| Full::new(&self.seen));
            }
            granted
        })
        .await
    }
}

/// Counts a subscription as full while it is.
struct Full<'a>(&'a Seen);

impl<'a> Full<'a> {
    fn new(seen: &'a Seen) -> Self {
        seen.full.fetch_add(1, Ordering::Relaxed);
        seen.changed.notify_one();
        Self(seen)
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        self.0.full.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

/// A clock that all processes of this machine share.
pub fn now_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}
