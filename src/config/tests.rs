//! Is the block read as the contract says, and are errors reported where they are?

use std::path::Path;
use std::time::Duration as StdDuration;

use pipeline_plugin_api::config::{ByteSize, Configuration, Diagnostics, Document, Environment, Kind, Parsed};

use super::compatible_blocks::EVERY_FIELD;
use super::*;

/// Parses the block in a pipeline file.
pub(super) fn parse(text: &str) -> Result<Parsed<Config>, Diagnostics> {
    let environment = Environment::from_pairs([("SECRET", "hunter2-secret"), ("TOKEN", "hunter2-token")]);
    Document::from_yaml("pipeline.yaml", text, &environment)?.parse(&["input", "aws_kinesis"])
}

/// A block with these lines, and with `streams` and `dynamodb.table` unless they are among the lines.
fn block(lines: &str) -> String {
    let has = |field: &str| lines.lines().any(|line| line.starts_with(field));
    let mut text = "input:\n  aws_kinesis:\n".to_owned();
    if !has("streams") {
        text.push_str("    streams: [orders]\n");
    }
    if !has("dynamodb") && !has("checkpoint_file") {
        text.push_str("    dynamodb: {table: checkpoints}\n");
    }
    let indented: Vec<_> = lines.lines().map(|line| format!("    {line}\n")).collect();
    text + &indented.concat()
}

fn valid(lines: &str) -> Config {
    let parsed = parse(&block(lines)).unwrap_or_else(|found| panic!("{lines}:\n{found}"));
    assert!(parsed.warnings.is_empty(), "{lines}:\n{}", parsed.warnings);
    parsed.config
}

/// The path and the kind of each error.
fn invalid(lines: &str) -> Vec<(String, Kind)> {
    let found = parse(&block(lines)).expect_err(lines);
    let short = |path: &str| path.strip_prefix("input.aws_kinesis").unwrap_or(path).trim_start_matches('.').to_owned();
    found.errors().map(|one| (short(&one.path), one.kind)).collect()
}

fn warned(lines: &str) -> Vec<(String, Kind)> {
    let parsed = parse(&block(lines)).unwrap_or_else(|found| panic!("{lines}:\n{found}"));
    let short = |path: &str| path.trim_start_matches("input.aws_kinesis.").to_owned();
    parsed.warnings.iter().map(|one| (short(&one.path), one.kind)).collect()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = valid("");
    assert_eq!(config, {
        let mut config = Config::new(Streams::parse(["orders"]).unwrap());
        config.dynamodb.table = "checkpoints".to_owned();
        config
    });
    assert_eq!(config.checkpoint_limit, 1024);
    assert!(config.auto_replay_nacks && config.start_from_oldest);
    assert_eq!(config.commit_period.get(), StdDuration::from_secs(5));
    assert_eq!(config.lease_period.get(), StdDuration::from_secs(30));
    assert_eq!(config.rebalance_period.get(), StdDuration::from_secs(30));
    assert_eq!(config.steal_grace_period.get(), StdDuration::from_secs(2));
    assert_eq!(config.poll_period.get(), StdDuration::ZERO);
    assert_eq!(config.message_buffer_cap, 64);
    assert_eq!(config.deaggregate, Deaggregate::Auto);
    assert!(!config.dynamodb.create);
    assert_eq!(config.dynamodb.billing_mode, BillingMode::PayPerRequest);
    let fan_out = &config.enhanced_fan_out;
    assert!(!fan_out.enabled && !fan_out.deregister_on_close);
    assert_eq!(fan_out.max_pending_records, 50_000);
    assert_eq!(fan_out.max_pending_bytes, ByteSize::from_bytes(256 << 20));
    assert_eq!(fan_out.reader_threads, 1);
    assert_eq!(fan_out.stream_window, ByteSize::from_bytes(512 << 10));
    assert_eq!(fan_out.max_resubscribe_interval.get(), StdDuration::from_secs(5));
    assert_eq!(fan_out.consumer_activation_timeout.get(), StdDuration::from_mins(1));
    assert_eq!(fan_out.record_buffer_cap, 0);
    assert!(config.batching.is_off());
    assert_eq!(config.tcp.keep_alive.idle().map(Duration::get), Some(StdDuration::from_secs(15)));
}

