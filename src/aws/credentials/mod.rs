//! Which region, credentials and connections is AWS reached with?

mod given;
mod settings;
mod sources;

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::identity::IdentityCache;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, ConfigLoader};
use aws_credential_types::Credentials as AwsCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::SdkConfig;
use aws_types::region::Region;
use http::Uri;
use pipeline_plugin_api::causes;
use tokio::time::{Instant, timeout};

pub(crate) use given::given;
pub(crate) use settings::{Called, Settings};
use sources::{Role, Sources};

use crate::config::{Config, Credentials, StreamRef, is_region, odd_key};
use crate::supervise;
use crate::sync::{Mutex, lock};

/// How long getting credentials may take, including all retries of their provider.
const CREDENTIALS_WITHIN: Duration = Duration::from_secs(30);
/// How long a provider that failed is not asked again at first; the time doubles with each further failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest such time, and so the longest until recovered credentials are noticed.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// The reason why AWS can't be reached at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// No region is configured or set.
    #[error("no AWS region is configured: set `region`, or the environment variable AWS_REGION")]
    NoRegion,
    /// Two ARNs contradict each other.
    #[error(
        "the ARNs of streams name different regions ({0} and {1}): set `region` to that of the streams that are \
         configured by name"
    )]
    TwoRegions(String, String),
    /// The region is not a valid name.
    #[error("region {0:?}: expected letters, digits and `-`, as in eu-west-1")]
    BadRegion(String),
    /// The configured credentials are not valid.
    #[error("the AWS credentials can't be used: {0}")]
    BadCredentials(String),
    /// The configured credentials can't be obtained at the moment.
    #[error("the AWS credentials can't be had yet: {0}")]
    CredentialsUnavailable(String),
    /// A setting of the environment or of the shared AWS files can't be used.
    #[error("{setting} {what}")]
    BadSetting {
        /// The variable, or the key and its profile.
        setting: String,
        /// The error, and the advice for the user.
        what: String,
    },
    /// A proxy of the environment can't be used. Its address may contain a password, so it is not shown.
    #[error("{variable} {what}; correct it, or unset it")]
    BadProxy {
        /// The variable of the environment.
        variable: String,
        /// The error.
        what: String,
    },
    /// A file of certificates can't be used.
    #[error("{variable}: {path}: {cause}")]
    BadCertificates {
        /// The variable that names the file.
        variable: String,
        /// The file.
        path: String,
        /// The error.
        cause: String,
    },
    /// No credentials were found.
    #[error(
        "no AWS credentials: set them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), in a profile, or \
         in `credentials`. What was tried: {0}"
    )]
    NoCredentials(String),
}

/// The dependencies of a session besides its configuration.
#[derive(Debug, Clone)]
pub(crate) struct Outside {
    pub(crate) http: SharedHttpClient,
    pub(crate) time: SharedTimeSource,
}

impl Outside {
    /// Uses the system's clock.
    pub(crate) fn new(http: SharedHttpClient) -> Self {
        Self { http, time: SharedTimeSource::new(SystemTimeSource::new()) }
    }
}

/// The clock of a session.
pub(crate) fn clock(session: &SdkConfig) -> SharedTimeSource {
    session.time_source().unwrap_or_else(|| SharedTimeSource::new(SystemTimeSource::new()))
}

/// Creates the session for the Kinesis API, with credentials that were available at that time.
pub(crate) async fn kinesis(config: &Config, settings: &Settings, outside: &Outside) -> Result<SdkConfig, AccessError> {
    let endpoint = config.endpoint.as_deref();
    session(region(config)?, endpoint, &config.credentials, settings, Called::Kinesis, outside).await
}

