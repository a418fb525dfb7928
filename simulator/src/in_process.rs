//! How does the AWS SDK for Rust talk to the simulator without a socket?

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http::Request;
use http_body_util::BodyExt as _;

use crate::clock::Clock;
use crate::faults::Link;
use crate::simulator::Simulator;

/// An HTTP client for the SDK that calls the simulator directly. On a runtime whose clock is paused, everything is on
/// virtual time.
#[derive(Debug, Clone)]
pub struct InProcess {
    simulator: Simulator,
    link: Link,
    clock: Clock,
}

impl InProcess {
    /// A client that calls over this link and uses this clock.
    pub fn new(simulator: Simulator, link: Link, clock: Clock) -> Self {
        Self { simulator, link, clock }
    }
}

impl HttpClient for InProcess {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { simulator, link, clock } = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(ConnectorError::user)?.to_bytes();
            let answer = simulator.answer(Request::from_parts(parts, body), &link, &clock).await;
            let answer = answer.map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
