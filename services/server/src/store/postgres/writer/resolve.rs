//! Finds the series of batches whose layout this process does not know, and makes the sources, series and layouts that are new, while
//! the caps allow it. All for a whole group at once, under the locks of its sources.

mod caps;
mod ids;
mod series;
mod terms;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use golectra_protocol::Metrics;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

pub(super) use self::series::expire_again;
use super::context::WriterContext;
use super::failure::GroupFailure;
use super::frames;
use super::group::Group;
use super::layouts::Layout;
use super::sources::{self, HeldSource};
use crate::store::postgres::identity::code_of;
use crate::store::postgres::sealed;

/// A source's row and the digest of kinds and ids.
type LayoutKey = (i32, [u8; 32]);

/// The batches of the group that share a list of series, and what is known of it.
struct Wanted {
    /// Their places, in order.
    places: Vec<usize>,
    /// The latest of their days.
    day: i32,
    /// Whether the list came before, or comes more than once in this group: then it gets a layout.
    repeats: bool,
    /// Whether these are samples that are stored once for each time.
    of_samples: bool,
    found: Option<Layout>,
    /// The series of its layout, if some of them are not live.
    not_live: Option<Vec<i32>>,
}

/// What tells layouts of one source apart: SHA-256 over each metric's kind, length and id.
///
/// Lists of samples that are stored once for each time are apart: they may name a series more than once, and get no layout.
fn layout_digest(metrics: &Metrics, of_samples: bool) -> [u8; 32] {
    let mut hasher = Sha256::new();
    if of_samples {
        hasher.update(b"samples");
    }
    for metric in metrics {
        hasher.update(code_of(metric.kind()).to_be_bytes());
        hasher.update((metric.id.len() as u64).to_be_bytes());
        hasher.update(metric.id);
    }
    hasher.finalize().into()
}

/// Gives these batches their layout, or their outcome: a repeat makes no series and meets no cap.
pub(super) async fn layouts(
    context: &WriterContext,
    conn: &mut PgConnection,
    group: &mut Group<'_>,
    unresolved: &[usize],
) -> Result<(), GroupFailure> {
    let held = sources::hold(conn, group, unresolved).await?;
    let source_of = |group: &Group<'_>, place: usize| held.get(group.batches[place].batch.source.as_str()).ok_or(GroupFailure::Stale);

    let mut old = Vec::new();
    for place in unresolved {
        let source = source_of(group, *place)?;
        if !source.made {
            old.push((*place, &group.batches[*place], source.id));
        }
    }
    for (place, outcome) in frames::find(conn, old.into_iter()).await? {
        group.outcomes[place] = Some(outcome);
    }
    let latest = context.clock.latest_unix_millis();
    let mut late = Vec::new();
    for place in unresolved.iter().copied().filter(|place| group.outcomes[*place].is_none()) {
        late.extend(group.batches[place].asked(place, source_of(group, place)?.id, latest));
    }
    for (place, outcome) in sealed::find(conn, &late).await? {
        group.outcomes[place] = Some(outcome);
    }

    let mut wanted: BTreeMap<LayoutKey, Wanted> = BTreeMap::new();
    for place in unresolved.iter().copied().filter(|place| group.outcomes[*place].is_none()) {
        let queued = &group.batches[place];
        let of_samples = queued.samples.is_some();
        let key = (source_of(group, place)?.id, layout_digest(&queued.batch.metrics, of_samples));
        let repeats = group.list_known[place] && !of_samples;
        let new = Wanted { places: Vec::new(), day: queued.day, repeats, of_samples, found: None, not_live: None };
        let one = wanted.entry(key).or_insert(new);
        one.repeats |= !one.places.is_empty() && !of_samples;
        one.places.push(place);
        one.day = one.day.max(queued.day);
    }
    find(conn, &mut wanted).await?;
    series::resolve(context, conn, group, &held, &mut wanted).await?;
    raise_days(conn, &mut wanted).await?;

    let by_id: HashMap<i32, &HeldSource> = held.values().map(|source| (source.id, source)).collect();
    for one in wanted.into_values() {
        let Some(layout) = one.found.map(Arc::new) else { continue };
        let made = by_id.get(&layout.source_id).is_some_and(|source| source.made);
        for place in one.places {
            if made {
                group.made.insert(place);
            }
            group.layouts[place] = Some(Arc::clone(&layout));
        }
    }
    sources::release(conn, group, &held, unresolved, &context.lifetimes).await
}

/// Looks up layouts whose series are all live.
async fn find(conn: &mut PgConnection, wanted: &mut BTreeMap<LayoutKey, Wanted>) -> Result<(), GroupFailure> {
    if wanted.is_empty() {
        return Ok(());
    }
    let source_ids: Vec<i32> = wanted.keys().map(|(source_id, _)| *source_id).collect();
    let digests: Vec<&[u8]> = wanted.keys().map(|(_, digest)| &digest[..]).collect();
    let rows = sqlx::query!(
        r#"SELECT layouts.id, layouts.source_id, layouts.digest, layouts.series_ids, layouts.last_day - date '1970-01-01' AS "last_day!",
            NOT EXISTS (
                SELECT FROM unnest(layouts.series_ids) AS of_layout (id) LEFT JOIN series ON series.id = of_layout.id
                WHERE series.id IS NULL OR EXISTS (SELECT FROM expired_series WHERE series_id = of_layout.id)
            ) AS "live!"
        FROM unnest($1::integer[], $2::bytea[]) AS asked (source_id, digest)
        JOIN layouts ON layouts.source_id = asked.source_id AND layouts.digest = asked.digest"#,
        &source_ids,
        &digests as &[&[u8]],
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let one = wanted.get_mut(&key(row.source_id, &row.digest)?).ok_or(GroupFailure::Stale)?;
        // Where some expired, they are brought back; where some were removed, they come back under new numbers.
        if row.live {
            let series_ids = row.series_ids.into();
            one.found = Some(Layout { id: Some(row.id), source_id: row.source_id, last_day: row.last_day, series_ids });
        } else {
            one.not_live = Some(row.series_ids);
        }
    }
    Ok(())
}

fn key(source_id: i32, digest: &[u8]) -> Result<LayoutKey, GroupFailure> {
    Ok((source_id, digest.try_into().map_err(|_| GroupFailure::Stale)?))
}

/// Makes layouts stand for the days of their batches, or they would be dropped too early.
async fn raise_days(conn: &mut PgConnection, wanted: &mut BTreeMap<LayoutKey, Wanted>) -> Result<(), GroupFailure> {
    let mut late: Vec<(i32, i32)> = Vec::new();
    for one in wanted.values_mut() {
        if let Some(layout) = one.found.as_mut().filter(|layout| layout.last_day < one.day)
            && let Some(id) = layout.id
        {
            layout.last_day = one.day;
            late.push((id, one.day));
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
    // Where a row is missing, it was dropped a moment ago.
    if raised == ids.len() as u64 { Ok(()) } else { Err(GroupFailure::Stale) }
}
