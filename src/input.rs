//! What does a host see of the input?

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use aws_smithy_runtime_api::client::http::{HttpClient, SharedHttpClient};
use pipeline_plugin_api::registry::{About, InputPlugin};
use pipeline_plugin_api::{Batch, BoxError, Demand, Input, InputError, State, Status, causes};

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::config::{Config, GivenUp};
use crate::lease::{Lives, Overview, StoreError};
use crate::model::WorkerId;
use crate::pool::Pool;
use crate::session::error::ConnectError;
use crate::session::overrides::Overrides;
use crate::session::{Session, open, pending};
use crate::sync::{Mutex, lock};
use crate::telemetry::report::Report;
use crate::{config, supervise};

/// The plugin, which registers as `aws_kinesis`.
///
/// ```
/// let mut registry = pipeline_plugin_api::registry::Registry::new();
/// registry.register(kinesis_input::KinesisInput::new())?;
/// # Ok::<(), pipeline_plugin_api::registry::DuplicateName>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct KinesisInput {
    overrides: Overrides,
    built: Built,
}

/// The inputs that a plugin and its clones have built, as far as they still exist.
#[derive(Debug, Clone, Default)]
struct Built(Arc<Mutex<Vec<Weak<Kinesis>>>>);

impl Built {
    fn add(&self, input: &Arc<Kinesis>) {
        let mut built = lock(&self.0);
        built.retain(|input| input.strong_count() > 0);
        built.push(Arc::downgrade(input));
    }

    fn existing(&self) -> Vec<Arc<Kinesis>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }
}

impl KinesisInput {
    /// Creates the plugin with HTTP clients of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends all requests through this client, for a proxy, for custom certificates, or for tests. The client must
    /// speak HTTP/2 where the endpoint is `https`.
    #[must_use]
    pub fn http_client(mut self, client: impl HttpClient + 'static) -> Self {
        self.overrides.client = Some(SharedHttpClient::new(client));
        self
    }

    /// Trusts these certificates (PEM) besides those of the system, for custom endpoints.
    #[must_use]
    pub fn trust_certificates(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.overrides.trusted.extend_from_slice(pem.as_ref());
        self
    }

    /// Uses this clock for the time of day, which signatures, a start at the latest record and the rows of a lease
    /// table need. All waits use tokio's clock.
    #[must_use]
    pub fn time_source(mut self, clock: impl TimeSource + 'static) -> Self {
        self.overrides.time = Some(SharedTimeSource::new(clock));
        self
    }

    /// Opens the databases of checkpoint files with this function, on a disk that takes no time. If its flag is set, it
    /// creates a missing file.
    #[cfg(feature = "unstable-internals")]
    #[must_use]
    pub fn simulated_disk(
        mut self,
        open: impl Fn(&std::path::Path, bool) -> Result<redb::Database, redb::DatabaseError> + Send + Sync + 'static,
    ) -> Self {
        self.overrides.disk = crate::lease::Disk::simulated(open);
        self
    }

    /// Reports what each input does at the moment that this plugin or a clone of it has built. The call is cheap enough to
    /// be made every second.
    pub fn reports(&self) -> Vec<Report> {
        self.built.existing().iter().map(|input| input.report()).collect()
    }

    /// Reads the lease table of each connected input, for an operator; inputs that share no table are left out. The whole
    /// table is read, so this should not be called often.
    pub async fn overviews(&self) -> Vec<Result<Overview, StoreError>> {
        let mut seen = Vec::new();
        for input in self.built.existing() {
            if let Ok(session) = input.session() {
                seen.extend(session.overview().await.transpose());
            }
        }
        seen
    }
}

impl InputPlugin for KinesisInput {
    type Config = Config;

    fn about(&self) -> About {
        config::about()
    }

    fn build(&self, config: Config) -> Result<Arc<dyn Input>, BoxError> {
        let input = Arc::new(Kinesis::new(config, self.overrides.clone()));
        self.built.add(&input);
        Ok(input)
    }
}

/// An input that reads Kinesis. [`KinesisInput`] builds it.
struct Kinesis {
    config: Config,
    overrides: Overrides,
    /// The name under which this worker holds leases, over all connects.
    me: WorkerId,
    lives: Lives,
    /// The lock that allows one connect or close at a time.
    changing: tokio::sync::Mutex<()>,
    /// The remaining tasks of abandoned connects, which end within moments.
    background: TaskTracker,
    phase: Mutex<Phase>,
    /// Why the last connect failed; `None` if it succeeded, or if there was none.
    connect_failed: Mutex<Option<String>>,
}

