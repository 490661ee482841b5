//! Finds series by their names and labels, by an index of the terms that they have.
//!
//! A matcher that only series with the label can match becomes the numbers of the label pairs (or names) that it matches. What can't be said that
//! way, or would be too many, narrows nothing: every series that is found is compared with all matchers once more. Rows are read one by one, so that
//! a search holds the 12 bytes of each candidate and nothing else.

use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use golectra_promql::{METRIC_NAME, Matcher};
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use super::identity;
use crate::history::labels::SOURCE_LABEL;
use crate::store::LatestFilter;

/// A regular expression is compared with at most so many values of its label; where there are more, it narrows nothing.
const MAX_VALUES: i64 = 50_000;
/// A matcher that matches more values than this narrows nothing, unless it is the only one.
const MAX_TERMS: usize = 5_000;

/// A series that may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) source_id: i32,
    pub(super) series_id: i32,
    /// How long its id is.
    pub(super) id_bytes: i32,
}

/// What the index is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// Terms of which a series must have each.
    all: Vec<i32>,
    /// Sets of terms, of which a series must have one each.
    any: Vec<Vec<i32>>,
    /// Series that have this name, or one of these identities.
    name: Option<(Option<i32>, Vec<Uuid>)>,
    /// No series can match.
    nothing: bool,
}

impl Terms {
    /// Whether the index says less than that all series may match.
    pub(super) fn narrow(&self) -> bool {
        self.nothing || self.name.is_some() || !self.all.is_empty() || !self.any.is_empty()
    }

    fn add(&mut self, mut terms: Vec<i32>) {
        match terms.len() {
            0 => self.nothing = true,
            1 => self.all.append(&mut terms),
            _ => self.any.push(terms),
        }
    }
}

/// Looks up the terms of a filter.
pub(super) async fn terms(conn: &mut PgConnection, filter: &LatestFilter) -> Result<Terms, sqlx::Error> {
    let mut terms = Terms::default();
    if let Some(name) = &filter.name {
        // A text is a name, or a whole id of either kind.
        let identities = vec![identity::of_series(0, name), identity::of_series(1, name)];
        terms.name = Some((names(conn, std::slice::from_ref(name)).await?.pop(), identities));
    }
    let mut many = Vec::new();
    // A series may have a label that is called as its source's.
    for matcher in filter.matchers.iter().filter(|matcher| matcher.needs_label() && matcher.name() != SOURCE_LABEL) {
        let found = match (matcher.only_values(), matcher.name()) {
            (Some(values), METRIC_NAME) => Some(names(conn, values).await?),
            (Some(values), key) => Some(pairs(conn, key, values).await?),
            (None, METRIC_NAME) => matching_names(conn, matcher).await?,
            (None, _) => matching_pairs(conn, matcher).await?,
        };
        match found {
            Some(found) if found.len() > MAX_TERMS => many.push(found),
            Some(found) => terms.add(found),
            None => {}
        }
    }
    if !terms.narrow()
        && let Some(least) = many.into_iter().min_by_key(Vec::len)
    {
        terms.add(least);
    }
    Ok(terms)
}

async fn names(conn: &mut PgConnection, names: &[String]) -> Result<Vec<i32>, sqlx::Error> {
    let digests: Vec<Uuid> = names.iter().map(|name| identity::of_text(name)).collect();
    sqlx::query_scalar!("SELECT id FROM metric_names WHERE digest = ANY($1)", &digests).fetch_all(conn).await
}

async fn pairs(conn: &mut PgConnection, key: &str, values: &[String]) -> Result<Vec<i32>, sqlx::Error> {
    let digests: Vec<Uuid> = values.iter().map(|value| identity::of_pair(key, value)).collect();
    sqlx::query_scalar!("SELECT id FROM label_pairs WHERE digest = ANY($1)", &digests).fetch_all(conn).await
}

/// None where there are too many to look at.
async fn matching_names(conn: &mut PgConnection, matcher: &Matcher) -> Result<Option<Vec<i32>>, sqlx::Error> {
    let statement = "SELECT id, name FROM metric_names WHERE starts_with(name, $1) LIMIT $2";
    within_bound(sqlx::query_as(statement).bind(prefix(matcher)).bind(MAX_VALUES + 1).fetch(conn), matcher).await
}

