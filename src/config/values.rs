//! Which single values are wrong in a way that neither their type nor the schema says?

use std::ops::RangeInclusive;

use pipeline_plugin_api::config::{Duration, Findings};

use super::session::is_url;
use super::{Batching, Config, EnhancedFanOut, NAMESPACE_RULE, TABLE_RULE, is_namespace, is_table};

pub(super) fn check(config: &Config, findings: &mut Findings) {
    for (period, path) in [
        (config.commit_period, "commit_period"),
        (config.rebalance_period, "rebalance_period"),
        (config.lease_period, "lease_period"),
    ] {
        positive(period, path, findings);
    }
    if !config.client_id.as_deref().is_none_or(is_worker_name) {
        let expected = "expected at most 255 letters, digits and signs other than `/`, without spaces";
        findings.invalid("client_id", expected, "");
    }
    for (endpoint, path) in [(&config.endpoint, "endpoint"), (&config.dynamodb.endpoint, "dynamodb.endpoint")] {
        if !endpoint.as_deref().is_none_or(is_url) {
            findings.invalid(path, "expected a URL that starts with `http://` or `https://`", "");
        }
    }
    let table = &config.dynamodb.table;
    if !table.is_empty() && !is_table(table) {
        findings.invalid("dynamodb.table", TABLE_RULE, "");
    }
    if !config.dynamodb.namespace.as_deref().is_none_or(is_namespace) {
        findings.invalid("dynamodb.namespace", NAMESPACE_RULE, "");
    }
    fan_out(&config.enhanced_fan_out, findings);
    batching(&config.batching, findings);
}

fn fan_out(fan_out: &EnhancedFanOut, findings: &mut Findings) {
    positive(fan_out.consumer_activation_timeout, "enhanced_fan_out.consumer_activation_timeout", findings);
    positive(fan_out.max_resubscribe_interval, "enhanced_fan_out.max_resubscribe_interval", findings);
    if !fan_out.consumer_name.as_deref().is_none_or(is_consumer_name) {
        let rule = "the name of a consumer has at most 128 characters: letters, digits, `_`, `.` and `-`";
        findings.invalid("enhanced_fan_out.consumer_name", rule, "");
    }
    if fan_out.max_pending_bytes.bytes() == 0 {
        findings.invalid("enhanced_fan_out.max_pending_bytes", "the size must be at least one byte", "");
    }
    if !(64 << 10..=16 << 20).contains(&fan_out.stream_window.bytes()) {
        let rule = "the window of a stream is between 64KiB and 16MiB";
        findings.invalid("enhanced_fan_out.stream_window", rule, "");
    }
}

fn batching(batching: &Batching, findings: &mut Findings) {
    if !batching.check.is_empty() {
        findings.invalid(
            "batching.check",
            "this input runs no queries: end batches by `count`, `byte_size` and `period`, and do the rest in the pipeline of \
             the host",
            "",
        );
    }
    if !batching.processors.is_empty() {
        let rule = "this input runs no processors: move them to the pipeline of the host";
        findings.invalid("batching.processors", rule, "");
    }
}

fn positive(period: Duration, path: &str, findings: &mut Findings) {
    if period.is_zero() {
        findings.invalid(path, "the period must be longer than 0s", "");
    }
}

/// A worker name must be usable as a key of the table, and readable in a log.
fn is_worker_name(id: &str) -> bool {
    id.len() <= 255 && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

/// The rules of AWS for the name of a consumer.
fn is_consumer_name(name: &str) -> bool {
    is_plain_name(name, 0..=128)
}

/// Returns whether a name has so many characters, and only those that Kinesis and DynamoDB allow in names.
pub(super) fn is_plain_name(name: &str, lengths: RangeInclusive<usize>) -> bool {
    lengths.contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}
