//! What becomes of each row, and when does nothing?

use super::super::row::rows::{kcl_2, kcl_3, kcl_3_5, lease, other, several, with};
use super::super::row::{COUNTER, Item, read};
use super::super::{export, row};
use super::*;
use crate::lease::Hold;
use crate::model::HashRange;
use aws_sdk_dynamodb::types::AttributeValue;

const NOW: i64 = 1_790_000_000_000;
const CREATED: i64 = 1_700_000_000_123;
const KEY: &str = "111122223333:orders:1700000000";

fn stream() -> Stream {
    Stream::new("orders", "arn:aws:kinesis:eu-west-1:111122223333:stream/orders").created_at(Some(CREATED))
}

fn shard(id: &str, parents: &[&str], closed: bool) -> ListedShard {
    let parents = parents.iter().map(|parent| (*parent).into()).collect();
    ListedShard { id: id.into(), parents, closed, begin: Some(number("100")), hash_range: None }
}

fn number(text: &str) -> SequenceNumber {
    SequenceNumber::new(text).unwrap()
}

fn after(text: &str) -> Target {
    Target::Checkpoint(Checkpoint::After(number(text)))
}

fn within(text: &str, sub: u32) -> Target {
    Target::Checkpoint(Checkpoint::Within(Within { after: None, record: number(text), sub }))
}

fn ended() -> Target {
    Target::Checkpoint(Checkpoint::ShardEnd(None))
}

/// What is known, to be changed by a test.
struct Case {
    listing: Vec<ListedShard>,
    leases: Vec<KclLease>,
    ours: Vec<Row>,
    records: BTreeMap<ShardId, RecordAt>,
    timestamp: Option<i64>,
    overwrite: bool,
}

impl Case {
    fn new(listing: &[ListedShard], items: &[Item]) -> Self {
        let leases = items.iter().map(lease).collect();
        let (ours, records) = (Vec::new(), BTreeMap::new());
        Self { listing: listing.to_vec(), leases, ours, records, timestamp: None, overwrite: false }
    }

    /// One open shard with this position, and this at its record.
    fn one(checkpoint: &str, sub: u64, record: RecordAt) -> Self {
        let mut case = Self::new(&[shard("a", &[], false)], &[kcl_3("a", checkpoint, sub)]);
        case.records.insert("a".into(), record);
        case
    }

    fn ours(mut self, row: Row) -> Self {
        self.ours.push(row);
        self
    }

    fn plan(&self) -> Planned<Write> {
        import(&Known {
            stream: &stream(),
            listing: &self.listing,
            leases: &self.leases,
            ours: &self.ours,
            records: &self.records,
            now: NOW,
            timestamp: self.timestamp,
            overwrite: self.overwrite,
        })
    }

    /// What is written, by shard.
    fn written(&self) -> BTreeMap<String, Target> {
        let planned = self.plan();
        assert_eq!(planned.refusals, [""; 0]);
        planned.writes.into_iter().map(|write| (write.shard.to_string(), write.target)).collect()
    }

    fn refused(&self) -> String {
        let planned = self.plan();
        assert!(planned.writes.is_empty() && !planned.refusals.is_empty(), "{planned:?}");
        planned.refusals.join("\n")
    }
}

#[test]
fn position_of_the_kcl_becomes_one_that_resumes_behind_what_it_processed() {
    let becomes = [
        (0, RecordAt::Plain, after("500")),
        (7, RecordAt::Plain, after("500")),
        (0, RecordAt::Aggregate(3), within("500", 0)),
        (1, RecordAt::Aggregate(3), within("500", 1)),
        (2, RecordAt::Aggregate(3), after("500")),
        (9, RecordAt::Aggregate(3), after("500")),
        (0, RecordAt::Aggregate(1), after("500")),
        (0, RecordAt::Aggregate(0), after("500")),
        (i64::MAX as u64, RecordAt::Aggregate(3), after("500")),
        (0, RecordAt::Gone, after("500")),
        // Where it can't be known, the record is read again.
        (1, RecordAt::Malformed, within("500", 1)),
        (0, RecordAt::Unknown, within("500", 0)),
        (i64::MAX as u64, RecordAt::Unknown, within("500", u32::MAX)),
    ];
    for (sub, record, target) in becomes {
        let case = Case::one("500", sub, record);
        assert_eq!(case.written()["a"], target, "{sub} {record:?}");
    }
}

#[test]
fn position_older_than_retention_is_taken_and_said() {
    let case = Case::one("500", 3, RecordAt::Gone);
    assert_eq!(case.written()["a"], after("500"));
    let line = &case.plan().lines[0];
    assert_eq!(line.action, Action::Write);
    assert_eq!(line.why, "the record is past retention: reading begins with the oldest record behind it");
}

