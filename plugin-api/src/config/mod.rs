//! One declared type gives parsing, lint, schema, reference and example.
//!
//! A configuration is declared once, as a Rust type that is a [`Configuration`]. Everything else follows:
//!
//! - [`Document`] reads it out of a YAML file (at a path, with positions) or out of a host's JSON value,
//! - [`Environment`] fills in `${VAR}` on the way,
//! - [`Diagnostics`] describe errors, as data and as text with file, line, column and a caret,
//! - [`ConfigSpec`] generates the JSON Schema, the reference in Markdown and the annotated example, and lints.
//!
//! # Derive macros
//!
//! A plugin needs no `serde` and no `schemars` dependency of its own: both are re-exported here, in the versions
//! that this package is built with (`serde` 1, `schemars` 1.2 or later). A new major version of either is an
//! incompatible version of this package. The macros need the path of the re-export:
//!
//! ```
//! use pipeline_plugin_api::config::schemars::{self, JsonSchema};
//! use pipeline_plugin_api::config::serde::{self, Deserialize};
//! use pipeline_plugin_api::config::{Configuration, Document, Environment};
//!
//! /// Reads a topic.
//! #[derive(Debug, Deserialize, JsonSchema)]
//! #[serde(crate = "pipeline_plugin_api::config::serde", deny_unknown_fields)]
//! #[schemars(crate = "pipeline_plugin_api::config::schemars")]
//! struct Config {
//!     /// The topic to read.
//!     #[schemars(length(min = 1))]
//!     topic: String,
//! }
//!
//! impl Configuration for Config {}
//!
//! let document = Document::from_yaml("pipeline.yaml", "topic: ''", &Environment::empty()).unwrap();
//! let found = document.parse::<Config>(&[]).unwrap_err();
//! assert!(found.to_string().contains("topic: the length is lower than 1"));
//! ```
//!
//! # Layout
//!
//! - `document`: reading, from text or a value to a checked type.
//! - `yaml`, `node`, `scalar`: the parsed document with positions; `de`, `de_error`: from there to serde.
//! - `environment`: `${VAR}`.
//! - `check`: the rules that a configuration type adds to its attributes; `bounds`: the bounds in the attributes.
//! - `diagnostic`: findings and how they are shown; `mask`: secrets in source lines; `lint`: deprecated fields.
//! - `spec`, `schema`, `field`, `reference`, `example`: the generated documents.
//! - `duration`, `size`, `secret`, `optional`: value types.

mod bounds;
mod check;
mod de;
mod de_error;
mod diagnostic;
mod document;
mod duration;
mod environment;
mod example;
mod field;
mod lint;
mod mask;
mod node;
mod optional;
mod reference;
mod scalar;
mod schema;
mod secret;
mod size;
mod spec;
#[cfg(test)]
mod tests;
mod yaml;

pub use {schemars, serde};

pub use check::{Configuration, Findings};
pub use diagnostic::{Diagnostic, Diagnostics, Kind, Severity};
pub use document::{Document, Parsed};
pub use duration::{Duration, DurationError};
pub use environment::Environment;
pub use example::Detail;
pub use optional::Optional;
pub use secret::Secret;
pub use size::{ByteSize, ByteSizeError};
pub use spec::ConfigSpec;

/// Returns the candidate most similar to `name`, if there is a similar one.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The first measure suits long names with a common prefix, and the second suits swapped letters in short
    // names.
    let likeness = |candidate: &str| {
        let beginning = strsim::jaro_winkler(name, candidate);
        let letters = strsim::normalized_damerau_levenshtein(name, candidate);
        (beginning > 0.8 || letters > 0.6).then(|| beginning.max(letters))
    };
    candidates
        .into_iter()
        .filter_map(|candidate| Some((likeness(candidate)?, candidate)))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
