//! A Kinesis on this machine: ferrokinesis behind a loopback port.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ferrokinesis::store::StoreOptions;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt;

/// Any error, as a body's.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;
/// A body whatever its making.
pub type AnyBody = UnsyncBoxBody<Bytes, AnyError>;
/// Sees each answer on its way out, with the request's operation, and may change it.
pub type Tamper = Arc<dyn Fn(&str, Response<AnyBody>) -> Response<AnyBody> + Send + Sync>;

/// A running server. It stops when this is dropped.
pub struct LocalKinesis {
    address: SocketAddr,
    _server: JoinSet<()>,
}

/// How to accept a connection: as it is, or over TLS.
pub trait Accept: Send + Sync + 'static {
    /// The connection as HTTP sees it.
    type Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static;
    /// Makes it of a socket.
    fn accept(&self, socket: TcpStream) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// Plain HTTP.
pub struct Plain;

impl Accept for Plain {
    type Io = TokioIo<TcpStream>;

    async fn accept(&self, socket: TcpStream) -> io::Result<Self::Io> {
        Ok(TokioIo::new(socket))
    }
}

impl LocalKinesis {
    /// Starts a server over plain HTTP.
    pub async fn start(options: StoreOptions) -> io::Result<Self> {
        Self::start_with(options, Plain, Arc::new(|_, answer| answer)).await
    }

    /// Starts a server that accepts connections in its own way and lets somebody tamper with its answers.
    pub async fn start_with(options: StoreOptions, accept: impl Accept, tamper: Tamper) -> io::Result<Self> {
        let (app, _store) = ferrokinesis::create_app(options);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let accept = Arc::new(accept);
        let mut server = JoinSet::new();
        server.spawn(async move {
            // The connections go with the server.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let (app, accept, tamper) = (app.clone(), Arc::clone(&accept), Arc::clone(&tamper));
                connections.spawn(async move {
                    let Ok(io) = accept.accept(socket).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (app, tamper) = (app.clone(), Arc::clone(&tamper));
                        async move {
                            let operation = operation(&request);
                            let (parts, body) = request.into_parts();
                            let body = body.collect().await.unwrap().to_bytes();
                            if operation == "SubscribeToShard" { eprintln!("DBG req {:?}", body); }
                            let request = Request::from_parts(parts, http_body_util::Full::new(body));
                            let answer = match app.oneshot(request).await {
                                Ok(answer) => answer.map(|body| body.map_err(AnyError::from).boxed_unsync()),
                                Err(never) => match never {},
                            };
                            Ok::<_, Infallible>(tamper(&operation, answer))
                        }
                    });
                    // A client that goes away is no news.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, _server: server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to configure as `endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// The operation that a request asks for, from `X-Amz-Target: Kinesis_20131202.PutRecords`.
fn operation(request: &Request<Incoming>) -> String {
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned()
}
