//! One route, one path: a trailing slash is the same route and repeated slashes collapse, without a redirect.

use std::borrow::Cow;

use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// Brings a request's path into its plain form before it is routed.
pub fn normalize(mut request: Request) -> Request {
    if let Cow::Owned(path) = plain(request.uri().path()) {
        let text = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let mut parts = request.uri().clone().into_parts();
        // What was a valid path is one with fewer slashes too.
        parts.path_and_query = PathAndQuery::try_from(text).ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
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