#[test]
fn rows_of_every_version_become_the_same() {
    for item in [kcl_2("a", "500", 0), kcl_3("a", "500", 0), kcl_3_5("a", "500", 0), several(KEY, "a", "500", 0)] {
        let (leases, remarks) = of_stream(&[read(&item)], &stream()).unwrap();
        assert!(remarks.is_empty());
        let mut case = Case::one("500", 0, RecordAt::Plain);
        case.leases = leases;
        assert_eq!(case.written()["a"], after("500"));
    }
}

#[test]
fn words_of_the_kcl_say_where_a_shard_begins() {
    let written = |word: &str| Case::one(word, 0, RecordAt::Unknown).written();
    assert_eq!(written("TRIM_HORIZON")["a"], Target::Begins(StartPosition::Oldest));
    assert_eq!(written("LATEST")["a"], Target::Begins(StartPosition::At(NOW)));
    let mut case = Case::one("AT_TIMESTAMP", 0, RecordAt::Unknown);
    assert!(case.refused().contains("--timestamp"));
    case.timestamp = Some(42);
    assert_eq!(case.written()["a"], Target::Begins(StartPosition::At(42)));
    let closed = Case::new(&[shard("a", &[], true)], &[kcl_2("a", "SHARD_END", 0)]);
    assert_eq!(closed.written()["a"], ended());
}

#[test]
fn shards_without_a_row_have_ended_or_not_begun() {
    // a was split into b and c; b was split into d and e; f and its parent are unknown to the KCL.
    let listing = [
        shard("a", &[], true),
        shard("b", &["a"], true),
        shard("c", &["a"], false),
        shard("d", &["b"], false),
        shard("e", &["b"], false),
        shard("f", &["z"], false),
    ];
    let case = Case::new(&listing, &[kcl_2("b", "SHARD_END", 0), kcl_2("c", "TRIM_HORIZON", 0), kcl_2("d", "500", 0)]);
    let mut case = case;
    case.records.insert("d".into(), RecordAt::Plain);
    let written = case.written();
    assert_eq!((&written["a"], &written["b"]), (&ended(), &ended()));
    assert_eq!(written["c"], Target::Begins(StartPosition::Oldest));
    assert_eq!(written["d"], after("500"));
    assert_eq!(written["e"], Target::Begins(StartPosition::Oldest));
    assert!(!written.contains_key("f"));
    let line = case.plan().lines.into_iter().find(|line| line.shard == "f").unwrap();
    assert!(line.action == Action::Skip && line.why.contains("configuration"), "{line:?}");
}

#[test]
fn parent_that_the_listing_lacks_still_makes_its_child_begin_at_the_oldest() {
    let case = Case::new(
        &[shard("b", &["a"], false), shard("x", &[], false)],
        &[kcl_2("a", "SHARD_END", 0), kcl_2("x", "TRIM_HORIZON", 0)],
    );
    assert_eq!(case.written()["b"], Target::Begins(StartPosition::Oldest));
    assert_eq!(case.plan().lines[0].action, Action::Skip);
}

#[test]
fn positions_of_another_stream_are_refused() {
    let range = |start: &str, end: &str| HashRange::new(start, end);
    let mut other_keys = Case::one("500", 0, RecordAt::Plain);
    other_keys.listing[0].hash_range = range("0", "9");
    let refusals = [
        (Case::one("99", 0, RecordAt::Plain), "before the start of the shard"),
        (Case::one("500", 0, RecordAt::Foreign), "knows no such position"),
        (Case::one("SHARD_END", 0, RecordAt::Unknown), "it is open"),
        (other_keys, "other hash keys"),
        (Case::new(&[shard("b", &[], false)], &[kcl_2("a", "500", 0)]), "none of the shards"),
    ];
    for (case, part) in refusals {
        let why = case.refused();
        assert!(why.contains(part) && why.contains("created again"), "{why}");
    }
}

#[test]
fn one_refusal_keeps_everything_from_being_written() {
    let listing = [shard("a", &[], false), shard("b", &[], false)];
    let mut case = Case::new(&listing, &[kcl_2("a", "500", 0), kcl_2("b", "AT_TIMESTAMP", 0)]);
    case.records.insert("a".into(), RecordAt::Plain);
    assert!(case.refused().starts_with("b: "));
}

#[test]
fn table_that_is_read_already_is_refused() {
    let hold = Hold { worker: "w".into(), epoch: Some(1), stamp: "t".into() };
    let held = Row { hold: Some(hold), ..Row::new("a", None) };
    for overwrite in [false, true] {
        let mut case = Case::one("500", 0, RecordAt::Plain).ours(held.clone());
        case.overwrite = overwrite;
        assert!(case.refused().contains("read already, by w"));
    }
    let unreadable = Row { unreadable: Some("odd".into()), ..Row::new("a", None) };
    assert!(Case::one("500", 0, RecordAt::Plain).ours(unreadable).refused().contains("odd"));
    let former = Row { created: Some(CREATED - 1), ..Row::new("a", None) };
    assert!(Case::one("500", 0, RecordAt::Plain).ours(former).refused().contains("another stream"));
}

