//! The functions of PromQL: their names, their types, and in the modules below what they compute.

pub(crate) mod dates;
pub(crate) mod extrapolate;
pub(crate) mod histogram;
pub(crate) mod kahan;
pub(crate) mod math;
pub(crate) mod over_time;
pub(crate) mod quantile;
pub(crate) mod regression;
pub(crate) mod rollup;
pub(crate) mod sliding;
pub(crate) mod windows;

pub use dates::DatePart;
pub use math::MathFunction;
pub use over_time::OverTime;

use crate::parse::ast::ValueType;

/// A function that queries can call.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// What it returns.
    pub returns: ValueType,
    pub(crate) kind: FunctionKind,
    arguments: &'static [ValueType],
    optional: Optional,
}

/// Which arguments may be left out or repeated.
#[derive(Clone, Copy, Debug)]
enum Optional {
    None,
    /// The last one may be left out.
    Last,
    /// The last one may be left out or repeated.
    RepeatedLast,
}

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FunctionKind {
    OverTime(OverTime),
    Math(MathFunction),
    Date(DatePart),
    Round,
    Clamp,
    ClampMin,
    ClampMax,
    Timestamp,
    Time,
    Pi,
    Scalar,
    Vector,
    Absent,
    AbsentOverTime,
    LabelReplace,
    LabelJoin,
    Sort {
        descending: bool,
    },
    HistogramQuantile,
    HistogramFraction,
    /// Of native histograms only: empty for floats.
    NativeHistogram,
}

impl Function {
    /// How many arguments there must be and may be.
    pub(crate) fn argument_counts(&self) -> (usize, Option<usize>) {
        let count = self.arguments.len();
        match self.optional {
            Optional::None => (count, Some(count)),
            Optional::Last => (count - 1, Some(count)),
            Optional::RepeatedLast => (count - 1, None),
        }
    }

    /// The types of the arguments as Prometheus lists them.
    pub fn argument_types(&self) -> &'static [ValueType] {
        self.arguments
    }

    /// How many arguments may be left out: -1 says that the last one may also be repeated.
    pub fn variadic(&self) -> i32 {
        match self.optional {
            Optional::None => 0,
            Optional::Last => 1,
            Optional::RepeatedLast => -1,
        }
    }

    /// The type of an argument.
    pub(crate) fn argument_type(&self, index: usize) -> ValueType {
        self.arguments[index.min(self.arguments.len() - 1)]
    }
}

/// Why a function can't be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FindError {
    #[error("unknown function with name {0:?}")]
    Unknown(String),
    #[error(
        "unknown function with name {0:?}: Prometheus 3 renamed it to \"double_exponential_smoothing\", which is experimental and not supported"
    )]
    Renamed(String),
    #[error("the function {0:?} is experimental in Prometheus and not supported")]
    Experimental(String),
}

impl FindError {
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Experimental(_))
    }
}

/// The function of this name.
pub(crate) fn find(name: &str) -> Result<&'static Function, FindError> {
    if let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) {
        return Ok(function);
    }
    if EXPERIMENTAL.contains(&name) {
        return Err(FindError::Experimental(name.to_owned()));
    }
    Err(if name == "holt_winters" { FindError::Renamed(name.to_owned()) } else { FindError::Unknown(name.to_owned()) })
}

/// The names of all functions.
pub fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|function| function.name)
}

const EXPERIMENTAL: &[&str] = &[
    "double_exponential_smoothing",
    "end",
    "histogram_quantiles",
    "info",
    "integral",
    "mad_over_time",
    "max_of",
    "min_of",
    "range",
    "sort_by_label",
    "sort_by_label_desc",
    "start",
    "step",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
];

const SCALAR: ValueType = ValueType::Scalar;
const INSTANT: ValueType = ValueType::InstantVector;
const RANGE: ValueType = ValueType::RangeVector;
const TEXT: ValueType = ValueType::Text;

const fn function(name: &'static str, kind: FunctionKind, arguments: &'static [ValueType]) -> Function {
    Function { name, returns: INSTANT, kind, arguments, optional: Optional::None }
}

const fn scalar_function(name: &'static str, kind: FunctionKind, arguments: &'static [ValueType]) -> Function {
    Function { returns: SCALAR, ..function(name, kind, arguments) }
}

const fn math(name: &'static str, function_of: MathFunction) -> Function {
    function(name, FunctionKind::Math(function_of), &[INSTANT])
}

const fn over_time(name: &'static str, function_of: OverTime) -> Function {
    function(name, FunctionKind::OverTime(function_of), &[RANGE])
}

const fn date(name: &'static str, part: DatePart) -> Function {
    Function { optional: Optional::Last, ..function(name, FunctionKind::Date(part), &[INSTANT]) }
}

