//! Exports from a store that a test fills.

use std::collections::BTreeMap;

use async_trait::async_trait;
use golectra_promql::store::Selection;
use golectra_promql::{Labels, Reservation};
use golectra_protocol::remote_write::Metadata;
use proptest::prelude::*;

use super::*;
use crate::store::StoreError;
use crate::store::history::{CorruptHistory, ExactValues, HistorySeries, Limited, ListedSeries, ListedSource, ReadExact};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Samples by source and number of the series. Those of odd numbers are counters.
type Stored = BTreeMap<(String, u32), BTreeMap<i64, i64>>;

struct TestHistory(Stored);

struct TestSamples(bool, Vec<(i64, i64)>);

impl ReadExact for TestSamples {
    fn read_exact(&self, timestamps_ms: &mut Vec<i64>) -> Result<ExactValues, CorruptHistory> {
        timestamps_ms.extend(self.1.iter().map(|(at_ms, _)| at_ms));
        let values = self.1.iter().map(|(_, value)| *value);
        if self.0 {
            return Ok(ExactValues::Counter(values.collect()));
        }
        Ok(ExactValues::Gauge(values.map(|value| f64::from_bits(value.cast_unsigned())).collect()))
    }
}

#[async_trait]
impl History for TestHistory {
    async fn select(&self, _: &Selection, _: usize, _: &mut Reservation) -> Result<Vec<HistorySeries>, HistoryError> {
        Ok(Vec::new())
    }

    async fn list(&self, filter: &SeriesFilter, _: &mut Reservation) -> Result<Vec<ListedSource>, HistoryError> {
        let mut listed: BTreeMap<&str, Vec<ListedSeries>> = BTreeMap::new();
        for (source, number) in self.0.keys() {
            listed.entry(source).or_default().push(ListedSeries { number: *number, beside_gauge: false });
        }
        let range = TimeRange { start_ms: filter.range.start_ms.max(0), end_ms: filter.range.end_ms.min(5 * DAY_MS) };
        Ok(listed.into_iter().map(|(source, series)| ListedSource { source: source.to_owned(), series, range }).collect())
    }

    async fn read_listed(
        &self,
        source: &str,
        series: &[ListedSeries],
        range: TimeRange,
        reservation: &mut Reservation,
    ) -> Result<Vec<ExportedSeries>, HistoryError> {
        assert!(series.iter().all(|one| one.number / 64 == series[0].number / 64), "they are stored together");
        let mut found = Vec::new();
        for ListedSeries { number, .. } in series {
            let samples = &self.0[&(source.to_owned(), *number)];
            // As stores do it answers more than was asked for.
            let near: Vec<(i64, i64)> =
                samples.range(range.start_ms - 5..=range.end_ms + 5).map(|(at_ms, value)| (*at_ms, *value)).collect();
            reservation.grow(near.len() * 16)?;
            let labels = Labels::new([("__name__", "m"), ("n", &number.to_string())]);
            if !near.is_empty() {
                found.push(ExportedSeries { number: *number, labels, samples: Box::new(TestSamples(number % 2 == 1, near)) });
            }
        }
        Ok(found)
    }

    async fn series(&self, _: &SeriesFilter, _: &mut Reservation) -> Result<Limited<Labels>, HistoryError> {
        Ok(Limited { items: Vec::new(), truncated: false })
    }

    async fn label_names(&self, _: &SeriesFilter, _: &mut Reservation) -> Result<Limited<String>, HistoryError> {
        Ok(Limited { items: Vec::new(), truncated: false })
    }

    async fn metadata(&self, _: Option<&str>, _: usize, _: usize) -> Result<BTreeMap<String, Vec<Metadata>>, StoreError> {
        Ok(BTreeMap::new())
    }

    async fn label_values(&self, _: &str, _: &SeriesFilter, _: &mut Reservation) -> Result<Limited<String>, HistoryError> {
        Ok(Limited { items: Vec::new(), truncated: false })
    }
}

/// Keeps what it takes; gives back every so many pieces.
struct Kept {
    bytes: Vec<u8>,
    offered: usize,
    slow_every: usize,
}

