//! How do any number of workers share leases in a DynamoDB table?
//!
//! The table is the one that Redpanda Connect and Bento use (hash key `StreamID`, range key `ShardID`), so that a fleet
//! can switch to this input and back, and both can run side by side meanwhile.
//!
//! ```text
//! StreamID               ShardID                the row
//! orders                 shardId-000000000000   a lease: SequenceNumber, ClientID, LeaseTimeout as in Connect,
//!                                               and LeaseID, WantedBy, Ended, AggregatePosition, ClaimedAt, StreamCreated of
//!                                               this input
//! kinesis-input/workers  worker-1               a worker: its Beat, what it reads, its periods, its number of wake-ups
//! kinesis-input/streams  arn:aws:kinesis:…      a stream: under which StreamID its leases are, what "latest" means
//! kinesis-input/streams  orders                 a name: which stream it means in this table
//! kinesis-input/former   arn:…/shardId-…        a lease of a stream that was deleted and recreated, as it was
//! ```
//!
//! - `row`: the content of a row (pure); `table`: finding and creating the table; `calls`: calls that workers and
//!   operators share; `stream_key`: rows under a stream's other name; `overview`: what an operator sees and changes.

mod calls;
#[cfg(test)]
mod fault_tests;
mod overview;
mod row;
mod stream_key;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use futures::stream::{self, StreamExt};
use pipeline_plugin_api::causes;

use super::{
    Checkpoint, Claim, ClaimFrom, Commit, CommitOutcome, HeartbeatAnswer, Hold, Lease, LeaseStore, Presence, Release,
    Row, SharedStore, StoreError, Within, Worker, forward,
};
use crate::model::{ShardId, Stream, WorkerId};
use crate::sync::{Mutex, lock};
use row::{Item, text};

pub(crate) use table::Table;

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
    /// A random text that tells this process from others that use the same name.
    life: String,
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
    pub(crate) fn new(table: Table, me: WorkerId, lease: Duration) -> Self {
        Self {
            table,
            me,
            life: format!("{:016x}", fastrand::u64(..)),
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
        let update = with_checkpoint(update, checkpoint.as_ref(), "SET LeaseTimeout = :timeout", "");
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
            None => with_checkpoint(update, checkpoint, "", "REMOVE ClientID, LeaseTimeout, WantedBy, ClaimedAt"),
            Some(to) => {
                let update = update
                    .condition_expression(format!("{OWNED} AND WantedBy = :to"))
                    .expression_attribute_values(":to", text(to.as_str()))
                    .expression_attribute_values(":passed", row::lease_id(to, passed))
                    .expression_attribute_values(":timeout", self.timeout());
                let set = "SET ClientID = :to, LeaseID = :passed, LeaseTimeout = :timeout";
                with_checkpoint(update, checkpoint, set, "REMOVE WantedBy")
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

/// Lets a commit that arrives late change nothing. A request that was given up may still be on its way, and be carried out
/// after the next one. Positions are decimal numbers kept as text, so the longer one is the greater.
fn not_back(update: UpdateItemFluentBuilder, checkpoint: &Checkpoint) -> UpdateItemFluentBuilder {
    let number = |digits: usize| AttributeValue::N(digits.to_string());
    let Some(reached) = checkpoint.reached() else { return update };
    let digits = reached.as_str().len();
    // Either the checkpoint that is stored is a whole record, or it is inside an aggregate behind that record.
    let (whole, within) = match checkpoint {
        Checkpoint::Within(within) => (
            "size(SequenceNumber) = :digits AND SequenceNumber < :reached",
            row::within_text(&within.record, within.sub),
        ),
        // Every position inside the same record comes before it.
        Checkpoint::After(_) | Checkpoint::ShardEnd(_) => {
            ("size(SequenceNumber) = :digits AND SequenceNumber <= :reached", row::within_text(reached, u32::MAX))
        }
    };
    update
        .expression_attribute_values(":digits", number(digits))
        .expression_attribute_values(":within_digits", number(within.len()))
        .expression_attribute_values(":reached", text(reached.as_str()))
        .expression_attribute_values(":reached_within", text(&within))
        .condition_expression(format!(
            "{OWNED} AND attribute_not_exists(Ended) AND \
             (attribute_not_exists(SequenceNumber) OR size(SequenceNumber) < :digits OR ({whole})) AND \
             (attribute_not_exists(AggregatePosition) OR size(AggregatePosition) < :within_digits OR \
             (size(AggregatePosition) = :within_digits AND AggregatePosition <= :reached_within))"
        ))
}

/// Adds a checkpoint to the attributes that an update sets and removes.
fn with_checkpoint(
    update: UpdateItemFluentBuilder,
    checkpoint: Option<&Checkpoint>,
    set: &str,
    remove: &str,
) -> UpdateItemFluentBuilder {
    let Some(checkpoint) = checkpoint else { return update.update_expression(format!("{set} {remove}").trim()) };
    let (mut update, mut sets) = (update, Vec::new());
    if let Some(position) = checkpoint.position() {
        update = update.expression_attribute_values(":place", text(position.as_str()));
        sets.push("SequenceNumber = :place");
    }
    let mut removes = vec![remove.strip_prefix("REMOVE ").unwrap_or(remove)];
    match checkpoint {
        Checkpoint::Within(Within { record, sub, .. }) => {
            update = update.expression_attribute_values(":within", text(&row::within_text(record, *sub)));
            sets.push("AggregatePosition = :within");
        }
        Checkpoint::After(_) => removes.push(row::WITHIN),
        Checkpoint::ShardEnd(_) => {
            update = update.expression_attribute_values(":ended", AttributeValue::Bool(true));
            sets.push("Ended = :ended");
            removes.push(row::WITHIN);
        }
    }
    sets.insert(0, set.strip_prefix("SET ").unwrap_or(set));
    let joined = |verb: &str, parts: &[&str]| {
        let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
        if parts.is_empty() { String::new() } else { format!("{verb} {} ", parts.join(", ")) }
    };
    update.update_expression(format!("{}{}", joined("SET", &sets), joined("REMOVE", &removes)).trim())
}

/// Returns the present row if a condition was not met.
fn refused<R: std::fmt::Debug + Send + Sync + 'static>(
    what: &'static str,
    error: SdkError<UpdateItemError, R>,
) -> Result<Item, StoreError> {
    match error {
        SdkError::ServiceError(context) => match context.into_err() {
            UpdateItemError::ConditionalCheckFailedException(refused) => Ok(refused.item.unwrap_or_default()),
            error => Err(not_done(what, &error)),
        },
        error => Err(failed(what, &error)),
    }
}

fn failed<E, R>(what: &'static str, error: &SdkError<E, R>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let cause = match error {
        SdkError::ServiceError(context) => return not_done(what, context.err()),
        SdkError::TimeoutError(_) => "the table did not answer in time".into(),
        SdkError::DispatchFailure(failure) => {
            failure.as_connector_error().map_or_else(|| "the request could not be sent".into(), |error| causes(error))
        }
        SdkError::ConstructionFailure(_) => {
            format!(
                "the request could not be built: {}",
                std::error::Error::source(error).map(causes).unwrap_or_default()
            )
        }
        SdkError::ResponseError(_) => "the answer could not be read".into(),
        _ => "an error that this version does not know".into(),
    };
    StoreError::Failed { what, cause }
}

/// Translates a service error that says why the call was not done.
fn not_done(what: &'static str, error: &(impl ProvideErrorMetadata + std::error::Error + 'static)) -> StoreError {
    let cause = described(error);
    match error.code() {
        Some("AccessDeniedException" | "UnrecognizedClientException" | "MissingAuthenticationTokenException") => {
            StoreError::Refused { what, cause }
        }
        _ => StoreError::Failed { what, cause },
    }
}

