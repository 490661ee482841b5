//! What all pages have: their frame, their headers and the parameters of their addresses.

use std::collections::HashMap;

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use golectra_protocol::ErrorCode;

use super::assets;
use super::format::grouped;
use crate::http::App;
use crate::http::error::{ApiError, TextError};

/// Nothing from outside, no script or style within a page, no frame around one.
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

/// The number of rows of a long list: few enough for a page that is fetched again every few seconds.
pub const MAX_SHOWN: usize = 200;

/// The first rows of a list, and what the page has to say about the others.
pub struct Listed<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// How many more the filter leaves.
    pub more: usize,
    /// How many there are without the filter.
    pub all: usize,
}

impl<T> Listed<T> {
    /// Of what the filter leaves, in its order.
    pub fn first(found: impl ExactSizeIterator<Item = T>, all: usize) -> Self {
        let count = found.len();
        let rows: Vec<_> = found.take(MAX_SHOWN).collect();
        Self { more: count - rows.len(), rows, all }
    }

    /// How many the filter leaves, of how many.
    pub fn count(&self) -> String {
        let found = self.rows.len() + self.more;
        if found == self.all { grouped(found) } else { format!("{} of {}", grouped(found), grouped(self.all)) }
    }
}

/// The parameters of a page's address.
pub type Parameters = Result<Query<HashMap<String, String>>, QueryRejection>;

/// The frame of a page.
pub struct Shell {
    /// What the browser shows as the page's title.
    pub title: String,
    /// Which entry of the navigation the page belongs to.
    pub here: &'static str,
    /// Whether the page draws graphs.
    pub graphs: bool,
    /// The pages of PANELS_DIR.
    pub pages: Vec<PageLink>,
    /// How many alerts fire that nobody has silenced; empty where none does.
    pub firing: String,
}

/// A page of PANELS_DIR in the navigation.
pub struct PageLink {
    /// What people read.
    pub title: String,
    /// Its address.
    pub link: String,
    /// Whether it is the page that is shown.
    pub current: bool,
}

impl Shell {
    /// The frame of a page without graphs.
    pub fn new(app: &App, title: impl Into<String>, here: &'static str) -> Self {
        let panels = app.panels.current();
        let link =
            |page: &super::panels::Page| PageLink { title: page.title.clone(), link: format!("/page?name={}", page.name), current: false };
        let firing = app.alerts.firing();
        let firing = if firing == 0 { String::new() } else { grouped(firing) };
        Self { pages: panels.pages.iter().map(link).collect(), firing, ..Self::bare(title, here) }
    }

    /// The frame of a page without graphs for people who may not be signed in: it does not name the pages of PANELS_DIR.
    pub fn bare(title: impl Into<String>, here: &'static str) -> Self {
        Self { title: title.into(), here, graphs: false, pages: Vec::new(), firing: String::new() }
    }

    /// The frame of a page with graphs.
    pub fn with_graphs(app: &App, title: impl Into<String>, here: &'static str) -> Self {
        Self { graphs: true, ..Self::new(app, title, here) }
    }

    /// The frame of a page of PANELS_DIR.
    pub fn of_page(app: &App, title: &str, link: &str) -> Self {
        let mut shell = Self::with_graphs(app, title, "");
        for page in &mut shell.pages {
            page.current = page.link == link;
        }
        shell
    }

    /// The address of an asset.
    #[expect(clippy::unused_self, reason = "templates call methods of what they show")]
    pub fn asset(&self, name: &str) -> &'static str {
        assets::url(name)
    }

    /// ` aria-current="page"` for the entry that the page belongs to.
    pub fn current(&self, entry: &str) -> &'static str {
        if self.here == entry { " aria-current=\"page\"" } else { "" }
    }
}

/// The parameters, or why they can't be read.
pub fn parameters(query: Parameters) -> Result<HashMap<String, String>, TextError> {
    let Query(query) = query.map_err(|error| ApiError::new(ErrorCode::Malformed, error.body_text()))?;
    Ok(query)
}

/// Renders a page.
pub fn page(template: &impl Template) -> Result<Response, TextError> {
    let html = template.render().map_err(|error| {
        tracing::error!(%error, "a page could not be rendered");
        ApiError::internal()
    })?;
    let mut response = Html(html).into_response();
    response.headers_mut().extend(SECURITY);
    Ok(response)
}

/// A text as a part of an address's query.
pub fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
