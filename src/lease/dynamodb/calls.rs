//! Which calls to the table do workers and operators share?

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::scan::ScanError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;

use super::errors::{failed, is_refusal};
use super::row::{Item, text};
use super::table::Table;
use super::{StoreError, WORKERS};

impl Table {
    /// The hash key of rows in the namespace of this table.
    pub(super) fn key(&self, hash: &str) -> AttributeValue {
        AttributeValue::S(self.namespace.key(hash))
    }

    pub(super) fn update(&self, hash: &str, range: &str) -> UpdateItemFluentBuilder {
        let update = self.client.update_item().table_name(&self.name);
        update.key("StreamID", self.key(hash)).key("ShardID", text(range))
    }

    /// Reads all items under a hash key, as they are now.
    pub(super) async fn query(&self, what: &'static str, hash: &str) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut next: Option<Item> = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.name)
                .consistent_read(true)
                .key_condition_expression("StreamID = :hash")
                .expression_attribute_values(":hash", self.key(hash))
                .set_exclusive_start_key(next)
                .send()
                .await
                .map_err(|error| failed(what, &error))?;
            next = page.last_evaluated_key;
            items.extend(page.items.unwrap_or_default());
            if next.as_ref().is_none_or(HashMap::is_empty) {
                return Ok(items);
            }
        }
    }

    /// Reads all items, or those of the namespace if there is one, as they are now. No key leads to the streams of a
    /// namespace, so the items of others are read as well, and are not sent.
    pub(super) async fn scan(&self, what: &'static str) -> Result<Vec<Item>, StoreError> {
        let prefix = self.namespace.name().map(|_| self.key(""));
        scan_some(&self.client, &self.name, prefix).await.map_err(|error| failed(what, &error))
    }

    /// Asks a worker to rebalance at once, if it has a row.
    pub(super) async fn wake(&self, worker: &str) -> Result<(), StoreError> {
        let update = self
            .update(WORKERS, worker)
            .update_expression("ADD Nudges :one")
            .condition_expression("attribute_exists(StreamID)")
            .expression_attribute_values(":one", AttributeValue::N("1".into()));
        match update.send().await {
            Err(error) if !is_refusal(&error) => Err(failed("tell a worker to look", &error)),
            _ => Ok(()),
        }
    }

    /// Removes the row of a worker, if the condition still holds.
    pub(super) async fn remove_worker(&self, worker: &str, condition: &str, seen: &str) -> Result<(), StoreError> {
        let delete = self
            .client
            .delete_item()
            .table_name(&self.name)
            .key("StreamID", self.key(WORKERS))
            .key("ShardID", text(worker))
            .condition_expression(condition)
            .expression_attribute_values(":seen", text(seen));
        match delete.send().await {
            Err(error) if !is_refusal(&error) => Err(failed("remove a worker", &error)),
            _ => Ok(()),
        }
    }

    pub(super) fn bad_row(&self, stream: &str, shard: &str, what: String) -> StoreError {
        let stream = self.namespace.key(stream);
        StoreError::BadRow { table: self.name.clone(), stream, shard: shard.into(), what }
    }
}

/// Reads all items of a table, as they are now.
pub(crate) async fn scan(client: &Client, table: &str) -> Result<Vec<Item>, SdkError<ScanError>> {
    scan_some(client, table, None).await
}

/// Reads all items whose hash key begins with this.
async fn scan_some(
    client: &Client,
    table: &str,
    prefix: Option<AttributeValue>,
) -> Result<Vec<Item>, SdkError<ScanError>> {
    let mut items = Vec::new();
    let mut next: Option<Item> = None;
    loop {
        let mut scan = client.scan().table_name(table).consistent_read(true).set_exclusive_start_key(next);
        if let Some(prefix) = &prefix {
            scan = scan
                .filter_expression("begins_with(StreamID, :prefix)")
                .expression_attribute_values(":prefix", prefix.clone());
        }
        let page = scan.send().await?;
        next = page.last_evaluated_key;
        items.extend(page.items.unwrap_or_default());
        if next.as_ref().is_none_or(HashMap::is_empty) {
            return Ok(items);
        }
    }
}
