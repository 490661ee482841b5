//! GET /status: golectra itself: which version, what is stored, and what each agent says.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_process::banner::BUILD;

use super::agents::{self, AgentState};
use super::ask;
use super::cluster::{SILENT_AFTER_MILLIS, STOPPED};
use super::format::{ago, bytes, grouped, span};
use super::shell::{Listed, Parameters, Shell, page, parameters};
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
    agents: Listed<Agent>,
    find: String,
    /// Whether there is something to sign out of.
    signs_in: bool,
    missing: Vec<String>,
    now: String,
}

/// A source and what its agent says.
#[derive(Default)]
struct Agent {
    name: String,
    link: String,
    silent: bool,
    /// Whether it was stopped: its last report says that its agent ends. Then it is not silent.
    stopped: bool,
    series: String,
    first_seen: String,
    last_seen: String,
    ago: String,
    version: String,
    notes: String,
}

impl Agent {
    /// What the filter looks through.
    fn text(&self) -> String {
        format!("{} {} {}", self.name, self.version, self.notes)
    }
}

/// The sources that the filter leaves: those whose agents say something first, then those that are silent, and those that were stopped last.
fn listed(sources: Vec<Agent>, find: &str) -> Listed<Agent> {
    let (all, find) = (sources.len(), find.to_lowercase());
    let mut found: Vec<_> = sources.into_iter().filter(|source| source.text().to_lowercase().contains(&find)).collect();
    found.sort_by_key(|source| (source.stopped, source.notes.is_empty(), !source.silent));
    Listed::first(found.into_iter(), all)
}

/// GET /status?find=.
pub async fn status(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let find = parameters(query)?.remove("find").unwrap_or_default();
    let now = u64::try_from(state.process.now_ms()).unwrap_or_default();
    let sources = state.store.sources().await.map_err(ApiError::from)?;
    let (agents, failing, history, stopped) = tokio::join!(
        ask::instant(&state, agents::QUERY),
        ask::instant(&state, FAILING),
        ask::instant(&state, HISTORY),
        ask::instant(&state, STOPPED)
    );
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
    let stopped = answered("Which sources were stopped", stopped);
    let stopped: BTreeSet<&str> = stopped.iter().map(|sample| sample.labels.value(SOURCE_LABEL)).collect();
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
    if let Some(unsaved) = store.unsaved_for {
        let writes = if unsaved.is_zero() { "nothing".to_owned() } else { format!("writes of the last {}", span(unsaved.as_secs())) };
        facts.push(("Not saved yet", writes));
    }
    if store.queue_depth > 0 {
        facts.push(("Writes that wait", grouped(store.queue_depth)));
    }
    let agents = sources.iter().map(|source| {
        let name = source.name.as_str();
        let AgentState { version, notes } = said.remove(name).unwrap_or_default();
        let reports = now.saturating_sub(source.last_seen_millis) <= SILENT_AFTER_MILLIS;
        Agent {
            name: if source.name.is_unnamed() { "(unnamed)".to_owned() } else { name.to_owned() },
            link: format!("/source?name={name}"),
            silent: !reports && !stopped.contains(name),
            stopped: !reports && stopped.contains(name),
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
        agents: listed(agents.collect(), &find),
        find,
        signs_in: state.tokens.is_some(),
        missing,
        now: rfc3339(now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_sources_those_with_something_to_look_at_come_first() {
        let agent = |n: usize| Agent {
            name: format!("n{n:03}"),
            silent: n >= 290,
            stopped: n < 2,
            notes: if n == 299 { "cpu can't be read".to_owned() } else { String::new() },
            ..Agent::default()
        };
        let shown = |find: &str| {
            let listed = listed((0..300).map(agent).collect(), find);
            let names: Vec<_> = listed.rows.iter().map(|source| source.name.clone()).collect();
            (names, listed.more, listed.count())
        };
        let (names, more, count) = shown("");
        assert_eq!((names.len(), more, count.as_str()), (200, 100, "300"));
        assert_eq!([&names[0], &names[1], &names[9], &names[10]], ["n299", "n290", "n298", "n002"]);
        assert_eq!(shown("n00").0[7..], ["n009", "n000", "n001"], "those that were stopped come last");
        assert_eq!(shown("CAN'T be"), (vec!["n299".to_owned()], 0, "1 of 300".to_owned()));
    }
}
