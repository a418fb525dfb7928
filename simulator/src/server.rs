//! How do third-party clients talk to the simulator?
//!
//! They use sockets: HTTP/1.1 and HTTP/2 (prior knowledge) without TLS, or both by ALPN with it. The server uses the
//! system's clock.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::body::Body;
use crate::clock::Clock;
use crate::faults::{Link, NoAnswer};
use crate::simulator::Simulator;

/// A simulator on a port of the loopback interface. The server stops when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    secure: bool,
    _serving: JoinSet<()>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Server {
    /// Serves on a free port, without TLS or with this identity. All clients share the link, and therefore its faults.
    ///
    /// # Errors
    ///
    /// Fails if no port is available, or if the identity is invalid.
    pub async fn start(simulator: Simulator, link: Link, identity: Option<&Identity>) -> io::Result<Self> {
        let acceptor = identity.map(acceptor).transpose()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let secure = acceptor.is_some();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (simulator, link, acceptor) = (simulator.clone(), link.clone(), acceptor.clone());
                connections.spawn(async move {
                    // Small frames should be sent at once. A socket that can't is still usable.
                    let _ = socket.set_nodelay(true);
                    match acceptor {
                        None => serve(socket, simulator, link).await,
                        Some(acceptor) => {
                            if let Ok(socket) = acceptor.accept(socket).await {
                                serve(socket, simulator, link).await;
                            }
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, secure, _serving: serving })
    }

    /// The URL of the server.
    pub fn endpoint(&self) -> String {
        let (scheme, host) = if self.secure { ("https", "localhost") } else { ("http", "127.0.0.1") };
        format!("{scheme}://{host}:{}", self.address.port())
    }
}

fn acceptor(identity: &Identity) -> io::Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(io::Error::other)?;
    let config = ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(certificates.map_err(io::Error::other)?, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, simulator: Simulator, link: Link) {
    let answer = service_fn(move |request| {
        let (simulator, link) = (simulator.clone(), link.clone());
        async move { respond(request, &simulator, &link).await }
    });
    // A connection that breaks concerns the client, or is a chosen fault.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
}

async fn respond(request: Request<Incoming>, simulator: &Simulator, link: &Link) -> Result<Response<Body>, NoAnswer> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| NoAnswer::Reset)?.to_bytes();
    simulator.answer(Request::from_parts(parts, body), link, &Clock::system()).await
}