/// Creates the session for the lease table: that of the streams, including its endpoint, unless the table has its
/// own. `settings` are those of the streams' profile, `own` those of the table's.
pub(crate) async fn dynamodb(
    config: &Config,
    kinesis: &SdkConfig,
    settings: &Settings,
    own: &Settings,
    outside: &Outside,
) -> Result<SdkConfig, AccessError> {
    let table = &config.dynamodb;
    if table.table.is_empty() {
        return Ok(kinesis.clone());
    }
    if !table.has_own_session() {
        settings.check_endpoint(kinesis, Called::DynamoDb)?;
        return Ok(kinesis.clone());
    }
    let region = table.region.as_deref().map(ToOwned::to_owned).or_else(|| kinesis.region().map(ToString::to_string));
    let endpoint = table.endpoint.as_deref();
    if table.credentials == Credentials::default() {
        return beside(kinesis, region, endpoint, settings, Called::DynamoDb, outside).await;
    }
    session(region, endpoint, &table.credentials, own, Called::DynamoDb, outside).await
}

/// Creates a session with the credentials of another one, which these settings belong to.
pub(crate) async fn beside(
    other: &SdkConfig,
    region: Option<String>,
    endpoint: Option<&str>,
    settings: &Settings,
    called: Called,
    outside: &Outside,
) -> Result<SdkConfig, AccessError> {
    let mut session = loader(region, endpoint, settings, outside)?;
    if let Some(credentials) = other.credentials_provider() {
        session = session.credentials_provider(credentials);
    }
    let session = with_region(session.load().await)?;
    settings.check_endpoint(&session, called)?;
    Ok(session)
}

/// The base of every session: the configuration, and the environment and the shared files where it says nothing.
fn loader(
    region: Option<String>,
    endpoint: Option<&str>,
    settings: &Settings,
    outside: &Outside,
) -> Result<ConfigLoader, AccessError> {
    check_proxies(|name| std::env::var(name).ok())?;
    let mut loader = ConfigLoader::default()
        .behavior_version(BehaviorVersion::latest())
        .http_client(outside.http.clone())
        .time_source(outside.time.clone())
        .profile_name(settings.profile())
        .use_fips(settings.fips())
        .use_dual_stack(settings.dual_stack())
        .retry_config(settings.retries());
    loader = match region {
        Some(region) => loader.region(Region::new(region)),
        None => loader.region(
            RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::builder().profile_name(settings.profile()).build())
                .or_else(
                    ImdsRegionProvider::builder()
                        .imds_client(settings.metadata(&surroundings(settings, outside)))
                        .build(),
                ),
        ),
    };
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    Ok(loader)
}

/// The parts that the SDK's own sources of credentials are created with.
fn surroundings(settings: &Settings, outside: &Outside) -> ProviderConfig {
    ProviderConfig::without_region()
        .with_use_fips(Some(settings.fips()))
        .with_use_dual_stack(Some(settings.dual_stack()))
        .with_retry_config(settings.retries())
        .with_http_client(outside.http.clone())
        .with_time_source(outside.time.clone())
        .with_sleep_impl(TokioSleep::new())
}

fn with_region(session: SdkConfig) -> Result<SdkConfig, AccessError> {
    check_region(session.region().ok_or(AccessError::NoRegion)?.as_ref())?;
    Ok(session)
}

/// Checks a region, because it becomes part of host names.
pub(crate) fn check_region(region: &str) -> Result<(), AccessError> {
    if !is_region(region) {
        return Err(AccessError::BadRegion(region.escape_debug().take(64).collect()));
    }
    Ok(())
}

