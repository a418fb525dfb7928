//! Do the generated documents match the declaration, and does the schema agree with the parser?
//!
//! `UPDATE_DOCS=1 cargo test` writes the documents again.

use std::path::PathBuf;

use jsonschema::Validator;
use pipeline_plugin_api::config::{ConfigSpec, Detail, Document, Environment};
use serde_json::{Value, json};

use super::compatible_blocks::{DOCUMENTED, filled_in};
use super::{Config, about};

fn spec() -> ConfigSpec {
    ConfigSpec::of::<Config>(about())
}

fn validator() -> Validator {
    jsonschema::draft202012::new(spec().schema()).expect("a valid schema")
}

fn assert_generated(name: &str, generated: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == generated, "docs/{name} is out of date: run `UPDATE_DOCS=1 cargo test`");
}

#[test]
fn documents_are_up_to_date() {
    assert_generated("reference.md", &spec().reference());
    assert_generated("aws_kinesis.example.yaml", &spec().example(Detail::Full));
    let schema = serde_json::to_string_pretty(spec().schema()).unwrap();
    assert_generated("aws_kinesis.schema.json", &format!("{schema}\n"));
}

#[test]
fn generated_documents_are_reproducible() {
    let (one, other) = (spec(), spec());
    assert_eq!(one.schema().to_string(), other.schema().to_string());
    assert_eq!(one.reference(), other.reference());
    assert_eq!(one.example(Detail::Small), other.example(Detail::Small));
}

/// The value that YAML itself reads from a text, without this crate's parser.
fn value(yaml: &str) -> Value {
    Document::from_yaml("x.yaml", yaml, &Environment::empty()).unwrap().read(&[]).unwrap()
}

#[test]
fn examples_lint_clean_and_fit_the_schema() {
    let spec = spec();
    let in_a_pipeline = |block: String| format!("input:\n  {}", block.replace('\n', "\n  "));
    let mut texts: Vec<String> =
        [Detail::Small, Detail::Full].map(|detail| in_a_pipeline(spec.example(detail))).to_vec();
    texts.extend(about().examples.iter().map(|example| example.yaml.to_owned()));
    for text in texts {
        let document = Document::from_yaml("example.yaml", &text, &Environment::empty()).unwrap();
        let found = spec.lint(&document, &["input", "aws_kinesis"]);
        assert!(found.is_empty(), "{text}\n{found}");
        let block = &value(&text)["input"]["aws_kinesis"];
        assert!(validator().is_valid(block), "{text}\n{:?}", validator().validate(block));
    }
}

#[test]
fn small_example_shows_common_fields_only() {
    let small = spec().example(Detail::Small);
    for (field, shown) in
        [("streams:", true), ("table:", true), ("lease_period:", false), ("credentials:", false), ("tcp:", false)]
    {
        let there = small.lines().any(|line| line.trim_start().starts_with(field));
        assert_eq!(there, shown, "{field}");
    }
    assert!(spec().example(Detail::Full).contains("tcp_user_timeout:"));
}

#[test]
fn schema_is_valid_and_accepts_documented_connect_blocks() {
    jsonschema::meta::validate(spec().schema()).unwrap();
    for (name, documented) in DOCUMENTED {
        let block = &value(&filled_in(documented))["input"]["aws_kinesis"];
        assert!(validator().is_valid(block), "{name}: {:?}", validator().validate(block));
    }
}

#[test]
fn schema_marks_secrets_and_deprecations() {
    let schema = spec().schema().clone();
    let field = |pointer: &str| schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}")).clone();
    assert_eq!(field("/$schema"), "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(field("/title"), "aws_kinesis");
    assert_eq!(field("/required"), json!(["streams"]));
    assert_eq!(field("/additionalProperties"), false);
    for block in ["/properties/credentials", "/properties/dynamodb/properties/credentials"] {
        for secret in ["secret", "token"] {
            let secret = field(&format!("{block}/properties/{secret}"));
            assert_eq!((&secret["writeOnly"], &secret["x-secret"]), (&json!(true), &json!(true)));
            assert!(secret.get("default").is_none() && secret.get("examples").is_none());
        }
    }
    assert_eq!(field("/properties/enhanced_fan_out/properties/record_buffer_cap/deprecated"), true);
    assert_eq!(field("/properties/lease_period/x-advanced"), true);
    assert_eq!(field("/properties/lease_period/default"), "30s");
    assert_eq!(field("/properties/enhanced_fan_out/properties/max_pending_bytes/default"), "256MiB");
    assert_eq!(field("/properties/checkpoint_limit/minimum"), 1);
}

