//! API_TOKENS_FILE: who may read and write over Prometheus's interfaces.

use std::path::Path;
use std::time::Duration;

use golectra_tests::remote_write::{remote_series, remote_write_v1};
use golectra_tests::{Client, ProgramBuilder, RequestBuilder, Server, Target, on_both_stores, unix_millis, until};
use tempfile::TempDir;

on_both_stores!(
    routes_need_a_token_of_their_scope,
    a_browser_signs_in_once,
    tokens_are_read_again_when_they_change,
    a_token_stands_for_a_signature
);

fn body() -> Vec<u8> {
    let now = i64::try_from(unix_millis()).expect("the clock is before the year 292278994");
    remote_write_v1(&[remote_series("m", &[], &[(now, 1.0)])])
}

/// Writes the file by rename, so that it is never read in part.
fn put(folder: &Path, content: &str) {
    std::fs::write(folder.join(".tokens"), content).expect("our own folder");
    std::fs::rename(folder.join(".tokens"), folder.join("tokens")).expect("our own folder");
}

fn folder(content: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    put(folder.path(), content);
    folder
}

fn start(t: &Target, folder: &TempDir, settings: &[(&str, &str)]) -> Server {
    let mut builder = t.own().env("API_TOKENS_FILE", folder.path().join("tokens").display()).metrics();
    for (name, value) in settings {
        builder = builder.env(name, value);
    }
    builder.start()
}

fn bearer<'a>(request: RequestBuilder<'a>, token: &str) -> RequestBuilder<'a> {
    request.header("authorization", format!("Bearer {token}"))
}

async fn status(client: &Client, token: &str) -> (u16, u16) {
    let read = bearer(client.get("/api/v1/query?query=1"), token).send().await.status;
    let write = bearer(client.remote_write(body()), token).send().await.status;
    (read, write)
}

async fn routes_need_a_token_of_their_scope(t: Target) {
    let folder = folder("# comment\ngrafana:read:r-token\nprom:write:w:token\nroot:admin:a-token\n");
    let server = start(&t, &folder, &[]);
    let client = server.client();
    assert_eq!(status(&client, "r-token").await, (200, 403));
    assert_eq!(status(&client, "w:token").await, (403, 204));
    assert_eq!(status(&client, "a-token").await, (200, 204));
    assert_eq!(status(&client, "r-token ").await, (200, 403), "spaces around it are no part of it");
    assert_eq!(status(&client, "wrong").await, (401, 401));
    for request in
        [client.get("/api/v1/labels"), client.get("/api/v1/export"), client.post("/api/v1/query_range"), client.remote_write(body())]
    {
        let answer = request.send().await.expect(401);
        let challenges: Vec<_> =
            answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap_or_default()).collect();
        assert_eq!(challenges, ["Bearer realm=\"golectra\"", "Basic realm=\"golectra\""]);
        assert!(answer.text().contains("token"), "{answer:?}");
    }
    // A browser opens its own dialog for a password where it is asked for Basic: pages have a form.
    for request in [client.get("/stream"), client.post("/api/v1/query_range").header("origin", "http://example.com")] {
        let answer = request.send().await.expect(401);
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, ["Bearer realm=\"golectra\""]);
    }
    // The password of Basic, whatever the user's name: `me:w:token` in base64.
    client.remote_write(body()).header("authorization", "Basic bWU6dzp0b2tlbg==").send().await.expect(204);
    // What agents and people use, and what an orchestrator asks, stays open.
    client.updates(&serde_json::json!([{"id": "c", "type": "counter", "delta": 1}])).await.expect(200);
    for path in ["/", "/ping", "/-/healthy", "/-/ready", "/api/v1/snapshot", "/api/v1/latest", "/api/v1/sources"] {
        client.get(path).send().await.expect(200);
    }
    assert_eq!(client.get("/api/v1/nothing").send().await.status, 404);
    let metrics = server.metrics_client().get("/metrics").send().await.text();
    assert!(metrics.contains("golectra_api_token_requests_total{token=\"prom\"} 2"), "{metrics}");
    assert!(!server.stderr().contains("-token"), "no token is logged");
}

async fn tokens_are_read_again_when_they_change(t: Target) {
    let folder = folder("old:write:one\n");
    let server = start(&t, &folder, &[]);
    let client = server.client();
    assert_eq!(status(&client, "one").await, (403, 204));
    put(folder.path(), "new:read:two\n");
    until("the new token is known", Duration::from_secs(30), async || status(&client, "two").await == (200, 403)).await;
    assert_eq!(status(&client, "one").await, (401, 401));
    // A mistake leaves the tokens as they were, and is told without the token.
    put(folder.path(), "new:reader:three\n");
    until("the mistake is logged", Duration::from_secs(30), async || server.stderr().contains("line 1")).await;
    assert_eq!(status(&client, "two").await, (200, 403));
    assert!(!server.stderr().contains("three"));
    // At the start it is an error.
    let mut refused = ProgramBuilder::new("golectra-server").env("API_TOKENS_FILE", folder.path().join("tokens").display()).start();
    assert_ne!(refused.wait(Duration::from_secs(30)), golectra_tests::Exit::Code(0));
    assert!(refused.stderr().contains("API_TOKENS_FILE"), "{}", refused.tail());
}

