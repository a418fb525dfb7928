//! What does an operator see of a run?

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::Meter;

/// How log lines are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The progress line on a terminal, and the log lines above it.
#[derive(Debug, Clone)]
pub(crate) struct Terminal {
    bar: ProgressBar,
}

impl Terminal {
    /// Starts logging at this level (`info`, or a filter such as `warn,kinesis_input=debug`). With a progress line only if
    /// standard error is a terminal that nobody parses.
    pub(crate) fn start(format: LogFormat, level: &str) -> Result<Self, String> {
        let filter = EnvFilter::try_new(level)
            .map_err(|error| format!("`{level}` is no log level: {error}; use error, warn, info, debug or trace"))?;
        let people = io::stderr().is_terminal();
        let bar = if people && format == LogFormat::Text {
            ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner())
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        };
        let terminal = Self { bar };
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(terminal.clone()).with_ansi(people);
        let started = match format {
            LogFormat::Text => logs.with_target(false).try_init(),
            LogFormat::Json => logs.json().flatten_event(true).try_init(),
        };
        // Somebody who embeds us may have a subscriber already; then theirs is used.
        drop(started);
        Ok(terminal)
    }

    /// Keeps the progress line up to date. Never ends; to be dropped with the run.
    pub(crate) async fn show(&self, meter: Meter) {
        const EVERY: Duration = Duration::from_millis(500);
        let mut before = meter.read();
        loop {
            tokio::time::sleep(EVERY).await;
            let now = meter.read();
            let per_second = |new: u64, old: u64| (new - old).saturating_mul(1000) / EVERY.as_millis() as u64;
            self.bar.set_message(format!(
                "{} messages delivered, {}/s, {}/s read",
                HumanCount(now.delivered),
                HumanCount(per_second(now.delivered, before.delivered)),
                HumanBytes(per_second(now.bytes, before.bytes)),
            ));
            self.bar.tick();
            before = now;
        }
    }

    /// Takes the progress line away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl MakeWriter<'_> for Terminal {
    type Writer = AboveBar;

    fn make_writer(&self) -> AboveBar {
        AboveBar(self.bar.clone())
    }
}

/// Writes to standard error without tearing the progress line.
pub(crate) struct AboveBar(ProgressBar);

impl Write for AboveBar {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
