//! Does the input survive a server that misbehaves on the wire? Over real sockets, with TLS and HTTP/2.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use kinesis_input::{KinesisInput, KinesisRecord};
use pipeline_plugin_api::{Demand, Input, State, Verdicts};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::support::{Bench, Out, SOON, build, client, close, quick, read_until};
use kinesis_testkit::frame::frame;
use kinesis_testkit::local_kinesis::{Accept, AnyBody, AnyError, LocalKinesis, Wire};

/// TLS with a certificate of its own. Counts its connections.
struct Tls {
    acceptor: TlsAcceptor,
    certificate: String,
    connections: Arc<AtomicUsize>,
    /// Connections up to this one, counted from one, are dead: nothing gets through, and neither side is notified.
    dead: Arc<AtomicUsize>,
}

/// A connection that can die as if its cable were pulled out.
struct Cable {
    stream: TlsStream<TcpStream>,
    number: usize,
    dead: Arc<AtomicUsize>,
}

impl Cable {
    fn is_dead(&self) -> bool {
        self.number <= self.dead.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Cable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_dead() { Poll::Pending } else { Pin::new(&mut self.stream).poll_read(cx, buf) }
    }
}

impl AsyncWrite for Cable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_dead() { Poll::Pending } else { Pin::new(&mut self.stream).poll_write(cx, bytes) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_dead() { Poll::Pending } else { Pin::new(&mut self.stream).poll_flush(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_dead() { Poll::Pending } else { Pin::new(&mut self.stream).poll_shutdown(cx) }
    }
}

impl Tls {
    fn new(protocols: &[&str]) -> Self {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = CertificateDer::from_pem_slice(key.cert.pem().as_bytes()).unwrap();
        let private = PrivateKeyDer::from_pem_slice(key.signing_key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], private);
        let mut config = config.unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate: key.cert.pem(),
            connections: Arc::default(),
            dead: Arc::default(),
        }
    }
}

impl Accept for Tls {
    type Io = TokioIo<Cable>;
    const SCHEME: &'static str = "https";

    async fn accept(&self, socket: TcpStream) -> io::Result<Self::Io> {
        let stream = self.acceptor.accept(socket).await?;
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(TokioIo::new(Cable { stream, number, dead: Arc::clone(&self.dead) }))
    }
}

/// A server over TLS, and the certificate that a client has to trust.
struct Secure {
    bench: Bench,
    certificate: String,
    connections: Arc<AtomicUsize>,
}

impl Secure {
    async fn start(change: impl FnOnce(&mut Wire<Tls>)) -> Self {
        Self::speaking(&["h2", "http/1.1"], change).await
    }

    async fn speaking(protocols: &[&str], change: impl FnOnce(&mut Wire<Tls>)) -> Self {
        let mut wire = Wire::new(Tls::new(protocols));
        change(&mut wire);
        let (certificate, connections) = (wire.accept.certificate.clone(), Arc::clone(&wire.accept.connections));
        let server = LocalKinesis::start_with(quick(), wire).await.unwrap();
        Self { bench: Bench::with(server, trusting(&certificate)), certificate, connections }
    }

    fn input(&self, more: &str) -> Arc<dyn Input> {
        build(KinesisInput::new().trust_certificates(&self.certificate), &self.bench.yaml("orders", more))
    }
}

/// The SDK's client, for the writer.
fn trusting(certificate: &str) -> SharedHttpClient {
    let context = TlsContext::builder().with_trust_store(TrustStore::default().with_pem_certificate(certificate));
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    builder.tls_context(context.build().unwrap()).build_https()
}

/// Applies `change` to the body of every other subscription, including the first.
fn every_other(change: fn(Vec<Bytes>) -> Vec<Result<Bytes, AnyError>>) -> impl FnOnce(&mut Wire<Tls>) {
    let subscriptions = AtomicUsize::new(0);
    move |wire| {
        wire.tamper = Arc::new(move |operation, answer| {
            if operation != "SubscribeToShard" || subscriptions.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
                return answer;
            }
            answer.map(|body| changed(body, change))
        });
    }
}

/// The first three chunks of a body (the initial response and two events), changed, and nothing more.
fn changed(body: AnyBody, change: fn(Vec<Bytes>) -> Vec<Result<Bytes, AnyError>>) -> AnyBody {
    use futures::StreamExt;
    let chunks = body.into_data_stream().take(3).filter_map(|chunk| async move { chunk.ok() });
    let changed = futures::stream::once(chunks.collect::<Vec<_>>()).flat_map(move |chunks| {
        futures::stream::iter(change(chunks).into_iter().map(|chunk| chunk.map(hyper::body::Frame::data)))
    });
    http_body_util::StreamBody::new(changed).boxed_unsync()
}

