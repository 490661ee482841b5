//! What senders say about metrics. A server remembers what it wrote, since senders say the same again and again.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use golectra_protocol::remote_write::{Metadata, MetadataKind};
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::identity;
use crate::store::metadata::shortened;

/// How many rows the table may have; what is new is not kept beyond.
const MAX_ROWS: i64 = 100_000;
/// How many bytes of texts the table may have: as much as a server's memory keeps without a database.
const MAX_BYTES: i64 = 16 << 20;
/// How many rows a server remembers.
const MAX_REMEMBERED: usize = 100_000;
/// After this time what is said is written again, so that it is seen to be still said.
const WRITTEN_AGAIN_AFTER: Duration = Duration::from_hours(12);

/// What this server wrote lately.
#[derive(Default)]
pub(super) struct KnownMetadata {
    hasher: RandomState,
    written: Mutex<Written>,
}

struct Written {
    hashes: HashSet<u64>,
    since: Instant,
}

impl Default for Written {
    fn default() -> Self {
        Self { hashes: HashSet::new(), since: Instant::now() }
    }
}

impl KnownMetadata {
    /// What was not written lately, as it is kept.
    pub(super) fn unknown(&self, metadata: Vec<Metadata>) -> Vec<Metadata> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.since.elapsed() > WRITTEN_AGAIN_AFTER || written.hashes.len() > MAX_REMEMBERED {
            *written = Written::default();
        }
        let new = metadata.into_iter().map(shortened).filter(|one| !written.hashes.contains(&self.hasher.hash_one(one)));
        let mut new: Vec<Metadata> = new.collect();
        new.sort_unstable();
        new.dedup();
        new
    }

    /// These are written.
    pub(super) fn remember(&self, metadata: &[Metadata]) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.hashes.extend(metadata.iter().map(|one| self.hasher.hash_one(one)));
    }
}

/// Writes what is said, and removes what nobody has said for a week.
pub(super) async fn write(conn: &mut PgConnection, metadata: &[Metadata]) -> Result<(), sqlx::Error> {
    // In one order, so that servers that write the same do not wait for each other crosswise.
    let mut rows: Vec<(Uuid, &Metadata)> = metadata.iter().map(|one| (identity::of_metadata(one), one)).collect();
    rows.sort_unstable_by_key(|(digest, _)| *digest);
    let digests: Vec<Uuid> = rows.iter().map(|(digest, _)| *digest).collect();
    let names: Vec<&str> = rows.iter().map(|(_, one)| one.name.as_str()).collect();
    let types: Vec<&str> = rows.iter().map(|(_, one)| one.kind.as_str()).collect();
    let helps: Vec<&str> = rows.iter().map(|(_, one)| one.help.as_str()).collect();
    let units: Vec<&str> = rows.iter().map(|(_, one)| one.unit.as_str()).collect();
    sqlx::query!("DELETE FROM metric_metadata WHERE said_at < now() - interval '7 days'").execute(&mut *conn).await?;
    // What is known is written again in any case; of what is new as much as there is room for.
    sqlx::query(
        "INSERT INTO metric_metadata (digest, name, type, help, unit, said_at)
        SELECT digest, name, type, help, unit, now()
        FROM (
            SELECT said.*, known.digest IS NOT NULL AS is_known,
                count(*) FILTER (WHERE known.digest IS NULL) OVER up_to_this AS new_rows,
                sum(octet_length(said.name) + octet_length(said.help) + octet_length(said.unit)) FILTER (WHERE known.digest IS NULL)
                    OVER up_to_this AS new_bytes
            FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) AS said (digest, name, type, help, unit)
            LEFT JOIN metric_metadata AS known ON known.digest = said.digest
            WINDOW up_to_this AS (ORDER BY said.digest)
        ) AS said,
        (
            SELECT count(*) AS rows, coalesce(sum(octet_length(name) + octet_length(help) + octet_length(unit)), 0) AS bytes
            FROM metric_metadata
        ) AS held
        WHERE is_known OR (held.rows + new_rows <= $6 AND held.bytes + new_bytes <= $7)
        ORDER BY digest
        ON CONFLICT (digest) DO UPDATE SET said_at = excluded.said_at",
    )
    .bind(digests)
    .bind(names)
    .bind(types)
    .bind(helps)
    .bind(units)
    .bind(MAX_ROWS)
    .bind(MAX_BYTES)
    .execute(conn)
    .await?;
    Ok(())
}

/// See [`crate::store::History::metadata`].
pub(super) async fn read(
    conn: &mut PgConnection,
    metric: Option<&str>,
    limit: usize,
    limit_per_metric: usize,
) -> Result<BTreeMap<String, Vec<Metadata>>, sqlx::Error> {
    // No name has it, and PostgreSQL takes no such text.
    if metric.is_some_and(|metric| metric.contains('\0')) {
        return Ok(BTreeMap::new());
    }
    let as_limit = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"SELECT name AS "name!", type AS "kind!", help AS "help!", unit AS "unit!"
        FROM (
            SELECT name, type, help, unit, dense_rank() OVER (ORDER BY name) AS metric,
                row_number() OVER (PARTITION BY name ORDER BY said_at DESC, digest) AS variant
            FROM metric_metadata WHERE $1::text IS NULL OR (left(name, 256) = left($1, 256) AND name = $1)
        ) AS ranked
        WHERE metric <= $2 AND variant <= $3 ORDER BY name, variant"#,
        metric,
        as_limit(limit),
        as_limit(limit_per_metric),
    )
    .fetch_all(conn)
    .await?;
    let mut all: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
    for row in rows {
        let one = Metadata { name: row.name, kind: MetadataKind::parse(&row.kind), help: row.help, unit: row.unit };
        all.entry(one.name.clone()).or_default().push(one);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestDatabase;
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_text_is_kept_than_there_is_room_for() {
        let Some(database) = TestDatabase::create().await else { return };
        let _store = database.store().await;
        let mut conn = database.connect().await;
        let long =
            |number: i32| Metadata { name: format!("m{number}"), kind: MetadataKind::Gauge, help: "x".repeat(4096), unit: String::new() };
        for numbers in [0..3_000, 3_000..6_000, 6_000..6_100] {
            write(&mut conn, &numbers.map(long).collect::<Vec<_>>()).await.unwrap();
        }
        let sum = "SELECT sum(octet_length(name) + octet_length(help) + octet_length(unit)) FROM metric_metadata";
        let bytes: i64 = sqlx::query_scalar(sum).fetch_one(&mut conn).await.unwrap();
        assert!((MAX_BYTES - 8192..=MAX_BYTES).contains(&bytes), "{bytes}");
        // What is there is still said, though there is no room for more.
        sqlx::query("UPDATE metric_metadata SET said_at = now() - interval '6 days'").execute(&mut conn).await.unwrap();
        let held = read(&mut conn, None, usize::MAX, usize::MAX).await.unwrap();
        write(&mut conn, &held.into_values().flatten().collect::<Vec<_>>()).await.unwrap();
        let old = "SELECT count(*) FROM metric_metadata WHERE said_at < now() - interval '1 day'";
        assert_eq!(sqlx::query_scalar::<_, i64>(old).fetch_one(&mut conn).await.unwrap(), 0);
        let first = read(&mut conn, None, 2, 1).await.unwrap();
        assert_eq!(first.keys().collect::<Vec<_>>(), ["m0", "m1"]);
    }
}
