//! A report that no server takes: what its refusal says of the address, the keys and the clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Client;
use super::outcome::{Outcome, Retry, RetryReason};
use crate::batch::{Batch, Deltas};
use crate::metrics::DropReason;

/// An item without a name, which is looked at after the hash and the signature and changes nothing.
const INVALID_ITEM: &str = r#"{"id":"","type":"gauge","value":0}"#;

/// What a server makes of this agent's reports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// It refuses the report for its content alone, so that it takes valid ones.
    Takes,
    /// It is no golectra server as far as can be told; the text is its answer.
    Unknown(String),
    /// It refuses this agent's reports: why, and what to do about it.
    Refuses(String),
    /// It cannot be reached, or does not answer.
    Unreachable(String),
}

impl Client {
    /// Sends one report that golectra refuses.
    pub(crate) async fn probe(&self) -> Probe {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let batch = Batch::of_items(unix_millis, INVALID_ITEM.to_owned(), 1, Deltas::default(), self.hash_key());
        of_outcome(self.send(&batch).await)
    }
}

fn of_outcome(outcome: Outcome) -> Probe {
    match outcome {
        Outcome::Rejected { reason: DropReason::Invalid, .. } => Probe::Takes,
        Outcome::Rejected { error, .. } => Probe::Refuses(error),
        Outcome::Acknowledged { .. } => Probe::Unknown("it takes a report that golectra refuses".to_owned()),
        Outcome::Retry(Retry { reason, error, .. }) => match reason {
            RetryReason::NotGolectra => Probe::Unknown(error),
            // As the original does.
            RetryReason::OtherCount => Probe::Unknown("it skips an item that golectra refuses".to_owned()),
            RetryReason::Connect | RetryReason::Timeout | RetryReason::Cut => Probe::Unreachable(error),
            _ => Probe::Refuses(error),
        },
    }
}
