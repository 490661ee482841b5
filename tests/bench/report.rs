//! What a group of cases found: figures with their spread, held against their targets, as Markdown tables.

use std::fmt::Write as _;

use golectra_tests::statistics::Spread;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Times,
    PerCent,
    PerSecond,
    Nanoseconds,
    Milliseconds,
    Seconds,
    Bytes,
    /// Bytes with two decimals.
    Hundredths,
    Kibibytes,
    Mebibytes,
    Count,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Times => format!("{value:.2}×"),
            Self::PerCent => format!("{:.1} %", value * 100.0),
            Self::PerSecond if value >= 999_500.0 => format!("{:.2} M/s", value / 1e6),
            Self::PerSecond if value >= 9_995.0 => format!("{:.0} k/s", value / 1e3),
            Self::PerSecond if value >= 999.5 => format!("{:.1} k/s", value / 1e3),
            Self::PerSecond => format!("{value:.0} /s"),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Bytes => format!("{value:.0} B"),
            Self::Hundredths => format!("{value:.2} B"),
            Self::Kibibytes => format!("{:.0} KiB", value / 1024.0),
            Self::Mebibytes => format!("{:.0} MiB", value / 1_048_576.0),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The median is at least this.
    AtLeast(f64),
    /// The median is at most this.
    AtMost(f64),
    /// No round is above this.
    NeverAbove(f64),
}

impl Target {
    fn reached(self, spread: &Spread) -> bool {
        match self {
            Self::AtLeast(bound) => spread.median >= bound,
            Self::AtMost(bound) => spread.median <= bound,
            Self::NeverAbove(bound) => spread.max <= bound,
        }
    }

    fn verdict(self, spread: &Spread) -> &'static str {
        if self.reached(spread) { "reached" } else { "**not reached**" }
    }

    fn write(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", unit.write(bound)),
            Self::AtMost(bound) => format!("≤ {}", unit.write(bound)),
            Self::NeverAbove(bound) => format!("never above {}", unit.write(bound)),
        }
    }
}

/// Where a figure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Memory,
    Postgres,
    Growth,
    Snapshot,
    Overload,
    History,
    Queries,
    LongQueries,
    Beside,
    Cluster,
}

const SECTIONS: [(Section, &str); 10] = [
    (Section::Memory, "Memory store"),
    (Section::Postgres, "PostgreSQL store"),
    (Section::Growth, "Growth"),
    (Section::Snapshot, "A snapshot of 1M series"),
    (Section::Overload, "Overload"),
    (Section::History, "History: a day of ten nodes with 445 series each"),
    (Section::Queries, "History: a day of fifty nodes with 64 series each"),
    (Section::LongQueries, "History: a month of fifty nodes with 8 series each, a sample a minute"),
    (Section::Beside, "Beside the writer"),
    (Section::Cluster, "A cluster: fifty nodes with 445 series each, 1,500 pods with 12 each"),
];

#[derive(Debug)]
struct Figure {
    section: Section,
    /// Whose it is, where contestants have columns of their own.
    contestant: Option<&'static str>,
    name: String,
    unit: Unit,
    rounds: Vec<f64>,
    target: Option<Target>,
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    left_out: Vec<String>,
}

impl Report {
    /// Adds a figure, one value a round.
    pub fn figure(&mut self, section: Section, name: impl Into<String>, unit: Unit, rounds: Vec<f64>, target: Option<Target>) {
        if !rounds.is_empty() {
            self.figures.push(Figure { section, contestant: None, name: name.into(), unit, rounds, target });
        }
    }

    /// Adds a figure, measured once, to a table that has a column for each contestant.
    pub fn cell(
        &mut self,
        section: Section,
        contestant: &'static str,
        name: impl Into<String>,
        unit: Unit,
        value: f64,
        target: Option<Target>,
    ) {
        self.figures.push(Figure { section, contestant: Some(contestant), name: name.into(), unit, rounds: vec![value], target });
    }

    /// Says what could not be measured.
    pub fn left_out(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.left_out.contains(&sentence) {
            self.left_out.push(sentence);
        }
    }

    /// Whether something was left out.
    pub fn is_whole(&self) -> bool {
        self.left_out.is_empty()
    }

