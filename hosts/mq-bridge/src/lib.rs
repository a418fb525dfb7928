//! Makes every input of a [`Registry`] an endpoint of [mq-bridge](mq_bridge).
//!
//! After [`register`], a route names an input like any other endpoint:
//!
//! ```yaml
//! input:
//!   aws_kinesis: { streams: [orders], checkpoint_file: orders.redb }
//! output:
//!   file: { path: orders.jsonl }
//! ```
//!
//! A host that wants to connect, observe and close the input itself [`attach`]es it instead.
//!
//! # Layout
//!
//! - `factory`: inputs that mq-bridge creates and this crate closes.
//! - `attached`: an input that the caller owns.
//! - `live`: which consumer closes an input that several share, and when.
//! - `consumer`: mq-bridge's `MessageConsumer` over an input.
//! - `translate`: the conversion of messages, dispositions, errors and status; `metadata`: which metadata is converted.
//! - `conformance`: mq-bridge's own suite, for any input; `memory`: an input in memory (both with feature `conformance`).

#![cfg_attr(docsrs, feature(doc_cfg))]

mod attached;
#[cfg(feature = "conformance")]
pub mod conformance;
mod consumer;
mod factory;
mod live;
#[cfg(feature = "conformance")]
pub mod memory;
mod metadata;
mod translate;

use std::sync::Arc;

use mq_bridge::extensions::{register_endpoint_factory, unregister_endpoint_factory};
use pipeline_plugin_api::registry::{RegisteredInput, Registry};

pub use attached::{Attached, attach};
pub use consumer::InputConsumer;
pub use factory::InputFactory;
pub use metadata::Metadata;

/// The examples of the README, which are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The reason why inputs could not be registered with mq-bridge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// mq-bridge refused the name, because it has an endpoint of that name already.
    #[error("mq-bridge does not take an endpoint named `{name}`: {reason}")]
    Refused {
        /// The name of the input.
        name: String,
        /// The error of mq-bridge.
        reason: String,
    },
}

/// Registers every input of `registry` as an mq-bridge endpoint of the same name, for the whole process.
///
/// Call it once, before a route that names one of them is started.
///
/// # Errors
///
/// Fails with [`RegisterError::Refused`] if one of the names is taken; then none of the inputs is registered.
pub fn register(registry: &Registry) -> Result<(), RegisterError> {
    let mut done = Vec::new();
    for input in registry.iter() {
        if let Err(error) = register_one(input) {
            for name in done {
                unregister_endpoint_factory(name);
            }
            return Err(error);
        }
        done.push(input.name());
    }
    Ok(())
}

fn register_one(input: &RegisteredInput) -> Result<(), RegisterError> {
    register_endpoint_factory(input.name(), Arc::new(InputFactory::new(input.clone())))
        .map_err(|error| RegisterError::Refused { name: input.name().to_owned(), reason: error.to_string() })
}
