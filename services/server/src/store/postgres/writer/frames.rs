//! The frames: the newest history of values, and the memory of which batches were applied until they are sealed.

use std::collections::HashMap;

use golectra_protocol::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::failure::GroupFailure;
use super::layouts::Layout;
use super::queue::{Outcome, QueuedBatch};
use crate::store::postgres::timestamp::Timestamp;
use crate::store::{Applied, StoreError};

/// A batch by its place in the group, and the row that it is to have.
pub(super) struct Frame<'a> {
    pub(super) place: usize,
    pub(super) queued: &'a QueuedBatch,
    pub(super) layout: &'a Layout,
    /// Whether the history is to keep its values; one that is older than the history is remembered by its key alone.
    pub(super) with_values: bool,
    /// The samples that are stored, by their places in the batch; all of them where there is none.
    pub(super) only: Option<&'a [u32]>,
}

impl Frame<'_> {
    /// The places of the values that the frame has.
    fn places(&self) -> impl Iterator<Item = usize> {
        let all = if self.only.is_none() { 0..self.queued.batch.metrics.len() } else { 0..0 };
        all.chain(self.only.unwrap_or_default().iter().map(|place| *place as usize))
    }
}

/// What was written.
#[derive(Default)]
pub(super) struct Inserted {
    /// The places of batches that are new.
    pub(super) new: Vec<usize>,
    /// The places of those whose key was there.
    pub(super) old: Vec<usize>,
    /// Greater than that of every group that was written before, with 16 bits to spare.
    pub(super) arrival: i64,
}

/// Writes frames down in one statement; those whose key is there are left as they are.
pub(super) async fn insert(conn: &mut PgConnection, mut frames: Vec<Frame<'_>>) -> Result<Inserted, GroupFailure> {
    frames.sort_unstable_by(|one, other| one.queued.order().cmp(&other.queued.order()));
    let mut rows = Rows::with_capacity(&frames);
    for frame in &frames {
        rows.push(frame)?;
    }
    let inserted = sqlx::query!(
        r#"INSERT INTO frames (at, arrival, source_id, key, layout_id, digest, "values", series_ids, times, deltas, oldest_at, newest_at)
        SELECT batch.at, ((SELECT nextval('arrivals')) << 16) + batch.place, batch.source_id, batch.key, batch.layout_id, batch.digest,
            ($6::double precision[])[batch.first:batch.last],
            CASE WHEN batch.ids_last >= batch.ids_first THEN ($9::integer[])[batch.ids_first:batch.ids_last] END,
            CASE WHEN batch.times_last >= batch.times_first THEN ($12::timestamptz[])[batch.times_first:batch.times_last] END,
            CASE WHEN batch.deltas_last >= batch.deltas_first THEN ($15::bigint[])[batch.deltas_first:batch.deltas_last] END,
            batch.oldest_at, batch.newest_at
        FROM unnest($1::timestamptz[], $2::integer[], $3::uuid[], $4::integer[], $5::bytea[], $7::integer[], $8::integer[], $10::integer[],
            $11::integer[], $13::integer[], $14::integer[], $16::integer[], $17::integer[], $18::integer[], $19::timestamptz[],
            $20::timestamptz[])
            AS batch (at, source_id, key, layout_id, digest, first, last, ids_first, ids_last, times_first, times_last, deltas_first,
                deltas_last, place, oldest_at, newest_at)
        ON CONFLICT DO NOTHING
        RETURNING source_id, key, arrival"#,
        &rows.ats as &[Timestamp],
        &rows.source_ids,
        &rows.keys,
        &rows.layout_ids as &[Option<i32>],
        &rows.digests as &[&[u8]],
        &rows.values,
        &rows.firsts,
        &rows.lasts,
        &rows.ids,
        &rows.ids_firsts,
        &rows.ids_lasts,
        &rows.times as &[Timestamp],
        &rows.times_firsts,
        &rows.times_lasts,
        &rows.deltas,
        &rows.deltas_firsts,
        &rows.deltas_lasts,
        &rows.places,
        &rows.oldest_ats as &[Option<Timestamp>],
        &rows.newest_ats as &[Option<Timestamp>],
    )
    .fetch_all(conn)
    .await?;
    let arrival = inserted.first().map_or(0, |row| row.arrival & !0xffff);
    if inserted.len() == frames.len() {
        return Ok(Inserted { new: sorted(frames.iter().map(|frame| frame.place)), old: Vec::new(), arrival });
    }
    let mut old: HashMap<(i32, Uuid), usize> =
        frames.iter().map(|frame| ((frame.layout.source_id, frame.queued.batch.key.uuid()), frame.place)).collect();
    let new = sorted(inserted.iter().filter_map(|row| old.remove(&(row.source_id, row.key))));
    Ok(Inserted { new, old: sorted(old.into_values()), arrival })
}

fn sorted(places: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut places: Vec<usize> = places.collect();
    places.sort_unstable();
    places
}

/// Frames as the statement wants them: each array's elements in one, and where in it each frame's begin and end, counted from 1.
#[derive(Default)]
struct Rows<'a> {
    ats: Vec<Timestamp>,
    source_ids: Vec<i32>,
    keys: Vec<Uuid>,
    layout_ids: Vec<Option<i32>>,
    digests: Vec<&'a [u8]>,
    values: Vec<f64>,
    firsts: Vec<i32>,
    lasts: Vec<i32>,
    /// Lists of series that have no row of their own.
    ids: Vec<i32>,
    ids_firsts: Vec<i32>,
    ids_lasts: Vec<i32>,
    times: Vec<Timestamp>,
    times_firsts: Vec<i32>,
    times_lasts: Vec<i32>,
    /// Of batches whose deltas doubles don't hold.
    deltas: Vec<i64>,
    deltas_firsts: Vec<i32>,
    deltas_lasts: Vec<i32>,
    /// The places in the group, counted from 1: what tells arrivals of one group apart.
    places: Vec<i32>,
    /// The oldest and the newest of the times, where there are some.
    oldest_ats: Vec<Option<Timestamp>>,
    newest_ats: Vec<Option<Timestamp>>,
}

