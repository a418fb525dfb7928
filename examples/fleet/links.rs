//! How are the links held up from a worker to its table and to its stream? Each is a port on loopback.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::AnyError;
use crate::check::Witness;

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    /// The port is closed, and open connections are cut.
    Closed,
    /// Bytes are dropped, in both directions. A connection that lost some is dead from then on: it stays open and
    /// silent, even after the link is open again, until its worker closes it.
    Stalled,
    /// What is sent arrives this much later, in either direction.
    Slow(Duration),
}

/// A port that leads to a service.
pub struct Link {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    _listening: JoinSet<()>,
}

impl Link {
    /// A link to this service. The witness is notified of each connection that is dead.
    pub async fn start(to: SocketAddr, witness: Option<Witness>) -> Result<Self, AnyError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (state, mut is) = watch::channel(State::Open);
        let of_connections = is.clone();
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut listener = Some(listener);
            loop {
                let Some(port) = listener.take().or_else(|| listen_again(address).ok()) else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let mut connections = JoinSet::new();
                loop {
                    tokio::select! {
                        accepted = port.accept() => if let Ok((from, _)) = accepted {
                            connections.spawn(forward(from, to, of_connections.clone(), witness.clone()));
                        },
                        _ = is.wait_for(|state| *state == State::Closed) => break,
                    }
                    while connections.try_join_next().is_some() {}
                }
                // New connections are refused from here on, and open ones are cut.
                drop(port);
                connections.shutdown().await;
                if is.wait_for(|state| *state != State::Closed).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { address, state, _listening: listening })
    }

    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

fn listen_again(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// The state that the two directions of a connection share.
struct Connection {
    state: watch::Receiver<State>,
    /// Set once bytes of the connection were dropped, to the id from its witness.
    dead: OnceLock<Option<usize>>,
    witness: Option<Witness>,
}

impl Connection {
    /// Whether bytes that just arrived are dropped.
    fn drops(&self) -> bool {
        if *self.state.borrow() == State::Stalled {
            self.dead.get_or_init(|| self.witness.as_ref().map(Witness::begin));
        }
        self.is_dead()
    }

    fn is_dead(&self) -> bool {
        self.dead.get().is_some()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let (Some(witness), Some(Some(hurt))) = (&self.witness, self.dead.get()) {
            witness.end(*hurt);
        }
    }
}

/// Forwards until the worker closes the connection, or the service does and the worker can see it.
async fn forward(from: TcpStream, to: SocketAddr, state: watch::Receiver<State>, witness: Option<Witness>) {
    let connection = Connection { state, dead: OnceLock::new(), witness };
    let Ok(to) = TcpStream::connect(to).await else { return };
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let (from_worker, to_worker) = from.into_split();
    let (from_service, to_service) = to.into_split();
    tokio::select! {
        () = pump(from_worker, to_service, &connection) => {}
        () = async {
            pump(from_service, to_worker, &connection).await;
            if connection.is_dead() {
                std::future::pending::<()>().await;
            }
        } => {}
    }
}

/// Forwards the bytes that arrive, as the link's state is at that moment, until the end or an error.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, connection: &Connection) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let state = *connection.state.borrow();
        if let State::Slow(delay) = state {
            sleep(delay).await;
        }
        if connection.drops() {
            continue;
        }
        // A service that closed is noticed in the other direction; a dead connection continues to drop bytes.
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;
    use crate::check::Check;

    const SOON: Duration = Duration::from_secs(10);
    const NEVER: Duration = Duration::from_millis(300);

    /// A service that echoes each byte, and a link to it.
    async fn echo(witness: Option<Witness>) -> Result<(Link, JoinSet<()>), AnyError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let link = Link::start(listener.local_addr()?, witness).await?;
        let mut service = JoinSet::new();
        service.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Ok((link, service))
    }

    /// Whether a byte is answered; an error if the connection is closed.
    async fn is_answered(connection: &mut TcpStream, within: Duration) -> std::io::Result<bool> {
        connection.write_all(b"x").await?;
        match timeout(within, connection.read_exact(&mut [0])).await {
            Ok(read) => read.map(|_| true),
            Err(_) => Ok(false),
        }
    }

    #[tokio::test]
    async fn stalled_connection_stays_dead_and_hurts_its_worker_until_it_is_closed() -> Result<(), AnyError> {
        let start = Instant::now();
        let check = std::sync::Arc::new(Mutex::new(Check::new(start)));
        let worker = check.lock().unwrap_or_else(PoisonError::into_inner).worker("a");
        let witness = Witness { check: std::sync::Arc::clone(&check), worker };
        let (link, _service) = echo(Some(witness)).await?;
        let mut used = TcpStream::connect(link.address).await?;
        let mut idle = TcpStream::connect(link.address).await?;
        assert!(is_answered(&mut used, SOON).await? && is_answered(&mut idle, SOON).await?);
        link.set(State::Stalled);
        assert!(!is_answered(&mut used, NEVER).await?);
        let mut new = TcpStream::connect(link.address).await?;
        assert!(!is_answered(&mut new, NEVER).await?);
        link.set(State::Open);
        assert!(!is_answered(&mut used, NEVER).await? && !is_answered(&mut new, NEVER).await?);
        // The connection that lost nothing continues, as do new ones.
        let mut newer = TcpStream::connect(link.address).await?;
        assert!(is_answered(&mut idle, SOON).await? && is_answered(&mut newer, SOON).await?);
        let hurting = || check.lock().unwrap_or_else(PoisonError::into_inner).hurting();
        assert_eq!(hurting(), 2);
        drop((used, new));
        let until = Instant::now() + SOON;
        while hurting() > 0 && Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(hurting(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn closed_link_cuts_and_refuses_until_it_is_open_again() -> Result<(), AnyError> {
        let (link, _service) = echo(None).await?;
        let mut connection = TcpStream::connect(link.address).await?;
        assert!(is_answered(&mut connection, SOON).await?);
        link.set(State::Closed);
        assert!(matches!(timeout(SOON, connection.read(&mut [0])).await?, Ok(0) | Err(_)));
        assert!(TcpStream::connect(link.address).await.is_err());
        link.set(State::Open);
        let until = Instant::now() + SOON;
        let mut connection = loop {
            match TcpStream::connect(link.address).await {
                Ok(connection) => break connection,
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        };
        assert!(is_answered(&mut connection, SOON).await?);
        Ok(())
    }

    #[tokio::test]
    async fn slow_link_delays_both_directions() -> Result<(), AnyError> {
        let (link, _service) = echo(None).await?;
        link.set(State::Slow(Duration::from_millis(50)));
        let mut connection = TcpStream::connect(link.address).await?;
        let sent = Instant::now();
        assert!(is_answered(&mut connection, SOON).await?);
        assert!(sent.elapsed() >= Duration::from_millis(100));
        Ok(())
    }
}
