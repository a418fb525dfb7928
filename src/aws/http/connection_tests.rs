//! Tests of one connection, in memory and on virtual time, with a scripted server.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::server::{self, SendResponse};
use http::{Request, Response};
use http_body::Body;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Settings;
use super::body::StreamBody;
use super::connection::Connection;

const SECOND: Duration = Duration::from_secs(1);

/// A connection and its server end.
struct Pair {
    connection: Arc<Connection>,
    server: Server,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// A server that answers every request with an open stream, until it freezes or goes away.
struct Server {
    streams: mpsc::Receiver<SendStream<Bytes>>,
    freeze: CancellationToken,
    goodbye: CancellationToken,
}

impl Server {
    fn start(socket: DuplexStream, max_streams: u32, tasks: &TaskTracker) -> Self {
        let (accepted, streams) = mpsc::channel(100);
        let (freeze, goodbye) = (CancellationToken::new(), CancellationToken::new());
        let (frozen, leaving) = (freeze.clone(), goodbye.clone());
        tasks.spawn(async move {
            let mut connection =
                server::Builder::new().max_concurrent_streams(max_streams).handshake(socket).await.unwrap();
            let mut said = false;
            loop {
                tokio::select! {
                    // The socket stays open, but the server does not read it any more.
                    () = frozen.cancelled() => std::future::pending().await,
                    () = leaving.cancelled(), if !said => {
                        said = true;
                        connection.graceful_shutdown();
                    }
                    request = connection.accept() => match request {
                        Some(Ok((_, answer))) => accepted.send(open(answer)).await.unwrap_or_default(),
                        _ => return,
                    }
                }
            }
        });
        Self { streams, freeze, goodbye }
    }

