//! Which rules must several fields satisfy together, and which fields have no effect?

use pipeline_plugin_api::config::{Configuration, Findings};

use super::session::{is_region, odd_key};
use super::streams::{StreamArn, StreamRef};
use super::values;
use super::{BillingMode, Config, Credentials, DynamoDb, EnhancedFanOut, GivenUp, Polling, Redelivery, Tcp};

impl Configuration for Config {
    fn values(&self, findings: &mut Findings) {
        values::check(self, findings);
    }

    fn check(&self, findings: &mut Findings) {
        checkpoints(self, findings);
        periods(self, findings);
        table(&self.dynamodb, findings);
        fan_out(self, findings);
        batching(self, findings);
        redelivery(self, findings);
        session("", &self.credentials, &self.tcp, findings);
        session("dynamodb.", &self.dynamodb.credentials, &self.dynamodb.tcp, findings);
    }

    fn unsupported(&self, findings: &mut Findings) {
        for (at, region, credentials) in
            [("", &self.region, &self.credentials), ("dynamodb.", &self.dynamodb.region, &self.dynamodb.credentials)]
        {
            if let Some(region) = region.as_deref()
                && !is_region(region)
            {
                let help = "a region is letters, digits and `-`, as in eu-west-1";
                findings.invalid(&format!("{at}region"), "this is no name of a region", help);
            }
            let parts = [
                ("id", credentials.id.as_deref().unwrap_or_default()),
                ("secret", credentials.secret.expose()),
                ("token", credentials.token.expose()),
            ];
            for (name, value) in parts.into_iter().filter(|(_, value)| !value.is_empty()) {
                if let Some(what) = odd_key(value) {
                    findings.invalid(&format!("{at}credentials.{name}"), format!("the value {what}"), "");
                }
            }
        }
    }
}

fn checkpoints(config: &Config, findings: &mut Findings) {
    match (config.dynamodb.table.is_empty(), config.checkpoint_file.is_none()) {
        (true, true) => findings.conflict(
            "dynamodb.table",
            "there is no place for checkpoints",
            "set `dynamodb.table` to share the streams among processes, or `checkpoint_file` for one process alone",
        ),
        (false, false) => findings.conflict(
            "checkpoint_file",
            "`dynamodb.table` and `checkpoint_file` exclude each other",
            "keep `dynamodb.table` to share the streams among processes, or `checkpoint_file` for one process alone",
        ),
        (true, false) if config.client_id.is_some() => {
            findings.no_effect("client_id", "a `checkpoint_file` serves one process alone", "");
        }
        _ => {}
    }
}

fn periods(config: &Config, findings: &mut Findings) {
    if config.commit_period >= config.lease_period {
        findings.conflict(
            "commit_period",
            "`commit_period` must be shorter than `lease_period`",
            "a lease is renewed with every commit; three commits or more to a lease period leave room for a slow one",
        );
    }
    if config.poll_period > config.lease_period {
        findings.conflict(
            "poll_period",
            "`poll_period` must not be longer than `lease_period`",
            "shorten `poll_period`, or lengthen `lease_period`",
        );
    }
    if config.enhanced_fan_out.enabled && !config.poll_period.is_zero() {
        findings.no_effect("poll_period", "nothing is polled with enhanced fan-out", "");
    }
    if config.enhanced_fan_out.enabled && config.polling != Polling::default() {
        findings.no_effect("polling", "nothing is polled with enhanced fan-out", "");
    }
    if config.start_at_timestamp.is_some() && !config.start_from_oldest {
        findings.no_effect("start_from_oldest", "`start_at_timestamp` says where to start", "");
    }
}

fn table(dynamodb: &DynamoDb, findings: &mut Findings) {
    let provisioned = dynamodb.billing_mode == BillingMode::Provisioned;
    for (units, path) in [
        (dynamodb.read_capacity_units, "dynamodb.read_capacity_units"),
        (dynamodb.write_capacity_units, "dynamodb.write_capacity_units"),
    ] {
        if provisioned && units == 0 {
            findings.conflict(
                path,
                "`billing_mode: PROVISIONED` needs a capacity of at least 1",
                "set both `read_capacity_units` and `write_capacity_units`, or use `PAY_PER_REQUEST`",
            );
        } else if !provisioned && units > 0 {
            findings.no_effect(path, "a capacity is only used with `billing_mode: PROVISIONED`", "");
        }
    }
    if provisioned && !dynamodb.create {
        findings.no_effect("dynamodb.billing_mode", "this is only used with `dynamodb.create: true`", "");
    }
    if dynamodb.table.is_empty() {
        if dynamodb.create {
            findings.no_effect("dynamodb.create", "there is no table to create: `dynamodb.table` is empty", "");
        }
        for (set, path) in [
            (dynamodb.namespace.is_some(), "dynamodb.namespace"),
            (dynamodb.region.is_some(), "dynamodb.region"),
            (dynamodb.endpoint.is_some(), "dynamodb.endpoint"),
            (dynamodb.credentials != Credentials::default(), "dynamodb.credentials"),
        ] {
            if set {
                findings.no_effect(path, "there is no table to reach: `dynamodb.table` is empty", "");
            }
        }
    } else if dynamodb.tcp != Tcp::default() && !dynamodb.has_own_session() {
        findings.no_effect(
            "dynamodb.tcp",
            "the table is reached by the session of the streams",
            "set `tcp` instead, or `dynamodb.region` to give the table a session of its own",
        );
    }
}

