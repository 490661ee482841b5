//! Which series there are and what each body holds. All of it is computed from a seed, so that a ledger needs only the agent and
//! the body's number to know every value that was sent.

use std::fmt::Write as _;

use golectra_protocol::Kind;
use serde::{Deserialize, Serialize};

/// The series and bodies of a run.
///
/// Each agent is a source with `series` series of its own. They are cut into layouts of `metrics` series, the first
/// `counters` of each being counters; a body holds one layout, and an agent takes them in turn. The first counter of
/// every layout grows by 1 a batch, so that batches can be counted on the server; the others grow by 1 to 100.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// What every value follows from.
    pub seed: u64,
    /// What sources are called, before `-` and their number.
    pub source: String,
    /// How many agents there are.
    pub agents: u32,
    /// Metrics in a body.
    pub metrics: u32,
    /// How many of them are counters.
    pub counters: u32,
    /// Series of each agent, a multiple of `metrics`.
    pub series: u32,
    /// Bodies made beforehand, shared by all agents and sent again and again; 0 has each batch a body of its own.
    pub prepared: u32,
}

impl Workload {
    /// The name of an agent's source.
    pub fn source(&self, agent: u32) -> String {
        format!("{}-{agent}", self.source)
    }

    /// How many layouts an agent has.
    pub fn layouts(&self) -> u32 {
        self.series / self.metrics
    }

    /// The body of an agent's batch of this number.
    pub(crate) fn body(&self, agent: u32, number: u64) -> u64 {
        let (agent, agents) = (u64::from(agent), u64::from(self.agents));
        match u64::from(self.prepared) {
            0 => number * agents + agent,
            // Agents start at bodies far apart, so that the same one is seldom under way twice.
            prepared => (number + agent * (prepared / agents).max(1)) % prepared,
        }
    }

    /// The layout of a body.
    pub(crate) fn layout(&self, body: u64) -> u32 {
        let turn = if self.prepared == 0 { body / u64::from(self.agents) } else { body };
        u32::try_from(turn % u64::from(self.layouts())).expect("less than a u32")
    }

    /// The series of a layout: their numbers.
    pub(crate) fn series_of(&self, layout: u32) -> std::ops::Range<u32> {
        layout * self.metrics..(layout + 1) * self.metrics
    }

    /// Whether a series is a counter or a gauge.
    pub(crate) fn kind(&self, series: u32) -> Kind {
        if series % self.metrics < self.counters { Kind::Counter } else { Kind::Gauge }
    }

    /// A series' id.
    pub(crate) fn id(&self, series: u32) -> String {
        let mut id = String::new();
        self.write_id(series, &mut id);
        id
    }

    fn write_id(&self, series: u32, out: &mut String) {
        let name = match self.kind(series) {
            Kind::Counter => "load_counter_",
            Kind::Gauge => "load_gauge_",
        };
        // Writing to a string does not fail.
        let _ = write!(out, "{name}{series}");
    }

    /// Which series an id names.
    pub(crate) fn series_named(&self, id: &str) -> Option<u32> {
        let number = id.strip_prefix("load_counter_").or_else(|| id.strip_prefix("load_gauge_"))?;
        number.parse().ok().filter(|series| *series < self.series && self.id(*series) == id)
    }

    /// What a body adds to a counter.
    pub(crate) fn delta(&self, body: u64, series: u32) -> i64 {
        if series.is_multiple_of(self.metrics) {
            return 1;
        }
        1 + i64::try_from(self.random(body, series) % 100).expect("less than 100")
    }

    /// What a body sets a gauge to: half of them whole numbers such as sizes, half with every digit a double has.
    #[expect(clippy::cast_precision_loss, reason = "both have at most 53 bits, which a double holds exactly")]
    pub(crate) fn value(&self, body: u64, series: u32) -> f64 {
        let random = self.random(body, series);
        if series.is_multiple_of(2) { (random >> 24) as f64 } else { (random >> 11) as f64 / (1_u64 << 53) as f64 * 1000.0 }
    }

