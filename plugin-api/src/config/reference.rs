//! How is a component documented in Markdown?

use std::fmt::Write as _;

use serde_json::Value;

use super::field::Field;
use crate::registry::{About, Stability};

/// Returns the reference: the description, an example configuration, and every field.
pub(super) fn render(about: &About, fields: &[Field], small: &str, full: &str) -> String {
    let mut out = String::new();
    // Writing to a `String` can't fail.
    let _ = write(&mut out, about, fields, small, full);
    out
}

fn write(out: &mut String, about: &About, fields: &[Field], small: &str, full: &str) -> std::fmt::Result {
    writeln!(out, "# {}\n\n{}\n", about.name, about.summary)?;
    if about.status != Stability::Stable {
        writeln!(out, "This input is {}.\n", about.status)?;
    }
    writeln!(out, "The common fields:\n\n```yaml\n{}```\n", in_a_pipeline(small))?;
    writeln!(out, "<details>\n<summary>All fields</summary>\n\n```yaml\n{}```\n\n</details>\n", in_a_pipeline(full))?;
    if !about.description.is_empty() {
        writeln!(out, "{}\n", about.description.trim())?;
    }
    if !about.examples.is_empty() {
        writeln!(out, "## Examples\n")?;
        for example in &about.examples {
            writeln!(out, "### {}\n\n{}\n", example.title, example.summary)?;
            writeln!(out, "```yaml\n{}\n```\n", example.yaml.trim())?;
        }
    }
    writeln!(out, "## Fields\n")?;
    writeln!(
        out,
        "A duration is a number with a unit: `300ms`, `5s`, `1m30s`. A size is a number of bytes with or without a unit: \
         `256MiB`, `1048576`. `${{VAR}}` and `${{VAR:-default}}` are filled in from the environment.\n"
    )?;
    for field in fields {
        write_field(out, field)?;
    }
    // The file ends with one line break, not two.
    out.truncate(out.trim_end().len());
    out.push('\n');
    Ok(())
}

/// Formats the block in the context of a pipeline file.
fn in_a_pipeline(block: &str) -> String {
    let mut out = "input:\n".to_owned();
    for line in block.lines() {
        if !line.is_empty() {
            out.push_str("  ");
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

fn write_field(out: &mut String, field: &Field) -> std::fmt::Result {
    writeln!(out, "### `{}`\n", field.path)?;
    if let Some(instead) = &field.deprecated {
        writeln!(out, "**Deprecated.** {}\n", sentence(instead))?;
    }
    if !field.description.is_empty() {
        writeln!(out, "{}\n", field.description.trim())?;
    }
    let mut facts = vec![format!("Type: {}", field.kind)];
    match &field.default {
        Some(default) => facts.push(format!("default: `{}`", literal(default))),
        None if field.required => facts.push("required".to_owned()),
        None => {}
    }
    if !field.choices.is_empty() {
        let choices: Vec<_> = field.choices.iter().map(|choice| format!("`{choice}`")).collect();
        facts.push(format!("one of {}", choices.join(", ")));
    }
    facts.extend(field.range.clone());
    if field.secret {
        facts.push("secret: write `${VAR}`, not the value".to_owned());
    }
    if field.advanced && field.fields.is_empty() {
        facts.push("advanced".to_owned());
    }
    if let Some(since) = &field.since {
        facts.push(format!("since {since}"));
    }
    writeln!(out, "{}.\n", facts.join("; "))?;
    if !field.examples.is_empty() && !field.secret {
        let examples: Vec<_> = field.examples.iter().map(|example| format!("`{}`", literal(example))).collect();
        writeln!(out, "Examples: {}.\n", examples.join(", "))?;
    }
    field.fields.iter().try_for_each(|inner| write_field(out, inner))
}

fn sentence(text: &str) -> String {
    let mut chars = text.trim().trim_end_matches('.').chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    }
}