static FUNCTIONS: &[Function] = &[
    math("abs", MathFunction::Abs),
    function("absent", FunctionKind::Absent, &[INSTANT]),
    function("absent_over_time", FunctionKind::AbsentOverTime, &[RANGE]),
    math("acos", MathFunction::Acos),
    math("acosh", MathFunction::Acosh),
    math("asin", MathFunction::Asin),
    math("asinh", MathFunction::Asinh),
    math("atan", MathFunction::Atan),
    math("atanh", MathFunction::Atanh),
    over_time("avg_over_time", OverTime::Avg),
    math("ceil", MathFunction::Ceil),
    over_time("changes", OverTime::Changes),
    function("clamp", FunctionKind::Clamp, &[INSTANT, SCALAR, SCALAR]),
    function("clamp_max", FunctionKind::ClampMax, &[INSTANT, SCALAR]),
    function("clamp_min", FunctionKind::ClampMin, &[INSTANT, SCALAR]),
    math("cos", MathFunction::Cos),
    math("cosh", MathFunction::Cosh),
    over_time("count_over_time", OverTime::Count),
    date("day_of_month", DatePart::DayOfMonth),
    date("day_of_week", DatePart::DayOfWeek),
    date("day_of_year", DatePart::DayOfYear),
    date("days_in_month", DatePart::DaysInMonth),
    math("deg", MathFunction::Deg),
    over_time("delta", OverTime::Delta),
    over_time("deriv", OverTime::Deriv),
    math("exp", MathFunction::Exp),
    over_time("first_over_time", OverTime::First),
    math("floor", MathFunction::Floor),
    function("histogram_avg", FunctionKind::NativeHistogram, &[INSTANT]),
    function("histogram_count", FunctionKind::NativeHistogram, &[INSTANT]),
    function("histogram_fraction", FunctionKind::HistogramFraction, &[SCALAR, SCALAR, INSTANT]),
    function("histogram_quantile", FunctionKind::HistogramQuantile, &[SCALAR, INSTANT]),
    function("histogram_stddev", FunctionKind::NativeHistogram, &[INSTANT]),
    function("histogram_stdvar", FunctionKind::NativeHistogram, &[INSTANT]),
    function("histogram_sum", FunctionKind::NativeHistogram, &[INSTANT]),
    date("hour", DatePart::Hour),
    over_time("idelta", OverTime::Idelta),
    over_time("increase", OverTime::Increase),
    over_time("irate", OverTime::Irate),
    Function { optional: Optional::RepeatedLast, ..function("label_join", FunctionKind::LabelJoin, &[INSTANT, TEXT, TEXT, TEXT]) },
    function("label_replace", FunctionKind::LabelReplace, &[INSTANT, TEXT, TEXT, TEXT, TEXT]),
    over_time("last_over_time", OverTime::Last),
    math("ln", MathFunction::Ln),
    math("log10", MathFunction::Log10),
    math("log2", MathFunction::Log2),
    over_time("max_over_time", OverTime::Max),
    over_time("min_over_time", OverTime::Min),
    date("minute", DatePart::Minute),
    date("month", DatePart::Month),
    scalar_function("pi", FunctionKind::Pi, &[]),
    function("predict_linear", FunctionKind::OverTime(OverTime::PredictLinear), &[RANGE, SCALAR]),
    over_time("present_over_time", OverTime::Present),
    function("quantile_over_time", FunctionKind::OverTime(OverTime::Quantile), &[SCALAR, RANGE]),
    math("rad", MathFunction::Rad),
    over_time("rate", OverTime::Rate),
    over_time("resets", OverTime::Resets),
    Function { optional: Optional::Last, ..function("round", FunctionKind::Round, &[INSTANT, SCALAR]) },
    scalar_function("scalar", FunctionKind::Scalar, &[INSTANT]),
    math("sgn", MathFunction::Sgn),
    math("sin", MathFunction::Sin),
    math("sinh", MathFunction::Sinh),
    function("sort", FunctionKind::Sort { descending: false }, &[INSTANT]),
    function("sort_desc", FunctionKind::Sort { descending: true }, &[INSTANT]),
    math("sqrt", MathFunction::Sqrt),
    over_time("stddev_over_time", OverTime::Stddev),
    over_time("stdvar_over_time", OverTime::Stdvar),
    over_time("sum_over_time", OverTime::Sum),
    math("tan", MathFunction::Tan),
    math("tanh", MathFunction::Tanh),
    scalar_function("time", FunctionKind::Time, &[]),
    function("timestamp", FunctionKind::Timestamp, &[INSTANT]),
    function("vector", FunctionKind::Vector, &[SCALAR]),
    date("year", DatePart::Year),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_found() {
        assert!(FUNCTIONS.is_sorted_by_key(|function| function.name));
        for name in names() {
            assert_eq!(find(name).unwrap().name, name);
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        for name in EXPERIMENTAL {
            assert_eq!(find(name).unwrap_err(), FindError::Experimental((*name).to_owned()));
        }
        assert_eq!(find("RATE").unwrap_err().to_string(), r#"unknown function with name "RATE""#);
        assert!(find("holt_winters").unwrap_err().to_string().contains("double_exponential_smoothing"));
    }
}
