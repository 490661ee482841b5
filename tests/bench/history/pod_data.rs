//! Samples of a pod as a kubelet tells them: twelve series, of which a third wander, a third count and the others rest.

use fastrand::Rng;

/// The series of a pod, without its labels, and how each moves.
const SERIES: [(&str, Movement); 12] = [
    ("container_cpu_usage_seconds_total", Movement::Nanoseconds),
    ("container_memory_working_set_bytes", Movement::Pages { moves: 0.8 }),
    ("container_memory_usage_bytes", Movement::Pages { moves: 0.8 }),
    ("container_memory_rss", Movement::Pages { moves: 0.6 }),
    ("container_network_receive_bytes_total", Movement::Count { most: 400_000 }),
    ("container_network_transmit_bytes_total", Movement::Count { most: 300_000 }),
    ("container_network_receive_errors_total", Movement::Constant),
    ("container_network_transmit_errors_total", Movement::Constant),
    ("container_fs_usage_bytes", Movement::Pages { moves: 0.1 }),
    ("container_fs_limit_bytes", Movement::Constant),
    ("container_fs_inodes_free", Movement::Pages { moves: 0.3 }),
    ("container_start_time_seconds", Movement::Constant),
];

/// How a value moves.
#[derive(Debug, Clone, Copy)]
enum Movement {
    /// It stays.
    Constant,
    /// A counter of nanoseconds, told in seconds: processor time.
    Nanoseconds,
    /// A counter of whole numbers that rests where the pod is idle.
    Count { most: u64 },
    /// A gauge that moves by pages of 4,096 bytes in this share of the intervals.
    Pages { moves: f64 },
}

/// A pod whose samples are made one interval after the other.
pub struct Pod {
    name: String,
    /// Processor time in nanoseconds a second. Most pods do little.
    busy: u64,
    /// Whole numbers; nanoseconds where they are told in seconds.
    values: [u64; SERIES.len()],
    rng: Rng,
}

impl Pod {
    /// The pod of this number; the same number has the same samples each time.
    pub fn new(number: usize) -> Self {
        let mut rng = Rng::with_seed(0x7f4a_7c15 + number as u64);
        let values = SERIES.map(|(name, movement)| match movement {
            Movement::Nanoseconds => rng.u64(0..90_000_000_000_000),
            Movement::Count { .. } => rng.u64(0..1 << 36),
            Movement::Pages { .. } => rng.u64(1000..200_000) * 4096,
            Movement::Constant if name.ends_with("errors_total") => 0,
            Movement::Constant => 1_700_000_000 + rng.u64(0..80_000_000),
        });
        let busy = if number.is_multiple_of(10) { rng.u64(100_000_000..900_000_000) } else { rng.u64(200_000..20_000_000) };
        Self { name: format!("service-{:03}-{:010x}-{:05x}", number % 200, rng.u64(0..1 << 40), rng.u32(0..1 << 20)), busy, values, rng }
    }

    /// Each series' id: its name and labels.
    pub fn ids(&self) -> Vec<String> {
        let pod = &self.name;
        let id = |(name, _): (&str, Movement)| {
            let own = if name.contains("_network_") { r#"interface="eth0""# } else { r#"container="main""# };
            format!(r#"{name}{{{own},job="kubelet",namespace="default",pod="{pod}"}}"#)
        };
        SERIES.map(id).to_vec()
    }

    /// Appends the values of the next interval of 30 s, in the order of the ids.
    pub fn advance(&mut self, values: &mut Vec<f64>) {
        let (rng, busy) = (&mut self.rng, self.busy);
        let idle = rng.f64() < 0.2;
        for ((_, movement), value) in SERIES.into_iter().zip(&mut self.values) {
            match movement {
                Movement::Nanoseconds => *value += busy * rng.u64(15..45),
                Movement::Count { most } if !idle => *value += rng.u64(0..=most),
                Movement::Pages { moves } if rng.f64() < moves => *value = (*value + rng.u64(0..=400) * 4096).saturating_sub(200 * 4096),
                Movement::Constant | Movement::Count { .. } | Movement::Pages { .. } => {}
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            let told = *value as f64;
            values.push(if matches!(movement, Movement::Nanoseconds) { told / 1e9 } else { told });
        }
    }
}
