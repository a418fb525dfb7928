//! How are control calls sent over sockets of our own?
//!
//! These calls use HTTP/2 or HTTP/1.1, as the server likes, on connections that are kept for the next call, through the
//! tunnel of a proxy if there is one. The SDK's own client takes no settings of sockets, and does not report which proxy
//! refused, and how.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tower_service::Service;

use super::dial::{DialError, Dialer, Io};
use super::origin::Origin;

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(90);

/// The connector that sends requests over sockets of our own.
#[derive(Debug, Clone)]
pub(super) struct Dialed {
    client: Client<Dials, SdkBody>,
    read_timeout: Option<Duration>,
}

impl Dialed {
    pub(super) fn new(dialer: Arc<Dialer>, settings: &HttpConnectorSettings) -> Self {
        let dials = Dials { dialer, connect_timeout: settings.connect_timeout() };
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(dials);
        Self { client, read_timeout: settings.read_timeout() }
    }
}

impl HttpConnector for Dialed {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { client, read_timeout } = self.clone();
        HttpConnectorFuture::new_boxed(Box::pin(async move {
            let mut request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let captured = capture_connection(&mut request);
            // The SDK uses this to have a bad connection closed.
            if let Some(capture) = request.extensions().get::<CaptureSmithyConnection>() {
                capture.set_connection_retriever(move || {
                    let poisoned = captured.clone();
                    captured.connection_metadata().as_ref()?;
                    let poison = move || {
                        if let Some(connection) = poisoned.connection_metadata().as_ref() {
                            connection.poison();
                        }
                    };
                    Some(ConnectionMetadata::builder().proxied(true).poison_fn(poison).build())
                });
            }
            let answering = client.request(request);
            let answer = match read_timeout {
                None => answering.await,
                Some(read_timeout) => timeout(read_timeout, answering)
                    .await
                    .map_err(|_| ConnectorError::timeout(format!("no answer came within {read_timeout:?}").into()))?,
            };
            // Every error is treated as an I/O error, because the next connection may be better.
            let answer = answer.map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        }))
    }
}

/// Opens connections.
#[derive(Debug, Clone)]
struct Dials {
    dialer: Arc<Dialer>,
    connect_timeout: Option<Duration>,
}

impl Service<Uri> for Dials {
    type Response = TokioIo<Opened>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { dialer, connect_timeout } = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let no_server = || DialError::Connect {
                host: host.clone(),
                cause: "it is no address of a server".into(),
                source: None,
            };
            let origin = Origin::of(&uri).ok_or_else(no_server)?;
            let dialling = async {
                if origin.secure {
                    dialer.secure_either(&origin, &uri).await
                } else {
                    dialer.plain(&origin, &uri).await.map(|io| (io, false))
                }
            };
            let (io, is_http2) = match connect_timeout {
                None => dialling.await?,
                Some(within) => {
                    timeout(within, dialling).await.map_err(|_| DialError::Timeout { host: host.clone(), within })??
                }
            };
            Ok(TokioIo::new(Opened { io, is_http2 }))
        })
    }
}

/// A connection, as hyper's pool expects it.
struct Opened {
    io: Box<dyn Io>,
    is_http2: bool,
}

impl Connection for Opened {
    fn connected(&self) -> Connected {
        if self.is_http2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl AsyncRead for Opened {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Opened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
