//! How is Kinesis called through the AWS SDK?
//!
//! The SDK handles endpoints, credentials, signing, clock skew and the retries of control calls. SubscribeToShard
//! and GetRecords go through it too, up to the answer's headers; the body is then taken from the SDK, because its own
//! readers copy every record three times, and wait for the first frame outside every timeout. The SDK speaks no CBOR:
//! calls in it are rewritten before they are signed. Most calls of GetRecords are copies of one that the SDK made (see
//! `get_records`).

use std::error::Error;
use std::fmt::Debug;
use std::iter;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents, StalledStreamProtectionConfig};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_shard_iterator::builders::GetShardIteratorFluentBuilder;
use aws_sdk_kinesis::types::{
    ConsumerStatus as SdkConsumerStatus, EncryptionType, RecordDistributionStrategy, ShardIteratorType,
    StartingPosition,
};
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::Format;
use aws_types::SdkConfig;
use http_body_util::{BodyExt, Collected, Limited};
use pipeline_plugin_api::causes;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use crate::aws::get_records::{Call, Copies, Sent, SignedCopy};
use crate::aws::http::HostNotFound;
use crate::aws::take_body::{TakeBody, Taken, UNSUPPORTED_MEDIA_TYPE};
use crate::aws::{ConsumerDescription, ConsumerStatus, Encoding, RecordsAnswer, Service, cbor, credentials};
use crate::model::{HashRange, ListedShard, SequenceNumber, ShardId, StartPosition, Stream};
use crate::retry::{Fault, NO_CREDENTIALS, NO_SUCH_HOST, Origin};
use crate::sync::{Mutex, lock};

/// How long a control call may take, including its retries.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one attempt of a control call may take.
const CONTROL_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many empty pages are read before a record counts as not found.
const EMPTY_PAGES: usize = 20;
/// The message of a request that failed without a cause.
const NOT_SENT: &str = "the request could not be sent";
/// The most bytes of an error that are read.
const ERROR: usize = 64 << 10;

/// The Kinesis service of AWS, or a compatible endpoint.
#[derive(Debug)]
pub(crate) struct Aws {
    /// The client for everything but records. A connection that carries unread subscriptions can stall its other
    /// requests, so control calls and records never share one.
    control: Client,
    /// The client for SubscribeToShard, `GetShardIterator` and GetRecords.
    records: Client,
    /// The requests of GetRecords that are made without the SDK.
    copies: Copies,
    time: SharedTimeSource,
    service_time: ServiceTime,
}

impl Aws {
    /// Creates the service. Control calls go through the session's HTTP client, those that bring records through
    /// `records`.
    pub(crate) fn new(session: &SdkConfig, records: SharedHttpClient) -> Self {
        let common = aws_sdk_kinesis::config::Builder::from(session);
        let service_time = ServiceTime::default();
        let control = common
            .clone()
            .interceptor(service_time.clone())
            // The retry budget is separate: by default all clients in a process share one, including those of other
            // inputs.
            .retry_partition(RetryPartition::custom("kinesis-input-control").build())
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_timeout(CONTROL_TIMEOUT)
                    .operation_attempt_timeout(CONTROL_ATTEMPT_TIMEOUT)
                    .build(),
            )
            .build();
        let time = credentials::clock(session);
        let copies = Copies::new(records.clone(), time.clone());
        let records = common
            .http_client(records)
            // The SDK's retries share a budget with all other calls, and don't know the 5 s rule; the shard reader's
            // retries do.
            .retry_config(RetryConfig::disabled())
            // A reader that waits for space in the pool is not a stalled server.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Self { control: Client::from_conf(control), records: Client::from_conf(records), copies, time, service_time }
    }
}

#[cfg(test)]
impl Aws {
    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }
}

