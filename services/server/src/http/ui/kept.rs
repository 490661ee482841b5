//! What pages found last, kept for a while: what takes many queries is found once for everyone, and few such findings are under way at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

/// How many are kept.
const MAX_KEPT: usize = 32;
/// How many may be under way at once.
const AT_ONCE: usize = 2;
/// How long one waits for its turn.
const LIMIT: Duration = Duration::from_secs(15);

type Slot<T> = Arc<OnceCell<Arc<T>>>;

/// Findings by what was asked for.
pub struct Kept<K, T> {
    kept: Mutex<VecDeque<(K, Slot<T>)>>,
    turns: Semaphore,
}

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Self { kept: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }
}

impl<K: Clone + PartialEq, T> Kept<K, T> {
    /// What is kept for a key, or else what `find` finds; None where it gets no turn in time. What is not `complete` is not kept: the next look asks again.
    pub async fn get(&self, key: &K, find: impl AsyncFnOnce() -> T, complete: impl FnOnce(&T) -> bool) -> Option<Arc<T>> {
        let slot = self.slot(key);
        let found = slot
            .get_or_try_init(|| async {
                let _turn = timeout(LIMIT, self.turns.acquire()).await.map_err(drop)?.map_err(drop)?;
                Ok::<_, ()>(Arc::new(find().await))
            })
            .await
            .ok()?;
        if !complete(found) {
            self.lock().retain(|(known, _)| known != key);
        }
        Some(Arc::clone(found))
    }

    /// What is kept for a key.
    pub fn known(&self, key: &K) -> Option<Arc<T>> {
        self.lock().iter().find(|(known, _)| known == key).and_then(|(_, slot)| slot.get().cloned())
    }

    fn slot(&self, key: &K) -> Slot<T> {
        let mut kept = self.lock();
        if let Some((_, slot)) = kept.iter().find(|(known, _)| known == key) {
            return Arc::clone(slot);
        }
        if kept.len() == MAX_KEPT {
            kept.pop_front();
        }
        let slot = Slot::default();
        kept.push_back((key.clone(), Arc::clone(&slot)));
        slot
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(K, Slot<T>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_complete_is_found_once_and_few_are_kept() {
        let kept = Kept::<usize, usize>::default();
        assert_eq!(kept.get(&1, async || 10, |_| true).await.as_deref(), Some(&10));
        assert_eq!(kept.get(&1, async || unreachable!("it is known"), |_| true).await.as_deref(), Some(&10));
        kept.get(&2, async || 20, |_| false).await;
        assert_eq!((kept.known(&1).as_deref(), kept.known(&2)), (Some(&10), None));
        for key in 3..3 + MAX_KEPT {
            kept.get(&key, async || key, |_| true).await;
        }
        assert_eq!(kept.known(&1), None);
    }
}
