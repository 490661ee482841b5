//! Finds the layouts of batches that this process does not know, and makes the sources, series and layouts that are new, while
//! the caps allow it. All for a whole group at once, under the locks of its sources.

mod ids;
mod series;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use golectra_protocol::Metrics;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::known::Layout;
use super::lane::Failure;
use super::stamp::Stamp;
use super::transaction::Work;
use super::{Shared, code_of, ledger};

/// A source whose row this transaction holds.
struct Held {
    id: i32,
    /// How many series it has.
    series: i32,
    /// The next id of its last block of series; a multiple of a block's size where that is full or there is none.
    next_series: i32,
    /// Whether it was made by this transaction.
    made: bool,
}

/// A source's row and the digest of types and ids.
type LayoutKey = (i32, [u8; 32]);

/// The batches of the group that share a layout, and what is known of it.
struct Asked {
    /// Their places, in order.
    places: Vec<usize>,
    /// The latest of their days.
    day: i32,
    found: Option<Layout>,
}

/// What tells layouts of one source apart: SHA-256 over each metric's type, length and id.
fn layout_digest(metrics: &Metrics) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for metric in metrics {
        hasher.update(code_of(metric.kind()).to_be_bytes());
        hasher.update((metric.id.len() as u64).to_be_bytes());
        hasher.update(metric.id);
    }
    hasher.finalize().into()
}

/// Gives these batches their layout, or their verdict: a repeat makes no series and meets no cap.
pub(super) async fn layouts(shared: &Shared, conn: &mut PgConnection, work: &mut Work<'_>, unresolved: &[usize]) -> Result<(), Failure> {
    let held = hold_sources(conn, work, unresolved).await?;
    let source_of = |work: &Work<'_>, place: usize| held.get(work.group[place].batch.source.as_str()).ok_or(Failure::Stale);

    let mut old = Vec::new();
    for place in unresolved {
        let source = source_of(work, *place)?;
        if !source.made {
            old.push((*place, &work.group[*place], source.id));
        }
    }
    for (place, verdict) in ledger::find(conn, old.into_iter()).await? {
        work.verdicts[place] = Some(verdict);
    }

    let mut asked: BTreeMap<LayoutKey, Asked> = BTreeMap::new();
    for place in unresolved.iter().copied().filter(|place| work.verdicts[*place].is_none()) {
        let pending = &work.group[place];
        let key = (source_of(work, place)?.id, layout_digest(&pending.batch.metrics));
        let one = asked.entry(key).or_insert_with(|| Asked { places: Vec::new(), day: pending.day, found: None });
        one.places.push(place);
        one.day = one.day.max(pending.day);
    }
    find(conn, &mut asked).await?;
    series::resolve(shared, conn, work, &held, &mut asked).await?;
    raise_days(conn, &mut asked).await?;

    let by_id: HashMap<i32, &Held> = held.values().map(|source| (source.id, source)).collect();
    for one in asked.into_values() {
        let Some(layout) = one.found.map(Arc::new) else { continue };
        let made = by_id.get(&layout.source_id).is_some_and(|source| source.made);
        for place in one.places {
            if made {
                work.made.insert(place);
            }
            work.layouts[place] = Some(Arc::clone(&layout));
        }
    }
    finish_sources(conn, work, &held, unresolved).await
}

