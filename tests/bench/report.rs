//! What a run found: figures with their spread, held against their targets, as Markdown tables.

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

    fn write(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", unit.write(bound)),
            Self::AtMost(bound) => format!("≤ {}", unit.write(bound)),
            Self::NeverAbove(bound) => format!("never above {}", unit.write(bound)),
        }
    }
}

/// Where a figure stands; ratios come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Ratios,
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

const SECTIONS: [(Section, &str); 11] = [
    (Section::Ratios, "Ratios"),
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

struct Figure {
    section: Section,
    name: String,
    unit: Unit,
    rounds: Vec<f64>,
    target: Option<Target>,
}

/// What was found so far.
#[derive(Default)]
pub struct Report {
    figures: Vec<Figure>,
    left_out: Vec<String>,
}

impl Report {
    /// Adds a figure, one value a round.
    pub fn figure(&mut self, section: Section, name: impl Into<String>, unit: Unit, rounds: Vec<f64>, target: Option<Target>) {
        if !rounds.is_empty() {
            self.figures.push(Figure { section, name: name.into(), unit, rounds, target });
        }
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
            let rows: Vec<[String; 5]> = self.figures.iter().filter(|figure| figure.section == section).map(row).collect();
            if !rows.is_empty() {
                let _ = write!(text, "### {title}\n\n{}\n", table(&rows));
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
    pub fn json(&self) -> serde_json::Value {
        self.figures
            .iter()
            .map(|figure| serde_json::json!({"section": format!("{:?}", figure.section), "name": figure.name, "unit": format!("{:?}", figure.unit), "rounds": figure.rounds}))
            .collect()
    }
}

fn row(figure: &Figure) -> [String; 5] {
    let unit = figure.unit;
    let Some(spread) = Spread::of(&figure.rounds) else {
        return [figure.name.clone(), "no number".to_owned(), String::new(), String::new(), String::new()];
    };
    let verdict = figure.target.map(|target| if target.reached(&spread) { "reached" } else { "**not reached**" });
    [
        figure.name.clone(),
        unit.write(spread.median),
        format!("{} – {}", unit.write(spread.min), unit.write(spread.max)),
        figure.target.map(|target| target.write(unit)).unwrap_or_default(),
        verdict.unwrap_or_default().to_owned(),
    ]
}

/// A table whose columns also stand in line where nothing renders it.
fn table(rows: &[[String; 5]]) -> String {
    let head = ["", "median", "min – max", "target", ""].map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    let line = |cells: &[String; 5]| {
        let cells = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 4 => format!(" {cell:<width$} |"),
            _ => format!(" {cell:>width$} |"),
        });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.iter().enumerate().map(|(column, width)| match column {
        0 | 4 => format!("{}|", "-".repeat(width + 2)),
        _ => format!("{}:|", "-".repeat(width + 1)),
    });
    let mut text = line(&head);
    let _ = writeln!(text, "|{}", rule.collect::<String>());
    text.extend(rows.iter().map(line));
    text
}
