//! Names of the HTTP headers that golectra uses, in lower case as HTTP libraries require.

/// Lower-case hex of SHA-256 over the uncompressed body followed by the key ([`crate::hash`]).
pub const HASH_SHA256: &str = "hashsha256";
/// `t=UNIX,kid=ID,v1=HEX`, a signature of the request ([`crate::signature`]).
pub const SIGNATURE: &str = "golectra-signature";
/// The node that sent the metrics ([`crate::Source`]).
pub const SOURCE: &str = "golectra-source";
/// The UUIDv7 of a batch ([`crate::IdempotencyKey`]).
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// `true` on the answer to a batch that had been applied before.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";
/// Standard Webhooks: the id of a message, the same on every retry.
pub const WEBHOOK_ID: &str = "webhook-id";
/// Standard Webhooks: when this try was signed, in unix seconds.
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
/// Standard Webhooks: space-separated `v1,BASE64` signatures.
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";
