//! The ceiling: what axum can do when a server has nothing to do. It reads a request's body and answers a constant.

use std::net::Ipv4Addr;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use tokio::net::TcpListener;

/// Answers on this loopback port until the process is ended.
pub fn serve(port: u16) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let router = Router::new().route("/updates", post(answer)).route("/update", post(answer));
        #[expect(clippy::disallowed_methods, reason = "the bare server is the yardstick; it only ever meets this benchmark")]
        axum::serve(listener, router).await
    })
}

async fn answer(body: Bytes) -> ([(axum::http::HeaderName, &'static str); 1], &'static str) {
    // The body is whole here; nobody looks at it.
    drop(body);
    ([(CONTENT_TYPE, "application/json")], r#"{"updated":60}"#)
}
