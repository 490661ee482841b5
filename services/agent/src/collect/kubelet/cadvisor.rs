//! `/metrics/cadvisor`: the few of cAdvisor's metrics that the kubelet's summary does not have, throttling and OOM kills.
//!
//! The text has many megabytes on a node with many pods. It is read line by line as it arrives, and nearly all lines are told
//! apart by their first letters.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::items::{Items, LabelSets, Owner};
use crate::metrics::SkipReason;

const NAMES: [&str; 4] = [
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_oom_events_total",
];

/// The longest line that is read.
const MAX_LINE_BYTES: usize = 16 << 10;

/// The most series that are kept.
const MAX_SERIES: usize = 20_000;

/// The containers of one pod by name, and the pod as a whole without one, each with the values of the names in their order.
type Containers = BTreeMap<String, [Option<Value>; NAMES.len()]>;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Value {
    value: f64,
    at_millis: i64,
}

/// The text as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Cadvisor {
    line: Vec<u8>,
    /// The rest of a line that is too long is left out.
    too_long: bool,
    pods: BTreeMap<(String, String), Containers>,
    series: usize,
    over_limit: u64,
    unreadable: u64,
}

impl Cadvisor {
    /// Reads the next piece of the text.
    pub(super) fn read(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            if self.line.is_empty() && !self.too_long {
                // Nearly every line is whole in one piece and need not be copied.
                self.end_of_line(&piece[..end]);
            } else {
                self.push(&piece[..end]);
                let line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.too_long) {
                    self.end_of_line(&line);
                }
                self.line = line;
                self.line.clear();
            }
            piece = &piece[end + 1..];
        }
        self.push(piece);
    }

    fn push(&mut self, piece: &[u8]) {
        self.too_long |= self.line.len() + piece.len() > MAX_LINE_BYTES;
        if self.too_long {
            self.line.clear();
        } else {
            self.line.extend_from_slice(piece);
        }
    }

    fn end_of_line(&mut self, line: &[u8]) {
        if !(line.starts_with(b"container_cpu_cfs_") || line.starts_with(b"container_oom_")) {
            return;
        }
        match std::str::from_utf8(line).ok().and_then(Line::parse) {
            Some(line) => self.take(&line),
            None => self.unreadable += 1,
        }
    }

    fn take(&mut self, line: &Line<'_>) {
        let Some(metric) = NAMES.iter().position(|name| *name == line.name) else { return };
        let label = |name| line.label(name).unwrap_or_default();
        let (namespace, pod, container) = (label("namespace"), label("pod"), label("container"));
        // Without a pod it is something of the system; `POD` is what holds a pod's network. Without a container it is the pod as a whole.
        if namespace.is_empty() || pod.is_empty() || container == "POD" {
            return;
        }
        if self.series == MAX_SERIES {
            self.over_limit += 1;
            return;
        }
        let containers = self.pods.entry((namespace.to_owned(), pod.to_owned())).or_default();
        let slot = &mut containers.entry(container.to_owned()).or_default()[metric];
        // After a restart the old container may still be there, with an older time.
        if slot.is_none_or(|known| known.at_millis <= line.value.at_millis) {
            self.series += usize::from(slot.is_none());
            *slot = Some(line.value);
        }
    }

    /// Adds what the text told.
    pub(super) fn write(self, items: &mut Items, labels: &mut LabelSets) {
        for ((namespace, pod), containers) in &self.pods {
            items.group(labels, Owner::Cadvisor(namespace.clone(), pod.clone()), 0.0, |writer| {
                // Where cAdvisor does not know the runtime's names of containers, only pods as a whole have a name.
                let is_whole_pod = containers.keys().all(String::is_empty);
                for (container, values) in containers.iter().filter(|(container, _)| is_whole_pod || !container.is_empty()) {
                    let labels = [("container", container.as_str()), ("job", "kubelet"), ("namespace", namespace), ("pod", pod)];
                    // A label without a value is one that is not there.
                    let labels = &labels[usize::from(is_whole_pod)..];
                    for (name, value) in NAMES.iter().zip(values) {
                        writer.gauge(name, labels, value.map(|value| value.value));
                    }
                }
            });
        }
        items.readings.skip(SkipReason::Unreadable, self.unreadable, "lines of cAdvisor's metrics");
        items.readings.skip(SkipReason::Limit, self.over_limit, format_args!("cAdvisor has more than {MAX_SERIES} series"));
    }
}

