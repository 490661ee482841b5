//! The series of lists that have no layout yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sqlx::PgConnection;
use uuid::Uuid;

use super::caps::Caps;
use super::ids::{self, SeriesKey};
use super::{LayoutKey, Wanted, key, terms};
use crate::store::postgres::identity::{self, code_of};
use crate::store::postgres::timestamp::Timestamp;
use crate::store::postgres::writer::blocks::Blocks;
use crate::store::postgres::writer::context::{BLOCK, WriterContext};
use crate::store::postgres::writer::failure::GroupFailure;
use crate::store::postgres::writer::group::{Expired, Group};
use crate::store::postgres::writer::layouts::{Layout, NO_SERIES};
use crate::store::postgres::writer::queue::QueuedBatch;
use crate::store::postgres::writer::samples;
use crate::store::postgres::writer::sources::HeldSources;

/// A series that has a row.
#[derive(Clone, Copy)]
struct Found {
    id: i32,
    /// Whether it is out of the newest state.
    expired: bool,
}

/// Finds the series of the lists that have no layout, makes those live that are not, and the layouts of lists that repeat. Batches that would
/// exceed a cap get their outcome.
pub(super) async fn resolve(
    context: &WriterContext,
    conn: &mut PgConnection,
    group: &mut Group<'_>,
    held: &HeldSources,
    wanted: &mut BTreeMap<LayoutKey, Wanted>,
) -> Result<(), GroupFailure> {
    let batches = group.batches;
    // In the order of arrival, which decides who still gets in at a cap.
    let mut missing: Vec<(LayoutKey, &mut Wanted)> =
        wanted.iter_mut().filter(|(_, one)| one.found.is_none()).map(|(key, one)| (*key, one)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_by_key(|(_, one)| one.places.first().copied());
    let all: BTreeSet<SeriesKey<'_>> = missing.iter().flat_map(|(key, one)| series_of(batches, *key, one)).collect();
    let mut there = find(conn, &all).await?;

    let not_live: BTreeSet<SeriesKey<'_>> = all.into_iter().filter(|series| there.get(series).is_none_or(|found| found.expired)).collect();
    if !not_live.is_empty() {
        let counts = held.values().map(|source| (source.id, usize::try_from(source.series).unwrap_or(0)));
        let mut caps = Caps::lock(context.limits, conn, counts.collect()).await?;
        let mut admitted = BTreeSet::new();
        for (key, one) in &missing {
            let needed: BTreeSet<_> = series_of(batches, *key, one).into_iter().filter(|series| not_live.contains(series)).collect();
            let mut fresh: Vec<_> = needed.difference(&admitted).copied().collect();
            if one.of_samples {
                // As many as there is room for: the samples of the others are refused.
                fresh.truncate(caps.room());
            }
            match caps.take(key.0, fresh.len(), one.of_samples) {
                Ok(()) => {
                    admitted.extend(fresh);
                    if !needed.is_empty() {
                        group.made.extend(&one.places);
                    }
                }
                Err(full) => {
                    for place in &one.places {
                        group.outcomes[*place] = Some(Err(full.refusal()));
                    }
                }
            }
        }
        let (back, new): (BTreeSet<_>, BTreeSet<_>) = admitted.into_iter().partition(|series| there.contains_key(series));
        let back: BTreeMap<i32, SeriesKey<'_>> = back.into_iter().map(|series| (there[&series].id, series)).collect();
        group.back_series.extend(bring_back(conn, &back).await?);
        let mut next = held.values().map(|source| (source.id, source.next_series)).collect();
        let made = ids::give(conn, &new, &mut next).await?;
        make(conn, &made).await?;
        caps.write(conn, &next).await?;
        for (id, series) in back.into_iter().chain(made) {
            group.made_series.insert(id);
            group.made_blocks.insert(id / BLOCK, series.0);
            there.insert(series, Found { id, expired: false });
        }
    }

    missing.retain(|(_, one)| one.places.first().is_some_and(|place| group.outcomes[*place].is_none()));
    let mut repeating = BTreeMap::new();
    for (key, one) in missing {
        let id_of = |series: &SeriesKey<'_>| {
            let live = there.get(series).filter(|found| !found.expired).map(|found| found.id);
            live.or(one.of_samples.then_some(NO_SERIES))
        };
        let series_ids: Option<Vec<i32>> = series_of(batches, key, one).iter().map(id_of).collect();
        let series_ids = series_ids.ok_or(GroupFailure::Stale)?;
        if one.of_samples && series_ids.iter().all(|id| *id == NO_SERIES) {
            for place in &one.places {
                group.outcomes[*place] = Some(Ok(samples::refused_for_series(&batches[*place])));
            }
        } else if one.repeats {
            repeating.insert(key, (series_ids, one));
        } else {
            one.found = Some(Layout { id: None, source_id: key.0, last_day: one.day, series_ids: series_ids.into() });
        }
    }
    make_layouts(conn, repeating).await
}

