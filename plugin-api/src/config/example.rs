//! Which configuration is a good starting point for an author?

use serde_json::Value;

use super::field::Field;

/// The level of detail of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detail {
    /// The example shows only the common fields.
    Small,
    /// The example shows every field that isn't deprecated.
    Full,
}

/// Comments are wrapped at this width.
const WIDTH: usize = 96;

/// Returns `name:` and the block below it, with the description above each field if the example is `annotated`.
pub(super) fn render(name: &str, fields: &[Field], detail: Detail, annotated: bool) -> String {
    let mut lines = vec![format!("{name}:")];
    block(&mut lines, fields, detail, annotated, 1);
    lines.push(String::new());
    lines.join("\n")
}

fn block(lines: &mut Vec<String>, fields: &[Field], detail: Detail, annotated: bool, depth: usize) {
    let shown = |field: &&Field| match detail {
        Detail::Small => !field.advanced && field.deprecated.is_none(),
        Detail::Full => field.deprecated.is_none(),
    };
    let indent = "  ".repeat(depth);
    for (index, field) in fields.iter().filter(shown).enumerate() {
        if annotated {
            if index > 0 && depth == 1 {
                lines.push(String::new());
            }
            let comment = comment(field, WIDTH - 2 * depth);
            lines.extend(comment.iter().map(|line| format!("{indent}# {line}").trim_end().to_owned()));
        }
        let name = &field.name;
        if field.fields.is_empty() {
            lines.push(format!("{indent}{name}: {}", scalar(&value(field))));
        } else {
            lines.push(format!("{indent}{name}:"));
            block(lines, &field.fields, detail, annotated, depth + 1);
        }
    }
}

fn comment(field: &Field, width: usize) -> Vec<String> {
    let mut text = field.description.trim().to_owned();
    let mut facts = Vec::new();
    if !field.choices.is_empty() {
        facts.push(format!("One of {}.", field.choices.join(", ")));
    }
    if field.required {
        facts.push("Required.".to_owned());
    }
    if field.secret {
        facts.push("Secret: write ${VAR}, not the value.".to_owned());
    }
    // The example value differs from the default, so the comment states the default.
    if field.shown.is_some()
        && let Some(default) = &field.default
    {
        facts.push(format!("Default: {}.", scalar(default)));
    }
    if !facts.is_empty() {
        text = format!("{text} {}", facts.join(" "));
    }
    let paragraphs: Vec<_> = text.split("\n\n").map(|paragraph| fold(paragraph, width)).collect();
    paragraphs.join(&String::new())
}

fn fold(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in paragraph.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Returns the value that the example shows, which has to work.
fn value(field: &Field) -> Value {
    if field.secret {
        return Value::String(String::new());
    }
    let candidates = [field.shown.as_ref(), field.default.as_ref(), field.examples.first()];
    candidates.into_iter().flatten().next().cloned().unwrap_or_else(|| match field.kind.as_str() {
        "whole number" | "number" => 0.into(),
        "true or false" => false.into(),
        kind if kind.starts_with("list") => Value::Array(Vec::new()),
        "fields" => Value::Object(serde_json::Map::new()),
        _ => Value::String(String::new()),
    })
}

/// Formats a value as YAML on one line. JSON is YAML; plain words are more readable where they are safe.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Returns `true` if YAML reads the unquoted text as this same text in any context.
fn is_plain(text: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(safe)
        && super::scalar::boolean(text).is_none()
        && super::scalar::number(text).is_none()
        && text != "null"
}
