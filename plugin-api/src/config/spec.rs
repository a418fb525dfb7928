//! What can be generated from a declared configuration, without knowing its type?

use serde_json::Value;

use super::{Configuration, Diagnostics, Document};
use crate::registry::About;

/// How much of a configuration an example shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detail {
    /// The common fields only.
    Small,
    /// Every field that isn't deprecated.
    Full,
}

/// What is known about a configuration without its type: its schema, its documentation and how to lint it.
#[derive(Debug, Clone)]
pub struct ConfigSpec {
    about: About,
    schema: Value,
    lint: fn(&Document, &[&str]) -> Diagnostics,
}

impl ConfigSpec {
    /// The spec of a type.
    pub fn of<T: Configuration>(about: About) -> Self {
        let lint = |document: &Document, path: &[&str]| match document.parse::<T>(path) {
            Ok(parsed) => parsed.warnings,
            Err(found) => found,
        };
        Self { about, schema: Value::Null, lint }
    }

    /// What the configuration is for.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The JSON Schema (2020-12) of the block below the component's name.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// The reference, in Markdown.
    pub fn reference(&self) -> String {
        String::new()
    }

    /// An annotated example in YAML: `name:` and the block below it, starting at the left margin.
    pub fn example(&self, detail: Detail) -> String {
        let _ = detail;
        String::new()
    }

    /// Every finding, errors and warnings, about the block at `path`.
    pub fn lint(&self, document: &Document, path: &[&str]) -> Diagnostics {
        (self.lint)(document, path)
    }
}
