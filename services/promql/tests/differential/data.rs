//! Generated samples.

use std::fmt::Write;

use fastrand::Rng;
use golectra_promql::store::MemoryStore;
use golectra_promql::{Labels, METRIC_NAME, Steps};

/// When the data starts.
const START_MS: i64 = 1_700_000_000_000;
/// How many scrapes there are, ten seconds apart.
const SCRAPES: i64 = 1080;

/// The same samples for both.
#[derive(Default)]
pub struct Data {
    pub store: MemoryStore,
    /// The same with tiny changes, and with the opposite ones: what changes much with either can't be compared.
    pub perturbed: [MemoryStore; 2],
    /// The same with the values that say yes or no changed too, for remainders.
    pub all_perturbed: [MemoryStore; 2],
    pub open_metrics: String,
}

impl Data {
    pub fn generate(seed: u64) -> Self {
        let mut data = Self::default();
        let mut random = Rng::with_seed(seed);
        for (instance, job) in [("a", "node"), ("b", "node"), ("c", "web"), ("d", "web")] {
            for mode in ["idle", "user", "system"] {
                data.counter(&mut random, "cpu_seconds_total", &[("instance", instance), ("job", job), ("mode", mode)]);
            }
            for code in ["200", "404", "500"] {
                data.counter(&mut random, "requests_total", &[("instance", instance), ("job", job), ("code", code)]);
            }
            for sensor in ["0", "1"] {
                data.walk(&mut random, "temperature", &[("instance", instance), ("job", job), ("sensor", sensor)], 1.0);
            }
            data.walk(&mut random, "sparse", &[("instance", instance), ("job", job)], 0.02);
            data.odd(&mut random, "odd", &[("instance", instance), ("job", job)]);
            data.switch(&mut random, "up", &[("instance", instance), ("job", job)]);
            data.histogram(&mut random, "latency_seconds", &[("instance", instance), ("job", job)]);
            let version = if job == "web" { "2" } else { "1" };
            data.constant(&mut random, "node_info", &[("instance", instance), ("role", "r"), ("version", version)]);
        }
        data
    }

    fn add(&mut self, labels: &Labels, timestamp_ms: i64, value: f64) {
        self.store.add(labels, timestamp_ms, value);
        // Each sample is changed by a share of its own, so that sums which are exactly zero do not stay so.
        let change = 1e-13 * f64::from(u8::try_from(timestamp_ms.rem_euclid(7)).expect("below 7") + 1) / 7.0;
        for (index, change) in [change, -change].into_iter().enumerate() {
            let perturbed = value * (1.0 + change);
            self.all_perturbed[index].add(labels, timestamp_ms, perturbed);
            // What says yes or no stays what it is, so that comparisons with it do.
            self.perturbed[index].add(labels, timestamp_ms, if value == 1.0 { value } else { perturbed });
        }
    }

    /// Writes a series down for both; the values are those of one scrape each, `None` leaves it out.
    fn series(&mut self, random: &mut Rng, name: &str, labels: &[(&str, &str)], mut value: impl FnMut(&mut Rng, i64) -> Option<f64>) {
        let stored = Labels::new(labels.iter().copied().chain([(METRIC_NAME, name)]));
        let written: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        for scrape in 0..SCRAPES {
            // Never on a whole second, and never more than a tenth later than the one before.
            let timestamp_ms = START_MS + scrape * 10_000 + random.i64(1..900);
            let Some(value) = value(random, scrape) else { continue };
            self.add(&stored, timestamp_ms, value);
            let shown = if value.is_nan() {
                "NaN".to_owned()
            } else if value.is_infinite() {
                if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
            } else {
                value.to_string()
            };
            let _ =
                writeln!(self.open_metrics, "{name}{{{}}} {shown} {}.{:03}", written.join(","), timestamp_ms / 1000, timestamp_ms % 1000);
        }
    }

    /// Grows, and starts again now and then.
    fn counter(&mut self, random: &mut Rng, name: &str, labels: &[(&str, &str)]) {
        // So large that nothing is extrapolated to zero at the start.
        let mut total = 1000.0 * (1.0 + random.f64());
        self.series(random, name, labels, |random, _| {
            total = if random.u32(0..400) == 0 { random.f64() } else { total + random.f64() * 20.0 };
            Some(total)
        });
    }

    fn walk(&mut self, random: &mut Rng, name: &str, labels: &[(&str, &str)], density: f64) {
        let mut now = 20.0;
        self.series(random, name, labels, |random, _| {
            now += random.f64() - 0.5;
            (random.f64() < density).then_some(now)
        });
    }

    fn odd(&mut self, random: &mut Rng, name: &str, labels: &[(&str, &str)]) {
        self.series(random, name, labels, |random, scrape| {
            Some(match random.u32(0..20) {
                0 => f64::NAN,
                1 if scrape > SCRAPES / 2 => f64::INFINITY,
                2 if scrape > SCRAPES / 2 => f64::NEG_INFINITY,
                _ => f64::from(random.i32(-3..4)),
            })
        });
    }

    fn switch(&mut self, random: &mut Rng, name: &str, labels: &[(&str, &str)]) {
        let mut up = true;
        self.series(random, name, labels, |random, _| {
            up ^= random.u32(0..50) == 0;
            Some(f64::from(u8::from(up)))
        });
    }

    fn constant(&mut self, random: &mut Rng, name: &str, labels: &[(&str, &str)]) {
        self.series(random, name, labels, |_, _| Some(1.0));
    }

    fn histogram(&mut self, random: &mut Rng, name: &str, labels: &[(&str, &str)]) {
        let bounds = ["0.1", "0.5", "1", "+Inf"];
        let mut observations: Vec<[f64; 4]> = Vec::new();
        let mut counts = [100.0, 200.0, 300.0, 400.0];
        for _ in 0..SCRAPES {
            for _ in 0..random.u32(0..5) {
                let bucket = random.usize(0..4);
                counts[bucket..].iter_mut().for_each(|count| *count += 1.0);
            }
            observations.push(counts);
        }
        for (index, bound) in bounds.iter().enumerate() {
            let labels: Vec<_> = labels.iter().copied().chain([("le", *bound)]).collect();
            self.series(random, &format!("{name}_bucket"), &labels, |_, scrape| {
                Some(observations[usize::try_from(scrape).unwrap()][index])
            });
        }
        self.series(random, &format!("{name}_count"), labels, |_, scrape| Some(observations[usize::try_from(scrape).unwrap()][3]));
    }
}

/// When a query is evaluated: in a range, or at one time. The seconds never meet a step of a subquery.
pub fn times(random: &mut Rng) -> (Option<Steps>, i64) {
    let start_ms = START_MS + 7000 + 60_000 * random.i64(0..170);
    if random.u32(0..4) == 0 {
        return (None, start_ms);
    }
    let step_ms = *random.choice(&[60_000, 120_000, 600_000]).unwrap();
    // What `@ end()` means shows where no step meets the end. By whole tens of seconds it does not come to a step of a subquery either.
    let beyond_ms = 10_000 * random.i64(0..step_ms / 10_000);
    (Steps::range(start_ms, start_ms + step_ms * random.i64(0..20) + beyond_ms, step_ms), start_ms)
}

/// A time for `@`.
pub fn at_seconds(random: &mut Rng) -> i64 {
    START_MS / 1000 + 7 + 60 * random.i64(0..170)
}
