//! What has to hold for any bytes that come?
//!
//! The fuzz targets ask it of what a fuzzer makes up, and a test of the project asks it of the seeds in `corpus/`,
//! including these files, so that they stay alive without a fuzzer.

#![forbid(unsafe_code)]

pub mod choices;
pub mod event;
pub mod forms;
pub mod frames;
pub mod kpl;
pub mod reference;
pub mod said;
