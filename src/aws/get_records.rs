//! How is GetRecords called without the SDK's work for each call?
//!
//! A thousand idle shards are a thousand calls a second, and the SDK assembles each of them anew: configuration,
//! endpoint, interceptors, retries. So it makes one call a minute for each stream. The calls in between are copies of
//! its request with another body, signed by the SDK's signer with the credentials and the time that the SDK used. After
//! any failure the next call is the SDK's again: what has changed (credentials, a clock, an endpoint) is its to find
//! out.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::auth::AuthSchemeId;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::identity::{Identity, ResolveCachedIdentity};
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::GetIdentityResolver;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::HeaderValue;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::json;
use tokio::time::Instant;

use super::{Encoding, cbor};
use crate::sync::{Mutex, lock};

/// How long the SDK's request is copied.
const COPIED_FOR: Duration = Duration::from_mins(1);
/// Credentials that expire within this time are the SDK's to renew; no copy outlives them.
const EXPIRES_SOON: Duration = Duration::from_mins(2);
/// The signature that is copied.
const SIGV4: AuthSchemeId = AuthSchemeId::new("sigv4");
const ALGORITHM: &str = "AWS4-HMAC-SHA256 ";
/// How the time of a signature is written.
const SIGNED_AT: &str = "%Y%m%dT%H%M%SZ";
/// The headers that sign or number one request, and one that repeats the user agent.
const NOT_COPIED: [&str; 6] = [
    "authorization",
    "x-amz-date",
    "x-amz-security-token",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "x-amz-user-agent",
];

/// A call of GetRecords.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) stream_arn: &'a str,
    pub(super) iterator: &'a str,
    pub(super) limit: u32,
    pub(super) encoding: Encoding,
}

impl Call<'_> {
    /// Writes the body of the request.
    pub(super) fn body(&self) -> Body {
        let Self { stream_arn, iterator, limit, encoding } = *self;
        match encoding {
            Encoding::Json => {
                let body = json!({ "StreamARN": stream_arn, "ShardIterator": iterator, "Limit": limit });
                Body { bytes: body.to_string().into(), content_type: "application/x-amz-json-1.1" }
            }
            Encoding::Cbor => {
                Body { bytes: cbor::call(stream_arn, iterator, limit).into(), content_type: cbor::CONTENT_TYPE }
            }
        }
    }
}

/// The body of a call. As an interceptor it replaces the SDK's body, which is always JSON, before the request is signed.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Bytes,
    content_type: &'static str,
}

impl Body {
    fn put_into(&self, request: &mut HttpRequest) {
        request.headers_mut().insert("content-type", self.content_type);
        request.headers_mut().insert("content-length", self.bytes.len().to_string());
        *request.body_mut() = SdkBody::from(self.bytes.clone());
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Body {
    fn name(&self) -> &'static str {
        "Body"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.put_into(context.request_mut());
        Ok(())
    }
}

/// The requests that can be copied, by the ARN of their stream.
#[derive(Debug)]
pub(super) struct Copies {
    http: SharedHttpClient,
    time: SharedTimeSource,
    originals: Mutex<HashMap<String, Arc<Original>>>,
}

impl Copies {
    /// Creates an empty set. The copies are sent by `http`, and signed with times of `time`.
    pub(super) fn new(http: SharedHttpClient, time: SharedTimeSource) -> Self {
        Self { http, time, originals: Mutex::default() }
    }

    /// Returns the signed copy for a call, unless the SDK has to make it.
    pub(super) fn of(&self, call: Call<'_>) -> Option<SignedCopy> {
        let original = lock(&self.originals).get(call.stream_arn).map(Arc::clone)?;
        if Instant::now() >= original.until {
            return None;
        }
        let request = original.copy(call, self.time.now())?;
        Some(SignedCopy { request, original })
    }

    /// Forgets the request that a failed copy was made of.
    pub(super) fn failed(&self, stream_arn: &str, original: &Arc<Original>) {
        let mut originals = lock(&self.originals);
        if originals.get(stream_arn).is_some_and(|current| Arc::ptr_eq(current, original)) {
            originals.remove(stream_arn);
        }
    }

