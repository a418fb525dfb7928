//! How are positions written without a worker, and where are the rows of a stream?

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;

use super::checkpoint::with_checkpoint;
use super::errors::{failed, is_refusal};
use super::row::{self, START_AT, text};
use super::table::Table;
use super::{Checkpoint, Row, StoreError, stream_key};
use crate::model::{ShardId, StartPosition, Stream};

impl Table {
    /// Reads the rows of a stream, and the name under which they are. Nothing is written or moved.
    pub(crate) async fn look(&self, stream: &Stream, configured: &str) -> Result<(String, Vec<Row>), StoreError> {
        let (id, items) = stream_key::look(self, stream, configured).await?;
        Ok((id, items.iter().map(row::lease).collect()))
    }

    /// Writes a position of a shard that has no row, or whose row is still `instead_of`. Returns `false` if that has
    /// changed.
    pub(crate) async fn import(
        &self,
        id: &str,
        stream: &Stream,
        shard: &ShardId,
        checkpoint: Option<&Checkpoint>,
        begins: Option<&StartPosition>,
        instead_of: Option<&Row>,
    ) -> Result<bool, StoreError> {
        // A row with a `LeaseID` is one of this input: its absence later does not mean that the shard has ended.
        let lease = format!("imported/{:016x}", fastrand::u64(..));
        let update = self.update(id, shard.as_str()).expression_attribute_values(":lease", text(&lease));
        let mut set = vec!["LeaseID = :lease"];
        // Nothing stays of the position before.
        let mut remove = Vec::new();
        if checkpoint.and_then(Checkpoint::position).is_none() {
            remove.push("SequenceNumber");
        }
        if !matches!(checkpoint, Some(Checkpoint::ShardEnd(_))) {
            remove.push("Ended");
        }
        if checkpoint.is_none() {
            remove.push(row::WITHIN);
        }
        let update = match row::created(stream) {
            Some(created) => {
                set.push("StreamCreated = :created");
                update.expression_attribute_values(":created", created)
            }
            None => update,
        };
        let start_at = format!("{START_AT} = :begins");
        let update = if let Some(begins) = begins.and_then(row::begins_value) {
            set.push(&start_at);
            update.expression_attribute_values(":begins", begins)
        } else {
            remove.push(START_AT);
            update
        };
        let update = with_checkpoint(update, checkpoint, &set, &remove);
        match unchanged(update, instead_of).send().await {
            Ok(_) => Ok(true),
            Err(error) if is_refusal(&error) => Ok(false),
            Err(error) => Err(failed("store a position", &error)),
        }
    }
}

/// Adds the condition that there is no row, or the same row, which no worker holds.
fn unchanged(update: UpdateItemFluentBuilder, row: Option<&Row>) -> UpdateItemFluentBuilder {
    let Some(row) = row else { return update.condition_expression("attribute_not_exists(ShardID)") };
    let checkpoint = row.checkpoint.as_ref();
    let mut values =
        vec![("SequenceNumber", checkpoint.and_then(Checkpoint::position).map(|number| text(number.as_str())))];
    if !matches!(checkpoint, Some(Checkpoint::ShardEnd(_))) {
        values.push(("Ended", None));
    }
    if let Some(within) = checkpoint.and_then(Checkpoint::within) {
        values.push((row::WITHIN, Some(text(&row::within_text(&within.record, within.sub)))));
    }
    let mut conditions = vec!["attribute_exists(ShardID) AND attribute_not_exists(ClientID)".to_owned()];
    let mut update = update;
    for (name, value) in values {
        match value {
            Some(value) => {
                conditions.push(format!("{name} = :was_{name}"));
                update = update.expression_attribute_values(format!(":was_{name}"), value);
            }
            None => conditions.push(format!("attribute_not_exists({name})")),
        }
    }
    update.condition_expression(conditions.join(" AND "))
}
