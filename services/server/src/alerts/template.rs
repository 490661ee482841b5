//! The templates of labels and annotations: Go's text/template with Prometheus's variables and functions.
//!
//! `query` and what works on its results (`first`, `label`, `value`, `sortByLabel`), and what links into Prometheus's own pages, are not there: a
//! file that uses them is refused with that word.

mod functions;
mod humanize;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use gotmpl::parse::{CommandNode, Expr, ListNode, Node, Parser, PipeNode, SmolStr};
use gotmpl::{MissingKey, TemplateError, Value};

/// The longest text that a template may make, in bytes.
const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// How often a template may go through loops.
const MAX_ITERATIONS: u64 = 10_000;
/// What Prometheus puts in front, so that its variables are there.
const VARIABLES: &str = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}";

/// A template that could be read. Cheap to clone.
#[derive(Clone)]
pub struct Template {
    source: Arc<str>,
    /// Missing where the text stands for itself.
    compiled: Option<Arc<Compiled>>,
}

struct Compiled {
    template: gotmpl::Template,
    /// The labels that it names: one that is missing is an empty text.
    labels: BTreeSet<String>,
    /// The external labels that it names: they are all missing.
    external_labels: BTreeSet<String>,
}

impl Template {
    /// Reads a template.
    pub fn parse(source: &str) -> Result<Self, String> {
        let compiled = source.contains("{{").then(|| compile(source)).transpose()?.map(Arc::new);
        Ok(Self { source: source.into(), compiled })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text for an alert with these labels and this value, on a server that people reach at this address. What goes wrong is said in the text, as
    /// Prometheus does.
    pub fn expand<'a>(&self, labels: impl IntoIterator<Item = (&'a str, &'a str)>, value: f64, external_url: &str) -> String {
        let Some(compiled) = &self.compiled else { return self.source.to_string() };
        compiled.expand(labels, value, external_url).unwrap_or_else(|error| format!("<error expanding template: {}>", in_words(&error)))
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl Compiled {
    fn expand<'a>(
        &self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
        external_url: &str,
    ) -> Result<String, TemplateError> {
        let mut given = empty(&self.labels);
        given.extend(labels.into_iter().map(|(name, value)| (name.into(), Value::String(value.into()))));
        let data = BTreeMap::from([
            ("Labels".into(), Value::Map(Arc::new(given))),
            ("ExternalLabels".into(), Value::Map(Arc::new(empty(&self.external_labels)))),
            ("ExternalURL".into(), Value::String(external_url.into())),
            ("Value".into(), Value::Float(value)),
        ]);
        let mut out = Bounded(String::new());
        self.template.execute_fmt(&mut out, &Value::Map(Arc::new(data)))?;
        Ok(out.0)
    }
}

/// Labels that are empty texts.
fn empty(names: &BTreeSet<String>) -> BTreeMap<Arc<str>, Value> {
    names.iter().map(|name| (name.as_str().into(), Value::String("".into()))).collect()
}

/// A text that ends at a length.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_OUTPUT_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

fn compile(source: &str) -> Result<Compiled, String> {
    let whole = format!("{VARIABLES}{source}");
    // Prometheus's variables are in front of the first line, so lines are right and columns are not.
    let (main, defines) = Parser::new(&whole, "{{", "}}").and_then(Parser::parse).map_err(|error| in_words(&error))?;
    if !blocks_end(&whole) {
        return Err("an {{ end }} is missing, or an {{ end }} or {{ else }} is outside of a block".into());
    }
    let functions = functions::all();
    let known: BTreeSet<&str> = functions.keys().map(String::as_str).chain(functions::BUILT_IN).collect();
    let mut uses = Uses::default();
    uses.template(&main);
    for define in &defines {
        uses.template(&define.body);
    }
    if let Some(unknown) = uses.functions.iter().find(|name| !known.contains(name.as_str())) {
        return Err(format!("there is no function {unknown} for templates here"));
    }
    if let Some((line, name)) = uses.undeclared {
        return Err(format!("line {line} of the template: undefined variable {name}"));
    }
    let template = gotmpl::Template::new("rule").funcs(functions).missing_key(MissingKey::ZeroValue).max_range_iters(MAX_ITERATIONS);
    let template = template.parse(&whole).map_err(|error| in_words(&error))?;
    Ok(Compiled { template, labels: uses.labels, external_labels: uses.external_labels })
}

/// Whether each block of a template that could be read has its end. The parser takes the end of the text for an `{{ end }}`, and an `{{ end }}` without a
/// block for the end of the text: then an action behind the text is not the last of the template.
fn blocks_end(whole: &str) -> bool {
    let marked = format!("{whole}\n{{{{$}}}}");
    let Ok((main, _)) = Parser::new(&marked, "{{", "}}").and_then(Parser::parse) else { return false };
    matches!(main.nodes.last(), Some(Node::Action(action)) if action.pos.offset > whole.len())
}

fn in_words(error: &TemplateError) -> String {
    match error {
        TemplateError::Parse { line, message, .. } | TemplateError::Lex { line, message, .. } => {
            format!("line {line} of the template: {message}")
        }
        other => other.to_string(),
    }
}

/// What a template names.
#[derive(Default)]
struct Uses {
    functions: BTreeSet<String>,
    labels: BTreeSet<String>,
    external_labels: BTreeSet<String>,
    /// The variables that are declared where the walk is.
    variables: Vec<SmolStr>,
    /// The first variable that is not declared where it is used, with its line.
    undeclared: Option<(usize, SmolStr)>,
}

impl Uses {
    /// A whole template: it has no variables of others.
    fn template(&mut self, body: &ListNode) {
        let outer = std::mem::replace(&mut self.variables, vec![SmolStr::from("$")]);
        self.list(body);
        self.variables = outer;
    }

