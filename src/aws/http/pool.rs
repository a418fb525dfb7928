//! Which connection does the next stream use?
//!
//! A stream uses the first connection with a free slot. If none has one, a connection is opened, and by one caller at
//! a time: a thousand subscriptions that start together need ten connections, not a thousand.

use std::collections::HashMap;
use std::sync::Arc;

use http::Uri;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Settings;
use super::connection::{Connection, Slot};
use super::dial::{DialError, Dialer, Io};
use super::origin::Origin;
use super::proxy::Proxies;
use crate::sync::{Mutex, lock};

/// The reason why a stream could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("HTTP/2 with {host}: {cause}")]
    Handshake { host: String, cause: String },
}

/// All connections for subscriptions. Dropping it ends their tasks.
#[derive(Debug)]
pub(super) struct Connections {
    dialer: Dialer,
    settings: Settings,
    peers: Mutex<HashMap<Origin, Arc<Peer>>>,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// The connections to one server.
#[derive(Debug, Default)]
struct Peer {
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Held by the caller that opens a connection.
    opening: AsyncMutex<Attempts>,
    /// How many attempts to open a connection have ended; written under `opening`.
    attempts: Mutex<u64>,
}

/// The result of the last attempt to open a connection.
#[derive(Debug, Default)]
struct Attempts {
    failed: Option<OpenError>,
}

impl Connections {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            dialer: Dialer::new(settings.trusted.clone(), &settings.sockets, Proxies::of_environment()),
            settings,
            peers: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new().drop_guard(),
        }
    }

    /// Returns a slot for a stream to the server of `uri`. This is cancel safe.
    pub(super) async fn stream(&self, origin: &Origin, uri: &Uri) -> Result<Slot, OpenError> {
        let peer = Arc::clone(lock(&self.peers).entry(origin.clone()).or_default());
        let before = *lock(&peer.attempts);
        loop {
            if let Some(slot) = peer.take() {
                return Ok(slot);
            }
            let mut turn = peer.opening.lock().await;
            if let Some(slot) = peer.take() {
                return Ok(slot);
            }
            // Callers that waited for an attempt that failed share its error instead of each making another attempt.
            if *lock(&peer.attempts) != before
                && let Some(error) = &turn.failed
            {
                return Err(error.clone());
            }
            let opened = self.open(origin, uri).await;
            *lock(&peer.attempts) += 1;
            match opened {
                Ok(connection) => {
                    turn.failed = None;
                    lock(&peer.connections).push(connection);
                }
                Err(error) => {
                    turn.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Opens a connection without TLS, for one exchange.
    pub(super) async fn plain(&self, origin: &Origin, uri: &Uri) -> Result<Box<dyn Io>, OpenError> {
        Ok(self.dialer.plain(origin, uri).await?)
    }

    /// Runs the connection side of an exchange until `held` is cancelled or this value is dropped.
    pub(super) fn run(&self, work: impl Future<Output = ()> + Send + 'static, held: CancellationToken) {
        let stop = self.stop.token().clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = held.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn open(&self, origin: &Origin, uri: &Uri) -> Result<Arc<Connection>, OpenError> {
        let io = self.dialer.secure(origin, uri).await?;
        let opened = Connection::open(io, &self.settings, &self.tasks, self.stop.token().clone()).await;
        opened.map_err(|error| OpenError::Handshake { host: origin.host.clone(), cause: error.to_string() })
    }
}

impl Peer {
    fn take(&self) -> Option<Slot> {
        let mut connections = lock(&self.connections);
        let slot = connections.iter().find_map(Connection::take);
        if slot.is_none() {
            connections.retain(|connection| connection.is_open());
        }
        slot
    }
}
