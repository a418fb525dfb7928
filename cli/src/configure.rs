//! What do `lint`, `schema`, `docs` and `create` print?

use std::fmt::Write;
use std::path::PathBuf;

use pipeline_plugin_api::config::{ConfigSpec, Detail};
use pipeline_plugin_api::registry::{RegisteredInput, Registry};
use serde_json::{Value, json};

use crate::pipeline::{self, PipelineError};

/// Text for standard output and for standard error, and whether the check succeeded.
#[derive(Debug, Default)]
pub(crate) struct Printed {
    pub(crate) out: String,
    pub(crate) errors: String,
    pub(crate) wrong: bool,
}

/// Lists every finding in these files. Writing to a string can't fail. Warnings alone are not a failure.
pub(crate) fn lint(registry: &Registry, files: &[PathBuf]) -> Printed {
    let mut printed = Printed::default();
    for file in files {
        let found = match pipeline::open(file) {
            Ok(document) => pipeline::check(&document, registry, ConfigSpec::lint).0,
            Err(PipelineError::Wrong(found)) => found,
            Err(error) => {
                printed.wrong = true;
                let _ = writeln!(printed.errors, "error: {error}");
                continue;
            }
        };
        printed.wrong |= found.has_errors();
        if !found.is_empty() {
            let _ = writeln!(printed.errors, "{found}\n");
        }
        if !found.has_errors() {
            let _ = writeln!(printed.out, "{}: valid", file.display());
        }
    }
    printed
}

/// The JSON Schema of a whole pipeline file, or of the block of one input.
pub(crate) fn schema(registry: &Registry, input: Option<&RegisteredInput>) -> Value {
    if let Some(input) = input {
        return input.spec().schema().clone();
    }
    let mut blocks: serde_json::Map<_, _> =
        registry.iter().map(|input| (input.name().to_owned(), embedded(input.spec().schema()))).collect();
    let one_of: Vec<Value> = blocks.keys().map(|name| json!({ "required": [name] })).collect();
    blocks.insert(
        "label".to_owned(),
        json!({ "type": "string", "description": "As Connect writes it; it has no effect." }),
    );
    blocks.insert(
        "metadata".to_owned(),
        json!({
            "type": "array",
            "items": { "type": "string" },
            "description": "The keys of the metadata that the output gets, if it can use any. The default is all of them.",
        }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pipeline",
        "type": "object",
        "required": ["input", "output"],
        "additionalProperties": false,
        "properties": {
            "input": {
                "type": "object",
                "additionalProperties": false,
                "oneOf": one_of,
                "properties": blocks,
            },
            "output": {
                "description": "`stdout`, `drop`, or any endpoint of mq-bridge, such as `file: {path: out.jsonl, format: raw}`",
                "type": ["object", "string"],
            },
            "pipeline": embedded(&pipeline::settings_schema()),
            "shutdown_timeout": { "type": "string", "default": "20s" },
        },
    })
}

/// A schema with its own `$id`, so that its `#/$defs/…` still refer to its own definitions.
fn embedded(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(root) = schema.as_object_mut() {
        root.remove("$schema");
        if let Some(title) = root.get("title").and_then(Value::as_str) {
            let id = format!("urn:pipeline:{}", title.to_lowercase());
            root.insert("$id".to_owned(), id.into());
        }
    }
    schema
}

/// An annotated pipeline file.
pub(crate) fn create(input: &RegisteredInput, detail: Detail) -> String {
    let mut out = String::from("input:\n");
    for line in input.spec().example(detail).lines() {
        if !line.is_empty() {
            out.push_str("  ");
            out.push_str(line);
        }
        out.push('\n');
    }
    out.push_str("\n# Where messages go: `stdout`, `drop` (nowhere), or any endpoint of mq-bridge.\noutput:\n");
    out.push_str("  file:\n    path: out.jsonl\n    # Payloads only, one a line.\n    format: raw\n");
    if detail == Detail::Full {
        out.push_str(
            "\n# How the two are joined.\npipeline:\n  # The most messages that go to the output at once.\n  \
             batch_size: 4096\n  # Batches written at a time. Above 1 messages of a shard may overtake each other.\n  \
             concurrency: 1\n  # How long an output that fails is left alone before it is tried again.\n  \
             reconnect_interval: 1s\n  # How long the output may take to connect at the start.\n  \
             startup_timeout: 10s\n\n# How long a graceful stop takes at most.\nshutdown_timeout: 20s\n",
        );
    }
    out
}
