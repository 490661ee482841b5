//! Expressions over several lines, as Prometheus's `format_query` writes them.

use super::ast::{Expr, ExprKind};
use super::display::{AggregateHead, Operator, SubquerySuffix};

/// What is longer than this is split.
const MAX_LINE_BYTES: usize = 100;

impl Expr {
    /// The expression with parts that are too long for a line split and indented.
    pub fn prettify(&self) -> String {
        self.pretty(0)
    }

    fn pretty(&self, level: usize) -> String {
        let indent = "  ".repeat(level);
        let line = self.to_string();
        let fits = line.len() <= MAX_LINE_BYTES;
        match &self.kind {
            ExprKind::Unary { negative, expr } => {
                format!("{indent}{}{}", if *negative { '-' } else { '+' }, expr.pretty(level).trim_start())
            }
            _ if fits => format!("{indent}{line}"),
            ExprKind::Number { .. } | ExprKind::Text(_) | ExprKind::Vector(_) | ExprKind::Range { .. } => format!("{indent}{line}"),
            ExprKind::Subquery { expr, .. } => format!("{}{}", expr.pretty(level), SubquerySuffix(self)),
            ExprKind::Binary(binary) => {
                format!("{}\n{indent}{}\n{}", binary.left.pretty(level + 1), Operator(binary), binary.right.pretty(level + 1))
            }
            ExprKind::Aggregate(aggregate) => {
                let parameter =
                    aggregate.parameter.as_ref().map_or(String::new(), |parameter| format!("{},\n", parameter.pretty(level + 1)));
                format!("{indent}{}(\n{parameter}{}\n{indent})", AggregateHead(aggregate), aggregate.expr.pretty(level + 1))
            }
            ExprKind::Call { function, arguments } => {
                let arguments: Vec<_> = arguments.iter().map(|argument| argument.pretty(level + 1)).collect();
                format!("{indent}{}(\n{}\n{indent})", function.name, arguments.join(",\n"))
            }
            ExprKind::Paren(expr) => format!("{indent}(\n{}\n{indent})", expr.pretty(level + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::parse::{ParseLimits, parse};

    #[test]
    fn short_expressions_stay_on_one_line() {
        let expr = parse("sum(rate(x{b='1',a=\"2\"}[5m]))  by(c)", &ParseLimits::default()).unwrap();
        assert_eq!(expr.prettify(), r#"sum by (c) (rate(x{a="2",b="1"}[5m]))"#);
    }

    #[test]
    fn long_expressions_are_split() {
        let name = "a_metric_whose_name_is_so_long_that_two_of_them_do_not_fit_into_a_line";
        let query =
            format!("sum by (job, namespace) (rate({name}[5m])) / on (job) group_left () topk(3, {name}) + -({name} - {name}) > bool 5m");
        let expected = format!(
            "    sum by (job, namespace) (\n      rate({name}[5m])\n    )\n  / on (job) group_left ()\n    topk(3, {name})\n+\n  -(\n      {name}\n    -\n      {name}\n  )\n> bool\n5m"
        );
        let pretty = parse(&query, &ParseLimits::default()).unwrap().prettify();
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&pretty), squeeze(&expected));
        assert_eq!(
            parse(&pretty, &ParseLimits::default()).unwrap().to_string(),
            parse(&query, &ParseLimits::default()).unwrap().to_string()
        );
    }
}
