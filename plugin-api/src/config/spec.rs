//! What can be generated from a declared configuration, without knowing its type?

use serde_json::Value;

use super::check::Configuration;
use super::diagnostic::Diagnostics;
use super::document::Document;
use super::example::Detail;
use super::field::{self, Field};
use super::{example, reference, schema};
use crate::registry::About;

/// What is known about a configuration without its type: its schema, its documentation and how to lint it.
///
/// All of it is made from the type and the [`About`], in the same way every time.
#[derive(Debug, Clone)]
pub struct ConfigSpec {
    about: About,
    schema: Value,
    fields: Vec<Field>,
    check: fn(&Document, &[&str]) -> Diagnostics,
    lint: fn(&Document, &[&str]) -> Diagnostics,
}

impl ConfigSpec {
    /// The spec of a type.
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

    /// What the configuration is for.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The JSON Schema (2020-12) of the block below the component's name.
    ///
    /// Besides the standard words it uses `x-advanced`, `x-secret`, `x-since`, `x-deprecated` (what to do instead),
    /// `x-type` (`duration`, `size`) and `x-example` (what an example shows instead of the default).
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// The reference, in Markdown.
    pub fn reference(&self) -> String {
        // The fields are described below them.
        let block = |detail| example::render(self.about.name, &self.fields, detail, false);
        reference::render(&self.about, &self.fields, &block(Detail::Small), &block(Detail::Full))
    }

    /// An annotated example in YAML: `name:` and the block below it, starting at the left margin.
    pub fn example(&self, detail: Detail) -> String {
        example::render(self.about.name, &self.fields, detail, true)
    }

    /// Every finding, errors and warnings, about the block at `path`, without what only a connect would refuse.
    pub fn check(&self, document: &Document, path: &[&str]) -> Diagnostics {
        (self.check)(document, path)
    }

    /// Every finding, errors and warnings, about the block at `path`, what a connect would refuse included.
    pub fn lint(&self, document: &Document, path: &[&str]) -> Diagnostics {
        (self.lint)(document, path)
    }
}
