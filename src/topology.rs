//! Which shards are there, which come after which, and which may be read now?
//!
//! Pure. It learns from listings, from the children that a shard's end names, and from the store; it tells which
//! shards may be read and where each begins.

use std::collections::{BTreeMap, BTreeSet};

use crate::lease::{Place, Row};
use crate::names::{SequenceNumber, ShardId};
use crate::shard::Life;

/// A shard as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: ShardId,
    pub(crate) parents: Vec<ShardId>,
    /// Nothing is written to it any more.
    pub(crate) closed: bool,
}

/// Where reading a shard begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the oldest record there is.
    Oldest,
    /// At the first record that arrived then or later; milliseconds since 1970.
    At(i64),
    /// Behind this place.
    After(SequenceNumber),
}

/// Where a shard begins that nobody has read of yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// At the oldest record there is.
    Oldest,
    /// At this time, in milliseconds since 1970.
    At(i64),
}

/// The shards of one stream.
#[derive(Debug)]
pub(crate) struct Topology {
    nodes: BTreeMap<ShardId, Node>,
    /// Read just these, and follow no children.
    explicit: Option<BTreeSet<ShardId>>,
    fresh: Fresh,
    /// A shard's parents were named that no listing has shown yet.
    wants_listing: bool,
}

#[derive(Debug)]
struct Node {
    parents: Vec<ShardId>,
    life: Life,
    /// It has been in a listing.
    listed: bool,
    /// It was open when it was first seen: what its children hold is newer than our start.
    seen_open: bool,
    closed: bool,
    place: Place,
}

impl Topology {
    pub(crate) fn new(explicit: Option<BTreeSet<ShardId>>, fresh: Fresh) -> Self {
        Self { nodes: BTreeMap::new(), explicit, fresh, wants_listing: false }
    }

    /// Learns what is stored. Called before the first listing.
    pub(crate) fn restore(&mut self, rows: Vec<Row>) {
        for row in rows {
            let life = if matches!(row.place, Place::End(_)) { Life::Ended } else { Life::WaitingForParents };
            let node =
                Node { parents: Vec::new(), life, listed: false, seen_open: false, closed: false, place: row.place };
            self.nodes.insert(row.shard, node);
        }
    }

    /// Learns a whole listing. Returns the shards that are gone from the stream before they were read to the end.
    pub(crate) fn listed(&mut self, shards: Vec<Listed>) -> Vec<ShardId> {
        let present: BTreeSet<ShardId> = shards.iter().map(|shard| shard.id.clone()).collect();
        for shard in shards {
            if let Some(node) = self.nodes.get_mut(&shard.id) {
                if !node.listed && !shard.closed {
                    node.seen_open = true;
                }
                node.parents = shard.parents;
                node.listed = true;
                node.closed = shard.closed;
            } else {
                let node = Node {
                    parents: shard.parents,
                    life: Life::WaitingForParents,
                    listed: true,
                    seen_open: !shard.closed,
                    closed: shard.closed,
                    place: Place::Nowhere,
                };
                self.nodes.insert(shard.id, node);
            }
        }
        self.wants_listing = false;
        let mut gone = Vec::new();
        self.nodes.retain(|id, node| {
            // Who is being read finds out alone; what is ended is kept, for its children's start.
            let keep = present.contains(id) || node.life != Life::WaitingForParents;
            if !keep && !matches!(node.place, Place::Nowhere) {
                gone.push(id.clone());
            }
            keep
        });
        gone
    }

    /// Learns the children that the end of a shard names.
    pub(crate) fn children(&mut self, children: &[crate::efo::wire::ChildShard]) {
        for child in children {
            if child.parents.iter().any(|parent| !self.nodes.contains_key(parent)) {
                self.wants_listing = true;
            }
            self.nodes.entry(child.id.clone()).or_insert_with(|| Node {
                parents: child.parents.clone(),
                life: Life::WaitingForParents,
                listed: false,
                // Born before our eyes.
                seen_open: true,
                closed: false,
                place: Place::Nowhere,
            });
        }
    }

    /// How many shards are known.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether a listing is needed before all that waits can be judged.
    pub(crate) fn wants_listing(&self) -> bool {
        self.wants_listing
    }

