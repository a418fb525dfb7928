//! Which texts describe the input around its fields?

use pipeline_plugin_api::registry::About;

/// Returns the name of the input, and the text of its reference.
pub fn about() -> About {
    About::new("aws_kinesis", env!("CARGO_PKG_VERSION"), "Reads messages from Amazon Kinesis data streams.")
        .description(DESCRIPTION)
        .example(
            "Share streams among processes",
            "Every process runs the same configuration. The shards are balanced among those that are running.",
            SHARED,
        )
        .example(
            "Low delay with enhanced fan-out",
            "Each shard is pushed over a connection of its own, in bounded memory.",
            FAN_OUT,
        )
        .example(
            "One process, no table",
            "Checkpoints are kept in a file. Good for development and for a single small machine.",
            ALONE,
        )
}

const DESCRIPTION: &str = "\
## Delivery

At least once, and in order. A record counts as done only when it and everything before it in its shard was acknowledged;
after a crash what was not yet stored as done is read again. After a clean stop nothing is.

Records of a shard come in sequence order. After a reshard the children of a shard are read once their parents were read,
acknowledged and stored. With `checkpoint_limit: 1` messages of a shard are processed strictly one after the other.

## Leases and checkpoints

They are kept in a DynamoDB table with the hash key `StreamID` and the range key `ShardID`, both text, or in a file. The
table is that of Redpanda Connect's and Bento's `aws_kinesis` input, so a table can be taken over from either, and back.

## Metadata

Each message carries `kinesis_stream`, `kinesis_stream_arn`, `kinesis_shard`, `kinesis_partition_key`,
`kinesis_sequence_number`, `kinesis_arrival_timestamp` and `kinesis_delivery_attempt` (1 at first), and
`kinesis_sub_sequence_number` and `kinesis_explicit_hash_key` where there is one.";

const SHARED: &str = "\
input:
  aws_kinesis:
    streams: [orders, returns]
    dynamodb:
      table: kinesis-checkpoints
      create: true
    region: eu-west-1
    enhanced_fan_out:
      enabled: true
";

const FAN_OUT: &str = "\
input:
  aws_kinesis:
    streams: [orders]
    dynamodb:
      table: kinesis-checkpoints
      create: true
    enhanced_fan_out:
      enabled: true
      max_pending_bytes: 128MiB
";

const ALONE: &str = "\
input:
  aws_kinesis:
    streams: [orders]
    checkpoint_file: /var/lib/pipeline/orders.checkpoints
    enhanced_fan_out:
      enabled: true
";
