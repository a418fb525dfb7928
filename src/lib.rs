#![doc = include_str!("../README.md")]
//!
//! # Layout
//!
//! Pure rooms know no clock and do no I/O; shells do the I/O and stay thin.
//!
//! - [`config`]: the fields, their checks, their documentation (pure).
//! - `input`, `connect`, `session`: the face to the host, how it opens, what runs until it closes.
//! - `readers`, `shard`: one task for all shards and one for each; `topology` (pure) knows which comes after which.
//! - [`efo`]: SubscribeToShard; its `wire` is pure. `reader` is the trait behind which polling will stand.
//! - [`pool`], `ack`, `outbox`, `delivery`: the road of a record from the socket to its final ack.
//! - `lease`: who owns a shard, and up to where it is done. Who should own it (`balance`, `round`, pure), who is alive
//!   (`watch`, pure), that we are (`keeper`), and the stores. `checkpoint`: when a place is stored and a lease given back.
//! - `service`, `aws`, `access`, `transport`: what we ask of Kinesis, and how it is asked.
//! - [`retry`], `backoff`: what each error means (pure).
//! - [`telemetry`]: every metric and log event. [`inspect`]: what an operator sees of the leases.

#![cfg_attr(
    not(feature = "unstable-internals"),
    allow(dead_code, unreachable_pub, unused_imports, reason = "what only the internals need")
)]

mod aws;
pub mod config;
mod delivery;
mod input;
pub mod inspect;
#[cfg(feature = "unstable-internals")]
pub mod internals;
mod lease;
mod model;
mod pool;
#[cfg(test)]
mod pool_tests;
mod reading;
mod records;
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
