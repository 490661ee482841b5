//! Signing keys by id: KEY under the id `default`, and the files of KEYS_DIR, which are read again when they change.
//!
//! Keys rotate without a restart and without a refused request: a new key is put beside the old one, senders move over to
//! it, the old one is taken away. So a folder that can't be read for a while takes no key away, and an id that is not known
//! is looked for on disk before it is refused.

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

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// How often it is looked at, at most, because someone asks.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// How long who asks may wait: for the next look and, on a disk that hangs, for its end.
const ASKED_LIMIT: Duration = Duration::from_secs(2);

/// A key's bytes, wiped from memory with their last user. `Debug` shows `[hidden]`.
#[derive(Clone)]
pub struct Key(Arc<SecretSlice<u8>>);

impl Key {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes.into()))
    }

    /// The bytes themselves, for the one place that needs them.
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

/// Why it is not clear which key signs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// A key was chosen, and nothing has it.
    #[error("SIGNING_KEY_ID is {0}: set KEYS_DIR to the folder that has this key")]
    NoFolder(KeyId),
    /// There are keys, and none was chosen.
    #[error("KEYS_DIR is set: set SIGNING_KEY_ID to the key in it that signs, or KEY")]
    NotChosen,
}

type ById = BTreeMap<KeyId, Key>;

/// The keys. Clones share them.
#[derive(Clone, Debug)]
pub struct Keys(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What is known now; replaced as a whole, so that nobody sees half of a change.
    known: RwLock<Arc<ById>>,
    reader: Option<Arc<Mutex<Reader>>>,
    failures: AtomicU64,
}

/// Whoever holds it may look into the folder.
#[derive(Debug)]
struct Reader {
    folder: Box<Path>,
    own: Option<Key>,
    /// Whether the last look failed.
    failing: bool,
    /// What was wrong with single files, which is said once.
    complaints: BTreeMap<String, String>,
    /// When the last look began.
    looked_at: Instant,
    /// When the last look began that someone had asked for.
    asked_at: Option<Instant>,
}

impl Keys {
    /// The key in KEY and those in the folder, either of which may be none. A file named `default` goes before KEY.
    ///
    /// Blocks; meant for the start, when a folder that can't be read is an error. Must be called inside a runtime.
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

    /// The ids of all keys that are known now.
    pub fn ids(&self) -> Vec<KeyId> {
        self.known().keys().cloned().collect()
    }

    /// Which key signs: the chosen one, or `default` where nobody chose. None when there are no keys to choose from.
    pub fn signing_id(&self, chosen: Option<&KeyId>) -> Result<Option<KeyId>, SigningKeyError> {
        match chosen {
            // One that is not in the folder yet may come.
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

    /// The key of this id. One that is not known is looked for in the folder, once a second for all who ask together: who asks for
    /// a key that has just come waits for up to a second rather than being told that there is none.
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

    /// The key of this id as it stands in the folder now, or did less than a second ago: for one who signs, and who must not go on with a
    /// key that was replaced.
    pub async fn fresh(&self, id: &str) -> Option<Key> {
        self.ask(async |keys, reader| {
            if reader.asked_at.is_none_or(|at| at.elapsed() >= ASKED_EVERY) {
                keys.look_for_someone(reader).await;
            }
        })
        .await;
        self.get(id)
    }

    /// Looks at the folder every two seconds; never ends when there is one.
    pub async fn watch(self) {
        let Some(reader) = &self.0.reader else { return };
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(Arc::clone(reader).lock_owned().await).await;
        }
    }

    /// Lets someone decide, whose turn it is, whether to look.
    async fn ask(&self, decide: impl AsyncFnOnce(&Self, OwnedMutexGuard<Reader>)) {
        if let Some(reader) = &self.0.reader {
            // Too late is a look without news. It goes on by itself, and nobody else begins another one meanwhile.
            let _ = timeout(ASKED_LIMIT, async { decide(self, Arc::clone(reader).lock_owned().await).await }).await;
        }
    }

    async fn look_for_someone(&self, mut reader: OwnedMutexGuard<Reader>) {
        reader.asked_at = Some(Instant::now());
        self.look(reader).await;
    }

    async fn look(&self, mut reader: OwnedMutexGuard<Reader>) {
        let keys = self.clone();
        // The lock goes along: a disk that hangs holds up one thread, not one for each who asks.
        let look = tokio::task::spawn_blocking(move || match reader.look(&keys.known()) {
            Ok(known) => keys.replace(known),
            Err(_) => {
                keys.0.failures.fetch_add(1, Relaxed);
            }
        });
        // An error here is a runtime that ends.
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
    /// The keys as they are now; what is said about changes is said here.
    fn look(&mut self, known: &ById) -> Result<ById, FolderError> {
        self.looked_at = Instant::now();
        let Found { keys: mut now, unusable } = match read(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) && !known.is_empty() {
                    tracing::error!("{error}: the keys that were read before go on being used");
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
                let then = if kept.is_some() { "the key it held before goes on being used" } else { "it is not used" };
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
