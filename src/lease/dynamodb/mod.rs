//! How do any number of workers share leases in a DynamoDB table?
//!
//! The table is the one that Redpanda Connect and Bento use (hash key `StreamID`, range key `ShardID`), so that a fleet
//! can switch to this input and back, and both can run side by side meanwhile.
//!
//! ```text
//! StreamID               ShardID                the row
//! orders                 shardId-000000000000   a lease: SequenceNumber, ClientID, LeaseTimeout as in Connect,
//!                                               and LeaseID, WantedBy, Ended, AggregatePosition, ClaimedAt, StreamCreated,
//!                                               StartAt of this input
//! kinesis-input/workers  worker-1               a worker: its Beat, what it reads, its periods, its number of wake-ups
//! kinesis-input/streams  arn:aws:kinesis:…      a stream: under which StreamID its leases are, what "latest" means
//! kinesis-input/streams  orders                 a name: which stream it means in this table
//! kinesis-input/former   arn:…/shardId-…        a lease of a stream that was deleted and recreated, as it was
//! ```
//!
//! With a namespace every `StreamID` begins with `NAMESPACE/`, so that pipelines read and write only rows of their own.
//!
//! - `membership`: how workers show themselves and ask each other; `checkpoint`: writes that set nothing back; `errors`: what a
//!   failed call means; `row`: the content of a row (pure); `table`: finding and creating the table; `calls`: calls that workers and
//!   operators share; `namespace`: the keys of pipelines that share a table (pure); `stream_key`: rows under a stream's other name; `overview`: what an operator sees and changes; `import`: positions of the KCL.

mod calls;
mod checkpoint;
mod errors;
#[cfg(test)]
mod fault_tests;
mod import;
mod life;
mod membership;
mod namespace;
mod overview;
mod row;
mod stream_key;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod trial;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use futures::stream::{self, StreamExt};

use super::{
    Checkpoint, Claim, ClaimFrom, Commit, CommitOutcome, Hold, Lease, LeaseStore, Overview, Release, Row, SharedStore,
    StoreError, forward,
};
use crate::model::{ShardId, Stream, WorkerId};
use crate::sync::{Mutex, lock};
use checkpoint::{not_back, with_checkpoint};
use errors::{failed, is_refusal, refused};
use life::Life;
use row::{Item, text};

pub(crate) use calls::scan as scan_table;
pub(crate) use errors::{cause as cause_of_failure, is_refusal as is_condition_failure};
pub(crate) use life::Lives;
pub(crate) use table::Table;
pub(crate) use trial::{TableCall, TableSeen, TableTrial};

/// The hash key of the rows of workers. No stream can have this name.
const WORKERS: &str = "kinesis-input/workers";
/// The hash key of the rows that concern a whole stream.
const STREAMS: &str = "kinesis-input/streams";
/// The hash key of the rows of streams that were deleted and recreated.
const FORMER: &str = "kinesis-input/former";
/// How many writes may be on their way at once. More would only wait for each other in the table's partitions.
const WRITES_AT_ONCE: usize = 16;
/// The condition that a lease still belongs to this worker.
const OWNED: &str = "ClientID = :me AND LeaseID = :lease";

/// The epoch of a lease, and the last checkpoint that was stored under it.
type Known = (u64, Option<Checkpoint>);

/// The store that keeps its leases in a DynamoDB table.
#[derive(Debug)]
pub(crate) struct DynamoDbStore {
    table: Table,
    me: WorkerId,
    life: Life,
    /// Whether a heartbeat of this process has been stored.
    shown: AtomicBool,
    /// How many heartbeats this process has sent.
    heartbeats: AtomicU64,
    /// The lease period, which determines the `LeaseTimeout` that other programs see.
    lease: Duration,
    /// The `StreamID` under which the leases of a stream are, by the ARN of the stream.
    spellings: Mutex<HashMap<String, String>>,
    /// The stored checkpoints of this worker's leases, with the epoch of each, so that no write moves a checkpoint
    /// back.
    checkpoints: Mutex<HashMap<(Stream, ShardId), Known>>,
}

impl DynamoDbStore {
    /// Makes a worker's view of the table. Leases last for `lease` unless they are renewed.
    pub(crate) fn new(table: Table, me: WorkerId, life: Life, lease: Duration) -> Self {
        Self {
            table,
            me,
            life,
            shown: AtomicBool::new(false),
            heartbeats: AtomicU64::new(0),
            lease,
            spellings: Mutex::default(),
            checkpoints: Mutex::default(),
        }
    }

    fn client(&self) -> &Client {
        &self.table.client
    }

    /// Returns the `StreamID` of a stream, which is its name until [`adopt`](LeaseStore::adopt) has decided.
    fn stream_id(&self, stream: &Stream) -> String {
        lock(&self.spellings).get(stream.arn()).cloned().unwrap_or_else(|| stream.name().to_owned())
    }

