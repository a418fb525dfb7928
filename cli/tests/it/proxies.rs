//! Where does traffic go, and what bypasses the proxy?
//!
//! A proxy on loopback records the requests to it, and acts as every server that the program wants to reach behind it:
//! the hosts are AWS's own, and nothing leaves this machine. The metadata of the instance and the credentials of the
//! container are on another address, which records its requests as well.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinesis_input_cli::Exit;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::credentials::{Aws, KEY, Log, said, serve, signed};
use crate::kinesis::PATIENCE;

/// Every host that the cases below use.
const HOSTS: [&str; 15] = [
    "kinesis.us-east-1.amazonaws.com",
    "kinesis-fips.us-east-1.amazonaws.com",
    "kinesis.us-east-1.api.aws",
    "kinesis-fips.us-east-1.api.aws",
    "kinesis.cn-north-1.amazonaws.com.cn",
    "111122223333.control-kinesis.us-east-1.amazonaws.com",
    "111122223333.control-kinesis.us-west-2.amazonaws.com",
    "111122223333.control-kinesis-fips.us-east-1.amazonaws.com",
    "111122223333.control-kinesis.us-east-1.api.aws",
    "dynamodb.us-east-1.amazonaws.com",
    "111122223333.ddb.us-east-1.amazonaws.com",
    "sts.us-east-1.amazonaws.com",
    "sts-fips.us-east-1.amazonaws.com",
    "portal.sso.us-east-1.amazonaws.com",
    "portal.sso-fips.us-east-1.amazonaws.com",
];

/// The proxy, and everything behind it.
struct Proxy {
    port: u16,
    /// The requests: `CONNECT host:port`, or a method and an absolute address.
    lines: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Answers like AWS for these hosts, or with a status that refuses.
    async fn start(aws: &Aws, refuses: Option<StatusCode>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(HOSTS.map(ToOwned::to_owned)).unwrap();
        std::fs::write(aws.path("bundle.pem"), cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![CertificateDer::from(cert)], key).unwrap();
        let behind = Behind {
            tls: TlsAcceptor::from(Arc::new(config)),
            log: Arc::clone(&aws.log),
            lines: Arc::default(),
            tunnels: Arc::default(),
            refuses,
        };
        let lines = Arc::clone(&behind.lines);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let behind = behind.clone();
                let service = service_fn(move |request| behind.clone().answer(request));
                connections.spawn(async move {
                    // A client that disconnects is not an error.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await;
                });
            }
        });
        Self { port, lines, _serving: serving }
    }

    fn url(&self) -> String {
        format!("http://user:hidden@127.0.0.1:{}", self.port)
    }

    /// The requests since the last call, each once.
    fn lines(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        lines.sort();
        lines.dedup();
        lines
    }
}

#[derive(Clone)]
struct Behind {
    tls: TlsAcceptor,
    log: Arc<Mutex<Log>>,
    lines: Arc<Mutex<Vec<String>>>,
    refuses: Option<StatusCode>,
    /// The connections with the servers behind the proxy.
    tunnels: Arc<Mutex<JoinSet<()>>>,
}

impl Behind {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let line = format!("{} {}", request.method(), request.uri());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        assert_eq!(request.headers()["proxy-authorization"], "Basic dXNlcjpoaWRkZW4=");
        if let Some(status) = self.refuses {
            let mut refusal = Response::new(Full::default());
            *refusal.status_mut() = status;
            return Ok(refusal);
        }
        if request.method() != Method::CONNECT {
            return serve(request, self.log).await;
        }
        let tunnels = Arc::clone(&self.tunnels);
        tunnels.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let Ok(stream) = self.tls.accept(TokioIo::new(upgraded)).await else { return };
            let service = service_fn(move |request| serve(request, Arc::clone(&self.log)));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        Ok(Response::default())
    }
}

/// The program, with this proxy between it and everything.
fn program(aws: &Aws, proxy: &Proxy, arguments: &[&str], environment: &[(&str, String)]) -> Command {
    let mut program = aws.program(arguments, environment);
    program.env("HTTPS_PROXY", proxy.url()).env("HTTP_PROXY", proxy.url()).env("AWS_CA_BUNDLE", aws.path("bundle.pem"));
    if environment.iter().all(|(name, _)| *name != "AWS_ENDPOINT_URL") {
        program.env_remove("AWS_ENDPOINT_URL");
    }
    program
}

