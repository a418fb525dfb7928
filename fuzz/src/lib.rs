//! What must hold for any bytes from the wire?
//!
//! The fuzz targets check it with the inputs of a fuzzer, and a test of the project checks it with the seeds in
//! `corpus/`, so that both stay valid without a fuzzer.

#![forbid(unsafe_code)]

pub mod cbor;
pub mod choices;
pub mod event;
pub mod forms;
pub mod frames;
pub mod kpl;
pub mod reference;
pub mod said;
