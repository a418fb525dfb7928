//! Are aggregates read as the KPL writes them, and is everything else left as it is?

use std::fmt::Write;

use kinesis_testkit::aggregate::{field, sealed};
use proptest::prelude::*;
use serde_json::Value as Json;

use super::kpl::{Kind, read};
use super::page::{Filling, Rows};
use super::{Found, deaggregate};
use crate::model::HashRange;

const VECTORS: &str = include_str!("fixtures/kpl_vectors.json");

fn rows(records: &[&[u8]]) -> Rows {
    let mut filling = Filling::default();
    filling.expect(10 << 20);
    for (at, data) in records.iter().enumerate() {
        filling.begin().unwrap();
        filling.data(data.len()).unwrap().extend_from_slice(data);
        filling.end((100 + at).to_string().as_bytes(), Some(b"outer"), Some(7)).unwrap();
    }
    filling.finish().unwrap()
}

fn hex(data: &[u8]) -> String {
    let mut hex = String::new();
    for byte in data {
        write!(hex, "{byte:02x}").unwrap();
    }
    hex
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn user_record(key: u8, data: &[u8]) -> Vec<u8> {
    field(3, &[&[0x08, key][..], &field(3, data)].concat())
}

/// The user records of one record, in the form of the vectors, beside their source.
fn delivered(rows: &Rows, drops: bool) -> Vec<Json> {
    let records = rows.iter().filter(|record| !(drops && record.is_outside()));
    let each = records.map(|record| {
        assert_eq!((record.sequence(), record.arrival_millis()), ("100", Some(7)));
        let data = hex(&record.data());
        let mut json = serde_json::json!({ "pk": record.partition_key(), "data_hex": data });
        if let Some(sub) = record.sub_sequence_number() {
            json["sub"] = sub.into();
        }
        if let Some(hash_key) = record.explicit_hash_key() {
            json["ehk"] = hash_key.into();
        }
        json
    });
    each.collect()
}

#[test]
fn vectors_come_out_as_they_say() {
    let vectors: serde_json::Map<String, Json> = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.len() >= 33);
    for (name, vector) in &vectors {
        let data = bytes(vector["hex"].as_str().unwrap());
        let range = vector
            .get("range")
            .and_then(|range| HashRange::new(range[0].as_str().unwrap(), range[1].as_str().unwrap()));
        let mut rows = rows(&[&data]);
        deaggregate(&mut rows, range);
        let (all, kept) = (delivered(&rows, false), delivered(&rows, true));
        let want = match &vector["want"] {
            Json::String(_) => {
                let hex = vector["hex"].as_str().unwrap();
                vec![serde_json::json!({ "pk": "outer", "data_hex": hex })]
            }
            Json::Object(many) => {
                let each = |sub: u64| {
                    let mut record = many["each"].clone();
                    record["sub"] = sub.into();
                    record
                };
                (0..many["count"].as_u64().unwrap()).map(each).collect()
            }
            list => list.as_array().unwrap().clone(),
        };
        assert_eq!(all, want, "{name}");
        assert_eq!(rows.len(), want.len(), "{name}");
        let kept_wanted = vector.get("want_drop").map_or(want, |want| want.as_array().unwrap().clone());
        assert_eq!(kept, kept_wanted, "{name} with drop");
    }
}

#[test]
fn aggregates_between_plain_records_stand_in_their_place() {
    let three = sealed(&[field(1, b"k"), user_record(0, b"a"), user_record(0, b"b"), user_record(0, b"c")].concat());
    let none = sealed(&field(1, b"k"));
    let broken = sealed(&[field(1, b"k"), user_record(1, b"a")].concat());
    let mut rows = rows(&[&none, b"x", &three, &none, b"y", &broken, &three, &none]);
    let found = deaggregate(&mut rows, None);
    let reason = Some("an index lies outside its table");
    assert_eq!(found, Found { aggregates: 5, malformed: 1, reason });
    let all: Vec<_> = rows.iter().map(|record| (record.sequence(), record.sub_sequence_number())).collect();
    let part = |number, sub| (number, Some(sub));
    let expected = [
        ("101", None),
        part("102", 0),
        part("102", 1),
        part("102", 2),
        ("104", None),
        ("105", None),
        part("106", 0),
        part("106", 1),
        part("106", 2),
    ];
    assert_eq!(all, expected);
    assert_eq!(rows.len(), expected.len());
    assert_eq!(rows.last().map(|last| (last.sequence(), last.sub_sequence_number())), Some(part("106", 2)));
    let last: Vec<bool> = rows.iter().map(|record| record.is_last_of_its_number()).collect();
    assert_eq!(last, [true, false, false, true, true, true, false, false, true]);
}

/// A million tiny fields must not take more memory than the space reserved for the frame.
#[test]
fn memory_of_an_aggregate_is_at_most_half_of_its_size() {
    let tiny = user_record(0, b"");
    let many = |field: &[u8], count: usize| field.repeat(count);
    let dense = sealed(&[field(1, b""), many(&tiny, 20_000)].concat());
    let keys = sealed(&[many(&field(1, b""), 50_000), tiny.clone()].concat());
    let scattered = sealed(&[many(&[field(1, b""), tiny.clone()].concat(), 20_000)].concat());
    let not_text = sealed(&[many(&field(1, b"\xFF"), 10_000), tiny].concat());
    for (data, is_aggregate) in [(dense, true), (keys, true), (scattered, false), (not_text, false)] {
        match read(&data, HashRange::new("0", "1")) {
            Kind::Aggregate(aggregate) => {
                assert!(is_aggregate);
                assert!(aggregate.kept_bytes() <= data.len() * 5 / 8, "{} of {}", aggregate.kept_bytes(), data.len());
                let last = aggregate.record(&data, aggregate.len() - 1).unwrap();
                assert_eq!(aggregate.partition_key(&data, &last), Some(""));
                assert!(aggregate.record(&data, aggregate.len()).is_none());
            }
            Kind::Malformed(_) => assert!(!is_aggregate),
            Kind::Plain => panic!("not read"),
        }
    }
}

proptest! {
    /// Whatever a checksum that fits stands behind, nothing is read beyond it, and every user record can be reached.
    #[test]
    fn any_bytes_are_read_without_a_panic(body in proptest::collection::vec(any::<u8>(), 1..200),
                                          aggregates in proptest::collection::vec((0_u8..4, 0_u8..3), 0..20)) {
        let mut built = Vec::new();
        for (number, index) in aggregates {
            built.extend(if number == 3 { user_record(index, b"data") } else { field(number.max(1), b"0") });
        }
        for body in [body, built] {
            let data = sealed(&body);
            let mut rows = rows(&[&data, b"plain", &data[..data.len() - 1]]);
            deaggregate(&mut rows, HashRange::new("0", "99"));
            let all: Vec<_> = rows.iter().collect();
            prop_assert_eq!(all.len(), rows.len());
            for record in all {
                prop_assert!(record.data().len() <= data.len());
                prop_assert!(record.partition_key().is_some());
            }
        }
    }
}
