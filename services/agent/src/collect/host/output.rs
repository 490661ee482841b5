//! What a collector of the host has measured.
//!
//! A host has a thousand series that hardly ever change, so their ids are written once and found again by their position: a collector reports the same
//! series in the same order each time. A series that is new or gone moves the others, which is found by looking a little further.

use std::sync::Arc;

use golectra_protocol::{MetricId, catalog, json};

use super::filter::Filter;
use crate::collect::collector::Readings;
use crate::metrics::SkipReason;

/// How far a series is searched that does not follow the one before.
const LOOK_AHEAD: usize = 512;

/// A gauge as a report has it.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderedGauge {
    /// The metric object as JSON up to its value.
    pub start: Arc<str>,
    /// The value, a finite number.
    pub value: f64,
}

/// A metric's name in three parts, so that one with a part from the system need not be put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a>(pub(super) &'a str, pub(super) &'a str, pub(super) &'a str);

impl<'a> From<&'a str> for Name<'a> {
    fn from(name: &'a str) -> Self {
        Self(name, "", "")
    }
}

/// The series of one collector.
pub(super) struct Output {
    known: Vec<Known>,
    /// How many of them this round has passed.
    passed: usize,
    gauges: Vec<RenderedGauge>,
    max_series: usize,
    filter: Arc<Filter>,
    over_limit: u64,
    /// What is beyond other limits than that of series: how much, and the limit.
    beyond: Vec<(u64, String)>,
    invalid: Vec<(SkipReason, String)>,
}

struct Known {
    /// Name, keys and values, each with a NUL behind it.
    key: Box<str>,
    /// None for a series that cannot have an id or is filtered out.
    start: Option<Arc<str>>,
}

impl Output {
    pub(super) fn new(max_series: usize, filter: Arc<Filter>) -> Self {
        Self {
            known: Vec::new(),
            passed: 0,
            gauges: Vec::new(),
            max_series,
            filter,
            over_limit: 0,
            beyond: Vec::new(),
            invalid: Vec::new(),
        }
    }

    /// Adds a gauge. Labels without a value are as if they were not there.
    pub(super) fn gauge<'a>(&mut self, name: impl Into<Name<'a>>, labels: &[(&str, &str)], value: f64) {
        let name = name.into();
        if self.gauges.len() == self.max_series {
            self.over_limit += 1;
            return;
        }
        let ahead = self.known[self.passed..].iter().take(LOOK_AHEAD).position(|known| known.is(name, labels));
        if let Some(gone) = ahead {
            self.known.drain(self.passed..self.passed + gone);
        } else {
            let known = self.create(name, labels);
            self.known.insert(self.passed, known);
        }
        let known = &self.known[self.passed];
        self.passed += 1;
        let Some(start) = &known.start else { return };
        if value.is_finite() {
            self.gauges.push(RenderedGauge { start: Arc::clone(start), value });
        } else {
            self.invalid.push((SkipReason::InvalidValue, format!("{start}{value}")));
        }
    }

    /// As many things of a list as are reported at most; the others are counted. `what` is what they are called.
    pub(super) fn first<'a, T>(&mut self, list: &'a [T], limit: usize, what: &str) -> &'a [T] {
        let (first, rest) = list.split_at(list.len().min(limit));
        if !rest.is_empty() {
            self.beyond.push((rest.len() as u64, format!("more than {limit} {what}")));
        }
        first
    }

    /// Counts a series that was there already.
    pub(super) fn duplicate(&mut self, name: &str) {
        self.invalid.push((SkipReason::Duplicate, name.to_owned()));
    }

    /// Adds a gauge with a whole number.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; node_exporter's are as well")]
    pub(super) fn count<'a>(&mut self, name: impl Into<Name<'a>>, labels: &[(&str, &str)], value: u64) {
        self.gauge(name, labels, value as f64);
    }

    fn create(&mut self, Name(before, part, after): Name<'_>, labels: &[(&str, &str)]) -> Known {
        let name = format!("{before}{part}{after}");
        let is_reported = self.filter.allows(&name, labels);
        let mut key = name.clone() + "\0";
        for text in labels.iter().flat_map(|(label, value)| [label, value]) {
            key.push_str(text);
            key.push('\0');
        }
        let start = match MetricId::from_parts(&name, labels.iter().copied().chain([("job", catalog::NODE_JOB)])) {
            Ok(_) if !is_reported => None,
            Ok(id) => Some(json::gauge_start(&id).into()),
            Err(error) => {
                self.invalid.push((SkipReason::InvalidId, format!("{}: {error}", name.escape_default())));
                None
            }
        };
        Known { key: key.into(), start }
    }

    /// Moves what was measured to `readings` and begins the next round. Series that were not seen are forgotten.
    pub(super) fn finish(&mut self, readings: &mut Readings) {
        self.known.truncate(self.passed);
        self.passed = 0;
        readings.gauges.append(&mut self.gauges);
        readings.skip(SkipReason::Limit, std::mem::take(&mut self.over_limit), format_args!("more than {} series", self.max_series));
        for (count, limit) in self.beyond.drain(..) {
            readings.skip(SkipReason::Limit, count, limit);
        }
        for (reason, example) in self.invalid.drain(..) {
            readings.skip(reason, 1, example);
        }
    }
}