    /// Keeps a request of the SDK that the service has answered.
    pub(super) async fn keep(&self, stream_arn: &str, sent: Sent) {
        let Some((request, components)) = lock(&sent.0).take() else { return };
        if let Some(original) = Original::new(request, &components, &self.http, self.time.now()).await {
            lock(&self.originals).insert(stream_arn.to_owned(), Arc::new(original));
        }
    }
}

/// A signed copy of the SDK's request.
#[derive(Debug)]
pub(super) struct SignedCopy {
    request: HttpRequest,
    pub(super) original: Arc<Original>,
}

impl SignedCopy {
    /// Sends the request. The call is not timed.
    pub(super) async fn send(self) -> Result<HttpResponse, ConnectorError> {
        self.original.connector.call(self.request).await
    }
}

/// A request of the SDK that can be copied.
#[derive(Debug)]
pub(super) struct Original {
    /// The request without its body and what signs it.
    request: HttpRequest,
    identity: Identity,
    scope: Scope,
    /// How many seconds the service is ahead of the clock here.
    skew: i64,
    connector: SharedHttpConnector,
    until: Instant,
}

impl Original {
    /// Returns `None` if the request is not signed in the way that can be copied.
    async fn new(
        mut request: HttpRequest,
        components: &RuntimeComponents,
        http: &SharedHttpClient,
        now: SystemTime,
    ) -> Option<Self> {
        let scope = Scope::of(request.headers().get("authorization")?)?;
        let skew = ahead(request.headers().get("x-amz-date")?, now)?;
        // The SDK has just used these credentials, so they come from its cache.
        let resolver = components.identity_resolver(SIGV4)?;
        let config = ConfigBag::base();
        let identity = components.identity_cache().resolve_cached_identity(resolver, components, &config).await.ok()?;
        for header in NOT_COPIED {
            request.headers_mut().remove(header);
        }
        let connector = http.http_connector(&HttpConnectorSettings::default(), components);
        Some(Self { request, identity, scope, skew, connector, until: Instant::now() + COPIED_FOR })
    }

    /// Returns the signed request for a call, or `None` if that is not possible.
    fn copy(&self, call: Call<'_>, now: SystemTime) -> Option<HttpRequest> {
        if self.identity.expiration().is_some_and(|end| end < now + EXPIRES_SOON) {
            return None;
        }
        let mut request = self.request.try_clone()?;
        call.body().put_into(&mut request);
        self.sign(&mut request, now)?;
        Some(request)
    }

    fn sign(&self, request: &mut HttpRequest, now: SystemTime) -> Option<()> {
        let skew = Duration::from_secs(self.skew.unsigned_abs());
        let time = if self.skew < 0 { now.checked_sub(skew)? } else { now.checked_add(skew)? };
        let params = SigningParams::builder()
            .identity(&self.identity)
            .region(&self.scope.region)
            .name(&self.scope.service)
            .time(time)
            .settings(SigningSettings::default())
            .build()
            .ok()?
            .into();
        let body = SignableBody::Bytes(request.body().bytes()?);
        let signable = SignableRequest::new(request.method(), request.uri(), request.headers().iter(), body).ok()?;
        let (headers, _) = sign(signable, &params).ok()?.into_parts().0.into_parts();
        for header in headers {
            let mut value = HeaderValue::from_str(header.value()).ok()?;
            value.set_sensitive(header.sensitive());
            request.headers_mut().try_insert(header.name(), value).ok()?;
        }
        Some(())
    }
}

/// The region and the service that a signature is for.
#[derive(Debug)]
struct Scope {
    region: String,
    service: String,
}

impl Scope {
    /// Reads the scope from the header of a signature.
    fn of(authorization: &str) -> Option<Self> {
        let credential = authorization.strip_prefix(ALGORITHM)?.strip_prefix("Credential=")?.split(',').next()?;
        let mut parts = credential.rsplit('/');
        let _ = parts.next().filter(|end| *end == "aws4_request")?;
        let (service, region) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { region, service })
    }
}

/// Returns how many seconds the time of a signature is ahead of `now`.
fn ahead(signed_at: &str, now: SystemTime) -> Option<i64> {
    let signed_at = DateTime::strptime(SIGNED_AT, signed_at).ok()?.to_zoned(TimeZone::UTC).ok()?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    signed_at.timestamp().as_second().checked_sub_unsigned(now)
}