#[tokio::test]
async fn traffic_goes_where_the_environment_says() {
    let aws = Aws::start().await;
    let proxy = Proxy::start(&aws, None).await;
    let arn = "arn:aws:kinesis:us-east-1:111122223333:stream/orders";
    let on = |name: &'static str| (name, "true".to_owned());
    let container = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/container", aws.endpoint));
    let keys = format!("credentials: {{ id: BLOCK, secret: {KEY} }}");
    let profile = |name: &str| format!("credentials: {{ profile: {name} }}");
    // With credentials that name their account, the account's own hosts are called.
    let account = "111122223333.control-kinesis.us-east-1.amazonaws.com";
    let account_fips = "111122223333.control-kinesis-fips.us-east-1.amazonaws.com";
    let off = ("AWS_ACCOUNT_ID_ENDPOINT_MODE", "disabled".to_owned());
    let (kinesis, sts) = ("kinesis.us-east-1.amazonaws.com", "sts.us-east-1.amazonaws.com");
    let (fips, dual) = (on("AWS_USE_FIPS_ENDPOINT"), on("AWS_USE_DUALSTACK_ENDPOINT"));
    for (stream, block, environment, key, hosts) in [
        // The metadata and the container are called without the proxy.
        ("orders", "credentials: { from_ec2_role: true }".to_owned(), vec![], "INSTANCE", vec![kinesis]),
        ("orders", String::new(), vec![], "INSTANCE", vec![kinesis]),
        ("orders", String::new(), vec![container.clone()], "CONTAINER", vec![kinesis]),
        ("orders", profile("instance"), vec![], "ASSUMEDBYINSTANCE", vec![account, sts]),
        ("orders", profile("container"), vec![container.clone()], "ASSUMEDBYCONTAINER", vec![account, sts]),
        ("orders", profile("chain2"), vec![], "ASSUMEDBYASSUMEDBYSTATIC", vec![account, sts]),
        ("orders", profile("web"), vec![], "WEB", vec![account, sts]),
        ("orders", profile("web"), vec![off.clone()], "WEB", vec![kinesis, sts]),
        ("orders", profile("sso"), vec![], "SSO", vec![account, "portal.sso.us-east-1.amazonaws.com"]),
        (arn, keys.clone(), vec![], "BLOCK", vec![account]),
        (arn, keys.clone(), vec![off], "BLOCK", vec![account]),
        ("orders", keys.clone(), vec![fips.clone()], "BLOCK", vec!["kinesis-fips.us-east-1.amazonaws.com"]),
        ("orders", keys.clone(), vec![dual.clone()], "BLOCK", vec!["kinesis.us-east-1.api.aws"]),
        ("orders", keys.clone(), vec![fips.clone(), dual.clone()], "BLOCK", vec!["kinesis-fips.us-east-1.api.aws"]),
        (arn, keys.clone(), vec![fips.clone()], "BLOCK", vec![account_fips]),
        (arn, keys.clone(), vec![dual], "BLOCK", vec!["111122223333.control-kinesis.us-east-1.api.aws"]),
        (
            "orders",
            profile("chain"),
            vec![fips.clone()],
            "ASSUMEDBYSTATIC",
            vec![account_fips, "sts-fips.us-east-1.amazonaws.com"],
        ),
        ("orders", profile("sso"), vec![fips], "SSO", vec![account_fips, "portal.sso-fips.us-east-1.amazonaws.com"]),
        ("orders", format!("region: cn-north-1\n{keys}"), vec![], "BLOCK", vec!["kinesis.cn-north-1.amazonaws.com.cn"]),
    ] {
        let pipeline = aws.pipeline(stream, &format!("{}\n{block}", aws.file()));
        let output = aws.end(program(&aws, &proxy, &["run", &pipeline], &environment)).await;
        let case = format!("{stream} {block} {environment:?}: {}", said(&output));
        let mut expected: Vec<_> = hosts.iter().map(|host| format!("CONNECT {host}:443")).collect();
        expected.sort();
        assert_eq!(proxy.lines(), expected, "{case}");
        assert_eq!(signed(&aws.asked(), "DescribeStreamSummary"), [key], "{case}");
        assert_eq!(output.status.code(), Some(Exit::Input.code().into()), "{case}");
    }
}

#[tokio::test]
async fn leases_are_read_through_the_proxy() {
    let aws = Aws::start().await;
    let proxy = Proxy::start(&aws, None).await;
    let account = ("AWS_ACCOUNT_ID", "111122223333".to_owned());
    let keys = [("AWS_ACCESS_KEY_ID", "ENVIRONMENT".to_owned()), ("AWS_SECRET_ACCESS_KEY", KEY.to_owned())];
    let off = ("AWS_ACCOUNT_ID_ENDPOINT_MODE", "disabled".to_owned());
    for (environment, host) in [
        (keys.to_vec(), "dynamodb.us-east-1.amazonaws.com"),
        ([keys.to_vec(), vec![account.clone()]].concat(), "111122223333.ddb.us-east-1.amazonaws.com"),
        ([keys.to_vec(), vec![account, off]].concat(), "dynamodb.us-east-1.amazonaws.com"),
    ] {
        let output = aws.end(program(&aws, &proxy, &["leases", "--table", "leases"], &environment)).await;
        assert_eq!(proxy.lines(), [format!("CONNECT {host}:443")], "{}", said(&output));
        assert_eq!(signed(&aws.asked(), "DescribeTable"), ["ENVIRONMENT"], "{}", said(&output));
    }
}

