//! How is a connection opened?
//!
//! The name is resolved again for each connection, and its addresses are used in random order, so that many
//! connections spread over many hosts. Certificates are the system's, or those of `SSL_CERT_FILE`.

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use pipeline_plugin_api::causes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig, RootCertStore};
use tower_service::Service;

use super::origin::{HostNotFound, Origin, Spread};
use super::proxy::{Proxies, ProxyError};
use super::sockets::Sockets;

/// The reason why a connection could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum DialError {
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("connecting to {host}: {cause}")]
    Connect {
        host: String,
        cause: String,
        /// Whether that is because the address of the host could not be found.
        source: Option<HostNotFound>,
    },
    #[error("TLS with {host}: {cause}")]
    Tls { host: String, cause: String },
    #[error("{host} does not speak HTTP/2 (ALPN), which SubscribeToShard needs; is a proxy in between that opens TLS?")]
    NotHttp2 { host: String },
    #[error("{host} did not answer within {within:?}")]
    Timeout { host: String, within: Duration },
}

/// A byte stream to a server.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Opens connections.
pub(super) struct Dialer {
    connector: HttpConnector<Spread>,
    /// How long opening a socket may take, and how long the TLS handshake may take after it.
    timeout: Duration,
    proxies: Proxies,
    trusted: Vec<u8>,
    /// The certificates to trust. They are read with the first secure connection, because reading takes a moment.
    roots: OnceCell<Arc<RootCertStore>>,
    /// The TLS connector for HTTP/2 only.
    http2: OnceCell<TlsConnector>,
    /// The TLS connector for HTTP/2 or HTTP/1.1, as the server likes.
    either: OnceCell<TlsConnector>,
}

impl Dialer {
    pub(super) fn new(trusted: Vec<u8>, sockets: &Sockets, proxies: Proxies) -> Self {
        let (connector, timeout) = (sockets.connector(), sockets.connect_timeout);
        let (roots, http2, either) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { connector, timeout, proxies, trusted, roots, http2, either }
    }

    /// Opens a connection that speaks HTTP/2 over TLS.
    pub(super) async fn secure(&self, origin: &Origin, uri: &Uri) -> Result<Box<dyn Io>, DialError> {
        let not_http2 = || DialError::NotHttp2 { host: origin.host.clone() };
        let stream = self.tls(origin, uri, &self.http2, &[b"h2"]).await?;
        let stream =
            stream.map_err(|error| if refuses_protocol(&error) { not_http2() } else { failed(origin, &error) })?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(not_http2());
        }
        Ok(Box::new(stream))
    }

    /// Opens a connection that speaks HTTP/2 or HTTP/1.1 over TLS. Returns whether it speaks HTTP/2.
    pub(super) async fn secure_either(&self, origin: &Origin, uri: &Uri) -> Result<(Box<dyn Io>, bool), DialError> {
        let stream = self.tls(origin, uri, &self.either, &[b"h2", b"http/1.1"]).await?;
        let stream = stream.map_err(|error| failed(origin, &error))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), is_http2))
    }

    async fn tls(
        &self,
        origin: &Origin,
        uri: &Uri,
        connector: &OnceCell<TlsConnector>,
        protocols: &[&[u8]],
    ) -> Result<io::Result<TlsStream<TcpStream>>, DialError> {
        let socket = self.socket(origin, uri).await?;
        let name = ServerName::try_from(origin.name().to_owned()).map_err(|error| failed(origin, &error))?;
        let connector = connector.get_or_try_init(|| self.connector(protocols)).await;
        let connector = connector.map_err(|cause| DialError::Tls { host: origin.host.clone(), cause })?;
        self.within(origin, connector.connect(name, socket)).await
    }

    /// Creates a TLS connector with the system's certificates and the `trusted` ones.
    async fn connector(&self, protocols: &[&[u8]]) -> Result<TlsConnector, String> {
        let read = || async {
            let trusted = self.trusted.clone();
            // Loading the certificates reads files.
            let read = tokio::task::spawn_blocking(move || roots(&trusted)).await;
            read.map_err(|error| error.to_string())?.map(Arc::new)
        };
        let roots = self.roots.get_or_try_init(read).await?;
        let mut config = ClientConfig::builder().with_root_certificates(Arc::clone(roots)).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// Opens a connection without TLS.
    pub(super) async fn plain(&self, origin: &Origin, uri: &Uri) -> Result<Box<dyn Io>, DialError> {
        Ok(Box::new(self.socket(origin, uri).await?))
    }

    async fn socket(&self, origin: &Origin, uri: &Uri) -> Result<TcpStream, DialError> {
        if let Some(proxy) = self.proxies.of(uri) {
            return Ok(self.within(origin, proxy.tunnel(&self.connector, origin)).await??);
        }
        let mut connector = self.connector.clone();
        let connected = self.within(origin, connector.call(uri.clone())).await?;
        let failed = |error: &(dyn Error + 'static)| {
            let (host, cause) = (origin.host.clone(), causes(error));
            let source = HostNotFound::is_behind(error).then(|| HostNotFound::of(&host));
            DialError::Connect { host, cause, source }
        };
        Ok(connected.map_err(|error| failed(&error))?.into_inner())
    }

    async fn within<T>(&self, origin: &Origin, work: impl Future<Output = T>) -> Result<T, DialError> {
        let timeout = || DialError::Timeout { host: origin.host.clone(), within: self.timeout };
        tokio::time::timeout(self.timeout, work).await.map_err(|_| timeout())
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address of a proxy may contain a password.
        f.write_str("Dialer")
    }
}

fn failed(origin: &Origin, error: &dyn Error) -> DialError {
    DialError::Tls { host: origin.host.clone(), cause: error.to_string() }
}

/// Whether the server refused the protocol. Servers may ignore a protocol that they don't know, or report it.
fn refuses_protocol(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

fn roots(trusted: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    for certificate in CertificateDer::pem_slice_iter(trusted) {
        let certificate = certificate.map_err(|error| format!("a certificate to trust is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate to trust: {error}"))?;
    }
    if roots.is_empty() {
        let causes = system.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(format!("no certificates to trust were found on this system: {causes}"));
    }
    Ok(roots)
}
