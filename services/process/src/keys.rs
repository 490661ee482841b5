//! Signing keys by id: KEY under the id `default`, and the files of KEYS_DIR, which are read again when they change.
//!
//! Keys rotate without a restart and without a refused request: the operator adds a new key beside the old one, moves the
//! senders to it and then removes the old one. For this reason keys stay in use while the folder can't be read, and the folder
//! is read again before an unknown id is refused.

mod folder;
mod id;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

pub use self::folder::FolderError;
use self::folder::{Found, read};
pub use self::id::{KeyId, KeyIdError};
use crate::Secret;

/// The id of the key in KEY.
pub const DEFAULT_ID: &str = "default";

/// How often the folder is read.
const EVERY: Duration = Duration::from_secs(2);

/// The shortest time between two reads that were started by a caller that asked for a key.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// How long a caller that asks for a key waits: for the next read to start and, on a disk that hangs, for its end.
const ASKED_LIMIT: Duration = Duration::from_secs(2);

/// A key's bytes, wiped from memory when the last clone is dropped. `Debug` shows `[hidden]`.
#[derive(Clone)]
pub struct Key(Arc<SecretSlice<u8>>);

impl Key {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes.into()))
    }

    /// The bytes themselves. Call it only where they are used.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

/// Why no signing key can be selected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// SIGNING_KEY_ID names a key that does not exist.
    #[error("SIGNING_KEY_ID is {0}: set KEYS_DIR to the folder that has this key")]
    NoFolder(KeyId),
    /// There are keys, but SIGNING_KEY_ID is not set and no key is named `default`.
    #[error("KEYS_DIR is set: set SIGNING_KEY_ID to the key in it that signs, or KEY")]
    NotChosen,
}

type ById = BTreeMap<KeyId, Key>;

/// The keys. Clones share them.
#[derive(Clone, Debug)]
pub struct Keys(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The current keys; replaced as a whole, so that readers never see a partial change.
    known: RwLock<Arc<ById>>,
    reader: Option<Arc<Mutex<Reader>>>,
    failures: AtomicU64,
}

/// Reads the folder, by one caller at a time.
#[derive(Debug)]
struct Reader {
    folder: Box<Path>,
    own: Option<Key>,
    /// Whether the last read failed.
    failing: bool,
    /// Errors of single files that were logged already, by file name.
    complaints: BTreeMap<String, String>,
    /// When the last read began.
    looked_at: Instant,
    /// When the last read began that a caller had asked for.
    asked_at: Option<Instant>,
}

impl Keys {
    /// The key in KEY and the keys in the folder; both are optional. A file named `default` takes precedence over KEY.
    ///
    /// Blocks; meant for the start, where a folder that can't be read is an error. Must be called inside a runtime.
    pub fn open(key: Option<&Secret>, folder: Option<&Path>) -> Result<Self, FolderError> {
        let own = key.map(|key| Key::new(key.expose().as_bytes().to_vec()));
        let mut known = ById::new();
        let reader = folder.map(|folder| {
            let (own, complaints) = (own.clone(), BTreeMap::new());
            let mut reader = Reader { folder: folder.into(), own, failing: false, complaints, looked_at: Instant::now(), asked_at: None };
            known = reader.look(&known)?;
            Ok(Arc::new(Mutex::new(reader)))
        });
        if let (Some(own), None) = (own, folder) {
            known.insert(KeyId::default(), own);
        }
        let shared = Shared { known: RwLock::new(Arc::new(known)), reader: reader.transpose()?, failures: AtomicU64::new(0) };
        Ok(Self(Arc::new(shared)))
    }

    /// Whether keys may come from a folder.
    pub fn has_folder(&self) -> bool {
        self.0.reader.is_some()
    }

    /// The ids of all current keys.
    pub fn ids(&self) -> Vec<KeyId> {
        self.known().keys().cloned().collect()
    }

    /// The id of the key that signs: the selected one, or `default` when none was selected. None when there are no keys.
    pub fn signing_id(&self, chosen: Option<&KeyId>) -> Result<Option<KeyId>, SigningKeyError> {
        match chosen {
            // The key may be added to the folder later.
            Some(id) if self.has_folder() || self.get(id.as_str()).is_some() => Ok(Some(id.clone())),
            Some(id) => Err(SigningKeyError::NoFolder(id.clone())),
            None if self.get(DEFAULT_ID).is_some() => Ok(Some(KeyId::default())),
            None if self.has_folder() => Err(SigningKeyError::NotChosen),
            None => Ok(None),
        }
    }

