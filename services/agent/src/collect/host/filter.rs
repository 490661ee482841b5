//! Which series are reported: those of the host by the metric's name, the device and the mount point, those of scraped programs by the metric's name.

use std::str::FromStr;

use regex_lite::Regex;

/// A regular expression that has to match a whole text.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// Why a text is not a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a regular expression: {0}")]
pub struct PatternError(String);

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Regex::new(&format!("^(?:{text})$")).map(Self).map_err(|error| PatternError(error.to_string()))
    }
}

/// What of one kind is reported: what `include` matches, or everything without it, except what `exclude` matches.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// What is reported.
    pub include: Option<Pattern>,
    /// What is not.
    pub exclude: Option<Pattern>,
}

impl Choice {
    /// Whether it is left out by name.
    fn excludes(&self, text: &str) -> bool {
        self.exclude.as_ref().is_some_and(|pattern| pattern.0.is_match(text))
    }

    /// Whether it is reported.
    pub(in crate::collect) fn allows(&self, text: &str) -> bool {
        self.include.as_ref().is_none_or(|pattern| pattern.0.is_match(text)) && !self.excludes(text)
    }
}

/// Beginnings of the names of metrics whose label `device` is a disk or a network device. Of others it may be anything, such as the number of a clock.
const OF_DEVICES: [&str; 3] = ["node_arp_", "node_disk_", "node_network_"];

/// The beginning of the names of metrics of filesystems. Their label `device` is what is mounted, as `/dev/sda1` or `server:/export`.
const OF_FILESYSTEMS: &str = "node_filesystem_";

/// The choices of an operator.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// By the metric's name.
    pub metrics: Choice,
    /// Disks and network devices, by the label `device`. What is excluded is excluded as the device of a filesystem as well.
    pub devices: Choice,
    /// Filesystems, by the label `mountpoint`.
    pub mounts: Choice,
}

impl Filter {
    /// Whether a series is reported.
    pub(in crate::collect) fn allows(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let (is_of_device, is_of_filesystem) = (OF_DEVICES.iter().any(|start| name.starts_with(start)), name.starts_with(OF_FILESYSTEMS));
        self.metrics.allows(name)
            && labels.iter().all(|(label, value)| match *label {
                "device" if is_of_device => self.devices.allows(value),
                "device" if is_of_filesystem => !self.devices.excludes(value),
                "mountpoint" if is_of_filesystem => self.mounts.allows(value),
                _ => true,
            })
    }

    /// Whether a filesystem is reported, if its metrics are.
    pub(super) fn allows_filesystem(&self, device: &str, mountpoint: &str) -> bool {
        !self.devices.excludes(device) && self.mounts.allows(mountpoint)
    }

    /// The same choice of metrics, and all devices and filesystems: what other programs report has labels of their own.
    pub(super) fn by_name(&self) -> Self {
        Self { metrics: self.metrics.clone(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(include: &str, exclude: &str) -> Choice {
        let pattern = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        Choice { include: pattern(include), exclude: pattern(exclude) }
    }

    #[test]
    fn a_pattern_matches_the_whole_text_and_what_is_excluded_is_not_included() {
        assert!(Filter::default().allows("anything", &[("device", "sda")]));
        let filter = Filter {
            metrics: choice("node_(cpu|disk|filesystem)_.*", "node_disk_io_now"),
            devices: choice("", "sd[b-z]|/dev/x"),
            mounts: choice("/|/data", ""),
        };
        for (name, labels, expected) in [
            ("node_cpu_seconds_total", vec![], true),
            ("my_node_cpu_seconds_total", vec![], false),
            ("node_disk_io_now", vec![("device", "sda")], false),
            ("node_disk_info", vec![("device", "sda")], true),
            ("node_disk_info", vec![("device", "sdb")], false),
            ("node_filesystem_files", vec![("device", "/dev/x"), ("mountpoint", "/")], false),
            ("node_filesystem_files", vec![("device", "/dev/y"), ("mountpoint", "/data")], true),
            ("node_filesystem_files", vec![("device", "/dev/y"), ("mountpoint", "/data/x")], false),
        ] {
            assert_eq!(filter.allows(name, &labels), expected, "{name} {labels:?}");
        }
        assert!("(".parse::<Pattern>().unwrap_err().to_string().starts_with("expected a regular expression"));
    }

    #[test]
    fn devices_are_disks_and_network_devices_and_mounts_are_filesystems() {
        let filter = Filter { devices: choice("sda|eth0", "eth1"), mounts: choice("/", ""), ..Filter::default() };
        for (name, labels, expected) in [
            ("node_disk_info", vec![("device", "sda")], true),
            ("node_disk_info", vec![("device", "sdb")], false),
            ("node_network_up", vec![("device", "eth0")], true),
            ("node_network_up", vec![("device", "eth2")], false),
            ("node_arp_entries", vec![("device", "eth2")], false),
            ("node_filesystem_size_bytes", vec![("device", "/dev/sda1"), ("mountpoint", "/")], true),
            ("node_filesystem_size_bytes", vec![("device", "/dev/sda1"), ("mountpoint", "/home")], false),
            ("node_time_clocksource_available_info", vec![("clocksource", "tsc"), ("device", "0")], true),
            ("smart_healthy", vec![("device", "/dev/sda"), ("mountpoint", "/home")], true),
        ] {
            assert_eq!(filter.allows(name, &labels), expected, "{name} {labels:?}");
        }
        assert!(filter.allows_filesystem("/dev/sda1", "/"));
        assert!(!filter.allows_filesystem("/dev/sda1", "/home") && !filter.allows_filesystem("eth1", "/"));
        assert!(filter.by_name().allows("node_disk_smart", &[("device", "sdb"), ("mountpoint", "/home")]));
    }
}