    /// Returns when a lease that is renewed now expires, for programs that judge it by the clock.
    fn timeout(&self) -> AttributeValue {
        row::time(self.table.time.now() + self.lease)
    }

    /// Makes an update of a lease that this worker owns.
    fn update_owned(&self, stream: &Stream, shard: &ShardId, epoch: u64) -> UpdateItemFluentBuilder {
        self.table
            .update(&self.stream_id(stream), shard.as_str())
            .condition_expression(OWNED)
            .expression_attribute_values(":me", text(self.me.as_str()))
            .expression_attribute_values(":lease", row::lease_id(&self.me, epoch))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// Returns the checkpoint to write, given the one that was stored before under the same lease.
    fn onward(
        &self,
        stream: &Stream,
        shard: &ShardId,
        epoch: u64,
        checkpoint: Option<Checkpoint>,
    ) -> Option<Checkpoint> {
        // A write without a checkpoint leaves what is stored. That may be newer than what is known here, if an answer was lost.
        let checkpoint = checkpoint?;
        let checkpoints = lock(&self.checkpoints);
        match checkpoints.get(&(stream.clone(), shard.clone())) {
            Some((known, before)) if *known == epoch => forward(before.as_ref(), Some(checkpoint)),
            _ => Some(checkpoint),
        }
    }

    async fn commit_one(&self, write: Commit) -> Result<CommitOutcome, StoreError> {
        let Commit { stream, shard, epoch, checkpoint } = write;
        let checkpoint = self.onward(&stream, &shard, epoch, checkpoint);
        let update = self.update_owned(&stream, &shard, epoch).expression_attribute_values(":timeout", self.timeout());
        let update = with_checkpoint(update, checkpoint.as_ref(), &["LeaseTimeout = :timeout"], &[]);
        let update = match &checkpoint {
            Some(checkpoint) => not_back(update, checkpoint),
            None => update,
        };
        match update.send().await {
            Ok(answer) => {
                let row = self.read(&stream, &shard, answer.attributes())?;
                lock(&self.checkpoints).insert((stream, shard), (epoch, row.checkpoint.clone()));
                Ok(CommitOutcome::Stored { checkpoint: row.checkpoint, requester: row.requester })
            }
            Err(error) => {
                let found = refused("store a checkpoint", error)?;
                if self.is_owned(&found, epoch) {
                    // A later commit of this lease is stored already.
                    let row = self.read(&stream, &shard, Some(&found))?;
                    return Ok(CommitOutcome::Stored { checkpoint: row.checkpoint, requester: row.requester });
                }
                let lost = self.lost(&stream, &shard, &found);
                let mut checkpoints = lock(&self.checkpoints);
                // The entry stays if the shard was claimed again meanwhile.
                let key = (stream, shard);
                if checkpoints.get(&key).is_some_and(|(known, _)| *known == epoch) {
                    checkpoints.remove(&key);
                }
                Ok(lost)
            }
        }
    }

    async fn release_one(&self, release: Release) -> Result<CommitOutcome, StoreError> {
        let Release { stream, shard, epoch, checkpoint, mut to } = release;
        let checkpoint = self.onward(&stream, &shard, epoch, checkpoint);
        let written = loop {
            match self.release_row(&stream, &shard, epoch, checkpoint.as_ref(), to.as_ref()).await? {
                Some(written) => break written,
                None => to = None,
            }
        };
        lock(&self.checkpoints).remove(&(stream, shard));
        Ok(written)
    }

    /// Releases a shard. Returns `None` if this worker still holds it because the requester `to` has withdrawn its
    /// request.
    async fn release_row(
        &self,
        stream: &Stream,
        shard: &ShardId,
        epoch: u64,
        checkpoint: Option<&Checkpoint>,
        to: Option<&WorkerId>,
    ) -> Result<Option<CommitOutcome>, StoreError> {
        let update = self.update_owned(stream, shard, epoch);
        let passed = fastrand::u64(..);
        let update = match to {
            // `LeaseID` stays: if the answer is lost, it shows that this worker released the shard.
            None => with_checkpoint(update, checkpoint, &[], &["ClientID", "LeaseTimeout", "WantedBy", "ClaimedAt"]),
            Some(to) => {
                let update = update
                    .condition_expression(format!("{OWNED} AND WantedBy = :to"))
                    .expression_attribute_values(":to", text(to.as_str()))
                    .expression_attribute_values(":passed", row::lease_id(to, passed))
                    .expression_attribute_values(":timeout", self.timeout());
                let set = ["ClientID = :to", "LeaseID = :passed", "LeaseTimeout = :timeout"];
                with_checkpoint(update, checkpoint, &set, &["WantedBy"])
            }
        };
        let written = match update.send().await {
            Ok(answer) => {
                let row = self.read(stream, shard, answer.attributes())?;
                CommitOutcome::Stored { checkpoint: row.checkpoint, requester: None }
            }
            Err(error) => {
                let found = refused("give a lease back", error)?;
                let is_ours = |id: AttributeValue| found.get("LeaseID") == Some(&id);
                let release_row = match to {
                    None => !found.contains_key("ClientID") && is_ours(row::lease_id(&self.me, epoch)),
                    Some(to) => is_ours(row::lease_id(to, passed)),
                };
                if to.is_some() && self.is_owned(&found, epoch) {
                    return Ok(None);
                }
                // The row was written by an attempt whose answer was lost.
                if release_row {
                    CommitOutcome::Stored { checkpoint: checkpoint.cloned(), requester: None }
                } else {
                    self.lost(stream, shard, &found)
                }
            }
        };
        Ok(Some(written))
    }

    /// Whether this worker holds the lease that a row shows: what [`OWNED`] asks of the table.
    fn is_owned(&self, found: &Item, epoch: u64) -> bool {
        found.get("ClientID") == Some(&text(self.me.as_str()))
            && found.get("LeaseID") == Some(&row::lease_id(&self.me, epoch))
    }

    fn lost(&self, stream: &Stream, shard: &ShardId, found: &Item) -> CommitOutcome {
        let holder = self.read(stream, shard, Some(found)).ok().and_then(|row| row.hold);
        CommitOutcome::Lost { holder: holder.map_or_else(|| "nobody".into(), |hold| hold.worker.to_string()) }
    }

    fn read(&self, stream: &Stream, shard: &ShardId, item: Option<&Item>) -> Result<Row, StoreError> {
        let read = item.map(row::lease).ok_or_else(|| "it is missing in the answer".to_owned());
        let read = read.and_then(|row| match row.unreadable {
            Some(what) => Err(what),
            None => Ok(row),
        });
        read.map_err(|what| self.table.bad_row(&self.stream_id(stream), shard.as_str(), what))
    }
}

#[async_trait]
impl LeaseStore for DynamoDbStore {
    async fn identity(&self) -> Result<String, StoreError> {
        Ok(row::consumer_part(&self.table.name, &self.table.arn, self.table.namespace.name()))
    }

