//! Which shards are there, which come after which, and which may be read now?
//!
//! Pure. It learns from listings, from the children that a shard's end names, and from the store; it tells which
//! shards may be read and where each begins. A listing may be older than what is known otherwise, and then says nothing
//! of it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::lease::{Checkpoint, Row};
use crate::model::{ChildShard, SequenceNumber, ShardId, ShardListing, ShardState, StartPosition};
use crate::reading::listing::CONFIRMED_AFTER;

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
    /// When the last listing was asked for.
    listed_at: Option<Instant>,
    /// Since when we know of a shard, or of parents, that no listing has shown yet.
    wants_listing: Option<Instant>,
}

/// What a listing says that is not plain from the shards themselves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    /// Shards that are gone from the stream before they were read to the end.
    pub(crate) gone: Vec<ShardId>,
    /// Shards whose end is stored, though they are open: what is stored of them is of another stream.
    pub(crate) contradicted: Vec<ShardId>,
    /// A shard begins elsewhere than it did: the stream was deleted and recreated.
    pub(crate) recreated: bool,
}

/// What is stored of a stream of the same name and ARN that does not exist any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FormerRows<'r> {
    pub(crate) rows: Vec<&'r Row>,
    /// A row is of a stream that was made after the one that we know.
    pub(crate) recreated: bool,
}

impl<'r> FormerRows<'r> {
    /// Finds the rows of former streams: those that say so, and those whose position lies before their shard begins.
    fn among<'b>(
        rows: &'r [Row],
        created: Option<i64>,
        begin_of: impl Fn(&ShardId) -> Option<&'b SequenceNumber>,
    ) -> Self {
        let mut found = Self::default();
        for row in rows {
            let checkpoint = match &row.checkpoint {
                Some(Checkpoint::After(checkpoint)) | Some(Checkpoint::ShardEnd(Some(checkpoint))) => Some(checkpoint),
                Some(Checkpoint::ShardEnd(None)) | None => None,
            };
            let precedes = |begin: &SequenceNumber| checkpoint.is_some_and(|checkpoint| checkpoint < begin);
            match (row.created, created) {
                (Some(theirs), Some(ours)) if theirs > ours => found.recreated = true,
                (Some(theirs), Some(ours)) if theirs < ours => found.rows.push(row),
                (None, _) if begin_of(&row.shard).is_some_and(precedes) => found.rows.push(row),
                _ => {}
            }
        }
        found
    }

    /// The shards that they are of.
    pub(crate) fn shards(&self) -> BTreeSet<ShardId> {
        self.rows.iter().map(|row| row.shard.clone()).collect()
    }
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, learned from another place")]
struct Node {
    /// Since when we know of it. A listing that was asked for before doesn't say that it is gone.
    known_since: Instant,
    parents: Vec<ShardId>,
    life: ShardState,
    /// It is in the last listing.
    listed: bool,
    /// It was open when it was first seen: what its children hold is newer than our start.
    seen_open: bool,
    closed: bool,
    checkpoint: Option<Checkpoint>,
    stored: Stored,
    /// Since when its row is missing, as long as it isn't known what that means.
    vanished: Option<Instant>,
    /// Where it begins.
    begin: Option<SequenceNumber>,
    /// What is stored of it can't be understood, so it is left alone.
    unreadable: bool,
    /// When the first listing was asked for that does not show it, of those since the last that does.
    missing_since: Option<Instant>,
    /// Listings have not shown it for long enough.
    gone: bool,
    /// When its end was learned from a row that does not say of which stream it is.
    end_believed_at: Option<Instant>,
    /// When the first listing was asked for that shows it open though its end is stored.
    contradicted_since: Option<Instant>,
}

/// What the store knows of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// Nothing.
    No,
    Ours,
    /// Ours, and another program's before.
    TakenOver,
    /// Another program's.
    Theirs,
}

impl Topology {
    pub(crate) fn new(explicit: Option<BTreeSet<ShardId>>, fresh: Fresh) -> Self {
        Self { nodes: BTreeMap::new(), explicit, fresh, listed_at: None, wants_listing: None }
    }

