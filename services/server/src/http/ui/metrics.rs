//! GET /source: every metric of a source or of an instance, with its newest value.

use std::collections::HashMap;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_promql::{MatchOp, Matcher};
use golectra_protocol::{ErrorCode, Source, Value, number};

use super::format::{ago, grouped};
use super::panels::quoted;
use super::shell::{Parameters, Shell, encode, page, parameters};
use crate::clock::rfc3339;
use crate::history::labels::{REMOTE_WRITE_SOURCE, SOURCE_LABEL, is_node};
use crate::http::error::{ApiError, TextError};
use crate::http::latest::listing::Listing;
use crate::http::{App, AppState};
use crate::store::{LatestFilter, Series};

/// The number of series on a page; the API returns all of them.
const MAX_SHOWN: usize = 5_000;

/// A page also ends with the series that brings the length of its ids to this many bytes.
const MAX_SHOWN_ID_BYTES: usize = 1 << 20;

#[derive(Template)]
#[template(path = "metrics.html")]
struct MetricsPage {
    shell: Shell,
    /// What the metrics are of, as the form repeats it: `name` or `instance`, and its value.
    field: (&'static str, String),
    heading: String,
    sum: String,
    /// The page of the node, where it is one.
    node: Option<String>,
    find: String,
    metrics: Metrics,
    now: String,
}

/// A table of metrics.
pub struct Metrics {
    /// Newest values.
    pub gauges: Vec<MetricRow>,
    /// Totals.
    pub counters: Vec<MetricRow>,
    /// Whether there are more than are shown.
    pub truncated: bool,
}

/// A metric in the table.
pub struct MetricRow {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: String,
    /// When it was measured.
    pub at: String,
    /// How long ago that is.
    pub ago: String,
    /// Its graph.
    pub link: String,
}

/// GET /source?name=&find=, or ?instance=&find= for what others write.
pub async fn metrics(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let query = parameters(query)?;
    let find = query.get("find").cloned().unwrap_or_default();
    let now = now(&state);
    let (field, filter, heading, sum, node) = if let Some(instance) = query.get("instance") {
        let node = Some(format!("/node?name={}", encode(instance)));
        (("instance", instance.clone()), of_instance(instance)?, instance.clone(), "Written by others under this instance".to_owned(), node)
    } else {
        of_source(&state, &query, now).await?
    };
    let metrics = shown(&state, filter, &find.to_lowercase(), MAX_SHOWN, now).await?;
    let shell = Shell::new(&state, heading.clone(), "overview");
    page(&MetricsPage { shell, field, heading, sum, node, find, metrics, now: rfc3339(now) })
}

type Subject = ((&'static str, String), LatestFilter, String, String, Option<String>);

async fn of_source(app: &App, query: &HashMap<String, String>, now: u64) -> Result<Subject, ApiError> {
    let name = query.get("name").map(String::as_str).unwrap_or_default();
    let source = Source::from_stored(name).map_err(|error| ApiError::new(ErrorCode::InvalidSource, format!("name: {error}")))?;
    let sources = app.store.sources().await?;
    let known = sources.iter().find(|one| one.name == source);
    let known = known.ok_or_else(|| ApiError::new(ErrorCode::UnknownSource, "no such source"))?;
    let heading = if source.is_unnamed() { "(unnamed)".to_owned() } else { name.to_owned() };
    let sum = format!("{} series, last seen {}", grouped(known.series), ago(known.last_seen_millis, now));
    let node = is_node(name).then(|| format!("/node?name={}", encode(name)));
    Ok((("name", name.to_owned()), LatestFilter { source: Some(source), ..LatestFilter::default() }, heading, sum, node))
}

/// The series that carry this instance.
pub fn of_instance(instance: &str) -> Result<LatestFilter, ApiError> {
    let matcher = Matcher::new(MatchOp::Equal, SOURCE_LABEL, instance);
    let matcher = matcher.map_err(|error| ApiError::new(ErrorCode::Malformed, format!("instance: {error}")))?;
    Ok(LatestFilter { matchers: vec![matcher], ..LatestFilter::default() })
}

/// The series whose ids contain this text, at most so many and up to the limit of a page.
pub async fn shown(app: &App, filter: LatestFilter, find: &str, limit: usize, now: u64) -> Result<Metrics, ApiError> {
    let unnamed = filter.source.as_ref().is_some_and(Source::is_unnamed);
    let mut listing = Listing::open(&*app.store, vec![filter]).await?;
    let mut metrics = Metrics { gauges: Vec::new(), counters: Vec::new(), truncated: false };
    let mut id_bytes = 0;
    while let Some(series) = listing.next().await? {
        if series.id.as_str().to_lowercase().contains(find) {
            if metrics.gauges.len() + metrics.counters.len() == limit || id_bytes >= MAX_SHOWN_ID_BYTES {
                metrics.truncated = true;
                break;
            }
            id_bytes += series.id.as_str().len();
            let rows = if matches!(series.value, Value::Gauge(_)) { &mut metrics.gauges } else { &mut metrics.counters };
            rows.push(MetricRow::new(&series, unnamed, now));
        }
    }
    Ok(metrics)
}

impl MetricRow {
    fn new(series: &Series, unnamed: bool, now: u64) -> Self {
        let parts = series.id.parts();
        let name = parts.name.into_owned();
        let labels: Vec<_> = parts.labels.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        let by_source = !unnamed && series.source.as_str() != REMOTE_WRITE_SOURCE && !labels.iter().any(|(key, _)| key == SOURCE_LABEL);
        let instance = by_source.then(|| (SOURCE_LABEL, series.source.as_str()));
        let selected = instance.into_iter().chain(labels.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let link = format!("/explore?query={}", encode(&selector(&name, selected)));
        Self {
            name,
            labels,
            value: grouped(number::format(series.value).as_str()),
            at: rfc3339(series.at_millis),
            ago: ago(series.at_millis, now),
            link,
        }
    }
}

/// The PromQL expression that selects the series with this name, if it has one, and these labels. Names that PromQL does not take otherwise are in quotes.
pub fn selector<'a>(name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let key = |key: &str| if is_plain(key) { key.to_owned() } else { quoted(key) };
    let mut matchers: Vec<_> = labels.into_iter().map(|(label, value)| format!("{}={}", key(label), quoted(value))).collect();
    if is_plain(name) {
        return if matchers.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", matchers.join(",")) };
    }
    if !name.is_empty() {
        matchers.insert(0, quoted(name));
    }
    format!("{{{}}}", matchers.join(","))
}

/// Whether PromQL takes this name without quotes.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(plain) && !name.as_bytes()[0].is_ascii_digit()
}

fn now(app: &App) -> u64 {
    u64::try_from(app.process.now_ms()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use golectra_protocol::MetricId;

    use super::*;

    fn series(source: &str, id: &str) -> Series {
        let source = Source::from_stored(source).unwrap();
        Series { source, id: MetricId::parse(id).unwrap(), value: Value::Gauge(1.5), at_millis: 0 }
    }

    #[test]
    fn markup_in_names_labels_and_filters_is_escaped() {
        let series = series("", "<img src=x>{a=\"</td><script>\"}");
        let page = MetricsPage {
            shell: Shell::bare("t", "overview"),
            field: ("name", "\"><script>".into()),
            heading: "<b>".into(),
            sum: String::new(),
            node: None,
            find: "\"><script>".into(),
            metrics: Metrics { gauges: vec![MetricRow::new(&series, true, 0)], counters: vec![], truncated: false },
            now: rfc3339(0),
        };
        let html = page.render().unwrap();
        assert!(!html.contains("<img src=x") && !html.contains("<script>") && !html.contains("<b>a"), "{html}");
        assert!(html.contains("&#60;img src=x&#62;"), "{html}");
    }

    #[test]
    fn a_metric_leads_to_an_expression_that_selects_it() {
        for (source, id, expected) in [
            ("n1", "load", "load{instance=\"n1\"}"),
            ("", "load", "load"),
            ("n1", "load{a=\"x\\\"y\"}", "load{instance=\"n1\",a=\"x\\\"y\"}"),
            ("remote-write", "up{instance=\"a:1\"}", "up{instance=\"a:1\"}"),
            ("n1", "with space", "{\"with space\",instance=\"n1\"}"),
        ] {
            let series = series(source, id);
            let row = MetricRow::new(&series, source.is_empty(), 0);
            assert_eq!(row.link, format!("/explore?query={}", encode(expected)));
            golectra_promql::Query::parse(expected, &golectra_promql::parse::ParseLimits::default()).unwrap();
        }
    }
}
