//! GET /node: one node, by its name or by the instance that others write: what it is like now, its graphs and its metrics.

use std::collections::BTreeSet;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_protocol::{ErrorCode, Source};

use super::ask;
use super::changes::Scope;
use super::cluster::{self, INSTANCE_SILENT_AFTER_MILLIS, Node};
use super::events::{self, EVENTS_LIMIT, Events};
use super::format::{bytes, grouped, percent, span, three_digits, whole};
use super::metrics::{self, Metrics};
use super::panels::{Drawing, Graphs, quoted};
use super::problems::{self, Problem};
use super::rows::Row;
use super::shell::{Parameters, Shell, encode, page, parameters};
use super::window::{PRESETS, Window};
use crate::clock::rfc3339;
use crate::history::labels::SOURCE_LABEL;
use crate::history::query::Listing;
use crate::http::error::{ApiError, TextError};
use crate::http::{App, AppState};
use crate::store::LatestFilter;
use crate::store::history::TimeRange;

/// The number of metrics below the graphs; /source has more.
const MAX_METRICS: usize = 300;

#[derive(Template)]
#[template(path = "node.html")]
struct NodePage {
    shell: Shell,
    row: Row,
    facts: Vec<Fact>,
    problems: Vec<Problem>,
    presets: Vec<Preset>,
    window: Window,
    /// The range of the page, as it is added to links.
    range: String,
    groups: Vec<Graphs>,
    happened: Option<Arc<Events>>,
    /// What changed in this time.
    changes: String,
    missing: Vec<String>,
    metrics: Metrics,
    find: String,
    all_metrics: String,
    series: Option<usize>,
    now: String,
}

/// A time range that one click chooses.
pub struct Preset {
    /// What the page says.
    pub title: &'static str,
    /// What the script reads.
    pub name: &'static str,
    /// Its address.
    pub link: String,
    /// Whether it is the one that is shown.
    pub current: bool,
}

/// The presets as links to this address.
pub fn presets(address: &str, window: &Window) -> Vec<Preset> {
    let preset = |&(name, title, _): &(&'static str, &'static str, i64)| Preset {
        title,
        name,
        link: format!("{address}{}range={name}", if address.contains('?') { '&' } else { '?' }),
        current: window.preset == Some(name),
    };
    PRESETS.iter().map(preset).collect()
}

/// GET /node?name=: a node.
pub async fn node(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let query = parameters(query)?;
    let name = query.get("name").cloned().unwrap_or_default();
    let find = query.get("find").cloned().unwrap_or_default();
    let now_ms = state.process.now_ms();
    let window = Window::of(&query, now_ms);
    let cluster = cluster::shared(&state).await?;
    let mut missing = cluster.missing.clone();
    let problems = problems::of_node(&state, &cluster, &name);
    let now = cluster.now;
    let node = cluster.nodes.iter().find(|node| node.name == name).cloned();
    let names = metric_names(&state, &[(SOURCE_LABEL, &name)], &window).await;
    match &names {
        Ok(names) if names.is_empty() && node.is_none() => {
            return Err(ApiError::new(ErrorCode::UnknownSource, "no such node").into());
        }
        Ok(names) if names.is_empty() => {
            missing.push("Nothing is known of this node in this time. Another time range may have it.".to_owned());
        }
        Ok(_) => {}
        // What can't be asked for is not gone.
        Err(error) => missing.push(error.clone()),
    }
    let names = names.unwrap_or_else(|_| BTreeSet::new());
    let node = match node {
        Some(node) => node,
        None => instance(&state, &name, now, &mut missing).await,
    };
    let of_source = node.series.and_then(|_| Source::from_stored(&name).ok());
    let (filter, all_metrics) = match of_source {
        Some(source) => (LatestFilter { source: Some(source), ..LatestFilter::default() }, format!("/source?name={}", encode(&name))),
        None => (metrics::of_instance(&name)?, format!("/source?instance={}", encode(&name))),
    };
    let metrics = metrics::shown(&state, filter, &find.to_lowercase(), MAX_METRICS, now).await?;
    let shell = Shell::with_graphs(&state, name.clone(), "overview");
    let scope = Scope::Node(name.clone());
    let changes = scope.address();
    let happened = events::find_soon(&state, &scope, &window, EVENTS_LIMIT).await;
    let variables = [("node", quoted(&name))];
    let filter_of_metrics = if find.is_empty() { String::new() } else { format!("&find={}", encode(&find)) };
    let drawing = Drawing { variables: &variables, metrics: &names, always: false, window: &window, changes: Some(&changes) };
    page(&NodePage {
        shell,
        row: Row::new(&node, now),
        facts: facts(&node, now),
        problems,
        presets: presets(&format!("/node?name={}{filter_of_metrics}", encode(&name)), &window),
        groups: drawing.graphs(&state.panels.current().node),
        changes: format!("{changes}&{}", window.parameters()),
        happened,
        range: format!("&{}", window.parameters()),
        window,
        missing,
        metrics,
        find,
        all_metrics,
        series: node.series,
        now: rfc3339(now),
    })
}

