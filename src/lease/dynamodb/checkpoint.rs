//! How is a checkpoint written, so that no write sets it back?

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;

use super::OWNED;
use super::row::{self, text};
use crate::lease::{Checkpoint, Within};

/// Lets a commit that arrives late change nothing. A request that was given up may still be on its way, and be carried out
/// after the next one. Positions are decimal numbers kept as text, so the longer one is the greater.
pub(super) fn not_back(update: UpdateItemFluentBuilder, checkpoint: &Checkpoint) -> UpdateItemFluentBuilder {
    let number = |digits: usize| AttributeValue::N(digits.to_string());
    let Some(reached) = checkpoint.reached() else { return update };
    let digits = reached.as_str().len();
    // Either the checkpoint that is stored is a whole record, or it is inside an aggregate behind that record. Every
    // position inside a record comes before the whole of it.
    let (precedes, sub) = match checkpoint {
        Checkpoint::Within(within) => ("<", within.sub),
        Checkpoint::After(_) | Checkpoint::ShardEnd(_) => ("<=", u32::MAX),
    };
    let within = row::within_text(reached, sub);
    update
        .expression_attribute_values(":digits", number(digits))
        .expression_attribute_values(":within_digits", number(within.len()))
        .expression_attribute_values(":reached", text(reached.as_str()))
        .expression_attribute_values(":reached_within", text(&within))
        .condition_expression(format!(
            "{OWNED} AND attribute_not_exists(Ended) AND \
             (attribute_not_exists(SequenceNumber) OR size(SequenceNumber) < :digits OR \
             (size(SequenceNumber) = :digits AND SequenceNumber {precedes} :reached)) AND \
             (attribute_not_exists(AggregatePosition) OR size(AggregatePosition) < :within_digits OR \
             (size(AggregatePosition) = :within_digits AND AggregatePosition <= :reached_within))"
        ))
}

/// Sets and removes these attributes, and those of a checkpoint.
pub(super) fn with_checkpoint(
    update: UpdateItemFluentBuilder,
    checkpoint: Option<&Checkpoint>,
    set: &[&str],
    remove: &[&str],
) -> UpdateItemFluentBuilder {
    let (mut update, mut set, mut remove) = (update, set.to_vec(), remove.to_vec());
    if let Some(position) = checkpoint.and_then(Checkpoint::position) {
        update = update.expression_attribute_values(":position", text(position.as_str()));
        set.push("SequenceNumber = :position");
    }
    match checkpoint {
        Some(Checkpoint::Within(Within { record, sub, .. })) => {
            update = update.expression_attribute_values(":within", text(&row::within_text(record, *sub)));
            set.push("AggregatePosition = :within");
        }
        Some(Checkpoint::After(_)) => remove.push(row::WITHIN),
        Some(Checkpoint::ShardEnd(_)) => {
            update = update.expression_attribute_values(":ended", AttributeValue::Bool(true));
            set.push("Ended = :ended");
            remove.push(row::WITHIN);
        }
        None => {}
    }
    let clauses = [("SET", set), ("REMOVE", remove)].into_iter().filter(|(_, attributes)| !attributes.is_empty());
    let clauses: Vec<String> = clauses.map(|(verb, attributes)| format!("{verb} {}", attributes.join(", "))).collect();
    update.update_expression(clauses.join(" "))
}
