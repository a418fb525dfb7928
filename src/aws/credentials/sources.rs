//! Where do credentials come from, and which roles are assumed?
//!
//! ```text
//! environment ─▶ profile ─▶ web identity ─▶ container ─▶ instance         the first that has some
//!                   │
//!                   └─▶ its roles, one after the other, each assumed with the credentials of the one before
//! ```
//!
//! The order, and the sources themselves, are the SDK's. Roles and web identities are requested here, because the SDK
//! does that without the configured endpoint, the switch to ignore endpoints, and the configured length of a role's
//! session.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::{Profile, ProfileFileCredentialsProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::Credentials as AwsCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_types::SdkConfig;

use super::settings::{Called, Settings, bad};
use super::{AccessError, Checked, with_provider};

/// The name of a role's session where none is configured.
const SESSION_NAME: &str = "kinesis-input";
/// The name of the profile that is a copy of another one without its role.
const WITHOUT_ROLE: &str = "kinesis-input/without-role";

/// Finds the source of credentials.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) settings: &'a Settings,
    /// The session with the region and the endpoint of STS.
    pub(super) session: &'a SdkConfig,
    /// The parts that the SDK's own sources are created with.
    pub(super) surroundings: &'a ProviderConfig,
}

/// A role to assume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) session_name: Option<String>,
    pub(super) external_id: Option<String>,
    pub(super) lasts: Option<Duration>,
}