#[test]
fn every_field_is_described() {
    fn walk(schema: &Value, path: &str) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let described = field["description"].as_str().is_some_and(|text| text.len() > 20);
            assert!(described, "{path}.{name}");
            walk(field, &format!("{path}.{name}"));
        }
    }
    walk(spec().schema(), "");
}

/// The smallest valid document, with these additional fields.
fn with(fields: &Value) -> Value {
    let mut block = json!({ "streams": ["orders"], "checkpoint_file": "a" });
    let fields = fields.as_object().unwrap().clone();
    block.as_object_mut().unwrap().extend(fields);
    block
}

fn accepted(block: &Value) -> bool {
    Document::from_value(block).parse::<Config>(&[]).is_ok()
}

#[test]
fn schema_and_parser_agree() {
    let good = [
        json!({}),
        json!({ "streams": ["a,b", "arn:aws:kinesis:eu-west-1:111122223333:stream/c"] }),
        json!({ "streams": ["a:0", "a:shardId-000000000001"] }),
        json!({ "checkpoint_limit": 1 }),
        json!({ "checkpoint_limit": 5.0 }),
        json!({ "commit_period": "1.5s", "lease_period": "1h2m3.5s", "poll_period": "0" }),
        json!({ "batching": { "period": "", "byte_size": "1MiB", "count": 3, "jitter": 0.1, "check": "", "processors": [] } }),
        json!({ "batching": { "byte_size": 5000, "period": "1s", "jitter": 1 } }),
        json!({ "enhanced_fan_out": { "max_pending_bytes": "1.5 GB", "consumer_name": "a_b.c-d" } }),
        json!({ "endpoint": "http://localhost:1", "region": "" }),
        json!({ "tcp": { "keep_alive": { "idle": "-1s", "count": 0 } } }),
        json!({ "start_at_timestamp": "2026-11-01T00:00:00.123Z", "deaggregate": "off" }),
        json!({ "start_at_timestamp": "" }),
        json!({ "credentials": { "expiry_window": "", "id": "a", "secret": "b" } }),
    ];
    let bad = [
        json!({ "streams": [] }),
        json!({ "streams": "orders" }),
        json!({ "streams": ["a:0:1"] }),
        json!({ "streams": ["a,,b"] }),
        json!({ "streams": [""] }),
        json!({ "streams": [5] }),
        json!({ "streams": null }),
        json!({ "stream": ["a"] }),
        json!({ "checkpoint_limit": 0 }),
        json!({ "checkpoint_limit": -1 }),
        json!({ "checkpoint_limit": 1.5 }),
        json!({ "checkpoint_limit": "5" }),
        json!({ "auto_replay_nacks": "true" }),
        json!({ "auto_replay_nacks": null }),
        json!({ "commit_period": "5" }),
        json!({ "commit_period": 5 }),
        json!({ "commit_period": "" }),
        json!({ "commit_period": "-1s" }),
        json!({ "commit_period": "5 s" }),
        json!({ "commit_period": "5d" }),
        json!({ "commit_period": "1s2" }),
        json!({ "dynamodb": { "billing_mode": "NONE" } }),
        json!({ "dynamodb": { "read_capacity_units": 4_294_967_296_u64 } }),
        json!({ "dynamodb": [] }),
        json!({ "dynamodb": { "namespace": "a/b" } }),
        json!({ "enhanced_fan_out": { "max_pending_bytes": "1XB" } }),
        json!({ "enhanced_fan_out": { "max_pending_bytes": -1 } }),
        json!({ "enhanced_fan_out": { "max_pending_bytes": "1.5" } }),
        json!({ "enhanced_fan_out": { "max_pending_records": 0 } }),
        json!({ "enhanced_fan_out": { "consumer_name": "a b" } }),
        json!({ "batching": { "jitter": -0.1 } }),
        json!({ "batching": { "check": "this.x" } }),
        json!({ "batching": { "processors": [{}] } }),
        json!({ "endpoint": "localhost" }),
        json!({ "start_at_timestamp": "yesterday" }),
        json!({ "deaggregate": "on" }),
        json!({ "credentials": { "from_ec2_role": "" } }),
        json!({ "tcp": { "keep_alive": { "idle": "--1s" } } }),
    ];
    let validator = validator();
    for (fields, expected) in good.into_iter().map(|one| (one, true)).chain(bad.into_iter().map(|one| (one, false))) {
        let block = with(&fields);
        assert_eq!(accepted(&block), expected, "parser: {block}");
        assert_eq!(validator.is_valid(&block), expected, "schema: {block}");
    }
    let without_streams = json!({ "checkpoint_file": "a" });
    assert!(!accepted(&without_streams) && !validator.is_valid(&without_streams));
}
