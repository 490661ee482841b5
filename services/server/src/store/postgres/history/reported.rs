//! What lists need to know of the series that were reported since a time: their terms, and the sources whose names are instances of such series.
//!
//! Finding them reads all live series. So the numbers that were found are kept for a minute in the cache of the index ([`super::index_cache`]), and whoever
//! asks for the same while they are read waits for that one read. Terms and sources of series that were made since are added to what is kept: the ids of
//! a source's series rise in the order in which they are made, and the source's row has the next one. What is missed until the minute is over is a series
//! that was there but silent since that time, and is reported again or is brought back.
//!
//! The number of a term may be given to another one meanwhile. That is a new one, so a series was made with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt as _};
use sqlx::{Executor as _, PgConnection, Postgres};
use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout};

use super::index_cache::{IndexCache, IndexVersion, Shared};
use super::{ReadTransaction, failed};
use crate::history::labels::WITHOUT_INSTANCE;
use crate::store::history::{First, HistoryError};
use crate::store::postgres::timestamp::Timestamp;

/// How long what was read is kept.
const KEPT: Duration = Duration::from_mins(1);
/// How long a session may do nothing while it waits for another's read. The database ends a transaction in which nothing happens for 5 s.
const IDLE: Duration = Duration::from_secs(2);
/// What a number takes in a query: in its list, and in the message to the database.
const NUMBER_BYTES: usize = 12;
/// What the next id of a source takes where it is kept, roughly.
const NEXT_BYTES: usize = 16;

/// The condition of a series without an instance of its own. In an id's canonical form no other text looks like that label: quotes in values are escaped.
pub(super) const NO_INSTANCE: &str = r#"series.metric !~ '[{,]instance="'"#;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// The terms of the series.
    Terms,
    /// The sources of those that have no instance of their own.
    Sources,
}

/// What it is kept by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) part: Part,
    pub(super) since: Timestamp,
}

/// What was found.
pub(super) struct Reported {
    /// In order, each once.
    numbers: Arc<Vec<i32>>,
    /// The next series of each source that had one.
    next: BTreeMap<i32, i32>,
    /// The version of the index that has no series after those.
    version: IndexVersion,
    read_at: Instant,
}

impl Reported {
    /// When it is too old.
    pub(super) fn kept_until(&self) -> Instant {
        self.read_at + KEPT
    }

    /// What it takes in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.numbers.capacity() * size_of::<i32>() + self.next.len() * NEXT_BYTES
    }

    /// So many numbers, read then.
    #[cfg(test)]
    pub(super) fn of_test(numbers: i32, read_at: Instant) -> Self {
        Self { numbers: Arc::new((0..numbers).collect()), next: BTreeMap::new(), version: IndexVersion::default(), read_at }
    }

    /// Moves the next ids on. Says of which sources there are new series, and the first of each.
    fn advance(next: &mut BTreeMap<i32, i32>, now: Vec<(i32, i32)>) -> (Vec<i32>, Vec<i32>) {
        let mut new = (Vec::new(), Vec::new());
        for (source_id, now) in now {
            let before = next.entry(source_id).or_default();
            // A transaction may be older than what is kept.
            if *before < now {
                new.0.push(source_id);
                new.1.push(*before);
                *before = now;
            }
        }
        new
    }

    /// Adds numbers, each once.
    fn add(&mut self, mut new: Vec<i32>) {
        new.retain(|number| self.numbers.binary_search(number).is_err());
        if !new.is_empty() {
            let numbers = Arc::make_mut(&mut self.numbers);
            numbers.append(&mut new);
            numbers.sort_unstable();
        }
    }
}

/// Numbers of terms or of sources, which a query holds. They are to be released.
pub(super) struct Numbers(Arc<Vec<i32>>);

impl Numbers {
    /// As a statement takes them.
    pub(super) fn list(&self) -> &Vec<i32> {
        &self.0
    }

    /// Gives back what they took.
    pub(super) fn release(self, first: &mut First<'_, String>) {
        first.release(self.0.len() * NUMBER_BYTES);
    }
}

/// The numbers of this part of what was reported since then, in order. They are charged to the list.
pub(super) async fn numbers(
    index: &IndexCache,
    transaction: &mut ReadTransaction,
    key: Key,
    first: &mut First<'_, String>,
) -> Result<Numbers, HistoryError> {
    let shared = index.reported(key, Instant::now());
    let mut kept = lock(&shared, transaction.conn()).await?;
    let (now, version) = (Instant::now(), transaction.index_version);
    let known = kept.as_mut().filter(|known| known.version.server_started == version.server_started && now < known.kept_until());
    index.count(known.is_some());
    let numbers = if let Some(known) = known {
        let before = known.numbers.len();
        first.hold(before * NUMBER_BYTES)?;
        if known.version != version {
            let mut next = known.next.clone();
            let new = read_new(transaction.conn(), key, &mut next, first).await?;
            let read = new.len();
            known.add(new);
            known.next = next;
            known.version = version;
            // What was known before is counted once.
            first.release(read.saturating_sub(known.numbers.len() - before) * NUMBER_BYTES);
        }
        Arc::clone(&known.numbers)
    } else {
        let next = next_series(transaction.conn()).await.map_err(failed)?.into_iter().collect();
        let numbers = Arc::new(read(transaction.conn(), key, first).await?);
        *kept = Some(Reported { numbers: Arc::clone(&numbers), next, version, read_at: now });
        numbers
    };
    if let Some(reported) = kept.as_ref() {
        index.keep(key, &shared, reported);
    }
    Ok(Numbers(numbers))
}

