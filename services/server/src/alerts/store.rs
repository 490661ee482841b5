//! Where the state of alerts, silences and what waits for receivers are kept: in the database, or beside the memory store's snapshot.

pub mod memory;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::notification::Notification;
use super::state::{GroupState, Silence, Stored};
use crate::store::StoreError;

/// How long a claimed notification belongs to the server that claimed it. Longer than one try to deliver it.
pub const LEASE: Duration = Duration::from_mins(1);
/// The longest time until a notification is tried again. What is due later than that, as after the clock has gone back, is due now.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// The most notifications that wait for one receiver; beyond it the oldest are dropped.
pub const MAX_WAITING: usize = 1_000;
/// The most silences.
pub const MAX_SILENCES: usize = 1_000;
/// How long a silence that is over is listed.
pub const SILENCE_RETENTION_MS: i64 = 24 * 3600 * 1000;

/// What an evaluation changes, as a whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// The time of the evaluation, in unix milliseconds.
    pub at_ms: i64,
    /// Groups whose state is another one now.
    pub groups: Vec<GroupState>,
    /// Groups that are gone: file and name.
    pub removed: Vec<(String, String)>,
    /// What receivers are told.
    pub notifications: Vec<Notification>,
}

/// A notification that this server delivers for now.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// It.
    pub notification: Notification,
    /// How many tries failed.
    pub attempts: u32,
    /// Proves the claim.
    pub claim: Uuid,
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It needs no further try.
    Done,
    /// It is tried again after this long, which is at most [`LONGEST_PAUSE`].
    Retry(Duration),
}

/// How much waits for a receiver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many notifications.
    pub notifications: u64,
    /// When the oldest was made, in unix milliseconds.
    pub oldest_ms: i64,
}

/// Counts, by receiver, the notifications that waited and were dropped.
#[derive(Debug, Default)]
pub struct Dropped(Mutex<BTreeMap<String, u64>>);

impl Dropped {
    /// One was dropped for each of these receivers; one that is named twice lost two.
    pub fn add(&self, receivers: impl IntoIterator<Item = String>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for receiver in receivers {
            *counts.entry(receiver).or_default() += 1;
        }
    }

    /// What was counted since this was asked last.
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module's documentation. Each call is bounded at some seconds.
#[async_trait]
pub trait AlertStore: Send + Sync + 'static {
    /// The time by which rules are evaluated, in unix milliseconds: all servers of one store go by one clock.
    fn now_ms(&self) -> i64;

    /// Becomes or stays the one server that evaluates; false while it is another one.
    async fn lead(&self) -> Result<bool, StoreError>;

    /// Everything but what waits for receivers.
    async fn load(&self) -> Result<Stored, StoreError>;

    /// Makes the changes of an evaluation; false if this server no longer is the one that evaluates, or one of this time was committed last. Then nothing is
    /// changed. An evaluation of an earlier time counts: the clock may have gone back. Notifications that are older than they may get are removed. After an
    /// error the change may be there all the same, as in memory where the file can't be written.
    async fn commit(&self, commit: Commit) -> Result<bool, StoreError>;

    /// How many notifications commits dropped since this was asked last, by receiver: what is too old, and what is too much.
    fn take_dropped(&self) -> BTreeMap<String, u64>;

    /// The oldest notification for a receiver that is due and has none before it of its group: none that waits, is put off or is being delivered. So a
    /// receiver is told of each group in order, and a notification that can't be delivered holds up no other group.
    async fn claim(&self, receiver: &str) -> Result<Option<Claimed>, StoreError>;

    /// Says what became of a claimed notification. Of a claim that has been lost it says nothing.
    async fn settle(&self, claimed: &Claimed, settled: Settled) -> Result<(), StoreError>;

    /// How much waits, by receiver.
    async fn waiting(&self) -> Result<BTreeMap<String, Waiting>, StoreError>;

    /// Keeps a new silence; false if there are too many.
    async fn add_silence(&self, silence: Silence) -> Result<bool, StoreError>;

    /// Ends a silence at this time; false if there is none of this id that is not over.
    async fn end_silence(&self, id: Uuid, at_ms: i64) -> Result<bool, StoreError>;
}