impl Sink for Kept {
    async fn offer(&mut self, piece: Bytes) -> Result<Option<Bytes>, ExportError> {
        self.offered += 1;
        if self.offered.is_multiple_of(self.slow_every) {
            return Ok(Some(piece));
        }
        self.bytes.extend_from_slice(&piece);
        Ok(None)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), ExportError> {
        self.bytes.extend_from_slice(&piece);
        Ok(())
    }
}

async fn export(stored: &Stored, range: TimeRange, after: Option<Position>, bytes: usize, slow_every: usize) -> String {
    let budget = MemoryBudget::new(bytes);
    let request = ExportRequest { any: Vec::new(), range, after: after.clone(), format: Format::Csv };
    let history = Arc::new(TestHistory(stored.clone()));
    let mut export = Export::open(history, Arc::clone(&budget), Duration::from_secs(30), request).await.unwrap();
    let mut kept = Kept { bytes: Vec::new(), offered: 0, slow_every };
    export.run(&mut kept).await.unwrap();
    let text = String::from_utf8(kept.bytes).unwrap();
    // Without a position there is a line with the columns' names.
    let last = text.lines().skip(usize::from(after.is_none())).last().map(position);
    assert_eq!(export.taken, last.or(after), "all is taken");
    drop(export);
    assert_eq!(budget.used_bytes(), 0);
    text
}

/// The position behind a line.
fn position(line: &str) -> Position {
    let id = line.split_once(',').unwrap().0;
    let at_ms = line.rsplit(',').nth(1).unwrap();
    format!("{id}@{at_ms}").parse().unwrap()
}

