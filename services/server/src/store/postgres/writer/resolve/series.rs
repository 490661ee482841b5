//! The series of layouts that are new.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::PgConnection;

use super::{Asked, Held, LayoutKey, ids, key};
use crate::store::postgres::StoreError;
use crate::store::postgres::writer::known::Layout;
use crate::store::postgres::writer::lane::Failure;
use crate::store::postgres::writer::queue::Pending;
use crate::store::postgres::writer::transaction::Work;
use crate::store::postgres::writer::{Shared, code_of};

/// A source, an id and a type.
pub(super) type SeriesKey<'a> = (i32, &'a str, i16);

/// Finds the series of the layouts that were not found, makes those that are new, and the layouts. Batches that would exceed a
/// cap get their verdict.
pub(super) async fn resolve(
    shared: &Shared,
    conn: &mut PgConnection,
    work: &mut Work<'_>,
    held: &HashMap<String, Held>,
    asked: &mut BTreeMap<LayoutKey, Asked>,
) -> Result<(), Failure> {
    let group = work.group;
    // In the order of arrival, which decides who still gets in at a cap.
    let mut missing: Vec<(LayoutKey, &mut Asked)> =
        asked.iter_mut().filter(|(_, one)| one.found.is_none()).map(|(key, one)| (*key, one)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_by_key(|(_, one)| one.places.first().copied());
    let all: BTreeSet<SeriesKey<'_>> = missing.iter().flat_map(|(key, one)| wanted(group, *key, one)).collect();
    let mut there = find(conn, &all).await?;

    let new: BTreeSet<SeriesKey<'_>> = all.into_iter().filter(|series| !there.contains_key(series)).collect();
    if !new.is_empty() {
        let counts = held.values().map(|source| (source.id, usize::try_from(source.series).unwrap_or(0)));
        let mut caps = Caps::lock(shared, conn, counts.collect()).await?;
        let mut made = BTreeSet::new();
        for (key, one) in &missing {
            let needed: Vec<_> = wanted(group, *key, one).into_iter().filter(|series| new.contains(series)).collect();
            let fresh: Vec<_> = needed.iter().filter(|series| !made.contains(*series)).copied().collect();
            match caps.take(key.0, fresh.len()) {
                Ok(()) => {
                    made.extend(fresh);
                    if !needed.is_empty() {
                        work.made.extend(&one.places);
                    }
                }
                Err(refusal) => {
                    for place in &one.places {
                        work.verdicts[*place] = Some(Err(refusal.refusal()));
                    }
                }
            }
        }
        let mut next = held.values().map(|source| (source.id, source.next_series)).collect();
        let made = ids::give(conn, &made, &mut next).await?;
        make(conn, &made).await?;
        caps.write(conn, &next).await?;
        work.made_series = made.iter().map(|(id, _)| *id).collect();
        work.made_series.sort_unstable();
        there.extend(made.into_iter().map(|(id, series)| (series, id)));
    }

    missing.retain(|(_, one)| one.places.first().is_some_and(|place| work.verdicts[*place].is_none()));
    let mut rows = BTreeMap::new();
    for (key, one) in missing {
        let series_ids: Option<Vec<i32>> = wanted(group, key, one).iter().map(|series| there.get(series).copied()).collect();
        rows.insert(key, (series_ids.ok_or(Failure::Stale)?, one));
    }
    make_layouts(conn, rows).await
}

/// The series of a layout, in the order of its metrics.
fn wanted<'a>(group: &'a [Pending], key: LayoutKey, asked: &Asked) -> Vec<SeriesKey<'a>> {
    let metrics = asked.places.first().map(|place| &group[*place].batch.metrics);
    metrics.into_iter().flatten().map(|metric| (key.0, metric.id, code_of(metric.kind()))).collect()
}

/// Which of these series there are.
async fn find<'a>(conn: &mut PgConnection, all: &BTreeSet<SeriesKey<'a>>) -> Result<HashMap<SeriesKey<'a>, i32>, Failure> {
    let (source_ids, names, kinds) = columns(all.iter());
    let rows = sqlx::query!(
        r#"SELECT asked.place AS "place!", series.id
        FROM unnest($1::integer[], $2::text[], $3::smallint[]) WITH ORDINALITY AS asked (source_id, name, kind, place)
        JOIN series ON series.source_id = asked.source_id AND series.name = asked.name AND series.kind = asked.kind"#,
        &source_ids,
        &names as &[&str],
        &kinds,
    )
    .fetch_all(conn)
    .await?;
    let mut ids = HashMap::with_capacity(all.len());
    for row in rows {
        let at = usize::try_from(row.place - 1).map_err(|_| Failure::Stale)?;
        ids.insert((source_ids[at], names[at], kinds[at]), row.id);
    }
    Ok(ids)
}

