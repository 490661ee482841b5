//! Runs statements on a connection of the pool, within a time limit.

use std::fmt::Display;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::time::timeout;

use crate::audit::outbox::OutboxError;

/// The time limit of the statements together, including the wait for a connection.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs statements on a connection, within [`LIMIT`]. After a failure or a timeout the connection is closed.
pub(super) async fn exchange<T>(
    pool: &PgPool,
    run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, OutboxError> {
    let all = async {
        let mut lease = ConnectionLease { conn: pool.acquire().await.map_err(unavailable)?, succeeded: false };
        let result = run(&mut lease.conn).await.map_err(unavailable);
        lease.succeeded = result.is_ok();
        result
    };
    timeout(LIMIT, all).await.unwrap_or_else(|_| Err(OutboxError(format!("no answer within {} s", LIMIT.as_secs()))))
}

fn unavailable(error: impl Display) -> OutboxError {
    OutboxError(error.to_string())
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
