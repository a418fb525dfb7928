//! A checkpoint file has no leases: its one process holds every shard that it reads, from its start to its end.

use std::collections::BTreeMap;

use kinesis_simulator::{Item, RowWritten};
use serde_json::{Value, json};

use super::book::Claim;
use super::{Oracle, Position};

impl Oracle {
    /// A new process holds nothing yet.
    pub(super) fn started_on_file(&mut self) {
        for book in self.books.values_mut() {
            (book.holder, book.asked) = (None, None);
            book.claims.clear();
            book.in_flight.clear();
        }
    }

    /// A worker that is given records of a shard holds it, from where the file says.
    pub(super) fn claim_in_file(&mut self, worker: &str, number: &str) {
        let Some(id) = Position::parse(number).map(|position| position.number.shard()) else { return };
        let now = self.now;
        let Some(book) = self.books.get_mut(&id).filter(|book| !book.claims.contains_key(worker)) else { return };
        self.counts.claims += 1;
        let claim = Claim { start: book.stored, number: self.counts.claims, released: None, asked: false };
        book.claims.insert(worker.to_owned(), claim);
        (book.holder, book.claimed) = (Some(worker.to_owned()), now);
    }

    /// A worker has stored something: these rows were in its file before, and these are now.
    pub(crate) fn file(
        &mut self,
        worker: &str,
        before: &BTreeMap<String, Value>,
        after: &BTreeMap<String, Value>,
        pins: &[i64],
    ) {
        for pin in pins {
            self.pin(&item(json!({ "Latest": { "N": pin.to_string() } })));
        }
        let shards = before.keys().chain(after.keys().filter(|shard| !before.contains_key(*shard)));
        for shard in shards.filter(|shard| before.get(*shard) != after.get(*shard)) {
            let (before, after) = (before.get(shard), after.get(shard));
            // The first row of a shard is written by its holder, too.
            let is_first = before.is_none_or(|before| after.is_some_and(|after| before["created"] != after["created"]));
            let first = after.filter(|_| is_first).map(|after| json!({ "created": after["created"] }));
            let row = |row: &Value| file_row(worker, shard, row);
            let (before, after) = (first.as_ref().or(before).map(row), after.map(row));
            let row = RowWritten { by: worker, sent: None, before: before.as_ref(), after: after.as_ref() };
            self.lease_row(&row, shard);
        }
    }
}

/// A row of the file, as a table would have it.
fn file_row(worker: &str, shard: &str, row: &Value) -> Item {
    let within = row["within"]
        .as_array()
        .map(|within| format!("{}/{}", within[0].as_str().unwrap_or_default(), within[1].as_u64().unwrap_or_default()));
    let mut attributes = json!({
        "ShardID": { "S": shard },
        "ClientID": { "S": worker },
        "LeaseID": { "S": "file" },
        "SequenceNumber": { "S": row["after"].as_str().unwrap_or_default() },
        "AggregatePosition": { "S": within.unwrap_or_default() },
        "Ended": { "BOOL": row["ended"].as_bool().unwrap_or_default() },
    });
    if let Some(created) = row["created"].as_i64() {
        attributes["StreamCreated"] = json!({ "N": created.to_string() });
    }
    item(attributes)
}

fn item(attributes: Value) -> Item {
    serde_json::from_value(attributes).unwrap_or_default()
}
