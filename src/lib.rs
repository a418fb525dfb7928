#![doc = include_str!("../README.md")]
//!
//! # Layout
//!
//! Imports run down this list and never up; `docs/architecture.md` has the map, the invariants and the glossary.
//!
//! - `input`: what the host sees.
//! - `session`: what lies between connect and close.
//! - `shards`: which shards are read now, and what becomes of each.
//! - `delivery`: what happens between a reader and the final ack.
//! - [`check`]: what a run would need, and whether it is there.
//! - [`kcl`]: how a stream changes over from Amazon's KCL, and back. [`reset`]: how it is read again from elsewhere.
//! - [`peek`]: what is in a stream, for a person who wants to see it. [`policy`]: which permissions a configuration needs.
//! - [`inspect`]: what an operator sees of the leases. `lease`: which worker owns which shard, and how far it is.
//! - `reading`: how one shard is read; `reading::fan_out` by SubscribeToShard.
//! - `aws`: what is asked of AWS, with which credentials, and over which connections.
//! - `supervise`: what happens when a background task ends unexpectedly.
//! - [`telemetry`]: every metric and log line, the health of the input, and reports of what it does.
//! - `records`: what a record is in memory. `retry`: what an error means. [`config`]: the fields and their checks.
//! - `pool`: the bound on memory. `model`: the words that all of them share.

#![cfg_attr(
    not(feature = "unstable-internals"),
    allow(dead_code, unreachable_pub, unused_imports, reason = "what only the internals need")
)]

mod aws;
pub mod check;
pub mod config;
mod delivery;
mod input;
pub mod inspect;
#[cfg(feature = "unstable-internals")]
pub mod internals;
pub mod kcl;
mod lease;
mod model;
pub mod peek;
pub mod policy;
mod pool;
#[cfg(test)]
mod pool_tests;
mod reading;
mod records;
pub mod reset;
mod retry;
#[cfg(test)]
mod scenarios;
mod session;
mod shards;
mod supervise;
mod sync;
pub mod telemetry;

pub use aws::credentials::AccessError;
pub use config::Config;
pub use input::KinesisInput;
pub use lease::StoreError;
pub use model::{NotASequenceNumber, SequenceNumber, ShardId, Stream, WorkerId};
pub use reading::fan_out::consumer::ConsumerError;
pub use records::KinesisRecord;
pub use session::error::ConnectError;
