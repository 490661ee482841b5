//! What pages found last, kept for a while: what takes many queries is found once for everyone, and few such findings are under way at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};

/// How many are kept.
const MAX_KEPT: usize = 32;
/// How many may be under way at once.
const AT_ONCE: usize = 2;
/// How long one waits for its turn.
const LIMIT: Duration = Duration::from_secs(15);
/// After how long an incomplete finding is asked for again: pages look every five seconds, and what was slow is mostly slow again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How old a finding may be that is shown until there is a newer one: waiting for a turn and finding take half a minute at most.
const SHORTLY_MS: i64 = 60_000;

type Slot<T> = Arc<OnceCell<Arc<T>>>;

/// Findings by what was asked for.
pub struct Kept<K, T> {
    kept: Mutex<VecDeque<Entry<K, T>>>,
    turns: Semaphore,
}

/// Whether a finding is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Until others take its place.
    Yes,
    /// It is not complete: some seconds later the next look asks again.
    Shortly,
    /// It serves those who wait for it and nobody after them.
    No,
}

impl Keep {
    /// Of a finding that lacks what these sentences say.
    pub fn if_complete(missing: &[String]) -> Self {
        if missing.is_empty() { Self::Yes } else { Self::Shortly }
    }
}

/// A finding, which may be under way.
struct Entry<K, T> {
    key: K,
    slot: Slot<T>,
    /// What was found before and was not complete.
    before: Option<Arc<T>>,
    /// When it is asked for again.
    again_at: Option<Instant>,
}

/// Whether findings of a range that ended at `ended_ms` are shown until there are those of one that ends at `end_ms`: they are at most a step, or a minute, older.
pub fn is_shortly_before(ended_ms: i64, end_ms: i64, step_ms: i64) -> bool {
    (0..=step_ms.max(SHORTLY_MS)).contains(&(end_ms - ended_ms))
}

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Self { kept: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }
}

impl<K, T> Entry<K, T> {
    fn found(&self) -> Option<Arc<T>> {
        self.slot.get().or(self.before.as_ref()).cloned()
    }
}

impl<K: Clone + PartialEq, T> Kept<K, T> {
    /// What is kept for a key, or else what `find` finds; None where it gets no turn in time. `keep` says whether it is kept.
    pub async fn get(&self, key: &K, find: impl AsyncFnOnce() -> T, keep: impl FnOnce(&T) -> Keep) -> Option<Arc<T>> {
        let slot = self.slot(key);
        let found = slot
            .get_or_try_init(|| async {
                let _turn = timeout(LIMIT, self.turns.acquire()).await.map_err(drop)?.map_err(drop)?;
                Ok::<_, ()>(Arc::new(find().await))
            })
            .await
            .ok()?;
        match keep(found) {
            Keep::Yes => {}
            Keep::Shortly => self.ask_again(&slot),
            Keep::No => self.lock().retain(|one| !Arc::ptr_eq(&one.slot, &slot)),
        }
        Some(Arc::clone(found))
    }

    /// What was found for the newest of the keys that `is` takes, complete or not.
    pub fn known(&self, is: impl Fn(&K) -> bool) -> Option<Arc<T>> {
        self.lock().iter().rev().filter(|one| is(&one.key)).find_map(Entry::found)
    }

    fn slot(&self, key: &K) -> Slot<T> {
        let mut kept = self.lock();
        if let Some(one) = kept.iter_mut().find(|one| one.key == *key) {
            if one.again_at.is_some_and(|at| Instant::now() >= at) {
                one.before = one.slot.get().cloned();
                one.slot = Slot::default();
                one.again_at = None;
            }
            return Arc::clone(&one.slot);
        }
        if kept.len() == MAX_KEPT {
            kept.pop_front();
        }
        let slot = Slot::default();
        kept.push_back(Entry { key: key.clone(), slot: Arc::clone(&slot), before: None, again_at: None });
        slot
    }

    /// Sets when what is in a slot is asked for again, where that is not set.
    fn ask_again(&self, slot: &Slot<T>) {
        if let Some(one) = self.lock().iter_mut().find(|one| Arc::ptr_eq(&one.slot, slot)) {
            one.again_at.get_or_insert_with(|| Instant::now() + AGAIN_AFTER);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Entry<K, T>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_complete_is_found_once_and_few_are_kept() {
        let kept = Kept::<usize, usize>::default();
        let known = |key: usize| kept.known(|one| *one == key).map(|found| *found);
        assert_eq!(kept.get(&1, async || 10, |_| Keep::Yes).await.as_deref(), Some(&10));
        assert_eq!(kept.get(&1, async || unreachable!("it is known"), |_| Keep::Yes).await.as_deref(), Some(&10));
        kept.get(&2, async || 20, |_| Keep::No).await;
        assert_eq!((known(1), known(2)), (Some(10), None));
        for key in 3..3 + MAX_KEPT {
            kept.get(&key, async || key, |_| Keep::Yes).await;
        }
        assert_eq!(known(1), None);
        assert_eq!(kept.known(|key| [4, 5].contains(key)).as_deref(), Some(&5), "the newest one");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_complete_is_asked_for_again_after_a_while_and_known_until_there_is_more() {
        let kept = Kept::<usize, usize>::default();
        let known = || kept.known(|key| *key == 1).map(|found| *found);
        assert_eq!(kept.get(&1, async || 10, |_| Keep::Shortly).await.as_deref(), Some(&10));
        tokio::time::advance(AGAIN_AFTER / 2).await;
        assert_eq!(kept.get(&1, async || unreachable!("it is kept"), |_| Keep::Shortly).await.as_deref(), Some(&10));
        tokio::time::advance(AGAIN_AFTER / 2).await;
        let again = async || {
            assert_eq!(known(), Some(10), "it is under way");
            11
        };
        assert_eq!(kept.get(&1, again, |_| Keep::Yes).await.as_deref(), Some(&11));
        tokio::time::advance(AGAIN_AFTER * 2).await;
        assert_eq!(kept.get(&1, async || unreachable!("it is complete"), |_| Keep::Yes).await.as_deref(), Some(&11));
        assert_eq!(known(), Some(11));
    }

    #[test]
    fn what_is_shown_meanwhile_is_from_a_step_or_a_moment_before() {
        let minute = 60_000;
        for (ended_ms, end_ms, step_ms, expected) in [
            (minute, minute, 15_000, true),
            (0, minute, 15_000, true),
            (0, minute + 1, 15_000, false),
            (0, 40 * minute, 42 * minute, true),
            (0, 43 * minute, 42 * minute, false),
            (minute, 0, 15_000, false),
        ] {
            assert_eq!(is_shortly_before(ended_ms, end_ms, step_ms), expected, "{ended_ms} {end_ms} {step_ms}");
        }
    }
}
