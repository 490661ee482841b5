//! GET /stream: open pages are told when to look again.

use std::time::{Duration, Instant};

use golectra_tests::{Exit, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

/// A browser's request, and what came of the answer.
struct Stream {
    connection: TcpStream,
    read: String,
}

impl Stream {
    async fn open(server: &Server, header: &str) -> Self {
        let mut connection = TcpStream::connect(("127.0.0.1", server.port())).await.expect("the server listens");
        let request = format!("GET /stream HTTP/1.1\r\nhost: golectra\r\naccept-encoding: gzip\r\n{header}\r\n");
        connection.write_all(request.as_bytes()).await.expect("it is sent");
        Self { connection, read: String::new() }
    }

    /// Reads until the answer has this text so many times; false at its end.
    async fn has(&mut self, text: &str, times: usize) -> bool {
        let mut buffer = [0; 4096];
        while self.read.matches(text).count() < times {
            let read = timeout(LIMIT, self.connection.read(&mut buffer)).await.expect("it goes on or ends").expect("it is not cut off");
            if read == 0 {
                return false;
            }
            self.read.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
        }
        true
    }
}

#[tokio::test]
async fn open_pages_are_told_to_look_until_the_server_ends() {
    let mut server = Server::builder().start();
    let mut page = Stream::open(&server, "").await;
    assert!(page.has("event: look\n", 2).await, "{}", page.read);
    // Without data a browser takes it for no event.
    assert!(page.has("\ndata: ", 2).await, "{}", page.read);
    let head = page.read.split("\r\n\r\n").next().expect("a head").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
    assert!(!head.contains("content-encoding"), "a packed event would wait for the next ones: {head}");
    assert!(page.read.contains("id: ") && page.read.contains("retry: 2000\n"), "{}", page.read);

    // One that was cut off looks at once.
    let mut back = Stream::open(&server, "last-event-id: 7\r\n").await;
    assert!(back.has("event: look\n", 1).await, "{}", back.read);

    assert_eq!(server.stop(), Exit::Code(0), "{}", server.tail());
    assert!(!page.has("event: look\n", usize::MAX).await);
    assert!(page.read.ends_with("0\r\n\r\n"), "the answer is complete: {}", page.read);
}

#[tokio::test]
async fn a_page_that_comes_while_the_server_lingers_is_let_go_at_once() {
    let mut server = Server::builder().env("SHUTDOWN_LINGER", "8s").start();
    let mut before = Stream::open(&server, "").await;
    assert!(before.has("event: look\n", 1).await, "{}", before.read);
    let begun = Instant::now();
    server.signal(libc::SIGTERM);
    assert!(before.has("\r\n0\r\n\r\n", 1).await, "{}", before.read);
    let mut late = Stream::open(&server, "").await;
    assert!(!late.has("event: look\n", usize::MAX).await);
    assert!(late.read.starts_with("HTTP/1.1 200") && late.read.ends_with("0\r\n\r\n"), "{}", late.read);
    assert!(begun.elapsed() < Duration::from_secs(8), "it ends before the linger time does");
    assert_eq!(server.wait(LIMIT), Exit::Code(0), "{}", server.tail());
}
