//! Whatever the source of credentials, are the calls signed with what it gives?
//!
//! A fake of Kinesis, DynamoDB, STS, IAM Identity Center, the metadata of an instance and the credentials of a
//! container stands behind one loopback address, which `AWS_ENDPOINT_URL` and similar variables name. It records the
//! access key that signed each call, and refuses the call, so that the program ends.

use std::convert::Infallible;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinesis_input_cli::Exit;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::kinesis::PATIENCE;

/// A call to the fake: its path or operation, the key that signed it, and its body.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) what: String,
    pub(crate) key: String,
    body: String,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    asked: Vec<Asked>,
    /// The number of coming calls to STS, or to the container, that are throttled.
    throttled: usize,
}

pub(crate) struct Aws {
    pub(crate) endpoint: String,
    pub(crate) log: Arc<Mutex<Log>>,
    folder: tempfile::TempDir,
    _serving: JoinSet<()>,
}

pub(crate) const KEY: &str = "secretkeyofthetest";
/// SHA-1 of `dev`, the name of the session: the name of the file of its token.
const SSO_TOKEN: &str = "34c6fceca75e456f25e7e99531e2425c6c1de443.json";

fn answer(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

fn keys_as_json(id: &str) -> String {
    format!(
        r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{id}","SecretAccessKey":"{KEY}","Token":"token","SessionToken":"token","Expiration":"2099-01-01T00:00:00Z","Version":1}}"#
    )
}

fn sts(action: &str, id: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><AssumedRoleUser>\
         <AssumedRoleId>a:b</AssumedRoleId><Arn>arn:aws:sts::111122223333:assumed-role/r/b</Arn></AssumedRoleUser><Credentials>\
         <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{KEY}</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></{action}Result></{action}Response>"
    )
}

