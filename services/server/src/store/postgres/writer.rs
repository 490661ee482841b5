//! Applies a batch in one transaction of its own. A room apart: how batches share transactions is decided here and nowhere else.
//!
//! The order of locks is the same for all: the source's row, then the count of all series (only for new ones), then rows that
//! belong to the source. So no two writers wait for each other.

mod fold;
mod ledger;
mod resolve;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use golectra_protocol::Kind;
use sqlx::{Acquire, PgConnection};
use tokio::time::timeout;

use self::ledger::Entry;
pub(super) use self::turns::Turns;
use super::cache::{Layout, LayoutKey};
use super::connect::{Lease, timed_out};
use super::error::{has_code, unavailable};
use super::partitions::day_of;
use super::{Applied, Batch, PostgresStore, StoreError};

/// How long a write may take, waiting for its turn included; answers are promised within 3 s.
const WRITE_LIMIT: Duration = Duration::from_millis(2500);

/// A type as the tables hold it.
pub(super) const fn code_of(kind: Kind) -> i16 {
    match kind {
        Kind::Gauge => 0,
        Kind::Counter => 1,
    }
}

/// Why a transaction does not commit.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    /// The batch is refused.
    #[error(transparent)]
    Refused(#[from] StoreError),
    /// A remembered row is gone: all is to be read again.
    #[error("rows that were remembered are gone")]
    Stale,
    /// The database failed.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

/// What a transaction found.
enum Written {
    /// The batch is new, and its layout is to be remembered after the commit.
    New(LayoutKey, Arc<Layout>),
    /// There is nothing to do.
    Repeat,
}

/// A batch and what follows from its time.
struct Write<'a> {
    store: &'a PostgresStore,
    batch: &'a Batch,
    now_millis: i64,
    at_millis: i64,
    day: i32,
}

/// Applies a batch once.
pub(super) async fn apply(store: &PostgresStore, batch: &Batch) -> Result<Applied, StoreError> {
    let now = store.clock.unix_millis();
    batch.key.check_window(now.saturating_sub(store.history_millis), now)?;
    let at = batch.key.unix_millis();
    let write = Write {
        store,
        batch,
        now_millis: i64::try_from(now).unwrap_or(i64::MAX),
        at_millis: i64::try_from(at).unwrap_or(i64::MAX),
        day: day_of(at),
    };
    let outcome = timeout(WRITE_LIMIT, write.apply_or_retry()).await.unwrap_or_else(|_| Err(timed_out(WRITE_LIMIT).into()));
    outcome.map_err(|error| match error {
        WriteError::Refused(refusal) => refusal,
        WriteError::Stale => StoreError::Unavailable(error.to_string()),
        WriteError::Sql(cause) => unavailable(&cause),
    })
}

impl Write<'_> {
    /// Tries once more where what this process remembered was wrong.
    async fn apply_or_retry(&self) -> Result<Applied, WriteError> {
        let _turn = self.store.turns.take(&self.batch.source).await;
        match self.apply_once().await {
            Err(WriteError::Stale) => self.store.cache.clear(),
            // check_violation: no partition takes the frame.
            Err(WriteError::Sql(error)) if has_code(&error, "23514") => self.store.partitions.forget(self.day),
            done => return done,
        }
        self.apply_once().await
    }

    /// One transaction. Only a connection that ended it cleanly is used again.
    async fn apply_once(&self) -> Result<Applied, WriteError> {
        let mut lease = Lease::acquire(&self.store.pool).await?;
        self.store.partitions.ensure(lease.conn(), self.day).await?;
        let epoch = self.store.cache.epoch();
        let mut tx = lease.conn().begin().await?;
        let outcome = match self.in_transaction(&mut tx).await {
            Ok(Written::New(key, layout)) => {
                tx.commit().await?;
                self.store.cache.put(epoch, key, layout);
                Ok(Applied::New)
            }
            Ok(Written::Repeat) => {
                tx.rollback().await?;
                Ok(Applied::Repeat)
            }
            Err(WriteError::Refused(refusal)) => {
                tx.rollback().await?;
                Err(refusal.into())
            }
            Err(error) => return Err(error),
        };
        lease.give_back();
        outcome
    }

    /// Everything that a batch changes.
    async fn in_transaction(&self, conn: &mut PgConnection) -> Result<Written, WriteError> {
        let source = ledger::lock_source(conn, self).await?;
        let key = (source.id, resolve::layout_digest(&self.batch.metrics));
        let remembered = self.store.cache.get(&key).filter(|layout| layout.last_day >= self.day);
        let layout = if let Some(layout) = remembered {
            layout
        } else {
            // A repeat makes no series and meets no cap.
            if let Some(entry) = ledger::find(conn, self, source.id).await? {
                return self.repeated(&entry);
            }
            Arc::new(resolve::layout(conn, self, &source, &key.1).await?)
        };
        if !ledger::insert(conn, self, source.id, &layout).await? {
            let entry = ledger::find(conn, self, source.id).await?.ok_or(WriteError::Stale)?;
            return self.repeated(&entry);
        }
        fold::gauges(conn, self, &source, &layout).await?;
        fold::counters(conn, self, &source, &layout).await?;
        self.record_audit(conn).await?;
        Ok(Written::New(key, layout))
    }

    /// The key was used before: for this batch or for another.
    fn repeated(&self, entry: &Entry) -> Result<Written, WriteError> {
        if entry.digest == self.batch.digest { Ok(Written::Repeat) } else { Err(StoreError::KeyReused.into()) }
    }

    /// Lets the audit trail join the transaction.
    async fn record_audit(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        match (&self.store.hook, &self.batch.audit) {
            (Some(hook), Some(draft)) => hook.in_transaction(conn, draft).await,
            _ => Ok(()),
        }
    }
}
