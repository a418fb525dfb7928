//! Which shards exist, which are children of which, and which may be read now?
//!
//! This module is pure. It learns from listings, from the children that a shard end names, and from the store. It says
//! which shards may be read and where each starts. A listing may be older than what is known from elsewhere, and then
//! it proves nothing about that.

#[path = "foreign_rows.rs"]
mod foreign_rows;

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use foreign_rows::RowHistory;

use crate::lease::{Checkpoint, Row};
use crate::model::{ChildShard, HashRange, SequenceNumber, ShardId, ShardListing, ShardState, StartPosition};
use crate::reading::listing::CONFIRMED_AFTER;

/// The start of a shard for which no position is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// The oldest record that exists.
    Oldest,
    /// This time, in milliseconds since 1970.
    At(i64),
}

/// The shards of one stream.
#[derive(Debug)]
pub(crate) struct Topology {
    /// All known shards.
    nodes: BTreeMap<ShardId, Node>,
    /// The only shards to read, if the configuration names them. Their children are not followed.
    explicit: Option<BTreeSet<ShardId>>,
    /// Where a shard without a stored position starts.
    fresh: Fresh,
    /// When the last listing was requested.
    listed_at: Option<Instant>,
    /// Since when a shard, or a parent, has been known that no listing has shown yet.
    wants_listing: Option<Instant>,
    /// Whether the service has to say whether this is still the same stream.
    is_doubted: bool,
}

/// The findings of a listing that are not plain from the shards themselves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    /// The shards that are gone from the stream before they were read to the end.
    pub(crate) gone: Vec<ShardId>,
    /// The shards whose end is stored although they are open: their rows belong to another stream.
    pub(crate) contradicted: Vec<ShardId>,
    /// Whether a shard starts at another position than before, which means that the stream was deleted and recreated.
    pub(crate) recreated: bool,
    /// Whether something would be explained, since the service was last asked about it, by a stream that was deleted and
    /// recreated: a stored position lies before the start of its shard, the end of an open shard is stored, or there is
    /// a new shard that no other shard became.
    pub(crate) doubted: bool,
}

/// The rows of a former stream of the same name and ARN.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FormerRows<'r> {
    pub(crate) rows: Vec<&'r Row>,
    /// Whether a row belongs to a stream that was created after the known one.
    pub(crate) recreated: bool,
}

