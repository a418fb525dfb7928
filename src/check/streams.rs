//! Can each stream be read, with what it takes?

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_types::region::Region;

use super::access::Access;
use super::finding::{Finding, Subject, Telling, Verdict};
use super::{judge, within};
use crate::aws::sdk::{Aws, Summary};
use crate::aws::{ConsumerDescription, ConsumerStatus, Encoding, Service};
use crate::config::{Config, StreamEntry, StreamRef, Streams};
use crate::model::{ListedShard, ShardId, StartPosition, Stream, millis};
use crate::policy::{Place, Statement, policy};
use crate::retry::{self, Control, Fault, Trial};

/// No shard has this id: the service counts them up from 0.
const NO_SHARD: &str = "shardId-999999999999";
/// The name of a consumer that is never registered.
const NO_CONSUMER: &str = "kinesis-input-check";

const DESCRIBE: &str = "kinesis:DescribeStreamSummary";
const LIST: &str = "kinesis:ListShards";
const DESCRIBE_CONSUMER: &str = "kinesis:DescribeStreamConsumer";
const REGISTER: &str = "kinesis:RegisterStreamConsumer";
const DEREGISTER: &str = "kinesis:DeregisterStreamConsumer";
const SUBSCRIBE: &str = "kinesis:SubscribeToShard";
const ITERATOR: &str = "kinesis:GetShardIterator";
const RECORDS: &str = "kinesis:GetRecords";

/// Looks at all streams. `identity` is what consumers are named after.
pub(super) async fn check(config: &Config, access: &Access, identity: Option<&str>, telling: &mut Telling<'_>) {
    let mut regions: BTreeMap<String, Reached> = BTreeMap::new();
    let mut known: Vec<Stream> = Vec::new();
    let mut refused = false;
    for entry in config.stream_entries() {
        let region = region(entry, access);
        let reached = regions.entry(region.clone()).or_insert_with(|| {
            let session = access.streams.to_builder().region(Region::new(region)).build();
            Reached { aws: Aws::new(&session, access.records.clone()), is_silent: false }
        });
        let configured = entry.stream.to_string();
        if refused {
            telling.add(Finding::not_tried(Subject::Stream, configured, judge::ACCEPTED));
            continue;
        }
        if reached.is_silent {
            telling.add(Finding::not_tried(Subject::Stream, configured, "the host of its region"));
            continue;
        }
        let one = OneStream { config, access, aws: &reached.aws, entry, identity };
        match one.check(&known, telling).await {
            Ok(stream) => known.push(stream),
            Err(Stops::Here) => {}
            Err(Stops::Silence) => reached.is_silent = true,
            Err(Stops::Refusal) => refused = true,
        }
    }
}

/// Tells that no stream was looked at.
pub(super) fn not_tried(config: &Config, telling: &mut Telling<'_>) {
    for entry in config.stream_entries() {
        telling.add(Finding::not_tried(Subject::Stream, entry.stream.to_string(), "credentials"));
    }
}

/// The service in one region.
struct Reached {
    aws: Aws,
    /// Whether a call was not answered, so that no other is made.
    is_silent: bool,
}

fn region(entry: &StreamEntry, access: &Access) -> String {
    match &entry.stream {
        StreamRef::Arn(arn) if arn.region != "*" => arn.region.clone(),
        _ => access.place.region.clone().unwrap_or_default(),
    }
}

/// Why a stream can't be looked at any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stops {
    /// It concerns this stream.
    Here,
    /// The service of the region doesn't answer.
    Silence,
    /// The credentials are not accepted.
    Refusal,
}

/// Tells of a stream that was found. The same one may be listed twice, by its name and by its ARN.
fn stream(summary: &Summary, known: &[Stream], telling: &mut Telling<'_>) -> Result<Stream, Stops> {
    let stream = &summary.stream;
    let found = judge::stream(summary);
    if known.iter().any(|other| other.arn() == stream.arn()) {
        let twice = Finding { verdict: Verdict::Failure, what: "listed twice, by name and by ARN".into(), ..found };
        telling.add(twice.remedy("leave one"));
        return Err(Stops::Here);
    }
    telling.add(found);
    telling.add_all(judge::encryption_key(summary));
    Ok(stream.clone())
}

