//! Generated expressions.

use fastrand::Rng;

use crate::data::at_seconds;

/// An expression that Prometheus 2.42 and 3 mean alike.
pub fn generate(random: &mut Rng) -> String {
    let mut generator = Generator { random };
    match generator.below(12) {
        0 => generator.scalar(3),
        1 => generator.selector(),
        _ => generator.vector(3),
    }
}

/// Metrics whose series differ in `instance`, `job` and the label given here.
const COUNTERS: [(&str, &str); 3] = [("cpu_seconds_total", "mode"), ("requests_total", "code"), ("latency_seconds_bucket", "le")];
const GAUGES: [(&str, &str); 2] = [("temperature", "sensor"), ("up", "job")];

struct Generator<'a> {
    random: &'a mut Rng,
}

impl Generator<'_> {
    fn below(&mut self, count: usize) -> usize {
        self.random.usize(0..count)
    }

    fn one_of<'s>(&mut self, texts: &[&'s str]) -> &'s str {
        texts[self.below(texts.len())]
    }

    /// Matchers for labels that all metrics have.
    fn matchers(&mut self) -> String {
        match self.below(6) {
            0 => r#"{job="node"}"#.to_owned(),
            1 => r#"{instance=~"a|c"}"#.to_owned(),
            2 => r#"{instance!~"[ab].*",job!=""}"#.to_owned(),
            3 => r#"{instance!="d",job=~".+e.*"}"#.to_owned(),
            _ => String::new(),
        }
    }

    fn modifiers(&mut self) -> String {
        let at = match self.below(12) {
            0 => format!(" @ {}", at_seconds(self.random)),
            1 => " @ end()".to_owned(),
            2 => " @ start()".to_owned(),
            _ => String::new(),
        };
        let offset =
            if self.below(6) == 0 { format!(" offset {}", self.one_of(&["5m", "-1m", "30s", "1h", "-10m"])) } else { String::new() };
        if self.below(2) == 0 { format!("{at}{offset}") } else { format!("{offset}{at}") }
    }

    fn range(&mut self) -> &'static str {
        self.one_of(&["30s", "1m", "5m", "20m", "1h", "90s"])
    }

    fn gauge(&mut self) -> &'static str {
        let index = self.below(GAUGES.len() + 2);
        ["temperature", "up", "sparse", "odd"][index]
    }

    fn selector(&mut self) -> String {
        let name = if self.below(2) == 0 { self.gauge() } else { COUNTERS[self.below(3)].0 };
        format!("{name}{}{}", self.matchers(), self.modifiers())
    }

    /// The samples of a range: stored, or of a subquery.
    fn samples(&mut self, name: &str) -> String {
        if self.below(3) > 0 {
            return format!("{name}{}[{}]{}", self.matchers(), self.range(), self.modifiers());
        }
        // Steps of subqueries are whole tens of seconds, queries are evaluated seven seconds later: no step lies on a border.
        let (range, step) = (self.one_of(&["2m", "10m", "1h"]), self.one_of(&["30s", "1m", "10s", ""]));
        let inner = match self.below(4) {
            0 => format!("delta({name}{}[{}])", self.matchers(), self.range()),
            1 => format!("({name}{} * 2)", self.matchers()),
            2 => format!("sum_over_time({name}{}[95s:20s])", self.matchers()),
            _ => format!("{name}{}", self.matchers()),
        };
        format!("{inner}[{range}:{step}]{}", self.modifiers())
    }

    fn over_time(&mut self) -> String {
        if self.below(2) == 0 {
            let name = COUNTERS[self.below(3)].0;
            let function = self.one_of(&["rate", "increase", "irate", "resets", "changes", "count_over_time", "last_over_time"]);
            // Functions of counters extrapolate; values of a subquery may be of no counter.
            return format!("{function}({name}{}[{}]{})", self.matchers(), self.range(), self.modifiers());
        }
        let name = self.gauge();
        let function = self.below(18);
        let mut samples = self.samples(name);
        while function < 2 && samples.contains('@') {
            samples = self.samples(name);
        }
        match function {
            0 => format!(
                "quantile_over_time({}, {samples})",
                self.one_of(&["0.5", "0", "1", "0.9", "scalar(up{instance=\"a\"})", "-1", "1.1"])
            ),
            1 => format!("predict_linear({samples}, {})", self.one_of(&["60", "3600", "-600"])),
            2 => format!("absent_over_time({samples})"),
            index => {
                let functions = [
                    "avg_over_time",
                    "min_over_time",
                    "max_over_time",
                    "sum_over_time",
                    "count_over_time",
                    "stddev_over_time",
                    "stdvar_over_time",
                    "last_over_time",
                    "present_over_time",
                    "delta",
                    "deriv",
                    "idelta",
                    "changes",
                    "resets",
                    "delta",
                ];
                format!("{}({samples})", functions[index - 3])
            }
        }
    }

    fn number(&mut self) -> String {
        self.one_of(&["0", "1", "2.5", "-3", "100", "1e3", "0x1f", "Inf", "NaN", "0.1", "10"]).to_owned()
    }

    fn scalar(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 2 } else { 6 }) {
            0 | 1 => self.number(),
            2 => "time()".to_owned(),
            3 => format!("scalar({})", self.vector(depth - 1)),
            4 => format!("-({})", self.scalar(depth - 1)),
            _ => {
                let operator = self.one_of(&["+", "-", "*", "/", "%", "^", "== bool", "< bool", "atan2"]);
                format!("({} {operator} {})", self.scalar(depth - 1), self.scalar(depth - 1))
            }
        }
    }

    fn vector(&mut self, depth: usize) -> String {
        if depth == 0 {
            return if self.below(2) == 0 { self.selector() } else { self.over_time() };
        }
        match self.below(16) {
            0..3 => self.aggregation(depth),
            3..6 => self.over_time(),
            6..8 => self.function(depth),
            8..11 => self.with_scalar(depth),
            11..14 => self.with_vector(depth),
            14 => format!("({})", self.vector(depth - 1)),
            _ => self.special(depth),
        }
    }

    fn grouping(&mut self) -> &'static str {
        self.one_of(&[
            "",
            "by (job) ",
            "by (instance) ",
            "without (instance) ",
            "by (job, instance) ",
            "without () ",
            "by () ",
            "without (job, le) ",
        ])
    }

    fn aggregation(&mut self, depth: usize) -> String {
        let (grouping, vector) = (self.grouping(), self.vector(depth - 1));
        match self.below(13) {
            // Equal values could be told apart by their order only.
            0 => format!("topk {grouping}({}, temperature{})", self.one_of(&["1", "2", "5", "0"]), self.matchers()),
            1 => format!("bottomk {grouping}({}, rate(cpu_seconds_total[5m]))", self.one_of(&["1", "3"])),
            2 => format!("quantile {grouping}({}, {vector})", self.one_of(&["0.5", "0.25", "1", "-1", "2"])),
            3 => format!("count_values {grouping}(\"value\", {}{})", self.one_of(&["up", "odd", "resets(requests_total[20m])"]), ""),
            index => {
                let operator = ["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "sum"][index - 4];
                format!("{operator} {grouping}({vector})")
            }
        }
    }

    fn function(&mut self, depth: usize) -> String {
        let vector = self.vector(depth - 1);
        match self.below(10) {
            0 => format!("clamp({vector}, {}, {})", self.number(), self.number()),
            1 => format!("clamp_max({vector}, {})", self.number()),
            2 => format!("clamp_min({vector}, {})", self.number()),
            3 => format!("round({vector}, {})", self.one_of(&["1", "0.1", "5"])),
            4 => format!("timestamp({vector})"),
            5 => format!(
                "{}({})",
                self.one_of(&["hour", "minute", "day_of_week", "month", "year", "days_in_month", "day_of_year"]),
                "vector(time())"
            ),
            _ => {
                let functions = [
                    "abs", "ceil", "floor", "exp", "ln", "log2", "log10", "sqrt", "sgn", "sin", "cos", "tan", "asin", "acos", "atan",
                    "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "deg", "rad", "-", "+",
                ];
                format!("{}({vector})", self.one_of(&functions))
            }
        }
    }

    fn operator(&mut self) -> &'static str {
        self.one_of(&["+", "-", "*", "/", "%", "^", "==", "!=", "<", "<=", ">", ">=", "== bool", "!= bool", "> bool", "<= bool"])
    }

    fn with_scalar(&mut self, depth: usize) -> String {
        if self.below(10) == 0 {
            return format!("abs(({}) atan2 {})", self.vector(depth - 1), self.number());
        }
        let (operator, vector, scalar) = (self.operator(), self.vector(depth - 1), self.scalar(depth - 1));
        if self.below(2) == 0 { format!("({vector}) {operator} {scalar}") } else { format!("{scalar} {operator} ({vector})") }
    }

    fn with_vector(&mut self, depth: usize) -> String {
        let operator = self.operator();
        match self.below(10) {
            9 => {
                let matching = self.one_of(&["on (job)", "ignoring (mode, instance)", "on (job) group_left ()", "on (instance)"]);
                let right = self.one_of(&["requests_total", "requests_total{code=\"200\",instance=\"a\"}", "up", "up{instance=\"c\"}"]);
                format!("cpu_seconds_total{} {operator} {matching} {right}", self.matchers())
            }
            0 => format!("({}) {operator} on (instance) group_left (version, role) node_info", self.vector(depth - 1)),
            1 => format!("node_info {operator} on (instance) group_right (version) ({})", self.vector(depth - 1)),
            2 => {
                let (name, label) = COUNTERS[self.below(3)];
                format!("rate({name}[5m]) {operator} ignoring ({label}) group_left () sum without ({label}) (rate({name}[5m]))")
            }
            3 => {
                let set = self.one_of(&["and", "or", "unless"]);
                let matching = self.one_of(&["", " on (instance)", " on (job)", " ignoring (sensor, mode, code, le)", " on ()"]);
                format!("({}) {set}{matching} ({})", self.vector(depth - 1), self.vector(depth - 1))
            }
            4 => {
                let (left, right) = (self.vector(depth - 1), self.vector(depth - 1));
                format!("sum by (instance) ({left}) {operator} max by (instance) ({right})")
            }
            5 => {
                let (left, right) = (self.vector(depth - 1), self.vector(depth - 1));
                format!("avg without (sensor, mode, code, le) ({left}) {operator} on (instance, job) min by (instance, job) ({right})")
            }
            6 => {
                let vector = self.vector(depth - 1);
                format!("({vector}) {operator} ({vector})")
            }
            _ => format!("({}) {operator} ({})", self.vector(depth - 1), self.vector(depth - 1)),
        }
    }

    fn special(&mut self, depth: usize) -> String {
        match self.below(9) {
            0 => {
                let grouping = self.one_of(&["le", "le, instance", "le, job"]);
                format!(
                    "histogram_quantile({}, sum by ({grouping}) (rate(latency_seconds_bucket[{}])))",
                    self.one_of(&["0.5", "0.9", "1", "0", "-1", "2"]),
                    self.range()
                )
            }
            1 => format!("histogram_quantile(0.9, latency_seconds_bucket{})", self.matchers()),
            2 => {
                let template = self.one_of(&["$2-$1", "${1}x$1x$$1", "${a-b}${}$01", "$ä$1²${job}$"]);
                format!("label_replace({}, \"new\", \"{template}\", \"instance\", \"(?P<job>.)(.*)\")", self.vector(depth - 1))
            }
            3 => format!("label_replace({}, \"job\", \"$1x\", \"job\", \"(n.*)\")", self.vector(depth - 1)),
            4 => format!("label_join({}, \"both\", \"/\", \"job\", \"instance\", \"none\")", self.vector(depth - 1)),
            5 => format!("absent({})", self.vector(depth - 1)),
            6 => r#"absent(nothing{job="x",instance=~"a",code="1"})"#.to_owned(),
            7 => format!("vector({})", self.scalar(depth - 1)),
            _ => format!("sort_desc({})", self.vector(depth - 1)),
        }
    }
}

