//! How do the events of a subscription reach its reader, and what goes wrong on the way?

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::clock::Clock;
use crate::faults::{Break, Link, NoAnswer, StreamFault};
use crate::kinesis::{Child, Event, Next, SubscriptionId, shard_id};
use crate::simulator::Simulator;
use crate::wire::event;

/// The body of an answer. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    /// A part of an answer. Then the connection breaks, or nothing more comes.
    Cut {
        part: Option<Bytes>,
        breaks: bool,
    },
    Subscription(Box<Subscription>),
}

#[derive(Debug)]
struct Subscription {
    simulator: Simulator,
    id: SubscriptionId,
    link: Link,
    clock: Clock,
    ready: VecDeque<Bytes>,
    /// The subscription is not polled before this timer, unless it is woken.
    until: Option<Pin<Box<Sleep>>>,
    /// The next piece is sent after this timer.
    gap: Option<Pin<Box<Sleep>>>,
    slow: bool,
    breaks: Option<Break>,
    events: u32,
    ending: Option<Ending>,
}

/// The state that follows the pieces that are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    End,
    Reset,
    Silence,
}

impl Body {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self(Kind::Full(Some(bytes)))
    }

    /// Cuts an answer somewhere, as `drawn` says. The connection breaks there, or nothing more comes.
    pub(crate) fn cut(self, drawn: usize, breaks: bool) -> Self {
        match self.0 {
            Kind::Full(Some(bytes)) => {
                let part = bytes.slice(..drawn % bytes.len().max(1));
                Self(Kind::Cut { part: Some(part).filter(|part| !part.is_empty()), breaks })
            }
            other => Self(other),
        }
    }

    pub(crate) fn subscription(simulator: Simulator, id: SubscriptionId, link: Link, clock: Clock) -> Self {
        let breaks = link.stream_fault();
        let mut subscription = Subscription {
            simulator,
            id,
            link,
            clock,
            ready: VecDeque::new(),
            until: None,
            gap: None,
            slow: false,
            breaks,
            events: 0,
            ending: None,
        };
        if subscription.breaks.as_ref().is_some_and(|breaks| breaks.what == StreamFault::NoFirstFrame) {
            subscription.ending = Some(Ending::Silence);
        } else {
            subscription.ready.push_back(event::initial().into());
        }
        Self(Kind::Subscription(Box::new(subscription)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = NoAnswer;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NoAnswer>>> {
        match &mut self.0 {
            Kind::Full(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Kind::Cut { part, breaks } => match part.take() {
                Some(part) => Poll::Ready(Some(Ok(Frame::data(part)))),
                None if *breaks => Poll::Ready(Some(Err(NoAnswer::Reset))),
                None => Poll::Pending,
            },
            Kind::Subscription(subscription) => subscription.poll(cx),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Cut { .. } | Kind::Subscription(_) => SizeHint::default(),
        }
    }
}

impl Subscription {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NoAnswer>>> {
        loop {
            if self.link.is_cut(false) {
                return Poll::Pending;
            }
            if let Some(gap) = &mut self.gap {
                std::task::ready!(gap.as_mut().poll(cx));
                self.gap = None;
            }
            if let Some(bytes) = self.ready.pop_front() {
                if self.slow {
                    self.gap = Some(Box::pin(sleep(Duration::from_millis(400 + self.link.draw(4000) as u64))));
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match self.ending {
                Some(Ending::End) => return Poll::Ready(None),
                Some(Ending::Reset) => return Poll::Ready(Some(Err(NoAnswer::Reset))),
                Some(Ending::Silence) => return Poll::Pending,
                None => {}
            }
            let now = self.clock.now();
            match self.simulator.next(self.id, now, cx.waker()) {
                Next::Event(event) => self.send(event),
                Next::Exception(error) => {
                    self.ready.push_back(event::exception(&error).into());
                    self.ending = Some(Ending::End);
                }
                Next::End => self.ending = Some(Ending::End),
                Next::Reset => self.ending = Some(Ending::Reset),
                Next::Wait(until) => {
                    let wait = until.since(now).max(Duration::from_millis(1));
                    let timer = self.until.insert(Box::pin(sleep(wait)));
                    std::task::ready!(timer.as_mut().poll(cx));
                    self.until = None;
                }
            }
        }
    }

    fn send(&mut self, event: Event) {
        self.events += 1;
        let breaks = self.breaks.take_if(|breaks| self.events > breaks.events || breaks.what == StreamFault::Empty);
        let last = event.continuation.is_none();
        match breaks {
            Some(breaks) => self.spoil(breaks.what, event),
            None => self.push(event::event(&event)),
        }
        if last {
            self.ending.get_or_insert(Ending::End);
        }
    }

    fn push(&mut self, frame: Vec<u8>) {
        let bytes = Bytes::from(frame);
        let pieces = if self.slow { 4 } else { 1 };
        let size = bytes.len().div_ceil(pieces).max(1);
        let cuts = (0..bytes.len()).step_by(size);
        self.ready.extend(cuts.map(|at| bytes.slice(at..bytes.len().min(at + size))));
    }

    /// Sends an event, altered by a fault.
    fn spoil(&mut self, fault: StreamFault, mut event: Event) {
        match fault {
            StreamFault::Reset => self.ending = Some(Ending::Reset),
            StreamFault::End | StreamFault::Empty => self.ending = Some(Ending::End),
            StreamFault::Silence | StreamFault::NoFirstFrame => self.ending = Some(Ending::Silence),
            StreamFault::Truncated => {
                let mut frame = event::event(&event);
                frame.truncate(1 + self.link.draw(frame.len() - 1));
                self.push(frame);
                self.ending = Some(Ending::End);
            }
            StreamFault::Corrupt => {
                let mut frame = event::event(&event);
                // The byte is behind the lengths, because impossible lengths would be found at once.
                let at = 12 + self.link.draw(frame.len() - 12);
                frame[at] ^= 1 << self.link.draw(8);
                self.push(frame);
            }
            StreamFault::Exception(code) => {
                let headers = [(":message-type", "exception"), (":exception-type", code.as_str())];
                self.push(crate::wire::frame::write(&headers, br#"{"message":"injected by the simulator"}"#));
                self.ending = Some(Ending::End);
            }
            StreamFault::Error(code) => {
                self.push(event::error(&code, "injected by the simulator"));
                self.ending = Some(Ending::End);
            }
            StreamFault::Unknown => {
                self.push(event::of_type("SomethingNew", "{}"));
                self.push(event::event(&event));
            }
            StreamFault::Slow => {
                self.slow = true;
                self.push(event::event(&event));
            }
            StreamFault::EndWithoutChildren => {
                event.continuation = None;
                event.children.clear();
                self.push(event::event(&event));
                self.ending = Some(Ending::End);
            }
            StreamFault::ChildWithoutParents => {
                event.continuation = None;
                event.children = vec![child(Vec::new())];
                self.push(event::event(&event));
                self.ending = Some(Ending::End);
            }
            StreamFault::ChildrenWhileOpen => {
                if let Some(number) = event.continuation {
                    event.children.push(child(vec![shard_id(number.shard())]));
                }
                self.push(event::event(&event));
            }
        }
    }
}

/// A child that does not exist.
fn child(parents: Vec<String>) -> Child {
    Child { id: shard_id(u32::MAX), parents, hashes: (0, 0) }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.simulator.close(self.id);
    }
}
