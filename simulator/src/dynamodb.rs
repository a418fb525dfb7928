//! How does the lease table behave?
//!
//! The table itself is dynoxide, a third-party DynamoDB. This file has what stands before it (an answer for every
//! operation that a lease store needs) and beside it: a watcher is shown each row that is written, before and after.

use std::fmt;
use std::time::Duration;

use dynoxide::{AttributeValue, Database, DynoxideError, Item};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::past::Past;
use crate::time::Time;

/// A row that was written.
#[derive(Debug)]
pub struct RowWritten<'a> {
    /// The name of the link that it was written over.
    pub by: &'a str,
    /// When the request was sent by the client; `None` for a request that did not come over a link.
    pub sent: Option<Time>,
    /// The row before the write; `None` if it did not exist.
    pub before: Option<&'a Item>,
    /// The row after the write; `None` if it was deleted.
    pub after: Option<&'a Item>,
}

/// When a call was sent by its client, and when it arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) sent: Time,
    pub(crate) now: Time,
}

/// The text of an attribute, if it exists and is not empty.
pub fn text<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    match item.get(name) {
        Some(AttributeValue::S(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// Whether an attribute exists and is true.
pub fn flag(item: &Item, name: &str) -> bool {
    matches!(item.get(name), Some(AttributeValue::BOOL(true)))
}

/// A function that is shown every row that is written.
pub type Watcher = Box<dyn FnMut(&RowWritten<'_>) + Send>;

/// A DynamoDB in memory.
pub(crate) struct DynamoDb {
    database: Database,
    past: Past,
    /// The status that descriptions of tables show instead of the true one.
    status: Option<&'static str>,
    watcher: Option<Watcher>,
}

impl fmt::Debug for DynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDb").finish_non_exhaustive()
    }
}

impl DynamoDb {
    /// A database whose inconsistent reads lag behind by `lag`.
    pub(crate) fn new(lag: Duration) -> dynoxide::Result<Self> {
        Ok(Self { database: Database::memory()?, past: Past::new(lag), status: None, watcher: None })
    }

    pub(crate) fn set_status(&mut self, status: Option<&'static str>) {
        self.status = status;
    }

    pub(crate) fn watch(&mut self, watcher: Watcher) {
        self.watcher = Some(watcher);
    }

    /// Answers a call with a status and a body. Without times nothing lags behind.
    pub(crate) fn call(&mut self, operation: &str, body: &str, by: &str, times: Option<Times>) -> (u16, String) {
        let now = times.map(|times| times.now);
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let answer = match (operation, now) {
            ("UpdateItem" | "PutItem" | "DeleteItem", _) => self.write(operation, body, &request, by, times),
            (_, Some(now)) if Past::is_asked(operation, &request) => self.dispatch(operation, body).map(|answer| {
                let answer = serde_json::from_str(&answer).unwrap_or_default();
                self.past.rewrite(&request, answer, now).to_string()
            }),
            _ => self.dispatch(operation, body),
        };
        if operation == "CreateTable" && answer.is_ok() {
            self.past.table(&request);
        }
        let answer = answer.map(|answer| match self.status {
            Some(status) if operation == "DescribeTable" => answer.replace("\"ACTIVE\"", &format!("\"{status}\"")),
            _ => answer,
        });
        answer.map_or_else(|error| (error.status_code(), error.to_json()), |body| (200, body))
    }

    fn write(
        &mut self,
        operation: &str,
        body: &str,
        request: &Value,
        by: &str,
        times: Option<Times>,
    ) -> dynoxide::Result<String> {
        let table = request["TableName"].as_str().unwrap_or_default();
        let written = request.get("Key").or_else(|| request.get("Item"));
        let Some(key) = written.and_then(|row| self.past.key(table, row)) else {
            return self.dispatch(operation, body);
        };
        let before = self.row(table, &key);
        let answer = self.dispatch(operation, body)?;
        if let Some(Times { now, .. }) = times {
            self.past.note(now, table, &key, before.as_ref());
        }
        if self.watcher.is_some() {
            let after = self.row(table, &key);
            if let Some(watcher) = &mut self.watcher {
                let sent = times.map(|times| times.sent);
                watcher(&RowWritten { by, sent, before: before.as_ref(), after: after.as_ref() });
            }
        }
        Ok(answer)
    }

    /// A row, as it is now.
    fn row(&self, table: &str, key: &Value) -> Option<Item> {
        let get = serde_json::json!({ "TableName": table, "Key": key, "ConsistentRead": true });
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(table: &mut DynamoDb, operation: &str, request: &Value, millis: u64) -> Value {
        let now = Some(Time::from_millis(1_000_000 + millis));
        let (status, answer) =
            table.call(operation, &request.to_string(), "test", now.map(|now| Times { sent: now, now }));
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    #[test]
    fn inconsistent_read_is_as_old_as_it_may_be() {
        let mut table = DynamoDb::new(Duration::from_millis(500)).unwrap();
        let make = json!({
            "TableName": "copies", "KeySchema": [{ "AttributeName": "k", "KeyType": "HASH" }],
            "AttributeDefinitions": [{ "AttributeName": "k", "AttributeType": "S" }], "BillingMode": "PAY_PER_REQUEST",
        });
        call(&mut table, "CreateTable", &make, 0);
        let put = |value: &str| json!({ "TableName": "copies", "Item": { "k": { "S": "one" }, "v": { "S": value } } });
        call(&mut table, "PutItem", &put("a"), 1000);
        call(&mut table, "PutItem", &put("b"), 1400);
        let get = |consistent: bool| json!({ "TableName": "copies", "Key": { "k": { "S": "one" } }, "ConsistentRead": consistent });
        let mut seen =
            |consistent, millis| call(&mut table, "GetItem", &get(consistent), millis)["Item"]["v"]["S"].clone();
        assert_eq!(seen(true, 1400), "b");
        assert_eq!(seen(false, 1400), Value::Null, "the row did not exist 500 ms ago");
        assert_eq!(seen(false, 1600), "a");
        assert_eq!(seen(false, 1900), "b");
        let scan = json!({ "TableName": "copies" });
        assert_eq!(call(&mut table, "Scan", &scan, 1600)["Items"][0]["v"]["S"], "a");
        assert_eq!(call(&mut table, "Scan", &scan, 1400)["Count"], 0);
    }
}
