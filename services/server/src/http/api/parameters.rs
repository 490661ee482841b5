//! The parameters of a request: of its URL, and of its body where that is a form.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{Method, header};

use super::error::ApiFailure;
use crate::history::time::{duration, parse_duration_ms, parse_time_ms};
use crate::http::AppState;
use crate::http::extract::body::QueryPayload;
use crate::middleware::path::is_escaped_well;
use crate::store::history::TimeRange;

/// The longest form. A query that fills it is longer than queries may be.
const MAX_FORM_BYTES: usize = 1 << 20;

/// The most parameters of a request.
const MAX_PARAMETERS: usize = 1_000;

const FORM: &str = "application/x-www-form-urlencoded";

/// Names and values: those of the body first, as Prometheus has them.
#[derive(Debug, Default)]
pub struct Parameters(Vec<(String, String)>);

impl FromRequest<AppState> for Parameters {
    type Rejection = ApiFailure;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiFailure> {
        let in_url = request.uri().query().unwrap_or_default().to_owned();
        let mut parameters = Self::default();
        if request.method() == Method::POST {
            let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let is_form = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FORM));
            // A query changes nothing, so that it need not be signed.
            let QueryPayload(body) = QueryPayload::<MAX_FORM_BYTES>::from_request(request, state).await?;
            if !body.bytes.is_empty() {
                parameters.add_form(is_form, &body.bytes)?;
            }
        }
        parameters.add(in_url.as_bytes())?;
        Ok(parameters)
    }
}

impl Parameters {
    fn add_form(&mut self, is_form: bool, body: &[u8]) -> Result<(), ApiFailure> {
        if !is_form {
            return Err(ApiFailure::BadData(format!("a body must be of the Content-Type {FORM}")));
        }
        let text = std::str::from_utf8(body).ok().filter(|text| is_escaped_well(text));
        let text = text
            .ok_or_else(|| ApiFailure::BadData("the form has a '%' that is not followed by two hex digits, or is not UTF-8".to_owned()))?;
        self.add(text.as_bytes())
    }

    fn add(&mut self, encoded: &[u8]) -> Result<(), ApiFailure> {
        for (name, value) in form_urlencoded::parse(encoded) {
            if self.0.len() == MAX_PARAMETERS {
                return Err(ApiFailure::BadData(format!("more than {MAX_PARAMETERS} parameters are not allowed")));
            }
            self.0.push((name.into_owned(), value.into_owned()));
        }
        Ok(())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(candidate, _)| candidate == name).map(|(_, value)| value.clone()).collect()
    }

    /// The first value of a parameter; empty where it is not given.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(candidate, _)| candidate == name).map_or("", |(_, value)| value.as_str())
    }

    /// The first value of a parameter, if it is not empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|value| !value.is_empty())
    }

    /// A time, if it is given.
    pub fn time_ms(&self, name: &str) -> Result<Option<i64>, ApiFailure> {
        let Some(text) = self.given(name) else { return Ok(None) };
        let problem = || ApiFailure::parameter(name, format!("cannot parse {text:?} to a valid timestamp"));
        parse_time_ms(text).map(Some).ok_or_else(problem)
    }

    /// A time that must be given.
    pub fn required_time_ms(&self, name: &str) -> Result<i64, ApiFailure> {
        let problem = || ApiFailure::parameter(name, "cannot parse \"\" to a valid timestamp");
        self.time_ms(name)?.ok_or_else(problem)
    }

    /// A duration, if it is given.
    pub fn duration_ms(&self, name: &str) -> Result<Option<i64>, ApiFailure> {
        self.given(name).map(|text| read_duration_ms(name, text)).transpose()
    }

    /// A duration that must be given.
    pub fn required_duration_ms(&self, name: &str) -> Result<i64, ApiFailure> {
        read_duration_ms(name, self.text(name))
    }

    /// How long the answer may take, if less than the server allows.
    pub fn timeout(&self) -> Result<Option<Duration>, ApiFailure> {
        // As in Prometheus one that is over before it begins.
        Ok(self.duration_ms("timeout")?.map(|ms| duration(ms).unwrap_or_default()))
    }

    /// How long a sample counts as the newest one of its series, if not as long as usual.
    pub fn lookback_ms(&self) -> Result<Option<i64>, ApiFailure> {
        Ok(self.duration_ms("lookback_delta")?.filter(|ms| *ms > 0))
    }

    /// A whole number; none where it is not given, and 0 is none too.
    pub fn limit(&self, name: &str) -> Result<Option<usize>, ApiFailure> {
        let Some(text) = self.given(name) else { return Ok(None) };
        let limit: i64 = text.parse().map_err(|_| ApiFailure::parameter(name, format!("cannot parse {text:?} to a whole number")))?;
        if limit < 0 {
            return Err(ApiFailure::parameter(name, "limit must be non-negative"));
        }
        Ok(usize::try_from(limit).ok().filter(|limit| *limit > 0))
    }

    /// The time between `start` and `end`, which may be empty: all where they are not given.
    pub fn range(&self) -> Result<TimeRange, ApiFailure> {
        let (start_ms, end_ms) = (self.time_ms("start")?, self.time_ms("end")?);
        Ok(TimeRange { start_ms: start_ms.unwrap_or(0).max(0), end_ms: end_ms.unwrap_or(LAST_MS).min(LAST_MS) })
    }
}

