//! Who may do what: each route for each kind of caller.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use golectra_tests::remote_write::{remote_series, remote_write_v1};
use golectra_tests::{Answer, Client, Exit, ProgramBuilder, RequestBuilder, Server, unix_millis};
use http::Method;
use serde_json::json;
use tempfile::TempDir;

/// What a request to a route needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// To read: a page, or what the scripts of pages read.
    Read,
    /// To write samples. Programs do that, with tokens.
    Samples,
    /// To change what people decide.
    Change,
}

use Needs::{Change, Nothing, Read, Samples};

/// The forms of signing in and out, which look at where they come from themselves (see tokens.rs).
const FORMS: [&str; 2] = ["/sign-in", "/sign-out"];

/// All other routes, with a request to each.
const ROUTES: &[(&str, &str, &str, Needs)] = &[
    ("GET", "/", "/", Read),
    ("GET", "/node", "/node?name=cellar", Read),
    ("GET", "/source", "/source?name=cellar", Read),
    ("GET", "/pods", "/pods", Read),
    ("GET", "/pod", "/pod?namespace=a&name=b", Read),
    ("GET", "/alerts", "/alerts", Read),
    ("GET", "/changes", "/changes", Read),
    ("GET", "/compare", "/compare", Read),
    ("GET", "/explore", "/explore", Read),
    ("GET", "/page", "/page?name=none", Read),
    ("GET", "/status", "/status", Read),
    // Its answer has no end.
    ("HEAD", "/stream", "/stream", Read),
    ("GET", "/assets/{name}", "/assets/none", Nothing),
    ("POST", "/update", "/update", Nothing),
    ("POST", "/update/{kind}", "/update/gauge", Nothing),
    ("POST", "/update/{kind}/{name}", "/update/gauge/a", Nothing),
    ("POST", "/update/{kind}/{name}/{value}", "/update/gauge/a/1", Nothing),
    ("POST", "/updates", "/updates", Nothing),
    ("POST", "/value", "/value", Nothing),
    ("GET", "/value/{kind}", "/value/gauge", Nothing),
    ("GET", "/value/{kind}/{name}", "/value/gauge/a", Nothing),
    ("GET", "/api/v1/snapshot", "/api/v1/snapshot", Nothing),
    ("GET", "/api/v1/latest", "/api/v1/latest", Nothing),
    ("GET", "/api/v1/sources", "/api/v1/sources", Nothing),
    ("DELETE", "/api/v1/sources/{name}", "/api/v1/sources/none", Nothing),
    ("GET", "/api/v1/silences", "/api/v1/silences", Read),
    ("POST", "/api/v1/silences", "/api/v1/silences", Change),
    ("DELETE", "/api/v1/silences/{id}", "/api/v1/silences/none", Change),
    ("GET", "/api/v1/receivers", "/api/v1/receivers", Read),
    ("POST", "/api/v1/receivers/{name}/test", "/api/v1/receivers/none/test", Change),
    ("POST", "/api/v1/write", "/api/v1/write", Samples),
    ("GET", "/ping", "/ping", Nothing),
    ("GET", "/ping/live", "/ping/live", Nothing),
    ("GET", "/api/v1/query", "/api/v1/query?query=1", Read),
    ("POST", "/api/v1/query", "/api/v1/query?query=1", Read),
    ("GET", "/api/v1/query_range", "/api/v1/query_range?query=1&start=1&end=2&step=1", Read),
    ("GET", "/api/v1/query_exemplars", "/api/v1/query_exemplars?query=a&start=1&end=2", Read),
    ("GET", "/api/v1/format_query", "/api/v1/format_query?query=1", Read),
    ("GET", "/api/v1/parse_query", "/api/v1/parse_query?query=1", Read),
    ("GET", "/api/v1/series", "/api/v1/series?match[]=a", Read),
    ("POST", "/api/v1/series", "/api/v1/series?match[]=a", Read),
    ("GET", "/api/v1/labels", "/api/v1/labels", Read),
    ("GET", "/api/v1/label/{name}/values", "/api/v1/label/job/values", Read),
    ("GET", "/api/v1/export", "/api/v1/export", Read),
    ("GET", "/api/v1/metadata", "/api/v1/metadata", Read),
    ("GET", "/api/v1/rules", "/api/v1/rules", Read),
    ("GET", "/api/v1/alerts", "/api/v1/alerts", Read),
    ("GET", "/api/v1/status/buildinfo", "/api/v1/status/buildinfo", Read),
    ("GET", "/api/v1/status/runtimeinfo", "/api/v1/status/runtimeinfo", Read),
    ("GET", "/api/v1/status/flags", "/api/v1/status/flags", Read),
    ("GET", "/api/v1/status/config", "/api/v1/status/config", Read),
    ("GET", "/api/v1/status/tsdb", "/api/v1/status/tsdb", Read),
    ("GET", "/-/healthy", "/-/healthy", Nothing),
    ("GET", "/-/ready", "/-/ready", Nothing),
    ("HEAD", "/api/v1/silences", "/api/v1/silences", Read),
];

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Nobody,
    /// A token that the server does not have.
    Stranger,
    /// Tokens of each scope.
    Reader,
    Writer,
    Admin,
    /// The cookie of a browser that signed in with such a token, from a page of this server.
    ReaderSession,
    AdminSession,
    /// The same from a page of another site.
    ForeignPage,
    /// The user whom a trusted proxy names, from a page of this server and from one of another site.
    User,
    ForeignPageOfUser,
    /// The same header, twice.
    AmbiguousUser,
}

