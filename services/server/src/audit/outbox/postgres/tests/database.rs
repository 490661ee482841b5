//! A database for one test, dropped after it.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};
use uuid::Uuid;

use crate::store::postgres::testing::end_sessions;

pub struct Database {
    pub pool: PgPool,
    admin: PgConnectOptions,
    name: String,
}

impl Database {
    /// None, with a message, if there is no PostgreSQL to test against; in CI that is a failure.
    pub async fn new() -> Option<Self> {
        let Some(url) = std::env::var("TEST_DATABASE_URL").ok().filter(|url| !url.is_empty()) else {
            assert!(
                std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                "TEST_DATABASE_URL is not set: name a PostgreSQL whose role may create databases"
            );
            println!("skipped: TEST_DATABASE_URL is not set");
            return None;
        };
        let admin: PgConnectOptions = url.parse().expect("TEST_DATABASE_URL is a PostgreSQL address");
        let name = format!("golectra_audit_{}", Uuid::now_v7().simple());
        let mut conn = PgConnection::connect_with(&admin).await.unwrap();
        sqlx::raw_sql(&format!("create database {name}")).execute(&mut conn).await.unwrap();
        let pool = PgPoolOptions::new().max_connections(8).connect_with(admin.clone().database(&name)).await.unwrap();
        let database = Self { pool, admin, name };
        database.run(include_str!("../../../../../migrations/0002_audit.sql")).await;
        database.run(include_str!("../../../../../migrations/0007_claims_in_order.sql")).await;
        Some(database)
    }

    /// Ends all sessions, as they tell at their end what they read, and says how many rows and entries of indexes were read of these tables.
    pub async fn rows_read(&self, tables: &[&str]) -> i64 {
        let mut conn = PgConnection::connect_with(&self.admin.clone().database(&self.name)).await.unwrap();
        // Not by closing the pool: a connection that comes back to it at that moment stays open.
        end_sessions(&mut conn).await;
        let read = "select (select coalesce(sum(seq_tup_read), 0) from pg_stat_user_tables where relname = any($1))::bigint
            + (select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes where relname = any($1))::bigint";
        sqlx::query_scalar(read).bind(tables).fetch_one(&mut conn).await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, drop) = (self.admin.clone(), format!("drop database if exists {} with (force)", self.name));
        // The test's own runtime may be shutting down, so the clean-up has its own.
        let clean = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut conn = PgConnection::connect_with(&admin).await?;
                sqlx::raw_sql(&drop).execute(&mut conn).await?;
                Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
            })
        };
        if !matches!(std::thread::spawn(clean).join(), Ok(Ok(()))) {
            eprintln!("the test's database {} was not dropped", self.name);
        }
    }
}