/// A sample in Prometheus's text format.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, Cow<'a, str>)>,
    value: Value,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (name, rest) = text.split_once('{')?;
        let mut rest = rest.trim_start();
        let mut labels = Vec::new();
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let end = closing_quote(after)?;
            labels.push((key.trim(), unescaped(&after[..end])));
            rest = after[end + 1..].trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        let mut numbers = rest[1..].split_ascii_whitespace();
        let value = numbers.next()?.parse().ok()?;
        let at_millis = numbers.next().map_or(Some(0), |time| time.parse().ok())?;
        Some(Self { name: name.trim(), labels, value: Value { value, at_millis } })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_ref())
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let (mut out, mut escaped) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        match c {
            'n' if escaped => out.push('\n'),
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            c => out.push(c),
        }
        escaped = false;
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::items::checked;
    use super::*;

    const TEXT: &str = include_str!("testdata/cadvisor.txt");

    fn read(text: &[u8], piece_bytes: usize) -> (Vec<String>, Vec<(SkipReason, u64)>) {
        let mut cadvisor = Cadvisor::default();
        for piece in text.chunks(piece_bytes) {
            cadvisor.read(piece);
        }
        let (mut items, mut labels) = (Items::default(), LabelSets::default());
        cadvisor.write(&mut items, &mut labels);
        let lines = checked(&mut items).into_iter().map(|(id, value)| format!("{id} {value}")).collect();
        (lines, items.readings.skipped_counts().collect())
    }

    #[test]
    fn throttling_and_oom_kills_of_containers_are_found() {
        let expected = [
            r#"container_cpu_cfs_periods_total{container="web",job="kubelet",namespace="shop",pod="web-x"} 1000"#,
            r#"container_cpu_cfs_throttled_periods_total{container="web",job="kubelet",namespace="shop",pod="web-x"} 250"#,
            r#"container_cpu_cfs_throttled_seconds_total{container="web",job="kubelet",namespace="shop",pod="web-x"} 12.5"#,
            r#"container_oom_events_total{container="web",job="kubelet",namespace="shop",pod="web-x"} 3"#,
        ];
        for piece_bytes in [1, 7, 100, 1 << 20] {
            let (lines, skipped) = read(TEXT.as_bytes(), piece_bytes);
            assert_eq!(lines, expected, "{piece_bytes}");
            assert_eq!(skipped, [(SkipReason::Unreadable, 1)]);
        }
    }

    #[test]
    fn a_pod_whose_containers_have_no_names_is_told_as_a_whole() {
        let text = r#"container_cpu_cfs_throttled_periods_total{container="",id="/kubepods/pod1",image="",name="",namespace="shop",pod="web-x"} 12 1
container_cpu_cfs_throttled_periods_total{container="",id="/kubepods/pod1/2",image="",name="",namespace="",pod=""} 11 1
"#;
        let expected = r#"container_cpu_cfs_throttled_periods_total{job="kubelet",namespace="shop",pod="web-x"} 12"#;
        assert_eq!(read(text.as_bytes(), 1000).0, [expected]);
    }

    #[test]
    fn long_lines_are_left_out_and_those_after_them_read() {
        let text = format!("container_oom_x{}\n{TEXT}", "x".repeat(MAX_LINE_BYTES));
        assert_eq!(read(text.as_bytes(), 1000).0.len(), 4);
    }

    #[test]
    fn labels_are_unescaped() {
        let line = Line::parse(r#"a{b="x\"y\\z\n", c="" , } +Inf 12"#).unwrap();
        assert_eq!((line.label("b"), line.label("c"), line.label("d")), (Some("x\"y\\z\n"), Some(""), None));
        assert_eq!(line.value, Value { value: f64::INFINITY, at_millis: 12 });
        for text in ["", "a", "a{", "a{b}", "a{b=\"", "a{b=\"c\"", "a{}", "a{} x", "a{} 1 x"] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(container_oom_events_total|container_cpu_cfs_periods_total)?[{}\"\\\\=, a-z0-9é\n]{0,80}", piece in 1_usize..20) {
            read(text.as_bytes(), piece);
        }
    }
}
