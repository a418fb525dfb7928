//! Which inputs can a host build, and how?

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::config::{ConfigSpec, Configuration, Diagnostics, Document};
use crate::{BoxError, Input};

/// What its author promises about a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stability {
    /// Changes only in compatible ways.
    Stable,
    /// Works; fields may still change with a minor version.
    Beta,
    /// May change or go at any time.
    Experimental,
    /// Will go; its description says what to use instead.
    Deprecated,
}

impl fmt::Display for Stability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Beta => "beta",
            Self::Experimental => "experimental",
            Self::Deprecated => "deprecated",
        })
    }
}

/// A worked example, for the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// A few words.
    pub title: &'static str,
    /// When one would want it.
    pub summary: &'static str,
    /// A document with `input: {name: …}`. It must lint clean with the variables it uses set.
    pub yaml: &'static str,
}

/// What a component is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// The name in a configuration, such as `aws_kinesis`.
    pub name: &'static str,
    /// The version of the plugin.
    pub version: &'static str,
    /// What is promised.
    pub status: Stability,
    /// One sentence.
    pub summary: &'static str,
    /// The rest, in Markdown.
    pub description: &'static str,
    /// Worked examples.
    pub examples: Vec<Example>,
}

impl About {
    /// A stable component without description and examples.
    pub fn new(name: &'static str, version: &'static str, summary: &'static str) -> Self {
        Self { name, version, status: Stability::Stable, summary, description: "", examples: Vec::new() }
    }

    /// With another promise.
    #[must_use]
    pub fn status(mut self, status: Stability) -> Self {
        self.status = status;
        self
    }

    /// With a description in Markdown.
    #[must_use]
    pub fn description(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// With one more example.
    #[must_use]
    pub fn example(mut self, title: &'static str, summary: &'static str, yaml: &'static str) -> Self {
        self.examples.push(Example { title, summary, yaml });
        self
    }
}

/// What an input's author provides.
pub trait InputPlugin: Send + Sync + 'static {
    /// The one declaration of its configuration.
    type Config: Configuration;

    /// What it is, for people.
    fn about(&self) -> About;

    /// Makes an input that isn't connected yet. Does no I/O.
    ///
    /// # Errors
    ///
    /// When something about the configuration can only be known here.
    fn build(&self, config: Self::Config) -> Result<Arc<dyn Input>, BoxError>;
}

/// The inputs a host can build, by name. Nothing registers itself: a host lists what it wants.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inputs: BTreeMap<&'static str, RegisteredInput>,
}

impl Registry {
    /// No inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input under the name it gives itself.
    ///
    /// # Errors
    ///
    /// [`DuplicateName`] when there is one with that name; the first stays.
    pub fn register<P: InputPlugin>(&mut self, plugin: P) -> Result<(), DuplicateName> {
        let registered = RegisteredInput::new(plugin);
        let name = registered.name();
        if self.inputs.contains_key(name) {
            return Err(DuplicateName { name });
        }
        self.inputs.insert(name, registered);
        Ok(())
    }

    /// The input of that name.
    pub fn get(&self, name: &str) -> Option<&RegisteredInput> {
        self.inputs.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &RegisteredInput> {
        self.inputs.values()
    }

    /// The name most like this one, for messages about one that doesn't exist.
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        crate::config::nearest(name, self.inputs.keys().copied())
    }
}

/// Two inputs want the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an input named `{name}` is registered already")]
pub struct DuplicateName {
    /// The name.
    pub name: &'static str,
}

type Build = dyn Fn(&Document, &[&str]) -> Result<Built, BuildError> + Send + Sync;

/// An input that can be built, whatever its configuration type. Cheap to clone.
#[derive(Clone)]
pub struct RegisteredInput {
    spec: Arc<ConfigSpec>,
    build: Arc<Build>,
}

impl RegisteredInput {
    /// An input outside any registry.
    pub fn new<P: InputPlugin>(plugin: P) -> Self {
        let about = plugin.about();
        let name = about.name;
        let build = move |document: &Document, path: &[&str]| {
            let parsed = document.parse::<P::Config>(path).map_err(BuildError::Config)?;
            let input = plugin.build(parsed.config).map_err(|source| BuildError::Plugin { input: name, source })?;
            Ok(Built { input, warnings: parsed.warnings })
        };
        Self { spec: Arc::new(ConfigSpec::of::<P::Config>(about)), build: Arc::new(build) }
    }

