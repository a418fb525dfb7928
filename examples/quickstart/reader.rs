//! Runs the pipeline: in this process, or in a child process that can be killed.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kinesis_input_cli::{Pipeline, RunOptions, StopHandle, registry, run};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use pipeline_plugin_api::{AckError, Batch, Demand, Input, InputError, Receipt, Status, Verdicts};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::AnyError;
use crate::check::Check;

/// How often a child reports its numbers.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// The numbers from the metrics of a reader.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    pub acked: u64,
    /// The shards of which records were read.
    pub shards: BTreeSet<String>,
    pub subscriptions: u64,
    pub peak_records: u64,
    pub peak_bytes: u64,
}

impl Numbers {
    /// The sum of two readers that ran one after the other.
    pub fn and(&self, next: &Self) -> Self {
        Self {
            acked: self.acked + next.acked,
            shards: self.shards.union(&next.shards).cloned().collect(),
            subscriptions: self.subscriptions + next.subscriptions,
            peak_records: self.peak_records.max(next.peak_records),
            peak_bytes: self.peak_bytes.max(next.peak_bytes),
        }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acked, shards, subscriptions, peak_records, peak_bytes } = self;
        write!(f, "{acked} {subscriptions} {peak_records} {peak_bytes}")?;
        shards.iter().try_for_each(|shard| write!(f, " {shard}"))
    }
}

impl FromStr for Numbers {
    type Err = AnyError;

    fn from_str(text: &str) -> Result<Self, AnyError> {
        let mut words = text.split(' ');
        let mut number = || words.next().ok_or("a number is missing")?.parse::<u64>().map_err(AnyError::from);
        let (acked, subscriptions, peak_records, peak_bytes) = (number()?, number()?, number()?, number()?);
        Ok(Self { acked, shards: words.map(str::to_owned).collect(), subscriptions, peak_records, peak_bytes })
    }
}

/// The metrics of this process, which may run several readers one after the other.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    pub fn install() -> Result<Self, AnyError> {
        Ok(Self(PrometheusBuilder::new().install_recorder()?))
    }

    pub fn read(&self) -> Numbers {
        let text = self.0.render();
        let mut numbers = Numbers::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let value = value.parse::<f64>().unwrap_or(0.0) as u64;
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            match name {
                "kinesis_input_acked_records_total" => numbers.acked += value,
                "kinesis_input_subscriptions_total" => numbers.subscriptions += value,
                "kinesis_input_pending_records_peak" => numbers.peak_records = value,
                "kinesis_input_pending_bytes_peak" => numbers.peak_bytes = value,
                "kinesis_input_read_records_total" if value > 0 => {
                    let shard = labels.split('"').find(|label| label.starts_with("shardId-"));
                    numbers.shards.extend(shard.map(str::to_owned));
                }
                _ => {}
            }
        }
        numbers
    }
}

/// A reader that runs.
pub enum Reader {
    Here {
        stop: StopHandle,
        running: JoinSet<Result<(), AnyError>>,
    },
    /// `input` is the child's standard input, whose end tells the child to stop.
    Child {
        child: Box<Child>,
        input: ChildStdin,
        numbers: watch::Receiver<Numbers>,
        listening: JoinSet<()>,
    },
}

impl Reader {
    /// Runs a pipeline in this process, as `kinesis-input run` would. The records that are acked are shown to
    /// `witness`.
    pub fn start(pipeline: &Path, witness: Option<Arc<Mutex<Check>>>) -> Result<Self, AnyError> {
        let mut pipeline = Pipeline::load(pipeline, &registry()?)?;
        if let Some(check) = witness {
            pipeline.input = Arc::new(Witnessed { input: pipeline.input, check });
        }
        let stop = StopHandle::new();
        let stopper = stop.clone();
        let mut running = JoinSet::new();
        running.spawn(async move { Ok(run(pipeline, RunOptions::default(), stopper).await.map(drop)?) });
        Ok(Self::Here { stop, running })
    }

