//! Ranks the series of both windows by how much they moved.

use std::collections::BTreeMap;

use golectra_promql::{Labels, METRIC_NAME};

use super::super::ask::Line;
use super::super::format::{quantity, three_digits};
use super::super::metrics::selector;
use super::super::panels::{Unit, quoted};
use super::super::shell::encode;
use super::super::spark::Spark;
use super::kinds::{Kind, Style, Subject};
use super::score::{LEAST_SCORE, Moved, ended, moved};
use super::windows::Windows;
use crate::history::labels::SOURCE_LABEL;

/// A node that has no value for this long is silent, or was stopped.
const ENDED_AFTER_MS: i64 = 120_000;
/// The number of changes that are kept of each list.
const MAX_CHANGES: usize = 40;
/// The score of a node that fell silent a moment ago, and what a whole window of silence adds.
const SILENT_SCORE: (f64, f64) = (10.0, 40.0);
/// The score of a node that was stopped: it is no problem, and whatever else moved comes first.
const STOPPED_SCORE: f64 = LEAST_SCORE;
/// The highest score of series whose meaning nobody told: they come after those that have a floor of their own.
const MAX_UNKNOWN_SCORE: f64 = 10.0;

/// A change as a page shows it.
#[derive(Debug, Clone)]
pub struct Change {
    /// What moved.
    pub title: String,
    /// From where to where.
    pub detail: String,
    /// What else of the same subject moved.
    pub also: String,
    /// Where to look at it.
    pub link: String,
    /// By how much, in a word.
    pub factor: String,
    /// Since when, in unix milliseconds, where it is a step.
    pub since_ms: Option<u64>,
    /// Both windows.
    pub spark: Option<Spark>,
    score: f64,
    subject: String,
    short: String,
}

/// What moved, most first.
#[derive(Debug, Default)]
pub struct Found {
    /// Nodes, one change each.
    pub nodes: Vec<Change>,
    /// Pods and volumes, one change each.
    pub pods: Vec<Change>,
    /// Series of an expression, and every metric of a node or a pod.
    pub series: Vec<Change>,
    /// Sentences about what could not be compared.
    pub missing: Vec<String>,
    /// Whether there is nothing to compare with.
    pub no_before: bool,
}

/// What is found of both windows, query by query.
pub struct Ranking {
    pub windows: Windows,
    pub found: Found,
    /// When nodes were stopped, by name: there is a value at each step at which the node was stopped.
    stopped: BTreeMap<String, Vec<f64>>,
    /// Whether there was a value in the window, and in the one before it.
    any: bool,
    any_before: bool,
}

impl Ranking {
    pub fn new(windows: Windows) -> Self {
        Self { windows, found: Found::default(), stopped: BTreeMap::new(), any: false, any_before: false }
    }

