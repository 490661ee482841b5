//! The numbers of metrics' names and of label pairs, by which the index of series is searched.
//!
//! A row of a name or a pair goes when the last of its series goes, see [`remove`](crate::store::postgres::remove). So whoever makes a series holds the
//! rows of its terms, which keeps them from being removed before the series is there.
//!
//! The number of a row that went is used again. No process remembers numbers longer than a transaction or a search, but for those of reported series, for a
//! minute (`history/reported.rs`): a number that is used again then is that of a new series' term. A search whose number is given to another term
//! meanwhile finds series that it did not look for, and passes over them as it compares each with its matchers; series with the term that it looked for were
//! gone before.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use golectra_protocol::IdParts;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::store::postgres::identity;
use crate::store::postgres::writer::failure::GroupFailure;

/// The terms of ids, each made where it is new and held until the end of the transaction: that of the name, then those of the labels.
pub(super) async fn of<'a>(
    conn: &mut PgConnection,
    ids: impl Iterator<Item = &'a str>,
) -> Result<HashMap<&'a str, Vec<i32>>, GroupFailure> {
    let parts: Vec<(&str, IdParts<'_>)> = ids.collect::<BTreeSet<_>>().into_iter().map(|id| (id, IdParts::of(id))).collect();
    let mut names: BTreeMap<Uuid, &str> = BTreeMap::new();
    let mut pairs: BTreeMap<Uuid, (&str, &str)> = BTreeMap::new();
    for (_, parts) in &parts {
        names.insert(identity::of_text(&parts.name), &parts.name);
        pairs.extend(parts.labels.iter().map(|(key, value)| (identity::of_pair(key, value), (key.as_ref(), value.as_ref()))));
    }
    let name_ids = names_of(conn, &names).await?;
    let pair_ids = pairs_of(conn, &pairs).await?;
    let terms = parts.iter().map(|(id, parts)| {
        let name = name_ids.get(&identity::of_text(&parts.name));
        let labels = parts.labels.iter().map(|(key, value)| pair_ids.get(&identity::of_pair(key, value)));
        let terms: Option<Vec<i32>> = std::iter::once(name).chain(labels).map(Option::<&i32>::copied).collect();
        Ok((*id, terms.ok_or(GroupFailure::Stale)?))
    });
    terms.collect()
}

/// Numbers of names by their digests.
async fn names_of(conn: &mut PgConnection, names: &BTreeMap<Uuid, &str>) -> Result<HashMap<Uuid, i32>, GroupFailure> {
    let digests: Vec<Uuid> = names.keys().copied().collect();
    let rows = sqlx::query!(
        "SELECT name.id, name.digest FROM unnest($1::uuid[]) AS asked (digest) JOIN metric_names AS name ON name.digest = asked.digest
        FOR KEY SHARE OF name",
        &digests,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut ids: HashMap<Uuid, i32> = rows.into_iter().map(|row| (row.digest, row.id)).collect();
    let new: Vec<(&Uuid, &&str)> = names.iter().filter(|(digest, _)| !ids.contains_key(digest)).collect();
    if !new.is_empty() {
        let (digests, texts): (Vec<Uuid>, Vec<&str>) = new.into_iter().map(|(digest, name)| (*digest, *name)).unzip();
        let free = take_free(conn, digests.len()).await?;
        let made = sqlx::query!(
            "INSERT INTO metric_names (id, digest, name)
            SELECT coalesce(($3::integer[])[place], nextval('terms')), digest, name
            FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS new (digest, name, place)
            ON CONFLICT (digest) DO NOTHING RETURNING id, digest",
            &digests,
            &texts as &[&str],
            &free,
        )
        .fetch_all(conn)
        .await?;
        // One that another server made a moment ago is missing here: this transaction is rolled back, and the next try finds it.
        ids.extend(made.into_iter().map(|row| (row.digest, row.id)));
    }
    Ok(ids)
}

/// Numbers of label pairs by their digests.
async fn pairs_of(conn: &mut PgConnection, pairs: &BTreeMap<Uuid, (&str, &str)>) -> Result<HashMap<Uuid, i32>, GroupFailure> {
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let digests: Vec<Uuid> = pairs.keys().copied().collect();
    let rows = sqlx::query!(
        "SELECT pair.id, pair.digest FROM unnest($1::uuid[]) AS asked (digest) JOIN label_pairs AS pair ON pair.digest = asked.digest
        FOR KEY SHARE OF pair",
        &digests,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut ids: HashMap<Uuid, i32> = rows.into_iter().map(|row| (row.digest, row.id)).collect();
    let new: Vec<_> = pairs.iter().filter(|(digest, _)| !ids.contains_key(digest)).collect();
    if !new.is_empty() {
        let digests: Vec<Uuid> = new.iter().map(|(digest, _)| **digest).collect();
        let key_digests: Vec<Uuid> = new.iter().map(|(_, (key, _))| identity::of_text(key)).collect();
        let (keys, values): (Vec<&str>, Vec<&str>) = new.iter().map(|(_, pair)| **pair).unzip();
        let free = take_free(conn, digests.len()).await?;
        let made = sqlx::query!(
            "INSERT INTO label_pairs (id, digest, key_digest, key, value)
            SELECT coalesce(($5::integer[])[place], nextval('terms')), digest, key_digest, key, value
            FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) WITH ORDINALITY AS new (digest, key_digest, key, value, place)
            ON CONFLICT (digest) DO NOTHING RETURNING id, digest",
            &digests,
            &key_digests,
            &keys as &[&str],
            &values as &[&str],
            &free,
        )
        .fetch_all(conn)
        .await?;
        ids.extend(made.into_iter().map(|row| (row.digest, row.id)));
    }
    Ok(ids)
}

/// Numbers that can be used again, as many as are needed and to be had without waiting for another transaction that takes some.
async fn take_free(conn: &mut PgConnection, needed: usize) -> Result<Vec<i32>, GroupFailure> {
    let needed = i64::try_from(needed).unwrap_or(i64::MAX);
    // An array, so that they are looked for once, whatever the plan.
    let free = sqlx::query_scalar!(
        "DELETE FROM free_terms WHERE id = ANY(ARRAY(SELECT id FROM free_terms ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING id",
        needed,
    )
    .fetch_all(conn)
    .await?;
    Ok(free)
}
