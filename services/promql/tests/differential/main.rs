//! Compares answers with those of a real Prometheus on generated data and generated expressions.
//!
//! It takes Debian's Prometheus 2.42. Where Prometheus 3 means something else, the data and the expressions keep away
//! from the difference:
//! - ranges have been closed on the left: no sample and no step of a subquery lies on the border of a range;
//! - the metric's name is removed at once: nothing asks for a name that was removed;
//! - counters were extrapolated to zero before the distance to the border was bounded: counters have no gaps;
//! - comparisons of one series with several were allowed if they filtered all but one away;
//! - `atan2` kept the metric's name;
//! - `predict_linear` and `quantile_over_time` with `@` went wrong behind the end of the data;
//! - sums were not compensated for rounding: the tolerance of 1e-9 covers it;
//! - `stddev` and `stdvar` of one infinite value were 0: a difference in them alone is passed over.
//!
//! Expressions may amplify rounding without bound, such as `sin(1e9 * x)`, or turn it into 0 or 1, such as a comparison with a
//! sum that is zero. Where the answers differ, our own answers on data that differ by up to 1e-13 in either direction tell: if
//! one of them differs as well, the expression is not compared.
//!
//! PROMQL_EXPRESSIONS says how many expressions are compared, PROMQL_SEED which. PROMQL_EXPRESSION (with PROMQL_START,
//! PROMQL_STEP and PROMQL_COUNT, in seconds) compares one and shows both answers.
#![expect(clippy::float_cmp, reason = "infinities and whole numbers are equal to themselves; what is near is compared with a tolerance")]

mod data;
mod expressions;
mod prometheus;

use std::collections::BTreeMap;
use std::io::Write;

use golectra_promql::{Engine, Labels, MemoryBudget, NoInterrupt, Query, Steps, Value};
use prometheus::{Answer, Prometheus};

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} has to be a number, not {value:?}")))
}

/// Our answer in the form of the other one.
fn evaluate(store: &golectra_promql::store::MemoryStore, query: &str, steps: Option<Steps>, time_ms: i64) -> Result<Answer, String> {
    let engine = Engine::default();
    let query = Query::parse(query, &engine.parse_limits).map_err(|error| error.to_string())?;
    let budget = MemoryBudget::new(1 << 30);
    let outcome = match steps {
        Some(steps) => engine.range(&query, steps, store, &NoInterrupt, &budget),
        None => engine.instant(&query, time_ms, store, &NoInterrupt, &budget),
    };
    let mut answer = BTreeMap::new();
    match outcome.map_err(|error| error.to_string())?.value {
        Value::Scalar { time_ms, value } => drop(answer.insert(Labels::empty(), vec![(time_ms, value)])),
        Value::Text { .. } => return Err("a text".to_owned()),
        Value::Vector { time_ms, samples } => {
            answer.extend(samples.into_iter().map(|sample| (sample.labels, vec![(time_ms, sample.value)])));
        }
        Value::RangeVector(series) => {
            answer.extend(series.into_iter().map(|series| (series.labels, series.timestamps_ms.into_iter().zip(series.values).collect())));
        }
        Value::Matrix(matrix) => {
            answer.extend(matrix.series.iter().map(|series| (series.labels.clone(), series.samples(&matrix.steps).collect())));
        }
    }
    Ok(answer)
}

fn close(left: f64, right: f64) -> bool {
    (left.is_nan() && right.is_nan()) || left == right || (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1e-3)
}

/// Where two answers differ.
fn difference(ours: &Answer, theirs: &Answer) -> Option<String> {
    for labels in ours.keys().chain(theirs.keys()) {
        let (Some(ours), Some(theirs)) = (ours.get(labels), theirs.get(labels)) else {
            let who = if ours.contains_key(labels) { "ours" } else { "theirs" };
            return Some(format!("only {who} has {labels}"));
        };
        let equal =
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| ours.0 == theirs.0 && close(ours.1, theirs.1));
        if !equal {
            let first = ours.iter().zip(theirs).find(|(ours, theirs)| ours.0 != theirs.0 || !close(ours.1, theirs.1));
            return Some(format!("{labels}: {} and {} samples, first different {first:?}", ours.len(), theirs.len()));
        }
    }
    None
}

