//! /api/v1/series, /api/v1/labels and /api/v1/label/NAME/values.

use axum::extract::{Path, State};

use super::answer::Answer;
use super::error::ApiFailure;
use super::parameters::Parameters;
use crate::history::query::Listing;
use crate::http::AppState;

/// What Prometheus puts in front of a name whose other characters are escaped.
const ESCAPED: &str = "U__";

/// The digits of the largest character.
const MAX_DIGITS: usize = 6;

/// /api/v1/series: label sets.
pub async fn series(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let listing = listing(&parameters)?;
    if listing.selectors.is_empty() {
        return Err(ApiFailure::BadData("no match[] parameter provided".to_owned()));
    }
    Ok(Answer::series(state.queries.series(listing).await?))
}

/// /api/v1/labels: names of labels.
pub async fn names(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    Ok(Answer::names(state.queries.label_names(listing(&parameters)?).await?))
}

/// /api/v1/label/NAME/values: values of a label.
pub async fn values(State(state): State<AppState>, Path(name): Path<String>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let name = unescape(&name).unwrap_or(name);
    if name.is_empty() {
        return Err(ApiFailure::BadData("invalid label name: \"\"".to_owned()));
    }
    Ok(Answer::names(state.queries.label_values(name, listing(&parameters)?).await?))
}

fn listing(parameters: &Parameters) -> Result<Listing, ApiFailure> {
    Ok(Listing { selectors: parameters.all("match[]"), range: parameters.range()?, limit: parameters.limit("limit")? })
}

/// The name that `U__…` stands for: `__` for an underscore, `_2e_` for the character of that hexadecimal number. None for a name
/// that is not escaped so.
fn unescape(name: &str) -> Option<String> {
    let mut rest = name.strip_prefix(ESCAPED)?;
    let mut plain = String::with_capacity(rest.len());
    while let Some((before, after)) = rest.split_once('_') {
        plain.push_str(before);
        rest = if let Some(after) = after.strip_prefix('_') {
            plain.push('_');
            after
        } else {
            let (digits, after) = after.split_once('_')?;
            let is_number = digits.len() <= MAX_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.push(u32::from_str_radix(digits, 16).ok().filter(|_| is_number).and_then(char::from_u32)?);
            after
        };
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_read() {
        for (name, plain) in [
            ("U__a_2e_b", Some("a.b")),
            ("U__a__b", Some("a_b")),
            ("U___e4_", Some("ä")),
            ("U___1F980_x_2F_y", Some("🦀x/y")),
            ("U__plain", Some("plain")),
            ("U__", Some("")),
            ("instance", None),
            ("U_a_2e_b", None),
            ("U__a_2e", None),
            ("U__a_", None),
            ("U__a_zz_", None),
            ("U__a_+2e_", None),
            ("U__a_110000_", None),
            ("U__a_d800_", None),
            ("U__a_000002e_", None),
        ] {
            assert_eq!(unescape(name).as_deref(), plain, "{name}");
        }
    }
}