    /// How often the folder could not be read.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Relaxed)
    }

    /// The key of this id, as it was when the folder was last read.
    pub fn get(&self, id: &str) -> Option<Key> {
        self.known().get(id).cloned()
    }

    /// The key of this id. An unknown id makes the folder be read again, at most once a second for all callers together: a
    /// caller that asks for a key which was just added waits for up to a second and then gets it.
    pub async fn find(&self, id: &str) -> Option<Key> {
        if let Some(key) = self.get(id) {
            return Some(key);
        }
        let since = Instant::now();
        self.ask(async |keys, reader| {
            if reader.looked_at > since {
                return;
            }
            if let Some(at) = reader.asked_at {
                sleep_until(at + ASKED_EVERY).await;
            }
            keys.look_for_someone(reader).await;
        })
        .await;
        self.get(id)
    }

    /// The key of this id as read from the folder less than a second ago, for signing: a signer must not go on with a key that
    /// was replaced.
    pub async fn fresh(&self, id: &str) -> Option<Key> {
        self.ask(async |keys, reader| {
            if reader.asked_at.is_none_or(|at| at.elapsed() >= ASKED_EVERY) {
                keys.look_for_someone(reader).await;
            }
        })
        .await;
        self.get(id)
    }

    /// Reads the folder every two seconds; never ends when there is a folder.
    pub async fn watch(self) {
        let Some(reader) = &self.0.reader else { return };
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(Arc::clone(reader).lock_owned().await).await;
        }
    }

    /// Locks the reader and lets `decide` read the folder or not, within [`ASKED_LIMIT`].
    async fn ask(&self, decide: impl AsyncFnOnce(&Self, OwnedMutexGuard<Reader>)) {
        if let Some(reader) = &self.0.reader {
            // On a timeout the caller uses the keys as they are. A read that was started goes on, and keeps the lock until it
            // ends.
            let _ = timeout(ASKED_LIMIT, async { decide(self, Arc::clone(reader).lock_owned().await).await }).await;
        }
    }

    async fn look_for_someone(&self, mut reader: OwnedMutexGuard<Reader>) {
        reader.asked_at = Some(Instant::now());
        self.look(reader).await;
    }

    async fn look(&self, mut reader: OwnedMutexGuard<Reader>) {
        let keys = self.clone();
        // The task owns the lock, so that a disk that hangs blocks one thread and not one thread a caller.
        let look = tokio::task::spawn_blocking(move || match reader.look(&keys.known()) {
            Ok(known) => keys.replace(known),
            Err(_) => {
                keys.0.failures.fetch_add(1, Relaxed);
            }
        });
        // It fails only while the runtime shuts down.
        let _ = look.await;
    }

    fn known(&self) -> Arc<ById> {
        Arc::clone(&self.0.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, known: ById) {
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }
}

impl Reader {
    /// Reads the folder and returns the new keys; logs errors and changes.
    fn look(&mut self, known: &ById) -> Result<ById, FolderError> {
        self.looked_at = Instant::now();
        let Found { keys: mut now, unusable } = match read(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) && !known.is_empty() {
                    tracing::error!("{error}: the keys that were read before stay in use");
                }
                return Err(error);
            }
        };
        if std::mem::replace(&mut self.failing, false) {
            tracing::info!("KEYS_DIR can be read again");
        }
        for (name, why) in &unusable {
            let id = name.parse::<KeyId>().ok();
            let kept = id.and_then(|id| Some((known.get(&id)?.clone(), id)));
            if self.complaints.get(name) != Some(why) {
                let then = if kept.is_some() { "the key that it held before stays in use" } else { "the file is ignored" };
                tracing::warn!("KEYS_DIR: the file {name:?} {why}: {then}");
            }
            if let Some((key, id)) = kept {
                now.insert(id, key);
            }
        }
        self.complaints = unusable;
        if let Some(own) = &self.own {
            now.entry(KeyId::default()).or_insert_with(|| own.clone());
        }
        say_changes(known, &now);
        Ok(now)
    }
}

fn say_changes(before: &ById, now: &ById) {
    let list = |ids: Vec<&KeyId>| ids.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(" ");
    let added = list(now.keys().filter(|id| !before.contains_key(id.as_str())).collect());
    let removed = list(before.keys().filter(|id| !now.contains_key(id.as_str())).collect());
    let replaced = list(now.iter().filter(|(id, key)| before.get(id.as_str()).is_some_and(|old| old != *key)).map(|(id, _)| id).collect());
    if added.len() + removed.len() + replaced.len() > 0 {
        tracing::info!(added, removed, replaced, "the signing keys are read from KEYS_DIR");
    }
}

#[cfg(test)]
mod tests;
