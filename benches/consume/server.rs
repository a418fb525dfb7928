//! A server that sends event streams over TLS and HTTP/2 as fast as the reader's windows allow.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::AnyError;
use crate::stream::Stream;

/// An idle shard says so as often.
const IDLE: Duration = Duration::from_secs(5);
/// Bytes handed to HTTP/2 at once.
const CHUNK: usize = 64 << 10;

#[derive(Clone)]
pub struct Load {
    pub shards: usize,
    pub stream: Stream,
    /// Payload that each shard sends before it falls idle.
    pub bytes_per_shard: u64,
}

/// Serves until the process ends; tells the address first.
pub async fn serve(load: Load, certificate: &[u8], key: &[u8], tell: impl FnOnce(SocketAddr)) -> Result<(), AnyError> {
    let certificates = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_slice(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    tell(listener.local_addr()?);
    let load = Arc::new(load);
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let (acceptor, load) = (acceptor.clone(), Arc::clone(&load));
        connections.spawn(async move {
            let Ok(socket) = acceptor.accept(socket).await else { return };
            let mut builder = h2::server::Builder::new();
            let Ok(mut connection) = builder.max_concurrent_streams(1000).handshake(socket).await else { return };
            let mut answers = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                answers.spawn(answer(request, respond, Arc::clone(&load)));
            }
        });
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, load: Arc<Load>) {
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let mut body = request.into_body();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
    }
    if operation == "SubscribeToShard" {
        let head = Response::builder().header("content-type", "application/vnd.amazon.eventstream").body(());
        if let Ok(head) = head
            && let Ok(stream) = respond.send_response(head, false)
        {
            // The reader has gone away when it has enough.
            let _ = events(stream, &load).await;
        }
        return;
    }
    let head = Response::builder().header("content-type", "application/x-amz-json-1.1").body(());
    if let Ok(head) = head
        && let Ok(mut stream) = respond.send_response(head, false)
    {
        let _ = stream.send_data(Bytes::from(control(&operation, load.shards).to_string()), true);
    }
}

/// The answers of the control calls: one stream, one consumer.
fn control(operation: &str, shards: usize) -> Value {
    const STREAM: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/bench";
    let consumer = json!({
        "ConsumerName": "bench", "ConsumerARN": format!("{STREAM}/consumer/bench:1"),
        "ConsumerStatus": "ACTIVE", "ConsumerCreationTimestamp": 1.7E9, "StreamARN": STREAM,
    });
    match operation {
        "DescribeStreamSummary" => json!({ "StreamDescriptionSummary": {
            "StreamName": "bench", "StreamARN": STREAM, "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1.7E9, "EnhancedMonitoring": [], "OpenShardCount": shards,
        }}),
        "ListShards" => {
            let shards: Vec<_> = (0..shards)
                .map(|shard| {
                    json!({
                        "ShardId": format!("shardId-{shard:012}"),
                        "HashKeyRange": { "StartingHashKey": shard.to_string(), "EndingHashKey": shard.to_string() },
                        "SequenceNumberRange": { "StartingSequenceNumber": "1" },
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

async fn events(mut stream: SendStream<Bytes>, load: &Load) -> io::Result<()> {
    let Stream { initial, events, payload_bytes, idle } = &load.stream;
    send(&mut stream, initial.clone()).await?;
    let mut sent = 0;
    for event in events.iter().cycle() {
        if sent >= load.bytes_per_shard {
            break;
        }
        send(&mut stream, event.clone()).await?;
        sent += *payload_bytes as u64;
    }
    loop {
        tokio::time::sleep(IDLE).await;
        send(&mut stream, idle.clone()).await?;
    }
}

async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len().min(CHUNK));
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let granted = granted.ok_or(io::ErrorKind::BrokenPipe)?.map_err(io::Error::other)?;
        let chunk = bytes.split_to(granted.min(bytes.len()));
        stream.send_data(chunk, false).map_err(io::Error::other)?;
    }
    Ok(())
}