#[test]
fn every_field_of_the_contract_is_read() {
    let config = parse(EVERY_FIELD).unwrap().config;
    assert_eq!(config.streams.to_string(), "orders:0,orders:1");
    let table = &config.dynamodb;
    assert_eq!(
        (table.table.as_str(), table.create, table.billing_mode),
        ("checkpoints", true, BillingMode::Provisioned)
    );
    assert_eq!((table.read_capacity_units, table.write_capacity_units), (5, 6));
    assert_eq!(table.region.as_deref(), Some("eu-west-1"));
    assert_eq!(table.endpoint.as_deref(), Some("http://localhost:8000"));
    assert_eq!(table.tcp.connect_timeout.get(), StdDuration::from_secs(1));
    assert_eq!(table.tcp.keep_alive.count(), 3);
    assert_eq!(table.tcp.tcp_user_timeout.get(), StdDuration::from_secs(4));
    assert_eq!(table.credentials.id.as_deref(), Some("AKIA1"));
    assert_eq!(table.credentials.secret.expose(), "hunter2-secret");
    assert_eq!(table.credentials.token.expose(), "hunter2-token");
    assert!(table.has_own_session());
    assert_eq!((config.checkpoint_limit, config.auto_replay_nacks, config.start_from_oldest), (7, false, false));
    assert_eq!(config.lease_period.get(), StdDuration::from_secs(90));
    assert_eq!(config.steal_grace_period.get(), StdDuration::from_millis(500));
    assert_eq!(config.poll_period.get(), StdDuration::from_millis(250));
    assert_eq!((config.batching.count, config.batching.byte_size.bytes()), (8, 9));
    assert_eq!(config.batching.period.map(Duration::get), Some(StdDuration::from_millis(10)));
    assert!((config.batching.jitter - 0.5).abs() < f64::EPSILON);
    assert_eq!(config.region.as_deref(), Some("us-east-1"));
    assert_eq!(config.endpoint.as_deref(), Some("https://kinesis.example.com"));
    assert_eq!(config.credentials.profile.as_deref(), Some("dev"));
    assert_eq!(config.credentials.role.as_deref(), Some("arn:aws:iam::111122223333:role/reader"));
    assert_eq!(config.credentials.expiry_window.map(Duration::get), Some(StdDuration::from_secs(10)));
    assert_eq!(config.tcp.keep_alive.idle(), None);
    assert_eq!(config.message_buffer_cap, 0);
    assert_eq!(config.enhanced_fan_out.consumer_name.as_deref(), Some("reader"));
    assert_eq!(config.enhanced_fan_out.max_pending_bytes.bytes(), 12 << 20);
    assert_eq!(config.deaggregate, Deaggregate::Off);
}

#[test]
fn secrets_are_not_in_debug() {
    let config = parse(EVERY_FIELD).unwrap().config;
    assert!(!format!("{config:?} {config:#?}").contains("hunter2"));
}

#[test]
fn exactly_one_checkpoint_store_is_required() {
    assert_eq!(invalid("dynamodb: {}"), [("dynamodb.table".into(), Kind::Conflict)]);
    assert_eq!(invalid("dynamodb: {table: leases}\ncheckpoint_file: b"), [("checkpoint_file".into(), Kind::Conflict)]);
    assert_eq!(valid("checkpoint_file: /b").checkpoint_file.as_deref(), Some(Path::new("/b")));
    let found = parse(&block("dynamodb: {}")).unwrap_err().to_string();
    assert!(found.contains("`checkpoint_file` for one process alone"), "{found}");
}

