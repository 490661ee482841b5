//! GET /page: a page of PANELS_DIR.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_protocol::ErrorCode;

use super::ask;
use super::changes::Scope;
use super::events::{self, EVENTS_LIMIT, Events};
use super::node::{Preset, presets};
use super::panels::{self, Drawing, Graphs, Page, PanelSet, Variable, quoted, quoted_pattern};
use super::shell::{Parameters, Shell, encode, page as render, parameters};
use super::window::Window;
use crate::history::query::{Listing, QueryError};
use crate::http::error::{ApiError, TextError};
use crate::http::{App, AppState};
use crate::store::history::TimeRange;

/// The most values of a variable to choose from.
const MAX_VALUES: usize = 1_000;

#[derive(Template)]
#[template(path = "page.html")]
struct OwnPage {
    shell: Shell,
    name: String,
    title: String,
    variables: Vec<Chosen>,
    presets: Vec<Preset>,
    window: Window,
    groups: Vec<Graphs>,
    happened: Option<Arc<Events>>,
    missing: Vec<String>,
}

/// A variable with what is chosen of it.
struct Chosen {
    name: String,
    title: String,
    all: bool,
    values: Vec<Choice>,
    /// Empty for all values, and where there is none.
    value: String,
}

struct Choice {
    value: String,
    chosen: bool,
}

/// GET /page?name=, with the values of its variables and a time range.
pub async fn page(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let query = parameters(query)?;
    let name = query.get("name").map(String::as_str).unwrap_or_default();
    let set = state.panels.current();
    let own = set.page(name).ok_or_else(|| ApiError::new(ErrorCode::UnknownSource, format!("PANELS_DIR has no page {name:?}")))?;
    let window = Window::of(&query, state.process.now_ms());
    let mut missing = refused(&set, own);
    let mut variables = Vec::new();
    let mut filled = Vec::new();
    for variable in &own.variables {
        let chosen = choose(&state, variable, &filled, &query, &window).await.unwrap_or_else(|error| {
            missing.push(ask::sentence(&format!("The values of {}", variable.title), &error));
            Chosen::new(variable, Vec::new(), query.get(&variable.name))
        });
        if chosen.value.is_empty() && !variable.all {
            missing.push(format!("There is no value of {} in this time.", variable.title));
        }
        filled.push((variable.name.as_str(), chosen.filling()));
        variables.push(chosen);
    }
    let metrics = metrics(&state, own, &window).await.unwrap_or_else(|error| {
        missing.push(ask::sentence("Which metrics there are", &error));
        BTreeSet::new()
    });
    let drawing = Drawing { variables: &filled, metrics: &metrics, always: true, window: &window, changes: None };
    let link = format!("/page?name={}", own.name);
    let address = variables.iter().fold(link.clone(), |link, one| format!("{link}&{}={}", encode(&one.name), encode(&one.value)));
    let happened = events::find_soon(&state, &Scope::Cluster, &window, EVENTS_LIMIT).await;
    render(&OwnPage {
        shell: Shell::of_page(&state, &own.title, &link),
        name: own.name.clone(),
        title: own.title.clone(),
        presets: presets(&address, &window),
        groups: drawing.graphs(&own.groups),
        variables,
        happened,
        window,
        missing,
    })
}

/// What is wrong with the page's file.
fn refused(set: &PanelSet, own: &Page) -> Vec<String> {
    let of_page = set.refused.iter().filter(|error| error.file == own.file || error.file == "PANELS_DIR");
    of_page.map(|error| format!("This page is shown as it was read last. {error}.")).collect()
}

/// The values of a variable, and the one that the address names, else the first.
async fn choose(
    app: &App,
    variable: &Variable,
    filled: &[(&str, String)],
    query: &HashMap<String, String>,
    window: &Window,
) -> Result<Chosen, QueryError> {
    let before = Drawing { variables: filled, metrics: &BTreeSet::new(), always: true, window, changes: None };
    let selectors = variable.series.iter().map(|series| before.filled(series)).collect();
    let listed = app.queries.label_values(variable.label.clone(), listing(selectors, window)).await?;
    Ok(Chosen::new(variable, listed.items.clone(), query.get(&variable.name)))
}