/// No sample is later: the end of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

fn read_duration_ms(name: &str, text: &str) -> Result<i64, ApiFailure> {
    parse_duration_ms(text).ok_or_else(|| ApiFailure::parameter(name, format!("cannot parse {text:?} to a valid duration")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(encoded: &str) -> Parameters {
        let mut parameters = Parameters::default();
        parameters.add(encoded.as_bytes()).unwrap();
        parameters
    }

    fn message<T: std::fmt::Debug>(result: Result<T, ApiFailure>) -> String {
        match result.unwrap_err() {
            ApiFailure::BadData(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_value_counts_and_an_empty_one_is_none() {
        let given = parameters("time=5&time=6&match%5B%5D=a&match[]=b+c&limit=&start=10&end=20.5");
        assert_eq!(given.time_ms("time").unwrap(), Some(5_000));
        assert_eq!(given.all("match[]"), ["a", "b c"]);
        assert_eq!(given.limit("limit").unwrap(), None);
        assert_eq!(given.range().unwrap(), TimeRange { start_ms: 10_000, end_ms: 20_500 });
        assert_eq!(parameters("").range().unwrap(), TimeRange { start_ms: 0, end_ms: LAST_MS });
    }

    #[test]
    fn errors_are_prometheuss() {
        let given = parameters("time=x&step=y&limit=-1");
        assert_eq!(message(given.time_ms("time")), r#"invalid parameter "time": cannot parse "x" to a valid timestamp"#);
        assert_eq!(message(given.required_time_ms("from")), r#"invalid parameter "from": cannot parse "" to a valid timestamp"#);
        assert_eq!(message(given.required_duration_ms("step")), r#"invalid parameter "step": cannot parse "y" to a valid duration"#);
        assert_eq!(message(given.limit("limit")), r#"invalid parameter "limit": limit must be non-negative"#);
        let many = "a=1&".repeat(MAX_PARAMETERS + 1);
        assert_eq!(message(Parameters::default().add(many.as_bytes())), "more than 1000 parameters are not allowed");
    }

    #[test]
    fn a_body_that_is_no_form_is_refused() {
        assert!(message(Parameters::default().add_form(false, b"query=up")).contains(FORM));
        for body in [b"query=%zz".as_slice(), b"query=%FF", b"query=\xff"] {
            assert!(message(Parameters::default().add_form(true, body)).contains("UTF-8"));
        }
        let mut form = Parameters::default();
        form.add_form(true, "query=a%C3%BC+b".as_bytes()).unwrap();
        assert_eq!(form.text("query"), "aü b");
    }
}
