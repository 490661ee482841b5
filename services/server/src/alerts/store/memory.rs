//! State in memory, and in a file beside the memory store's snapshot, replaced as a whole with each change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{
    AlertStore, Claimed, Commit, Dropped, LEASE, LONGEST_PAUSE, MAX_SILENCES, MAX_WAITING, SILENCE_RETENTION_MS, Settled, Waiting,
};
use crate::alerts::notification::Notification;
use crate::alerts::state::{Silence, Stored};
use crate::clock::Clock;
use crate::store::StoreError;

/// See the module's documentation.
pub struct MemoryAlertStore {
    clock: Clock,
    path: Option<PathBuf>,
    /// Held while the file is written, so that changes are in the file in their order.
    content: Arc<Mutex<Arc<Content>>>,
    dropped: Dropped,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Content {
    #[serde(flatten)]
    stored: Stored,
    #[serde(default)]
    queue: VecDeque<Queued>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Queued {
    notification: Notification,
    #[serde(default)]
    attempts: u32,
    /// Not before this time, in unix milliseconds. A lease of an earlier process is over at its start.
    #[serde(skip)]
    due_ms: i64,
    #[serde(skip)]
    claim: Option<Uuid>,
}

impl MemoryAlertStore {
    /// With what the file says, where it is there and `restore` is true. A file that can't be read is an error.
    pub fn open(path: Option<PathBuf>, restore: bool, clock: Clock) -> io::Result<Self> {
        let content = match path.as_deref().filter(|_| restore).map(fs::read) {
            None => Content::default(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Some(Err(error)) => return Err(error),
            Some(Ok(bytes)) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
        };
        Ok(Self { clock, path, content: Arc::new(Mutex::new(Arc::new(content))), dropped: Dropped::default() })
    }

    /// Makes a change and writes it to the file. The change counts only if the file has it.
    async fn change<T: Send>(&self, change: impl FnOnce(&mut Content) -> T + Send) -> Result<T, StoreError> {
        self.change_and_keep(false, change).await
    }

    /// Makes a change and writes it to the file. Where that fails it is an error, and the change counts if it is to be kept `unwritten`; the next change
    /// writes it as well. A change whose caller does not wait any more is finished before the next one begins.
    async fn change_and_keep<T: Send>(&self, unwritten: bool, change: impl FnOnce(&mut Content) -> T + Send) -> Result<T, StoreError> {
        let mut held = Arc::clone(&self.content).lock_owned().await;
        let mut content = Content::clone(&held);
        let result = change(&mut content);
        let content = Arc::new(content);
        let Some(path) = self.path.clone() else {
            *held = content;
            return Ok(result);
        };
        if unwritten {
            *held = Arc::clone(&content);
        }
        // The lock goes to the thread that writes: this future may be dropped while the file is written, and the next change must not write then.
        let write = move || -> io::Result<()> {
            replace(&path, &content)?;
            *held = content;
            Ok(())
        };
        let done = spawn_blocking(write).await;
        done.map_err(io::Error::other)
            .and_then(|result| result)
            .map_err(|error| StoreError::Unavailable(format!("the state of alerts could not be written: {error}")))?;
        Ok(result)
    }

    /// Drops and counts what is not to be kept.
    fn drop_unless(&self, queue: &mut VecDeque<Queued>, mut keep: impl FnMut(&Queued) -> bool) {
        let mut dropped = Vec::new();
        queue.retain(|queued| {
            let keep = keep(queued);
            if !keep {
                dropped.push(queued.notification.receiver.clone());
            }
            keep
        });
        self.dropped.add(dropped);
    }
}

/// Writes a file beside the old one, syncs it and puts it in its place. If that fails, the new file is removed: it would take up the last space of a full disk.
fn replace(path: &Path, content: &Content) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let written = write_synced(Path::new(&new), content).and_then(|()| fs::rename(&new, path));
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn write_synced(path: &Path, content: &Content) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&serde_json::to_vec(content)?)?;
    file.sync_all()
}

#[async_trait]
impl AlertStore for MemoryAlertStore {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.clock.unix_millis()).unwrap_or(i64::MAX)
    }

    async fn lead(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn load(&self) -> Result<Stored, StoreError> {
        Ok(self.content.lock().await.stored.clone())
    }

    async fn commit(&self, commit: Commit) -> Result<bool, StoreError> {
        if self.content.lock().await.stored.evaluated_ms == commit.at_ms {
            return Ok(false);
        }
        // With a full disk receivers are told all the same. After a restart they may be told again.
        self.change_and_keep(true, |content| {
            let stored = &mut content.stored;
            stored.evaluated_ms = commit.at_ms;
            stored.groups.retain(|group| {
                let is = |file: &str, name: &str| group.file == file && group.name == name;
                !commit.removed.iter().any(|(file, name)| is(file, name)) && !commit.groups.iter().any(|new| is(&new.file, &new.name))
            });
            stored.groups.extend(commit.groups);
            stored.groups.sort_by(|a, b| (&a.file, &a.name).cmp(&(&b.file, &b.name)));
            stored.silences.retain(|silence| silence.ends_ms > commit.at_ms - SILENCE_RETENTION_MS);
            self.drop_unless(&mut content.queue, |queued| queued.notification.expires_ms > commit.at_ms);
            let new = commit.notifications.into_iter();
            content.queue.extend(new.map(|notification| Queued { notification, attempts: 0, due_ms: 0, claim: None }));
            let mut counts = counts(&content.queue);
            self.drop_unless(&mut content.queue, |queued| {
                let Some(count) = counts.get_mut(&queued.notification.receiver) else { return true };
                let keep = *count <= MAX_WAITING;
                *count -= usize::from(!keep);
                keep
            });
            true
        })
        .await
    }

    fn take_dropped(&self) -> BTreeMap<String, u64> {
        self.dropped.take()
    }

    async fn claim(&self, receiver: &str) -> Result<Option<Claimed>, StoreError> {
        let now_ms = self.now_ms();
        let mut held = self.content.lock().await;
        // What is due later than any pause is long was put off before the clock went back.
        let is_due = |queued: &Queued| !(1..=millis(LONGEST_PAUSE)).contains(&(queued.due_ms - now_ms));
        let mut groups = BTreeSet::new();
        let oldest_of_groups = held.queue.iter().enumerate().filter(|(_, queued)| {
            let Notification { receiver: of, group, .. } = &queued.notification;
            of == receiver && groups.insert(group)
        });
        // Those that were put off come after those that were not: groups that fail take no other's turn.
        let found = oldest_of_groups.filter(|(_, queued)| is_due(queued)).min_by_key(|(_, queued)| queued.due_ms);
        let Some((index, _)) = found else { return Ok(None) };
        let Some(queued) = Arc::make_mut(&mut held).queue.get_mut(index) else { return Ok(None) };
        let claim = Uuid::now_v7();
        queued.due_ms = now_ms + millis(LEASE);
        queued.claim = Some(claim);
        Ok(Some(Claimed { notification: queued.notification.clone(), attempts: queued.attempts, claim }))
    }

    async fn settle(&self, claimed: &Claimed, settled: Settled) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let is_it = |queued: &Queued| queued.claim == Some(claimed.claim);
        match settled {
            // What was delivered was delivered, though the file can't say so: with a full disk the receiver would be told each minute.
            Settled::Done => self.change_and_keep(true, |content| content.queue.retain(|queued| !is_it(queued))).await,
            // The file need not say it: after a restart it is due at once.
            Settled::Retry(after) => {
                let mut held = self.content.lock().await;
                for queued in Arc::make_mut(&mut held).queue.iter_mut().filter(|queued| is_it(queued)) {
                    queued.attempts += 1;
                    queued.due_ms = now_ms + millis(after.min(LONGEST_PAUSE));
                    queued.claim = None;
                }
                Ok(())
            }
        }
    }

    async fn waiting(&self) -> Result<BTreeMap<String, Waiting>, StoreError> {
        let mut waiting = BTreeMap::<String, Waiting>::new();
        for queued in &self.content.lock().await.queue {
            let created_ms = queued.notification.created_ms;
            let of = waiting.entry(queued.notification.receiver.clone()).or_insert(Waiting { notifications: 0, oldest_ms: created_ms });
            of.notifications += 1;
            of.oldest_ms = of.oldest_ms.min(created_ms);
        }
        Ok(waiting)
    }

    async fn add_silence(&self, silence: Silence) -> Result<bool, StoreError> {
        self.change(|content| {
            let silences = &mut content.stored.silences;
            let fits = silences.len() < MAX_SILENCES;
            if fits {
                silences.push(silence);
            }
            fits
        })
        .await
    }

    async fn end_silence(&self, id: Uuid, at_ms: i64) -> Result<bool, StoreError> {
        self.change(|content| {
            let found = content.stored.silences.iter_mut().find(|silence| silence.id == id && silence.ends_ms > at_ms);
            found.map(|silence| silence.ends_ms = at_ms).is_some()
        })
        .await
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How many notifications there are, by receiver.
fn counts(queue: &VecDeque<Queued>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for queued in queue {
        *counts.entry(queued.notification.receiver.clone()).or_default() += 1;
    }
    counts
}
