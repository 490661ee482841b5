//! Runs the commands of a file.

use golectra_promql::parse::ast::{At, Expr, ExprKind};
use golectra_promql::parse::parse;
use golectra_promql::store::MemoryStore;
use golectra_promql::{
    Engine, EvalError, Labels, LabelsBuilder, METRIC_NAME, MemoryBudget, NoInterrupt, Outcome, Query, Severity, Steps, Value as Result_,
    all_match,
};

use crate::language::{Annotations, Command, Eval, Load, Times};
use crate::series::Value;

/// What came of a file.
#[derive(Default)]
pub struct Report {
    pub passed: usize,
    /// Lines and why they failed.
    pub failures: Vec<(usize, String)>,
    /// Lines and why they are out of scope.
    pub left_out: Vec<(usize, String)>,
}

pub fn run(commands: &[Command]) -> Report {
    let mut report = Report::default();
    let mut data = Data::default();
    for command in commands {
        match command {
            Command::Clear => data = Data::default(),
            Command::Load(load) => data.load(load),
            Command::Eval(eval) => match data.check(eval) {
                Ok(()) => report.passed += 1,
                Err(Failure::LeftOut(reason)) => report.left_out.push((eval.line, format!("{reason}: {}", eval.query))),
                Err(Failure::Failed(failure)) => report.failures.push((eval.line, format!("{}: {failure}", eval.query))),
            },
        }
    }
    report
}

/// Why a case did not pass.
enum Failure {
    LeftOut(String),
    Failed(String),
}

impl From<String> for Failure {
    fn from(failure: String) -> Self {
        Self::Failed(failure)
    }
}

#[derive(Default)]
struct Data {
    store: MemoryStore,
    /// The labels of series that have native histograms.
    histograms: Vec<Labels>,
}

impl Data {
    fn load(&mut self, load: &Load) {
        for (labels, values) in &load.series {
            for (value, step) in values.iter().zip(0..) {
                match value {
                    Value::None => {}
                    Value::Float(value) => self.store.add(labels, step * load.interval_ms, *value),
                    Value::Histogram => self.histograms.push(labels.clone()),
                }
            }
            if load.with_native {
                self.histograms.push(native(labels));
            }
        }
    }

    /// Whether a query selects series with native histograms.
    fn selects_histograms(&self, expr: &Expr) -> bool {
        let selectors = expr.selectors();
        selectors.iter().any(|selector| self.histograms.iter().any(|labels| all_match(&selector.matchers, labels)))
    }

    fn check(&self, eval: &Eval) -> Result<(), Failure> {
        let engine = Engine::default();
        let parsed = Query::parse(&eval.query, &engine.parse_limits);
        if let Err(error) = &parsed
            && error.is_unsupported()
        {
            return Err(Failure::LeftOut("experimental".to_owned()));
        }
        if let Ok(query) = &parsed
            && self.selects_histograms(query.expr())
        {
            return Err(Failure::LeftOut("native histograms".to_owned()));
        }
        let steps = match eval.times {
            Times::At(time_ms) => Steps::at(time_ms),
            Times::Range(steps) => steps,
        };
        self.check_query(eval, &eval.query, steps)?;
        if let (Times::At(time_ms), Ok(query)) = (eval.times, &parsed) {
            self.check_as_range(eval, &eval.query, time_ms)?;
            self.check_with_fixed_time(eval, query.expr(), time_ms)?;
        }
        Ok(())
    }

    fn evaluate(&self, query: &str, steps: Steps, is_range: bool) -> Result<Outcome, EvalError> {
        let engine = Engine::default();
        let query = Query::parse(query, &engine.parse_limits)?;
        let budget = MemoryBudget::new(usize::MAX);
        let outcome = if is_range {
            engine.range(&query, steps, &self.store, &NoInterrupt, &budget)
        } else {
            engine.instant(&query, steps.start_ms(), &self.store, &NoInterrupt, &budget)
        };
        let held = outcome.as_ref().map_or(0, Outcome::memory_bytes);
        assert!(budget.used_bytes() >= held, "a result is charged while it is held");
        drop(query);
        outcome
    }

