//! Which settings of the environment and of the shared AWS files are used, and which are refused?
//!
//! The SDK skips settings that it can't understand with a warning in its own log, panics at some of them, and does
//! not know other settings that the AWS CLI and other SDKs have. A setting that a user made either has its effect
//! here, or is refused by its name. An empty variable counts as not set, where the SDK treats it so or gets the value
//! from this module.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use aws_config::imds;
use aws_config::imds::client::EndpointMode;
use aws_config::profile::ProfileSet;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::{RetryConfig, RetryMode};
use aws_types::SdkConfig;
use aws_types::app_name::AppName;
use aws_types::os_shim_internal::{Env, Fs};
use aws_types::service_config::ServiceConfigKey;
use http::Uri;
use http::uri::Authority;
use pipeline_plugin_api::causes;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::AccessError;

/// A variable of the environment, and the key of a profile with the same meaning. Either may be empty, if there is
/// none.
type Names = (&'static str, &'static str);

const MAX_ATTEMPTS: Names = ("AWS_MAX_ATTEMPTS", "max_attempts");
const RETRY_MODE: Names = ("AWS_RETRY_MODE", "retry_mode");
const USE_FIPS: Names = ("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint");
const USE_DUAL_STACK: Names = ("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint");
const CA_BUNDLE: Names = ("AWS_CA_BUNDLE", "ca_bundle");
const METADATA_DISABLED: Names = ("AWS_EC2_METADATA_DISABLED", "");
const METADATA_ENDPOINT: Names = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ec2_metadata_service_endpoint");
const METADATA_MODE: Names = ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ec2_metadata_service_endpoint_mode");
const METADATA_TIMEOUT: Names = ("AWS_METADATA_SERVICE_TIMEOUT", "metadata_service_timeout");
const METADATA_ATTEMPTS: Names = ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "metadata_service_num_attempts");
const CONTAINER_URI: Names = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "");
const CONTAINER_PATH: Names = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "");
const IGNORE_ENDPOINTS: Names = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "ignore_configured_endpoint_urls");
const APP_ID: Names = ("AWS_SDK_UA_APP_ID", "sdk_ua_app_id");

/// The variables with the endpoints of the services that are called.
const ENDPOINT_URLS: [&str; 6] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_KINESIS",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ENDPOINT_URL_SSO",
    "AWS_ENDPOINT_URL_SSO_OIDC",
];

/// The settings that are true or false, and nothing else.
const SWITCHES: [Names; 7] = [
    USE_FIPS,
    USE_DUAL_STACK,
    METADATA_DISABLED,
    IGNORE_ENDPOINTS,
    ("AWS_DISABLE_REQUEST_COMPRESSION", "disable_request_compression"),
    ("AWS_DISABLE_CLOCK_SKEW_CORRECTION", "disable_clock_skew_correction"),
    ("AWS_EC2_METADATA_V1_DISABLED", "ec2_metadata_v1_disabled"),
];

/// The settings with a few allowed words; other words that AWS knows are not supported, here or in the SDK.
const WORDS: [(Names, &[&str]); 8] = [
    (RETRY_MODE, &["standard", "adaptive"]),
    (METADATA_MODE, &["IPv4", "IPv6"]),
    (("AWS_ACCOUNT_ID_ENDPOINT_MODE", "account_id_endpoint_mode"), &["preferred", "disabled", "required"]),
    (("AWS_STS_REGIONAL_ENDPOINTS", "sts_regional_endpoints"), &["regional"]),
    (("AWS_DEFAULTS_MODE", "defaults_mode"), &["standard"]),
    (("AWS_ENABLE_ENDPOINT_DISCOVERY", "endpoint_discovery_enabled"), &["false", "auto"]),
    (("AWS_REQUEST_CHECKSUM_CALCULATION", "request_checksum_calculation"), &["when_supported", "when_required"]),
    (("AWS_RESPONSE_CHECKSUM_VALIDATION", "response_checksum_validation"), &["when_supported", "when_required"]),
];

