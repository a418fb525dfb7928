//! What becomes of messages that an output rejects for good?
//!
//! mq-bridge acknowledges and drops them, unless a `dlq` middleware takes them. That would be an unwanted loss, so here
//! they count as not delivered. An input that gives them up in time may go on; otherwise the run ends with the reason.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mq_bridge::extensions::{register_middleware_factory, unregister_middleware_factory};
use mq_bridge::models::Middleware;
use mq_bridge::traits::{BoxFuture, CustomMiddlewareFactory, EndpointStatus, MessagePublisher, PublisherError};
use mq_bridge::{CanonicalMessage, SentBatch, anyhow};
use serde_json::Value;
use tokio::sync::watch;

use super::meter::LastError;

type Reason = Arc<watch::Sender<Option<String>>>;

/// Watches over the output of one run.
pub(super) struct NoLoss {
    name: String,
    reason: Reason,
}

impl NoLoss {
    /// Registers the middleware with mq-bridge under `name`, until this is dropped. Errors of the output are noted.
    pub(super) fn install(name: String, last_error: LastError) -> Result<Self, String> {
        let reason = Arc::new(watch::channel(None).0);
        let factory = Factory { reason: Arc::clone(&reason), last_error };
        register_middleware_factory(&name, Arc::new(factory)).map_err(|error| error.to_string())?;
        Ok(Self { name, reason })
    }

    /// The outermost middleware of the output.
    pub(super) fn middleware(&self) -> Middleware {
        Middleware::Custom { name: self.name.clone(), config: Value::Null }
    }

    /// Waits until a message is rejected. Returns the reason.
    pub(super) async fn refused(&self) -> String {
        let mut reason = self.reason.subscribe();
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = reason.wait_for(Option::is_some).await.is_ok();
        self.seen().unwrap_or_default()
    }

    /// The reason of a rejection, if there was one.
    pub(super) fn seen(&self) -> Option<String> {
        self.reason.borrow().clone()
    }
}

impl Drop for NoLoss {
    fn drop(&mut self) {
        unregister_middleware_factory(&self.name);
    }
}

struct Factory {
    reason: Reason,
    last_error: LastError,
}

#[async_trait]
impl CustomMiddlewareFactory for Factory {
    async fn apply_publisher(
        &self,
        publisher: Box<dyn MessagePublisher>,
        _route: &str,
        _config: &Value,
    ) -> anyhow::Result<Box<dyn MessagePublisher>> {
        let (reason, last_error) = (Arc::clone(&self.reason), self.last_error.clone());
        Ok(Box::new(Guarded { inner: publisher, reason, last_error }))
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoLoss")
    }
}

struct Guarded {
    inner: Box<dyn MessagePublisher>,
    reason: Reason,
    last_error: LastError,
}

impl Guarded {
    /// Notes an error, and turns a rejection into an error that can be retried, which mq-bridge nacks.
    fn keep(&self, error: PublisherError) -> PublisherError {
        self.last_error.note(&error);
        let PublisherError::NonRetryable(cause) = error else { return error };
        self.reason.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(format!("{cause:#}"));
            }
            first
        });
        PublisherError::Retryable(cause)
    }
}

#[async_trait]
impl MessagePublisher for Guarded {
    async fn send_batch(&self, messages: Vec<CanonicalMessage>) -> Result<SentBatch, PublisherError> {
        match self.inner.send_batch(messages).await {
            Ok(SentBatch::Partial { responses, failed }) => {
                let failed = failed.into_iter().map(|(message, error)| (message, self.keep(error))).collect();
                Ok(SentBatch::Partial { responses, failed })
            }
            Ok(sent) => Ok(sent),
            Err(error) => Err(self.keep(error)),
        }
    }

    fn on_connect_hook(&self) -> Option<BoxFuture<'_, anyhow::Result<()>>> {
        self.inner.on_connect_hook()
    }

    fn on_disconnect_hook(&self) -> Option<BoxFuture<'_, anyhow::Result<()>>> {
        self.inner.on_disconnect_hook()
    }

    async fn flush(&self) -> anyhow::Result<()> {
        self.inner.flush().await
    }

    async fn status(&self) -> EndpointStatus {
        self.inner.status().await
    }

    fn requires_ordered_publish(&self) -> bool {
        self.inner.requires_ordered_publish()
    }

    fn deferred_commit_interval(&self) -> Option<std::time::Duration> {
        self.inner.deferred_commit_interval()
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}
