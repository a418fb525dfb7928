//! What does a request contain?

use base64_simd::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::ServiceError;
use super::number::{Number, parse_shard_id};
use super::shard::Position;
use crate::time::Time;

/// The input of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a>(pub(super) &'a Value);

impl<'a> Request<'a> {
    pub(super) fn text(self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    pub(super) fn required(self, name: &str) -> Result<&'a str, ServiceError> {
        self.text(name).ok_or_else(|| ServiceError::missing(name))
    }

    pub(super) fn number(self, name: &str) -> Option<u64> {
        let value = self.0.get(name)?;
        value.as_u64().or_else(|| value.as_f64().map(|number| number as u64))
    }

    pub(super) fn object(self, name: &str) -> Option<Request<'a>> {
        self.0.get(name).filter(|value| value.is_object()).map(Request)
    }

    pub(super) fn list(self, name: &str) -> Option<&'a [Value]> {
        self.0.get(name).and_then(Value::as_array).map(Vec::as_slice)
    }

    pub(super) fn data(self, name: &str) -> Result<Bytes, ServiceError> {
        let text = self.0.get(name).and_then(Value::as_str).ok_or_else(|| ServiceError::missing(name))?;
        let decoded =
            STANDARD.decode_to_vec(text).map_err(|_| ServiceError::new("SerializationException", "no base64"))?;
        Ok(decoded.into())
    }

    /// The name of the stream that the request refers to by name, by its ARN or by the ARN of a consumer.
    pub(super) fn stream(self) -> Result<&'a str, ServiceError> {
        if let Some(arn) = self.text("StreamARN") {
            let name = arn.split_once(":stream/").map(|(_, name)| name);
            let name = name.ok_or_else(|| ServiceError::validation(format!("{arn} is no ARN of a stream.")))?;
            return match self.text("StreamName") {
                Some(other) if other != name => {
                    Err(ServiceError::invalid("StreamARN and StreamName are of different streams."))
                }
                _ => Ok(name),
            };
        }
        self.text("StreamName").ok_or_else(|| ServiceError::invalid("Either StreamName or StreamARN must be given."))
    }

    pub(super) fn shard(self, name: &str) -> Result<u32, ServiceError> {
        let id = self.required(name)?;
        parse_shard_id(id).ok_or_else(|| ServiceError::not_found(format!("Shard {id} not found.")))
    }

    pub(super) fn hash_key(self, name: &str) -> Result<Option<u128>, ServiceError> {
        let bad = || ServiceError::invalid(format!("{name} is no hash key."));
        self.text(name).map(|text| text.parse().map_err(|_| bad())).transpose()
    }

    /// A point in time: seconds since 1970.
    pub(super) fn time(self, name: &str) -> Option<Time> {
        let seconds = self.0.get(name).and_then(Value::as_f64)?;
        Some(Time::from_millis((seconds * 1000.0).round() as u64))
    }

    /// The position to read from: `kind` and `number` are the names of the fields.
    pub(super) fn position(self, kind: &str, number: &str) -> Result<Position, ServiceError> {
        let at = || {
            let text = self.text(number).ok_or_else(|| ServiceError::invalid(format!("{number} is missing.")))?;
            Number::parse(text).ok_or_else(|| ServiceError::invalid(format!("{number} {text} is invalid.")))
        };
        match self.required(kind)? {
            "TRIM_HORIZON" => Ok(Position::Oldest),
            "LATEST" => Ok(Position::Since(Time::from_millis(u64::MAX))),
            "AT_SEQUENCE_NUMBER" => Ok(Position::At(at()?)),
            "AFTER_SEQUENCE_NUMBER" => Ok(Position::After(at()?)),
            "AT_TIMESTAMP" => {
                let time = self.time("Timestamp").ok_or_else(|| ServiceError::invalid("Timestamp is missing."))?;
                Ok(Position::Since(time))
            }
            other => Err(ServiceError::validation(format!("{other} is no kind of a position."))),
        }
    }
}
