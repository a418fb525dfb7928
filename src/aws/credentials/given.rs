//! What may be said of credentials? Their source and their end, and never a key.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_types::SdkConfig;

/// What is known of the credentials of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// The source, in words.
    pub(crate) source: String,
    /// The account, if the source says it.
    pub(crate) account: Option<String>,
    /// When they expire, unless they don't.
    pub(crate) expires: Option<SystemTime>,
}

/// Asks the session's provider, which was asked before; `None` if it gives nothing now.
pub(crate) async fn given(session: &SdkConfig) -> Option<Given> {
    let credentials = session.credentials_provider()?.provide_credentials().await.ok()?;
    Some(Given {
        source: source(&credentials).to_owned(),
        account: credentials.account_id().map(|account| account.as_str().to_owned()),
        expires: credentials.expiry(),
    })
}

/// The name of the provider in words. The SDK shows it in `Debug` alone, before everything else.
fn source(credentials: &Credentials) -> &'static str {
    let shown = format!("{credentials:?}");
    match shown.split('"').nth(1).unwrap_or_default() {
        "the configuration" => "the configuration",
        "EnvironmentVariable" => "the environment",
        "ProfileFile" => "a profile of the shared AWS files",
        "CredentialProcess" => "the program of a profile",
        "SSO" => "IAM Identity Center",
        "AssumeRoleProvider" => "a role that was assumed",
        "WebIdentityToken" => "a role that was assumed with a web identity",
        "EcsContainer" => "the container",
        "IMDSv2" | "Ec2InstanceMetadata" => "the metadata of the instance",
        _ => "a provider of the AWS SDK",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_named_and_no_key_is_shown() {
        let of = |name| source(&Credentials::new("AKIDEXAMPLE", "secret", Some("token".into()), None, name));
        assert_eq!(of("EnvironmentVariable"), "the environment");
        assert_eq!(of("the configuration"), "the configuration");
        assert_eq!(of("AKIDEXAMPLE"), "a provider of the AWS SDK");
    }
}
