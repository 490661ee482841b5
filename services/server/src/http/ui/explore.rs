//! GET /explore: any PromQL expression, as a table from the server and as a graph with scripts.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_promql::METRIC_NAME;

use super::ask;
use super::changes::Scope;
use super::events::{self, EVENTS_LIMIT, Events};
use super::format::grouped;
use super::node::{Preset, presets};
use super::shell::{Parameters, Shell, encode, page, parameters};
use super::window::{MIN_RATE_SECONDS, Window, with_rate_window};
use crate::http::AppState;
use crate::http::error::TextError;

/// The number of series in the table.
const MAX_SHOWN: usize = 500;

#[derive(Template)]
#[template(path = "explore.html")]
struct ExplorePage {
    shell: Shell,
    query: String,
    presets: Vec<Preset>,
    window: Window,
    rows: Vec<SampleRow>,
    series: usize,
    error: Option<String>,
    /// What of it changed in this time.
    changes: String,
    happened: Option<Arc<Events>>,
    /// The expression as the script of graphs reads it.
    lines: String,
}

/// A series of the table.
struct SampleRow {
    name: String,
    labels: Vec<(String, String)>,
    /// Its value for people, and exactly.
    value: String,
    exact: String,
}

/// GET /explore?query=.
pub async fn explore(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let parameters = parameters(query)?;
    let query = parameters.get("query").map(|text| text.trim().to_owned()).unwrap_or_default();
    let window = Window::of(&parameters, state.process.now_ms());
    let answer = if query.is_empty() {
        Ok(Vec::new())
    } else {
        // The table is about now, and has the window that graphs of short ranges have.
        ask::instant(&state, &with_rate_window(&query, MIN_RATE_SECONDS)).await
    };
    let (samples, error) = match answer {
        Ok(samples) => (samples, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let happened = if query.is_empty() { None } else { events::find_soon(&state, &Scope::Cluster, &window, EVENTS_LIMIT).await };
    let rows = samples.iter().take(MAX_SHOWN).map(|sample| SampleRow {
        name: sample.labels.metric_name().to_owned(),
        labels: sample
            .labels
            .iter()
            .filter(|(name, _)| *name != METRIC_NAME)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        value: grouped(six_digits(sample.value).as_str()),
        exact: golectra_protocol::number::format(golectra_protocol::Value::Gauge(sample.value)),
    });
    page(&ExplorePage {
        shell: Shell::with_graphs(&state, "Explore", "explore"),
        presets: presets(&format!("/explore?query={}", encode(&query)), &window),
        rows: rows.collect(),
        series: samples.len(),
        lines: serde_json::json!([{ "expr": query, "name": "" }]).to_string(),
        changes: format!("{}&{}", Scope::Query(query.clone()).address(), window.parameters()),
        happened,
        query,
        window,
        error,
    })
}

/// A value with at most six digits where it has a fraction.
fn six_digits(value: f64) -> String {
    let exact = golectra_protocol::number::format(golectra_protocol::Value::Gauge(value));
    if exact.len() <= 9 || value.fract() == 0.0 || !value.is_finite() || !(1e-4..1e9).contains(&value.abs()) {
        return exact;
    }
    let whole = format!("{:.0}", value.abs().trunc()).len();
    let text = format!("{value:.places$}", places = 6_usize.saturating_sub(if value.abs() < 1.0 { 0 } else { whole }));
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_page_says_what_it_is_without_scripts() {
        let html = |query: &str| {
            let window = Window::of(&HashMap::new(), 10_000_000);
            let page = ExplorePage {
                shell: Shell::bare("t", "explore"),
                query: query.to_owned(),
                presets: Vec::new(),
                window,
                rows: Vec::new(),
                series: 0,
                error: None,
                changes: String::new(),
                happened: None,
                lines: String::new(),
            };
            page.render().unwrap()
        };
        let said = "<noscript><p class=\"note\">Graphs need JavaScript.";
        assert!(html("up").contains(said));
        assert!(!html("").contains(said), "there is no graph");
    }

    #[test]
    fn long_fractions_are_shortened_and_nothing_else() {
        for (value, text) in
            [(43.0, "43"), (0.262_645_779, "0.262646"), (5.106_617_381, "5.10662"), (1e-7, "0.0000001"), (123_456_789.0, "123456789")]
        {
            assert_eq!(six_digits(value), text);
        }
    }
}
