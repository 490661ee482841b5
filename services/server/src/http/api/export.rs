//! /api/v1/export: all samples of series at full resolution, as a stream of CSV or JSON lines.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Version, header};
use axum::response::{IntoResponse, Response};

use super::error::ApiFailure;
use super::parameters::Parameters;
use crate::history::export::Format;
use crate::history::query::ExportQuestion;
use crate::http::AppState;
use crate::middleware::answer::Streamed;

/// /api/v1/export?match[]=&start=&end=&format=&after=
pub async fn get(
    State(state): State<AppState>,
    version: Version,
    headers: HeaderMap,
    parameters: Parameters,
) -> Result<Response, ApiFailure> {
    // In HTTP/1.0 the end of the connection is the end of the answer, so that an incomplete answer looks complete.
    if version < Version::HTTP_11 {
        return Err(ApiFailure::Version);
    }
    let format = match parameters.given("format") {
        Some(text) => text.parse().map_err(|error| ApiFailure::parameter("format", error))?,
        None => accepted(&headers),
    };
    let after = parameters.given("after").map(|text| text.parse().map_err(|error| ApiFailure::parameter("after", error)));
    let question = ExportQuestion { selectors: parameters.all("match[]"), range: parameters.range()?, after: after.transpose()?, format };
    let pieces = state.queries.export(question).await?;
    let mut response = Body::from_stream(pieces.into_stream()).into_response();
    let media_type = match format {
        Format::Csv => "text/csv; charset=utf-8",
        Format::JsonLines => "application/jsonl",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

/// The format that the client names first; JSON lines where it names none.
fn accepted(headers: &HeaderMap) -> Format {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = values.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let named = kinds.find_map(|kind| match kind.to_ascii_lowercase().as_str() {
        "text/csv" => Some(Format::Csv),
        "application/jsonl" | "application/x-ndjson" | "application/json" => Some(Format::JsonLines),
        _ => None,
    });
    named.unwrap_or(Format::JsonLines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_format_that_is_accepted_counts() {
        for (values, format) in [
            (&[][..], Format::JsonLines),
            (&["*/*"], Format::JsonLines),
            (&["text/csv"], Format::Csv),
            (&["text/html, Text/CSV;q=0.9, application/jsonl"], Format::Csv),
            (&["application/x-ndjson", "text/csv"], Format::JsonLines),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(accepted(&headers), format, "{values:?}");
        }
    }
}
