//! What does the program's exit code mean?

use std::fmt::Write as _;
use std::process::ExitCode;

/// The way in which the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Exit {
    /// The input ended, or the pipeline was stopped gracefully; nothing is wrong.
    Done = 0,
    /// Something failed while the pipeline ran.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The pipeline file, or a variable for `--otlp`, can't be read or is wrong.
    Configuration = 3,
    /// The input can't run until a person changes something: permissions, region, stream, checkpoint.
    Input = 4,
    /// A second signal stopped the pipeline at once.
    ImmediateStop = 130,
}

impl Exit {
    /// All exit codes, in ascending order.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Failed, Self::Usage, Self::Configuration, Self::Input, Self::ImmediateStop];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of the code, in one line.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "the input ended, or a graceful stop: progress is stored",
            Self::Failed => "a failure while running, such as an output that rejects messages",
            Self::Usage => "wrong use of the command line",
            Self::Configuration => "the pipeline file, or a variable for `--otlp`, can't be read or is wrong",
            Self::Input => "the input can't run: credentials, region, stream, permissions, checkpoint",
            Self::ImmediateStop => "an immediate stop: messages that were in flight will be read again",
        }
    }

    /// The list of codes for `--help`.
    pub(crate) fn table() -> String {
        let mut out = String::from("Exit codes:\n");
        for exit in Self::ALL {
            // Writing to a string can't fail.
            let _ = writeln!(out, "  {:>3}  {}", exit.code(), exit.meaning());
        }
        out
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
