//! The traffic of the node's network interfaces since they came up, from the node's /proc.
//!
//! Only with HOST_PROC, because a container's own /proc has the traffic of that container.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::collector::{CollectError, Collector, Readings};
use super::devices::is_of_containers;
use crate::metrics::SkipReason;

/// The most interfaces that are reported.
const MAX_INTERFACES: usize = 32;

/// The read buffer. The kernel writes the file as it is read.
const BUFFER_BYTES: usize = 4 << 10;

/// Bytes, errors and drops of each interface of the node, in both directions.
pub(super) struct Network {
    file: String,
}

impl Network {
    /// The interfaces in the network namespace of the node's first process. `net/dev` itself is that of the reading process.
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
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(&self.file).map_err(unreadable)?);
        let (mut reported, mut over_limit) = (0, 0);
        // Lines of bytes, because the name of an interface may be anything but white space and slashes.
        for line in file.split(b'\n') {
            match parse(&line.map_err(unreadable)?) {
                Line::Interface(_) if reported == MAX_INTERFACES => over_limit += 1,
                Line::Interface(interface) => {
                    reported += 1;
                    interface.report(readings);
                }
                Line::Unreadable(reason, line) => readings.skip(reason, 1, format_args!("{}: {line:?}", self.file)),
                Line::Other => {}
            }
        }
        readings.skip(SkipReason::Limit, over_limit, format_args!("{} has more than {MAX_INTERFACES} interfaces", self.file));
        if reported == 0 {
            return Err(CollectError::Missing { path: self.file.clone().into(), wanted: "any interface of a node" });
        }
        Ok(())
    }
}

/// A line of /proc/PID/net/dev.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// An interface of the node.
    Interface(Interface),
    /// An interface that cannot be reported, and the line.
    Unreadable(SkipReason, String),
    /// A heading, or an interface of a container.
    Other,
}

/// The counters of one interface.
#[derive(Debug, PartialEq, Eq)]
struct Interface {
    name: String,
    received: Traffic,
    sent: Traffic,
}

/// One direction.
#[derive(Debug, PartialEq, Eq)]
struct Traffic {
    bytes: u64,
    errors: u64,
    dropped: u64,
}

impl Interface {
    fn report(&self, readings: &mut Readings) {
        for (direction, traffic) in [("receive", &self.received), ("transmit", &self.sent)] {
            for (what, value) in [("bytes", traffic.bytes), ("errors", traffic.errors), ("dropped", traffic.dropped)] {
                readings.labelled_count(&format!("network_{direction}_{what}_total"), ("interface", &self.name), value);
            }
        }
    }
}

fn parse(line: &[u8]) -> Line {
    let unreadable = |reason| Line::Unreadable(reason, String::from_utf8_lossy(line).into_owned());
    // The name ends at the last colon, because it may contain one. The two headings have none.
    let Some(colon) = line.iter().rposition(|byte| *byte == b':') else { return Line::Other };
    let Ok(name) = std::str::from_utf8(line[..colon].trim_ascii()) else { return unreadable(SkipReason::InvalidId) };
    if is_of_containers(name) {
        return Line::Other;
    }
    let counters = std::str::from_utf8(&line[colon + 1..]).unwrap_or_default();
    let counters: Vec<u64> = counters.split_ascii_whitespace().map_while(|counter| counter.parse().ok()).collect();
    let traffic = |at: usize| Some(Traffic { bytes: *counters.get(at)?, errors: *counters.get(at + 2)?, dropped: *counters.get(at + 3)? });
    // Eight columns for what was received are followed by those for what was sent.
    match (traffic(0), traffic(8)) {
        (Some(received), Some(sent)) => Line::Interface(Interface { name: name.to_owned(), received, sent }),
        _ => unreadable(SkipReason::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::Value;

    use super::*;

    /// Of a node, with two counters and the devices of two containers added.
    const NET_DEV: &str = include_str!("testdata/net_dev");

    #[test]
    fn interfaces_of_the_node_are_told_from_those_of_its_containers() {
        let lines = NET_DEV.lines().map(|line| parse(line.as_bytes()));
        let found: Vec<_> = lines.filter_map(|line| if let Line::Interface(interface) = line { Some(interface) } else { None }).collect();
        let names: Vec<_> = found.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["eth0", "glcl0"]);
        let received = Traffic { bytes: 1_389_784_225, errors: 0, dropped: 3 };
        assert_eq!(found[0], Interface { name: "eth0".into(), received, sent: Traffic { bytes: 4_186_257, errors: 2, dropped: 0 } });
    }

    #[test]
    fn lines_that_are_not_an_interface_are_told_from_damaged_ones() {
        for line in ["", "face |bytes", "  eth0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "veth0: damaged"] {
            assert_eq!(parse(line.as_bytes()), Line::Other, "{line:?}");
        }
        for line in ["eth0: 1 2 3", "eth0: one two", "eth0:"] {
            assert!(matches!(parse(line.as_bytes()), Line::Unreadable(SkipReason::Unreadable, _)), "{line:?}");
        }
        let Line::Interface(alias) = parse(b"eth0:1: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0") else { panic!("an interface") };
        assert_eq!((alias.name.as_str(), alias.received.bytes, alias.sent.bytes), ("eth0:1", 1, 2));
    }

    fn of(text: &[u8]) -> (Readings, Result<(), CollectError>) {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("1/net")).unwrap();
        std::fs::write(proc.path().join("1/net/dev"), text).unwrap();
        let mut readings = Readings::default();
        let result = Network::of(proc.path()).collect(&mut readings);
        (readings, result)
    }

    fn skipped(readings: &Readings) -> Vec<(SkipReason, u64)> {
        readings.skipped.iter().map(|(reason, skipped)| (*reason, skipped.count)).collect()
    }

    #[test]
    fn each_interface_has_six_readings() {
        let (readings, result) = of(NET_DEV.as_bytes());
        result.unwrap();
        assert_eq!((readings.metrics.len(), skipped(&readings)), (12, vec![]));
        let reading = |id: &str| readings.metrics.iter().find(|metric| metric.id.as_str() == id).map(|metric| metric.value);
        assert_eq!(reading("network_transmit_bytes_total{interface=\"eth0\"}"), Some(Value::gauge(4_186_257.0).unwrap()));
        assert_eq!(reading("network_receive_dropped_total{interface=\"eth0\"}"), Some(Value::gauge(3.0).unwrap()));
    }

    #[test]
    fn one_interface_that_cannot_be_reported_does_not_fail_the_collector() {
        let text = b"eth0: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\nnul\x00: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n\
            \xff\xfe: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\neth1: gone\neth\"2: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n";
        let (readings, result) = of(text);
        result.unwrap();
        assert_eq!(readings.metrics.len(), 12, "eth0 and eth\"2");
        // The six readings of the name with a NUL, and the name that is not UTF-8.
        assert_eq!(skipped(&readings), [(SkipReason::InvalidId, 7), (SkipReason::Unreadable, 1)]);
    }

    #[test]
    fn more_interfaces_than_the_limit_are_counted_and_none_is_a_failure() {
        let many: String = (0..40).fold(String::new(), |text, number| text + &format!("eth{number}: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n"));
        let (readings, result) = of(many.as_bytes());
        result.unwrap();
        assert_eq!((readings.metrics.len(), skipped(&readings)), (MAX_INTERFACES * 6, vec![(SkipReason::Limit, 8)]));
        assert!(matches!(of(b"lo: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n").1, Err(CollectError::Missing { .. })));
    }
}
