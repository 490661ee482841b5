//! One route, one path: a trailing slash is the same route and repeated slashes collapse, without a redirect.

use std::borrow::Cow;

use axum::extract::{MatchedPath, Request};
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use axum::response::{IntoResponse, Response};
use golectra_protocol::ErrorCode;

use super::access::WRITE;
use crate::http::api::ApiFailure;
use crate::http::error::{ApiError, TextError};
use crate::router::has_json_errors;

/// A request's URI as the client sent it, attached by [`normalize`] if it changed the URI.
#[derive(Debug, Clone)]
pub struct AsReceived(pub Uri);

/// Normalizes a request's path before it is routed.
pub fn normalize<B>(mut request: Request<B>) -> Request<B> {
    if let Cow::Owned(path) = plain(request.uri().path()) {
        let text = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let mut parts = request.uri().clone().into_parts();
        // A valid path is still valid with fewer slashes.
        parts.path_and_query = PathAndQuery::try_from(text).ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            let received = std::mem::replace(request.uri_mut(), uri);
            request.extensions_mut().insert(AsReceived(received));
        }
    }
    request
}

/// Refuses a path or query whose escapes are not valid UTF-8: a name in it would be ambiguous. The answer has the form of the route's other errors.
pub fn refusal<B>(request: &Request<B>) -> Option<Response> {
    let uri = request.uri();
    if is_escaped_well(uri.path()) && uri.query().is_none_or(is_escaped_well) {
        return None;
    }
    let message = "the path or query has a '%' that is not followed by two hex digits, or escapes that are not UTF-8";
    let error = ApiError::new(ErrorCode::Malformed, message);
    Some(in_form_of(request.extensions().get::<MatchedPath>().map(MatchedPath::as_str), error))
}

/// An error in the form of a route's other errors.
pub fn in_form_of(route: Option<&str>, error: ApiError) -> Response {
    match route {
        Some(route) if has_json_errors(route) => error.into_response(),
        // The errors of remote-write are text.
        Some(route) if route.starts_with("/api/v1/") && route != WRITE => ApiFailure::from(error).into_response(),
        _ => TextError(error).into_response(),
    }
}

/// Whether each `%` is followed by two hex digits, and what they spell is UTF-8.
pub fn is_escaped_well(text: &str) -> bool {
    if !text.contains('%') {
        return true;
    }
    let mut pieces = text.split('%');
    let mut decoded = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let Some(byte) = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))) else {
            return false;
        };
        decoded.push(byte);
        decoded.extend_from_slice(&piece.as_bytes()[2..]);
    }
    std::str::from_utf8(&decoded).is_ok()
}

fn plain(path: &str) -> Cow<'_, str> {
    let trailing = path.len() > 1 && path.ends_with('/');
    if !trailing && !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_must_be_two_hex_digits_and_valid_utf8() {
        let good = ["/a", "/%20%7e/%41", "/%C3%BC", "x=%F0%9F%A6%80&y"];
        let bad = ["/%zz", "/a%2", "/%", "/%%20", "/%+1", "/%FF", "/%C3/", "/%C3%28"];
        for (path, well) in good.map(|path| (path, true)).into_iter().chain(bad.map(|path| (path, false))) {
            assert_eq!(is_escaped_well(path), well, "{path}");
        }
    }

    #[test]
    fn slashes_collapse() {
        for (path, plain) in [
            ("/", "/"),
            ("//", "/"),
            ("/ping/", "/ping"),
            ("//update//gauge/a%2Fb/1///", "/update/gauge/a%2Fb/1"),
            ("/ping/?x=//", "/ping?x=//"),
            ("/value/gauge/a", "/value/gauge/a"),
        ] {
            let request = Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
            assert_eq!(normalize(request).uri().to_string(), plain);
        }
    }
}