    /// Every table.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (section, title) in SECTIONS {
            let (cells, figures): (Vec<&Figure>, Vec<&Figure>) =
                self.figures.iter().filter(|figure| figure.section == section).partition(|figure| figure.contestant.is_some());
            if cells.is_empty() && figures.is_empty() {
                continue;
            }
            let _ = writeln!(text, "### {title}\n");
            if !cells.is_empty() {
                let _ = writeln!(text, "{}", comparison(&cells));
            }
            if !figures.is_empty() {
                let head = ["", "median", "min – max", "target", ""].map(str::to_owned).to_vec();
                let rows: Vec<Vec<String>> = figures.into_iter().map(row).collect();
                let _ = writeln!(text, "{}", table(&head, &rows, |column| matches!(column, 0 | 4)));
            }
        }
        for sentence in &self.left_out {
            let _ = writeln!(text, "Left out: {sentence}\n");
        }
        text
    }

    /// How many targets there are and which were not reached.
    pub fn verdict(&self) -> String {
        let judged: Vec<_> = self.figures.iter().filter_map(|figure| Some((figure, figure.target?, Spread::of(&figure.rounds)?))).collect();
        let missed: Vec<_> =
            judged.iter().filter(|(_, target, spread)| !target.reached(spread)).map(|(figure, ..)| figure.name.as_str()).collect();
        let reached = judged.len() - missed.len();
        if missed.is_empty() {
            return format!("{reached} of {} targets reached", judged.len());
        }
        format!("{reached} of {} targets reached; not: {}", judged.len(), missed.join("; "))
    }

    /// Every round's value, as JSON.
    pub fn json(&self) -> Vec<serde_json::Value> {
        let one = |figure: &Figure| {
            serde_json::json!({
                "section": format!("{:?}", figure.section),
                "contestant": figure.contestant,
                "name": figure.name,
                "unit": format!("{:?}", figure.unit),
                "rounds": figure.rounds,
            })
        };
        self.figures.iter().map(one).collect()
    }
}

fn row(figure: &Figure) -> Vec<String> {
    let unit = figure.unit;
    let Some(spread) = Spread::of(&figure.rounds) else {
        return vec![figure.name.clone(), "no number".to_owned(), String::new(), String::new(), String::new()];
    };
    let verdict = figure.target.map(|target| target.verdict(&spread));
    vec![
        figure.name.clone(),
        unit.write(spread.median),
        format!("{} – {}", unit.write(spread.min), unit.write(spread.max)),
        figure.target.map(|target| target.write(unit)).unwrap_or_default(),
        verdict.unwrap_or_default().to_owned(),
    ]
}

/// A row for each name, a column for each contestant, in the order in which they were told. A figure that has a target says whether that was reached.
fn comparison(cells: &[&Figure]) -> String {
    let (mut names, mut contestants): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for cell in cells {
        for (list, found) in [(&mut names, Some(cell.name.as_str())), (&mut contestants, cell.contestant)] {
            list.extend(found.filter(|found| !list.contains(found)));
        }
    }
    let write = |cell: &&&Figure| {
        let spread = Spread::of(&cell.rounds)?;
        let verdict = cell.target.map(|target| format!(" ({} {})", target.write(cell.unit), target.verdict(&spread)));
        Some(format!("{}{}", cell.unit.write(spread.median), verdict.unwrap_or_default()))
    };
    let find = |name: &str, contestant: &str| cells.iter().find(|cell| cell.name == name && cell.contestant == Some(contestant));
    let row = |name: &&str| {
        let of_each =
            contestants.iter().map(|contestant| find(name, contestant).as_ref().and_then(write).unwrap_or_else(|| "–".to_owned()));
        std::iter::once((*name).to_owned()).chain(of_each).collect()
    };
    let head: Vec<String> = std::iter::once("").chain(contestants.iter().copied()).map(str::to_owned).collect();
    let rows: Vec<Vec<String>> = names.iter().map(row).collect();
    table(&head, &rows, |column| column == 0)
}

/// A table whose columns also stand in line where nothing renders it. Columns of text stand to the left.
fn table(head: &[String], rows: &[Vec<String>], is_text: impl Fn(usize) -> bool) -> String {
    let width =
        |column: usize| rows.iter().map(|row| &row[column]).chain([&head[column]]).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| if is_text(column) { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.iter().enumerate().map(|(column, width)| {
        if is_text(column) { format!("{}|", "-".repeat(width + 2)) } else { format!("{}:|", "-".repeat(width + 1)) }
    });
    let mut text = line(head);
    let _ = writeln!(text, "|{}", rule.collect::<String>());
    text.extend(rows.iter().map(|row| line(row)));
    text
}
