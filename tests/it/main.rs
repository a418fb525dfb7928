//! The whole input against a local Kinesis, over real sockets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures, reason = "a test may break, and size is no matter")]
#![allow(unreachable_pub, reason = "modules of a test share what they need")]

#[path = "../../fuzz/src/lib.rs"]
mod bytes;
mod conformance;
mod decoders;
mod errors;
#[path = "../../examples/quickstart/local.rs"]
#[allow(dead_code, reason = "the quickstart uses the rest")]
mod local;
mod paging;
mod reading;
mod support;
mod wire;
#[path = "../../src/efo/wire/write.rs"]
#[allow(dead_code, reason = "the unit tests use the rest")]
mod write;
