//! Inserts events into the outbox, as part of the transactions of their writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::PgConnection;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::audit::draft::{Draft, event_bytes};

/// Inserts events in the transactions of their writes.
#[derive(Debug, Clone)]
pub struct Hook {
    sinks: Arc<[String]>,
    wake: Arc<[Arc<Notify>]>,
    /// Whether repeated name lists are stored separately from their events.
    share_name_lists: Arc<AtomicBool>,
}

impl Hook {
    /// Every event goes to each of these sinks. `wake` notifies their workers.
    pub fn new(sinks: Vec<String>, wake: Vec<Arc<Notify>>) -> Self {
        Self { sinks: sinks.into(), wake: wake.into(), share_name_lists: Arc::new(AtomicBool::new(true)) }
    }

    /// Without sharing, each event stores its own names.
    pub fn share_name_lists(&self, share: bool) {
        self.share_name_lists.store(share, Ordering::Relaxed);
    }

    /// Must be called in the transaction that applies the writes. It is one statement for any number of drafts, and a second
    /// one if there are name lists that were not used today.
    pub async fn in_transaction(&self, conn: &mut PgConnection, drafts: &[&Draft]) -> Result<(), sqlx::Error> {
        insert(conn, drafts, &self.sinks, self.share_name_lists.load(Ordering::Relaxed)).await?;
        for sink in self.wake.iter() {
            sink.notify_one();
        }
        Ok(())
    }
}

/// The columns of new events.
#[derive(Default)]
struct Columns<'a> {
    event_ids: Vec<Uuid>,
    times: Vec<i64>,
    peers: Vec<String>,
    metrics: Vec<Option<&'a str>>,
    name_lists: Vec<Option<&'a [u8]>>,
    traceparents: Vec<Option<&'a str>>,
    bytes: Vec<i32>,
}

impl<'a> Columns<'a> {
    fn of(drafts: &[&'a Draft], share: bool) -> Self {
        let mut columns = Self::default();
        for draft in drafts {
            let by_list = share && draft.repeated;
            for part in draft.names.parts() {
                columns.event_ids.push(Uuid::now_v7());
                columns.times.push(draft.ts);
                columns.peers.push(draft.ip_address.to_string());
                columns.metrics.push((!by_list).then_some(&*part.json));
                columns.name_lists.push(by_list.then_some(part.digest.as_slice()));
                columns.traceparents.push(draft.traceparent.as_deref());
                columns.bytes.push(i32::try_from(event_bytes(&part.json)).unwrap_or(i32::MAX));
            }
        }
        columns
    }
}

/// Inserts events for these sinks, in the order of their drafts.
///
/// Whether a name list is in the database is checked every time, once for each list: a cached answer would be wrong after a
/// rollback or a failover, and as part of a statement that is sent anyway the check costs very little.
pub(super) async fn insert(conn: &mut PgConnection, drafts: &[&Draft], sinks: &[String], share: bool) -> Result<(), sqlx::Error> {
    let columns = Columns::of(drafts, share);
    let used: BTreeMap<&[u8], &str> = drafts
        .iter()
        .filter(|draft| share && draft.repeated)
        .flat_map(|draft| draft.names.parts().iter().map(|part| (part.digest.as_slice(), &*part.json)))
        .collect();
    let asked: Vec<&[u8]> = used.keys().copied().collect();
    let stale = sqlx::query_scalar!(
        r#"with event as (
            insert into outbox (event_id, ts, ip_address, metrics, name_list, traceparent, bytes)
            select event_id, ts, ip_address, metrics, name_list, traceparent, bytes
            from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::integer[])
                as new (event_id, ts, ip_address, metrics, name_list, traceparent, bytes)
            returning id
        ), addressed as (
            insert into deliveries (event, sink) select event.id, sink from event, unnest($8::text[]) as sink
        )
        select asked.digest as "digest!" from unnest($9::bytea[]) as asked (digest) where not exists (
            select from audit_name_lists
            where audit_name_lists.digest = asked.digest and last_day >= (now() at time zone 'UTC')::date
        )"#,
        &columns.event_ids,
        &columns.times,
        &columns.peers,
        &columns.metrics as &[Option<&str>],
        &columns.name_lists as &[Option<&[u8]>],
        &columns.traceparents as &[Option<&str>],
        &columns.bytes,
        sinks,
        &asked as &[&[u8]],
    )
    .fetch_all(&mut *conn)
    .await?;
    if stale.is_empty() {
        return Ok(());
    }
    let stale: BTreeMap<&[u8], &str> =
        stale.iter().filter_map(|digest| used.get_key_value(digest.as_slice())).map(|(digest, names)| (*digest, *names)).collect();
    keep(conn, &stale).await
}

/// Stores the name lists of this transaction's events. It inserts them in the order of their digests, so that two writers of
/// the same lists can't deadlock.
async fn keep(conn: &mut PgConnection, lists: &BTreeMap<&[u8], &str>) -> Result<(), sqlx::Error> {
    let (digests, metrics): (Vec<&[u8]>, Vec<&str>) = lists.iter().map(|(digest, metrics)| (*digest, *metrics)).unzip();
    // The day is taken from the same clock as the events' created_at, so that no event is later than the last day of its list.
    sqlx::query!(
        "insert into audit_name_lists (digest, metrics, last_day)
        select digest, metrics, (now() at time zone 'UTC')::date from unnest($1::bytea[], $2::text[]) as new (digest, metrics)
        on conflict (digest) do update set last_day = excluded.last_day where audit_name_lists.last_day < excluded.last_day",
        &digests as &[&[u8]],
        &metrics as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}