    async fn adopt(&self, stream: &Stream, configured: &str) -> Result<(), StoreError> {
        let spelling = stream_key::adopt(self, stream, configured).await?;
        lock(&self.spellings).insert(stream.arn().to_owned(), spelling);
        Ok(())
    }

    async fn rows(&self, stream: &Stream) -> Result<Vec<Row>, StoreError> {
        let id = self.stream_id(stream);
        Ok(self.table.query("read the leases", &id).await?.iter().map(row::lease).collect())
    }

    async fn pin_latest(&self, stream: &Stream, now: i64) -> Result<i64, StoreError> {
        let what = "store the meaning of latest";
        let update = self
            .table
            .update(STREAMS, stream.arn())
            .update_expression("SET Latest = if_not_exists(Latest, :now)")
            .expression_attribute_values(":now", AttributeValue::N(now.to_string()))
            .return_values(ReturnValue::AllNew);
        let answer = update.send().await.map_err(|error| failed(what, &error))?;
        let pinned = answer.attributes().and_then(|item| row::number(item, "Latest"));
        pinned
            .ok_or_else(|| self.table.bad_row(STREAMS, stream.arn(), "its Latest is no number; remove the row".into()))
    }

    async fn claim(&self, stream: &Stream, shard: &ShardId, from: ClaimFrom<'_>) -> Result<Claim, StoreError> {
        let epoch = fastrand::u64(..);
        let id = row::lease_id(&self.me, epoch);
        let update = self
            .table
            .update(&self.stream_id(stream), shard.as_str())
            .expression_attribute_values(":me", text(self.me.as_str()))
            .expression_attribute_values(":lease", id.clone())
            .expression_attribute_values(":timeout", self.timeout())
            .expression_attribute_values(":now", row::time(self.table.time.now()))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let held_as = |update: UpdateItemFluentBuilder, hold: &Hold| {
            let update = update.expression_attribute_values(":holder", text(hold.worker.as_str()));
            match hold.epoch {
                Some(epoch) => (
                    update.expression_attribute_values(":held", row::lease_id(&hold.worker, epoch)),
                    "ClientID = :holder AND LeaseID = :held",
                ),
                None => (update, "ClientID = :holder"),
            }
        };
        let set = "SET ClientID = :me, LeaseID = :lease, LeaseTimeout = :timeout, ClaimedAt = :now";
        // A worker that has not noticed yet that the stream was recreated gets no shard of the new stream.
        let (update, of_this_stream) = match row::created(stream) {
            None => (update.update_expression(format!("{set} REMOVE WantedBy")), ""),
            Some(created) => (
                update
                    .update_expression(format!("{set}, StreamCreated = :created REMOVE WantedBy"))
                    .expression_attribute_values(":created", created),
                " AND (attribute_not_exists(StreamCreated) OR StreamCreated = :created)",
            ),
        };
        let (update, condition) = match from {
            // A shard that another worker has finished meanwhile is nobody's to claim: its row would be left held if the claimer died.
            ClaimFrom::Nobody => (update, "attribute_not_exists(ClientID) AND attribute_not_exists(Ended)".to_owned()),
            ClaimFrom::Holder(hold) => {
                let (update, condition) = held_as(update, hold);
                (update, condition.to_owned())
            }
            ClaimFrom::Unchanged(hold) if hold.stamp.is_empty() => {
                let (update, condition) = held_as(update, hold);
                (update, format!("{condition} AND attribute_not_exists(LeaseTimeout)"))
            }
            ClaimFrom::Unchanged(hold) => {
                let (update, condition) = held_as(update, hold);
                let update = update.expression_attribute_values(":stamp", text(&hold.stamp));
                (update, format!("{condition} AND LeaseTimeout = :stamp"))
            }
        };
        let update = update.condition_expression(format!("{condition}{of_this_stream}"));
        let row = match update.send().await {
            Ok(answer) => self.read(stream, shard, answer.attributes())?,
            Err(error) => {
                let found = refused("claim a shard", error)?;
                // The row was written by an attempt whose answer was lost.
                if !self.is_owned(&found, epoch) {
                    let CommitOutcome::Lost { holder } = self.lost(stream, shard, &found) else {
                        return Ok(Claim::HeldBy("nobody".into()));
                    };
                    return Ok(Claim::HeldBy(holder));
                }
                self.read(stream, shard, Some(&found))?
            }
        };
        lock(&self.checkpoints).insert((stream.clone(), shard.clone()), (epoch, row.checkpoint.clone()));
        Ok(Claim::Owned(Lease { stream: stream.clone(), shard: shard.clone(), epoch }, row.checkpoint))
    }