/// An instance of which the overview knows nothing, since it has no metric of a machine: when it was seen last is told by whatever series it has.
async fn instance(app: &App, name: &str, now: u64, missing: &mut Vec<String>) -> Node {
    let found = ask::instant(app, &format!("max(timestamp({{{SOURCE_LABEL}={}}}))", quoted(name))).await;
    let is_answered = found.is_ok();
    let samples = found.unwrap_or_else(|error| {
        missing.push(ask::sentence("When it was seen", &error));
        Vec::new()
    });
    let last_seen = samples.first().map(|sample| whole(sample.value * 1000.0));
    let silent = is_answered && last_seen.is_none_or(|seen| now.saturating_sub(seen) > INSTANCE_SILENT_AFTER_MILLIS);
    Node { name: name.to_owned(), last_seen, silent, ..Node::default() }
}

/// The names of the metrics with these labels in this time.
pub async fn metric_names(app: &App, labels: &[(&str, &str)], window: &Window) -> Result<BTreeSet<String>, String> {
    let matchers: Vec<_> =
        labels.iter().map(|(name, value)| format!("{name}={}", serde_json::to_string(value).unwrap_or_default())).collect();
    let range = TimeRange { start_ms: window.start_ms, end_ms: window.end_ms };
    let listing = Listing { selectors: vec![format!("{{{}}}", matchers.join(","))], range, limit: None };
    let listed = app.queries.label_values("__name__".to_owned(), listing).await;
    listed.map(|listed| listed.items.into_iter().collect()).map_err(|error| ask::sentence("Graphs", &error))
}

/// Something to say about a node or a pod: a title, a value, and what belongs to it.
pub type Fact = (&'static str, String, String);

/// What there is to say about a node.
fn facts(node: &Node, now: u64) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(cpu) = node.cpu {
        let cores = node.cores.map(|cores| format!("of {} cores", three_digits(cores))).unwrap_or_default();
        facts.push(("CPU", percent(cpu), cores));
    }
    if let Some((used, total)) = node.memory {
        facts.push(("Memory", percent(used / total), format!("{} of {}", bytes(used), bytes(total))));
    }
    if let Some(fullest) = node.fullest() {
        facts.push(("Fullest disk", percent(fullest.used()), fullest.mount.clone()));
    }
    if let Some(load) = node.load {
        let cores = node.cores.filter(|cores| *cores > 0.0);
        let of_core = cores.map(|cores| format!("{:.2} for each core", load / cores)).unwrap_or_default();
        facts.push(("Load", format!("{load:.2}"), of_core));
    }
    if let Some(pods) = node.pods {
        facts.push(("Pods", grouped(pods), String::new()));
    }
    if let Some(booted) = node.booted.filter(|booted| *booted > 0.0) {
        facts.push(("Up for", span((now / 1000).saturating_sub(whole(booted))), String::new()));
    }
    if let Some(version) = &node.version {
        facts.push(("Version", version.clone(), String::new()));
    }
    if !node.agent_notes.is_empty() {
        facts.push(("Its agent says", node.agent_notes.join(", "), String::new()));
    }
    facts
}
