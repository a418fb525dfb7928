//! How does the SDK send a subscription over the input's own connections?

use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::body::{Holding, StreamBody};
use super::dial::DialError;
use super::origin::Origin;
use super::pool::{Connections, OpenError};

/// An HTTP client for subscriptions. Its connections are closed when the last clone is dropped.
///
/// The client speaks HTTP/2 to `https` endpoints. It speaks HTTP/1.1 to `http` endpoints (local servers), with a
/// connection for each subscription.
#[derive(Debug, Clone)]
pub struct SubscriptionClient {
    /// The connector is created once: the SDK asks for it with every call.
    connector: SharedHttpConnector,
}

impl SubscriptionClient {
    /// Creates a client without connections; they are opened as they are needed.
    pub fn new(settings: Settings) -> Self {
        let connections = Arc::new(Connections::new(settings));
        Self { connector: SharedHttpConnector::new(Connector { connections }) }
    }
}

impl HttpClient for SubscriptionClient {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        self.connector.clone()
    }
}

#[derive(Debug, Clone)]
struct Connector {
    connections: Arc<Connections>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connections = Arc::clone(&self.connections);
        HttpConnectorFuture::new_boxed(Box::pin(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let (parts, body) = request.into_parts();
            let origin = Origin::of(&parts.uri)
                .ok_or_else(|| ConnectorError::user(format!("{} is no address of a server", parts.uri).into()))?;
            // A subscription's request is a few hundred bytes in memory.
            let body = body.collect().await.map_err(ConnectorError::user)?.to_bytes();
            let request = Request::from_parts(parts, body);
            let answer = if origin.secure {
                over_http2(&connections, &origin, request).await?
            } else {
                over_http1(&connections, &origin, request).await?
            };
            HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
        }))
    }
}

async fn over_http2(
    connections: &Connections,
    origin: &Origin,
    request: Request<Bytes>,
) -> Result<Response<SdkBody>, ConnectorError> {
    let slot = connections.stream(origin, request.uri()).await.map_err(open_failed)?;
    let (mut parts, body) = request.into_parts();
    parts.version = Version::HTTP_2;
    // In HTTP/2 the address names the host, and requests share a connection.
    for header in [HOST, CONNECTION, TE, TRANSFER_ENCODING] {
        parts.headers.remove(header);
    }
    let io = |error: h2::Error| ConnectorError::io(error.into());
    let (answer, mut sending) = slot.sender().send_request(Request::from_parts(parts, ()), false).map_err(io)?;
    sending.send_data(body, true).map_err(io)?;
    let answer = answer.await.map_err(io)?;
    Ok(answer.map(|stream| SdkBody::from_body_1_x(StreamBody::new(stream, slot))))
}

async fn over_http1(
    connections: &Connections,
    origin: &Origin,
    request: Request<Bytes>,
) -> Result<Response<SdkBody>, ConnectorError> {
    let io = connections.plain(origin, request.uri()).await.map_err(open_failed)?;
    let failed = |error: hyper::Error| ConnectorError::io(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    let held = CancellationToken::new();
    // The connection ends when the answer is dropped, or when the caller stops waiting for it.
    let holder = held.clone().drop_guard();
    connections.run(async move { connection.await.unwrap_or_default() }, held);
    let (mut parts, body) = request.into_parts();
    if !parts.headers.contains_key(HOST)
        && let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(HOST, host);
    }
    parts.uri = parts.uri.path_and_query().map_or_else(Default::default, |path| path.clone().into());
    let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await.map_err(failed)?;
    Ok(answer.map(|body| SdkBody::from_body_1_x(Holding::new(body, (holder, sender)))))
}

fn open_failed(error: OpenError) -> ConnectorError {
    match error {
        // A retry does not fix this: a person has to act.
        OpenError::Dial(DialError::NotHttp2 { .. }) => ConnectorError::user(error.into()),
        _ => ConnectorError::io(error.into()),
    }
}
