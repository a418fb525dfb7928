//! How does a reader reach the server? Each reader is a process of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, SharedHttpClient, StalledStreamProtectionConfig};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use kinesis_input::KinesisInput;
use kinesis_input::internals::{Settings, SubscriptionClient};
use pipeline_plugin_api::Input;
use pipeline_plugin_api::config::{Document, Environment};
use pipeline_plugin_api::registry::Registry;

use serde::{Deserialize, Serialize};

use crate::AnyError;
use kinesis_testkit::replay::Load;

/// What a reader reads, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub endpoint: String,
    pub certificate: PathBuf,
    /// The load that the server sends.
    pub load: Load,
    pub reading: Reading,
    /// The payload to read, of all shards together.
    pub bytes: u64,
}

/// How to read.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, clap::Args)]
pub struct Reading {
    /// Window of a stream, in KiB, for all but `sdk`.
    #[arg(long, default_value_t = 512)]
    pub window: u32,
    /// The pool of the plugin, in MiB.
    #[arg(long, default_value_t = 256)]
    pub pool: u64,
    /// How late acks come, in seconds, with a blocked output; 0 for never.
    #[arg(long, default_value_t = 0)]
    pub late: u64,
    /// Poll the shards, with answers in this encoding, instead of reading them by enhanced fan-out.
    #[arg(long, value_enum)]
    pub poll: Option<Encoding>,
}

/// The encoding of answers of GetRecords.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, clap::ValueEnum)]
pub enum Encoding {
    Json,
    Cbor,
}

impl Job {
    /// The same, by polling.
    pub fn polling(&self, encoding: Encoding) -> Self {
        Self { reading: Reading { poll: Some(encoding), ..self.reading }, ..self.clone() }
    }

    /// The SDK's client over an HTTP client.
    pub fn sdk(&self, http: SharedHttpClient) -> Client {
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("bench", "bench", None, None, "bench"))
            .endpoint_url(&self.endpoint)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .http_client(http)
            .build();
        Client::from_conf(config)
    }

    /// The SDK's own HTTP client.
    pub fn sdk_http(&self) -> Result<SharedHttpClient, AnyError> {
        let trust = TrustStore::default().with_pem_certificate(std::fs::read(&self.certificate)?);
        let context = TlsContext::builder().with_trust_store(trust).build()?;
        let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        Ok(builder.tls_context(context).build_https())
    }

    /// Our HTTP client.
    pub fn our_http(&self) -> Result<SharedHttpClient, AnyError> {
        let trusted = std::fs::read(&self.certificate)?;
        let settings = Settings { stream_window: self.reading.window << 10, trusted, ..Settings::default() };
        Ok(SharedHttpClient::new(SubscriptionClient::new(settings)))
    }

    /// A connected input, and the folder of its checkpoints.
    pub async fn input(&self) -> Result<(Arc<dyn Input>, tempfile::TempDir), AnyError> {
        let folder = tempfile::tempdir()?;
        let mut registry = Registry::new();
        registry.register(KinesisInput::new().trust_certificates(std::fs::read(&self.certificate)?))?;
        let yaml = self.block(&folder.path().join("checkpoints"));
        let document = Document::from_yaml("bench.yaml", &yaml, &Environment::empty())?;
        let input = registry.get("aws_kinesis").ok_or("not registered")?.build(&document, &[])?.input;
        input.connect().await?;
        Ok((input, folder))
    }

    /// The configuration of the plugin.
    pub fn block(&self, checkpoints: &Path) -> String {
        // The server sends every shard the same records, whatever their keys.
        let yaml = format!(
            "streams: [bench]\nregion: us-east-1\nkpl: {{out_of_range: deliver}}\nendpoint: {}\ncredentials: {{id: bench, secret: bench}}\n\
             checkpoint_file: \"{}\"\nenhanced_fan_out: {{enabled: {}, max_pending_bytes: {}MiB, stream_window: {}KiB}}\n",
            self.endpoint,
            checkpoints.display(),
            self.reading.poll.is_none(),
            self.reading.pool,
            self.reading.window,
        );
        let polling = match self.reading.poll {
            None => "",
            Some(Encoding::Json) => "polling: {encoding: json}\n",
            Some(Encoding::Cbor) => "polling: {encoding: cbor}\n",
        };
        yaml + polling
    }
}