pub(crate) async fn serve(
    request: Request<Incoming>,
    log: Arc<Mutex<Log>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let signature = header("authorization");
    let key = signature.split("Credential=").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let target = header("x-amz-target").rsplit('.').next().unwrap_or_default();
    let action = body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or_default();
    let path = head.uri.path();
    let what = [target, action, path].into_iter().find(|what| !what.is_empty()).unwrap_or_default().to_owned();
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.asked.push(Asked { what: what.clone(), key: key.to_owned(), body: body.clone() });
    if log.throttled > 0 && (!action.is_empty() || path == "/container") {
        log.throttled -= 1;
        let error = "<ErrorResponse><Error><Code>Throttling</Code><Message>slow down</Message></Error></ErrorResponse>";
        return Ok(answer(400, error));
    }
    Ok(match (what.as_str(), path) {
        ("AssumeRole", _) => answer(200, sts("AssumeRole", &format!("ASSUMEDBY{key}"))),
        ("AssumeRoleWithWebIdentity", _) => answer(200, sts("AssumeRoleWithWebIdentity", "WEB")),
        (_, "/latest/api/token") => {
            let mut token = answer(200, "token");
            token.headers_mut().insert("x-aws-ec2-metadata-token-ttl-seconds", 21600.into());
            token
        }
        (_, "/latest/meta-data/iam/security-credentials/") => answer(200, "instance-role"),
        (_, "/latest/meta-data/iam/security-credentials/instance-role") => answer(200, keys_as_json("INSTANCE")),
        (_, "/container") => answer(200, keys_as_json("CONTAINER")),
        (_, "/federation/credentials") => answer(
            200,
            format!(
                r#"{{"roleCredentials":{{"accessKeyId":"SSO","secretAccessKey":"{KEY}","sessionToken":"token","expiration":4070908800000}}}}"#
            ),
        ),
        ("DescribeTable" | "DescribeStreamSummary", _) => {
            answer(400, r#"{"__type":"ResourceNotFoundException","message":"not here"}"#)
        }
        _ => answer(404, ""),
    })
}

impl Aws {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::<Mutex<Log>>::default();
        let mut serving = JoinSet::new();
        let served = Arc::clone(&log);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let log = Arc::clone(&served);
                let service = service_fn(move |request| serve(request, Arc::clone(&log)));
                connections.spawn(async move {
                    // A client that disconnects is not an error.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        let aws = Self { endpoint, log, folder: tempfile::tempdir().unwrap(), _serving: serving };
        aws.write_files();
        aws
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write_files(&self) {
        let folder = self.folder.path();
        std::fs::create_dir_all(folder.join(".aws/sso/cache")).unwrap();
        let token = r#"{"accessToken":"bearer","expiresAt":"2099-01-01T00:00:00Z","region":"us-east-1"}"#;
        std::fs::write(folder.join(".aws/sso/cache").join(SSO_TOKEN), token).unwrap();
        std::fs::write(folder.join("web-token"), "a token").unwrap();
        std::fs::write(folder.join("process.json"), keys_as_json("PROCESS")).unwrap();
        let role = |name: &str| format!("role_arn = arn:aws:iam::111122223333:role/{name}");
        let config = format!(
            "[profile static]\naws_access_key_id = STATIC\naws_secret_access_key = {KEY}\n\
             [profile chain]\n{}\nsource_profile = static\nexternal_id = from-outside\n\
             [profile chain2]\n{}\nsource_profile = chain\nduration_seconds = 1234\nrole_session_name = second\n\
             [profile self]\n{}\nsource_profile = self\ncredential_process = cat {}\n\
             [profile process]\ncredential_process = cat {}\n\
             [profile sso]\nsso_session = dev\nsso_account_id = 111122223333\nsso_role_name = reader\n\
             [sso-session dev]\nsso_region = us-east-1\nsso_start_url = https://example.invalid/start\n\
             [profile web]\n{}\nweb_identity_token_file = {}\n\
             [profile container]\n{}\ncredential_source = EcsContainer\n\
             [profile instance]\n{}\ncredential_source = Ec2InstanceMetadata\n",
            role("chain"),
            role("chain2"),
            role("self"),
            self.path("process.json"),
            self.path("process.json"),
            role("web"),
            self.path("web-token"),
            role("container"),
            role("instance"),
        );
        std::fs::write(folder.join("config"), config).unwrap();
        std::fs::write(folder.join("credentials"), "").unwrap();
    }

    /// The program, in an environment where all of AWS is the fake.
    pub(crate) fn program(&self, arguments: &[&str], environment: &[(&str, String)]) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_kinesis-input"));
        program
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("AWS_CONFIG_FILE", self.path("config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.path("credentials"))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.endpoint)
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .kill_on_drop(true);
        program
    }

    /// Runs a pipeline with these lines in its block, until it ends by itself.
    async fn run(&self, block: &str, environment: &[(&str, String)]) -> Output {
        let path = self.pipeline("orders", block);
        self.end(self.program(&["run", &path], environment)).await
    }

    /// A pipeline that reads this stream, with these lines in its block.
    pub(crate) fn pipeline(&self, stream: &str, block: &str) -> String {
        let yaml = format!(
            "input:\n  aws_kinesis:\n    streams: [\"{stream}\"]\n    enhanced_fan_out: {{ enabled: true }}\n{}\noutput: drop\n",
            block.lines().flat_map(|line| ["    ", line, "\n"]).collect::<String>()
        );
        let path = self.path("pipeline.yaml");
        std::fs::write(&path, yaml).unwrap();
        path
    }

    pub(crate) async fn end(&self, mut program: Command) -> Output {
        timeout(PATIENCE, program.output()).await.unwrap().unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner).asked)
    }

    pub(crate) fn file(&self) -> String {
        format!("checkpoint_file: \"{}\"", self.path("checkpoints"))
    }
}

/// Each profile, and the key that it leads to.
const PROFILES: [(&str, &str); 9] = [
    ("static", "STATIC"),
    ("chain", "ASSUMEDBYSTATIC"),
    ("chain2", "ASSUMEDBYASSUMEDBYSTATIC"),
    ("self", "ASSUMEDBYPROCESS"),
    ("process", "PROCESS"),
    ("sso", "SSO"),
    ("web", "WEB"),
    ("container", "ASSUMEDBYCONTAINER"),
    ("instance", "ASSUMEDBYINSTANCE"),
];

pub(crate) fn signed(asked: &[Asked], what: &str) -> Vec<String> {
    asked.iter().filter(|asked| asked.what == what).map(|asked| asked.key.clone()).collect()
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn credential_matrix_of_profiles() {
    let aws = Aws::start().await;
    let container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/container", aws.endpoint))];
    for (profile, key) in PROFILES {
        let block = format!("{}\ncredentials: {{ profile: {profile} }}", aws.file());
        let output = aws.run(&block, &container).await;
        let asked = aws.asked();
        assert_eq!(signed(&asked, "DescribeStreamSummary"), [key], "block, {profile}: {}", said(&output));
        assert_eq!(output.status.code(), Some(Exit::Input.code().into()), "{}", said(&output));

        let mut environment = container.to_vec();
        environment.push(("AWS_PROFILE", profile.to_owned()));
        let output = aws.run(&aws.file(), &environment).await;
        assert_eq!(signed(&aws.asked(), "DescribeStreamSummary"), [key], "AWS_PROFILE, {profile}: {}", said(&output));

        let block = format!(
            "credentials: {{ id: OTHER, secret: {KEY} }}\ndynamodb: {{ table: leases, credentials: {{ profile: {profile} }} }}"
        );
        let output = aws.run(&block, &container).await;
        assert_eq!(signed(&aws.asked(), "DescribeTable"), [key], "dynamodb, {profile}: {}", said(&output));

        let output = aws.end(aws.program(&["leases", "--table", "leases", "--profile", profile], &container)).await;
        let asked = aws.asked();
        assert_eq!(signed(&asked, "DescribeTable"), [key], "leases, {profile}: {}", said(&output));
        if profile.starts_with("chain") {
            assert!(asked.iter().any(|asked| asked.body.contains("ExternalId=from-outside")), "{asked:?}");
        }
        if profile == "chain2" {
            let second = asked.iter().find(|asked| asked.body.contains("role%2Fchain2")).unwrap();
            assert!(second.body.contains("DurationSeconds=1234") && second.body.contains("RoleSessionName=second"));
        }
    }
}

#[tokio::test]
async fn credential_matrix_of_the_environment_and_the_block() {
    let aws = Aws::start().await;
    let keys = || vec![("AWS_ACCESS_KEY_ID", "ENVIRONMENT".to_owned()), ("AWS_SECRET_ACCESS_KEY", KEY.to_owned())];
    let web = || {
        vec![
            ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/web".to_owned()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", aws.path("web-token")),
        ]
    };
    let container = || vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/container", aws.endpoint))];
    let role = "role: \"arn:aws:iam::111122223333:role/reader\", role_external_id: from-outside";
    let block_keys = format!("id: BLOCK, secret: {KEY}");
    for (credentials, environment, key) in [
        (String::new(), keys(), "ENVIRONMENT"),
        (String::new(), web(), "WEB"),
        (String::new(), container(), "CONTAINER"),
        (String::new(), vec![], "INSTANCE"),
        (block_keys.clone(), keys(), "BLOCK"),
        (format!("{block_keys}, {role}"), vec![], "ASSUMEDBYBLOCK"),
        (role.to_owned(), keys(), "ASSUMEDBYENVIRONMENT"),
        (role.to_owned(), container(), "ASSUMEDBYCONTAINER"),
        (format!("profile: chain, {role}"), vec![], "ASSUMEDBYASSUMEDBYSTATIC"),
        ("from_ec2_role: true".to_owned(), keys(), "INSTANCE"),
    ] {
        let own = format!("credentials: {{ {credentials} }}");
        let output = aws.run(&format!("{}\n{own}", aws.file()), &environment).await;
        let asked = aws.asked();
        assert_eq!(signed(&asked, "DescribeStreamSummary"), [key], "{own}: {}", said(&output));
        if credentials.contains("external") {
            assert!(asked.iter().any(|asked| asked.body.contains("ExternalId=from-outside")), "{asked:?}");
        }
        if credentials.is_empty() {
            continue;
        }
        // The table may have credentials of its own.
        let block = format!("credentials: {{ id: OTHER, secret: {KEY} }}\ndynamodb: {{ table: leases, {own} }}");
        let output = aws.run(&block, &environment).await;
        assert_eq!(signed(&aws.asked(), "DescribeTable"), [key], "dynamodb, {own}: {}", said(&output));
    }
}

#[tokio::test]
async fn endpoint_serves_dynamodb_and_sts() {
    let aws = Aws::start().await;
    let elsewhere = [("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned())];
    let role = "role: \"arn:aws:iam::111122223333:role/reader\"";
    let block = format!(
        "endpoint: {}\ncredentials: {{ id: BLOCK, secret: {KEY}, {role} }}\ndynamodb: {{ table: leases }}",
        aws.endpoint
    );
    let output = aws.run(&block, &elsewhere).await;
    let asked = aws.asked();
    let assumed = signed(&asked, "AssumeRole");
    assert!(!assumed.is_empty() && assumed.iter().all(|key| key == "BLOCK"), "{assumed:?}: {}", said(&output));
    assert_eq!(signed(&asked, "DescribeTable"), ["ASSUMEDBYBLOCK"], "{}", said(&output));
    // The roles of a profile and web identities use it too, also in `leases`.
    for (profile, key) in [("chain", "ASSUMEDBYSTATIC"), ("chain2", "ASSUMEDBYASSUMEDBYSTATIC"), ("web", "WEB")] {
        let block =
            format!("endpoint: {}\ncredentials: {{ profile: {profile} }}\ndynamodb: {{ table: leases }}", aws.endpoint);
        let output = aws.run(&block, &elsewhere).await;
        assert_eq!(signed(&aws.asked(), "DescribeTable"), [key], "{profile}: {}", said(&output));
        let environment = [elsewhere[0].clone(), ("AWS_PROFILE", profile.to_owned())];
        let block = format!("endpoint: {}\ndynamodb: {{ table: leases }}", aws.endpoint);
        let output = aws.run(&block, &environment).await;
        assert_eq!(signed(&aws.asked(), "DescribeTable"), [key], "AWS_PROFILE, {profile}: {}", said(&output));
        let arguments = ["leases", "--table", "leases", "--profile", profile, "--endpoint", &aws.endpoint];
        let output = aws.end(aws.program(&arguments, &elsewhere)).await;
        assert_eq!(signed(&aws.asked(), "DescribeTable"), [key], "leases, {profile}: {}", said(&output));
    }
    let web = [
        elsewhere[0].clone(),
        ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/web".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", aws.path("web-token")),
        ("AWS_ROLE_SESSION_NAME", "named".to_owned()),
    ];
    let output = aws.run(&format!("endpoint: {}\ndynamodb: {{ table: leases }}", aws.endpoint), &web).await;
    let asked = aws.asked();
    assert_eq!(signed(&asked, "DescribeTable"), ["WEB"], "{}", said(&output));
    assert!(asked.iter().any(|asked| asked.body.contains("RoleSessionName=named")), "{asked:?}");
    // STS may have an endpoint of its own.
    let environment = [
        elsewhere[0].clone(),
        ("AWS_ENDPOINT_URL_STS", aws.endpoint.clone()),
        ("AWS_ENDPOINT_URL_DYNAMODB", aws.endpoint.clone()),
        ("AWS_ENDPOINT_URL_KINESIS", aws.endpoint.clone()),
        ("AWS_PROFILE", "chain2".to_owned()),
    ];
    let output = aws.run("dynamodb: { table: leases }", &environment).await;
    assert_eq!(signed(&aws.asked(), "DescribeTable"), ["ASSUMEDBYASSUMEDBYSTATIC"], "{}", said(&output));
    // An endpoint of the environment for one service takes precedence.
    let environment = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", aws.endpoint.clone()),
        ("AWS_ENDPOINT_URL_KINESIS", aws.endpoint.clone()),
    ];
    let block = format!("credentials: {{ id: BLOCK, secret: {KEY} }}\ndynamodb: {{ table: leases }}");
    let output = aws.run(&block, &environment).await;
    assert_eq!(signed(&aws.asked(), "DescribeTable"), ["BLOCK"], "{}", said(&output));
    let output = aws.run(&format!("{}\ncredentials: {{ id: BLOCK, secret: {KEY} }}", aws.file()), &environment).await;
    assert_eq!(signed(&aws.asked(), "DescribeStreamSummary"), ["BLOCK"], "{}", said(&output));
}

#[tokio::test]
async fn credentials_late_at_the_start() {
    let aws = Aws::start().await;
    // STS throttles more often than its client retries.
    aws.log.lock().unwrap_or_else(PoisonError::into_inner).throttled = 6;
    let role = "role: \"arn:aws:iam::111122223333:role/reader\"";
    let block = format!("{}\ncredentials: {{ id: BLOCK, secret: {KEY}, {role} }}", aws.file());
    let output = aws.run(&block, &[]).await;
    assert_eq!(signed(&aws.asked(), "DescribeStreamSummary"), ["ASSUMEDBYBLOCK"], "{}", said(&output));
    assert!(said(&output).contains("can't be had yet"), "{}", said(&output));
    // A token file that is written later, and an agent that does not exist yet.
    let late = Path::new(&aws.path("late-token")).to_owned();
    let environment = [
        ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/web".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", late.display().to_string()),
    ];
    let yaml = aws.path("pipeline.yaml");
    let mut program = aws.program(&["run", &yaml], &environment);
    std::fs::write(
        &yaml,
        format!(
            "input:\n  aws_kinesis:\n    streams: [orders]\n    enhanced_fan_out: {{ enabled: true }}\n    {}\noutput: drop\n",
            aws.file()
        ),
    )
    .unwrap();
    let mut child = program.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stderr.take().unwrap());
    let mut log = String::new();
    while !log.contains("can't be had yet") {
        let read =
            timeout(PATIENCE, tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut log)).await.unwrap().unwrap();
        assert!(read > 0, "it ended: {log}");
    }
    std::fs::write(&late, "a token").unwrap();
    timeout(PATIENCE, child.wait()).await.expect("it does not end").unwrap();
    assert_eq!(signed(&aws.asked(), "DescribeStreamSummary"), ["WEB"]);
}

