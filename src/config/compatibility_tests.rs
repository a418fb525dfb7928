//! Does a block written for Redpanda Connect or Bento load unchanged and mean the same?

use super::Config;
use super::compatible_blocks::{DOCUMENTED, EXPLICIT_SHARDS, IN_USE, blocks, filled_in};
use super::tests::parse;

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
fn every_block_loads() {
    for (name, block) in blocks() {
        parse(&block).unwrap_or_else(|found| panic!("{name}\n{found}"));
    }
}

#[test]
fn common_connect_blocks_load() {
    let config = load(IN_USE);
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
    let config = load(EXPLICIT_SHARDS);
    let shards: Vec<_> = config.stream_entries().iter().map(|entry| (entry.stream.name(), &entry.shards)).collect();
    assert_eq!(shards, [("foo", &vec!["0".to_owned()]), ("bar", &vec!["1".to_owned()])]);
}
