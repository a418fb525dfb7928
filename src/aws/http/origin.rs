//! Which server does a request go to, and at which addresses is it?

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// The scheme, host and port of a server; connections with the same origin can serve the same requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host()?.to_owned();
        Some(Self { secure, host, port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }) })
    }

    /// The host as a server name in a certificate: IPv6 addresses without brackets.
    pub(super) fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// The error that the address of a host could not be found.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{host}: {cause}")]
pub(crate) struct HostNotFound {
    host: String,
    cause: String,
}

impl HostNotFound {
    /// The error of this host, whose cause is reported elsewhere.
    pub(super) fn of(host: &str) -> Self {
        Self { host: host.to_owned(), cause: "its address could not be found".into() }
    }

    /// Whether this error is behind another error.
    pub(crate) fn is_behind(error: &(dyn std::error::Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| error.source()).any(|error| {
            // The `source` of an I/O error is the source of its inner error, not the inner error itself.
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            error.is::<Self>() || inner.is_some_and(<dyn std::error::Error + Send + Sync + 'static>::is::<Self>)
        })
    }
}

/// A resolver that returns addresses in random order, those of the family that the system prefers first.
#[derive(Clone)]
pub(super) struct Spread(GaiResolver);

impl Spread {
    pub(super) fn new() -> Self {
        Self(GaiResolver::new())
    }
}

impl Service<Name> for Spread {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (host, resolving) = (name.to_string(), self.0.call(name));
        Box::pin(async move {
            let addresses =
                resolving.await.map_err(|cause| io::Error::other(HostNotFound { host, cause: cause.to_string() }))?;
            Ok(spread(addresses.collect()).into_iter())
        })
    }
}

fn spread(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let prefers_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    fastrand::shuffle(&mut addresses);
    // The sort is stable: the random order stays within each family.
    addresses.sort_by_key(|address| address.is_ipv6() != prefers_v6);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_spread_and_the_preferred_family_stays_first() {
        let addresses: Vec<SocketAddr> = (0..20)
            .map(|last| SocketAddr::from(([10, 0, 0, last], 443)))
            .chain([([0, 0, 0, 0, 0, 0, 0, 1], 443).into()])
            .collect();
        let orders: std::collections::HashSet<_> = (0..20).map(|_| spread(addresses.clone())).collect();
        assert!(orders.len() > 1);
        for order in orders {
            assert_eq!(order.len(), addresses.len());
            assert!(order[..20].iter().all(SocketAddr::is_ipv4) && order[20].is_ipv6());
        }
    }

    #[test]
    fn origin_is_scheme_host_and_port() {
        let of = |uri: &'static str| Origin::of(&Uri::from_static(uri));
        assert_eq!(of("https://kinesis.eu-west-1.amazonaws.com/"), of("https://kinesis.eu-west-1.amazonaws.com:443/x"));
        assert_ne!(of("https://localhost:4567/"), of("http://localhost:4567/"));
        assert_eq!(of("https://[::1]:4567/").map(|origin| origin.name().to_owned()), Some("::1".to_owned()));
        assert_eq!(of("/only/a/path"), None);
    }
}