/// The metrics that there are of those between which panels choose.
async fn metrics(app: &App, own: &Page, window: &Window) -> Result<BTreeSet<String>, QueryError> {
    let names: Vec<_> = panels::choosing(&own.groups).into_iter().collect();
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    let selector = format!("{{__name__=~{}}}", quoted(&names.join("|")));
    let listed = app.queries.label_values("__name__".to_owned(), Listing { limit: None, ..listing(vec![selector], window) }).await?;
    Ok(listed.items.iter().cloned().collect())
}

fn listing(selectors: Vec<String>, window: &Window) -> Listing {
    Listing { selectors, range: TimeRange { start_ms: window.start_ms, end_ms: window.end_ms }, limit: Some(MAX_VALUES) }
}

impl Chosen {
    fn new(variable: &Variable, mut values: Vec<String>, asked: Option<&String>) -> Self {
        let asked = asked.filter(|value| !value.is_empty());
        let first = if variable.all { None } else { values.first() };
        let value = asked.or(first).cloned().unwrap_or_default();
        // What the address names is shown, even if it has no series in this time.
        if !value.is_empty() && !values.contains(&value) {
            values.push(value.clone());
        }
        Self {
            name: variable.name.clone(),
            title: variable.title.clone(),
            all: variable.all,
            values: values.into_iter().map(|one| Choice { chosen: one == value, value: one }).collect(),
            value,
        }
    }

    /// What stands for it in expressions.
    fn filling(&self) -> String {
        match (self.all, self.value.as_str()) {
            (true, "") => quoted(".*"),
            (true, value) => quoted_pattern(value),
            (false, value) => quoted(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_value_is_sent_as_it_is() {
        let variable = Variable { name: "v".into(), title: "V".into(), label: "l".into(), series: None, all: true };
        let chosen = Chosen::new(&variable, vec!["a  b".into(), "c".into()], Some(&"a  b".to_owned()));
        let window = Window::of(&HashMap::new(), 10_000_000);
        let page = OwnPage {
            shell: Shell::bare("t", ""),
            name: "own".into(),
            title: "Own".into(),
            variables: vec![chosen],
            presets: presets("/page?name=own", &window),
            groups: Vec::new(),
            happened: None,
            missing: Vec::new(),
            window,
        };
        let html = page.render().unwrap();
        // Without its value an option stands for its text with single spaces.
        assert!(html.contains(r#"<option value="a  b" selected>a  b</option><option value="c">c</option>"#), "{html}");
    }

    #[test]
    fn the_address_chooses_and_else_all_or_the_first() {
        let chosen = |all, asked: Option<&str>| {
            let variable = Variable { name: "v".into(), title: "V".into(), label: "l".into(), series: None, all };
            let chosen = Chosen::new(&variable, vec!["a.b".into(), "c".into()], asked.map(str::to_owned).as_ref());
            let values: String =
                chosen.values.iter().map(|one| if one.chosen { format!("[{}]", one.value) } else { one.value.clone() }).collect();
            format!("{values} {}", chosen.filling())
        };
        assert_eq!(chosen(false, None), r#"[a.b]c "a.b""#);
        assert_eq!(chosen(false, Some("c")), r#"a.b[c] "c""#);
        assert_eq!(chosen(false, Some("gone")), r#"a.bc[gone] "gone""#);
        assert_eq!(chosen(true, None), r#"a.bc ".*""#);
        assert_eq!(chosen(true, Some("")), r#"a.bc ".*""#);
        assert_eq!(chosen(true, Some("a.b")), r#"[a.b]c "a\\.b""#);
    }
}
