//! With which region, credentials and connections is AWS reached?

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::identity::IdentityCache;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, ConfigLoader};
use aws_credential_types::Credentials as AwsCredentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::SdkConfig;
use aws_types::region::Region;
use pipeline_plugin_api::causes;

use crate::config::{Config, Credentials, StreamRef};

/// Why AWS can't be reached at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// No region anywhere.
    #[error("no AWS region is configured: set `region`, or the environment variable AWS_REGION")]
    NoRegion,
    /// Two ARNs contradict each other.
    #[error("the streams are in different regions ({0} and {1}): use one input for each region")]
    TwoRegions(String, String),
    /// No credentials anywhere, or none that work.
    #[error(
        "no AWS credentials: set them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), in a profile, or \
         in `credentials`. What was tried: {0}"
    )]
    NoCredentials(String),
}

/// What a session is made with beside its configuration.
#[derive(Debug, Clone)]
pub(crate) struct Outside {
    pub(crate) http: SharedHttpClient,
    pub(crate) time: SharedTimeSource,
}

impl Outside {
    /// With the system's clock.
    pub(crate) fn new(http: SharedHttpClient) -> Self {
        Self { http, time: SharedTimeSource::new(SystemTimeSource::new()) }
    }
}

/// The clock of a session.
pub(crate) fn clock(session: &SdkConfig) -> SharedTimeSource {
    session.time_source().unwrap_or_else(|| SharedTimeSource::new(SystemTimeSource::new()))
}

/// The session for the Kinesis API, with credentials that were there when it was made.
pub(crate) async fn kinesis(config: &Config, outside: &Outside) -> Result<SdkConfig, AccessError> {
    session(region(config)?, &config.credentials, outside).await
}

/// The session for the lease table: that of the streams, unless the table has one of its own.
pub(crate) async fn dynamodb(
    config: &Config,
    kinesis: &SdkConfig,
    outside: &Outside,
) -> Result<SdkConfig, AccessError> {
    let table = &config.dynamodb;
    if table.table.is_empty() || !table.has_own_session() {
        return Ok(kinesis.clone());
    }
    let region = table.region.as_deref().map(ToOwned::to_owned).or_else(|| kinesis.region().map(ToString::to_string));
    // An endpoint alone makes a session of its own too, with the credentials that there are.
    if table.credentials == Credentials::default() {
        return Ok(kinesis.clone().into_builder().region(region.map(Region::new)).build());
    }
    session(region, &table.credentials, outside).await
}

/// A session in this region, or in the environment's.
pub(crate) async fn session(
    region: Option<String>,
    credentials: &Credentials,
    outside: &Outside,
) -> Result<SdkConfig, AccessError> {
    let mut loader = ConfigLoader::default()
        .behavior_version(BehaviorVersion::latest())
        .http_client(outside.http.clone())
        .time_source(outside.time.clone());
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(profile) = credentials.profile.as_deref() {
        loader = loader.profile_name(profile);
        let chain = DefaultCredentialsChain::builder().profile_name(profile).build().await;
        loader = loader.credentials_provider(chain);
    } else if let Some(id) = credentials.id.as_deref() {
        let token = Some(credentials.token.expose().to_owned()).filter(|token| !token.is_empty());
        loader = loader.credentials_provider(AwsCredentials::new(
            id,
            credentials.secret.expose(),
            token,
            None,
            "the configuration",
        ));
    }
    if credentials.from_ec2_role {
        loader = loader.credentials_provider(ImdsCredentialsProvider::builder().build());
    }
    if let Some(window) = credentials.expiry_window.as_ref().filter(|window| !window.is_zero()) {
        loader = loader.identity_cache(IdentityCache::lazy().buffer_time((*window).into()).build());
    }
    let mut session = loader.load().await;
    if session.region().is_none() {
        return Err(AccessError::NoRegion);
    }
    if let Some(role) = credentials.role.as_deref().filter(|_| !credentials.from_ec2_role) {
        let mut assumed = AssumeRoleProvider::builder(role).configure(&session).session_name("kinesis-input");
        if let Some(external_id) = credentials.role_external_id.as_deref() {
            assumed = assumed.external_id(external_id);
        }
        let assumed = assumed.build().await;
        session = session.into_builder().credentials_provider(SharedCredentialsProvider::new(assumed)).build();
    }
    let provider =
        session.credentials_provider().ok_or_else(|| AccessError::NoCredentials("no provider is set".into()))?;
    // Asked once here, so that what is missing is told as such and not by the first call that needs it.
    provider.provide_credentials().await.map_err(|error| AccessError::NoCredentials(causes(&error)))?;
    Ok(session)
}

/// The region that the configuration says, by itself or by the streams' ARNs; otherwise the environment's holds.
fn region(config: &Config) -> Result<Option<String>, AccessError> {
    let mut found: Option<&str> = config.region.as_deref();
    for entry in config.stream_entries() {
        let StreamRef::Arn(arn) = &entry.stream else { continue };
        if arn.region == "*" {
            continue;
        }
        match found {
            Some(other) if other != arn.region => {
                return Err(AccessError::TwoRegions(other.into(), arn.region.clone()));
            }
            _ => found = Some(&arn.region),
        }
    }
    Ok(found.map(ToOwned::to_owned))
}
