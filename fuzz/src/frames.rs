//! Are frames read as they should be, whatever their bytes are and however they are cut?

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::Body;
use kinesis_input::internals::Fault;
use kinesis_input::internals::Frames;
use kinesis_input::internals::wire::{Event, Frame, Kind};
use tokio::runtime::{Builder, Runtime};

use super::choices::Choices;
use super::event;

const PRELUDE: usize = 12;
const LEAST: usize = 16;
/// The most that is kept of the payload of a frame that is not an event.
const MESSAGE: usize = 64 << 10;

thread_local! {
    /// Reading has a time limit, so it needs a runtime; nothing ever waits.
    static RUNTIME: Option<Runtime> = Builder::new_current_thread().enable_time().build().ok();
}

/// Checks an input of the fuzzer: where to cut, what to correct, and the bytes.
pub fn check_input(input: &[u8]) {
    let mut choices = Choices::new(input);
    let flags = choices.byte();
    let cuts: Vec<_> = (0..choices.byte() % 16).map(|_| choices.byte().into()).collect();
    let mut bytes = choices.rest().to_vec();
    if flags & 1 != 0 {
        correct(&mut bytes, flags & 2 != 0);
    }
    check(&bytes, &cuts);
}

/// Checks the result for the bytes of a body, cut into pieces of these lengths, over and over.
pub fn check(bytes: &[u8], cuts: &[usize]) {
    let whole = read([Bytes::copy_from_slice(bytes)]);
    let cut = read(pieces(bytes, cuts));
    let (frames, fault) = whole;
    assert_eq!(frames, cut.0, "cut at {cuts:?}");
    // The position in an event at which the fault is found may depend on the cut; its kind may not.
    let code = |fault: &Option<Fault>| fault.as_ref().map(|fault| fault.code.clone());
    assert_eq!(code(&fault), code(&cut.1), "cut at {cuts:?}");
    let (split, end) = split(bytes);
    let mut expected = Vec::new();
    let mut bad_event = None;
    for (kind, payload) in split {
        expected.push(match kind {
            Kind::InitialResponse => Frame::InitialResponse,
            Kind::Event => {
                event::check(payload);
                let Ok(event) = Event::parse(payload) else {
                    // Nothing after it is read.
                    bad_event = Some("BadEvent");
                    break;
                };
                Frame::Event(event)
            }
            Kind::Exception(code) => Frame::Exception { code, payload: payload[..payload.len().min(MESSAGE)].to_vec() },
            Kind::Error { code, message } => Frame::Error { code, message },
            Kind::Unknown(what) => Frame::Unknown(what),
        });
    }
    assert_eq!(frames, expected);
    assert_eq!(fault.map(|fault| fault.code), bad_event.or(end).map(str::to_owned));
}

/// Gives frames correct checksums and, if `lengths` is set, possible lengths.
pub fn correct(bytes: &mut [u8], lengths: bool) {
    let mut left = bytes;
    while left.len() >= LEAST {
        let available = left.len();
        let (prelude, _) = left.split_at_mut(PRELUDE);
        let mut total = number(&prelude[..4]) as usize;
        if lengths {
            total = LEAST + total % (available - LEAST + 1);
            let headers = number(&prelude[4..8]) as usize % (total - LEAST + 1);
            prelude[..4].copy_from_slice(&(total as u32).to_be_bytes());
            prelude[4..8].copy_from_slice(&(headers as u32).to_be_bytes());
        }
        let sum = crc32fast::hash(&prelude[..8]);
        prelude[8..].copy_from_slice(&sum.to_be_bytes());
        if !(LEAST..=available).contains(&total) {
            return;
        }
        let (frame, rest) = left.split_at_mut(total);
        let (content, checksum) = frame.split_at_mut(total - 4);
        checksum.copy_from_slice(&crc32fast::hash(content).to_be_bytes());
        left = rest;
    }
}

