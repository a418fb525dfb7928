//! What must not go wrong, played by the simulator through the whole plugin and the AWS SDK, on virtual time.
//!
//! - [`bench`](mod@bench): a stream, its writer, workers, and looks into the table.
//! - `loss`: what could lose a record; `stalls`: what could stand still for ever; `storms`: what could be asked too often, or
//!   given up too early; `workers`: several that share the shards; `bounds`: how much is held, and what is left in the end; `credentials`: what goes bad and heals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may break")]

mod bench;
mod bounds;
mod credentials;
mod loss;
mod stalls;
mod storms;
mod workers;
