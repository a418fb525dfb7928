//! How are messages written to standard output?

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mq_bridge::extensions::{get_endpoint_factory, register_endpoint_factory};
use mq_bridge::models::{Endpoint, EndpointType};
use mq_bridge::traits::{CustomEndpointFactory, MessagePublisher, PublisherError};
use mq_bridge::{CanonicalMessage, SentBatch, anyhow};
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt;

/// The name of the endpoint at mq-bridge.
pub(crate) const NAME: &str = "kinesis-input.stdout";

/// The output: payloads as they are, each followed by a line break.
pub(crate) fn endpoint() -> Endpoint {
    if get_endpoint_factory(NAME).is_none() {
        // This fails only if another call registered the same first.
        let _ = register_endpoint_factory(NAME, Arc::new(Stdout));
    }
    Endpoint::new(EndpointType::Custom { name: NAME.to_owned(), config: Value::Object(Map::new()) })
}

struct Stdout;

#[async_trait]
impl CustomEndpointFactory for Stdout {
    async fn create_publisher(&self, _route: &str, _config: &Value) -> anyhow::Result<Box<dyn MessagePublisher>> {
        Ok(Box::new(Lines))
    }
}

impl fmt::Debug for Stdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stdout")
    }
}

struct Lines;

#[async_trait]
impl MessagePublisher for Lines {
    async fn send_batch(&self, messages: Vec<CanonicalMessage>) -> Result<SentBatch, PublisherError> {
        let size = messages.iter().map(|message| message.payload.len() + 1).sum();
        let mut lines = Vec::with_capacity(size);
        for message in &messages {
            lines.extend_from_slice(&message.payload);
            lines.push(b'\n');
        }
        let mut out = tokio::io::stdout();
        let written = async {
            out.write_all(&lines).await?;
            out.flush().await
        };
        match written.await {
            Ok(()) => Ok(SentBatch::Ack),
            // The reader of standard output has gone, which a retry can't fix.
            Err(error) => Err(PublisherError::NonRetryable(anyhow::anyhow!("writing to standard output: {error}"))),
        }
    }

    /// Lines of two batches must not mix.
    fn requires_ordered_publish(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