impl<'r> FormerRows<'r> {
    /// Finds the rows of former streams: those that say so, and those whose position lies before the start of their
    /// shard.
    fn among<'b>(
        rows: &'r [Row],
        created: Option<i64>,
        begin_of: impl Fn(&ShardId) -> Option<&'b SequenceNumber>,
    ) -> Self {
        let mut found = Self::default();
        for row in rows {
            let checkpoint = row.checkpoint.as_ref().and_then(Checkpoint::reached);
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

    /// The shards of the rows.
    pub(crate) fn shards(&self) -> BTreeSet<ShardId> {
        self.rows.iter().map(|row| row.shard.clone()).collect()
    }
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, learned from another place")]
struct Node {
    /// Since when the shard has been known. A listing that was requested earlier doesn't prove that it is gone.
    known_since: Instant,
    parents: Vec<ShardId>,
    life: ShardState,
    /// Whether the last listing shows the shard.
    listed: bool,
    /// Whether the shard was open when it was first seen. The records of its children are then newer than the start of
    /// this input.
    seen_open: bool,
    /// Whether a listing has shown the shard closed. A closed shard never opens again.
    closed: bool,
    /// The stored checkpoint, as far as it is known.
    checkpoint: Option<Checkpoint>,
    /// Where the shard begins without a checkpoint, if its row says so.
    begins: Option<StartPosition>,
    /// The origin of the shard's row, and whether its absence is still to be understood.
    row: RowHistory,
    /// The first position of the shard, if a listing has shown it.
    begin: Option<SequenceNumber>,
    /// The hash keys of the shard, if a listing has shown them.
    hash_range: Option<HashRange>,
    /// Whether the row of the shard can't be understood. Such a shard is not read.
    unreadable: bool,
    /// When the first listing that lacks the shard was requested, since the last listing that shows it.
    missing_since: Option<Instant>,
    /// Whether listings have lacked the shard for long enough.
    gone: bool,
    /// When the shard end was learned from a row.
    end_believed_at: Option<Instant>,
    /// Whether that row says that it belongs to this stream.
    end_is_of_this_stream: bool,
    /// When the first listing was requested that shows the shard open although its end is stored.
    contradicted_since: Option<Instant>,
}

impl Topology {
    pub(crate) fn new(explicit: Option<BTreeSet<ShardId>>, fresh: Fresh) -> Self {
        Self { nodes: BTreeMap::new(), explicit, fresh, listed_at: None, wants_listing: None, is_doubted: false }
    }

    /// Makes the topology of a recreated stream: the same shards are to be read from the same start, and nothing is
    /// known yet.
    pub(crate) fn anew(&self) -> Self {
        Self::new(self.explicit.clone(), self.fresh)
    }

    /// Learns all rows, as they were at this time. For shards that this worker reads, its own knowledge is newer.
    pub(crate) fn learn(&mut self, rows: &[Row], at: Instant) {
        let known: BTreeSet<&ShardId> = rows.iter().map(|row| &row.shard).collect();
        for (id, node) in &mut self.nodes {
            if !known.contains(id) {
                node.row.is_missing(at, node.life);
            }
        }
        for row in rows {
            let node = self.nodes.entry(row.shard.clone()).or_insert_with(|| {
                // Only a listing tells which parents the shard waits for.
                self.wants_listing = Some(at);
                Node::new(Vec::new(), false, at)
            });
            node.row.is_seen(row);
            node.unreadable = row.unreadable.is_some();
            if node.life == ShardState::Reading || node.unreadable {
                continue;
            }
            node.checkpoint.clone_from(&row.checkpoint);
            node.begins.clone_from(&row.begins);
            if matches!(row.checkpoint, Some(Checkpoint::ShardEnd(_))) && node.life != ShardState::Ended {
                node.life = ShardState::Ended;
                (node.end_believed_at, node.end_is_of_this_stream) = (Some(at), row.created.is_some());
            }
        }
        self.judge_vanished();
    }

    /// Returns the rows of shards that the last listings lack and that nothing depends on. The listing must be newer
    /// than the rows, because a shard in use may have been created in between.
    pub(crate) fn garbage<'r>(&self, rows: &'r [Row]) -> Vec<&'r Row> {
        let is_gone = |id: &ShardId| self.nodes.get(id).is_some_and(|node| node.gone);
        // The start of a child without a row may depend on the row of its parent.
        let is_needed = |id: &ShardId| {
            self.nodes.values().any(|node| node.listed && !node.row.exists() && node.parents.contains(id))
        };
        rows.iter().filter(|row| row.unreadable.is_none() && is_gone(&row.shard) && !is_needed(&row.shard)).collect()
    }

    /// Whether rows are left of shards that are gone.
    pub(crate) fn has_leftovers(&self) -> bool {
        self.nodes.values().any(|node| node.gone && node.row.exists())
    }

    /// Returns the shards that some worker should read: they are wanted, have not ended, and their parents have.
    pub(crate) fn unread(&self) -> Vec<ShardId> {
        let is_due = |id: &ShardId, node: &Node| {
            self.wanted(id)
                && !node.gone
                && node.life != ShardState::Ended
                && node.parents.iter().all(|parent| self.done(parent))
        };
        self.nodes.iter().filter(|(id, node)| is_due(id, node)).map(|(id, _)| id.clone()).collect()
    }

    /// Notes that a row was removed from the store.
    pub(crate) fn forgotten(&mut self, id: &ShardId) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.row.is_removed();
        }
    }

    /// Learns a whole listing.
    pub(crate) fn listed(&mut self, listing: &ShardListing) -> Learned {
        let ShardListing { asked_at, shards } = listing;
        let confirmed = |since: Instant| asked_at.saturating_duration_since(since) >= CONFIRMED_AFTER;
        let mut learned = Learned::default();
        let present: BTreeSet<&ShardId> = shards.iter().map(|shard| &shard.id).collect();
        let is_first = self.listed_at.is_none();
        // The stream may have been recreated between the answer that said which one it is, and this one.
        self.is_doubted |= is_first;
        for shard in &**shards {
            let node = self.nodes.entry(shard.id.clone());
            let node = node.or_insert_with(|| Node::new(Vec::new(), false, *asked_at));
            // Every shard that is added to a stream has parents.
            self.is_doubted |= !is_first && node.begin.is_none() && shard.begin.is_some() && shard.parents.is_empty();
            if !node.listed && !shard.closed {
                node.seen_open = true;
            }
            node.parents.clone_from(&shard.parents);
            node.listed = true;
            (node.gone, node.missing_since) = (false, None);
            // A listing older than the previous one may still show the shard open.
            node.closed |= shard.closed;
            learned.recreated |= node.begin.is_some() && shard.begin.is_some() && node.begin != shard.begin;
            node.begin = shard.begin.clone().or(node.begin.take());
            node.hash_range = shard.hash_range.or(node.hash_range);
            let position = node.checkpoint.as_ref().and_then(Checkpoint::reached);
            self.is_doubted |= position.zip(node.begin.as_ref()).is_some_and(|(position, begin)| position < begin);
            let is_doubted = !node.closed
                && node.life == ShardState::Ended
                && node.end_believed_at.is_some_and(|believed| believed <= *asked_at);
            node.contradicted_since = is_doubted.then(|| node.contradicted_since.unwrap_or(*asked_at));
            if node.contradicted_since.is_some_and(confirmed) {
                if node.end_is_of_this_stream {
                    self.is_doubted = true;
                } else {
                    learned.contradicted.push(shard.id.clone());
                }
            }
        }
        self.is_doubted |= learned.recreated || self.nodes.values().any(|node| node.row.raises_doubt());
        learned.doubted = self.is_doubted;
        self.listed_at = Some(*asked_at);
        self.wants_listing = self.wants_listing.filter(|since| since > asked_at);
        self.note_missing_parents(*asked_at);
        for (id, node) in &mut self.nodes {
            if present.contains(id) || node.known_since > *asked_at {
                continue;
            }
            node.listed = false;
            let since = *node.missing_since.get_or_insert(*asked_at);
            // The reader of a shard finds out by itself.
            if node.gone || node.life == ShardState::Reading || !confirmed(since) {
                continue;
            }
            node.gone = true;
            if node.life != ShardState::Ended && node.checkpoint.is_some() {
                learned.gone.push(id.clone());
            }
        }
        self.prune();
        self.judge_vanished();
        learned
    }

    /// Adds the parents that no listing has shown. Such a parent may be past retention, or missing only in this
    /// listing. A child without a row waits until that is known.
    fn note_missing_parents(&mut self, asked_at: Instant) {
        if self.explicit.is_some() {
            return;
        }
        let waiting = self.nodes.values().filter(|node| {
            node.listed
                && !node.row.exists()
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

    /// Removes shards that are gone, unless a row of them is left, or a child that has not ended depends on them.
    fn prune(&mut self) {
        let needed: BTreeSet<ShardId> = self
            .nodes
            .values()
            .filter(|node| node.life != ShardState::Ended && !node.gone)
            .flat_map(|node| node.parents.iter().cloned())
            .collect();
        self.nodes.retain(|id, node| !node.gone || node.row.exists() || needed.contains(id));
    }

    /// Returns when the next listing may confirm what the last one left open.
    pub(crate) fn judges_at(&self) -> Option<Instant> {
        let open = self.nodes.values().filter_map(|node| {
            let missing = node.missing_since.filter(|_| !node.gone && node.life != ShardState::Reading);
            // What the row of this stream says is judged by the service at each listing.
            let contradicted = node.contradicted_since.filter(|_| !node.end_is_of_this_stream);
            missing.into_iter().chain(contradicted).min()
        });
        open.min().map(|since| since + CONFIRMED_AFTER)
    }

    /// Notes that the row of a shard was set aside: nothing of the shard has been read.
    pub(crate) fn set_aside(&mut self, id: &ShardId) {
        if let Some(node) = self.nodes.get_mut(id)
            && node.life != ShardState::Reading
        {
            node.life = ShardState::WaitingForParents;
            (node.checkpoint, node.begins) = (None, None);
            node.row = RowHistory::default();
            (node.end_believed_at, node.contradicted_since) = (None, None);
        }
    }

    /// Finds the rows of former streams among the rows of a stream that was created at this time.
    pub(crate) fn former<'r>(&self, rows: &'r [Row], created: Option<i64>) -> FormerRows<'r> {
        FormerRows::among(rows, created, |shard| self.nodes.get(shard)?.begin.as_ref())
    }

    /// Notes that the service has confirmed that this is still the same stream.
    pub(crate) fn is_same_stream(&mut self) {
        self.is_doubted = false;
        self.nodes.values_mut().for_each(|node| node.row.is_of_this_stream());
    }

    /// Learns the children that a shard end names.
    pub(crate) fn children(&mut self, children: &[ChildShard], now: Instant) {
        for child in children {
            if child.parents.iter().any(|parent| !self.nodes.contains_key(parent)) {
                self.wants_listing = Some(now);
            }
            // The creation of the child was observed, so the child counts as seen open.
            let node = self.nodes.entry(child.id.clone());
            let node = node.or_insert_with(|| Node::new(child.parents.clone(), true, now));
            if !node.listed {
                // Listings that lack the child were from an earlier state.
                (node.known_since, node.missing_since, node.gone) = (now, None, false);
            }
        }
    }

    /// Returns how many shards are known.
    pub(crate) fn len(&self) -> usize {
        self.nodes.values().filter(|node| node.missing_since.is_none()).count()
    }

    /// Whether a listing is needed before all waiting shards can be judged.
    pub(crate) fn wants_listing(&self) -> bool {
        self.wants_listing.is_some()
            || self.nodes.values().any(|node| node.row.is_unexplained() && node.life != ShardState::Reading)
    }

    /// Returns the shards that may be read now and are not read yet, in the order of their ids.
    pub(crate) fn readable(&mut self) -> Vec<ShardId> {
        let ready: Vec<ShardId> = self
            .nodes
            .iter()
            .filter(|(id, node)| {
                self.wanted(id)
                    && !node.row.is_unexplained()
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

    /// Whether a parent need not be waited for, because it has ended, is gone from the stream, or is not to be read.
    fn done(&self, parent: &ShardId) -> bool {
        !self.wanted(parent) || self.nodes.get(parent).is_none_or(|node| node.life == ShardState::Ended || node.gone)
    }

    fn wanted(&self, id: &ShardId) -> bool {
        self.explicit.as_ref().is_none_or(|explicit| explicit.contains(id))
    }

    /// Returns where a shard starts, given its stored checkpoint.
    pub(crate) fn start(&self, id: &ShardId, checkpoint: Option<&Checkpoint>) -> StartPosition {
        if let Some(start) = checkpoint.and_then(Checkpoint::start) {
            return start;
        }
        if let Some(begins) = self.nodes.get(id).and_then(|node| node.begins.as_ref()) {
            return begins.clone();
        }
        let Fresh::At(time) = self.fresh else { return StartPosition::Oldest };
        let parents = self.nodes.get(id).map_or(&[][..], |node| &node.parents);
        let follows_one_we_read = parents.iter().any(|parent| {
            self.nodes.get(parent).is_some_and(|node| match &node.checkpoint {
                Some(Checkpoint::ShardEnd(last)) => last.is_some() || node.seen_open,
                Some(Checkpoint::After(_) | Checkpoint::Within(_)) => true,
                None => false,
            })
        });
        if follows_one_we_read { StartPosition::Oldest } else { StartPosition::At(time) }
    }

    /// The hash keys of a shard, if a listing has shown them.
    pub(crate) fn hash_range(&self, id: &ShardId) -> Option<HashRange> {
        self.nodes.get(id)?.hash_range
    }

    /// Whether the shard was open when it was first seen.
    pub(crate) fn seen_open(&self, id: &ShardId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.seen_open)
    }

    /// Notes that the shard was claimed.
    pub(crate) fn claimed(&mut self, id: &ShardId) {
        self.step(id, ShardState::claimed);
    }

    /// Notes that the shard was released, or could not be claimed.
    pub(crate) fn released(&mut self, id: &ShardId) {
        self.step(id, ShardState::released);
        self.judge_vanished();
    }

    /// Notes that the shard end is stored.
    pub(crate) fn ended(&mut self, id: &ShardId, last: Option<SequenceNumber>) {
        self.step(id, ShardState::ended);
        if let Some(node) = self.nodes.get_mut(id) {
            node.checkpoint = Some(Checkpoint::ShardEnd(last));
        }
    }

    /// Returns the shards that this worker reads, as far as the topology knows.
    pub(crate) fn reading(&self) -> Vec<ShardId> {
        self.nodes.iter().filter(|(_, node)| node.life == ShardState::Reading).map(|(id, _)| id.clone()).collect()
    }

    fn step(&mut self, id: &ShardId, step: impl Fn(ShardState) -> ShardState) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.life = step(node.life);
        }
    }

    /// Returns the configured shards that have no row and that no listing shows.
    pub(crate) fn missing(&self) -> Vec<ShardId> {
        let explicit = self.explicit.iter().flatten();
        explicit.filter(|id| !self.nodes.contains_key(*id)).cloned().collect()
    }

    /// Whether all shards that the configuration names have ended. A whole stream never ends.
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
            begins: None,
            row: RowHistory::default(),
            begin: None,
            hash_range: None,
            unreadable: false,
            missing_since: None,
            gone: false,
            end_believed_at: None,
            end_is_of_this_stream: false,
            contradicted_since: None,
        }
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
