//! What is wrong with a configuration, where, and what can be done about it?

use std::error::Error;
use std::fmt;
use std::sync::Arc;

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

    fn place(&self) -> Option<String> {
        let file = self.file.as_deref().unwrap_or("configuration");
        match (self.line, self.column) {
            (Some(line), Some(column)) => Some(format!("{file}:{line}:{column}")),
            _ if self.file.is_some() => Some(file.to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Diagnostic {
    /// Several lines, the last without a line break: message, place, source line and caret, advice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        let gutter = self.line.map_or(1, |line| line.to_string().len());
        if let Some(place) = self.place() {
            write!(f, "\n{:gutter$}--> {place}", "")?;
        }
        if let (Some(line), Some(column), Some(source)) = (self.line, self.column, &self.source) {
            // Tabs are kept in front of the caret, so that it stays under its character.
            let before: String =
                source.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let carets = "^".repeat(self.length.max(1));
            write!(f, "\n{:gutter$} |\n{line} | {source}\n{:gutter$} | {before}{carets}", "", "")?;
        }
        if let Some(help) = &self.help {
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
    fn without_a_position_there_is_no_source() {
        let one = Diagnostic::new(Severity::Warning, Kind::NoEffect, "a.b", "does nothing");
        assert_eq!(one.to_string(), "warning: a.b: does nothing");
    }
}
