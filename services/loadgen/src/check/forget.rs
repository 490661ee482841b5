//! Makes the server forget the sources of a run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use golectra_protocol::{hash, header, signature};

use tokio::time::sleep;

use super::SentBatches;
use crate::plan::{Address, Signing};
use crate::wire::{Connection, Failure};

/// The server still has sources of a run.
#[derive(Debug, thiserror::Error)]
#[error("the server does not forget {source_name}: {reason}")]
pub struct ForgetError {
    /// The first of them.
    pub source_name: String,
    /// What it answered, or why it did not.
    pub reason: String,
}

/// A server that was loaded until a moment ago may refuse a request or take too long for it. After so many tries of one request it is given up.
const TRIES: usize = 8;
/// Between two tries, where the server does not ask for another pause.
const PAUSE: Duration = Duration::from_millis(500);
/// A longer pause is not waited for.
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl SentBatches {
    /// Deletes the source of each agent, so that the server does not take them for nodes that fell silent. Requests are signed as those of the run were.
    /// `limit` is that of one request; one that the server refuses for the moment is tried again.
    pub async fn forget(&self, address: &Address, signing: Option<&Signing>, limit: Duration) -> Result<(), ForgetError> {
        tracing::info!(sources = self.workload.agents, "making the server forget the sources of this run");
        let mut connection = None;
        for agent in 0..self.workload.agents {
            let source_name = self.workload.source(agent);
            let mut tries = 1;
            while let Err(refusal) = delete(&mut connection, address, &source_name, signing, limit).await {
                match refusal.pause.filter(|_| tries < TRIES) {
                    Some(pause) => sleep(pause.min(MAX_PAUSE).mul_f64(0.75 + fastrand::f64() / 2.0)).await,
                    None => return Err(ForgetError { source_name, reason: refusal.reason }),
                }
                tries += 1;
            }
        }
        Ok(())
    }
}

/// Why a source was not deleted.
struct Refusal {
    reason: String,
    /// After which time to try again, if that may help.
    pause: Option<Duration>,
}

/// Deletes one source, on the connection of the one before where that is open.
async fn delete(
    connection: &mut Option<Connection>,
    address: &Address,
    source_name: &str,
    signing: Option<&Signing>,
    limit: Duration,
) -> Result<(), Refusal> {
    let target = format!("/api/v1/sources/{source_name}");
    let mut request = format!("DELETE {target} HTTP/1.1\r\nhost: {address}\r\n");
    if let Some(signing) = signing {
        let key = signing.keys.fresh(signing.id.as_str()).await;
        let key = key.ok_or_else(|| Refusal { reason: "no signing key".to_owned(), pause: None })?;
        let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let digest = hash::body_digest(b"");
        let signed = signature::Request { method: "DELETE", target: &target, source: b"", idempotency_key: b"", body_digest: &digest };
        let value = signed.sign(unix_seconds, signing.id.as_str(), key.expose());
        request.extend([header::SIGNATURE, ": ", value.as_str(), "\r\n"]);
    }
    request.push_str("\r\n");
    let failed = |failure: Failure| Refusal { reason: failure.to_string(), pause: Some(PAUSE) };
    let mut open = match connection.take().filter(Connection::is_open) {
        Some(open) => open,
        None => Connection::open(address, limit).await.map_err(failed)?,
    };
    let answer = open.exchange(request.as_bytes(), limit, true).await.map_err(failed)?;
    *connection = Some(open);
    // 404: none of its batches arrived, or an earlier try was late.
    if matches!(answer.status, 204 | 404) {
        return Ok(());
    }
    let is_for_now = answer.status == 429 || answer.status >= 500;
    let reason = format!("status {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    Err(Refusal { reason, pause: is_for_now.then(|| answer.retry_after.unwrap_or(PAUSE)) })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::workload::Workload;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers requests without a body on one connection with these statuses; gives their heads.
    async fn server(statuses: &'static [u16]) -> (Address, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::local(listener.local_addr().unwrap().port());
        let heads = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heads = Vec::new();
            for status in statuses {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                heads.push(String::from_utf8(head).unwrap());
                stream.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
            }
            heads
        });
        (address, heads)
    }

    fn sent() -> SentBatches {
        let workload = Workload { seed: 7, source: "load".to_owned(), agents: 3, metrics: 4, counters: 2, series: 12, prepared: 0 };
        SentBatches::new(workload, Vec::new())
    }

    #[tokio::test]
    async fn the_source_of_each_agent_is_deleted_with_a_signature() {
        let (address, heads) = server(&[204, 503, 404, 204]).await;
        let signing = Signing::with_key(&"secret".into());
        sent().forget(&address, Some(&signing), LIMIT).await.unwrap();
        for (agent, head) in [0, 1, 1, 2].into_iter().zip(heads.await.unwrap()) {
            let target = format!("/api/v1/sources/load-{agent}");
            assert!(head.starts_with(&format!("DELETE {target} HTTP/1.1\r\n")), "{head}");
            let lower = head.to_ascii_lowercase();
            let (_, value) = lower.split_once("golectra-signature: ").unwrap();
            let claim = signature::Claim::parse(value.lines().next().unwrap().as_bytes()).unwrap();
            let digest = hash::body_digest(b"");
            let received =
                signature::Request { method: "DELETE", target: &target, source: b"", idempotency_key: b"", body_digest: &digest };
            assert_eq!(claim.verify(&received, b"secret"), Ok(()));
        }
    }

    #[tokio::test]
    async fn the_first_source_that_stays_is_named() {
        let (address, heads) = server(&[204, 401]).await;
        let error = sent().forget(&address, None, LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("load-1") && error.contains("status 401"), "{error}");
        assert!(!heads.await.unwrap()[0].to_ascii_lowercase().contains("golectra-signature"));
    }
}
