//! Finds series by their names and labels, by an index of the terms that they have.
//!
//! A matcher that only series with the label can match becomes the numbers of the label pairs (or names) that it matches. What can't be said that
//! way, or would be too many, narrows nothing: every series that is found is compared with all matchers once more. Rows are read one by one, so that
//! a search holds the 12 bytes of each candidate and nothing else.

use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use golectra_promql::{METRIC_NAME, Matcher};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::identity;
use crate::history::labels::{SOURCE_LABEL, TYPE_LABEL, instance_of};
use crate::store::LatestFilter;

/// A regular expression is compared with at most so many values of its label; where there are more, it narrows nothing.
const MAX_VALUES: i64 = 50_000;
/// A matcher that matches more values than this narrows nothing, unless it is the only one.
const MAX_TERMS: usize = 5_000;

/// As many characters of a value are in the index of label pairs.
const INDEXED_CHARS: usize = 32;

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
    /// For each matcher on `instance` the sources whose series match where they have no such label, and the label's pairs that match.
    instances: Vec<(Vec<i32>, Vec<i32>)>,
    /// No series can match.
    nothing: bool,
}

impl Terms {
    /// Whether the index says less than that all series may match.
    pub(super) fn narrow(&self) -> bool {
        self.nothing || self.name.is_some() || !self.all.is_empty() || !self.any.is_empty() || !self.instances.is_empty()
    }

    /// Whether no series can match.
    pub(super) fn is_empty(&self) -> bool {
        self.nothing
    }

    /// Adds the conditions that there are to a statement on `series`; with others in it, that are true for all, the index would not be used.
    pub(super) fn push_to<'a>(&'a self, query: &mut QueryBuilder<'a, Postgres>) {
        if !self.all.is_empty() {
            query.push(" AND terms @> ").push_bind(&self.all);
        }
        for set in &self.any {
            query.push(" AND terms && ").push_bind(set);
        }
        for (sources, pairs) in &self.instances {
            query.push(" AND (source_id = ANY(").push_bind(sources).push(")");
            if !pairs.is_empty() {
                query.push(" OR terms && ").push_bind(pairs);
            }
            query.push(")");
        }
        if let Some((name, identities)) = &self.name {
            query.push(" AND (identity = ANY(").push_bind(identities).push(")");
            if let Some(name) = name {
                query.push(" OR terms @> ARRAY[").push_bind(name).push("]");
            }
            query.push(")");
        }
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
    let mut terms = terms_of(conn, &filter.matchers).await?;
    if let Some(name) = &filter.name {
        // A text is a name, or a whole id of either kind.
        let identities = vec![identity::of_series(0, name), identity::of_series(1, name)];
        terms.name = Some((names(conn, std::slice::from_ref(name)).await?.pop(), identities));
    }
    Ok(terms)
}

/// Looks up the terms of matchers.
pub(super) async fn terms_of(conn: &mut PgConnection, matchers: &[Matcher]) -> Result<Terms, sqlx::Error> {
    let mut terms = Terms::default();
    let mut many = Vec::new();
    // A counter's type is no label of its id.
    for matcher in matchers.iter().filter(|matcher| matcher.needs_label() && matcher.name() != TYPE_LABEL) {
        let found = terms_that_match(conn, matcher).await?;
        match found {
            // A series may have a label that is called as its source's.
            Some(pairs) if matcher.name() == SOURCE_LABEL && pairs.len() <= MAX_TERMS => {
                if let Some(sources) = matching_sources(conn, matcher).await? {
                    terms.instances.push((sources, pairs));
                }
            }
            Some(found) if matcher.name() != SOURCE_LABEL && found.len() > MAX_TERMS => many.push(found),
            Some(found) if matcher.name() != SOURCE_LABEL => terms.add(found),
            _ => {}
        }
    }
    if !terms.narrow()
        && let Some(least) = many.into_iter().min_by_key(Vec::len)
    {
        terms.add(least);
    }
    Ok(terms)
}

/// The terms of a matcher that only series with its label can match; none where there are too many to look at.
async fn terms_that_match(conn: &mut PgConnection, matcher: &Matcher) -> Result<Option<Vec<i32>>, sqlx::Error> {
    match (matcher.only_values(), matcher.name()) {
        (Some(values), METRIC_NAME) => names(conn, values).await.map(Some),
        (Some(values), key) => pairs(conn, key, values).await.map(Some),
        (None, METRIC_NAME) => matching_names(conn, matcher).await,
        (None, _) => matching_pairs(conn, matcher).await,
    }
}

/// The sources whose name matches as the instance of their series; none where there are too many to look at.
async fn matching_sources(conn: &mut PgConnection, matcher: &Matcher) -> Result<Option<Vec<i32>>, sqlx::Error> {
    let rows = match matcher.only_values() {
        Some(values) => {
            // PostgreSQL's text holds no NUL, and no source has one.
            let values: Vec<&str> = values.iter().map(String::as_str).filter(|value| !value.contains('\0')).collect();
            sqlx::query_as("SELECT id, name FROM sources WHERE name = ANY($1)").bind(values).fetch_all(conn).await?
        }
        None => sqlx::query_as("SELECT id, name FROM sources LIMIT $1").bind(MAX_VALUES + 1).fetch_all(conn).await?,
    };
    let rows: Vec<(i32, String)> = rows;
    let few = i64::try_from(rows.len()).is_ok_and(|rows| rows <= MAX_VALUES);
    Ok(few.then(|| rows.into_iter().filter(|(_, name)| matcher.matches(instance_of(name))).map(|(id, _)| id).collect()))
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
    let key = identity::of_text(matcher.name());
    let first: String = prefix(matcher).chars().take(INDEXED_CHARS).collect();
    let rows = match after_prefix(&first) {
        Some(after) => {
            let statement = r#"SELECT id, value FROM label_pairs WHERE key_digest = $1 AND "left"(value, 32) >= $2 AND "left"(value, 32) < $3 LIMIT $4"#;
            sqlx::query_as(statement).bind(key).bind(first).bind(after).bind(MAX_VALUES + 1).fetch(conn)
        }
        None => {
            sqlx::query_as("SELECT id, value FROM label_pairs WHERE key_digest = $1 LIMIT $2").bind(key).bind(MAX_VALUES + 1).fetch(conn)
        }
    };
    within_bound(rows, matcher).await
}

/// The least text that is after all texts with this prefix, in the order of bytes; none if there is no such text.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Ranges of characters leave out what is none.
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
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
    let mut query = QueryBuilder::new(
        "SELECT source_id, id, octet_length(metric) FROM series WHERE NOT EXISTS (SELECT FROM expired_series WHERE series_id = series.id)",
    );
    if let Some(source_id) = source_id {
        query.push(" AND source_id = ").push_bind(source_id);
    }
    terms.push_to(&mut query);
    query.push(r#" ORDER BY source_id, metric COLLATE "C", kind"#);
    // Its plan depends on what is asked for, so it is made anew each time.
    let rows = query.build_query_as::<(i32, i32, i32)>().persistent(false).fetch(conn);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_with_a_prefix_are_exactly_those_up_to_the_text_after_it(prefix in "[a-c\u{7f}\u{d7ff}\u{10ffff}]{0,3}", text in "[a-d\u{7f}\u{80}\u{d7ff}\u{e000}\u{10ffff}]{0,5}") {
            if let Some(after) = after_prefix(&prefix) {
                prop_assert_eq!(text.starts_with(&prefix), text >= prefix && text < after);
            } else {
                prop_assert!(prefix.chars().all(|c| c == char::MAX));
            }
        }
    }
}
