//! Under which name are the leases of a stream?
//!
//! Connect keeps them under whatever its configuration calls the stream, a name or an ARN. All workers have to agree on
//! one of them, whatever theirs calls it; so the first one decides, where Connect's rows are if there are any, and writes
//! that down. Rows that turn up under the other name are moved.

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{Delete, Put, ReturnValue, TransactWriteItem};

use super::row::{self, Item, string, text};
use super::{DynamoDbStore, STREAMS, StoreError, failed};
use crate::names::{SequenceNumber, Stream};
use crate::telemetry;

/// Decides, or learns what was decided; moves what is under the other name.
pub(super) async fn adopt(store: &DynamoDbStore, stream: &Stream, configured: &str) -> Result<String, StoreError> {
    let configured = if configured.starts_with("arn:") { stream.arn() } else { stream.name() };
    let other = |one: &str| if one == stream.arn() { stream.name() } else { stream.arn() };
    let items = |id: &str| {
        let id = id.to_owned();
        async move { store.table.query("read the leases", &id).await }
    };
    let decided = if let Some(decided) = decided(store, stream).await? {
        decided
    } else {
        let theirs = items(other(configured)).await?;
        let ours = if theirs.is_empty() { Vec::new() } else { items(configured).await? };
        let best = if ours.is_empty() && !theirs.is_empty() { other(configured) } else { configured };
        decide(store, stream, best).await?
    };
    let strays = items(other(&decided)).await?;
    if !strays.is_empty() {
        let there = items(&decided).await?;
        for stray in &strays {
            let rival = there.iter().find(|item| row::range(item) == row::range(stray));
            move_over(store, &decided, stray, rival).await?;
        }
        telemetry::rows_moved(stream, strays.len(), other(&decided), &decided);
    }
    Ok(decided)
}

async fn decided(store: &DynamoDbStore, stream: &Stream) -> Result<Option<String>, StoreError> {
    let get = store.client().get_item().table_name(&store.table.name).consistent_read(true);
    let get = get.key("StreamID", text(STREAMS)).key("ShardID", text(stream.arn()));
    let found = get.send().await.map_err(|error| failed("read under which name a stream's leases are", &error))?;
    Ok(found.item().and_then(|item| known(item, stream)))
}

/// The decision in a row; anything but the two names is none.
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

/// Moves a row, unless somebody changes it meanwhile. Where both names have one, the one that is further stays.
async fn move_over(store: &DynamoDbStore, to: &str, stray: &Item, rival: Option<&Item>) -> Result<(), StoreError> {
    let what = "move leases to the name that their stream is kept under";
    let broken = |error: aws_sdk_dynamodb::error::BuildError| StoreError::Failed { what, cause: error.to_string() };
    let mut delete = Delete::builder().table_name(&store.table.name);
    for key in ["StreamID", "ShardID"] {
        delete = delete.key(key, text(string(stray, key).unwrap_or_default()));
    }
    let mut same = Vec::new();
    for (at, name) in ["SequenceNumber", "ClientID", "LeaseTimeout"].into_iter().enumerate() {
        match stray.get(name) {
            Some(value) => {
                delete = delete.expression_attribute_values(format!(":v{at}"), value.clone());
                same.push(format!("{name} = :v{at}"));
            }
            None => same.push(format!("attribute_not_exists({name})")),
        }
    }
    let delete = delete.condition_expression(same.join(" AND ")).build().map_err(broken)?;
    let mut call =
        store.client().transact_write_items().transact_items(TransactWriteItem::builder().delete(delete).build());
    let place = |item: &Item| string(item, "SequenceNumber").and_then(|number| SequenceNumber::new(number).ok());
    let put = match rival {
        None => Some("attribute_not_exists(StreamID)".to_owned()),
        // Held or further, it stays as it is.
        Some(rival) if string(rival, "ClientID").is_some() || place(rival) >= place(stray) => None,
        Some(_) => Some("attribute_not_exists(ClientID)".to_owned()),
    };
    if let Some(condition) = put {
        let mut item = stray.clone();
        item.insert("StreamID".into(), text(to));
        let put = Put::builder().table_name(&store.table.name).set_item(Some(item)).condition_expression(condition);
        call = call.transact_items(TransactWriteItem::builder().put(put.build().map_err(broken)?).build());
    }
    match call.send().await {
        Err(error)
            if !error.as_service_error().is_some_and(TransactWriteItemsError::is_transaction_canceled_exception) =>
        {
            Err(failed(what, &error))
        }
        _ => Ok(()),
    }
}
