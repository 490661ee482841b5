//! GET /status: golectra itself: which version, what is stored, and what each agent says.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_process::banner::BUILD;

use super::agents::{self, AgentState};
use super::ask;
use super::cluster::SILENT_AFTER_MILLIS;
use super::format::{ago, bytes, grouped, span};
use super::shell::{Parameters, Shell, page, parameters};
use crate::clock::rfc3339;
use crate::history::labels::SOURCE_LABEL;
use crate::http::AppState;
use crate::http::error::{ApiError, TextError};

/// Collectors that fail, and how many there are.
const FAILING: &str = "golectra_agent_collector_success == 0";

/// What history takes and may take. The server that evaluates rules writes it.
const HISTORY: &str = r#"max by (__name__) ({__name__=~"golectra_history_bytes|golectra_history_max_bytes",job="golectra-server"})"#;

#[derive(Template)]
#[template(path = "status.html")]
struct StatusPage {
    shell: Shell,
    facts: Vec<(&'static str, String)>,
    agents: Vec<Agent>,
    /// Whether there is something to sign out of.
    signs_in: bool,
    missing: Vec<String>,
    now: String,
}

/// A source and what its agent says.
struct Agent {
    name: String,
    link: String,
    silent: bool,
    series: String,
    first_seen: String,
    last_seen: String,
    ago: String,
    version: String,
    notes: String,
}

/// GET /status.
pub async fn status(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    parameters(query)?;
    let now = u64::try_from(state.process.now_ms()).unwrap_or_default();
    let sources = state.store.sources().await.map_err(ApiError::from)?;
    let (agents, failing, history) =
        tokio::join!(ask::instant(&state, agents::QUERY), ask::instant(&state, FAILING), ask::instant(&state, HISTORY));
    let mut missing = state.alerts.refused_files();
    missing.extend(state.panels.current().refused.iter().map(|error| format!("A file of PANELS_DIR is refused: {error}.")));
    let mut answered = |what: &str, answer: Result<Vec<ask::Sample>, _>| {
        answer.unwrap_or_else(|error| {
            missing.push(ask::sentence(what, &error));
            Vec::new()
        })
    };
    let mut said = agents::by_source(answered("What agents say", agents));
    for sample in answered("Collectors that fail", failing) {
        let text = format!("{} can't be read", sample.labels.value("collector"));
        said.entry(sample.labels.value(SOURCE_LABEL).to_owned()).or_default().notes.push(text);
    }
    let history = answered("The size of history", history);
    let history = |name: &str| history.iter().find(|sample| sample.labels.metric_name() == name).map(|sample| sample.value);
    let store = state.store.metrics();
    let mut facts = vec![
        ("Version", format!("{} ({}, {})", BUILD.version, BUILD.commit, BUILD.date)),
        ("Running for", span(now.saturating_sub(state.process.started_millis()) / 1000)),
        ("Host", state.process.host().to_owned()),
        ("Store", if store.pool.is_some() { "PostgreSQL" } else { "memory" }.to_owned()),
        ("Series", store.series.map_or_else(|| "not known yet".to_owned(), grouped)),
        ("Sources", grouped(sources.len())),
        ("Samples are kept for", state.process.retention().to_owned()),
    ];
    let [five_minutes, hours] = state.process.rollup_retentions();
    facts.push(("Rollups of 5 minutes and of hours", format!("{five_minutes} and {hours}")));
    if let Some(size) = history("golectra_history_bytes") {
        let most = history("golectra_history_max_bytes").filter(|most| *most > 0.0).map(|most| format!(" of {}", bytes(most)));
        facts.push(("History takes", bytes(size) + &most.unwrap_or_default()));
    }
    if let Some((used, idle)) = store.pool {
        facts.push(("Connections to the database", format!("{used} in use, {idle} idle")));
    }
    if store.queue_depth > 0 {
        facts.push(("Writes that wait", grouped(store.queue_depth)));
    }
    let agents = sources.iter().map(|source| {
        let name = source.name.as_str();
        let AgentState { version, notes } = said.remove(name).unwrap_or_default();
        Agent {
            name: if source.name.is_unnamed() { "(unnamed)".to_owned() } else { name.to_owned() },
            link: format!("/source?name={name}"),
            silent: now.saturating_sub(source.last_seen_millis) > SILENT_AFTER_MILLIS,
            series: grouped(source.series),
            first_seen: rfc3339(source.first_seen_millis),
            last_seen: rfc3339(source.last_seen_millis),
            ago: ago(source.last_seen_millis, now),
            version: version.unwrap_or_else(|| "–".to_owned()),
            notes: notes.join(", "),
        }
    });
    page(&StatusPage {
        shell: Shell::new(&state, "Status", "status"),
        facts,
        agents: agents.collect(),
        signs_in: state.tokens.is_some(),
        missing,
        now: rfc3339(now),
    })
}
