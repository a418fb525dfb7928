//! The program and its library, with inputs and outputs in memory and with a Kinesis on this machine.

mod commands;
mod outputs;
mod running;
