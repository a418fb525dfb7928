//! Under which name are the leases of a stream?
//!
//! Redpanda Connect keeps them under the name or ARN by which its configuration refers to the stream. All workers must
//! agree on one of the two, whatever their own configurations say. The first worker therefore decides, prefers the name
//! under which Connect's rows are, and stores the decision. Rows that appear under the other name are moved.
//!
//! Streams of other regions or accounts may have the same name. The first such stream gets the name and the rows under
//! it; the leases of the others are kept under their ARNs.

use std::time::Duration;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::builders::PutBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, ReturnValue, TransactWriteItem};
use tokio::time::sleep;

use super::errors::failed;
use super::row::{self, Item, string, text};
use super::table::Table;
use super::{DynamoDbStore, FORMER, STREAMS, StoreError};
use crate::lease::Checkpoint;
use crate::model::{SequenceNumber, Stream};
use crate::retry::backoff::Backoff;
use crate::telemetry;

/// How often the move is attempted for rows that their holders change meanwhile.
const TRIES: u32 = 8;
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LATEST_RETRY: Duration = Duration::from_secs(1);

/// Decides on a name, or reads the earlier decision, and moves the rows under the other name. Returns the name.
pub(super) async fn adopt(store: &DynamoDbStore, stream: &Stream, configured: &str) -> Result<String, StoreError> {
    if !has_its_name(store, stream).await? {
        return Ok(stream.arn().to_owned());
    }
    let configured = if configured.starts_with("arn:") { stream.arn() } else { stream.name() };
    let other = |one: &str| if one == stream.arn() { stream.name() } else { stream.arn() };
    let decided = if let Some(decided) = decided(&store.table, stream).await? {
        decided
    } else {
        let theirs = items(store, other(configured)).await?;
        let ours = if theirs.is_empty() { Vec::new() } else { items(store, configured).await? };
        let best = if ours.is_empty() && !theirs.is_empty() { other(configured) } else { configured };
        decide(store, stream, best).await?
    };
    let moved = move_all(store, other(&decided), &decided).await?;
    if moved > 0 {
        telemetry::rows_moved(stream, moved, other(&decided), &decided);
    }
    Ok(decided)
}

/// Reads the rows of a stream as [`adopt`] would find them, and returns the name that it would decide on. Nothing is
/// written.
pub(super) async fn look(table: &Table, stream: &Stream, configured: &str) -> Result<(String, Vec<Item>), StoreError> {
    let named = of_stream(table, stream.name()).await?;
    let is_of_another = named.is_some_and(|item| string(&item, "Arn").is_some_and(|arn| arn != stream.arn()));
    let by_arn = table.query("read the leases", stream.arn()).await?;
    if is_of_another {
        return Ok((stream.arn().to_owned(), by_arn));
    }
    let by_name = table.query("read the leases", stream.name()).await?;
    let is_arn = match decided(table, stream).await? {
        Some(decided) => decided == stream.arn(),
        None if by_name.is_empty() != by_arn.is_empty() => by_name.is_empty(),
        None => configured.starts_with("arn:"),
    };
    // A worker moves the rows under the other name, and of two rows it keeps the one that is further.
    let (id, mut items, others) =
        if is_arn { (stream.arn(), by_arn, by_name) } else { (stream.name(), by_name, by_arn) };
    for other in others {
        match items.iter_mut().find(|item| row::range(item) == row::range(&other)) {
            Some(item) if checkpoint(item) < checkpoint(&other) => *item = other,
            Some(_) => {}
            None => items.push(other),
        }
    }
    Ok((id.to_owned(), items))
}

async fn items(store: &DynamoDbStore, id: &str) -> Result<Vec<Item>, StoreError> {
    store.table.query("read the leases", id).await
}

/// Whether the name means this stream in this table, and not another stream of the same name.
async fn has_its_name(store: &DynamoDbStore, stream: &Stream) -> Result<bool, StoreError> {
    let update = store
        .table
        .update(STREAMS, stream.name())
        .update_expression("SET Arn = if_not_exists(Arn, :arn)")
        .expression_attribute_values(":arn", text(stream.arn()))
        .return_values(ReturnValue::AllNew);
    let answer = update.send().await.map_err(|error| failed("store which stream has a name", &error))?;
    Ok(answer.attributes().and_then(|item| string(item, "Arn")) == Some(stream.arn()))
}

/// Moves all rows. A row that its holder renews meanwhile is tried again. Returns how many were moved.
async fn move_all(store: &DynamoDbStore, from: &str, to: &str) -> Result<usize, StoreError> {
    let mut backoff = Backoff::new(FIRST_RETRY, LATEST_RETRY);
    let mut moved = 0;
    for _ in 0..TRIES {
        let strays = items(store, from).await?;
        if strays.is_empty() {
            return Ok(moved);
        }
        let there = items(store, to).await?;
        let before = moved;
        for stray in &strays {
            let rival = there.iter().find(|item| row::range(item) == row::range(stray));
            if move_over(store, to, stray, rival).await? {
                moved += 1;
            }
        }
        if moved - before < strays.len() {
            sleep(backoff.next_delay(fastrand::f64())).await;
        }
    }
    if items(store, from).await?.is_empty() {
        return Ok(moved);
    }
    let cause = format!("those under {from} are changed all the time; stop who uses this name, or call the stream so");
    Err(StoreError::Failed { what: MOVING, cause })
}

const MOVING: &str = "move leases to the name that their stream is kept under";

