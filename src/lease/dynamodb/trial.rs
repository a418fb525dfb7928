//! Can this table hold leases, and which calls to it are allowed? It is tried without changing anything.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, TableStatus};
use aws_types::SdkConfig;

use super::StoreError;
use super::row::{consumer_part, text};
use super::table::Table;
use crate::aws::sdk::fault;
use crate::config::DynamoDb;
use crate::retry::Fault;

/// The hash key that the trials name. No stream can have this name, and no row is ever written under it.
const NO_ROW: &str = "kinesis-input/check";
/// A condition that no row meets, whether it exists or not.
const NEVER: &str = "attribute_exists(StreamID) AND attribute_not_exists(StreamID)";

/// A table that is looked at, and not used.
#[derive(Debug)]
pub(crate) struct TableTrial(Table);

/// What was found of a table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TableSeen {
    /// It doesn't exist.
    Missing,
    /// It can be used, and has this status.
    Serves(String),
    /// It can't be used yet, and has this status.
    NotYet(String),
    /// It can't be used until a person intervenes. The text says why, and what to do.
    Unusable(String),
    /// It is no lease table. The text says why, and what to do.
    Foreign(String),
}

/// A call that can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableCall {
    GetItem,
    Query,
    UpdateItem,
    PutItem,
    DeleteItem,
    Scan,
}

impl TableCall {
    /// Those that a worker makes.
    pub(crate) const OF_A_WORKER: [Self; 5] =
        [Self::GetItem, Self::Query, Self::UpdateItem, Self::PutItem, Self::DeleteItem];

    /// The action, as IAM calls it.
    pub(crate) fn action(self) -> &'static str {
        match self {
            Self::GetItem => "dynamodb:GetItem",
            Self::Query => "dynamodb:Query",
            Self::UpdateItem => "dynamodb:UpdateItem",
            Self::PutItem => "dynamodb:PutItem",
            Self::DeleteItem => "dynamodb:DeleteItem",
            Self::Scan => "dynamodb:Scan",
        }
    }

    /// Whether the call would write if its condition held.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::UpdateItem | Self::PutItem | Self::DeleteItem)
    }
}

impl TableTrial {
    /// Nothing is called yet. The retries are those of the session.
    ///
    /// # Errors
    ///
    /// An error is returned for a namespace that no rows can have.
    pub(crate) fn new(session: &SdkConfig, config: &DynamoDb) -> Result<Self, StoreError> {
        let table = Table::clients(session, config, Duration::from_secs(1))?;
        Ok(Self(Table { client: Client::new(session), ..table }))
    }

    /// Describes the table.
    pub(crate) async fn describe(&mut self) -> Result<TableSeen, Fault> {
        let found = match self.0.client.describe_table().table_name(&self.0.name).send().await {
            Ok(answer) => answer.table,
            Err(error) => match fault(&error) {
                fault if fault.code == "ResourceNotFoundException" => None,
                fault => return Err(fault),
            },
        };
        let Some(found) = found else { return Ok(TableSeen::Missing) };
        if let Some(arn) = &found.table_arn {
            self.0.arn.clone_from(arn);
        }
        let status = found.table_status().map_or("without a status", TableStatus::as_str).to_owned();
        Ok(match (self.0.check(&found), self.0.serves(&found)) {
            (Err(error), _) => TableSeen::Foreign(what(error)),
            (_, Err(error)) => TableSeen::Unusable(what(error)),
            (_, Ok(true)) => TableSeen::Serves(status),
            (_, Ok(false)) => TableSeen::NotYet(status),
        })
    }

    /// The ARN of the table once it was described, or its name.
    pub(crate) fn arn(&self) -> &str {
        &self.0.arn
    }

    /// The name that consumers are named after, once the table was described.
    pub(crate) fn identity(&self) -> String {
        consumer_part(&self.0.name, &self.0.arn, self.0.namespace.name())
    }

    /// Makes a call in a manner that changes nothing: it reads a row that doesn't exist, or writes one on a condition that
    /// no row meets.
    pub(crate) async fn call(&self, call: TableCall) -> Result<(), Fault> {
        let (client, name) = (&self.0.client, &self.0.name);
        let key = || -> HashMap<String, AttributeValue> {
            [("StreamID".to_owned(), self.0.key(NO_ROW)), ("ShardID".to_owned(), text("-"))].into()
        };
        match call {
            TableCall::GetItem => {
                let get = client.get_item().table_name(name).set_key(Some(key())).consistent_read(true);
                get.send().await.map(drop).map_err(|error| fault(&error))
            }
            TableCall::Query => {
                let query = client.query().table_name(name).consistent_read(true).limit(1);
                let query = query.key_condition_expression("StreamID = :hash");
                let query = query.expression_attribute_values(":hash", self.0.key(NO_ROW));
                query.send().await.map(drop).map_err(|error| fault(&error))
            }
            TableCall::UpdateItem => {
                let update = client.update_item().table_name(name).set_key(Some(key())).condition_expression(NEVER);
                let update = update.update_expression("SET Checked = :one");
                let update = update.expression_attribute_values(":one", AttributeValue::N("1".into()));
                update.send().await.map(drop).map_err(|error| fault(&error))
            }
            TableCall::PutItem => {
                let put = client.put_item().table_name(name).set_item(Some(key())).condition_expression(NEVER);
                put.send().await.map(drop).map_err(|error| fault(&error))
            }
            TableCall::DeleteItem => {
                let delete = client.delete_item().table_name(name).set_key(Some(key())).condition_expression(NEVER);
                delete.send().await.map(drop).map_err(|error| fault(&error))
            }
            TableCall::Scan => {
                client.scan().table_name(name).limit(1).send().await.map(drop).map_err(|error| fault(&error))
            }
        }
    }
}

/// The text of an error about this table, without its name.
fn what(error: StoreError) -> String {
    match error {
        StoreError::Table { what, .. } => what,
        other => other.to_string(),
    }
}
