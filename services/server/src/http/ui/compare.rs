//! GET /compare: one expression over all nodes, as a graph and as a table with ranks.

use std::cmp::Ordering;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_promql::{METRIC_NAME, Steps};

use super::ask::{self, Line};
use super::changes::{KINDS, Style, Subject};
use super::format::quantity;
use super::node::{Preset, presets};
use super::panels::Unit;
use super::shell::{Parameters, Shell, encode, page, parameters};
use super::spark::Spark;
use super::window::{MIN_RATE_SECONDS, Window, with_rate_window};
use crate::history::labels::SOURCE_LABEL;
use crate::http::AppState;
use crate::http::error::TextError;

/// The number of series in the table.
const MAX_SHOWN: usize = 500;
/// The number of steps that the table is made of.
const STEPS: i64 = 120;
/// The smallest step.
const MIN_STEP_MS: i64 = 15_000;
/// How long a value counts at least, and over how long rates are taken.
const MIN_LOOKBACK_MS: i64 = MIN_RATE_SECONDS * 1000;

/// The columns, with their titles.
const COLUMNS: [(&str, &str); 5] = [("name", "Node"), ("now", "Now"), ("mean", "Mean"), ("min", "Least"), ("max", "Most")];

#[derive(Template)]
#[template(path = "compare.html")]
struct ComparePage {
    shell: Shell,
    query: String,
    unit: &'static str,
    choices: Vec<Choice>,
    columns: Vec<Column>,
    rows: Vec<Row>,
    series: usize,
    presets: Vec<Preset>,
    window: Window,
    error: Option<String>,
    lines: String,
    sort: String,
}

/// An expression that one click chooses.
struct Choice {
    title: String,
    link: String,
    current: bool,
}

struct Column {
    name: &'static str,
    title: &'static str,
    link: String,
    sorted: &'static str,
}

/// A series with its rank.
struct Row {
    /// Missing where there is no value at the end of the time: what was there before says nothing about now.
    rank: Option<usize>,
    name: String,
    link: String,
    now: String,
    mean: String,
    least: String,
    most: String,
    spark: Option<Spark>,
}

/// What is known of a series in the time.
#[derive(Debug)]
struct Summary {
    name: String,
    node: String,
    /// The value at the end of the time.
    now: Option<f64>,
    mean: f64,
    least: f64,
    most: f64,
    values: Vec<f64>,
}

