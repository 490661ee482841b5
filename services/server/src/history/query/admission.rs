//! How many queries are under way, and how many may wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// For each query that may run so many may wait. A dashboard asks for all its panels at once.
const WAITING_PER_RUNNING: usize = 32;

/// Lets queries in.
pub struct Admission {
    /// Of all that run or wait.
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// One more may run at once, which is a rule's: what people ask must not keep rules from being evaluated.
    rule: Arc<Semaphore>,
}

/// A query that may run, until it is dropped.
pub struct Admitted {
    _running: OwnedSemaphorePermit,
    _place: Option<OwnedSemaphorePermit>,
}

/// How many more than the given number may run at once.
pub const RESERVED_FOR_RULES: usize = 1;

/// Why a query is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Too many wait.
    QueueFull,
    /// It waited until its time was over.
    Timeout,
}

impl Admission {
    /// Lets so many run at once.
    pub fn new(concurrency: usize) -> Self {
        let places = concurrency.saturating_mul(1 + WAITING_PER_RUNNING).min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places)),
            running: Arc::new(Semaphore::new(concurrency)),
            rule: Arc::new(Semaphore::new(RESERVED_FOR_RULES)),
        }
    }

    /// Lets a rule in: at once where no other rule runs, else as a query.
    pub async fn enter_rule(&self, deadline: Instant) -> Result<Admitted, NotAdmitted> {
        match Arc::clone(&self.rule).try_acquire_owned() {
            Ok(running) => Ok(Admitted { _running: running, _place: None }),
            Err(_) => self.enter(deadline).await,
        }
    }

    /// Waits until the query may run. Queries run in the order in which they came.
    pub async fn enter(&self, deadline: Instant) -> Result<Admitted, NotAdmitted> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| NotAdmitted::QueueFull)?;
        match timeout_at(deadline, Arc::clone(&self.running).acquire_owned()).await {
            Ok(Ok(running)) if Instant::now() < deadline => Ok(Admitted { _running: running, _place: Some(place) }),
            _ => Err(NotAdmitted::Timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_run_some_wait_and_the_rest_is_refused() {
        let admission = Admission::new(2);
        let deadline = Instant::now() + Duration::from_secs(30);
        let running = [admission.enter(deadline).await.unwrap(), admission.enter(deadline).await.unwrap()];
        let mut waiting: Vec<_> = (0..2 * WAITING_PER_RUNNING).map(|_| Box::pin(admission.enter(deadline))).collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        assert_eq!(admission.enter(deadline).await.map(drop), Err(NotAdmitted::QueueFull));
        let rule = admission.enter_rule(deadline).await.unwrap();
        assert_eq!(admission.enter_rule(deadline).await.map(drop), Err(NotAdmitted::QueueFull), "a second one has no place of its own");
        drop(rule);
        drop(running);
        let held = [waiting.remove(0).await.unwrap(), waiting.remove(0).await.unwrap()];
        assert!((&mut waiting[0]).now_or_never().is_none(), "those that came first run");
        let late = admission.enter(deadline).await;
        assert_eq!((late.map(drop), Instant::now()), (Err(NotAdmitted::Timeout), deadline));
        drop((held, waiting));
        assert_eq!(admission.enter(Instant::now()).await.map(drop), Err(NotAdmitted::Timeout), "there is room, but no time");
        assert!(admission.enter(Instant::now() + Duration::from_millis(1)).await.is_ok());
    }
}
