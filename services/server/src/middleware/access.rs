//! Where there are API tokens, the routes of Prometheus's interfaces need one: Bearer, or the password of Basic. The pages need one as well; a
//! browser has it as the cookie that signing in gave it, which also works for the interfaces that pages use: for those that change something, from the pages of
//! this server alone. The name of a user whom a proxy has signed in counts like such a cookie.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, MatchedPath, Request};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use golectra_protocol::ErrorCode;

use crate::access::{Caller, Scope, Verdict};
use crate::http::App;
use crate::http::error::{ApiError, REFUSALS, TextError};
use crate::http::ui;

/// The route of remote-write.
pub(super) const WRITE: &str = "/api/v1/write";
/// Routes that change something, but for their GET.
const CHANGES: [&str; 3] = ["/api/v1/silences", "/api/v1/silences/{id}", "/api/v1/receivers/{name}/test"];
/// Routes beside them that are golectra's own, and open.
const OPEN: [&str; 4] = ["/api/v1/snapshot", "/api/v1/latest", "/api/v1/sources", "/api/v1/sources/{name}"];

/// The route of what the scripts of pages follow.
const STREAM: &str = "/stream";

/// The end of the sentence that refuses a request, if the browser does not say that it comes from a page of this server.
pub const OF_OWN_PAGES: &str = "has to come from a page of this server, as Sec-Fetch-Site or Origin says. A proxy that replaces Host has to send \
    X-Forwarded-Host, and its address has to be in TRUSTED_PROXIES";

/// The cookie of a browser that has signed in.
pub const SESSION: &str = "golectra_session";

/// Lets a request pass, with who sends it where that is known, or refuses it.
#[expect(clippy::result_large_err, reason = "the refusal is the answer, made once")]
pub fn check(app: &App, mut request: Request) -> Result<Request, Response> {
    if app.tokens.is_none() && app.proxy.is_none() {
        return Ok(request);
    }
    let Some(route) = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned()) else { return Ok(request) };
    let is_page = ui::PAGES.contains(&route.as_str());
    let Some(needed) = needed(&route, request.method()).or(is_page.then_some(Scope::Read)) else { return Ok(request) };
    let by_script = is_of_script(&route, request.headers());
    match verdict(app, &request, &route, needed) {
        Some(Verdict::Allowed(caller)) => {
            let route = request.uri().path();
            match &caller {
                Caller::Token(name) => {
                    app.metrics.token_used(name);
                    tracing::debug!(token = &**name, route, "a request has an API token");
                }
                Caller::User(name) => tracing::debug!(user = &**name, route, "a request is of a user whom a proxy has signed in"),
            }
            request.extensions_mut().insert(caller);
            Ok(request)
        }
        _ if is_page => Err(ui::sign_in_page(app, request.uri())),
        Some(Verdict::WrongScope(caller)) => {
            let who = match &caller {
                Caller::Token(name) => format!("the API token {name}"),
                Caller::User(name) => format!("the user {name:?}"),
            };
            let message = format!("{who} does not have the scope {}, which this route needs", needed.as_str());
            Err(refused(ErrorCode::TokenScope, message, by_script))
        }
        Some(Verdict::Foreign) => {
            let message = format!("without an API token, a request that changes something {OF_OWN_PAGES}");
            Err(refused(ErrorCode::TokenMissing, message, by_script))
        }
        Some(Verdict::Unknown) => Err(refused(ErrorCode::TokenUnknown, "the server does not have this API token".into(), by_script)),
        None => {
            let message = if app.tokens.is_some() {
                format!("this route needs an API token with the scope {}: Authorization: Bearer TOKEN", needed.as_str())
            } else if route == WRITE {
                "samples are written with an API token, and this server has none: set its API_TOKENS_FILE".into()
            } else {
                "this route is for users whom a proxy has signed in (AUTH_HEADER from TRUSTED_PROXIES): use the proxy's address".into()
            };
            Err(refused(ErrorCode::TokenMissing, message, by_script))
        }
    }
}

