//! How does a configuration get from a text or a host's value into a checked type?

use serde::de::DeserializeOwned;

use super::{Configuration, Diagnostic, Diagnostics, Environment};

/// A configuration together with what is odd about it.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The configuration: read, filled in and checked.
    pub config: T,
    /// Warnings; never errors.
    pub warnings: Diagnostics,
}

/// A document that holds one or more configurations, such as a pipeline file.
#[derive(Debug)]
pub struct Document {
    environment: Environment,
}

impl Document {
    /// Parses YAML text (of which JSON is a part). `file` is only for messages.
    ///
    /// `${VAR}` is filled in later, when a part is read, so that parts nobody reads need no variables.
    ///
    /// # Errors
    ///
    /// When the text isn't YAML, or a field is given twice.
    pub fn from_yaml(file: &str, text: &str, environment: &Environment) -> Result<Self, Diagnostics> {
        let _ = (file, text);
        Ok(Self { environment: environment.clone() })
    }

    /// Takes a value that a host has already parsed. Nothing is filled in: that is the host's to do.
    pub fn from_value(value: &serde_json::Value) -> Self {
        let _ = value;
        Self { environment: Environment::empty() }
    }

    /// The names of the fields at `path`, in the order of the document; `None` if there is no mapping there.
    pub fn fields(&self, path: &[&str]) -> Option<Vec<&str>> {
        let _ = path;
        None
    }

    /// Reads what is at `path` into any type, without checks of its own: for the parts of a file that belong to a
    /// host.
    ///
    /// # Errors
    ///
    /// When nothing is there, a variable isn't set, or the type can't be made of it.
    pub fn read<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Diagnostics> {
        let _ = (path, &self.environment);
        Err(Diagnostics::new())
    }

    /// Reads and checks the configuration at `path`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, as far as it can be known at once.
    pub fn parse<T: Configuration>(&self, path: &[&str]) -> Result<Parsed<T>, Diagnostics> {
        let _ = path;
        Err(Diagnostics::new())
    }

    /// An error at `path` (or the nearest thing to it that exists), for what a host finds wrong itself.
    pub fn error_at(&self, path: &[&str], message: impl Into<String>) -> Diagnostic {
        let _ = self;
        Diagnostic::new(super::Severity::Error, super::Kind::InvalidValue, path.join("."), message)
    }
}
