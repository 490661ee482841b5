//! Reads the language: `load`, `clear` and `eval` with what is expected.

use golectra_promql::{Labels, Steps};
use regex::Regex;

use crate::series::{self, Value};

/// One command of a file.
pub enum Command {
    Clear,
    Load(Load),
    Eval(Box<Eval>),
}

/// Series to add.
pub struct Load {
    pub interval_ms: i64,
    /// Whether classic histograms are loaded as native ones too.
    pub with_native: bool,
    pub series: Vec<(Labels, Vec<Value>)>,
}

/// A query and what it should give.
pub struct Eval {
    /// The line in the file, from 1.
    pub line: usize,
    pub query: String,
    pub times: Times,
    pub expected: Vec<(Labels, Vec<Value>)>,
    pub scalar: Option<f64>,
    pub text: Option<String>,
    /// The times of the expected samples, if the result is a range vector.
    pub range_vector: Option<Steps>,
    pub ordered: bool,
    pub fails: Option<Expectation>,
    pub warnings: Annotations,
    pub infos: Annotations,
}

/// When the query is evaluated.
#[derive(Clone, Copy)]
pub enum Times {
    At(i64),
    Range(Steps),
}

/// What is expected of the annotations of one kind.
#[derive(Default)]
pub struct Annotations {
    pub some: Vec<Expectation>,
    pub none: bool,
}

/// What a message should be.
pub enum Expectation {
    Any,
    Message(String),
    Matches(Regex),
}

impl Expectation {
    pub fn accepts(&self, message: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Message(expected) => message == expected,
            Self::Matches(regex) => regex.is_match(message),
        }
    }
}

/// The commands of a file.
pub fn parse(file: &str) -> Result<Vec<Command>, String> {
    let lines: Vec<&str> = file.lines().map(str::trim).map(|line| if line.starts_with('#') { "" } else { line }).collect();
    let mut commands = Vec::new();
    let mut index = 0;
    while index < lines.len() {
        let line = lines[index];
        let number = index + 1;
        index += 1;
        if line.is_empty() {
            continue;
        }
        let block: Vec<&str> = lines[index..].iter().take_while(|line| !line.is_empty()).copied().collect();
        let word = line.split_whitespace().next().unwrap_or_default();
        let command = if word == "clear" {
            commands.push(Command::Clear);
            continue;
        } else if word.starts_with("load") {
            load(line, &block).map(Command::Load)
        } else if word.starts_with("eval") {
            eval(number, line, &block).map(|eval| Command::Eval(Box::new(eval)))
        } else {
            Err(format!("unknown command {line:?}"))
        };
        commands.push(command.map_err(|error| format!("line {number}: {error}"))?);
        index += block.len();
    }
    Ok(commands)
}

/// A duration, which may also be a plain number of seconds.
fn duration_ms(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(seconds * 1000);
    }
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000), ("y", 31_536_000_000)];
    let mut total = 0;
    for part in Regex::new(r"^-?(?:\d+[a-z]+)+$").unwrap().find(text).into_iter().flat_map(|_| split_units(text)) {
        let digits = part.trim_end_matches(char::is_alphabetic);
        let unit = units.iter().find(|(unit, _)| *unit == &part[digits.len()..]).ok_or_else(|| format!("invalid duration {text:?}"))?;
        total += digits.parse::<i64>().map_err(|error| format!("invalid duration {text:?}: {error}"))? * unit.1;
    }
    if total == 0 && !text.starts_with('0') {
        return Err(format!("invalid duration {text:?}"));
    }
    Ok(if text.starts_with('-') { -total } else { total })
}

fn split_units(text: &str) -> Vec<&str> {
    Regex::new(r"\d+[a-z]+").unwrap().find_iter(text).map(|part| part.as_str()).collect()
}

fn load(line: &str, block: &[&str]) -> Result<Load, String> {
    let mut words = line.split_whitespace();
    let with_native = words.next() == Some("load_with_nhcb");
    let interval_ms = duration_ms(words.next().ok_or("load has no interval")?)?;
    let series = block.iter().map(|line| series::parse(line)).collect::<Result<_, _>>()?;
    Ok(Load { interval_ms, with_native, series })
}