/// Those that are not of a proxy come first.
const CALLERS: [Caller; 11] = [
    Caller::Nobody,
    Caller::Stranger,
    Caller::Reader,
    Caller::Writer,
    Caller::Admin,
    Caller::ReaderSession,
    Caller::AdminSession,
    Caller::ForeignPage,
    Caller::User,
    Caller::ForeignPageOfUser,
    Caller::AmbiguousUser,
];

/// The role that a server gives to users whom the proxy names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Users {
    /// The proxy is not trusted, or the server does not know the header.
    Unknown,
    Read,
    Admin,
}

impl Caller {
    fn may(self, needs: Needs, users: Users) -> bool {
        let is_user = |wanted: Needs| users == Users::Admin && wanted != Samples || users == Users::Read && wanted == Read;
        match (self, needs) {
            (_, Nothing) | (Self::Admin, _) => true,
            (Self::Nobody | Self::Stranger | Self::AmbiguousUser, _) => false,
            // A page of another origin can't read the answer, so that it may as well ask.
            (Self::Reader | Self::ReaderSession | Self::ForeignPage, needs) => needs == Read,
            (Self::Writer, needs) => needs != Read,
            (Self::AdminSession, needs) => needs != Samples,
            (Self::User, needs) => is_user(needs),
            (Self::ForeignPageOfUser, needs) => needs == Read && is_user(needs),
        }
    }

    fn send<'a>(self, request: RequestBuilder<'a>, sessions: &Sessions) -> RequestBuilder<'a> {
        let bearer = |token: &str| format!("Bearer {token}");
        match self {
            Self::Nobody => request,
            Self::Stranger => request.header("authorization", bearer("stranger")),
            Self::Reader => request.header("authorization", bearer("r-token")),
            Self::Writer => request.header("authorization", bearer("w-token")),
            Self::Admin => request.header("authorization", bearer("a-token")),
            Self::ReaderSession => request.header("cookie", &sessions.reader).header("sec-fetch-site", "same-origin"),
            Self::AdminSession => request.header("cookie", &sessions.admin).header("sec-fetch-site", "same-origin"),
            Self::ForeignPage => request.header("cookie", &sessions.admin).header("sec-fetch-site", "cross-site"),
            Self::User => request.header("x-user", "ada").header("sec-fetch-site", "same-origin"),
            Self::ForeignPageOfUser => request.header("x-user", "ada").header("sec-fetch-site", "cross-site"),
            Self::AmbiguousUser => request.header("x-user", "ada").header("x-user", "eve").header("sec-fetch-site", "same-origin"),
        }
    }
}