    /// SplitMix64 of seed, body and series.
    fn random(&self, body: u64, series: u32) -> u64 {
        let mut state = self.seed;
        for part in [body, u64::from(series)] {
            state = state.wrapping_add(part).wrapping_add(0x9E37_79B9_7F4A_7C15);
            state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            state ^= state >> 31;
        }
        state
    }

    /// The JSON of a body: an array of metrics, or one metric alone.
    pub(crate) fn json(&self, body: u64, alone: bool) -> Vec<u8> {
        let mut out = String::with_capacity(self.metrics as usize * 72 + 2);
        if !alone {
            out.push('[');
        }
        for series in self.series_of(self.layout(body)) {
            if !series.is_multiple_of(self.metrics) {
                out.push(',');
            }
            out.push_str("{\"id\":\"");
            self.write_id(series, &mut out);
            let _ = match self.kind(series) {
                Kind::Counter => write!(out, "\",\"type\":\"counter\",\"delta\":{}}}", self.delta(body, series)),
                Kind::Gauge => write!(out, "\",\"type\":\"gauge\",\"value\":{}}}", self.value(body, series)),
            };
        }
        if !alone {
            out.push(']');
        }
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use golectra_protocol::json::decode_metric;
    use golectra_protocol::{Metric, MetricId, Value};

    use super::*;

    fn workload() -> Workload {
        Workload { seed: 7, source: "load".to_owned(), agents: 3, metrics: 4, counters: 2, series: 12, prepared: 0 }
    }

    #[test]
    fn a_body_says_what_the_shape_says() {
        let workload = workload();
        let body = workload.body(1, 2);
        let expected: Vec<Metric> = workload
            .series_of(2)
            .map(|series| {
                let value = match workload.kind(series) {
                    Kind::Counter => Value::counter(workload.delta(body, series)),
                    Kind::Gauge => Value::gauge(workload.value(body, series)),
                };
                Metric { id: MetricId::parse(&workload.id(series)).unwrap(), value: value.unwrap() }
            })
            .collect();
        let written: Vec<serde_json::Value> = serde_json::from_slice(&workload.json(body, false)).unwrap();
        let read: Vec<Metric> = written.iter().map(|metric| decode_metric(metric.to_string().as_bytes()).unwrap()).collect();
        assert_eq!(read, expected);
        let one = Workload { metrics: 1, counters: 1, ..workload };
        assert_eq!(one.json(5, true), br#"{"id":"load_counter_1","type":"counter","delta":1}"#);
    }

    #[test]
    fn every_agent_takes_every_layout_and_no_body_twice() {
        for prepared in [0, 12] {
            let workload = Workload { prepared, ..workload() };
            let mut layouts = BTreeMap::<u32, BTreeSet<u32>>::new();
            let mut bodies = BTreeSet::new();
            for number in 0..4 {
                for agent in 0..workload.agents {
                    let body = workload.body(agent, number);
                    layouts.entry(agent).or_default().insert(workload.layout(body));
                    assert!(bodies.insert(body), "{prepared}: {agent} {number}");
                }
            }
            assert!(layouts.values().all(|layouts| layouts.len() == 3), "{layouts:?}");
        }
    }

    #[test]
    fn a_gauges_values_differ_from_body_to_body() {
        let workload = workload();
        for series in [2, 3] {
            let values: BTreeSet<u64> = (0..1000).map(|body| workload.value(body, series).to_bits()).collect();
            assert_eq!(values.len(), 1000);
        }
    }

    #[test]
    fn ids_read_back() {
        let workload = workload();
        for series in 0..workload.series {
            assert_eq!(workload.series_named(&workload.id(series)), Some(series));
        }
        for id in ["load_counter_2", "load_counter_12", "load_counter_00", "PollCount", "load_gauge_"] {
            assert_eq!(workload.series_named(id), None, "{id}");
        }
    }
}
