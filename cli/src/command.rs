//! What does the program do with its arguments?

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use kinesis_input::KinesisInput;
use pipeline_plugin_api::config::Detail;
use pipeline_plugin_api::registry::{RegisteredInput, Registry};

use crate::check::{self, Check};
use crate::configure::{self, Printed};
use crate::http::{self, Observed};
use crate::kcl::{self, Kcl};
use crate::leases::{self, Leases};
use crate::metrics::{self, Recorded};
use crate::otlp::{Exports, Settings};
use crate::peek::{self, Peek};
use crate::policy::{self, Policy};
use crate::reset::{self, Reset};
use crate::signals::Signals;
use crate::terminal::{LogFormat, Terminal};
use crate::top::{self, Top};
use crate::{Ending, Exit, Meter, Pipeline, RunOptions, StopHandle, registry_of, run, signals};

/// How long the runtime waits for calls that still block when the program ends.
const LINGER: Duration = Duration::from_secs(1);

/// Runs, lints and documents pipelines that read Amazon Kinesis.
#[derive(Debug, Parser)]
#[command(name = "kinesis-input", version, arg_required_else_help = true, after_help = Exit::table())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline until its input ends. Ctrl-C, SIGTERM or SIGHUP stops it gracefully, a second one at once.
    Run(Run),
    /// Show everything that is wrong or odd in pipeline files, without running them.
    Lint {
        /// Pipeline files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Try what a run of a pipeline would need, without reading: credentials, hosts, permissions, the table or file, and the
    /// output. Starts nothing and registers nothing.
    Check(Check),
    /// Print the smallest IAM policy with which a pipeline can run.
    Policy(Policy),
    /// Show which worker owns which shard of a lease table, since when, and how far behind it is.
    Leases(Leases),
    /// Show some records of a stream, and take nothing away from those that read it.
    Peek(Peek),
    /// Read a stream, or some of its shards, again from another position, while no pipeline reads it.
    Reset(Reset),
    /// Show on this terminal what workers do at the moment.
    Top(Top),
    /// Change over from Amazon's KCL, and back.
    #[command(subcommand)]
    Kcl(Kcl),
    /// Print the JSON Schema of pipeline files, or of one input's block.
    Schema {
        /// Only the block of this input.
        #[arg(long)]
        input: Option<String>,
    },
    /// Print the reference of an input, in Markdown.
    Docs {
        /// The name of the input.
        #[arg(long, default_value = DEFAULT_INPUT)]
        input: String,
    },
    /// Print an annotated pipeline file to start from.
    Create {
        /// Only the common fields.
        #[arg(long)]
        small: bool,
        /// The name of the input.
        #[arg(long, default_value = DEFAULT_INPUT)]
        input: String,
    },
}

const DEFAULT_INPUT: &str = "aws_kinesis";

#[derive(Debug, Args)]
struct Run {
    /// The pipeline file.
    pipeline: PathBuf,
    /// How log lines are written to standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// error, warn, info, debug, trace, or a filter such as `warn,kinesis_input=debug`.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// Serve a page for people, its numbers as JSON, health checks and Prometheus metrics at this port of 127.0.0.1, or at
    /// this address and port.
    #[arg(long, visible_alias = "metrics", value_name = "ADDR", value_parser = address)]
    http: Option<SocketAddr>,
    /// Export metrics, and a trace for each batch, to a collector of OpenTelemetry, as the OTEL_ variables of the environment
    /// say. The program has to be built with the feature `otlp`.
    #[arg(long)]
    otlp: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| "expected a port, or an address and a port such as `127.0.0.1:9100`".to_owned())
}

/// The arguments of the program, for what is made of them: completions of shells, and pages of the manual.
pub fn arguments() -> clap::Command {
    Cli::command()
}

/// The whole program, with the arguments of this process.
pub fn main() -> Exit {
    main_with(std::env::args_os())
}