/// With half of the subscriptions broken in this way, every record still comes once and in order.
async fn is_survived(change: fn(Vec<Bytes>) -> Vec<Result<Bytes, AnyError>>) {
    let secure = Secure::start(every_other(change)).await;
    secure.bench.create("orders", 3).await;
    secure.bench.put("orders", 0, 500).await;
    let input = secure.input("");
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*input, &mut out, 500).await;
    secure.bench.put("orders", 500, 1000).await;
    read_until(&*input, &mut out, 1000).await;
    close(&*input).await;
    out.assert_exactly(0, 1000);
}

#[tokio::test]
async fn every_record_comes_once_on_one_connection_over_tls_and_http2() {
    let secure = Secure::start(|_| {}).await;
    secure.bench.create("orders", 4).await;
    secure.bench.put("orders", 0, 2000).await;
    let before = secure.connections.load(Ordering::Relaxed);
    let input = secure.input("");
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*input, &mut out, 2000).await;
    out.assert_exactly(0, 2000);
    assert_eq!(out.by_shard.len(), 4);
    let made = secure.connections.load(Ordering::Relaxed) - before;
    assert_eq!(made, 2, "one for control calls and one for four subscriptions");
    close(&*input).await;
}

#[tokio::test]
async fn stream_limit_below_shard_count() {
    let secure = Secure::start(|wire| wire.max_streams = 3).await;
    secure.bench.create("orders", 8).await;
    secure.bench.put("orders", 0, 1000).await;
    let before = secure.connections.load(Ordering::Relaxed);
    let input = secure.input("");
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*input, &mut out, 1000).await;
    out.assert_exactly(0, 1000);
    assert_eq!(out.by_shard.len(), 8);
    let made = secure.connections.load(Ordering::Relaxed) - before;
    assert_eq!(made, 1 + 3, "one for control calls, and three for eight subscriptions");
    close(&*input).await;
}

#[tokio::test]
async fn server_without_http2_is_named_in_the_status() {
    let secure = Secure::speaking(&["http/1.1"], |_| {}).await;
    secure.bench.create("orders", 1).await;
    let input = secure.input("");
    input.connect().await.unwrap();
    let reason = loop {
        let status = input.status();
        if let (State::Degraded, Some(reason)) = (status.state, status.reason) {
            break reason;
        }
        tokio::task::yield_now().await;
    };
    assert!(reason.contains("does not speak HTTP/2"), "{reason}");
    close(&*input).await;
}

#[tokio::test]
async fn goaway_with_live_streams() {
    let (go_away, going_away) = watch::channel(());
    let secure = Secure::start(|wire| wire.going_away = going_away).await;
    secure.bench.create("orders", 4).await;
    secure.bench.put("orders", 0, 500).await;
    let input = secure.input("");
    input.connect().await.unwrap();
    let mut out = Out::default();
    for round in 1..=3 {
        read_until(&*input, &mut out, round * 500).await;
        go_away.send(()).unwrap();
        secure.bench.put("orders", round * 500, (round + 1) * 500).await;
    }
    read_until(&*input, &mut out, 2000).await;
    out.assert_exactly(0, 2000);
    close(&*input).await;
}

/// Reads on the test's own thread, because only the clock of that thread jumps.
const HERE: &str = "enhanced_fan_out: {enabled: true, reader_threads: 0}";

/// Real sockets on virtual time: while nothing is in transit, the clock jumps to whatever is due next.
#[tokio::test(start_paused = true)]
async fn half_open_connection() {
    let dead = Arc::new(AtomicUsize::new(0));
    let mut secure = Secure::start(|wire| wire.accept.dead = Arc::clone(&dead)).await;
    secure.bench.create("orders", 3).await;
    secure.bench.put("orders", 0, 500).await;
    let input = secure.input(HERE);
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*input, &mut out, 500).await;
    // All connections so far die, including those of control calls; then more records come, over a live one.
    dead.store(secure.connections.load(Ordering::Relaxed), Ordering::Relaxed);
    let died = Instant::now();
    secure.bench.client = client(&secure.bench.server, trusting(&secure.certificate));
    secure.bench.put("orders", 500, 1000).await;
    while out.len() < 1000 {
        let (messages, receipt) = input.read_batch(SOON).await.unwrap().into_parts();
        out.take(&messages);
        input.ack(receipt, Verdicts::ACK).await.unwrap();
        assert!(died.elapsed() < Duration::from_secs(45), "neither side noticed that the connection is dead");
    }
    out.assert_exactly(0, 1000);
    input.close(Duration::ZERO).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn initial_response_never_arrives() {
    let subscriptions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&subscriptions);
    let secure = Secure::start(|wire| {
        wire.tamper = Arc::new(move |operation, answer| {
            // The first subscription to each shard is granted, and then there is silence.
            if operation == "SubscribeToShard" && counted.fetch_add(1, Ordering::Relaxed) < 3 {
                let silence = futures::stream::pending::<Result<_, AnyError>>();
                return answer.map(|_| http_body_util::StreamBody::new(silence).boxed_unsync());
            }
            answer
        });
    })
    .await;
    secure.bench.create("orders", 3).await;
    secure.bench.put("orders", 0, 500).await;
    let input = secure.input(HERE);
    input.connect().await.unwrap();
    let began = Instant::now();
    let mut out = Out::default();
    while out.len() < 500 {
        let (messages, receipt) = input.read_batch(SOON).await.unwrap().into_parts();
        out.take(&messages);
        input.ack(receipt, Verdicts::ACK).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(45), "the subscription is waited for");
    }
    out.assert_exactly(0, 500);
    assert!(subscriptions.load(Ordering::Relaxed) >= 6);
    close(&*input).await;
}

