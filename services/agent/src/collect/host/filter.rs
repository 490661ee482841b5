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
    /// Whether it is reported.
    pub(in crate::collect) fn allows(&self, text: &str) -> bool {
        self.include.as_ref().is_none_or(|pattern| pattern.0.is_match(text))
            && !self.exclude.as_ref().is_some_and(|pattern| pattern.0.is_match(text))
    }
}

/// The choices of an operator.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// By the metric's name.
    pub metrics: Choice,
    /// By the label `device`.
    pub devices: Choice,
    /// By the label `mountpoint`.
    pub mounts: Choice,
}

impl Filter {
    /// Whether a series is reported.
    pub(super) fn allows(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.metrics.allows(name)
            && labels.iter().all(|(label, value)| match *label {
                "device" => self.devices.allows(value),
                "mountpoint" => self.mounts.allows(value),
                _ => true,
            })
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
            metrics: choice("node_(cpu|disk)_.*", "node_disk_io_now"),
            devices: choice("", "sd[b-z]|/dev/x"),
            mounts: choice("/|/data", ""),
        };
        for (name, labels, expected) in [
            ("node_cpu_seconds_total", vec![], true),
            ("my_node_cpu_seconds_total", vec![], false),
            ("node_disk_io_now", vec![("device", "sda")], false),
            ("node_disk_info", vec![("device", "sda")], true),
            ("node_disk_info", vec![("device", "sdb")], false),
            ("node_disk_info", vec![("device", "/dev/x"), ("mountpoint", "/")], false),
            ("node_disk_info", vec![("device", "/dev/y"), ("mountpoint", "/data")], true),
            ("node_disk_info", vec![("device", "/dev/y"), ("mountpoint", "/data/x")], false),
        ] {
            assert_eq!(filter.allows(name, &labels), expected, "{name} {labels:?}");
        }
        assert!("(".parse::<Pattern>().unwrap_err().to_string().starts_with("expected a regular expression"));
    }
}