impl<'a> Rows<'a> {
    fn with_capacity(frames: &[Frame<'_>]) -> Self {
        let values = frames.iter().map(|frame| frame.queued.batch.metrics.len()).sum();
        Self { values: Vec::with_capacity(values), ..Self::default() }
    }

    fn push(&mut self, frame: &Frame<'a>) -> Result<(), GroupFailure> {
        let batch = &frame.queued.batch;
        let place = |values: usize| i32::try_from(values).map_err(|_| GroupFailure::Stale);
        self.ats.push(frame.queued.at);
        self.source_ids.push(frame.layout.source_id);
        self.keys.push(batch.key.uuid());
        self.layout_ids.push(frame.layout.id.filter(|_| frame.with_values));
        self.digests.push(&batch.digest);
        self.firsts.push(place(self.values.len() + 1)?);
        self.ids_firsts.push(place(self.ids.len() + 1)?);
        self.times_firsts.push(place(self.times.len() + 1)?);
        self.deltas_firsts.push(place(self.deltas.len() + 1)?);
        self.places.push(place(frame.place + 1)?);
        let first_time = self.times.len();
        if frame.with_values {
            self.values.extend(frame.places().map(|place| as_double(batch.metrics.get(place).value)));
            if frame.layout.id.is_none() {
                self.ids.extend(frame.places().map(|place| frame.layout.series_ids[place]));
            }
            let times = frame.places().map_while(|place| batch.metrics.at_millis(place));
            self.times.extend(times.map(|at| Timestamp(u64::try_from(at).unwrap_or(0))));
            let exact = |value: Value| matches!(value, Value::Gauge(_)) || delta_of(value) == as_delta(as_double(value));
            if !batch.metrics.iter().all(|metric| exact(metric.value)) {
                self.deltas.extend(batch.metrics.iter().map(|metric| delta_of(metric.value)));
            }
        }
        self.oldest_ats.push(self.times[first_time..].iter().min().copied());
        self.newest_ats.push(self.times[first_time..].iter().max().copied());
        self.lasts.push(place(self.values.len())?);
        self.ids_lasts.push(place(self.ids.len())?);
        self.times_lasts.push(place(self.times.len())?);
        self.deltas_lasts.push(place(self.deltas.len())?);
        Ok(())
    }
}

/// A value as the history holds it.
#[expect(clippy::cast_precision_loss, reason = "deltas that a double does not hold are written beside it")]
fn as_double(value: Value) -> f64 {
    match value {
        Value::Gauge(value) => value,
        Value::Counter(delta) => delta as f64,
    }
}

/// What a batch added to a counter, from the double in its frame. Exact for all frames that have no `deltas`.
#[expect(clippy::cast_possible_truncation, reason = "it saturates, as it does where it is compared with the delta itself")]
pub(in crate::store::postgres) fn as_delta(value: f64) -> i64 {
    value as i64
}

/// What is added to a counter; 0 for a gauge.
fn delta_of(value: Value) -> i64 {
    match value {
        Value::Gauge(_) => 0,
        Value::Counter(delta) => delta,
    }
}

/// Takes back frames of this transaction.
pub(super) async fn remove(conn: &mut PgConnection, frames: &[(&QueuedBatch, i32)]) -> Result<(), sqlx::Error> {
    let ats: Vec<Timestamp> = frames.iter().map(|(queued, _)| queued.at).collect();
    let keys: Vec<Uuid> = frames.iter().map(|(queued, _)| queued.batch.key.uuid()).collect();
    let source_ids: Vec<i32> = frames.iter().map(|(_, source_id)| *source_id).collect();
    sqlx::query!(
        "DELETE FROM frames USING unnest($1::timestamptz[], $2::integer[], $3::uuid[]) AS gone (at, source_id, key)
        WHERE frames.at = gone.at AND frames.source_id = gone.source_id AND frames.key = gone.key",
        &ats as &[Timestamp],
        &source_ids,
        &keys,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What the frames say of batches whose keys they may hold, by place: applied before, or another batch of the same key.
pub(super) async fn find(
    conn: &mut PgConnection,
    asked: impl ExactSizeIterator<Item = (usize, &QueuedBatch, i32)>,
) -> Result<Vec<(usize, Outcome)>, sqlx::Error> {
    let n = asked.len();
    let (mut ats, mut source_ids, mut keys) = (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
    let mut batches = Vec::with_capacity(n);
    for (place, queued, source_id) in asked {
        ats.push(queued.at);
        source_ids.push(source_id);
        keys.push(queued.batch.key.uuid());
        batches.push((place, queued));
    }
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"SELECT asked.place AS "place!", frames.digest
        FROM unnest($1::timestamptz[], $2::integer[], $3::uuid[]) WITH ORDINALITY AS asked (at, source_id, key, place)
        JOIN frames ON frames.at = asked.at AND frames.source_id = asked.source_id AND frames.key = asked.key"#,
        &ats as &[Timestamp],
        &source_ids,
        &keys,
    )
    .fetch_all(conn)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let (place, queued) = batches.get(usize::try_from(row.place - 1).ok()?)?;
        let same = row.digest == queued.batch.digest;
        Some((*place, if same { Ok(Applied::Repeat) } else { Err(StoreError::KeyReused) }))
    });
    Ok(found.collect())
}
