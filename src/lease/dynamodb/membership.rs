//! How does a worker show itself, and how do workers ask each other for shards?

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};

use super::errors::{failed, is_refusal, refused};
use super::row::{self, text};
use super::{DynamoDbStore, WORKERS};
use crate::lease::{HeartbeatAnswer, Hold, Presence, SharedStore, StoreError, Worker};
use crate::model::{ShardId, Stream, WorkerId};

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
            .key("StreamID", self.table.key(WORKERS))
            .key("ShardID", text(self.me.as_str()))
            .expression_attribute_values(":beat", text(&format!("{}/{count}", self.life.text())))
            .expression_attribute_values(":count", AttributeValue::N(count.to_string()))
            .expression_attribute_values(":life", text(self.life.text()))
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
                .expression_attribute_values(":mine", text(self.life.of_input()))
                // A heartbeat that is carried out late must not hide a newer one: the others could have seen it before,
                // and would take this worker for dead while its lease is still valid. The first heartbeat of an earlier
                // connect may be carried out late, too; it is no other process.
                .condition_expression(
                    "attribute_not_exists(StreamID) OR (Life = :life AND BeatCount <= :count) \
                     OR (begins_with(Life, :mine) AND Life <> :life)",
                )
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
        self.table.remove_worker(self.me.as_str(), "Life = :seen", self.life.text()).await
    }

    async fn remove_dead_worker(&self, worker: &Worker) -> Result<(), StoreError> {
        self.table.remove_worker(worker.id.as_str(), "Beat = :seen", &worker.heartbeat).await
    }
}