    /// What is to be read of a stream that was made again: the same, from the same start, and nothing is known of it yet.
    pub(crate) fn anew(&self) -> Self {
        Self::new(self.explicit.clone(), self.fresh)
    }

    /// Learns everything that is stored, as it was at this time. What we read ourselves, we know better.
    pub(crate) fn learn(&mut self, rows: &[Row], at: Instant) {
        let known: BTreeSet<&ShardId> = rows.iter().map(|row| &row.shard).collect();
        for (id, node) in &mut self.nodes {
            if !known.contains(id) {
                // Other programs remove what they stored of a shard once it is ended, whoever has it by then.
                if matches!(node.stored, Stored::Theirs | Stored::TakenOver) && node.life != ShardState::Ended {
                    node.vanished = Some(at);
                }
                node.stored = Stored::No;
            }
        }
        for row in rows {
            let node = self.nodes.entry(row.shard.clone()).or_insert_with(|| {
                // Which parents it waits for, only a listing tells.
                self.wants_listing = Some(at);
                Node::new(Vec::new(), false, at)
            });
            let theirs = row.foreign || row.hold.as_ref().is_some_and(|hold| hold.epoch.is_none());
            node.stored = match node.stored {
                _ if theirs => Stored::Theirs,
                Stored::Theirs | Stored::TakenOver => Stored::TakenOver,
                Stored::No | Stored::Ours => Stored::Ours,
            };
            node.vanished = None;
            node.unreadable = row.unreadable.is_some();
            if node.life == ShardState::Reading || node.unreadable {
                continue;
            }
            node.checkpoint = row.checkpoint.clone();
            if matches!(row.checkpoint, Some(Checkpoint::ShardEnd(_))) && node.life != ShardState::Ended {
                node.life = ShardState::Ended;
                node.end_believed_at = Some(at).filter(|_| row.created.is_none());
            }
        }
        self.judge_vanished();
    }