    fn check_query(&self, eval: &Eval, query: &str, steps: Steps) -> Result<(), String> {
        let is_range = matches!(eval.times, Times::Range(_));
        let outcome = match (self.evaluate(query, steps, is_range), &eval.fails) {
            (Err(error), Some(expected)) if expected.accepts(&error.to_string()) => return Ok(()),
            (Err(error), Some(_)) => return Err(format!("it fails with another message: {error}")),
            (Err(error), None) => return Err(format!("it fails: {error}")),
            (Ok(_), Some(_)) => return Err("it does not fail".to_owned()),
            (Ok(outcome), None) => outcome,
        };
        check_annotations("warnings", &eval.warnings, &outcome.annotations.texts(Severity::Warning, query))?;
        check_annotations("infos", &eval.infos, &outcome.annotations.texts(Severity::Info, query))?;
        check_value(eval, &outcome.value)
    }

    /// An instant query gives what a range query gives at this step.
    fn check_as_range(&self, eval: &Eval, query: &str, time_ms: i64) -> Result<(), String> {
        if eval.fails.is_some() || eval.ordered || eval.text.is_some() || eval.range_vector.is_some() {
            return Ok(());
        }
        let steps = Steps::range(time_ms - 60_000, time_ms + 60_000, 60_000).unwrap();
        let outcome = self.evaluate(query, steps, true).map_err(|error| format!("as a range it fails: {error}"))?;
        let Result_::Matrix(matrix) = outcome.value else { return Err("as a range it gives no matrix".to_owned()) };
        let found: Vec<(Labels, Vec<(i64, f64)>)> = matrix
            .series
            .iter()
            .map(|series| (series.labels.clone(), series.samples(&steps).filter(|(time, _)| *time == time_ms).collect::<Vec<_>>()))
            .filter(|(_, samples)| !samples.is_empty())
            .collect();
        if let Some(expected) = eval.scalar {
            let value = found.first().map(|(_, samples)| samples[0].1).ok_or("as a range it gives no value")?;
            return if almost_equal(expected, value) { Ok(()) } else { Err(format!("as a range it gives {value}")) };
        }
        check_series(&eval.expected, &found, &Steps::at(time_ms)).map_err(|failure| format!("as a range: {failure}"))
    }

    /// The same value comes at any time if `@` fixes the time of all selectors.
    fn check_with_fixed_time(&self, eval: &Eval, expr: &Expr, time_ms: i64) -> Result<(), String> {
        if uses_step_time(expr) || eval.range_vector.is_some() {
            return Ok(());
        }
        let mut fixed = expr.clone();
        fix_time(&mut fixed, time_ms);
        let query = fixed.to_string();
        // A text without selectors is the query itself; otherwise this also shows that what is written reads back.
        parse(&query, &Engine::default().parse_limits).map_err(|error| format!("{query} can't be read: {error}"))?;
        for other_ms in [-10 * time_ms, -1000, 0, time_ms / 5, time_ms, 10 * time_ms] {
            self.check_query(eval, &query, Steps::at(other_ms)).map_err(|failure| format!("{query} at {other_ms} ms: {failure}"))?;
        }
        Ok(())
    }
}

/// The native histogram that a classic one is loaded as too.
fn native(labels: &Labels) -> Labels {
    let name = labels.metric_name();
    let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned();
    let mut builder = LabelsBuilder::from(labels);
    builder.set(METRIC_NAME, &base);
    builder.set("le", "");
    builder.build()
}

/// Whether a value depends on the time of the evaluation beside that of the samples.
fn uses_step_time(expr: &Expr) -> bool {
    let mut uses = false;
    expr.walk(&mut |expr| {
        if let ExprKind::Call { function, .. } = &expr.kind {
            let names = ["time", "timestamp", "predict_linear", "year", "month", "hour", "minute"];
            uses |= names.contains(&function.name) || function.name.starts_with("day");
        }
    });
    uses
}

