//! Which connections reach the service?
//!
//! Control calls have connections that are kept for the next call. Subscriptions and polls have their own connections, for two
//! reasons: a connection that carries unread subscriptions can stall its other requests, and the
//! SDK's client can neither bound the memory of an unread subscription, nor detect that a server is gone, nor open a
//! second connection.
//!
//! ```text
//! subscribe ─▶ client ─▶ connections: one with a free stream, or a new one ─▶ dial: DNS, proxy, TLS, ALPN
//!                              │
//!                              └─▶ connection: streams, their windows, pings ─▶ body: window released as it is read
//! ```

mod body;
mod connection;
#[cfg(test)]
mod connection_tests;
mod control;
mod dial;
mod dialed;
mod origin;
mod pool;
mod proxy;
mod sockets;
mod subscriptions;

pub(crate) use control::ControlClient;
pub(crate) use origin::HostNotFound;
pub use sockets::Sockets;
pub use subscriptions::SubscriptionClient;

/// The settings of the connections for subscriptions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bytes that the service may send on a subscription before they are read.
    pub stream_window: u32,
    /// The most subscriptions on one connection; fewer if the server says so. It bounds the harm of one bad
    /// connection.
    pub streams: usize,
    /// Certificates to trust besides the system's, in PEM.
    pub trusted: Vec<u8>,
    /// How sockets are opened and watched.
    pub sockets: Sockets,
}

impl Default for Settings {
    fn default() -> Self {
        Self { stream_window: 512 << 10, streams: 100, trusted: Vec::new(), sockets: Sockets::default() }
    }
}