/// The settings that are numbers, and the least allowed value.
const NUMBERS: [(Names, u32); 4] = [
    (MAX_ATTEMPTS, 1),
    (METADATA_TIMEOUT, 1),
    (METADATA_ATTEMPTS, 1),
    (("AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES", "request_min_compression_size_bytes"), 0),
];

/// The longest timeout of the metadata service, in seconds: the wait for credentials is no longer.
const LONGEST_METADATA_TIMEOUT: u32 = 30;

/// A service that is called, by its name in the SDK's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    Kinesis,
    DynamoDb,
    Sts,
    Sso,
    SsoOidc,
}

impl Called {
    fn id(self) -> &'static str {
        match self {
            Self::Kinesis => "Kinesis",
            Self::DynamoDb => "DynamoDB",
            Self::Sts => "STS",
            Self::Sso => "SSO",
            Self::SsoOidc => "SSO OIDC",
        }
    }
}

/// The settings of the environment and of a profile of the shared files.
#[derive(Debug)]
pub(crate) struct Settings {
    environment: Env,
    /// The profiles of the shared files, one of which is selected.
    profiles: ProfileSet,
}

impl Settings {
    /// Reads the shared files and checks the settings: for the `profile` of a block, or for the environment's.
    pub(crate) async fn load(profile: Option<&str>) -> Result<Self, AccessError> {
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            let counts = name.starts_with("AWS_") || name.to_ascii_uppercase().ends_with("_PROXY");
            if counts && value.to_str().is_none() {
                return Err(bad(name, "is not UTF-8"));
            }
        }
        Self::read(Env::real(), &Fs::real(), profile).await
    }

    async fn read(environment: Env, files: &Fs, profile: Option<&str>) -> Result<Self, AccessError> {
        let variable = |name: &'static str| environment.get(name).ok().filter(|value| !value.is_empty());
        let selected = [("`credentials.profile`", profile.map(ToOwned::to_owned))]
            .into_iter()
            .chain(["AWS_PROFILE", "AWS_DEFAULT_PROFILE"].map(|name| (name, variable(name))))
            .find_map(|(setting, value)| value.map(|value| (setting, value)));
        let name = selected.as_ref().map_or_else(|| "default".to_owned(), |(_, name)| name.clone());
        #[expect(clippy::default_trait_access, reason = "the type's name is in a crate that is not ours to depend on")]
        let usual = Default::default();
        let profiles = aws_config::profile::load(files, &environment, &usual, Some(Cow::Owned(name))).await;
        let profiles =
            profiles.map_err(|error| bad("the shared AWS files", &format!("can't be read: {}", causes(&error))))?;
        if let Some((setting, name)) = selected
            && profiles.get_profile(&name).is_none()
        {
            return Err(bad(setting, &format!("names the profile {name:?}, which the shared AWS files don't have")));
        }
        let settings = Self { environment, profiles };
        settings.check()?;
        settings.check_services(files).await?;
        Ok(settings)
    }

    /// Refuses a profile that names a `services` section that does not exist. The SDK would take AWS's own endpoints
    /// instead of those that the user meant.
    async fn check_services(&self, files: &Fs) -> Result<(), AccessError> {
        let Some(name) = self.profiles.get("services") else { return Ok(()) };
        if self.is_on(IGNORE_ENDPOINTS) == Some(true) || has_services(&self.config_file(files).await, name) {
            return Ok(());
        }
        let what = format!("names the section [services {name}], which the AWS config file does not have");
        Err(bad(&self.of_profile("services"), &what))
    }

    /// The text of the config file, which the SDK has read before; empty if there is none. The SDK's profiles don't tell
    /// which other sections there are.
    async fn config_file(&self, files: &Fs) -> String {
        let path = self.environment.get("AWS_CONFIG_FILE").unwrap_or_else(|_| "~/.aws/config".to_owned());
        let home = || self.environment.get("HOME").or_else(|_| self.environment.get("USERPROFILE")).ok();
        let path = match path.strip_prefix("~/").and_then(|rest| Some(Path::new(&home()?).join(rest))) {
            Some(path) => path,
            None => path.into(),
        };
        files.read_to_end(path).await.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    pub(super) fn profiles(&self) -> &ProfileSet {
        &self.profiles
    }

    /// The name of the selected profile.
    pub(super) fn profile(&self) -> &str {
        self.profiles.selected_profile()
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        if name.is_empty() { None } else { self.environment.get(name).ok().filter(|value| !value.is_empty()) }
    }

    /// The value of a setting and its source: the environment comes before the profile.
    fn get(&self, (variable, key): Names) -> Option<(String, String)> {
        let from_environment = self.variable(variable).map(|value| (variable.to_owned(), value));
        from_environment.or_else(|| {
            let value = self.profiles.get(key).filter(|value| !value.is_empty())?;
            Some((self.of_profile(key), value.to_owned()))
        })
    }

    fn value(&self, names: Names) -> Option<String> {
        self.get(names).map(|(_, value)| value)
    }

    fn number(&self, names: Names) -> Option<u32> {
        self.value(names)?.parse().ok()
    }

    fn is_on(&self, names: Names) -> Option<bool> {
        self.value(names).map(|value| value.eq_ignore_ascii_case("true"))
    }

    fn of_profile(&self, key: &str) -> String {
        format!("{key} of the AWS profile {}", self.profile())
    }

    fn check(&self) -> Result<(), AccessError> {
        for names in SWITCHES {
            self.one_of(names, &["true", "false"])?;
        }
        for (names, words) in WORDS {
            self.one_of(names, words)?;
        }
        for (names, least) in NUMBERS {
            if let Some((setting, value)) = self.get(names)
                && value.parse().map_or(true, |number: u32| number < least)
            {
                return Err(bad(&setting, &format!("is {value:?}: expected a whole number, {least} or more")));
            }
        }
        if let Some((setting, value)) = self.get(METADATA_TIMEOUT)
            && self.number(METADATA_TIMEOUT) > Some(LONGEST_METADATA_TIMEOUT)
        {
            return Err(bad(&setting, &format!("is {value}: more than {LONGEST_METADATA_TIMEOUT} s is not waited")));
        }
        for names in [METADATA_ENDPOINT, CONTAINER_URI] {
            if let Some((setting, value)) = self.get(names) {
                check_url(&setting, &value)?;
            }
        }
        // The SDK logs an endpoint that it can't understand, including a password.
        if self.is_on(IGNORE_ENDPOINTS) != Some(true) {
            for name in ENDPOINT_URLS {
                if let Ok(url) = self.environment.get(name) {
                    check_url(name, &url)?;
                }
            }
            if let Some(url) = self.profiles.get("endpoint_url") {
                check_url(&self.of_profile("endpoint_url"), url)?;
            }
        }
        if self.value(CONTAINER_PATH).is_some_and(|path| !path.starts_with('/') || path.parse::<Uri>().is_err()) {
            return Err(bad(CONTAINER_PATH.0, "is no path: expected one that begins with /"));
        }
        if let Some((setting, id)) = self.get(APP_ID)
            && AppName::new(id).is_err()
        {
            return Err(bad(
                &setting,
                "has characters in it that no such name has: letters, digits, - . and _ are good",
            ));
        }
        if self.variable("AWS_SECURITY_TOKEN").is_some() && self.variable("AWS_SESSION_TOKEN").is_none() {
            return Err(bad(
                "AWS_SECURITY_TOKEN",
                "is the former name of AWS_SESSION_TOKEN, which it has to be set as",
            ));
        }
        if self.profiles.get("tcp_keepalive").is_some_and(|value| !value.eq_ignore_ascii_case("false")) {
            return Err(bad(&self.of_profile("tcp_keepalive"), "is not supported: remove it"));
        }
        Ok(())
    }

    fn one_of(&self, names: Names, words: &[&str]) -> Result<(), AccessError> {
        match self.get(names) {
            Some((setting, value)) if !words.iter().any(|word| word.eq_ignore_ascii_case(value.trim())) => {
                Err(bad(&setting, &format!("is {value:?}: expected {}", words.join(" or "))))
            }
            _ => Ok(()),
        }
    }

    /// How calls are retried. The SDK would panic at values that it can't understand.
    pub(super) fn retries(&self) -> RetryConfig {
        let mut retries = RetryConfig::standard();
        if let Some(attempts) = self.number(MAX_ATTEMPTS) {
            retries = retries.with_max_attempts(attempts);
        }
        if self.value(RETRY_MODE).is_some_and(|mode| mode.trim().eq_ignore_ascii_case("adaptive")) {
            retries = retries.with_retry_mode(RetryMode::Adaptive);
        }
        retries
    }

    pub(super) fn fips(&self) -> bool {
        self.is_on(USE_FIPS).unwrap_or_default()
    }

    pub(super) fn dual_stack(&self) -> bool {
        self.is_on(USE_DUAL_STACK).unwrap_or_default()
    }

    /// Refuses credentials of the instance where asking the instance is forbidden.
    pub(super) fn check_metadata(&self) -> Result<(), AccessError> {
        if self.is_on(METADATA_DISABLED) == Some(true) {
            return Err(bad(METADATA_DISABLED.0, "forbids what `from_ec2_role` asks for; remove one of them"));
        }
        Ok(())
    }

    /// The client of the instance's metadata service, with its settings.
    pub(super) fn metadata(&self, surroundings: &ProviderConfig) -> imds::Client {
        let mut client = imds::Client::builder().configure(surroundings);
        if let Some(endpoint) = self.value(METADATA_ENDPOINT) {
            // The endpoint was checked before.
            client = client.clone().endpoint(endpoint).unwrap_or(client);
        } else if let Some(mode) = self.value(METADATA_MODE) {
            client = client.endpoint_mode(mode.trim().parse().unwrap_or(EndpointMode::IpV4));
        }
        let attempts = self.number(METADATA_ATTEMPTS);
        if let Some(attempts) = attempts {
            client = client.max_attempts(attempts);
        }
        if let Some(seconds) = self.number(METADATA_TIMEOUT) {
            let timeout = Duration::from_secs(seconds.into());
            client = client
                .connect_timeout(timeout)
                .read_timeout(timeout)
                .operation_attempt_timeout(timeout)
                .operation_timeout(timeout.saturating_mul(attempts.unwrap_or(1).saturating_add(1)));
        }
        client.build()
    }

    /// The addresses of the metadata services, besides the ones that AWS gives them.
    pub(crate) fn machine_addresses(&self) -> Vec<Authority> {
        let addresses = [METADATA_ENDPOINT, CONTAINER_URI].into_iter().filter_map(|names| self.value(names));
        addresses.filter_map(|address| address.parse::<Uri>().ok()?.authority().cloned()).collect()
    }

    /// The certificates (PEM) to trust besides those of the system.
    pub(crate) async fn certificates(&self) -> Result<Vec<u8>, AccessError> {
        let Some((variable, path)) = self.get(CA_BUNDLE) else { return Ok(Vec::new()) };
        let bad =
            |cause: String| AccessError::BadCertificates { variable: variable.clone(), path: path.clone(), cause };
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
        let pem = read.map_err(|error| bad(error.to_string()))?.map_err(|error| bad(error.to_string()))?;
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            certificate.map_err(|error| bad(format!("not PEM: {error}")))?;
            count += 1;
        }
        if count == 0 { Err(bad("there is no certificate in it".into())) } else { Ok(pem) }
    }

    /// Refuses an endpoint that is not a URL, and a custom endpoint together with features that only AWS's own
    /// endpoints have.
    ///
    /// The rules of the SDK refuse the same with each call, and don't say where it was set.
    pub(crate) fn check_endpoint(&self, session: &SdkConfig, called: Called) -> Result<(), AccessError> {
        let Some((setting, url)) = self.endpoint(session, called) else { return Ok(()) };
        check_url(&setting, &url)?;
        for (is_on, names) in [(session.use_fips(), USE_FIPS), (session.use_dual_stack(), USE_DUAL_STACK)] {
            if is_on == Some(true) {
                let (variable, _) = self.get(names).unwrap_or_default();
                let what = format!(
                    "is for AWS's own endpoints, and {setting} says another one for {}; remove one of them",
                    called.id()
                );
                return Err(bad(&variable, &what));
            }
        }
        Ok(())
    }

    /// The endpoint that is set for a service, and its source, in the order in which the SDK looks for it.
    fn endpoint(&self, session: &SdkConfig, called: Called) -> Option<(String, String)> {
        if session.get_origin("endpoint_url").is_client_config() {
            return session.endpoint_url().map(|url| ("`endpoint`".to_owned(), url.to_owned()));
        }
        let key = ServiceConfigKey::builder().service_id(called.id()).env("AWS_ENDPOINT_URL").profile("endpoint_url");
        let url = session.service_config()?.load_config(key.build().ok()?)?;
        let own = format!("AWS_ENDPOINT_URL_{}", called.id().to_uppercase().replace(' ', "_"));
        let variable = [own.as_str(), "AWS_ENDPOINT_URL"].into_iter().find(|name| self.environment.get(name).is_ok());
        Some((variable.map_or_else(|| self.of_profile("endpoint_url"), ToOwned::to_owned), url))
    }
}

