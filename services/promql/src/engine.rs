//! Reads and evaluates queries.

use std::sync::Arc;

use crate::error::EvalError;
use crate::eval;
use crate::limits::{Interrupt, Limits, MemoryBudget};
use crate::parse::ast::{Expr, ValueType};
use crate::parse::{ParseError, ParseLimits, parse};
use crate::plan::{Plan, PlanContext, build};
use crate::steps::Steps;
use crate::store::{Selection, Store};
use crate::value::Outcome;

/// A query that was read.
#[derive(Clone, Debug)]
pub struct Query {
    text: String,
    expr: Expr,
}

impl Query {
    /// Reads a query.
    pub fn parse(text: &str, limits: &ParseLimits) -> Result<Self, ParseError> {
        Ok(Self { text: text.to_owned(), expr: parse(text, limits)? })
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it says, as a tree.
    pub fn expr(&self) -> &Expr {
        &self.expr
    }
}

/// How queries are evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// How long a sample counts as the newest one of its series.
    pub lookback_ms: i64,
    /// The step of a subquery that gives none.
    pub subquery_step_ms: i64,
    /// What queries may look like.
    pub parse_limits: ParseLimits,
    /// How large they may be.
    pub limits: Limits,
}

impl Default for Engine {
    fn default() -> Self {
        Self { lookback_ms: 300_000, subquery_step_ms: 60_000, parse_limits: ParseLimits::default(), limits: Limits::default() }
    }
}

/// Times beyond this are refused, so that no arithmetic with offsets and ranges can overflow: 285,000 years.
const FARTHEST_MS: i64 = 9_000_000_000_000_000;

impl Engine {
    /// Evaluates a query at one time.
    pub fn instant(
        &self,
        query: &Query,
        time_ms: i64,
        store: &dyn Store,
        interrupt: &dyn Interrupt,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Outcome, EvalError> {
        self.evaluate(query, Steps::at(time_ms), false, store, interrupt, budget)
    }

    /// Evaluates a query at each step of a range.
    pub fn range(
        &self,
        query: &Query,
        steps: Steps,
        store: &dyn Store,
        interrupt: &dyn Interrupt,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Outcome, EvalError> {
        self.evaluate(query, steps, true, store, interrupt, budget)
    }

    /// What an evaluation at these steps is going to select, in order; a store that has to wait can fetch it before.
    pub fn selections(&self, query: &Query, steps: Steps) -> Result<Vec<Selection>, EvalError> {
        Ok(self.plan(query, steps)?.selections().into_iter().cloned().collect())
    }

    fn plan(&self, query: &Query, steps: Steps) -> Result<Plan, EvalError> {
        let context = PlanContext {
            steps,
            lookback_ms: self.lookback_ms,
            subquery_step_ms: self.subquery_step_ms,
            max_subquery_steps: self.limits.max_subquery_steps,
        };
        build(&query.expr, &context)
    }

    fn evaluate(
        &self,
        query: &Query,
        steps: Steps,
        is_range: bool,
        store: &dyn Store,
        interrupt: &dyn Interrupt,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Outcome, EvalError> {
        let value_type = query.expr.value_type();
        if is_range && !matches!(value_type, ValueType::Scalar | ValueType::InstantVector) {
            return Err(EvalError::RangeOfRanges { found: value_type.to_string() });
        }
        if steps.len() > self.limits.max_steps {
            return Err(EvalError::TooManySteps { what: "the query", steps: steps.len(), limit: self.limits.max_steps });
        }
        if steps.start_ms().abs() > FARTHEST_MS || steps.until_ms().abs() > FARTHEST_MS {
            let (start_ms, end_ms, step_ms) = (steps.start_ms(), steps.until_ms(), steps.step_ms());
            return Err(EvalError::InvalidRange { start_ms, end_ms, step_ms });
        }
        let plan = self.plan(query, steps)?;
        eval::evaluate(&plan, &steps, is_range, store, interrupt, self.limits, budget.reserve(self.limits.max_bytes))
    }
}