/// Returns the message of the service.
fn described(error: &(impl ProvideErrorMetadata + std::error::Error + 'static)) -> String {
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => causes(error),
    }
}

#[async_trait]
impl LeaseStore for DynamoDbStore {
    async fn identity(&self) -> Result<String, StoreError> {
        Ok(row::consumer_part(&self.table.name, &self.table.arn))
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
            .key("StreamID", text(&self.stream_id(stream)))
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
                .expression_attribute_values(":place", text(position.as_str()))
                .condition_expression(format!("{holder} AND SequenceNumber = :place")),
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
        let get = get.key("StreamID", text(&self.stream_id(stream))).key("ShardID", text(row.shard.as_str()));
        let found = get.send().await.map_err(|error| failed(what, &error))?;
        let Some(item) = found.item().filter(|item| row::lease(item) == *row) else { return Ok(false) };
        stream_key::set_aside(self, what, item, format!("{}/{}", stream.arn(), row.shard)).await
    }

    fn shared(&self) -> Option<&dyn SharedStore> {
        Some(self)
    }
}

fn is_refusal<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    error.as_service_error().and_then(ProvideErrorMetadata::code) == Some("ConditionalCheckFailedException")
}

#[async_trait]
impl SharedStore for DynamoDbStore {
    fn me(&self) -> &WorkerId {
        &self.me
    }

