//! Wrong methods and unknown paths.

use golectra_tests::{Target, on_every_store};
use http::Method;

on_every_store!(a_wrong_method_is_405_with_allow, an_unknown_path_is_404, answers_are_never_redirects);

const GETS: [&str; 10] = [
    "/",
    "/ping",
    "/ping/live",
    "/value/gauge/x",
    "/api/v1/snapshot",
    "/api/v1/sources",
    "/api/v1/latest",
    "/api/v1/label/job/values",
    "/api/v1/status/buildinfo",
    "/-/healthy",
];
const POSTS: [&str; 3] = ["/update", "/updates", "/update/gauge/x/1"];

async fn a_wrong_method_is_405_with_allow(t: Target) {
    let wrong_for_get = [Method::POST, Method::PUT, Method::DELETE, Method::PATCH];
    let wrong_for_post = [Method::GET, Method::PUT, Method::DELETE, Method::PATCH];
    let gets = GETS.iter().flat_map(|path| wrong_for_get.iter().map(move |method| (*path, method, "GET")));
    let posts = POSTS.iter().flat_map(|path| wrong_for_post.iter().map(move |method| (*path, method, "POST")));
    let value = [("/value", &Method::GET, "POST"), ("/value", &Method::DELETE, "POST")];
    for (path, method, allowed) in gets.chain(posts).chain(value) {
        let answer = t.request(method.clone(), path).send().await;
        assert_eq!(answer.status, 405, "{method} {path}");
        let allow = answer.header("allow").unwrap_or_else(|| panic!("{method} {path} has no Allow"));
        assert!(allow.split(',').any(|one| one.trim() == allowed), "{method} {path}: {allow}");
        assert_eq!((answer.media_type(), answer.text().as_str()), ("text/plain", "method not allowed"), "{method} {path}");
    }
}

async fn an_unknown_path_is_404(t: Target) {
    for path in [
        "/nothing",
        "/updates/x",
        "/api",
        "/api/v1",
        "/api/v2/snapshot",
        "/value/gauge/a/b",
        "/update/gauge/a/1/2",
        "/ping/dead",
        "/favicon.txt",
    ] {
        t.get(path).send().await.expect(404);
    }
    t.post("/update/gauge/a/1/2").send().await.expect(404);
}

async fn answers_are_never_redirects(t: Target) {
    // The client does not follow redirects, so a redirect would be seen here.
    for path in ["//", "/./", "/api/v1/../v1/snapshot/", "/value//gauge//", "/PING", "/Update"] {
        let answer = t.get(path).send().await;
        assert!(!(300..400).contains(&answer.status) && answer.header("location").is_none(), "{path}: {answer:?}");
    }
}
