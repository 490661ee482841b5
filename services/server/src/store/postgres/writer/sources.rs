//! The rows of sources: who holds them, and when they were seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::PgConnection;

use super::failure::GroupFailure;
use super::group::Group;
use crate::store::Lifetimes;
use crate::store::postgres::timestamp::Timestamp;

/// When a source was seen, over a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    first: Timestamp,
    last: Timestamp,
    /// How much of the time between the two counts as time in which it reported.
    reporting_millis: u64,
}

impl Seen {
    /// Once.
    pub(super) fn at(arrived: Timestamp) -> Self {
        Self { first: arrived, last: arrived, reporting_millis: 0 }
    }

    /// Once more.
    pub(super) fn again(&mut self, arrived: Timestamp, lifetimes: &Lifetimes) {
        self.reporting_millis += arrived.0.saturating_sub(self.last.0).min(lifetimes.longest_gap_millis());
        self.last = self.last.max(arrived);
    }
}

/// Writes down when sources were seen. A source's reporting clock goes on by the time since it was seen last, by another server perhaps.
///
/// Servers differ in their estimate of the database's clock, and their writes come in any order; so the later time stays. A time that is later by more than
/// that was written when the database's clock was ahead: it would hide for as long that the source is silent.
pub(super) async fn touch(conn: &mut PgConnection, seen: &BTreeMap<i32, Seen>, lifetimes: &Lifetimes) -> Result<(), sqlx::Error> {
    let ids: Vec<i32> = seen.keys().copied().collect();
    let firsts: Vec<Timestamp> = seen.values().map(|seen| seen.first).collect();
    let lasts: Vec<Timestamp> = seen.values().map(|seen| seen.last).collect();
    let inside: Vec<i64> = seen.values().map(|seen| i64::try_from(seen.reporting_millis).unwrap_or(i64::MAX)).collect();
    let longest_gap = i64::try_from(lifetimes.longest_gap_millis()).unwrap_or(i64::MAX);
    let statement = "UPDATE sources
        SET last_seen = CASE WHEN last_seen > seen.last + interval '1 minute' THEN seen.last ELSE greatest(last_seen, seen.last) END,
            reporting_millis = reporting_millis + least(
                seen.inside + least(greatest((extract(epoch FROM seen.first - last_seen) * 1000)::bigint, 0), $5),
                greatest((extract(epoch FROM seen.last - last_seen) * 1000)::bigint, 0))
        FROM unnest($1::integer[], $2::timestamptz[], $3::timestamptz[], $4::bigint[]) AS seen (id, first, last, inside)
        WHERE sources.id = seen.id";
    sqlx::query(statement).bind(&ids).bind(&firsts).bind(&lasts).bind(&inside).bind(longest_gap).execute(conn).await?;
    Ok(())
}

/// A source whose row this transaction holds.
pub(super) struct HeldSource {
    pub(super) id: i32,
    /// How many live series it has.
    pub(super) series: i32,
    /// The next id of its last block of series; a multiple of a block's size where that is full or there is none.
    pub(super) next_series: i32,
    /// Whether it was made by this transaction.
    pub(super) made: bool,
    /// Whether it is out of the newest state.
    forgotten: bool,
}

/// The sources of some batches, by name.
pub(super) type HeldSources = HashMap<String, HeldSource>;

/// Locks the sources of these batches until the end of the transaction, made where they are new. By name.
pub(super) async fn hold(conn: &mut PgConnection, group: &Group<'_>, places: &[usize]) -> Result<HeldSources, GroupFailure> {
    let mut arrivals: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for place in places {
        let queued = &group.batches[*place];
        arrivals.entry(queued.batch.source.as_str()).or_insert(queued.arrived);
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
        let (new, arrivals): (Vec<&str>, Vec<Timestamp>) = new.into_iter().unzip();
        made = sqlx::query_scalar!(
            "INSERT INTO sources (name, first_seen, last_seen) SELECT name, at, at FROM unnest($1::text[], $2::timestamptz[]) AS new (name, at)
            ON CONFLICT (name) DO NOTHING RETURNING id",
            &new as &[&str],
            &arrivals as &[Timestamp],
        )
        .fetch_all(&mut *conn)
        .await?;
    }
    let rows = sqlx::query!(
        r#"SELECT id, name, series, next_series, forgotten_at IS NOT NULL AS "forgotten!" FROM sources WHERE name = ANY($1) ORDER BY id
        FOR NO KEY UPDATE"#,
        &names as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter().map(|row| {
        let made = made.contains(&row.id);
        (row.name, HeldSource { id: row.id, series: row.series, next_series: row.next_series, made, forgotten: row.forgotten })
    });
    Ok(held.collect())
}

/// Writes down when the held sources were seen, brings those back that were forgotten, and removes those that were made for batches that are
/// refused.
pub(super) async fn release(
    conn: &mut PgConnection,
    group: &Group<'_>,
    held: &HeldSources,
    places: &[usize],
    lifetimes: &Lifetimes,
) -> Result<(), GroupFailure> {
    let mut seen: BTreeMap<i32, Seen> = BTreeMap::new();
    let mut back: BTreeMap<i32, Timestamp> = BTreeMap::new();
    for place in places.iter().filter(|place| group.layouts[**place].is_some()) {
        let queued = &group.batches[*place];
        if let Some(source) = held.get(queued.batch.source.as_str()) {
            seen.entry(source.id).or_insert_with(|| Seen::at(queued.arrived)).again(queued.arrived, lifetimes);
            if source.forgotten {
                back.entry(source.id).or_insert(queued.arrived);
            }
        }
    }
    let idle: BTreeSet<i32> =
        held.values().filter(|source| source.made && !seen.contains_key(&source.id)).map(|source| source.id).collect();
    if !idle.is_empty() {
        let idle: Vec<i32> = idle.into_iter().collect();
        sqlx::query!("DELETE FROM sources WHERE id = ANY($1)", &idle).execute(&mut *conn).await?;
    }
    if !back.is_empty() {
        let (ids, arrivals): (Vec<i32>, Vec<Timestamp>) = back.into_iter().unzip();
        sqlx::query!(
            "UPDATE sources SET forgotten_at = NULL, first_seen = back.at, last_seen = back.at, mark_reporting_millis = '{}', mark_arrivals = '{}'
            FROM unnest($1::integer[], $2::timestamptz[]) AS back (id, at) WHERE sources.id = back.id",
            &ids,
            &arrivals as &[Timestamp],
        )
        .execute(&mut *conn)
        .await?;
    }
    if !seen.is_empty() {
        touch(conn, &seen, lifetimes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_reports_counts_up_to_the_longest_gap() {
        let lifetimes = Lifetimes::default();
        let mut seen = Seen::at(Timestamp(1_000));
        for at in [2_000, 1_500, 4_000, 4_000 + 100 * lifetimes.longest_gap_millis()] {
            seen.again(Timestamp(at), &lifetimes);
        }
        let last = Timestamp(4_000 + 100 * lifetimes.longest_gap_millis());
        assert_eq!(seen, Seen { first: Timestamp(1_000), last, reporting_millis: 3_000 + lifetimes.longest_gap_millis() });
    }
}