    fn list(&mut self, list: &ListNode) {
        for node in &list.nodes {
            match node {
                Node::List(list) => self.list(list),
                Node::Action(action) => self.pipe(&action.pipe),
                Node::If(branch) | Node::Range(branch) | Node::With(branch) => {
                    let outside = self.variables.len();
                    self.pipe(&branch.pipe);
                    let inside = self.variables.len();
                    self.list(&branch.body);
                    // Go has a loop's variables in its else too, the executor here has not.
                    self.variables.truncate(if matches!(node, Node::Range(_)) { outside } else { inside });
                    branch.else_body.iter().for_each(|body| self.list(body));
                    self.variables.truncate(outside);
                }
                Node::Template(template) => template.pipe.iter().for_each(|pipe| self.pipe(pipe)),
                Node::Define(define) => self.template(&define.body),
                Node::Text(_) | Node::Break(_) | Node::Continue(_) => {}
            }
        }
    }

    fn pipe(&mut self, pipe: &PipeNode) {
        pipe.commands.iter().for_each(|command: &CommandNode| command.args.iter().for_each(|expr| self.expr(expr)));
        // What a variable is set to is worked out before it is there.
        if pipe.is_assign {
            pipe.decl.iter().for_each(|name| self.variable(name, pipe.pos.line));
        } else {
            self.variables.extend(pipe.decl.iter().cloned());
        }
    }

    fn variable(&mut self, name: &SmolStr, line: usize) {
        if self.undeclared.is_none() && !self.variables.contains(name) {
            self.undeclared = Some((line, name.clone()));
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Identifier(_, name) => _ = self.functions.insert(name.to_string()),
            Expr::Variable(pos, name, path) => {
                self.variable(name, pos.line);
                match (name.trim_start_matches('$'), path.first()) {
                    ("labels", Some(label)) => _ = self.labels.insert(label.to_string()),
                    ("externalLabels", Some(label)) => _ = self.external_labels.insert(label.to_string()),
                    ("", _) => self.field(path),
                    _ => {}
                }
            }
            Expr::Field(_, path) => self.field(path),
            Expr::Pipe(_, pipe) => self.pipe(pipe),
            Expr::Chain(_, expr, _) => self.expr(expr),
            _ => {}
        }
    }

