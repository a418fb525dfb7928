//! What do sequence numbers, shard ids and hash keys look like?

use std::fmt;

use crate::time::Time;

/// A sequence number: 56 digits that rise within a shard, and from a parent to its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    time: u64,
    serial: u64,
    shard: u32,
}

/// The first digits of every number.
const HEAD: &str = "4965";

impl Number {
    /// The number of the event with this serial in a stream.
    pub(super) fn new(time: Time, serial: u64, shard: u32) -> Self {
        Self { time: time.millis(), serial, shard }
    }

    /// Parses a number. Returns `None` for one that was not made here.
    pub fn parse(text: &str) -> Option<Self> {
        let digits =
            text.strip_prefix(HEAD).filter(|rest| rest.len() == 52 && rest.bytes().all(|b| b.is_ascii_digit()))?;
        Some(Self {
            time: digits[..13].parse().ok()?,
            serial: digits[13..40].parse().ok()?,
            shard: digits[40..].parse().ok()?,
        })
    }

    /// The time at which the number was given.
    pub fn time(self) -> Time {
        Time::from_millis(self.time)
    }

    /// The shard in which the number was given.
    pub fn shard(self) -> u32 {
        self.shard
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HEAD}{:013}{:027}{:012}", self.time, self.serial, self.shard)
    }
}

/// The id of a shard, as the service spells it.
pub fn shard_id(shard: u32) -> String {
    format!("shardId-{shard:012}")
}

/// The number of a shard by its id. The bare number is accepted too, as the service does.
pub fn parse_shard_id(id: &str) -> Option<u32> {
    id.strip_prefix("shardId-").unwrap_or(id).parse().ok()
}

/// The hash of a partition key.
pub(super) fn hash_of(key: &str) -> u128 {
    use md5::Digest as _;
    u128::from_be_bytes(md5::Md5::digest(key.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written_and_rise_as_text() {
        let one = Number::new(Time::from_millis(1_700_000_000_000), 9, 3);
        let two = Number::new(Time::from_millis(1_700_000_000_000), 10, 3);
        assert_eq!(Number::parse(&one.to_string()), Some(one));
        assert_eq!(one.to_string().len(), 56);
        assert!(one < two && one.to_string() < two.to_string());
        for other in ["", "4965", "1", &one.to_string().replace('9', "x")] {
            assert_eq!(Number::parse(other), None, "{other}");
        }
    }

    #[test]
    fn key_is_placed_by_its_md5() {
        assert_eq!(format!("{:x}", hash_of("key")), "3c6e0b8a9c15224a8228b9a98ca1531d");
    }
}
