//! How are the answers decoded that bring records, byte by byte?
//!
//! Nothing here does I/O. SubscribeToShard answers in `application/vnd.amazon.eventstream`: a stream of frames, each
//! with a prelude, headers, a payload and two checksums. The payload of an event is JSON with base64 data, whatever
//! encoding other operations use. GetRecords answers with one object of the same form, in JSON or in CBOR, where data
//! is a string of bytes.

mod assembly;
mod base64;
pub mod cbor;
pub mod event;
mod fast_path;
pub mod frame;
mod json;
mod pieces;
mod skipping;

pub use assembly::{Event, EventError};
pub use cbor::CborReader;
pub use event::EventReader;
pub use frame::{Checksum, Frame, FrameError, Kind, Prelude};
