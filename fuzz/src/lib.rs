//! What must hold for any bytes from the wire?
//!
//! The fuzz targets check it with the inputs of a fuzzer, and a test of the project with the seeds in `corpus/` and
//! these files, so that they stay valid.

#![forbid(unsafe_code)]

pub mod choices;
pub mod event;
pub mod forms;
pub mod frames;
pub mod kpl;
pub mod reference;
pub mod said;
