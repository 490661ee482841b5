//! The frames, which are the history and the memory of what was applied, and the times at which sources were seen.

use std::collections::{BTreeMap, HashMap};

use golectra_protocol::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::known::Layout;
use super::lane::Failure;
use super::queue::{Pending, Verdict};
use super::stamp::Stamp;
use super::{Applied, StoreError};

/// A batch by its place in the group, and the row that it is to have.
pub(super) struct Frame<'a> {
    pub(super) place: usize,
    pub(super) pending: &'a Pending,
    pub(super) layout: &'a Layout,
}

/// What was written.
pub(super) struct Inserted {
    /// The places of batches that are new.
    pub(super) new: Vec<usize>,
    /// The places of those whose key was there.
    pub(super) old: Vec<usize>,
    /// Greater than that of every group that was written before, with 16 bits to spare.
    pub(super) arrival: i64,
}

/// Writes frames down in one statement; those whose key is there are left as they are.
pub(super) async fn insert(conn: &mut PgConnection, mut frames: Vec<Frame<'_>>) -> Result<Inserted, Failure> {
    frames.sort_unstable_by(|one, other| one.pending.order().cmp(&other.pending.order()));
    let mut rows = Rows::with_capacity(&frames);
    for frame in &frames {
        rows.push(frame)?;
    }
    let inserted = sqlx::query!(
        r#"INSERT INTO frames (at, source_id, key, layout_id, digest, "values")
        SELECT batch.at, batch.source_id, batch.key, batch.layout_id, batch.digest, ($6::double precision[])[batch.first:batch.last]
        FROM unnest($1::timestamptz[], $2::integer[], $3::uuid[], $4::integer[], $5::bytea[], $7::integer[], $8::integer[])
            AS batch (at, source_id, key, layout_id, digest, first, last)
        ON CONFLICT DO NOTHING
        RETURNING source_id, key, (SELECT nextval('arrivals')) AS "arrival!""#,
        &rows.ats as &[Stamp],
        &rows.source_ids,
        &rows.keys,
        &rows.layout_ids,
        &rows.digests as &[&[u8]],
        &rows.values,
        &rows.firsts,
        &rows.lasts,
    )
    .fetch_all(conn)
    .await?;
    let arrival = inserted.first().map_or(0, |row| row.arrival << 16);
    if inserted.len() == frames.len() {
        return Ok(Inserted { new: sorted(frames.iter().map(|frame| frame.place)), old: Vec::new(), arrival });
    }
    let mut old: HashMap<(i32, Uuid), usize> =
        frames.iter().map(|frame| ((frame.layout.source_id, frame.pending.batch.key.uuid()), frame.place)).collect();
    let new = sorted(inserted.iter().filter_map(|row| old.remove(&(row.source_id, row.key))));
    Ok(Inserted { new, old: sorted(old.into_values()), arrival })
}

fn sorted(places: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut places: Vec<usize> = places.collect();
    places.sort_unstable();
    places
}

/// Frames as the statement wants them: all values in one array, and where in it each frame's begin and end.
struct Rows<'a> {
    ats: Vec<Stamp>,
    source_ids: Vec<i32>,
    keys: Vec<Uuid>,
    layout_ids: Vec<i32>,
    digests: Vec<&'a [u8]>,
    values: Vec<f64>,
    firsts: Vec<i32>,
    lasts: Vec<i32>,
}

impl<'a> Rows<'a> {
    fn with_capacity(frames: &[Frame<'_>]) -> Self {
        let (n, values) = (frames.len(), frames.iter().map(|frame| frame.pending.batch.metrics.len()).sum());
        Self {
            ats: Vec::with_capacity(n),
            source_ids: Vec::with_capacity(n),
            keys: Vec::with_capacity(n),
            layout_ids: Vec::with_capacity(n),
            digests: Vec::with_capacity(n),
            values: Vec::with_capacity(values),
            firsts: Vec::with_capacity(n),
            lasts: Vec::with_capacity(n),
        }
    }

    fn push(&mut self, frame: &Frame<'a>) -> Result<(), Failure> {
        let batch = &frame.pending.batch;
        let place = |values: usize| i32::try_from(values).map_err(|_| Failure::Stale);
        self.ats.push(frame.pending.at);
        self.source_ids.push(frame.layout.source_id);
        self.keys.push(batch.key.uuid());
        self.layout_ids.push(frame.layout.id);
        self.digests.push(&batch.digest);
        self.firsts.push(place(self.values.len() + 1)?);
        self.values.extend(batch.metrics.iter().map(|metric| as_double(metric.value)));
        self.lasts.push(place(self.values.len())?);
        Ok(())
    }
}

/// A value as the history holds it.
#[expect(clippy::cast_precision_loss, reason = "the history's deltas are doubles by design; totals are folded from the integers")]
fn as_double(value: Value) -> f64 {
    match value {
        Value::Gauge(value) => value,
        Value::Counter(delta) => delta as f64,
    }
}

/// What the frames say of batches whose keys they may hold, by place: applied before, or another batch of the same key.
pub(super) async fn find(
    conn: &mut PgConnection,
    asked: impl ExactSizeIterator<Item = (usize, &Pending, i32)>,
) -> Result<Vec<(usize, Verdict)>, sqlx::Error> {
    let n = asked.len();
    let (mut ats, mut source_ids, mut keys) = (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
    let mut batches = Vec::with_capacity(n);
    for (place, pending, source_id) in asked {
        ats.push(pending.at);
        source_ids.push(source_id);
        keys.push(pending.batch.key.uuid());
        batches.push((place, pending));
    }
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"SELECT asked.place AS "place!", frames.digest
        FROM unnest($1::timestamptz[], $2::integer[], $3::uuid[]) WITH ORDINALITY AS asked (at, source_id, key, place)
        JOIN frames ON frames.at = asked.at AND frames.source_id = asked.source_id AND frames.key = asked.key"#,
        &ats as &[Stamp],
        &source_ids,
        &keys,
    )
    .fetch_all(conn)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let (place, pending) = batches.get(usize::try_from(row.place - 1).ok()?)?;
        let same = row.digest == pending.batch.digest;
        Some((*place, if same { Ok(Applied::Repeat) } else { Err(StoreError::KeyReused) }))
    });
    Ok(found.collect())
}

/// Writes down when sources were seen last.
pub(super) async fn touch(conn: &mut PgConnection, seen: &BTreeMap<i32, Stamp>) -> Result<(), sqlx::Error> {
    let (ids, times): (Vec<i32>, Vec<Stamp>) = seen.iter().map(|(id, at)| (*id, *at)).unzip();
    sqlx::query!(
        "UPDATE sources SET last_seen = greatest(last_seen, seen.at) FROM unnest($1::integer[], $2::timestamptz[]) AS seen (id, at)
        WHERE sources.id = seen.id",
        &ids,
        &times as &[Stamp],
    )
    .execute(conn)
    .await?;
    Ok(())
}
