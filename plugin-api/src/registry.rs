//! Which inputs can a host build, and how?

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::config::{ConfigSpec, Configuration, Diagnostics, Document};
use crate::{BoxError, Input};

/// The stability that a component's author promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stability {
    /// The component changes only in compatible ways.
    Stable,
    /// The component works; fields may still change with a minor version.
    Beta,
    /// The component may change or be removed at any time.
    Experimental,
    /// The component will be removed; its description names the replacement.
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
    /// A short title.
    pub title: &'static str,
    /// The situation in which the example is useful.
    pub summary: &'static str,
    /// A document with `input: {name: …}`. It must lint clean if the variables that it uses are set.
    pub yaml: &'static str,
}

/// The description of a component, for its documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// The name in a configuration, such as `aws_kinesis`.
    pub name: &'static str,
    /// The version of the plugin.
    pub version: &'static str,
    /// The stability that is promised.
    pub status: Stability,
    /// A summary of one sentence.
    pub summary: &'static str,
    /// The full description, in Markdown.
    pub description: &'static str,
    /// Worked examples.
    pub examples: Vec<Example>,
}

impl About {
    /// Creates the description of a stable component without details and examples.
    pub fn new(name: &'static str, version: &'static str, summary: &'static str) -> Self {
        Self { name, version, status: Stability::Stable, summary, description: "", examples: Vec::new() }
    }

    /// Sets the stability.
    #[must_use]
    pub fn status(mut self, status: Stability) -> Self {
        self.status = status;
        self
    }

    /// Sets the description, in Markdown.
    #[must_use]
    pub fn description(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Adds an example.
    #[must_use]
    pub fn example(mut self, title: &'static str, summary: &'static str, yaml: &'static str) -> Self {
        self.examples.push(Example { title, summary, yaml });
        self
    }
}

/// The part of an input plugin that its author provides.
pub trait InputPlugin: Send + Sync + 'static {
    /// The declared type of its configuration.
    type Config: Configuration;

    /// Returns the description of the input.
    fn about(&self) -> About;

    /// Creates an input that isn't connected yet. This method does no I/O.
    ///
    /// # Errors
    ///
    /// Fails if the configuration is wrong in a way that can only be detected here.
    fn build(&self, config: Self::Config) -> Result<Arc<dyn Input>, BoxError>;
}

/// The inputs that a host can build, by name. No input registers itself: the host lists the inputs it offers.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inputs: BTreeMap<&'static str, RegisteredInput>,
}

impl Registry {
    /// Creates an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input under the name in its description.
    ///
    /// # Errors
    ///
    /// Fails with [`DuplicateName`] if an input of that name is registered already; the first one stays.
    pub fn register<P: InputPlugin>(&mut self, plugin: P) -> Result<(), DuplicateName> {
        let registered = RegisteredInput::new(plugin);
        let name = registered.name();
        if self.inputs.contains_key(name) {
            return Err(DuplicateName { name });
        }
        self.inputs.insert(name, registered);
        Ok(())
    }

    /// Returns the input of that name.
    pub fn get(&self, name: &str) -> Option<&RegisteredInput> {
        self.inputs.get(name)
    }

    /// Returns all inputs, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &RegisteredInput> {
        self.inputs.values()
    }

    /// Returns the registered name most similar to this one, for messages about an unknown name.
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        crate::config::nearest(name, self.inputs.keys().copied())
    }
}

/// The error of two inputs with the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an input named `{name}` is registered already")]
pub struct DuplicateName {
    /// The name of both inputs.
    pub name: &'static str,
}

type Build = dyn Fn(&Document, &[&str]) -> Result<Built, BuildError> + Send + Sync;

/// An input that can be built, independent of its configuration type. Clones are cheap.
#[derive(Clone)]
pub struct RegisteredInput {
    spec: Arc<ConfigSpec>,
    build: Arc<Build>,
}

impl RegisteredInput {
    /// Creates an entry outside any registry.
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

    /// Returns the name in a configuration.
    pub fn name(&self) -> &'static str {
        self.about().name
    }

    /// Returns the description of the input.
    pub fn about(&self) -> &About {
        self.spec.about()
    }

    /// Returns its schema, reference, example and lint.
    pub fn spec(&self) -> &ConfigSpec {
        &self.spec
    }

    /// Builds the input from the block at `path` of a document, such as `["input", "aws_kinesis"]`.
    ///
    /// # Errors
    ///
    /// Fails with [`BuildError::Config`], including positions, if the block is wrong, and with
    /// [`BuildError::Plugin`] if the plugin refuses the configuration.
    pub fn build(&self, document: &Document, path: &[&str]) -> Result<Built, BuildError> {
        (self.build)(document, path)
    }

    /// Builds the input from a value that a host has parsed. The value is the block itself.
    ///
    /// # Errors
    ///
    /// Fails like [`build`](Self::build), with paths instead of positions.
    pub fn build_value(&self, value: &Value) -> Result<Built, BuildError> {
        self.build(&Document::from_value(value), &[])
    }
}

impl fmt::Debug for RegisteredInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RegisteredInput").field(&self.name()).finish()
    }
}

/// An input and the warnings about its configuration.
#[non_exhaustive]
pub struct Built {
    /// The input, not connected yet.
    pub input: Arc<dyn Input>,
    /// Warnings to show to the author of the configuration.
    pub warnings: Diagnostics,
}

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Built").field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

/// The reason why an input could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(Diagnostics),
    /// The plugin refused a configuration that passed all checks.
    #[error("input `{input}`: {source}")]
    Plugin {
        /// The name of the input.
        input: &'static str,
        /// The error of the plugin.
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
    fn duplicate_name_is_refused() {
        let mut registry = registry();
        assert_eq!(registry.register(Toy("toy")), Err(DuplicateName { name: "toy" }));
        assert_eq!(registry.iter().count(), 2);
    }

    #[test]
    fn input_is_built_from_a_document_and_from_a_value() {
        let registry = registry();
        let toy = registry.get("toy").unwrap();
        let environment = Environment::from_pairs([("TOPIC", "news")]);
        let document = Document::from_yaml("x.yaml", "input: {toy: {topic: '${TOPIC}'}}", &environment).unwrap();
        assert_eq!(toy.build(&document, &["input", "toy"]).unwrap().input.status().target, "news");
        assert_eq!(toy.build_value(&json!({ "topic": "talk" })).unwrap().input.status().target, "talk");
    }

    #[test]
    fn build_errors_distinguish_configuration_and_plugin() {
        let registry = registry();
        let toy = registry.get("toy").unwrap();
        let error = toy.build_value(&json!({ "topic": 5 })).unwrap_err();
        assert!(matches!(&error, BuildError::Config(found) if found.iter().next().unwrap().path == "topic"), "{error}");
        let error = toy.build_value(&json!({ "topic": "none" })).unwrap_err();
        assert_eq!(error.to_string(), "input `toy`: there is no such topic");
    }
}
