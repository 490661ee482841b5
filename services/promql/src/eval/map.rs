//! Functions of each value on its own.

use super::{Evaluator, Sink};
use crate::binary::operate;
use crate::column::{ABSENT, is_absent, map_present};
use crate::error::EvalError;
use crate::functions::math;
use crate::plan::{Map, VectorNode};
use crate::steps::Steps;

impl Evaluator<'_> {
    pub(super) fn map(&self, map: &Map, expr: &VectorNode, steps: &Steps, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let apply = self.column_function(map, steps)?;
        self.stream(expr, steps, &mut |series| {
            apply(&mut series.values);
            if !series.has_values() {
                return Ok(());
            }
            series.drop_name |= !map.keeps_name();
            sink(series)
        })
    }

    /// The function of a whole column.
    #[expect(clippy::type_complexity, reason = "it is a function")]
    fn column_function<'m>(&'m self, map: &'m Map, steps: &'m Steps) -> Result<Box<dyn Fn(&mut [f64]) + 'm>, EvalError> {
        Ok(match map {
            Map::Negate => Box::new(|values| map_present(values, |value| -value)),
            Map::Math(function) => {
                let function = function.function();
                Box::new(move |values| map_present(values, function))
            }
            Map::Date(part) => Box::new(|values| map_present(values, |seconds| part.of(seconds))),
            Map::StepTime => Box::new(|values| each_present(values, |step, _| steps.time_ms(step) as f64 / 1000.0)),
            Map::Round { to_nearest } => {
                let to_nearest = self.scalar(to_nearest, steps)?;
                Box::new(move |values| each_present(values, |step, value| math::round(value, to_nearest.at(step))))
            }
            Map::Clamp { min, max } => {
                let (min, max) = (self.scalar(min, steps)?, self.scalar(max, steps)?);
                Box::new(move |values| {
                    each_present(values, |step, value| {
                        let (min, max) = (min.at(step), max.at(step));
                        if max < min { ABSENT } else { math::clamp(value, min, max) }
                    });
                })
            }
            Map::Operate { operator, scalar, scalar_on_left, returns_bool } => {
                let scalar = self.scalar(scalar, steps)?;
                let (operator, scalar_on_left, returns_bool) = (*operator, *scalar_on_left, *returns_bool);
                if !operator.is_comparison() {
                    let operate = operate::arithmetic(operator);
                    return Ok(Box::new(move |values| {
                        each_present(values, |step, value| {
                            let scalar = scalar.at(step);
                            if scalar_on_left { operate(scalar, value) } else { operate(value, scalar) }
                        });
                    }));
                }
                Box::new(move |values| {
                    each_present(values, |step, value| {
                        let (left, right) = if scalar_on_left { (scalar.at(step), value) } else { (value, scalar.at(step)) };
                        let holds = operate::compare(operator, left, right);
                        match (returns_bool, holds) {
                            (true, holds) => f64::from(u8::from(holds)),
                            (false, true) => value,
                            (false, false) => ABSENT,
                        }
                    });
                })
            }
        })
    }
}

fn each_present(values: &mut [f64], function: impl Fn(usize, f64) -> f64) {
    for (step, value) in values.iter_mut().enumerate() {
        if !is_absent(*value) {
            *value = function(step, *value);
        }
    }
}
