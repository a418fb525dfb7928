//! Which warnings about a document follow from its schema alone?

use serde_json::Value;

use super::node::{Content, Node, Path, Step};
use super::schema;

/// A deprecated field that the document contains.
pub(super) struct Deprecated {
    pub(super) path: Path,
    /// The replacement.
    pub(super) instead: Option<String>,
}

/// Returns every deprecated field in the document that is set to something other than its default.
pub(super) fn deprecated(node: &Node, schema: &Value) -> Vec<Deprecated> {
    let mut found = Vec::new();
    walk(node, schema, &mut Path::default(), &mut found);
    found
}

fn walk(node: &Node, schema: &Value, path: &mut Path, found: &mut Vec<Deprecated>) {
    let steps: Vec<(Step, &Node)> = match &node.content {
        Content::Map(entries) => entries.iter().map(|entry| (Step::Key(entry.key.clone()), &entry.value)).collect(),
        Content::List(items) => items.iter().enumerate().map(|(index, item)| (Step::Index(index), item)).collect(),
        _ => return,
    };
    for (step, value) in steps {
        let Some(schema) = schema::child(schema, &step) else { continue };
        path.0.push(step);
        if schema.get("deprecated") == Some(&Value::Bool(true)) && !is_default(value, schema) {
            let instead = schema.get("x-deprecated").and_then(Value::as_str).map(str::to_owned);
            found.push(Deprecated { path: path.clone(), instead });
        }
        walk(value, schema, path, found);
        path.0.pop();
    }
}

/// Full examples list every default, which does not count as use of the field.
fn is_default(node: &Node, schema: &Value) -> bool {
    let Some(default) = schema.get("default") else { return false };
    match &node.content {
        Content::Plain(text) | Content::Text(text) => {
            default.as_str().map_or_else(|| default.to_string(), str::to_owned) == *text
        }
        Content::Bool(value) => default.as_bool() == Some(*value),
        Content::Number(number) => default.as_number() == Some(number),
        _ => false,
    }
}
