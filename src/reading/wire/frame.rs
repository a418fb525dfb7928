//! Where does a frame end, is it intact, and what is in it?
//!
//! ```text
//! ┌────────────┬──────────────┬─────────────┬─────────┬─────────┬─────────────┐
//! │ total: u32 │ headers: u32 │ CRC of both │ headers │ payload │ CRC of all  │   big endian
//! └────────────┴──────────────┴─────────────┴─────────┴─────────┴─────────────┘
//! ```

use super::assembly::Event;

/// Bytes of a prelude: enough to know the length of the frame, and whether to trust it.
pub const PRELUDE_LEN: usize = 12;
/// Bytes of the checksum that ends a frame.
pub const CRC_LEN: usize = 4;
/// The longest frame that is accepted. An event holds some 10 MiB of data, half as much again in base64, and some
/// JSON; a longer frame is not from the service.
const MAX_FRAME_LEN: u32 = 64 << 20;
/// The longest headers that are accepted, as the format defines.
const MAX_HEADERS_LEN: u32 = 128 << 10;

/// The error of a frame that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The prelude's checksum doesn't match: the lengths can't be trusted.
    #[error("the checksum of a frame's prelude is {found:#010x}, not {expected:#010x}")]
    PreludeChecksum {
        /// The checksum of the bytes that arrived.
        expected: u32,
        /// The checksum in the frame.
        found: u32,
    },
    /// The checksum of the whole frame doesn't match.
    #[error("the checksum of a frame is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// The checksum of the bytes that arrived.
        expected: u32,
        /// The checksum in the frame.
        found: u32,
    },
    /// The lengths contradict each other or exceed all limits.
    #[error("a frame of {total} bytes with {headers} bytes of headers")]
    Length {
        /// Length of the frame.
        total: u32,
        /// Length of its headers.
        headers: u32,
    },
    /// The headers can't be read.
    #[error("a frame's headers are malformed")]
    Headers,
}

/// The checked start of a frame, which says how much follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prelude {
    total: u32,
    headers: u32,
    bytes: [u8; PRELUDE_LEN],
}

impl Prelude {
    /// Reads a prelude.
    ///
    /// # Errors
    ///
    /// An error is returned when its checksum is wrong or its lengths are impossible.
    pub fn parse(bytes: &[u8; PRELUDE_LEN]) -> Result<Self, FrameError> {
        let [t0, t1, t2, t3, h0, h1, h2, h3, c0, c1, c2, c3] = *bytes;
        let (total, headers) = (u32::from_be_bytes([t0, t1, t2, t3]), u32::from_be_bytes([h0, h1, h2, h3]));
        let found = u32::from_be_bytes([c0, c1, c2, c3]);
        let expected = crc32fast::hash(&bytes[..8]);
        if found != expected {
            return Err(FrameError::PreludeChecksum { expected, found });
        }
        let least = (PRELUDE_LEN + CRC_LEN) as u32;
        if !(least..=MAX_FRAME_LEN).contains(&total) || headers > MAX_HEADERS_LEN || headers > total - least {
            return Err(FrameError::Length { total, headers });
        }
        Ok(Self { total, headers, bytes: *bytes })
    }

    /// The length of the whole frame in bytes.
    pub fn total_len(&self) -> usize {
        self.total as usize
    }

    /// The length of its headers in bytes; they follow the prelude.
    pub fn headers_len(&self) -> usize {
        self.headers as usize
    }

    /// The length of its payload in bytes; it follows the headers.
    pub fn payload_len(&self) -> usize {
        // `parse` has checked that the frame is not shorter than its parts.
        self.total as usize - PRELUDE_LEN - self.headers as usize - CRC_LEN
    }

    /// The checksum of the frame, of the bytes that have arrived.
    pub fn checksum(&self) -> Checksum {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&self.bytes);
        Checksum(sum)
    }
}

