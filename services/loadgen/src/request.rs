//! Requests as bytes. What is the same each time a body is sent is made once.

use golectra_protocol::{IdempotencyKey, gzip, hash, header, signature};

use crate::plan::{Content, Plan};
use crate::workload::Workload;

/// A request without what differs from try to try: source, key and signature.
#[derive(Debug)]
pub(crate) struct PreparedRequest {
    head: Box<[u8]>,
    body: Box<[u8]>,
    /// Of the plain body; only where requests are signed.
    digest: Option<[u8; 32]>,
}

/// What signs a try: a key, its id, and the time in unix seconds.
pub(crate) struct Signature<'a> {
    pub(crate) key_id: &'a str,
    pub(crate) key: &'a [u8],
    pub(crate) unix_seconds: u64,
}

impl PreparedRequest {
    /// Writes the whole request.
    pub(crate) fn write(
        &self,
        target: &str,
        source: Option<&str>,
        key: Option<IdempotencyKey>,
        signature: Option<&Signature<'_>>,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        out.extend_from_slice(&self.head);
        if let Some(source) = source {
            line(out, header::SOURCE, source.as_bytes());
        }
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let key = key.map(|key| &*key.uuid().hyphenated().encode_lower(&mut text));
        if let Some(key) = key {
            line(out, header::IDEMPOTENCY_KEY, key.as_bytes());
        }
        if let (Some(signature), Some(digest)) = (signature, &self.digest) {
            let request = signature::Request {
                method: "POST",
                target,
                source: source.unwrap_or_default().as_bytes(),
                idempotency_key: key.unwrap_or_default().as_bytes(),
                body_digest: digest,
            };
            line(out, header::SIGNATURE, request.sign(signature.unix_seconds, signature.key_id, signature.key).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
    }

    /// What it holds, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Makes requests as a plan wants them.
#[derive(Debug)]
pub(crate) struct RequestBuilder {
    workload: Workload,
    content: Content,
    gzip: bool,
    key: Option<golectra_process::Secret>,
    signed: bool,
    /// The request target.
    target: String,
    /// The lines that all requests share.
    start: Vec<u8>,
    /// The bodies made beforehand.
    prepared: Vec<PreparedRequest>,
}

impl RequestBuilder {
    /// Makes the bodies that the plan wants beforehand.
    pub(crate) fn new(plan: &Plan, workload: &Workload) -> Self {
        let (target, content_type) = match &plan.content {
            Content::Batches => ("/updates", "application/json"),
            Content::Single => ("/update", "application/json"),
            Content::Custom { path, content_type, .. } => (path.as_str(), content_type.as_str()),
        };
        let mut start = format!("POST {target} HTTP/1.1\r\nhost: {}\r\n", plan.address).into_bytes();
        line(&mut start, "content-type", content_type.as_bytes());
        if plan.accept_gzip {
            line(&mut start, "accept-encoding", b"gzip");
        }
        if plan.gzip {
            line(&mut start, "content-encoding", b"gzip");
        }
        let mut requests = Self {
            workload: workload.clone(),
            content: plan.content.clone(),
            gzip: plan.gzip,
            key: plan.key.clone(),
            signed: plan.signing.is_some(),
            target: target.to_owned(),
            start,
            prepared: Vec::new(),
        };
        requests.prepared = (0..u64::from(workload.prepared)).map(|body| requests.build(body)).collect();
        requests
    }

    /// The request target of all requests.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// What the prepared requests hold, in bytes.
    pub(crate) fn prepared_bytes(&self) -> usize {
        self.prepared.iter().map(PreparedRequest::len).sum()
    }

    /// A prepared request.
    pub(crate) fn prepared(&self, body: u64) -> Option<&PreparedRequest> {
        self.prepared.get(usize::try_from(body).ok()?)
    }

    /// Makes the request of a body.
    pub(crate) fn build(&self, body: u64) -> PreparedRequest {
        let plain = match &self.content {
            Content::Batches => self.workload.json(body, false),
            Content::Single => self.workload.json(body, true),
            Content::Custom { make, .. } => make(body),
        };
        let mut head = self.start.clone();
        if let Some(key) = &self.key {
            line(&mut head, header::HASH_SHA256, hash::body_hash(&plain, key.expose().as_bytes()).as_bytes());
        }
        let digest = self.signed.then(|| hash::body_digest(&plain));
        let body = if self.gzip { gzip::pack(&plain) } else { plain };
        line(&mut head, "content-length", body.len().to_string().as_bytes());
        PreparedRequest { head: head.into(), body: body.into(), digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_holds_what_the_plan_says() {
        let address = "server:80".parse().unwrap();
        let signing = Some(crate::Signing::with_key(&"secret".into()));
        let plan = Plan { agents: 1, metrics: 2, key: Some("secret".into()), signing, prepared: 1, ..Plan::new(address) };
        let workload = plan.workload().unwrap();
        let requests = RequestBuilder::new(&plan, &workload);
        let key = IdempotencyKey::at(1_700_000_000_000);
        let signature = Signature { key_id: "default", key: b"secret", unix_seconds: 1_700_000_000 };
        let mut request = Vec::new();
        requests.prepared(0).unwrap().write(requests.target(), Some("load-0"), Some(key), Some(&signature), &mut request);
        let end = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let (head, body) = (String::from_utf8(request[..end].to_vec()).unwrap(), &request[end + 4..]);
        let uncompressed = gzip::unpack(body, 10_000).unwrap();
        assert_eq!(uncompressed, workload.json(0, false));
        let expected = format!(
            "POST /updates HTTP/1.1\r\nhost: server:80\r\ncontent-type: application/json\r\naccept-encoding: gzip\r\n\
             content-encoding: gzip\r\nhashsha256: {}\r\ncontent-length: {}\r\ngolectra-source: load-0\r\nidempotency-key: {key}",
            hash::body_hash(&uncompressed, b"secret"),
            body.len(),
        );
        let (plain_head, signed) = head.split_once("\r\ngolectra-signature: ").unwrap();
        assert_eq!(plain_head, expected);
        let claim = golectra_protocol::signature::Claim::parse(signed.as_bytes()).unwrap();
        let (key, digest) = (key.to_string(), hash::body_digest(&uncompressed));
        let received = golectra_protocol::signature::Request {
            method: "POST",
            target: "/updates",
            source: b"load-0",
            idempotency_key: key.as_bytes(),
            body_digest: &digest,
        };
        assert_eq!(claim.verify(&received, b"secret"), Ok(()));
        assert_eq!(requests.prepared_bytes(), requests.build(0).len());
        assert!(requests.prepared(1).is_none());
    }
}
