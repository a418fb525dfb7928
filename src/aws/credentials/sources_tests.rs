//! Do the sources of a profile give credentials, or an error that says what is missing?

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::attributes::AccountId;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use pipeline_plugin_api::causes;

use super::super::judge;
use super::super::settings::tests::settings;
use super::*;

const PROFILES: &str = "
        [default]
        [profile keys]
        aws_access_key_id = KEYS
        aws_secret_access_key = secret
        [profile one]
        role_arn = one
        source_profile = keys
        external_id = from-outside
        role_session_name = me
        duration_seconds = 900
        [profile two]
        role_arn = two
        source_profile = one
        [profile both]
        aws_access_key_id = BOTH
        aws_secret_access_key = secret
        role_arn = both
        source_profile = keys
        [profile of-both]
        role_arn = of-both
        source_profile = both
        [profile itself]
        aws_access_key_id = ITSELF
        aws_secret_access_key = secret
        role_arn = itself
        source_profile = itself
        [profile process]
        credential_process = cat file
        role_arn = process
        source_profile = process
        [profile instance]
        role_arn = instance
        credential_source = Ec2InstanceMetadata
        [profile web]
        role_arn = web
        web_identity_token_file = token
        [profile of-web]
        role_arn = of-web
        source_profile = web
        [profile sso]
        sso_session = dev
        aws_access_key_id = NOT_THESE
        aws_secret_access_key = secret
    ";

fn profiles() -> String {
    PROFILES.lines().flat_map(|line| [line.trim(), "\n"]).collect()
}

#[tokio::test]
async fn roles_of_a_profile_follow_from_its_base() {
    for (profile, base, expected) in [
        ("keys", Base::Keys("keys"), vec![]),
        ("one", Base::Keys("keys"), vec!["one"]),
        ("two", Base::Keys("keys"), vec!["one", "two"]),
        ("both", Base::Keys("keys"), vec!["both"]),
        ("of-both", Base::Keys("both"), vec!["of-both"]),
        ("itself", Base::Keys("itself"), vec!["itself"]),
        ("process", Base::WithoutRole("process"), vec!["process"]),
        ("instance", Base::Named("Ec2InstanceMetadata"), vec!["instance"]),
        ("web", Base::Profile("web"), vec![]),
        ("of-web", Base::Profile("web"), vec!["of-web"]),
        ("sso", Base::Profile("sso"), vec![]),
        ("default", Base::Profile("default"), vec![]),
    ] {
        let settings = settings(&[("AWS_PROFILE", profile)], &profiles()).await.unwrap();
        let (found, roles) = roles(&settings).unwrap();
        assert_eq!(found, base, "{profile}");
        assert_eq!(roles.iter().map(|role| role.arn.as_str()).collect::<Vec<_>>(), expected, "{profile}");
    }
    let settings = settings(&[("AWS_PROFILE", "one")], &profiles()).await.unwrap();
    let one = Role {
        arn: "one".into(),
        session_name: Some("me".into()),
        external_id: Some("from-outside".into()),
        lasts: Some(Duration::from_mins(15)),
    };
    assert_eq!(roles(&settings).unwrap().1, [one]);
}

#[tokio::test]
async fn profile_that_can_not_work_is_refused_by_its_key() {
    for (lines, key) in [
        ("role_arn = a\nsource_profile = keys\nmfa_serial = arn:aws:iam::1:mfa/me", "mfa_serial of the AWS profile p "),
        ("role_arn = a\nsource_profile = keys\nduration_seconds = 60", "duration_seconds of the AWS profile p "),
        ("role_arn = a\nsource_profile = keys\nduration_seconds = 1h", "duration_seconds of the AWS profile p "),
        ("role_arn = a\nsource_profile = nowhere", "source_profile of the AWS profile p "),
        (
            "role_arn = a\nsource_profile = q\n[profile q]\nrole_arn = b\nsource_profile = p",
            "source_profile of the AWS profile p ",
        ),
        (
            "role_arn = a\nsource_profile = keys\ncredential_source = Environment",
            "source_profile of the AWS profile p ",
        ),
        ("role_arn = a", "role_arn of the AWS profile p "),
        ("login_session = arn:aws:iam::1:user/me", "login_session of the AWS profile p "),
    ] {
        let config = format!("{}\n[profile p]\n{lines}\n", profiles());
        let settings = settings(&[("AWS_PROFILE", "p")], &config).await.unwrap();
        let error = roles(&settings).expect_err(lines).to_string();
        assert!(error.starts_with(key), "{error}");
    }
}

/// A client that answers every request as STS does.
#[derive(Debug, Clone)]
struct Sts;

impl HttpConnector for Sts {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let body = request.body().bytes().map(|body| String::from_utf8_lossy(body).into_owned()).unwrap_or_default();
        let id = if body.ends_with("&WebIdentityToken=fresh") { "WEB" } else { "OTHER" };
        let answer = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><AssumedRoleUser><AssumedRoleId>a:b</AssumedRoleId>\
                 <Arn>arn:aws:sts::111122223333:assumed-role/r/b</Arn></AssumedRoleUser><Credentials>\
                 <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
                 <SessionToken>token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        );
        HttpConnectorFuture::ready(Ok(HttpResponse::new(200.try_into().unwrap(), SdkBody::from(answer))))
    }
}

impl HttpClient for Sts {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

#[tokio::test]
async fn token_file_that_vanishes_is_a_passing_failure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let session = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .http_client(Sts)
        .build();
    let sts = aws_sdk_sts::Client::new(&session);
    let web = WebIdentity { sts, role: "role".into(), file: file.clone(), session_name: SESSION_NAME.into() };
    for _ in 0..2 {
        let error = web.provide_credentials().await.unwrap_err();
        assert!(matches!(judge(&error, false), AccessError::CredentialsUnavailable(_)), "{error:?}");
        assert!(causes(&error).contains(&file.display().to_string()), "{error:?}");
        // The line end is not part of the token.
        std::fs::write(&file, "fresh\n").unwrap();
        let given = web.provide_credentials().await.unwrap();
        assert_eq!((given.access_key_id(), given.session_token()), ("WEB", Some("token")));
        assert_eq!(given.account_id().map(AccountId::as_str), Some("111122223333"));
        assert!(given.expiry().is_some_and(|expiry| expiry > SystemTime::now()));
        std::fs::remove_file(&file).unwrap();
    }
}
