//! Samples as node_exporter's: up to 445 series a node, of which some count, some wander and most rest.

use fastrand::Rng;

/// The most series of a node. The first ones are load, CPU seconds and network.
pub const MAX_SERIES: usize = 445;

/// How a value moves.
#[derive(Debug, Clone, Copy)]
enum Movement {
    /// It stays.
    Constant,
    /// A counter of hundredths: CPU seconds.
    Hundredths { busy: f64 },
    /// A counter of whole numbers that rests in some intervals: bytes, packets.
    Count { most: u64, rests: f64 },
    /// A gauge that moves by pages of 4,096 bytes.
    Pages,
    /// A gauge of two decimals, such as load.
    Load,
}

/// One series of a node.
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
    series: Vec<Series>,
    rng: Rng,
}

impl Node {
    /// The node of this number with so many series; the same numbers have the same samples each time.
    pub fn new(number: usize, series_per_node: usize) -> Self {
        let mut rng = Rng::with_seed(number as u64 + 1);
        let mut series = Vec::new();
        let mut add = |rng: &mut Rng, name: &str, labels: &[(&str, &str)], movement: Movement| {
            let name = ("__name__".to_owned(), name.to_owned());
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let value = match movement {
                Movement::Hundredths { .. } => f64::from(rng.u32(0..9_000_000)) / 100.0,
                Movement::Load => f64::from(rng.u32(0..400)) / 100.0,
                Movement::Pages => f64::from(rng.u32(1000..2_000_000)) * 4096.0,
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
        for device in ["nvme0n1", "nvme1n1", "dm-0"] {
            for (kind, most) in [("reads_completed", 30), ("writes_completed", 300), ("read_bytes", 500_000), ("written_bytes", 9_000_000)]
            {
                add(&mut rng, &format!("node_disk_{kind}_total"), &[("device", device)], Movement::Count { most, rests: 0.4 });
            }
            for kind in ["io_time_seconds", "read_time_seconds", "write_time_seconds"] {
                add(&mut rng, &format!("node_disk_{kind}_total"), &[("device", device)], Movement::Hundredths { busy: 0.02 });
            }
        }
        for mount in ["/", "/boot", "/var/lib/containers", "/run", "/tmp"] {
            for kind in ["avail_bytes", "free_bytes"] {
                add(&mut rng, &format!("node_filesystem_{kind}"), &[("mountpoint", mount)], Movement::Pages);
            }
            for kind in ["size_bytes", "files", "files_free", "readonly", "device_error"] {
                add(&mut rng, &format!("node_filesystem_{kind}"), &[("mountpoint", mount)], Movement::Constant);
            }
        }
        for index in 0..48 {
            let movement = if index % 3 == 0 { Movement::Constant } else { Movement::Pages };
            add(&mut rng, &format!("node_memory_field_{index:02}_bytes"), &[], movement);
        }
        for index in 0..60 {
            let movement = if index % 4 == 0 { Movement::Count { most: 500, rests: 0.3 } } else { Movement::Constant };
            add(&mut rng, &format!("node_netstat_field_{index:02}"), &[], movement);
        }
        let mut index = 0;
        while series.len() < MAX_SERIES {
            let name = ("__name__".to_owned(), format!("node_other_field_{:02}", index / 8));
            let labels = vec![name, ("sensor".to_owned(), format!("s{}", index % 8))];
            series.push(Series { labels, movement: Movement::Constant, value: f64::from(rng.u32(0..1000)) });
            index += 1;
        }
        series.truncate(series_per_node);
        Self { instance: format!("node-{number:03}:9100"), series, rng }
    }

    /// The labels of each series, `instance` and `job` among them, sorted by name as remote-write wants them.
    pub fn labels(&self) -> Vec<Vec<(String, String)>> {
        let with_target = |series: &Series| {
            let mut labels = series.labels.clone();
            labels.extend([("instance".to_owned(), self.instance.clone()), ("job".to_owned(), "node".to_owned())]);
            labels.sort();
            labels
        };
        self.series.iter().map(with_target).collect()
    }

    /// The values of the next interval, in the order of the labels.
    pub fn advance(&mut self) -> Vec<f64> {
        let rng = &mut self.rng;
        let next = |series: &mut Series| {
            series.value = match series.movement {
                Movement::Hundredths { busy } => {
                    let ticks = (busy * 1000.0 * (0.5 + rng.f64())).round();
                    ((series.value * 100.0).round() + ticks) / 100.0
                }
                Movement::Count { most, rests } if rng.f64() >= rests => {
                    series.value + f64::from(u32::try_from(rng.u64(0..=most)).unwrap_or(0))
                }
                Movement::Pages if rng.f64() < 0.7 => (series.value + f64::from(rng.i32(-400..=400)) * 4096.0).max(4096.0),
                Movement::Constant | Movement::Count { .. } | Movement::Pages => series.value,
                Movement::Load => ((series.value * 100.0).round() + f64::from(rng.i32(-9..=9))).max(0.0) / 100.0,
            };
            series.value
        };
        self.series.iter_mut().map(next).collect()
    }
}
