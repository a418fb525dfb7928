//! The whole input against a local Kinesis, over real sockets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures, reason = "a test may break, and size is no matter")]
#![allow(unreachable_pub, reason = "modules of a test share what they need")]

mod conformance;
mod decoders;
mod errors;
mod paging;
mod reading;
mod support;
mod wire;
