//! What do Ctrl-C and SIGTERM do?

use crate::StopHandle;

/// Turns the first signal into a soft stop and the second into a hard one. Never ends; to be dropped with the run.
pub(crate) async fn stop_on_signals(stop: StopHandle) {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals can't be heard; only the end of the input will stop the pipeline");
            return std::future::pending().await;
        }
    };
    signals.next().await;
    tracing::info!("stopping: delivering what was read; a second signal stops at once");
    stop.soft();
    signals.next().await;
    stop.hard();
    std::future::pending::<()>().await;
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same shape on every system")]
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