struct Sessions {
    reader: String,
    admin: String,
}

async fn session(client: &Client, token: &str) -> String {
    let form = client.post("/sign-in").header("sec-fetch-site", "same-origin");
    let form = form.header("content-type", "application/x-www-form-urlencoded").body(format!("token={token}"));
    let answer = form.send().await.expect(303);
    answer.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie").to_owned()
}

fn tokens() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::write(folder.path().join("tokens"), "r:read:r-token\nw:write:w-token\na:admin:a-token\n").expect("our own folder");
    folder
}

/// Whether a request was refused for who sent it. A page that asks for a token has the status of a page.
fn is_refused(answer: &Answer) -> bool {
    matches!(answer.status, 401 | 403) || answer.media_type() == "text/html" && answer.text().contains("<h1>Sign in</h1>")
}

async fn check_all(server: &Server, users: Users, callers: &[Caller]) {
    let client = server.client();
    let sessions = Sessions { reader: session(&client, "r-token").await, admin: session(&client, "a-token").await };
    let now = i64::try_from(unix_millis()).expect("the clock is before the year 292278994");
    let samples = remote_write_v1(&[remote_series("m", &[], &[(now, 1.0)])]);
    let mut wrong = String::new();
    for (method, route, path, needs) in ROUTES {
        let method: Method = method.parse().expect("a method");
        for caller in callers {
            let request = if *needs == Samples {
                client.remote_write(samples.clone())
            } else {
                let request = client.request(method.clone(), path);
                if method.is_safe() { request } else { request.header("content-type", "application/json") }
            };
            let answer = caller.send(request, &sessions).send().await;
            let expected = caller.may(*needs, users);
            if is_refused(&answer) == expected {
                let _ =
                    writeln!(wrong, "{method} {route} of {caller:?} with users {users:?}: {}, expected allowed: {expected}", answer.status);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn each_route_is_for_those_callers_that_may_use_it() {
    let folder = tokens();
    let file = folder.path().join("tokens").display().to_string();
    for (users, settings) in [
        (Users::Unknown, &[][..]),
        // The tests' address is not the proxy's: the header has no effect.
        (Users::Unknown, &[("AUTH_HEADER", "X-User"), ("AUTH_HEADER_ROLE", "admin"), ("TRUSTED_PROXIES", "10.0.0.0/8")]),
        (Users::Read, &[("AUTH_HEADER", "X-User"), ("TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.1")]),
        (Users::Admin, &[("AUTH_HEADER", "x-user"), ("AUTH_HEADER_ROLE", "admin"), ("TRUSTED_PROXIES", "127.0.0.0/8")]),
    ] {
        let mut builder = Server::builder().env("API_TOKENS_FILE", &file);
        for (name, value) in settings {
            builder = builder.env(name, value);
        }
        // What has nothing to do with the header is the same on each server.
        let callers = if settings.is_empty() { &CALLERS } else { &CALLERS[6..] };
        check_all(&builder.start(), users, callers).await;
    }
}

/// A route that is added must be added to the table above.
#[test]
fn the_table_of_routes_is_complete() {
    let source = include_str!("../../services/server/src/router.rs");
    // Each is the first argument of a call, or the first field of a row.
    let routes: BTreeSet<_> = source.match_indices("(\"/").filter_map(|(at, _)| source[at + 2..].split('"').next()).collect();
    let table: BTreeSet<_> = ROUTES.iter().map(|(_, route, ..)| *route).chain(FORMS).collect();
    assert!(routes.len() > 40, "{routes:?}");
    assert_eq!(table, routes);
}

#[tokio::test]
async fn behind_a_proxy_alone_users_are_who_it_names() {
    let settings = [("AUTH_HEADER", "X-User"), ("AUTH_HEADER_ROLE", "admin"), ("TRUSTED_PROXIES", "127.0.0.1")];
    let mut builder = Server::builder();
    for (name, value) in settings {
        builder = builder.env(name, value);
    }
    let server = builder.start();
    let client = server.client();
    let page = client.get("/").send().await.expect(403).text();
    assert!(page.contains("the proxy in front of it") && !page.contains("<form action=\"/sign-in\""), "{page}");
    let refused = client.get("/api/v1/query?query=1").send().await.expect(401).text();
    assert!(refused.contains("AUTH_HEADER") && !refused.contains("Bearer TOKEN"), "{refused}");
    // Whoever the proxy names may not write samples, so that its address would be of no use.
    let refused = client.remote_write(Vec::new()).header("x-user", "ada").send().await.expect(401).text();
    assert!(refused.contains("API_TOKENS_FILE") && !refused.contains("AUTH_HEADER"), "{refused}");
    client.get("/").header("x-user", "ada").send().await.expect(200);
    // What the proxy itself was asked with may reach the server.
    client.get("/api/v1/query?query=1").header("x-user", "ada").header("authorization", "Basic YWRhOnB3").send().await.expect(200);
    // Programs that the proxy lets through, such as Grafana, query by POST and say nothing about a page.
    for (route, form) in [("query", "query=1"), ("query_range", "query=1&start=1&end=2&step=1"), ("series", "match[]=a"), ("labels", "")] {
        let path = format!("/api/v1/{route}");
        let query = || client.post(&path).header("content-type", "application/x-www-form-urlencoded").body(form);
        query().header("x-user", "ada").send().await.expect(200);
        // The proxy has replaced Host, and a browser tells Origin alone over plain HTTP.
        query().header("x-user", "ada").header("origin", "http://metrics.example").send().await.expect(200);
        query().send().await.expect(401);
    }
    let silence = json!({
        "matchers": [{"name": "instance", "value": "n1"}], "duration": "1h", "createdBy": "eve", "comment": "a disk is replaced",
    });
    let create = || client.post("/api/v1/silences").json(&silence).header("x-user", "ada");
    let refused = create().send().await.expect(401).text();
    assert!(refused.contains("Origin") && refused.contains("X-Forwarded-Host"), "it says what is missing: {refused}");
    client.request(Method::DELETE, "/api/v1/silences/none").header("x-user", "ada").send().await.expect(401);
    client.post("/api/v1/receivers/none/test").header("x-user", "ada").send().await.expect(401);
    // A proxy may replace the host that the browser knows, and tells it.
    create().header("origin", "https://metrics.example").header("x-forwarded-host", "evil.example").send().await.expect(401);
    create().header("origin", "https://metrics.example").header("x-forwarded-host", "metrics.example").send().await.expect(200);
    let listed = client.get("/api/v1/silences").header("x-user", "ada").send().await.expect(200).json();
    assert_eq!(listed["silences"][0]["createdBy"], "ada", "not who the client says");
    assert!(server.stderr().contains("the user ada"), "the log names who made it: {}", server.tail());
}

#[test]
fn a_header_that_everyone_could_send_is_refused_at_the_start() {
    for (proxies, sentence) in [("", "set TRUSTED_PROXIES"), ("10.0.0.0/8,0.0.0.0/0", "everyone"), ("::/0", "everyone")] {
        let mut run = ProgramBuilder::new("golectra-server").env("AUTH_HEADER", "X-User").env("TRUSTED_PROXIES", proxies).start();
        assert_ne!(run.wait(std::time::Duration::from_secs(30)), Exit::Code(0));
        assert!(run.stderr().contains(sentence), "{}", run.tail());
    }
}