#[test]
fn fields_that_contradict_each_other_are_errors_at_the_field() {
    for (lines, path) in [
        ("commit_period: 30s", "commit_period"),
        ("lease_period: 5s", "commit_period"),
        ("poll_period: 31s", "poll_period"),
        (
            "dynamodb: {table: leases, create: true, billing_mode: PROVISIONED, read_capacity_units: 1}",
            "dynamodb.write_capacity_units",
        ),
        ("credentials: {id: a}", "credentials.id"),
        ("credentials: {secret: a}", "credentials.secret"),
        ("credentials: {token: a}", "credentials.token"),
        ("dynamodb: {table: leases, credentials: {id: a}}", "dynamodb.credentials.id"),
        ("tcp: {tcp_user_timeout: 15s}", "tcp.tcp_user_timeout"),
        (
            "enhanced_fan_out: {enabled: true, consumer_name: a, consumer_arn: 'arn:aws:kinesis:eu-west-1:111122223333:stream/orders/consumer/a:1'}",
            "enhanced_fan_out.consumer_name",
        ),
        (
            "enhanced_fan_out: {enabled: true, consumer_arn: 'arn:aws:kinesis:eu-west-1:111122223333:stream/other/consumer/a:1'}",
            "enhanced_fan_out.consumer_arn",
        ),
        (
            "streams: [orders, other]\nenhanced_fan_out: {enabled: true, consumer_arn: 'arn:aws:kinesis:eu-west-1:111122223333:stream/orders/consumer/a:1'}",
            "enhanced_fan_out.consumer_arn",
        ),
        (
            "streams: ['arn:aws:kinesis:eu-west-1:000000000000:stream/orders']\nenhanced_fan_out: {enabled: true, consumer_arn: 'arn:aws:kinesis:eu-west-1:111122223333:stream/orders/consumer/a:1'}",
            "enhanced_fan_out.consumer_arn",
        ),
    ] {
        assert_eq!(invalid(lines), [(path.to_owned(), Kind::Conflict)], "{lines}");
    }
    let arn = "enhanced_fan_out: {enabled: true, consumer_arn: 'arn:aws:kinesis:eu-west-1:111122223333:stream/orders/consumer/a:1'}";
    assert!(valid(arn).enhanced_fan_out.consumer_arn.is_some());
    assert_eq!(
        invalid("enhanced_fan_out: {enabled: true, consumer_arn: x}"),
        [("enhanced_fan_out.consumer_arn".into(), Kind::InvalidValue)]
    );
}

#[test]
fn values_out_of_range_are_errors_at_the_field() {
    for (lines, path) in [
        ("checkpoint_limit: 0", "checkpoint_limit"),
        ("commit_period: 0s", "commit_period"),
        ("commit_period: -5s", "commit_period"),
        ("commit_period: 5", "commit_period"),
        ("lease_period: 0s", "lease_period"),
        ("rebalance_period: 0s", "rebalance_period"),
        ("enhanced_fan_out: {max_pending_records: 0}", "enhanced_fan_out.max_pending_records"),
        ("enhanced_fan_out: {stream_window: 63KiB}", "enhanced_fan_out.stream_window"),
        ("enhanced_fan_out: {reader_threads: 65}", "enhanced_fan_out.reader_threads"),
        ("enhanced_fan_out: {stream_window: 17MiB}", "enhanced_fan_out.stream_window"),
        ("enhanced_fan_out: {max_pending_bytes: 0}", "enhanced_fan_out.max_pending_bytes"),
        ("enhanced_fan_out: {max_pending_bytes: 99999PiB}", "enhanced_fan_out.max_pending_bytes"),
        ("enhanced_fan_out: {consumer_activation_timeout: 0s}", "enhanced_fan_out.consumer_activation_timeout"),
        ("enhanced_fan_out: {max_resubscribe_interval: 0s}", "enhanced_fan_out.max_resubscribe_interval"),
        ("enhanced_fan_out: {consumer_name: a b}", "enhanced_fan_out.consumer_name"),
        ("dynamodb: {namespace: a/b}", "dynamodb.namespace"),
        ("dynamodb: {namespace: kinesis-input}", "dynamodb.namespace"),
        ("batching: {jitter: -1}", "batching.jitter"),
        ("batching: {check: this.x}", "batching.check"),
        ("batching: {processors: [{archive: {format: lines}}]}", "batching.processors"),
        ("endpoint: localhost:4566", "endpoint"),
        ("start_at_timestamp: yesterday", "start_at_timestamp"),
        ("deaggregate: maybe", "deaggregate"),
        ("dynamodb: {table: leases, billing_mode: ON_DEMAND}", "dynamodb.billing_mode"),
        ("streams: []", "streams"),
        ("streams: [orders, 'a:0:1']", "streams[1]"),
        ("streams: [orders, 'other,other:0']", "streams[1]"),
        ("streams: [orders, '']", "streams[1]"),
    ] {
        assert_eq!(invalid(lines), [(path.to_owned(), Kind::InvalidValue)], "{lines}");
    }
}

