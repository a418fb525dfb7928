//! Which checks are there, and which code runs which?

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
            /// All of them, in the order in which they are run.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// Its name, such as `cancelled_reads`.
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
    /// Connect, connect again, close, close again; status says where it is.
    OpenAndClose = opening::open_and_close,
    /// Close before connect.
    CloseBeforeConnect = opening::close_before_connect,
    /// Read before connect.
    ReadBeforeConnect = opening::read_before_connect,
    /// Read after close.
    ReadAfterClose = opening::read_after_close,
    /// Small and large demands, with and without patience.
    Demands = reading::demands,
    /// Read when there is nothing.
    Idle = reading::idle,
    /// One reader, each batch acked before the next read.
    Sequential = reading::sequential,
    /// Messages that come while the input is read.
    Growing = reading::growing,
    /// Several readers, acks from several tasks.
    Parallel = reading::parallel,
    /// Reads dropped at many points.
    CancelledReads = reading::cancelled_reads,
    /// The connection breaks while batches are out.
    Reconnect = reading::reconnect,
    /// The end, and what may still be out then.
    EndOfInput = reading::end_of_input,
    /// Batches acked last first.
    OutOfOrderAcks = settling::out_of_order_acks,
    /// Whole batches nacked, with and without a reason.
    Nacks = settling::nacks,
    /// Single messages of a batch nacked, with and without a reason.
    PartialNacks = settling::partial_nacks,
    /// Batches dropped.
    DroppedReceipts = settling::dropped_receipts,
    /// Too many and too few verdicts.
    WrongCount = settling::wrong_count,
    /// Close while receipts are out that are acked soon.
    CloseWaits = closing::close_waits,
    /// Close while receipts are out that nobody settles.
    CloseDeadline = closing::close_deadline,
    /// Acks after close.
    LateAcks = closing::late_acks,
    /// Stop and start again, several times.
    Restart = closing::restart,
    /// An old batch unacked, newer ones acked; then a restart.
    RestartWithGap = closing::restart_with_gap,
    /// The input is dropped without close.
    Crash = closing::crash,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