    async fn heartbeat(&self, presence: &Presence) -> Result<HeartbeatAnswer, StoreError> {
        let count = self.heartbeats.fetch_add(1, Ordering::Relaxed);
        let millis = |time: Option<Duration>| {
            time.map_or(AttributeValue::Null(true), |time| AttributeValue::N(time.as_millis().to_string()))
        };
        let streams = if presence.streams.is_empty() {
            AttributeValue::Null(true)
        } else {
            AttributeValue::Ss(presence.streams.iter().cloned().collect())
        };
        let update = self
            .table
            .heartbeats
            .update_item()
            .table_name(&self.table.name)
            .key("StreamID", text(WORKERS))
            .key("ShardID", text(self.me.as_str()))
            .expression_attribute_values(":beat", text(&format!("{}/{count}", self.life)))
            .expression_attribute_values(":count", AttributeValue::N(count.to_string()))
            .expression_attribute_values(":life", text(&self.life))
            .expression_attribute_values(":streams", streams)
            .expression_attribute_values(":explicit", AttributeValue::Bool(presence.explicit))
            .expression_attribute_values(":length", millis(presence.lease))
            .expression_attribute_values(":every", millis(presence.heartbeat_period))
            .expression_attribute_values(":now", row::time(self.table.time.now()))
            .expression_attribute_values(":none", AttributeValue::N("0".into()))
            .return_values(ReturnValue::AllNew);
        let set = "SET Beat = :beat, BeatCount = :count, Life = :life, Streams = :streams, Explicit = :explicit, \
                   SeenAt = :now, LeaseMillis = :length, BeatMillis = :every";
        let update = if self.shown.load(Ordering::Relaxed) {
            update
                .update_expression(format!("{set}, Since = if_not_exists(Since, :now) ADD Nudges :none"))
                // A heartbeat that is carried out late must not hide a newer one: the others could have seen it before,
                // and would take this worker for dead while its lease is still valid.
                .condition_expression("attribute_not_exists(StreamID) OR (Life = :life AND BeatCount <= :count)")
        } else {
            // The first heartbeat takes the name over from any earlier process.
            update.update_expression(format!("{set}, Since = :now ADD Nudges :none"))
        };
        match update.send().await {
            Ok(answer) => {
                self.shown.store(true, Ordering::Relaxed);
                let wake_ups = answer.attributes().and_then(|item| row::number(item, "Nudges")).unwrap_or_default();
                Ok(HeartbeatAnswer::Alive { wake_ups: wake_ups.unsigned_abs() })
            }
            Err(error) if is_refusal(&error) => Ok(HeartbeatAnswer::Replaced),
            Err(error) => Err(failed("show that this worker is alive", &error)),
        }
    }

    async fn workers(&self) -> Result<Vec<Worker>, StoreError> {
        let items = self.table.query("read who is alive", WORKERS).await?;
        Ok(items.iter().filter_map(row::worker).collect())
    }

    async fn ask(
        &self,
        stream: &Stream,
        shard: &ShardId,
        holder: &Hold,
        instead_of: Option<&WorkerId>,
    ) -> Result<bool, StoreError> {
        let Some(epoch) = holder.epoch else { return Ok(false) };
        let update = self
            .table
            .update(&self.stream_id(stream), shard.as_str())
            .update_expression("SET WantedBy = :me")
            .condition_expression(
                "ClientID = :holder AND LeaseID = :held \
                 AND (attribute_not_exists(WantedBy) OR WantedBy = :me OR WantedBy = :before)",
            )
            .expression_attribute_values(":me", text(self.me.as_str()))
            .expression_attribute_values(":before", text(instead_of.unwrap_or(&self.me).as_str()))
            .expression_attribute_values(":holder", text(holder.worker.as_str()))
            .expression_attribute_values(":held", row::lease_id(&holder.worker, epoch));
        match update.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_refusal(&error) => Ok(false),
            Err(error) => Err(failed("ask for a shard", &error)),
        }
    }

    async fn withdraw(&self, stream: &Stream, shard: &ShardId) -> Result<Option<Hold>, StoreError> {
        let update = self
            .table
            .update(&self.stream_id(stream), shard.as_str())
            .update_expression("REMOVE WantedBy")
            .condition_expression("WantedBy = :me")
            .expression_attribute_values(":me", text(self.me.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match update.send().await {
            Ok(_) => Ok(None),
            Err(error) => {
                let found = refused("take a request back", error)?;
                if found.is_empty() {
                    return Ok(None);
                }
                Ok(self.read(stream, shard, Some(&found))?.hold.filter(|hold| hold.worker == self.me))
            }
        }
    }

    async fn end(&self, stream: &Stream, shard: &ShardId) -> Result<bool, StoreError> {
        let id = row::lease_id(&self.me, fastrand::u64(..));
        let update = self
            .table
            .update(&self.stream_id(stream), shard.as_str())
            .update_expression("SET Ended = :ended, LeaseID = :lease")
            .condition_expression("attribute_not_exists(StreamID)")
            .expression_attribute_values(":ended", AttributeValue::Bool(true))
            .expression_attribute_values(":lease", id.clone())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let update = match row::created(stream) {
            None => update,
            Some(created) => update
                .update_expression("SET Ended = :ended, LeaseID = :lease, StreamCreated = :created")
                .expression_attribute_values(":created", created),
        };
        match update.send().await {
            Ok(_) => Ok(true),
            // The row was written by an attempt whose answer was lost, or by another worker.
            Err(error) => Ok(refused("store that a shard is ended", error)?.get("LeaseID") == Some(&id)),
        }
    }

    async fn wake(&self, worker: &WorkerId) -> Result<(), StoreError> {
        self.table.wake(worker.as_str()).await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.table.remove_worker(self.me.as_str(), "Life = :seen", &self.life).await
    }

    async fn remove_dead_worker(&self, worker: &Worker) -> Result<(), StoreError> {
        self.table.remove_worker(worker.id.as_str(), "Beat = :seen", &worker.heartbeat).await
    }
}