impl Aws {
    /// How many milliseconds ago the first record at or after `start` arrived; 0 if there is none.
    pub(crate) async fn behind(&self, stream: &Stream, shard: &ShardId, start: &StartPosition) -> Result<u64, Fault> {
        let iterator = iterator_at(self.control.get_shard_iterator(), stream, shard, start);
        let iterator = iterator.send().await.map_err(|error| fault(&error))?;
        let iterator = iterator.shard_iterator().ok_or_else(|| incomplete("ShardIterator"))?;
        let records = self.control.get_records().stream_arn(stream.arn()).shard_iterator(iterator).limit(1);
        let records = records.send().await.map_err(|error| fault(&error))?;
        // The service counts from behind the record that it returns.
        let behind = records.millis_behind_latest().ok_or_else(|| incomplete("MillisBehindLatest"))?.unsigned_abs();
        let first = records.records().first().and_then(|record| record.approximate_arrival_timestamp());
        let age = first.and_then(|arrived| SystemTime::try_from(*arrived).ok()).map(|arrived| {
            let age = self.time.now().duration_since(arrived).unwrap_or_default();
            // The record exists, so the result is at least 1, even if the clocks differ.
            age.as_millis().max(1) as u64
        });
        Ok(age.unwrap_or_default().max(behind))
    }
}

/// What an iterator at a record finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum First {
    /// The first record.
    Record { number: String, data: Vec<u8> },
    /// There is no record up to the latest.
    Nothing,
    /// The service returned empty pages only.
    Unknown,
}

impl Aws {
    /// Returns the first record at this position or behind it.
    pub(crate) async fn first(&self, stream: &Stream, shard: &ShardId, start: &StartPosition) -> Result<First, Fault> {
        let iterator = iterator_at(self.control.get_shard_iterator(), stream, shard, start);
        let iterator = iterator.send().await.map_err(|error| fault(&error))?;
        let mut iterator = iterator.shard_iterator.ok_or_else(|| incomplete("ShardIterator"))?;
        for _ in 0..EMPTY_PAGES {
            let call = self.control.get_records().stream_arn(stream.arn()).shard_iterator(iterator).limit(1);
            let page = call.send().await.map_err(|error| fault(&error))?;
            if let Some(record) = page.records().first() {
                let (number, data) = (record.sequence_number().to_owned(), record.data().as_ref().to_vec());
                return Ok(First::Record { number, data });
            }
            match page.next_shard_iterator {
                Some(next) if page.millis_behind_latest != Some(0) => iterator = next,
                _ => return Ok(First::Nothing),
            }
        }
        Ok(First::Unknown)
    }
}

#[async_trait]
impl Service for Aws {
    fn time(&self) -> Option<SystemTime> {
        let (date, answered) = (*lock(&self.service_time.0))?;
        date.checked_add(answered.elapsed())
    }

    async fn describe_stream(&self, name_or_arn: &str) -> Result<Stream, Fault> {
        Ok(self.summary(name_or_arn).await?.stream)
    }