#[tokio::test]
async fn endpoint_without_tls_goes_through_the_proxy_unless_it_is_excepted() {
    let aws = Aws::start().await;
    let proxy = Proxy::start(&aws, None).await;
    let pipeline = aws.pipeline("orders", &format!("{}\ncredentials: {{ id: BLOCK, secret: {KEY} }}", aws.file()));
    // The configured address of the metadata service is called without the proxy.
    let elsewhere = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9".to_owned());
    let endpoint = ("AWS_ENDPOINT_URL", aws.endpoint.clone());
    let environment = [elsewhere, endpoint];
    let output = aws.end(program(&aws, &proxy, &["run", &pipeline], &environment)).await;
    assert_eq!(proxy.lines(), [format!("POST {}/", aws.endpoint)], "{}", said(&output));
    assert_eq!(signed(&aws.asked(), "DescribeStreamSummary"), ["BLOCK"]);
    let mut excepted = program(&aws, &proxy, &["run", &pipeline], &environment);
    let output = aws
        .end({
            excepted.env("NO_PROXY", "127.0.0.1");
            excepted
        })
        .await;
    assert!(proxy.lines().is_empty(), "{}", said(&output));
    assert_eq!(signed(&aws.asked(), "DescribeStreamSummary"), ["BLOCK"]);
}

#[tokio::test]
async fn proxy_that_refuses_is_named_with_its_status() {
    let aws = Aws::start().await;
    for (status, expected) in [(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "407 Proxy"), (StatusCode::FORBIDDEN, "403")]
    {
        let proxy = Proxy::start(&aws, Some(status)).await;
        let expected = format!("proxy http://127.0.0.1:{} answered {expected}", proxy.port);
        let keys = aws.pipeline("orders", &format!("{}\ncredentials: {{ id: BLOCK, secret: {KEY} }}", aws.file()));
        until_said(program(&aws, &proxy, &["run", &keys], &[]), &expected).await;
        let role = aws.pipeline("orders", &format!("{}\ncredentials: {{ profile: chain }}", aws.file()));
        until_said(program(&aws, &proxy, &["run", &role], &[]), &expected).await;
        if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            let endpoint = [
                ("AWS_ENDPOINT_URL", aws.endpoint.clone()),
                ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9".to_owned()),
            ];
            until_said(program(&aws, &proxy, &["run", &keys], &endpoint), &expected).await;
        }
    }
    assert!(aws.asked().is_empty());
}

/// Runs the program until it prints this text.
async fn until_said(mut program: Command, expected: &str) {
    let mut child = program.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut log = String::new();
    while !log.contains(expected) {
        let read = timeout(PATIENCE, lines.read_line(&mut log)).await;
        assert!(read.is_ok_and(|read| read.unwrap() > 0), "`{expected}` is not said: {log}");
        assert!(!log.contains("hidden"), "{log}");
    }
    child.kill().await.unwrap();
}

#[test]
fn hosts_that_the_proxy_sees_are_documented() {
    let document = include_str!("../../../docs/credentials-and-network.md");
    for host in HOSTS.into_iter().filter(|host| !host.contains("cn-north-1")) {
        let pattern =
            host.replace("us-east-1", "<region>").replace("us-west-2", "<region>").replace("111122223333", "<account>");
        assert!(document.contains(&format!("`{pattern}`")), "{pattern}");
    }
}

#[tokio::test]
async fn check_calls_each_region_and_names_its_hosts() {
    let aws = Aws::start().await;
    let proxy = Proxy::start(&aws, None).await;
    let path = aws.pipeline("orders", &format!("{}\nregion: us-east-1", aws.file()));
    let elsewhere = "arn:aws:kinesis:us-west-2:111122223333:stream/orders";
    let yaml = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, yaml.replace("[\"orders\"]", &format!("[orders, \"{elsewhere}\"]"))).unwrap();
    let environment = [("AWS_ACCESS_KEY_ID", "ENVIRONMENT".to_owned()), ("AWS_SECRET_ACCESS_KEY", KEY.to_owned())];
    let run =
        |environment: Vec<(&'static str, String)>| aws.end(program(&aws, &proxy, &["check", &path], &environment));
    let output = run(environment.to_vec()).await;
    let lines = String::from_utf8(output.stdout).unwrap();
    let hosts = [
        "111122223333.control-kinesis.us-west-2.amazonaws.com",
        "kinesis.us-east-1.amazonaws.com",
        "sts.us-east-1.amazonaws.com",
    ];
    assert_eq!(proxy.lines(), hosts.map(|host| format!("CONNECT {host}:443")), "{lines}");
    for host in hosts {
        let line = format!("ok         host             https://{host}:443: answers, and its certificate is trusted\n");
        assert!(lines.contains(&line), "{lines}");
    }
    for part in [
        "streams: from the environment, for us-east-1\n",
        "orders: not found in region us-east-1",
        &format!("{elsewhere}: not found in region us-west-2"),
    ] {
        assert!(lines.contains(part), "{part} is missing:\n{lines}");
    }
    assert!(!lines.contains(KEY) && !lines.contains("ENVIRONMENT") && !lines.contains("hidden"), "{lines}");
    assert_eq!(output.status.code(), Some(Exit::Input.code().into()));
    // A source says when its credentials expire, and whose they are.
    let output = run(vec![("AWS_PROFILE", "chain".to_owned())]).await;
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(lines.contains("streams: from a role that was assumed, for us-east-1; they expire in "), "{lines}");
}