/// The series of a list, in the order of its metrics.
fn series_of<'a>(batches: &'a [QueuedBatch], key: LayoutKey, wanted: &Wanted) -> Vec<SeriesKey<'a>> {
    let metrics = wanted.places.first().map(|place| &batches[*place].batch.metrics);
    metrics.into_iter().flatten().map(|metric| (key.0, metric.id, code_of(metric.kind()))).collect()
}

/// Which of these series there are.
async fn find<'a>(conn: &mut PgConnection, all: &BTreeSet<SeriesKey<'a>>) -> Result<HashMap<SeriesKey<'a>, Found>, GroupFailure> {
    let order: Vec<SeriesKey<'_>> = all.iter().copied().collect();
    let source_ids: Vec<i32> = order.iter().map(|series| series.0).collect();
    let identities: Vec<Uuid> = order.iter().map(|(_, id, kind)| identity::of_series(*kind, id)).collect();
    let rows = sqlx::query!(
        r#"SELECT asked.place AS "place!", series.id, expired.series_id IS NOT NULL AS "expired!"
        FROM unnest($1::integer[], $2::uuid[]) WITH ORDINALITY AS asked (source_id, identity, place)
        JOIN series ON series.identity = asked.identity AND series.source_id = asked.source_id
        LEFT JOIN expired_series AS expired ON expired.series_id = series.id"#,
        &source_ids,
        &identities,
    )
    .fetch_all(conn)
    .await?;
    let mut found = HashMap::with_capacity(all.len());
    for row in rows {
        let at = usize::try_from(row.place - 1).map_err(|_| GroupFailure::Stale)?;
        found.insert(order[at], Found { id: row.id, expired: row.expired });
    }
    Ok(found)
}

/// Makes expired series live again; says what was known of each.
async fn bring_back(conn: &mut PgConnection, back: &BTreeMap<i32, SeriesKey<'_>>) -> Result<Vec<(i32, Expired)>, GroupFailure> {
    if back.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i32> = back.keys().copied().collect();
    let statement = "DELETE FROM expired_series WHERE series_id = ANY($1) RETURNING series_id, at, reported_at";
    let expired: Vec<(i32, Timestamp, Option<Timestamp>)> = sqlx::query_as(statement).bind(&ids).fetch_all(conn).await?;
    // Where one is missing, the series was removed a moment ago.
    if expired.len() != ids.len() {
        return Err(GroupFailure::Stale);
    }
    Ok(expired.into_iter().map(|(id, at, reported_at)| (id, Expired { at, reported_at })).collect())
}

/// Expires the series again that were brought back for samples which are all stored already: nothing sets them in this transaction, which holds their
/// sources and the count of all series. Without a slot in latest_blocks they would be neither live nor expired, and whoever names them would fail.
pub(in crate::store::postgres::writer) async fn expire_again(
    conn: &mut PgConnection,
    group: &mut Group<'_>,
    blocks: &Blocks,
) -> Result<(), GroupFailure> {
    let unset = group.back_series.iter().filter(|(id, _)| blocks.newest(**id).is_none());
    let (ids, expired): (Vec<i32>, Vec<Expired>) = unset.map(|(id, expired)| (*id, *expired)).unzip();
    if ids.is_empty() {
        return Ok(());
    }
    let (ats, reported): (Vec<Timestamp>, Vec<Option<Timestamp>>) = expired.iter().map(|one| (one.at, one.reported_at)).unzip();
    let statement = "INSERT INTO expired_series (series_id, at, reported_at)
        SELECT id, at, reported_at FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[]) AS gone (id, at, reported_at)";
    sqlx::query(statement).bind(&ids).bind(&ats).bind(&reported).execute(&mut *conn).await?;
    let statement = "UPDATE sources SET series = series - gone.n
        FROM (SELECT source_id, count(*) AS n FROM series WHERE id = ANY($1) GROUP BY source_id) AS gone WHERE sources.id = gone.source_id";
    sqlx::query(statement).bind(&ids).execute(&mut *conn).await?;
    sqlx::query("UPDATE series_total SET series = series - cardinality($1::integer[])").bind(&ids).execute(conn).await?;
    // They are not to be remembered as live.
    for layout in group.layouts.iter_mut().flatten().filter(|layout| layout.series_ids.iter().any(|id| ids.binary_search(id).is_ok())) {
        let series_ids = layout.series_ids.iter().map(|id| if ids.binary_search(id).is_ok() { NO_SERIES } else { *id }).collect();
        *layout = Arc::new(Layout { id: layout.id, source_id: layout.source_id, last_day: layout.last_day, series_ids });
    }
    Ok(())
}

