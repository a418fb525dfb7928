//! Is the table there, and is it the right one?

use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ProvisionedThroughput, ScalarAttributeType,
    TableDescription,
};
use aws_smithy_async::time::SharedTimeSource;
use aws_types::SdkConfig;
use tokio::time::sleep;

use super::{StoreError, failed};
use crate::access;
use crate::config::{BillingMode as Billing, DynamoDb};

/// How long a call may take, its retries included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one try of it may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a table may take to become active, and how often it is looked at.
const ACTIVE_WITHIN: Duration = Duration::from_mins(5);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The key of a lease table.
const OURS: &str = "HASH StreamID (S), RANGE ShardID (S)";

/// A table that is there.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(super) client: Client,
    /// For beats alone: they must not wait behind anything, nor share a budget of retries with it.
    pub(super) beats: Client,
    pub(super) name: String,
    /// For what is written of times.
    pub(super) time: SharedTimeSource,
}

impl Table {
    /// Finds the table, or makes it if the configuration says so. Beats are to be answered within `beat`.
    pub(crate) async fn open(session: &SdkConfig, config: &DynamoDb, beat: Duration) -> Result<Self, StoreError> {
        let timeouts = |whole: Duration, attempt: Duration| {
            TimeoutConfig::builder().operation_timeout(whole).operation_attempt_timeout(attempt).build()
        };
        let common = aws_sdk_dynamodb::config::Builder::from(session);
        let client = common
            .clone()
            .retry_config(RetryConfig::standard().with_max_attempts(4))
            // A budget of its own: by default all clients in a process share one, of other inputs too.
            .retry_partition(RetryPartition::custom("kinesis-input-leases").build())
            .timeout_config(timeouts(CALL_TIMEOUT, ATTEMPT_TIMEOUT))
            .build();
        let beats = common
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .retry_partition(RetryPartition::custom("kinesis-input-beats").build())
            .timeout_config(timeouts(beat, beat.mul_f64(0.6)))
            .build();
        let time = access::clock(session);
        let (client, beats) = (Client::from_conf(client), Client::from_conf(beats));
        let table = Self { client, beats, name: config.table.clone(), time };
        table.be_there(config).await?;
        Ok(table)
    }

    async fn be_there(&self, config: &DynamoDb) -> Result<(), StoreError> {
        let found = match self.describe().await? {
            Some(found) => found,
            None if config.create => self.create(config).await?,
            None => {
                return Err(self.wrong(
                    "it doesn't exist; set `dynamodb.create: true`, or make it with the hash key StreamID and the range \
                     key ShardID, both of type S",
                ));
            }
        };
        self.check(&found)?;
        if !is_active(&found) {
            let waiting = tokio::time::timeout(ACTIVE_WITHIN, async {
                loop {
                    sleep(LOOK_AGAIN).await;
                    if self.describe().await?.as_ref().is_some_and(is_active) {
                        return Ok(());
                    }
                }
            });
            return waiting.await.unwrap_or_else(|_| {
                Err(StoreError::Failed { what: "wait for the table", cause: "it did not become ACTIVE".into() })
            });
        }
        Ok(())
    }

    async fn describe(&self) -> Result<Option<TableDescription>, StoreError> {
        let what = "look for the table";
        match self.client.describe_table().table_name(&self.name).send().await {
            Ok(answer) => Ok(answer.table),
            Err(error) => match error.code() {
                Some("ResourceNotFoundException") => Ok(None),
                // A name that no table can have.
                Some("ValidationException") => Err(self.wrong(&failed(what, &error).to_string())),
                _ => Err(failed(what, &error)),
            },
        }
    }

    async fn create(&self, config: &DynamoDb) -> Result<TableDescription, StoreError> {
        let what = "make the table";
        let built = |error: aws_sdk_dynamodb::error::BuildError| StoreError::Failed { what, cause: error.to_string() };
        let mut call = self.client.create_table().table_name(&self.name);
        for (name, kind) in [("StreamID", KeyType::Hash), ("ShardID", KeyType::Range)] {
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
            let key = KeySchemaElement::builder().attribute_name(name).key_type(kind);
            call =
                call.attribute_definitions(attribute.build().map_err(built)?).key_schema(key.build().map_err(built)?);
        }
        let call = match config.billing_mode {
            Billing::PayPerRequest => call.billing_mode(BillingMode::PayPerRequest),
            Billing::Provisioned => call.billing_mode(BillingMode::Provisioned).provisioned_throughput(
                ProvisionedThroughput::builder()
                    .read_capacity_units(config.read_capacity_units.into())
                    .write_capacity_units(config.write_capacity_units.into())
                    .build()
                    .map_err(built)?,
            ),
        };
        match call.send().await {
            Ok(_) => crate::telemetry::table_made(&self.name),
            // Another worker was quicker.
            Err(error) if error.code() == Some("ResourceInUseException") => {}
            Err(error) => return Err(failed(what, &error)),
        }
        let gone = || StoreError::Failed { what, cause: "it isn't there though it was made".into() };
        self.describe().await?.ok_or_else(gone)
    }

    /// Another key schema means that it is used by something else.
    fn check(&self, found: &TableDescription) -> Result<(), StoreError> {
        let mut schema = String::new();
        for key in found.key_schema() {
            let definitions = found.attribute_definitions();
            let kind = definitions.iter().find(|one| one.attribute_name() == key.attribute_name());
            let kind = kind.map_or("?", |one| one.attribute_type().as_str());
            let comma = if schema.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(schema, "{comma}{} {} ({kind})", key.key_type().as_str(), key.attribute_name());
        }
        if schema == OURS {
            return Ok(());
        }
        Err(self.wrong(&format!("it has the key {schema}, and a lease table has {OURS}; choose another table")))
    }

    fn wrong(&self, what: &str) -> StoreError {
        StoreError::Table { table: self.name.clone(), what: what.to_owned() }
    }
}

fn is_active(table: &TableDescription) -> bool {
    table.table_status().is_none_or(|status| status.as_str() == "ACTIVE")
}