/// Creates a session in this region, or in the environment's, to call this service. `endpoint` serves all services,
/// including that of roles. `settings` are those of the profile that the credentials name.
pub(crate) async fn session(
    region: Option<String>,
    endpoint: Option<&str>,
    credentials: &Credentials,
    settings: &Settings,
    called: Called,
    outside: &Outside,
) -> Result<SdkConfig, AccessError> {
    let mut loader = loader(region, endpoint, settings, outside)?;
    if let Some(window) = credentials.expiry_window.as_ref().filter(|window| !window.is_zero()) {
        loader = loader.identity_cache(IdentityCache::lazy().buffer_time((*window).into()).build());
    }
    let mut session = with_region(loader.load().await)?;
    settings.check_endpoint(&session, called)?;
    let surroundings = surroundings(settings, outside).with_region(session.region().cloned());
    let sources = Sources { settings, session: &session, surroundings: &surroundings };
    let mut provider = if credentials.from_ec2_role {
        settings.check_metadata()?;
        SharedCredentialsProvider::new(sources.instance())
    } else if credentials.profile.is_some() {
        sources.of_profile().await?
    } else if let Some(id) = credentials.id.as_deref() {
        let token = Some(credentials.token.expose().to_owned()).filter(|token| !token.is_empty());
        let secret = credentials.secret.expose();
        SharedCredentialsProvider::new(AwsCredentials::new(id, secret, token, None, "the configuration"))
    } else {
        sources.of_environment().await?
    };
    if let Some(arn) = credentials.role.as_deref().filter(|_| !credentials.from_ec2_role) {
        let external_id = credentials.role_external_id.as_deref().map(ToOwned::to_owned);
        let role = Role { arn: arn.to_owned(), external_id, ..Role::default() };
        provider = sources.assume(&role, provider).await?;
    }
    session = with_provider(&session, Checked::new(provider));
    let provider =
        session.credentials_provider().ok_or_else(|| AccessError::NoCredentials("no provider is set".into()))?;
    // The credentials are requested here once, so that missing ones are reported as such and not by the first call
    // that needs them.
    match timeout(CREDENTIALS_WITHIN, provider.provide_credentials()).await {
        Ok(Ok(_)) => Ok(session),
        Ok(Err(error)) => Err(judge(&error, credentials.from_ec2_role)),
        Err(_) => {
            let cause = format!("they did not come within {} s", CREDENTIALS_WITHIN.as_secs());
            Err(AccessError::CredentialsUnavailable(cause))
        }
    }
}

fn with_provider(session: &SdkConfig, provider: Checked) -> SdkConfig {
    session.clone().into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
}

/// Decides whether waiting may help. Where credentials are configured, their failure may pass: a role that can't be
/// assumed yet, a token file that does not exist yet, an agent or a metadata service that starts later.
fn judge(error: &CredentialsError, from_machine: bool) -> AccessError {
    let cause = causes(error);
    match error {
        CredentialsError::InvalidConfiguration(_) => AccessError::BadCredentials(cause),
        CredentialsError::CredentialsNotLoaded(_) if !from_machine => AccessError::NoCredentials(cause),
        _ => AccessError::CredentialsUnavailable(cause),
    }
}

/// A provider of credentials that are valid for signing. Characters that can't be part of a header would make the
/// signer panic, and providers may pass on such characters.
///
/// Every provider that a request is signed with is wrapped in this, that of each role's source included: a session gets
/// its provider from [`with_provider`] only. What it gives is checked each time, because files and the output of
/// programs change while the input runs.
///
/// Every call asks for credentials, also those calls that are made all the time. A provider that failed is not asked
/// again for a moment, and all callers get its error meanwhile.
#[derive(Debug)]
struct Checked {
    provider: SharedCredentialsProvider,
    /// The last failure, until the provider gives credentials again.
    failed: Mutex<Option<Failed>>,
}

#[derive(Debug)]
struct Failed {
    said: String,
    backoff: Duration,
    until: Instant,
}

impl Checked {
    fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, failed: Mutex::default() }
    }

    /// The last error, as long as the provider is not asked again.
    fn backs_off(&self) -> Option<CredentialsError> {
        let failed = lock(&self.failed);
        let failed = failed.as_ref().filter(|failed| Instant::now() < failed.until)?;
        Some(CredentialsError::provider_error(failed.said.clone()))
    }

    fn remember(&self, outcome: &Result<AwsCredentials, CredentialsError>) {
        let mut failed = lock(&self.failed);
        *failed = outcome.as_ref().err().map(|error| {
            let backoff = failed.as_ref().map_or(FIRST_BACKOFF, |failed| LONGEST_BACKOFF.min(failed.backoff * 2));
            Failed { said: causes(error), backoff, until: Instant::now() + backoff }
        });
    }

    async fn ask(&self) -> Result<AwsCredentials, CredentialsError> {
        let provided = supervise::caught(self.provider.provide_credentials()).await;
        let provided = provided.unwrap_or_else(|cause| {
            Err(CredentialsError::unhandled(format!("the provider of credentials failed: {cause}")))
        })?;
        check_credentials(&provided)?;
        Ok(provided)
    }
}

