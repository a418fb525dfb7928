//! How is the KCL's lease table read and written?

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription,
    TableStatus,
};
use aws_types::SdkConfig;
use tokio::time::sleep;

use super::KclError;
use super::export::Write;
use super::row::{
    self, CHECKPOINT, CHILDREN, COUNTER, ENTITY, FIRST_HASH, Item, KEY, KclRow, LAST_HASH, LEASE, OWNER, PARENTS,
    SHARD, STREAM, SUB, SWITCHES, StreamKey,
};
use crate::lease::{cause_of_failure, is_condition_failure, scan_table};
use crate::model::{HashRange, ShardId};

/// How long a call may take, including its retries.
const CALL: Duration = Duration::from_secs(15);
/// How often a new table is looked at, and how many times.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOKS: usize = 240;

/// A row as it was read: its key, what it says, and all of it.
pub(crate) type Seen = (String, Result<KclRow, String>, Item);

/// The lease table of an application of the KCL. It may not exist.
#[derive(Debug)]
pub(crate) struct KclTable {
    client: Client,
    name: String,
}

impl KclTable {
    pub(crate) fn new(session: &SdkConfig, application: &str) -> Self {
        let config = aws_sdk_dynamodb::config::Builder::from(session)
            .retry_config(RetryConfig::standard().with_max_attempts(4))
            .retry_partition(RetryPartition::custom("kinesis-input-kcl").build())
            .timeout_config(TimeoutConfig::builder().operation_timeout(CALL).build())
            .build();
        Self { client: Client::from_conf(config), name: application.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn wrong(&self, what: impl Into<String>) -> KclError {
        KclError::Table { table: self.name.clone(), what: what.into() }
    }

    fn failed<E, R>(&self, doing: &str, error: &SdkError<E, R>) -> KclError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        self.wrong(format!("could not {doing}: {}", cause_of_failure(error)))
    }

    /// Whether the table exists. A table of another key is an error.
    pub(crate) async fn exists(&self) -> Result<bool, KclError> {
        let found = match self.client.describe_table().table_name(&self.name).send().await {
            Ok(found) => found.table,
            Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(false),
            Err(error) => return Err(self.failed("look for the table", &error)),
        };
        let keys: Vec<&str> =
            found.iter().flat_map(TableDescription::key_schema).map(KeySchemaElement::attribute_name).collect();
        if keys == [KEY] {
            return Ok(true);
        }
        Err(self.wrong(format!("its key is {}, and a lease table of the KCL has {KEY}", keys.join(", "))))
    }

    /// Reads all rows, as they are now.
    pub(crate) async fn scan(&self) -> Result<Vec<Seen>, KclError> {
        let items =
            scan_table(&self.client, &self.name).await.map_err(|error| self.failed("read the table", &error))?;
        Ok(items.into_iter().map(|item| (row::key(&item).to_owned(), row::read(&item), item)).collect())
    }

    /// Makes the table as the KCL makes it; the KCL adds its index itself.
    pub(crate) async fn create(&self) -> Result<(), KclError> {
        let built = |error: BuildError| self.wrong(error.to_string());
        let attribute = AttributeDefinition::builder().attribute_name(KEY).attribute_type(ScalarAttributeType::S);
        let key = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash);
        let create = self
            .client
            .create_table()
            .table_name(&self.name)
            .attribute_definitions(attribute.build().map_err(built)?)
            .key_schema(key.build().map_err(built)?)
            .billing_mode(BillingMode::PayPerRequest);
        create.send().await.map_err(|error| self.failed("make the table", &error))?;
        for _ in 0..LOOKS {
            let found = self.client.describe_table().table_name(&self.name).send().await;
            if found
                .is_ok_and(|found| found.table().and_then(|table| table.table_status()) == Some(&TableStatus::Active))
            {
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
        Err(self.wrong("it was made, and is not ACTIVE yet; try again"))
    }

    /// Writes a position, if the lease has not been renewed since, or if there is no row. Returns `false` otherwise.
    pub(crate) async fn write(&self, write: &Write, form: &Form) -> Result<bool, KclError> {
        let key = match (&write.lease, &form.stream) {
            (Some(lease), _) => lease.key.clone(),
            (None, Some(stream)) => format!("{stream}:{}", write.shard.id),
            (None, None) => write.shard.id.to_string(),
        };
        let counter = write.lease.as_ref().map_or(0, |lease| lease.counter.wrapping_add(1));
        let mut set: Vec<(&str, AttributeValue)> = vec![
            (CHECKPOINT, text(write.position.text())),
            (SUB, number(write.position.sub())),
            (COUNTER, number(counter)),
            (SWITCHES, number(0)),
        ];
        let names = |ids: &[ShardId]| AttributeValue::Ss(ids.iter().map(ToString::to_string).collect());
        // The KCL looks for the children of a shard that it has read to its end.
        if write.position == row::KclPosition::ShardEnd && !write.children.is_empty() {
            set.push((CHILDREN, names(&write.children)));
        }
        if write.lease.is_none() {
            if !write.shard.parents.is_empty() {
                set.push((PARENTS, names(&write.shard.parents)));
            }
            if let Some((first, last)) = write.shard.hash_range.map(HashRange::bounds) {
                set.push((FIRST_HASH, text(&first.to_string())));
                set.push((LAST_HASH, text(&last.to_string())));
            }
            if form.has_entities {
                set.push((ENTITY, text(LEASE)));
            }
            if let Some(stream) = &form.stream {
                set.push((STREAM, text(&stream.to_string())));
                set.push((SHARD, text(write.shard.id.as_str())));
            }
        }
        let mut update = self.client.update_item().table_name(&self.name).key(KEY, text(&key));
        let mut clauses = Vec::new();
        for (at, (name, value)) in set.into_iter().enumerate() {
            update = update.expression_attribute_values(format!(":v{at}"), value);
            clauses.push(format!("{name} = :v{at}"));
        }
        let pending = "pendingCheckpoint, pendingCheckpointSubSequenceNumber, pendingCheckpointState, checkpointOwner";
        let update = update.update_expression(format!("SET {} REMOVE {OWNER}, {pending}", clauses.join(", ")));
        let update = match &write.lease {
            Some(lease) => update
                .expression_attribute_values(":before", number(lease.counter))
                .condition_expression(format!("{COUNTER} = :before")),
            None => update.condition_expression(format!("attribute_not_exists({KEY})")),
        };
        match update.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_condition_failure(&error) => Ok(false),
            Err(error) => Err(self.failed("write a lease", &error)),
        }
    }
}

/// How new rows of the table are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    /// The stream, if the table is of several.
    pub(crate) stream: Option<StreamKey>,
    /// Whether rows say that they are leases, as in the single table of KCL 3.5.
    pub(crate) has_entities: bool,
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: impl Into<i128>) -> AttributeValue {
    AttributeValue::N(number.into().to_string())
}