/// Sets `@` on selectors and subqueries that have none; what is in a subquery moves with it.
fn fix_time(expr: &mut Expr, time_ms: i64) {
    let at = At::Time { ms: time_ms };
    match &mut expr.kind {
        ExprKind::Number { .. } | ExprKind::Text(_) => {}
        ExprKind::Vector(selector) | ExprKind::Range { selector, .. } => {
            selector.modifiers.at.get_or_insert(at);
        }
        ExprKind::Subquery { modifiers, .. } => {
            modifiers.at.get_or_insert(at);
        }
        ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => fix_time(expr, time_ms),
        ExprKind::Binary(binary) => {
            fix_time(&mut binary.left, time_ms);
            fix_time(&mut binary.right, time_ms);
        }
        ExprKind::Aggregate(aggregate) => {
            fix_time(&mut aggregate.expr, time_ms);
            if let Some(parameter) = &mut aggregate.parameter {
                fix_time(parameter, time_ms);
            }
        }
        ExprKind::Call { arguments, .. } => arguments.iter_mut().for_each(|argument| fix_time(argument, time_ms)),
    }
}

fn check_annotations(kind: &str, expected: &Annotations, found: &[String]) -> Result<(), String> {
    if expected.none && !found.is_empty() {
        return Err(format!("there are {kind}: {found:?}"));
    }
    if expected.some.is_empty() {
        return Ok(());
    }
    if !expected.some.iter().all(|expected| found.iter().any(|message| expected.accepts(message))) {
        return Err(format!("not all expected {kind} are there: {found:?}"));
    }
    if !found.iter().all(|message| expected.some.iter().any(|expected| expected.accepts(message))) {
        return Err(format!("there are unexpected {kind}: {found:?}"));
    }
    Ok(())
}

fn check_value(eval: &Eval, value: &Result_) -> Result<(), String> {
    match value {
        Result_::Scalar { value, .. } => match eval.scalar {
            Some(expected) if almost_equal(expected, *value) => Ok(()),
            expected => Err(format!("it gives the scalar {value} instead of {expected:?}")),
        },
        Result_::Text { text, .. } => match &eval.text {
            Some(expected) if expected == text => Ok(()),
            expected => Err(format!("it gives the text {text:?} instead of {expected:?}")),
        },
        Result_::Vector { time_ms, samples } => {
            if eval.ordered && samples.iter().map(|sample| &sample.labels).ne(eval.expected.iter().map(|(labels, _)| labels)) {
                return Err(format!("the order is {:?}", samples.iter().map(|sample| &sample.labels).collect::<Vec<_>>()));
            }
            let found: Vec<_> = samples.iter().map(|sample| (sample.labels.clone(), vec![(*time_ms, sample.value)])).collect();
            check_series(&eval.expected, &found, &Steps::at(*time_ms))
        }
        Result_::RangeVector(series) => {
            let steps = eval.range_vector.ok_or("it gives a range vector")?;
            let samples = |timestamps: &[i64], values: &[f64]| timestamps.iter().copied().zip(values.iter().copied()).collect();
            let found: Vec<_> =
                series.iter().map(|series| (series.labels.clone(), samples(&series.timestamps_ms, &series.values))).collect();
            check_series(&eval.expected, &found, &steps)
        }
        Result_::Matrix(matrix) => {
            if !matrix.series.is_sorted_by_key(|series| series.labels.clone()) {
                return Err("the series are not sorted".to_owned());
            }
            let found: Vec<_> =
                matrix.series.iter().map(|series| (series.labels.clone(), series.samples(&matrix.steps).collect())).collect();
            check_series(&eval.expected, &found, &matrix.steps)
        }
    }
}

