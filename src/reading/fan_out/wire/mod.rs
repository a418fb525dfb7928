//! How is SubscribeToShard's answer decoded, byte by byte: its frames, their events, and the records in those?
//!
//! Nothing here does I/O. The format is `application/vnd.amazon.eventstream`: a stream of frames, each with a
//! prelude, headers, a payload and two checksums. The payload of an event is JSON with base64 data, whatever encoding
//! other operations use.

mod base64;
pub mod event;
mod fast_path;
pub mod frame;
mod json;
mod skipping;

pub use event::{Event, EventError, EventReader};
pub use frame::{Checksum, Frame, FrameError, Kind, Prelude};
