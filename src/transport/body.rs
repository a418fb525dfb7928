//! What does an answer's body give back, and when?
//!
//! The window that a chunk took is given back when the next one is asked for, for then it was used. So a reader that
//! waits for space in the pool has at most a window's worth waiting for it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};

use super::connection::Slot;

/// The body of an answer over HTTP/2. Dropping it resets the stream.
#[derive(Debug)]
pub(super) struct StreamBody {
    stream: RecvStream,
    /// Bytes of the last chunk, whose window is not given back yet.
    unreleased: usize,
    /// The stream's place on its connection. Dropped after the stream.
    _slot: Slot,
}

impl StreamBody {
    pub(super) fn new(stream: RecvStream, slot: Slot) -> Self {
        Self { stream, unreleased: 0, _slot: slot }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let used = std::mem::take(&mut self.unreleased);
        if used > 0 {
            self.stream.flow_control().release_capacity(used)?;
        }
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(chunk)) => {
                self.unreleased = chunk.len();
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(None),
        }
    }
}

/// Any body, with something that it keeps alive.
#[derive(Debug)]
pub(super) struct Holding<B, T> {
    body: B,
    _held: T,
}

impl<B, T> Holding<B, T> {
    pub(super) fn new(body: B, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<B: Body + Unpin, T: Unpin> Body for Holding<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}
