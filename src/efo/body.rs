//! How do frames come off a subscription's body?

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use aws_smithy_types::body::SdkBody;
use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use pipeline_plugin_api::causes;
use tokio::time::timeout;

use super::wire::frame::PRELUDE_LEN;
use super::wire::{Frame, Prelude};
use crate::retry::Fault;

/// A subscription that says nothing for so long while we listen is dead. The service sends an event at least about
/// every five seconds.
pub(crate) const SILENCE: Duration = Duration::from_secs(35);

/// The frames of a body, one after the other.
#[derive(Debug)]
pub struct Frames {
    body: SdkBody,
    /// What came and was not used yet. At most what the HTTP client hands over at once.
    chunk: Bytes,
}

impl Frames {
    /// The frames of a subscription's body, from its first byte on.
    pub fn new(body: SdkBody) -> Self {
        Self { body, chunk: Bytes::new() }
    }

    /// Waits for the start of the next frame. `None` when the body ended in good order between two frames.
    ///
    /// Nothing of the frame's content is taken off the connection's window beyond the chunk it came in.
    ///
    /// # Errors
    ///
    /// When the connection broke, when nothing came for 35 s, or when what came is no frame.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: what was read of a prelude is lost with the call.
    pub async fn prelude(&mut self) -> Result<Option<Prelude>, Fault> {
        let mut bytes = [0; PRELUDE_LEN];
        let mut filled = 0;
        while filled < PRELUDE_LEN {
            if self.chunk.is_empty() && !self.pull().await? {
                return if filled == 0 { Ok(None) } else { Err(truncated()) };
            }
            let take = self.chunk.len().min(PRELUDE_LEN - filled);
            self.chunk.copy_to_slice(&mut bytes[filled..filled + take]);
            filled += take;
        }
        Prelude::parse(&bytes).map(Some).map_err(|error| Fault::wire("BadFrame", error))
    }

    /// Reads the frame that a prelude announced.
    ///
    /// # Errors
    ///
    /// As [`Self::prelude`].
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn frame(&mut self, prelude: &Prelude) -> Result<Frame, Fault> {
        let len = prelude.rest_len();
        let rest = if self.chunk.len() >= len {
            self.chunk.split_to(len)
        } else {
            // The length is checked by a checksum and bounded, and the space for it is reserved.
            let mut rest = BytesMut::with_capacity(len);
            while rest.len() < len {
                if self.chunk.is_empty() && !self.pull().await? {
                    return Err(truncated());
                }
                let take = self.chunk.len().min(len - rest.len());
                rest.extend_from_slice(&self.chunk.split_to(take));
            }
            rest.freeze()
        };
        prelude.frame(&rest).map_err(|error| Fault::wire("BadFrame", error))
    }

    /// Gets the next chunk; false at the end of the body.
    async fn pull(&mut self) -> Result<bool, Fault> {
        loop {
            let next = timeout(SILENCE, poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx))).await;
            match next {
                Err(_) => return Err(Fault::wire("Silence", format_args!("nothing came for {SILENCE:?}"))),
                Ok(None) => return Ok(false),
                Ok(Some(Err(error))) => return Err(Fault::wire("Connection", causes(&*error))),
                Ok(Some(Ok(frame))) => {
                    // Trailers say nothing that we need.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.chunk = data;
                        return Ok(true);
                    }
                }
            }
        }
    }
}

fn truncated() -> Fault {
    Fault::wire("Truncated", "the connection ended within a frame")
}