fn eval(number: usize, line: &str, block: &[&str]) -> Result<Eval, String> {
    let instant = Regex::new(r"^eval(?:_(fail|warn|ordered|info))?\s+instant\s+at\s+(\S+)\s+(.+)$").unwrap();
    let range = Regex::new(r"^eval(?:_(fail|warn|info))?\s+range\s+from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)\s+(.+)$").unwrap();
    let (kind, times, query) = if let Some(parts) = instant.captures(line) {
        (parts.get(1).map(|kind| kind.as_str()), Times::At(duration_ms(&parts[2])?), parts[3].to_owned())
    } else if let Some(parts) = range.captures(line) {
        let steps = Steps::range(duration_ms(&parts[2])?, duration_ms(&parts[3])?, duration_ms(&parts[4])?).ok_or("the range is none")?;
        (parts.get(1).map(|kind| kind.as_str()), Times::Range(steps), parts[5].to_owned())
    } else {
        return Err(format!("invalid eval {line:?}"));
    };
    let mut eval = Eval {
        line: number,
        query,
        times,
        expected: Vec::new(),
        scalar: None,
        text: None,
        range_vector: None,
        ordered: kind == Some("ordered"),
        fails: (kind == Some("fail")).then_some(Expectation::Any),
        warnings: Annotations::default(),
        infos: Annotations::default(),
    };
    match kind {
        Some("warn") => eval.warnings.some.push(Expectation::Any),
        Some("info") => eval.infos.some.push(Expectation::Any),
        _ => {}
    }
    for line in block {
        eval.add(line)?;
    }
    Ok(eval)
}

impl Eval {
    fn add(&mut self, line: &str) -> Result<(), String> {
        if let Some(message) = line.strip_prefix("expected_fail_message") {
            self.fails = Some(Expectation::Message(message.trim().to_owned()));
        } else if let Some(pattern) = line.strip_prefix("expected_fail_regexp") {
            self.fails = Some(Expectation::Matches(Regex::new(pattern.trim()).map_err(|error| error.to_string())?));
        } else if let Some(times) = line.strip_prefix("expect range vector") {
            let words: Vec<_> = times.split_whitespace().collect();
            let ["from", from, "to", to, "step", step] = words[..] else { return Err(format!("invalid times {times:?}")) };
            self.range_vector = Some(Steps::range(duration_ms(from)?, duration_ms(to)?, duration_ms(step)?).ok_or("the range is none")?);
        } else if let Some(text) = line.strip_prefix("expect string") {
            let text = text.trim();
            let inner = text.len().checked_sub(2).and_then(|end| text.get(1..=end)).ok_or("a string needs quotes")?;
            self.text = Some(inner.to_owned());
        } else if line.split_whitespace().next() == Some("expect") {
            self.expect(line)?;
        } else if let Ok(number) = series::number(line) {
            self.scalar = Some(number);
        } else {
            self.expected.push(series::parse(line)?);
        }
        Ok(())
    }

    fn expect(&mut self, line: &str) -> Result<(), String> {
        let form = Regex::new(r"^expect\s+(ordered|fail|warn|no_warn|info|no_info)(?:\s+(regex|msg):(.+))?$").unwrap();
        let parts = form.captures(line).ok_or_else(|| format!("invalid expect line {line:?}"))?;
        let text = parts.get(3).map_or("", |text| text.as_str().trim());
        let expectation = match parts.get(2).map(|kind| kind.as_str()) {
            Some("msg") => Expectation::Message(text.to_owned()),
            Some(_) => Expectation::Matches(Regex::new(text).map_err(|error| error.to_string())?),
            None => Expectation::Any,
        };
        match &parts[1] {
            "ordered" => self.ordered = true,
            "fail" => self.fails = Some(expectation),
            "warn" => self.warnings.some.push(expectation),
            "info" => self.infos.some.push(expectation),
            "no_warn" => self.warnings.none = true,
            _ => self.infos.none = true,
        }
        Ok(())
    }
}
