//! The dashboard: a page with all sources, and a page for each source. Rendered on the server, so that it works without
//! JavaScript.

use std::collections::HashMap;

use askama::Template;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use golectra_protocol::{ErrorCode, Source, Value, number};
use rust_embed::Embed;

use super::AppState;
use super::error::{ApiError, TextError};
use super::latest::listing::Listing;
use crate::clock::{Clock, rfc3339};
use crate::store::{LatestFilter, Series, SourceInfo};

/// The number of series on a page; the API returns all of them.
const MAX_SHOWN: usize = 5_000;

/// A page also ends with the series that brings the length of its ids to this many bytes.
const MAX_SHOWN_ID_BYTES: usize = 1 << 20;

/// A source that has been silent for this long is shown as silent.
const SILENT_AFTER_MILLIS: u64 = 60_000;

const SECURITY: [(HeaderName, HeaderValue); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

#[derive(Embed)]
#[folder = "assets/"]
struct Assets;

#[derive(Template)]
#[template(path = "index.html")]
struct IndexPage {
    sources: Vec<SourceRow>,
    series: usize,
    now: String,
}

#[derive(Template)]
#[template(path = "source.html")]
struct SourcePage {
    title: String,
    row: SourceRow,
    filter: String,
    gauges: Vec<MetricRow>,
    counters: Vec<MetricRow>,
    truncated: bool,
    now: String,
}

struct SourceRow {
    title: String,
    link: String,
    first_seen: String,
    last_seen: String,
    ago: String,
    silent: bool,
    series: usize,
}

struct MetricRow {
    name: String,
    labels: Vec<(String, String)>,
    value: String,
    at: String,
    ago: String,
}

/// GET /: every source, when it was last seen and how many series it has.
pub async fn index(State(state): State<AppState>) -> Result<Response, TextError> {
    let now = Clock::System.unix_millis();
    let sources = state.store.sources().await.map_err(ApiError::from)?;
    let series = sources.iter().map(|source| source.series).sum();
    let sources = sources.into_iter().map(|source| SourceRow::new(&source, now)).collect();
    page(&IndexPage { sources, series, now: rfc3339(now) })
}

/// GET /source?name=&find=: the gauges and counters of one source.
pub async fn source(
    State(state): State<AppState>,
    query: Result<Query<HashMap<String, String>>, QueryRejection>,
) -> Result<Response, TextError> {
    let Query(mut query) = query.map_err(|error| ApiError::new(ErrorCode::Malformed, error.body_text()))?;
    let name = query.remove("name").unwrap_or_default();
    let name = Source::from_stored(&name).map_err(|error| ApiError::new(ErrorCode::InvalidSource, format!("name: {error}")))?;
    let find = query.remove("find").unwrap_or_default();
    let now = Clock::System.unix_millis();
    let sources = state.store.sources().await.map_err(ApiError::from)?;
    let known = sources.iter().find(|source| source.name == name);
    let known = known.ok_or_else(|| ApiError::new(ErrorCode::UnknownSource, "no such source"))?;
    let filter = LatestFilter { source: Some(name), ..LatestFilter::default() };
    let (series, truncated) = shown(&state, filter, &find.to_lowercase()).await?;
    let (gauges, counters): (Vec<_>, Vec<_>) = series.iter().partition(|one| matches!(one.value, Value::Gauge(_)));
    let rows = |list: Vec<&Series>| list.into_iter().map(|one| MetricRow::new(one, now)).collect();
    let row = SourceRow::new(known, now);
    page(&SourcePage {
        title: row.title.clone(),
        row,
        filter: find,
        gauges: rows(gauges),
        counters: rows(counters),
        truncated,
        now: rfc3339(now),
    })
}

/// The series whose ids contain this text, up to the limit of a page, and whether there are more.
async fn shown(state: &AppState, filter: LatestFilter, find: &str) -> Result<(Vec<Series>, bool), ApiError> {
    let mut listing = Listing::open(&*state.store, vec![filter]).await?;
    let (mut shown, mut id_bytes) = (Vec::new(), 0);
    while let Some(series) = listing.next().await? {
        if series.id.as_str().to_lowercase().contains(find) {
            if shown.len() == MAX_SHOWN || id_bytes >= MAX_SHOWN_ID_BYTES {
                return Ok((shown, true));
            }
            id_bytes += series.id.as_str().len();
            shown.push(series);
        }
    }
    Ok((shown, false))
}

/// GET /assets/:name: the pages' style sheet and script.
pub async fn asset(name: Result<Path<String>, PathRejection>) -> Response {
    let file = name.ok().and_then(|Path(name)| Some((mime(&name)?, Assets::get(&name)?)));
    let Some((mime, file)) = file else { return super::fallback::not_found().await.into_response() };
    let headers = [(header::CONTENT_TYPE, mime), (header::CACHE_CONTROL, "public, max-age=300")];
    (headers, file.data.into_owned()).into_response()
}

fn mime(name: &str) -> Option<&'static str> {
    match name.rsplit_once('.')?.1 {
        "css" => Some("text/css; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

fn page(template: &impl Template) -> Result<Response, TextError> {
    let html = template.render().map_err(|error| {
        tracing::error!(%error, "a dashboard page could not be rendered");
        ApiError::internal()
    })?;
    let mut response = Html(html).into_response();
    response.headers_mut().extend(SECURITY);
    Ok(response)
}

impl SourceRow {
    fn new(source: &SourceInfo, now: u64) -> Self {
        let title = if source.name.is_unnamed() { "(unnamed)".to_owned() } else { source.name.to_string() };
        Self {
            title,
            // A source's name has no characters that need escaping in a query.
            link: format!("/source?name={}", source.name),
            first_seen: rfc3339(source.first_seen_millis),
            last_seen: rfc3339(source.last_seen_millis),
            ago: ago(source.last_seen_millis, now),
            silent: now.saturating_sub(source.last_seen_millis) > SILENT_AFTER_MILLIS,
            series: source.series,
        }
    }
}

impl MetricRow {
    fn new(series: &Series, now: u64) -> Self {
        let parts = series.id.parts();
        Self {
            name: parts.name.into_owned(),
            labels: parts.labels.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect(),
            value: number::format(series.value),
            at: rfc3339(series.at_millis),
            ago: ago(series.at_millis, now),
        }
    }
}

/// A time ago, in the largest unit that fits.
fn ago(then: u64, now: u64) -> String {
    let seconds = now.saturating_sub(then) / 1000;
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::MetricId;

    use super::*;

    #[test]
    fn ages_are_shown_in_the_largest_unit_that_fits() {
        for (seconds, text) in [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (200_000, "2 d ago")] {
            assert_eq!(ago(1_000, 1_000 + seconds * 1000), text);
        }
        assert_eq!(ago(5_000, 1_000), "0 s ago", "a source whose clock is ahead");
    }

    #[test]
    fn markup_in_names_labels_and_filters_is_escaped() {
        let series = Series {
            source: Source::unnamed(),
            id: MetricId::parse("<img src=x>{a=\"</td><script>\"}").unwrap(),
            value: Value::Gauge(1.5),
            at_millis: 0,
        };
        let source = SourceInfo { name: Source::unnamed(), first_seen_millis: 0, last_seen_millis: 0, series: 1 };
        let page = SourcePage {
            title: "t".into(),
            row: SourceRow::new(&source, 0),
            filter: "\"><script>".into(),
            gauges: vec![MetricRow::new(&series, 0)],
            counters: vec![],
            truncated: false,
            now: rfc3339(0),
        };
        let html = page.render().unwrap();
        assert!(!html.contains("<img src=x") && !html.contains("<script>"), "{html}");
        assert!(html.contains("&#60;img src=x&#62;"), "{html}");
    }

    #[test]
    fn every_asset_has_a_type() {
        assert!(Assets::iter().count() >= 2);
        assert!(Assets::iter().all(|name| mime(&name).is_some()));
    }
}
