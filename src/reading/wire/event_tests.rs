//! Is an event read as the service means it, however it is cut?

use proptest::prelude::*;

use super::super::pieces::MAX_CUT;
use super::*;
use crate::model::ChildShard;
use crate::records::bytes_needed;

const EVENT: &str = r#" { "MillisBehindLatest" : 1e3, "Unknown": [{"a": [1, "]", null, true]}, -2.5e-3],
        "Records": [
          {"SequenceNumber": "495", "Data": "aGVsbG8=", "PartitionKey": "k\u00fc\ud83d\ude00\"",
           "ApproximateArrivalTimestamp": 1700000000.123, "EncryptionType": "NONE"},
          {"Data": "YWI\/\u0059Q==", "SequenceNumber": "496", "PartitionKey": null, "ApproximateArrivalTimestamp": 1.7E9},
          {"SequenceNumber": "497"}
        ],
        "ContinuationSequenceNumber": "499",
        "ChildShards": [{"HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "1"},
                         "ParentShards": ["shardId-000000000000"], "ShardId": "shardId-000000000001"}] } "#;

#[test]
fn event_is_read_whatever_the_order_and_form_of_its_fields() {
    let event = Event::parse(EVENT.as_bytes()).unwrap();
    let records: Vec<_> = event.rows.iter().collect();
    assert_eq!((records.len(), event.rows.len()), (3, 3));
    assert_eq!((records[0].data_ref(), records[0].sequence()), (&b"hello"[..], "495"));
    assert_eq!(records[0].partition_key(), Some("kü😀\""));
    assert_eq!(records[0].arrival_millis(), Some(1_700_000_000_123));
    assert_eq!(records[1].data_ref(), b"ab?a");
    assert_eq!((records[1].partition_key(), records[1].arrival_millis()), (None, Some(1_700_000_000_000)));
    assert_eq!((records[2].data_ref(), records[2].arrival_millis()), (&b""[..], None));
    assert_eq!(event.continuation.as_ref().map(SequenceNumber::as_str), Some("499"));
    assert_eq!(event.millis_behind, Some(1000));
    assert_eq!(event.children[0].parents, [ShardId::from("shardId-000000000000")]);
}

/// Reads a text in pieces that are no longer than the next of `lens`, which repeat indefinitely.
fn in_pieces(text: &[u8], lens: &[usize]) -> Result<Event, EventError> {
    let mut reader = EventReader::default();
    reader.begin(text.len());
    let mut rest = text;
    for len in lens.iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(*len));
        reader.feed(piece)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    reader.finish()
}

/// The same text with every record in a form that only the general path takes.
fn spaced(text: &str) -> String {
    text.replace("{\"", "{ \"")
}

#[test]
fn event_may_be_cut_anywhere() {
    let whole = Event::parse(EVENT.as_bytes()).unwrap();
    for len in 1..EVENT.len() {
        assert_eq!(in_pieces(EVENT.as_bytes(), &[len]).as_ref(), Ok(&whole), "pieces of {len} bytes");
    }
}

#[test]
fn space_within_data_is_refused_wherever_it_is_cut() {
    let text = br#"{"Records":[{"SequenceNumber":"1","Data":"aGVs bG8="}]}"#;
    for len in 1..text.len() {
        assert!(in_pieces(text, &[len]).is_err(), "pieces of {len} bytes");
    }
}

