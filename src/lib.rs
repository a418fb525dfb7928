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

mod access;
mod ack;
mod aws;
mod backoff;
mod checkpoint;
pub mod config;
mod connect;
mod delivery;
pub mod efo;
mod ending;
mod health;
mod input;
pub mod inspect;
mod kpl;
mod lease;
pub mod names;
mod outbox;
#[cfg(test)]
mod outbox_tests;
pub mod pool;
#[cfg(test)]
mod pool_tests;
mod reader;
mod readers;
mod record;
mod region;
mod resident;
pub mod retry;
#[cfg(test)]
mod scenarios;
mod service;
mod session;
mod shard;
mod shards;
mod supervise;
mod sync;
pub mod telemetry;
mod threads;
mod topology;
pub mod transport;
mod unbuilt;

pub use access::AccessError;
pub use config::Config;
pub use connect::ConnectError;
pub use efo::consumer::ConsumerError;
pub use input::KinesisInput;
pub use lease::StoreError;
pub use record::KinesisRecord;