/// None where there are too many to look at.
async fn matching_pairs(conn: &mut PgConnection, matcher: &Matcher) -> Result<Option<Vec<i32>>, sqlx::Error> {
    let statement = "SELECT id, value FROM label_pairs WHERE key_digest = $1 AND starts_with(value, $2) LIMIT $3";
    let key = identity::of_text(matcher.name());
    within_bound(sqlx::query_as(statement).bind(key).bind(prefix(matcher)).bind(MAX_VALUES + 1).fetch(conn), matcher).await
}

/// What the texts that match begin with, as far as PostgreSQL can have it in a text.
fn prefix(matcher: &Matcher) -> &str {
    matcher.prefix().and_then(|prefix| prefix.split('\0').next()).unwrap_or_default()
}

/// The numbers of the texts that match, read one by one: texts may be long.
async fn within_bound(
    mut rows: BoxStream<'_, Result<(i32, String), sqlx::Error>>,
    matcher: &Matcher,
) -> Result<Option<Vec<i32>>, sqlx::Error> {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    while let Some((id, text)) = rows.try_next().await? {
        looked_at += 1;
        if matcher.matches(&text) {
            found.push(id);
        }
    }
    Ok(Some(found).filter(|_| looked_at <= MAX_VALUES))
}

/// The series that the index finds, live or not, in the order of their ids and kinds within each source.
pub(super) async fn candidates(conn: &mut PgConnection, terms: &Terms, source_id: Option<i32>) -> Result<Vec<Candidate>, sqlx::Error> {
    if terms.nothing {
        return Ok(Vec::new());
    }
    // A statement of just the conditions that there are: with others in it, that are true for all, the index would not be used.
    let mut conditions = vec!["NOT EXISTS (SELECT FROM expired_series WHERE series_id = series.id)".to_owned()];
    let mut arguments = 0;
    let mut argument = || {
        arguments += 1;
        arguments
    };
    if source_id.is_some() {
        conditions.push(format!("source_id = ${}", argument()));
    }
    if !terms.all.is_empty() {
        conditions.push(format!("terms @> ${}", argument()));
    }
    conditions.extend(terms.any.iter().map(|_| format!("terms && ${}", argument())));
    if let Some((name, _)) = &terms.name {
        let identities = format!("identity = ANY(${})", argument());
        conditions.push(if name.is_some() { format!("({identities} OR terms @> ARRAY[${}])", argument()) } else { identities });
    }
    let statement = format!(
        r#"SELECT source_id, id, octet_length(metric) FROM series WHERE {} ORDER BY source_id, metric COLLATE "C", kind"#,
        conditions.join(" AND ")
    );
    let mut query: QueryAs<'_, Postgres, (i32, i32, i32), PgArguments> = sqlx::query_as(&statement);
    if let Some(source_id) = source_id {
        query = query.bind(source_id);
    }
    if !terms.all.is_empty() {
        query = query.bind(&terms.all);
    }
    for set in &terms.any {
        query = query.bind(set);
    }
    if let Some((name, identities)) = &terms.name {
        query = query.bind(identities);
        if let Some(name) = name {
            query = query.bind(name);
        }
    }
    // Its plan depends on what is asked for, so it is made anew each time.
    let rows = query.persistent(false).fetch(conn);
    rows.map_ok(|(source_id, series_id, id_bytes)| Candidate { source_id, series_id, id_bytes }).try_collect().await
}

/// All live series of a source, in the order of their ids and kinds.
pub(super) async fn of_source(conn: &mut PgConnection, source_id: i32) -> Result<Vec<Candidate>, sqlx::Error> {
    sqlx::query!(
        r#"SELECT series.id, octet_length(series.metric) AS "id_bytes!"
        FROM latest_blocks AS block
        CROSS JOIN LATERAL (SELECT id, metric, kind FROM series WHERE id >= block.id * 64 AND id <= block.id * 64 + 63) AS series
        WHERE block.source_id = $1 AND block.used >> (series.id % 64) & 1 = 1
        ORDER BY series.metric, series.kind"#,
        source_id,
    )
    .fetch(conn)
    .map_ok(|row| Candidate { source_id, series_id: row.id, id_bytes: row.id_bytes })
    .try_collect()
    .await
}
