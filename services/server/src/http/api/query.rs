//! /api/v1/query, /query_range, /query_exemplars, /format_query and /parse_query.

use axum::extract::State;
use golectra_promql::Steps;
use serde::Serialize;

use super::answer::Answer;
use super::error::ApiFailure;
use super::parameters::Parameters;
use super::syntax::Node;
use crate::history::query::{Evaluated, Question, When};
use crate::http::AppState;

/// The most intervals between two steps.
const MAX_INTERVALS: i64 = 11_000;

/// /api/v1/query: the value of an expression at one time.
pub async fn instant(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let limit = parameters.limit("limit")?;
    let time_ms = parameters.time_ms("time")?.unwrap_or_else(|| state.process.now_ms());
    answer(&state, &parameters, When::At { time_ms }, limit).await
}

/// /api/v1/query_range: the values of an expression over time.
pub async fn range(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let limit = parameters.limit("limit")?;
    let start_ms = parameters.required_time_ms("start")?;
    let end_ms = parameters.required_time_ms("end")?;
    if end_ms < start_ms {
        return Err(ApiFailure::parameter("end", "end timestamp must not be before start time"));
    }
    let step_ms = parameters.required_duration_ms("step")?;
    if step_ms <= 0 {
        let problem = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiFailure::parameter("step", problem));
    }
    let steps = Steps::range(start_ms, end_ms, step_ms).filter(|_| (end_ms - start_ms) / step_ms <= MAX_INTERVALS);
    let Some(steps) = steps else {
        let problem = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
        return Err(ApiFailure::BadData(problem.to_owned()));
    };
    answer(&state, &parameters, When::Over(steps), limit).await
}

async fn answer(state: &AppState, parameters: &Parameters, when: When, limit: Option<usize>) -> Result<Answer, ApiFailure> {
    let question = Question {
        text: parameters.text("query").to_owned(),
        when,
        lookback_ms: parameters.lookback_ms()?,
        timeout: parameters.timeout()?,
    };
    let evaluated = state.queries.evaluate(question).await?;
    let told = (!parameters.text("stats").is_empty()).then(|| Stats::of(&evaluated));
    Ok(Answer::evaluated(evaluated, limit, told.as_ref()))
}

/// What a query took, under Prometheus's names. Times are in seconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    timings: Timings,
    samples: Samples,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "Prometheus's names")]
struct Timings {
    eval_total_time: f64,
    query_preparation_time: f64,
    inner_eval_time: f64,
    exec_queue_time: f64,
    exec_total_time: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Samples {
    total_queryable_samples: u64,
}

impl Stats {
    fn of(evaluated: &Evaluated) -> Self {
        let costs = &evaluated.costs;
        let preparation = costs.prepared + costs.read;
        let total = preparation + costs.evaluated;
        Self {
            timings: Timings {
                eval_total_time: total.as_secs_f64(),
                query_preparation_time: preparation.as_secs_f64(),
                inner_eval_time: costs.evaluated.as_secs_f64(),
                exec_queue_time: costs.queued.as_secs_f64(),
                exec_total_time: (costs.queued + total).as_secs_f64(),
            },
            samples: Samples { total_queryable_samples: costs.samples },
        }
    }
}

/// /api/v1/query_exemplars: none are kept.
pub async fn exemplars(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let range = parameters.range()?;
    if range.end_ms < range.start_ms {
        return Err(ApiFailure::BadData("end timestamp must not be before start timestamp".to_owned()));
    }
    state.queries.parse(parameters.text("query").to_owned(), |_| ()).await?;
    Ok(Answer::json(&[(); 0]))
}

/// /api/v1/format_query: an expression over several lines.
pub async fn format(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let text = parameters.text("query").to_owned();
    Ok(state.queries.parse(text, |query| Answer::json(&query.expr().prettify())).await?)
}

/// /api/v1/parse_query: an expression as a tree.
pub async fn parse(State(state): State<AppState>, parameters: Parameters) -> Result<Answer, ApiFailure> {
    let text = parameters.text("query").to_owned();
    Ok(state.queries.parse(text, |query| Answer::json(&Node(query.expr()))).await?)
}
