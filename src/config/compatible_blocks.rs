//! Which blocks written for Redpanda Connect or Bento must load and run unchanged?
//!
//! The tests of the configuration load every one, and a test of the program, which includes this file, runs every one.

/// The documented configuration of Redpanda Connect and of Bento. Two values are placeholders for required ones, and
/// are [filled in](filled_in): their inputs don't start without a stream and a table either.
pub(super) const DOCUMENTED: [(&str, &str); 4] = [
    ("Redpanda Connect, common", include_str!("fixtures/connect_common.yaml")),
    ("Redpanda Connect, advanced", include_str!("fixtures/connect_advanced.yaml")),
    ("Bento, common", include_str!("fixtures/bento_common.yaml")),
    ("Bento, advanced", include_str!("fixtures/bento_advanced.yaml")),
];

/// What pipelines of Connect and Bento usually set.
pub(super) const IN_USE: &str = "\
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
";

/// Shards by number, with the stream by name and by ARN.
pub(super) const EXPLICIT_SHARDS: &str = "\
input:
  aws_kinesis:
    dynamodb: {table: checkpoints}
    streams: ['foo:0', 'arn:aws:kinesis:eu-west-1:111122223333:stream/bar:1']
";

/// Every field, each with a value that isn't its default.
pub(super) const EVERY_FIELD: &str = include_str!("fixtures/contract.yaml");

pub(super) fn filled_in(documented: &str) -> String {
    documented.replacen("streams: []", "streams: [orders]", 1).replacen("table: \"\"", "table: checkpoints", 1)
}

/// All of them, complete and with their names.
pub(super) fn blocks() -> Vec<(&'static str, String)> {
    let others = [("in use", IN_USE), ("explicit shards", EXPLICIT_SHARDS), ("every field", EVERY_FIELD)];
    let documented = DOCUMENTED.map(|(name, block)| (name, filled_in(block)));
    documented.into_iter().chain(others.map(|(name, block)| (name, block.to_owned()))).collect()
}
