//! The writer's side of the outbox: events join the transaction of their writes, each list of ids is kept once.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::PgConnection;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::audit::Draft;

/// Puts an event into the outbox inside of the write's transaction.
#[derive(Debug, Clone)]
pub struct Hook {
    sinks: Arc<[String]>,
    news: Arc<[Arc<Notify>]>,
}

impl Hook {
    /// An event goes to each of these sinks, whose lanes listen to `news`.
    pub fn new(sinks: Vec<String>, news: Vec<Arc<Notify>>) -> Self {
        Self { sinks: sinks.into(), news: news.into() }
    }

    /// To be called in the transaction that applies the writes. One statement, however many there are, and a second one where
    /// there are lists of ids that were not used today.
    pub async fn in_transaction(&self, conn: &mut PgConnection, drafts: &[&Draft]) -> Result<(), sqlx::Error> {
        insert(conn, drafts, &self.sinks).await?;
        for lane in self.news.iter() {
            lane.notify_one();
        }
        Ok(())
    }
}

/// Puts events into the outbox, addressed to these sinks, in the order in which they are given.
///
/// Which lists are there is asked of the database each time, by each list once. Remembered, it would be wrong after a
/// rollback or on a promoted replica, and it costs next to nothing in a statement that is sent anyway.
pub(super) async fn insert(conn: &mut PgConnection, drafts: &[&Draft], sinks: &[String]) -> Result<(), sqlx::Error> {
    let event_ids: Vec<Uuid> = drafts.iter().map(|_| Uuid::now_v7()).collect();
    let digests: Vec<&[u8]> = drafts.iter().map(|draft| draft.ids.digest().as_slice()).collect();
    let times: Vec<i64> = drafts.iter().map(|draft| draft.ts).collect();
    let peers: Vec<String> = drafts.iter().map(|draft| draft.ip_address.to_string()).collect();
    let traceparents: Vec<Option<&str>> = drafts.iter().map(|draft| draft.traceparent.as_deref()).collect();
    let used: BTreeMap<&[u8], &str> = drafts.iter().map(|draft| (draft.ids.digest().as_slice(), draft.ids.json())).collect();
    let asked: Vec<&[u8]> = used.keys().copied().collect();
    let stale = sqlx::query_scalar!(
        r#"with event as (
            insert into outbox (event_id, list, ts, ip_address, traceparent)
            select event_id, list, ts, ip_address, traceparent
            from unnest($1::uuid[], $2::bytea[], $3::bigint[], $4::text[], $5::text[]) as new (event_id, list, ts, ip_address, traceparent)
            returning id
        ), addressed as (
            insert into deliveries (event, sink) select event.id, sink from event, unnest($6::text[]) as sink
        )
        select asked.digest as "digest!" from unnest($7::bytea[]) as asked (digest) where not exists (
            select from audit_lists where audit_lists.digest = asked.digest and last_day >= (now() at time zone 'UTC')::date
        )"#,
        &event_ids,
        &digests as &[&[u8]],
        &times,
        &peers,
        &traceparents as &[Option<&str>],
        sinks,
        &asked as &[&[u8]],
    )
    .fetch_all(&mut *conn)
    .await?;
    if stale.is_empty() {
        return Ok(());
    }
    let stale: BTreeMap<&[u8], &str> =
        stale.iter().filter_map(|digest| used.get_key_value(digest.as_slice())).map(|(d, ids)| (*d, *ids)).collect();
    keep(conn, &stale).await
}

/// Keeps lists for the events of this transaction. In the order of their digests, so that two writers of the same lists don't
/// wait for each other in turns.
async fn keep(conn: &mut PgConnection, lists: &BTreeMap<&[u8], &str>) -> Result<(), sqlx::Error> {
    let (digests, ids): (Vec<&[u8]>, Vec<&str>) = lists.iter().map(|(digest, ids)| (*digest, *ids)).unzip();
    // The day is that of the events' created_at, by the same clock: a list is never older than an event that names it.
    sqlx::query!(
        "insert into audit_lists (digest, ids, last_day)
        select digest, ids, (now() at time zone 'UTC')::date from unnest($1::bytea[], $2::text[]) as new (digest, ids)
        on conflict (digest) do update set last_day = excluded.last_day where audit_lists.last_day < excluded.last_day",
        &digests as &[&[u8]],
        &ids as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}
