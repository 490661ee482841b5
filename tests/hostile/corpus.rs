//! The corpus: hostile requests byte for byte, and the answers that they may get.

use golectra_tests::gzip;

/// The answers that a hostile request may get; never a 5xx or a redirect.
#[derive(Debug)]
pub(crate) enum Expected {
    /// One of these statuses.
    Status(&'static [u16]),
    /// Any 4xx, or a connection that is closed without an answer.
    Refused,
    /// Any other answer: the request is unusual, but may be legal.
    Harmless,
}

use Expected::{Harmless, Refused, Status};

/// One hostile request.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Whether the client closes its side after the last byte.
    pub(crate) then_finish: bool,
    pub(crate) expected: Expected,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { name, bytes: bytes.into(), then_finish: false, expected }
}

/// A client that disconnects in the middle.
fn broken_off(name: &'static str, bytes: impl Into<Vec<u8>>) -> Case {
    Case { name, bytes: bytes.into(), then_finish: true, expected: Refused }
}

/// A POST with these headers, each with its line end, and a body of the correct length.
fn post_with(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn updates(name: &'static str, body: impl AsRef<[u8]>, expected: Expected) -> Case {
    case(name, post_with("/updates", "", body.as_ref()), expected)
}

fn packed(name: &'static str, body: &[u8], expected: Expected) -> Case {
    case(name, post_with("/updates", "Content-Encoding: gzip\r\n", body), expected)
}

/// A GET of any target.
fn get(name: &'static str, target: impl AsRef<[u8]>, expected: Expected) -> Case {
    case(name, [b"GET ", target.as_ref(), b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat(), expected)
}

/// A valid batch with additional headers.
fn header(name: &'static str, headers: impl AsRef<[u8]>, expected: Expected) -> Case {
    let head = [b"POST /updates HTTP/1.1\r\nHost: x\r\n", headers.as_ref(), format!("Content-Length: {}\r\n\r\n", VALID.len()).as_bytes()]
        .concat();
    case(name, [head.as_slice(), VALID.as_bytes()].concat(), expected)
}

const VALID: &str = r#"[{"id":"hostile","type":"gauge","value":1}]"#;
const TEN_MB: usize = 10_000_000;
const BAD: Expected = Status(&[400]);

pub(crate) fn cases() -> Vec<Case> {
    let mut all = numbers_and_texts();
    all.extend(shapes());
    all.extend(packings());
    all.extend(framings());
    all.extend(heads());
    all.extend(targets());
    all.extend(headers());
    all
}

fn numbers_and_texts() -> Vec<Case> {
    let gauge = |value: &str| format!(r#"[{{"id":"h","type":"gauge","value":{value}}}]"#);
    let counter = |delta: &str| format!(r#"[{{"id":"h","type":"counter","delta":{delta}}}]"#);
    let id = |id: &[u8]| [br#"[{"id":""#, id, br#"","type":"gauge","value":1}]"#].concat();
    vec![
        updates("NaN", gauge("NaN"), BAD),
        updates("infinity", gauge("Infinity"), BAD),
        updates("minus infinity", gauge("-Infinity"), BAD),
        updates("a double that overflows", gauge("1e999"), BAD),
        updates("a double that overflows below", gauge("-1e400"), BAD),
        updates("an exponent of a hundred thousand digits", gauge(&format!("1e{}", "9".repeat(100_000))), BAD),
        updates("a number of five million digits", gauge(&"7".repeat(5_000_000)), BAD),
        updates("a fraction of five million digits", gauge(&format!("0.{}1", "0".repeat(5_000_000))), Status(&[200, 400])),
        updates("a number in hexadecimal", gauge("0x10"), BAD),
        updates("a number as text", gauge("\"1\""), BAD),
        updates("a delta that overflows", counter("9223372036854775808"), BAD),
        updates("a delta of 2^64", counter("18446744073709551616"), BAD),
        updates("a negative delta", counter("-1"), BAD),
        updates("the least delta", counter("-9223372036854775808"), BAD),
        updates("a delta with an exponent", counter("1e3"), BAD),
        updates(
            "deltas that overflow together",
            r#"[{"id":"h","type":"counter","delta":9223372036854775807},{"id":"h","type":"counter","delta":1}]"#,
            BAD,
        ),
        updates("an escaped NUL in an id", id(b"a\\u0000b"), BAD),
        updates("a raw NUL in an id", id(b"a\0b"), BAD),
        updates("line ends in an id", id(b"a\\r\\nSet-Cookie: b"), BAD),
        updates("a terminal's escape in an id", id(b"\\u001b[31m"), BAD),
        updates("half a surrogate pair", id(b"\\ud800"), BAD),
        updates("invalid UTF-8 in an id", id(b"\xff\xfe"), BAD),
        updates("an overlong slash", id(b"\xc0\xaf"), BAD),
        updates("an id of 10 MB", id(&vec![b'x'; TEN_MB]), BAD),
        updates("an id of 10 MB of escapes", id(&b"\\u0041".repeat(TEN_MB / 6)), BAD),
        updates("an id of 10 MB of label braces", id(&[b"a{".as_slice(), &b"a=\\\"1\\\",".repeat(TEN_MB / 8), b"}"].concat()), BAD),
        updates("markup in an id", id(b"<script>alert(document.domain)</script>"), Status(&[200])),
        updates("SQL in an id", id(b"'; DROP TABLE sources CASCADE; --"), Status(&[200])),
        updates("a format string in an id", id(b"%s%n{}{0}${jndi:ldap://127.0.0.1/x}"), Status(&[200])),
        updates("text direction marks in an id", id("\u{202e}drowssap\u{2066}".as_bytes()), Status(&[200, 400])),
    ]
}

fn shapes() -> Vec<Case> {
    let item = r#"{"id":"h","type":"gauge","value":1}"#;
    let deep_field = format!(r#"[{{"id":"h","type":"gauge","value":1,"x":{}"#, r#"{"x":"#.repeat(200_000));
    vec![
        updates("a million open arrays", "[".repeat(1_000_000), BAD),
        updates("200,000 open objects in an unknown field", deep_field, BAD),
        updates("a million arrays closed again", ["[".repeat(500_000), "]".repeat(500_000)].concat(), BAD),
        updates("a key of 10 MB", format!(r#"[{{"{}":1,"id":"h","type":"gauge","value":1}}]"#, "k".repeat(TEN_MB)), Status(&[200, 400])),
        updates(
            "a million keys",
            format!(r#"[{{{}"id":"h","type":"gauge","value":1}}]"#, r#""k":0,"#.repeat(1_000_000)),
            Status(&[200, 400]),
        ),
        updates(
            "the same keys twice",
            r#"[{"id":"a","id":"h","type":"counter","type":"gauge","value":"x","value":1}]"#,
            Status(&[200, 400]),
        ),
        updates("a million empty objects", format!("[{}{{}}]", "{},".repeat(1_000_000)), BAD),
        updates("three hundred thousand metrics", format!("[{}{item}]", format!("{item},").repeat(300_000)), Status(&[413])),
        updates("three million nulls", format!("[{}null]", "null,".repeat(3_000_000)), BAD),
        updates("no body", "", BAD),
        updates("10 MB of spaces", " ".repeat(TEN_MB), BAD),
        updates("something after the end", format!("[{item}] [{item}]"), BAD),
        updates("a byte order mark", format!("\u{feff}[{item}]"), BAD),
        updates("UTF-16", VALID.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), BAD),
        updates("XML with an entity bomb", r#"<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><l>&b;</l>"#, BAD),
        updates("bytes of no text", (0_u8..=255).rev().cycle().take(4096).collect::<Vec<_>>(), BAD),
        case(
            "a selector of 5 MB",
            post_with("/value", "", format!(r#"{{"id":"{}","type":"gauge"}}"#, "x".repeat(5_000_000)).as_bytes()),
            Status(&[413]),
        ),
        case("a metric where a selector is asked for, with NaN", post_with("/value", "", br#"{"id":"h","type":"gauge","value":NaN}"#), BAD),
    ]
}

fn packings() -> Vec<Case> {
    let good = gzip(VALID.as_bytes());
    let mut damaged = good.clone();
    let crc = good.len() - 6;
    damaged[crc] ^= 1;
    let mut wrong_method = good.clone();
    wrong_method[2] = 7;
    let mut reserved_flags = good.clone();
    reserved_flags[3] = 0xe0;
    let endless_name = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3], vec![b'n'; 5_000_000].as_slice()].concat();
    vec![
        packed("64 MiB of zeros", &gzip(&vec![0; 64 << 20]), Status(&[413])),
        packed("a bomb in a bomb", &gzip(&gzip(&vec![0; 64 << 20])), BAD),
        packed("gzip in gzip", &gzip(&good), BAD),
        packed("gzip cut in the middle", &good[..good.len() / 2], BAD),
        packed("gzip without its checksum", &good[..good.len() - 8], BAD),
        packed("gzip with a wrong checksum", &damaged, BAD),
        packed("gzip with junk after it", &[good.as_slice(), b"junk"].concat(), BAD),
        packed("gzip of an unknown method", &wrong_method, BAD),
        packed("gzip with reserved flags", &reserved_flags, Harmless),
        packed("a gzip header that never ends", &endless_name, BAD),
        packed("a hundred thousand empty members", &gzip(b"").repeat(100_000), Status(&[400, 413])),
        packed("JSON that says it is gzip", VALID.as_bytes(), BAD),
        packed("nothing that says it is gzip", b"", BAD),
        updates("gzip that does not say so", &good, BAD),
        case("two layers of gzip announced", post_with("/updates", "Content-Encoding: gzip, gzip\r\n", &gzip(&good)), Refused),
        case("an encoding that is not known", post_with("/updates", "Content-Encoding: br\r\n", VALID.as_bytes()), Refused),
        case("deflate", post_with("/updates", "Content-Encoding: deflate\r\n", &good), Refused),
        case(
            "an encoding of 10 kB",
            post_with("/updates", &format!("Content-Encoding: {}\r\n", "x".repeat(10_000)), VALID.as_bytes()),
            Refused,
        ),
    ]
}

fn framings() -> Vec<Case> {
    let framed = |headers: &str, body: &str| format!("POST /updates HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}");
    let length = |value: &str| framed(&format!("Content-Length: {value}\r\n"), VALID);
    let chunked = |body: &str| framed("Transfer-Encoding: chunked\r\n", body);
    let size = VALID.len();
    vec![
        broken_off("a body shorter than its length", length("1000")),
        case("a body longer than its length", length("5"), BAD),
        case("a negative length", length("-1"), Refused),
        case("a length in hexadecimal", length("0x2b"), Refused),
        case("a length with a sign", length("+43"), Refused),
        case("a length of twenty nines", length("99999999999999999999"), Refused),
        case("the greatest length", length("18446744073709551615"), Refused),
        case("a length of a terabyte", length("1099511627776"), Status(&[413])),
        case("an empty length", length(""), Refused),
        case("two lengths that differ", framed("Content-Length: 5\r\nContent-Length: 43\r\n", VALID), Refused),
        case("two lengths in one line", length("43, 44"), Refused),
        case("a length and chunks", framed(&format!("Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n"), "0\r\n\r\n"), Refused),
        case(
            "chunks and a length",
            framed("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", &format!("{size:x}\r\n{VALID}\r\n0\r\n\r\n")),
            Harmless,
        ),
        case("an unknown transfer coding", framed("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), Refused),
        case("chunked twice", framed("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), Refused),
        case("a chunk's size that is no number", chunked("zz\r\nabc\r\n0\r\n\r\n"), Refused),
        case("a chunk's size that overflows", chunked("fffffffffffffffff\r\nabc\r\n"), Refused),
        case("a negative chunk", chunked("-5\r\nabc\r\n0\r\n\r\n"), Refused),
        case("a chunk without its line end", chunked("3\r\nabcdef\r\n0\r\n\r\n"), Refused),
        case("a chunk's extension of a megabyte", chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(1 << 20))), Refused),
        case(
            "chunks of one byte",
            chunked(&VALID.chars().map(|c| format!("1\r\n{c}\r\n")).chain(["0\r\n\r\n".to_owned()]).collect::<String>()),
            Status(&[200]),
        ),
        case("trailers of a megabyte", chunked(&format!("{size:x}\r\n{VALID}\r\n0\r\nX-T: {}\r\n\r\n", "x".repeat(1 << 20))), Harmless),
        broken_off("chunks that break off", chunked("ffff\r\n[{\"id\"")),
        case(
            "chunks in HTTP/1.0",
            format!("POST /updates HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{VALID}\r\n0\r\n\r\n"),
            Harmless,
        ),
        case("a GET with a body", format!("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n{VALID}"), Status(&[200, 400])),
    ]
}

fn heads() -> Vec<Case> {
    vec![
        broken_off("nothing at all", ""),
        broken_off("half a head", "GET / HTTP/1.1\r\nHost:"),
        case("HTTP/0.9", "GET /\r\n\r\n", Refused),
        case("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused),
        case("HTTP/9.9", "GET / HTTP/9.9\r\nHost: x\r\n\r\n", Refused),
        case("a version that is none", "GET / HTTP/x\r\nHost: x\r\n\r\n", Refused),
        case("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".as_slice(), Refused),
        case("another protocol", "EHLO example.org\r\nMAIL FROM:<a@example.org>\r\n\r\n", Refused),
        case("bytes of no protocol", [vec![0xfe; 300], b"\r\n\r\n".to_vec()].concat(), Refused),
        case("a method in lower case", "get / HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
        case("a method that nobody knows", "BREW / HTTP/1.1\r\nHost: x\r\n\r\n", Status(&[405])),
        case("a method of 100 kB", format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", "M".repeat(100_000)), Refused),
        case("a method with a slash", "GE/T / HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
        case("TRACE", "TRACE / HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n", Status(&[405])),
        case("CONNECT", "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", Refused),
        case("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
        case("a header's name with a space", "GET / HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", Refused),
        case("a header without a colon", "GET / HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n", Refused),
        case("a NUL in a header", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n".as_slice(), Refused),
        case("a folded header", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", Harmless),
        case("a header of a megabyte", format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(1 << 20)), Refused),
        case("ten thousand headers", format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(10_000)), Refused),
        case("line ends without their first half", "GET / HTTP/1.1\nHost: x\n\n", Harmless),
        case("no Host", "GET / HTTP/1.1\r\n\r\n", Harmless),
        case("two Hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", Harmless),
        case(
            "an upgrade to HTTP/2",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
            Harmless,
        ),
        case(
            "an upgrade to a web socket",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
            Harmless,
        ),
        case(
            "an expectation that cannot be met",
            "POST /updates HTTP/1.1\r\nHost: x\r\nExpect: the-unexpected\r\nContent-Length: 2\r\n\r\n[]",
            Refused,
        ),
    ]
}

fn targets() -> Vec<Case> {
    let none = || Status(&[400, 404]);
    vec![
        get("a way out of the root", "/../../../../etc/passwd", none()),
        get("a way out, encoded", "/..%2f..%2f..%2fetc%2fpasswd", none()),
        get("a way out, encoded twice", "/%252e%252e%252fetc/passwd", none()),
        get("a way out with backslashes", "/..\\..\\windows\\win.ini", Refused),
        get("a way out of the assets", "/assets/../../../../etc/passwd", none()),
        get("an encoded NUL", "/value/gauge/%00", BAD),
        get("a raw NUL", b"/value/gauge/\0", Refused),
        get("an escape that is none", "/value/gauge/%zz", BAD),
        get("half an escape", "/value/gauge/a%", BAD),
        get("an overlong escape", "/value/gauge/%c0%ae%c0%ae", BAD),
        get("raw bytes that are no UTF-8", b"/value/gauge/\xff\xfe", Refused),
        get("a raw space", "/value/gauge/a b", Refused),
        get("markup in a path", "/value/gauge/<script>alert(1)</script>", none()),
        get("a name of 10 MB", format!("/value/gauge/{}", "x".repeat(TEN_MB)), Refused),
        get("ten thousand slashes", "/".repeat(10_000), Harmless),
        get("ten thousand segments", "/a".repeat(10_000), Status(&[404, 414])),
        get("a query of 60 kB", format!("/api/v1/latest?name={}", "%41".repeat(20_000)), Harmless),
        get("a source that is none", "/api/v1/latest?source=%3Cscript%3E", BAD),
        get("a query that is no UTF-8", "/api/v1/latest?name=%ff", BAD),
        get("a name with line ends", "/api/v1/latest?name=a%0d%0aSet-Cookie:%20b", Status(&[200, 400])),
        get("another host as the target", "http://example.org/api/v1/snapshot", Harmless),
        get("another host behind two slashes", "//example.org/%2e%2e", Status(&[404, 400])),
        get("no path", "?x", Refused),
        get("an asterisk", "*", Refused),
        get("a colon and a port", ":80", Refused),
        case(
            "markup stored by path",
            "POST /update/gauge/%3Cimg%20src=x%20onerror=alert(1)%3E/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            Status(&[200]),
        ),
        case(
            "a value of 50 kB",
            format!("POST /update/gauge/h/{} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "1".repeat(50_000)),
            Refused,
        ),
        case("a NaN by path", "POST /update/gauge/h/NaN HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", BAD),
    ]
}

fn headers() -> Vec<Case> {
    let key = golectra_tests::fresh_key();
    vec![
        header("a source with line ends encoded", "Golectra-Source: a%0d%0ab\r\n", BAD),
        header("a source that is markup", "Golectra-Source: <b>x</b>\r\n", BAD),
        header("a source that is a path", "Golectra-Source: ../../etc\r\n", BAD),
        header("a source in bytes that are no text", b"Golectra-Source: \xff\xfe\r\n", BAD),
        header("a source of 10 kB", format!("Golectra-Source: {}\r\n", "s".repeat(10_000)), BAD),
        header("two sources", "Golectra-Source: a\r\nGolectra-Source: b\r\n", BAD),
        header("two keys", format!("Idempotency-Key: {key}\r\nIdempotency-Key: {}\r\n", golectra_tests::fresh_key()), BAD),
        header("a key in bytes that are no text", b"Idempotency-Key: \xf0\x28\r\n", BAD),
        header("a key of 10 kB", format!("Idempotency-Key: {}\r\n", "0".repeat(10_000)), BAD),
        header("a key of the year 10889", "Idempotency-Key: ffffffff-ffff-7fff-bfff-ffffffffffff\r\n", Status(&[409])),
        header("a key of 1970", "Idempotency-Key: 00000000-0000-7000-8000-000000000000\r\n", Status(&[409])),
        header("two hashes", "HashSHA256: 00\r\nHashSHA256: 11\r\n", Harmless),
        header("a hash in bytes that are no text", b"HashSHA256: \xff\r\n", Harmless),
        header("a trace context that is none", "traceparent: 00-zzzz-<script>-01\r\ntracestate: ====\r\n", Status(&[200])),
        header("a trace context of zeros", "traceparent: 00-00000000000000000000000000000000-0000000000000000-00\r\n", Status(&[200])),
        header("accepted encodings without sense", "Accept-Encoding: gzip;q=NaN, *;q=-1, ;;;, gzip;gzip=1e999\r\n", Status(&[200])),
        header("ten thousand accepted encodings", format!("Accept-Encoding: {}\r\n", "a;q=0.1,".repeat(5_000)), Harmless),
        header("a forged address of 10 kB", format!("X-Forwarded-For: {}\r\n", "1.1.1.1,".repeat(1_250)), Status(&[200])),
        header("a type that is none", "Content-Type: \"><script>\r\n", Status(&[200, 415])),
    ]
}
