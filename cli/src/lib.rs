//! Runs, lints and documents pipelines that read Amazon Kinesis.
//!
//! The `kinesis-input` program is a thin shell over this library: `kinesis-input run` does the same as [`run()`], with
//! the same pipelines, the same delivery and the same way to stop.
//!
//! # Layout
//!
//! - [`pipeline`]: a pipeline file becomes an input, an output and the options that join them.
//! - [`mod@run`]: runs it, until its end, an error or a stop.
//! - [`command`]: the program: arguments, subcommands, exit codes; `configure`: lint, schema, docs, create; `check`: what a run would
//!   need.
//! - `leases`, `kcl` and `top`: what a fleet of workers does.
//! - `terminal`: logs, the progress line; `http`: what an operator may ask meanwhile; `metrics`: those for Prometheus and exports; `otlp`:
//!   exports to OpenTelemetry, with the feature of that name; `signals`: the effect of Ctrl-C and SIGTERM.

mod check;
pub mod command;
mod configure;
mod exit;
mod http;
mod kcl;
mod leases;
mod metrics;
#[cfg_attr(not(feature = "otlp"), path = "no_otlp.rs")]
mod otlp;
mod peek;
pub mod pipeline;
mod policy;
mod reset;
pub mod run;
mod signals;
mod table;
mod terminal;
mod top;

use kinesis_input::KinesisInput;
use pipeline_plugin_api::registry::{DuplicateName, Registry};

pub use exit::Exit;
pub use pipeline::{Pipeline, PipelineError};
pub use run::{Ending, Meter, RunError, RunOptions, RunReport, StopHandle, run};

/// The inputs that pipelines can name.
///
/// # Errors
///
/// Fails only if an input is added here under a name that is taken.
pub fn registry() -> Result<Registry, DuplicateName> {
    registry_of(KinesisInput::new())
}

/// The same inputs, with this plugin for Kinesis.
fn registry_of(kinesis: KinesisInput) -> Result<Registry, DuplicateName> {
    let mut registry = Registry::new();
    registry.register(kinesis)?;
    Ok(registry)
}