    async fn list_shards(&self, stream: &Stream) -> Result<Vec<ListedShard>, Fault> {
        let mut shards = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let call = self.control.list_shards();
            let call = match next.take() {
                // A token identifies the stream too; the service refuses a call with both.
                Some(token) => call.next_token(token),
                None => call.stream_arn(stream.arn()).stream_name(stream.name()),
            };
            let page = call.send().await.map_err(|error| fault(&error))?;
            for shard in page.shards() {
                let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
                let range = shard.sequence_number_range();
                let closed = range.is_some_and(|range| range.ending_sequence_number().is_some());
                let begin = range.and_then(|range| SequenceNumber::stored(range.starting_sequence_number()).ok());
                shards.push(ListedShard {
                    id: shard.shard_id().into(),
                    parents: parents.into_iter().flatten().map(ShardId::from).collect(),
                    closed,
                    begin,
                    hash_range: shard
                        .hash_key_range()
                        .and_then(|range| HashRange::new(range.starting_hash_key(), range.ending_hash_key())),
                });
            }
            match page.next_token() {
                Some(token) if !token.is_empty() => next = Some(token.to_owned()),
                _ => return Ok(shards),
            }
        }
    }

    async fn describe_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault> {
        let call = self.control.describe_stream_consumer().stream_arn(stream.arn()).consumer_name(name);
        let answer = call.send().await.map_err(|error| fault(&error))?;
        let found = answer.consumer_description().ok_or_else(|| incomplete("ConsumerDescription"))?;
        consumer(found.consumer_arn(), found.consumer_status())
    }

    async fn describe_consumer_arn(&self, arn: &str) -> Result<ConsumerDescription, Fault> {
        let call = self.control.describe_stream_consumer().consumer_arn(arn);
        let answer = call.send().await.map_err(|error| fault(&error))?;
        let found = answer.consumer_description().ok_or_else(|| incomplete("ConsumerDescription"))?;
        consumer(found.consumer_arn(), found.consumer_status())
    }

    async fn register_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault> {
        let call = self.control.register_stream_consumer().stream_arn(stream.arn()).consumer_name(name);
        let answer = call.send().await.map_err(|error| fault(&error))?;
        let made = answer.consumer().ok_or_else(|| incomplete("Consumer"))?;
        consumer(made.consumer_arn(), made.consumer_status())
    }

    async fn deregister_consumer(&self, arn: &str) -> Result<(), Fault> {
        let call = self.control.deregister_stream_consumer().consumer_arn(arn);
        call.send().await.map(drop).map_err(|error| fault(&error))
    }

    async fn subscribe(&self, consumer_arn: &str, shard: &ShardId, start: &StartPosition) -> Result<SdkBody, Fault> {
        let position = StartingPosition::builder();
        let position = match start {
            StartPosition::Oldest => position.r#type(ShardIteratorType::TrimHorizon),
            StartPosition::At(millis) => {
                position.r#type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(*millis))
            }
            StartPosition::After(number) => {
                position.r#type(ShardIteratorType::AfterSequenceNumber).sequence_number(number.as_str())
            }
            StartPosition::AtRecord(number) => {
                position.r#type(ShardIteratorType::AtSequenceNumber).sequence_number(number.as_str())
            }
        };
        let position = position.build().map_err(|error| local("request", &error))?;
        let body = TakeBody::default();
        let answer = self
            .records
            .subscribe_to_shard()
            .consumer_arn(consumer_arn)
            .shard_id(shard.as_str())
            .starting_position(position)
            .customize()
            .interceptor(body.clone())
            .send()
            .await;
        // Once the body is taken, the SDK's result for the empty body is ignored.
        match (body.good(), answer) {
            (Some(body), _) => Ok(body),
            (None, Err(error)) => Err(fault(&error)),
            (None, Ok(_)) => Err(incomplete("body")),
        }
    }

    async fn shard_iterator(&self, stream: &Stream, shard: &ShardId, start: &StartPosition) -> Result<String, Fault> {
        let answer = iterator_at(self.records.get_shard_iterator(), stream, shard, start).send().await;
        let answer = answer.map_err(|error| fault(&error))?;
        answer.shard_iterator.ok_or_else(|| incomplete("ShardIterator"))
    }

    async fn get_records(
        &self,
        stream: &Stream,
        iterator: &str,
        limit: u32,
        encoding: Encoding,
    ) -> Result<RecordsAnswer, Fault> {
        let call = Call { stream_arn: stream.arn(), iterator, limit, encoding };
        if let Some(copy) = self.copies.of(call) {
            return self.send_copy(copy, stream.arn()).await;
        }
        let (body, sent) = (TakeBody::default(), Sent::default());
        let answer = self
            .records
            .get_records()
            .stream_arn(stream.arn())
            .shard_iterator(iterator)
            .limit(limit.cast_signed())
            .customize()
            .interceptor(body.clone())
            .interceptor(call.body())
            .interceptor(sent.noting())
            .send()
            .await;
        match (body.taken(), answer) {
            (Some(taken), _) => {
                let answer = answered(taken).await?;
                self.copies.keep(stream.arn(), sent).await;
                Ok(answer)
            }
            (None, Err(error)) => Err(fault(&error)),
            (None, Ok(_)) => Err(incomplete("body")),
        }
    }
}