#[test]
fn rows_of_ours_stay_unless_they_are_to_be_replaced_and_are_not_further() {
    let row = |checkpoint: Checkpoint| Row::new("a", Some(checkpoint));
    let at = |text: &str| Checkpoint::After(number(text));
    // (ours, written without and with `overwrite`)
    let cases = [
        (at("400"), false, true),
        (at("500"), false, false),
        (at("501"), false, false),
        (Checkpoint::Within(Within { after: None, record: number("500"), sub: 3 }), false, true),
        (Checkpoint::Within(Within { after: None, record: number("501"), sub: 0 }), false, false),
        (Checkpoint::ShardEnd(None), false, false),
    ];
    for (ours, without, with) in cases {
        for (overwrite, expected) in [(false, without), (true, with)] {
            let mut case = Case::one("500", 0, RecordAt::Plain).ours(row(ours.clone()));
            case.overwrite = overwrite;
            let planned = case.plan();
            assert_eq!(!planned.writes.is_empty(), expected, "{ours:?} {overwrite}");
            assert!(planned.refusals.is_empty());
        }
    }
    // A shard that began here is never begun anew.
    let mut begun = Case::one("TRIM_HORIZON", 0, RecordAt::Unknown).ours(row(at("400")));
    begun.overwrite = true;
    assert!(begun.written().is_empty());
}

#[test]
fn import_that_is_planned_again_writes_nothing() {
    let listing = [shard("a", &[], true), shard("b", &[], false), shard("c", &[], false), shard("d", &[], false)];
    let items =
        [kcl_2("a", "SHARD_END", 0), kcl_2("b", "LATEST", 0), kcl_2("c", "TRIM_HORIZON", 0), kcl_2("d", "500", 0)];
    let mut case = Case::new(&listing, &items);
    case.overwrite = true;
    case.records.insert("d".into(), RecordAt::Aggregate(2));
    for Write { shard, target, .. } in case.plan().writes {
        let row = match target {
            Target::Checkpoint(checkpoint) => Row::new(shard, Some(checkpoint)),
            // The clock went on.
            Target::Begins(StartPosition::At(time)) => {
                Row { begins: Some(StartPosition::At(time - 60_000)), ..Row::new(shard, None) }
            }
            Target::Begins(begins) => Row { begins: Some(begins), ..Row::new(shard, None) },
        };
        case.ours.push(row);
    }
    assert_eq!(case.ours.len(), 4);
    assert!(case.written().is_empty(), "{:?}", case.plan());
}

#[test]
fn leases_of_other_streams_are_left_out_and_former_ones_refused() {
    let rows = |items: &[Item]| items.iter().map(read).collect::<Vec<_>>();
    let of = |items: &[Item]| of_stream(&rows(items), &stream());
    let names = |leases: Vec<KclLease>| leases.into_iter().map(|lease| lease.key).collect::<Vec<_>>();
    let former = "111122223333:orders:1600000000";
    let (leases, remarks) = of(&[
        several(KEY, "a", "500", 0),
        several(former, "a", "400", 0),
        several("111122223333:payments:1700000000", "a", "500", 0),
        several("999922223333:orders:1700000000", "a", "500", 0),
        other("leader", "LEADER"),
    ])
    .unwrap();
    assert_eq!(names(leases), [format!("{KEY}:a")]);
    assert!(remarks.len() == 1 && remarks[0].contains("former stream"), "{remarks:?}");
    let refused = |items: &[Item]| of(items).unwrap_err().join("\n");
    assert!(refused(&[several(former, "a", "400", 0)]).contains("created again at 1700000000"));
    assert!(refused(&[several("111122223333:payments:1700000000", "a", "5", 0)]).contains("payments"));
    assert!(refused(&[]).contains("no lease"));
    assert!(refused(&[several(KEY, "a", "500", 0), kcl_2("a", "500", 0)]).contains("of several"));
    // A row that makes no sense is named, and nothing is guessed for the others.
    assert!(refused(&[kcl_2("a", "500", 0), kcl_2("b", "later", 0)]).starts_with("the row b: "));
}

