//! The `kinesis-input` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    kinesis_input_cli::command::main().into()
}