/// The checksum of a frame, updated as its bytes arrive.
#[derive(Debug, Clone)]
pub struct Checksum(crc32fast::Hasher);

impl Checksum {
    /// Adds the next bytes of the headers or the payload.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Compares the result with the checksum that ends the frame.
    ///
    /// # Errors
    ///
    /// An error is returned when they differ.
    pub fn verify(self, found: [u8; CRC_LEN]) -> Result<(), FrameError> {
        let (expected, found) = (self.0.finalize(), u32::from_be_bytes(found));
        if expected == found { Ok(()) } else { Err(FrameError::Checksum { expected, found }) }
    }
}

/// One intact frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The first frame of every subscription; it carries no information.
    InitialResponse,
    /// A `SubscribeToShardEvent`.
    Event(Event),
    /// An exception of the service model.
    Exception {
        /// The name of the exception.
        code: String,
        /// JSON with its message.
        payload: Vec<u8>,
    },
    /// An error outside the model.
    Error {
        /// `:error-code`.
        code: String,
        /// `:error-message`.
        message: String,
    },
    /// A frame of a kind that this version does not know.
    Unknown(String),
}

/// The kind of a frame, as its headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The first frame of every subscription.
    InitialResponse,
    /// A `SubscribeToShardEvent`.
    Event,
    /// An exception of the service model, by name; the payload holds its message.
    Exception(String),
    /// An error outside the model.
    Error {
        /// `:error-code`.
        code: String,
        /// `:error-message`.
        message: String,
    },
    /// A frame of a kind that this version does not know.
    Unknown(String),
}

impl Kind {
    /// Reads the kind from the headers.
    ///
    /// # Errors
    ///
    /// An error is returned when the headers can't be read.
    pub fn read(headers: &[u8]) -> Result<Self, FrameError> {
        kind(headers)
    }
}

fn kind(headers: &[u8]) -> Result<Kind, FrameError> {
    let (mut message_type, mut event_type, mut exception_type) = (None, None, None);
    let (mut error_code, mut error_message) = (None, None);
    let mut left = headers;
    while let [name_len, rest @ ..] = left {
        let (name, rest) = rest.split_at_checked(usize::from(*name_len)).ok_or(FrameError::Headers)?;
        let (value, rest) = header_value(rest)?;
        left = rest;
        let slot = match name {
            b":message-type" => &mut message_type,
            b":event-type" => &mut event_type,
            b":exception-type" => &mut exception_type,
            b":error-code" => &mut error_code,
            b":error-message" => &mut error_message,
            _ => continue,
        };
        *slot = value;
    }
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    Ok(match (message_type, event_type) {
        (Some(b"event"), Some(b"initial-response")) => Kind::InitialResponse,
        (Some(b"event"), Some(b"SubscribeToShardEvent")) => Kind::Event,
        (Some(b"exception"), _) => Kind::Exception(text(exception_type)),
        (Some(b"error"), _) => Kind::Error { code: text(error_code), message: text(error_message) },
        (Some(b"event"), other) | (other, _) => Kind::Unknown(text(other)),
    })
}

