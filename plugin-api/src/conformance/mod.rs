//! Does an input keep the contract of [`Input`]?
//!
//! An input's author implements [`Harness`] and [`Source`] (the operations on the system that the input reads) and
//! calls [`run`] from a test:
//!
//! ```no_run
//! # use pipeline_plugin_api::conformance::{self, Harness, Options};
//! # async fn test(harness: &dyn Harness) {
//! conformance::run(harness, &Options::default()).await.unwrap();
//! # }
//! ```
//!
//! Every check uses a source of its own. A failure names the [`Rule`] that was broken and what was observed. The
//! suite works on real time and on tokio's paused time; it waits for events, and for silence only where silence is
//! the rule.
//!
//! # Layout
//!
//! - `rule`: the rules for an input, and how a failure is shown.
//! - `check`: the list of checks, and the function of each.
//! - `bench`: the tools of a check: messages to publish, inputs to open, a ledger of deliveries.
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

/// A factory of sources, implemented by the author of an input.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Creates a new, empty source that no input has read before.
    async fn source(&self) -> Result<Box<dyn Source>, BoxError>;
}

/// A system that an input reads: messages in one or more lanes, each lane in order (a partition, a shard, a file).
///
/// A source outlives the inputs that read it, and so does the progress they store.
#[async_trait]
pub trait Source: Send + Sync {
    /// Returns the number of lanes, which is at least one and preferably two.
    fn lanes(&self) -> usize;

    /// Creates an input over this source and its stored progress, not connected yet, as a starting process
    /// would. Only one input is connected at a time; the previous one was closed or dropped.
    async fn input(&self) -> Result<Arc<dyn Input>, BoxError>;

    /// Adds messages at the end of a lane. The call returns once an input can read them.
    async fn put(&self, lane: usize, payloads: Vec<Bytes>) -> Result<(), BoxError>;

    /// Breaks the connection of the connected input, such that it can be opened again.
    async fn break_connection(&self) -> Result<Support, BoxError>;

    /// Declares that no more messages will be added, so that the input ends.
    async fn end(&self) -> Result<Support, BoxError>;
}

/// The answer of a source to an optional operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// The operation is done.
    Done,
    /// The source doesn't support the operation, for this reason; the check is skipped, and the report says so.
    Unsupported(&'static str),
}

/// The time limits of the suite, and the checks that it skips.
#[derive(Debug, Clone)]
pub struct Options {
    /// The time limit for anything that has to happen, and for the excess of a call over its own limit.
    pub patience: Duration,
    /// The length of the silence that shows that nothing happens.
    pub silence: Duration,
    /// The number of messages per lane, at least 8. More messages make more batches and more interleavings.
    pub messages: usize,
    skipped: BTreeMap<Check, &'static str>,
}

impl Default for Options {
    /// Sets 10 seconds of patience, 300 ms of silence and 40 messages a lane.
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
    /// Skips a check; the report states the reason.
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

/// Runs one check, to investigate a failure.
///
/// # Errors
///
/// Fails with the rule that was broken and what was observed.
pub async fn run_one(harness: &dyn Harness, options: &Options, check: Check) -> Result<Support, Failure> {
    let source = harness.source().await.map_err(bench::harness)?;
    // Single waits are bounded by `patience`; this limit bounds calls that never return.
    let whole = options.patience * 10;
    let Ok(result) = tokio::time::timeout(whole, check.run(Bench::new(source, options))).await else {
        return Err(Rule::EveryCallReturns.broken(format!("the check was not over after {whole:?}")));
    };
    result
}
