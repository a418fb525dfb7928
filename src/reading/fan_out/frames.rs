//! How are frames read from a subscription's body?

use std::time::Duration;

use aws_smithy_types::body::SdkBody;
use bytes::{Buf, Bytes};

use crate::reading::body::next_piece;
use crate::reading::wire::frame::{CRC_LEN, PRELUDE_LEN};
use crate::reading::wire::{EventReader, Frame, FrameError, Kind, Prelude};
use crate::retry::Fault;

/// A subscription that stays silent this long while the reader listens is dead. The service sends an event at least
/// about every five seconds.
pub(crate) const SILENCE: Duration = Duration::from_secs(35);
/// The code of the fault that nothing arrived.
pub(crate) const SILENCE_CODE: &str = "Silence";
/// At most this many bytes of a frame that is not an event are kept: the message of an error.
const MESSAGE: usize = 64 << 10;

/// Reads the frames of a body, one after the other.
#[derive(Debug)]
pub struct Frames {
    body: SdkBody,
    /// Bytes that arrived and are not used yet; at most as much as the HTTP client hands over at once.
    chunk: Bytes,
    events: EventReader,
}

impl Frames {
    /// Creates a reader of the frames of a subscription's body, from its first byte on.
    pub fn new(body: SdkBody) -> Self {
        Self { body, chunk: Bytes::new(), events: EventReader::default() }
    }

    /// Waits for the start of the next frame. The result is `None` when the body ended properly between two frames.
    ///
    /// Only the chunk that the prelude came in is taken off the connection's window, and nothing more of the frame.
    ///
    /// # Errors
    ///
    /// An error is returned when the connection broke, when nothing arrived for 35 s, or when the bytes are not a
    /// frame.
    ///
    /// # Cancel safety
    ///
    /// This is not cancel safe: the part of a prelude that was read is lost with the call.
    pub async fn prelude(&mut self) -> Result<Option<Prelude>, Fault> {
        let mut bytes = [0; PRELUDE_LEN];
        if self.fill(&mut bytes).await? { Prelude::parse(&bytes).map(Some).map_err(bad_frame) } else { Ok(None) }
    }

    /// Reads the frame that a prelude announced. Its content is decoded as it arrives, and returned once the checksum
    /// has shown that it is intact.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Self::prelude`], and an event that can't be read.
    ///
    /// # Cancel safety
    ///
    /// This is not cancel safe.
    pub async fn frame(&mut self, prelude: &Prelude) -> Result<Frame, Fault> {
        let mut checksum = prelude.checksum();
        let mut headers = vec![0; prelude.headers_len()];
        self.whole(&mut headers).await?;
        checksum.update(&headers);
        let kind = Kind::read(&headers);
        let is_event = kind == Ok(Kind::Event);
        let mut left = prelude.payload_len();
        let mut payload = Vec::new();
        let mut read = Ok(());
        self.events.begin(left);
        while left > 0 {
            if self.chunk.is_empty() && !self.pull().await? {
                return Err(truncated());
            }
            let piece = self.chunk.split_to(self.chunk.len().min(left));
            left -= piece.len();
            checksum.update(&piece);
            if !is_event {
                payload.extend_from_slice(&piece[..piece.len().min(MESSAGE - payload.len())]);
            } else if read.is_ok() {
                read = self.events.feed(&piece);
            }
        }
        let mut crc = [0; CRC_LEN];
        self.whole(&mut crc).await?;
        // The checksum comes first: the content of a broken frame may look wrong only because the frame is broken.
        checksum.verify(crc).map_err(bad_frame)?;
        Ok(match kind.map_err(bad_frame)? {
            Kind::InitialResponse => Frame::InitialResponse,
            Kind::Event => {
                let event = read.and_then(|()| self.events.finish());
                Frame::Event(event.map_err(|error| Fault::wire("BadEvent", error))?)
            }
            Kind::Exception(code) => Frame::Exception { code, payload },
            Kind::Error { code, message } => Frame::Error { code, message },
            Kind::Unknown(what) => Frame::Unknown(what),
        })
    }

    /// Fills a buffer; returns false when the body ended before its first byte.
    async fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, Fault> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.chunk.is_empty() && !self.pull().await? {
                return if filled == 0 { Ok(false) } else { Err(truncated()) };
            }
            let take = self.chunk.len().min(buffer.len() - filled);
            self.chunk.copy_to_slice(&mut buffer[filled..filled + take]);
            filled += take;
        }
        Ok(true)
    }

    /// Fills a buffer within a frame; the end of the body is an error there.
    async fn whole(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        if self.fill(buffer).await? { Ok(()) } else { Err(truncated()) }
    }

    /// Gets the next chunk; returns false at the end of the body.
    async fn pull(&mut self) -> Result<bool, Fault> {
        let silence = || Fault::wire(SILENCE_CODE, format_args!("nothing came for {SILENCE:?}"));
        let Some(chunk) = next_piece(&mut self.body, SILENCE, silence).await? else { return Ok(false) };
        self.chunk = chunk;
        Ok(true)
    }
}

fn bad_frame(error: FrameError) -> Fault {
    Fault::wire("BadFrame", error)
}

fn truncated() -> Fault {
    Fault::wire("Truncated", "the connection ended within a frame")
}
