//! A stored position or end is covered by acknowledgements, is stored by the holder of the lease, and never moves back.

use kinesis_simulator::kinesis::parse_shard_id;
use kinesis_simulator::{Item, RowWritten, flag, text};

use super::book::Claim;
use super::{Broken, Oracle, Position, time};

impl Oracle {
    pub(super) fn pin(&mut self, item: &Item) {
        let Some(pinned) = time(item, "Latest") else { return };
        if let Some(before) = self.scope.pinned.filter(|before| *before != pinned) {
            self.violate(Broken::Lost, format!("the time to begin at was moved from {before:?} to {pinned:?}"));
        }
        self.scope.pinned = Some(pinned);
        for book in self.books.values_mut() {
            book.advance(self.scope);
        }
    }

    pub(super) fn lease_row(&mut self, row: &RowWritten<'_>, shard: &str) {
        let Some(id) = parse_shard_id(shard) else { return };
        // The answer has seconds with a fraction, and may lose a millisecond on the way.
        let is_of_today = |item: &&Item| {
            let (Some(said), Some(created)) = (time(item, "StreamCreated"), self.created) else { return false };
            said.millis().abs_diff(created.millis()) <= 1
        };
        let before = row.before.filter(is_of_today);
        if row.after.is_some_and(|after| !is_of_today(&after)) {
            if before.is_some() {
                self.violate(
                    Broken::Unfenced,
                    format!("{} wrote {shard} of a former stream over one of the present stream", row.by),
                );
            }
            return;
        }
        if row.after.is_none() && before.is_none() {
            return;
        }
        let row = &RowWritten { before, ..*row };
        let holder = |item: &Item| text(item, "ClientID").map(ToOwned::to_owned);
        let position = |item: &Item| Position::stored(text(item, "SequenceNumber"), text(item, "AggregatePosition"));
        let before_holder = row.before.and_then(holder);
        let before_position = row.before.and_then(position);
        let Some(after) = row.after else {
            if self.known.contains(&id) {
                self.violate(Broken::Lost, format!("{} removed the row of {shard}", row.by));
            }
            return;
        };
        let (after_holder, after_position) = (holder(after), position(after));
        let ended = flag(after, "Ended");
        let was_ended = row.before.is_some_and(|before| flag(before, "Ended"));
        let progress = after_position != before_position || ended != was_ended;
        if progress && before_holder.as_deref() != Some(row.by) {
            let what = format!("{} stored a position of {shard}, which {before_holder:?} held", row.by);
            self.violate(Broken::Unfenced, what);
        }
        // The end of a shard is behind all of its positions.
        if (was_ended || after_position < before_position) && !ended {
            let what = format!("{} set {shard} back from {before_position:?} to {after_position:?}", row.by);
            self.violate(Broken::Unfenced, what);
        }
        if let Some(position) = after_position.filter(|_| after_position != before_position) {
            self.check_covered(id, Some(position), row.by);
        }
        if ended && !was_ended {
            self.check_covered(id, None, row.by);
        }
        let lease = |item: Option<&Item>| item.and_then(|item| text(item, "LeaseID")).map(ToOwned::to_owned);
        let claimed = after_holder.as_deref() == Some(row.by) && lease(row.before) != lease(Some(after));
        let requester = text(after, "WantedBy");
        self.note_request(id, row, requester);
        if claimed {
            self.check_claim(id, row.by, before_holder.as_deref());
        }
        let released = before_holder.as_deref() == Some(row.by) && after_holder != before_holder;
        if released && !ended {
            self.check_release(id, row, after_position);
        }
        let now = self.now;
        // The end of a shard, and the first claim of its child, are no moves: how late they come depends on the backlog.
        if !ended && !self.follows_an_end(id) && (claimed || after_holder != before_holder) {
            self.last_move = now;
        }
        let book = self.books.entry(id).or_default();
        book.stored = after_position;
        if ended && !was_ended {
            book.ended_by = Some((row.by.to_owned(), now));
        }
        book.ended = ended;
        if released && let Some(claim) = book.claims.get_mut(row.by) {
            (claim.released, claim.asked) = (Some(now), book.asked.is_some());
        }
        if requester.is_none() {
            book.requester = None;
        }
        if claimed {
            self.counts.claims += 1;
            self.counts.moves += u64::from(before_holder.is_some() && before_holder != after_holder);
            let claim = Claim { start: after_position, number: self.counts.claims, released: None, asked: false };
            book.claims.insert(row.by.to_owned(), claim);
            (book.claimed, book.asked) = (now, None);
        }
        book.holder = after_holder;
    }

    /// Checks that a claim of a shard is allowed.
    fn check_claim(&mut self, id: u32, by: &str, from: Option<&str>) {
        self.check_claim_after_stop(id, by);
        // The reader is a new one, which has not been refused anything yet.
        if let Some((_, refused)) = self.grants.get_mut(&id) {
            refused.retain(|other| other != by);
        }
        match from {
            Some(from) if from != by => self.check_taking(id, by, from),
            Some(_) => {}
            None => self.check_share_of_free(id, by),
        }
    }

    /// Checks that everything up to a position, or everything in the shard, is acknowledged.
    fn check_covered(&mut self, id: u32, position: Option<Position>, by: &str) {
        self.expire(id);
        let Some(book) = self.books.get(&id) else { return };
        let up_to = |position| book.puts.partition_point(|put| put.number <= position);
        let covered = position.map_or(book.puts.len(), up_to);
        let missing = book.puts[..covered].iter().find(|put| !put.acked && self.is_expected(put));
        if let Some(missing) = missing.map(|put| put.number) {
            let position = position.map_or_else(|| "its end".to_owned(), |position| position.to_string());
            let what = format!("{by} stored {position} of shard {id}, and {missing} is not acknowledged");
            self.violate(Broken::Lost, what);
        }
    }
}