/// All frames of a body, and the fault at its end, if any.
pub fn read(pieces: impl IntoIterator<Item = Bytes>) -> (Vec<Frame>, Option<Fault>) {
    let body = SdkBody::from_body_1_x(Pieces(pieces.into_iter().collect()));
    let mut frames = Frames::new(body);
    let mut read = Vec::new();
    let all = async {
        while let Some(prelude) = frames.prelude().await? {
            let frame = frames.frame(&prelude).await?;
            assert_eq!(prelude.total_len(), prelude.headers_len() + prelude.payload_len() + LEAST);
            read.push(frame);
        }
        Ok(())
    };
    let fault = RUNTIME.with(|runtime| match runtime {
        Some(runtime) => runtime.block_on(all).err(),
        None => panic!("no runtime"),
    });
    (read, fault)
}

/// Bytes in pieces of these lengths, over and over. Without any length they stay in one piece.
pub fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut left = Bytes::copy_from_slice(bytes);
    let mut pieces = Vec::new();
    if cuts.iter().any(|cut| *cut > 0) {
        for cut in cuts.iter().cycle() {
            if left.is_empty() {
                break;
            }
            pieces.push(left.split_to(left.len().min(*cut)));
        }
    }
    pieces.push(left);
    pieces
}

/// A body that is complete in memory.
struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(http_body::Frame::data).map(Ok))
    }
}

/// Reads the frames again, slowly. Returns the fault behind the last one, if any.
fn split(bytes: &[u8]) -> (Vec<(Kind, &[u8])>, Option<&'static str>) {
    let mut frames = Vec::new();
    let mut left = bytes;
    let end = loop {
        if left.is_empty() {
            break None;
        }
        if left.len() < PRELUDE {
            break Some("Truncated");
        }
        let (total, headers) = (number(&left[..4]) as usize, number(&left[4..8]) as usize);
        let good = crc32fast::hash(&left[..8]) == number(&left[8..12])
            && (LEAST..=64 << 20).contains(&total)
            && headers <= 128 << 10
            && headers + LEAST <= total;
        if !good {
            break Some("BadFrame");
        }
        if left.len() < total {
            break Some("Truncated");
        }
        let (frame, rest) = left.split_at(total);
        let (content, checksum) = frame.split_at(total - 4);
        let (head, payload) = content[PRELUDE..].split_at(headers);
        let Some(headers) = fields(head).filter(|_| crc32fast::hash(content) == number(checksum)) else {
            break Some("BadFrame");
        };
        frames.push((kind(&headers), payload));
        left = rest;
    };
    (frames, end)
}

type Header<'a> = (&'a [u8], u8, &'a [u8]);

/// The headers, with their types and values.
fn fields(mut head: &[u8]) -> Option<Vec<Header<'_>>> {
    let mut headers = Vec::new();
    while !head.is_empty() {
        let name = head.get(1..1 + usize::from(head[0]))?;
        head = &head[1 + name.len()..];
        let (start, len) = match *head.first()? {
            0 | 1 => (1, 0),
            2 => (1, 1),
            3 => (1, 2),
            4 => (1, 4),
            5 | 8 => (1, 8),
            6 | 7 => (3, usize::from(*head.get(1)?) << 8 | usize::from(*head.get(2)?)),
            9 => (1, 16),
            _ => return None,
        };
        headers.push((name, head[0], head.get(start..start + len)?));
        head = &head[start + len..];
    }
    Some(headers)
}

fn kind(headers: &[Header<'_>]) -> Kind {
    // The last header of a name counts, and only if it is a string.
    let find = |name: &str| {
        let found = headers.iter().rev().find(|header| header.0 == name.as_bytes());
        found.filter(|header| header.1 == 7).map(|header| String::from_utf8_lossy(header.2).into_owned())
    };
    let event_type = find(":event-type");
    match find(":message-type").as_deref() {
        Some("event") => match event_type.as_deref() {
            Some("initial-response") => Kind::InitialResponse,
            Some("SubscribeToShardEvent") => Kind::Event,
            other => Kind::Unknown(other.unwrap_or_default().to_owned()),
        },
        Some("exception") => Kind::Exception(find(":exception-type").unwrap_or_default()),
        Some("error") => Kind::Error {
            code: find(":error-code").unwrap_or_default(),
            message: find(":error-message").unwrap_or_default(),
        },
        other => Kind::Unknown(other.unwrap_or_default().to_owned()),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