#[tokio::test]
async fn rst_no_error_mid_event() {
    is_survived(|mut chunks| {
        let last = chunks.pop().map(|last| last.slice(..last.len() / 2));
        let reset = Err(AnyError::from("reset"));
        chunks.into_iter().chain(last).map(Ok).chain([reset]).collect()
    })
    .await;
}

#[tokio::test]
async fn truncated_frame() {
    is_survived(|mut chunks| {
        let last = chunks.pop().map(|last| last.slice(..last.len() - 1));
        chunks.into_iter().chain(last).map(Ok).collect()
    })
    .await;
}

#[tokio::test]
async fn bad_crc() {
    is_survived(|chunks| {
        let bend = |(at, chunk): (usize, Bytes)| {
            let mut bytes = chunk.to_vec();
            if at == 1 {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Ok(bytes.into())
        };
        chunks.into_iter().enumerate().map(bend).collect()
    })
    .await;
}

#[tokio::test]
async fn body_in_single_bytes_is_the_same_body() {
    is_survived(|chunks| {
        let all: Vec<u8> = chunks.concat();
        all.iter().map(|byte| Ok(Bytes::copy_from_slice(&[*byte]))).collect()
    })
    .await;
}

#[tokio::test]
async fn slow_shard_beside_fast_ones() {
    const SHARDS: u128 = 6;
    const RECORDS: usize = 40;
    let secure = Secure::start(|_| {}).await;
    secure.bench.create("orders", SHARDS as i32).await;
    // Each shard gets more than its window, and more than all windows of a common client.
    for _ in 0..RECORDS {
        for shard in 0..SHARDS {
            secure.bench.put_at("orders", u128::MAX / SHARDS * shard + 1, vec![b'x'; 100_000]).await;
        }
    }
    let input = secure.input("checkpoint_limit: 8");
    input.connect().await.unwrap();
    // The records of all shards but the last are kept and never acked: those shards stand still with full windows.
    let mut kept = Vec::new();
    let mut counts = BTreeMap::<String, usize>::new();
    let fast = format!("shardId-{:012}", SHARDS - 1);
    while counts.get(&fast) != Some(&RECORDS) {
        // One record at a time, so that each batch is of one shard.
        let batch = input.read_batch(Demand { max_messages: NonZeroUsize::MIN, ..SOON }).await.unwrap();
        assert!(!batch.is_empty(), "the fast shard stands still: {counts:?}");
        let (messages, receipt) = batch.into_parts();
        let shard = KinesisRecord::of(&messages[0]).unwrap().shard().to_string();
        *counts.entry(shard.clone()).or_default() += messages.len();
        if shard == fast {
            input.ack(receipt, Verdicts::ACK).await.unwrap();
        } else {
            kept.push(receipt);
        }
    }
    assert!(counts.iter().all(|(shard, count)| *shard == fast || *count <= 8), "{counts:?}");
    drop(kept);
    input.close(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn error_frame() {
    is_survived(|chunks| {
        let headers = [(":message-type", "error"), (":error-code", "InternalError"), (":error-message", "oops")];
        chunks.into_iter().take(2).chain([Bytes::from(frame(&headers, b""))]).map(Ok).collect()
    })
    .await;
    is_survived(|chunks| {
        let headers = [(":message-type", "exception"), (":exception-type", "InternalFailureException")];
        chunks.into_iter().take(2).chain([Bytes::from(frame(&headers, br#"{"message":"oops"}"#))]).map(Ok).collect()
    })
    .await;
}

#[tokio::test]
async fn unknown_event() {
    is_survived(|chunks| {
        let headers = [(":message-type", "event"), (":event-type", "Tomorrow")];
        chunks.into_iter().take(2).chain([Bytes::from(frame(&headers, b"{}"))]).map(Ok).collect()
    })
    .await;
}
