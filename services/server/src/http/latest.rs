//! GET /api/v1/latest: series with their newest values. The answer is streamed from the store, so that its length does not
//! determine the memory it takes.

mod body;
pub mod budget;
pub mod listing;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use golectra_protocol::{ErrorCode, Source};

use super::AppState;
use super::error::ApiError;
use super::selector::Selector;
use crate::middleware::answer::Streamed;
use crate::store::LatestFilter;
use listing::Listing;

/// The most `match[]` parameters in a request. Each one reads pages of its own.
const MAX_SELECTORS: usize = 8;

/// The most conditions in all `match[]` parameters of a request. Each may have a regular expression, which takes memory.
const MAX_CONDITIONS: usize = 16;

/// The parameters of a request.
#[derive(Debug, Default)]
struct Parameters {
    source: Option<Source>,
    name: Option<String>,
    limit: Option<u64>,
    selectors: Vec<Selector>,
}

/// GET /api/v1/latest?source=&name=&match[]=&limit=: sorted by source, id and type. A series is listed when it matches all of `source`, `name`
/// and one of the `match[]`.
pub async fn get(State(state): State<AppState>, query: Result<Query<Vec<(String, String)>>, QueryRejection>) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::new(ErrorCode::Malformed, error.body_text()))?;
    let parameters = Parameters::from_query(query)?;
    let limit = parameters.limit;
    let share = state.listings.share(parameters.selectors.len().max(1)).await?;
    let mut listing = Listing::open(&*state.store, parameters.filters()?).await?;
    // A store that fails at the start gives an error answer; later errors can only cut the answer off.
    listing.load().await?;
    let mut response = Body::from_stream(body::pieces(listing, limit, share)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

impl Parameters {
    fn from_query(query: Vec<(String, String)>) -> Result<Self, ApiError> {
        let (mut parameters, mut conditions) = (Self::default(), 0);
        for (key, value) in query {
            let twice = match key.as_str() {
                "source" => {
                    let source = Source::from_stored(&value);
                    let source = source.map_err(|error| ApiError::new(ErrorCode::InvalidSource, format!("source: {error}")))?;
                    parameters.source.replace(source).is_some()
                }
                "name" => parameters.name.replace(value).is_some(),
                "limit" => {
                    let limit = value.parse().map_err(|_| ApiError::new(ErrorCode::Malformed, "limit: expected a whole number"))?;
                    parameters.limit.replace(limit).is_some()
                }
                "match[]" => {
                    let selector = Selector::parse(&value).map_err(|error| bad_selector(&error))?;
                    conditions += selector.len();
                    parameters.selectors.push(selector);
                    false
                }
                // Unknown parameters are ignored: other versions may know them.
                _ => false,
            };
            if twice {
                return Err(ApiError::new(ErrorCode::Malformed, format!("{key} is given twice")));
            }
        }
        // As in Prometheus, 0 means no limit; an empty name means no filter.
        parameters.limit = parameters.limit.filter(|limit| *limit > 0);
        parameters.name = parameters.name.filter(|name| !name.is_empty());
        if parameters.selectors.len() > MAX_SELECTORS || conditions > MAX_CONDITIONS {
            let most = format!("at most {MAX_SELECTORS} selectors with {MAX_CONDITIONS} conditions in all are allowed");
            return Err(bad_selector(&most));
        }
        Ok(parameters)
    }

    /// One filter for each `match[]`, or a single one without conditions.
    fn filters(self) -> Result<Vec<LatestFilter>, ApiError> {
        let all = LatestFilter { source: self.source, name: self.name, matchers: Vec::new() };
        if self.selectors.is_empty() {
            return Ok(vec![all]);
        }
        let filter = |selector: Selector| match selector.matchers() {
            Ok(matchers) => Ok(LatestFilter { matchers, ..all.clone() }),
            Err(error) => Err(bad_selector(&error)),
        };
        self.selectors.into_iter().map(filter).collect()
    }
}

fn bad_selector(error: &impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::BadSelector, format!("match[]: {error}"))
}
