//! Reads all history there is and checks what the rows say of each other. Plain and slow.

use std::collections::{BTreeMap, HashMap, HashSet};

use golectra_chunks::{Times, decode_counter, decode_gauge};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::super::super::partitions::FRAMES;
use super::super::super::sealed::{key_mark, marks};
use super::super::super::sealer::WINDOW_MILLIS;
use super::super::super::timestamp::Timestamp;
use super::super::super::writer::as_delta;

/// A series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SeriesName {
    pub(super) source: String,
    pub(super) metric: String,
    pub(super) is_counter: bool,
}

/// A gauge's bits, or what was added to a counter, by time.
pub(super) type History = BTreeMap<SeriesName, BTreeMap<i64, u64>>;

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap()
}

/// Everything, in one snapshot.
pub(super) async fn all(conn: &mut PgConnection) -> History {
    let mut tx = conn.begin().await.unwrap();
    tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    tx.execute("LOCK TABLE frames IN ACCESS SHARE MODE").await.unwrap();
    let rows: Vec<(i32, String, String, i16)> =
        sqlx::query_as("SELECT series.id, sources.name, metric, kind FROM series JOIN sources ON sources.id = source_id")
            .fetch_all(&mut *tx)
            .await
            .unwrap();
    let series: HashMap<i32, SeriesName> =
        rows.into_iter().map(|(id, source, metric, kind)| (id, SeriesName { source, metric, is_counter: kind == 1 })).collect();
    let mut history = History::new();
    sealed(&mut tx, &series, &mut history).await;
    super::rolled_up::check_tables(&mut tx, &series, &history).await;
    unsealed(&mut tx, &series, &mut history).await;
    tx.rollback().await.unwrap();
    history
}

fn add(history: &mut History, name: &SeriesName, at: i64, bits: u64) {
    let sample = history.entry(name.clone()).or_default().entry(at).or_default();
    *sample = if name.is_counter { sample.wrapping_add(bits) } else { bits };
}

type ChunkRow = (i32, Timestamp, Vec<u8>, Vec<i32>, Vec<u8>, Option<Vec<i64>>);

/// What is in chunks; checks the totals that they tell.
async fn sealed(conn: &mut PgConnection, series: &HashMap<i32, SeriesName>, history: &mut History) {
    let rows: Vec<ChunkRow> =
        sqlx::query_as("SELECT block_id, window_start, times, offsets, data, bases FROM chunks ORDER BY window_start, block_id, part")
            .fetch_all(&mut *conn)
            .await
            .unwrap();
    for (block, window, times, offsets, data, _) in &rows {
        let times = Times::decode(times).unwrap();
        for (slot, bounds) in offsets.windows(2).enumerate() {
            let column = &data[usize::try_from(bounds[0]).unwrap()..usize::try_from(bounds[1]).unwrap()];
            if column.is_empty() {
                continue;
            }
            let name = &series[&(block * 64 + i32::try_from(slot).unwrap())];
            let mut ats = Vec::new();
            let bits: Vec<u64> = if name.is_counter {
                let mut deltas = Vec::new();
                decode_counter(&times, column, &mut ats, &mut deltas).unwrap();
                deltas.into_iter().map(i64::cast_unsigned).collect()
            } else {
                let mut values = Vec::new();
                decode_gauge(&times, column, &mut ats, &mut values).unwrap();
                values.into_iter().map(f64::to_bits).collect()
            };
            for (at, bits) in ats.into_iter().zip(bits) {
                assert!(at >= millis(*window) && at < millis(*window) + WINDOW_MILLIS);
                add(history, name, at, bits);
            }
        }
    }
    let totals: Vec<(i32, Vec<i64>)> = sqlx::query_as("SELECT block_id, totals FROM sealed_totals").fetch_all(conn).await.unwrap();
    let totals: HashMap<i32, Vec<i64>> = totals.into_iter().collect();
    let slot_of = |slots: &[i64], id: i32| slots.get(usize::try_from(id % 64).unwrap()).copied().unwrap_or(0);
    for (id, name) in series.iter().filter(|(_, name)| name.is_counter) {
        let Some(deltas) = history.get(name) else { continue };
        let sum = |before: i64| deltas.range(..before).fold(0_i64, |sum, (_, delta)| sum.wrapping_add(delta.cast_signed()));
        for (_, window, .., bases) in rows.iter().filter(|row| row.0 == id / 64) {
            let base = slot_of(bases.as_deref().unwrap_or_default(), *id);
            assert_eq!(base, sum(millis(*window)), "{name:?} at {window:?}");
        }
        assert_eq!(slot_of(totals.get(&(id / 64)).map_or(&[], Vec::as_slice), *id), sum(i64::MAX), "{name:?}");
    }
}

type FrameRow = (Timestamp, i32, Uuid, Vec<i32>, Vec<f64>, Option<Vec<Timestamp>>, Option<Vec<i64>>);

/// What is in frames and not in chunks.
async fn unsealed(conn: &mut PgConnection, series: &HashMap<i32, SeriesName>, history: &mut History) {
    let rows: Vec<(Timestamp, i32, Vec<u8>)> =
        sqlx::query_as("SELECT frames_start, source_id, keys FROM sealed_reports").fetch_all(&mut *conn).await.unwrap();
    let mut known: HashSet<(u64, i32, [u8; 8])> = HashSet::new();
    for (start, source_id, keys) in rows {
        for mark in marks(&keys) {
            assert!(known.insert((start.0, source_id, mark.key)), "sealed twice");
        }
    }
    let rows: Vec<FrameRow> = sqlx::query_as(
        r#"SELECT frames.at, frames.source_id, key, coalesce(frames.series_ids, layouts.series_ids), "values", times, deltas
        FROM frames LEFT JOIN layouts ON layouts.id = layout_id ORDER BY arrival"#,
    )
    .fetch_all(conn)
    .await
    .unwrap();
    for (at, source_id, key, ids, values, times, deltas) in rows {
        if known.contains(&(FRAMES.start_of(FRAMES.slot_of(at.0)), source_id, key_mark(key))) {
            continue;
        }
        for (place, (id, value)) in ids.iter().zip(&values).enumerate() {
            let at = times.as_ref().map_or(at, |times| times[place]);
            let name = &series[id];
            let delta = deltas.as_ref().map_or_else(|| as_delta(*value), |deltas| deltas[place]);
            let bits = if name.is_counter { delta.cast_unsigned() } else { value.to_bits() };
            add(history, name, millis(at), bits);
        }
    }
}
