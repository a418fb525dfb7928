//! Does an input keep the contract of [`Input`]?
//!
//! An input's author implements [`Harness`] and [`Source`] (what can be done to the thing that the input reads) and
//! calls [`run`] from a test:
//!
//! ```no_run
//! # use pipeline_plugin_api::conformance::{self, Harness, Options};
//! # async fn test(harness: &dyn Harness) {
//! conformance::run(harness, &Options::default()).await.unwrap();
//! # }
//! ```
//!
//! Every check gets a source of its own. A failure names the [`Rule`] that was broken and what was seen. The suite
//! works on real time and on tokio's paused time; it waits for events, and for silence only where silence is the rule.
//!
//! # Layout
//!
//! - `rule`: what is demanded, and how a failure is told.
//! - `check`: the list of checks, and which code runs which.
//! - `bench`: what a check has in hand: messages to put, inputs to open, a ledger of what came.
//! - `opening`, `reading`, `settling`, `closing`: the checks.

mod bench;
mod check;
mod closing;
mod opening;
mod reading;
mod rule;
mod settling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{BoxError, Input};

pub use check::Check;
pub use rule::{Failure, Failures, Report, Rule};

use bench::Bench;

/// Makes what an input reads.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A new, empty source that no input has read before.
    async fn source(&self) -> Result<Box<dyn Source>, BoxError>;
}

/// What an input reads: messages in one or more lanes, each lane in order (a partition, a shard, a file).
///
/// It outlives the inputs that read it, and so does the progress they store.
#[async_trait]
pub trait Source: Send + Sync {
    /// How many lanes there are; at least one, better two.
    fn lanes(&self) -> usize;

    /// An input over this source and the progress stored for it, not connected yet: what a process that starts
    /// would have. Only one is connected at a time; the one before was closed or dropped.
    async fn input(&self) -> Result<Arc<dyn Input>, BoxError>;

    /// Adds messages at the end of a lane. Returns once an input can read them.
    async fn put(&self, lane: usize, payloads: Vec<Bytes>) -> Result<(), BoxError>;

    /// Breaks the connection of the input that is connected, such that it can be opened again.
    async fn break_connection(&self) -> Result<Support, BoxError>;

    /// Makes what is there now all there will ever be, so that the input ends.
    async fn end(&self) -> Result<Support, BoxError>;
}

/// Whether a source can do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Done.
    Done,
    /// It can't, and why; the check is skipped, and the report says so.
    Unsupported(&'static str),
}

/// How patient the suite is, and what it leaves out.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long anything that has to happen may take, and by how much a call may exceed the time it was given.
    pub patience: Duration,
    /// How long nothing has to happen, where nothing may.
    pub silence: Duration,
    /// Messages a lane; at least 8. More make more batches and more chances.
    pub messages: usize,
    skipped: BTreeMap<Check, &'static str>,
}

impl Default for Options {
    /// 10 seconds of patience, 300 ms of silence, 40 messages a lane.
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            silence: Duration::from_millis(300),
            messages: 40,
            skipped: BTreeMap::new(),
        }
    }
}

impl Options {
    /// Leaves a check out; the report will say why.
    #[must_use]
    pub fn skip(mut self, check: Check, why: &'static str) -> Self {
        self.skipped.insert(check, why);
        self
    }
}

/// Runs every check that isn't skipped, one after another.
pub async fn run(harness: &dyn Harness, options: &Options) -> Report {
    let mut report = Report::default();
    for check in Check::ALL {
        let result = match options.skipped.get(&check) {
            Some(why) => Ok(Support::Unsupported(why)),
            None => run_one(harness, options, check).await,
        };
        report.add(check, result);
    }
    report
}

/// Runs one check, for a closer look at a failure.
///
/// # Errors
///
/// Which rule was broken, and what was seen.
pub async fn run_one(harness: &dyn Harness, options: &Options, check: Check) -> Result<Support, Failure> {
    let source = harness.source().await.map_err(bench::harness)?;
    // Single waits are bounded by `patience`; this bounds calls that never return.
    let whole = options.patience * 10;
    let Ok(result) = tokio::time::timeout(whole, check.run(Bench::new(source, options))).await else {
        return Err(Rule::EveryCallReturns.broken(format!("the check was not over after {whole:?}")));
    };
    result
}