#[test]
fn fields_of_the_host_are_named_as_such() {
    for lines in ["batching: {check: this.x}", "batching: {processors: [{noop: {}}]}"] {
        let found = parse(&block(lines)).unwrap_err().to_string();
        assert!(found.contains("pipeline of the host"), "{found}");
    }
}

#[test]
fn streams_are_required_and_types_are_checked() {
    let found = parse("input:\n  aws_kinesis:\n    checkpoint_file: a\n").unwrap_err();
    assert_eq!(found.iter().map(|one| (one.kind, one.line)).collect::<Vec<_>>(), [(Kind::MissingField, Some(2))]);
    for (lines, path) in [
        ("streams: orders", "streams"),
        ("checkpoint_limit: many", "checkpoint_limit"),
        ("checkpoint_limit: -1", "checkpoint_limit"),
        ("auto_replay_nacks: \"true\"", "auto_replay_nacks"),
        ("dynamodb: checkpoints", "dynamodb"),
        ("commit_period: [5s]", "commit_period"),
    ] {
        let kinds = [Kind::WrongType, Kind::InvalidValue];
        let found = invalid(lines);
        assert!(found.len() == 1 && found[0].0 == path && kinds.contains(&found[0].1), "{lines}: {found:?}");
    }
}

#[test]
fn unknown_fields_are_reported_with_position_and_nearest_name() {
    let text = block("chekpoint_limit: 5\nenhanced_fan_out:\n  consumer_nam: a\ncredentials:\n  secert: hunter2");
    let found = parse(&text).unwrap_err();
    let short: Vec<_> = found.iter().map(|one| (one.line, one.column, one.help.as_deref().unwrap_or(""))).collect();
    assert_eq!(
        short,
        [
            (Some(5), Some(5), "did you mean `checkpoint_limit`?"),
            (Some(7), Some(7), "did you mean `consumer_name`?"),
            (Some(9), Some(7), "did you mean `secret`?"),
        ]
    );
    assert!(!found.to_string().contains("hunter2"), "{found}");
}

#[test]
fn no_secret_is_shown_in_any_error() {
    for lines in [
        "credentials: {secret: hunter2}",
        "credentials:\n  secret: hunter2",
        "credentials: {token: hunter2, idd: 1}",
        "credentials: hunter2",
        "credentials: {secret: [hunter2]}",
        "credentials: {id: a, secret: {x: hunter2}}",
        "credentials:\n  secret: \"hunter2",
        "commit_period: ${SECRET}",
        "deaggregate: ${SECRET}",
        "streams: ['${SECRET}:0:1']",
        "checkpoint_limit: ${SECRET}",
        "${SECRET}: 1",
    ] {
        let found = parse(&block(lines)).unwrap_err();
        assert!(!format!("{found} {found:?}").contains("hunter2"), "{lines}:\n{found}");
    }
}

#[test]
fn what_is_given_up_needs_a_limit_to_be_dropped() {
    assert_eq!(invalid("redelivery: {then: drop}"), [("redelivery.then".into(), Kind::Conflict)]);
    let redelivery = valid("redelivery: {max_age: 1h, then: drop, bisect: true}").redelivery;
    assert_eq!((redelivery.max_attempts, redelivery.then, redelivery.bisect), (0, GivenUp::Drop, true));
}

