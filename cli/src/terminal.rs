//! What does an operator see of a run?

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::Meter;

/// How log lines are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people.
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
    /// Starts logging at this level (`info`, or a filter such as `warn,kinesis_input=debug`). A progress line is shown
    /// only if standard error is a terminal and the log is text.
    pub(crate) fn start(format: LogFormat, level: &str) -> Result<Self, String> {
        let directives = if level.eq_ignore_ascii_case("info") { INFO } else { level };
        let filter = EnvFilter::try_new(directives)
            .map_err(|error| format!("`{level}` is no log level: {error}; use error, warn, info, debug or trace"))?;
        let people = io::stderr().is_terminal();
        let bar = if people && format == LogFormat::Text {
            ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner())
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        };
        let terminal = Self { bar };
        let lines = tracing_subscriber::fmt::layer().with_writer(terminal.clone()).with_ansi(people);
        let logs = tracing_subscriber::registry().with(filter).with(Seldom::default());
        let started = match format {
            LogFormat::Text => logs.with(lines.with_target(false)).try_init(),
            LogFormat::Json => logs.with(lines.json().flatten_event(true)).try_init(),
        };
        // A program that embeds this library may have a subscriber already; then that is used.
        drop(started);
        Ok(terminal)
    }

    /// Keeps the progress line up to date. The future never completes; drop it with the run.
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

    /// Removes the progress line.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// At `info` the log consists of our lines, and of the warnings of libraries.
const INFO: &str =
    "warn,kinesis_input=info,kinesis_input_cli=info,pipeline_plugin_api=info,pipeline_plugin_mq_bridge=info";
/// The targets that limit by themselves how often they repeat a line.
const OURS: [&str; 2] = ["kinesis_input", "pipeline_plugin"];
/// A warning of a library is shown again after this long: some repeat it at every retry.
const SHOWN_EVERY: Duration = Duration::from_mins(1);

/// Suppresses the lines that a library repeats.
#[derive(Debug, Default)]
struct Seldom {
    shown: Mutex<HashMap<Identifier, Instant>>,
}

impl Seldom {
    fn is_due(&self, metadata: &Metadata<'_>, now: Instant) -> bool {
        let is_repeated =
            *metadata.level() <= Level::WARN && !OURS.iter().any(|ours| metadata.target().starts_with(ours));
        if !is_repeated {
            return true;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match shown.get(&metadata.callsite()) {
            Some(before) if now.duration_since(*before) < SHOWN_EVERY => false,
            _ => {
                shown.insert(metadata.callsite(), now);
                true
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Seldom {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.is_due(event.metadata(), Instant::now())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Clone)]
    struct Lines(std::sync::Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let metadata = event.metadata();
            self.0.lock().unwrap().push(format!("{} {}", metadata.level(), metadata.target()));
        }
    }

    #[test]
    fn log_at_info_is_ours_and_what_libraries_repeat_is_shown_once() {
        let lines = Lines::default();
        let filter = EnvFilter::try_new(INFO).unwrap();
        let logs = tracing_subscriber::registry().with(filter).with(Seldom::default()).with(lines.clone());
        tracing::subscriber::with_default(logs, || {
            for _ in 0..3 {
                tracing::info!(target: "mq_bridge::route", "connected");
                tracing::warn!(target: "mq_bridge::route", "the disk is full");
                tracing::error!(target: "aws_config", "odd");
                tracing::info!(target: "kinesis_input::telemetry", "reading the stream");
                tracing::warn!(target: "kinesis_input::telemetry", "lost the lease");
            }
        });
        let lines = lines.0.lock().unwrap();
        let count = |line: &str| lines.iter().filter(|other| *other == line).count();
        assert_eq!(count("INFO mq_bridge::route"), 0);
        assert_eq!(count("WARN mq_bridge::route"), 1);
        assert_eq!(count("ERROR aws_config"), 1);
        assert_eq!(count("INFO kinesis_input::telemetry"), 3);
        assert_eq!(count("WARN kinesis_input::telemetry"), 3);
    }
}
