//! Does a block written for Redpanda Connect or Bento load unchanged and mean the same?

use super::Config;
use super::tests::parse;

/// The documented configuration of Redpanda Connect and of Bento. Two values are placeholders for required ones, and
/// are filled in here: their inputs don't start without a stream and a table either.
pub(super) const DOCUMENTED: [(&str, &str); 4] = [
    ("Redpanda Connect, common", include_str!("fixtures/connect_common.yaml")),
    ("Redpanda Connect, advanced", include_str!("fixtures/connect_advanced.yaml")),
    ("Bento, common", include_str!("fixtures/bento_common.yaml")),
    ("Bento, advanced", include_str!("fixtures/bento_advanced.yaml")),
];

pub(super) fn filled_in(documented: &str) -> String {
    documented.replacen("streams: []", "streams: [orders]", 1).replacen("table: \"\"", "table: checkpoints", 1)
}

fn load(text: &str) -> Config {
    let parsed = parse(text).unwrap_or_else(|found| panic!("{text}\n{found}"));
    assert!(parsed.warnings.is_empty(), "{text}\n{}", parsed.warnings);
    parsed.config
}

#[test]
fn documented_connect_block_loads_without_warnings_as_the_defaults() {
    let defaults = load("input: {aws_kinesis: {streams: [orders], dynamodb: {table: checkpoints}}}");
    for (name, documented) in DOCUMENTED {
        assert_eq!(load(&filled_in(documented)), defaults, "{name}");
    }
}

#[test]
fn common_connect_blocks_load() {
    let config = load(
        "
input:
  label: orders_in
  aws_kinesis:
    streams:
      - orders, returns
      - arn:aws:kinesis:*:111122223333:stream/my-stream
    dynamodb:
      table: bento-kinesis
      create: yes
    checkpoint_limit: 1
    start_from_oldest: false
    region: ${REGION:eu-west-1}
    credentials:
      role: ${ROLE:arn:aws:iam::111122223333:role/reader}
    batching:
      count: 10
      byte_size: 5000
      period: 1m30s
",
    );
    assert_eq!(config.stream_entries().len(), 3);
    assert!(config.dynamodb.create && !config.start_from_oldest);
    assert_eq!(config.checkpoint_limit, 1);
    assert_eq!(config.region.as_deref(), Some("eu-west-1"));
    assert_eq!(config.credentials.role.as_deref(), Some("arn:aws:iam::111122223333:role/reader"));
    assert_eq!(config.batching.byte_size.bytes(), 5000);
    assert_eq!(config.batching.period.map(|period| period.as_secs()), Some(90));
}

#[test]
fn explicit_shard_is_taken_from_either_spelling() {
    let config = load(
        "input: {aws_kinesis: {dynamodb: {table: t}, streams: ['foo:0', 'arn:aws:kinesis:eu-west-1:111122223333:stream/bar:1']}}",
    );
    let shards: Vec<_> = config.stream_entries().iter().map(|entry| (entry.stream.name(), &entry.shards)).collect();
    assert_eq!(shards, [("foo", &vec!["0".to_owned()]), ("bar", &vec!["1".to_owned()])]);
}