/// The lifecycle phase of the input.
enum Phase {
    /// The input is not connected, or not connected any more.
    Disconnected,
    Connected(Arc<Session>),
    /// The input is closed; the pool counts the records that are still in flight, if it was connected.
    Closed(Option<Pool>),
}

impl Phase {
    /// Closes an input that is not connected. A closed input stays as it is.
    fn close_unconnected(&mut self) {
        if matches!(self, Self::Disconnected) {
            *self = Self::Closed(None);
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the input has been closed")]
struct IsClosed;

#[derive(Debug, thiserror::Error)]
#[error("connect has not succeeded yet")]
struct NotYet;

impl Kinesis {
    fn new(config: Config, overrides: Overrides) -> Self {
        let me = config.client_id.as_deref().map_or_else(WorkerId::random, |id: &str| WorkerId::from(id));
        let (changing, background) = (tokio::sync::Mutex::new(()), TaskTracker::new());
        let (phase, connect_failed) = (Mutex::new(Phase::Disconnected), Mutex::default());
        Self { config, overrides, me, lives: Lives::new(), changing, background, phase, connect_failed }
    }

    fn session(&self) -> Result<Arc<Session>, InputError> {
        match &*lock(&self.phase) {
            Phase::Connected(session) => Ok(Arc::clone(session)),
            Phase::Disconnected => Err(InputError::NotConnected(NotYet.into())),
            Phase::Closed(_) => Err(InputError::NotConnected(IsClosed.into())),
        }
    }

    fn report(&self) -> Report {
        if let Ok(session) = self.session() {
            return session.report(&self.me);
        }
        let Status { state, target, reason, .. } = self.status();
        Report { state, target, reason, worker: self.me.clone(), connected: None }
    }

    fn target(&self) -> String {
        self.config.stream_entries().iter().map(|entry| entry.stream.to_string()).collect::<Vec<_>>().join(", ")
    }
}

#[async_trait]
impl Input for Kinesis {
    async fn connect(&self) -> Result<(), InputError> {
        let _turn = self.changing.lock().await;
        match &*lock(&self.phase) {
            Phase::Connected(_) => return Ok(()),
            Phase::Closed(_) => return Err(InputError::Fatal(IsClosed.into())),
            Phase::Disconnected => {}
        }
        // A host may connect in a task that it does not monitor. After a panic everything that was opened is dropped,
        // as after an error.
        let connecting = open::open(&self.config, &self.overrides, &self.me, &self.lives, &self.background);
        let connected = Box::pin(supervise::once("connect", connecting)).await;
        let connected = connected.unwrap_or_else(|cause| Err(ConnectError::Panicked(cause)));
        *lock(&self.connect_failed) = connected.as_ref().err().map(|error| causes(error));
        let session = connected?;
        *lock(&self.phase) = Phase::Connected(Arc::new(session));
        Ok(())
    }

    async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError> {
        self.session()?.read(demand).await
    }

    async fn close(&self, within: Duration) -> Result<(), InputError> {
        let _turn = self.changing.lock().await;
        if let Ok(session) = self.session() {
            *lock(&self.phase) = Phase::Closed(Some(session.pool().clone()));
            return session.close(within).await;
        }
        lock(&self.phase).close_unconnected();
        // The state that an abandoned connect has published is withdrawn here. That withdrawal is bounded in time
        // too.
        self.background.close();
        let _ = timeout(within, self.background.wait()).await;
        Ok(())
    }

    fn drain(&self) -> bool {
        self.session().is_ok_and(|session| session.drain())
    }

    fn gives_up(&self) -> bool {
        !self.config.auto_replay_nacks || self.config.redelivery.then == GivenUp::Drop
    }

    fn status(&self) -> Status {
        match &*lock(&self.phase) {
            Phase::Connected(session) => session.status(),
            Phase::Disconnected => {
                let mut status = Status::new(State::Disconnected, self.target());
                status.reason.clone_from(&lock(&self.connect_failed));
                status
            }
            Phase::Closed(None) => Status::new(State::Closed, self.target()),
            Phase::Closed(Some(pool)) => pending(Status::new(State::Closed, self.target()), pool),
        }
    }
}

impl fmt::Debug for Kinesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kinesis").field("streams", &self.target()).finish_non_exhaustive()
    }
}
