//! How are control calls and calls for credentials sent?
//!
//! These calls go over sockets of our own, directly or through the tunnel of a proxy from the environment, with certificates to trust
//! besides the system's. Requests to metadata services, and those that a proxy forwards without TLS, go through the
//! SDK's own HTTP client. Connections are kept for each set of timeouts, as the SDK's own client does.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use http::Uri;
use http::uri::Authority;
use pipeline_plugin_api::causes;

use super::dial::Dialer;
use super::dialed::Dialed;
use super::origin::Origin;
use super::proxy::Proxies;
use super::sockets::Sockets;
use crate::sync::{Mutex, lock};

/// The status by which a proxy asks for credentials.
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

/// Whether the system has certificates. The SDK's client must not be asked to use them otherwise: it panics in builds that
/// are not optimized, also if it is only used without TLS.
static HAS_CERTIFICATES: LazyLock<bool> = LazyLock::new(|| !rustls_native_certs::load_native_certs().certs.is_empty());

/// The timeouts of a connector: to connect, and to read.
type Timeouts = (Option<Duration>, Option<Duration>);

/// The HTTP client for everything but subscriptions.
#[derive(Debug)]
pub(crate) struct ControlClient {
    tls: TlsContext,
    /// Opens the connections.
    dialer: Arc<Dialer>,
    proxies: Proxies,
    /// The addresses of the metadata services of the machine or the container, if they were set.
    machine: Arc<[Authority]>,
    /// The connectors by their timeouts; the SDK asks for one with every call.
    connectors: Mutex<HashMap<Timeouts, SharedHttpConnector>>,
}

impl ControlClient {
    /// Creates a client that trusts these certificates (PEM) besides the system's, and reaches these addresses
    /// without a proxy.
    pub(crate) fn new(trusted: &[u8], machine: Vec<Authority>, sockets: &Sockets) -> Self {
        let trust = TrustStore::empty().with_native_roots(*HAS_CERTIFICATES);
        let trust = if trusted.is_empty() { trust } else { trust.with_pem_certificate(trusted) };
        // Building does not fail; without the certificates, calls would fail and report it.
        let tls = TlsContext::builder().with_trust_store(trust).build().unwrap_or_default();
        let proxies = Proxies::of_environment();
        let dialer = Arc::new(Dialer::new(trusted.to_vec(), sockets, proxies.clone()));
        Self { tls, dialer, proxies, machine: machine.into(), connectors: Mutex::default() }
    }
}

/// The addresses of the metadata services of a machine or a container. No proxy knows these addresses, and no proxy
/// should see their answers.
const MACHINE_HOSTS: [&str; 5] =
    ["169.254.169.254", "169.254.170.2", "169.254.170.23", "[fd00:ec2::254]", "[fd00:ec2::23]"];

/// Whether a request goes to a metadata service, at its default address or at one that was `set` for it.
fn is_machine(uri: &Uri, set: &[Authority]) -> bool {
    let port =
        |uri_port: Option<u16>| uri_port.or(if uri.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    let Some(host) = uri.host() else { return false };
    MACHINE_HOSTS.contains(&host)
        || set.iter().any(|address| {
            address.host().eq_ignore_ascii_case(host) && port(address.port_u16()) == port(uri.port_u16())
        })
}

/// A connector that goes through the proxies of the environment, except to the metadata services.
#[derive(Debug)]
struct Routed {
    /// The connector to metadata services.
    machine_only: SharedHttpConnector,
    /// The connector to servers, directly or through a tunnel.
    dialed: Dialed,
    /// The connector to servers without TLS behind a proxy: the request itself is sent to the proxy.
    forwarded: SharedHttpConnector,
    proxies: Proxies,
    machine: Arc<[Authority]>,
}

impl HttpConnector for Routed {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Ok(uri) = request.uri().parse::<Uri>() else { return self.dialed.call(request) };
        if is_machine(&uri, &self.machine) {
            return self.machine_only.call(request);
        }
        let proxied = Origin::of(&uri).filter(|origin| !origin.secure).zip(self.proxies.of(&uri));
        let Some((origin, proxy)) = proxied else { return self.dialed.call(request) };
        let answering = self.forwarded.call(request);
        HttpConnectorFuture::new_boxed(Box::pin(async move {
            let unreachable = |error: ConnectorError| {
                let cause = error.source().map_or_else(|| error.to_string(), causes);
                ConnectorError::io(format!("proxy {}: {cause}", proxy.name()).into())
            };
            let answer = answering.await.map_err(unreachable)?;
            // Only a proxy sends this status, never the server.
            if answer.status().as_u16() == PROXY_AUTHENTICATION_REQUIRED {
                let refused = proxy.refused("407 Proxy Authentication Required", &origin);
                return Err(ConnectorError::io(refused.into()));
            }
            Ok(answer)
        }))
    }
}

impl HttpClient for ControlClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut connectors = lock(&self.connectors);
        let connector = connectors.entry(timeouts).or_insert_with(|| {
            let connector = |proxies: ProxyConfig| {
                let mut builder = aws_smithy_http_client::Connector::builder()
                    .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                    .tls_context(self.tls.clone())
                    .connector_settings(settings.clone())
                    .proxy_config(proxies);
                builder.set_sleep_impl(components.sleep_impl());
                SharedHttpConnector::new(builder.build())
            };
            SharedHttpConnector::new(Routed {
                machine_only: connector(ProxyConfig::disabled()),
                dialed: Dialed::new(Arc::clone(&self.dialer), settings),
                forwarded: connector(ProxyConfig::from_env()),
                proxies: self.proxies.clone(),
                machine: Arc::clone(&self.machine),
            })
        });
        connector.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_requested_without_proxies() {
        let set = ["127.0.0.1:1338", "localhost:51679", "agent.example"].map(Authority::from_static);
        for (uri, expected) in [
            ("http://169.254.169.254/latest/api/token", true),
            ("http://[fd00:ec2::254]/latest/api/token", true),
            ("http://169.254.170.2/creds", true),
            ("http://127.0.0.1:1338/latest/api/token", true),
            ("http://localhost:51679/creds", true),
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://LOCALHOST:51679/creds", true),
            ("https://agent.example:443/creds", true),
            ("https://agent.example:8443/creds", false),
            ("http://127.0.0.1:1339/", false),
            ("https://kinesis.eu-west-1.amazonaws.com/", false),
        ] {
            assert_eq!(is_machine(&Uri::from_static(uri), &set), expected, "{uri}");
        }
    }
}
