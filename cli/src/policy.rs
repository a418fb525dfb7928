//! Which permissions does a pipeline need?

use std::path::PathBuf;

use clap::Args;
use kinesis_input::Config;
use kinesis_input::policy::{Place, policy};

use crate::leases::json;
use crate::{Exit, PipelineError, pipeline};

/// The arguments of `kinesis-input policy`.
#[derive(Debug, Args)]
pub(crate) struct Policy {
    /// The pipeline file.
    pipeline: PathBuf,
    /// The region, if the file does not say it.
    #[arg(long)]
    region: Option<String>,
    /// The account of the streams and the table.
    #[arg(long, value_name = "TWELVE DIGITS")]
    account: Option<String>,
}

/// Returns the policy, and what a person has to know about it.
pub(crate) fn print(arguments: &Policy) -> Result<(String, String), (Exit, PipelineError)> {
    let wrong = |error| (Exit::Configuration, error);
    let document = pipeline::open(&arguments.pipeline).map_err(wrong)?;
    let parsed = document.parse::<Config>(&["input", "aws_kinesis"]);
    let config = parsed.map_err(|found| wrong(PipelineError::Wrong(found)))?.config;
    let place = Place { region: arguments.region.clone(), account: arguments.account.clone() };
    let (policy, notes) = policy(&config, &place);
    Ok((json(&policy), notes.join("\n") + "\n"))
}
