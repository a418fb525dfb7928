//! How do control calls, and calls for credentials, go out?
//!
//! Through the SDK's own HTTP client, with the proxies of the environment and with certificates to trust besides the
//! system's. Connections are kept for each set of timeouts, as the SDK's own client does.

use std::collections::HashMap;
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use crate::sync::{Mutex, lock};

/// The timeouts of a connector: to connect, and to read.
type Timeouts = (Option<Duration>, Option<Duration>);

/// A client for everything but subscriptions.
#[derive(Debug)]
pub(crate) struct ControlClient {
    tls: TlsContext,
    /// The SDK asks for one with every call.
    connectors: Mutex<HashMap<Timeouts, SharedHttpConnector>>,
}

impl ControlClient {
    /// Trusts these certificates (PEM) besides the system's.
    pub(crate) fn new(trusted: &[u8]) -> Self {
        let trust = if trusted.is_empty() {
            TrustStore::default()
        } else {
            TrustStore::default().with_pem_certificate(trusted)
        };
        // It has nothing to refuse; and without the certificates, calls fail and say so.
        let tls = TlsContext::builder().with_trust_store(trust).build().unwrap_or_default();
        Self { tls, connectors: Mutex::default() }
    }
}

impl HttpClient for ControlClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut connectors = lock(&self.connectors);
        let connector = connectors.entry(timeouts).or_insert_with(|| {
            let mut builder = aws_smithy_http_client::Connector::builder()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .tls_context(self.tls.clone())
                .connector_settings(settings.clone())
                .proxy_config(ProxyConfig::from_env());
            builder.set_sleep_impl(components.sleep_impl());
            SharedHttpConnector::new(builder.build())
        });
        connector.clone()
    }
}
