//! The whole input against a local Kinesis, over real sockets.

#[path = "../../examples/quickstart/local.rs"]
#[allow(dead_code, reason = "the quickstart uses the rest")]
mod local;
mod reading;
mod support;
