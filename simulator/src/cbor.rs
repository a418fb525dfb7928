//! How do Amazon's Java clients write their calls?
//!
//! They use CBOR (`application/x-amz-cbor-1.1`) instead of JSON: data as bytes instead of base64, points in time as
//! tagged milliseconds.

use base64_simd::STANDARD;
use ciborium::Value as Cbor;
use serde_json::{Map, Number, Value};

use crate::kinesis::ServiceError;

/// The content type of a call in CBOR.
pub(crate) const CONTENT_TYPE: &str = "application/x-amz-cbor-1.1";

/// The tag of a point in time.
const TIME: u64 = 1;

/// Reads a call, and returns it as if it had come as JSON.
pub(crate) fn read(body: &[u8]) -> Result<Value, ServiceError> {
    if body.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let value: Cbor = ciborium::from_reader(body).map_err(|error| bad(&error.to_string()))?;
    to_json(value)
}

fn bad(what: &str) -> ServiceError {
    ServiceError::new("SerializationException", what)
}

fn to_json(value: Cbor) -> Result<Value, ServiceError> {
    Ok(match value {
        Cbor::Text(text) => Value::String(text),
        Cbor::Bytes(bytes) => Value::String(STANDARD.encode_to_string(bytes)),
        Cbor::Bool(is) => Value::Bool(is),
        Cbor::Float(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        Cbor::Integer(number) => i64::try_from(number).map_err(|_| bad("a number is too large"))?.into(),
        Cbor::Tag(TIME, time) => {
            let millis = to_json(*time)?.as_f64().ok_or_else(|| bad("a time is no number"))?;
            Number::from_f64(millis / 1000.0).map_or(Value::Null, Value::Number)
        }
        Cbor::Tag(_, value) => to_json(*value)?,
        Cbor::Array(values) => values.into_iter().map(to_json).collect::<Result<Vec<_>, _>>()?.into(),
        Cbor::Map(pairs) => {
            let pair = |(key, value): (Cbor, Cbor)| {
                let key = key.into_text().map_err(|_| bad("a key is no text"))?;
                Ok((key, to_json(value)?))
            };
            Value::Object(pairs.into_iter().map(pair).collect::<Result<Map<_, _>, ServiceError>>()?)
        }
        _ => Value::Null,
    })
}

/// Writes an answer.
pub(crate) fn write(answer: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = ciborium::into_writer(&from_json("", answer), &mut out);
    out
}

/// Converts a value. Its name says which form the value has.
fn from_json(name: &str, value: &Value) -> Cbor {
    match value {
        Value::Null => Cbor::Null,
        Value::Bool(is) => Cbor::Bool(*is),
        Value::Number(number) if name.ends_with("Timestamp") => {
            let millis = (number.as_f64().unwrap_or_default() * 1000.0).round() as i64;
            Cbor::Tag(TIME, Box::new(Cbor::Integer(millis.into())))
        }
        Value::Number(number) => match number.as_i64() {
            Some(number) => Cbor::Integer(number.into()),
            None => Cbor::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) if name == "Data" => match STANDARD.decode_to_vec(text) {
            Ok(bytes) => Cbor::Bytes(bytes),
            Err(_) => Cbor::Text(text.clone()),
        },
        Value::String(text) => Cbor::Text(text.clone()),
        Value::Array(values) => Cbor::Array(values.iter().map(|value| from_json(name, value)).collect()),
        Value::Object(fields) => {
            Cbor::Map(fields.iter().map(|(name, value)| (Cbor::Text(name.clone()), from_json(name, value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn written_value_is_read_back() {
        let said = json!({
            "Records": [{ "Data": "YWJj", "ApproximateArrivalTimestamp": 1_700_000_000.123, "PartitionKey": "k" }],
            "MillisBehindLatest": 7, "HasMoreShards": false,
        });
        assert_eq!(read(&write(&said)).unwrap(), said);
        assert_eq!(read(b"").unwrap(), json!({}));
        assert_eq!(read(&[0xff]).unwrap_err().code, "SerializationException");
    }
}
