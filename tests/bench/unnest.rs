//! PostgreSQL's own limit: one connection upserting arrays in a loop, with nothing in front of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use golectra_tests::{Database, runtime};
use sqlx::{Connection as _, PgConnection};

/// Values that are made before the clock starts.
const VALUES: usize = 1 << 20;

/// A table of nothing but what an upsert needs, with the free space that in-place updates want.
const TABLE: &str = "CREATE TABLE raw (series_id integer PRIMARY KEY, value double precision NOT NULL) WITH (fillfactor = 50)";

const UPSERT: &str = "INSERT INTO raw (series_id, value) SELECT * FROM unnest($1::integer[], $2::double precision[]) \
                      ON CONFLICT (series_id) DO UPDATE SET value = excluded.value";

/// Metrics a second over this long: each statement upserts `rows` of the `series`, which come in turn, and commits.
pub fn measure(database: &Arc<Database>, rows: usize, series: usize, seconds: f64) -> f64 {
    let url = database.url().to_owned();
    runtime().block_on(async move { upsert_for(&url, rows, series, seconds).await }).expect("PostgreSQL takes plain upserts")
}

async fn upsert_for(url: &str, rows: usize, series: usize, seconds: f64) -> Result<f64, sqlx::Error> {
    let ids: Vec<i32> = (0..).take(series).collect();
    let mut random = Rng::with_seed(7);
    let values: Vec<f64> = (0..VALUES + rows).map(|_| random.f64() * 1000.0).collect();
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(TABLE).execute(&mut connection).await?;
    sqlx::query(UPSERT).bind(&ids).bind(&values[..series]).execute(&mut connection).await?;
    let (start, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut statements = 0;
    while start.elapsed() < limit {
        let first = statements * rows % series;
        // Another place in the values each time: no statement repeats one before it.
        let place = statements * 619 % VALUES;
        sqlx::query(UPSERT).bind(&ids[first..first + rows]).bind(&values[place..place + rows]).execute(&mut connection).await?;
        statements += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of metrics")]
    let metrics = (statements * rows) as f64;
    let rate = metrics / start.elapsed().as_secs_f64();
    connection.close().await?;
    Ok(rate)
}