/// The whole program, with these arguments; the first is the program's own name.
pub fn main_with<A: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = A>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do if even this can't be printed.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let kinesis = KinesisInput::new();
    let registry = match registry_of(kinesis.clone()) {
        Ok(registry) => registry,
        Err(error) => return fail(Exit::Failed, &error),
    };
    match cli.command {
        Command::Run(arguments) => run_command(&arguments, &registry, &kinesis),
        Command::Leases(arguments) => shown(leases::leases(&arguments)),
        Command::Check(arguments) => match block_on(check::run(&arguments, &registry)) {
            Ok(Ok(exit)) | Err(exit) => exit,
            Ok(Err((exit, error))) => fail(exit, &error),
        },
        Command::Policy(arguments) => policy_command(&arguments),
        Command::Peek(arguments) => shows(peek::peek(&arguments)),
        Command::Reset(arguments) => shown_first(reset::reset(&arguments)),
        Command::Kcl(command) => shown_first(kcl::kcl(&command)),
        Command::Top(arguments) => shows(top::top(&arguments)),
        Command::Lint { files } => print(&configure::lint(&registry, &files)),
        Command::Schema { input } => match input.map(|name| find(&registry, &name)).transpose() {
            Ok(input) => print_text(&format!("{:#}\n", configure::schema(&registry, input))),
            Err(exit) => exit,
        },
        Command::Docs { input } => match find(&registry, &input) {
            Ok(input) => print_text(&input.spec().reference()),
            Err(exit) => exit,
        },
        Command::Create { small, input } => match find(&registry, &input) {
            Ok(input) => {
                let detail = if small { Detail::Small } else { Detail::Full };
                print_text(&configure::create(input, detail))
            }
            Err(exit) => exit,
        },
    }
}

fn find<'r>(registry: &'r Registry, name: &str) -> Result<&'r RegisteredInput, Exit> {
    registry.get(name).ok_or_else(|| {
        let known = registry.iter().map(RegisteredInput::name).collect::<Vec<_>>().join(", ");
        fail(Exit::Usage, &format!("there is no input named `{name}`; inputs are {known}"))
    })
}

fn run_command(arguments: &Run, registry: &Registry, kinesis: &KinesisInput) -> Exit {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(Exit::Failed, &format!("the asynchronous runtime can't start: {error}")),
    };
    // This comes first: a signal that arrives while the rest starts stops the program gracefully.
    let signals = {
        let _inside = runtime.enter();
        Signals::new()
    };
    let terminal = match Terminal::start(arguments.log_format, &arguments.log_level) {
        Ok(terminal) => terminal,
        Err(error) => return fail(Exit::Usage, &error),
    };
    let exit = runtime.block_on(run_pipeline(arguments, registry, kinesis, &terminal, signals));
    // An immediate stop leaves tasks behind, and a blocked write must not keep the program alive.
    runtime.shutdown_timeout(LINGER);
    exit
}

/// Runs a command on a runtime of its own.
fn block_on<T>(command: impl Future<Output = T>) -> Result<T, Exit> {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => Ok(runtime.block_on(command)),
        Err(error) => Err(fail(Exit::Failed, &format!("the asynchronous runtime can't start: {error}"))),
    }
}

/// Prints what a command returns, or its error.
fn shown(command: impl Future<Output = Result<String, (Exit, String)>>) -> Exit {
    match block_on(command) {
        Ok(Ok(text)) => print_text(&text),
        Ok(Err((exit, error))) => fail(exit, &error),
        Err(exit) => exit,
    }
}

/// Runs a command that prints by itself.
fn shows(command: impl Future<Output = Result<(), (Exit, String)>>) -> Exit {
    match block_on(command) {
        Ok(Ok(())) => Exit::Done,
        Ok(Err((exit, error))) => fail(exit, &error),
        Err(exit) => exit,
    }
}

/// Prints what a command returns, and then its error if it has one.
fn shown_first(command: impl Future<Output = (String, Option<(Exit, String)>)>) -> Exit {
    match block_on(command) {
        Ok((text, refused)) => match (print_text(&text), refused) {
            (_, Some((exit, error))) => fail(exit, &error),
            (exit, None) => exit,
        },
        Err(exit) => exit,
    }
}

