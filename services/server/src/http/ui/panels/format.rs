//! Files of panels: YAML, described in docs/panels.md.

use std::borrow::Cow;
use std::collections::BTreeSet;

use golectra_promql::parse::{ParseLimits, parse_selector};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Group, Line, Page, Panel, Unit, Variable, fill};
use crate::folder::{FileError, YamlReader};

/// The most panels of a page, or of all that a file adds to one.
const MAX_PANELS: usize = 200;
/// The most expressions of a panel: each is a query.
const MAX_LINES: usize = 20;
/// The most variables of a page.
const MAX_VARIABLES: usize = 8;
/// The longest name, in bytes, and the longest title.
const MAX_NAME_BYTES: usize = 64;
const MAX_TITLE_BYTES: usize = 200;
/// What the address of a page uses itself, and what expressions do.
const RESERVED: [&str; 5] = ["name", "range", "from", "to", "window"];

/// What is in a file.
#[derive(Debug, Default)]
pub struct PanelFile {
    /// What it adds to the page of a node.
    pub node: Vec<Group>,
    /// What it adds to the page of a pod.
    pub pod: Vec<Group>,
    /// Its pages.
    pub pages: Vec<Page>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    node: Vec<RawGroup>,
    #[serde(default)]
    pod: Vec<RawGroup>,
    #[serde(default)]
    pages: Vec<RawPage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPage {
    name: Spanned<String>,
    title: Option<Spanned<String>>,
    #[serde(default)]
    variables: Vec<RawVariable>,
    groups: Vec<RawGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVariable {
    name: Spanned<String>,
    title: Option<Spanned<String>>,
    label: Option<Spanned<String>>,
    series: Option<Spanned<String>>,
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    title: Spanned<String>,
    panels: Vec<RawPanel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPanel {
    title: Spanned<String>,
    #[serde(default)]
    unit: Unit,
    #[serde(default)]
    stacked: bool,
    top: Option<Spanned<f64>>,
    lines: Option<Vec<RawLine>>,
    alternatives: Option<Vec<Vec<RawLine>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    expr: Spanned<String>,
    #[serde(default)]
    name: String,
    metric: Option<String>,
}

/// A variable as expressions see it: its name, and whether it is a regular expression.
type Known<'a> = (&'a str, bool);

/// Reads a file. The first thing that is wrong with it is its error, and nothing of it counts then.
pub fn parse(file: &str, text: &str) -> Result<PanelFile, FileError> {
    let reader = Reader(YamlReader { file });
    let raw: RawFile = reader.0.read("panels", text)?;
    let mut names = BTreeSet::new();
    let mut pages = Vec::with_capacity(raw.pages.len());
    for page in raw.pages {
        if !names.insert(page.name.value.clone()) {
            return Err(reader.0.at(&page.name, format!("the page {:?} is there twice", page.name.value)));
        }
        pages.push(reader.page(page)?);
    }
    Ok(PanelFile {
        node: reader.groups(raw.node, &[("node", false)])?,
        pod: reader.groups(raw.pod, &[("namespace", false), ("pod", false)])?,
        pages,
    })
}

struct Reader<'a>(YamlReader<'a>);

impl Reader<'_> {
    fn page(&self, raw: RawPage) -> Result<Page, FileError> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if raw.name.value.is_empty() || raw.name.value.len() > MAX_NAME_BYTES || !raw.name.value.bytes().all(is_name) {
            return Err(self
                .0
                .at(&raw.name, format!("the name of a page has 1 to {MAX_NAME_BYTES} of a-z, 0-9 and -, not {:?}", raw.name.value)));
        }
        if let Some(first) = raw.variables.get(MAX_VARIABLES) {
            return Err(self.0.at(&first.name, format!("a page has at most {MAX_VARIABLES} variables")));
        }
        let mut variables = Vec::<Variable>::with_capacity(raw.variables.len());
        for raw in raw.variables {
            let variable = self.variable(raw, &variables)?;
            variables.push(variable);
        }
        let known: Vec<_> = variables.iter().map(|variable| (variable.name.as_str(), variable.all)).collect();
        let groups = self.groups(raw.groups, &known)?;
        Ok(Page {
            line: raw.name.referenced.line(),
            title: raw.title.as_ref().map_or_else(|| Ok(raw.name.value.clone()), |title| self.title(title))?,
            name: raw.name.value,
            groups,
            variables,
            file: self.0.file.to_owned(),
        })
    }

    fn variable(&self, raw: RawVariable, before: &[Variable]) -> Result<Variable, FileError> {
        let name = &raw.name.value;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_name) {
            return Err(self
                .0
                .at(&raw.name, format!("the name of a variable has 1 to {MAX_NAME_BYTES} letters, digits and _, not {name:?}")));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(self
                .0
                .at(&raw.name, format!("a variable can't be called {name:?}: these names are taken: {}", RESERVED.join(", "))));
        }
        if before.iter().any(|other| other.name == *name) {
            return Err(self.0.at(&raw.name, format!("the variable {name:?} is there twice")));
        }
        if let Some(series) = &raw.series {
            let known: Vec<_> = before.iter().map(|variable| (variable.name.as_str(), variable.all)).collect();
            let filled = self.filled(series, "series", &known)?;
            parse_selector(&filled, &ParseLimits::default()).map_err(|error| self.0.at(series, format!("series: {error}")))?;
        }
        let label = raw.label.as_ref().map_or(name, |label| &label.value);
        if label.is_empty() || label == "__name__" {
            return Err(self.0.at(raw.label.as_ref().unwrap_or(&raw.name), format!("{label:?} can't be the label of a variable")));
        }
        Ok(Variable {
            label: label.clone(),
            title: raw.title.as_ref().map_or_else(|| Ok(raw.name.value.clone()), |title| self.title(title))?,
            series: raw.series.map(|series| series.value),
            all: raw.all,
            name: raw.name.value,
        })
    }

    fn title(&self, raw: &Spanned<String>) -> Result<String, FileError> {
        let title = raw.value.trim();
        if title.is_empty() || title.len() > MAX_TITLE_BYTES || title.chars().any(char::is_control) {
            return Err(self.0.at(raw, format!("a title has 1 to {MAX_TITLE_BYTES} bytes in one line")));
        }
        Ok(title.to_owned())
    }

    fn groups(&self, raw: Vec<RawGroup>, variables: &[Known<'_>]) -> Result<Vec<Group>, FileError> {
        let mut panels = 0;
        let group = |raw: RawGroup| {
            panels += raw.panels.len();
            if panels > MAX_PANELS {
                return Err(self.0.at(&raw.title, format!("a page has at most {MAX_PANELS} panels")));
            }
            let panels = raw.panels.into_iter().map(|panel| self.panel(panel, variables)).collect::<Result<_, _>>()?;
            Ok(Group { title: self.title(&raw.title)?, panels })
        };
        raw.into_iter().map(group).collect()
    }

    fn panel(&self, raw: RawPanel, variables: &[Known<'_>]) -> Result<Panel, FileError> {
        let alternatives = match (raw.lines, raw.alternatives) {
            (Some(lines), None) => vec![lines],
            (None, Some(alternatives)) => alternatives,
            _ => return Err(self.0.at(&raw.title, "a panel has either lines or alternatives")),
        };
        if alternatives.is_empty() || alternatives.iter().any(Vec::is_empty) {
            return Err(self.0.at(&raw.title, "a panel needs at least one line, in each of its alternatives"));
        }
        if alternatives.iter().any(|lines| lines.len() > MAX_LINES) || alternatives.len() > MAX_LINES {
            return Err(self.0.at(&raw.title, format!("a panel has at most {MAX_LINES} lines, and as many alternatives")));
        }
        if let Some(top) = raw.top.as_ref().filter(|top| !top.value.is_finite()) {
            return Err(self.0.at(top, "top must be a number"));
        }
        let line = |raw: RawLine| {
            self.0.check_expr(&raw.expr, &self.filled(&raw.expr, "expr", variables)?)?;
            Ok(Line { expr: raw.expr.value.trim().to_owned(), name: raw.name, metric: raw.metric })
        };
        let lines = |raw: Vec<RawLine>| raw.into_iter().map(line).collect::<Result<Vec<_>, _>>();
        Ok(Panel {
            alternatives: alternatives.into_iter().map(lines).collect::<Result<_, _>>()?,
            title: self.title(&raw.title)?,
            unit: raw.unit,
            stacked: raw.stacked,
            top: raw.top.map(|top| top.value),
        })
    }

    /// The text with something in place of its variables.
    fn filled(&self, text: &Spanned<String>, field: &str, variables: &[Known<'_>]) -> Result<String, FileError> {
        for (name, _) in variables.iter().filter(|(_, all)| *all) {
            let variable = format!("${name}");
            let mut parts = text.value.split(&variable).peekable();
            while let Some(before) = parts.next() {
                let is_whole =
                    parts.peek().is_some_and(|after| !after.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_'));
                if is_whole && !before.trim_end().ends_with('~') {
                    return Err(self.0.at(text, format!("{field}: ${name} may be all values, so it stands behind =~ or !~")));
                }
            }
        }
        let mut unknown = None;
        let filled = fill(&text.value, |name| match name {
            "window" => Some(Cow::Borrowed("5m")),
            name if variables.iter().any(|(known, _)| *known == name) => Some(Cow::Borrowed("\"x\"")),
            name => {
                // A lone $ is the end of a regular expression, and $1 is what label_replace found.
                let is_of_promql = name.bytes().all(|byte| byte.is_ascii_digit());
                unknown = unknown.take().or_else(|| (!is_of_promql).then(|| name.to_owned()));
                None
            }
        });
        match unknown {
            Some(name) => {
                let known: Vec<_> = variables.iter().map(|(name, _)| *name).chain(["window"]).map(|name| format!("${name}")).collect();
                Err(self.0.at(text, format!("{field}: there is no variable ${name}; there is {}", known.join(", "))))
            }
            None => Ok(filled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::MAX_FILE_BYTES;

    #[test]
    fn every_expression_that_is_built_in_is_about_its_page() {
        for (text, matcher) in
            [(include_str!("../../../../panels/node.yaml"), "instance=$node"), (include_str!("../../../../panels/pod.yaml"), "pod=$pod")]
        {
            let file = parse("f.yaml", text).unwrap();
            let lines: Vec<_> = file
                .node
                .iter()
                .chain(&file.pod)
                .flat_map(|group| &group.panels)
                .flat_map(|panel| panel.alternatives.iter().flatten())
                .collect();
            assert!(lines.len() > 5);
            for line in lines {
                assert!(line.expr.contains(matcher), "{}", line.expr);
            }
        }
    }

    /// The first example is a whole file, the others are parts.
    #[test]
    fn the_example_of_the_documentation_is_valid() {
        let documentation = include_str!("../../../../../../docs/panels.md");
        let examples: Vec<_> = documentation.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let file = parse("example.yaml", examples[0]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!file.node.is_empty() && !file.pages.is_empty() && !file.pages[0].variables.is_empty());
    }

    #[test]
    fn a_file_is_read_whole() {
        let text = "pages:\n- name: p-1\n  title: ' A page '\n  variables:\n  - {name: namespace, series: up}\n  - {name: job, title: Job, label: app, series: 'up{ns=$namespace}', all: true}\n  groups:\n  - title: G\n    panels:\n    - title: P\n      unit: bytes_per_second\n      stacked: true\n      top: 1.5\n      lines:\n      - expr: rate(a{namespace=$namespace,job=~$job,x=~\"y.*$\"}[$window])\n        name: '{pod}'\n    - title: Q\n      alternatives: [[{expr: a}], [{expr: b, metric: c}, {expr: '1'}]]\n- name: q\n  groups: []\n";
        let file = parse("f.yaml", text).unwrap();
        let [page, other] = &file.pages[..] else { panic!("{file:?}") };
        assert_eq!((page.name.as_str(), page.title.as_str(), page.line), ("p-1", "A page", 2));
        assert_eq!((other.title.as_str(), other.line), ("q", 19));
        let variables: Vec<_> =
            page.variables.iter().map(|one| (one.name.as_str(), one.title.as_str(), one.label.as_str(), one.all)).collect();
        assert_eq!(variables, [("namespace", "namespace", "namespace", false), ("job", "Job", "app", true)]);
        let [one, two] = &page.groups[0].panels[..] else { panic!("{page:?}") };
        assert_eq!(
            (one.unit, one.stacked, one.top, one.alternatives[0][0].name.as_str()),
            (Unit::BytesPerSecond, true, Some(1.5), "{pod}")
        );
        assert_eq!((two.unit, two.alternatives.len(), two.alternatives[1][0].metric.as_deref()), (Unit::Number, 2, Some("c")));
        assert!(parse("f.yaml", "pages: []").unwrap().pages.is_empty());
        let replaced = r#"label_replace(up{instance=$node}, "a", "$1", "b", "(.*)")"#;
        let file = parse("f.yaml", &format!("node: [{{title: G, panels: [{{title: P, lines: [{{expr: '{replaced}'}}]}}]}}]")).unwrap();
        assert_eq!(file.node[0].panels[0].alternatives[0][0].expr, replaced, "what label_replace found is no variable");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let panel = |panel: &str| format!("node:\n- title: G\n  panels:\n  {panel}\n");
        let page = |page: &str| format!("pages:\n- name: p\n  groups: []\n{page}\n");
        for (line, problem, text) in [
            (1, "unknown field", "nodes: []".to_owned()),
            (4, "either lines or alternatives", panel("- title: P")),
            (4, "either lines or alternatives", panel("- title: P\n    lines: []\n    alternatives: []")),
            (4, "at least one line", panel("- title: P\n    alternatives: [[]]")),
            (4, "a title has", panel("- title: ''\n    lines: [{expr: up}]")),
            (5, "bytes_per_second", panel("- title: P\n    unit: parsecs\n    lines: [{expr: up}]")),
            (5, "top must be", panel("- title: P\n    top: .inf\n    lines: [{expr: up}]")),
            (6, "unknown field", panel("- title: P\n    lines:\n    - exp: up")),
            (6, "expr: 1:7: parse error", panel("- title: P\n    lines:\n    - expr: sum(up")),
            (7, "gives a range vector", panel("- title: P\n    lines:\n    - name: n\n      expr: up[5m]")),
            (6, "no variable $pod; there is $node, $window", panel("- title: P\n    lines:\n    - expr: up{pod=$pod}")),
            (4, "is there twice", page("- name: p\n  groups: []")),
            (4, "the name of a page", page("- name: A page\n  groups: []")),
            (6, "these names are taken", page("- name: q\n  variables:\n  - {name: range}\n  groups: []")),
            (7, "is there twice", page("- name: q\n  variables:\n  - name: v\n  - name: v\n  groups: []")),
            (
                6,
                "series: there is no variable $w",
                page("- name: q\n  variables:\n  - {name: v, series: 'up{w=$w}'}\n  - {name: w}\n  groups: []"),
            ),
            (6, "series: ", page("- name: q\n  variables:\n  - {name: v, series: sum(up)}\n  groups: []")),
            (6, "can't be the label", page("- name: q\n  variables:\n  - {name: v, label: __name__}\n  groups: []")),
            (
                11,
                "behind =~",
                page(
                    "- name: q\n  variables:\n  - {name: v, all: true}\n  groups:\n  - title: G\n    panels:\n    - title: P\n      lines: [{expr: 'up{v=$v}'}]",
                ),
            ),
        ] {
            let error = parse("f.yaml", &text).unwrap_err();
            assert!(error.problem.contains(problem), "{text}: {error}");
            assert_eq!(error.line, line, "{text}: {error}");
        }
        assert!(parse("f.yaml", &" ".repeat(MAX_FILE_BYTES + 1)).unwrap_err().problem.contains("bytes"));
    }
}