    fn field(&mut self, path: &[SmolStr]) {
        let [of, label, ..] = path else { return };
        match of.as_str() {
            "Labels" => _ = self.labels.insert(label.to_string()),
            "ExternalLabels" => _ = self.external_labels.insert(label.to_string()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(source: &str, value: f64) -> String {
        Template::parse(source).unwrap().expand([("instance", "n1:9100"), ("job", "node")], value, "https://g.example.com")
    }

    #[test]
    fn variables_and_functions_are_prometheuss() {
        for (source, value, expected) in [
            ("plain", 1.0, "plain"),
            ("{{ $labels.instance }} has {{ $value }}", 1.5, "n1:9100 has 1.5"),
            ("{{ .Labels.job }}/{{ .Value }}", 1e7, "node/10000000"),
            ("[{{ $labels.missing }}]", 0.0, "[]"),
            ("[{{ index $labels \"missing\" }}{{ index .Labels \"missing\" }}{{ \"mis-sing\" | index $labels }}]", 0.0, "[]"),
            ("{{ index $labels \"job\" }}{{ with index $labels \"zone\" }} in {{ . }}{{ end }}", 0.0, "node"),
            ("{{ range $name, $text := $labels }}{{ $name }}{{ index $labels \"zone\" }} {{ end }}", 0.0, "instance job "),
            ("[{{ $externalLabels.cluster }}{{ .ExternalLabels.cluster }}{{ with 1 }}{{ $.Labels.zone }}{{ end }}]", 0.0, "[]"),
            ("{{ slice \"abc\" 1 }}{{ index \"abc\" 0 }}", 0.0, "bc97"),
            ("{{ $value | humanizePercentage }}", 0.12345, "12.35%"),
            ("{{ printf \"%.2f\" $value }}", 1.0 / 3.0, "0.33"),
            ("{{ with $labels.job }}job {{ . }}{{ end }}{{ with $labels.zone }}zone{{ end }}", 0.0, "job node"),
            ("{{ if gt $value 2.0 }}much{{ else }}little{{ end }}", 3.0, "much"),
            ("{{ range $name, $text := $labels }}{{ $name }}={{ $text }} {{ end }}", 0.0, "instance=n1:9100 job=node "),
            ("{{ $labels.instance | stripPort | toUpper }}", 0.0, "N1"),
            ("{{ reReplaceAll \"(.*):(.*)\" \"$2\" $labels.instance }}", 0.0, "9100"),
            ("{{ reReplaceAll \"(n)([0-9])\" \"${2}$1x${a-b}\" $labels.instance }}", 0.0, "1${a-b}:9100"),
            ("{{ if match \"^n\" $labels.instance }}yes{{ end }}", 0.0, "yes"),
            ("{{- /* said to people */ -}} x", 0.0, "x"),
            ("{{ $externalURL }}/node?name={{ $labels.instance | urlQueryEscape }}", 0.0, "https://g.example.com/node?name=n1%3A9100"),
            ("{{ .ExternalURL }}", 0.0, "https://g.example.com"),
            ("{{ define \"a\" }}<{{ . }}>{{ end }}{{ template \"a\" $value }}", 2.0, "<2>"),
            ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $y := $x }}{{ $y }}{{ end }}{{ $x }}", 0.0, "22"),
            ("{{ with $x := $labels.job }}{{ $x }}{{ else }}{{ $x }}{{ end }}", 0.0, "node"),
            ("{{ if $x := $labels.zone }}{{ $x }}{{ else if $y := $labels.job }}[{{ $x }}]{{ $y }}{{ end }}", 0.0, "[]node"),
            ("{{ $k := 1 }}{{ $v := 1 }}{{ range $k, $v = $labels }}{{ end }}{{ $k }}={{ $v }}", 0.0, "job=node"),
            ("{{ range $i := 2 }}{{ range $j := 2 }}{{ $i }}{{ $j }} {{ end }}{{ end }}", 0.0, "00 01 10 11 "),
            ("{{ define \"a\" }}{{ $x := $ }}{{ $x }}{{ end }}{{ template \"a\" $value }}", 2.0, "2"),
            ("{{ if true }}{{ with 1 }}{{ . }}{{ end }}{{ else }}b{{ end -}} {", 0.0, "1{"),
        ] {
            assert_eq!(expand(source, value), expected, "{source}");
        }
    }

    #[test]
    fn what_goes_wrong_is_said() {
        assert!(expand("{{ humanize \"x\" }}", 0.0).starts_with("<error expanding template: "));
        assert!(expand("{{ range $i := 100000 }}xxxxxxxx{{ end }}", 0.0).starts_with("<error expanding template: "));
        for (source, problem) in [
            ("{{ $labels.x", "unclosed action"),
            ("{{ nonsense 1 }}", "no function nonsense"),
            ("{{ query \"up\" | first | value }}", "no function"),
            ("{{ $label.instance }}", "line 1 of the template: undefined variable $label"),
            ("a\nb {{ printf \"%s\" (toUpper $label.x) }}", "line 2 of the template: undefined variable $label"),
            ("{{ $value | printf \"%s%v\" $x }}", "undefined variable $x"),
            ("{{ $x }}{{ $x := 1 }}", "undefined variable $x"),
            ("{{ $x := $x }}", "undefined variable $x"),
            ("{{ $x = 1 }}", "undefined variable $x"),
            ("{{ if true }}{{ $x := 1 }}{{ else }}{{ $x }}{{ end }}", "undefined variable $x"),
            ("{{ if $x := 1 }}{{ end }}{{ $x }}", "undefined variable $x"),
            ("{{ with $x := 1 }}{{ end }}{{ $x }}", "undefined variable $x"),
            ("{{ range $k, $x := $labels }}{{ end }}{{ $x }}", "undefined variable $x"),
            ("{{ range $k, $x := $labels }}{{ else }}{{ $x }}{{ end }}", "undefined variable $x"),
            ("{{ range $k, $x = $labels }}{{ end }}", "undefined variable $k"),
            ("{{ define \"a\" }}{{ $labels.job }}{{ end }}{{ template \"a\" . }}", "undefined variable $labels"),
            ("{{ template \"a\" $x }}{{ define \"a\" }}{{ end }}", "undefined variable $x"),
            ("{{ if true }}a", "{{ end }} is missing"),
            ("{{ if true }}a{{ else }}b", "{{ end }} is missing"),
            ("{{ define \"a\" }}a", "{{ end }} is missing"),
            ("a {{ end }} b", "outside of a block"),
            ("a {{ else }} b", "outside of a block"),
        ] {
            let error = Template::parse(source).unwrap_err();
            assert!(error.contains(problem), "{source}: {error}");
        }
    }
}
