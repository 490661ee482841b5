//! All that was acknowledged, and how what is stored differs from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use golectra_tests::{Client, encode};
use serde_json::Value;
use sqlx::PgConnection;

use super::{Answers, GAUGES, HOUR_MS, RANGE, SOURCES, Sent, as_double, delta, value};
use crate::results::say;

/// Samples of an export by source and name. A gauge's value as its bits, a counter's total as it is.
pub(super) type Exported = BTreeMap<(String, String), Vec<(i64, u64)>>;

/// The samples of lines of JSON.
pub(super) fn exported(text: &str) -> Exported {
    let mut found = Exported::new();
    for line in text.lines() {
        let json: Value = serde_json::from_str(line).expect("a line is an object");
        let label = |name: &str| json["metric"][name].as_str().expect("a label").to_owned();
        let samples = found.entry((label("instance"), label("__name__"))).or_default();
        let (times, values) = (json["timestamps_ms"].as_array().expect("times"), json["values"].as_array().expect("values"));
        assert_eq!(times.len(), values.len());
        let is_counter = json["type"] == "counter";
        samples.extend(times.iter().zip(values).map(|(at_ms, value)| {
            let bits = if is_counter { value.as_u64().expect("a total") } else { value.as_f64().expect("a number").to_bits() };
            (at_ms.as_i64().expect("a time"), bits)
        }));
    }
    found
}

/// What was sent, all of it acknowledged, and how it was answered meanwhile.
pub struct History {
    pub(super) sent: Arc<Sent>,
    pub(super) answers: Arc<Answers>,
}

/// Samples that are not as they were sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    lost: usize,
    doubled: usize,
    changed: usize,
}

impl History {
    /// The samples that were sent, by source and name.
    fn expected(&self) -> Exported {
        let mut expected = Exported::new();
        for (source, name) in SOURCES.iter().enumerate() {
            let of_source = self.sent.of(source);
            assert_eq!(of_source.sent.len(), of_source.acknowledged.len());
            for gauge in 0..GAUGES {
                let samples = of_source.sent.iter().map(|(at_ms, number)| (*at_ms, value(*number, gauge).to_bits())).collect();
                expected.insert(((*name).to_owned(), format!("g{gauge}")), samples);
            }
            let mut total = 0_i64;
            let totals = of_source.sent.iter().map(|(at_ms, number)| {
                total += delta(*number);
                (*at_ms, total.cast_unsigned())
            });
            expected.insert(((*name).to_owned(), "c".to_owned()), totals.collect());
        }
        expected
    }

    /// Reads all samples from this server, and says how they differ from those that were acknowledged. Panics where they do.
    pub async fn judge(&self, client: &Client, scenario: &str, faults: &str, start: Instant) {
        let expected = self.expected();
        let samples: usize = expected.values().map(Vec::len).sum();
        let mut found = exported(&client.get("/api/v1/export").send().await.expect(200).text());
        let difference = difference_of(&expected, &found);
        let (exact, errors) = (self.answers.exact.load(Ordering::SeqCst), self.answers.errors.load(Ordering::SeqCst));
        say(
            scenario,
            &format!(
                "{faults}; {} batches, {samples} samples acked; lost {}, doubled {}, changed {}; {exact} answers meanwhile were exact, \
                 {errors} errors, 0 wrong; {:.1} s",
                self.sent.next.load(Ordering::SeqCst),
                difference.lost,
                difference.doubled,
                difference.changed,
                start.elapsed().as_secs_f64(),
            ),
        );
        assert_eq!(difference, Difference::default());
        let of_gauges = samples / (usize::try_from(GAUGES).expect("few") + 1) * usize::try_from(GAUGES).expect("few");
        let query = encode(&format!("sum(count_over_time({{__name__=~\"g.+\"}}[{RANGE}]))"));
        let counted = client.get(&format!("/api/v1/query?query={query}")).send().await.expect(200).json();
        assert_eq!(counted["data"]["result"][0]["value"][1].as_str(), Some(&*of_gauges.to_string()), "{counted}");
        // The comparison sees what it has to see.
        let series = found.get_mut(&(SOURCES[0].to_owned(), "g0".to_owned())).expect("it has samples");
        let (first, second) = (series[0], series[1]);
        series.splice(..2, [second, second]);
        assert_eq!(difference_of(&expected, &found), Difference { lost: 1, doubled: 1, changed: 0 }, "{first:?}");
    }
}

/// What an hour's samples of a series come to: their number, the least, the largest and the last.
pub type Hour = (i32, f64, f64, f64);

impl History {
    /// Compares the rollups of an hour, as SQL reads them, with those of all samples. Panics where they differ.
    pub async fn judge_rollups(&self, connection: &mut PgConnection) {
        for ((source, name), samples) in self.expected() {
            let mut expected: BTreeMap<i64, Hour> = BTreeMap::new();
            for (at_ms, bits) in samples {
                let value = if name == "c" { as_double(bits.cast_signed()) } else { f64::from_bits(bits) };
                let hour = expected.entry(at_ms / HOUR_MS * HOUR_MS).or_insert((0, value, value, value));
                *hour = (hour.0 + 1, hour.1.min(value), hour.2.max(value), value);
            }
            let statement = "SELECT (extract(epoch FROM at) * 1000)::bigint, count, min, max, last FROM golectra.samples_hourly WHERE source = $1 AND name = $2";
            let rows: Vec<(i64, i32, f64, f64, f64)> =
                sqlx::query_as(statement).bind(&source).bind(&name).fetch_all(&mut *connection).await.expect("PostgreSQL answers");
            let found: BTreeMap<i64, Hour> =
                rows.into_iter().map(|(at_ms, count, min, max, last)| (at_ms, (count, min, max, last))).collect();
            assert_eq!(found, expected, "{source} {name}");
        }
    }
}

fn difference_of(expected: &Exported, found: &Exported) -> Difference {
    let mut difference = Difference::default();
    for (series, found) in found {
        let expected: BTreeMap<i64, u64> = expected.get(series).into_iter().flatten().copied().collect();
        let mut seen = BTreeSet::new();
        for (at_ms, bits) in found {
            match expected.get(at_ms) {
                Some(expected) if seen.insert(*at_ms) => difference.changed += usize::from(expected != bits),
                _ => difference.doubled += 1,
            }
        }
        difference.lost += expected.len() - seen.len();
    }
    difference.lost += expected.iter().filter(|(series, _)| !found.contains_key(series)).map(|(_, samples)| samples.len()).sum::<usize>();
    difference
}
