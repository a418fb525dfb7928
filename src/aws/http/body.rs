//! When does an answer's body release its window and its memory?
//!
//! The window of a chunk is released when the next chunk is requested, because the chunk is used by then. A reader
//! that waits for space in the pool therefore has at most one window of bytes waiting for it.
//!
//! A waiting chunk is a slice of a block that was read from the socket, and small frames of many streams share such
//! blocks: a stream that is not read would keep the blocks of other streams in memory. Chunks that wait long are
//! therefore copied together.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::{Body, Frame};

use super::connection::{Compact, Slot};
use crate::sync::{Mutex, lock};

/// Smaller chunks are copied together, up to this size.
const COPIED: usize = 16 << 10;

/// The body of an answer over HTTP/2. Dropping it resets the stream.
#[derive(Debug)]
pub(super) struct StreamBody {
    received: Arc<Received>,
}

/// A stream, and its received chunks that are not taken yet.
#[derive(Debug)]
pub(super) struct Received {
    state: Mutex<State>,
    /// The slot of the stream on its connection. It is dropped after the stream.
    _slot: Slot,
}

#[derive(Debug)]
struct State {
    stream: RecvStream,
    /// The length of the last chunk, whose window is not released yet.
    unreleased: usize,
    /// Chunks that were taken off the stream and not handed out, oldest first. Their window is not released.
    waiting: VecDeque<Bytes>,
    /// The bytes behind those chunks, which are being copied together.
    tail: BytesMut,
    /// The end of the stream, which comes behind the waiting chunks.
    end: Option<Result<(), h2::Error>>,
    /// Whether the reader waits for the next chunk, so that no chunk waits for the reader.
    is_awaited: bool,
}

impl StreamBody {
    pub(super) fn new(stream: RecvStream, slot: Slot) -> Self {
        let state = State {
            stream,
            unreleased: 0,
            waiting: VecDeque::new(),
            tail: BytesMut::new(),
            end: None,
            is_awaited: false,
        };
        let connection = Arc::clone(slot.connection());
        let received = Arc::new(Received { state: Mutex::new(state), _slot: slot });
        let this: Weak<Received> = Arc::downgrade(&received);
        connection.look_after(this);
        Self { received }
    }
}

#[cfg(test)]
impl StreamBody {
    /// The waiting bytes, and the bytes of the blocks that they keep.
    pub(super) fn kept(&self) -> (usize, usize) {
        let state = lock(&self.received.state);
        let waiting: usize = state.waiting.iter().map(Bytes::len).sum();
        (waiting + state.tail.len(), waiting + state.tail.capacity())
    }
}

impl Compact for Received {
    fn compact(&self) {
        let mut state = lock(&self.state);
        // The reader polls again before it waits again, so its waker may be replaced.
        let cx = &mut Context::from_waker(Waker::noop());
        while !state.is_awaited && state.end.is_none() {
            match state.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => state.keep(&chunk),
                Poll::Ready(Some(Err(error))) => state.end = Some(Err(error)),
                Poll::Ready(None) => state.end = Some(Ok(())),
                Poll::Pending => return,
            }
        }
    }
}

impl State {
    fn keep(&mut self, chunk: &Bytes) {
        if chunk.len() >= COPIED || self.tail.len() + chunk.len() > COPIED {
            self.close_tail();
        }
        if chunk.len() >= COPIED {
            // The chunk may be part of a block that is several times as large.
            self.waiting.push_back(Bytes::copy_from_slice(chunk));
        } else {
            self.tail.extend_from_slice(chunk);
        }
    }

    /// Makes the copied bytes a chunk of their own, no larger than necessary.
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.waiting.push_back(Bytes::copy_from_slice(&self.tail));
            // The buffer is dropped too: many streams wait, and each would keep spare space.
            self.tail = BytesMut::new();
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let mut state = lock(&self.received.state);
        let used = std::mem::take(&mut state.unreleased);
        if used > 0 {
            state.stream.flow_control().release_capacity(used)?;
        }
        if state.waiting.is_empty() {
            state.close_tail();
        }
        let next = match state.waiting.pop_front() {
            Some(chunk) => Some(Ok(chunk)),
            None if state.end.is_some() => state.end.take().and_then(Result::err).map(Err),
            None => {
                state.is_awaited = true;
                let next = ready!(state.stream.poll_data(cx));
                state.is_awaited = false;
                next
            }
        };
        if let Some(Ok(chunk)) = &next {
            state.unreleased = chunk.len();
        }
        Poll::Ready(next.map(|chunk| chunk.map(Frame::data)))
    }
}

/// A body that keeps another value alive.
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
