//! Is the absence of another program's row understood, and that of a row of ours not overrated?

use tokio::time::Instant;

use super::super::tests::{ids, listed, number, row, shard, split};
use super::super::{Fresh, Topology};
use crate::lease::{Checkpoint, Row};
use crate::model::ShardListing;

fn theirs(id: &str, checkpoint: Option<Checkpoint>) -> Row {
    Row { foreign: true, ..row(id, checkpoint) }
}

#[test]
fn shard_wrongly_presumed_ended_is_read() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    topology.learn(&[theirs("b", Some(Checkpoint::After(number("5"))))], Instant::now());
    listed(&mut topology, vec![shard("a", &[], true), shard("b", &["a"], false)]);
    assert_eq!(topology.ended_elsewhere(), ids(&["a"]));
    topology.not_ended(&"a".into());
    assert_eq!(topology.readable(), ids(&["a"]));
}

#[test]
fn shard_that_connect_finished_is_not_read_again() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    let shards = vec![
        shard("a", &[], true),
        shard("b", &["a"], true),
        shard("c", &["b"], false),
        shard("d", &[], true),
        shard("e", &["d"], false),
    ];
    // The other program reads `c` and has removed the rows of its parents; it has never read anything of `d` and
    // its child.
    topology.learn(&[theirs("c", Some(Checkpoint::After(number("5"))))], Instant::now());
    listed(&mut topology, shards);
    assert_eq!(topology.ended_elsewhere(), ids(&["b", "a"]));
    assert_eq!(topology.ended_elsewhere(), []);
    assert_eq!(topology.readable(), ids(&["c", "d"]));
}

#[test]
fn row_removed_by_connect_ends_its_shard() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    topology.learn(&[theirs("a", Some(Checkpoint::After(number("5"))))], Instant::now());
    listed(&mut topology, split());
    assert_eq!(topology.ended_elsewhere(), []);
    assert_eq!(topology.readable(), ids(&["a"]));
    topology.learn(&[], Instant::now());
    assert_eq!(topology.readable(), ids(&["b", "c"]));
}

#[test]
fn removed_row_of_ours_does_not_end_its_shard() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    topology.learn(&[row("a", Some(Checkpoint::After(number("5"))))], Instant::now());
    listed(&mut topology, split());
    topology.learn(&[], Instant::now());
    listed(&mut topology, split());
    topology.is_same_stream();
    assert_eq!(topology.readable(), ids(&["a"]));
}

/// A worker that knows that the stream was recreated sets rows aside. Whoever reads the shard before it knows as well would
/// lose it again.
#[test]
fn removed_row_of_ours_is_a_reason_to_ask_which_stream_it_is() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    let (kept, removed) = (row("a", None), row("b", Some(Checkpoint::After(number("5")))));
    topology.learn(&[kept.clone(), removed], Instant::now());
    let shards = || vec![shard("a", &[], false), shard("b", &[], false)];
    let before = ShardListing { asked_at: Instant::now(), shards: shards().into() };
    topology.listed(&before);
    topology.is_same_stream();
    topology.learn(&[kept], Instant::now());
    assert!(topology.wants_listing());
    assert_eq!(topology.readable(), ids(&["a"]), "not before the service has said that it is the same stream");
    let later = ShardListing { asked_at: Instant::now(), shards: shards().into() };
    assert!(topology.listed(&later).doubted);
    assert_eq!(topology.readable(), ids(&["a"]));
    topology.is_same_stream();
    assert_eq!(topology.readable(), ids(&["a", "b"]));
    assert!(!topology.wants_listing());
}

#[test]
fn row_removed_by_connect_is_judged_by_a_newer_listing() {
    for (closed, readable) in [(true, ids(&["b"])), (false, ids(&["a"]))] {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.learn(&[theirs("a", Some(Checkpoint::After(number("5"))))], Instant::now());
        let before = ShardListing { asked_at: Instant::now(), shards: vec![shard("a", &[], false)].into() };
        topology.listed(&before);
        topology.learn(&[], Instant::now());
        topology.listed(&before);
        assert!(topology.wants_listing());
        assert_eq!(topology.readable(), []);
        listed(&mut topology, vec![shard("a", &[], closed), shard("b", &["a"], false)]);
        assert!(!topology.wants_listing());
        assert_eq!(topology.readable(), readable);
    }
}

#[test]
fn row_removed_by_connect_after_our_claim_ends_its_shard() {
    let mut topology = Topology::new(None, Fresh::Oldest);
    topology.learn(&[theirs("a", Some(Checkpoint::After(number("5"))))], Instant::now());
    listed(&mut topology, split());
    topology.readable();
    topology.claimed(&"a".into());
    topology.learn(&[row("a", Some(Checkpoint::After(number("5"))))], Instant::now());
    topology.learn(&[], Instant::now());
    topology.released(&"a".into());
    assert_eq!(topology.readable(), ids(&["b", "c"]));
}
