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
    sqlx::query!(
        "INSERT INTO metric_metadata (digest, name, type, help, unit, said_at)
        SELECT digest, name, type, help, unit, now()
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) AS said (digest, name, type, help, unit)
        WHERE (SELECT count(*) FROM metric_metadata) < $6 OR EXISTS (SELECT FROM metric_metadata AS known WHERE known.digest = said.digest)
        ON CONFLICT (digest) DO UPDATE SET said_at = excluded.said_at",
        &digests,
        &names as &[&str],
        &types as &[&str],
        &helps as &[&str],
        &units as &[&str],
        MAX_ROWS,
    )
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
