//! Where there are API tokens, the pages ask for one once. It becomes a cookie that scripts can't read and other sites can't use.

use std::time::Duration;

use askama::Template;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use golectra_process::LogLimiter;
use golectra_protocol::ErrorCode;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::shell::{Shell, page};
use crate::access::Tokens;
use crate::http::error::{ApiError, TextError};
use crate::http::{App, AppState};
use crate::middleware::access::{OF_OWN_PAGES, SESSION, is_of_trusted_proxy, is_same_origin};

/// How long a browser stays signed in.
const SESSION_SECONDS: u64 = 30 * 86_400;

/// How long a wrong token waits for its answer, and how many wait at once. Others are refused at once.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
static TRIES: Semaphore = Semaphore::const_new(10);

/// Log lines about wrong tokens, which anyone can send.
static FAILURE_LOG: LogLimiter<()> = LogLimiter::new();

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

#[derive(Template)]
#[template(path = "sign_in_elsewhere.html")]
struct SignInElsewherePage {
    shell: Shell,
}

/// The form instead of a page. It has the status of a page, since the dashboard is there whether or not someone has signed in. Where people are signed in by a
/// proxy alone there is nothing to fill in, and the page is refused.
pub fn sign_in_page(app: &App, uri: &Uri) -> Response {
    if app.tokens.is_none() {
        let mut answer = page(&SignInElsewherePage { shell: Shell::bare("Sign in", "sign-in") }).into_response();
        *answer.status_mut() = StatusCode::FORBIDDEN;
        return answer;
    }
    let to = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    form(&to, None)
}

fn form(to: &str, problem: Option<&'static str>) -> Response {
    page(&SignInPage { shell: Shell::bare("Sign in", "sign-in"), to: to.to_owned(), problem }).into_response()
}

/// POST /sign-in: a token becomes a cookie.
pub async fn sign_in(State(state): State<AppState>, request: Request) -> Result<Response, TextError> {
    of_this_origin(&state, &request)?;
    let secure = if is_secure(&state, &request) { "; Secure" } else { "" };
    let body = timeout(FORM_LIMIT, to_bytes(request.into_body(), MAX_FORM_BYTES)).await;
    let Ok(Ok(body)) = body else { return Err(ApiError::new(ErrorCode::Malformed, "the form can't be read").into()) };
    let field = |name: &str| form_urlencoded::parse(&body).find(|(field, _)| field == name).map(|(_, value)| value.into_owned());
    let to = field("to").filter(|to| is_path(to)).unwrap_or_else(|| "/".to_owned());
    let Some(tokens) = &state.tokens else { return Ok(see(&to)) };
    let until = u64::try_from(state.process.now_ms() / 1000).unwrap_or_default() + SESSION_SECONDS;
    let token = field("token").unwrap_or_default();
    let Some(session) = try_token(&TRIES, tokens, token.trim().as_bytes(), until).await? else {
        let mut answer = form(&to, Some("The server does not have this token, or it does not have the scope read or admin."));
        *answer.status_mut() = StatusCode::FORBIDDEN;
        return Ok(answer);
    };
    let mut answer = see(&to);
    set_cookie(&mut answer, &format!("{SESSION}={session}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict{secure}"));
    Ok(answer)
}

/// The session that a token is worth; none, after a pause, where it is worth none.
async fn try_token(tries: &'static Semaphore, tokens: &Tokens, token: &[u8], until: u64) -> Result<Option<String>, ApiError> {
    // Looked at first: who sends wrong ones all the time must not keep those out who have a right one. A guess is told apart at once, as on all routes that
    // take a token; what keeps it from being right is how long tokens are.
    if let Some(session) = tokens.session(token, until) {
        return Ok(Some(session));
    }
    FAILURE_LOG.log((), |count| tracing::warn!(count, "someone tried to sign in with a token that is none, or that does not read"));
    let Ok(turn) = tries.try_acquire() else { return Err(ApiError::overloaded("sign-ins with wrong tokens")) };
    // The turn is held for the whole pause, also when the client does not wait for its end.
    let pause = tokio::spawn(async move {
        sleep(FAILURE_PAUSE).await;
        drop(turn);
    });
    let _ = pause.await;
    Ok(None)
}

/// POST /sign-out: the cookie goes.
pub async fn sign_out(State(state): State<AppState>, request: Request) -> Result<Response, TextError> {
    of_this_origin(&state, &request)?;
    let mut answer = see("/");
    set_cookie(&mut answer, &format!("{SESSION}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"));
    Ok(answer)
}

fn of_this_origin(app: &App, request: &Request) -> Result<(), ApiError> {
    if is_same_origin(app, request) { Ok(()) } else { Err(ApiError::new(ErrorCode::TokenScope, format!("this form {OF_OWN_PAGES}"))) }
}

/// Whether the browser's connection is encrypted, as the browser or a trusted proxy says. A browser names the origin of a form that it sends; who forges it
/// spoils a cookie of their own.
fn is_secure(app: &App, request: &Request) -> bool {
    if request.headers().get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://")) {
        return true;
    }
    let forwarded = request.headers().get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"));
    forwarded && is_of_trusted_proxy(app, request)
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

    #[tokio::test(start_paused = true)]
    async fn a_right_token_gets_in_while_wrong_ones_wait() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a:read:right\n").unwrap();
        let tokens = Tokens::open(file.path()).unwrap();
        let attempt = |token: &'static str| try_token(&ONE, &tokens, token.as_bytes(), 1_000);
        let begun = tokio::time::Instant::now();
        assert!(timeout(FAILURE_PAUSE / 4, attempt("wrong")).await.is_err(), "the client leaves before the answer");
        assert!(attempt("right").await.unwrap().is_some());
        assert!(attempt("wrong").await.is_err());
        assert_eq!(begun.elapsed(), FAILURE_PAUSE / 4, "both are told at once");
        while ONE.available_permits() == 0 {
            sleep(FAILURE_PAUSE / 100).await;
        }
        assert!(begun.elapsed() >= FAILURE_PAUSE);
        assert_eq!(attempt("wrong").await.unwrap(), None);
        assert!(begun.elapsed() >= FAILURE_PAUSE * 2);
    }

    #[test]
    fn signing_in_leads_to_pages_of_this_server_only() {
        for (to, expected) in
            [("/", true), ("/node?name=a", true), ("//evil", false), ("/\\evil", false), ("http://evil", false), ("", false)]
        {
            assert_eq!(is_path(to), expected, "{to}");
        }
    }
}
