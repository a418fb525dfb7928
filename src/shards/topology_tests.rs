//! Which shards may be read, in every order of listings, rows and ends?

use std::time::Duration;

use super::*;
use crate::model::ListedShard;

pub(super) fn shard(id: &str, parents: &[&str], closed: bool) -> ListedShard {
    ListedShard { id: id.into(), parents: ids(parents), closed, begin: None, hash_range: None }
}

pub(super) fn row(id: &str, checkpoint: Option<Checkpoint>) -> Row {
    Row::new(id, checkpoint)
}

pub(super) fn ids(ids: &[&str]) -> Vec<ShardId> {
    ids.iter().map(|id| ShardId::from(*id)).collect()
}

pub(super) fn number(text: &str) -> SequenceNumber {
    SequenceNumber::new(text).unwrap()
}

/// Learns a listing that was requested now.
pub(super) fn listed(topology: &mut Topology, shards: Vec<ListedShard>) -> Vec<ShardId> {
    listed_after(topology, Duration::ZERO, shards).gone
}

/// Learns a listing that was requested `after` from now.
fn listed_after(topology: &mut Topology, after: Duration, shards: Vec<ListedShard>) -> Learned {
    topology.listed(&ShardListing { asked_at: Instant::now() + after, shards: shards.into() })
}

/// Learns two equal listings that are far enough apart to prove that the shards they lack are gone.
fn listed_for_long(topology: &mut Topology, shards: &[ListedShard]) -> Vec<ShardId> {
    assert_eq!(listed(topology, shards.to_vec()), []);
    listed_after(topology, CONFIRMED_AFTER + Duration::from_secs(1), shards.to_vec()).gone
}

/// Claims a shard and reads it to its end.
fn read(topology: &mut Topology, id: &str, last: Option<&str>) {
    topology.claimed(&id.into());
    topology.ended(&id.into(), last.map(number));
}

pub(super) fn split() -> Vec<ListedShard> {
    vec![shard("a", &[], true), shard("b", &["a"], false), shard("c", &["a"], false)]
}

#[test]
fn children_are_read_after_their_parents_are_stored() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, split());
    assert_eq!(topology.readable(), ids(&["a"]));
    topology.claimed(&"a".into());
    assert_eq!(topology.readable(), []);
    topology.ended(&"a".into(), None);
    assert_eq!(topology.readable(), ids(&["b", "c"]));
}

#[test]
fn merged_child_waits_for_both_parents() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("a", &[], true), shard("b", &[], true), shard("c", &["a", "b"], false)]);
    assert_eq!(topology.readable(), ids(&["a", "b"]));
    read(&mut topology, "a", None);
    topology.claimed(&"b".into());
    assert_eq!(topology.readable(), []);
    topology.ended(&"b".into(), None);
    assert_eq!(topology.readable(), ids(&["c"]));
}

#[test]
fn child_with_an_unknown_parent_waits_for_a_listing() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("a", &[], false)]);
    topology.readable();
    topology.claimed(&"a".into());
    topology.children(&[ChildShard { id: "c".into(), parents: ids(&["a", "b"]) }], Instant::now());
    topology.ended(&"a".into(), None);
    assert!(topology.wants_listing());
    assert_eq!(topology.readable(), []);
    listed(&mut topology, vec![shard("a", &[], true), shard("b", &[], true), shard("c", &["a", "b"], false)]);
    assert_eq!(topology.readable(), ids(&["b"]));
}

#[test]
fn child_does_not_wait_for_parents_past_retention() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed_for_long(&mut topology, &[shard("b", &["gone"], false)]);
    assert_eq!(topology.readable(), ids(&["b"]));
    assert!(topology.judges_at().is_none());
}

#[test]
fn child_waits_for_a_parent_that_one_listing_lacks() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("b", &["a"], false)]);
    assert_eq!(topology.readable(), []);
    assert!(topology.judges_at().is_some());
    listed(&mut topology, split());
    assert_eq!(topology.readable(), ids(&["a"]));
    topology.claimed(&"a".into());
    topology.released(&"a".into());
    // Another worker reads the shard, and a listing that lacks the shard does not end it.
    listed(&mut topology, vec![shard("b", &["a"], false)]);
    assert_eq!(topology.readable(), []);
    listed(&mut topology, split());
    assert_eq!(topology.readable(), ids(&["a"]));
}

