//! The memory budget that all running listings share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::http::error::ApiError;

/// The memory limit of all running listings together.
pub const TOTAL_BYTES: usize = 16 << 20;

/// The unit of the budget. It is at least the size of a page (series and ids, before and after they are decoded), and at least
/// the size of the output buffers (a piece of JSON, gzip's window and tables, hyper's buffer).
const UNIT_BYTES: usize = 512 << 10;

/// How long a listing waits for others to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The budget. Clones share it.
#[derive(Clone)]
pub struct ListingBudget(Arc<Semaphore>);

/// A listing's share of the budget, until it is dropped.
pub struct Share(#[expect(dead_code, reason = "held for what its end gives back")] OwnedSemaphorePermit);

impl ListingBudget {
    /// A budget that is not used yet.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(TOTAL_BYTES / UNIT_BYTES)))
    }

    /// Takes the share of a listing with this many selectors, each of which reads pages. Listings get their shares in the order
    /// of their requests.
    pub async fn share(&self, selectors: usize) -> Result<Share, ApiError> {
        let units = u32::try_from(selectors).unwrap_or(u32::MAX).saturating_add(1);
        match timeout(PATIENCE, Arc::clone(&self.0).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Share(permit)),
            _ => Err(ApiError::overloaded("the memory for listings is in use by those that are running").retry_after(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::ErrorCode;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn listings_beyond_the_budget_wait_and_are_refused() {
        let budget = ListingBudget::new();
        let mut running = Vec::new();
        for _ in 0..16 {
            running.push(budget.share(1).await.unwrap());
        }
        let start = Instant::now();
        let refusal = budget.share(1).await.map(drop).unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::Overloaded);
        assert_eq!(start.elapsed(), PATIENCE);
        let (next, ()) = tokio::join!(budget.share(3), async { running.truncate(14) });
        assert!(next.is_ok(), "two that ended make room for one with three selectors");
        assert_eq!(start.elapsed(), PATIENCE, "at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_stops_waiting_does_not_delay_others() {
        let budget = ListingBudget::new();
        let mut running: Vec<_> = Vec::new();
        for _ in 0..15 {
            running.push(budget.share(1).await.unwrap());
        }
        let (large, small) = tokio::join!(budget.share(8), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            budget.share(1).await
        });
        assert!(large.is_err() && small.is_ok());
    }
}
