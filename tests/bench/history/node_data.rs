//! Samples of nodes: all 445 series of a recorded node, where is measured how much room they take; or some under the names of node_exporter's, of which
//! some count, some wander and most rest.

use std::sync::{Arc, OnceLock};

use fastrand::Rng;

/// How many series the recorded node has.
pub const RECORDED_SERIES: usize = golectra_recorded::SERIES;

/// How a value moves.
#[derive(Debug, Clone, Copy)]
enum Movement {
    /// It stays.
    Constant,
    /// A counter of hundredths: CPU seconds.
    Hundredths { busy: f64 },
    /// A counter of whole numbers that rests in some intervals: bytes, packets.
    Count { most: u64, rests: f64 },
    /// A gauge of two decimals, such as load.
    Load,
}

/// One generated series of a node.
struct Series {
    /// Name and labels without `instance`, the name under `__name__`.
    labels: Vec<(String, String)>,
    movement: Movement,
    value: f64,
}

/// A node whose samples are made one interval after the other.
pub struct Node {
    /// What `instance` says.
    pub instance: String,
    samples: Samples,
}

enum Samples {
    Recorded { node: Arc<golectra_recorded::Node>, next_report: usize },
    Generated { series: Vec<Series>, rng: Rng },
}

/// How many reports of the recorded node lie between what one node and the next begin with.
const REPORTS_APART: usize = 37;

impl Node {
    /// The node of this number with so many series; the same numbers have the same samples each time. With [`RECORDED_SERIES`] they are the recorded node's,
    /// from another report on for each number; with fewer they are generated, the first ones being load, CPU seconds and network.
    pub fn new(number: usize, series_per_node: usize) -> Self {
        static RECORDED: OnceLock<Arc<golectra_recorded::Node>> = OnceLock::new();
        let samples = if series_per_node == RECORDED_SERIES {
            let node = RECORDED.get_or_init(|| Arc::new(golectra_recorded::Node::load()));
            Samples::Recorded { node: Arc::clone(node), next_report: number * REPORTS_APART }
        } else {
            Samples::generated(number, series_per_node)
        };
        Self { instance: format!("node-{number:03}:9100"), samples }
    }

    /// The labels of each series, `instance` and `job` among them, sorted by name as remote-write wants them.
    pub fn labels(&self) -> Vec<Vec<(String, String)>> {
        let mut all: Vec<Vec<(String, String)>> = match &self.samples {
            Samples::Recorded { node, .. } => node.labels().collect(),
            Samples::Generated { series, .. } => series.iter().map(|series| series.labels.clone()).collect(),
        };
        for labels in &mut all {
            labels.extend([("instance".to_owned(), self.instance.clone()), ("job".to_owned(), "node".to_owned())]);
            labels.sort();
        }
        all
    }

    /// The values of the next interval, in the order of the labels.
    pub fn advance(&mut self) -> Vec<f64> {
        match &mut self.samples {
            Samples::Recorded { node, next_report } => {
                *next_report += 1;
                node.report(*next_report - 1).collect()
            }
            Samples::Generated { series, rng } => series.iter_mut().map(|series| series.advance(rng)).collect(),
        }
    }
}

impl Samples {
    fn generated(number: usize, series_per_node: usize) -> Self {
        let mut rng = Rng::with_seed(number as u64 + 1);
        let mut series = Vec::new();
        let mut add = |rng: &mut Rng, name: &str, labels: &[(&str, &str)], movement: Movement| {
            let name = ("__name__".to_owned(), name.to_owned());
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let value = match movement {
                Movement::Hundredths { .. } => f64::from(rng.u32(0..9_000_000)) / 100.0,
                Movement::Load => f64::from(rng.u32(0..400)) / 100.0,
                Movement::Count { .. } => f64::from(rng.u32(0..u32::MAX)),
                Movement::Constant => f64::from(rng.u32(0..3)) * f64::from(rng.u32(0..100_000)),
            };
            series.push(Series { labels: std::iter::once(name).chain(labels).collect(), movement, value });
        };
        for name in ["node_load1", "node_load5", "node_load15"] {
            add(&mut rng, name, &[], Movement::Load);
        }
        for cpu in ["0", "1", "2", "3"] {
            for (mode, busy) in [
                ("idle", 0.9),
                ("user", 0.06),
                ("system", 0.03),
                ("iowait", 0.01),
                ("irq", 0.0),
                ("nice", 0.0),
                ("softirq", 0.005),
                ("steal", 0.0),
            ] {
                add(&mut rng, "node_cpu_seconds_total", &[("cpu", cpu), ("mode", mode)], Movement::Hundredths { busy });
            }
        }
        for device in ["eth0", "eth1", "cni0", "lo"] {
            for (kind, most) in [("bytes", 4_000_000), ("packets", 4_000), ("errs", 0), ("drop", 0), ("fifo", 0), ("multicast", 3)] {
                for direction in ["receive", "transmit"] {
                    let movement = if most == 0 { Movement::Constant } else { Movement::Count { most, rests: 0.1 } };
                    add(&mut rng, &format!("node_network_{direction}_{kind}_total"), &[("device", device)], movement);
                }
            }
        }
        assert!(series.len() >= series_per_node, "so many series are not generated");
        series.truncate(series_per_node);
        Self::Generated { series, rng }
    }
}

impl Series {
    /// The value of the next interval.
    fn advance(&mut self, rng: &mut Rng) -> f64 {
        self.value = match self.movement {
            Movement::Hundredths { busy } => {
                let ticks = (busy * 1000.0 * (0.5 + rng.f64())).round();
                ((self.value * 100.0).round() + ticks) / 100.0
            }
            Movement::Count { most, rests } if rng.f64() >= rests => self.value + f64::from(u32::try_from(rng.u64(0..=most)).unwrap_or(0)),
            Movement::Constant | Movement::Count { .. } => self.value,
            Movement::Load => ((self.value * 100.0).round() + f64::from(rng.i32(-9..=9))).max(0.0) / 100.0,
        };
        self.value
    }
}
