//! A plugin whose inputs all read one queue in memory.

use std::sync::Arc;

use pipeline_plugin_api::config::Configuration;
use pipeline_plugin_api::config::schemars::JsonSchema;
use pipeline_plugin_api::config::serde::Deserialize;
use pipeline_plugin_api::registry::{About, InputPlugin, RegisteredInput};
use pipeline_plugin_api::{BoxError, Input, Message};
use pipeline_plugin_mq_bridge::memory::MemoryQueue;

/// Builds inputs that read this queue.
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    pub(crate) queue: MemoryQueue,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(crate = "pipeline_plugin_api::config::serde", deny_unknown_fields)]
pub(crate) struct Config {
    /// The topic to read.
    #[allow(dead_code)]
    topic: String,
}

impl Configuration for Config {}

impl InputPlugin for Plugin {
    type Config = Config;

    fn about(&self) -> About {
        About::new(self.name, "0.1.0", "Reads a queue in memory.")
    }

    fn build(&self, _: Config) -> Result<Arc<dyn Input>, BoxError> {
        Ok(Arc::new(self.queue.input()))
    }
}

/// The plugin, registered by hand.
pub(crate) fn registered(name: &'static str, queue: &MemoryQueue) -> RegisteredInput {
    RegisteredInput::new(Plugin { name, queue: queue.clone() })
}

/// Numbered messages.
pub(crate) fn numbers(count: usize) -> Vec<Message> {
    (0..count).map(|number| Message::new(format!("message {number}"))).collect()
}
