//! Where there are API tokens, the routes of Prometheus's interfaces need one: Bearer, or the password of Basic.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use golectra_protocol::ErrorCode;

use crate::access::{Scope, TokenHolder, Verdict};
use crate::http::App;
use crate::http::error::{ApiError, REFUSALS, TextError};

/// The route of remote-write.
const WRITE: &str = "/api/v1/write";
/// Routes that change something, but for their GET.
const CHANGES: [&str; 3] = ["/api/v1/silences", "/api/v1/silences/{id}", "/api/v1/receivers/{name}/test"];
/// Routes beside them that are golectra's own, and open.
const OPEN: [&str; 4] = ["/api/v1/snapshot", "/api/v1/latest", "/api/v1/sources", "/api/v1/sources/{name}"];

/// Lets a request pass, with the name of its token where it has one, or refuses it.
#[expect(clippy::result_large_err, reason = "the refusal is the answer, made once")]
pub fn check(app: &App, mut request: Request) -> Result<Request, Response> {
    let Some(tokens) = &app.tokens else { return Ok(request) };
    let Some(needed) = request.extensions().get::<MatchedPath>().and_then(|route| needed(route.as_str(), request.method())) else {
        return Ok(request);
    };
    let Some(token) = token(request.headers()) else {
        let message = format!("this route needs an API token with the scope {}: Authorization: Bearer TOKEN", needed.as_str());
        return Err(refused(ErrorCode::TokenMissing, message));
    };
    match tokens.check(&token, needed) {
        Verdict::Allowed(holder) => {
            app.metrics.token_used(&holder.0);
            tracing::debug!(token = &*holder.0, route = request.uri().path(), "a request has an API token");
            request.extensions_mut().insert(holder);
            Ok(request)
        }
        Verdict::WrongScope(TokenHolder(name)) => {
            let message = format!("the API token {name} does not have the scope {}, which this route needs", needed.as_str());
            Err(refused(ErrorCode::TokenScope, message))
        }
        Verdict::Unknown => Err(refused(ErrorCode::TokenUnknown, "the server does not have this API token".into())),
    }
}

/// The scope that a route needs; none where it is open.
fn needed(route: &str, method: &Method) -> Option<Scope> {
    match route {
        WRITE => Some(Scope::Write),
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

fn refused(code: ErrorCode, message: String) -> Response {
    let line = message.clone();
    REFUSALS.log(code, move |count| tracing::warn!(count, reason = code.as_str(), "requests are refused: {line}"));
    TextError(ApiError::new(code, message)).into_response()
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