#[test]
fn kcl_that_writes_while_it_is_watched_is_alive() {
    let seen = |items: &[Item]| {
        let seen = items.iter().map(|item| (row::key(item).to_owned(), read(item), item.clone()));
        seen.collect::<Vec<_>>()
    };
    let still = seen(&[kcl_2("a", "5", 0), other("w", "WORKER_METRIC_STATS")]);
    assert!(alive(&still, &still).is_empty());
    let renewed = with(kcl_2("a", "5", 0), COUNTER, AttributeValue::N("18".into()));
    let found = alive(&still, &seen(&[renewed.clone(), other("w", "WORKER_METRIC_STATS")]));
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["worker-of-the-kcl"]);
    // The leader's row changes too, and names its owner otherwise.
    let found = alive(&still, &seen(&[renewed, other("Leader", "LEADER"), other("w", "WORKER_METRIC_STATS")]));
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["worker-of-the-kcl"]);
    let led = seen(&[kcl_2("a", "5", 0), other("Leader", "LEADER"), other("w", "WORKER_METRIC_STATS")]);
    assert_eq!(alive(&still, &led).into_iter().collect::<Vec<_>>(), ["some worker (in the row Leader)"]);
    let shown = with(other("w", "WORKER_METRIC_STATS"), "lut", AttributeValue::N("1".into()));
    assert_eq!(alive(&still, &seen(&[kcl_2("a", "5", 0), shown])).len(), 1);
    assert_eq!(alive(&still, &seen(&[kcl_2("a", "5", 0)])).len(), 1);
}

/// Plans an export of one shard. Returns what is written, or why nothing is.
fn exported(ours: Row, theirs: Option<&Item>, record: RecordAt, create: bool) -> Result<String, String> {
    let listing = [shard("a", &[], true)];
    let leases: Vec<KclLease> = theirs.into_iter().map(lease).collect();
    let records = BTreeMap::from([("a".into(), record)]);
    let stream = stream();
    let known =
        export::Known { stream: &stream, listing: &listing, leases: &leases, ours: &[ours], records: &records, create };
    let planned = export::export(&known);
    match (planned.refusals.first(), planned.writes.first()) {
        (Some(refusal), None) => Err(refusal.clone()),
        (None, Some(write)) => Ok(write.position.to_string()),
        (None, None) => Err(planned.lines[0].why.clone()),
        both => panic!("{both:?}"),
    }
}

#[test]
fn position_of_ours_becomes_one_that_the_kcl_resumes_at() {
    let row = |checkpoint| Row::new("a", Some(checkpoint));
    let at = || row(Checkpoint::After(number("500")));
    let inside = || row(Checkpoint::Within(Within { after: Some(number("400")), record: number("500"), sub: 4 }));
    let to = |ours, record| exported(ours, Some(&kcl_2("a", "300", 0)), record, false);
    assert_eq!(to(at(), RecordAt::Plain).unwrap(), "500/0");
    assert_eq!(to(at(), RecordAt::Aggregate(3)).unwrap(), "500/2");
    assert_eq!(to(at(), RecordAt::Unknown).unwrap(), "500/0");
    assert_eq!(to(inside(), RecordAt::Unknown).unwrap(), "500/4");
    assert!(to(at(), RecordAt::Foreign).unwrap_err().contains("knows no such position"));
    assert_eq!(to(row(Checkpoint::ShardEnd(None)), RecordAt::Unknown).unwrap(), "SHARD_END");
    for word in ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"] {
        assert_eq!(exported(at(), Some(&kcl_2("a", word, 0)), RecordAt::Plain, false).unwrap(), "500/0");
    }
    for further in [kcl_2("a", "501", 0), kcl_2("a", "SHARD_END", 0), kcl_2("a", "500", 9)] {
        assert!(exported(at(), Some(&further), RecordAt::Plain, false).unwrap_err().contains("further"));
    }
    assert!(exported(at(), Some(&kcl_2("a", "500", 0)), RecordAt::Plain, false).unwrap_err().contains("already"));
}

#[test]
fn row_that_the_kcl_lacks_is_made_only_if_asked_for() {
    let at = || Row::new("a", Some(Checkpoint::After(number("500"))));
    assert!(exported(at(), None, RecordAt::Plain, false).unwrap_err().contains("--create"));
    assert_eq!(exported(at(), None, RecordAt::Plain, true).unwrap(), "500/0");
    let begins = |begins| Row { begins: Some(begins), ..Row::new("a", None) };
    assert!(exported(begins(StartPosition::Oldest), None, RecordAt::Unknown, false).unwrap_err().contains("--create"));
    assert_eq!(exported(begins(StartPosition::Oldest), None, RecordAt::Unknown, true).unwrap(), "TRIM_HORIZON");
    assert!(
        exported(begins(StartPosition::At(5)), None, RecordAt::Unknown, true).unwrap_err().contains("configuration")
    );
    let hold = Hold { worker: "w".into(), epoch: Some(1), stamp: "t".into() };
    let held = Row { hold: Some(hold), ..at() };
    assert!(exported(held, Some(&kcl_2("a", "300", 0)), RecordAt::Plain, true).unwrap_err().contains("read already"));
}
