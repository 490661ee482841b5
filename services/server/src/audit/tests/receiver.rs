//! A webhook receiver on loopback that answers as the test specifies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use golectra_process::{ConnectionLimits, listen};
use http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The answer to a request.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    Status(u16),
    /// A redirect to another path of the receiver.
    Redirect,
    /// No answer.
    Hang,
    /// The connection is closed within the answer's head.
    Close,
}

/// A request as received.
#[derive(Debug, Clone)]
pub struct SeenRequest {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl SeenRequest {
    /// A header's text, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub struct Receiver {
    address: SocketAddr,
    seen: watch::Receiver<Vec<SeenRequest>>,
    _stop: DropGuard,
}

impl Receiver {
    /// Answers request 0, 1 and so on as the script says.
    pub async fn start(script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub fn at(listener: TcpListener, script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let (sender, seen) = watch::channel(Vec::new());
        let state = Arc::new((Mutex::new(sender), script));
        let app = Router::new().fallback(move |request: Request| {
            let state = Arc::clone(&state);
            async move {
                let (head, body) = request.into_parts();
                let body = to_bytes(body, 1 << 20).await.unwrap();
                let request = SeenRequest { path: head.uri.path().to_owned(), headers: head.headers, body };
                let answer = {
                    let sender = state.0.lock().unwrap();
                    let number = sender.borrow().len();
                    sender.send_modify(|seen| seen.push(request));
                    (state.1)(number)
                };
                answered(answer).await
            }
        });
        let token = CancellationToken::new();
        let limits = ConnectionLimits { drain: Duration::from_millis(1), ..ConnectionLimits::default() };
        tokio::spawn(listen::serve(listener, app, limits, token.clone()));
        Self { address, seen, _stop: token.drop_guard() }
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// The requests so far, once there are at least this many.
    pub async fn requests(&self, at_least: usize) -> Vec<SeenRequest> {
        let mut seen = self.seen.clone();
        let enough = seen.wait_for(|seen| seen.len() >= at_least);
        tokio::time::timeout(Duration::from_secs(20), enough).await.expect("the requests came in time").unwrap().clone()
    }
}

async fn answered(answer: Answer) -> Response {
    match answer {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Redirect => (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response(),
        Answer::Hang => std::future::pending().await,
        Answer::Close => {
            // A panic of the handler closes its connection.
            std::panic::resume_unwind(Box::new("the receiver breaks off"))
        }
    }
}