impl ProvideCredentials for Checked {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            if let Some(error) = self.backs_off() {
                return Err(error);
            }
            let outcome = self.ask().await;
            self.remember(&outcome);
            outcome
        })
    }
}

/// Names the invalid part of credentials, and never shows it.
fn check_credentials(credentials: &AwsCredentials) -> Result<(), CredentialsError> {
    let parts = [
        ("access key id", Some(credentials.access_key_id())),
        ("secret access key", Some(credentials.secret_access_key())),
        ("session token", credentials.session_token()),
    ];
    for (name, value) in parts {
        if let Some(what) = value.and_then(odd_key) {
            return Err(CredentialsError::invalid_configuration(format!("the {name} {what}")));
        }
    }
    Ok(())
}

/// Refuses a proxy that can't be parsed, because it must not be bypassed.
fn check_proxies(variable: impl Fn(&str) -> Option<String>) -> Result<(), AccessError> {
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        let Some(value) = variable(name).filter(|value| !value.is_empty()) else { continue };
        let bad = |what: &str| AccessError::BadProxy { variable: name.to_owned(), what: what.to_owned() };
        let uri: Uri = value.parse().map_err(|_| bad("is not a URL"))?;
        match uri.scheme_str() {
            None | Some("http") => {}
            Some(_) => return Err(bad("is of a kind that is not supported: a proxy is spoken to by http://")),
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(bad("names no host"));
        }
    }
    Ok(())
}

/// The region that the configuration gives, directly or in the streams' ARNs; otherwise that of the environment
/// applies.
fn region(config: &Config) -> Result<Option<String>, AccessError> {
    if let Some(region) = config.region.as_deref() {
        return Ok(Some(region.to_owned()));
    }
    let arns = regions_of_arns(config);
    let by_name = config.stream_entries().iter().any(|entry| matches!(entry.stream, StreamRef::Name(_)));
    match &arns[..] {
        // The streams that are configured by name could be in either.
        [first, second, ..] if by_name => Err(AccessError::TwoRegions(first.clone(), second.clone())),
        arns => Ok(arns.first().cloned()),
    }
}

