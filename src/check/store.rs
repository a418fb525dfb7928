//! Can leases and checkpoints be kept where the configuration says?

use std::path::Path;

use super::access::Access;
use super::finding::{Finding, Subject, Telling, Verdict};
use super::{judge, within};
use crate::config::Config;
use crate::lease::{FileSeen, StoreError, TableCall, TableSeen, TableTrial, look_at};
use crate::policy::{Policy, Statement, policy};
use crate::retry::{self, Fault, Trial};

const DESCRIBE: &str = "dynamodb:DescribeTable";
const CREATE: &str = "dynamodb:CreateTable";

/// Looks at the table or the file. Returns the name that consumers are named after, if it is known.
pub(super) async fn check(config: &Config, access: Option<&Access>, telling: &mut Telling<'_>) -> Option<String> {
    if let Some(path) = config.checkpoint_file.as_deref() {
        return file(path, telling).await;
    }
    let name = config.dynamodb.table.as_str();
    if name.is_empty() {
        return None;
    }
    let opened = access.and_then(|access| Some((access, access.table.as_ref()?)));
    let Some((access, session)) = opened else {
        telling.add(Finding::not_tried(Subject::Table, name, "credentials"));
        return None;
    };
    match TableTrial::new(session, &config.dynamodb) {
        Ok(trial) => {
            let (policy, _) = policy(config, &access.table_place);
            Table { config, name, policy, access, trial }.check(telling).await
        }
        Err(error) => {
            telling.add(Finding::new(Subject::Table, name, Verdict::Failure, error.to_string()));
            None
        }
    }
}

async fn file(path: &Path, telling: &mut Telling<'_>) -> Option<String> {
    let name = path.display().to_string();
    let finding = |verdict, what: String| Finding::new(Subject::CheckpointFile, name.clone(), verdict, what);
    let owned = path.to_owned();
    let looked = match tokio::task::spawn_blocking(move || look_at(&owned)).await {
        Ok(looked) => looked,
        Err(stopped) => Err(StoreError::Failed { what: "look at the checkpoint file", cause: stopped.to_string() }),
    };
    match looked {
        Ok(FileSeen::Missing) => {
            telling.add(finding(Verdict::Ok, "doesn't exist; a run can make it".into()));
            None
        }
        Ok(FileSeen::Ours { identity: Some(identity) }) => {
            telling.add(finding(Verdict::Ok, "can be read and written".into()));
            Some(identity)
        }
        Ok(FileSeen::Ours { identity: None }) => {
            telling
                .add(finding(Verdict::Ok, "can be read and written; it was not closed, and a run repairs it".into()));
            None
        }
        Err(StoreError::InUse { holder, .. }) => {
            let remedy = "stop it, or give each process a file of its own";
            telling.add(finding(Verdict::Failure, format!("in use by {holder}")).remedy(remedy));
            None
        }
        Err(StoreError::Unusable { cause, advice, .. }) => {
            telling.add(finding(Verdict::Failure, cause).remedy(advice));
            None
        }
        Err(StoreError::Foreign { what, .. }) => {
            telling.add(finding(Verdict::Failure, what).remedy("name another file"));
            None
        }
        Err(error) => {
            telling.add(finding(Verdict::Failure, error.to_string()));
            None
        }
    }
}

struct Table<'a> {
    config: &'a Config,
    name: &'a str,
    policy: Policy,
    access: &'a Access,
    trial: TableTrial,
}

