//! How does the lease table behave?
//!
//! The table itself is dynoxide, a DynamoDB that others wrote. Here is what goes before it (an answer for every operation that a
//! lease store needs) and beside it: whoever wants to check what is written is shown each row, before and after.

use std::fmt;

use dynoxide::{AttributeValue, Database, DynoxideError, Item};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A row that was written.
#[derive(Debug)]
pub struct RowWritten<'a> {
    /// The name of the link that it was written over.
    pub by: &'a str,
    /// The row before; `None` if it was not there.
    pub before: Option<&'a Item>,
    /// The row now; `None` if it was deleted.
    pub after: Option<&'a Item>,
}

/// The text of an attribute, if it is there and not empty.
pub fn text<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    match item.get(name) {
        Some(AttributeValue::S(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// Whether an attribute is there and true.
pub fn flag(item: &Item, name: &str) -> bool {
    matches!(item.get(name), Some(AttributeValue::BOOL(true)))
}

/// Is shown every row that is written.
pub type Watcher = Box<dyn FnMut(&RowWritten<'_>) + Send>;

/// A DynamoDB in memory.
pub(crate) struct DynamoDb {
    database: Database,
    watcher: Option<Watcher>,
}

impl fmt::Debug for DynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDb").finish_non_exhaustive()
    }
}

impl DynamoDb {
    pub(crate) fn new() -> dynoxide::Result<Self> {
        Ok(Self { database: Database::memory()?, watcher: None })
    }

    pub(crate) fn watch(&mut self, watcher: Watcher) {
        self.watcher = Some(watcher);
    }

    /// Answers a call: a status and a body.
    pub(crate) fn call(&mut self, operation: &str, body: &str, by: &str) -> (u16, String) {
        let answer = match operation {
            "UpdateItem" | "PutItem" | "DeleteItem" => self.write(operation, body, by),
            _ => self.dispatch(operation, body),
        };
        answer.map_or_else(|error| (error.status_code(), error.to_json()), |body| (200, body))
    }

    fn write(&mut self, operation: &str, body: &str, by: &str) -> dynoxide::Result<String> {
        if self.watcher.is_none() {
            return self.dispatch(operation, body);
        }
        let before = self.row(body);
        let answer = self.dispatch(operation, body)?;
        let after = self.row(body);
        if let Some(watcher) = &mut self.watcher {
            watcher(&RowWritten { by, before: before.as_ref(), after: after.as_ref() });
        }
        Ok(answer)
    }

    /// The row that a write is about, as it is now.
    fn row(&self, body: &str) -> Option<Item> {
        let request: Value = serde_json::from_str(body).ok()?;
        let key = request.get("Key").or_else(|| request.get("Item"))?;
        let key = serde_json::json!({ "StreamID": key["StreamID"], "ShardID": key["ShardID"] });
        let get = serde_json::json!({ "TableName": request["TableName"], "Key": key, "ConsistentRead": true });
        self.database.get_item(serde_json::from_value(get).ok()?).ok()?.item
    }

    fn dispatch(&self, operation: &str, body: &str) -> dynoxide::Result<String> {
        let database = &self.database;
        match operation {
            "CreateTable" => answer(body, |request| database.create_table(request)),
            "DeleteTable" => answer(body, |request| database.delete_table(request)),
            "UpdateTable" => answer(body, |request| database.update_table(request)),
            "DescribeTable" => answer(body, |request| database.describe_table(request)),
            "ListTables" => answer(body, |request| database.list_tables(request)),
            "PutItem" => answer(body, |request| database.put_item(request)),
            "GetItem" => answer(body, |request| database.get_item(request)),
            "DeleteItem" => answer(body, |request| database.delete_item(request)),
            "UpdateItem" => answer(body, |request| database.update_item(request)),
            "Query" => answer(body, |request| database.query(request)),
            "Scan" => answer(body, |request| database.scan(request)),
            "BatchWriteItem" => answer(body, |request| database.batch_write_item(request)),
            "BatchGetItem" => answer(body, |request| database.batch_get_item(request)),
            "TransactGetItems" => answer(body, |request| database.transact_get_items(request)),
            "DescribeTimeToLive" => answer(body, |request| database.describe_time_to_live(request)),
            "TransactWriteItems" => answer(body, |request| database.transact_write_items(request)),
            other => Err(DynoxideError::ValidationException(format!("{other} is not simulated"))),
        }
    }
}

fn answer<Q: DeserializeOwned, A: Serialize>(
    body: &str,
    call: impl FnOnce(Q) -> dynoxide::Result<A>,
) -> dynoxide::Result<String> {
    let request = serde_json::from_str(body);
    let request = request.map_err(|error| DynoxideError::SerializationException(error.to_string()))?;
    let answer = call(request)?;
    serde_json::to_string(&answer).map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}