/// What neither reads.
pub const INVALID: &[&str] = &[
    "",
    "(",
    "a b",
    "a +",
    "+",
    "a{",
    "a{b}",
    "a{b=}",
    "a{b=c}",
    "a{b==\"c\"}",
    "a{b=\"c\" d=\"e\"}",
    "a{,}",
    "{}",
    "{a=\"\"}",
    "{a=~\".*\"}",
    "a{__name__=\"b\"}",
    "a{b=~\"(\"}",
    "a[",
    "a[5]m",
    "a[5m",
    "a[5m:",
    "a[m]",
    "a[5m]5m",
    "a[0s]",
    "a[-5m]",
    "a[5m1h]",
    "(a)[5m]",
    "a offset",
    "a offset 5m offset 5m",
    "a[5m] offset 1m offset 1m",
    "(a) offset 5m",
    "a offset 5m[5m]",
    "a @ 1 @ 2",
    "a @ x",
    "a @ Inf",
    "a @ start",
    "1 @ 5",
    "sum()",
    "sum(1)",
    "sum(a, b)",
    "sum(a) by",
    "sum by (a",
    "sum by (a b) (c)",
    "sum by a (c)",
    "sum(a) without (b) by (c)",
    "topk(a)",
    "topk(a, a)",
    "count_values(1, a)",
    "quantile(\"x\", a)",
    "rate(a)",
    "rate(a[5m], 1)",
    "rate()",
    "rate(a[5m]",
    "rate(a[5m],)",
    "unknown(a)",
    "time(1)",
    "round(a, 1, 2)",
    "label_replace(a, \"b\")",
    "abs(1)",
    "abs(\"x\")",
    "a == 1 2",
    "1 == 1",
    "1 and 1",
    "a and 1",
    "a + bool b",
    "a + on (b) 1",
    "a + group_left b",
    "a + on (b) group_left (b) c",
    "a and on (b) group_left () c",
    "a[5m] + b",
    "-\"x\"",
    "-a[5m]",
    "\"a\" + 1",
    "a ! b",
    "a =~ b",
    "a & b",
    "a; b",
    "5q",
    "1.2.3",
    "0x",
    "\"a",
    "\"\\q\"",
    "1[5m:]",
    "a[5m][5m]",
    "a[5m][5m:]",
    "sum(a)[5m]",
];