fn stored() -> impl Strategy<Value = Stored> {
    let samples = proptest::collection::btree_map(0..5 * DAY_MS, any::<i64>(), 1..40);
    let key = (prop_oneof![Just(""), Just("a"), Just("b-1")], prop_oneof![0..70_u32, 128..130_u32]);
    let series = (key, samples).prop_map(|((source, number), samples)| ((source.to_owned(), number), samples));
    proptest::collection::vec(series, 1..12).prop_map(|series| series.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_sample_comes_once_wherever_the_export_is_cut_off(
        stored in stored(), start_ms in 0..2 * DAY_MS, end_ms in 3 * DAY_MS..6 * DAY_MS, bytes in 300..20_000_usize, cut in any::<prop::sample::Index>(),
    ) {
        let range = TimeRange { start_ms, end_ms };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let whole = runtime.block_on(export(&stored, range, None, 1 << 30, usize::MAX));
        let mut expected: Vec<(String, i64)> = Vec::new();
        for ((source, number), samples) in &stored {
            expected.extend(samples.range(start_ms..=end_ms).map(|(at_ms, _)| (format!("{source}/{number}"), *at_ms)));
        }
        let mut lines = whole.lines();
        prop_assert_eq!(lines.next(), Some("id,type,series,timestamp_ms,value"));
        let lines: Vec<&str> = lines.collect();
        let mut found: Vec<(String, i64)> = lines.iter().map(|line| position(line)).map(|at| (format!("{}/{}", at.source, at.number), at.at_ms)).collect();
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(&runtime.block_on(export(&stored, range, None, bytes, 1)), &whole, "with little memory");
        if !lines.is_empty() {
            let cut = cut.index(lines.len());
            let rest = runtime.block_on(export(&stored, range, Some(position(lines[cut])), bytes, 1));
            prop_assert_eq!(rest.lines().collect::<Vec<_>>(), &lines[cut + 1..]);
        }
    }
}

#[tokio::test]
async fn a_reader_that_is_slow_gets_every_sample_once() {
    let series = |value: i64| (0..20_000).map(|at| (at * 10_000, value + at)).collect();
    let stored: Stored = [(("a".to_owned(), 1), series(5)), (("a".to_owned(), 2), series(7)), (("b".to_owned(), 3), series(9))].into();
    let range = TimeRange { start_ms: 0, end_ms: i64::MAX };
    let whole = export(&stored, range, None, 1 << 30, usize::MAX).await;
    assert_eq!(whole.lines().count(), 60_001);
    for slow_every in [1, 2, 7] {
        assert!(export(&stored, range, None, 1 << 20, slow_every).await == whole, "slow every {slow_every} pieces");
    }
}

/// Takes so many pieces and no more.
struct Full {
    bytes: Vec<u8>,
    room: usize,
}

impl Sink for Full {
    async fn offer(&mut self, piece: Bytes) -> Result<Option<Bytes>, ExportError> {
        self.send(piece).await.map(|()| None)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), ExportError> {
        self.room = self.room.checked_sub(1).ok_or_else(|| ExportError::Gone("it is full".into()))?;
        self.bytes.extend_from_slice(&piece);
        Ok(())
    }
}

#[tokio::test]
async fn an_export_goes_on_where_its_output_took_nothing_more() {
    let series = |value: i64| (0..10_000).map(|at| (at * 10_000, value + at)).collect();
    let stored: Stored = [(("a".to_owned(), 1), series(5)), (("b".to_owned(), 2), series(7))].into();
    let range = TimeRange { start_ms: 0, end_ms: i64::MAX };
    let whole = export(&stored, range, None, 1 << 30, usize::MAX).await;
    let mut cut_off = 0;
    loop {
        let request = ExportRequest { any: Vec::new(), range, after: None, format: Format::Csv };
        let history = Arc::new(TestHistory(stored.clone()));
        let mut one = Export::open(history, MemoryBudget::new(1 << 30), Duration::from_secs(30), request).await.unwrap();
        let mut full = Full { bytes: Vec::new(), room: cut_off };
        if one.run(&mut full).await.is_ok() {
            break;
        }
        let text = String::from_utf8(full.bytes).unwrap();
        assert_eq!(one.taken, text.lines().next_back().map(position), "{cut_off} pieces");
        if let Some(taken) = one.taken {
            let rest = export(&stored, range, Some(taken), 1 << 30, usize::MAX).await;
            assert!(text + &rest == whole, "{cut_off} pieces");
        }
        cut_off += 1;
    }
    assert!(cut_off > 5, "{cut_off} pieces");
}

#[tokio::test]
async fn a_position_of_a_series_that_is_gone_goes_on_behind_it() {
    let samples: BTreeMap<i64, i64> = [(5, 1), (DAY_MS + 5, 2)].into();
    let stored: Stored = [(("b".to_owned(), 2), samples.clone()), (("b".to_owned(), 70), samples)].into();
    let range = TimeRange { start_ms: 0, end_ms: i64::MAX };
    for (after, expected) in [
        ("a/9@5", vec!["b/2@5", "b/2@86400005", "b/70@5", "b/70@86400005"]),
        ("b/1@5", vec!["b/2@5", "b/2@86400005", "b/70@5", "b/70@86400005"]),
        ("b/1@86400005", vec!["b/2@86400005", "b/70@5", "b/70@86400005"]),
        ("b/3@5", vec!["b/2@86400005", "b/70@5", "b/70@86400005"]),
        ("b/65@5", vec!["b/70@5", "b/70@86400005"]),
        ("b/2@9223372036854775807", vec!["b/70@5", "b/70@86400005"]),
        ("b/200@0", vec![]),
        ("c/0@0", vec![]),
    ] {
        let rest = export(&stored, range, Some(after.parse().unwrap()), 1 << 20, 1).await;
        let found: Vec<String> = rest.lines().map(|line| position(line).to_string()).collect();
        assert_eq!(found, expected, "{after}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_export_waits_for_memory_that_queries_have() {
    let stored: Stored = [(("a".to_owned(), 1), [(5, 1)].into())].into();
    let budget = MemoryBudget::new(100_000);
    let open = async || {
        let request = ExportRequest { any: Vec::new(), range: TimeRange { start_ms: 0, end_ms: 9 }, after: None, format: Format::Csv };
        Export::open(Arc::new(TestHistory(stored.clone())), Arc::clone(&budget), Duration::from_secs(30), request).await.unwrap()
    };
    let mut query = budget.reserve(usize::MAX);
    query.grow(100_000).unwrap();
    let mut kept = Kept { bytes: Vec::new(), offered: 0, slow_every: 2 };
    let error = open().await.run(&mut kept).await.unwrap_err();
    assert!(matches!(error, ExportError::History(HistoryError::Memory(MemoryExceeded::AllQueries { .. }))), "{error}");
    let mut export = open().await;
    let (ran, ()) = tokio::join!(export.run(&mut kept), async {
        sleep(Duration::from_secs(5)).await;
        drop(query);
    });
    ran.unwrap();
    assert!(String::from_utf8(kept.bytes).unwrap().ends_with("a/1,counter,\"m{n=\"\"1\"\"}\",5,1\n"));
}