#[test]
fn table_is_named_as_dynamodb_names_tables() {
    let arn = |rest: &str| format!("arn:aws:dynamodb:eu-west-1:111122223333:{rest}");
    let long = "t".repeat(256);
    for table in ["abc", "Leases_1.a-b", &long[..255], &arn("table/leases")] {
        valid(&format!("dynamodb: {{table: {table:?}}}"));
    }
    let wrong = [
        "t",
        "ab",
        &long,
        "two words",
        "leases/1",
        "leäses",
        &arn("table/t"),
        &arn("stream/leases"),
        "arn:aws:dynamodb",
        "arn:aws:dynamodb:::table/leases",
        "arn:aws:kinesis:eu-west-1:111122223333:table/leases",
        &arn("table/leases/index/i"),
    ];
    for table in wrong {
        let found = invalid(&format!("dynamodb: {{table: {table:?}}}"));
        assert_eq!(found, [("dynamodb.table".into(), Kind::InvalidValue)], "{table}");
    }
}

#[test]
fn fields_without_effect_cause_a_warning() {
    for (lines, path) in [
        ("enhanced_fan_out: {consumer_name: a}", "enhanced_fan_out"),
        ("enhanced_fan_out: {enabled: true}\npoll_period: 1s", "poll_period"),
        ("dynamodb: {table: leases, read_capacity_units: 5}", "dynamodb.read_capacity_units"),
        ("dynamodb: {table: leases, tcp: {connect_timeout: 1s}}", "dynamodb.tcp"),
        ("batching: {count: 5, jitter: 0.1}", "batching.jitter"),
        ("start_from_oldest: false\nstart_at_timestamp: 2026-11-01T00:00:00Z", "start_from_oldest"),
        ("credentials: {role_external_id: a}", "credentials.role_external_id"),
        ("credentials: {profile: p, id: a, secret: b}", "credentials.id"),
        ("credentials: {from_ec2_role: true, role: r}", "credentials.role"),
        ("checkpoint_file: a\ndynamodb: {create: true}", "dynamodb.create"),
        ("redelivery: {max_attempts: 3}", "redelivery.max_attempts"),
        ("redelivery: {max_age: 1h}", "redelivery.max_age"),
        ("redelivery: {bisect: true}\nauto_replay_nacks: false", "redelivery"),
    ] {
        assert_eq!(warned(lines), [(path.to_owned(), Kind::NoEffect)], "{lines}");
    }
    assert_eq!(
        warned("enhanced_fan_out: {enabled: true, record_buffer_cap: 10}"),
        [("enhanced_fan_out.record_buffer_cap".into(), Kind::Deprecated)]
    );
}

#[test]
fn value_from_the_environment_stays_one_scalar() {
    let environment = Environment::from_pairs([("PREFIX", "a: b\nstreams: [x]"), ("LIMIT", "12"), ("STREAMS", "a,b")]);
    let text = block(
        "streams: [${STREAMS}]\ncheckpoint_file: '${PREFIX}'\ncheckpoint_limit: ${LIMIT}\nregion: ${REGION:eu-west-1}",
    );
    let document = Document::from_yaml("pipeline.yaml", &text, &environment).unwrap();
    let config = document.parse::<Config>(&["input", "aws_kinesis"]).unwrap().config;
    assert_eq!(config.checkpoint_file.as_deref(), Some(Path::new("a: b\nstreams: [x]")));
    assert_eq!(config.checkpoint_limit, 12);
    assert_eq!(config.region.as_deref(), Some("eu-west-1"));
    assert_eq!(config.streams.to_string(), "a,b");
}

#[test]
fn handmade_configuration_can_be_checked() {
    let config = Config::new(Streams::parse(["orders"]).unwrap());
    let mut findings = pipeline_plugin_api::config::Findings::default();
    config.check(&mut findings);
    assert!(findings.has_errors());
}
