//! What JSON Schema does a configuration type have?

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::node::Step;

/// Returns the schema of a type, draft 2020-12, with every part inline instead of referenced, because the
/// documentation is generated from it and developers read it.
pub(super) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    tidy(&mut schema);
    schema
}

/// Replaces the formats of schemars by standard keywords: `uint32` means an upper bound.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let bounds = match fields.get("format").and_then(Value::as_str) {
                Some("uint8") => Some((0.into(), u8::MAX.into())),
                Some("uint16") => Some((0.into(), u16::MAX.into())),
                Some("uint32") => Some((0.into(), u32::MAX.into())),
                Some("uint64" | "uint") => Some((0.into(), u64::MAX.into())),
                Some("int32") => Some((i32::MIN.into(), i32::MAX.into())),
                Some("int64" | "int") => Some((i64::MIN.into(), i64::MAX.into())),
                Some("float" | "double") => {
                    fields.remove("format");
                    None
                }
                _ => None,
            };
            if let Some((min, max)) = bounds {
                fields.remove("format");
                fields.entry("minimum").or_insert(min);
                fields.entry("maximum").or_insert(max);
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Returns the schema of the value at this step.
pub(super) fn child<'a>(schema: &'a Value, step: &Step) -> Option<&'a Value> {
    let direct = match step {
        Step::Key(key) => schema
            .get("properties")
            .and_then(|properties| properties.get(key))
            .or_else(|| schema.get("additionalProperties").filter(|rest| rest.is_object())),
        Step::Index(_) => schema.get("items"),
    };
    direct.or_else(|| {
        ["anyOf", "oneOf", "allOf"]
            .iter()
            .filter_map(|word| schema.get(word)?.as_array())
            .flatten()
            .find_map(|one| child(one, step))
    })
}

/// Returns `true` if the schema accepts a list or a mapping.
pub(super) fn takes_collection(schema: &Value) -> bool {
    let is_collection = |kind: &Value| kind == "array" || kind == "object";
    let own = schema.get("type").is_some_and(|kind| match kind {
        Value::Array(kinds) => kinds.iter().any(is_collection),
        kind => is_collection(kind),
    });
    own || ["anyOf", "oneOf", "allOf"]
        .iter()
        .filter_map(|word| schema.get(word)?.as_array())
        .flatten()
        .any(takes_collection)
}

/// Returns `true` if the schema, or any schema inside it, contains a secret.
pub(super) fn holds_secret(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            fields.get("x-secret") == Some(&Value::Bool(true)) || fields.values().any(holds_secret)
        }
        Value::Array(items) => items.iter().any(holds_secret),
        _ => false,
    }
}
