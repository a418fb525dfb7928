//! The program and its library, with inputs and outputs in memory and with a Kinesis on this machine.

#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures, reason = "a test may break, and size is no matter")]
#![allow(unreachable_pub, reason = "modules of a test share what they need")]

mod blocked;
mod check;
mod commands;
#[path = "../../../src/config/compatible_blocks.rs"]
mod compatible_blocks;
mod credentials;
mod documented_pipelines;
mod documents;
#[path = "../../../examples/hosting.rs"]
#[allow(dead_code, reason = "what it prints is for people")]
mod example;
mod hosting;
mod kcl;
mod kinesis;
mod licenses;
mod manual;
mod many;
mod otlp;
mod outputs;
mod peek;
mod proxies;
mod reset;
mod running;
mod status;
