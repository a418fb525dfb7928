//! Is the table there, and is it the right one?

use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ProvisionedThroughput, ScalarAttributeType,
    TableDescription, TableStatus,
};
use aws_smithy_async::time::SharedTimeSource;
use aws_types::SdkConfig;
use tokio::time::sleep;

use super::StoreError;
use super::errors::failed;
use super::namespace::Namespace;
use crate::aws::credentials;
use crate::config::{BillingMode as Billing, DynamoDb, NAMESPACE_RULE, is_namespace};
use crate::telemetry::Waiting;

/// How long a call may take, including its retries.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one attempt of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a table may take to become active, and how often its status is read.
const ACTIVE_WITHIN: Duration = Duration::from_mins(5);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The key schema of a lease table.
pub(super) const OURS: &str = "HASH StreamID (S), RANGE ShardID (S)";

/// A lease table that exists and can be used.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(super) client: Client,
    /// A client for heartbeats alone: they must not wait for other calls, nor share a retry budget with them.
    pub(super) heartbeats: Client,
    /// The table's name or ARN, as it is configured.
    pub(super) name: String,
    /// The table's ARN, which tells it from tables of the same name in other regions and accounts.
    pub(super) arn: String,
    /// The namespace of the rows that are read and written.
    pub(super) namespace: Namespace,
    /// The clock for the times that are written to the table.
    pub(super) time: SharedTimeSource,
}

impl Table {
    /// Finds the table, or creates it if the configuration says so. `heartbeat` is the timeout of heartbeats.
    pub(crate) async fn open(session: &SdkConfig, config: &DynamoDb, heartbeat: Duration) -> Result<Self, StoreError> {
        let mut table = Self::clients(session, config, heartbeat)?;
        let found = table.be_there(config).await?;
        if let Some(arn) = found.table_arn {
            table.arn = arn;
        }
        Ok(table)
    }

    pub(super) fn clients(session: &SdkConfig, config: &DynamoDb, heartbeat: Duration) -> Result<Self, StoreError> {
        if !config.namespace.as_deref().is_none_or(is_namespace) {
            return Err(StoreError::Table { table: config.table.clone(), what: NAMESPACE_RULE.to_owned() });
        }
        let timeouts = |whole: Duration, attempt: Duration| {
            TimeoutConfig::builder().operation_timeout(whole).operation_attempt_timeout(attempt).build()
        };
        let common = aws_sdk_dynamodb::config::Builder::from(session);
        let client = common
            .clone()
            .retry_config(RetryConfig::standard().with_max_attempts(4))
            // The client has its own retry budget: by default all clients in a process share one, including those of
            // other inputs.
            .retry_partition(RetryPartition::custom("kinesis-input-leases").build())
            .timeout_config(timeouts(CALL_TIMEOUT, ATTEMPT_TIMEOUT))
            .build();
        let heartbeats = common
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .retry_partition(RetryPartition::custom("kinesis-input-beats").build())
            .timeout_config(timeouts(heartbeat, heartbeat.mul_f64(0.6)))
            .build();
        let time = credentials::clock(session);
        let (client, heartbeats) = (Client::from_conf(client), Client::from_conf(heartbeats));
        let arn = config.table.clone();
        let namespace = Namespace::new(config.namespace.as_deref());
        Ok(Self { client, heartbeats, name: config.table.clone(), arn, namespace, time })
    }

    /// Finds the table; `None` if there is none. It is never created.
    pub(crate) async fn find(
        session: &SdkConfig,
        config: &DynamoDb,
        call: Duration,
    ) -> Result<Option<Self>, StoreError> {
        let config = DynamoDb { create: false, ..config.clone() };
        let table = Self::clients(session, &config, call)?;
        match table.describe().await? {
            Some(_) => Self::open(session, &config, call).await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits until the table can be used.
    async fn be_there(&self, config: &DynamoDb) -> Result<TableDescription, StoreError> {
        let mut found = match self.describe().await? {
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
        let mut waiting = Waiting::new();
        while !self.serves(&found)? {
            let status = found.table_status().map_or("without a status", TableStatus::as_str).to_owned();
            if waiting.lasts() >= ACTIVE_WITHIN {
                let cause = format!("it is {status} for {} s", waiting.lasts().as_secs());
                return Err(StoreError::Failed { what: "wait for the table", cause });
            }
            waiting.log("the lease table", &self.name, &status);
            sleep(LOOK_AGAIN).await;
            // A table that is being created may not be visible yet.
            if let Some(now) = self.describe().await? {
                found = now;
            }
        }
        Ok(found)
    }

    /// Returns whether the table can be used now. It fails if the table can't be used until a person intervenes.
    pub(super) fn serves(&self, found: &TableDescription) -> Result<bool, StoreError> {
        let advice = match found.table_status().map(TableStatus::as_str) {
            // The table can be used while it is being changed.
            None | Some("ACTIVE" | "UPDATING") => return Ok(true),
            Some("INACCESSIBLE_ENCRYPTION_CREDENTIALS") => {
                "allow this account to use the key that it is encrypted with"
            }
            Some("ARCHIVING" | "ARCHIVED") => "restore it, or choose another table",
            Some("DELETING") => "start again when it is gone, or choose another table",
            Some(_) => return Ok(false),
        };
        let status = found.table_status().map_or("", TableStatus::as_str);
        Err(self.wrong(&format!("it is {status}; {advice}")))
    }

    async fn describe(&self) -> Result<Option<TableDescription>, StoreError> {
        let what = "look for the table";
        match self.client.describe_table().table_name(&self.name).send().await {
            Ok(answer) => Ok(answer.table),
            Err(error) => match error.code() {
                Some("ResourceNotFoundException") => Ok(None),
                // No table can have this name.
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
            // Another worker created the table first.
            Err(error) if error.code() == Some("ResourceInUseException") => {}
            Err(error) => return Err(failed(what, &error)),
        }
        let gone = || StoreError::Failed { what, cause: "it isn't there though it was made".into() };
        self.describe().await?.ok_or_else(gone)
    }

    /// Checks the key schema: another one means that the table serves another purpose.
    pub(super) fn check(&self, found: &TableDescription) -> Result<(), StoreError> {
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