#[tokio::test]
async fn credentials_that_no_header_can_carry_are_named() {
    let aws = Aws::start().await;
    std::fs::write(aws.folder.path().join("odd.json"), keys_as_json("PROCESS").replace(KEY, "secret\\nof two lines"))
        .unwrap();
    let config = std::fs::read_to_string(aws.path("config")).unwrap();
    let odd = format!("{config}\n[profile odd]\ncredential_process = cat {}\n", aws.path("odd.json"));
    std::fs::write(aws.path("config"), odd).unwrap();
    let env = |id: &str, secret: &str, token: &str| {
        let mut all = vec![("AWS_ACCESS_KEY_ID", id.to_owned()), ("AWS_SECRET_ACCESS_KEY", secret.to_owned())];
        if !token.is_empty() {
            all.push(("AWS_SESSION_TOKEN", token.to_owned()));
        }
        all
    };
    let none = || vec![("AWS_REGION", "us-east-1".to_owned())];
    for (credentials, environment, named) in [
        ("", env("SECRETID\nX", "good", ""), "access key id"),
        ("", env("ID", "SECRETLINE\n", ""), "secret access key"),
        ("", env("ID", "good", "SECRETTOKEN\r\nx"), "session token"),
        ("id: \"SECRETID\\nX\", secret: good", none(), "access key id"),
        ("id: ID, secret: \"SECRETLINE\\nx\"", none(), "secret access key"),
        ("id: ID, secret: good, token: \"SECRETTOKEN\\u0001\"", none(), "session token"),
        ("profile: odd", none(), "secret access key"),
        ("", vec![("AWS_REGION", "eu-west-1\n".to_owned())], "region"),
    ] {
        let block = format!("{}\ncredentials: {{ {credentials} }}", aws.file());
        let output = aws.run(&block, &environment).await;
        let log = said(&output);
        assert_eq!(output.status.code(), Some(Exit::Input.code().into()), "{credentials} {environment:?}: {log}");
        assert!(log.contains(named), "{credentials} {environment:?}: {log}");
        assert!(!log.contains("SECRET") && !log.contains("of two lines"), "{log}");
    }
}

