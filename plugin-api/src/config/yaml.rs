//! How does YAML text become nodes with positions? The nodes are types of this package, because reading a type
//! directly from YAML ends at the first error, and the author of a configuration needs all of them.
//!
//! The parser is serde-saphyr, which reports every node with its position. Types are not decided here: an unquoted
//! scalar keeps its text, so that the field decides how to read `no`, `1e3` and `0123`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, NonFiniteFloatPolicy, Spanned};

use super::diagnostic::{Diagnostic, Kind, Severity};
use super::environment;
use super::node::{Content, Entry, Node, Span};

/// Parses a document. An empty document is an empty mapping.
pub(super) fn parse(text: &str) -> Result<Node, Box<Diagnostic>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // The text is stored instead of the number, so no number has to be refused here.
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
    };
    // `${…}` could not be unquoted in `[…]` otherwise, because YAML would interpret its braces and colons.
    let hidden = environment::hide(text);
    let text = hidden.as_str();
    let found: Result<Option<Spanned<Raw>>, Error> = serde_saphyr::from_str_with_options(text, options);
    match found {
        Ok(Some(raw)) => Ok(node(raw, text)),
        Ok(None) => Ok(Node { content: Content::Map(Vec::new()), span: None }),
        Err(error) => Err(Box::new(diagnostic(&error))),
    }
}

/// The parsed document, before its scalars are interpreted.
enum Raw {
    Null,
    /// A scalar that isn't text; its text is read from its position in the source.
    Scalar,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar)
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Scalar)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Scalar)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Raw::Map(map))
    }
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let source = source(raw.defined, text);
    // An alias occupies one line, regardless of its value.
    let lines = if raw.referenced == raw.defined { source.lines().count().max(1) } else { 1 };
    let span = Some(Span { lines, ..span(raw.referenced) });
    let content = match raw.value {
        Raw::Null => Content::Null,
        Raw::Scalar => Content::Plain(environment::unhide(source)),
        // Quotes, escapes, folding and indentation make the value differ from the source text.
        Raw::Text(value) if value == source => Content::Plain(environment::unhide(&value)),
        Raw::Text(value) => Content::Text(environment::unhide(&value)),
        Raw::List(items) => Content::List(items.into_iter().map(|item| node(item, text)).collect()),
        Raw::Map(entries) => Content::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key: environment::unhide(&key.value),
                    key_span: Some(self::span(key.referenced)),
                    value: node(value, text),
                })
                .collect(),
        ),
    };
    Node { content, span }
}

fn span(at: Location) -> Span {
    Span { line: index(at.line()), column: index(at.column()), length: index(at.span().len()), lines: 1 }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn source(at: Location, text: &str) -> &str {
    let (Some(start), Some(length)) = (at.span().byte_offset(), at.span().byte_len()) else { return "" };
    let start = index(start);
    text.get(start..start.saturating_add(index(length))).unwrap_or("").trim_end()
}

fn diagnostic(error: &Error) -> Diagnostic {
    let error = error.without_snippet();
    let (kind, message, help) = match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            let key = environment::unhide(key);
            (Kind::DuplicateField, format!("field `{key}` is given twice"), Some("keep one of the two"))
        }
        Error::DuplicateMappingKey { .. } => {
            (Kind::DuplicateField, "a field is given twice".to_owned(), Some("keep one of the two"))
        }
        Error::MultipleDocuments { .. } => (
            Kind::Syntax,
            "there is more than one document in this file: a line of three dashes begins another".to_owned(),
            Some("leave one of them, and make a file of each other one"),
        ),
        other => (Kind::Syntax, format!("this is not YAML: {}", plain_message(other)), None),
    };
    let mut found = Diagnostic::new(Severity::Error, kind, "", message);
    found.help = help.map(str::to_owned);
    if let Some(at) = error.location().filter(|at| at.line() > 0) {
        let span = span(at);
        (found.line, found.column, found.length) = (Some(span.line), Some(span.column), span.length);
    }
    found
}

