//! What the suite that both stores share can't see: several servers on one database, the database's own state, and its absence.

mod away;
mod blocks;
mod chunk_cache;
mod clocks;
mod crowd;
mod drops;
mod fill;
mod frame_cache;
mod group;
mod history;
mod hook;
mod lists;
mod queries;
mod samples;
mod schemas;
mod sealing;
mod sessions;
mod terms;
mod turnover;
mod upgrade;
mod year;

use super::testing::{TestDatabase, cache, config, config_with_default_limits, maintenance, ready, sealer};
use sqlx::PgConnection;

use super::*;
use crate::store::conformance::{Made, Maintain, Setup};

async fn make(setup: Setup) -> Option<Made> {
    let database = TestDatabase::create().await?;
    let config = PostgresConfig { lifetimes: setup.lifetimes, limits: setup.limits, ..config(database.dsn()) };
    let store = PostgresStore::open(config, setup.clock).unwrap();
    assert!(ready(&store).await);
    let kept = Arc::clone(&store);
    let maintain: Maintain = Box::new(move || {
        let store = Arc::clone(&kept);
        Box::pin(async move {
            store.writers.touch().await;
            sealer(&store).round().await.unwrap();
            maintenance(&store).round().await.unwrap();
        })
    });
    Some(Made { store, maintain, guard: Box::new(database) })
}

mod conformance {
    crate::store::conformance::conformance_suite!(super::make);
}