#[test]
fn child_with_a_checkpoint_does_not_wait_for_parents_past_retention() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    topology.learn(&[row("b", Some(Checkpoint::After(number("5"))))], Instant::now());
    listed(&mut topology, vec![shard("b", &["gone"], false)]);
    assert_eq!(topology.readable(), ids(&["b"]));
}

#[test]
fn child_named_by_a_shard_end_is_not_gone_while_listings_lag() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    let parents = || vec![shard("a", &[], false), shard("b", &[], false)];
    listed(&mut topology, parents());
    topology.readable();
    let child = [ChildShard { id: "c".into(), parents: ids(&["a", "b"]) }];
    let start = Instant::now();
    for id in ["a", "b"] {
        topology.claimed(&id.into());
    }
    for (id, after) in [("a", Duration::ZERO), ("b", CONFIRMED_AFTER / 2)] {
        topology.children(&child, start + after);
        topology.ended(&id.into(), None);
        assert_eq!(topology.readable(), if id == "b" { ids(&["c"]) } else { ids(&[]) });
        listed_after(&mut topology, after + Duration::from_secs(1), parents());
        assert_eq!(topology.readable(), []);
    }
}

#[test]
fn unreadable_row_stops_its_shard_alone() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    let bad = Row { unreadable: Some("its SequenceNumber is LATEST".into()), ..row("a", None) };
    topology.learn(std::slice::from_ref(&bad), Instant::now());
    listed(&mut topology, vec![shard("a", &[], true), shard("b", &["a"], false), shard("c", &[], false)]);
    assert_eq!(topology.readable(), ids(&["c"]));
    assert_eq!(topology.garbage(&[bad]), Vec::<&Row>::new());
    topology.learn(&[row("a", Some(Checkpoint::After(number("5"))))], Instant::now());
    assert_eq!(topology.readable(), ids(&["a", "c"]));
}

#[test]
fn shard_with_another_begin_means_a_recreated_stream() {
    let begins = |at: &str| vec![ListedShard { begin: Some(number(at)), ..shard("a", &[], false) }];
    let mut topology = Topology::new(None, Fresh::Oldest);
    for listing in [begins("100"), vec![shard("a", &[], false)], begins("100")] {
        assert!(!listed_after(&mut topology, Duration::ZERO, listing).recreated);
    }
    assert!(listed_after(&mut topology, Duration::ZERO, begins("200")).recreated);
}

/// A worker may have been paused between the answer that said which stream there is, and the first listing.
#[test]
fn first_listing_may_show_another_stream_than_was_described() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    let mut listed = || listed_after(&mut topology, Duration::ZERO, vec![shard("a", &[], false)]).doubted;
    assert_eq!([listed(), listed()], [true, true], "until the service has said that it is the same");
    topology.is_same_stream();
    let mut listed = || listed_after(&mut topology, Duration::ZERO, vec![shard("a", &[], false)]).doubted;
    assert!(!listed());
    let mut anew = topology.anew();
    assert!(listed_after(&mut anew, Duration::ZERO, vec![shard("a", &[], false)]).doubted);
}

#[test]
fn impossible_shard_raises_doubt_about_the_stream() {
    let begins =
        |id: &str, parents: &[&str], at: &str| ListedShard { begin: Some(number(at)), ..shard(id, parents, false) };
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed_after(&mut topology, Duration::ZERO, vec![begins("a", &[], "100")]);
    topology.is_same_stream();
    let mut doubted = |shards| listed_after(&mut topology, Duration::ZERO, shards).doubted;
    assert!(!doubted(vec![begins("b", &["a"], "200")]));
    // Whether a shard was missed by a lagging listing or belongs to another stream, only the service knows.
    assert!(doubted(vec![begins("c", &[], "300")]));

    // A worker that knows a former shard by its row alone.
    let mut topology = Topology::new(None, Fresh::Oldest);
    topology.learn(&[row("a", Some(Checkpoint::After(number("5"))))], Instant::now());
    listed_after(&mut topology, Duration::ZERO, vec![begins("a", &[], "5")]);
    topology.is_same_stream();
    assert!(!listed_after(&mut topology, Duration::ZERO, vec![begins("a", &[], "5")]).doubted);
    topology.learn(&[row("a", Some(Checkpoint::ShardEnd(Some(number("4")))))], Instant::now());
    assert!(listed_after(&mut topology, Duration::ZERO, vec![begins("a", &[], "5")]).doubted);
}