fn check_series(expected: &[(Labels, Vec<Value>)], found: &[(Labels, Vec<(i64, f64)>)], steps: &Steps) -> Result<(), String> {
    for (labels, _) in expected {
        if !found.iter().any(|(found, _)| found == labels) {
            return Err(format!("{labels} is not there, but {found:?}"));
        }
    }
    for (labels, samples) in found {
        let values =
            &expected.iter().find(|(expected, _)| expected == labels).ok_or_else(|| format!("there is {labels} with {samples:?}"))?.1;
        let times = steps.times_ms().map(Some).chain(std::iter::repeat(None));
        let wanted: Vec<(i64, f64)> = values
            .iter()
            .zip(times)
            .filter_map(|(value, time)| match value {
                Value::Float(value) => Some((time.unwrap_or(i64::MAX), *value)),
                Value::None | Value::Histogram => None,
            })
            .collect();
        let equal = wanted.len() == samples.len()
            && wanted.iter().zip(samples).all(|(wanted, found)| wanted.0 == found.0 && almost_equal(wanted.1, found.1));
        if !equal {
            return Err(format!("{labels} has {samples:?} instead of {wanted:?}"));
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_fails() {
    let load = "load 1m\n x{a=\"1\"} 1 2\n x{a=\"2\"} 3 4\n\n";
    let failures = |case: &str| run(&crate::language::parse(&format!("{load}{case}")).unwrap()).failures.len();
    assert_eq!(failures("eval instant at 0 sort(x)\n expect ordered\n x{a=\"1\"} 1\n x{a=\"2\"} 3"), 0);
    for wrong in [
        "eval instant at 0 x{a=\"1\"}\n x{a=\"1\"} 1.00001",
        "eval instant at 0 x\n x{a=\"1\"} 1",
        "eval instant at 0 x{a=\"1\"}\n x{a=\"1\"} 1\n x{a=\"2\"} 3",
        "eval instant at 0 x{a=\"1\"}",
        "eval instant at 0 nothing\n nothing 1",
        "eval instant at 0 sort_desc(x)\n expect ordered\n x{a=\"1\"} 1\n x{a=\"2\"} 3",
        "eval instant at 0 x{a=\"1\"}\n expect fail\n x{a=\"1\"} 1",
        "eval instant at 0 x + on () x\n expect fail msg: another",
        "eval instant at 0 x + on () x",
        "eval instant at 0 x{",
        "eval instant at 0 x{a=\"1\"}\n expect warn\n x{a=\"1\"} 1",
        "eval instant at 1m rate(x{a=\"1\"}[2m])\n expect no_info\n {a=\"1\"} 0.016666666666666666",
        "eval instant at 1m rate(x{a=\"1\"}[2m])\n expect info msg: another\n {a=\"1\"} 0.016666666666666666",
        "eval range from 0 to 2m step 1m x{a=\"1\"}\n x{a=\"1\"} 1 2 3",
        "eval range from 0 to 2m step 1m x{a=\"1\"}\n x{a=\"1\"} 1 _ 2",
        "eval range from 0 to 1m step 1m x{a=\"1\"}\n x{a=\"1\"} 1 2 2",
        "eval instant at 0 1\n 2",
        "eval instant at 0 \"a\"\n expect string \"b\"",
        "eval instant at 1m x{a=\"1\"}[2m]\n expect range vector from 0 to 1m step 30s\n x{a=\"1\"} 1 2",
    ] {
        assert_eq!(failures(wrong), 1, "{wrong}");
    }
}

/// Equal within the tolerance of the Prometheus project's own runner.
#[expect(clippy::float_cmp, reason = "infinities are equal to themselves; what is near is compared below")]
fn almost_equal(left: f64, right: f64) -> bool {
    const TOLERANCE: f64 = 0.000_001;
    if left.is_nan() || right.is_nan() {
        return left.is_nan() && right.is_nan();
    }
    if left.to_bits() == right.to_bits() || left == right {
        return true;
    }
    let (difference, sum) = ((left - right).abs(), left.abs() + right.abs());
    if left == 0.0 || right == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < TOLERANCE * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < TOLERANCE
}