impl Aws {
    /// Sends a copy of the SDK's request.
    async fn send_copy(&self, copy: SignedCopy, stream_arn: &str) -> Result<RecordsAnswer, Fault> {
        let original = Arc::clone(&copy.original);
        let answer = match copy.send().await {
            Ok(mut answer) => answered(Taken::of(&mut answer)).await,
            Err(error) => Err(connector_fault(&error)),
        };
        if answer.is_err() {
            self.copies.failed(stream_arn, &original);
        }
        answer
    }
}

/// What the service says of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) stream: Stream,
    /// Its status, as the service calls it.
    pub(crate) status: String,
    /// The key that its records are encrypted with, by id, ARN or alias.
    pub(crate) key: Option<String>,
    /// How many consumers are registered; `None` from servers that don't say.
    pub(crate) consumers: Option<i32>,
}

impl Aws {
    /// Describes a stream, by name or ARN.
    pub(crate) async fn summary(&self, name_or_arn: &str) -> Result<Summary, Fault> {
        let call = self.control.describe_stream_summary();
        let call = if is_arn(name_or_arn) {
            // The name is sent as well, for local servers that don't know ARNs here.
            call.stream_arn(name_or_arn).set_stream_name(name_in(name_or_arn))
        } else {
            call.stream_name(name_or_arn)
        };
        let answer = call.send().await.map_err(|error| fault(&error))?;
        let summary = answer.stream_description_summary().ok_or_else(|| incomplete("StreamDescriptionSummary"))?;
        let created = summary.stream_creation_timestamp().to_millis().ok().filter(|created| *created > 0);
        let is_automatic = summary.record_distribution_strategy() == Some(&RecordDistributionStrategy::Auto);
        let stream = Stream::new(summary.stream_name(), summary.stream_arn());
        Ok(Summary {
            stream: stream.created_at(created).distributed(is_automatic),
            status: summary.stream_status().as_str().to_owned(),
            key: summary
                .key_id()
                .filter(|_| summary.encryption_type() != Some(&EncryptionType::None))
                .map(ToOwned::to_owned),
            consumers: summary.consumer_count(),
        })
    }
}

/// Returns the answer to GetRecords whose body was taken, or the error in it.
async fn answered(taken: Taken) -> Result<RecordsAnswer, Fault> {
    let Taken { body, encoding, len, refused } = taken;
    let Some(refusal) = refused else { return Ok(RecordsAnswer { body, encoding, len }) };
    let body = timeout(CONTROL_ATTEMPT_TIMEOUT, Limited::new(body, ERROR).collect()).await;
    let body = body.ok().and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
    let error = match encoding {
        // Whatever such an answer says, the encoding was refused.
        _ if refusal.status == UNSUPPORTED_MEDIA_TYPE => None,
        Encoding::Cbor => cbor::error(&body),
        Encoding::Json => json_error(&body, refusal.kind),
    };
    let (code, message) = error.unwrap_or_else(|| (format!("Status{}", refusal.status), String::new()));
    Err(Fault { origin: Origin::Call, code, message })
}

/// Reads the code and the message of an error in JSON. A header with the code has precedence.
fn json_error(body: &[u8], header: Option<String>) -> Option<(String, String)> {
    #[derive(Debug, Default, Deserialize)]
    struct Error {
        #[serde(rename = "__type")]
        kind: Option<String>,
        #[serde(alias = "Message")]
        message: Option<String>,
    }
    let error: Error = serde_json::from_slice(body).unwrap_or_default();
    let kind = header.or(error.kind)?;
    // A service may write its namespace before the name, and an address behind it.
    let code = kind.split(':').next().and_then(|kind| kind.rsplit('#').next()).unwrap_or_default().to_owned();
    let message = error.message.unwrap_or_else(|| code.clone());
    Some((code, message))
}

/// The time by the clock of the service, as an answer says it.
pub(crate) fn date(answer: &HttpResponse) -> Option<SystemTime> {
    let date = DateTime::from_str(answer.headers().get("date")?, Format::HttpDate).ok()?;
    SystemTime::try_from(date).ok()
}

/// The `Date` of the last answer, and when it arrived.
#[derive(Debug, Clone, Default)]
struct ServiceTime(Arc<Mutex<Option<(SystemTime, Instant)>>>);

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for ServiceTime {
    fn name(&self) -> &'static str {
        "ServiceTime"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _runtime_components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = date(context.response()) {
            *lock(&self.0) = Some((date, Instant::now()));
        }
        Ok(())
    }
}

