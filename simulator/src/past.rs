//! What did a table look like a moment ago?
//!
//! A read that does not ask for consistency may be answered from a copy that lags behind. Here it always is, by
//! [`Settings::table_lag`](crate::Settings::table_lag). Two exceptions are shown as they are now: rows that were
//! removed within the lag, and rows that were written in a transaction or a batch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dynoxide::Item;
use serde_json::Value;

use crate::time::Time;

/// The rows as they were a moment ago, where they differ from the present.
#[derive(Debug)]
pub(crate) struct Past {
    lag: Duration,
    /// The names of the attributes that make up the key of each table.
    keys: BTreeMap<String, Vec<String>>,
    /// The changes, oldest first.
    changes: VecDeque<Change>,
}

#[derive(Debug)]
struct Change {
    at: Time,
    table: String,
    key: Vec<Value>,
    before: Option<Value>,
}

impl Past {
    pub(crate) fn new(lag: Duration) -> Self {
        Self { lag, keys: BTreeMap::new(), changes: VecDeque::new() }
    }

    /// Learns the key of a table from the request that creates it.
    pub(crate) fn table(&mut self, request: &Value) {
        let schema = request["KeySchema"].as_array().into_iter().flatten();
        let names = schema.filter_map(|part| part["AttributeName"].as_str().map(ToOwned::to_owned)).collect();
        self.keys.insert(table(request).to_owned(), names);
    }

    /// The key in the request of a write, or in a row.
    pub(crate) fn key(&self, table: &str, row: &Value) -> Option<Value> {
        let names = self.keys.get(table)?;
        let part = |name: &String| Some((name.clone(), row.get(name)?.clone()));
        names.iter().map(part).collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
    }

    /// Records that a row was written, and its content before that.
    pub(crate) fn note(&mut self, at: Time, table: &str, key: &Value, before: Option<&Item>) {
        let old = at - self.lag;
        while self.changes.front().is_some_and(|change| change.at <= old) {
            self.changes.pop_front();
        }
        let before = before.and_then(|row| serde_json::to_value(row).ok());
        let change = Change { at, table: table.to_owned(), key: parts(key), before };
        self.changes.push_back(change);
    }

    /// Whether a call may be answered from the past.
    pub(crate) fn is_asked(operation: &str, request: &Value) -> bool {
        let reads = matches!(operation, "GetItem" | "Query" | "Scan");
        // If a request drops or tests attributes, the answer does not contain the whole rows.
        let whole = ["ProjectionExpression", "FilterExpression", "AttributesToGet", "IndexName", "Select"];
        reads && request["ConsistentRead"] != true && whole.iter().all(|name| request.get(name).is_none())
    }

    /// Makes an answer as old as it may be.
    pub(crate) fn rewrite(&self, request: &Value, mut answer: Value, now: Time) -> Value {
        let table = table(request);
        if let Some(key) = request.get("Key") {
            match self.changed(table, key, now) {
                Some(Change { before: Some(before), .. }) => answer["Item"] = before.clone(),
                Some(_) => answer = serde_json::json!({}),
                None => {}
            }
        }
        if let Some(rows) = answer.get_mut("Items").and_then(Value::as_array_mut) {
            rows.retain_mut(|row| {
                let changed = self.key(table, row).and_then(|key| self.changed(table, &key, now));
                match changed {
                    Some(Change { before: Some(before), .. }) => row.clone_from(before),
                    Some(_) => return false,
                    None => {}
                }
                true
            });
            let count = rows.len();
            answer["Count"] = count.into();
        }
        answer
    }

    /// The first change of a row that lagging copies do not contain yet.
    fn changed(&self, table: &str, key: &Value, now: Time) -> Option<&Change> {
        let (key, since) = (parts(key), now - self.lag);
        self.changes.iter().find(|change| change.at > since && change.table == table && change.key == key)
    }
}

fn table(request: &Value) -> &str {
    request["TableName"].as_str().unwrap_or_default()
}

/// The values of a key, whatever the order of its attributes.
fn parts(key: &Value) -> Vec<Value> {
    let mut named: Vec<(&String, &Value)> = key.as_object().into_iter().flatten().collect();
    named.sort_by_key(|(name, _)| *name);
    named.into_iter().map(|(_, value)| value.clone()).collect()
}