    fn halves<'a>(&self, line: &'a [f64]) -> (&'a [f64], &'a [f64]) {
        line.split_at(self.windows.count.min(line.len()))
    }

    /// Notes whether there is anything in either window.
    fn notes(&mut self, lines: &[Line]) -> bool {
        let has = |values: &[f64]| values.iter().any(|value| value.is_finite());
        let before = lines.iter().any(|line| has(self.halves(&line.values).0));
        self.any_before |= before;
        self.any |= lines.iter().any(|line| has(self.halves(&line.values).1));
        before
    }

    /// Takes when nodes were stopped. To be called before the kinds.
    pub fn were_stopped(&mut self, lines: Vec<Line>) {
        self.stopped = lines.into_iter().map(|line| (line.labels.value(SOURCE_LABEL).to_owned(), line.values)).collect();
    }

    /// The series of a kind.
    pub fn kind(&mut self, kind: &Kind, lines: &[Line]) {
        let any_before = self.notes(lines);
        for line in lines {
            let gapless = (kind.style == Style::Events).then(|| {
                let (before, now) = self.halves(&line.values);
                [without_gaps(before), without_gaps(now)].concat()
            });
            let (before, now) = self.halves(gapless.as_deref().unwrap_or(&line.values));
            if kind.ends
                && let Some(first) = self.ended(before, now)
            {
                let change = self.end(&line.labels, first, &line.values);
                self.found.nodes.push(change);
                continue;
            }
            let absent = !before.iter().any(|value| value.is_finite());
            let zeros = vec![0.0; before.len()];
            // Where nothing at all is known of the time before, everything would be new.
            let before = if absent && kind.starts_at_zero && any_before { &zeros } else { before };
            let Some(moved) = moved(before, now, kind.floor).filter(|moved| moved.score >= LEAST_SCORE) else { continue };
            let change = self.change(kind, &line.labels, moved, &line.values);
            match kind.subject {
                Subject::Node => self.found.nodes.push(change),
                Subject::Pod | Subject::Volume => self.found.pods.push(change),
            }
        }
    }

    fn ended(&self, before: &[f64], now: &[f64]) -> Option<usize> {
        ended(before, now, usize::try_from(ENDED_AFTER_MS / self.windows.step_ms).unwrap_or_default().max(2))
    }

    /// A node that is silent, or was stopped, from this step on.
    #[expect(clippy::cast_precision_loss, reason = "a window has tens of steps")]
    fn end(&self, labels: &Labels, first: usize, values: &[f64]) -> Change {
        let name = labels.value(SOURCE_LABEL).to_owned();
        let missing = (self.windows.count - first) as f64 / self.windows.count as f64;
        // Rates end later than reports, so a node that was stopped already counts as such at this step.
        let was_stopped =
            self.stopped.get(&name).is_some_and(|values| values.iter().skip(self.windows.count + first).any(|value| value.is_finite()));
        let (what, detail, factor, score) = if was_stopped {
            ("was stopped", "its agent said that it ends", "stopped", STOPPED_SCORE)
        } else {
            ("is silent", "it reported before, and no more", "silent", SILENT_SCORE.0 + SILENT_SCORE.1 * missing)
        };
        Change {
            title: format!("{name} {what}"),
            detail: detail.to_owned(),
            also: String::new(),
            link: format!("/node?name={}", encode(&name)),
            factor: factor.to_owned(),
            since_ms: self.time_ms(first),
            spark: Spark::draw(values, 1.0),
            score,
            subject: name,
            short: factor.to_owned(),
        }
    }

    fn change(&self, kind: &Kind, labels: &Labels, moved: Moved, values: &[f64]) -> Change {
        let label = |name: &str| labels.value(name);
        let (subject, link) = match kind.subject {
            Subject::Node => (label(SOURCE_LABEL).to_owned(), format!("/node?name={}", encode(label(SOURCE_LABEL)))),
            Subject::Pod => (
                format!("{}/{}", label("namespace"), label("pod")),
                format!("/pod?namespace={}&name={}", encode(label("namespace")), encode(label("pod"))),
            ),
            Subject::Volume => {
                let (namespace, claim) = (label("namespace"), label("persistentvolumeclaim"));
                let labels = [("namespace", namespace), ("persistentvolumeclaim", claim)];
                let selector = selector("kubelet_volume_stats_available_bytes", labels);
                (format!("{namespace}/{claim}"), format!("/explore?query={}", encode(&selector)))
            }
        };
        let what = match kind.detail.map(label).filter(|detail| !detail.is_empty()) {
            Some(detail) => format!("{} {detail}", kind.title),
            None => kind.title.to_owned(),
        };
        let (detail, factor) = match kind.style {
            Style::Level(unit) => {
                (format!("from {} to {}", quantity(moved.before, unit), quantity(moved.after, unit)), factor(&moved, unit))
            }
            Style::Events => {
                let times = |an_hour: f64| (an_hour * self.windows.hours()).round();
                let (before, now) = (times(moved.before), times(moved.mean));
                (format!("{before:.0} before, {now:.0} in this time"), format!("{:+.0}", now - before))
            }
        };
        let mut title = format!("{} of {subject}", first_upper(&what));
        if kind.subject == Subject::Volume {
            title = format!("Use of the volume {subject}");
        }
        Change {
            title,
            detail,
            also: String::new(),
            link,
            short: format!("{what} {factor}"),
            factor,
            since_ms: moved.since.and_then(|first| self.time_ms(first)),
            spark: spark(values),
            score: moved.score,
            subject,
        }
    }

    /// Series of which no more is known than their names: the one that moved most of each metric, or each one of an expression.
    pub fn every(&mut self, lines: &[Line], expr: Option<&str>) {
        self.notes(lines);
        let counters = expr.is_none();
        let mut best = BTreeMap::<String, (Change, usize)>::new();
        for line in lines {
            let name = line.labels.metric_name().to_owned();
            let values = if counters && is_counter(&name) { rates(&line.values, self.windows.step_ms) } else { line.values.clone() };
            let (before, now) = self.halves(&values);
            let Some(moved) = moved(before, now, unknown_floor(before, now)).filter(|moved| moved.score >= LEAST_SCORE) else { continue };
            let change = self.unknown(&line.labels, moved, &values, counters && is_counter(&name), expr);
            // An expression has a line for each series; metrics have one each.
            let group = if name.is_empty() || !counters { change.title.clone() } else { name };
            match best.get_mut(&group) {
                Some((known, more)) => {
                    *more += 1;
                    if known.score < change.score {
                        *known = change;
                    }
                }
                None => _ = best.insert(group, (change, 0)),
            }
        }
        self.found.series.extend(best.into_values().map(|(mut change, more)| {
            if more > 0 {
                change.also = format!("and {more} more series of this metric");
            }
            change
        }));
    }

    fn unknown(&self, labels: &Labels, moved: Moved, values: &[f64], is_rate: bool, expr: Option<&str>) -> Change {
        let name = labels.metric_name();
        let others = || labels.iter().filter(|(label, _)| *label != METRIC_NAME);
        let shown: Vec<_> = labels
            .iter()
            .filter(|(label, _)| *label != METRIC_NAME && *label != SOURCE_LABEL)
            .map(|(label, value)| format!("{label}={value}"))
            .collect();
        let mut title = if name.is_empty() { String::new() } else { name.to_owned() };
        if !shown.is_empty() || title.is_empty() {
            let all: Vec<_> = others().map(|(label, value)| format!("{label}={}", quoted(value))).collect();
            let shown = if name.is_empty() { all.join(", ") } else { shown.join(", ") };
            title = format!("{title}{{{shown}}}");
        }
        let unit = if is_rate { Unit::PerSecond } else { Unit::Number };
        let selector = selector(name, others());
        let expr = match expr {
            // What was computed can't be selected by its labels.
            Some(expr) if name.is_empty() => expr.to_owned(),
            _ if is_rate => format!("rate({selector}[5m])"),
            _ => selector,
        };
        let factor = factor(&moved, unit);
        Change {
            subject: title.clone(),
            detail: format!("from {} to {}", quantity(moved.before, unit), quantity(moved.after, unit)),
            also: String::new(),
            link: format!("/explore?query={}", encode(&expr)),
            short: format!("{title} {factor}"),
            title,
            factor,
            since_ms: moved.since.and_then(|first| self.time_ms(first)),
            spark: spark(values),
            score: moved.score.min(MAX_UNKNOWN_SCORE),
        }
    }

    /// The time of a step of the window.
    fn time_ms(&self, step: usize) -> Option<u64> {
        u64::try_from(self.windows.steps().time_ms(self.windows.count + step)).ok()
    }

    pub fn finish(mut self) -> Found {
        self.found.no_before = self.any && !self.any_before;
        for list in [&mut self.found.nodes, &mut self.found.pods, &mut self.found.series] {
            *list = by_subject(std::mem::take(list));
        }
        self.found
    }
}

