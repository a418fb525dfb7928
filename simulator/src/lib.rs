//! Kinesis and DynamoDB for tests of consumers, with the rules of the real services and with their faults.
//!
//! Local servers are kinder than AWS: no 5 s rule, no takeover, no end after five minutes, no throttling, no errors inside a
//! stream. This one keeps the rules, and breaks what can break, by a seed.
//!
//! # Layout
//!
//! - [`kinesis`]: the service, pure; told the time, it answers at once.
//! - `dynamodb`: the table, with everybody shown what is written.
//! - [`faults`]: what goes wrong on the way, drawn from a seed or told by a test.
//! - `simulator`, `body`, `wire`: the same behind HTTP, as bytes.
//! - `in_process`: the client for the AWS SDK, on virtual time.
//! - [`server`]: the same on sockets, for clients that no one here wrote (feature `server`).
//! - `clock`, `time`: what time it is.

mod body;
mod cbor;
mod clock;
mod dynamodb;
pub mod faults;
mod in_process;
pub mod kinesis;
mod past;
#[cfg(feature = "server")]
pub mod server;
mod simulator;
mod sts;
mod time;
mod wire;

pub use body::Body;
pub use clock::Clock;
pub use dynamodb::{RowWritten, Watcher, flag, text};
pub use faults::Link;
pub use in_process::InProcess;
pub use kinesis::Settings;
pub use simulator::{Call, CallLog, CallWatcher, NoAnswer, Simulator};
pub use time::Time;

/// A row of a table.
pub use dynoxide::Item;