#[test]
fn end_of_an_open_shard_is_doubted_if_its_row_does_not_identify_the_stream() {
    let open = || vec![shard("a", &[], false)];
    let late = CONFIRMED_AFTER + Duration::from_secs(1);
    for (created, doubted) in [(None, ids(&["a"])), (Some(5), ids(&[]))] {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.learn(&[Row { created, ..row("a", Some(Checkpoint::ShardEnd(None))) }], Instant::now());
        assert_eq!(listed_after(&mut topology, Duration::ZERO, open()).contradicted, []);
        topology.is_same_stream();
        assert_eq!(listed_after(&mut topology, late, open()).contradicted, doubted);
        let is_of_this_stream = created.is_some();
        assert_eq!(listed_after(&mut topology, late, open()).doubted, is_of_this_stream);
        assert_eq!(topology.judges_at().is_none(), is_of_this_stream);
        for id in &doubted {
            topology.set_aside(id);
            assert_eq!(topology.readable(), ids(&["a"]));
        }
    }
    // A listing that shows the shard closed is decisive, even if an older listing follows.
    let mut topology = Topology::new(None, Fresh::Oldest);
    topology.learn(&[row("a", Some(Checkpoint::ShardEnd(None)))], Instant::now());
    listed(&mut topology, vec![shard("a", &[], true)]);
    assert_eq!(listed_after(&mut topology, late, open()).contradicted, []);
    assert_eq!(listed_after(&mut topology, late * 2, open()).contradicted, []);
}

#[test]
fn end_that_was_read_here_is_not_doubted() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("a", &[], false)]);
    topology.readable();
    read(&mut topology, "a", None);
    for seconds in [0, 11, 22] {
        let after = Duration::from_secs(seconds);
        assert_eq!(listed_after(&mut topology, after, vec![shard("a", &[], false)]).contradicted, []);
    }
}

#[test]
fn rows_of_former_streams_are_found_by_creation_time_or_position() {
    let of = |created: i64, row: Row| Row { created: Some(created), ..row };
    let rows = [
        of(1, row("a", Some(Checkpoint::ShardEnd(None)))),
        of(2, row("b", Some(Checkpoint::After(number("5"))))),
        row("c", Some(Checkpoint::After(number("5")))),
        row("d", Some(Checkpoint::ShardEnd(Some(number("99"))))),
        row("e", Some(Checkpoint::After(number("100")))),
        row("f", Some(Checkpoint::After(number("5")))),
        row("a", Some(Checkpoint::ShardEnd(None))),
    ];
    let begin = number("100");
    let begin_of = |id: &ShardId| (*id != "f".into()).then_some(&begin);
    let found = FormerRows::among(&rows, Some(2), begin_of);
    let ids: Vec<&str> = found.rows.iter().map(|row| row.shard.as_str()).collect();
    assert_eq!((ids, found.recreated), (vec!["a", "c", "d"], false));
    assert!(FormerRows::among(&[of(3, row("a", None))], Some(2), begin_of).recreated);
    assert_eq!(FormerRows::among(&rows[..2], None, begin_of), FormerRows::default());
}

#[test]
fn shards_that_are_gone_leave_nothing_behind() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, split());
    topology.readable();
    read(&mut topology, "a", None);
    for seconds in 1..100 {
        let after = CONFIRMED_AFTER * seconds;
        let id = |number: u32| format!("child-{number}");
        let shards = vec![shard(&id(seconds), &[&id(seconds - 1)], false)];
        listed_after(&mut topology, after, shards);
        assert!(topology.nodes.len() < 8, "{:?}", topology.nodes.keys());
    }
}

