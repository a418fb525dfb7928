//! What does an answer's body give back, and when?
//!
//! The window that a chunk took is given back when the next one is asked for, for then it was used. So a reader that
//! waits for space in the pool has at most a window's worth waiting for it.
//!
//! What waits is a slice of a block that was read from the socket, and small frames of many streams share such blocks: a
//! stream that is not read would keep the blocks of those that are. So what waits for long is copied together.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::{Body, Frame};

use super::connection::{Compact, Slot};
use crate::sync::{Mutex, lock};

/// Chunks that are smaller are copied together, up to this size.
const COPIED: usize = 16 << 10;

/// The body of an answer over HTTP/2. Dropping it resets the stream.
#[derive(Debug)]
pub(super) struct StreamBody {
    received: Arc<Received>,
}

/// A stream, and what came on it and was not taken.
#[derive(Debug)]
pub(super) struct Received {
    state: Mutex<State>,
    /// The stream's place on its connection. Dropped after the stream.
    _slot: Slot,
}

#[derive(Debug)]
struct State {
    stream: RecvStream,
    /// Bytes of the last chunk, whose window is not given back yet.
    unreleased: usize,
    /// What was taken off the stream and not handed out, oldest first. Its window is not given back.
    waiting: VecDeque<Bytes>,
    /// What came after that, being copied together.
    tail: BytesMut,
    /// How the stream ended behind what waits.
    end: Option<Result<(), h2::Error>>,
    /// The reader waits for the next chunk, so nothing waits for it.
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
    /// Bytes that wait, and bytes of the blocks that they keep.
    pub(super) fn kept(&self) -> (usize, usize) {
        let state = lock(&self.received.state);
        let waiting: usize = state.waiting.iter().map(Bytes::len).sum();
        (waiting + state.tail.len(), waiting + state.tail.capacity())
    }
}

impl Compact for Received {
    fn compact(&self) {
        let mut state = lock(&self.state);
        // The reader asks again before it waits again, so its waker may be replaced.
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
            // It may be a part of a block that is several times as large.
            self.waiting.push_back(Bytes::copy_from_slice(chunk));
        } else {
            self.tail.extend_from_slice(chunk);
        }
    }

    /// What was copied together is a chunk of its own now, no larger than it has to be.
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.waiting.push_back(Bytes::copy_from_slice(&self.tail));
            // Its space with it: many streams wait, and each would keep some.
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
