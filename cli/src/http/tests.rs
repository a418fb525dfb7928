use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Sends this and reads until the server closes the connection.
async fn say(address: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has answered what it had to say.
    let _ = client.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    say(address, &format!("{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n")).await
}

async fn server() -> SocketAddr {
    serve("127.0.0.1:0".parse().unwrap(), Observed::new(KinesisInput::new(), None)).await.unwrap()
}

#[tokio::test]
async fn paths_are_answered_and_nothing_else() {
    let here = server().await;
    let health = ask(here, "GET", "/health").await;
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nalive\n"), "{health}");
    let ready = ask(here, "GET", "/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("the pipeline is starting\n"), "{ready}");
    let status = ask(here, "GET", "/status").await;
    let (head, body) = status.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json") && head.contains("cache-control: no-store"), "{head}");
    let status: Status = serde_json::from_str(body).unwrap();
    assert!(!status.ready && status.version == status::VERSION && status.inputs.is_empty());
    let fleet: Fleet =
        serde_json::from_str(ask(here, "GET", "/fleet").await.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert!(!fleet.shared);
    let page = ask(here, "GET", "/?sort=lag").await;
    assert!(page.contains(page::POLICY) && page.ends_with("</html>"), "{page}");
    let head = ask(here, "HEAD", "/status").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    for (method, path, code) in
        [("POST", "/status", 405), ("DELETE", "/", 405), ("GET", "/metrics", 404), ("GET", "/status/../x", 404)]
    {
        let answer = ask(here, method, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn large_and_odd_requests_are_refused() {
    let here = server().await;
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(10 * REQUEST_BYTES));
    for request in [&large, "GET / HTTP/9.9\r\n\r\n", "\u{1}\u{2}\u{3}\r\n\r\n"] {
        let answer = say(here, request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // A body is not waited for.
    let answer = say(here, "GET /health HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n").await;
    assert!(answer.contains("alive"), "{answer}");
}

/// Time is virtual: it moves on when everybody waits.
#[tokio::test(start_paused = true)]
async fn clients_that_say_nothing_are_left_and_the_next_one_is_answered() {
    let here = server().await;
    let mut silent = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        let mut client = TcpStream::connect(here).await.unwrap();
        client.write_all(b"GET / HT").await.unwrap();
        silent.push(client);
    }
    let start = Instant::now();
    let answer = ask(here, "GET", "/health").await;
    assert!(answer.ends_with("alive\n"), "{answer}");
    assert!(start.elapsed() <= REQUEST_WITHIN * 3, "{:?}", start.elapsed());
}