/// Waits until nobody else reads the same.
async fn lock<'a>(shared: &'a Shared, conn: &mut PgConnection) -> Result<MutexGuard<'a, Option<Reported>>, HistoryError> {
    loop {
        if let Ok(kept) = timeout(IDLE, shared.lock()).await {
            return Ok(kept);
        }
        conn.execute("SELECT").await.map_err(failed)?;
    }
}

/// The next id of each source's series.
async fn next_series(conn: &mut PgConnection) -> Result<Vec<(i32, i32)>, sqlx::Error> {
    sqlx::query_as("SELECT id, next_series FROM sources WHERE next_series > 0").fetch_all(conn).await
}

/// Reads the live series, found by their rows of the newest state, and those that expired since. All are read once. The index of series would tell of
/// each term by itself whether it has such a series, but reads all series of a common term for that.
async fn read(conn: &mut PgConnection, key: Key, first: &mut First<'_, String>) -> Result<Vec<i32>, HistoryError> {
    let (live, expired) = (live("$1"), expired("$1"));
    let statement = match key.part {
        Part::Terms => format!(
            "SELECT DISTINCT unnest(terms) FROM (SELECT series.terms FROM {live} UNION ALL SELECT series.terms FROM {expired}) AS series"
        ),
        // Mostly the first live series of a source suffices.
        Part::Sources => format!(
            "SELECT id FROM sources WHERE name <> '' AND name <> ALL($2) AND (
                EXISTS (SELECT FROM {live} AND block.source_id = sources.id AND {NO_INSTANCE})
                OR id IN (SELECT series.source_id FROM {expired} AND {NO_INSTANCE})
            )"
        ),
    };
    let mut query = sqlx::query_scalar::<Postgres, i32>(&statement).bind(key.since);
    if key.part == Part::Sources {
        query = query.bind(WITHOUT_INSTANCE);
    }
    let mut numbers = collect(query.fetch(conn), first).await?;
    numbers.sort_unstable();
    numbers.shrink_to_fit();
    Ok(numbers)
}

/// Collects numbers, each of which is charged to the list.
async fn collect(
    mut rows: impl Stream<Item = Result<i32, sqlx::Error>> + Unpin,
    first: &mut First<'_, String>,
) -> Result<Vec<i32>, HistoryError> {
    let mut numbers = Vec::new();
    while let Some(number) = rows.try_next().await.map_err(failed)? {
        first.hold(NUMBER_BYTES)?;
        numbers.push(number);
    }
    Ok(numbers)
}

/// The same of the live series that were made since, from these ids on, which are moved on.
async fn read_new(
    conn: &mut PgConnection,
    key: Key,
    next: &mut BTreeMap<i32, i32>,
    first: &mut First<'_, String>,
) -> Result<Vec<i32>, HistoryError> {
    let (source_ids, ids) = Reported::advance(next, next_series(&mut *conn).await.map_err(failed)?);
    if source_ids.is_empty() {
        return Ok(Vec::new());
    }
    let new = format!(
        "unnest($2::integer[], $3::integer[]) AS new (source_id, id) CROSS JOIN {}
            AND block.source_id = new.source_id AND block.id >= new.id / 64 AND series.id >= new.id",
        live("$1")
    );
    let statement = match key.part {
        Part::Terms => format!("SELECT DISTINCT unnest(series.terms) FROM {new}"),
        Part::Sources => format!("SELECT DISTINCT series.source_id FROM {new} AND {NO_INSTANCE}"),
    };
    let query = sqlx::query_scalar(&statement).bind(key.since).bind(source_ids).bind(ids);
    collect(query.fetch(conn), first).await
}

/// The live series that were reported since this parameter, as `series`, with the rows of their newest state, as `block`. A condition may follow.
fn live(since: &str) -> String {
    format!(
        "latest_blocks AS block JOIN series ON series.id >= block.id * 64 AND series.id <= block.id * 64 + 63
            WHERE block.used >> (series.id % 64) & 1 = 1 AND coalesce(block.ats[series.id % 64 + 1], block.at) >= {since}"
    )
}

/// The series that expired since this parameter and were reported since, as `series`. A condition may follow.
fn expired(since: &str) -> String {
    format!(
        "expired_series AS expired JOIN series ON series.id = expired.series_id
            WHERE expired.at >= {since} AND (expired.reported_at IS NULL OR expired.reported_at >= {since})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_series_that_were_made_since_are_new() {
        let mut next = BTreeMap::from([(1, 70), (2, 128), (3, 200)]);
        assert_eq!(Reported::advance(&mut next, vec![(1, 70), (2, 130), (3, 199), (4, 257)]), (vec![2, 4], vec![128, 0]));
        assert_eq!(next, BTreeMap::from([(1, 70), (2, 130), (3, 200), (4, 257)]));
    }

    #[test]
    fn numbers_stay_in_order_each_once() {
        let mut reported = Reported::of_test(3, Instant::now());
        let before = Arc::clone(&reported.numbers);
        reported.add(vec![7, 1, 5]);
        assert_eq!(*reported.numbers, [0, 1, 2, 5, 7]);
        assert_eq!(*before, [0, 1, 2], "what a query holds does not change");
    }
}