fn columns<'a: 'b, 'b>(series: impl Iterator<Item = &'b SeriesKey<'a>>) -> (Vec<i32>, Vec<&'a str>, Vec<i16>) {
    let (mut source_ids, mut names, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for (source_id, name, kind) in series {
        source_ids.push(*source_id);
        names.push(*name);
        kinds.push(*kind);
    }
    (source_ids, names, kinds)
}

/// Makes series. Their newest state comes when the batches are folded.
async fn make(conn: &mut PgConnection, new: &[(i32, SeriesKey<'_>)]) -> Result<(), Failure> {
    if new.is_empty() {
        return Ok(());
    }
    let ids: Vec<i32> = new.iter().map(|(id, _)| *id).collect();
    let (source_ids, names, kinds) = columns(new.iter().map(|(_, series)| series));
    sqlx::query!(
        "INSERT INTO series (id, source_id, name, kind) SELECT id, source_id, name, kind
        FROM unnest($1::integer[], $2::integer[], $3::text[], $4::smallint[]) AS new (id, source_id, name, kind)",
        &ids,
        &source_ids,
        &names as &[&str],
        &kinds,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes layouts, sorted by source and digest.
async fn make_layouts(conn: &mut PgConnection, rows: BTreeMap<LayoutKey, (Vec<i32>, &mut Asked)>) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let source_ids: Vec<i32> = rows.keys().map(|(source_id, _)| *source_id).collect();
    let digests: Vec<&[u8]> = rows.keys().map(|(_, digest)| &digest[..]).collect();
    let days: Vec<i32> = rows.values().map(|(_, one)| one.day).collect();
    let place = |at: usize| i32::try_from(at).map_err(|_| Failure::Stale);
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
        ON CONFLICT (source_id, digest) DO UPDATE
            SET series_ids = excluded.series_ids, last_day = greatest(layouts.last_day, excluded.last_day)
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
        let (series_ids, one) = rows.remove(&key(row.source_id, &row.digest)?).ok_or(Failure::Stale)?;
        one.found = Some(Layout { id: row.id, source_id: row.source_id, last_day: row.last_day, series_ids: series_ids.into() });
    }
    Ok(())
}

/// Which cap is met.
#[derive(Clone, Copy)]
enum Full {
    Source(usize),
    Total(usize),
}

impl Full {
    fn refusal(self) -> StoreError {
        match self {
            Self::Source(limit) => StoreError::TooManySeriesOfSource { limit },
            Self::Total(limit) => StoreError::TooManySeries { limit },
        }
    }
}

/// How many series there are. The rows that count them are locked, so both caps are exact.
struct Caps {
    per_source: usize,
    total: usize,
    /// Series by source, as they were and as they will be.
    sources: BTreeMap<i32, usize>,
    all: usize,
    new: BTreeMap<i32, usize>,
}

impl Caps {
    async fn lock(shared: &Shared, conn: &mut PgConnection, sources: BTreeMap<i32, usize>) -> Result<Self, Failure> {
        let all = sqlx::query_scalar!("SELECT series FROM series_total FOR NO KEY UPDATE").fetch_one(conn).await?;
        let all = usize::try_from(all).unwrap_or(0);
        Ok(Self { per_source: shared.limits.per_source, total: shared.limits.total, sources, all, new: BTreeMap::new() })
    }

    /// Takes room for a batch's new series, if there is enough.
    fn take(&mut self, source_id: i32, new: usize) -> Result<(), Full> {
        let of_source = self.sources.entry(source_id).or_default();
        if new > self.per_source.saturating_sub(*of_source) && new > 0 {
            return Err(Full::Source(self.per_source));
        }
        if new > self.total.saturating_sub(self.all) && new > 0 {
            return Err(Full::Total(self.total));
        }
        *of_source += new;
        self.all += new;
        *self.new.entry(source_id).or_default() += new;
        Ok(())
    }

    /// Writes the counts down, and the `next` id of each source.
    async fn write(&self, conn: &mut PgConnection, next: &BTreeMap<i32, i32>) -> Result<(), Failure> {
        let count = |series: usize| i32::try_from(series).map_err(|_| Failure::Stale);
        let (mut ids, mut counts, mut nexts, mut all) = (Vec::new(), Vec::new(), Vec::new(), 0_i64);
        for (id, new) in self.new.iter().filter(|(_, new)| **new > 0) {
            ids.push(*id);
            counts.push(count(*new)?);
            nexts.push(next.get(id).copied().ok_or(Failure::Stale)?);
            all += i64::from(count(*new)?);
        }
        if ids.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "UPDATE sources SET series = series + made.n, next_series = made.next
            FROM unnest($1::integer[], $2::integer[], $3::integer[]) AS made (id, n, next) WHERE sources.id = made.id",
            &ids,
            &counts,
            &nexts,
        )
        .execute(&mut *conn)
        .await?;
        sqlx::query!("UPDATE series_total SET series = series + $1", all).execute(conn).await?;
        Ok(())
    }
}
