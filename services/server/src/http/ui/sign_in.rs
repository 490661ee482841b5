//! Where there are API tokens, the pages ask for one once. It becomes a cookie that scripts can't read and other sites can't use.

use std::net::SocketAddr;
use std::time::Duration;

use askama::Template;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use golectra_protocol::ErrorCode;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::shell::{Shell, page};
use crate::http::error::{ApiError, TextError};
use crate::http::{App, AppState};
use crate::middleware::access::{SESSION, is_same_origin};

/// How long a browser stays signed in.
const SESSION_SECONDS: u64 = 30 * 86_400;

/// How long a wrong token waits for its answer, and how many may wait at once: together so many can be tried in a time.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
static FAILURES: Semaphore = Semaphore::const_new(10);

/// The longest form, and how long it may take to arrive.
const MAX_FORM_BYTES: usize = 8 << 10;
const FORM_LIMIT: Duration = Duration::from_secs(10);

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    shell: Shell,
    to: String,
    problem: Option<&'static str>,
}

/// The form instead of a page. It has the status of a page, since the dashboard is there whether or not someone has signed in.
pub fn sign_in_page(uri: &Uri, problem: Option<&'static str>) -> Response {
    let to = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    form(&to, problem)
}

fn form(to: &str, problem: Option<&'static str>) -> Response {
    page(&SignInPage { shell: Shell::new("Sign in", "sign-in"), to: to.to_owned(), problem }).into_response()
}

/// POST /sign-in: a token becomes a cookie.
pub async fn sign_in(State(state): State<AppState>, request: Request) -> Result<Response, TextError> {
    of_this_origin(request.headers())?;
    let secure = if is_secure(&state, &request) { "; Secure" } else { "" };
    let body = timeout(FORM_LIMIT, to_bytes(request.into_body(), MAX_FORM_BYTES)).await;
    let Ok(Ok(body)) = body else { return Err(ApiError::new(ErrorCode::Malformed, "the form can't be read").into()) };
    let field = |name: &str| form_urlencoded::parse(&body).find(|(field, _)| field == name).map(|(_, value)| value.into_owned());
    let to = field("to").filter(|to| is_path(to)).unwrap_or_else(|| "/".to_owned());
    let Some(tokens) = &state.tokens else { return Ok(see(&to)) };
    let until = u64::try_from(state.process.now_ms() / 1000).unwrap_or_default() + SESSION_SECONDS;
    let token = field("token").unwrap_or_default();
    let Some(session) = tokens.session(token.trim().as_bytes(), until) else {
        let Ok(_turn) = FAILURES.try_acquire() else { return Err(ApiError::overloaded("sign-ins").into()) };
        tracing::warn!("someone tried to sign in with a token that is none, or that does not read");
        sleep(FAILURE_PAUSE).await;
        let mut answer = form(&to, Some("The server does not have this token, or it does not have the scope read or admin."));
        *answer.status_mut() = StatusCode::FORBIDDEN;
        return Ok(answer);
    };
    let mut answer = see(&to);
    set_cookie(&mut answer, &format!("{SESSION}={session}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict{secure}"));
    Ok(answer)
}

/// POST /sign-out: the cookie goes.
pub async fn sign_out(headers: HeaderMap) -> Result<Response, TextError> {
    of_this_origin(&headers)?;
    let mut answer = see("/");
    set_cookie(&mut answer, &format!("{SESSION}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"));
    Ok(answer)
}

fn of_this_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let message = "this form was sent from another site: open this server's page and sign in there";
    if is_same_origin(headers) { Ok(()) } else { Err(ApiError::new(ErrorCode::TokenScope, message)) }
}

/// Whether the browser's connection is encrypted, as far as a trusted proxy says.
fn is_secure(app: &App, request: &Request) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let forwarded = request.headers().get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"));
    forwarded && peer.is_some_and(|peer| app.trusted_proxies.contains(peer))
}

/// Whether this leads to a page of this server.
fn is_path(to: &str) -> bool {
    to.starts_with('/') && !to.starts_with("//") && !to.contains(['\\', '\r', '\n'])
}

fn see(to: &str) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SEE_OTHER;
    let location = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    answer.headers_mut().insert(header::LOCATION, location);
    answer
}

fn set_cookie(answer: &mut Response, cookie: &str) {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_pages_of_this_server_only() {
        for (to, expected) in
            [("/", true), ("/node?name=a", true), ("//evil", false), ("/\\evil", false), ("http://evil", false), ("", false)]
        {
            assert_eq!(is_path(to), expected, "{to}");
        }
    }
}
