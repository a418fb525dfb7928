//! Inputs as mq-bridge sees them: its conformance suite, and whole routes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures, reason = "a test may break, and size is no matter")]
#![allow(unreachable_pub, reason = "modules of a test share what they need")]

mod conformance;
mod input;
mod queue;
mod routes;
mod sharing;
