//! With which credentials are the services reached, and whose are they?

use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::shared::IntoShared;
use aws_types::SdkConfig;

use super::finding::{Finding, Subject, Telling, Verdict};
use super::hosts::Hosts;
use super::within;
use crate::aws::credentials::{self, AccessError, Outside, Settings, given};
use crate::aws::http::{self, ControlClient, Sockets, SubscriptionClient};
use crate::aws::sdk::fault;
use crate::config::{Config, Credentials};
use crate::policy::Place;
use crate::retry::{self, Fault, Origin, Trial};

/// One attempt may fail by chance.
const ATTEMPTS: u32 = 2;

/// The sessions of a configuration.
#[derive(Debug)]
pub(super) struct Access {
    /// The session of the streams.
    pub(super) streams: SdkConfig,
    /// The session of the table, if there is one and its credentials were found.
    pub(super) table: Option<SdkConfig>,
    /// The client for calls that bring records.
    pub(super) records: SharedHttpClient,
    pub(super) hosts: Hosts,
    /// The region and the account of the streams' session.
    pub(super) place: Place,
    /// The same of the table's.
    pub(super) table_place: Place,
}

/// Finds the credentials; `None` without those of the streams.
pub(super) async fn open(config: &Config, telling: &mut Telling<'_>) -> Option<Access> {
    let hosts = Hosts::default();
    let opened = sessions(config, &hosts).await;
    telling.add_all(hosts.news(Verdict::Warning));
    let (streams, table, records) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            telling.add(no_access("streams", &error));
            return None;
        }
    };
    let has_own = config.dynamodb.has_own_session() && config.dynamodb.credentials != Credentials::default();
    let place = identity("streams", &streams, &hosts, telling).await;
    let (table, table_place) = match table {
        Err(error) => {
            telling.add(no_access("table", &error));
            (None, Place::default())
        }
        Ok(table) if config.dynamodb.table.is_empty() => (Some(table), Place::default()),
        Ok(table) if has_own => {
            let place = identity("table", &table, &hosts, telling).await;
            (Some(table), place)
        }
        Ok(table) => {
            let region = table.region().map(ToString::to_string);
            (Some(table), Place { region, account: place.account.clone() })
        }
    };
    let table = table.filter(|_| !config.dynamodb.table.is_empty());
    Some(Access { streams, table, records, hosts, place, table_place })
}

type Sessions = (SdkConfig, Result<SdkConfig, AccessError>, SharedHttpClient);

/// Makes the sessions as a run would, with few retries, and with every request noted.
async fn sessions(config: &Config, hosts: &Hosts) -> Result<Sessions, AccessError> {
    let settings = Settings::load(config.credentials.profile.as_deref()).await?;
    let of_table = match &config.dynamodb.credentials.profile {
        same if *same == config.credentials.profile => Ok(None),
        own => Settings::load(own.as_deref()).await.map(Some),
    };
    let mut trusted = settings.certificates().await?;
    let mut machine = settings.machine_addresses();
    if let Ok(Some(own)) = &of_table {
        trusted.extend(own.certificates().await?);
        machine.extend(own.machine_addresses());
    }
    let sockets = Sockets::new(&config.tcp);
    let control = hosts.watch(ControlClient::new(&trusted, machine, &sockets).into_shared());
    let records = SubscriptionClient::new(http::Settings { trusted, sockets, ..http::Settings::default() });
    let records = hosts.watch(records.into_shared());
    let outside = Outside::new(control);
    let streams = credentials::kinesis(config, &settings, &outside).await?;
    let table = match of_table {
        Ok(own) => {
            let own = own.as_ref().unwrap_or(&settings);
            credentials::dynamodb(config, &streams, &settings, own, &outside).await
        }
        Err(error) => Err(error),
    };
    let few = |session: SdkConfig| {
        session.into_builder().retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS)).build()
    };
    Ok((few(streams), table.map(few), records))
}

fn no_access(whose: &str, error: &AccessError) -> Finding {
    let finding = Finding::new(Subject::Credentials, whose, Verdict::Failure, error.to_string());
    match error {
        AccessError::CredentialsUnavailable(_) => {
            finding.remedy("see to it that their source can be reached, and gives them; a run would wait for it")
        }
        _ => finding,
    }
}

/// Tells where credentials come from and whose they are. Returns their region and account.
async fn identity(whose: &str, session: &SdkConfig, hosts: &Hosts, telling: &mut Telling<'_>) -> Place {
    let region = session.region().map(ToString::to_string);
    let given = given(session).await;
    let mut account = given.as_ref().and_then(|given| given.account.clone());
    if let Some(given) = &given {
        let lasts = match given.expires.map(|expires| expires.duration_since(SystemTime::now())) {
            None => String::new(),
            Some(Ok(left)) => format!("; they expire in {} min and are renewed before", left.as_secs() / 60),
            Some(Err(_)) => "; they have expired".to_owned(),
        };
        let what = format!("from {}, for {}{lasts}", given.source, region.as_deref().unwrap_or_default());
        telling.add(Finding::new(Subject::Credentials, whose, Verdict::Ok, what));
    }
    let sts = aws_sdk_sts::Client::new(session);
    let asked = within(async { sts.get_caller_identity().send().await.map_err(|error| fault(&error)) }).await;
    telling.add_all(hosts.news(Verdict::Warning));
    match asked {
        Ok(answer) => {
            account = answer.account().map(ToOwned::to_owned).or(account);
            let (account, arn) = (account.as_deref().unwrap_or("unknown"), answer.arn().unwrap_or("unknown"));
            telling.add(Finding::new(Subject::Identity, whose, Verdict::Ok, format!("account {account}, {arn}")));
        }
        Err(fault) => telling.add(unknown_identity(whose, session.endpoint_url().is_some(), &fault)),
    }
    Place { region, account }
}

/// A run doesn't ask for the identity, so it can do without the answer.
fn unknown_identity(whose: &str, is_local: bool, fault: &Fault) -> Finding {
    // A server that stands for AWS need not have STS.
    let verdict = if is_local && retry::trial(fault) != Trial::Unanswered { Verdict::Note } else { Verdict::Warning };
    let cause = match fault.origin {
        // The host's own finding says why.
        Origin::Wire => "it does not answer".to_owned(),
        // What is said about a signature may quote the request.
        _ if fault.code.contains("Signature") => fault.code.clone(),
        _ => fault.to_string(),
    };
    Finding::new(Subject::Identity, whose, verdict, format!("not known from STS: {cause}"))
        .remedy("nothing for a run, which doesn't ask for it")
}

/// How long a call may take.
pub(super) const CALL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_that_is_not_known_is_no_failure() {
        let said = |code: &str| Fault { origin: Origin::Call, code: code.into(), message: "token SECRET".into() };
        let found = unknown_identity("streams", false, &said("SignatureDoesNotMatch"));
        assert!(found.verdict == Verdict::Warning && !found.what.contains("SECRET"), "{found:?}");
        assert_eq!(unknown_identity("streams", true, &said("UnknownOperationException")).verdict, Verdict::Note);
        assert_eq!(unknown_identity("streams", true, &Fault::wire("Connection", "")).verdict, Verdict::Warning);
    }
}
