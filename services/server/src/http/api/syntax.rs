//! Expressions as trees in JSON, as /api/v1/parse_query gives them.

use golectra_promql::Matcher;
use golectra_promql::functions::Function;
use golectra_promql::parse::ast::{AggregateExpr, At, BinaryExpr, Expr, ExprKind, MatchGrouping, Modifiers, Selector, ValueType};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::history::number::write_plain;

/// An expression that is written as Prometheus writes it.
pub struct Node<'a>(pub &'a Expr);

#[derive(Serialize)]
struct MatcherView<'a> {
    name: &'a str,
    value: &'a str,
    r#type: &'static str,
}

#[derive(Serialize)]
struct MatchingView<'a> {
    card: &'static str,
    labels: &'a [String],
    on: bool,
    include: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionView {
    name: &'static str,
    arg_types: Vec<&'static str>,
    variadic: i32,
    return_type: &'static str,
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.0.kind {
            ExprKind::Number { value, .. } => {
                map.serialize_entry("type", "numberLiteral")?;
                let mut text = Vec::new();
                write_plain(&mut text, *value);
                map.serialize_entry("val", &String::from_utf8_lossy(&text))?;
            }
            ExprKind::Text(text) => {
                map.serialize_entry("type", "stringLiteral")?;
                map.serialize_entry("val", text)?;
            }
            ExprKind::Vector(selector) => {
                map.serialize_entry("type", "vectorSelector")?;
                write_selector(&mut map, selector)?;
            }
            ExprKind::Range { selector, range_ms } => {
                map.serialize_entry("type", "matrixSelector")?;
                map.serialize_entry("range", range_ms)?;
                write_selector(&mut map, selector)?;
            }
            ExprKind::Subquery { expr, range_ms, step_ms, modifiers } => {
                map.serialize_entry("type", "subquery")?;
                map.serialize_entry("expr", &Node(expr))?;
                map.serialize_entry("range", range_ms)?;
                map.serialize_entry("step", &step_ms.unwrap_or(0))?;
                write_modifiers(&mut map, modifiers)?;
            }
            ExprKind::Unary { negative, expr } => {
                map.serialize_entry("type", "unaryExpr")?;
                map.serialize_entry("op", if *negative { "-" } else { "+" })?;
                map.serialize_entry("expr", &Node(expr))?;
            }
            ExprKind::Binary(binary) => write_binary(&mut map, binary)?,
            ExprKind::Aggregate(aggregate) => write_aggregate(&mut map, aggregate)?,
            ExprKind::Call { function, arguments } => {
                map.serialize_entry("type", "call")?;
                map.serialize_entry("func", &function_view(function))?;
                map.serialize_entry("args", &arguments.iter().map(Node).collect::<Vec<_>>())?;
            }
            ExprKind::Paren(expr) => {
                map.serialize_entry("type", "parenExpr")?;
                map.serialize_entry("expr", &Node(expr))?;
            }
        }
        map.end()
    }
}

fn write_selector<M: SerializeMap>(map: &mut M, selector: &Selector) -> Result<(), M::Error> {
    map.serialize_entry("name", selector.name.as_deref().unwrap_or_default())?;
    map.serialize_entry("matchers", &selector.matchers.iter().map(matcher_view).collect::<Vec<_>>())?;
    write_modifiers(map, &selector.modifiers)
}

fn matcher_view(matcher: &Matcher) -> MatcherView<'_> {
    MatcherView { name: matcher.name(), value: matcher.value(), r#type: matcher.op().as_str() }
}

fn write_modifiers<M: SerializeMap>(map: &mut M, modifiers: &Modifiers) -> Result<(), M::Error> {
    let (timestamp, start_or_end) = match modifiers.at {
        Some(At::Time { ms }) => (Some(ms), None),
        Some(At::Start) => (None, Some("start")),
        Some(At::End) => (None, Some("end")),
        None => (None, None),
    };
    map.serialize_entry("offset", &modifiers.offset_ms.unwrap_or(0))?;
    map.serialize_entry("timestamp", &timestamp)?;
    map.serialize_entry("startOrEnd", &start_or_end)
}