#[test]
fn double_reshard_while_down() {
    let mut topology = Topology::new(None, Fresh::At(100));
    topology.learn(&[row("a", Some(Checkpoint::After(number("5"))))], Instant::now());
    listed(&mut topology, vec![shard("a", &[], true), shard("b", &["a"], true), shard("c", &["b"], false)]);
    assert_eq!(topology.readable(), ids(&["a"]));
    assert_eq!(
        topology.start(&"a".into(), Some(Checkpoint::After(number("5"))).as_ref()),
        StartPosition::After(number("5"))
    );
    read(&mut topology, "a", Some("9"));
    assert_eq!(topology.readable(), ids(&["b"]));
    assert_eq!(topology.start(&"b".into(), None.as_ref()), StartPosition::Oldest);
    read(&mut topology, "b", Some("12"));
    assert_eq!(topology.readable(), ids(&["c"]));
    assert_eq!(topology.start(&"c".into(), None.as_ref()), StartPosition::Oldest);
}

#[test]
fn children_created_while_start_is_latest() {
    let mut topology = Topology::new(None, Fresh::At(100));
    listed(&mut topology, vec![shard("a", &[], false)]);
    topology.readable();
    assert_eq!(topology.start(&"a".into(), None.as_ref()), StartPosition::At(100));
    topology.claimed(&"a".into());
    topology.children(&[ChildShard { id: "b".into(), parents: ids(&["a"]) }], Instant::now());
    topology.ended(&"a".into(), None);
    assert_eq!(topology.readable(), ids(&["b"]));
    assert_eq!(topology.start(&"b".into(), None.as_ref()), StartPosition::Oldest);
}

#[test]
fn child_of_a_shard_closed_before_latest_starts_at_latest() {
    let mut topology = Topology::new(None, Fresh::At(100));
    listed(&mut topology, split());
    topology.readable();
    read(&mut topology, "a", None);
    assert_eq!(topology.start(&"b".into(), None.as_ref()), StartPosition::At(100));
}

#[test]
fn row_that_says_where_its_shard_begins_wins_over_the_configuration() {
    let begins = |at: StartPosition| Row { begins: Some(at), ..row("a", None) };
    for fresh in [Fresh::Oldest, Fresh::At(7)] {
        for at in [StartPosition::Oldest, StartPosition::At(5)] {
            let mut topology = Topology::new(None, fresh);
            topology.learn(&[begins(at.clone())], Instant::now());
            listed(&mut topology, vec![shard("a", &[], false)]);
            assert_eq!(topology.start(&"a".into(), None), at);
            let checkpoint = Checkpoint::After(number("9"));
            assert_eq!(topology.start(&"a".into(), Some(&checkpoint)), StartPosition::After(number("9")));
        }
    }
}

#[test]
fn closed_shards_never_read_before() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, split());
    assert_eq!(topology.readable(), ids(&["a"]));
    assert_eq!(topology.start(&"a".into(), None.as_ref()), StartPosition::Oldest);
}

#[test]
fn explicit_shards_are_read_alone_and_end() {
    let mut topology = Topology::new(Some(ids(&["b"]).into_iter().collect()), Fresh::Oldest);
    listed(&mut topology, split());
    assert_eq!(topology.readable(), ids(&["b"]), "its parent is not ours to read");
    topology.claimed(&"b".into());
    topology.children(&[ChildShard { id: "d".into(), parents: ids(&["b"]) }], Instant::now());
    assert!(!topology.all_ended());
    topology.ended(&"b".into(), None);
    assert_eq!(topology.readable(), []);
    assert!(topology.all_ended());
    let missing = Topology::new(Some(ids(&["x"]).into_iter().collect()), Fresh::Oldest);
    assert_eq!(missing.missing(), ids(&["x"]));
    assert!(!missing.all_ended());
}

#[test]
fn whole_stream_never_ends() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("a", &[], true)]);
    topology.readable();
    read(&mut topology, "a", None);
    assert!(!topology.all_ended());
}

#[test]
fn claimed_shard_is_read_until_it_is_released_or_ended() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("a", &[], false), shard("b", &[], false), shard("c", &[], false)]);
    topology.readable();
    assert_eq!(topology.reading(), []);
    topology.claimed(&"a".into());
    topology.claimed(&"b".into());
    assert_eq!(topology.reading(), ids(&["a", "b"]));
    topology.released(&"a".into());
    topology.ended(&"b".into(), None);
    assert_eq!(topology.reading(), []);
}