/// Who sends a request, by its token, its session or the name that a proxy gives: the first of them that allows what is needed. Where none does, the first
/// that is known says why. A user of a proxy can thus sign in with a token that allows more, and what else the proxy puts into Authorization does not matter.
fn verdict(app: &App, request: &Request, route: &str, needed: Scope) -> Option<Verdict> {
    let headers = request.headers();
    let by_token = || Some(app.tokens.as_ref()?.check(&token(headers)?, needed));
    // A page of another origin may change nothing, since its user may not know of the request. Reads are answered, by POST as by GET: such a page can't see
    // the answer, which has no CORS headers, and the cost of queries is bounded. Programs behind a proxy, such as Grafana, query by POST without an origin.
    let is_foreign = needed != Scope::Read && !is_same_origin(app, request);
    let of_browser = |verdict: Verdict| if is_foreign && matches!(verdict, Verdict::Allowed(_)) { Verdict::Foreign } else { verdict };
    let by_session = || {
        let now = u64::try_from(app.process.now_ms() / 1000).unwrap_or_default();
        Some(app.tokens.as_ref()?.check_session(&session(request)?, needed, now))
    };
    let by_proxy = || app.proxy.as_ref().filter(|_| is_of_trusted_proxy(app, request))?.check(headers, needed);
    // Samples are written by programs, which have tokens.
    let is_write = route == WRITE;
    let found = [by_token(), by_session().filter(|_| !is_write).map(of_browser), by_proxy().filter(|_| !is_write).map(of_browser)];
    found.into_iter().flatten().min_by_key(|verdict| match verdict {
        Verdict::Allowed(_) => 0,
        Verdict::WrongScope(_) => 1,
        Verdict::Foreign => 2,
        Verdict::Unknown => 3,
    })
}

/// Whether the connection comes from a trusted proxy.
pub fn is_of_trusted_proxy(app: &App, request: &Request) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    peer.is_some_and(|peer| app.trusted_proxies.contains(peer))
}

/// The session of a browser.
fn session(request: &Request) -> Option<String> {
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == SESSION).map(|(_, value)| value.to_owned())
}

/// Whether the browser says that the request comes from a page of this server.
pub fn is_same_origin(app: &App, request: &Request) -> bool {
    comes_from_own_page(request.headers(), is_of_trusted_proxy(app, request))
}

/// A proxy may replace the name of the server that the browser knows; one that is trusted tells it.
fn comes_from_own_page(headers: &HeaderMap, by_trusted_proxy: bool) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some((_, origin)) = text("origin").and_then(|origin| origin.split_once("://")) else { return false };
    let hosts = [text("host"), text("x-forwarded-host").filter(|_| by_trusted_proxy)];
    hosts.into_iter().flatten().any(|host| host.trim().eq_ignore_ascii_case(origin))
}

/// The scope that a route needs; none where it is open.
fn needed(route: &str, method: &Method) -> Option<Scope> {
    match route {
        WRITE => Some(Scope::Write),
        STREAM => Some(Scope::Read),
        route if CHANGES.contains(&route) && method != Method::GET && method != Method::HEAD => Some(Scope::Write),
        route if OPEN.contains(&route) || !route.starts_with("/api/v1/") => None,
        _ => Some(Scope::Read),
    }
}

/// The token of a request that has one.
fn token(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        Some(credentials.as_bytes().to_vec())
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = STANDARD.decode(credentials).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        Some(pair[colon + 1..].to_vec())
    } else {
        None
    }
}

/// Whether a script of a page sends a request, as far as that can be seen: over plain HTTP, browsers do not say where a GET comes from.
fn is_of_script(route: &str, headers: &HeaderMap) -> bool {
    // Who typed an address or followed a link has no page with a form.
    let navigates = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    let site = headers.get("sec-fetch-site");
    route == STREAM || !navigates && (headers.contains_key(header::ORIGIN) || site.is_some_and(|site| site != "none"))
}

fn refused(code: ErrorCode, message: String, by_script: bool) -> Response {
    let line = message.clone();
    REFUSALS.log(code, move |count| tracing::warn!(count, reason = code.as_str(), "requests are refused: {line}"));
    let mut response = TextError(ApiError::new(code, message)).into_response();
    if by_script {
        remove_basic(response.headers_mut());
    }
    response
}

