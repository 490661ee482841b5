use proptest::prelude::*;

use super::*;
use crate::hash::body_digest;

const KEY: &[u8] = b"a key of the tests";
const BODY: &[u8] = br#"[{"id":"PollCount","type":"counter","delta":5}]"#;
const NOW: u64 = 1_700_000_000;

/// A request as its client signs it, with the digest of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    method: Vec<u8>,
    target: Vec<u8>,
    source: Vec<u8>,
    key: Vec<u8>,
    body: Vec<u8>,
}

impl Owned {
    fn example() -> Self {
        Self {
            method: b"POST".to_vec(),
            target: b"/updates".to_vec(),
            source: b"node-1".to_vec(),
            key: b"018bcfe5-6800-7b3a-9c4d-2e5f60718293".to_vec(),
            body: BODY.to_vec(),
        }
    }

    /// The signed parts, one after the other.
    fn parts(&mut self) -> [&mut Vec<u8>; 5] {
        [&mut self.method, &mut self.target, &mut self.source, &mut self.key, &mut self.body]
    }

    /// Calls `use_it` with the request; None if the method or the target is not text, which no HTTP server accepts.
    fn with<T>(&self, use_it: impl FnOnce(&Request<'_>) -> T) -> Option<T> {
        let body_digest = body_digest(&self.body);
        Some(use_it(&Request {
            method: std::str::from_utf8(&self.method).ok()?,
            target: std::str::from_utf8(&self.target).ok()?,
            source: &self.source,
            idempotency_key: &self.key,
            body_digest: &body_digest,
        }))
    }

    fn sign(&self) -> String {
        self.with(|request| request.sign(NOW, "default", KEY)).unwrap()
    }

    /// Whether a receiver whose only key is `default` accepts it.
    fn is_taken(&self, header: &[u8]) -> bool {
        let Ok(claim) = Claim::parse(header) else { return false };
        claim.key_id() == "default"
            && claim.check_time(NOW).is_ok()
            && self.with(|request| claim.verify(request, KEY).is_ok()).unwrap_or(false)
    }
}

#[test]
fn golden_signatures() {
    // printf 'v1\nPOST\n/updates\n1700000000\nnode-1\n018bcfe5-6800-7b3a-9c4d-2e5f60718293\n%s' "$(printf '%s' "$BODY" | sha256sum | cut -d' ' -f1)" |
    //   openssl dgst -sha256 -hmac 'a key of the tests'
    let golden = "t=1700000000,kid=default,v1=eef52a226f5aa4e27d6223def142b15357f12506a237cf4b39719a862744184f";
    assert_eq!(Owned::example().sign(), golden);
    assert!(Owned::example().is_taken(golden.as_bytes()));

    // Changed only in the target, which is not normalized.
    let bare = Owned { target: b"//update/counter/a%20b/1/".to_vec(), source: vec![], key: vec![], body: vec![], ..Owned::example() };
    assert_eq!(bare.sign(), "t=1700000000,kid=default,v1=800b3a5c63e5c725dca244ab7870356d67995d610c7c2f09d4413966cacae538");
}

#[test]
fn the_documented_example_is_the_golden_one() {
    let text = include_str!("../../../../docs/protocol.md");
    assert!(text.contains(&format!("Golectra-Signature: {}", Owned::example().sign())), "docs/protocol.md should have this example");
}

#[test]
fn every_bit_flip_is_refused() {
    let request = Owned::example();
    let header = request.sign().into_bytes();
    for part in 0..5 {
        for bit in 0..request.clone().parts()[part].len() * 8 {
            let mut flipped = request.clone();
            flipped.parts()[part][bit / 8] ^= 1 << (bit % 8);
            assert!(!flipped.is_taken(&header), "bit {bit} of part {part}");
        }
    }
    for bit in 0..header.len() * 8 {
        let mut flipped = header.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!request.is_taken(&flipped), "bit {bit} of the header: {:?}", String::from_utf8_lossy(&flipped));
    }
}

#[test]
fn both_ends_of_the_window_are_inclusive() {
    let header = Owned::example().sign();
    let claim = Claim::parse(header.as_bytes()).unwrap();
    for now in [NOW - 300, NOW - 299, NOW, NOW + 299, NOW + 300] {
        assert_eq!(claim.check_time(now), Ok(()), "{now}");
    }
    assert_eq!(claim.check_time(NOW + 301), Err(SignatureError::Behind { signed: NOW, now: NOW + 301 }));
    assert_eq!(claim.check_time(NOW - 301), Err(SignatureError::Ahead { signed: NOW, now: NOW - 301 }));
    for now in [NOW + 301, NOW - 301, 0, u64::MAX] {
        assert!(claim.check_time(now).unwrap_err().to_string().contains(SKEW));
    }
}