pub(super) fn bad(setting: &str, what: &str) -> AccessError {
    AccessError::BadSetting { setting: setting.to_owned(), what: what.to_owned() }
}

/// Whether a config file has the section `[services NAME]`. Section headers are read as the SDK reads them.
fn has_services(config: &str, name: &str) -> bool {
    config.lines().any(|line| {
        let header =
            line.strip_prefix('[').and_then(|line| line.split(['#', ';']).next()?.trim_end().strip_suffix(']'));
        let section = header.and_then(|header| header.trim().split_once([' ', '\t']));
        section.is_some_and(|(kind, found)| kind == "services" && found.trim() == name)
    })
}

/// Checks a URL. The error does not show it, because it may contain a password.
fn check_url(setting: &str, url: &str) -> Result<(), AccessError> {
    if url.is_empty() {
        return Err(bad(setting, "is empty; unset it"));
    }
    let uri: Uri = url.parse().map_err(|_| bad(setting, "is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(bad(setting, "is not a URL that begins with http:// or https:// and names a host"));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Creates settings from variables of an environment and the text of a shared file.
    pub(in crate::aws::credentials) async fn settings(
        environment: &[(&str, &str)],
        config: &str,
    ) -> Result<Settings, AccessError> {
        let environment = [environment, &[("HOME", "/home")]].concat();
        let files = Fs::from_slice(&[("/home/.aws/config", config)]);
        Settings::read(Env::from_slice(&environment), &files, None).await
    }

    #[tokio::test]
    async fn setting_that_would_have_no_effect_is_refused_by_its_name() {
        let odd = [
            ("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint", "yes"),
            ("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint", "1"),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "ignore_configured_endpoint_urls", "on"),
            ("AWS_DISABLE_REQUEST_COMPRESSION", "disable_request_compression", "no"),
            ("AWS_DISABLE_CLOCK_SKEW_CORRECTION", "disable_clock_skew_correction", "no"),
            ("AWS_EC2_METADATA_DISABLED", "", "1"),
            ("AWS_EC2_METADATA_V1_DISABLED", "ec2_metadata_v1_disabled", "yes"),
            ("AWS_RETRY_MODE", "retry_mode", "legacy"),
            ("AWS_MAX_ATTEMPTS", "max_attempts", "many"),
            ("AWS_MAX_ATTEMPTS", "max_attempts", "0"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ec2_metadata_service_endpoint_mode", "IPv5"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ec2_metadata_service_endpoint", "localhost:1338"),
            ("AWS_METADATA_SERVICE_TIMEOUT", "metadata_service_timeout", "soon"),
            ("AWS_METADATA_SERVICE_TIMEOUT", "metadata_service_timeout", "31"),
            ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "metadata_service_num_attempts", "0"),
            ("AWS_ACCOUNT_ID_ENDPOINT_MODE", "account_id_endpoint_mode", "always"),
            ("AWS_STS_REGIONAL_ENDPOINTS", "sts_regional_endpoints", "legacy"),
            ("AWS_DEFAULTS_MODE", "defaults_mode", "mobile"),
            ("AWS_ENABLE_ENDPOINT_DISCOVERY", "endpoint_discovery_enabled", "true"),
            ("AWS_REQUEST_CHECKSUM_CALCULATION", "request_checksum_calculation", "never"),
            ("AWS_RESPONSE_CHECKSUM_VALIDATION", "response_checksum_validation", "never"),
            ("AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES", "request_min_compression_size_bytes", "-1"),
            ("AWS_SDK_UA_APP_ID", "sdk_ua_app_id", "an app"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "", "localhost:51679"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "", "/path"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "", "elsewhere.example"),
            ("AWS_SECURITY_TOKEN", "", "hidden"),
            ("AWS_ENDPOINT_URL", "endpoint_url", "http://hid den"),
            ("AWS_ENDPOINT_URL_SSO", "", "hidden"),
            ("", "tcp_keepalive", "true"),
        ];
        for (variable, key, value) in odd {
            if !variable.is_empty() {
                let error = settings(&[(variable, value)], "").await.expect_err(variable).to_string();
                assert!(error.starts_with(&format!("{variable} ")) && !error.contains("hidden"), "{error}");
            }
            if !key.is_empty() {
                let config = format!("[default]\n{key} = {value}\n");
                let error = settings(&[], &config).await.expect_err(key).to_string();
                assert!(error.starts_with(&format!("{key} of the AWS profile default ")), "{error}");
                assert!(!error.contains("hid den"), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn environment_setting_precedes_the_profile() {
        let config = "[default]\nuse_fips_endpoint = true\nmax_attempts = 7\nretry_mode = adaptive\nuse_dualstack_endpoint = TRUE\n\
                      ec2_metadata_service_endpoint = http://metadata.example:1338/\nca_bundle = /a\n";
        let of_profile = settings(&[], config).await.unwrap();
        assert!(of_profile.fips() && of_profile.dual_stack());
        assert_eq!((of_profile.retries().max_attempts(), of_profile.retries().mode()), (7, RetryMode::Adaptive));
        assert_eq!(of_profile.machine_addresses(), ["metadata.example:1338"]);
        let both = [
            ("AWS_USE_FIPS_ENDPOINT", "False"),
            ("AWS_USE_DUALSTACK_ENDPOINT", ""),
            ("AWS_MAX_ATTEMPTS", "2"),
            ("AWS_RETRY_MODE", "standard"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost:2/creds"),
        ];
        let both = settings(&both, config).await.unwrap();
        assert!(!both.fips() && both.dual_stack(), "what is empty is not set");
        assert_eq!((both.retries().max_attempts(), both.retries().mode()), (2, RetryMode::Standard));
        assert_eq!(both.machine_addresses(), ["127.0.0.1:1", "localhost:2"]);
        let none = settings(&[("AWS_MAX_ATTEMPTS", ""), ("AWS_RETRY_MODE", "")], "").await.unwrap();
        assert_eq!((none.retries().max_attempts(), none.fips()), (3, false));
    }

    #[tokio::test]
    async fn profile_that_is_named_and_missing_is_refused() {
        let config = "[default]\nregion = eu-west-1\n[profile other]\nregion = eu-west-2\n";
        assert_eq!(settings(&[], config).await.unwrap().profile(), "default");
        assert_eq!(settings(&[], "").await.unwrap().profile(), "default");
        assert_eq!(settings(&[("AWS_PROFILE", "other")], config).await.unwrap().profile(), "other");
        assert_eq!(settings(&[("AWS_DEFAULT_PROFILE", "other")], config).await.unwrap().profile(), "other");
        let both = [("AWS_PROFILE", "other"), ("AWS_DEFAULT_PROFILE", "default")];
        assert_eq!(settings(&both, config).await.unwrap().profile(), "other");
        let error = settings(&[("AWS_PROFILE", "othr")], config).await.unwrap_err().to_string();
        assert!(error.contains("AWS_PROFILE") && error.contains("othr"), "{error}");
        let error = settings(&[], "[default\n").await.unwrap_err().to_string();
        assert!(error.contains("the shared AWS files"), "{error}");
    }

    #[tokio::test]
    async fn services_section_that_is_named_and_missing_is_refused() {
        let with = |sections: &str| format!("[default]\nservices = local\n{sections}");
        let section = "kinesis =\n  endpoint_url = http://localhost:4566\n";
        for header in ["[services local]", "[ services\tlocal ] # mine", "[services local]  ; mine"] {
            settings(&[], &with(&format!("{header}\n{section}"))).await.expect(header);
        }
        settings(&[], &with("[services local]\n")).await.expect("an empty section exists");
        settings(&[("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")], &with("")).await.expect("endpoints are ignored");
        let other = "[profile other]\nservices = nowhere\n[services local]\n";
        settings(&[], &with(other)).await.expect("only the selected profile counts");
        for missing in ["", "[services other]\n", "[profile local]\n", "[sso-session local]\n", "#[services local]\n"] {
            let error = settings(&[], &with(missing)).await.expect_err(missing).to_string();
            assert_eq!(
                error,
                "services of the AWS profile default names the section [services local], which the AWS config file does \
                 not have"
            );
        }
        let elsewhere = [("AWS_CONFIG_FILE", "~/mine"), ("HOME", "/home")];
        let read = async |config: &str| {
            let files = Fs::from_slice(&[("/home/mine", config)]);
            Settings::read(Env::from_slice(&elsewhere), &files, None).await
        };
        read(&with("[services local]\n")).await.unwrap();
        assert!(read(&with("")).await.is_err());
    }

    #[test]
    fn invalid_url_is_refused_and_not_shown() {
        for right in ["http://localhost:4566", "https://user:pass@host/path/", "http://[::1]:1"] {
            assert_eq!(check_url("AWS_ENDPOINT_URL", right), Ok(()));
        }
        for wrong in ["", "localhost:4566", "ftp://hidden", "http://", "http://hid den", "http://hidden\n", "/hidden"] {
            let error = check_url("AWS_ENDPOINT_URL", wrong).unwrap_err().to_string();
            assert!(error.contains("AWS_ENDPOINT_URL") && !error.contains("hid"), "{error}");
        }
    }

    #[test]
    fn settings_that_count_or_are_refused_are_documented() {
        const DOCUMENT: &str = include_str!("../../../docs/credentials-and-network.md");
        let checked = SWITCHES.into_iter().chain(WORDS.map(|(names, _)| names)).chain(NUMBERS.map(|(names, _)| names));
        let rest = [CA_BUNDLE, METADATA_ENDPOINT, CONTAINER_URI, CONTAINER_PATH, APP_ID];
        for (variable, key) in checked.chain(rest).chain(ENDPOINT_URLS.map(|name| (name, ""))) {
            assert!(DOCUMENT.contains(&format!("`{variable}`")), "{variable}");
            // Some settings are documented together.
            let is_documented =
                DOCUMENT.contains(&format!("`{key}`")) || variable == format!("AWS_{}", key.to_uppercase());
            assert!(key.is_empty() || is_documented, "{key}");
        }
        for name in [
            "AWS_SECURITY_TOKEN",
            "tcp_keepalive",
            "login_session",
            "mfa_serial",
            "duration_seconds",
            "AWS_DEFAULT_PROFILE",
        ] {
            assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
        }
    }
}
