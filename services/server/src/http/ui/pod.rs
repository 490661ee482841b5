//! GET /pod: the graphs of one pod.

use std::collections::BTreeSet;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_protocol::ErrorCode;

use super::changes::Scope;
use super::events::{self, EVENTS_LIMIT, Events};
use super::node::{Fact, Preset, metric_names, presets};
use super::panels::{Drawing, Graphs, quoted};
use super::pods;
use super::shell::{Parameters, Shell, encode, page, parameters};
use super::window::Window;
use crate::http::AppState;
use crate::http::error::{ApiError, TextError};

#[derive(Template)]
#[template(path = "pod.html")]
struct PodPage {
    shell: Shell,
    namespace: String,
    namespace_link: String,
    name: String,
    presets: Vec<Preset>,
    window: Window,
    groups: Vec<Graphs>,
    happened: Option<Arc<Events>>,
    /// What changed in this time.
    changes: String,
    /// What is known of it now, where it is there now.
    facts: Vec<Fact>,
    node: String,
    node_link: String,
    missing: Vec<String>,
}

/// GET /pod?namespace=&name=.
pub async fn pod(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let query = parameters(query)?;
    let given = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (namespace, name) = (given("namespace"), given("name"));
    let window = Window::of(&query, state.process.now_ms());
    let mut missing = Vec::new();
    let names = metric_names(&state, &[("namespace", &namespace), ("pod", &name)], &window).await;
    match &names {
        Ok(names) if names.is_empty() && window.preset.is_none_or(|preset| preset == "2y") => {
            return Err(ApiError::new(ErrorCode::UnknownSource, "no such pod in this time").into());
        }
        Ok(names) if names.is_empty() => {
            missing.push("Nothing is known of this pod in this time. A longer time range may have it.".to_owned());
        }
        Ok(_) => {}
        Err(error) => missing.push(error.clone()),
    }
    let names = names.unwrap_or_else(|_| BTreeSet::new());
    let scope = Scope::Pod(namespace.clone(), name.clone());
    let changes = scope.address();
    let happened = events::find_soon(&state, &scope, &window, EVENTS_LIMIT).await;
    let (node, facts, not_shown) = pods::facts(&state, &namespace, &name).await;
    missing.extend(not_shown);
    let variables = [("namespace", quoted(&namespace)), ("pod", quoted(&name))];
    let drawing = Drawing { variables: &variables, metrics: &names, always: false, window: &window, changes: Some(&changes) };
    page(&PodPage {
        shell: Shell::with_graphs(&state, format!("{namespace}/{name}"), "pods"),
        namespace_link: format!("/pods?namespace={}", encode(&namespace)),
        presets: presets(&format!("/pod?namespace={}&name={}", encode(&namespace), encode(&name)), &window),
        groups: drawing.graphs(&state.panels.current().pod),
        changes: format!("{changes}&{}", window.parameters()),
        happened,
        facts,
        node_link: format!("/node?name={}&{}", encode(&node), window.parameters()),
        node,
        namespace,
        name,
        window,
        missing,
    })
}