/// Locks the sources of these batches until the end of the transaction, made where they are new. By name.
async fn hold_sources(conn: &mut PgConnection, work: &Work<'_>, unresolved: &[usize]) -> Result<HashMap<String, Held>, Failure> {
    let mut arrivals: BTreeMap<&str, Stamp> = BTreeMap::new();
    for place in unresolved {
        let pending = &work.group[*place];
        arrivals.entry(pending.batch.source.as_str()).or_insert(pending.arrived);
    }
    let names: Vec<&str> = arrivals.keys().copied().collect();
    // Looked for first: an insert that meets its conflict would use up a number each time.
    let there = sqlx::query_scalar!("SELECT name FROM sources WHERE name = ANY($1)", &names as &[&str]).fetch_all(&mut *conn).await?;
    let mut new = arrivals;
    for name in &there {
        new.remove(name.as_str());
    }
    let mut made = Vec::new();
    if !new.is_empty() {
        let (new, arrivals): (Vec<&str>, Vec<Stamp>) = new.into_iter().unzip();
        made = sqlx::query_scalar!(
            "INSERT INTO sources (name, first_seen, last_seen) SELECT name, at, at FROM unnest($1::text[], $2::timestamptz[]) AS new (name, at)
            ON CONFLICT (name) DO NOTHING RETURNING id",
            &new as &[&str],
            &arrivals as &[Stamp],
        )
        .fetch_all(&mut *conn)
        .await?;
    }
    let rows = sqlx::query!(
        "SELECT id, name, series, next_series FROM sources WHERE name = ANY($1) ORDER BY id FOR NO KEY UPDATE",
        &names as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter().map(|row| {
        let source = Held { id: row.id, series: row.series, next_series: row.next_series, made: made.contains(&row.id) };
        (row.name, source)
    });
    Ok(held.collect())
}

/// Looks up layouts whose series all still exist.
async fn find(conn: &mut PgConnection, asked: &mut BTreeMap<LayoutKey, Asked>) -> Result<(), Failure> {
    if asked.is_empty() {
        return Ok(());
    }
    let source_ids: Vec<i32> = asked.keys().map(|(source_id, _)| *source_id).collect();
    let digests: Vec<&[u8]> = asked.keys().map(|(_, digest)| &digest[..]).collect();
    let rows = sqlx::query!(
        r#"SELECT layouts.id, layouts.source_id, layouts.digest, layouts.series_ids, layouts.last_day - date '1970-01-01' AS "last_day!",
            (SELECT count(*) FROM series WHERE series.id = ANY(layouts.series_ids)) AS "there!"
        FROM unnest($1::integer[], $2::bytea[]) AS asked (source_id, digest)
        JOIN layouts ON layouts.source_id = asked.source_id AND layouts.digest = asked.digest"#,
        &source_ids,
        &digests as &[&[u8]],
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        // Where some were deleted by hand, they come back under new numbers, which take the place of the old.
        if usize::try_from(row.there) == Ok(row.series_ids.len()) {
            let one = asked.get_mut(&key(row.source_id, &row.digest)?).ok_or(Failure::Stale)?;
            let series_ids = row.series_ids.into();
            one.found = Some(Layout { id: row.id, source_id: row.source_id, last_day: row.last_day, series_ids });
        }
    }
    Ok(())
}

fn key(source_id: i32, digest: &[u8]) -> Result<LayoutKey, Failure> {
    Ok((source_id, digest.try_into().map_err(|_| Failure::Stale)?))
}

/// Makes layouts stand for the days of their batches, or retention would drop them too early.
async fn raise_days(conn: &mut PgConnection, asked: &mut BTreeMap<LayoutKey, Asked>) -> Result<(), Failure> {
    let mut late: Vec<(i32, i32)> = Vec::new();
    for one in asked.values_mut() {
        if let Some(layout) = one.found.as_mut().filter(|layout| layout.last_day < one.day) {
            layout.last_day = one.day;
            late.push((layout.id, one.day));
        }
    }
    if late.is_empty() {
        return Ok(());
    }
    late.sort_unstable();
    let (ids, days): (Vec<i32>, Vec<i32>) = late.into_iter().unzip();
    let raised = sqlx::query!(
        "UPDATE layouts SET last_day = greatest(last_day, date '1970-01-01' + late.day) FROM unnest($1::integer[], $2::integer[]) AS late (id, day)
        WHERE layouts.id = late.id",
        &ids,
        &days,
    )
    .execute(conn)
    .await?
    .rows_affected();
    // Retention was faster where a row is missing.
    if raised == ids.len() as u64 { Ok(()) } else { Err(Failure::Stale) }
}

/// Writes down when the sources were seen, and forgets those that were made for batches that are refused.
async fn finish_sources(
    conn: &mut PgConnection,
    work: &Work<'_>,
    held: &HashMap<String, Held>,
    unresolved: &[usize],
) -> Result<(), Failure> {
    let mut seen: BTreeMap<i32, Stamp> = BTreeMap::new();
    for place in unresolved.iter().filter(|place| work.layouts[**place].is_some()) {
        let pending = &work.group[*place];
        if let Some(source) = held.get(pending.batch.source.as_str()) {
            let at = seen.entry(source.id).or_insert(pending.arrived);
            *at = pending.arrived.max(*at);
        }
    }
    let idle: BTreeSet<i32> =
        held.values().filter(|source| source.made && !seen.contains_key(&source.id)).map(|source| source.id).collect();
    if !idle.is_empty() {
        let idle: Vec<i32> = idle.into_iter().collect();
        sqlx::query!("DELETE FROM sources WHERE id = ANY($1)", &idle).execute(&mut *conn).await?;
    }
    if !seen.is_empty() {
        ledger::touch(conn, &seen).await?;
    }
    Ok(())
}