    /// Runs a pipeline in a child process.
    pub fn start_child(pipeline: &Path) -> Result<Self, AnyError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--read-as-child")
            .arg(pipeline)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or("no pipe")?;
        // It is taken out, because waiting for a child closes what it still holds.
        let input = child.stdin.take().ok_or("no pipe")?;
        let (sender, numbers) = watch::channel(Numbers::default());
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(numbers) = line.parse() {
                    sender.send_replace(numbers);
                }
            }
        });
        Ok(Self::Child { child: Box::new(child), input, numbers, listening })
    }

    /// Waits until the reader ends, which it only does if it fails.
    pub async fn failed(&mut self) -> AnyError {
        match self {
            Self::Here { running, .. } => match running.join_next().await {
                Some(Ok(Ok(()))) | None => "the reader stopped".into(),
                Some(Ok(Err(error))) => error,
                Some(Err(error)) => error.into(),
            },
            Self::Child { child, .. } => match child.wait().await {
                Ok(status) => format!("the reader's process ended: {status}").into(),
                Err(error) => error.into(),
            },
        }
    }

    /// Stops the reader gracefully. Returns the numbers of a child.
    pub async fn stop(self) -> Result<Numbers, AnyError> {
        match self {
            Self::Here { stop, mut running } => {
                stop.stop_gracefully();
                if let Some(ended) = running.join_next().await {
                    ended??;
                }
                Ok(Numbers::default())
            }
            Self::Child { mut child, input, numbers, listening } => {
                drop(input);
                let status = child.wait().await?;
                listening.join_all().await;
                if !status.success() {
                    return Err(format!("the reader's process ended: {status}").into());
                }
                Ok(numbers.borrow().clone())
            }
        }
    }

    /// Kills the reader, if it is a child, by SIGKILL.
    pub async fn kill(self) -> Result<Numbers, AnyError> {
        let Self::Child { mut child, numbers, listening, .. } = self else { return self.stop().await };
        child.kill().await?;
        listening.join_all().await;
        Ok(numbers.borrow().clone())
    }
}

/// Runs a child: reads until its standard input ends, and reports its numbers.
pub async fn be_child(pipeline: PathBuf, metrics: Metrics) -> Result<(), AnyError> {
    let pipeline = Pipeline::load(&pipeline, &registry()?)?;
    let stop = StopHandle::new();
    let stopper = stop.clone();
    // This is a thread, because a blocked read of standard input would keep a runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stopper.stop_gracefully();
    });
    let report = async {
        loop {
            tokio::time::sleep(REPORT_EVERY).await;
            println!("{}", metrics.read());
        }
    };
    tokio::select! {
        ended = run(pipeline, RunOptions::default(), stop) => { ended?; }
        () = report => {}
    }
    println!("{}", metrics.read());
    Ok(())
}

/// Shows a check which records the output took, for outputs that keep nothing.
struct Witnessed {
    input: Arc<dyn Input>,
    check: Arc<Mutex<Check>>,
}

#[async_trait]
impl Input for Witnessed {
    async fn connect(&self) -> Result<(), InputError> {
        self.input.connect().await
    }

    async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError> {
        let (messages, receipt) = self.input.read_batch(demand).await?.into_parts();
        let payloads: Vec<_> = messages.iter().map(|message| message.payload().clone()).collect();
        let check = Arc::clone(&self.check);
        let receipt = receipt.on_settle(move |verdicts| {
            let mut check = check.lock().unwrap_or_else(PoisonError::into_inner);
            for (at, payload) in payloads.iter().enumerate() {
                let verdict = match verdicts {
                    Verdicts::All(verdict) => verdict,
                    Verdicts::Each(each) => &each[at],
                };
                if verdict.is_ack() {
                    check.take(payload);
                }
            }
        });
        Ok(Batch::new(messages, receipt))
    }

    async fn ack(&self, receipt: Receipt, verdicts: Verdicts) -> Result<(), AckError> {
        self.input.ack(receipt, verdicts).await
    }

    async fn close(&self, within: Duration) -> Result<(), InputError> {
        self.input.close(within).await
    }

    fn status(&self) -> Status {
        self.input.status()
    }
}
