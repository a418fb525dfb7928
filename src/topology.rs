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
    /// Shards that were told to be gone; once is enough.
    told_gone: BTreeSet<ShardId>,
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
    stored: Stored,
}

/// What the store knows of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// Nothing.
    No,
    Ours,
    /// Another program wrote it, which removes what it stored when a shard is ended.
    Theirs,
}

impl Topology {
    pub(crate) fn new(explicit: Option<BTreeSet<ShardId>>, fresh: Fresh) -> Self {
        Self { nodes: BTreeMap::new(), explicit, fresh, wants_listing: false, told_gone: BTreeSet::new() }
    }

    /// Learns everything that is stored. What we read ourselves, we know better.
    pub(crate) fn learn(&mut self, rows: &[Row]) {
        let known: BTreeSet<&ShardId> = rows.iter().map(|row| &row.shard).collect();
        for (id, node) in &mut self.nodes {
            if !known.contains(id) {
                // The mark of an end that removes marks.
                if node.stored == Stored::Theirs && node.closed && node.life != Life::Reading {
                    node.life = Life::Ended;
                    node.place = Place::End(None);
                }
                node.stored = Stored::No;
            }
        }
        for row in rows {
            let node = self.nodes.entry(row.shard.clone()).or_insert_with(|| Node::new(Vec::new(), false));
            node.stored = if row.foreign { Stored::Theirs } else { Stored::Ours };
            if node.life == Life::Reading {
                continue;
            }
            node.place = row.place.clone();
            if matches!(row.place, Place::End(_)) {
                node.life = Life::Ended;
            }
        }
    }

    /// Closed shards that another program is done with. It leaves no mark of that but this: it reads a child of theirs,
    /// and stores nothing of them. Returned once, to be stored as ended.
    pub(crate) fn ended_elsewhere(&mut self) -> Vec<ShardId> {
        let mut ended = Vec::new();
        let mut behind: Vec<ShardId> = self
            .nodes
            .values()
            .filter(|node| node.listed && node.stored == Stored::Theirs)
            .flat_map(|node| node.parents.clone())
            .collect();
        while let Some(id) = behind.pop() {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let open = !matches!(node.life, Life::Reading | Life::Ended);
            if open && node.closed && node.stored == Stored::No {
                node.life = Life::Ended;
                node.place = Place::End(None);
                behind.extend(node.parents.clone());
                ended.push(id);
            }
        }
        ended
    }