/// The regions that the ARNs of streams name, each once, in the order of the streams.
pub(crate) fn regions_of_arns(config: &Config) -> Vec<String> {
    let mut regions: Vec<String> = Vec::new();
    for entry in config.stream_entries() {
        if let StreamRef::Arn(arn) = &entry.stream
            && arn.region != "*"
            && !regions.contains(&arn.region)
        {
            regions.push(arn.region.clone());
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn credentials_that_can_not_be_signed_with_are_named_and_not_shown() {
        let of = |id: &str, secret: &str, token: Option<&str>| {
            let token = token.map(ToOwned::to_owned);
            check_credentials(&AwsCredentials::new(id, secret, token, None, "test")).map_err(|error| causes(&error))
        };
        assert_eq!(of("AKIDEXAMPLE", "wJalr/XUtn+FEMI=", Some("token==")), Ok(()));
        for odd in ["a\nb", "a\r\n", "\na", "a b", "a\tb", "ä", "\u{0}", "\u{7f}", ""] {
            for (name, wrong) in [
                ("access key id", of(odd, "secret", None)),
                ("secret access key", of("id", odd, None)),
                ("session token", of("id", "secret", Some(odd))),
            ] {
                let wrong = wrong.expect_err(odd);
                assert!(wrong.contains(name), "{wrong}");
                assert!(odd.is_empty() || !wrong.contains(odd), "{wrong}");
            }
        }
    }

    #[tokio::test]
    async fn provider_that_panics_is_an_error() {
        #[derive(Debug)]
        struct Panics;
        impl ProvideCredentials for Panics {
            fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
            where
                Self: 'a,
            {
                future::ProvideCredentials::new(async { panic!("injected by the test") })
            }
        }
        let error = Checked::new(SharedCredentialsProvider::new(Panics)).provide_credentials().await.unwrap_err();
        assert!(causes(&error).contains("injected by the test"), "{error:?}");
        assert!(matches!(judge(&error, false), AccessError::CredentialsUnavailable(_)));
    }

    /// Gives good keys at first, and then what someone made of the file that they are read from.
    #[derive(Debug, Default)]
    struct Edited(AtomicUsize);
    impl ProvideCredentials for Edited {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let secret = if self.0.fetch_add(1, Ordering::Relaxed) == 0 { "good" } else { "edited\n" };
            future::ProvideCredentials::ready(Ok(AwsCredentials::new("AKIDEXAMPLE", secret, None, None, "test")))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_change_later_are_checked_as_the_first_ones() {
        let checked = Checked::new(SharedCredentialsProvider::new(Edited::default()));
        checked.provide_credentials().await.unwrap();
        for _ in 0..3 {
            let error = causes(&checked.provide_credentials().await.unwrap_err());
            assert!(error.contains("secret access key has a line break in it") && !error.contains("edited"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failed_provider_is_not_called_again_at_once() {
        #[derive(Debug, Default)]
        struct Counts {
            asked: AtomicUsize,
            heals: AtomicBool,
        }
        #[derive(Debug, Clone, Default)]
        struct Counted(Arc<Counts>);
        impl ProvideCredentials for Counted {
            fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
            where
                Self: 'a,
            {
                self.0.asked.fetch_add(1, Ordering::Relaxed);
                future::ProvideCredentials::ready(if self.0.heals.load(Ordering::Relaxed) {
                    Ok(AwsCredentials::new("id", "secret", None, None, "test"))
                } else {
                    Err(CredentialsError::provider_error("Throttling"))
                })
            }
        }
        let counted = Counted::default();
        let checked = Checked::new(SharedCredentialsProvider::new(counted.clone()));
        let asked = || counted.0.asked.load(Ordering::Relaxed);
        for _ in 0..600 {
            let error = checked.provide_credentials().await.unwrap_err();
            assert!(causes(&error).contains("Throttling"), "{error:?}");
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!((20..30).contains(&asked()), "asked {} times in five minutes", asked());
        counted.0.heals.store(true, Ordering::Relaxed);
        tokio::time::advance(LONGEST_BACKOFF).await;
        let before = asked();
        for _ in 0..3 {
            checked.provide_credentials().await.unwrap();
        }
        assert_eq!(asked() - before, 3, "a working provider is called for each request");
        counted.0.heals.store(false, Ordering::Relaxed);
        checked.provide_credentials().await.unwrap_err();
        counted.0.heals.store(true, Ordering::Relaxed);
        tokio::time::advance(FIRST_BACKOFF).await;
        checked.provide_credentials().await.unwrap();
    }

    #[test]
    fn missing_or_impossible_credentials_are_fatal() {
        let not_loaded = CredentialsError::not_loaded("no");
        assert!(matches!(judge(&not_loaded, false), AccessError::NoCredentials(_)));
        assert!(matches!(judge(&not_loaded, true), AccessError::CredentialsUnavailable(_)));
        let wrong = CredentialsError::invalid_configuration("no such profile");
        assert!(matches!(judge(&wrong, true), AccessError::BadCredentials(_)));
        for passing in [CredentialsError::provider_error("refused"), CredentialsError::unhandled("odd")] {
            assert!(matches!(judge(&passing, false), AccessError::CredentialsUnavailable(_)));
        }
    }

    #[test]
    fn proxies_that_can_not_be_understood_are_errors_without_their_passwords() {
        let with = |value: &str| check_proxies(|name| (name == "HTTPS_PROXY").then(|| value.to_owned()));
        for right in ["", "http://proxy:3128", "http://user:secret@proxy:3128/", "proxy:3128"] {
            assert_eq!(with(right), Ok(()), "{right}");
        }
        for wrong in [
            "http://",
            "http://user:secret@pro xy:3128",
            "socks5://user:secret@proxy",
            "https://user:secret@proxy",
            "://",
        ] {
            let error = with(wrong).expect_err(wrong).to_string();
            assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn regions_are_names() {
        let of = |region: &str| with_region(SdkConfig::builder().region(Region::new(region.to_owned())).build());
        assert!(of("eu-west-1").is_ok() && of("local").is_ok());
        for odd in ["", "eu-west-1\n", "eu west 1", "eu-west-1.example.com", "ü", "@evil/"] {
            let error = of(odd).unwrap_err();
            assert!(matches!(error, AccessError::BadRegion(_)), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