fn policy_command(arguments: &Policy) -> Exit {
    match policy::print(arguments) {
        Ok((policy, notes)) => {
            // The policy is for IAM, and the notes are for the person.
            let _ = io::stderr().write_all(notes.as_bytes());
            print_text(&policy)
        }
        Err((exit, error)) => fail(exit, &error),
    }
}

async fn run_pipeline(
    arguments: &Run,
    registry: &Registry,
    kinesis: &KinesisInput,
    terminal: &Terminal,
    signals: io::Result<Signals>,
) -> Exit {
    let pipeline = match Pipeline::load(&arguments.pipeline, registry) {
        Ok(pipeline) => pipeline,
        Err(error) => return fail(Exit::Configuration, &error),
    };
    for warning in &pipeline.warnings {
        tracing::warn!("{warning}");
    }
    let exported = match arguments.otlp.then(Settings::of_process).transpose() {
        Ok(settings) => settings.flatten(),
        Err(error) => return fail(error.exit(), &error),
    };
    let recorded = if arguments.http.is_some() || exported.is_some() {
        match metrics::install() {
            Ok(recorded) => Some(recorded),
            Err(error) => return fail(Exit::Failed, &format!("metrics can't be recorded: {error}")),
        }
    } else {
        None
    };
    if let Some(address) = arguments.http {
        let metrics = recorded.as_ref().map(Recorded::handle);
        match http::serve(address, Observed::new(kinesis.clone(), metrics)).await {
            Ok(address) => tracing::info!("serving status and metrics at http://{address}/"),
            Err(error) => return fail(Exit::Failed, &format!("nothing can be served at {address}: {error}")),
        }
    }
    let exports =
        match exported.zip(recorded).map(|(settings, recorded)| Exports::start(&settings, &recorded)).transpose() {
            Ok(exports) => exports,
            Err(error) => return fail(Exit::Failed, &error),
        };
    let stop = StopHandle::new();
    let meter = Meter::new();
    let mut options = RunOptions::default().meter(meter.clone());
    options.traces = exports.as_ref().and_then(Exports::traces);
    let running = async {
        let ended = Box::pin(run(pipeline, options, stop.clone())).await;
        if let Some(exports) = exports {
            exports.end(&stop).await;
        }
        ended
    };
    let ended = tokio::select! {
        ended = running => ended,
        () = signals::stop_on_signals(signals, stop.clone()) => return Exit::Failed,
        () = terminal.show(meter) => return Exit::Failed,
    };
    terminal.finish();
    match ended {
        Ok(report) => {
            let why = match report.ending {
                Ending::EndOfInput => "the input ended",
                Ending::Stopped => "stopped",
            };
            let counted = report.counted;
            tracing::info!(
                read = counted.read,
                delivered = counted.delivered,
                returned = counted.returned,
                elapsed = ?report.elapsed,
                "{why}; progress is stored"
            );
            Exit::Done
        }
        Err(error) => fail(error.exit(), &error),
    }
}

/// Prints the one message for an error. It is not a log line: it appears at every log level.
fn fail(exit: Exit, error: &dyn std::fmt::Display) -> Exit {
    let text = error.to_string();
    // Findings of a linted file have their own prefix.
    let prefix = if text.starts_with("error: ") || text.starts_with("warning: ") { "" } else { "error: " };
    let _ = writeln!(io::stderr(), "{prefix}{text}");
    exit
}

fn print(printed: &Printed) -> Exit {
    let _ = io::stderr().write_all(printed.errors.as_bytes());
    match print_text(&printed.out) {
        Exit::Done if printed.wrong => Exit::Configuration,
        exit => exit,
    }
}

fn print_text(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        // The reader has exited, as `| head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => fail(Exit::Failed, &format!("writing to standard output: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_a_host_is_of_this_machine_alone() {
        let parsed = |text| address(text).map(|address| address.to_string());
        for (text, expected) in [
            ("9100", "127.0.0.1:9100"),
            (":9100", "127.0.0.1:9100"),
            ("127.0.0.1:9100", "127.0.0.1:9100"),
            ("0.0.0.0:9100", "0.0.0.0:9100"),
            ("[::1]:9100", "[::1]:9100"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(expected));
        }
        for wrong in ["", ":", "localhost", "70000", "0.0.0.0"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
