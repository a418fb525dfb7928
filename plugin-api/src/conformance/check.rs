//! Which checks exist, and which function runs each?

use std::fmt;

use super::bench::Bench;
use super::{Failure, Support, closing, opening, reading, settling};

macro_rules! checks {
    ($($(#[doc = $doc:literal])* $variant:ident = $module:ident :: $function:ident,)*) => {
        /// One check of the suite.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Check {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Check {
            /// All checks, in the order in which they are run.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// Returns the name, such as `cancelled_reads`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($function),)*
                }
            }

            pub(super) async fn run(self, bench: Bench<'_>) -> Result<Support, Failure> {
                match self {
                    $(Self::$variant => $module::$function(bench).await,)*
                }
            }
        }
    };
}

checks! {
    /// Connects twice and closes twice; the status follows.
    OpenAndClose = opening::open_and_close,
    /// Closes before connecting.
    CloseBeforeConnect = opening::close_before_connect,
    /// Reads before connecting.
    ReadBeforeConnect = opening::read_before_connect,
    /// Reads after closing.
    ReadAfterClose = opening::read_after_close,
    /// Reads with small and large demands, with and without a wait.
    Demands = reading::demands,
    /// Reads when there are no messages.
    Idle = reading::idle,
    /// Reads in one task, and acks each batch before the next read.
    Sequential = reading::sequential,
    /// Adds messages while the input is read.
    Growing = reading::growing,
    /// Reads in several tasks, and acks from several tasks.
    Parallel = reading::parallel,
    /// Drops reads at many points.
    CancelledReads = reading::cancelled_reads,
    /// Breaks the connection while batches are in flight.
    Reconnect = reading::reconnect,
    /// Ends the input, with batches in flight.
    EndOfInput = reading::end_of_input,
    /// Acks batches in reverse order.
    OutOfOrderAcks = settling::out_of_order_acks,
    /// Nacks whole batches, with and without a reason.
    Nacks = settling::nacks,
    /// Nacks single messages of a batch, with and without a reason.
    PartialNacks = settling::partial_nacks,
    /// Drops batches.
    DroppedReceipts = settling::dropped_receipts,
    /// Settles with too many and too few verdicts.
    WrongCount = settling::wrong_count,
    /// Closes while receipts are in flight that are acked soon.
    CloseWaits = closing::close_waits,
    /// Closes while receipts are in flight that are never settled.
    CloseDeadline = closing::close_deadline,
    /// Acks after closing.
    LateAcks = closing::late_acks,
    /// Stops and starts again several times.
    Restart = closing::restart,
    /// Restarts with an old batch unacked and newer ones acked.
    RestartWithGap = closing::restart_with_gap,
    /// Drops the input without closing it.
    Crash = closing::crash,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