/// Reads the value of a header, if it is a string, and returns what follows it.
fn header_value(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), FrameError> {
    const STRING: u8 = 7;
    let (value_type, rest) = bytes.split_first().ok_or(FrameError::Headers)?;
    let (len, rest) = match value_type {
        0 | 1 => (0, rest),
        2 => (1, rest),
        3 => (2, rest),
        4 => (4, rest),
        5 | 8 => (8, rest),
        6 | &STRING => {
            let ([high, low], rest) = rest.split_first_chunk::<2>().ok_or(FrameError::Headers)?;
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        9 => (16, rest),
        _ => return Err(FrameError::Headers),
    };
    let (value, rest) = rest.split_at_checked(len).ok_or(FrameError::Headers)?;
    Ok(((*value_type == STRING).then_some(value), rest))
}

/// A writer of frames, for tests.
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use kinesis_testkit::frame;

    use super::*;

    /// Reads a whole frame; returns its kind and its payload.
    fn read(bytes: &[u8]) -> Result<(Kind, &[u8]), FrameError> {
        let (prelude, rest) = bytes.split_first_chunk::<PRELUDE_LEN>().unwrap();
        let prelude = Prelude::parse(prelude)?;
        let (content, crc) = rest.split_last_chunk::<CRC_LEN>().unwrap();
        assert_eq!(content.len(), prelude.headers_len() + prelude.payload_len());
        assert_eq!(bytes.len(), prelude.total_len());
        let mut checksum = prelude.checksum();
        content.chunks(3).for_each(|some| checksum.update(some));
        checksum.verify(*crc)?;
        let (headers, payload) = content.split_at(prelude.headers_len());
        Ok((Kind::read(headers)?, payload))
    }

    #[test]
    fn each_kind_of_frame_is_recognized_by_its_headers() {
        let initial = frame::frame(&[(":message-type", "event"), (":event-type", "initial-response")], b"");
        assert_eq!(read(&initial).unwrap().0, Kind::InitialResponse);
        assert_eq!(read(&frame::event("{}")), Ok((Kind::Event, &b"{}"[..])));
        let exception =
            frame::frame(&[(":message-type", "exception"), (":exception-type", "ResourceInUseException")], b"{}");
        assert_eq!(read(&exception).unwrap().0, Kind::Exception("ResourceInUseException".into()));
        let error =
            frame::frame(&[(":message-type", "error"), (":error-code", "InternalError"), (":error-message", "x")], b"");
        assert_eq!(read(&error).unwrap().0, Kind::Error { code: "InternalError".into(), message: "x".into() });
        let unknown = frame::frame(&[(":message-type", "event"), (":event-type", "Tomorrow")], b"");
        assert_eq!(read(&unknown).unwrap().0, Kind::Unknown("Tomorrow".into()));
    }

    #[test]
    fn headers_of_every_type_are_skipped() {
        let mut head = Vec::new();
        for (value_type, len) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (8, 8), (9, 16)] {
            head.extend([1, b'x', value_type]);
            head.extend(std::iter::repeat_n(0, len));
        }
        head.extend([1, b'y', 6, 0, 2, 1, 2]);
        head.extend(b"\x0d:message-type\x07\x00\x05event\x0b:event-type\x07\x00\x10initial-response");
        assert_eq!(kind(&head), Ok(Kind::InitialResponse));
        assert_eq!(kind(&[1, b'x', 10]), Err(FrameError::Headers));
        assert_eq!(kind(&[5, b'x']), Err(FrameError::Headers));
    }

    #[test]
    fn bad_crc() {
        let good = frame::event("{}");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(read(&bad).is_err(), "a changed byte {at} went unseen");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let prelude = |total: u32, headers: u32| {
            let mut bytes = [0; PRELUDE_LEN];
            bytes[..4].copy_from_slice(&total.to_be_bytes());
            bytes[4..8].copy_from_slice(&headers.to_be_bytes());
            let crc = crc32fast::hash(&bytes[..8]);
            bytes[8..].copy_from_slice(&crc.to_be_bytes());
            Prelude::parse(&bytes)
        };
        for (total, headers) in [(16, 0), (17, 1), (1 << 20, 1 << 17), (64 << 20, 0)] {
            assert!(prelude(total, headers).is_ok(), "{total} {headers}");
        }
        for (total, headers) in [((64 << 20) + 1, 0), (0, 0), (15, 0), (16, 1), (u32::MAX, 0), (1 << 20, (1 << 17) + 1)]
        {
            assert_eq!(prelude(total, headers), Err(FrameError::Length { total, headers }));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), PRELUDE_LEN..200)) {
            if let Some(prelude) = bytes.first_chunk() {
                let _ = Prelude::parse(prelude);
            }
            let _ = kind(&bytes);
        }
    }
}