#[test]
fn event_names_at_most_as_many_shards_as_possible() {
    let children = |count: usize, parents: usize| {
        let child = format!(r#"{{"ShardId":"a","ParentShards":[{}]}}"#, vec![r#""b""#; parents].join(","));
        Event::parse(format!(r#"{{"ChildShards":[{}]}}"#, vec![child; count].join(",")).as_bytes())
    };
    assert_eq!(children(2, 1).unwrap().children.len(), 2);
    assert!(children(1, 1000).is_err() && children(1001, 0).is_err() && children(400, 2).is_err());
}

#[test]
fn last_value_of_a_repeated_field_counts() {
    let text = r#"{
            "Records": [{"SequenceNumber":"7","Data":"eA=="}, {"SequenceNumber":"8"}],
            "Records": [{"SequenceNumber":"1","SequenceNumber":"2","Data":"eHh4","Data":"YQ==","PartitionKey":"k","PartitionKey":null,
                "ApproximateArrivalTimestamp":1,"ApproximateArrivalTimestamp":2}, {"SequenceNumber":"3","Data":"YQ==","Data":null}],
            "ChildShards": [{"ShardId":"x"}],
            "ChildShards": [{"ShardId":"x","ShardId":"a","ParentShards":["x"],"ParentShards":["b"]}],
            "MillisBehindLatest": 1, "MillisBehindLatest": 2,
            "ContinuationSequenceNumber": "1", "ContinuationSequenceNumber": null }"#;
    let event = Event::parse(text.as_bytes()).unwrap();
    let records = event.rows.iter();
    let records = records.map(|one| (one.sequence(), one.data_ref(), one.partition_key(), one.arrival_millis()));
    assert_eq!(records.collect::<Vec<_>>(), [("2", &b"a"[..], None, Some(2000)), ("3", &b""[..], None, None)]);
    assert_eq!(event.children, [ChildShard { id: "a".into(), parents: vec!["b".into()] }]);
    assert_eq!((event.millis_behind, event.continuation), (Some(2), None));
}

#[test]
fn broken_event_leaves_nothing_for_the_next() {
    let text = EVENT.trim_end().as_bytes();
    let whole = Event::parse(text).unwrap();
    for len in 0..text.len() {
        for broken in ["", "*"] {
            let mut reader = EventReader::default();
            reader.begin(text.len());
            // This test does not check whether the error is seen at once.
            let _ = reader.feed(&text[..len]).and_then(|()| reader.feed(broken.as_bytes()));
            reader.begin(text.len());
            reader.feed(text).unwrap();
            assert_eq!(reader.finish().as_ref(), Ok(&whole), "after {len} bytes and {broken:?}");
        }
    }
}

#[test]
fn long_field_may_be_cut_but_not_exceed_the_limits() {
    let event = |len: usize| format!(r#"{{"ChildShards":[{{"ShardId":"{}"}}]}}"#, "s".repeat(len));
    let long = event(3000);
    for len in [100, 500, 2000] {
        assert_eq!(in_pieces(long.as_bytes(), &[len]), Event::parse(long.as_bytes()), "pieces of {len} bytes");
    }
    assert!(in_pieces(event(MAX_CUT + 2000).as_bytes(), &[1000]).is_err());
}

#[test]
fn error_names_its_position_however_the_event_was_cut() {
    for len in 1..8 {
        assert_eq!(in_pieces(br#"{"x":1} y"#, &[len]).unwrap_err().at, 8, "pieces of {len} bytes");
    }
}

#[test]
fn cut_field_is_counted_once() {
    let parents = vec![r#""shardId-000000000001""#; 900].join(",");
    let text = format!(r#"{{"ChildShards":[{{"ShardId":"a","ParentShards":[{parents}]}}]}}"#);
    for len in [1, 7, 100] {
        let event = in_pieces(text.as_bytes(), &[len]).unwrap();
        assert_eq!(event.children[0].parents.len(), 900, "pieces of {len} bytes");
    }
}

#[test]
fn time_before_all_times_is_not_none() {
    let event = Event::parse(br#"{"Records":[{"SequenceNumber":"1","ApproximateArrivalTimestamp":-1e300}]}"#).unwrap();
    assert_eq!(event.rows.last().unwrap().arrival_millis(), Some(i64::MIN + 1));
}

#[test]
fn nothing_may_follow_padding() {
    for data in ["YQ==YQ==", "YQ=", "YQ==\\u0059", "=", "Y==="] {
        let text = format!(r#"{{"Records":[{{"SequenceNumber":"1","Data":"{data}"}}]}}"#);
        for len in 1..text.len() {
            assert!(in_pieces(text.as_bytes(), &[len]).is_err(), "{data} in pieces of {len} bytes");
        }
    }
}

/// Builds an event of records with these sizes in bytes.
fn event_of(sizes: &[usize]) -> String {
    let records: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(at, size)| {
            serde_json::json!({
                "Data": base64_simd::STANDARD.encode_to_string(vec![at as u8; *size]), "PartitionKey": "k".repeat(at % 40),
                "SequenceNumber": (1000 + at).to_string(), "ApproximateArrivalTimestamp": 1.5e9 + at as f64,
            })
        })
        .collect();
    serde_json::json!({"Records": records, "MillisBehindLatest": 7, "ContinuationSequenceNumber": "9"}).to_string()
}

#[test]
fn kept_message_keeps_its_page_and_not_the_event() {
    use crate::records::PAGE;
    let sizes: Vec<_> = (0..5000).map(|_| 300).chain([1 << 20, 10, 10]).chain((0..30_000).map(|_| 0)).collect();
    let pages = Event::parse(event_of(&sizes).as_bytes()).unwrap().rows.into_pages();
    assert!((20..80).contains(&pages.len()), "{}", pages.len());
    for page in &pages {
        let largest = page.iter().map(|record| record.data_ref().len()).max().unwrap();
        assert!(page.kept_bytes() <= largest + PAGE + PAGE / 4, "{}", page.kept_bytes());
        assert!(largest < PAGE || page.len() == 1, "a large record shares its page with {}", page.len());
    }
}

#[test]
fn absent_null_and_empty_are_the_same() {
    for text in [
        "{}",
        "null",
        r#"{"ContinuationSequenceNumber":null,"ChildShards":null,"Records":null}"#,
        r#"{"ContinuationSequenceNumber":"","Records":[],"MillisBehindLatest":null}"#,
    ] {
        let event = Event::parse(text.as_bytes()).unwrap();
        assert_eq!((event.continuation, event.millis_behind, event.children.len()), (None, None, 0), "{text}");
        assert!(event.rows.is_empty());
    }
}

#[test]
fn unreadable_events_are_refused() {
    for text in [
        "",
        "[]",
        "{",
        r#"{"Records":[{}]}"#,
        r#"{"Records":[{"SequenceNumber":"1","Data":"*"}]}"#,
        r#"{"Records":[{"SequenceNumber":"1","Data":"aGVsbG8"}]}"#,
        r#"{"ContinuationSequenceNumber":"\u12"}"#,
        r#"{"ContinuationSequenceNumber":"\ud800"}"#,
        r#"{"x":tru}"#,
        "{} x",
        r#"{"x" 1}"#,
        r#"{"x":1 "y":2}"#,
    ] {
        assert!(Event::parse(text.as_bytes()).is_err(), "{text}");
    }
    let deep = format!("{{\"x\":{}", "[".repeat(100_000));
    assert!(Event::parse(deep.as_bytes()).is_err());
}

#[test]
fn every_shortened_event_is_refused_without_a_panic() {
    let text = EVENT.trim_end().as_bytes();
    for len in 0..text.len() {
        assert!(Event::parse(&text[..len]).is_err(), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Event::parse(&bytes);
    }

    #[test]
    fn no_change_of_a_valid_event_causes_a_panic(at in 0..EVENT.len(), byte in any::<u8>()) {
        let mut bytes = EVENT.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = Event::parse(&bytes);
    }

    #[test]
    fn both_paths_and_all_cuts_read_the_same(
        sizes in proptest::collection::vec(prop_oneof![0_usize..400, 0_usize..100_000], 0..12),
        lens in proptest::collection::vec(prop_oneof![1_usize..20, 1_usize..40_000], 1..6),
    ) {
        let text = event_of(&sizes);
        let whole = Event::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(whole.rows.iter().map(|record| record.data_ref().len()).collect::<Vec<_>>(), sizes);
        prop_assert_eq!(&in_pieces(text.as_bytes(), &lens).unwrap(), &whole);
        let spaced = spaced(&text);
        prop_assert_eq!(&in_pieces(spaced.as_bytes(), &lens).unwrap(), &whole);
        prop_assert_eq!(&Event::parse(spaced.as_bytes()).unwrap(), &whole);
        prop_assert!(whole.rows.kept_bytes() as u64 <= bytes_needed(text.len()));
    }

    #[test]
    fn no_cut_of_a_bad_event_causes_a_panic(at in 0..EVENT.len(), byte in any::<u8>(), len in 1_usize..30) {
        let mut bytes = EVENT.as_bytes().to_vec();
        bytes[at] = byte;
        prop_assert_eq!(in_pieces(&bytes, &[len]).ok(), Event::parse(&bytes).ok());
    }

    #[test]
    fn records_come_out_as_they_went_in(records in proptest::collection::vec((any::<Vec<u8>>(), ".*", 0..4_000_000_000_000_i64), 0..20)) {
        let rows: Vec<_> = records.iter().enumerate().map(|(at, (data, key, millis))| serde_json::json!({
            "Data": base64_simd::STANDARD.encode_to_string(data), "PartitionKey": key, "SequenceNumber": (1000 + at).to_string(),
            "ApproximateArrivalTimestamp": *millis as f64 / 1000.0,
        })).collect();
        let text = serde_json::json!({"Records": rows, "MillisBehindLatest": 7}).to_string();
        let event = Event::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(event.rows.len(), records.len());
        for (at, (record, (data, key, millis))) in event.rows.iter().zip(&records).enumerate() {
            prop_assert_eq!(record.sequence(), (1000 + at).to_string());
            prop_assert_eq!(record.data_ref(), &data[..]);
            prop_assert_eq!(record.data(), &data[..]);
            prop_assert_eq!(record.partition_key(), Some(&key[..]));
            prop_assert_eq!(record.arrival_millis(), Some(*millis));
        }
        prop_assert!(event.rows.kept_bytes() as u64 <= bytes_needed(text.len()));
    }
}
