//! Shared code of tests, benchmarks and examples.
//!
//! - [`aggregate`]: packs user records into one record, as the Kinesis Producer Library does.
//! - [`frame`]: writes the frames of an event stream, as the service does.
//! - [`local_kinesis`]: a Kinesis on this machine, with records of your own.
//! - [`replay`]: a server that sends event streams as fast as its readers allow, for measurements.

#![allow(clippy::unwrap_used, reason = "the lengths that tests use fit")]
#![allow(missing_docs, missing_debug_implementations, reason = "for this project's tests alone")]

pub mod aggregate;
pub mod frame;
pub mod local_kinesis;
pub mod replay;

/// Any error.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;