/// Builds the call for an iterator at a position.
fn iterator_at(
    call: GetShardIteratorFluentBuilder,
    stream: &Stream,
    shard: &ShardId,
    start: &StartPosition,
) -> GetShardIteratorFluentBuilder {
    let iterator = call.stream_arn(stream.arn()).stream_name(stream.name()).shard_id(shard.as_str());
    match start {
        StartPosition::Oldest => iterator.shard_iterator_type(ShardIteratorType::TrimHorizon),
        StartPosition::At(millis) => {
            iterator.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(*millis))
        }
        StartPosition::After(number) => iterator
            .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
            .starting_sequence_number(number.as_str()),
        StartPosition::AtRecord(number) => {
            iterator.shard_iterator_type(ShardIteratorType::AtSequenceNumber).starting_sequence_number(number.as_str())
        }
    }
}

fn is_arn(name_or_arn: &str) -> bool {
    name_or_arn.starts_with("arn:")
}

/// The name of the stream in its ARN.
fn name_in(arn: &str) -> Option<String> {
    arn.rsplit_once(":stream/").map(|(_, name)| name.to_owned())
}

fn consumer(arn: &str, status: &SdkConsumerStatus) -> Result<ConsumerDescription, Fault> {
    let status = match status {
        SdkConsumerStatus::Active => ConsumerStatus::Active,
        SdkConsumerStatus::Creating => ConsumerStatus::Creating,
        SdkConsumerStatus::Deleting => ConsumerStatus::Deleting,
        other => return Err(Fault::wire("UnknownStatus", format_args!("consumer status {other:?}"))),
    };
    Ok(ConsumerDescription { arn: arn.to_owned(), status })
}

fn incomplete(what: &str) -> Fault {
    Fault::wire("IncompleteAnswer", format_args!("the answer has no {what}"))
}

fn local(code: &str, error: &(dyn Error + 'static)) -> Fault {
    Fault { origin: Origin::Local, code: code.into(), message: causes(error) }
}

/// Converts an error of the SDK into a fault.
pub(crate) fn fault<E, R>(error: &SdkError<E, R>) -> Fault
where
    E: ProvideErrorMetadata + Error + 'static,
    R: Debug,
{
    match error {
        SdkError::ServiceError(context) => {
            let error = context.err();
            let code = error.code().unwrap_or("Unknown").to_owned();
            let message = error.message().map_or_else(|| causes(error), ToOwned::to_owned);
            Fault { origin: Origin::Call, code, message }
        }
        SdkError::TimeoutError(_) => Fault::wire("Timeout", "the call was not answered in time"),
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(error) => connector_fault(error),
            // This is a failure before a connection was tried: an endpoint that is not a URL.
            None if failure.is_user() || failure.is_other() => {
                Fault { origin: Origin::Local, code: "Dispatch".into(), message: NOT_SENT.into() }
            }
            None => Fault::wire("Connection", NOT_SENT),
        },
        SdkError::ResponseError(_) => Fault::wire("Response", "the answer could not be read"),
        SdkError::ConstructionFailure(_) => Fault {
            origin: Origin::Local,
            code: "Request".into(),
            message: format!("the request could not be built: {}", error.source().map(causes).unwrap_or_default()),
        },
        _ => Fault::wire("Unknown", "an error that this version does not know"),
    }
}

/// Converts the failure to send a request into a fault.
fn connector_fault(error: &ConnectorError) -> Fault {
    if let Some(error) = credentials_error(error) {
        return Fault { origin: Origin::Local, code: NO_CREDENTIALS.into(), message: causes(error) };
    }
    let cause = causes(error);
    if error.is_user() {
        Fault { origin: Origin::Local, code: "Dispatch".into(), message: cause }
    } else if HostNotFound::is_behind(error) {
        Fault::wire(NO_SUCH_HOST, cause)
    } else {
        Fault::wire("Connection", cause)
    }
}