    /// A shard whose row another program removed is ended if it is closed, and begins anew if it is open. What was
    /// listed before the row was missed says that of closed shards only, which stay closed.
    fn judge_vanished(&mut self) {
        for node in self.nodes.values_mut().filter(|node| node.life != ShardState::Reading) {
            let Some(since) = node.vanished else { continue };
            if node.closed {
                node.life = ShardState::Ended;
                node.checkpoint = Some(Checkpoint::ShardEnd(None));
                node.vanished = None;
            } else if self.listed_at.is_some_and(|at| at >= since) {
                node.vanished = None;
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
            let open = !matches!(node.life, ShardState::Reading | ShardState::Ended);
            if open && node.closed && node.stored == Stored::No {
                node.life = ShardState::Ended;
                node.checkpoint = Some(Checkpoint::ShardEnd(None));
                behind.extend(node.parents.clone());
                ended.push(id);
            }
        }
        ended
    }

    /// A shard that was taken for ended isn't: the store knows of it.
    pub(crate) fn not_ended(&mut self, id: &ShardId) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.life = ShardState::WaitingForParents;
            node.checkpoint = None;
        }
    }

    /// What is stored of shards that are not in the stream any more, by the last listing, and that nothing depends on. The
    /// listing has to be younger than the rows: a shard that is in use may have been born in between.
    pub(crate) fn garbage<'r>(&self, rows: &'r [Row]) -> Vec<&'r Row> {
        let is_gone = |id: &ShardId| self.nodes.get(id).is_some_and(|node| node.gone);
        // Where a child starts that nobody has begun, its parent's row may say.
        let is_needed = |id: &ShardId| {
            self.nodes.values().any(|node| node.listed && node.stored == Stored::No && node.parents.contains(id))
        };
        rows.iter().filter(|row| row.unreadable.is_none() && is_gone(&row.shard) && !is_needed(&row.shard)).collect()
    }

    /// Whether rows are left of shards that are gone.
    pub(crate) fn has_leftovers(&self) -> bool {
        self.nodes.values().any(|node| node.gone && node.stored != Stored::No)
    }

    /// The shards that are to be read and are not at their end, and whose parents are: some worker should read them.
    pub(crate) fn unread(&self) -> Vec<ShardId> {
        let is_due = |id: &ShardId, node: &Node| {
            self.wanted(id)
                && !node.gone
                && node.life != ShardState::Ended
                && node.parents.iter().all(|parent| self.done(parent))
        };
        self.nodes.iter().filter(|(id, node)| is_due(id, node)).map(|(id, _)| id.clone()).collect()
    }

    /// A row was removed from the store.
    pub(crate) fn forgotten(&mut self, id: &ShardId) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.stored = Stored::No;
        }
    }

    /// Learns a whole listing.
    pub(crate) fn listed(&mut self, listing: &ShardListing) -> Learned {
        let ShardListing { asked_at, shards } = listing;
        let confirmed = |since: Instant| asked_at.saturating_duration_since(since) >= CONFIRMED_AFTER;
        let mut learned = Learned::default();
        let present: BTreeSet<&ShardId> = shards.iter().map(|shard| &shard.id).collect();
        for shard in &**shards {
            let node = self.nodes.entry(shard.id.clone());
            let node = node.or_insert_with(|| Node::new(Vec::new(), false, *asked_at));
            if !node.listed && !shard.closed {
                node.seen_open = true;
            }
            node.parents.clone_from(&shard.parents);
            node.listed = true;
            (node.gone, node.missing_since) = (false, None);
            // An older listing than the one before may still show it open.
            node.closed |= shard.closed;
            learned.recreated |= node.begin.is_some() && shard.begin.is_some() && node.begin != shard.begin;
            node.begin = shard.begin.clone().or(node.begin.take());
            let is_doubted = !node.closed
                && node.life == ShardState::Ended
                && node.end_believed_at.is_some_and(|believed| believed <= *asked_at);
            node.contradicted_since = is_doubted.then(|| node.contradicted_since.unwrap_or(*asked_at));
            if node.contradicted_since.is_some_and(confirmed) {
                learned.contradicted.push(shard.id.clone());
            }
        }
        self.listed_at = Some(*asked_at);
        self.wants_listing = self.wants_listing.filter(|since| since > asked_at);
        self.note_missing_parents(*asked_at);
        for (id, node) in &mut self.nodes {
            if present.contains(id) || node.known_since > *asked_at {
                continue;
            }
            node.listed = false;
            let since = *node.missing_since.get_or_insert(*asked_at);
            // A shard that is being read finds out alone.
            if node.gone || node.life == ShardState::Reading || !confirmed(since) {
                continue;
            }
            node.gone = true;
            if node.life != ShardState::Ended && !matches!(node.checkpoint, None) {
                learned.gone.push(id.clone());
            }
        }
        self.prune();
        self.judge_vanished();
        learned
    }

    /// A parent that no listing has shown may be past retention, or missing in this listing alone. Where nothing is stored
    /// of the child, it waits until that is known.
    fn note_missing_parents(&mut self, asked_at: Instant) {
        if self.explicit.is_some() {
            return;
        }
        let waiting = self.nodes.values().filter(|node| {
            node.listed
                && node.stored == Stored::No
                && matches!(node.life, ShardState::WaitingForParents | ShardState::Unowned)
        });
        let missing: Vec<ShardId> = waiting
            .flat_map(|node| &node.parents)
            .filter(|parent| !self.nodes.contains_key(*parent))
            .cloned()
            .collect();
        for id in missing {
            self.nodes.insert(id, Node::new(Vec::new(), false, asked_at));
        }
    }

    /// Forgets shards that are gone, unless a row of theirs is left, or a child that is not ended has to know of them.
    fn prune(&mut self) {
        let needed: BTreeSet<ShardId> = self
            .nodes
            .values()
            .filter(|node| node.life != ShardState::Ended && !node.gone)
            .flat_map(|node| node.parents.iter().cloned())
            .collect();
        self.nodes.retain(|id, node| !node.gone || node.stored != Stored::No || needed.contains(id));
    }

    /// When the next listing may confirm what the last one left open.
    pub(crate) fn judges_at(&self) -> Option<Instant> {
        let open = self.nodes.values().filter_map(|node| {
            let missing = node.missing_since.filter(|_| !node.gone && node.life != ShardState::Reading);
            missing.into_iter().chain(node.contradicted_since).min()
        });
        open.min().map(|since| since + CONFIRMED_AFTER)
    }

    /// What was stored of a shard was set aside: nothing of it was read.
    pub(crate) fn set_aside(&mut self, id: &ShardId) {
        if let Some(node) = self.nodes.get_mut(id)
            && node.life != ShardState::Reading
        {
            node.life = ShardState::WaitingForParents;
            node.checkpoint = None;
            node.stored = Stored::No;
            (node.end_believed_at, node.contradicted_since, node.vanished) = (None, None, None);
        }
    }

    /// The rows of former streams, among those of one that was created at this time.
    pub(crate) fn former<'r>(&self, rows: &'r [Row], created: Option<i64>) -> FormerRows<'r> {
        FormerRows::among(rows, created, |shard| self.nodes.get(shard)?.begin.as_ref())
    }

    /// Learns the children that the end of a shard names.
    pub(crate) fn children(&mut self, children: &[ChildShard], now: Instant) {
        for child in children {
            if child.parents.iter().any(|parent| !self.nodes.contains_key(parent)) {
                self.wants_listing = Some(now);
            }
            // Born before our eyes.
            let node = self.nodes.entry(child.id.clone());
            let node = node.or_insert_with(|| Node::new(child.parents.clone(), true, now));
            if !node.listed {
                // Listings that did not show it were of an earlier state.
                (node.known_since, node.missing_since, node.gone) = (now, None, false);
            }
        }
    }

    /// How many shards are known.
    pub(crate) fn len(&self) -> usize {
        self.nodes.values().filter(|node| node.missing_since.is_none()).count()
    }

    /// Whether a listing is needed before all that waits can be judged.
    pub(crate) fn wants_listing(&self) -> bool {
        self.wants_listing.is_some()
            || self.nodes.values().any(|node| node.vanished.is_some() && node.life != ShardState::Reading)
    }

    /// The shards that may be read now and aren't, oldest id first.
    pub(crate) fn readable(&mut self) -> Vec<ShardId> {
        let ready: Vec<ShardId> = self
            .nodes
            .iter()
            .filter(|(id, node)| {
                self.wanted(id)
                    && node.vanished.is_none()
                    && node.missing_since.is_none()
                    && !node.unreadable
                    && match node.life {
                        ShardState::Unowned => true,
                        ShardState::WaitingForParents => {
                            (node.listed || self.wants_listing.is_none())
                                && node.parents.iter().all(|parent| self.done(parent))
                        }
                        _ => false,
                    }
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in &ready {
            self.step(id, ShardState::parents_done);
        }
        ready
    }

    /// A parent need not be waited for when it is ended, not in the stream any more, or not ours to read.
    fn done(&self, parent: &ShardId) -> bool {
        !self.wanted(parent) || self.nodes.get(parent).is_none_or(|node| node.life == ShardState::Ended || node.gone)
    }

    fn wanted(&self, id: &ShardId) -> bool {
        self.explicit.as_ref().is_none_or(|explicit| explicit.contains(id))
    }

    /// Where a shard begins, given its stored place.
    pub(crate) fn start(&self, id: &ShardId, checkpoint: &Option<Checkpoint>) -> StartPosition {
        if let Some(Checkpoint::After(after)) = checkpoint {
            return StartPosition::After(after.clone());
        }
        let Fresh::At(time) = self.fresh else { return StartPosition::Oldest };
        let parents = self.nodes.get(id).map_or(&[][..], |node| &node.parents);
        let follows_one_we_read = parents.iter().any(|parent| {
            self.nodes.get(parent).is_some_and(|node| match &node.checkpoint {
                Some(Checkpoint::ShardEnd(last)) => last.is_some() || node.seen_open,
                Some(Checkpoint::After(_)) => true,
                None => false,
            })
        });
        if follows_one_we_read { StartPosition::Oldest } else { StartPosition::At(time) }
    }

    /// Whether the shard was open when it was first seen.
    pub(crate) fn seen_open(&self, id: &ShardId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.seen_open)
    }

    /// The shard was claimed.
    pub(crate) fn claimed(&mut self, id: &ShardId) {
        self.step(id, ShardState::claimed);
    }

    /// The shard was given back, or could not be claimed.
    pub(crate) fn released(&mut self, id: &ShardId) {
        self.step(id, ShardState::released);
        self.judge_vanished();
    }

    /// The end of the shard is stored.
    pub(crate) fn ended(&mut self, id: &ShardId, last: Option<SequenceNumber>) {
        self.step(id, ShardState::ended);
        if let Some(node) = self.nodes.get_mut(id) {
            node.checkpoint = Some(Checkpoint::ShardEnd(last));
        }
    }

    /// Shards that are ours by what this knows.
    pub(crate) fn reading(&self) -> Vec<ShardId> {
        self.nodes.iter().filter(|(_, node)| node.life == ShardState::Reading).map(|(id, _)| id.clone()).collect()
    }

    fn step(&mut self, id: &ShardId, step: impl Fn(ShardState) -> ShardState) {
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
            explicit.iter().all(|id| self.nodes.get(id).is_some_and(|node| node.life == ShardState::Ended || node.gone))
        })
    }
}

