//! How is an error in a configuration described, located and explained?

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// The text that replaces an unknown file name.
const NO_FILE: &str = "configuration";

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// The configuration works, but probably not as meant.
    Warning,
    /// The configuration can't be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// The kind of a finding, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The text isn't YAML.
    Syntax,
    /// A field is given twice in one mapping.
    DuplicateField,
    /// No field has this name.
    UnknownField,
    /// A required field is missing.
    MissingField,
    /// A value has the wrong type.
    WrongType,
    /// The type is right, but the value isn't.
    InvalidValue,
    /// Fields contradict each other, or one needs another.
    Conflict,
    /// A required environment variable is not set.
    UnsetVariable,
    /// No value exists at the path of the configuration.
    NotFound,
    /// The field still works, but will be removed.
    Deprecated,
    /// The field has no effect in this configuration.
    NoEffect,
}

impl Kind {
    /// Returns a short stable name, such as `unknown_field`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::DuplicateField => "duplicate_field",
            Self::UnknownField => "unknown_field",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::InvalidValue => "invalid_value",
            Self::Conflict => "conflict",
            Self::UnsetVariable => "unset_variable",
            Self::NotFound => "not_found",
            Self::Deprecated => "deprecated",
            Self::NoEffect => "no_effect",
        }
    }
}

/// An error or a warning about a configuration.
///
/// Neither the message nor the source line ever contains a secret or a value from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The severity.
    pub severity: Severity,
    /// The kind of finding.
    pub kind: Kind,
    /// The file, if the configuration came from one.
    pub file: Option<Arc<str>>,
    /// The line in that file, counted from 1.
    pub line: Option<usize>,
    /// The column in that line, in characters, counted from 1.
    pub column: Option<usize>,
    /// The length of the affected text in that line, in characters; 0 if unknown.
    pub length: usize,
    /// The line itself, with secrets masked.
    pub source: Option<String>,
    /// The path of the field from the root of the document: `input.aws_kinesis.streams[0]`.
    pub path: String,
    /// The description of the problem.
    pub message: String,
    /// The advice on how to fix it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Creates a finding without a position.
    pub fn new(severity: Severity, kind: Kind, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity,
            kind,
            file: None,
            line: None,
            column: None,
            length: 0,
            source: None,
            path: path.into(),
            message: message.into(),
            help: None,
        }
    }

    /// Adds advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Returns the affected characters of the source line as a range of bytes. A position beyond the end of the
    /// line counts as its end.
    fn range(source: &str, column: usize, length: usize) -> Range<usize> {
        let at = |char: usize| source.char_indices().nth(char).map_or(source.len(), |(at, _)| at);
        let first = column.saturating_sub(1);
        at(first)..at(first.saturating_add(length.max(1)))
    }
}

impl fmt::Display for Diagnostic {
    /// Formats the finding on several lines, the last without a line break: message, position, source line and
    /// caret, advice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Warning => Level::WARNING,
            Severity::Error => Level::ERROR,
        };
        let subject = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        let title = level.primary_title(format!("{subject}{}", self.message));
        let file = self.file.as_deref();
        let position = (self.line, self.column, &self.source);
        let group = if let (Some(line), Some(column), Some(source)) = position {
            let meant = AnnotationKind::Primary.span(Self::range(source, column, self.length));
            let snippet = Snippet::source(source).line_start(line).path(file.unwrap_or(NO_FILE)).annotation(meant);
            Group::with_title(title).element(snippet)
        } else if let (Some(line), Some(column)) = (self.line, self.column) {
            Group::with_title(title).element(Origin::path(file.unwrap_or(NO_FILE)).line(line).char_column(column))
        } else if let Some(file) = file {
            Group::with_title(title).element(Origin::path(file))
        } else {
            Group::with_title(title)
        };
        f.write_str(&Renderer::plain().render(&[group]))?;
        if let Some(help) = &self.help {
            // The advice is not an element of the group, because an empty line would precede it.
            let gutter = self.line.map_or(1, |line| line.to_string().len());
            write!(f, "\n{:gutter$} = help: {help}", "")?;
        }
        Ok(())
    }
}

/// Findings in the order of the document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Returns all findings.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.found.iter()
    }

    /// Returns the findings that keep the configuration from being used.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter().filter(|one| one.severity == Severity::Error)
    }

    /// Returns the findings that don't keep the configuration from being used.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter().filter(|one| one.severity == Severity::Warning)
    }

    /// Returns `true` if the configuration can't be used.
    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }

    /// Returns `true` if there are no findings.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns the number of findings.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    pub(super) fn sort(&mut self) {
        // The sort is stable: findings without a position keep their order and precede all others.
        self.found.sort_by_key(|one| (one.line, one.column));
    }
}

impl fmt::Display for Diagnostics {
    /// Shows every finding, separated by empty lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.found.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            one.fmt(f)?;
        }
        Ok(())
    }
}

impl Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Self { found: vec![one] }
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Self {
        Self { found: iter.into_iter().collect() }
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, iter: I) {
        self.found.extend(iter);
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_is_shown_with_its_line_and_a_caret_under_the_word() {
        let mut one = Diagnostic::new(Severity::Error, Kind::UnknownField, "input.x", "unknown field `x`")
            .with_help("did you mean `y`?");
        one.file = Some("pipeline.yaml".into());
        one.line = Some(12);
        one.column = Some(3);
        one.length = 1;
        one.source = Some("  x: 1".into());
        let expected = "\
error: input.x: unknown field `x`
  --> pipeline.yaml:12:3
   |
12 |   x: 1
   |   ^
   = help: did you mean `y`?";
        assert_eq!(one.to_string(), expected);
    }

    #[test]
    fn caret_stands_under_the_word_behind_wide_characters() {
        let mut one = Diagnostic::new(Severity::Error, Kind::WrongType, "", "expected text");
        (one.line, one.column, one.length, one.source) = (Some(1), Some(5), 2, Some("世界: 12".into()));
        let expected = "\
error: expected text
 --> configuration:1:5
  |
1 | 世界: 12
  |       ^^";
        assert_eq!(one.to_string(), expected);
    }

    #[test]
    fn position_beyond_the_line_is_its_end() {
        for (column, length) in [(4, 1), (40, 9), (usize::MAX, usize::MAX), (0, 0)] {
            let mut one = Diagnostic::new(Severity::Error, Kind::Syntax, "", "broken");
            (one.line, one.column, one.length, one.source) = (Some(1), Some(column), length, Some("a: ".into()));
            assert!(one.to_string().contains('^'), "{column}, {length}: {one}");
        }
    }

    #[test]
    fn finding_without_a_position_shows_no_source() {
        let one = Diagnostic::new(Severity::Warning, Kind::NoEffect, "a.b", "does nothing");
        assert_eq!(one.to_string(), "warning: a.b: does nothing");
        let one = Diagnostic { file: Some("a.yaml".into()), ..one.with_help("remove it") };
        assert_eq!(one.to_string(), "warning: a.b: does nothing\n--> a.yaml\n  = help: remove it");
    }
}