fn write_binary<M: SerializeMap>(map: &mut M, binary: &BinaryExpr) -> Result<(), M::Error> {
    let matching = binary.matching.as_ref().map(|matching| MatchingView {
        card: match &matching.grouping {
            _ if binary.operator.is_set() => "many-to-many",
            Some(MatchGrouping { many_on_left: true, .. }) => "many-to-one",
            Some(MatchGrouping { many_on_left: false, .. }) => "one-to-many",
            None => "one-to-one",
        },
        labels: &matching.labels,
        on: matching.on,
        include: matching.grouping.as_ref().map_or(&[], |grouping| &grouping.include),
    });
    map.serialize_entry("type", "binaryExpr")?;
    map.serialize_entry("op", binary.operator.as_str())?;
    map.serialize_entry("lhs", &Node(&binary.left))?;
    map.serialize_entry("rhs", &Node(&binary.right))?;
    map.serialize_entry("matching", &matching)?;
    map.serialize_entry("bool", &binary.returns_bool)
}

fn write_aggregate<M: SerializeMap>(map: &mut M, aggregate: &AggregateExpr) -> Result<(), M::Error> {
    let grouping = aggregate.grouping.as_ref();
    map.serialize_entry("type", "aggregation")?;
    map.serialize_entry("op", aggregate.operator.as_str())?;
    map.serialize_entry("expr", &Node(&aggregate.expr))?;
    map.serialize_entry("param", &aggregate.parameter.as_ref().map(Node))?;
    map.serialize_entry("grouping", grouping.map_or(&[][..], |grouping| &grouping.labels))?;
    map.serialize_entry("without", &grouping.is_some_and(|grouping| grouping.without))
}

fn function_view(function: &'static Function) -> FunctionView {
    FunctionView {
        name: function.name,
        arg_types: function.argument_types().iter().map(|argument| type_name(*argument)).collect(),
        variadic: function.variadic(),
        return_type: type_name(function.returns),
    }
}

fn type_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::Scalar => "scalar",
        ValueType::InstantVector => "vector",
        ValueType::RangeVector => "matrix",
        ValueType::Text => "string",
    }
}

#[cfg(test)]
mod tests {
    use golectra_promql::parse::{ParseLimits, parse};
    use serde_json::{Value, json};

    use super::*;

    fn tree(query: &str) -> Value {
        serde_json::to_value(Node(&parse(query, &ParseLimits::default()).unwrap())).unwrap()
    }

    fn selector(name: &str) -> Value {
        let name_matcher = json!({"name": "__name__", "value": name, "type": "="});
        json!({"type": "vectorSelector", "name": name, "matchers": [name_matcher], "offset": 0, "timestamp": null, "startOrEnd": null})
    }

    #[test]
    fn trees_have_prometheuss_shape() {
        assert_eq!(
            tree("sum without (a) (rate(x{b!~\"c.*\"}[5m] offset 1m @ 10))"),
            json!({
                "type": "aggregation", "op": "sum", "param": null, "grouping": ["a"], "without": true,
                "expr": {
                    "type": "call",
                    "func": {"name": "rate", "argTypes": ["matrix"], "variadic": 0, "returnType": "vector"},
                    "args": [{
                        "type": "matrixSelector", "name": "x", "range": 300_000, "offset": 60_000, "timestamp": 10_000, "startOrEnd": null,
                        "matchers": [{"name": "b", "value": "c.*", "type": "!~"}, {"name": "__name__", "value": "x", "type": "="}],
                    }],
                },
            })
        );
        assert_eq!(
            tree("x * on (a) group_left (b) y"),
            json!({
                "type": "binaryExpr", "op": "*", "lhs": selector("x"), "rhs": selector("y"), "bool": false,
                "matching": {"card": "many-to-one", "labels": ["a"], "on": true, "include": ["b"]},
            })
        );
        assert_eq!(tree("x or y")["matching"]["card"], "many-to-many");
        assert_eq!(tree("x > bool 1")["matching"], Value::Null);
        assert_eq!(tree("x > bool 1")["rhs"], json!({"type": "numberLiteral", "val": "1"}));
        assert_eq!(
            tree("-(max_over_time(x[1h:5m] @ end()))"),
            json!({"type": "unaryExpr", "op": "-", "expr": {"type": "parenExpr", "expr": {
                "type": "call",
                "func": {"name": "max_over_time", "argTypes": ["matrix"], "variadic": 0, "returnType": "vector"},
                "args": [{
                    "type": "subquery", "expr": selector("x"), "range": 3_600_000, "step": 300_000,
                    "offset": 0, "timestamp": null, "startOrEnd": "end",
                }],
            }}})
        );
        assert_eq!(tree("\"text\""), json!({"type": "stringLiteral", "val": "text"}));
        assert_eq!(tree("topk(3, x)")["param"], json!({"type": "numberLiteral", "val": "3"}));
        assert_eq!(tree("round(x)")["func"]["variadic"], 1);
    }
}
