//! How does a configuration type say what its attributes can't: fields that need or exclude each other?

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
    /// Adds what is wrong about single values, beyond their type and the bounds in the schema. What is found here counts
    /// instead of what the bounds say of the same field.
    fn values(&self, findings: &mut Findings) {
        let _ = findings;
    }

    /// Adds what is wrong, or odd, about the fields together. Called only when each field is right by itself.
    ///
    /// A field that holds its default counts as not given: full examples list every default and mean nothing by it.
    fn check(&self, findings: &mut Findings) {
        let _ = findings;
    }

    /// Adds what is right as a configuration and would be refused at connect all the same, as far as that can be known
    /// without I/O: what this version can't do yet. Lint asks for it; reading the configuration does not.
    fn unsupported(&self, findings: &mut Findings) {
        let _ = findings;
    }
}

/// What a [`Configuration`] finds wrong or odd about itself. Paths are relative to the configuration; messages must hold no values of
/// secret fields.
#[derive(Debug, Default)]
pub struct Findings {
    pub(super) found: Vec<Finding>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) kind: Kind,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Findings {
    /// Fields contradict each other, or one needs another; `path` is the one to look at first.
    pub fn conflict(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, Kind::Conflict, path, message.into(), help.into());
    }

    /// A value is wrong in a way that only shows here.
    pub fn invalid(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, Kind::InvalidValue, path, message.into(), help.into());
    }

    /// A field was written and changes nothing: a warning.
    pub fn no_effect(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Warning, Kind::NoEffect, path, message.into(), help.into());
    }

    /// Whether anything found keeps the configuration from being used.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|one| one.severity == Severity::Error)
    }

    fn push(&mut self, severity: Severity, kind: Kind, path: &str, message: String, help: String) {
        let help = (!help.is_empty()).then_some(help);
        self.found.push(Finding { severity, kind, path: path.to_owned(), message, help });
    }
}
