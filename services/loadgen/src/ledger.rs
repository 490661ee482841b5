//! What was intended and what was acknowledged, in memory and, where that is asked for, in a file.

mod file;

use std::path::Path;
use std::sync::Mutex;

pub use self::file::LedgerError;
use self::file::LedgerFile;
use crate::workload::Workload;

/// One batch. It is remembered before its first byte is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Who sent it.
    pub(crate) agent: u32,
    /// Whether a 2xx came back.
    pub(crate) acknowledged: bool,
    /// What was sent.
    pub(crate) body: u64,
    /// The time of its key, in unix milliseconds.
    pub(crate) at: u64,
}

/// The batches of a run. A lock is enough: it is held for one append at a time.
#[derive(Debug)]
pub(crate) struct Ledger {
    records: Mutex<Vec<Record>>,
    file: Option<Mutex<LedgerFile>>,
}

impl Ledger {
    /// An empty one; with a path each entry is written there before it counts.
    pub(crate) fn new(workload: &Workload, path: Option<&Path>) -> Result<Self, LedgerError> {
        let file = path.map(|path| LedgerFile::create(path, workload)).transpose()?;
        Ok(Self { records: Mutex::default(), file: file.map(Mutex::new) })
    }

    /// Remembers that a batch is about to be sent; gives its number.
    pub(crate) fn intend(&self, agent: u32, body: u64, at: u64) -> Result<usize, LedgerError> {
        let record = Record { agent, acknowledged: false, body, at };
        let number = {
            let mut records = self.records.lock().expect("no holder panics");
            records.push(record);
            records.len() - 1
        };
        self.in_file(|file| file.intent(number, &record))?;
        Ok(number)
    }

    /// Remembers that a batch is sent again under a key of this time.
    pub(crate) fn renew(&self, number: usize, at: u64) -> Result<(), LedgerError> {
        let record = {
            let mut records = self.records.lock().expect("no holder panics");
            records[number].at = at;
            records[number]
        };
        self.in_file(|file| file.intent(number, &record))
    }

    /// Remembers that a batch was acknowledged.
    pub(crate) fn acknowledge(&self, number: usize) -> Result<(), LedgerError> {
        self.records.lock().expect("no holder panics")[number].acknowledged = true;
        self.in_file(|file| file.acknowledgement(number))
    }

    fn in_file(&self, write: impl FnOnce(&mut LedgerFile) -> Result<(), LedgerError>) -> Result<(), LedgerError> {
        self.file.as_ref().map_or(Ok(()), |file| write(&mut file.lock().expect("no holder panics")))
    }

    /// Everything that was remembered, in the order of sending.
    pub(crate) fn take(&self) -> Vec<Record> {
        std::mem::take(&mut self.records.lock().expect("no holder panics"))
    }
}

/// Reads a ledger's file: the workload and its batches. A line that a killed process did not finish is left out.
pub(crate) fn read(path: &Path) -> Result<(Workload, Vec<Record>), LedgerError> {
    file::read(path)
}