#[test]
fn shard_open_when_first_seen_stays_seen_open() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("a", &[], true), shard("b", &[], false)]);
    listed(&mut topology, vec![shard("a", &[], true), shard("b", &[], true)]);
    topology.children(&[ChildShard { id: "c".into(), parents: ids(&["b"]) }], Instant::now());
    assert_eq!(topology.len(), 3);
    assert_eq!(["a", "b", "c", "x"].map(|id| topology.seen_open(&id.into())), [false, true, true, false]);
}

#[test]
fn released_shard_is_readable_again() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("a", &[], false)]);
    topology.readable();
    topology.claimed(&"a".into());
    topology.released(&"a".into());
    assert_eq!(topology.readable(), ids(&["a"]));
}

#[test]
fn shard_gone_before_it_was_read_is_reported() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    topology.learn(
        &[row("a", Some(Checkpoint::After(number("5")))), row("b", Some(Checkpoint::ShardEnd(None)))],
        Instant::now(),
    );
    assert_eq!(listed_for_long(&mut topology, &[shard("c", &["a"], false)]), ids(&["a"]));
    assert_eq!(topology.readable(), ids(&["c"]));
}

#[test]
fn merge_with_parents_on_two_workers() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    listed(&mut topology, vec![shard("a", &[], true), shard("b", &[], true), shard("c", &["a", "b"], false)]);
    topology.readable();
    read(&mut topology, "a", Some("5"));
    // The other worker reads `b` and is at its end, but not everything is acknowledged.
    topology.learn(
        &[row("a", Some(Checkpoint::ShardEnd(None))), row("b", Some(Checkpoint::After(number("7"))))],
        Instant::now(),
    );
    assert_eq!(topology.readable(), ids(&["b"]));
    topology.learn(
        &[row("a", Some(Checkpoint::ShardEnd(None))), row("b", Some(Checkpoint::ShardEnd(Some(number("8")))))],
        Instant::now(),
    );
    assert_eq!(topology.readable(), ids(&["c"]));
}

#[test]
fn rows_are_garbage_once_nothing_depends_on_them() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    let rows = [
        row("gone", Some(Checkpoint::ShardEnd(None))),
        row("parent", Some(Checkpoint::ShardEnd(None))),
        row("b", None),
    ];
    topology.learn(&rows, Instant::now());
    listed_for_long(&mut topology, &[shard("b", &["gone"], false), shard("c", &["parent"], false)]);
    let garbage = |rows: &[Row], topology: &Topology| -> Vec<ShardId> {
        topology.garbage(rows).into_iter().map(|row| row.shard.clone()).collect()
    };
    assert_eq!(garbage(&rows, &topology), ids(&["gone"]));
    let begun = [&rows[..], &[row("c", None)]].concat();
    topology.learn(&begun, Instant::now());
    assert_eq!(garbage(&begun, &topology), ids(&["gone", "parent"]));
}

#[test]
fn listing_does_not_judge_shards_learned_after_it() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    let before = ShardListing { asked_at: Instant::now(), shards: vec![shard("p", &[], true)].into() };
    topology.listed(&before);
    topology.learn(
        &[row("p", Some(Checkpoint::ShardEnd(None))), row("c", Some(Checkpoint::After(number("7"))))],
        Instant::now(),
    );
    assert!(topology.wants_listing(), "its parents are unknown");
    assert_eq!(topology.readable(), []);
    assert_eq!(topology.listed(&before).gone, [], "it is not gone");
    assert_eq!(topology.readable(), []);
    listed(&mut topology, vec![shard("p", &[], true), shard("c", &["p"], false)]);
    assert_eq!(topology.readable(), ids(&["c"]));
}

#[test]
fn listing_judges_shards_known_when_it_was_requested() {
    let (mut topology, at) = (Topology::new(None, Fresh::Oldest), Instant::now());
    topology.learn(&[row("gone", Some(Checkpoint::After(number("7"))))], at);
    assert!(topology.wants_listing());
    let listing = ShardListing { asked_at: at, shards: vec![shard("a", &[], false)].into() };
    assert_eq!(topology.listed(&listing).gone, []);
    assert!(!topology.wants_listing());
    let later = ShardListing { asked_at: at + CONFIRMED_AFTER, ..listing };
    assert_eq!(topology.judges_at(), Some(later.asked_at));
    assert_eq!(topology.listed(&later).gone, ids(&["gone"]));
    assert_eq!(topology.listed(&later).gone, [], "once is enough");
}
