//! PostgreSQL with a standby that takes over when the primary is lost.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{Fault, PostgresCluster, Proxy, until};

const LIMIT: Duration = Duration::from_mins(1);

/// A primary and its synchronous standby: a commit is answered when both have it, and not at all while the standby is away. Clients reach whichever of
/// them is the primary on one port.
pub struct PostgresPair {
    primary: PostgresCluster,
    standby: PostgresCluster,
    clients: Proxy,
    /// From the standby to its primary.
    replication: Proxy,
}

impl PostgresPair {
    /// Creates and starts both. None, with a message, if PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        let primary = PostgresCluster::start()?;
        // A standby has a copy of these settings and of the password. It calls itself by this name where it was given no other.
        let settings = ["ALTER SYSTEM SET synchronous_standby_names = 'walreceiver'", "SELECT pg_reload_conf()"];
        let mut connection = PgConnection::connect(primary.url()).await.expect("PostgreSQL answers");
        for statement in settings {
            connection.execute(statement).await.expect("the superuser may do that");
        }
        let clients = Proxy::start(primary.port()).await;
        let replication = Proxy::start(primary.port()).await;
        let standby = PostgresCluster::standby_of(&primary, replication.port());
        let pair = Self { primary, standby, clients, replication };
        pair.replicates().await;
        Some(pair)
    }

    /// The DSN that leads to the primary.
    pub fn url(&self) -> String {
        self.primary.url_through(self.clients.port())
    }

    /// The present primary without the proxy, as options of sqlx.
    pub fn options(&self) -> PgConnectOptions {
        self.primary.url().parse().expect("a URL")
    }

    /// How often a standby was made a primary.
    pub async fn failovers(&self) -> i64 {
        // The first half of a log file's name is the number of its timeline.
        let query = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint - 1";
        let mut connection = PgConnection::connect_with(&self.options()).await.expect("PostgreSQL answers");
        sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("PostgreSQL answers")
    }

    /// From now on nothing gets to the standby, and so no commit is answered, until the next failover.
    pub fn cut_replication(&self) {
        self.replication.set(Fault::Drop);
    }

    /// The primary is killed and comes back.
    pub fn crash_primary(&self) {
        self.primary.kill_all();
        self.primary.start_after_crash();
    }

    /// The primary is killed for good, and its standby takes over. Returns when another one follows that.
    pub async fn fail_over(&mut self) {
        self.primary.kill_all();
        self.standby.promote();
        self.clients.lead_to(self.standby.port());
        self.replication.lead_to(self.standby.port());
        self.replication.set(Fault::None);
        let standby = PostgresCluster::standby_of(&self.standby, self.replication.port());
        let primary = std::mem::replace(&mut self.standby, standby);
        let lost = std::mem::replace(&mut self.primary, primary);
        self.replicates().await;
        // Nobody knows its port any more. It is started so that it gives back the shared memory that outlived its processes.
        lost.start_after_crash();
    }

    /// Waits until commits are answered.
    async fn replicates(&self) {
        let mut connection = PgConnection::connect_with(&self.options()).await.expect("PostgreSQL answers");
        until("the standby follows", LIMIT, async || {
            let query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            sqlx::query_scalar::<_, i64>(query).fetch_one(&mut connection).await.expect("PostgreSQL answers") == 1
        })
        .await;
    }
}