async fn a_token_stands_for_a_signature(t: Target) {
    let folder = folder("prom:write:w-token\n");
    let server = start(&t, &folder, &[("KEY", "k"), ("SIGNATURES", "required")]);
    let client = server.client();
    assert_eq!(status(&client, "w-token").await, (403, 204));
    assert_eq!(client.remote_write(body()).send().await.status, 401);
    let unsigned = client.updates(&serde_json::json!([{"id": "c", "type": "counter", "delta": 1}])).await;
    assert_eq!(unsigned.status, 401, "a token does not stand for the signature of an agent's report");
}

/// The form of signing in, as a browser sends it from a page of this site.
fn form<'a>(client: &'a Client, token: &str, site: &str) -> RequestBuilder<'a> {
    let request = client.post("/sign-in").header("sec-fetch-site", site);
    request.header("content-type", "application/x-www-form-urlencoded").body(format!("token={token}&to=%2Fnode%3Fname%3Dcellar"))
}

async fn a_browser_signs_in_once(t: Target) {
    let folder = folder("me:read:r-token\nprom:write:w-token\n");
    let server = start(&t, &folder, &[]);
    let client = server.client();
    client.post("/updates").source("cellar").json(&serde_json::json!([{"id": "c", "type": "gauge", "value": 1}])).send().await.expect(200);
    for path in ["/", "/node?name=cellar", "/source?name=cellar", "/pods", "/alerts", "/explore", "/status"] {
        let page = client.get(path).send().await.expect(200).text();
        assert!(page.contains("action=\"/sign-in\"") && !page.contains(">cellar<"), "{path}: {page}");
        assert!(!page.contains("<script"), "there is nothing to keep current before one has signed in: {page}");
    }
    form(&client, "wrong", "same-origin").send().await.expect(403);
    form(&client, "w-token", "same-origin").send().await.expect(403);
    form(&client, "r-token", "cross-site").send().await.expect(403);
    let answer = form(&client, "r-token", "same-origin").send().await.expect(303);
    assert_eq!(answer.header("location"), Some("/node?name=cellar"));
    let cookie = answer.header("set-cookie").expect("a cookie");
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("r-token") && !cookie.contains("Secure"), "{cookie}");
    let session = cookie.split(';').next().expect("a value");
    let with = async |request: RequestBuilder<'_>| request.header("cookie", session).send().await;
    assert!(with(client.get("/")).await.expect(200).text().contains("cellar"));
    with(client.get("/api/v1/query?query=1")).await.expect(200);
    let post = || client.post("/api/v1/query").header("content-type", "application/x-www-form-urlencoded").body("query=1");
    post().send().await.expect(401);
    // A query by POST changes nothing, so that it is answered like one by GET.
    with(post()).await.expect(200);
    with(post().header("sec-fetch-site", "cross-site")).await.expect(200);
    with(post().header("sec-fetch-site", "same-origin")).await.expect(200);
    with(client.remote_write(body()).header("sec-fetch-site", "same-origin")).await.expect(401);
    let end = client.post("/sign-out").header("sec-fetch-site", "same-origin").send().await.expect(303);
    assert!(end.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    // A token that is taken away ends its sessions.
    put(folder.path(), "prom:write:w-token\n");
    until("the session ends", Duration::from_secs(30), async || with(client.get("/api/v1/query?query=1")).await.status == 401).await;
}

#[tokio::test]
async fn the_cookie_is_for_encrypted_connections_where_a_trusted_proxy_or_the_browser_says_so() {
    let folder = folder("me:read:r-token\n");
    for (trusted, origin, secure) in
        [("127.0.0.1/32", "null", true), ("10.0.0.0/8", "http://metrics.example", false), ("10.0.0.0/8", "https://metrics.example", true)]
    {
        let server =
            Server::builder().env("API_TOKENS_FILE", folder.path().join("tokens").display()).env("TRUSTED_PROXIES", trusted).start();
        let client = server.client();
        let answer =
            form(&client, "r-token", "same-origin").header("x-forwarded-proto", "https").header("origin", origin).send().await.expect(303);
        assert_eq!(answer.header("set-cookie").is_some_and(|cookie| cookie.contains("; Secure")), secure, "{trusted} {origin}");
    }
}
