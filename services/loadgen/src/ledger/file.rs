//! The ledger's file: one line an entry, handed to the kernel before the batch is sent, so that it outlives a killed
//! process. It is not synced, so it may be lost when the machine crashes.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Record;
use crate::workload::Workload;

/// What the first line begins with; the workload follows as JSON.
const TITLE: &str = "golectra-loadgen ledger 1 ";

/// A ledger's file can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// It can't be written or read.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// It holds something else.
    #[error("{path}, line {line}: {reason}")]
    Format {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

fn io_error(path: &Path, error: &io::Error) -> LedgerError {
    LedgerError::Io { path: path.display().to_string(), reason: error.to_string() }
}

#[derive(Debug)]
pub(super) struct LedgerFile {
    path: PathBuf,
    file: File,
}

impl LedgerFile {
    /// A new file. An existing one belongs to another run and is an error.
    pub(super) fn create(path: &Path, workload: &Workload) -> Result<Self, LedgerError> {
        let file = File::create_new(path).map_err(|error| io_error(path, &error))?;
        let mut ledger = Self { path: path.to_owned(), file };
        let workload = serde_json::to_string(workload).expect("numbers and a name always encode");
        ledger.line(&format!("{TITLE}{workload}\n"))?;
        Ok(ledger)
    }

    pub(super) fn intent(&mut self, number: usize, record: &Record) -> Result<(), LedgerError> {
        self.line(&format!("i {number} {} {} {}\n", record.agent, record.body, record.at))
    }

    pub(super) fn acknowledgement(&mut self, number: usize) -> Result<(), LedgerError> {
        self.line(&format!("a {number}\n"))
    }

    /// One write a line, so that a line is there whole or torn, never mixed with another.
    fn line(&mut self, line: &str) -> Result<(), LedgerError> {
        self.file.write_all(line.as_bytes()).map_err(|error| io_error(&self.path, &error))
    }
}

pub(super) fn read(path: &Path) -> Result<(Workload, Vec<Record>), LedgerError> {
    let text = std::fs::read_to_string(path).map_err(|error| io_error(path, &error))?;
    let wrong = |line: usize, reason| LedgerError::Format { path: path.display().to_string(), line: line + 1, reason };
    // What follows the last line's end was being written when the process died, before its batch was sent.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.split('\n').enumerate();
    let workload = lines.next().and_then(|(_, line)| serde_json::from_str(line.strip_prefix(TITLE)?).ok());
    let workload: Workload = workload.ok_or_else(|| wrong(0, "this is not a ledger of golectra-loadgen"))?;
    let mut records: Vec<Option<Record>> = Vec::new();
    for (index, line) in lines {
        let mut words = line.split(' ');
        let kind = words.next();
        let numbers: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
        let numbers = numbers.ok_or_else(|| wrong(index, "expected numbers"))?;
        match (kind, numbers[..].as_ref()) {
            (Some("i"), &[number, agent, body, at]) => {
                let agent = u32::try_from(agent).ok().filter(|agent| *agent < workload.agents);
                let agent = agent.ok_or_else(|| wrong(index, "there is no such agent"))?;
                // Senders write their lines in any order, so a number may come before a smaller one, but not by much.
                let number = usize::try_from(number).ok().filter(|number| *number <= records.len() + 1_000_000);
                let number = number.ok_or_else(|| wrong(index, "this batch's number is too large"))?;
                if records.len() <= number {
                    records.resize(number + 1, None);
                }
                records[number] = Some(Record { agent, acknowledged: false, body, at });
            }
            (Some("a"), &[number]) => {
                let record = usize::try_from(number).ok().and_then(|number| records.get_mut(number)?.as_mut());
                record.ok_or_else(|| wrong(index, "this batch was never sent"))?.acknowledged = true;
            }
            _ => return Err(wrong(index, "expected `i NUMBER AGENT BODY TIME` or `a NUMBER`")),
        }
    }
    Ok((workload, records.into_iter().flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, Record, read};
    use super::*;

    fn workload() -> Workload {
        Workload { seed: 7, source: "load".to_owned(), agents: 3, metrics: 4, counters: 2, series: 12, prepared: 0 }
    }

    #[test]
    fn a_torn_end_loses_only_what_was_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::new(&workload(), Some(&path)).unwrap();
        let first = ledger.intend(0, 10, 1000).unwrap();
        let second = ledger.intend(2, 11, 1001).unwrap();
        ledger.acknowledge(first).unwrap();
        ledger.renew(second, 1002).unwrap();
        let expected =
            vec![Record { agent: 0, acknowledged: true, body: 10, at: 1000 }, Record { agent: 2, acknowledged: false, body: 11, at: 1002 }];
        assert_eq!(read(&path).unwrap(), (workload(), expected.clone()));
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"i 2 1 1").unwrap();
        assert_eq!(read(&path).unwrap().1, expected);
        assert_eq!(ledger.take(), expected);
    }

    #[test]
    fn another_runs_ledger_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        std::fs::write(&path, "mine\n").unwrap();
        assert!(matches!(Ledger::new(&workload(), Some(&path)), Err(LedgerError::Io { .. })));
        assert!(matches!(read(&path), Err(LedgerError::Format { line: 1, .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine\n");
    }

    #[test]
    fn a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let title = format!("{TITLE}{}\n", serde_json::to_string(&workload()).unwrap());
        for line in ["x", "i 0 0 0", "i 0 9 0 0", "a 0", "a x", "", "i 99999999999 0 0 0"] {
            std::fs::write(&path, format!("{title}i 1 0 0 0\n{line}\n")).unwrap();
            assert!(matches!(read(&path), Err(LedgerError::Format { line: 3, .. })), "{line}");
        }
    }
}