fn fan_out(config: &Config, findings: &mut Findings) {
    let fan_out = &config.enhanced_fan_out;
    if fan_out.consumer_name.is_some() && fan_out.consumer_arn.is_some() {
        findings.conflict(
            "enhanced_fan_out.consumer_name",
            "`consumer_name` and `consumer_arn` exclude each other",
            "keep `consumer_arn` to use a consumer that exists, or `consumer_name` to have one registered",
        );
    }
    if let Some(arn) = fan_out.consumer_arn.as_deref() {
        consumer_arn(config, arn, findings);
        if fan_out.deregister_on_close {
            findings.no_effect(
                "enhanced_fan_out.deregister_on_close",
                "only a consumer that was registered here is deregistered",
                "",
            );
        }
    }
    if !fan_out.enabled && *fan_out != EnhancedFanOut::default() {
        findings.no_effect(
            "enhanced_fan_out",
            "enhanced fan-out is not enabled",
            "set `enhanced_fan_out.enabled: true`",
        );
    }
}

/// The ARN of a consumer is the ARN of its stream, followed by `/consumer/NAME:CREATED`.
fn consumer_arn(config: &Config, arn: &str, findings: &mut Findings) {
    const PATH: &str = "enhanced_fan_out.consumer_arn";
    let stream = arn.split_once("/consumer/").and_then(|(stream, consumer)| {
        let (name, created) = consumer.split_once(':')?;
        let named = !name.is_empty() && !created.is_empty() && created.bytes().all(|byte| byte.is_ascii_digit());
        stream.parse::<StreamArn>().ok().filter(|stream| named && stream.region != "*")
    });
    let Some(stream) = stream else {
        findings.invalid(
            PATH,
            "not the ARN of a consumer",
            "expected `arn:aws:kinesis:REGION:ACCOUNT:stream/STREAM/consumer/NAME:CREATED`",
        );
        return;
    };
    let [entry] = config.stream_entries() else {
        findings.conflict(
            PATH,
            "a consumer belongs to one stream, and more are listed",
            "list one stream, or leave `consumer_arn` out to have a consumer registered at each",
        );
        return;
    };
    let belongs = match &entry.stream {
        StreamRef::Name(name) => *name == stream.name,
        // A `*` stands for the session's region, which isn't known here.
        StreamRef::Arn(arn) => {
            arn.name == stream.name
                && arn.account == stream.account
                && (arn.region == "*" || arn.region == stream.region)
        }
    };
    if !belongs {
        findings.conflict(PATH, "this consumer belongs to another stream than the one listed", "");
    }
}

fn batching(config: &Config, findings: &mut Findings) {
    let period = config.batching.period.filter(|period| !period.is_zero());
    if config.batching.jitter > 0.0 && period.is_none() {
        findings.no_effect("batching.jitter", "there is no `batching.period` to add it to", "");
    }
}

fn redelivery(config: &Config, findings: &mut Findings) {
    let Redelivery { max_attempts, max_age, then, .. } = config.redelivery;
    if !config.auto_replay_nacks && config.redelivery != Redelivery::default() {
        findings.no_effect("redelivery", "`auto_replay_nacks: false` drops messages as soon as they are rejected", "");
        return;
    }
    let is_limited = max_attempts > 0 || !max_age.is_zero();
    match then {
        GivenUp::Drop if !is_limited => findings.conflict(
            "redelivery.then",
            "nothing is given up, so nothing is dropped",
            "set `max_attempts`, `max_age` or both",
        ),
        GivenUp::Hold if is_limited => {
            let path = if max_attempts > 0 { "redelivery.max_attempts" } else { "redelivery.max_age" };
            findings.no_effect(path, "with `then: hold` messages are delivered until they are accepted", "");
        }
        _ => {}
    }
}

fn session(prefix: &str, credentials: &Credentials, tcp: &Tcp, findings: &mut Findings) {
    let at = |field: &str| format!("{prefix}{field}");
    let (id, secret, token) = (credentials.id.is_some(), !credentials.secret.is_empty(), !credentials.token.is_empty());
    if id && !secret {
        findings.conflict(&at("credentials.id"), "`id` needs `secret`", "set both, or neither");
    } else if secret && !id {
        findings.conflict(&at("credentials.secret"), "`secret` needs `id`", "set both, or neither");
    } else if token && !id {
        findings.conflict(&at("credentials.token"), "`token` needs `id` and `secret`", "set all three, or none");
    }
    if credentials.role_external_id.is_some() && credentials.role.is_none() {
        findings.no_effect(&at("credentials.role_external_id"), "there is no `role` to assume", "");
    }
    if credentials.profile.is_some() && id {
        findings.no_effect(&at("credentials.id"), "`profile` is used instead", "keep one of the two");
    }
    if credentials.from_ec2_role {
        for (set, field) in [
            (credentials.profile.is_some(), "credentials.profile"),
            (id, "credentials.id"),
            (credentials.role.is_some(), "credentials.role"),
        ] {
            if set {
                findings.no_effect(&at(field), "`from_ec2_role` is used instead", "keep one of the two");
            }
        }
    }
    if let Some(idle) = tcp.keep_alive.idle()
        && !tcp.tcp_user_timeout.is_zero()
        && tcp.tcp_user_timeout >= idle
    {
        findings.conflict(
            &at("tcp.tcp_user_timeout"),
            "`tcp_user_timeout` must be shorter than `keep_alive.idle`",
            "otherwise probes would never be sent; see RFC 5482",
        );
    }
}
