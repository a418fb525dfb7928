//! Which fields does a schema describe, as a list for readers?

use serde_json::Value;

/// A documented field.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    /// The path from the block, such as `dynamodb.table`.
    pub(super) path: String,
    /// The last part of the path.
    pub(super) name: String,
    /// The type in plain words: `duration`, `list of text`.
    pub(super) kind: String,
    /// The description in Markdown, with lines joined to paragraphs.
    pub(super) description: String,
    pub(super) required: bool,
    pub(super) advanced: bool,
    pub(super) secret: bool,
    /// The replacement, if the field is deprecated.
    pub(super) deprecated: Option<String>,
    /// The version that introduced the field, if it is not the first.
    pub(super) since: Option<String>,
    pub(super) default: Option<Value>,
    pub(super) examples: Vec<Value>,
    /// The value that an example configuration shows instead of the default.
    pub(super) shown: Option<Value>,
    /// The possible values, if they can be listed.
    pub(super) choices: Vec<String>,
    /// The bounds, such as `at least 1` or `1 to 10`.
    pub(super) range: Option<String>,
    /// The nested fields.
    pub(super) fields: Vec<Field>,
}

/// Returns the fields of an object's schema, in the order of the type.
pub(super) fn fields(schema: &Value) -> Vec<Field> {
    of_object(schema, "")
}

fn of_object(schema: &Value, prefix: &str) -> Vec<Field> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let required: Vec<&str> = texts(schema.get("required"));
    properties
        .iter()
        .map(|(name, schema)| {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            of_property(name, path, schema, required.contains(&name.as_str()))
        })
        .collect()
}

fn of_property(name: &str, path: String, schema: &Value, required: bool) -> Field {
    let flag = |word: &str| schema.get(word) == Some(&Value::Bool(true));
    let text = |word: &str| schema.get(word).and_then(Value::as_str).map(str::to_owned);
    let fields = of_object(schema, &path);
    // An object whose fields are all advanced is advanced, regardless of its own attribute.
    let advanced = flag("x-advanced") || (!fields.is_empty() && fields.iter().all(|field| field.advanced));
    Field {
        name: name.to_owned(),
        kind: kind(schema),
        description: text("description").unwrap_or_default(),
        required,
        advanced,
        secret: flag("x-secret"),
        deprecated: flag("deprecated").then(|| text("x-deprecated").unwrap_or_default()),
        since: text("x-since"),
        default: schema.get("default").cloned(),
        examples: schema.get("examples").and_then(Value::as_array).cloned().unwrap_or_default(),
        shown: schema.get("x-example").cloned(),
        choices: choices(schema),
        range: range(schema),
        fields,
        path,
    }
}

fn texts(value: Option<&Value>) -> Vec<&str> {
    value.and_then(Value::as_array).map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

fn kind(schema: &Value) -> String {
    if let Some(kind) = schema.get("x-type").and_then(Value::as_str) {
        return kind.to_owned();
    }
    match schema.get("type") {
        Some(Value::String(kind)) => plain_kind(kind, schema),
        Some(Value::Array(kinds)) => {
            let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect();
            kinds.iter().map(|kind| plain_kind(kind, schema)).collect::<Vec<_>>().join(" or ")
        }
        _ if !choices(schema).is_empty() => "text".to_owned(),
        _ => "any".to_owned(),
    }
}

fn plain_kind(kind: &str, schema: &Value) -> String {
    match kind {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "object" => "fields".to_owned(),
        "array" => match schema.get("items") {
            Some(items) if items.is_object() => format!("list of {}", self::kind(items)),
            _ => "list".to_owned(),
        },
        other => other.to_owned(),
    }
}

/// Reads `enum`, or `oneOf` with a `const` each, which is how schemars represents documented variants.
fn choices(schema: &Value) -> Vec<String> {
    let listed = texts(schema.get("enum"));
    let constants = ["oneOf", "anyOf"]
        .iter()
        .filter_map(|word| schema.get(word)?.as_array())
        .flatten()
        .filter_map(|one| one.get("const")?.as_str());
    listed.into_iter().chain(constants).filter(|choice| !choice.is_empty()).map(str::to_owned).collect()
}

fn range(schema: &Value) -> Option<String> {
    // A bound that equals the range of the type is not worth showing.
    let natural = [Some(0.0), Some(f64::from(u32::MAX)), Some(u64::MAX as f64)];
    let bound = |word: &str| schema.get(word).filter(|bound| !natural.contains(&bound.as_f64()));
    if let Some(min) = schema.get("minItems").filter(|min| min.as_u64() > Some(0)) {
        return Some(format!("at least {min}"));
    }
    match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) => Some(format!("{min} to {max}")),
        (Some(min), None) => Some(format!("at least {min}")),
        (None, Some(max)) => Some(format!("at most {max}")),
        (None, None) => None,
    }
}