/// The request that the SDK has sent, once it has.
#[derive(Debug, Default)]
pub(super) struct Sent(Arc<Mutex<Option<SentRequest>>>);

type SentRequest = (HttpRequest, RuntimeComponents);

impl Sent {
    /// Returns the interceptor that fills this.
    pub(super) fn noting(&self) -> NoteSent {
        NoteSent(Arc::downgrade(&self.0))
    }
}

/// An interceptor that remembers the request that the SDK sends.
///
/// It is one of the components that are remembered, so it must not own them: they would own themselves, and nothing would
/// free those of a call that fails.
#[derive(Debug)]
pub(super) struct NoteSent(Weak<Mutex<Option<SentRequest>>>);

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for NoteSent {
    fn name(&self) -> &'static str {
        "NoteSent"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(sent) = self.0.upgrade() {
            *lock(&sent) = context.request().try_clone().map(|request| (request, components.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, Ordering};

    use aws_config::{BehaviorVersion, Region, SdkConfig};
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
    use aws_smithy_async::time::TimeSource;
    use aws_smithy_runtime_api::client::http::HttpConnectorFuture;
    use http::Response;
    use tokio::time::advance;

    use super::*;
    use crate::aws::sdk::Aws;
    use crate::aws::{RecordsAnswer, Service};
    use crate::model::Stream;
    use crate::retry::Fault;

    const ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/orders";

    /// An answer: its status, headers and body.
    type Answer = (u16, Vec<(&'static str, String)>, &'static str);

    /// A service that notes the requests, and a clock and credentials that can be changed.
    #[derive(Debug, Clone)]
    struct World {
        requests: Arc<Mutex<Vec<HttpRequest>>>,
        /// What is answered in place of an empty page.
        answers: Arc<Mutex<VecDeque<Answer>>>,
        now: Arc<Mutex<SystemTime>>,
        credentials: Arc<Mutex<Credentials>>,
        /// Whether calls get no answer.
        hangs: Arc<AtomicBool>,
    }

    impl HttpConnector for World {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            lock(&self.requests).push(request);
            if self.hangs.load(Ordering::Relaxed) {
                return HttpConnectorFuture::new(std::future::pending());
            }
            let empty = || (200, Vec::new(), r#"{"Records":[],"MillisBehindLatest":0}"#);
            let (status, headers, body) = lock(&self.answers).pop_front().unwrap_or_else(empty);
            if status == 0 {
                return HttpConnectorFuture::ready(Err(ConnectorError::io(body.into())));
            }
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            let answer = HttpResponse::try_from(answer.body(SdkBody::from(body)).unwrap()).unwrap();
            HttpConnectorFuture::ready(Ok(answer))
        }
    }

    impl HttpClient for World {
        fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
            SharedHttpConnector::new(self.clone())
        }
    }

    impl TimeSource for World {
        fn now(&self) -> SystemTime {
            *lock(&self.now)
        }
    }

    impl ProvideCredentials for World {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(Ok(lock(&self.credentials).clone()))
        }
    }

    impl World {
        fn new() -> Self {
            Self {
                requests: Arc::default(),
                answers: Arc::default(),
                now: Arc::new(Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000))),
                credentials: Arc::new(Mutex::new(credentials("first", None))),
                hangs: Arc::default(),
            }
        }

        fn aws(&self) -> Aws {
            let session = SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-west-1"))
                .credentials_provider(SharedCredentialsProvider::new(self.clone()))
                .time_source(self.clone())
                .http_client(self.clone())
                .build();
            Aws::new(&session, SharedHttpClient::new(self.clone()))
        }

        /// Makes a call, and returns whether the SDK made it, and the id of the key that signed it.
        async fn call(&self, aws: &Aws, encoding: Encoding) -> (bool, String) {
            get(aws, encoding).await.unwrap();
            let request = lock(&self.requests).pop().unwrap();
            let key = request.headers().get("authorization").unwrap().split(['=', '/']).nth(1).unwrap().to_owned();
            (request.headers().contains_key("amz-sdk-invocation-id"), key)
        }
    }

    fn credentials(id: &str, expiry: Option<SystemTime>) -> Credentials {
        Credentials::new(id, "secret", Some("token".into()), expiry, "test")
    }

    async fn get(aws: &Aws, encoding: Encoding) -> Result<RecordsAnswer, Fault> {
        aws.get_records(&Stream::new("orders", ARN), "iterator", 100, encoding).await
    }

    #[tokio::test]
    async fn copy_is_signed_as_the_sdk_signs() {
        for skew in [0, 3600, -3600] {
            for token in [None, Some("token".to_owned())] {
                let world = World::new();
                *lock(&world.credentials) = Credentials::new("id", "secret", token, None, "test");
                let aws = world.aws();
                // The first answer says how far the clock is behind the service's.
                let date = jiff::Timestamp::try_from(world.now()).unwrap() + jiff::SignedDuration::from_secs(skew);
                let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                lock(&world.answers).push_back((500, vec![("date", date)], ""));
                get(&aws, Encoding::Json).await.unwrap_err();
                get(&aws, Encoding::Json).await.unwrap();
                let sent = lock(&world.requests).pop().unwrap();
                let original = Arc::clone(lock(&aws.copies().originals).get(ARN).unwrap());
                assert_eq!(original.skew, skew);

                let mut again = sent.try_clone().unwrap();
                // The last two are added to a request that is signed already.
                let added = ["amz-sdk-invocation-id", "amz-sdk-request"];
                for header in ["authorization", "x-amz-date", "x-amz-security-token"].into_iter().chain(added) {
                    again.headers_mut().remove(header);
                }
                original.sign(&mut again, world.now()).unwrap();
                let headers = |request: &HttpRequest| {
                    let headers = request.headers().iter().filter(|(name, _)| !added.contains(name));
                    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
                    headers.collect::<std::collections::BTreeMap<_, _>>()
                };
                assert_eq!(headers(&again), headers(&sent));
            }
        }
    }

    #[tokio::test]
    async fn copies_differ_from_the_original_in_what_is_asked_for_only() {
        for encoding in [Encoding::Json, Encoding::Cbor] {
            let world = World::new();
            let aws = world.aws();
            assert!(world.call(&aws, Encoding::Json).await.0);
            let call = Call { stream_arn: ARN, iterator: "\"another\\", limit: 7, encoding };
            aws.get_records(&Stream::new("orders", ARN), call.iterator, call.limit, encoding).await.unwrap();
            let request = lock(&world.requests).pop().unwrap();
            let headers = request.headers();
            let body = request.body().bytes().unwrap();
            assert!(!headers.contains_key("amz-sdk-invocation-id"));
            assert_eq!(headers.get("x-amz-target"), Some("Kinesis_20131202.GetRecords"));
            assert_eq!(headers.get("content-length"), Some(&*body.len().to_string()));
            assert!(headers.get("user-agent").unwrap().contains("aws-sdk-rust"));
            assert_eq!(request.uri(), "https://111122223333.data-kinesis.eu-west-1.amazonaws.com/");
            if encoding == Encoding::Json {
                assert_eq!(headers.get("content-type"), Some("application/x-amz-json-1.1"));
                let expected = json!({ "StreamARN": ARN, "ShardIterator": call.iterator, "Limit": 7 });
                assert_eq!(serde_json::from_slice::<serde_json::Value>(body).unwrap(), expected);
            } else {
                assert_eq!(headers.get("content-type"), Some(cbor::CONTENT_TYPE));
                assert_eq!(body, cbor::call(ARN, call.iterator, 7));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sdk_makes_one_call_a_minute_and_those_after_failures() {
        let world = World::new();
        let aws = world.aws();
        let mut by_sdk = Vec::new();
        for _ in 0..180 {
            by_sdk.push(world.call(&aws, Encoding::Cbor).await.0);
            advance(Duration::from_secs(1)).await;
        }
        let at: Vec<usize> = (0..180).filter(|second| by_sdk[*second]).collect();
        assert_eq!(at, [0, 60, 120]);
        for failure in [(400, Vec::new(), r#"{"__type":"InvalidSignatureException"}"#), (0, Vec::new(), "reset")] {
            world.call(&aws, Encoding::Cbor).await;
            assert!(!world.call(&aws, Encoding::Cbor).await.0);
            lock(&world.answers).push_back(failure);
            get(&aws, Encoding::Cbor).await.unwrap_err();
            assert!(world.call(&aws, Encoding::Cbor).await.0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn renewed_credentials_sign_the_copies() {
        let world = World::new();
        let end = world.now() + Duration::from_secs(200);
        *lock(&world.credentials) = credentials("first", Some(end));
        let aws = world.aws();
        let mut keys = Vec::new();
        for _ in 0..300 {
            keys.push(world.call(&aws, Encoding::Cbor).await);
            // The SDK has just been asked; these are the ones that it gets next.
            *lock(&world.credentials) = credentials("second", None);
            advance(Duration::from_secs(1)).await;
            *lock(&world.now) += Duration::from_secs(1);
        }
        let copies = |key: &str| keys.iter().filter(|(by_sdk, by)| !by_sdk && by == key).count();
        // 80 s of 200 without the SDK's own call, then 100 with the new ones without those once a minute.
        assert!((70..80).contains(&copies("first")), "{}", copies("first"));
        assert!(copies("second") > 90, "{}", copies("second"));
        let first_of_second = keys.iter().position(|(_, key)| key == "second").unwrap();
        assert!(first_of_second < 200, "{first_of_second}");
        assert!(keys[first_of_second..].iter().all(|(_, key)| key == "second"));
    }

    /// Throttled shards fail five times a second for as long as others read them.
    #[tokio::test(start_paused = true)]
    async fn nothing_remains_of_a_call_that_fails_or_is_dropped() {
        let world = World::new();
        let aws = world.aws();
        assert!(world.call(&aws, Encoding::Cbor).await.0);
        assert!(!world.call(&aws, Encoding::Cbor).await.0);
        lock(&world.answers).push_back((400, Vec::new(), r#"{"__type":"ProvisionedThroughputExceededException"}"#));
        get(&aws, Encoding::Cbor).await.unwrap_err();
        // The copy has failed, and this one is the SDK's.
        lock(&world.answers).push_back((0, Vec::new(), "reset"));
        get(&aws, Encoding::Cbor).await.unwrap_err();
        world.hangs.store(true, Ordering::Relaxed);
        tokio::time::timeout(Duration::from_secs(1), get(&aws, Encoding::Cbor)).await.unwrap_err();
        drop(aws);
        assert_eq!(Arc::strong_count(&world.requests), 1, "the clients of the calls are still there");
    }

    #[tokio::test]
    async fn copy_and_sdk_fail_with_the_same_fault() {
        let kind = |kind: &str| vec![("x-amzn-errortype", kind.to_owned())];
        let of_cbor = || vec![("content-type", cbor::CONTENT_TYPE.to_owned())];
        for answer in [
            (400, Vec::new(), r#"{"__type":"ExpiredIteratorException","message":"too old"}"#),
            (400, Vec::new(), r#"{"__type":"com.amazonaws.kinesis#ExpiredIteratorException","Message":"too old"}"#),
            (400, kind("ExpiredIteratorException:http://internal/"), r#"{"__type":"Other","message":"too old"}"#),
            (400, kind("ProvisionedThroughputExceededException"), "{}"),
            (400, Vec::new(), r#"{"__type":"NotYetKnownException","message":"new"}"#),
            (415, Vec::new(), r#"{"__type":"ExpiredIteratorException"}"#),
            (500, of_cbor(), "\u{0}"),
            (0, Vec::new(), "connection reset"),
        ] {
            let world = World::new();
            let aws = world.aws();
            lock(&world.answers).push_back(answer.clone());
            let of_sdk = get(&aws, Encoding::Cbor).await.unwrap_err();
            assert!(world.call(&aws, Encoding::Cbor).await.0);
            lock(&world.answers).push_back(answer.clone());
            let of_copy = get(&aws, Encoding::Cbor).await.unwrap_err();
            assert!(!lock(&world.requests).pop().unwrap().headers().contains_key("amz-sdk-invocation-id"));
            assert_eq!(of_copy, of_sdk, "{answer:?}");
        }
    }
}