    async fn accepted(&mut self) -> SendStream<Bytes> {
        timeout(SECOND, self.streams.recv()).await.expect("no request came").unwrap()
    }
}

fn open(mut answer: SendResponse<Bytes>) -> SendStream<Bytes> {
    answer.send_response(Response::new(()), false).unwrap()
}

async fn pair(max_streams: u32, settings: Settings) -> Pair {
    let (ours, theirs) = duplex(4 << 20);
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let server = Server::start(theirs, max_streams, &tasks);
    let connection = Connection::open(Box::new(ours), &settings, &tasks, stop.clone()).await.unwrap();
    Pair { connection, server, tasks, stop: stop.drop_guard() }
}

impl Pair {
    /// Opens a stream, if there is a slot for it.
    async fn subscribe(&self) -> Option<StreamBody> {
        let slot = self.connection.take()?;
        let request = Request::post("https://localhost/").body(()).unwrap();
        let (answer, _) = slot.sender().send_request(request, true).unwrap();
        Some(StreamBody::new(answer.await.unwrap().into_body(), slot))
    }
}

/// Reads the next chunk of a body.
async fn chunk(body: &mut StreamBody) -> Option<Result<Bytes, h2::Error>> {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

/// Sends as much of `bytes` as the window allows at once.
async fn send(stream: &mut SendStream<Bytes>, bytes: usize) -> usize {
    let mut sent = 0;
    while sent < bytes {
        stream.reserve_capacity(bytes - sent);
        let Ok(Some(Ok(granted))) = timeout(SECOND, poll_fn(|cx| stream.poll_capacity(cx))).await else { break };
        stream.send_data(vec![b'x'; granted].into(), false).unwrap();
        sent += granted;
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn half_open_connection() {
    let mut pair = pair(100, Settings::default()).await;
    let mut body = pair.subscribe().await.unwrap();
    let mut stream = pair.server.accepted().await;
    send(&mut stream, 10).await;
    assert_eq!(chunk(&mut body).await.unwrap().unwrap().len(), 10);
    // The server answers pings as long as it lives.
    assert!(timeout(120 * SECOND, chunk(&mut body)).await.is_err());
    pair.server.freeze.cancel();
    let start = Instant::now();
    assert!(chunk(&mut body).await.unwrap().is_err());
    assert!(start.elapsed() <= 20 * SECOND, "{:?}", start.elapsed());
    assert!(!pair.connection.is_open());
    assert!(pair.subscribe().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn silent_server_times_out() {
    let (ours, _theirs) = duplex(1 << 20);
    let (settings, tasks) = (Settings::default(), TaskTracker::new());
    let opening = Connection::open(Box::new(ours), &settings, &tasks, CancellationToken::new());
    assert!(timeout(15 * SECOND, opening).await.expect("it waits on").is_err());
}

#[tokio::test(start_paused = true)]
async fn stream_limit_is_the_lower_of_ours_and_the_servers() {
    for (theirs, ours) in [(3, 100), (100, 3)] {
        let pair = pair(theirs, Settings { streams: ours, ..Settings::default() }).await;
        let mut bodies = Vec::new();
        while let Some(body) = pair.subscribe().await {
            bodies.push(body);
        }
        assert_eq!(bodies.len(), 3);
        // A dropped body makes room for another one.
        bodies.pop();
        tokio::time::sleep(SECOND).await;
        assert!(pair.subscribe().await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn goaway_with_live_streams() {
    let mut pair = pair(100, Settings::default()).await;
    let mut body = pair.subscribe().await.unwrap();
    let mut stream = pair.server.accepted().await;
    pair.server.goodbye.cancel();
    tokio::time::sleep(SECOND).await;
    assert!(pair.subscribe().await.is_none(), "a new stream on a connection that goes away");
    assert!(!pair.connection.is_open());
    // The existing streams may continue to their end.
    send(&mut stream, 10).await;
    assert_eq!(chunk(&mut body).await.unwrap().unwrap().len(), 10);
    stream.send_data(Bytes::new(), true).unwrap();
    while let Some(rest) = chunk(&mut body).await {
        assert!(rest.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn slow_shard_beside_fast_ones() {
    const WINDOW: usize = 64 << 10;
    let mut pair = pair(100, Settings { stream_window: WINDOW as u32, streams: 4, ..Settings::default() }).await;
    // Three streams are not read: each fills its own window and no more.
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(pair.subscribe().await.unwrap());
        let mut stream = pair.server.accepted().await;
        assert_eq!(send(&mut stream, 10 * WINDOW).await, WINDOW);
    }
    // The fourth stream has all of its own window, again and again.
    let mut body = pair.subscribe().await.unwrap();
    let mut stream = pair.server.accepted().await;
    let sending = async { send(&mut stream, 10 * WINDOW).await };
    let reading = async {
        let mut read = 0;
        while read < 10 * WINDOW {
            read += chunk(&mut body).await.unwrap().unwrap().len();
        }
    };
    let (sent, read) = tokio::join!(sending, timeout(30 * SECOND, reading));
    assert_eq!((sent, read), (10 * WINDOW, Ok(())));
}

/// Many small frames of an unread stream arrive between frames of a stream that is read.
#[tokio::test(start_paused = true)]
async fn small_frames_do_not_pin_large_buffers() {
    const FRAMES: usize = 2000;
    const WINDOW: usize = 512 << 10;
    let mut pair = pair(100, Settings::default()).await;
    let mut unread = pair.subscribe().await.unwrap();
    let mut to_unread = pair.server.accepted().await;
    let mut read = pair.subscribe().await.unwrap();
    let mut to_read = pair.server.accepted().await;
    for frame in 0..FRAMES {
        to_unread.reserve_capacity(200);
        poll_fn(|cx| to_unread.poll_capacity(cx)).await.unwrap().unwrap();
        to_unread.send_data(vec![frame as u8; 200].into(), false).unwrap();
        assert_eq!(send(&mut to_read, 4000).await, 4000);
        let mut came = 0;
        while came < 4000 {
            came += chunk(&mut read).await.unwrap().unwrap().len();
        }
    }
    tokio::time::sleep(SECOND).await;
    let (waiting, kept) = unread.kept();
    assert_eq!(waiting, 200 * FRAMES, "waiting data is left to HTTP/2, in blocks that other streams share");
    assert!(kept <= waiting + (64 << 10), "{kept} bytes are kept for {waiting}");
    // The bytes still count against the window, and are the ones that were sent.
    assert_eq!(send(&mut to_unread, WINDOW).await, WINDOW - 200 * FRAMES);
    let mut bytes = Vec::new();
    while bytes.len() < WINDOW {
        bytes.extend_from_slice(&chunk(&mut unread).await.unwrap().unwrap());
    }
    let expected: Vec<u8> = (0..FRAMES).flat_map(|frame| [frame as u8; 200]).collect();
    assert!(bytes[..expected.len()] == expected);
    // Once the stream is read, its window opens again.
    assert!(timeout(SECOND, chunk(&mut unread)).await.is_err());
    assert!(send(&mut to_unread, 1000).await > 0);
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed_and_one_with_a_stream_is_not() {
    let pair = pair(100, Settings::default()).await;
    let body = pair.subscribe().await.unwrap();
    tokio::time::sleep(300 * SECOND).await;
    assert!(pair.connection.is_open());
    drop(body);
    // Another ping may be on its way: the connection is idle from here on.
    tokio::time::sleep(45 * SECOND).await;
    assert!(pair.connection.is_open());
    tokio::time::sleep(45 * SECOND).await;
    assert!(!pair.connection.is_open());
    assert!(pair.subscribe().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn stop_ends_a_connection_with_open_streams() {
    let pair = pair(100, Settings::default()).await;
    let mut body = pair.subscribe().await.unwrap();
    drop(pair.stop);
    assert!(timeout(SECOND, chunk(&mut body)).await.expect("it goes on").unwrap().is_err());
    assert!(!pair.connection.is_open());
}

#[tokio::test(start_paused = true)]
async fn everything_released() {
    let mut pair = pair(100, Settings::default()).await;
    let body = pair.subscribe().await.unwrap();
    let mut stream = pair.server.accepted().await;
    // Dropping a body resets its stream, so that the server stops.
    drop(body);
    let reset = timeout(SECOND, poll_fn(|cx| stream.poll_reset(cx))).await;
    assert_eq!(reset.expect("no reset came").unwrap(), h2::Reason::CANCEL);
    // When the last holder is dropped, both ends close.
    let Pair { connection, server, tasks, stop } = pair;
    drop((connection, stop, server, stream));
    tasks.close();
    timeout(SECOND, tasks.wait()).await.expect("a task is left");
}