struct OneStream<'a> {
    config: &'a Config,
    access: &'a Access,
    aws: &'a Aws,
    entry: &'a StreamEntry,
    identity: Option<&'a str>,
}

impl OneStream<'_> {
    async fn check(&self, known: &[Stream], telling: &mut Telling<'_>) -> Result<Stream, Stops> {
        let configured = self.entry.stream.to_string();
        let described = within(self.aws.summary(&configured)).await;
        self.tried(DESCRIBE, described.as_ref().map(drop), telling);
        let (stream, consumers) = match described {
            Ok(summary) => (stream(&summary, known, telling)?, summary.consumers),
            Err(fault) => {
                let stops = self.not_described(&fault, telling);
                // What else is missing can be found out where the ARN is known.
                let stream = self.unseen().filter(|_| retry::trial(&fault) == Trial::Denied);
                (stream.ok_or(stops)?, None)
            }
        };
        let listed = within(self.aws.list_shards(&stream)).await;
        self.tried(LIST, listed.as_ref().map(drop), telling);
        match &listed {
            Ok(shards) => self.shards(shards, telling),
            Err(_) => telling.add(Finding::not_tried(Subject::Shards, stream.name(), LIST)),
        }
        if listed.as_ref().is_err_and(|fault| retry::trial(fault) == Trial::Unanswered) {
            return Err(Stops::Silence);
        }
        if self.config.enhanced_fan_out.enabled {
            self.fan_out(&stream, consumers, telling).await;
        } else {
            self.polling(&stream, listed.ok().as_deref(), telling).await;
        }
        Ok(stream)
    }

    fn not_described(&self, fault: &Fault, telling: &mut Telling<'_>) -> Stops {
        let configured = self.entry.stream.to_string();
        if let Some(refused) = judge::refused_credentials("streams", fault) {
            telling.add(refused);
            telling.add(Finding::not_tried(Subject::Stream, configured, judge::ACCEPTED));
            return Stops::Refusal;
        }
        if retry::control(fault) == Control::NotFound {
            let what = format!("not found in region {}", region(self.entry, self.access));
            let found = Finding::new(Subject::Stream, configured, Verdict::Failure, what);
            telling.add(found.remedy("check the name, the region and the account"));
            return Stops::Here;
        }
        match retry::trial(fault) {
            Trial::Unanswered => {
                telling.add(Finding::not_tried(Subject::Stream, configured, "the host of its region"));
                Stops::Silence
            }
            Trial::Denied => {
                telling.add(Finding::not_tried(Subject::Stream, configured, DESCRIBE));
                Stops::Here
            }
            _ => {
                let found = Finding::new(Subject::Stream, configured, Verdict::Failure, fault.to_string());
                telling.add(found.remedy("check the name and the endpoint"));
                Stops::Here
            }
        }
    }

    /// The stream as far as it is known without asking for it.
    fn unseen(&self) -> Option<Stream> {
        let Place { region, account } = &self.access.place;
        match &self.entry.stream {
            StreamRef::Arn(arn) if arn.region != "*" => {
                Some(Stream::new(arn.name.as_str(), self.entry.stream.to_string()))
            }
            StreamRef::Arn(_) => None,
            StreamRef::Name(name) => {
                let arn = format!("arn:aws:kinesis:{}:{}:stream/{name}", region.as_deref()?, account.as_deref()?);
                Some(Stream::new(name.as_str(), arn))
            }
        }
    }

    /// Tells of a call, and of the hosts that it went to.
    fn tried(&self, action: &'static str, tried: Result<(), &Fault>, telling: &mut Telling<'_>) {
        telling.add_all(self.access.hosts.news(Verdict::Failure));
        telling.add(self.permission(action, tried));
    }

    fn permission(&self, action: &'static str, tried: Result<(), &Fault>) -> Finding {
        judge::permission(action, &self.entry.stream.to_string(), tried, || self.statement(action))
    }

    /// The statement of the policy of this configuration that allows this, on this stream.
    fn statement(&self, action: &str) -> Option<Statement> {
        let place = Place { region: Some(region(self.entry, self.access)), account: self.access.place.account.clone() };
        let mut alone = self.config.clone();
        // A policy of this stream alone has no other resources.
        alone.streams = Streams::parse([self.entry.stream.to_string()]).ok()?;
        policy(&alone, &place).0.allowing(action)
    }

    fn shards(&self, listed: &[ListedShard], telling: &mut Telling<'_>) {
        let stream = self.entry.stream.to_string();
        let missing: Vec<String> =
            self.wanted().filter(|id| listed.iter().all(|shard| shard.id != *id)).map(|id| id.to_string()).collect();
        let found = |verdict, what: String| Finding::new(Subject::Shards, stream.clone(), verdict, what);
        telling.add(if missing.is_empty() {
            let open = listed.iter().filter(|shard| !shard.closed).count();
            found(Verdict::Ok, format!("{} listed, {open} of them open", listed.len()))
        } else {
            found(Verdict::Failure, format!("no shard {}", missing.join(", ")))
                .remedy("see them all with `aws kinesis list-shards`, and correct `streams`")
        });
    }

    /// The shards that the configuration names.
    fn wanted(&self) -> impl Iterator<Item = ShardId> {
        self.entry.shards.iter().map(|shard| ShardId::written(shard))
    }

    async fn polling(&self, stream: &Stream, listed: Option<&[ListedShard]>, telling: &mut Telling<'_>) {
        let shards = listed.unwrap_or_default();
        let is_wanted = |shard: &&ListedShard| self.entry.shards.is_empty() || self.wanted().any(|id| id == shard.id);
        let shard = shards.iter().filter(is_wanted).max_by_key(|shard| !shard.closed);
        let Some(shard) = shard else {
            for action in [ITERATOR, RECORDS] {
                let name = format!("{action} on {}", self.entry.stream);
                telling.add(Finding::not_tried(Subject::Permission, name, "a shard"));
            }
            return;
        };
        // What is found there is thrown away. At this time there is hardly anything.
        let start = StartPosition::At(millis(self.aws.time().unwrap_or_else(SystemTime::now)));
        let iterator = within(self.aws.shard_iterator(stream, &shard.id, &start)).await;
        self.tried(ITERATOR, iterator.as_ref().map(drop), telling);
        let Ok(iterator) = iterator else {
            let name = format!("{RECORDS} on {}", self.entry.stream);
            telling.add(Finding::not_tried(Subject::Permission, name, ITERATOR));
            return;
        };
        let read = within(self.aws.get_records(stream, &iterator, 1, Encoding::Json)).await;
        telling.add_all(self.access.hosts.news(Verdict::Failure));
        let found = self.permission(RECORDS, read.as_ref().map(drop));
        telling.add(match found.verdict {
            Verdict::Ok => {
                let what = format!("allowed; it took one of the five reads a second of {}", shard.id);
                Finding { what, ..found }
            }
            _ => found,
        });
        if let Err(fault) = &read
            && fault.code.starts_with("KMS")
        {
            let found = Finding::new(Subject::EncryptionKey, stream.name(), Verdict::Failure, fault.to_string());
            telling.add(found.remedy("allow these credentials kms:Decrypt on the key, and let the key be enabled"));
        }
    }

    async fn fan_out(&self, stream: &Stream, consumers: Option<i32>, telling: &mut Telling<'_>) {
        let fan_out = &self.config.enhanced_fan_out;
        let (name, described) = match (fan_out.consumer_arn.as_deref(), fan_out.consumer_name.as_deref()) {
            (Some(arn), _) if !arn.starts_with(&format!("{}/consumer/", stream.arn())) => {
                let what = format!("it is no consumer of stream {stream}");
                let found = Finding::new(Subject::Consumer, arn, Verdict::Failure, what);
                telling.add(found.remedy("correct `enhanced_fan_out.consumer_arn`"));
                return;
            }
            (Some(arn), _) => (Some(arn.to_owned()), within(self.aws.describe_consumer_arn(arn)).await),
            (None, name) => {
                let own = || self.identity.map(|identity| format!("kinesis-input-{identity}"));
                let name = name.map(ToOwned::to_owned).or_else(own);
                let asked = name.as_deref().unwrap_or(NO_CONSUMER);
                let described = within(self.aws.describe_consumer(stream, asked)).await;
                (name, described)
            }
        };
        self.tried(DESCRIBE_CONSUMER, described.as_ref().map(drop), telling);
        let shown = name.clone().unwrap_or_else(|| format!("a new one of {}", stream.name()));
        let consumer = |verdict, what: String| Finding::new(Subject::Consumer, shown.clone(), verdict, what);
        let mut is_absent = false;
        match &described {
            Ok(ConsumerDescription { status: ConsumerStatus::Active, .. }) => {
                telling.add(consumer(Verdict::Ok, "ACTIVE".into()));
            }
            Ok(ConsumerDescription { status, .. }) => {
                let what = format!("it is {status:?}");
                telling.add(consumer(Verdict::Warning, what).remedy("a run would wait until it can be used"));
            }
            Err(fault) if retry::control(fault) == Control::NotFound && fan_out.consumer_arn.is_some() => {
                telling.add(
                    consumer(Verdict::Failure, "not found".into()).remedy("correct `enhanced_fan_out.consumer_arn`"),
                );
                return;
            }
            Err(fault) if retry::control(fault) == Control::NotFound => {
                is_absent = true;
                telling.add(judge::absent_consumer(&shown, consumers));
            }
            Err(_) => telling.add(Finding::not_tried(Subject::Consumer, shown, DESCRIBE_CONSUMER)),
        }
        self.subscription(stream, name.as_deref(), described.ok(), telling).await;
        let noted = [
            (REGISTER, is_absent, "needed, and can't be tried without registering the consumer"),
            (DEREGISTER, fan_out.deregister_on_close, "needed, and can't be tried without removing the consumer"),
        ];
        for (action, is_needed, what) in noted {
            if is_needed {
                let name = format!("{action} on {}", self.entry.stream);
                let found = Finding::new(Subject::Permission, name, Verdict::Note, what);
                telling.add(found.statement(self.statement(action)));
            }
        }
    }

    /// Asks for a subscription that can't begin: its shard doesn't exist, and so nothing is taken from a reader of the
    /// consumer.
    async fn subscription(
        &self,
        stream: &Stream,
        name: Option<&str>,
        described: Option<ConsumerDescription>,
        telling: &mut Telling<'_>,
    ) {
        let configured = self.config.enhanced_fan_out.consumer_arn.as_deref().map(ToOwned::to_owned);
        let arn = described.map(|consumer| consumer.arn).or(configured).unwrap_or_else(|| {
            // The time of a registration is the last part. No consumer is as old as this.
            format!("{}/consumer/{}:1", stream.arn(), name.unwrap_or(NO_CONSUMER))
        });
        let shard = ShardId::from(NO_SHARD);
        let tried = within(self.aws.subscribe(&arn, &shard, &StartPosition::Oldest)).await;
        telling.add_all(self.access.hosts.news(Verdict::Failure));
        let found = self.permission(SUBSCRIBE, tried.as_ref().map(drop));
        telling.add(match found.verdict {
            Verdict::Ok => Finding { what: "allowed; tried with a shard that doesn't exist".into(), ..found },
            _ => found,
        });
    }
}
