//! A Kinesis on this machine: ferrokinesis behind a loopback port.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ferrokinesis::actions::subscribe_to_shard;
use ferrokinesis::store::{Store, StoreOptions};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// Any error of a body.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;
/// A body of any origin.
pub type AnyBody = UnsyncBoxBody<Bytes, AnyError>;
/// A function that sees each answer before it is sent, with the operation of the request, and may change it.
pub type Tamper = Arc<dyn Fn(&str, Response<AnyBody>) -> Response<AnyBody> + Send + Sync>;

/// A running server. It stops when this is dropped.
pub struct LocalKinesis {
    address: SocketAddr,
    scheme: &'static str,
    _server: JoinSet<()>,
}

/// How a connection is accepted: as it is, or over TLS.
pub trait Accept: Send + Sync + 'static {
    /// The connection for HTTP.
    type Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static;
    /// `http` or `https`.
    const SCHEME: &'static str;
    /// Makes the connection from a socket.
    fn accept(&self, socket: TcpStream) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// Plain HTTP.
pub struct Plain;

impl Accept for Plain {
    type Io = TokioIo<TcpStream>;
    const SCHEME: &'static str = "http";

    async fn accept(&self, socket: TcpStream) -> io::Result<Self::Io> {
        Ok(TokioIo::new(socket))
    }
}

/// How a server behaves on the wire.
pub struct Wire<A> {
    pub accept: A,
    pub tamper: Tamper,
    /// The most streams on an HTTP/2 connection.
    pub max_streams: u32,
    /// Each change makes the server send GOAWAY on all connections.
    pub going_away: watch::Receiver<()>,
}

impl<A: Accept> Wire<A> {
    /// The behavior of a correct server.
    pub fn new(accept: A) -> Self {
        Self { accept, tamper: Arc::new(|_, answer| answer), max_streams: 200, going_away: watch::channel(()).1 }
    }
}

impl LocalKinesis {
    /// Starts a server over plain HTTP.
    pub async fn start(options: StoreOptions) -> io::Result<Self> {
        Self::start_with(options, Wire::new(Plain)).await
    }

    /// Starts a server with this behavior on the wire.
    pub async fn start_with<A: Accept>(options: StoreOptions, wire: Wire<A>) -> io::Result<Self> {
        let Wire { accept, tamper, max_streams, going_away } = wire;
        let (app, store) = ferrokinesis::create_app(options);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let accept = Arc::new(accept);
        let mut server = JoinSet::new();
        server.spawn(async move {
            // The connections end with the server.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let (app, store) = (app.clone(), store.clone());
                let (accept, tamper) = (Arc::clone(&accept), Arc::clone(&tamper));
                let mut going_away = going_away.clone();
                going_away.mark_unchanged();
                connections.spawn(async move {
                    let Ok(io) = accept.accept(socket).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (app, store, tamper) = (app.clone(), store.clone(), Arc::clone(&tamper));
                        async move {
                            let operation = operation(&request);
                            let (parts, body) = request.into_parts();
                            let Ok(body) = body.collect().await else {
                                return Ok(refuse(StatusCode::BAD_REQUEST, "SerializationException", "half a request"));
                            };
                            let body = body.to_bytes();
                            let answer = if operation == "SubscribeToShard" {
                                subscribe(&store, &body).await
                            } else {
                                let request = Request::from_parts(parts, Full::new(body));
                                match app.oneshot(request).await {
                                    Ok(answer) => answer.map(|body| body.map_err(AnyError::from).boxed_unsync()),
                                    Err(never) => match never {},
                                }
                            };
                            Ok::<_, Infallible>(tamper(&operation, answer))
                        }
                    });
                    let mut builder = Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(max_streams);
                    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
                    // A client that disconnects is not an error.
                    let _ = loop {
                        tokio::select! {
                            ended = &mut connection => break ended,
                            Ok(()) = going_away.changed() => connection.as_mut().graceful_shutdown(),
                        }
                    };
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, scheme: A::SCHEME, _server: server })
    }

    /// The value for `endpoint` in a configuration.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }
}

/// The operation of a request, from `X-Amz-Target: Kinesis_20131202.PutRecords`.
fn operation(request: &Request<Incoming>) -> String {
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned()
}

/// Answers SubscribeToShard. Ferrokinesis's own handler drops the sequence number and the timestamp of a starting
/// position, so that every subscription begins at the oldest record; the function that it calls does honor them.
async fn subscribe(store: &Store, body: &[u8]) -> Response<AnyBody> {
    let Ok(request) = serde_json::from_slice(body) else {
        return refuse(StatusCode::BAD_REQUEST, "SerializationException", "not JSON");
    };
    match subscribe_to_shard::execute_streaming(store, request, "application/x-amz-json-1.1").await {
        Ok(events) => {
            let mut answer = Response::new(events.map_err(AnyError::from).boxed_unsync());
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.amazon.eventstream"));
            answer
        }
        Err(error) => {
            let status = StatusCode::from_u16(error.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            refuse(status, &error.body.error_type, error.body.message.as_deref().unwrap_or_default())
        }
    }
}

/// An error in the form that Kinesis uses.
pub fn refuse(status: StatusCode, code: &str, message: &str) -> Response<AnyBody> {
    let body = serde_json::json!({ "__type": code, "message": message }).to_string();
    let mut answer = Response::new(Full::from(body).map_err(AnyError::from).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
    answer
}
