//! Connections: how they are opened, what every one of them is told, and when one is not used again.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool, Postgres};

/// How long a call waits for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(1);
/// How long opening a connection outside of the pool may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The locks that servers agree on, beside the number that makes them golectra's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    /// Changing the schema.
    Migrate = 1,
    /// Making a day's partition.
    Partition = 2,
    /// Dropping what is too old.
    Retention = 3,
}

impl Lock {
    /// The first half of every lock's number: "gole".
    pub(super) const SPACE: i32 = 0x676f_6c65;
}

/// A pool that opens connections when they are needed.
pub(super) fn pool(options: &PgConnectOptions, size: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_LIMIT)
        .idle_timeout(Duration::from_mins(10))
        .max_lifetime(Duration::from_mins(30))
        .after_connect(|conn, _| Box::pin(prepare(conn, "6s", "2s")))
        .connect_lazy_with(options.clone())
}

/// A connection of one's own for changes of the schema: statements may take long, but none waits long for a lock, since all
/// writers would wait behind it.
pub(super) async fn open_for_schema(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let connect = async {
        let mut conn = options.connect().await?;
        prepare(&mut conn, "0", "5s").await?;
        Ok(conn)
    };
    tokio::time::timeout(CONNECT_LIMIT, connect).await.unwrap_or_else(|_| Err(timed_out(CONNECT_LIMIT)))
}

/// A writer's connection. Its plans don't depend on how many rows there are or are asked for: rows are met by their index, one
/// by one, in the order of the arrays that ask for them. With other plans two writers could take the same rows in another order
/// and wait for each other.
pub(super) async fn open_for_writing(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let connect = async {
        let mut conn = options.connect().await?;
        prepare(&mut conn, "6s", "2s").await?;
        sqlx::query!(
            "SELECT count(set_config(name, setting, false)) FROM (VALUES
                ('plan_cache_mode', 'force_generic_plan'),
                ('enable_hashjoin', 'off'),
                ('enable_mergejoin', 'off'),
                ('enable_seqscan', 'off'),
                ('jit', 'off')) AS settings (name, setting)"
        )
        .fetch_one(&mut conn)
        .await?;
        Ok(conn)
    };
    tokio::time::timeout(CONNECT_LIMIT, connect).await.unwrap_or_else(|_| Err(timed_out(CONNECT_LIMIT)))
}

/// What a call that took too long is told.
pub(super) fn timed_out(limit: Duration) -> sqlx::Error {
    let text = format!("no answer within {:.1} s", limit.as_secs_f32());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

/// Sets the connection's limits and makes sure that it leads to a primary.
///
/// `statement_timeout` must be longer than the client's own limit on a write: a COMMIT that it ends while it waits for a
/// synchronous replica answers success without one. So the client gives up first, and leaves the outcome to the key. It closes
/// the connection, which the database looks for several times a second (from version 14 on) so that the locks are soon free.
async fn prepare(conn: &mut PgConnection, statement_timeout: &str, lock_timeout: &str) -> Result<(), sqlx::Error> {
    let told = sqlx::query!(
        r#"SELECT pg_is_in_recovery() AS "standby!", count(set_config(name, setting, false)) FROM (VALUES
            ('statement_timeout', $1),
            ('lock_timeout', $2),
            ('idle_in_transaction_session_timeout', '5s'),
            ('client_connection_check_interval', '200ms'),
            ('tcp_keepalives_idle', '10'),
            ('tcp_keepalives_interval', '5'),
            ('tcp_keepalives_count', '3')) AS settings (name, setting)
        WHERE name <> 'client_connection_check_interval' OR current_setting('server_version_num')::integer >= 140000"#,
        statement_timeout,
        lock_timeout,
    )
    .fetch_one(conn)
    .await?;
    if told.standby {
        let text = "the database is a standby, which takes no writes; DATABASE_DSN must lead to the primary";
        return Err(sqlx::Error::Io(std::io::Error::other(text)));
    }
    Ok(())
}

/// A connection out of the pool. It goes back only by [`Lease::give_back`]: after an error, or when the caller gave up in the
/// middle, nobody knows what state it is in, so it is cut.
pub(super) struct Lease(Option<PoolConnection<Postgres>>);

impl Lease {
    /// Waits for a connection.
    pub(super) async fn acquire(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    /// The connection.
    pub(super) fn conn(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("only give_back takes the connection, and it takes the lease too")
    }

    /// Returns it to the pool.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            // Without a goodbye, which could hang as well: the server rolls back when the socket closes.
            drop(conn.detach());
        }
    }
}
