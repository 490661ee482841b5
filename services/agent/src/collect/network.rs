//! What the node's network interfaces carried since they came up, from the node's own /proc.
//!
//! Only with the node's /proc in sight: what a container's own /proc tells is the traffic of that container.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::{CollectError, Collector, Readings, escaped};

/// Ends of containers' cables and other devices that carry what a device of the node carries as well. A node has dozens
/// of them, and their names are new with every pod.
const INNER: [&str; 13] =
    ["lo", "veth", "cali", "lxc", "cni", "docker", "br-", "virbr", "tap", "ifb", "dummy", "kube-ipvs", "nodelocaldns"];

/// The most interfaces that are reported.
const MOST: usize = 32;

/// Bytes of the file that are held at a time.
const PIECE_BYTES: usize = 4 << 10;

/// Bytes and errors of each interface of the node, both ways.
pub(super) struct Network {
    file: String,
}

impl Network {
    /// The interfaces of the network that the node's first process is in. `net/dev` itself leads to those of whoever reads it.
    pub(super) fn of(proc: &Path) -> Self {
        Self { file: proc.join("1/net/dev").to_string_lossy().into_owned() }
    }
}

impl Collector for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError> {
        let unreadable = |error| CollectError::Read { path: self.file.clone().into(), error };
        let file = BufReader::with_capacity(PIECE_BYTES, File::open(&self.file).map_err(unreadable)?);
        let mut reported = 0;
        for line in file.lines() {
            let Some(interface) = parse(&line.map_err(unreadable)?) else { continue };
            if reported == MOST {
                return Err(CollectError::TooMany { path: self.file.clone().into(), what: "interfaces", limit: MOST });
            }
            reported += 1;
            interface.report(readings)?;
        }
        if reported == 0 {
            return Err(CollectError::Missing { path: self.file.clone().into(), wanted: "any interface of a node" });
        }
        Ok(())
    }
}

/// One interface's figures since it came up.
#[derive(Debug, PartialEq, Eq)]
struct Interface {
    name: String,
    received: Way,
    sent: Way,
}

#[derive(Debug, PartialEq, Eq)]
struct Way {
    bytes: u64,
    errors: u64,
    dropped: u64,
}

impl Interface {
    fn report(&self, readings: &mut Readings) -> Result<(), CollectError> {
        let name = escaped(&self.name);
        for (direction, way) in [("receive", &self.received), ("transmit", &self.sent)] {
            for (what, value) in [("bytes", way.bytes), ("errors", way.errors), ("dropped", way.dropped)] {
                readings.count(&format!("network_{direction}_{what}_total{{interface=\"{name}\"}}"), value)?;
            }
        }
        Ok(())
    }
}

/// A line of /proc/PID/net/dev; none for its two heads and for the devices that are left out.
fn parse(line: &str) -> Option<Interface> {
    // A name may have a colon of its own, as an alias has.
    let (name, figures) = line.rsplit_once(':')?;
    let name = name.trim();
    if INNER.iter().any(|inner| name.starts_with(inner)) {
        return None;
    }
    let figures: Vec<u64> = figures.split_ascii_whitespace().map_while(|figure| figure.parse().ok()).collect();
    let way = |at: usize| Some(Way { bytes: *figures.get(at)?, errors: *figures.get(at + 2)?, dropped: *figures.get(at + 3)? });
    // Eight columns are what was received; those of what was sent follow.
    Some(Interface { name: name.to_owned(), received: way(0)?, sent: way(8)? })
}

#[cfg(test)]
mod tests {
    use golectra_protocol::Value;

    use super::*;

    /// A node's own, with two figures and the cables of two containers written in.
    const NET_DEV: &str = include_str!("testdata/net_dev");

    #[test]
    fn the_nodes_own_interfaces_are_told_from_its_containers() {
        let found: Vec<_> = NET_DEV.lines().filter_map(parse).collect();
        let names: Vec<_> = found.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["eth0", "glcl0"]);
        let received = Way { bytes: 1_389_784_225, errors: 0, dropped: 3 };
        assert_eq!(found[0], Interface { name: "eth0".into(), received, sent: Way { bytes: 4_186_257, errors: 2, dropped: 0 } });
    }

    #[test]
    fn other_lines_are_no_interfaces() {
        for line in ["", "face |bytes", "eth0: 1 2 3", "eth0: one two", "  eth0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
        let alias = parse("eth0:1: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0").unwrap();
        assert_eq!((alias.name.as_str(), alias.received.bytes, alias.sent.bytes), ("eth0:1", 1, 2));
    }

    fn of(text: &str) -> (Readings, Result<(), CollectError>) {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("1/net")).unwrap();
        std::fs::write(proc.path().join("1/net/dev"), text).unwrap();
        let mut readings = Readings::default();
        let outcome = Network::of(proc.path()).collect(&mut readings);
        (readings, outcome)
    }

    #[test]
    fn each_interface_has_six_readings() {
        let (readings, outcome) = of(NET_DEV);
        outcome.unwrap();
        assert_eq!(readings.0.len(), 12);
        let reading = |id: &str| readings.0.iter().find(|metric| metric.id.as_str() == id).map(|metric| metric.value);
        assert_eq!(reading("network_transmit_bytes_total{interface=\"eth0\"}"), Some(Value::gauge(4_186_257.0).unwrap()));
        assert_eq!(reading("network_receive_dropped_total{interface=\"eth0\"}"), Some(Value::gauge(3.0).unwrap()));
    }

    #[test]
    fn too_many_and_none_are_said() {
        let many: String = (0..40).fold(String::new(), |text, number| text + &format!("eth{number}: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n"));
        let (readings, outcome) = of(&many);
        assert_eq!(readings.0.len(), MOST * 6);
        assert!(outcome.unwrap_err().to_string().ends_with("has more than 32 interfaces: the rest is not reported"));
        assert!(matches!(of("lo: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n").1, Err(CollectError::Missing { .. })));
    }
}
