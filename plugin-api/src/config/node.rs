//! How is a parsed document represented before its type is known?

use std::fmt;

use serde_json::{Number, Value};

/// A position in the text, in characters counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) line: usize,
    pub(super) column: usize,
    /// The length in characters, including line breaks; it may exceed the end of the line.
    pub(super) length: usize,
    /// The number of lines.
    pub(super) lines: usize,
}

/// A value and its position. A value from a host has no position.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) span: Option<Span>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    /// A text: quoted in YAML, or a JSON string.
    Text(String),
    /// An unquoted YAML scalar, whose type depends on the field.
    Plain(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Option<Span>,
    pub(super) value: Node,
}

impl Node {
    pub(super) fn from_value(value: &Value) -> Self {
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(value) => Content::Bool(*value),
            Value::Number(number) => Content::Number(number.clone()),
            Value::String(text) => Content::Text(text.clone()),
            Value::Array(items) => Content::List(items.iter().map(Self::from_value).collect()),
            Value::Object(fields) => Content::Map(
                fields
                    .iter()
                    .map(|(key, value)| Entry { key: key.clone(), key_span: None, value: Self::from_value(value) })
                    .collect(),
            ),
        };
        Self { content, span: None }
    }

    /// Sets the position of the node and of all nodes inside it.
    pub(super) fn stand_at(&mut self, span: Option<Span>) {
        self.span = span;
        match &mut self.content {
            Content::List(items) => items.iter_mut().for_each(|item| item.stand_at(span)),
            Content::Map(entries) => {
                for entry in entries {
                    entry.key_span = span;
                    entry.value.stand_at(span);
                }
            }
            _ => {}
        }
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Returns the child node at this step.
    pub(super) fn step(&self, step: &Step) -> Option<&Self> {
        match (step, &self.content) {
            (Step::Key(key), Content::Map(_)) => self.entry(key).map(|entry| &entry.value),
            (Step::Index(index), Content::List(items)) => items.get(*index),
            _ => None,
        }
    }

    fn step_mut(&mut self, step: &Step) -> Option<&mut Self> {
        match (step, &mut self.content) {
            (Step::Key(key), Content::Map(entries)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.value)
            }
            (Step::Index(index), Content::List(items)) => items.get_mut(*index),
            _ => None,
        }
    }

    /// Replaces the node at `path`, if there is one.
    pub(super) fn replace(&mut self, path: &[Step], new: Self) {
        if let Some(node) = path.iter().try_fold(self, |node, step| node.step_mut(step)) {
            *node = new;
        }
    }

    /// Removes the node at `path`, and returns `true` if there was one.
    pub(super) fn remove(&mut self, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let Some(parent) = parents.iter().try_fold(self, |node, step| node.step_mut(step)) else { return false };
        match (last, &mut parent.content) {
            (Step::Key(key), Content::Map(entries)) => {
                let at = entries.iter().position(|entry| entry.key == *key);
                at.map(|at| entries.remove(at)).is_some()
            }
            (Step::Index(index), Content::List(items)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }

    /// Calls `each` with every scalar text in document order, and with its path.
    pub(super) fn for_each_text_mut(
        &mut self,
        path: &mut Path,
        each: &mut dyn FnMut(&Path, Option<Span>, &mut String),
    ) {
        match &mut self.content {
            Content::Text(text) | Content::Plain(text) => each(path, self.span, text),
            Content::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.0.push(Step::Index(index));
                    item.for_each_text_mut(path, each);
                    path.0.pop();
                }
            }
            Content::Map(entries) => {
                for entry in entries {
                    path.0.push(Step::Key(entry.key.clone()));
                    entry.value.for_each_text_mut(path, each);
                    path.0.pop();
                }
            }
            Content::Null | Content::Bool(_) | Content::Number(_) => {}
        }
    }
}

/// A step of a path into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The path from the root of a document to a value: `input.aws_kinesis.streams[0]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(super) fn of_keys(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| Step::Key((*key).to_owned())).collect())
    }

    /// Parses `a.b[0].c`, as used by [`Findings`](super::Findings). Keys that contain dots are not supported.
    pub(super) fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let mut pieces = part.split('[');
            if let Some(key) = pieces.next().filter(|key| !key.is_empty()) {
                steps.push(Step::Key(key.to_owned()));
            }
            for piece in pieces {
                match piece.trim_end_matches(']').parse() {
                    Ok(index) => steps.push(Step::Index(index)),
                    Err(_) => steps.push(Step::Key(piece.trim_end_matches(']').to_owned())),
                }
            }
        }
        Self(steps)
    }

    pub(super) fn join(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(at) => write!(f, "[{at}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        for text in ["", "a", "a.b", "a[3].b[0][1].c"] {
            assert_eq!(Path::parse(text).to_string(), text);
        }
    }

    #[test]
    fn removing_takes_only_what_is_there() {
        let mut node = Node::from_value(&serde_json::json!({ "a": { "b": [1, 2] }, "c": 1 }));
        assert!(!node.remove(&Path::parse("a.x").0));
        assert!(!node.remove(&Path::parse("a.b[2]").0));
        assert!(!node.remove(&[]));
        assert!(node.remove(&Path::parse("a.b[0]").0));
        assert_eq!(node, Node::from_value(&serde_json::json!({ "a": { "b": [2] }, "c": 1 })));
    }
}
