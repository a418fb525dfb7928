//! Over which connections do we talk to the service?
//!
//! Control calls go through the SDK's own HTTP client, unless a proxy is between. Subscriptions have connections of their own, for two reasons:
//! a connection that carries unread subscriptions can stall whatever else it carries, and the SDK's client can neither
//! bound what an unread subscription holds, nor see that a server is gone, nor open a second connection.
//!
//! ```text
//! subscribe ─▶ client ─▶ connections: one with a free stream, or a new one ─▶ dial: DNS, proxy, TLS, ALPN
//!                              │
//!                              └─▶ connection: streams, their windows, pings ─▶ body: window given back as it is read
//! ```

mod body;
mod connection;
#[cfg(test)]
mod connection_tests;
mod control;
mod dial;
mod origin;
mod pool;
mod proxy;
mod subscriptions;
mod tunnel;

pub(crate) use control::ControlClient;
pub(crate) use origin::HostNotFound;
pub use subscriptions::SubscriptionClient;

/// How connections of subscriptions are kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the service may send on a subscription before we read it, in bytes.
    pub stream_window: u32,
    /// The most subscriptions on one connection; fewer if the server says so. What one bad connection can harm.
    pub streams: usize,
    /// Certificates to trust besides the system's, in PEM.
    pub trusted: Vec<u8>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { stream_window: 512 << 10, streams: 100, trusted: Vec::new() }
    }
}
