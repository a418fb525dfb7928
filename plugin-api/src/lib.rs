//! The contract between a pipeline engine (the *host*) and an input plugin.
//!
//! A host reads batches of [`Message`]s from an [`Input`] and settles each batch through its [`Receipt`];
//! an input's author implements [`Input`], declares a configuration type, and is listed in a `Registry`.
//! This package depends on no particular input and on no particular host. It re-exports what these traits need from
//! other packages: [`macro@async_trait`], [`Bytes`], and the derive macros in `config`.
//!
//! # Layout
//!
//! - [`mod@input`]: the `Input` trait, its errors and its status.
//! - [`message`]: a message, its payload and its metadata.
//! - [`batch`]: what a host requests and what it receives.
//! - [`receipt`]: how a host reports the outcome of a batch, and `reason`: why it refuses a message.
//! - [`driver`]: connect, read, settle and stop, as every host needs it.
//! - `registry`: the inputs a host can build, by name (feature `config`).
//! - `config`: one declared type gives parsing, lint, schema, reference and example (feature `config`).
//! - `conformance`: a suite that any `Input` can be run through (feature `conformance`).
//!
//! Both features are off by default. A host that does not build its inputs from configuration needs neither.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod batch;
mod causes;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod deadline;
pub mod driver;
pub mod input;
pub mod message;
mod reason;
pub mod receipt;
#[cfg(feature = "config")]
pub mod registry;

/// The macro of the `async-trait` crate, which an implementation of [`Input`] uses.
pub use async_trait::async_trait;
/// The reference-counted bytes of the `bytes` crate, which hold a payload.
pub use bytes::Bytes;

pub use batch::{Batch, Demand};
pub use causes::causes;
pub use deadline::deadline;
pub use input::{AckError, BoxError, Input, InputError, State, Status};
pub use message::{Message, MetadataTable, Value};
pub use reason::Reason;
pub use receipt::{Receipt, Settle, Verdict, Verdicts};

/// The examples of the README, which are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
