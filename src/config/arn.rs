//! What is the full name of a stream?

use std::fmt;
use std::str::FromStr;

use super::streams::{StreamsError, is_id};

/// The ARN of a stream: `arn:aws:kinesis:eu-west-1:111122223333:stream/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StreamArn {
    /// `aws`, `aws-cn`, `aws-us-gov` and the like.
    pub partition: String,
    /// The region, or `*` for that of the session.
    pub region: String,
    /// Twelve digits.
    pub account: String,
    /// The name of the stream.
    pub name: String,
}

impl StreamArn {
    /// `prefix` is what stands before the slash.
    pub(super) fn from_parts(prefix: &str, name: &str) -> Result<Self, StreamsError> {
        let parts: Vec<&str> = prefix.split(':').collect();
        let ["arn", partition, "kinesis", region, account, "stream"] = parts[..] else {
            return Err(StreamsError::Arn);
        };
        let lower =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let well_formed = partition.starts_with("aws")
            && lower(partition)
            && (region == "*" || (!region.is_empty() && lower(region)))
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit());
        match well_formed {
            false => Err(StreamsError::Arn),
            true if !is_id(name) => Err(StreamsError::Name),
            true => Ok(Self {
                partition: partition.to_owned(),
                region: region.to_owned(),
                account: account.to_owned(),
                name: name.to_owned(),
            }),
        }
    }
}

impl FromStr for StreamArn {
    type Err = StreamsError;

    fn from_str(text: &str) -> Result<Self, StreamsError> {
        let (prefix, name) = text.rsplit_once('/').ok_or(StreamsError::Arn)?;
        Self::from_parts(prefix, name)
    }
}

impl fmt::Display for StreamArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, name } = self;
        write!(f, "arn:{partition}:kinesis:{region}:{account}:stream/{name}")
    }
}
