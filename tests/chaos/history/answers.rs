//! Questions while history is written, and what their answers have to be.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

use golectra_tests::{Client, encode, unix_millis};
use serde_json::Value;

use super::stored::exported;
use super::{HOUR_MS, RANGE, SOURCES, Sent, as_double, delta, signed, value};

/// The series whose samples are asked for together, from both blocks.
const ASKED: [&str; 3] = ["g0", "g65", "c"];

/// Asks something about a source; false where the answer is an error. Panics where it is wrong.
pub(super) async fn ask(sent: &Sent, client: &Client, number: usize) -> bool {
    let (source, at_seconds) = (number / 5 % SOURCES.len(), unix_millis() / 1000);
    let instance = SOURCES[source];
    let before = sent.of(source).acknowledged.clone();
    let query = |text: &str| format!("/api/v1/query?time={at_seconds}&query={}", encode(text));
    let start_ms = signed(sent.start_ms);
    let path = match number % 5 {
        0 => query(&format!("{{instance=\"{instance}\",__name__=~\"{}\"}}[{RANGE}]", ASKED.join("|"))),
        1 => format!(
            "/api/v1/export?match[]={}&start={}&end={}",
            encode(&format!("g7{{instance=\"{instance}\"}}")),
            start_ms / 1000,
            (start_ms + 3 * HOUR_MS) / 1000
        ),
        2 => query(&format!("count_over_time(g3{{instance=\"{instance}\"}}[{RANGE}])")),
        3 => query(&format!("last_over_time(c{{instance=\"{instance}\"}}[{RANGE}])")),
        _ => format!(
            "/api/v1/query_range?query={}&start={}&end={}&step=3600",
            encode(&format!("count_over_time(g65{{instance=\"{instance}\"}}[1h])")),
            start_ms / 1000 + 3600,
            start_ms / 1000 + 40 * 3600
        ),
    };
    let Some(answer) = client.try_get(&path).await else { return false };
    if answer.status != 200 {
        assert!(matches!(answer.status, 503 | 504), "{path}: {answer:?}");
        return false;
    }
    let after = sent.of(source).sent.clone();
    let known = Known { before: &before, after: &after, what: &path };
    match number % 5 {
        0 => known.check_snapshot(&answer.json()),
        1 => known.check_export(&answer.text(), start_ms..start_ms + 3 * HOUR_MS),
        2 => known.check_between(count(before.len())..=count(after.len()), answer.json()["data"]["result"][0]["value"][1].as_str()),
        3 => {
            let sum = |numbers: &mut dyn Iterator<Item = u64>| as_double(numbers.map(delta).sum());
            let acknowledged = sum(&mut before.iter().map(|at_ms| after[at_ms]));
            known.check_between(acknowledged..=sum(&mut after.values().copied()), answer.json()["data"]["result"][0]["value"][1].as_str());
        }
        _ => known.check_hours(&answer.json()),
    }
    true
}

fn count(samples: usize) -> f64 {
    as_double(i64::try_from(samples).expect("few samples"))
}

/// What there is to compare an answer with.
struct Known<'a> {
    /// The times of batches that were acknowledged before the question.
    before: &'a BTreeSet<i64>,
    /// All batches that were sent before the answer.
    after: &'a BTreeMap<i64, u64>,
    /// What was asked.
    what: &'a str,
}

impl Known<'_> {
    /// All series of a query see the same batches, and the counter's totals are the sums of them.
    fn check_snapshot(&self, json: &Value) {
        let found = json["data"]["result"].as_array().expect("a list");
        if found.is_empty() {
            assert!(self.before.is_empty(), "nothing is found: {}", self.what);
            return;
        }
        assert_eq!(found.len(), ASKED.len(), "{}", self.what);
        let mut times: Option<Vec<i64>> = None;
        for series in found {
            let name = series["metric"]["__name__"].as_str().expect("a name");
            let samples: Vec<(i64, f64)> = series["values"].as_array().expect("samples").iter().map(sample).collect();
            let mut total = 0;
            self.check_times(name, samples.iter().map(|(at_ms, _)| *at_ms), i64::MIN..i64::MAX);
            for (at_ms, found) in &samples {
                let number = self.after[at_ms];
                let expected = if let Some(gauge) = name.strip_prefix('g') {
                    value(number, gauge.parse().expect("a number"))
                } else {
                    total += delta(number);
                    as_double(total)
                };
                assert_eq!(found.to_bits(), expected.to_bits(), "{name} at {at_ms} is {found}, not {expected}: {}", self.what);
            }
            let of_series: Vec<i64> = samples.into_iter().map(|(at_ms, _)| at_ms).collect();
            assert!(times.get_or_insert_with(|| of_series.clone()) == &of_series, "{name} has other batches: {}", self.what);
        }
    }

    /// Times of a series within a range: what was acknowledged before, nothing that was not sent, each once.
    fn check_times(&self, name: &str, times: impl Iterator<Item = i64>, range: Range<i64>) {
        let mut last = None;
        let mut found = BTreeSet::new();
        for at_ms in times {
            assert!(last < Some(at_ms), "{name} has {at_ms} behind {last:?}: {}", self.what);
            assert!(self.after.contains_key(&at_ms), "{name} has a sample at {at_ms}, which nobody sent: {}", self.what);
            last = Some(at_ms);
            found.insert(at_ms);
        }
        let missing: Vec<&i64> = self.before.range(range).filter(|at_ms| !found.contains(at_ms)).collect();
        assert!(missing.is_empty(), "{name} lacks {} acknowledged samples, {:?}…: {}", missing.len(), &missing[..1], self.what);
    }

    fn check_export(&self, text: &str, range: Range<i64>) {
        let found = exported(text);
        assert!(found.len() < 2, "{}", self.what);
        let samples = found.into_values().next().unwrap_or_default();
        self.check_times("g7", samples.iter().map(|(at_ms, _)| *at_ms), range);
        for (at_ms, found) in samples {
            assert_eq!(found, value(self.after[&at_ms], 7).to_bits(), "{at_ms}: {}", self.what);
        }
    }

    #[track_caller]
    fn check_between(&self, expected: RangeInclusive<f64>, found: Option<&str>) {
        let found = found.map_or(0.0, |text| text.parse().expect("a number"));
        assert!(expected.contains(&found), "{found} is not in {expected:?}: {}", self.what);
    }

    fn check_hours(&self, json: &Value) {
        let found = json["data"]["result"].as_array().expect("a list");
        assert!(found.len() < 2, "{}", self.what);
        let samples: BTreeMap<i64, f64> =
            found.iter().flat_map(|series| series["values"].as_array().expect("samples")).map(sample).collect();
        let hours: BTreeSet<i64> =
            self.after.keys().map(|at_ms| at_ms / HOUR_MS * HOUR_MS + HOUR_MS).chain(samples.keys().copied()).collect();
        for hour in hours {
            let of_hour = hour - HOUR_MS..hour;
            let (least, most) = (self.before.range(of_hour.clone()).count(), self.after.range(of_hour).count());
            let found = samples.get(&hour).copied().unwrap_or_default();
            assert!((count(least)..=count(most)).contains(&found), "{found} samples up to {hour}, not {least} to {most}: {}", self.what);
        }
    }
}

/// A sample of an answer: unix milliseconds and a value.
fn sample(sample: &Value) -> (i64, f64) {
    #[expect(clippy::cast_possible_truncation, reason = "a time in milliseconds")]
    let at_ms = (sample[0].as_f64().expect("a time") * 1000.0).round() as i64;
    (at_ms, sample[1].as_str().expect("a value").parse().expect("a number"))
}