impl Known {
    fn is(&self, Name(before, part, after): Name<'_>, labels: &[(&str, &str)]) -> bool {
        let mut rest: &str = &self.key;
        for text in [before, part, after] {
            match rest.strip_prefix(text) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        let mut texts = std::iter::once("").chain(labels.iter().flat_map(|(label, value)| [*label, *value]));
        texts.all(|text| match rest.strip_prefix(text).and_then(|rest| rest.strip_prefix('\0')) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        }) && rest.is_empty()
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! What a collector reports, as text.

    use super::*;

    impl Output {
        /// Each gauge as `name{label="value"} value`, without the label `job`. Checks that the catalog has all of them.
        pub(in super::super) fn texts(&mut self) -> Vec<String> {
            let mut readings = Readings::default();
            self.finish(&mut readings);
            readings.gauges.iter().map(text).collect()
        }
    }

    /// A gauge as a line of the text format without `job`; checks it against the catalog.
    pub(in super::super) fn text(gauge: &RenderedGauge) -> String {
        let json = format!("{}{}}}", gauge.start, gauge.value);
        let metric = json::decode_metric(json.as_bytes()).expect("a metric object");
        let parts = metric.id.parts();
        let (group, row) = catalog::find(&parts.name).unwrap_or_else(|| panic!("the catalog does not have {}", parts.name));
        assert_eq!(parts.label("job"), group.job, "{}", metric.id);
        let labels: Vec<_> =
            parts.labels.iter().filter(|(key, _)| key != "job").map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
        for (key, _) in &labels {
            assert!(row.labels.contains(key), "the catalog's row of {} does not have the label {key}", parts.name);
        }
        format!("{} {}", MetricId::from_parts(&parts.name, labels).expect("an id"), gauge.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_once_and_found_again_however_the_list_changes() {
        let mut output = Output::new(10_000, Arc::default());
        let mut round = |devices: &[&str]| {
            for device in devices {
                output.gauge("node_load1", &[], 1.0);
                output.count(Name("node_vmstat_", device, ""), &[], 2);
                output.gauge("node_disk_io_now", &[("device", device), ("none", "")], 3.0);
            }
            let mut readings = Readings::default();
            output.finish(&mut readings);
            readings.gauges.into_iter().map(|gauge| gauge.start).collect::<Vec<_>>()
        };
        let first = round(&["a", "b", "c"]);
        assert_eq!(&*first[2], r#"{"id":"node_disk_io_now{device=\"a\",job=\"node-exporter\"}","type":"gauge","value":"#);
        assert_eq!(first.len(), 9);
        let kept = |old: &[Arc<str>], new: &[Arc<str>]| new.iter().filter(|one| old.iter().any(|other| Arc::ptr_eq(one, other))).count();
        let second = round(&["a", "b", "c"]);
        assert_eq!((kept(&first, &second), &second), (9, &first));
        let without = round(&["a", "c"]);
        assert_eq!(kept(&second, &without), 6, "those that stay are the same");
        let with = round(&["a", "ab", "c"]);
        assert_eq!(with, round(&["a", "ab", "c"]));
        assert_eq!(round(&["a", "b", "c"]), first);
    }

    #[test]
    fn what_no_metric_can_have_is_counted_and_so_is_what_is_over_the_limit() {
        let mut output = Output::new(2, Arc::default());
        output.gauge("node_load1", &[], f64::NAN);
        output.gauge("node_load5", &[("x", "\0")], 1.0);
        for _ in 0..3 {
            output.gauge("node_load15", &[], 1.0);
        }
        assert_eq!(output.first(&[1, 2, 3], 3, "numbers"), [1, 2, 3]);
        assert_eq!(output.first(&[1, 2, 3], 1, "numbers"), [1]);
        let mut readings = Readings::default();
        output.finish(&mut readings);
        assert_eq!(readings.gauges.len(), 2);
        let skipped: Vec<_> = readings.skipped.iter().map(|(reason, skipped)| (*reason, skipped.count)).collect();
        assert_eq!(skipped, [(SkipReason::InvalidId, 1), (SkipReason::InvalidValue, 1), (SkipReason::Limit, 3)]);
    }
}