    async fn commit(&self, writes: Vec<Commit>) -> Vec<Result<CommitOutcome, StoreError>> {
        stream::iter(writes).map(|write| self.commit_one(write)).buffered(WRITES_AT_ONCE).collect().await
    }

    async fn release(&self, releases: Vec<Release>) -> Vec<Result<CommitOutcome, StoreError>> {
        stream::iter(releases).map(|release| self.release_one(release)).buffered(WRITES_AT_ONCE).collect().await
    }

    async fn forget(&self, stream: &Stream, row: &Row) -> Result<(), StoreError> {
        let delete = self
            .client()
            .delete_item()
            .table_name(&self.table.name)
            .key("StreamID", self.table.key(&self.stream_id(stream)))
            .key("ShardID", text(row.shard.as_str()));
        let (delete, holder) = match &row.hold {
            None => (delete, "attribute_not_exists(ClientID)"),
            Some(hold) => (
                delete
                    .expression_attribute_values(":holder", text(hold.worker.as_str()))
                    .expression_attribute_values(":stamp", text(&hold.stamp)),
                "ClientID = :holder AND LeaseTimeout = :stamp",
            ),
        };
        let delete = match row.checkpoint.as_ref().and_then(Checkpoint::position) {
            Some(position) => delete
                .expression_attribute_values(":position", text(position.as_str()))
                .condition_expression(format!("{holder} AND SequenceNumber = :position")),
            None => delete.condition_expression(format!("{holder} AND attribute_not_exists(SequenceNumber)")),
        };
        match delete.send().await {
            Err(error) if !is_refusal(&error) => Err(failed("forget a shard that is gone", &error)),
            _ => Ok(()),
        }
    }

    async fn set_aside(&self, stream: &Stream, row: &Row) -> Result<bool, StoreError> {
        let what = "set aside the position of a former stream";
        let get = self.client().get_item().table_name(&self.table.name).consistent_read(true);
        let get = get.key("StreamID", self.table.key(&self.stream_id(stream))).key("ShardID", text(row.shard.as_str()));
        let found = get.send().await.map_err(|error| failed(what, &error))?;
        let Some(item) = found.item().filter(|item| row::lease(item) == *row) else { return Ok(false) };
        stream_key::set_aside(self, what, item, format!("{}/{}", stream.arn(), row.shard)).await
    }

    async fn overview(&self) -> Result<Option<Overview>, StoreError> {
        self.table.overview(None).await.map(Some)
    }

    fn shared(&self) -> Option<&dyn SharedStore> {
        Some(self)
    }
}