/// GET /compare?query=&sort=, with a time range.
pub async fn compare(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let parameters = parameters(query)?;
    let window = Window::of(&parameters, state.process.now_ms());
    let given = |name: &str| parameters.get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let known = || KINDS.iter().filter(|kind| kind.subject == Subject::Node && matches!(kind.style, Style::Level(_)));
    let plain = |expr: &str| expr.replace(",$of", "").replace("{$of}", "");
    let query = given("query").unwrap_or_else(|| known().next().map(|kind| plain(kind.expr)).unwrap_or_default());
    let unit = known().find(|kind| plain(kind.expr) == query).map_or(Unit::Number, |kind| match kind.style {
        Style::Level(unit) => unit,
        Style::Events => Unit::Number,
    });
    let step_ms = ((window.end_ms - window.start_ms) / STEPS).max(MIN_STEP_MS);
    let steps = Steps::range(window.start_ms, window.end_ms, step_ms).unwrap_or_else(|| Steps::at(window.end_ms));
    let lookback_ms = step_ms.max(MIN_LOOKBACK_MS);
    let asked = with_rate_window(&query, lookback_ms / 1000);
    let (lines, error) = match ask::range_looking_back(&state, &asked, steps, lookback_ms).await {
        Ok(lines) => (lines, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let mut summaries: Vec<_> = lines.iter().filter_map(Summary::of).collect();
    summaries.sort_by(|a, b| by_now(a, b, true).then_with(|| a.name.cmp(&b.name)));
    let scale = Scale::of(&summaries);
    let mut ranked: Vec<_> = summaries.into_iter().enumerate().collect();
    let sort = given("sort").unwrap_or_default();
    order(&mut ranked, &sort);
    let address = format!("/compare?query={}", encode(&query));
    // Another expression and another time keep the order.
    let kept = if sort.is_empty() { String::new() } else { format!("&sort={}", encode(&sort)) };
    page(&ComparePage {
        shell: Shell::with_graphs(&state, "Compare", "compare"),
        choices: known()
            .map(|kind| {
                let expr = plain(kind.expr);
                let link = format!("/compare?query={}{kept}&{}", encode(&expr), window.parameters());
                Choice { title: kind.title.to_owned(), link, current: expr == query }
            })
            .collect(),
        columns: columns(&address, &window, &sort),
        series: ranked.len(),
        rows: ranked.iter().take(MAX_SHOWN).map(|(rank, one)| Row::new(*rank, one, unit, scale, &window)).collect(),
        presets: presets(&format!("{address}{kept}"), &window),
        lines: serde_json::json!([{ "expr": query, "name": "" }]).to_string(),
        unit: unit.as_str(),
        query,
        window,
        error,
        sort,
    })
}

/// What has no value now comes last, in either direction.
fn by_now(a: &Summary, b: &Summary, descending: bool) -> Ordering {
    match (a.now, b.now) {
        (Some(a), Some(b)) if descending => b.total_cmp(&a),
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

fn order(ranked: &mut [(usize, Summary)], sort: &str) {
    let (column, descending) = sort.strip_prefix('-').map_or((sort, false), |column| (column, true));
    let compare = |a: &Summary, b: &Summary| match column {
        "name" => a.name.cmp(&b.name),
        "mean" => a.mean.total_cmp(&b.mean),
        "min" => a.least.total_cmp(&b.least),
        "max" => a.most.total_cmp(&b.most),
        _ => Ordering::Equal,
    };
    ranked.sort_by(|(_, a), (_, b)| match column {
        "now" => by_now(a, b, descending),
        _ if descending => compare(b, a),
        _ => compare(a, b),
    });
}

fn columns(address: &str, window: &Window, sort: &str) -> Vec<Column> {
    let (current, descending) = sort.strip_prefix('-').map_or((sort, false), |column| (column, true));
    let column = |&(name, title): &(&'static str, &'static str)| {
        let turns = if name == current { !descending } else { name != "name" };
        let sorted = match (name == current, descending) {
            (true, true) => " aria-sort=\"descending\"",
            (true, false) => " aria-sort=\"ascending\"",
            _ => "",
        };
        Column { name, title, link: format!("{address}&sort={}{name}&{}", if turns { "-" } else { "" }, window.parameters()), sorted }
    };
    COLUMNS.iter().map(column).collect()
}

impl Summary {
    /// None of a series that has no value in the time.
    #[expect(clippy::cast_precision_loss, reason = "a line has about a hundred values")]
    fn of(line: &Line) -> Option<Self> {
        let finite: Vec<_> = line.values.iter().copied().filter(|value| value.is_finite()).collect();
        if finite.is_empty() {
            return None;
        }
        let node = line.labels.value(SOURCE_LABEL).to_owned();
        let more = line.labels.iter().filter(|(name, _)| ![SOURCE_LABEL, METRIC_NAME, "job"].contains(name));
        let more: Vec<_> = more.map(|(name, value)| format!("{name}={value}")).collect();
        let metric = line.labels.metric_name();
        let name = [node.as_str(), if node.is_empty() { metric } else { "" }, &more.join(", ")];
        Some(Self {
            name: name.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
            node,
            now: line.values.last().copied().filter(|value| value.is_finite()),
            mean: finite.iter().sum::<f64>() / finite.len() as f64,
            least: finite.iter().copied().fold(f64::INFINITY, f64::min),
            most: finite.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            values: line.values.clone(),
        })
    }
}

/// The scale of all small lines: they are there to be compared. Zero is on it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(all: &[Summary]) -> Self {
        Self { low: all.iter().map(|one| one.least).fold(0.0, f64::min), high: all.iter().map(|one| one.most).fold(0.0, f64::max) }
    }

    /// A line as high as its values are on the scale. What is not finite is a gap.
    fn draw(self, values: &[f64]) -> Option<Spark> {
        let height = (self.high - self.low).max(f64::MIN_POSITIVE);
        let share = |value: &f64| if value.is_finite() { (value - self.low) / height } else { f64::NAN };
        Spark::draw(&values.iter().map(share).collect::<Vec<_>>(), 1.0)
    }
}

impl Row {
    fn new(rank: usize, one: &Summary, unit: Unit, scale: Scale, window: &Window) -> Self {
        Self {
            rank: one.now.map(|_| rank + 1),
            name: if one.name.is_empty() { "value".to_owned() } else { one.name.clone() },
            link: if one.node.is_empty() { String::new() } else { format!("/node?name={}&{}", encode(&one.node), window.parameters()) },
            now: one.now.map_or_else(|| "–".to_owned(), |now| quantity(now, unit)),
            mean: quantity(one.mean, unit),
            least: quantity(one.least, unit),
            most: quantity(one.most, unit),
            spark: scale.draw(&one.values),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use golectra_promql::Labels;

    use super::*;

    #[test]
    fn a_page_says_what_it_is_without_scripts() {
        let page = ComparePage {
            shell: Shell::bare("t", "compare"),
            query: "up".to_owned(),
            unit: Unit::Number.as_str(),
            choices: Vec::new(),
            columns: Vec::new(),
            rows: Vec::new(),
            series: 0,
            presets: Vec::new(),
            window: Window::of(&HashMap::new(), 10_000_000),
            error: None,
            lines: String::new(),
            sort: String::new(),
        };
        assert!(page.render().unwrap().contains("<noscript><p class=\"note\">Graphs need JavaScript."));
    }

    fn summary(name: &str, values: &[f64]) -> Option<Summary> {
        Summary::of(&Line { labels: Labels::new([(SOURCE_LABEL, name)]), values: values.to_vec() })
    }

    #[test]
    fn a_series_is_summed_up_without_its_gaps() {
        let one = summary("a", &[f64::NAN, 1.0, f64::NAN, 4.0, 1.0]).unwrap();
        assert_eq!((one.now, one.mean, one.least, one.most), (Some(1.0), 2.0, 1.0, 4.0));
        assert!(summary("a", &[f64::NAN]).is_none());
    }

    #[test]
    fn what_has_no_value_now_has_no_rank_and_comes_last() {
        let mut all: Vec<_> = [("old", [9.0, f64::NAN]), ("a", [5.0, 1.0]), ("b", [5.0, 2.0])]
            .iter()
            .filter_map(|(name, values)| summary(name, values))
            .collect();
        all.sort_by(|a, b| by_now(a, b, true));
        assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["b", "a", "old"]);
        let mut ranked: Vec<_> = all.into_iter().enumerate().collect();
        let (scale, window) = (Scale { low: 0.0, high: 9.0 }, Window::of(&HashMap::new(), 10_000_000));
        let rows: Vec<_> = ranked.iter().map(|(rank, one)| Row::new(*rank, one, Unit::Number, scale, &window)).collect();
        assert_eq!(rows[0].link, "/node?name=b&range=1h");
        assert_eq!(rows.iter().map(|row| (row.rank, row.now.as_str())).collect::<Vec<_>>(), [(Some(1), "2"), (Some(2), "1"), (None, "–")]);
        order(&mut ranked, "now");
        assert_eq!(ranked.iter().map(|(_, one)| one.name.as_str()).collect::<Vec<_>>(), ["a", "b", "old"]);
    }

    #[test]
    fn lines_below_zero_have_a_course() {
        let all: Vec<_> = [("a", [-4.0, -2.0, 0.0]), ("b", [-1.0, f64::INFINITY, -3.0])]
            .iter()
            .filter_map(|(name, values)| summary(name, values))
            .collect();
        let scale = Scale::of(&all);
        assert_eq!(scale, Scale { low: -4.0, high: 0.0 });
        assert_eq!(scale.draw(&all[0].values).unwrap().line, "M0 27.0L1 14.0L2 1.0");
        assert_eq!(scale.draw(&all[1].values).unwrap().line, "M0 7.5M2 20.5");
        // Nothing but zeros lies at the bottom, and without any value there is no line.
        assert_eq!(Scale::of(&[]).draw(&[0.0, 0.0]).unwrap().line, "M0 27.0L1 27.0");
        assert_eq!(scale.draw(&[f64::NAN]), None);
    }

    #[test]
    fn ranks_stay_when_the_order_changes() {
        let mut ranked: Vec<_> =
            [("b", 3.0), ("a", 2.0), ("c", 1.0)].into_iter().filter_map(|(name, value)| summary(name, &[value])).enumerate().collect();
        order(&mut ranked, "name");
        assert_eq!(ranked.iter().map(|(rank, one)| (*rank, one.name.as_str())).collect::<Vec<_>>(), [(1, "a"), (0, "b"), (2, "c")]);
        order(&mut ranked, "-max");
        assert_eq!(ranked[0].1.name, "b");
        order(&mut ranked, "-now");
        assert_eq!(ranked[0].1.name, "b");
        let window = Window::of(&HashMap::new(), 10_000_000);
        assert_eq!(columns("/compare?query=x", &window, "-now")[1].link, "/compare?query=x&sort=now&range=1h");
    }
}
