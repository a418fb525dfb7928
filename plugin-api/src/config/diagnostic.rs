//! What is wrong with a configuration, where, and what can be done about it?

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// What stands in place of the name of a file that is not known.
const NO_FILE: &str = "configuration";

/// How bad a finding is.
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

/// What kind of finding it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The text isn't YAML.
    Syntax,
    /// A field is given twice in one mapping.
    DuplicateField,
    /// No field has this name.
    UnknownField,
    /// A field that must be given is not.
    MissingField,
    /// A value of another type was expected.
    WrongType,
    /// The type is right, the value isn't.
    InvalidValue,
    /// Fields contradict each other, or one needs another.
    Conflict,
    /// An environment variable is needed and not set.
    UnsetVariable,
    /// Nothing is at the place where a configuration was looked for.
    NotFound,
    /// The field still works, but will go.
    Deprecated,
    /// The field changes nothing in this configuration.
    NoEffect,
}

impl Kind {
    /// A short stable name, such as `unknown_field`.
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

/// One finding.
///
/// Neither the message nor the source line ever holds a secret or a value from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding it is.
    pub kind: Kind,
    /// The file, if the configuration came from one.
    pub file: Option<Arc<str>>,
    /// The line in that file, from 1.
    pub line: Option<usize>,
    /// The column in that line, in characters, from 1.
    pub column: Option<usize>,
    /// How many characters of that line are meant; 0 when unknown.
    pub length: usize,
    /// The line itself, with secrets masked.
    pub source: Option<String>,
    /// The field, from the root of the document: `input.aws_kinesis.streams[0]`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What can be done about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A finding without a position.
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

    /// The same with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The characters of the source line that are meant, as a range of bytes. A place beyond its end is its end.
    fn range(source: &str, column: usize, length: usize) -> Range<usize> {
        let at = |char: usize| source.char_indices().nth(char).map_or(source.len(), |(at, _)| at);
        let first = column.saturating_sub(1);
        at(first)..at(first.saturating_add(length.max(1)))
    }
}

impl fmt::Display for Diagnostic {
    /// Several lines, the last without a line break: message, place, source line and caret, advice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Warning => Level::WARNING,
            Severity::Error => Level::ERROR,
        };
        let subject = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        let title = level.primary_title(format!("{subject}{}", self.message));
        let file = self.file.as_deref();
        let place = (self.line, self.column, &self.source);
        let group = if let (Some(line), Some(column), Some(source)) = place {
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
            // Not an element of the group, for an empty line would come before it.
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
    /// Nothing found.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// All findings.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.found.iter()
    }

    /// Only those that keep the configuration from being used.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter().filter(|one| one.severity == Severity::Error)
    }

    /// Only those that don't.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter().filter(|one| one.severity == Severity::Warning)
    }

    /// Whether the configuration can't be used.
    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many findings there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    pub(super) fn sort(&mut self) {
        // Stable: what has no position stays where it was found, before all that has.
        self.found.sort_by_key(|one| (one.line, one.column));
    }
}

impl fmt::Display for Diagnostics {
    /// Every finding, an empty line between two.
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
    fn a_finding_is_shown_with_its_line_and_a_caret_under_the_word() {
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
    fn place_beyond_the_line_is_its_end() {
        for (column, length) in [(4, 1), (40, 9), (usize::MAX, usize::MAX), (0, 0)] {
            let mut one = Diagnostic::new(Severity::Error, Kind::Syntax, "", "broken");
            (one.line, one.column, one.length, one.source) = (Some(1), Some(column), length, Some("a: ".into()));
            assert!(one.to_string().contains('^'), "{column}, {length}: {one}");
        }
    }

    #[test]
    fn without_a_position_there_is_no_source() {
        let one = Diagnostic::new(Severity::Warning, Kind::NoEffect, "a.b", "does nothing");
        assert_eq!(one.to_string(), "warning: a.b: does nothing");
        let one = Diagnostic { file: Some("a.yaml".into()), ..one.with_help("remove it") };
        assert_eq!(one.to_string(), "warning: a.b: does nothing\n--> a.yaml\n  = help: remove it");
    }
}
