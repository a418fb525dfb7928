//! How are sockets opened and watched?

use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;

use super::origin::Spread;
use crate::config::Tcp;

/// How long opening a socket may take, and how long the TLS handshake may take after it, unless it is configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings of the sockets to AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// How long opening a socket may take, and how long the TLS handshake may take after it.
    pub(super) connect_timeout: Duration,
    keep_alive: Option<KeepAlive>,
    /// How long sent data may go unacknowledged.
    user_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeepAlive {
    idle: Duration,
    interval: Duration,
    count: u32,
}

impl Default for Sockets {
    fn default() -> Self {
        Self::new(&Tcp::default())
    }
}

impl Sockets {
    /// Makes the settings that are configured.
    pub(crate) fn new(tcp: &Tcp) -> Self {
        let some =
            |time: pipeline_plugin_api::config::Duration| Some(Duration::from(time)).filter(|time| !time.is_zero());
        let keep_alive = tcp.keep_alive.idle().map(|idle| KeepAlive {
            idle: idle.into(),
            interval: tcp.keep_alive.interval().into(),
            count: tcp.keep_alive.count(),
        });
        Self {
            connect_timeout: some(tcp.connect_timeout).unwrap_or(CONNECT_TIMEOUT),
            keep_alive,
            user_timeout: some(tcp.tcp_user_timeout),
        }
    }

    /// Makes a connector that opens such sockets, of TLS servers too.
    pub(super) fn connector(&self) -> HttpConnector<Spread> {
        let mut connector = HttpConnector::new_with_resolver(Spread::new());
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(self.connect_timeout));
        connector.set_keepalive(self.keep_alive.map(|probes| probes.idle));
        connector.set_keepalive_interval(self.keep_alive.map(|probes| probes.interval));
        connector.set_keepalive_retries(self.keep_alive.map(|probes| probes.count));
        #[cfg(target_os = "linux")]
        connector.set_tcp_user_timeout(self.user_timeout);
        connector
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use pipeline_plugin_api::config::{Document, Environment};
    use socket2::SockRef;
    use tokio::net::TcpListener;
    use tower_service::Service;

    use super::*;
    use crate::Config;

    fn configured(tcp: &str) -> Sockets {
        let yaml = format!("streams: [orders]\ncheckpoint_file: x\n{tcp}\n");
        let document = Document::from_yaml("test.yaml", &yaml, &Environment::empty()).unwrap();
        Sockets::new(&document.parse::<Config>(&[]).unwrap_or_else(|error| panic!("{error}")).config.tcp)
    }

    #[tokio::test]
    async fn sockets_have_the_options_that_are_configured() {
        let seconds = |count| Some(Duration::from_secs(count));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let uri: Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        for (tcp, idle, interval, count, user_timeout) in [
            ("", seconds(15), seconds(15), Some(9), None),
            (
                "tcp: {keep_alive: {idle: 50s, interval: 7s, count: 3}, tcp_user_timeout: 20s}",
                seconds(50),
                seconds(7),
                Some(3),
                seconds(20),
            ),
            ("tcp: {keep_alive: {idle: -1s}}", None, None, None, None),
        ] {
            let opened = configured(tcp).connector().call(uri.clone()).await.unwrap().into_inner();
            let socket = SockRef::from(&opened);
            assert_eq!(socket.keepalive().unwrap(), idle.is_some(), "{tcp}");
            if let Some(idle) = idle {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), idle, "{tcp}");
                assert_eq!(Some(socket.tcp_keepalive_interval().unwrap()), interval, "{tcp}");
                assert_eq!(Some(socket.tcp_keepalive_retries().unwrap()), count, "{tcp}");
            }
            assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout, "{tcp}");
            assert!(socket.tcp_nodelay().unwrap());
        }
        assert_eq!(configured("tcp: {connect_timeout: 30s}").connect_timeout, Duration::from_secs(30));
        assert_eq!(configured("").connect_timeout, CONNECT_TIMEOUT);
    }
}
