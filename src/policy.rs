//! Which permissions does a configuration need, and no more?
//!
//! This module is pure. What the configuration does not say, the account for one, is `*` in a resource, unless the caller
//! knows it.

use serde::Serialize;

use crate::config::{Config, StreamRef};

/// What is known beside the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The region of what the configuration gives none for.
    pub region: Option<String>,
    /// The account of streams that are given by name, and of the table.
    pub account: Option<String>,
}

/// A policy, as IAM takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Policy {
    /// The version of the language of policies.
    pub version: &'static str,
    /// What is allowed.
    pub statement: Vec<Statement>,
}

/// What is allowed on some resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Statement {
    /// The name of the statement.
    pub sid: &'static str,
    /// `Allow`.
    pub effect: &'static str,
    /// What is allowed.
    pub action: Vec<&'static str>,
    /// On what.
    pub resource: Vec<String>,
}

impl Policy {
    /// The part of the policy that allows this action, and no other.
    pub(crate) fn allowing(&self, action: &str) -> Option<Statement> {
        self.statement.iter().find_map(|statement| {
            let action = *statement.action.iter().find(|allowed| **allowed == action)?;
            Some(Statement { action: vec![action], ..statement.clone() })
        })
    }
}

/// Returns the smallest policy with which the configuration can be run, and what has to be known about it.
pub fn policy(config: &Config, place: &Place) -> (Policy, Vec<String>) {
    let mut statements = Vec::new();
    let mut notes = Vec::new();
    let mut allow = |sid, action: Vec<&'static str>, resource: Vec<String>| {
        statements.push(Statement { sid, effect: "Allow", action, resource });
    };
    let region = config.region.as_deref().or(place.region.as_deref()).unwrap_or("*");
    let account = place.account.as_deref().unwrap_or("*");
    let mut streams: Vec<String> = Vec::new();
    for entry in config.stream_entries() {
        let arn = match &entry.stream {
            StreamRef::Name(name) => format!("arn:aws:kinesis:{region}:{account}:stream/{name}"),
            StreamRef::Arn(arn) => {
                let region = if arn.region == "*" { region } else { &arn.region };
                format!("arn:{}:kinesis:{region}:{}:stream/{}", arn.partition, arn.account, arn.name)
            }
        };
        if !streams.contains(&arn) {
            streams.push(arn);
        }
    }
    let fan_out = &config.enhanced_fan_out;
    let mut on_streams = vec!["kinesis:DescribeStreamSummary", "kinesis:ListShards"];
    if !fan_out.enabled {
        on_streams.extend(["kinesis:GetShardIterator", "kinesis:GetRecords"]);
    } else if fan_out.consumer_arn.is_none() {
        on_streams.push("kinesis:RegisterStreamConsumer");
    }
    allow("Streams", on_streams, streams.clone());
    if fan_out.enabled {
        let mut on_consumers = vec!["kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard"];
        if fan_out.deregister_on_close {
            on_consumers.push("kinesis:DeregisterStreamConsumer");
        }
        let consumers = match (fan_out.consumer_arn.as_deref(), fan_out.consumer_name.as_deref()) {
            (Some(arn), _) => vec![arn.to_owned()],
            (None, Some(name)) => streams.iter().map(|stream| format!("{stream}/consumer/{name}:*")).collect(),
            (None, None) => streams.iter().map(|stream| format!("{stream}/consumer/*")).collect(),
        };
        allow("Consumers", on_consumers, consumers);
    }
    let table = &config.dynamodb;
    if !table.table.is_empty() {
        let mut on_table = vec![
            "dynamodb:DescribeTable",
            "dynamodb:GetItem",
            "dynamodb:Query",
            "dynamodb:UpdateItem",
            "dynamodb:PutItem",
            "dynamodb:DeleteItem",
        ];
        if table.create {
            on_table.push("dynamodb:CreateTable");
        }
        let region = table.region.as_deref().unwrap_or(region);
        let arn = match table.table.as_str() {
            arn if arn.starts_with("arn:") => arn.to_owned(),
            name => format!("arn:aws:dynamodb:{region}:{account}:table/{name}"),
        };
        allow("LeaseTable", on_table, vec![arn]);
        if table.credentials != crate::config::Credentials::default() {
            notes.push(
                "the table is reached with credentials of its own: the statement LeaseTable belongs to them".into(),
            );
        }
    }
    for (role, whose) in [
        (config.credentials.role.as_deref(), "credentials.role"),
        (table.credentials.role.as_deref(), "dynamodb.credentials.role"),
    ] {
        if let Some(role) = role {
            notes.push(format!(
                "this is the policy of the role of `{whose}`; the identity that runs the pipeline needs `sts:AssumeRole` on {role}, and \
                 the role has to trust it"
            ));
        }
    }
    notes.push("a stream that is encrypted with a key of your own needs `kms:Decrypt` on that key as well".into());
    if statements.iter().flat_map(|statement| &statement.resource).any(|resource| resource.contains(":*:")) {
        notes.push("`*` stands for a region or an account that the file does not say: narrow it with `--region` and `--account`".into());
    }
    (Policy { version: "2012-10-17", statement: statements }, notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Streams;

    fn config(streams: &[&str], change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::new(Streams::parse(streams.iter().copied()).unwrap());
        change(&mut config);
        config
    }

    fn actions(policy: &Policy) -> Vec<&'static str> {
        policy.statement.iter().flat_map(|statement| statement.action.clone()).collect()
    }

    #[test]
    fn polling_from_a_file_needs_nothing_but_the_stream() {
        let place = Place { region: Some("eu-west-1".into()), account: Some("123456789012".into()) };
        let (policy, notes) =
            policy(&config(&["orders:shardId-000000000000", "orders:shardId-000000000001"], |_| {}), &place);
        assert_eq!(policy.statement.len(), 1);
        assert_eq!(policy.statement[0].resource, ["arn:aws:kinesis:eu-west-1:123456789012:stream/orders"]);
        let expected =
            ["kinesis:DescribeStreamSummary", "kinesis:ListShards", "kinesis:GetShardIterator", "kinesis:GetRecords"];
        assert_eq!(actions(&policy), expected);
        assert_eq!(notes.len(), 1, "{notes:?}");
    }

    #[test]
    fn what_the_file_does_not_say_is_a_star() {
        let config = config(&["orders", "arn:aws-cn:kinesis:*:111122223333:stream/returns"], |config| {
            config.enhanced_fan_out.enabled = true;
            config.enhanced_fan_out.consumer_name = Some("reader".to_owned()).into();
            config.enhanced_fan_out.deregister_on_close = true;
            config.dynamodb.table = "leases".into();
            config.dynamodb.create = true;
            config.dynamodb.region = Some("us-east-1".to_owned()).into();
            config.credentials.role = Some("arn:aws:iam::111122223333:role/reader".to_owned()).into();
        });
        let (policy, notes) = policy(&config, &Place::default());
        let resources: Vec<&String> = policy.statement.iter().flat_map(|statement| &statement.resource).collect();
        assert_eq!(
            resources,
            [
                "arn:aws:kinesis:*:*:stream/orders",
                "arn:aws-cn:kinesis:*:111122223333:stream/returns",
                "arn:aws:kinesis:*:*:stream/orders/consumer/reader:*",
                "arn:aws-cn:kinesis:*:111122223333:stream/returns/consumer/reader:*",
                "arn:aws:dynamodb:us-east-1:*:table/leases",
            ]
        );
        for action in ["kinesis:RegisterStreamConsumer", "kinesis:DeregisterStreamConsumer", "dynamodb:CreateTable"] {
            assert!(actions(&policy).contains(&action), "{action}");
        }
        assert!(notes.iter().any(|note| note.contains("sts:AssumeRole")), "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("--account")), "{notes:?}");
    }

    #[test]
    fn one_action_has_a_statement_of_its_own() {
        let config = config(&["orders"], |config| config.enhanced_fan_out.enabled = true);
        let (policy, _) = policy(&config, &Place::default());
        let statement = policy.allowing("kinesis:SubscribeToShard").unwrap();
        assert_eq!((statement.sid, &statement.action[..]), ("Consumers", &["kinesis:SubscribeToShard"][..]));
        assert_eq!(statement.resource, policy.statement[1].resource);
        assert_eq!(policy.allowing("kinesis:PutRecord"), None);
    }

    #[test]
    fn consumer_that_exists_is_not_registered() {
        let arn = "arn:aws:kinesis:eu-west-1:111122223333:stream/orders/consumer/c:1";
        let config = config(&["orders"], |config| {
            config.enhanced_fan_out.enabled = true;
            config.enhanced_fan_out.consumer_arn = Some(arn.to_owned()).into();
        });
        let (policy, _) = policy(&config, &Place::default());
        assert!(!actions(&policy).contains(&"kinesis:RegisterStreamConsumer"));
        assert_eq!(policy.statement[1].resource, [arn]);
    }
}
