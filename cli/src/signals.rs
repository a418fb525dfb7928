//! What is the effect of Ctrl-C, SIGTERM and SIGHUP?

use std::io;

use crate::StopHandle;

/// Turns the first signal into a graceful stop and the second into an immediate one. The future never completes; drop
/// it with the run.
pub(crate) async fn stop_on_signals(signals: io::Result<Signals>, stop: StopHandle) {
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals can't be heard; only the end of the input will stop the pipeline");
            return std::future::pending().await;
        }
    };
    signals.next().await;
    tracing::info!("stopping: delivering what was read; a second signal stops at once");
    stop.stop_gracefully();
    signals.next().await;
    stop.stop_immediately();
    std::future::pending::<()>().await;
}

/// The signals that stop the program. Once this exists, none of them ends the program by itself.
#[cfg(unix)]
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// SIGHUP; `None` if the program was started so that it outlives its terminal, as by `nohup`.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    /// Starts listening. This must be called inside a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup =
            if is_ignored(SignalKind::hangup().as_raw_value()) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether the program was started with this signal ignored. This is known only on Linux.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    // The first bit is for signal 1.
    mask >> (signal - 1) & 1 == 1
}

#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same shape on every system")]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
