//! Runs statements on a connection of the pool, within a time limit.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres, Transaction};
use tokio::time::timeout;

use crate::audit::outbox::OutboxError;
use crate::store::postgres::{Commits, describe};

/// The time limit of the statements together, including the wait for a connection.
const LIMIT: Duration = Duration::from_secs(5);

/// Begins a transaction whose statements are planned for their values, each time. The tables are nearly empty at one moment and long at the next.
const BEGIN: &str = "BEGIN; SET LOCAL plan_cache_mode TO force_custom_plan; SET LOCAL jit TO off";

/// The store's connections.
#[derive(Debug, Clone)]
pub struct Connections {
    /// The pool; few connections are used.
    pub pool: PgPool,
    /// The server's commits that were not answered.
    pub commits: Arc<Commits>,
}

/// Runs statements that only read, within [`LIMIT`]. After a failure or a timeout the connection is closed.
pub(super) async fn read<T>(
    connections: &Connections,
    run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, OutboxError> {
    exchange(&connections.pool, None, run).await
}

/// Begins a transaction of these tables. See [`BEGIN`].
pub(super) async fn begin(conn: &mut PgConnection) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    conn.begin_with(BEGIN).await
}

/// The same with statements that may change something.
pub(super) async fn change<T>(
    connections: &Connections,
    run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, OutboxError> {
    exchange(&connections.pool, Some(&connections.commits), run).await
}

async fn exchange<T>(
    pool: &PgPool,
    commits: Option<&Commits>,
    run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, OutboxError> {
    let all = async {
        let mut lease = ConnectionLease { conn: pool.acquire().await?, succeeded: false };
        let result = match commits {
            Some(commits) => commits.change(&mut lease.conn, run).await,
            None => run(&mut lease.conn).await,
        };
        lease.succeeded = result.is_ok();
        result
    };
    let late = |_| Err(OutboxError(format!("no answer within {} s", LIMIT.as_secs())));
    timeout(LIMIT, all).await.map_or_else(late, |result| result.map_err(|error| OutboxError(describe(&error))))
}

/// A connection that is returned to the pool only after a success.
struct ConnectionLease {
    conn: PoolConnection<Postgres>,
    succeeded: bool,
}

impl Drop for ConnectionLease {
    fn drop(&mut self) {
        if !self.succeeded {
            self.conn.close_on_drop();
        }
    }
}