impl Node {
    fn new(parents: Vec<ShardId>, seen_open: bool, known_since: Instant) -> Self {
        Self {
            known_since,
            parents,
            life: ShardState::WaitingForParents,
            listed: false,
            seen_open,
            closed: false,
            checkpoint: None,
            stored: Stored::No,
            vanished: None,
            begin: None,
            unreadable: false,
            missing_since: None,
            gone: false,
            end_believed_at: None,
            contradicted_since: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::ListedShard;

    fn shard(id: &str, parents: &[&str], closed: bool) -> ListedShard {
        ListedShard { id: id.into(), parents: ids(parents), closed, begin: None }
    }

    fn row(id: &str, checkpoint: Option<Checkpoint>) -> Row {
        Row::new(id, checkpoint)
    }

    fn theirs(id: &str, checkpoint: Option<Checkpoint>) -> Row {
        Row { foreign: true, ..row(id, checkpoint) }
    }

    fn ids(ids: &[&str]) -> Vec<ShardId> {
        ids.iter().map(|id| ShardId::from(*id)).collect()
    }

    fn number(text: &str) -> SequenceNumber {
        SequenceNumber::new(text).unwrap()
    }

    /// Learns a listing that was asked for now.
    fn listed(topology: &mut Topology, shards: Vec<ListedShard>) -> Vec<ShardId> {
        listed_after(topology, Duration::ZERO, shards).gone
    }

    /// Learns a listing that was asked for this much later.
    fn listed_after(topology: &mut Topology, after: Duration, shards: Vec<ListedShard>) -> Learned {
        topology.listed(&ShardListing { asked_at: Instant::now() + after, shards: shards.into() })
    }

    /// Learns two listings that say the same, so far apart that what they don't show is gone.
    fn listed_for_long(topology: &mut Topology, shards: &[ListedShard]) -> Vec<ShardId> {
        assert_eq!(listed(topology, shards.to_vec()), []);
        listed_after(topology, CONFIRMED_AFTER + Duration::from_secs(1), shards.to_vec()).gone
    }

    /// Claims and reads a shard to its end.
    fn read(topology: &mut Topology, id: &str, last: Option<&str>) {
        topology.claimed(&id.into());
        topology.ended(&id.into(), last.map(number));
    }

    fn split() -> Vec<ListedShard> {
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
    fn a_merge_waits_for_both_parents() {
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
    fn a_child_whose_other_parent_is_unknown_waits_for_a_listing() {
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
    fn parents_past_retention_are_not_waited_for() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        listed_for_long(&mut topology, &[shard("b", &["gone"], false)]);
        assert_eq!(topology.readable(), ids(&["b"]));
        assert!(topology.judges_at().is_none());
    }

    #[test]
    fn parent_that_one_listing_lacks_is_waited_for() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        listed(&mut topology, vec![shard("b", &["a"], false)]);
        assert_eq!(topology.readable(), []);
        assert!(topology.judges_at().is_some());
        listed(&mut topology, split());
        assert_eq!(topology.readable(), ids(&["a"]));
        topology.claimed(&"a".into());
        topology.released(&"a".into());
        // Another worker reads it, which a listing that lacks it does not end.
        listed(&mut topology, vec![shard("b", &["a"], false)]);
        assert_eq!(topology.readable(), []);
        listed(&mut topology, split());
        assert_eq!(topology.readable(), ids(&["a"]));
    }

    #[test]
    fn child_that_was_begun_does_not_wait_for_parents_past_retention() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.learn(&[row("b", Some(Checkpoint::After(number("5"))))], Instant::now());
        listed(&mut topology, vec![shard("b", &["gone"], false)]);
        assert_eq!(topology.readable(), ids(&["b"]));
    }

    #[test]
    fn child_that_an_end_names_is_not_gone_because_listings_lag() {
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
    fn shard_that_begins_elsewhere_is_of_a_stream_made_again() {
        let begins = |at: &str| vec![ListedShard { begin: Some(number(at)), ..shard("a", &[], false) }];
        let mut topology = Topology::new(None, Fresh::Oldest);
        for listing in [begins("100"), vec![shard("a", &[], false)], begins("100")] {
            assert!(!listed_after(&mut topology, Duration::ZERO, listing).recreated);
        }
        assert!(listed_after(&mut topology, Duration::ZERO, begins("200")).recreated);
    }

    #[test]
    fn end_of_an_open_shard_is_doubted_where_the_row_does_not_say_of_which_stream_it_is() {
        let open = || vec![shard("a", &[], false)];
        let late = CONFIRMED_AFTER + Duration::from_secs(1);
        for (created, doubted) in [(None, ids(&["a"])), (Some(5), ids(&[]))] {
            let mut topology = Topology::new(None, Fresh::Oldest);
            topology.learn(&[Row { created, ..row("a", Some(Checkpoint::ShardEnd(None))) }], Instant::now());
            assert_eq!(listed_after(&mut topology, Duration::ZERO, open()).contradicted, []);
            assert_eq!(listed_after(&mut topology, late, open()).contradicted, doubted);
            for id in &doubted {
                topology.set_aside(id);
                assert_eq!(topology.readable(), ids(&["a"]));
            }
        }
        // A listing that shows it closed settles it, whatever an older one says afterwards.
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
    fn rows_of_former_streams_say_so_or_lie_before_their_shard() {
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
    fn what_is_gone_leaves_nothing_behind() {
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
            topology.start(&"a".into(), &Some(Checkpoint::After(number("5")))),
            StartPosition::After(number("5"))
        );
        read(&mut topology, "a", Some("9"));
        assert_eq!(topology.readable(), ids(&["b"]));
        assert_eq!(topology.start(&"b".into(), &None), StartPosition::Oldest);
        read(&mut topology, "b", Some("12"));
        assert_eq!(topology.readable(), ids(&["c"]));
        assert_eq!(topology.start(&"c".into(), &None), StartPosition::Oldest);
    }

    #[test]
    fn children_created_while_start_is_latest() {
        let mut topology = Topology::new(None, Fresh::At(100));
        listed(&mut topology, vec![shard("a", &[], false)]);
        topology.readable();
        assert_eq!(topology.start(&"a".into(), &None), StartPosition::At(100));
        topology.claimed(&"a".into());
        topology.children(&[ChildShard { id: "b".into(), parents: ids(&["a"]) }], Instant::now());
        topology.ended(&"a".into(), None);
        assert_eq!(topology.readable(), ids(&["b"]));
        assert_eq!(topology.start(&"b".into(), &None), StartPosition::Oldest);
    }

    #[test]
    fn a_shard_that_was_closed_before_latest_does_not_make_its_children_old() {
        let mut topology = Topology::new(None, Fresh::At(100));
        listed(&mut topology, split());
        topology.readable();
        read(&mut topology, "a", None);
        assert_eq!(topology.start(&"b".into(), &None), StartPosition::At(100));
    }

    #[test]
    fn closed_shards_never_read_before() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        listed(&mut topology, split());
        assert_eq!(topology.readable(), ids(&["a"]));
        assert_eq!(topology.start(&"a".into(), &None), StartPosition::Oldest);
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
    fn a_whole_stream_never_ends() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        listed(&mut topology, vec![shard("a", &[], true)]);
        topology.readable();
        read(&mut topology, "a", None);
        assert!(!topology.all_ended());
    }

    #[test]
    fn what_is_claimed_is_read_until_it_is_released_or_ended() {
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
    fn a_shard_was_open_if_it_was_so_when_it_was_first_seen() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        listed(&mut topology, vec![shard("a", &[], true), shard("b", &[], false)]);
        listed(&mut topology, vec![shard("a", &[], true), shard("b", &[], true)]);
        topology.children(&[ChildShard { id: "c".into(), parents: ids(&["b"]) }], Instant::now());
        assert_eq!(topology.len(), 3);
        assert_eq!(["a", "b", "c", "x"].map(|id| topology.seen_open(&id.into())), [false, true, true, false]);
    }

    #[test]
    fn what_was_taken_for_ended_and_is_not_is_read() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.learn(&[theirs("b", Some(Checkpoint::After(number("5"))))], Instant::now());
        listed(&mut topology, vec![shard("a", &[], true), shard("b", &["a"], false)]);
        assert_eq!(topology.ended_elsewhere(), ids(&["a"]));
        topology.not_ended(&"a".into());
        assert_eq!(topology.readable(), ids(&["a"]));
    }

    #[test]
    fn a_released_shard_is_readable_again() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        listed(&mut topology, vec![shard("a", &[], false)]);
        topology.readable();
        topology.claimed(&"a".into());
        topology.released(&"a".into());
        assert_eq!(topology.readable(), ids(&["a"]));
    }

    #[test]
    fn what_is_gone_before_it_was_read_is_told() {
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
        // The other one reads b, and is at its end, but not everything is acked.
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
        topology.learn(&[theirs("c", Some(Checkpoint::After(number("5"))))], Instant::now());
        listed(&mut topology, shards);
        assert_eq!(topology.ended_elsewhere(), ids(&["b", "a"]));
        assert_eq!(topology.ended_elsewhere(), []);
        assert_eq!(topology.readable(), ids(&["c", "d"]));
    }

    #[test]
    fn a_row_that_connect_removes_is_the_end_of_the_shard() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.learn(&[theirs("a", Some(Checkpoint::After(number("5"))))], Instant::now());
        listed(&mut topology, split());
        assert_eq!(topology.ended_elsewhere(), []);
        assert_eq!(topology.readable(), ids(&["a"]));
        topology.learn(&[], Instant::now());
        assert_eq!(topology.readable(), ids(&["b", "c"]));
    }

    #[test]
    fn a_row_of_ours_that_somebody_removed_is_no_end() {
        let mut topology = Topology::new(None, Fresh::Oldest);
        topology.learn(&[row("a", Some(Checkpoint::After(number("5"))))], Instant::now());
        listed(&mut topology, split());
        topology.learn(&[], Instant::now());
        assert_eq!(topology.readable(), ids(&["a"]));
    }

    #[test]
    fn rows_are_forgotten_when_nothing_depends_on_them() {
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
    fn a_listing_says_nothing_of_what_is_younger() {
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
    fn a_listing_says_all_of_what_was_known_when_it_was_asked_for() {
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

    #[test]
    fn a_row_that_connect_removes_is_judged_by_a_listing_that_is_younger() {
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
    fn a_row_that_connect_removes_after_we_took_it_is_the_end_of_the_shard() {
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
}