impl Table<'_> {
    async fn check(mut self, telling: &mut Telling<'_>) -> Option<String> {
        let described = within(self.trial.describe()).await;
        telling.add_all(self.access.hosts.news(Verdict::Failure));
        telling.add(self.permission(DESCRIBE, described.as_ref().map(drop)));
        match &described {
            Ok(seen) => telling.add(self.table(seen)),
            Err(fault) => {
                telling.add_all(judge::refused_credentials("table", fault));
                telling.add(match retry::trial(fault) {
                    Trial::Denied => Finding::not_tried(Subject::Table, self.name, DESCRIBE),
                    Trial::BadCredentials => Finding::not_tried(Subject::Table, self.name, judge::ACCEPTED),
                    Trial::Unanswered => Finding::not_tried(Subject::Table, self.name, "an answer of the host"),
                    Trial::Allowed | Trial::Unclear => {
                        let found = Finding::new(Subject::Table, self.name, Verdict::Failure, fault.to_string());
                        found.remedy("check the name and the endpoint")
                    }
                });
            }
        }
        let mut stops = match &described {
            Ok(TableSeen::Missing) if !self.config.dynamodb.create => Some("the table"),
            Ok(TableSeen::Foreign(_)) => Some("a lease table"),
            Ok(TableSeen::Unusable(_)) => Some("a table that can be used"),
            Ok(_) => None,
            Err(fault) if is_denied(fault) => None,
            Err(_) => Some("an answer to DescribeTable"),
        };
        for call in TableCall::OF_A_WORKER {
            if let Some(needs) = stops {
                let name = format!("{} on {}", call.action(), self.name);
                telling.add(Finding::not_tried(Subject::Permission, name, needs));
                continue;
            }
            let tried = within(self.trial.call(call)).await;
            telling.add_all(self.access.hosts.news(Verdict::Failure));
            let found = self.permission(call.action(), tried.as_ref().map(drop));
            telling.add(match found.verdict {
                Verdict::Ok if call.writes() => {
                    Finding { what: "allowed; tried on a condition that no row meets".into(), ..found }
                }
                _ => found,
            });
            if tried.is_err_and(|fault| retry::trial(&fault) == Trial::Unanswered) {
                stops = Some("an answer to the call before");
            }
        }
        if stops.is_none() {
            self.scan(telling).await;
        }
        if matches!(described, Ok(TableSeen::Missing)) && self.config.dynamodb.create {
            let found = Finding::new(
                Subject::Permission,
                format!("{CREATE} on {}", self.name),
                Verdict::Note,
                "needed, and can't be tried without making the table",
            );
            telling.add(found.statement(self.policy.allowing(CREATE)));
        }
        matches!(described, Ok(ref seen) if *seen != TableSeen::Missing).then(|| self.trial.identity())
    }

    fn permission(&self, action: &'static str, tried: Result<(), &Fault>) -> Finding {
        judge::permission(action, self.name, tried, || self.policy.allowing(action))
    }

    /// A run can do without it, so that no statement of the policy has it.
    async fn scan(&self, telling: &mut Telling<'_>) {
        let call = TableCall::Scan;
        let tried = within(self.trial.call(call)).await;
        let found = self.permission(call.action(), tried.as_ref().map(drop));
        telling.add(match tried {
            Err(fault) if is_denied(&fault) => {
                let describes = self.policy.allowing(DESCRIBE);
                let statement = describes.map(|one| Statement { action: vec![call.action()], ..one });
                let what = "not allowed; a run doesn't need it, but its status page and `kinesis-input leases` do";
                Finding { verdict: Verdict::Note, what: what.into(), remedy: None, ..found }.statement(statement)
            }
            _ => found,
        });
    }

    fn table(&self, seen: &TableSeen) -> Finding {
        let finding = |verdict, what: String| Finding::new(Subject::Table, self.trial.arn(), verdict, what);
        match seen {
            TableSeen::Serves(status) => finding(Verdict::Ok, format!("{status}, with the keys of a lease table")),
            TableSeen::NotYet(status) => {
                finding(Verdict::Warning, format!("it is {status}")).remedy("a run would wait until it is ACTIVE")
            }
            TableSeen::Unusable(what) | TableSeen::Foreign(what) => finding(Verdict::Failure, what.clone()),
            TableSeen::Missing if self.config.dynamodb.create => {
                finding(Verdict::Note, "it doesn't exist; a run makes it, because of `dynamodb.create`".into())
            }
            TableSeen::Missing => finding(Verdict::Failure, "it doesn't exist".into()).remedy(
                "set `dynamodb.create: true`, or make it with the hash key StreamID and the range key ShardID, both of type S",
            ),
        }
    }
}

fn is_denied(fault: &Fault) -> bool {
    retry::trial(fault) == Trial::Denied
}
