//! A simulated Kinesis and DynamoDB for tests of consumers, with the rules and the faults of the real services.
//!
//! Local servers are more lenient than AWS: no 5 s rule, no takeover, no end after five minutes, no throttling, no
//! errors inside a stream. This one keeps these rules, and injects faults drawn from a seed.
//!
//! # Layout
//!
//! - [`kinesis`]: the model of the service, pure; it is given the time and answers at once.
//! - `dynamodb`: the table, which shows each row that is written to a watcher.
//! - [`faults`]: the faults of a connection, drawn from a seed or chosen by a test.
//! - `simulator`: both services of one account, and what observes them.
//! - `answer`, `body`, `sts`, `cbor`, `wire`: the same behind HTTP, as bytes.
//! - `in_process`: the client for the AWS SDK, on virtual time.
//! - [`server`]: the same on sockets, for third-party clients (feature `server`).
//! - `clock`, `time`: the current time.

mod answer;
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
pub use faults::{Link, NoAnswer};
pub use in_process::InProcess;
pub use kinesis::Settings;
pub use simulator::{Call, CallLog, CallWatcher, Simulator};
pub use time::Time;

/// A row of a table.
pub use dynoxide::Item;