/// Reads the earlier decision, if there is one.
async fn decided(table: &Table, stream: &Stream) -> Result<Option<String>, StoreError> {
    Ok(of_stream(table, stream.arn()).await?.and_then(|item| known(&item, stream)))
}

/// Reads the row that concerns a stream by its name, or by its ARN.
async fn of_stream(table: &Table, range: &str) -> Result<Option<Item>, StoreError> {
    let get = table.client.get_item().table_name(&table.name).consistent_read(true);
    let get = get.key("StreamID", table.key(STREAMS)).key("ShardID", text(range));
    let found = get.send().await.map_err(|error| failed("read under which name a stream's leases are", &error))?;
    Ok(found.item)
}

/// Reads the decision in a row. Anything but one of the two names counts as no decision.
fn known(item: &Item, stream: &Stream) -> Option<String> {
    let spelling = string(item, "LeasesUnder")?;
    [stream.name(), stream.arn()].contains(&spelling).then(|| spelling.to_owned())
}

async fn decide(store: &DynamoDbStore, stream: &Stream, best: &str) -> Result<String, StoreError> {
    let update = store
        .table
        .update(STREAMS, stream.arn())
        .update_expression("SET LeasesUnder = if_not_exists(LeasesUnder, :best)")
        .expression_attribute_values(":best", text(best))
        .return_values(ReturnValue::AllNew);
    let answer = update.send().await.map_err(|error| failed("store under which name a stream's leases are", &error))?;
    Ok(answer.attributes().and_then(|item| known(item, stream)).unwrap_or_else(|| best.to_owned()))
}

/// Moves a row, unless it changes meanwhile. Returns whether it was moved. If both names have a row, the one that is
/// further along stays.
async fn move_over(store: &DynamoDbStore, to: &str, stray: &Item, rival: Option<&Item>) -> Result<bool, StoreError> {
    let stays = rival.filter(|rival| string(rival, "ClientID").is_some() || checkpoint(rival) >= checkpoint(stray));
    let put = if stays.is_none() {
        let mut item = stray.clone();
        item.insert("StreamID".into(), store.table.key(to));
        let put = Put::builder().table_name(&store.table.name).set_item(Some(item));
        Some(match rival {
            None => put.condition_expression("attribute_not_exists(StreamID)"),
            Some(rival) => {
                let (condition, values) = unchanged(rival);
                put.condition_expression(condition).set_expression_attribute_values(values)
            }
        })
    } else {
        None
    };
    replace(store, MOVING, stray, put).await
}

/// Sets aside the row of a shard of a former stream, unless it changes meanwhile. Returns whether it did.
pub(super) async fn set_aside(
    store: &DynamoDbStore,
    what: &'static str,
    item: &Item,
    range: String,
) -> Result<bool, StoreError> {
    let mut former = item.clone();
    former.insert("StreamID".into(), store.table.key(FORMER));
    former.insert("ShardID".into(), AttributeValue::S(range));
    let put = Put::builder().table_name(&store.table.name).set_item(Some(former));
    replace(store, what, item, Some(put)).await
}

/// Removes a row that has not changed since it was read, and writes another in the same transaction. Returns whether it
/// did.
async fn replace(
    store: &DynamoDbStore,
    what: &'static str,
    item: &Item,
    put: Option<PutBuilder>,
) -> Result<bool, StoreError> {
    let broken = |error: aws_sdk_dynamodb::error::BuildError| StoreError::Failed { what, cause: error.to_string() };
    let mut delete = Delete::builder().table_name(&store.table.name);
    for key in ["StreamID", "ShardID"] {
        delete = delete.key(key, text(string(item, key).unwrap_or_default()));
    }
    let (condition, values) = unchanged(item);
    let delete = delete.condition_expression(condition).set_expression_attribute_values(values);
    let delete = TransactWriteItem::builder().delete(delete.build().map_err(broken)?).build();
    let mut call = store.client().transact_write_items().transact_items(delete);
    if let Some(put) = put {
        call = call.transact_items(TransactWriteItem::builder().put(put.build().map_err(broken)?).build());
    }
    match call.send().await {
        Ok(_) => Ok(true),
        // The row changed meanwhile, or the table is busy.
        Err(error)
            if error.as_service_error().is_some_and(TransactWriteItemsError::is_transaction_canceled_exception) =>
        {
            Ok(false)
        }
        Err(error) => Err(failed(what, &error)),
    }
}

/// Makes the condition that a row has not changed since it was read.
fn unchanged(item: &Item) -> (String, Option<Item>) {
    let (mut same, mut values) = (Vec::new(), Item::new());
    for (at, name) in ["SequenceNumber", "ClientID", "LeaseTimeout", "Ended"].into_iter().enumerate() {
        match item.get(name) {
            Some(value) => {
                values.insert(format!(":v{at}"), value.clone());
                same.push(format!("{name} = :v{at}"));
            }
            None => same.push(format!("attribute_not_exists({name})")),
        }
    }
    (same.join(" AND "), (!values.is_empty()).then_some(values))
}

/// Returns how far a row has got: whether the shard has ended, and its sequence number.
fn checkpoint(item: &Item) -> (bool, Option<SequenceNumber>) {
    let ended = matches!(row::lease(item).checkpoint, Some(Checkpoint::ShardEnd(_)));
    (ended, string(item, "SequenceNumber").and_then(|number| SequenceNumber::new(number).ok()))
}
