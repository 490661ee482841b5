//! The queries of the pages: through the query path of everyone, with less time, so that a page is there even if a query is slow.

use std::time::Duration;

use golectra_promql::{Labels, Steps, Value};

use crate::history::query::{QueryError, Question, When};
use crate::http::App;

/// How long a query of a page may take.
const LIMIT: Duration = Duration::from_secs(3);

/// The value of a series.
pub struct Sample {
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

/// The values of a series over time, one a step.
pub struct Line {
    /// Its labels.
    pub labels: Labels,
    /// Its values; NaN where there is none.
    pub values: Vec<f64>,
}

/// The value of an expression now.
pub async fn instant(app: &App, text: &str) -> Result<Vec<Sample>, QueryError> {
    let time_ms = app.process.now_ms();
    let evaluated = app.queries.evaluate(question(text, When::At { time_ms })).await?;
    Ok(match &evaluated.outcome.value {
        Value::Vector { samples, .. } => {
            samples.iter().map(|sample| Sample { labels: sample.labels.clone(), value: sample.value }).collect()
        }
        Value::Scalar { value, .. } => vec![Sample { labels: Labels::empty(), value: *value }],
        _ => Vec::new(),
    })
}

/// The values of an expression over time.
pub async fn range(app: &App, text: &str, steps: Steps) -> Result<Vec<Line>, QueryError> {
    lines(app, question(text, When::Over(steps)), steps).await
}

/// The same, where a sample counts as the newest one for so long.
pub async fn range_looking_back(app: &App, text: &str, steps: Steps, lookback_ms: i64) -> Result<Vec<Line>, QueryError> {
    lines(app, Question { lookback_ms: Some(lookback_ms), ..question(text, When::Over(steps)) }, steps).await
}

async fn lines(app: &App, question: Question, steps: Steps) -> Result<Vec<Line>, QueryError> {
    let evaluated = app.queries.evaluate(question).await?;
    let Value::Matrix(matrix) = &evaluated.outcome.value else { return Ok(Vec::new()) };
    let lines = matrix.series.iter().map(|series| {
        let mut values = vec![f64::NAN; steps.len()];
        for (time_ms, value) in series.samples(&matrix.steps) {
            let step = usize::try_from((time_ms - steps.start_ms()) / steps.step_ms()).unwrap_or(usize::MAX);
            if let Some(slot) = values.get_mut(step) {
                *slot = value;
            }
        }
        Line { labels: series.labels.clone(), values }
    });
    Ok(lines.collect())
}

fn question(text: &str, when: When) -> Question {
    Question { text: text.to_owned(), when, lookback_ms: None, timeout: Some(LIMIT) }
}

/// What a page says in place of what a failed query would have shown.
pub fn sentence(what: &str, error: &QueryError) -> String {
    format!("{what} can't be shown now: {error}.")
}
