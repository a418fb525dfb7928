//! Which documents can be generated from a declared configuration without its type?

use serde_json::Value;

use super::check::Configuration;
use super::diagnostic::Diagnostics;
use super::document::Document;
use super::example::Detail;
use super::field::{self, Field};
use super::{example, reference, schema};
use crate::registry::About;

/// The schema, the documentation and the lint of a configuration, independent of its type.
///
/// All of it is generated deterministically from the type and the [`About`].
#[derive(Debug, Clone)]
pub struct ConfigSpec {
    about: About,
    schema: Value,
    fields: Vec<Field>,
    check: fn(&Document, &[&str]) -> Diagnostics,
    lint: fn(&Document, &[&str]) -> Diagnostics,
}

impl ConfigSpec {
    /// Creates the spec of a type.
    pub fn of<T: Configuration>(about: About) -> Self {
        let mut schema = schema::of::<T>();
        let fields = field::fields(&schema);
        if let Some(root) = schema.as_object_mut() {
            root.insert("title".to_owned(), about.name.into());
            root.insert("description".to_owned(), about.summary.into());
        }
        let check = |document: &Document, path: &[&str]| match document.parse::<T>(path) {
            Ok(parsed) => parsed.warnings,
            Err(found) => found,
        };
        let lint = |document: &Document, path: &[&str]| document.lint::<T>(path);
        Self { about, schema, fields, check, lint }
    }

    /// Returns the description of the component.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Returns the JSON Schema (2020-12) of the block below the component's name.
    ///
    /// In addition to the standard keywords, the schema uses `x-advanced`, `x-secret`, `x-since`,
    /// `x-deprecated` (the replacement), `x-type` (`duration`, `size`) and `x-example` (the value that an
    /// example shows instead of the default).
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Returns the reference, in Markdown.
    pub fn reference(&self) -> String {
        // The fields are described in a section below.
        let block = |detail| example::render(self.about.name, &self.fields, detail, false);
        reference::render(&self.about, &self.fields, &block(Detail::Small), &block(Detail::Full))
    }

    /// Returns an annotated example in YAML: `name:` and the block below it, starting at the left margin.
    pub fn example(&self, detail: Detail) -> String {
        example::render(self.about.name, &self.fields, detail, true)
    }

    /// Returns all errors and warnings about the block at `path`, except those that only a connect would
    /// report.
    pub fn check(&self, document: &Document, path: &[&str]) -> Diagnostics {
        (self.check)(document, path)
    }

    /// Returns all errors and warnings about the block at `path`, including those that only a connect would
    /// report.
    pub fn lint(&self, document: &Document, path: &[&str]) -> Diagnostics {
        (self.lint)(document, path)
    }
}
