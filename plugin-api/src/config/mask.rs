//! Which parts of a source line may be shown?

use serde_json::Value;

use super::node::{Content, Node, Span, Step};
use super::schema;

/// Words in a field's name that make its value a secret, in the parts of a document that have no schema.
const SECRET_WORDS: [&str; 4] = ["secret", "token", "password", "passwd"];

/// The text that replaces a secret.
const MASK: &str = "***";

/// Returns the positions of all values that must not be shown: secret fields, and values of fields that the schema
/// does not contain, because such a value may be a secret under a misspelled name.
pub(super) fn secrets(node: &Node, schema: &Value) -> Vec<Span> {
    let mut found = Vec::new();
    collect(node, Some(schema), &mut found);
    found
}

fn collect(node: &Node, schema: Option<&Value>, found: &mut Vec<Span>) {
    let secret = schema.is_none_or(schema::holds_secret);
    match &node.content {
        Content::Map(entries) => {
            for entry in entries {
                let step = Step::Key(entry.key.clone());
                collect(&entry.value, schema.and_then(|schema| schema::child(schema, &step)), found);
            }
        }
        Content::List(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, schema.and_then(|schema| schema::child(schema, &Step::Index(index))), found);
            }
        }
        _ if secret => found.extend(node.span),
        _ => {}
    }
}

/// Returns a line with its secrets masked.
pub(super) fn line(text: &str, number: usize, secrets: &[Span]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    // Masking goes from right to left, so that the remaining positions stay valid.
    let mut here: Vec<&Span> = secrets.iter().filter(|span| span.line == number).collect();
    here.sort_by_key(|span| std::cmp::Reverse(span.column));
    for span in here {
        let start = span.column.saturating_sub(1).min(chars.len());
        let end = start.saturating_add(span.length).min(chars.len());
        let tail_is_blank = chars[end..].iter().all(|c| c.is_whitespace());
        if tail_is_blank || start == end {
            chars.truncate(start);
            chars.extend(MASK.chars());
        } else {
            // More text follows, and a caret may have to point at it.
            chars[start..end].fill('*');
        }
    }
    let text: String = chars.into_iter().collect();
    // A secret of several lines has no column on the later ones, so those lines are hidden completely.
    if secrets.iter().any(|span| span.line < number && number < span.line + span.lines) {
        return MASK.to_owned();
    }
    by_name(&text)
}

/// Masks the value of a field whose name suggests a secret.
fn by_name(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let first = SECRET_WORDS.iter().filter_map(|word| lower.find(word)).min();
    let Some(colon) = first.and_then(|at| text[at..].find(':').map(|colon| at + colon)) else {
        return text.to_owned();
    };
    let value = text[colon + 1..].trim().trim_matches(['"', '\'']);
    // A variable's name is no secret and helps the author. Its default may be a secret.
    let variable = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    if value.chars().all(|c| c == '*') || variable.is_some_and(|name| !name.contains([':', '$'])) {
        return text.to_owned();
    }
    format!("{} {MASK}", &text[..=colon])
}

/// Removes every value that came from the environment from a message. Very short values are not treated as secrets,
/// because masking them would also hide ordinary words.
pub(super) fn values(message: &str, values: &[String]) -> String {
    let mut message = message.to_owned();
    for value in
        values.iter().filter(|value| value.chars().count() >= 4 && !["true", "false"].contains(&value.as_str()))
    {
        message = message.replace(value.as_str(), MASK);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn shown(text: &str, schema: &Value) -> String {
        let secrets = secrets(&yaml::parse(text).unwrap(), schema);
        let lines: Vec<_> = text.lines().enumerate().map(|(at, one)| line(one, at + 1, &secrets)).collect();
        lines.join("\n")
    }

    fn schema() -> Value {
        serde_json::json!({ "properties": {
            "id": {}, "pass": { "x-secret": true }, "all": { "properties": { "key": { "x-secret": true } } },
        } })
    }

    #[test]
    fn secret_fields_are_masked_wherever_they_stand() {
        assert_eq!(
            shown("id: a\npass: hunter2\nall: {key: hunter2, }", &schema()),
            "id: a\npass: ***\nall: {key: *******, }"
        );
        assert_eq!(shown("pass: |\n  hunter2\n  more\nid: a", &schema()), "pass: |\n  ***\n***\nid: a");
        assert_eq!(shown("pass: \"hunter2\n  more\"\nid: a", &schema()), "pass: ***\n***\nid: a");
        assert_eq!(shown("pass: hunter2 # or hunter3", &schema()), "pass: ******* # or hunter3");
    }

    #[test]
    fn unknown_fields_and_scalars_in_place_of_secret_blocks_are_masked() {
        assert_eq!(shown("pas: hunter2\nall: hunter2", &schema()), "pas: ***\nall: ***");
    }

    #[test]
    fn field_without_a_schema_is_masked_by_its_name() {
        let show = |text| line(text, 1, &[]);
        assert_eq!(show("  my_Secret: hunter2"), "  my_Secret: ***");
        assert_eq!(show("  token: \"${TOKEN}\""), "  token: \"${TOKEN}\"");
        assert_eq!(show("  token: ${TOKEN:-hunter2}"), "  token: ***");
        assert_eq!(show("  table: leases"), "  table: leases");
    }

    #[test]
    fn values_from_the_environment_are_removed_from_messages() {
        assert_eq!(values("bad: hunter2!", &["hunter2".into(), "ba".into()]), "bad: ***!");
    }
}
