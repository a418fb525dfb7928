//! What does an operator see in the table, and what may an operator change?

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use jiff::Timestamp;

use super::errors::{failed, is_refusal};
use super::namespace::of_key;
use super::row::{self, Item, string, text};
use super::table::Table;
use super::{Checkpoint, FORMER, Row, STREAMS, StoreError, WORKERS};
use crate::lease::{Overview, SeenShard, SeenWorker, State};

impl Table {
    /// Reads all workers, and all leases or those of one stream as the table spells it. Without a stream and without a
    /// namespace, the rows of all namespaces are read.
    pub(crate) async fn overview(&self, stream: Option<&str>) -> Result<Overview, StoreError> {
        let items = match stream {
            None => self.scan("read the table").await?,
            Some(stream) => {
                let mut items = self.query("read the leases", stream).await?;
                items.extend(self.query("read who is alive", WORKERS).await?);
                items.extend(self.query("read where streams begin", STREAMS).await?);
                items
            }
        };
        let now = Timestamp::now();
        let mut seen = Overview::default();
        for item in &items {
            let Some((namespace, hash)) = string(item, "StreamID").map(of_key) else { continue };
            let namespace = namespace.map(ToOwned::to_owned);
            match hash {
                STREAMS => {
                    let stream = string(item, "ShardID").map(|arn| (namespace, arn.to_owned()));
                    seen.latest.extend(stream.zip(row::number(item, "Latest")));
                }
                FORMER => {}
                WORKERS => seen.workers.extend(worker(item, now).map(|worker| SeenWorker { namespace, ..worker })),
                stream => seen.shards.push(SeenShard { namespace, ..shard(stream, item, now) }),
            }
        }
        for shard in &mut seen.shards {
            let is_owner = |worker: &&mut SeenWorker| {
                worker.namespace == shard.namespace && shard.owner.as_ref() == Some(&worker.worker)
            };
            if let Some(owner) = seen.workers.iter_mut().find(is_owner) {
                owner.shards += 1;
                shard.owner_seen_seconds_ago = owner.seen_seconds_ago;
            }
        }
        seen.workers.sort_by(|a, b| (&a.namespace, &a.worker).cmp(&(&b.namespace, &b.worker)));
        seen.shards.sort_by(|a, b| (&a.namespace, &a.stream, &a.shard).cmp(&(&b.namespace, &b.stream, &b.shard)));
        Ok(seen)
    }

    /// Makes a shard free, if its owner and lease have not changed since it was read. Returns `false` if they have.
    pub(crate) async fn free(&self, shard: &SeenShard) -> Result<bool, StoreError> {
        let Some(owner) = &shard.owner else { return Ok(false) };
        let update = self.update(&shard.stream, &shard.shard).expression_attribute_values(":owner", text(owner));
        let update = unrenewed(update, shard.lease_until.as_deref());
        let remove = "REMOVE ClientID, LeaseTimeout, WantedBy, ClaimedAt";
        let update = if shard.other_program {
            update.update_expression(remove)
        } else {
            // With another `LeaseID` the old owner does not take this for a release of its own.
            update
                .expression_attribute_values(":freed", text(&format!("freed/{:016x}", fastrand::u64(..))))
                .update_expression(format!("SET LeaseID = :freed {remove}"))
        };
        match update.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_refusal(&error) => Ok(false),
            Err(error) => Err(failed("release a shard", &error)),
        }
    }

    /// Removes the row of a dead worker, and asks the others to rebalance.
    pub(crate) async fn remove_dead_worker(&self, worker: &str, heartbeat: Option<&str>) -> Result<(), StoreError> {
        if let Some(heartbeat) = heartbeat {
            self.remove_worker(worker, "Beat = :seen", heartbeat).await?;
        }
        for other in self.query("read who is alive", WORKERS).await?.iter().filter_map(row::worker) {
            self.wake(other.id.as_str()).await?;
        }
        Ok(())
    }
}

/// Adds the condition that the owner is the same and has not renewed the lease since it was read.
fn unrenewed(update: UpdateItemFluentBuilder, until: Option<&str>) -> UpdateItemFluentBuilder {
    match until {
        Some(until) => update
            .expression_attribute_values(":until", text(until))
            .condition_expression("ClientID = :owner AND LeaseTimeout = :until"),
        None => update.condition_expression("ClientID = :owner AND attribute_not_exists(LeaseTimeout)"),
    }
}

fn shard(stream: &str, item: &Item, now: Timestamp) -> SeenShard {
    let mut seen = SeenShard {
        state: State::Unreadable,
        owner: string(item, "ClientID").map(ToOwned::to_owned),
        lease_until: string(item, "LeaseTimeout").map(ToOwned::to_owned),
        requester: string(item, "WantedBy").map(ToOwned::to_owned),
        sequence_number: string(item, "SequenceNumber").map(ToOwned::to_owned),
        ..SeenShard::unread(stream, row::range(item))
    };
    match row::lease(item) {
        Row { unreadable: Some(what), .. } => seen.remark = Some(what),
        row => {
            seen.start = row.checkpoint.as_ref().and_then(Checkpoint::start).or_else(|| row.begins.clone());
            seen.state = match (&row.checkpoint, &row.hold) {
                (Some(Checkpoint::ShardEnd(_)), _) => State::Ended,
                (_, Some(_)) => State::Held,
                (_, None) => State::Free,
            };
            if let Some(hold) = &row.hold {
                seen.other_program = hold.epoch.is_none();
                seen.since = string(item, "ClaimedAt").filter(|_| !seen.other_program).map(ToOwned::to_owned);
                seen.held_seconds = seen.since.as_deref().and_then(|since| seconds_since(since, now));
            }
        }
    }
    seen
}

fn worker(item: &Item, now: Timestamp) -> Option<SeenWorker> {
    let shown = row::worker(item)?;
    let time = |name| string(item, name).map(ToOwned::to_owned);
    let (since, seen_at) = (time("Since"), time("SeenAt"));
    Some(SeenWorker {
        namespace: None,
        worker: shown.id.to_string(),
        seen_seconds_ago: seen_at.as_deref().and_then(|at| seconds_since(at, now)),
        seen_at,
        runs_seconds: since.as_deref().and_then(|since| seconds_since(since, now)),
        since,
        shards: 0,
        explicit: shown.presence.explicit,
        streams: shown.presence.streams.into_iter().collect(),
        heartbeat: shown.heartbeat,
        heartbeat_period: shown.presence.heartbeat_period,
    })
}

/// Returns how many seconds ago a time was. It compares the clocks of two machines, so the result may be wrong by their
/// difference, or negative.
fn seconds_since(time: &str, now: Timestamp) -> Option<i64> {
    let time: Timestamp = time.parse().ok()?;
    Some(now.as_second() - time.as_second())
}