/// Errors that only Prometheus 3 gives.
fn is_new_error(error: &str) -> bool {
    error.contains("many-to-one matching must be explicit")
}

#[test]
fn answers_equal_those_of_prometheus() {
    let Some(prometheus) = Prometheus::find() else {
        let missing = "prometheus and promtool are not installed; on Debian: apt-get install prometheus";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "with CI=true no test may be left out, but {missing}");
        return say(&format!("left out: {missing}"));
    };
    let seed = setting("PROMQL_SEED", 1);
    let count = setting("PROMQL_EXPRESSIONS", 1000);
    let data = data::Data::generate(seed);
    let prometheus = prometheus.start(&data);
    if let Ok(query) = std::env::var("PROMQL_EXPRESSION") {
        let (start_ms, step_ms) =
            (setting("PROMQL_START", 1_700_003_607).cast_signed() * 1000, setting("PROMQL_STEP", 60).cast_signed() * 1000);
        let steps = Steps::range(start_ms, start_ms + step_ms * (setting("PROMQL_COUNT", 1).cast_signed() - 1), step_ms);
        let (ours, theirs) = (evaluate(&data.store, &query, steps, start_ms), prometheus.query(&query, steps, start_ms));
        return say(&format!("ours:   {ours:?}\ntheirs: {theirs:?}"));
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut equal, mut empty, mut both_fail, mut unstable, mut failures) = (0, 0, 0, 0, Vec::new());
    for _ in 0..count {
        let query = expressions::generate(&mut random);
        let (steps, time_ms) = data::times(&mut random);
        let ours = evaluate(&data.store, &query, steps, time_ms);
        let theirs = prometheus.query(&query, steps, time_ms);
        let formatted = Query::parse(&query, &Engine::default().parse_limits).map(|query| query.expr().prettify());
        let failure = match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                empty += usize::from(ours.is_empty());
                difference(&ours, &theirs).filter(|_| {
                    let perturbed = if query.contains('%') { &data.all_perturbed } else { &data.perturbed };
                    let is_same =
                        |store| evaluate(store, &query, steps, time_ms).is_ok_and(|perturbed| difference(&ours, &perturbed).is_none());
                    let stable = !query.contains("stddev") && !query.contains("stdvar") && perturbed.iter().all(is_same);
                    unstable += usize::from(!stable);
                    stable
                })
            }
            (Err(_), Err(_)) => {
                both_fail += 1;
                None
            }
            (Err(ours), Ok(_)) if is_new_error(&ours) => None,
            (Err(ours), Ok(_)) => Some(format!("only ours fails: {ours}")),
            (Ok(_), Err(theirs)) => Some(format!("only theirs fails: {theirs}")),
        };
        let failure = failure.or_else(|| {
            let (ours, theirs) = (formatted.ok()?, prometheus.format(&query).ok()?);
            // Its lines in subqueries are not indented.
            let trimmed = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
            (trimmed(&ours) != trimmed(&theirs)).then(|| format!("formatted as {ours:?} instead of {theirs:?}"))
        });
        match failure {
            None => equal += 1,
            Some(failure) => failures.push(format!("{query}\n  at {steps:?} {time_ms}: {failure}")),
        }
    }
    say(&format!(
        "{equal} of {count} expressions equal (seed {seed}), {unstable} of them not compared; {empty} have no series, {both_fail} fail in both"
    ));
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
    // Generated expressions that select nothing would compare nothing.
    assert!(empty + both_fail < usize::try_from(count).unwrap() / 2, "most expressions have no result");
}

#[test]
fn what_prometheus_refuses_is_refused() {
    let Some(prometheus) = Prometheus::find() else { return };
    let prometheus = prometheus.start(&data::Data::default());
    let taken_by_prometheus: Vec<_> = expressions::INVALID.iter().filter(|query| prometheus.format(query).is_ok()).collect();
    let limits = Engine::default().parse_limits;
    let taken_here: Vec<_> = expressions::INVALID.iter().filter(|query| Query::parse(query, &limits).is_ok()).collect();
    assert!(taken_by_prometheus.is_empty() && taken_here.is_empty(), "Prometheus reads {taken_by_prometheus:?}, we read {taken_here:?}");
}
