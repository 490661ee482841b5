//! GET /changes: what moved in a window against the one before it, and what happened in it.

mod find;
mod kinds;
mod ranking;
mod scope;
mod score;
mod windows;

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;

pub use self::find::{KeptChanges, find_soon};
pub use self::kinds::{KINDS, Style, Subject};
pub use self::ranking::{Change, Found};
pub use self::scope::Scope;

use super::events::{self, EVENTS_LIMIT, Events};
use super::node::{Preset, presets};
use super::shell::{Parameters, Shell, encode, page, parameters};
use super::window::Window;
use crate::http::AppState;
use crate::http::error::TextError;

#[derive(Template)]
#[template(path = "changes.html")]
struct ChangesPage {
    shell: Shell,
    /// What is compared, and where that is shown; empty where it is everything.
    subject: String,
    back: String,
    /// The time range, as links to what moved have it behind their other parameters.
    range: String,
    lists: Vec<(&'static str, Vec<Change>)>,
    found: Arc<Found>,
    happened: Option<Arc<Events>>,
    presets: Vec<Preset>,
    window: Window,
    before: (u64, u64),
}

/// GET /changes?node=, ?namespace=&pod= or ?query=, with a time range.
pub async fn changes(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let query = parameters(query)?;
    let window = Window::of(&query, state.process.now_ms());
    let scope = Scope::of(&query);
    let found = find::find(&state, &scope, &window).await;
    let happened = events::find_soon(&state, &scope, &window, EVENTS_LIMIT).await;
    let (subject, back) = match &scope {
        Scope::Cluster => (String::new(), String::new()),
        Scope::Node(name) => (name.clone(), format!("/node?name={}&{}", encode(name), window.parameters())),
        Scope::Pod(namespace, name) => {
            (format!("{namespace}/{name}"), format!("/pod?namespace={}&name={}&{}", encode(namespace), encode(name), window.parameters()))
        }
        Scope::Query(expr) => (expr.clone(), format!("/explore?query={}&{}", encode(expr), window.parameters())),
    };
    let lists = [
        ("Nodes", &found.nodes),
        ("Pods and volumes", &found.pods),
        (if matches!(scope, Scope::Query(_)) { "Series" } else { "Every metric" }, &found.series),
    ];
    let length = window.end_ms - window.start_ms;
    let millis = |time_ms: i64| u64::try_from(time_ms).unwrap_or_default();
    page(&ChangesPage {
        shell: Shell::new(&state, "What changed?", "changes"),
        subject,
        back,
        range: format!("&{}", window.parameters()),
        lists: lists.into_iter().filter(|(_, changes)| !changes.is_empty()).map(|(title, changes)| (title, changes.clone())).collect(),
        presets: presets(&scope.address(), &window),
        before: (millis(window.start_ms - length), millis(window.start_ms)),
        found,
        happened,
        window,
    })
}

impl Scope {
    /// What the address says.
    fn of(query: &HashMap<String, String>) -> Self {
        let given = |name: &str| query.get(name).filter(|value| !value.is_empty()).cloned();
        match (given("query"), given("namespace"), given("pod"), given("node")) {
            (Some(expr), ..) => Self::Query(expr),
            (_, Some(namespace), Some(pod), _) => Self::Pod(namespace, pod),
            (.., Some(node)) => Self::Node(node),
            _ => Self::Cluster,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_that_events_are_not_found_yet() {
        let page = |happened: Option<Events>| {
            let page = ChangesPage {
                shell: Shell::bare("t", "changes"),
                subject: String::new(),
                back: String::new(),
                range: String::new(),
                lists: Vec::new(),
                found: Arc::default(),
                happened: happened.map(Arc::new),
                presets: Vec::new(),
                window: Window { start_ms: 0, end_ms: 3_600_000, preset: None },
                before: (0, 0),
            };
            page.render().unwrap()
        };
        let soft = "Events are being looked for.";
        assert!(page(None).contains(soft));
        assert!(!page(Some(Events::default())).contains(soft));
    }
}