#[test]
fn a_header_has_exactly_one_form() {
    let hmac = "0123456789abcdef".repeat(4);
    let longest = "k".repeat(MAX_KEY_ID_BYTES);
    for (time, id) in [("0", "a"), ("18446744073709551615", "K_1.b-c"), ("1", longest.as_str())] {
        let header = format!("t={time},kid={id},v1={hmac}");
        assert_eq!(Claim::parse(header.as_bytes()).unwrap().key_id(), id);
    }
    let upper = hmac.to_uppercase();
    for header in [
        String::new(),
        "t=1,kid=a".to_owned(),
        format!("t=1,v1={hmac}"),
        format!("kid=a,t=1,v1={hmac}"),
        format!("T=1,kid=a,v1={hmac}"),
        format!(" t=1,kid=a,v1={hmac}"),
        format!("t=1, kid=a, v1={hmac}"),
        format!("t=1,kid=a,v1={hmac},"),
        format!("t=1,kid=a,v1={hmac},v1={hmac}"),
        format!("t=1,kid=a,v1={upper}"),
        format!("t=1,kid=a,v1={}", &hmac[..62]),
        format!("t=1,kid=a,v1={hmac}00"),
        format!("t=1,kid=a,v2={hmac}"),
        format!("t=,kid=a,v1={hmac}"),
        format!("t=01,kid=a,v1={hmac}"),
        format!("t=+1,kid=a,v1={hmac}"),
        format!("t=-1,kid=a,v1={hmac}"),
        format!("t=1.0,kid=a,v1={hmac}"),
        format!("t=18446744073709551616,kid=a,v1={hmac}"),
        format!("t=1,kid=,v1={hmac}"),
        format!("t=1,kid=.a,v1={hmac}"),
        format!("t=1,kid=../a,v1={hmac}"),
        format!("t=1,kid=a b,v1={hmac}"),
        format!("t=1,kid=é,v1={hmac}"),
        format!("t=1,kid={longest}k,v1={hmac}"),
    ] {
        assert_eq!(Claim::parse(header.as_bytes()), Err(SignatureError::Malformed), "{header:?}");
    }
    assert_eq!(Claim::parse(b"t=1,kid=\xff,v1="), Err(SignatureError::Malformed));
}

/// The texts that HTTP allows for a part of a request: no line ends.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::char::range(' ', '~').prop_map(|c| u8::try_from(c).unwrap()), 0..12)
}

fn requests() -> impl Strategy<Value = Owned> {
    (text(), text(), text(), text(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(|(method, target, source, key, body)| Owned {
        method,
        target,
        source,
        key,
        body,
    })
}

proptest! {
    #[test]
    fn a_signature_is_accepted_only_for_its_own_request(one in requests(), other in requests(), bit in any::<prop::sample::Index>()) {
        let header = one.sign();
        prop_assert!(one.is_taken(header.as_bytes()));
        prop_assert_eq!(other.is_taken(header.as_bytes()), one == other);
        let mut flipped = header.into_bytes();
        let bit = bit.index(flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!one.is_taken(&flipped));
    }

    #[test]
    fn a_request_with_bytes_moved_between_parts_is_refused(mut request in requests(), at in 0..3_usize) {
        let header = request.sign();
        let [method, target, source, key, _] = request.parts();
        let (left, right) = match at {
            0 => (method, target),
            1 => (target, source),
            _ => (source, key),
        };
        prop_assume!(!right.is_empty());
        left.push(right.remove(0));
        prop_assert!(!request.is_taken(header.as_bytes()));
    }

    #[test]
    fn another_key_is_refused(request in requests(), other in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assume!(other != KEY);
        let header = request.with(|request| request.sign(NOW, "default", &other)).unwrap();
        // HMAC pads keys with zeros, so these are the same key.
        let same = other.strip_prefix(KEY).is_some_and(|rest| other.len() <= 64 && rest.iter().all(|b| *b == 0));
        prop_assert_eq!(request.is_taken(header.as_bytes()), same);
    }

    #[test]
    fn it_does_not_panic_on_any_header(header in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(claim) = Claim::parse(&header) {
            prop_assert!(is_key_id(claim.key_id()));
        }
    }
}
