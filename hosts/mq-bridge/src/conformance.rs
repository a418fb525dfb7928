//! Does mq-bridge's own conformance suite pass for an input?
//!
//! The suite publishes through an endpoint and reads the messages back through the same one. An input can't publish,
//! so its test brings a [`Publish`] that puts payloads where the input reads, such as a client of a local server.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mq_bridge::plugin::conformance;
use mq_bridge::traits::{CustomEndpointFactory, MessageConsumer, MessagePublisher, PublisherError};
use mq_bridge::{CanonicalMessage, SentBatch, anyhow};
use pipeline_plugin_api::BoxError;
use pipeline_plugin_api::registry::RegisteredInput;
use serde_json::Value;

pub use mq_bridge::plugin::conformance::ConformanceOptions;

use crate::InputFactory;

/// Puts messages where an input will read them.
#[async_trait]
pub trait Publish: Send + Sync + 'static {
    /// Returns once the message is stored.
    async fn publish(&self, message: CanonicalMessage) -> Result<(), BoxError>;
}

/// Runs mq-bridge's conformance suite against `input`, configured as `options.config` says.
///
/// If messages come back without the metadata they were published with, as from Kinesis, set `options.expect_metadata`
/// to false.
///
/// # Errors
///
/// Returns the suite's error for the first check that failed.
pub async fn run(
    input: RegisteredInput,
    publish: Arc<dyn Publish>,
    options: ConformanceOptions,
) -> Result<Vec<&'static str>, BoxError> {
    let both = Both { input: InputFactory::new(input), publish };
    Ok(conformance::run(&both, options).await?)
}

struct Both {
    input: InputFactory,
    publish: Arc<dyn Publish>,
}

#[async_trait]
impl CustomEndpointFactory for Both {
    async fn create_consumer(&self, route: &str, config: &Value) -> anyhow::Result<Box<dyn MessageConsumer>> {
        self.input.create_consumer(route, config).await
    }

    async fn create_publisher(&self, _route: &str, _config: &Value) -> anyhow::Result<Box<dyn MessagePublisher>> {
        Ok(Box::new(Publisher(Arc::clone(&self.publish))))
    }
}

impl fmt::Debug for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.input.fmt(f)
    }
}

struct Publisher(Arc<dyn Publish>);

#[async_trait]
impl MessagePublisher for Publisher {
    async fn send_batch(&self, messages: Vec<CanonicalMessage>) -> Result<SentBatch, PublisherError> {
        for message in messages {
            self.0.publish(message).await.map_err(|error| PublisherError::Retryable(anyhow::anyhow!(error)))?;
        }
        Ok(SentBatch::Ack)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