/// The source of the credentials that the first role of a profile is assumed with, or of those of a profile without
/// roles.
#[derive(Debug, PartialEq, Eq)]
enum Base<'a> {
    /// The keys in this profile.
    Keys(&'a str),
    /// A source by its name.
    Named(&'a str),
    /// The other settings of this profile.
    Profile(&'a str),
    /// The other settings of this profile, without its role.
    WithoutRole(&'a str),
}

impl Sources<'_> {
    /// The credentials where the configuration names none.
    pub(super) async fn of_environment(self) -> Result<SharedCredentialsProvider, AccessError> {
        let environment = EnvironmentVariableCredentialsProvider::new();
        let has = |name: &str| self.settings.variable(name).is_some_and(|value| !value.trim().is_empty());
        // Sources behind the keys are not checked, so a mistake there causes no error.
        if has("AWS_ACCESS_KEY_ID") && has("AWS_SECRET_ACCESS_KEY") {
            return Ok(SharedCredentialsProvider::new(environment));
        }
        let mut chain = CredentialsProviderChain::first_try("Environment", environment);
        if self.settings.profiles().get_profile(self.settings.profile()).is_some() {
            chain = chain.or_else("Profile", self.of_profile().await?);
        }
        let role = self.settings.variable("AWS_ROLE_ARN");
        if let Some((role, file)) = role.zip(self.settings.variable("AWS_WEB_IDENTITY_TOKEN_FILE")) {
            let name = self.settings.variable("AWS_ROLE_SESSION_NAME");
            chain = chain.or_else("WebIdentityToken", self.web_identity(role, file, name)?);
        }
        let chain = chain.or_else("EcsContainer", self.container()).or_else("Ec2InstanceMetadata", self.instance());
        Ok(SharedCredentialsProvider::new(chain))
    }

    /// The credentials of the selected profile, through all its roles.
    pub(super) async fn of_profile(self) -> Result<SharedCredentialsProvider, AccessError> {
        let (base, roles) = roles(self.settings)?;
        let mut provider = self.base(&base)?;
        for role in &roles {
            provider = self.assume(role, provider).await?;
        }
        Ok(provider)
    }

    /// Assumes a role with the credentials of `provider`.
    pub(super) async fn assume(
        self,
        role: &Role,
        provider: SharedCredentialsProvider,
    ) -> Result<SharedCredentialsProvider, AccessError> {
        self.settings.check_endpoint(self.session, Called::Sts)?;
        let session = with_provider(self.session, Checked::new(provider));
        let name = role.session_name.as_deref().unwrap_or(SESSION_NAME);
        let mut assumed = AssumeRoleProvider::builder(&role.arn).configure(&session).session_name(name);
        if let Some(external_id) = role.external_id.as_deref() {
            assumed = assumed.external_id(external_id);
        }
        if let Some(lasts) = role.lasts {
            assumed = assumed.session_length(lasts);
        }
        Ok(SharedCredentialsProvider::new(assumed.build().await))
    }

    pub(super) fn instance(self) -> ImdsCredentialsProvider {
        let client = self.settings.metadata(self.surroundings);
        ImdsCredentialsProvider::builder().configure(self.surroundings).imds_client(client).build()
    }

    fn container(self) -> EcsCredentialsProvider {
        EcsCredentialsProvider::builder().configure(self.surroundings).build()
    }

    fn base(self, base: &Base<'_>) -> Result<SharedCredentialsProvider, AccessError> {
        let profile_of = |name: &str| self.settings.profiles().get_profile(name);
        Ok(match *base {
            Base::Keys(name) => match profile_of(name).and_then(keys) {
                Some(keys) => SharedCredentialsProvider::new(keys),
                None => return Err(bad(&of(name, "aws_access_key_id"), "stands without aws_secret_access_key")),
            },
            Base::Named(source) if source.eq_ignore_ascii_case("Environment") => {
                SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new())
            }
            Base::Named(source) if source.eq_ignore_ascii_case("EcsContainer") => {
                SharedCredentialsProvider::new(self.container())
            }
            Base::Named(source) if source.eq_ignore_ascii_case("Ec2InstanceMetadata") => {
                self.settings.check_metadata()?;
                SharedCredentialsProvider::new(self.instance())
            }
            Base::Named(source) => {
                let what = format!("is {source:?}: expected Environment, EcsContainer or Ec2InstanceMetadata");
                return Err(bad("credential_source of the AWS profile", &what));
            }
            Base::Profile(name) => {
                let profile = profile_of(name);
                self.check_sso(profile)?;
                let get = |key: &str| profile.and_then(|profile| profile.get(key)).map(ToOwned::to_owned);
                match (get("role_arn"), get("web_identity_token_file")) {
                    (Some(role), Some(file)) => {
                        SharedCredentialsProvider::new(self.web_identity(role, file, get("role_session_name"))?)
                    }
                    _ => SharedCredentialsProvider::new(
                        ProfileFileCredentialsProvider::builder()
                            .profile_name(name)
                            .configure(self.surroundings)
                            .build(),
                    ),
                }
            }
            Base::WithoutRole(name) => {
                let profile = profile_of(name);
                self.check_sso(profile)?;
                SharedCredentialsProvider::new(without_role(profile, self.surroundings))
            }
        })
    }

    fn check_sso(self, profile: Option<&Profile>) -> Result<(), AccessError> {
        let uses = |key: &str| profile.is_some_and(|profile| profile.get(key).is_some());
        if uses("sso_session") || uses("sso_start_url") {
            self.settings.check_endpoint(self.session, Called::Sso)?;
            self.settings.check_endpoint(self.session, Called::SsoOidc)?;
        }
        Ok(())
    }

    fn web_identity(self, role: String, file: String, name: Option<String>) -> Result<WebIdentity, AccessError> {
        self.settings.check_endpoint(self.session, Called::Sts)?;
        let sts = aws_sdk_sts::Client::new(self.session);
        Ok(WebIdentity { sts, role, file: file.into(), session_name: name.unwrap_or_else(|| SESSION_NAME.into()) })
    }
}

/// The base of the selected profile, and the roles that follow from it; the first one is assumed first.
fn roles(settings: &Settings) -> Result<(Base<'_>, Vec<Role>), AccessError> {
    let profiles = settings.profiles();
    let mut name = settings.profile();
    let mut seen = Vec::new();
    let mut roles = Vec::new();
    let base = loop {
        let Some(profile) = profiles.get_profile(name) else {
            let from = seen.last().copied().unwrap_or(name);
            let what = format!("names the profile {name:?}, which the shared AWS files don't have");
            return Err(bad(&of(from, "source_profile"), &what));
        };
        if seen.contains(&name) {
            return Err(bad(&of(name, "source_profile"), "leads back to itself"));
        }
        seen.push(name);
        // This is the rule of every SDK: a profile that another one names as its source provides its keys, if it has
        // any, and not its role.
        if seen.len() > 1 && keys(profile).is_some() {
            break Base::Keys(name);
        }
        let Some(role) = role(name, profile)? else {
            if profile.get("login_session").is_some() {
                return Err(bad(&of(name, "login_session"), "is not supported: use sso_session or credential_process"));
            }
            break if holds_keys_alone(profile) { Base::Keys(name) } else { Base::Profile(name) };
        };
        roles.push(role);
        match (profile.get("source_profile"), profile.get("credential_source")) {
            (Some(source), None) if source == name => {
                break if holds_keys_alone(profile) { Base::Keys(name) } else { Base::WithoutRole(name) };
            }
            (Some(source), None) => name = source,
            (None, Some(source)) => break Base::Named(source),
            (Some(_), Some(_)) => {
                return Err(bad(&of(name, "source_profile"), "stands beside credential_source; remove one of them"));
            }
            (None, None) => {
                return Err(bad(&of(name, "role_arn"), "wants a source_profile or a credential_source beside it"));
            }
        }
    };
    roles.reverse();
    Ok((base, roles))
}

/// The role of a profile, unless it is assumed with a token of a web identity.
fn role(name: &str, profile: &Profile) -> Result<Option<Role>, AccessError> {
    let get = |key: &str| profile.get(key).map(ToOwned::to_owned);
    let Some(arn) = get("role_arn").filter(|_| profile.get("web_identity_token_file").is_none()) else {
        return Ok(None);
    };
    if profile.get("mfa_serial").is_some() {
        return Err(bad(&of(name, "mfa_serial"), "is not supported: nobody is there to type a code"));
    }
    let lasts = profile.get("duration_seconds").map(|seconds| duration(name, seconds)).transpose()?;
    Ok(Some(Role { arn, session_name: get("role_session_name"), external_id: get("external_id"), lasts }))
}

/// How long a session of a role lasts, within AWS's own bounds.
fn duration(profile: &str, seconds: &str) -> Result<Duration, AccessError> {
    let within = seconds.parse().ok().filter(|seconds| (900..=43_200).contains(seconds));
    within.map(Duration::from_secs).ok_or_else(|| {
        let what = format!("is {seconds:?}: expected a whole number from 900 to 43200");
        bad(&of(profile, "duration_seconds"), &what)
    })
}

fn of(profile: &str, key: &str) -> String {
    format!("{key} of the AWS profile {profile}")
}

/// Whether a profile holds keys, and nothing that takes precedence over them.
fn holds_keys_alone(profile: &Profile) -> bool {
    let other = ["credential_source", "web_identity_token_file", "sso_session", "sso_start_url", "credential_process"];
    keys(profile).is_some() && !other.into_iter().any(|key| profile.get(key).is_some())
}

fn keys(profile: &Profile) -> Option<AwsCredentials> {
    let mut keys = AwsCredentials::builder()
        .access_key_id(profile.get("aws_access_key_id")?)
        .secret_access_key(profile.get("aws_secret_access_key")?)
        .provider_name("ProfileFile");
    keys.set_session_token(profile.get("aws_session_token").map(ToOwned::to_owned));
    keys.set_account_id(profile.get("aws_account_id").map(Into::into));
    Some(keys.build())
}

/// The SDK's source for a profile that assumes its role with credentials that it names itself.
#[expect(deprecated, reason = "the new name is in a crate that is not ours to depend on")]
fn without_role(profile: Option<&Profile>, surroundings: &ProviderConfig) -> ProfileFileCredentialsProvider {
    use aws_config::profile::profile_file::{Builder, ProfileFileKind};
    let kept = [
        "sso_session",
        "sso_start_url",
        "sso_region",
        "sso_account_id",
        "sso_role_name",
        "credential_process",
        "aws_account_id",
    ];
    let lines = kept.into_iter().filter_map(|key| Some(format!("{key} = {}\n", profile?.get(key)?)));
    let text = format!("[profile {WITHOUT_ROLE}]\n{}", lines.collect::<String>());
    let files = Builder::new()
        .include_default_config_file(true)
        .include_default_credentials_file(true)
        .with_contents(ProfileFileKind::Config, text)
        .build();
    ProfileFileCredentialsProvider::builder()
        .profile_name(WITHOUT_ROLE)
        .profile_files(files)
        .configure(surroundings)
        .build()
}

/// A provider that assumes a role with a token; another program keeps the token file up to date.
#[derive(Debug)]
struct WebIdentity {
    sts: aws_sdk_sts::Client,
    role: String,
    file: PathBuf,
    session_name: String,
}

impl WebIdentity {
    async fn credentials(&self) -> provider::Result {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await;
        let token = read.map_err(CredentialsError::unhandled)?.map_err(|error| {
            CredentialsError::provider_error(format!("the token file {}: {error}", self.file.display()))
        })?;
        let call = self.sts.assume_role_with_web_identity();
        let call = call.role_arn(&self.role).role_session_name(&self.session_name).web_identity_token(token.trim_end());
        let answer = call.send().await.map_err(CredentialsError::provider_error)?;
        let given = answer.credentials().ok_or_else(|| CredentialsError::unhandled("STS gave no credentials"))?;
        let mut credentials = AwsCredentials::builder()
            .access_key_id(given.access_key_id())
            .secret_access_key(given.secret_access_key())
            .session_token(given.session_token())
            .provider_name("WebIdentityToken");
        credentials.set_expiry(SystemTime::try_from(*given.expiration()).ok());
        // The account is needed: some endpoints depend on the account.
        let arn = answer.assumed_role_user().map(|user| user.arn().to_owned());
        credentials.set_account_id(arn.as_deref().and_then(|arn| arn.split(':').nth(4)).map(Into::into));
        Ok(credentials.build())
    }
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
