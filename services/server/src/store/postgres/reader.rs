//! Answers reads, and makes small changes that are no batches. Every read is one statement, so what it says belongs together; a listing is several,
//! see [`super::latest`].

use std::sync::Arc;
use std::time::Duration;

use golectra_protocol::{Kind, Selector, Source, Value};
use sqlx::{PgConnection, PgPool};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::commits::Commits;
use super::connect::{Lease, timed_out};
use super::error::unavailable;
use super::identity::{self, code_of};
use super::migrate::SchemaState;
use crate::store::{Snapshot, SourceInfo, StoreError};

/// How long a read may take, waiting for its turn included.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long a read waits for the first attempt to bring up the schema. Requests are answered within 3 s.
const START_LIMIT: Duration = Duration::from_millis(2_500);

/// Reads from the pool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) pool: PgPool,
    pub(super) schema: watch::Receiver<SchemaState>,
    /// Slow reads may hold half of the pool's connections, and those of alerts one or two: from three connections on never all, so that the audit trail is
    /// delivered meanwhile.
    pub(super) turns: Arc<Semaphore>,
    /// How long a read may take, waiting for its turn included: [`READ_LIMIT`] in a server.
    pub(super) limit: Duration,
    /// What this server knows of its commits.
    pub(super) commits: Arc<Commits>,
}

impl Reader {
    /// Waits for the first attempt to bring up the schema, no longer than this, and refuses while the schema is missing.
    pub(super) async fn check_schema(&self, limit: Duration) -> Result<(), StoreError> {
        if matches!(*self.schema.borrow(), SchemaState::Ready) {
            return Ok(());
        }
        let mut schema = self.schema.clone();
        let tried = schema.wait_for(|schema| !matches!(schema, SchemaState::FirstAttempt));
        let missing = match timeout(limit, tried).await {
            Ok(Ok(state)) => match &*state {
                SchemaState::Ready => return Ok(()),
                SchemaState::Missing(why) => format!("the schema is not there yet: {why}"),
                SchemaState::FirstAttempt => "the schema is not there yet".to_owned(),
            },
            Ok(Err(_)) => "the store is closed".to_owned(),
            Err(_) => format!("the schema is not there yet: the first attempt is still under way after {:.1} s", limit.as_secs_f32()),
        };
        Err(StoreError::Unavailable(missing))
    }

    /// Runs a read on a connection, within its time.
    pub(super) async fn read<T>(&self, read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T, StoreError> {
        self.run(None, read).await
    }

    /// Runs what changes something on a connection, within its time.
    pub(super) async fn change<T>(&self, change: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T, StoreError> {
        self.run(Some(&self.commits), change).await
    }

    async fn run<T>(
        &self,
        commits: Option<&Commits>,
        run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.check_schema(START_LIMIT).await?;
        let bounded = async {
            let _turn = self.turns.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let mut lease = Lease::acquire(&self.pool).await?;
            let answer = match commits {
                Some(commits) => commits.change(lease.conn(), run).await?,
                None => run(lease.conn()).await?,
            };
            lease.give_back();
            Ok(answer)
        };
        timeout(self.limit, bounded).await.unwrap_or_else(|_| Err(timed_out(self.limit))).map_err(|error| unavailable(&error))
    }

    /// One metric over all sources.
    pub(super) async fn value(&self, selector: &Selector) -> Result<Option<Value>, StoreError> {
        let identity = identity::of_series(code_of(selector.kind), selector.id.as_str());
        match selector.kind {
            Kind::Gauge => {
                let newest = self.read(async |conn| {
                    sqlx::query_scalar!(
                        r#"SELECT value AS "value!" FROM latest WHERE identity = $1 ORDER BY at DESC, arrival DESC LIMIT 1"#,
                        identity,
                    )
                    .fetch_optional(conn)
                    .await
                });
                Ok(newest.await?.filter(|value| value.is_finite()).map(Value::Gauge))
            }
            Kind::Counter => {
                let sum = self.read(async |conn| {
                    sqlx::query_scalar!(
                        "SELECT least(sum(total), 9223372036854775807)::bigint FROM (
                            SELECT total FROM latest WHERE identity = $1
                            UNION ALL SELECT total FROM retired_totals WHERE identity = $1
                        ) AS totals HAVING count(*) > 0",
                        identity,
                    )
                    .fetch_optional(conn)
                    .await
                });
                Ok(sum.await?.flatten().map(Value::Counter))
            }
        }
    }

    /// All metrics over all sources but for [`RULES_SOURCE`](crate::history::labels::RULES_SOURCE), whose series nobody sent.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let rows = self
            .read(async |conn| {
                sqlx::query!(
                    r#"(SELECT DISTINCT ON (identity) metric AS "metric!", value, NULL::bigint AS total FROM latest
                        WHERE kind = 0 AND source_id <> ALL (SELECT id FROM sources WHERE name = 'golectra-rules')
                        ORDER BY identity, at DESC, arrival DESC)
                    UNION ALL
                    (SELECT min(metric), NULL, least(sum(total), 9223372036854775807)::bigint FROM (
                        SELECT identity, metric, total FROM latest WHERE kind = 1
                        UNION ALL SELECT identity, metric, total FROM retired_totals
                    ) AS totals GROUP BY identity)"#
                )
                .fetch_all(conn)
                .await
            })
            .await?;
        let mut snapshot = Snapshot::default();
        for row in rows {
            match (row.value, row.total) {
                (Some(value), _) if value.is_finite() => drop(snapshot.gauges.insert(row.metric, value)),
                (Some(_), _) => {}
                (None, total) => drop(snapshot.counters.insert(row.metric, total.unwrap_or_default())),
            }
        }
        Ok(snapshot)
    }

    /// All sources in the newest state.
    pub(super) async fn sources(&self) -> Result<Vec<SourceInfo>, StoreError> {
        let rows = self
            .read(async |conn| {
                sqlx::query!(
                    r#"SELECT name, (extract(epoch FROM first_seen) * 1000)::bigint AS "first_seen!",
                        (extract(epoch FROM last_seen) * 1000)::bigint AS "last_seen!", series
                    FROM sources WHERE forgotten_at IS NULL ORDER BY name"#
                )
                .fetch_all(conn)
                .await
            })
            .await?;
        rows.into_iter()
            .map(|row| {
                Ok(SourceInfo {
                    name: stored_source(&row.name)?,
                    first_seen_millis: millis(row.first_seen),
                    last_seen_millis: millis(row.last_seen),
                    series: usize::try_from(row.series).unwrap_or(0),
                })
            })
            .collect()
    }
}

pub(super) fn stored_source(name: &str) -> Result<Source, StoreError> {
    Source::from_stored(name).map_err(|_| damaged("a source", name))
}

/// Somebody else wrote this row.
pub(super) fn damaged(what: &str, name: &str) -> StoreError {
    StoreError::Unavailable(format!("the database holds {what} {name:?}, which golectra did not write"))
}

pub(super) fn millis(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}
