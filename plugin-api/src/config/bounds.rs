//! Which values of a document violate the bounds that the schema sets?
//!
//! A bound is declared once, as `schemars(range(…))` or `schemars(length(…))`. The schema shows it to tools and
//! readers, and this module enforces it.

use serde_json::{Number, Value};

use super::node::{Content, Node, Path, Step};
use super::{scalar, schema};

/// A value that violates its bounds.
pub(super) struct OutOfBounds {
    pub(super) path: Path,
    pub(super) message: String,
}

/// Returns every value in the document that is too small or too large, too short or too long.
pub(super) fn violations(node: &Node, schema: &Value) -> Vec<OutOfBounds> {
    let mut found = Vec::new();
    walk(node, schema, &mut Path::default(), &mut found);
    found
}

fn walk(node: &Node, schema: &Value, path: &mut Path, found: &mut Vec<OutOfBounds>) {
    if let Some(message) = violation(node, schema) {
        found.push(OutOfBounds { path: path.clone(), message });
        return;
    }
    let mut inside = |step: Step, node: &Node| {
        if let Some(schema) = schema::child(schema, &step) {
            path.0.push(step);
            walk(node, schema, path, found);
            path.0.pop();
        }
    };
    match &node.content {
        Content::Map(entries) => entries.iter().for_each(|entry| inside(Step::Key(entry.key.clone()), &entry.value)),
        Content::List(items) => items.iter().enumerate().for_each(|(index, item)| inside(Step::Index(index), item)),
        _ => {}
    }
}

fn violation(node: &Node, schema: &Value) -> Option<String> {
    let (what, value, lower, upper) = match &node.content {
        Content::List(items) => ("length", items.len().into(), "minItems", "maxItems"),
        Content::Number(number) => ("value", number.clone(), "minimum", "maximum"),
        Content::Plain(text) if allows_number(schema) => ("value", scalar::number(text)?, "minimum", "maximum"),
        Content::Plain(text) | Content::Text(text) => ("length", text.chars().count().into(), "minLength", "maxLength"),
        Content::Null | Content::Bool(_) | Content::Map(_) => return None,
    };
    let bound = |word: &str| schema.get(word).and_then(Value::as_number);
    if let Some(least) = bound(lower).filter(|least| is_less(&value, least)) {
        return Some(format!("the {what} is lower than {}", plain(least)));
    }
    let most = bound(upper).filter(|most| is_less(most, &value))?;
    Some(format!("the {what} is greater than {}", plain(most)))
}

/// Returns `true` if the schema accepts a number; an unquoted scalar then counts as one, if it can be parsed as
/// one.
fn allows_number(schema: &Value) -> bool {
    let is_number = |kind: &Value| kind == "integer" || kind == "number";
    schema.get("type").is_some_and(|kind| match kind {
        Value::Array(kinds) => kinds.iter().any(is_number),
        kind => is_number(kind),
    })
}

/// Compares whole numbers as such, because a float does not represent the largest ones.
fn is_less(one: &Number, other: &Number) -> bool {
    match (scalar::whole(one), scalar::whole(other)) {
        (Some(one), Some(other)) => one < other,
        _ => one.as_f64() < other.as_f64(),
    }
}

/// Formats a number as an author would write it: `0`, not `0.0`.
fn plain(number: &Number) -> String {
    scalar::whole(number).map_or_else(|| number.to_string(), |whole| whole.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(value: &Value, schema: &Value) -> Vec<(String, String)> {
        let found = violations(&Node::from_value(value), schema);
        found.into_iter().map(|one| (one.path.to_string(), one.message)).collect()
    }

    #[test]
    fn numbers_texts_and_lists_out_of_bounds_are_found_wherever_they_stand() {
        let schema = json!({ "properties": {
            "number": { "type": "number", "minimum": 0.0, "maximum": 1.5 },
            "whole": { "type": ["integer", "null"], "minimum": 1, "maximum": u64::MAX },
            "text": { "type": "string", "minLength": 1, "maxLength": 2 },
            "list": { "type": "array", "maxItems": 1, "items": { "type": "integer", "maximum": 5 } },
        } });
        for good in [
            json!({ "number": 1.5, "whole": u64::MAX, "text": "é!", "list": [5] }),
            json!({ "number": 0, "whole": null, "other": -1 }),
        ] {
            assert_eq!(found(&good, &schema), [], "{good}");
        }
        for (bad, path, message) in [
            (json!({ "number": -0.1 }), "number", "the value is lower than 0"),
            (json!({ "number": 2 }), "number", "the value is greater than 1.5"),
            (json!({ "whole": 0 }), "whole", "the value is lower than 1"),
            (json!({ "text": "" }), "text", "the length is lower than 1"),
            (json!({ "text": "abc" }), "text", "the length is greater than 2"),
            (json!({ "list": [1, 2] }), "list", "the length is greater than 1"),
            (json!({ "list": [6] }), "list[0]", "the value is greater than 5"),
        ] {
            assert_eq!(found(&bad, &schema), [(path.to_owned(), message.to_owned())], "{bad}");
        }
    }

    #[test]
    fn unquoted_scalar_is_a_number_only_where_the_schema_takes_one() {
        let plain = |text: &str| Node { content: Content::Plain(text.to_owned()), span: None };
        let (number, text) = (json!({ "type": "integer", "maximum": 5 }), json!({ "type": "string", "maxLength": 2 }));
        assert_eq!(violations(&plain("6"), &number).len(), 1);
        assert!(violations(&plain("5"), &number).is_empty() && violations(&plain("66"), &text).is_empty());
        assert_eq!(violations(&plain("666"), &text).len(), 1);
    }
}