    /// The shards that may be read now and aren't, oldest id first.
    pub(crate) fn readable(&mut self) -> Vec<ShardId> {
        let ready: Vec<ShardId> = self
            .nodes
            .iter()
            .filter(|(id, node)| {
                self.wanted(id)
                    && match node.life {
                        Life::Unowned => true,
                        Life::WaitingForParents => {
                            (node.listed || !self.wants_listing) && node.parents.iter().all(|parent| self.done(parent))
                        }
                        _ => false,
                    }
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in &ready {
            self.step(id, Life::parents_done);
        }
        ready
    }

    /// A parent need not be waited for when it is ended, not in the stream any more, or not ours to read.
    fn done(&self, parent: &ShardId) -> bool {
        !self.wanted(parent) || self.nodes.get(parent).is_none_or(|node| node.life == Life::Ended)
    }

    fn wanted(&self, id: &ShardId) -> bool {
        self.explicit.as_ref().is_none_or(|explicit| explicit.contains(id))
    }

    /// Where a shard begins, given its stored place.
    pub(crate) fn start(&self, id: &ShardId, place: &Place) -> Start {
        if let Place::After(after) = place {
            return Start::After(after.clone());
        }
        let Fresh::At(time) = self.fresh else { return Start::Oldest };
        let parents = self.nodes.get(id).map_or(&[][..], |node| &node.parents);
        let follows_one_we_read = parents.iter().any(|parent| {
            self.nodes.get(parent).is_some_and(|node| match &node.place {
                Place::End(last) => last.is_some() || node.seen_open,
                Place::After(_) => true,
                Place::Nowhere => false,
            })
        });
        if follows_one_we_read { Start::Oldest } else { Start::At(time) }
    }

    /// Whether the shard was open when it was first seen.
    pub(crate) fn seen_open(&self, id: &ShardId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.seen_open)
    }

    /// The shard was claimed.
    pub(crate) fn claimed(&mut self, id: &ShardId) {
        self.step(id, Life::claimed);
    }

    /// The shard was given back, or could not be claimed.
    pub(crate) fn released(&mut self, id: &ShardId) {
        self.step(id, Life::released);
    }

    /// The end of the shard is stored.
    pub(crate) fn ended(&mut self, id: &ShardId, last: Option<SequenceNumber>) {
        self.step(id, Life::ended);
        if let Some(node) = self.nodes.get_mut(id) {
            node.place = Place::End(last);
        }
    }

    fn step(&mut self, id: &ShardId, step: impl Fn(Life) -> Life) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.life = step(node.life);
        }
    }

    /// Explicit shards that no listing shows and nothing is stored of.
    pub(crate) fn missing(&self) -> Vec<ShardId> {
        let explicit = self.explicit.iter().flatten();
        explicit.filter(|id| !self.nodes.contains_key(*id)).cloned().collect()
    }

    /// Whether all shards that were asked for by name are ended. A whole stream never is.
    pub(crate) fn all_ended(&self) -> bool {
        self.explicit.as_ref().is_some_and(|explicit| {
            explicit.iter().all(|id| self.nodes.get(id).is_some_and(|node| node.life == Life::Ended))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::efo::wire::ChildShard;

    fn shard(id: &str, parents: &[&str], closed: bool) -> Listed {
        Listed { id: id.into(), parents: ids(parents), closed }
    }

    fn ids(ids: &[&str]) -> Vec<ShardId> {
        ids.iter().map(|id| ShardId::from(*id)).collect()
    }

    fn number(text: &str) -> SequenceNumber {
        SequenceNumber::new(text).unwrap()
    }

    /// Claims and reads a shard to its end.
    fn read(topology: &mut Topology, id: &str, last: Option<&str>) {
        topology.claimed(&id.into());
        topology.ended(&id.into(), last.map(number));
    }

    fn split() -> Vec<Listed> {
        vec![shard("a", &[], true), shard("b", &["a"], false), shard("c", &["a"], false)]
    }

    #[test]
    fn children_are_read_after_their_parents_are_stored() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.listed(split());
        assert_eq!(topology.readable(), ids(&["a"]));
        topology.claimed(&"a".into());
        assert_eq!(topology.readable(), []);
        topology.ended(&"a".into(), None);
        assert_eq!(topology.readable(), ids(&["b", "c"]));
    }

    #[test]
    fn a_merge_waits_for_both_parents() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.listed(vec![shard("a", &[], true), shard("b", &[], true), shard("c", &["a", "b"], false)]);
        assert_eq!(topology.readable(), ids(&["a", "b"]));
        read(&mut topology, "a", None);
        topology.claimed(&"b".into());
        assert_eq!(topology.readable(), []);
        topology.ended(&"b".into(), None);
        assert_eq!(topology.readable(), ids(&["c"]));
    }

    #[test]
    fn a_child_whose_other_parent_is_unknown_waits_for_a_listing() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.listed(vec![shard("a", &[], false)]);
        topology.readable();
        topology.claimed(&"a".into());
        topology.children(&[ChildShard { id: "c".into(), parents: ids(&["a", "b"]) }]);
        topology.ended(&"a".into(), None);
        assert!(topology.wants_listing());
        assert_eq!(topology.readable(), []);
        topology.listed(vec![shard("a", &[], true), shard("b", &[], true), shard("c", &["a", "b"], false)]);
        assert_eq!(topology.readable(), ids(&["b"]));
    }

    #[test]
    fn parents_past_retention_are_not_waited_for() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.listed(vec![shard("b", &["gone"], false)]);
        assert_eq!(topology.readable(), ids(&["b"]));
    }

    #[test]
    fn double_reshard_while_down() {
        let mut topology = Topology::new(None, Fresh::At(100));
        topology.restore(vec![Row { shard: "a".into(), place: Place::After(number("5")) }]);
        topology.listed(vec![shard("a", &[], true), shard("b", &["a"], true), shard("c", &["b"], false)]);
        assert_eq!(topology.readable(), ids(&["a"]));
        assert_eq!(topology.start(&"a".into(), &Place::After(number("5"))), Start::After(number("5")));
        read(&mut topology, "a", Some("9"));
        assert_eq!(topology.readable(), ids(&["b"]));
        assert_eq!(topology.start(&"b".into(), &Place::Nowhere), Start::Oldest);
        read(&mut topology, "b", Some("12"));
        assert_eq!(topology.readable(), ids(&["c"]));
        assert_eq!(topology.start(&"c".into(), &Place::Nowhere), Start::Oldest);
    }

    #[test]
    fn children_created_while_start_is_latest() {
        let mut topology = Topology::new(None, Fresh::At(100));
        topology.listed(vec![shard("a", &[], false)]);
        topology.readable();
        assert_eq!(topology.start(&"a".into(), &Place::Nowhere), Start::At(100));
        topology.claimed(&"a".into());
        topology.children(&[ChildShard { id: "b".into(), parents: ids(&["a"]) }]);
        topology.ended(&"a".into(), None);
        assert_eq!(topology.readable(), ids(&["b"]));
        assert_eq!(topology.start(&"b".into(), &Place::Nowhere), Start::Oldest);
    }

    #[test]
    fn a_shard_that_was_closed_before_latest_does_not_make_its_children_old() {
        let mut topology = Topology::new(None, Fresh::At(100));
        topology.listed(split());
        topology.readable();
        read(&mut topology, "a", None);
        assert_eq!(topology.start(&"b".into(), &Place::Nowhere), Start::At(100));
    }

    #[test]
    fn closed_shards_never_read_before() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.listed(split());
        assert_eq!(topology.readable(), ids(&["a"]));
        assert_eq!(topology.start(&"a".into(), &Place::Nowhere), Start::Oldest);
    }

    #[test]
    fn explicit_shards_are_read_alone_and_end() {
        let mut topology = Topology::new(Some(ids(&["b"]).into_iter().collect()), Fresh::Oldest);
        topology.listed(split());
        assert_eq!(topology.readable(), ids(&["b"]), "its parent is not ours to read");
        topology.claimed(&"b".into());
        topology.children(&[ChildShard { id: "d".into(), parents: ids(&["b"]) }]);
        topology.ended(&"b".into(), None);
        assert_eq!(topology.readable(), []);
        assert!(topology.all_ended());
        let missing = Topology::new(Some(ids(&["x"]).into_iter().collect()), Fresh::Oldest);
        assert_eq!(missing.missing(), ids(&["x"]));
    }

    #[test]
    fn a_released_shard_is_readable_again() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.listed(vec![shard("a", &[], false)]);
        topology.readable();
        topology.claimed(&"a".into());
        topology.released(&"a".into());
        assert_eq!(topology.readable(), ids(&["a"]));
    }

    #[test]
    fn what_is_gone_before_it_was_read_is_told() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.restore(vec![
            Row { shard: "a".into(), place: Place::After(number("5")) },
            Row { shard: "b".into(), place: Place::End(None) },
        ]);
        assert_eq!(topology.listed(vec![shard("c", &["a"], false)]), ids(&["a"]));
        assert_eq!(topology.readable(), ids(&["c"]));
    }
}
