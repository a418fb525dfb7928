//! What does one HTTP/2 connection do?
//!
//! A connection carries a bounded number of streams. Each stream has its own window, and the connection's window is
//! the sum of them: an unread stream fills its own window and stops no other. A ping shows within seconds that the
//! server is gone, which waiting for data would never show.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Settings;
use super::dial::Io;
use crate::sync::{Mutex, lock};
use crate::{supervise, telemetry};

/// How often the server is pinged, and how long it may take to answer.
const PING: Duration = Duration::from_secs(10);
/// How often the bytes that wait on the streams are copied together.
const COMPACT: Duration = Duration::from_millis(250);
/// The number of pings without a stream after which the connection is closed.
const IDLE_PINGS: u32 = 6;
/// The largest frame that the connection accepts, where servers send such frames: fewer pieces mean fewer wake-ups.
const FRAME: u32 = 64 << 10;
/// The largest window that HTTP/2 allows.
const LARGEST_WINDOW: u64 = (1 << 31) - 1;

/// The waiting chunks of a stream.
pub(super) trait Compact: fmt::Debug + Send + Sync {
    /// Copies the waiting chunks together, unless the reader is there to take them.
    fn compact(&self);
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    streams: AtomicUsize,
    limit: usize,
    /// False once the connection takes no more streams. Existing streams may continue.
    open: AtomicBool,
    /// The received chunks of its streams; the connection's task copies them together.
    received: Mutex<Vec<Weak<dyn Compact>>>,
}

impl Connection {
    /// Opens a connection on a byte stream. Its task ends with the connection, or when `stop` is cancelled.
    pub(super) async fn open(
        io: Box<dyn Io>,
        settings: &Settings,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, h2::Error> {
        let all = u64::from(settings.stream_window) * settings.streams as u64;
        let (sender, mut wire) = Builder::new()
            .enable_push(false)
            .max_frame_size(FRAME)
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(all.min(LARGEST_WINDOW) as u32)
            .handshake(io)
            .await?;
        let pings = wire.ping_pong();
        let connection = Arc::new(Self {
            sender,
            streams: AtomicUsize::new(0),
            limit: settings.streams,
            open: AtomicBool::new(true),
            received: Mutex::default(),
        });
        let (answered, first_answer) = oneshot::channel();
        // The task does not keep the connection alive: without streams, and removed from the list, the connection
        // ends.
        let watched = Arc::downgrade(&connection);
        tasks.spawn(async move {
            let running = async {
                tokio::select! {
                    ended = wire => ended,
                    () = watch(pings, &watched, answered) => Ok(()),
                    () = compact(&watched) => Ok(()),
                    () = stop.cancelled() => Ok(()),
                }
            };
            match supervise::caught(running).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => telemetry::connection_ended(&error),
                // The streams break, and are opened again on another connection.
                Err(cause) => telemetry::task_ended("connection", &cause, true),
            }
            if let Some(connection) = watched.upgrade() {
                connection.open.store(false, Ordering::SeqCst);
            }
        });
        match first_answer.await {
            Ok(()) => Ok(connection),
            Err(_) => Err(h2::Reason::SETTINGS_TIMEOUT.into()),
        }
    }

    /// Takes a slot for a stream. The result is `None` if there is none.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        // An error means that the server is going away.
        if self.sender.clone().ready().now_or_never()?.is_err() {
            self.open.store(false, Ordering::SeqCst);
            return None;
        }
        let limit = self.limit.min(self.sender.current_max_send_streams());
        let free = |used: usize| (used < limit).then_some(used + 1);
        self.streams.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).ok()?;
        // The slot is released at once if the idle connection was closed meanwhile.
        let slot = Slot { connection: Arc::clone(self) };
        self.is_open().then_some(slot)
    }

    /// Registers a stream, so that its waiting chunks keep no more memory than necessary.
    pub(super) fn look_after(&self, received: Weak<dyn Compact>) {
        lock(&self.received).push(received);
    }

    /// Whether the connection may take streams, now or later.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Closes the connection to new streams if it has none.
    fn close_if_idle(&self) -> bool {
        self.open.store(false, Ordering::SeqCst);
        let idle = self.streams.load(Ordering::SeqCst) == 0;
        // A slot that was taken meanwhile is noticed here or in `take`.
        self.open.store(!idle, Ordering::SeqCst);
        idle
    }
}

/// Ends when the server does not answer, or when the connection was idle for long.
async fn watch(pings: Option<PingPong>, connection: &Weak<Connection>, answered: oneshot::Sender<()>) {
    let Some(mut pings) = pings else { return };
    // The server's settings arrive before its first answer, and with them its limit of streams.
    if !answers(&mut pings).await {
        return;
    }
    let _ = answered.send(());
    let mut idle = 0;
    loop {
        sleep(PING).await;
        if !answers(&mut pings).await {
            return;
        }
        let Some(connection) = connection.upgrade() else { continue };
        idle = if connection.streams.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
        if idle >= IDLE_PINGS && connection.close_if_idle() {
            return;
        }
    }
}

/// Copies the waiting chunks of the streams together, as long as the connection exists.
async fn compact(connection: &Weak<Connection>) {
    loop {
        sleep(COMPACT).await;
        let Some(connection) = connection.upgrade() else { return std::future::pending().await };
        let streams: Vec<Arc<dyn Compact>> = {
            let mut received = lock(&connection.received);
            received.retain(|stream| stream.strong_count() > 0);
            received.iter().filter_map(Weak::upgrade).collect()
        };
        for stream in &streams {
            stream.compact();
        }
    }
}

/// A slot for one stream. Dropping it releases the slot.
#[derive(Debug)]
pub(super) struct Slot {
    connection: Arc<Connection>,
}

impl Slot {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.connection.sender.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answers(pings: &mut PingPong) -> bool {
    matches!(timeout(PING, pings.ping(Ping::opaque())).await, Ok(Ok(_)))
}
