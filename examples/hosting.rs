//! A small engine that hosts the input: everything that a host has to do.
//!
//! ```sh
//! cargo run --example hosting -- block.yaml    # the block of `aws_kinesis`, without `input:` around it
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::time::Duration;

use kinesis_input::{KinesisInput, KinesisRecord};
use pipeline_plugin_api::config::{Document, Environment};
use pipeline_plugin_api::driver::{Driver, DriverOptions, Ending, Event};
use pipeline_plugin_api::registry::Registry;
use pipeline_plugin_api::{Message, Verdict, Verdicts};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let file = std::env::args().nth(1).ok_or("usage: hosting block.yaml")?;
    match host(&file, print).await? {
        Ending::EndOfInput => println!("all there was has been read"),
        _ => println!("stopped; progress is stored"),
    }
    Ok(())
}

/// Reads the input that `file` describes into `output`, to its end or until Ctrl-C.
pub async fn host(file: &str, output: fn(&[Message]) -> Verdicts) -> Result<Ending, AnyError> {
    // Registration is an explicit call; an engine has one registry.
    let mut registry = Registry::new();
    registry.register(KinesisInput::new())?;

    // The text becomes an input that is not connected yet. Errors come with file, line and column.
    let document = Document::from_yaml(file, &std::fs::read_to_string(file)?, &Environment::process())?;
    let registered = registry.get("aws_kinesis").ok_or("not registered")?;
    let built = registered.build(&document, &[])?;
    for warning in &built.warnings {
        eprintln!("{warning}");
    }

    // The driver connects, reconnects, reads, collects verdicts, and stops. It logs nothing: events say what happens.
    let driver = Driver::new(built.input, DriverOptions::default()).observe(|event| {
        if let Event::Retrying { error, .. } = event {
            eprintln!("trying again: {error}");
        }
    });
    let stop = driver.stop_handle();
    let ended = driver.run(move |messages| async move { output(&messages) });
    tokio::select! {
        ended = ended => Ok(ended?),
        interrupted = async {
            tokio::signal::ctrl_c().await?;
            // This reads no more, waits until everything in flight is settled, and stores progress; then `run` returns.
            stop.stop_gracefully(Duration::from_secs(20));
            std::future::pending().await
        } => interrupted,
    }
}

/// An output. A message counts as done when it was acked; nacked messages come again.
fn print(messages: &[Message]) -> Verdicts {
    let verdicts = messages.iter().map(|message| {
        // Metadata is typed where it matters, and looked up by key where it doesn't.
        let Some(record) = KinesisRecord::of(message) else { return Verdict::nack("not of Kinesis") };
        println!("{} {} {} bytes", record.shard(), record.sequence_number(), message.payload().len());
        Verdict::Ack
    });
    Verdicts::Each(verdicts.collect())
}