/// One change a subject, most first: the one that moved most, which names the others.
fn by_subject(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.title.cmp(&b.title)));
    let mut shown = Vec::<Change>::new();
    let mut others = BTreeMap::<String, Vec<String>>::new();
    for change in changes {
        if shown.iter().any(|known| known.subject == change.subject) {
            others.entry(change.subject).or_default().push(change.short);
        } else if shown.len() < MAX_CHANGES {
            shown.push(change);
        }
    }
    for change in &mut shown {
        if let Some(others) = others.get(&change.subject).filter(|_| change.also.is_empty()) {
            let more = if others.len() > 3 { format!(" and {} more", others.len() - 3) } else { String::new() };
            change.also = format!("also {}{more}", others[..others.len().min(3)].join(", "));
        }
    }
    shown
}

/// By how much: as a factor where there is one to speak of, else as a difference.
fn factor(moved: &Moved, unit: Unit) -> String {
    let (before, after) = (moved.before.abs(), moved.after.abs());
    let ratio = if before > 0.0 { after / before } else { f64::INFINITY };
    match ratio {
        _ if before == 0.0 => "new".to_owned(),
        ratio if moved.before * moved.after > 0.0 && (1.5..1000.0).contains(&ratio) => format!("×{}", two_digits(ratio)),
        ratio if moved.before * moved.after > 0.0 && (0.001..0.67).contains(&ratio) => format!("÷{}", two_digits(1.0 / ratio)),
        _ => {
            let sign = if moved.after >= moved.before { "+" } else { "−" };
            format!("{sign}{}", quantity((moved.after - moved.before).abs(), unit))
        }
    }
}

