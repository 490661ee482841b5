//! An hour of a real node's samples, for tests and benchmarks of how much room samples take: generated values say more with each sample, or less.
//!
//! `data/README.md` says how they were recorded.
#![deny(missing_docs)]

use std::io::Read as _;

/// How many series there are.
pub const SERIES: usize = 445;

/// The series of a node, as node_exporter named them, with a value for every 10 seconds.
pub struct Node {
    series: Vec<Series>,
}

struct Series {
    id: String,
    /// The values as integers.
    integers: Vec<i64>,
    /// What values that never fall within the hour rise by from one repetition to the next; zero for others.
    step: i64,
    unit: Unit,
}

/// How an integer becomes a value, as node_exporter does it: with its rounding, or the values would say less than real ones.
#[derive(Clone, Copy)]
enum Unit {
    /// Divided by a power of ten.
    Divided(i32),
    /// Microseconds, divided by 1,000 twice.
    DividedTwice,
    /// Milliseconds, multiplied by 0.001.
    Multiplied,
}

impl Unit {
    fn read(text: &str) -> Option<Self> {
        match text {
            "3/3" => Some(Self::DividedTwice),
            "*3" => Some(Self::Multiplied),
            digits => digits.parse().ok().map(Self::Divided),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "node_exporter converts them the same way")]
    fn value(self, integer: i64) -> f64 {
        let value = integer as f64;
        match self {
            Self::Divided(digits) => value / 10_f64.powi(digits),
            Self::DividedTwice => value / 1000.0 / 1000.0,
            Self::Multiplied => value * 0.001,
        }
    }
}

impl Node {
    /// The recorded node.
    ///
    /// # Panics
    /// If the data in the program is not what it should be.
    #[must_use]
    pub fn load() -> Self {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&include_bytes!("../data/node.tsv.gz")[..]).read_to_string(&mut text).expect("text in gzip");
        let series = text.lines().map(|line| Series::read(line).unwrap_or_else(|| panic!("not a series: {line:.100}"))).collect();
        Self { series }
    }

    /// Each series' name and labels in Prometheus's text format.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.series.iter().map(|series| series.id.as_str())
    }

    /// Each series' labels, the name under `__name__`, in the order of the ids. No label's value has a quotation mark or a comma.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = Vec<(String, String)>> {
        self.ids().map(|id| {
            let (name, labels) = id.strip_suffix('}').and_then(|id| id.split_once('{')).unwrap_or((id, ""));
            let pairs = labels.split_terminator(',').filter_map(|label| label.split_once('='));
            let pairs = pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
            std::iter::once(("__name__".to_owned(), name.to_owned())).chain(pairs).collect()
        })
    }

    /// In how many of the recorded reports each series has another value than in the one before, in the order of the ids.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = usize> {
        self.series.iter().map(|series| series.integers.windows(2).filter(|pair| pair[0] != pair[1]).count())
    }

    /// The values of a report, in the order of the ids. After the last recorded report the first one follows again; what never falls, as counters do not, goes on.
    pub fn report(&self, number: usize) -> impl ExactSizeIterator<Item = f64> {
        self.series.iter().map(move |series| {
            let repetition = i64::try_from(number / series.integers.len()).expect("not that many reports");
            series.unit.value(series.integers[number % series.integers.len()] + repetition * series.step)
        })
    }
}

impl Series {
    /// A line: the id, the unit, then the values as integers: the first, and what each adds to the one before, where it adds something.
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let (id, unit) = (fields.next()?.to_owned(), Unit::read(fields.next()?)?);
        let mut integers = Vec::new();
        let mut integer = 0_i64;
        for field in fields {
            integer += if field.is_empty() { 0 } else { field.parse::<i64>().ok()? };
            integers.push(integer);
        }
        let (first, last) = (integers.first()?, integers.last()?);
        // The interval between two repetitions adds what the last one added.
        let between = integers.len().checked_sub(2).map_or(0, |before| last - integers[before]);
        let step = if integers.is_sorted() { last - first + between } else { 0 };
        Some(Self { id, integers, step, unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_and_gauges_begin_again() {
        let counter = Series::read("a_total{x=\"y\"}\t2\t100\t\t25").unwrap();
        let gauge = Series::read("b\t0\t7\t-2\t1").unwrap();
        let node = Node { series: vec![counter, gauge] };
        let reports: Vec<Vec<f64>> = (0..5).map(|number| node.report(number).collect()).collect();
        assert_eq!(reports, [[1.0, 7.0], [1.0, 5.0], [1.25, 6.0], [1.5, 7.0], [1.5, 5.0]]);
        assert_eq!(node.changes().collect::<Vec<_>>(), [1, 2]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let labels: Vec<_> = node.labels().collect();
        assert_eq!(labels, [vec![pair("__name__", "a_total"), pair("x", "y")], vec![pair("__name__", "b")]]);
    }

    #[test]
    fn the_data_is_an_hour_of_a_node() {
        let node = Node::load();
        assert_eq!(node.ids().len(), SERIES);
        let ids: std::collections::HashSet<&str> = node.ids().collect();
        assert_eq!(ids.len(), SERIES, "each series once");
        for asked_for in [
            "node_load1",
            r#"node_cpu_seconds_total{cpu="1",mode="idle"}"#,
            r#"node_cpu_seconds_total{cpu="1",mode="user"}"#,
            r#"node_network_receive_bytes_total{device="eth0"}"#,
        ] {
            assert!(ids.contains(asked_for), "the benchmarks ask for {asked_for}");
        }
        assert!(node.series.iter().all(|series| series.integers.len() == node.series[0].integers.len() && series.integers.len() >= 360));
        for (id, labels) in node.ids().zip(node.labels()) {
            let pairs: Vec<String> = labels[1..].iter().map(|(name, value)| format!(r#"{name}="{value}""#)).collect();
            let again = if pairs.is_empty() { labels[0].1.clone() } else { format!("{}{{{}}}", labels[0].1, pairs.join(",")) };
            assert_eq!(again, id, "no label's value has a character that `labels` does not expect");
        }
    }
}
