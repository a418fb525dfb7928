//! How does a configuration type express rules beyond its attributes: fields that need or exclude each other?

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::diagnostic::{Kind, Severity};

/// A type that is the single declaration of a configuration.
///
/// - `Deserialize` (with `deny_unknown_fields` and `default`) says how it is read,
/// - `JsonSchema` with doc comments says what the schema, the reference and the example hold; `schemars(extend(…))`
///   adds `"x-advanced" = true`, `"x-since" = "0.2.0"`, `"deprecated" = true` and `"x-deprecated" = "use … instead"`,
/// - `schemars(range(min = 1, max = 100))` and `schemars(length(min = 1))` set the bounds of numbers, and of the length of texts
///   and lists: they stand in the schema, and a document is held to them,
/// - [`values`](Self::values) says what else a single value must satisfy,
/// - [`check`](Self::check) says what several fields together must satisfy.
pub trait Configuration: DeserializeOwned + JsonSchema + Send + 'static {
    /// Adds errors about single values, beyond their type and the bounds in the schema. An error that is added
    /// here replaces the error about the bounds of the same field.
    fn values(&self, findings: &mut Findings) {
        let _ = findings;
    }

    /// Adds errors and warnings about combinations of fields. This method is called only if each field is valid
    /// by itself.
    ///
    /// A field that holds its default counts as not given, because full examples list every default.
    fn check(&self, findings: &mut Findings) {
        let _ = findings;
    }

    /// Adds errors about a valid configuration that a connect would refuse, as far as they can be detected
    /// without I/O: for example, a value that only a person can correct. Lint calls this method; reading the
    /// configuration does not.
    fn unsupported(&self, findings: &mut Findings) {
        let _ = findings;
    }
}

/// The errors and warnings that a [`Configuration`] reports about itself. Paths are relative to the configuration;
/// messages must contain no values of secret fields.
#[derive(Debug, Default)]
pub struct Findings {
    pub(super) found: Vec<Finding>,
}

/// One error or warning.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) kind: Kind,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Findings {
    /// Adds an error: fields contradict each other, or one needs another. `path` is the field to correct first.
    pub fn conflict(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, Kind::Conflict, path, message.into(), help.into());
    }

    /// Adds an error about a value that only this check can detect.
    pub fn invalid(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, Kind::InvalidValue, path, message.into(), help.into());
    }

    /// Adds a warning: a field was written and has no effect.
    pub fn no_effect(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Warning, Kind::NoEffect, path, message.into(), help.into());
    }

    /// Returns `true` if a finding keeps the configuration from being used.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|one| one.severity == Severity::Error)
    }

    fn push(&mut self, severity: Severity, kind: Kind, path: &str, message: String, help: String) {
        let help = (!help.is_empty()).then_some(help);
        self.found.push(Finding { severity, kind, path: path.to_owned(), message, help });
    }
}