/// Removes the challenge on which a browser opens its own dialog for a password. Where a page's script is refused, the page has a form for that.
fn remove_basic(headers: &mut HeaderMap) {
    let all = headers.get_all(header::WWW_AUTHENTICATE).iter();
    let kept: Vec<_> = all.filter(|challenge| !challenge.as_bytes().starts_with(b"Basic ")).cloned().collect();
    headers.remove(header::WWW_AUTHENTICATE);
    for challenge in kept {
        headers.append(header::WWW_AUTHENTICATE, challenge);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn token_of(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        token(&headers).map(|token| String::from_utf8(token).unwrap())
    }

    #[test]
    fn a_token_is_a_bearer_or_a_password() {
        assert_eq!(token_of(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(token_of(&["bearer  abc "]).as_deref(), Some("abc"));
        assert_eq!(token_of(&[&format!("Basic {}", STANDARD.encode("me:a:b"))]).as_deref(), Some("a:b"));
        assert_eq!(token_of(&[&format!("BASIC {}", STANDARD.encode(":abc"))]).as_deref(), Some("abc"));
        for none in [&[][..], &["abc"], &["Digest abc"], &["Basic !"], &["Basic YWJj"], &["Bearer a", "Bearer a"]] {
            assert_eq!(token_of(none), None, "{none:?}");
        }
    }

    #[test]
    fn scripts_of_pages_are_told_apart_from_programs_and_people() {
        for (route, headers, expected) in [
            ("/stream", &[][..], true),
            ("/api/v1/query", &[], false),
            ("/api/v1/query", &[("origin", "http://a")], true),
            ("/api/v1/query", &[("sec-fetch-site", "same-origin")], true),
            ("/api/v1/query", &[("sec-fetch-site", "none")], false),
            ("/api/v1/query", &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], false),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(axum::http::HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(is_of_script(route, &map), expected, "{route} {headers:?}");
        }
    }

    #[test]
    fn a_request_is_of_this_origin_when_the_browser_says_so() {
        for (headers, trusted, expected) in [
            (&[("sec-fetch-site", "same-origin")][..], false, true),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://a"), ("host", "a")], false, false),
            (&[("sec-fetch-site", "none")], false, false),
            (&[("origin", "https://a:8080"), ("host", "a:8080")], false, true),
            (&[("origin", "https://b"), ("host", "a")], false, false),
            (&[("origin", "null"), ("host", "a")], false, false),
            (&[("host", "a")], false, false),
            (&[("origin", "https://b"), ("host", "a"), ("x-forwarded-host", "b")], true, true),
            (&[("origin", "https://b"), ("host", "a"), ("x-forwarded-host", "b")], false, false),
            (&[("sec-fetch-site", "same-site"), ("origin", "https://b"), ("x-forwarded-host", "b")], true, false),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(axum::http::HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(comes_from_own_page(&map, trusted), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_reads_history_needs_a_scope_and_what_agents_use_does_not() {
        let get = |route| needed(route, &Method::GET);
        assert_eq!(needed("/api/v1/write", &Method::POST), Some(Scope::Write));
        for (route, method) in
            [("/api/v1/silences", Method::POST), ("/api/v1/silences/{id}", Method::DELETE), ("/api/v1/receivers/{name}/test", Method::POST)]
        {
            assert_eq!(needed(route, &method), Some(Scope::Write), "{route}");
        }
        assert_eq!(needed("/api/v1/query", &Method::POST), Some(Scope::Read));
        assert_eq!((get("/api/v1/silences"), get("/api/v1/receivers")), (Some(Scope::Read), Some(Scope::Read)));
        for route in ["/api/v1/query", "/api/v1/label/{name}/values", "/api/v1/status/tsdb", "/api/v1/export"] {
            assert_eq!(get(route), Some(Scope::Read), "{route}");
        }
        for route in ["/", "/updates", "/value", "/ping", "/-/ready", "/api/v1/snapshot", "/api/v1/sources/{name}"] {
            assert_eq!(get(route), None, "{route}");
        }
    }
}