fn two_digits(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { three_digits((value * 10.0).round() / 10.0) }
}

fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn spark(values: &[f64]) -> Option<Spark> {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().fold(0.0, f64::min), finite().fold(f64::MIN, f64::max));
    let shifted: Vec<_> = values.iter().map(|value| if value.is_finite() { value - low } else { f64::NAN }).collect();
    Spark::draw(&shifted, (high - low).max(f64::MIN_POSITIVE) * 1.1)
}

/// Whether a metric is a running total, by the names that Prometheus's conventions give them.
fn is_counter(name: &str) -> bool {
    ["_total", "_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end))
}

/// How much a running total grows a second, at each step; one that shrinks began again.
#[expect(clippy::cast_precision_loss, reason = "a step is weeks at most")]
fn rates(values: &[f64], step_ms: i64) -> Vec<f64> {
    let seconds = step_ms as f64 / 1000.0;
    let pairs = values.windows(2).map(|pair| (if pair[1] >= pair[0] { pair[1] - pair[0] } else { pair[1] }) / seconds);
    let gap = |pair: &[f64]| pair.iter().any(|value| !value.is_finite());
    let kept = pairs.zip(values.windows(2)).map(|(rate, pair)| if gap(pair) { f64::NAN } else { rate });
    std::iter::once(f64::NAN).chain(kept).collect()
}

/// The rates of events of a window with 0 in its gaps: a pod that was not there had none. Too few to compare stay as they are.
fn without_gaps(rates: &[f64]) -> Vec<f64> {
    if rates.iter().filter(|rate| rate.is_finite()).count() < 2 {
        return rates.to_vec();
    }
    rates.iter().map(|rate| if rate.is_finite() { *rate } else { 0.0 }).collect()
}

/// The floor of values that nobody knows the meaning of: a share of the largest one.
fn unknown_floor(before: &[f64], now: &[f64]) -> f64 {
    0.05 * before.iter().chain(now).copied().filter(|value| value.is_finite()).fold(0.0, |most, value| f64::max(most, value.abs()))
}

#[cfg(test)]
mod tests {
    use super::super::super::window::Window;
    use super::super::kinds::KINDS;
    use super::*;

    fn windows() -> Windows {
        Windows::of(&Window { start_ms: 1_000_000_000, end_ms: 1_003_600_000, preset: None })
    }

    fn ranking() -> Ranking {
        Ranking::new(windows())
    }

    fn line(labels: &[(&str, &str)], before: f64, now: f64) -> Line {
        let values = [vec![before; 40], vec![before; 20], vec![now; 20]].concat();
        Line { labels: Labels::new(labels.iter().copied()), values }
    }

    fn kind(title: &str, subject: Subject) -> &'static Kind {
        KINDS.iter().find(|kind| kind.title == title && kind.subject == subject).unwrap()
    }

    #[test]
    fn what_moved_most_comes_first_and_names_the_rest() {
        let mut ranking = ranking();
        let node = |name| [(SOURCE_LABEL, name)];
        ranking.kind(kind("CPU", Subject::Node), &[line(&node("calm"), 0.2, 0.21), line(&node("busy"), 0.2, 0.97)]);
        ranking.kind(kind("disk writes", Subject::Node), &[line(&node("busy"), 2e6, 88e6), line(&node("calm"), 2e6, 6e6)]);
        let pod = |name| [("namespace", "shop"), ("pod", name)];
        ranking.kind(kind("restarts", Subject::Pod), &[line(&pod("cart"), 0.0, 12.0), line(&pod("well"), 0.0, 0.0)]);
        let found = ranking.finish();
        let busy = &found.nodes[0];
        assert_eq!((busy.title.as_str(), busy.detail.as_str(), busy.factor.as_str()), ("CPU of busy", "from 20 % to 97 %", "×4.8"));
        assert!(busy.also.starts_with("also disk writes ×44"), "{}", busy.also);
        assert_eq!(busy.since_ms, u64::try_from(windows().steps().time_ms(60)).ok());
        assert_eq!((found.nodes.len(), found.pods.len()), (1, 1), "the calm ones did not move");
        assert_eq!((found.pods[0].title.as_str(), found.pods[0].detail.as_str()), ("Restarts of shop/cart", "0 before, 6 in this time"));
    }

    #[test]
    fn a_node_that_ends_is_silent_and_a_pod_that_begins_is_new() {
        let mut ranking = ranking();
        ranking.kind(kind("CPU", Subject::Node), &[line(&[(SOURCE_LABEL, "gone")], 0.2, f64::NAN)]);
        let pod = |name| [("namespace", "shop"), ("pod", name)];
        let mut begun = line(&pod("begun"), f64::NAN, 5.0);
        begun.values[60..].fill(5.0);
        ranking.kind(kind("CPU", Subject::Pod), &[line(&pod("old"), 0.1, 0.1), begun]);
        let found = ranking.finish();
        assert_eq!((found.nodes[0].title.as_str(), found.nodes[0].factor.as_str()), ("gone is silent", "silent"));
        assert_eq!((found.pods[0].title.as_str(), found.pods[0].factor.as_str()), ("CPU of shop/begun", "new"));
        assert!(!found.no_before);
    }

    #[test]
    fn a_node_that_was_stopped_is_not_silent_and_comes_last() {
        let mut ranking = ranking();
        let of = |name| [(SOURCE_LABEL, name)];
        let ends = |name| line(&of(name), 0.2, f64::NAN);
        let mut before = line(&of("earlier"), f64::NAN, f64::NAN);
        before.values[..40].fill(1.0);
        ranking.were_stopped(vec![line(&of("stopped"), f64::NAN, 1.0), before]);
        ranking.kind(kind("CPU", Subject::Node), &[ends("stopped"), ends("earlier"), line(&of("busy"), 0.2, 0.97)]);
        let found = ranking.finish();
        let told: Vec<_> = found.nodes.iter().map(|change| (change.title.as_str(), change.factor.as_str())).collect();
        assert_eq!(told, [("earlier is silent", "silent"), ("CPU of busy", "×4.8"), ("stopped was stopped", "stopped")]);
    }

    #[test]
    fn with_nothing_before_nothing_is_new() {
        let mut ranking = ranking();
        ranking.kind(kind("CPU", Subject::Pod), &[line(&[("namespace", "a"), ("pod", "b")], f64::NAN, 5.0)]);
        let found = ranking.finish();
        assert!(found.no_before && found.pods.is_empty());
    }

    #[test]
    fn events_of_a_pod_that_was_not_there_all_the_time_are_as_many_as_there_were() {
        let mut ranking = ranking();
        let pod = |name| [("namespace", "shop"), ("pod", name)];
        // 12 an hour in ten steps of 90 s are 3.
        let (mut begun, mut gone) = (line(&pod("begun"), f64::NAN, f64::NAN), line(&pod("gone"), f64::NAN, 0.0));
        begun.values[70..].fill(12.0);
        gone.values[30..40].fill(12.0);
        ranking.kind(kind("restarts", Subject::Pod), &[line(&pod("well"), 0.0, 0.0), begun, gone]);
        let found = ranking.finish();
        let told: Vec<_> =
            found.pods.iter().map(|change| (change.title.as_str(), change.detail.as_str(), change.factor.as_str())).collect();
        let begun = ("Restarts of shop/begun", "0 before, 3 in this time", "+3");
        assert_eq!(told, [begun, ("Restarts of shop/gone", "3 before, 0 in this time", "-3")]);
        assert!(without_gaps(&[f64::NAN, 1.0])[0].is_nan(), "too few");
    }

    #[test]
    fn what_moved_leads_to_an_expression_that_has_it() {
        use golectra_promql::Query;
        use golectra_promql::parse::ParseLimits;
        for (labels, expr, expected) in [
            (&[(METRIC_NAME, "load"), ("instance", "n1")][..], None, r#"load{instance="n1"}"#),
            (
                &[(METRIC_NAME, "http.server.duration"), ("instance", "n1"), ("k8s.pod.name", "a\"b")],
                None,
                r#"{"http.server.duration",instance="n1","k8s.pod.name"="a\"b"}"#,
            ),
            (
                &[(METRIC_NAME, "http.requests_total"), ("k8s.pod.name", "a")],
                None,
                r#"rate({"http.requests_total","k8s.pod.name"="a"}[5m])"#,
            ),
            (&[], Some("sum(load)"), "sum(load)"),
            (&[("pod", "a")], Some("sum by (pod) (load)"), "sum by (pod) (load)"),
            (&[(METRIC_NAME, "a.b"), ("pod", "a")], Some("topk(1, load)"), r#"{"a.b",pod="a"}"#),
        ] {
            Query::parse(expected, &ParseLimits::default()).unwrap_or_else(|error| panic!("{expected}: {error}"));
            let mut ranking = ranking();
            let mut moving = line(labels, 1.0, 1.0);
            // As a total it grows by 1 a step, and then by 9.
            let grows = (0..80).scan(0.0, |sum, step| {
                *sum += if step < 60 { 1.0 } else { 9.0 };
                Some(*sum)
            });
            moving.values = grows.collect();
            ranking.every(&[moving], expr);
            let found = ranking.finish();
            assert_eq!(found.series[0].link, format!("/explore?query={}", encode(expected)));
        }
    }

    #[test]
    fn counters_are_compared_as_rates() {
        assert_eq!(rates(&[0.0, 30.0, f64::NAN, 60.0, 15.0], 15_000)[1..2], [2.0]);
        assert!(rates(&[0.0, 30.0, f64::NAN, 60.0, 15.0], 15_000)[2].is_nan());
        assert!(rates(&[60.0, 15.0], 15_000)[1].total_cmp(&1.0).is_eq(), "it began again");
        let mut ranking = ranking();
        let grows = |after: f64| {
            let values = (0..80).scan(0.0, |sum, step| {
                *sum += if step < 60 { 10.0 } else { after };
                Some(*sum)
            });
            Line {
                labels: Labels::new([(METRIC_NAME, "things_total"), ("kind", if after > 10.0 { "a" } else { "b" })]),
                values: values.collect(),
            }
        };
        ranking.every(&[grows(10.0), grows(900.0)], None);
        let found = ranking.finish();
        assert_eq!(found.series.len(), 1);
        assert!(found.series[0].title.contains("things_total{kind=a}") && found.series[0].factor == "×90", "{:?}", found.series[0]);
    }
}