#[tokio::test]
async fn invalid_proxy_is_not_bypassed() {
    let aws = Aws::start().await;
    let environment = [("HTTPS_PROXY", "http://user:hidden@pro xy".to_owned())];
    let block = format!("{}\ncredentials: {{ id: BLOCK, secret: {KEY} }}", aws.file());
    let output = aws.run(&block, &environment).await;
    assert_eq!(output.status.code(), Some(Exit::Input.code().into()));
    assert!(said(&output).contains("HTTPS_PROXY") && !said(&output).contains("hidden"), "{}", said(&output));
    assert!(aws.asked().is_empty());
}

/// Configures what the program can't do, and expects an error that says so.
async fn refused(aws: &Aws, block: &str, environment: &[(&str, String)], named: &[&str]) {
    let output = aws.run(block, environment).await;
    let log = said(&output);
    assert_eq!(output.status.code(), Some(Exit::Input.code().into()), "{environment:?}: {log}");
    for name in named {
        assert!(log.contains(name), "{name}, {environment:?}: {log}");
    }
    assert!(!log.contains("panicked") && !log.contains("hidden"), "{log}");
    assert!(aws.asked().is_empty(), "{environment:?}: {log}");
}

#[tokio::test]
async fn setting_that_can_not_be_followed_is_refused_by_its_name() {
    let aws = Aws::start().await;
    let block = format!("{}\ncredentials: {{ id: BLOCK, secret: {KEY} }}", aws.file());
    for (name, value) in [
        ("AWS_MAX_ATTEMPTS", "many"),
        ("AWS_RETRY_MODE", "legacy"),
        ("AWS_USE_FIPS_ENDPOINT", "yes"),
        ("AWS_DEFAULTS_MODE", "mobile"),
        ("AWS_PROFILE", "nowhere"),
        ("AWS_ENDPOINT_URL", "http://user:hidden@pro xy"),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_ENDPOINT_URL_KINESIS", "http://localhost\n:hidden"),
        ("AWS_ENDPOINT_URL_KINESIS", "localhost:4566"),
        ("AWS_CA_BUNDLE", "/nowhere/bundle.pem"),
    ] {
        refused(&aws, &block, &[(name, value.to_owned())], &[name]).await;
    }
    let program = |arguments: &[&str], name: &str| {
        let mut program = aws.program(arguments, &[]);
        let odd: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![b'a', 0xff]);
        program.env(name, odd);
        program
    };
    for name in ["AWS_PROFILE", "AWS_ENDPOINT_URL", "https_proxy"] {
        let output = aws.end(program(&["leases", "--table", "leases"], name)).await;
        assert!(said(&output).contains(&format!("{name} is not UTF-8")), "{}", said(&output));
    }
    refused(
        &aws,
        &format!("{}\ncredentials: {{ from_ec2_role: true }}", aws.file()),
        &[("AWS_EC2_METADATA_DISABLED", "true".to_owned())],
        &["AWS_EC2_METADATA_DISABLED", "from_ec2_role"],
    )
    .await;
    // A profile that is not used may contain anything.
    let config = std::fs::read_to_string(aws.path("config")).unwrap();
    let odd = "[default]\nrole_arn = arn:aws:iam::111122223333:role/a\nsource_profile = static\nmfa_serial = arn:aws:iam::1:mfa/me\n";
    std::fs::write(aws.path("config"), format!("{config}{odd}")).unwrap();
    refused(&aws, &aws.file(), &[], &["mfa_serial of the AWS profile default"]).await;
    let keys = [("AWS_ACCESS_KEY_ID", "ENVIRONMENT".to_owned()), ("AWS_SECRET_ACCESS_KEY", KEY.to_owned())];
    let output = aws.run(&aws.file(), &keys).await;
    assert_eq!(signed(&aws.asked(), "DescribeStreamSummary"), ["ENVIRONMENT"], "{}", said(&output));
}

#[tokio::test]
async fn fips_and_dual_stack_with_an_endpoint_are_refused_by_their_names() {
    let aws = Aws::start().await;
    let keys = format!("credentials: {{ id: BLOCK, secret: {KEY} }}");
    for name in ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"] {
        let on = (name, "true".to_owned());
        refused(
            &aws,
            &format!("{}\n{keys}", aws.file()),
            std::slice::from_ref(&on),
            &[name, "AWS_ENDPOINT_URL says", "Kinesis"],
        )
        .await;
        let block = format!("{}\nendpoint: {}\n{keys}", aws.file(), aws.endpoint);
        refused(&aws, &block, std::slice::from_ref(&on), &[name, "`endpoint` says"]).await;
        // Each service has its own setting.
        let ignored = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true".to_owned());
        let table = format!("{keys}\ndynamodb: {{ table: leases, endpoint: \"{}\" }}", aws.endpoint);
        refused(&aws, &table, &[on.clone(), ignored.clone()], &[name, "DynamoDB"]).await;
        let output = aws.end(aws.program(&["leases", "--table", "leases"], std::slice::from_ref(&on))).await;
        assert!(said(&output).contains(name) && said(&output).contains("DynamoDB"), "{}", said(&output));
    }
}