/// Returns the parser's own message, without the position that it appends.
fn plain_message(error: &Error) -> String {
    let text = error.render_with_options(serde_saphyr::render_options! {
        snippets: serde_saphyr::SnippetMode::Off,
    });
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = text.find(" at line ").unwrap_or(text.len());
    let first = text[..end].lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(node: &Node, key: &str) -> Content {
        node.entry(key).unwrap().value.content.clone()
    }

    #[test]
    fn unquoted_scalars_keep_their_text() {
        let node = parse("a: no\nb: 1e3\nc: 0123\nd: 1_000\ne: .nan\nf: plain # comment\ng: 1.10\nh: -5\n").unwrap();
        for (key, text) in [
            ("a", "no"),
            ("b", "1e3"),
            ("c", "0123"),
            ("d", "1_000"),
            ("e", ".nan"),
            ("f", "plain"),
            ("g", "1.10"),
            ("h", "-5"),
        ] {
            assert_eq!(plain(&node, key), Content::Plain(text.into()), "{key}");
        }
    }

    #[test]
    fn quoted_scalars_are_text() {
        let node = parse("a: \"1\"\nb: 'true'\nc: |\n  two\n  lines\nd: \"\"\n").unwrap();
        for (key, text) in [("a", "1"), ("b", "true"), ("c", "two\nlines\n"), ("d", "")] {
            assert_eq!(plain(&node, key), Content::Text(text.into()), "{key}");
        }
    }

    #[test]
    fn nothing_is_null_and_an_empty_document_a_mapping() {
        let node = parse("a:\nb: ~\n").unwrap();
        assert_eq!(plain(&node, "a"), Content::Null);
        assert_eq!(plain(&node, "b"), Content::Null);
        assert_eq!(parse("").unwrap().content, Content::Map(Vec::new()));
        assert_eq!(parse("# only a comment\n").unwrap().content, Content::Map(Vec::new()));
    }

    #[test]
    fn positions_count_characters() {
        let node = parse("ä: 1\nlist:\n  - {é: xyz}\n").unwrap();
        let list = &node.entry("list").unwrap().value;
        let Content::List(items) = &list.content else { panic!("{list:?}") };
        let entry = items[0].entry("é").unwrap();
        assert_eq!(entry.key_span, Some(Span { line: 3, column: 6, length: 1, lines: 1 }));
        assert_eq!(entry.value.span, Some(Span { line: 3, column: 9, length: 3, lines: 1 }));
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let node = parse("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\nlist: *b\n").unwrap();
        let mine = &node.entry("mine").unwrap().value;
        assert_eq!(plain(mine, "x"), Content::Plain("1".into()));
        assert_eq!(plain(mine, "y"), Content::Plain("3".into()));
        assert_eq!(plain(&node.entry("list").unwrap().value, "x"), Content::Plain("1".into()));
    }

    #[test]
    fn field_given_twice_is_reported_at_the_repetition() {
        let found = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((found.kind, found.line, found.column), (Kind::DuplicateField, Some(3), Some(1)));
        assert_eq!(found.message, "field `a` is given twice");
    }

    #[test]
    fn invalid_yaml_is_an_error_with_a_position() {
        for text in ["a: [1, 2", "a: \"x", "a:\n\tb: 1", "a: b: c", "a: *nowhere"] {
            let found = parse(text).unwrap_err();
            assert_eq!(found.kind, Kind::Syntax, "{text:?}");
            assert!(found.line.is_some(), "{text:?}: {found:?}");
            assert!(!found.message.contains("line "), "{text:?}: {found:?}");
        }
    }

    #[test]
    fn unquoted_variables_are_accepted_anywhere() {
        let node = parse("a: [${A}, ${B:-x: y}]\nb: ${C:#d}\n").unwrap();
        let Content::List(items) = plain(&node, "a") else { panic!("{node:?}") };
        assert_eq!(items[0].content, Content::Plain("${A}".into()));
        assert_eq!(items[1].content, Content::Plain("${B:-x: y}".into()));
        assert_eq!(plain(&node, "b"), Content::Plain("${C:#d}".into()));
    }
}
