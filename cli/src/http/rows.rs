//! Which shards are shown, in which order, and what is said of each and of each change?
//!
//! The page and `kinesis-input top` show the same.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::query::Sort;
use super::status::{Changed, Fleet, FleetShard, Input, Shard};
use super::text::{count, duration, some};

/// A worker that sent no heartbeat for this long is marked.
pub(crate) const SILENT_SECONDS: i64 = 60;

/// A row of the table of shards: one of a worker that was asked, or one that only the lease table knows.
pub(crate) struct Row<'a> {
    pub(crate) stream: &'a str,
    pub(crate) shard: &'a str,
    pub(crate) owner: Option<&'a str>,
    /// What a worker that was asked says of the shard.
    pub(crate) own: Option<&'a Shard>,
    /// What the lease table says of the shard.
    pub(crate) leased: Option<&'a FleetShard>,
}

impl Row<'_> {
    fn lag(&self) -> f64 {
        self.own.map_or(-1.0, |own| own.lag_seconds)
    }

    fn rate(&self) -> f64 {
        self.own.and_then(|own| own.rates.read_records).unwrap_or(-1.0)
    }

    fn in_flight(&self) -> u64 {
        self.own.map_or(0, |own| own.in_flight_records)
    }

    /// The sequence number up to which everything is acknowledged, or else stored.
    pub(crate) fn position(&self) -> Option<&str> {
        let acked = self.own.and_then(|own| own.position.as_deref());
        acked.or_else(|| self.leased.and_then(|leased| leased.position.as_deref()))
    }

    /// What is wrong with the shard, and how bad that is.
    pub(crate) fn trouble(&self) -> Option<(&'static str, String)> {
        if let Some(own) = self.own {
            if let Some(condition) = &own.condition {
                return Some(("bad", condition.clone()));
            }
            return own.held_by_limit.then(|| ("warn", "waits for checkpoint_limit".to_owned()));
        }
        let leased = self.leased?;
        if let Some(remark) = &leased.remark {
            return Some(("bad", remark.clone()));
        }
        match (&leased.owner, leased.owner_seen_seconds_ago) {
            (None, _) => Some(("warn", "no worker reads it".to_owned())),
            (Some(_), None) if leased.other_program => None,
            (Some(_), None) => Some(("bad", "its owner no longer writes heartbeats".to_owned())),
            (Some(_), Some(ago)) if ago >= SILENT_SECONDS => {
                Some(("bad", format!("its lease has expired: no heartbeat for {}", duration(ago.unsigned_abs()))))
            }
            _ => None,
        }
    }

    fn contains(&self, filter: &str) -> bool {
        let error = self.own.and_then(|own| own.last_error.as_deref()).unwrap_or_default();
        let trouble = self.trouble().map(|(_, text)| text).unwrap_or_default();
        let cells = [self.stream, self.shard, self.owner.unwrap_or_default(), error, &trouble];
        cells.iter().any(|cell| cell.to_lowercase().contains(filter))
    }
}

/// The rows of the shards that these inputs read, and of all others in the lease table that are not read to their end.
pub(crate) fn of<'a>(inputs: impl IntoIterator<Item = &'a Input>, fleet: &'a Fleet) -> Vec<Row<'a>> {
    let leased = |leased: &'a FleetShard| {
        // The table calls a stream by its name or by its ARN.
        let stream = leased.stream.rsplit_once(":stream/").map_or(leased.stream.as_str(), |(_, name)| name);
        ((stream, leased.shard.as_str()), leased)
    };
    let mut others: HashMap<_, _> = fleet.shards.iter().map(leased).collect();
    let mut rows = Vec::new();
    for input in inputs {
        for own in &input.shards {
            let leased = others.remove(&(own.stream.as_str(), own.shard.as_str()));
            let owner = Some(input.worker.as_str());
            rows.push(Row { stream: &own.stream, shard: &own.shard, owner, own: Some(own), leased });
        }
    }
    for ((stream, shard), leased) in others {
        if leased.state != "ended" {
            rows.push(Row { stream, shard, owner: leased.owner.as_deref(), own: None, leased: Some(leased) });
        }
    }
    rows
}

/// Keeps the rows that contain this text, and sorts them.
pub(crate) fn arrange(rows: &mut Vec<Row<'_>>, filter: &str, by: Sort) {
    let filter = filter.to_lowercase();
    rows.retain(|row| row.contains(&filter));
    sort(rows, by);
}

fn sort(rows: &mut [Row<'_>], by: Sort) {
    let name = |row: &Row<'_>| (row.stream.to_owned(), row.shard.to_owned());
    // What is wrong comes first among equals.
    let is_well = |row: &Row<'_>| row.trouble().is_none();
    let order = |a: &Row<'_>, b: &Row<'_>| match by {
        Sort::Lag => b.lag().total_cmp(&a.lag()),
        Sort::Rate => b.rate().total_cmp(&a.rate()),
        Sort::InFlight => b.in_flight().cmp(&a.in_flight()),
        Sort::Shard => Ordering::Equal,
    };
    rows.sort_by(|a, b| {
        let wrong = if by == Sort::Shard { Ordering::Equal } else { is_well(a).cmp(&is_well(b)) };
        order(a, b).then(wrong).then_with(|| name(a).cmp(&name(b)))
    });
}

/// What a change was, and whether that is good, a warning or bad; nothing if it is neither.
pub(crate) fn change(change: &Changed) -> (&'static str, String) {
    let shards = some(change.count, "shard", "shards");
    let parts = |one: &str| {
        if change.count == 1 { one.to_owned() } else { format!("{} parts {one}", count(change.count)) }
    };
    match change.kind.as_str() {
        "claimed" => ("", format!("claimed {shards}")),
        "took_over" => ("warn", format!("took {shards} over")),
        "released" => ("", format!("released {shards}")),
        "lost" => ("bad", format!("lost {shards}")),
        "ended" => ("", format!("read {shards} to the end")),
        "leases_expired" => ("bad", "the leases expired; nothing is read".to_owned()),
        "leases_renewed" => ("good", "the leases are valid again".to_owned()),
        "degraded" => ("bad", parts("degraded")),
        "recovered" => ("good", parts("recovered")),
        other => ("", other.replace('_', " ")),
    }
}

/// The other worker, or the reason.
pub(crate) fn beside(change: &Changed) -> Option<String> {
    let detail = change.detail.as_deref()?;
    Some(match change.kind.as_str() {
        "claimed" | "took_over" => format!("from {detail}"),
        "released" | "lost" => format!("to {detail}"),
        _ => format!("({detail})"),
    })
}