/// Makes series. Their newest state comes when the batches are folded.
async fn make(conn: &mut PgConnection, new: &[(i32, SeriesKey<'_>)]) -> Result<(), GroupFailure> {
    if new.is_empty() {
        return Ok(());
    }
    let terms = terms::of(conn, new.iter().map(|(_, series)| series.1)).await?;
    let (mut ids, mut source_ids, mut kinds, mut identities, mut metrics) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut flat, mut firsts, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
    let place = |at: usize| i32::try_from(at).map_err(|_| GroupFailure::Stale);
    for (id, (source_id, metric, kind)) in new {
        ids.push(*id);
        source_ids.push(*source_id);
        kinds.push(*kind);
        identities.push(identity::of_series(*kind, metric));
        metrics.push(*metric);
        firsts.push(place(flat.len() + 1)?);
        flat.extend_from_slice(terms.get(metric).ok_or(GroupFailure::Stale)?);
        lasts.push(place(flat.len())?);
    }
    sqlx::query!(
        "INSERT INTO series (id, source_id, kind, identity, terms, metric)
        SELECT id, source_id, kind, identity, ($6::integer[])[first:last], metric
        FROM unnest($1::integer[], $2::integer[], $3::smallint[], $4::uuid[], $5::text[], $7::integer[], $8::integer[])
            AS new (id, source_id, kind, identity, metric, first, last)",
        &ids,
        &source_ids,
        &kinds,
        &identities,
        &metrics as &[&str],
        &flat,
        &firsts,
        &lasts,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes layouts, sorted by source and digest.
async fn make_layouts(conn: &mut PgConnection, rows: BTreeMap<LayoutKey, (Vec<i32>, &mut Wanted)>) -> Result<(), GroupFailure> {
    if rows.is_empty() {
        return Ok(());
    }
    let other_series = rows.iter().filter(|(_, (series_ids, one))| one.not_live.as_ref().is_some_and(|old| old != series_ids));
    set_aside(conn, other_series.map(|(key, _)| key)).await?;
    let source_ids: Vec<i32> = rows.keys().map(|(source_id, _)| *source_id).collect();
    let digests: Vec<&[u8]> = rows.keys().map(|(_, digest)| &digest[..]).collect();
    let days: Vec<i32> = rows.values().map(|(_, one)| one.day).collect();
    let place = |at: usize| i32::try_from(at).map_err(|_| GroupFailure::Stale);
    let (mut flat, mut firsts, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
    for (series_ids, _) in rows.values() {
        firsts.push(place(flat.len() + 1)?);
        flat.extend_from_slice(series_ids);
        lasts.push(place(flat.len())?);
    }
    let made = sqlx::query!(
        r#"INSERT INTO layouts (source_id, digest, series_ids, last_day)
        SELECT source_id, digest, ($3::integer[])[first:last], date '1970-01-01' + day
        FROM unnest($1::integer[], $2::bytea[], $4::integer[], $5::integer[], $6::integer[]) AS new (source_id, digest, first, last, day)
        ON CONFLICT (source_id, digest) DO UPDATE SET last_day = greatest(layouts.last_day, excluded.last_day)
        RETURNING id, source_id, digest, last_day - date '1970-01-01' AS "last_day!""#,
        &source_ids,
        &digests as &[&[u8]],
        &flat,
        &firsts,
        &lasts,
        &days,
    )
    .fetch_all(conn)
    .await?;
    let mut rows = rows;
    for row in made {
        let (series_ids, one) = rows.remove(&key(row.source_id, &row.digest)?).ok_or(GroupFailure::Stale)?;
        let series_ids = series_ids.into();
        one.found = Some(Layout { id: Some(row.id), source_id: row.source_id, last_day: row.last_day, series_ids });
    }
    Ok(())
}

/// Gives layouts another digest, so that new ones can take their place. The frames that name them keep their series: a layout never changes, and readers
/// remember those that they have read.
async fn set_aside(conn: &mut PgConnection, layouts: impl Iterator<Item = &LayoutKey>) -> Result<(), GroupFailure> {
    let (source_ids, digests): (Vec<i32>, Vec<&[u8]>) = layouts.map(|(source_id, digest)| (*source_id, &digest[..])).unzip();
    if source_ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE layouts SET digest = sha256(layouts.digest || int4send(layouts.id)) FROM unnest($1::integer[], $2::bytea[]) AS gone (source_id, digest)
        WHERE layouts.source_id = gone.source_id AND layouts.digest = gone.digest",
        &source_ids,
        &digests as &[&[u8]],
    )
    .execute(conn)
    .await?;
    Ok(())
}
