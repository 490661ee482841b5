use axum::http::{HeaderName, HeaderValue, Method, Uri};
use golectra_process::Secret;
use golectra_protocol::hash::body_digest;

use super::*;
use crate::middleware::path::normalize;

const NOW: u64 = 1_700_000_000;
const BODY: &[u8] = b"body";

fn signatures(key: Option<&str>, mode: SignatureMode, clock: &Clock) -> Signatures {
    let keys = Keys::open(key.map(Secret::from).as_ref(), None).unwrap();
    Signatures::new(keys, mode, clock.clone(), ServerMetrics::register(&prometheus::Registry::new()).unwrap())
}

fn parts(target: &str, headers: &[(&'static str, &str)]) -> Parts {
    let request = axum::http::Request::post(target.parse::<Uri>().unwrap()).body(axum::body::Body::empty()).unwrap();
    let mut parts = normalize(request).into_parts().0;
    for (name, value) in headers {
        parts.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    parts
}

fn sign(target: &str, source: &str, key: &str) -> String {
    let body_digest = &body_digest(BODY);
    Request { method: "POST", target, source: source.as_bytes(), idempotency_key: b"", body_digest }.sign(NOW, "default", key.as_bytes())
}

/// The code of the refusal; None if the request is accepted.
async fn refusal(signatures: &Signatures, parts: &Parts) -> Option<&'static str> {
    refusal_of(signatures, parts, Effect::Change).await
}

async fn refusal_of(signatures: &Signatures, parts: &Parts, effect: Effect) -> Option<&'static str> {
    let check = async {
        if let Some(signature) = signatures.check_header(&parts.headers, effect).await? {
            signature.verify(parts, &body_digest(BODY))?;
        }
        Ok::<_, ApiError>(())
    };
    check.await.err().map(|error| error.code().as_str())
}

#[tokio::test]
async fn the_target_is_signed_as_it_was_sent() {
    let clock = Clock::at(NOW * 1000);
    let signatures = signatures(Some("k"), SignatureMode::Required, &clock);
    for target in ["/updates", "/updates/", "//update//counter/a%2Fb/1/", "/updates?", "/updates?x=//&y", "http://Host:80/updates/"] {
        let header = sign(target, "", "k");
        assert_eq!(refusal(&signatures, &parts(target, &[(names::SIGNATURE, &header)])).await, None, "{target}");
        let other = if target == "/updates" { "/updates/" } else { "/updates" };
        assert_eq!(refusal(&signatures, &parts(other, &[(names::SIGNATURE, &header)])).await, Some("signature_mismatch"), "{target}");
    }
}

#[tokio::test]
async fn the_clock_may_be_five_minutes_off() {
    let clock = Clock::at(NOW * 1000);
    let signatures = signatures(Some("k"), SignatureMode::Compat, &clock);
    let parts = parts("/updates", &[(names::SIGNATURE, &sign("/updates", "", "k"))]);
    for (now, expected) in [
        (NOW - 299, None),
        (NOW + 299, None),
        (NOW - 300, None),
        (NOW + 300, None),
        (NOW - 301, Some("signature_clock")),
        (NOW + 301, Some("signature_clock")),
    ] {
        clock.set(now * 1000);
        assert_eq!(refusal(&signatures, &parts).await, expected, "{now}");
    }
}

#[tokio::test]
async fn the_method_is_signed_and_only_changes_need_a_signature() {
    use SignatureMode::{Compat, Required};
    let clock = Clock::at(NOW * 1000);
    let digest = body_digest(BODY);
    let target = "/api/v1/sources/node-1/";
    let request = Request { method: "DELETE", target, source: b"", idempotency_key: b"", body_digest: &digest };
    let right = request.sign(NOW, "default", b"k");
    for (mode, method, header, effect, expected) in [
        (Required, "DELETE", Some(&right), Effect::Change, None),
        (Required, "POST", Some(&right), Effect::Change, Some("signature_mismatch")),
        (Required, "DELETE", None, Effect::Change, Some("signature_missing")),
        (Compat, "DELETE", None, Effect::Change, None),
        (Compat, "POST", Some(&right), Effect::None, Some("signature_mismatch")),
        (Required, "POST", Some(&right), Effect::None, Some("signature_mismatch")),
        (Required, "POST", None, Effect::None, None),
    ] {
        let mut parts = parts(target, &[]);
        parts.method = method.parse().unwrap();
        parts.headers.extend(header.map(|header| (HeaderName::from_static(names::SIGNATURE), header.parse().unwrap())));
        let refusal = refusal_of(&signatures(Some("k"), mode, &clock), &parts, effect).await;
        assert_eq!(refusal, expected, "{mode:?} {method} {header:?} {effect:?}");
    }
}

#[tokio::test]
async fn requests_are_accepted_or_refused_by_mode_and_header() {
    use SignatureMode::{Compat, Required};
    let clock = Clock::at(NOW * 1000);
    let right = sign("/updates", "node-1", "k");
    let wrong = sign("/updates", "node-1", "another");
    let unknown = right.replace("kid=default", "kid=other");
    let source = (names::SOURCE, "node-1");
    let signed = |header| vec![source, (names::SIGNATURE, header)];
    for (key, mode, headers, expected) in [
        (Some("k"), Compat, vec![], None),
        (Some("k"), Required, vec![], Some("signature_missing")),
        (None, Compat, vec![], None),
        (None, Compat, signed(&wrong), None),
        (None, Compat, signed("nonsense"), None),
        (Some("k"), Compat, signed(&right), None),
        (Some("k"), Required, signed(&right), None),
        (Some("k"), Compat, signed(&wrong), Some("signature_mismatch")),
        (Some("k"), Required, signed(&wrong), Some("signature_mismatch")),
        (Some("k"), Compat, signed(&unknown), Some("signature_unknown_key")),
        (Some("k"), Compat, signed("nonsense"), Some("signature_malformed")),
        (Some("k"), Compat, signed(""), Some("signature_malformed")),
        (Some("k"), Compat, vec![source, (names::SIGNATURE, &right), (names::SIGNATURE, &right)], Some("signature_malformed")),
        (Some("k"), Compat, vec![source, source, (names::SIGNATURE, &right)], Some("invalid_header")),
        (Some("k"), Compat, vec![(names::SIGNATURE, &right)], Some("signature_mismatch")),
    ] {
        let signatures = signatures(key, mode, &clock);
        assert_eq!(refusal(&signatures, &parts("/updates", &headers)).await, expected, "{key:?} {mode:?} {headers:?}");
    }
}

#[tokio::test]
async fn no_refusal_contains_a_key_or_a_signature() {
    let clock = Clock::at(NOW * 1000);
    let signatures = signatures(Some("swordfish"), SignatureMode::Required, &clock);
    let mut parts = parts("/updates", &[(names::SIGNATURE, &sign("/updates", "", "swordfish"))]);
    parts.method = Method::PUT;
    let signature = signatures.check_header(&parts.headers, Effect::Change).await.unwrap().unwrap();
    let error = format!("{:?}", signature.verify(&parts, &body_digest(BODY)).unwrap_err());
    let right = Request { method: "PUT", target: "/updates", source: b"", idempotency_key: b"", body_digest: &body_digest(BODY) };
    let right = right.sign(NOW, "default", b"swordfish");
    assert!(!error.contains("swordfish") && !error.contains(right.rsplit('=').next().unwrap()), "{error}");
}
