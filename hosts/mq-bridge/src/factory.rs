//! How does mq-bridge create an input from a route's configuration?

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use mq_bridge::anyhow;
use mq_bridge::errors::InvalidConfig;
use mq_bridge::traits::{CustomEndpointFactory, MessageConsumer};
use pipeline_plugin_api::registry::RegisteredInput;
use serde_json::Value;

use crate::consumer::InputConsumer;
use crate::live::Live;
use crate::translate;

/// Creates mq-bridge consumers of one registered input.
///
/// Consumers of the same route and configuration share one input. The last of them closes it when it is disconnected or
/// dropped. A consumer that is requested meanwhile waits until the input is closed, so that what the input holds
/// (leases, the lock on a checkpoint file) is free again.
pub struct InputFactory {
    input: RegisteredInput,
    /// The inputs, by route and configuration. The references are weak: consumers and a closing task keep an input
    /// alive, the factory doesn't.
    routes: Mutex<HashMap<(String, String), Weak<Live>>>,
}

impl InputFactory {
    /// A factory outside mq-bridge's registry.
    pub fn new(input: RegisteredInput) -> Self {
        Self { input, routes: Mutex::new(HashMap::new()) }
    }

    /// A consumer's share of the input, or the closing input to wait for.
    fn share(&self, route: &str, config: &Value) -> anyhow::Result<Result<Arc<Live>, Arc<Live>>> {
        let key = (route.to_owned(), config.to_string());
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|_, live| live.strong_count() > 0);
        if let Some(live) = routes.get(&key).and_then(Weak::upgrade) {
            if live.join() {
                return Ok(Ok(live));
            }
            if !live.is_closed() {
                return Ok(Err(live));
            }
        }
        // A configuration that doesn't work now never will: the route must stop rather than retry.
        let built = self.input.build_value(config).map_err(|error| InvalidConfig(translate::chain(&error)))?;
        for warning in &built.warnings {
            tracing::warn!(route, input = self.input.name(), "{warning}");
        }
        let live = Live::new(built.input);
        routes.insert(key, Arc::downgrade(&live));
        Ok(Ok(live))
    }
}

#[async_trait]
impl CustomEndpointFactory for InputFactory {
    async fn create_consumer(&self, route: &str, config: &Value) -> anyhow::Result<Box<dyn MessageConsumer>> {
        loop {
            match self.share(route, config)? {
                Ok(live) => return Ok(Box::new(InputConsumer::sharing(live))),
                Err(closing) => closing.closed().await,
            }
        }
    }

    fn config_schema(&self) -> Option<Value> {
        Some(self.input.spec().schema().clone())
    }
}

impl fmt::Debug for InputFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InputFactory").field(&self.input.name()).finish()
    }
}
