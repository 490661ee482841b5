//! Which batches are being sent right now, in a small file of its own.
//!
//! A batch that was never sent, or was only ever refused because of the clock, may be sealed again with another key. The next
//! process has to know which batches it must not do that with: those that this file names, because this process ended while
//! it sent them, and those that a record in their own files marks as sent.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use golectra_protocol::IdempotencyKey;

/// A key and a line end.
const SLOT_BYTES: usize = 37;

/// More slots than there are senders are never needed, but what an earlier process could not note is kept.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The file: slots of fixed size, each with a key or blank. A slot is overwritten in place, so that the file does not grow.
pub(super) struct Sending {
    /// None when it cannot be opened; then nothing can be noted.
    file: Option<File>,
    slots: Vec<Option<IdempotencyKey>>,
}

impl Sending {
    /// Opens the file, with the keys that an earlier process left in it.
    pub(super) fn open(path: &Path) -> Self {
        let read = || {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            let mut contents = Vec::new();
            (&file).take(MAX_FILE_BYTES).read_to_end(&mut contents)?;
            io::Result::Ok((file, contents))
        };
        match read() {
            Ok((file, contents)) => {
                let key = |slot: &[u8]| IdempotencyKey::parse(std::str::from_utf8(slot.trim_ascii_end()).ok()?).ok();
                Self { slots: contents.chunks(SLOT_BYTES).map(key).collect(), file: Some(file) }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file of the spool cannot be opened: reports are marked as sent when they are tried");
                Self { slots: Vec::new(), file: None }
            }
        }
    }

    /// The keys in the file.
    pub(super) fn keys(&self) -> BTreeSet<IdempotencyKey> {
        self.slots.iter().flatten().copied().collect()
    }

    /// Notes that a batch is about to be sent.
    pub(super) fn add(&mut self, key: IdempotencyKey) -> io::Result<()> {
        if self.slots.contains(&Some(key)) {
            return Ok(());
        }
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(key);
        self.write(free, &format!("{key}\n"))
    }

    /// Notes that a batch is not being sent any more.
    pub(super) fn remove(&mut self, key: IdempotencyKey) -> io::Result<()> {
        let Some(index) = self.slots.iter().position(|slot| *slot == Some(key)) else { return Ok(()) };
        self.slots[index] = None;
        self.write(index, &format!("{:36}\n", ""))
    }

    fn write(&self, index: usize, slot: &str) -> io::Result<()> {
        debug_assert_eq!(slot.len(), SLOT_BYTES);
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(slot.as_bytes(), (index * SLOT_BYTES) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_finds_what_is_being_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sending");
        let keys: Vec<_> = (1..=3).map(IdempotencyKey::at).collect();
        let mut sending = Sending::open(&path);
        assert!(sending.keys().is_empty());
        for key in &keys {
            sending.add(*key).unwrap();
        }
        sending.remove(keys[1]).unwrap();
        sending.remove(IdempotencyKey::at(9)).unwrap();
        let mut sending = Sending::open(&path);
        assert_eq!(sending.keys(), BTreeSet::from([keys[0], keys[2]]));
        sending.add(keys[1]).unwrap();
        sending.add(keys[1]).unwrap();
        assert_eq!(Sending::open(&path).keys(), keys.iter().copied().collect());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 3 * SLOT_BYTES as u64, "slots are used again");
    }

    #[test]
    fn without_the_file_nothing_can_be_noted() {
        let folder = tempfile::tempdir().unwrap();
        let mut sending = Sending::open(folder.path());
        assert!(sending.add(IdempotencyKey::at(1)).is_err());
    }

    #[test]
    fn damage_is_not_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sending");
        let key = IdempotencyKey::at(1);
        std::fs::write(&path, format!("{key}\n{}\n{key}\0\n0198", "x".repeat(36))).unwrap();
        assert_eq!(Sending::open(&path).keys(), BTreeSet::from([key]));
    }
}
