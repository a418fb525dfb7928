//! The simulator as a server: it prints its addresses, and serves until it is killed or its input ends.
//!
//! `cargo run -p kinesis-simulator --bin simulate [CERTIFICATE-FILE]`. The first line is the address without TLS, the
//! second the one with TLS, whose certificate is written to the file.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::io::Read as _;

use kinesis_simulator::server::{Identity, Server};
use kinesis_simulator::{Link, Settings, Simulator};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let simulator = Simulator::new(Settings::default())?;
    let link = Link::new("sockets", 1);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let identity = Identity { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() };
    let plain = Server::start(simulator.clone(), link.clone(), None).await?;
    let secure = Server::start(simulator, link, Some(&identity)).await?;
    if let Some(file) = std::env::args().nth(1) {
        std::fs::write(file, &identity.certificate)?;
    }
    println!("{}\n{}", plain.endpoint(), secure.endpoint());
    // The parent process may exit without notice; its end of the pipe is then closed.
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    end.await??;
    Ok(())
}
