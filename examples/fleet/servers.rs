//! The local services as processes of their own, and access to the table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use ferrokinesis::store::StoreOptions;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::AnyError;
use crate::writer::{REGION, STREAM};
use kinesis_testkit::local_kinesis::LocalKinesis;

/// The lease table of the fleet.
pub const TABLE: &str = "fleet-leases";

/// Runs the process of Kinesis.
pub async fn be_kinesis() -> Result<bool, AnyError> {
    let options = StoreOptions {
        create_stream_ms: 0,
        update_stream_ms: 0,
        shard_limit: 500,
        aws_region: REGION.to_owned(),
        ..StoreOptions::default()
    };
    let server = LocalKinesis::start(options).await?;
    println!("{}", server.endpoint().trim_start_matches("http://"));
    std::future::pending().await
}

/// Runs the process of DynamoDB.
pub async fn be_dynamodb() -> Result<bool, AnyError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    dynoxide::server::serve_on(listener, dynoxide::Database::memory()?).await;
    Ok(false)
}

/// A service in a process of its own. It ends when this is dropped.
pub struct Server {
    pub address: SocketAddr,
    _process: Child,
}

impl Server {
    /// Starts this program again in another role, and waits for its address.
    pub async fn start(role: &str) -> Result<Self, AnyError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--role", role])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = process.stdout.take().ok_or("no output")?;
        let line = BufReader::new(out).lines().next_line().await?.ok_or("the server ended")?;
        Ok(Self { address: line.trim_end_matches('/').parse()?, _process: process })
    }
}

/// Reads the lease table beside the workers.
#[derive(Clone)]
pub struct Table {
    client: Client,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    holders: HashMap<String, String>,
    moves: u64,
    /// The position of each shard, and how often one went back: a worker wrote that did not own it.
    positions: HashMap<String, String>,
    steps_back: u64,
}

/// A row of the table.
struct Lease {
    shard: String,
    holder: Option<String>,
    position: Option<String>,
}

impl Table {
    pub fn new(address: &str) -> Self {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new("fleet", "fleet", None, None, "fleet"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(format!("http://{address}"))
            .build();
        Self { client: Client::from_conf(config), seen: Arc::default() }
    }

    /// Reads the leases of each worker over and over. A shard that went from one worker to another has moved.
    pub async fn count_moves(&self) {
        loop {
            // The table does not exist at first.
            if let Ok(leases) = self.leases().await {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                for Lease { shard, holder, position } in leases {
                    if let Some(position) = position {
                        let before = seen.positions.insert(shard.clone(), position.clone());
                        // These are decimal numbers: one with more digits is greater.
                        let order = |position: &str| (position.len(), position.to_owned());
                        seen.steps_back += u64::from(before.is_some_and(|before| order(&before) > order(&position)));
                    }
                    let Some(holder) = holder else { continue };
                    let before = seen.holders.insert(shard, holder.clone());
                    seen.moves += u64::from(before.is_some_and(|before| before != holder));
                }
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    pub fn moves(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).moves
    }

    pub fn steps_back(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).steps_back
    }

    pub fn shards(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).holders.len()
    }

    /// The number of shards that are still held.
    pub async fn held(&self) -> Result<usize, AnyError> {
        Ok(self.leases().await?.into_iter().filter(|lease| lease.holder.is_some()).count())
    }

    async fn leases(&self) -> Result<Vec<Lease>, AnyError> {
        let query = self.client.query().table_name(TABLE).consistent_read(true);
        let query = query.key_condition_expression("StreamID = :stream");
        let query = query.expression_attribute_values(":stream", AttributeValue::S(STREAM.into()));
        let answer = query.send().await?;
        let text = |item: &HashMap<String, AttributeValue>, name: &str| {
            item.get(name).and_then(|value| value.as_s().ok()).cloned()
        };
        let items = answer.items.unwrap_or_default();
        let lease = |item| Lease {
            shard: text(item, "ShardID").unwrap_or_default(),
            holder: text(item, "ClientID"),
            position: text(item, "SequenceNumber"),
        };
        Ok(items.iter().map(lease).collect())
    }
}
