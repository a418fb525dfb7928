//! Scenarios of what must not go wrong, run by the simulator through the whole plugin and the AWS SDK, on virtual time.
//!
//! - [`bench`](mod@bench): a stream, its writer, workers, and access to the table.
//! - `loss`: what could lose a record; `stalls`: what could stand still indefinitely; `storms`: what could be requested
//!   too often, or given up too early; `workers`: several that share the shards; `bounds`: how much is held, and what
//!   is left at the end; `credentials`: credentials that fail and recover.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may break")]

mod bench;
mod bounds;
mod credentials;
mod loss;
mod stalls;
mod storms;
mod workers;
