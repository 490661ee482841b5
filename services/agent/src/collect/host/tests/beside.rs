//! This machine as golectra sees it and as a real node_exporter does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use golectra_protocol::{MetricId, catalog, json};

use super::*;

/// Metrics that differ by what they are: of the exporter's own work, of the moment, or of the name that the agent has.
const OF_THE_READER: [&str; 3] = ["node_scrape_collector_duration_seconds", "node_time_seconds", "node_uname_info"];

/// Collectors that node_exporter has as well and that are compared.
const COLLECTORS: [&str; 24] = [
    "arp",
    "conntrack",
    "cpu",
    "cpufreq",
    "diskstats",
    "entropy",
    "filefd",
    "filesystem",
    "hwmon",
    "loadavg",
    "meminfo",
    "netclass",
    "netdev",
    "netstat",
    "os",
    "powersupplyclass",
    "pressure",
    "schedstat",
    "selinux",
    "sockstat",
    "softnet",
    "stat",
    "thermal_zone",
    "vmstat",
];

/// How long node_exporter may take to answer on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts node_exporter: it and its port. None where it is not installed and that is not required.
fn start() -> Option<(Exporter, u16)> {
    let log = tempfile::NamedTempFile::new().unwrap();
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let program = ["prometheus-node-exporter", "node_exporter"].into_iter().find_map(|program| {
            let mut command = Command::new(program);
            command.arg(format!("--web.listen-address=127.0.0.1:{port}")).stdout(Stdio::null());
            command.stderr(File::create(log.path()).unwrap()).spawn().ok()
        });
        let Some(program) = program else {
            let missing = "node_exporter is not installed; on Debian: apt-get install prometheus-node-exporter";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "with CI=true no test may be left out, but {missing}");
            // Not with eprintln, because the test runner hides that output of a passing test.
            let _ = writeln!(std::io::stderr(), "left out: {missing}");
            return None;
        };
        let mut exporter = Exporter(program);
        let deadline = Instant::now() + LIMIT;
        while exporter.0.try_wait().unwrap().is_none() {
            if page(port).is_ok() {
                return Some((exporter, port));
            }
            assert!(Instant::now() < deadline, "node_exporter does not answer: {}", fs::read_to_string(log.path()).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        // Another program may take the port between its choice and its use.
        let said = fs::read_to_string(log.path()).unwrap();
        assert!(said.contains("address already in use"), "node_exporter ended: {said}");
    }
    panic!("five ports in a row were taken by others");
}

/// What node_exporter answers.
fn page(port: u16) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    connection.read_to_string(&mut page)?;
    Ok(page)
}

fn scrape(port: u16) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let page = page(port);
        match page {
            Ok(page) if page.contains("node_load1 ") => return page,
            _ => assert!(Instant::now() < deadline, "node_exporter does not answer: {page:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Series and values of the text format, of metrics of a host alone. Labels without a value do not count, nor those that newer versions add.
fn parsed(page: &str) -> BTreeMap<String, f64> {
    let series = page.lines().filter(|line| line.starts_with("node_") && !line.starts_with("node_exporter_build_info"));
    series
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            (comparable(series), value.parse().expect("a number"))
        })
        .collect()
}

fn comparable(series: &str) -> String {
    let id = MetricId::parse(series).expect("an id");
    let parts = id.parts();
    let labels = parts.labels.iter().filter(|(key, _)| !matches!(key.as_ref(), "adminstate" | "job" | "rotational"));
    MetricId::from_parts(&parts.name, labels.map(|(key, value)| (key.as_ref(), value.as_ref()))).expect("an id").as_str().to_owned()
}

/// Whether golectra leaves it out: the devices and mounts of containers, and zram, which node_exporter leaves out as well since 1.6.
fn is_left_out(series: &str) -> bool {
    let id = MetricId::parse(series).expect("an id");
    let parts = id.parts();
    let of_containers =
        parts.label("device").is_some_and(|device| device.starts_with("zram") || crate::collect::devices::is_of_containers(device));
    of_containers || parts.label("mountpoint").is_some_and(|point| point.starts_with("/var/lib/") || point.starts_with("/run/"))
}

#[test]
fn names_labels_and_values_are_node_exporters() {
    let Some((_exporter, port)) = start() else { return };
    let root = Some("/".into());
    let paths = HostPaths { proc: "/proc".into(), sys: "/sys".into(), root, sees_first_process: true, shares_network: true };
    let settings =
        HostSettings { paths, node_name: "node-1".into(), max_series: 100_000, textfile_folders: vec![], filter: Arc::default() };
    let mut groups = all(&settings);
    let before = parsed(&scrape(port));
    let mut readings = Readings::default();
    for group in &mut groups {
        group.collect(&mut readings).unwrap();
    }
    let page = scrape(port);
    let after = parsed(&page);
    let ours: BTreeMap<String, f64> = readings
        .gauges
        .iter()
        .map(|gauge| {
            let metric = json::decode_metric(format!("{}{}}}", gauge.start, gauge.value).as_bytes()).unwrap();
            (comparable(metric.id.as_str()), gauge.value)
        })
        .collect();

    let name = |series: &str| series.split('{').next().unwrap_or_default().to_owned();
    let mut compared = 0;
    for (series, value) in &after {
        let (Some((_, row)), Some(first)) = (catalog::find(&name(series)), before.get(series)) else { continue };
        if !COLLECTORS.contains(&row.collector) || OF_THE_READER.contains(&row.name) || is_left_out(series) {
            continue;
        }
        let ours = *ours.get(series).unwrap_or_else(|| panic!("{series} is missing"));
        compared += 1;
        let kind = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# TYPE {} ", name(series))))
            .map(|kind| kind.replace("untyped", "unknown"));
        assert_eq!(kind.as_deref(), Some(row.kind.as_str()), "{series}");
        // What only grows is between the two; what goes up and down is near them, and how near depends on what else the machine does.
        let is_counter = row.kind.as_str() == "counter";
        if is_counter {
            let slack = value.abs() * 1e-12 + 0.11;
            assert!(*first - slack <= ours && ours <= *value + slack, "{series}: {ours} is not between {first} and {value}");
        } else if first.total_cmp(value).is_eq() {
            assert!(
                (ours - value).abs() <= 0.5 * value.abs().max(ours.abs()) + 16.0 * 1024.0 * 1024.0,
                "{series}: {ours} is far from {value}"
            );
        }
    }
    assert!(compared >= 150, "{compared} series are compared");
    for series in ours.keys() {
        let (_, row) = catalog::find(&name(series)).unwrap_or_else(|| panic!("the catalog does not have {series}"));
        // Of those that this version of node_exporter has, it has each series that golectra has.
        let has_metric = after.keys().any(|other| name(other) == name(series));
        // The agent looks at its own list of mounts, node_exporter at that of process 1.
        if has_metric && COLLECTORS.contains(&row.collector) && row.collector != "filesystem" {
            assert!(after.contains_key(series) || before.contains_key(series), "node_exporter does not have {series}");
        }
    }
}