/// The credentials error behind an error, if it has one.
fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
        .find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aws_config::{BehaviorVersion, Region};
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
    use aws_smithy_runtime_api::client::http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use http::Uri;

    use super::*;
    use crate::aws::regions::Regions;

    const DOCUMENT: &str = include_str!("../../docs/credentials-and-network.md");
    const ACCOUNT: &str = "111122223333";

    /// An HTTP client that notes which call goes to which host, and answers nothing.
    #[derive(Debug, Clone, Default)]
    struct Hosts(Arc<Mutex<BTreeSet<(String, String)>>>);

    impl HttpConnector for Hosts {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let target = request.headers().get("x-amz-target").and_then(|target| target.rsplit('.').next());
            let action = request.body().bytes().and_then(|body| std::str::from_utf8(body).ok());
            let action = action.and_then(|body| body.split('&').find_map(|pair| pair.strip_prefix("Action=")));
            let host = request.uri().parse::<Uri>().unwrap().host().unwrap().to_owned();
            let host =
                host.replace("eu-west-1", "<region>").replace("cn-north-1", "<region>").replace(ACCOUNT, "<account>");
            lock(&self.0).insert((target.or(action).unwrap_or_default().to_owned(), host));
            HttpConnectorFuture::ready(Err(ConnectorError::user("nothing answers".into())))
        }
    }

    impl HttpClient for Hosts {
        fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
            SharedHttpConnector::new(self.clone())
        }
    }

    /// The hosts that all calls go to: the calls of a stream by ARN and by name, of a table, and of roles.
    async fn called(
        region: &'static str,
        fips: bool,
        dual_stack: bool,
        account: Option<&str>,
    ) -> Vec<(String, String)> {
        let hosts = Hosts::default();
        let mut credentials =
            Credentials::builder().access_key_id("id").secret_access_key("secret").provider_name("test");
        credentials.set_account_id(account.map(Into::into));
        let session = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .use_fips(fips)
            .use_dual_stack(dual_stack)
            .credentials_provider(SharedCredentialsProvider::new(credentials.build()))
            .http_client(hosts.clone())
            .build();
        let partition = if region.starts_with("cn-") { "aws-cn" } else { "aws" };
        let arn = format!("arn:{partition}:kinesis:{region}:{ACCOUNT}:stream/orders");
        let consumer = format!("{arn}/consumer/one:1");
        let stream = Stream::new("orders", &arn);
        let shard = ShardId::from("shardId-000000000000");
        let aws = Aws::new(&session, SharedHttpClient::new(hosts.clone()));
        aws.describe_stream("orders").await.unwrap_err();
        let by_name = std::mem::take(&mut *lock(&hosts.0));
        aws.describe_stream(&arn).await.unwrap_err();
        aws.list_shards(&stream).await.unwrap_err();
        aws.register_consumer(&stream, "one").await.unwrap_err();
        aws.describe_consumer(&stream, "one").await.unwrap_err();
        aws.describe_consumer_arn(&consumer).await.unwrap_err();
        aws.deregister_consumer(&consumer).await.unwrap_err();
        aws.subscribe(&consumer, &shard, &StartPosition::Oldest).await.unwrap_err();
        aws.behind(&stream, &shard, &StartPosition::Oldest).await.unwrap_err();
        let table = aws_sdk_dynamodb::Client::new(&session);
        table.describe_table().table_name("leases").send().await.unwrap_err();
        let sts = aws_sdk_sts::Client::new(&session);
        sts.assume_role().role_arn("role").role_session_name("me").send().await.unwrap_err();
        sts.assume_role_with_web_identity()
            .role_arn("role")
            .role_session_name("me")
            .web_identity_token("token")
            .send()
            .await
            .unwrap_err();
        let rest = std::mem::take(&mut *lock(&hosts.0));
        by_name.into_iter().chain(rest).collect()
    }

    #[tokio::test]
    async fn hosts_that_are_called_are_documented() {
        let section = DOCUMENT.split("<!-- hosts:").nth(1).unwrap().split("<!-- end of hosts -->").next().unwrap();
        for account in [None, Some(ACCOUNT)] {
            let plain = called("eu-west-1", false, false, account).await;
            assert_eq!(plain.len(), 11, "{plain:?}");
            for (operation, host) in &plain {
                let of_table = operation == "DescribeTable";
                let said = section.lines().any(|line| {
                    line.ends_with(&format!("| `{host}` |"))
                        && (of_table || host.contains(".control-kinesis") || line.contains(&format!("`{operation}`")))
                });
                assert!(said, "{operation} at {host} is not documented");
            }
            let (fips, dual) =
                (called("eu-west-1", true, false, account).await, called("eu-west-1", false, true, account).await);
            let both = called("eu-west-1", true, true, account).await;
            for (((_, plain), (_, fips)), ((_, dual), (_, both))) in plain.iter().zip(&fips).zip(dual.iter().zip(&both))
            {
                let row = format!("| `{plain}` | `{fips}` | `{dual}` | `{both}` |");
                assert!(section.contains(&row), "{row}");
            }
            for (china, other) in [
                (called("cn-north-1", false, false, account).await, plain),
                (called("cn-north-1", false, true, account).await, dual),
            ] {
                for ((operation, china), (_, other)) in china.iter().zip(&other) {
                    let expected = other.replace("api.aws", "api.amazonwebservices.com").replace(".com", ".com.cn");
                    assert_eq!(*china, expected, "{operation}");
                }
            }
        }
    }

    #[tokio::test]
    async fn stream_is_called_in_the_region_of_its_arn() {
        let hosts = Hosts::default();
        let session = |region: &'static str| {
            SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new(region))
                .credentials_provider(SharedCredentialsProvider::new(Credentials::for_tests()))
                .http_client(hosts.clone())
                .build()
        };
        let aws =
            |region| -> Arc<dyn Service> { Arc::new(Aws::new(&session(region), SharedHttpClient::new(hosts.clone()))) };
        let others = [("us-east-2".to_owned(), aws("us-east-2"))].into();
        let regions = Regions::new(aws("eu-west-1"), others);
        let called = || std::mem::take(&mut *lock(&hosts.0)).into_iter().map(|(_, host)| host).collect::<BTreeSet<_>>();
        for (region, part) in [("us-east-2", "us-east-2"), ("eu-west-1", "<region>")] {
            let arn = format!("arn:aws:kinesis:{region}:{ACCOUNT}:stream/orders");
            let (stream, shard) = (Stream::new("orders", &arn), ShardId::from("s"));
            regions.describe_stream(&arn).await.unwrap_err();
            regions.list_shards(&stream).await.unwrap_err();
            regions.register_consumer(&stream, "one").await.unwrap_err();
            let consumer = format!("{arn}/consumer/one:1");
            regions.subscribe(&consumer, &shard, &StartPosition::Oldest).await.unwrap_err();
            regions.deregister_consumer(&consumer).await.unwrap_err();
            regions.shard_iterator(&stream, &shard, &StartPosition::Oldest).await.unwrap_err();
            regions.get_records(&stream, "i", 1, Encoding::Cbor).await.unwrap_err();
            let hosts = called();
            assert!(!hosts.is_empty() && hosts.iter().all(|host| host.contains(part)), "{region}: {hosts:?}");
        }
        regions.describe_stream("orders").await.unwrap_err();
        assert!(called().iter().all(|host| host.contains("<region>")));
    }

    #[tokio::test]
    async fn unavailable_credentials_are_a_local_fault_with_the_reason() {
        #[derive(Debug)]
        struct Fails;
        impl ProvideCredentials for Fails {
            fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
            where
                Self: 'a,
            {
                future::ProvideCredentials::ready(Err(CredentialsError::provider_error("STS is throttling")))
            }
        }
        let session = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(Fails))
            .http_client(Hosts::default())
            .build();
        let aws = Aws::new(&session, SharedHttpClient::new(Hosts::default()));
        let fault = aws.describe_stream("orders").await.unwrap_err();
        assert_eq!(fault.origin, Origin::Local, "{fault}");
        assert!(fault.to_string().contains("STS is throttling"), "{fault}");
    }
}