    /// What is stored of shards that are not in the stream any more, and that nothing depends on.
    pub(crate) fn forgettable<'r>(&self, rows: &'r [Row]) -> Vec<&'r Row> {
        let is_listed = |id: &ShardId| self.nodes.get(id).is_some_and(|node| node.listed);
        // Where a child starts that nobody has begun, its parent's row may say.
        let is_needed = |id: &ShardId| {
            self.nodes.values().any(|node| node.listed && node.stored == Stored::No && node.parents.contains(id))
        };
        rows.iter().filter(|row| !is_listed(&row.shard) && !is_needed(&row.shard)).collect()
    }

    /// Learns a whole listing. Returns the shards that are gone from the stream before they were read to the end.
    pub(crate) fn listed(&mut self, shards: Vec<Listed>) -> Vec<ShardId> {
        let present: BTreeSet<ShardId> = shards.iter().map(|shard| shard.id.clone()).collect();
        for shard in shards {
            let node = self.nodes.entry(shard.id).or_insert_with(|| Node::new(Vec::new(), false));
            if !node.listed && !shard.closed {
                node.seen_open = true;
            }
            node.parents = shard.parents;
            node.listed = true;
            node.closed = shard.closed;
        }
        self.wants_listing = false;
        let mut gone = Vec::new();
        let told = &mut self.told_gone;
        self.nodes.retain(|id, node| {
            if !present.contains(id) {
                node.listed = false;
            }
            // Who is being read finds out alone; what is ended is kept, for its children's start.
            let keep = node.listed || matches!(node.life, Life::Reading | Life::Ended);
            if !keep && !matches!(node.place, Place::Nowhere) && told.insert(id.clone()) {
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
            // Born before our eyes.
            self.nodes.entry(child.id.clone()).or_insert_with(|| Node::new(child.parents.clone(), true));
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

    /// Shards that are ours by what this knows.
    pub(crate) fn reading(&self) -> Vec<ShardId> {
        self.nodes.iter().filter(|(_, node)| node.life == Life::Reading).map(|(id, _)| id.clone()).collect()
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

impl Node {
    fn new(parents: Vec<ShardId>, seen_open: bool) -> Self {
        Self {
            parents,
            life: Life::WaitingForParents,
            listed: false,
            seen_open,
            closed: false,
            place: Place::Nowhere,
            stored: Stored::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::efo::wire::ChildShard;

    fn shard(id: &str, parents: &[&str], closed: bool) -> Listed {
        Listed { id: id.into(), parents: ids(parents), closed }
    }

    fn row(id: &str, place: Place) -> Row {
        Row { shard: id.into(), place, hold: None, wanted_by: None, foreign: false }
    }

    fn theirs(id: &str, place: Place) -> Row {
        Row { foreign: true, ..row(id, place) }
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
        topology.learn(&[row("a", Place::After(number("5")))]);
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
        topology.learn(&[row("a", Place::After(number("5"))), row("b", Place::End(None))]);
        assert_eq!(topology.listed(vec![shard("c", &["a"], false)]), ids(&["a"]));
        assert_eq!(topology.readable(), ids(&["c"]));
    }

    #[test]
    fn merge_with_parents_on_two_workers() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.listed(vec![shard("a", &[], true), shard("b", &[], true), shard("c", &["a", "b"], false)]);
        topology.readable();
        read(&mut topology, "a", Some("5"));
        // The other one reads b, and is at its end, but not everything is acked.
        topology.learn(&[row("a", Place::End(None)), row("b", Place::After(number("7")))]);
        assert_eq!(topology.readable(), ids(&["b"]));
        topology.learn(&[row("a", Place::End(None)), row("b", Place::End(Some(number("8"))))]);
        assert_eq!(topology.readable(), ids(&["c"]));
    }

    #[test]
    fn what_connect_is_done_with_is_not_read_again() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        let shards = vec![
            shard("a", &[], true),
            shard("b", &["a"], true),
            shard("c", &["b"], false),
            shard("d", &[], true),
            shard("e", &["d"], false),
        ];
        // It reads c and has removed the rows of those before; of d's it has never read anything.
        topology.learn(&[theirs("c", Place::After(number("5")))]);
        topology.listed(shards);
        assert_eq!(topology.ended_elsewhere(), ids(&["b", "a"]));
        assert_eq!(topology.ended_elsewhere(), []);
        assert_eq!(topology.readable(), ids(&["c", "d"]));
    }

    #[test]
    fn a_row_that_connect_removes_is_the_end_of_the_shard() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.learn(&[theirs("a", Place::After(number("5")))]);
        topology.listed(split());
        assert_eq!(topology.ended_elsewhere(), []);
        assert_eq!(topology.readable(), ids(&["a"]));
        topology.learn(&[]);
        assert_eq!(topology.readable(), ids(&["b", "c"]));
    }

    #[test]
    fn a_row_of_ours_that_somebody_removed_is_no_end() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.learn(&[row("a", Place::After(number("5")))]);
        topology.listed(split());
        topology.learn(&[]);
        assert_eq!(topology.readable(), ids(&["a"]));
    }

    #[test]
    fn rows_are_forgotten_when_nothing_depends_on_them() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        let rows = [row("gone", Place::End(None)), row("parent", Place::End(None)), row("b", Place::Nowhere)];
        topology.learn(&rows);
        topology.listed(vec![shard("b", &["gone"], false), shard("c", &["parent"], false)]);
        let forgettable = |rows: &[Row], topology: &Topology| -> Vec<ShardId> {
            topology.forgettable(rows).into_iter().map(|row| row.shard.clone()).collect()
        };
        assert_eq!(forgettable(&rows, &topology), ids(&["gone"]));
        let begun = [&rows[..], &[row("c", Place::Nowhere)]].concat();
        topology.learn(&begun);
        assert_eq!(forgettable(&begun, &topology), ids(&["gone", "parent"]));
    }
}
