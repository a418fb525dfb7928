//! How does a route read an input that its caller connects and closes?

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mq_bridge::anyhow;
use mq_bridge::extensions::{register_endpoint_factory, unregister_endpoint_factory};
use mq_bridge::models::{Endpoint, EndpointType};
use mq_bridge::traits::{CustomEndpointFactory, MessageConsumer};
use pipeline_plugin_api::Input;
use serde_json::Value;

use crate::RegisterError;
use crate::consumer::InputConsumer;
use crate::metadata::Metadata;

/// Registers an input with mq-bridge under `name`, until the returned value is dropped.
///
/// The input remains the caller's: consumers of it come and go with the passes of a route (an output that fails and
/// reconnects doesn't disturb it), and only the caller closes it. Its messages come with this part of their metadata.
///
/// # Errors
///
/// Fails with [`RegisterError::Refused`] if mq-bridge has an endpoint of that name.
pub fn attach(name: impl Into<String>, input: Arc<dyn Input>, metadata: Metadata) -> Result<Attached, RegisterError> {
    let name = name.into();
    match register_endpoint_factory(&name, Arc::new(Lent(input, metadata))) {
        Ok(()) => Ok(Attached { name }),
        Err(error) => Err(RegisterError::Refused { name, reason: error.to_string() }),
    }
}

/// An input that is registered with mq-bridge while this lives.
#[derive(Debug)]
#[must_use = "the name is freed when this is dropped"]
pub struct Attached {
    name: String,
}

impl Attached {
    /// The endpoint to give to a route as its input.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(EndpointType::Custom { name: self.name.clone(), config: Value::Object(serde_json::Map::new()) })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        unregister_endpoint_factory(&self.name);
    }
}

struct Lent(Arc<dyn Input>, Metadata);

#[async_trait]
impl CustomEndpointFactory for Lent {
    async fn create_consumer(&self, _route: &str, _config: &Value) -> anyhow::Result<Box<dyn MessageConsumer>> {
        Ok(Box::new(InputConsumer::borrowing(Arc::clone(&self.0)).passing(self.1.clone())))
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent")
    }
}