    /// The name in a configuration.
    pub fn name(&self) -> &'static str {
        self.about().name
    }

    /// What it is, for people.
    pub fn about(&self) -> &About {
        self.spec.about()
    }

    /// Its schema, reference, example and lint.
    pub fn spec(&self) -> &ConfigSpec {
        &self.spec
    }

    /// Builds it from the block at `path` of a document, such as `["input", "aws_kinesis"]`.
    ///
    /// # Errors
    ///
    /// [`BuildError::Config`] with positions when the block is wrong; [`BuildError::Plugin`] when the plugin says so.
    pub fn build(&self, document: &Document, path: &[&str]) -> Result<Built, BuildError> {
        (self.build)(document, path)
    }

    /// Builds it from a value that a host has parsed: the block itself.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), with paths instead of positions.
    pub fn build_value(&self, value: &Value) -> Result<Built, BuildError> {
        self.build(&Document::from_value(value), &[])
    }
}

impl fmt::Debug for RegisteredInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RegisteredInput").field(&self.name()).finish()
    }
}

/// An input and what is odd about its configuration.
#[non_exhaustive]
pub struct Built {
    /// The input, not connected yet.
    pub input: Arc<dyn Input>,
    /// Warnings to show to whoever wrote the configuration.
    pub warnings: Diagnostics,
}

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Built").field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

/// Why an input could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(Diagnostics),
    /// The plugin refused a configuration that looked right.
    #[error("input `{input}`: {source}")]
    Plugin {
        /// The input's name.
        input: &'static str,
        /// What it says.
        source: BoxError,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::config::Environment;
    use crate::{Batch, Demand, InputError, State, Status};

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct ToyConfig {
        /// What to read.
        topic: String,
    }

    impl Configuration for ToyConfig {}

    struct Toy(&'static str);

    impl InputPlugin for Toy {
        type Config = ToyConfig;

        fn about(&self) -> About {
            About::new(self.0, "0.1.0", "Reads a toy.")
        }

        fn build(&self, config: ToyConfig) -> Result<Arc<dyn Input>, BoxError> {
            if config.topic == "none" {
                return Err("there is no such topic".into());
            }
            Ok(Arc::new(ToyInput(config.topic)))
        }
    }

    struct ToyInput(String);

    #[async_trait]
    impl Input for ToyInput {
        async fn connect(&self) -> Result<(), InputError> {
            Ok(())
        }

        async fn read_batch(&self, _: Demand) -> Result<Batch, InputError> {
            Err(InputError::EndOfInput)
        }

        async fn close(&self, _: Duration) -> Result<(), InputError> {
            Ok(())
        }

        fn status(&self) -> Status {
            Status::new(State::Connected, self.0.clone())
        }
    }

    fn registry() -> Registry {
        let mut registry = Registry::new();
        registry.register(Toy("toy")).unwrap();
        registry.register(Toy("ball")).unwrap();
        registry
    }

    #[test]
    fn inputs_are_found_and_listed_by_name() {
        let registry = registry();
        assert_eq!(registry.iter().map(RegisteredInput::name).collect::<Vec<_>>(), ["ball", "toy"]);
        assert_eq!(registry.get("toy").map(|toy| toy.about().summary), Some("Reads a toy."));
        assert!(registry.get("doll").is_none());
        assert_eq!(registry.nearest("bal"), Some("ball"));
        assert_eq!(registry.nearest("kafka"), None);
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut registry = registry();
        assert_eq!(registry.register(Toy("toy")), Err(DuplicateName { name: "toy" }));
        assert_eq!(registry.iter().count(), 2);
    }

    #[test]
    fn an_input_is_built_from_a_document_and_from_a_value() {
        let registry = registry();
        let toy = registry.get("toy").unwrap();
        let environment = Environment::from_pairs([("TOPIC", "news")]);
        let document = Document::from_yaml("x.yaml", "input: {toy: {topic: '${TOPIC}'}}", &environment).unwrap();
        assert_eq!(toy.build(&document, &["input", "toy"]).unwrap().input.status().target, "news");
        assert_eq!(toy.build_value(&json!({ "topic": "talk" })).unwrap().input.status().target, "talk");
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let registry = registry();
        let toy = registry.get("toy").unwrap();
        let error = toy.build_value(&json!({ "topic": 5 })).unwrap_err();
        assert!(matches!(&error, BuildError::Config(found) if found.iter().next().unwrap().path == "topic"), "{error}");
        let error = toy.build_value(&json!({ "topic": "none" })).unwrap_err();
        assert_eq!(error.to_string(), "input `toy`: there is no such topic");
    }
}
