//! An HTTP server that records requests: a webhook's receiver, an old server, a collector.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{free_port, gunzip, runtime};

/// A received request.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: String,
    /// The path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as received.
    pub body: Vec<u8>,
}

impl Received {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is ASCII"))
    }

    /// The body, unpacked if it is marked gzip.
    pub fn unpacked(&self) -> Vec<u8> {
        if self.header("content-encoding") == Some("gzip") { gunzip(&self.body) } else { self.body.clone() }
    }
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The delay before the answer.
    pub delay: Duration,
}

impl Reply {
    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), delay: Duration::ZERO }
    }

    /// Adds a body of this type.
    #[must_use]
    pub fn body(mut self, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.headers.push(("content-type", media_type.to_owned()));
        self.body = body.into();
        self
    }

    /// Adds a header.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers pass numbers and texts")]
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Delays the answer.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Handler = dyn Fn(&Received) -> Reply + Send + Sync;

/// A running receiver; it is stopped when it is dropped, and its connections are closed.
pub struct Receiver {
    port: u16,
    requests: Arc<Mutex<Vec<Received>>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Answers every request with the handler's reply.
    pub async fn start(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(free_port(), handler).await
    }

    /// Like `start`, on this port.
    pub async fn start_on(port: u16, handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = runtime().spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, port))).await.expect("no panic").expect("the port is free");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let serving = runtime().spawn(accept(listener, Arc::clone(&requests), Arc::new(handler)));
        Self { port, requests, serving }
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The receiver's URL without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests received so far, in their order.
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().expect("no holder panics").clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, requests: Arc<Mutex<Vec<Received>>>, handler: Arc<Handler>) {
    // Dropped with this task, which closes its connections.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (requests, handler) = (Arc::clone(&requests), Arc::clone(&handler));
        let service = service_fn(move |request| answer(request, Arc::clone(&requests), Arc::clone(&handler)));
        connections.spawn(async move {
            // A client that disconnects early is no error here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    request: Request<Incoming>,
    requests: Arc<Mutex<Vec<Received>>>,
    handler: Arc<Handler>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let received = Received {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: head.headers,
        body: body.collect().await?.to_bytes().to_vec(),
    };
    let reply = handler(&received);
    requests.lock().expect("no holder panics").push(received);
    tokio::time::sleep(reply.delay).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(Bytes::from(reply.body))).expect("the reply is well-formed"))
}
