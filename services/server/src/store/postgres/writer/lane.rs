//! One writer: a connection, a queue, and what to do when a transaction fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::known::Known;
use super::ledger;
use super::queue::{Pending, Verdict};
use super::stamp::Stamp;
use super::{Applied, Shared, StoreError, transaction};
use crate::store::postgres::connect::{self, timed_out};
use crate::store::postgres::error::{describe, has_code};

/// How long it may take to write down when sources were seen.
const TOUCH_LIMIT: Duration = Duration::from_secs(1);
/// A group is closed at this much work, counted in metrics, or at this many batches.
const MAX_WORK: usize = 65_536;
const MAX_BATCHES: usize = 4_096;
/// What a metric whose series may have to be made counts for.
const WORK_OF_NEW: usize = 8;
/// How long a transaction should take. Where the database is slower, groups become smaller, or they would end at their limit and
/// come again as large as before.
const GOAL: Duration = Duration::from_millis(250);
/// How often one group starts again where that promises better.
const MORE_TRIES: u32 = 3;
/// A connection is replaced at this age, so that servers find their way to another database behind the same name.
const MAX_AGE: Duration = Duration::from_mins(30);
/// How often it is written down when sources were seen last.
const TOUCH_EVERY: Duration = Duration::from_secs(1);

/// Why a transaction did not commit.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The only batch of the group is refused.
    #[error(transparent)]
    Refused(#[from] StoreError),
    /// These batches, by their places in the group, spoil it for the others.
    #[error("some batches need a transaction of their own")]
    Apart(BTreeSet<usize>),
    /// What this process remembered, or saw a moment ago, is so no more.
    #[error("rows that were there are gone")]
    Stale,
    /// The database failed before the commit: nothing was applied.
    #[error("{}", describe(.0))]
    Sql(#[from] sqlx::Error),
    /// The commit was not answered: it is not known what was applied.
    #[error("the commit was not answered: {}", describe(.0))]
    Commit(sqlx::Error),
}

/// A connection and how it was used.
struct Open {
    conn: PgConnection,
    shared: Arc<Shared>,
    since: Instant,
    /// Whether a transaction committed on it, so that it may have died unnoticed since.
    used: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        // No goodbye, which could hang as well: the server rolls back when the socket closes.
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A writer.
pub(super) struct Lane {
    shared: Arc<Shared>,
    queue: UnboundedReceiver<Pending>,
    open: Option<Open>,
    known: Known,
    /// How much work the next group may be.
    room: usize,
    /// When sources were seen that is not yet written down.
    seen: BTreeMap<i32, Stamp>,
    next_touch: Instant,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, queue: UnboundedReceiver<Pending>) -> Self {
        let (known, seen) = (Known::default(), BTreeMap::new());
        Self { shared, queue, open: None, known, room: MAX_WORK, seen, next_touch: Instant::now() }
    }

    /// Writes until `stop` is cancelled and what had queued by then is answered.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let touch = sleep_until(self.next_touch);
            tokio::select! {
                biased;
                first = self.queue.recv() => match first {
                    Some(first) => self.write_all_that_queued(first).await,
                    None => break,
                },
                () = touch, if !self.seen.is_empty() => {}
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            }
            if !self.seen.is_empty() && Instant::now() >= self.next_touch {
                self.touch().await;
            }
        }
        self.touch().await;
    }

    /// One group: the first of the queue and what came behind it while the last transaction was under way.
    async fn write_all_that_queued(&mut self, first: Pending) {
        let (mut group, mut work) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(pending) = next {
            if let Some(pending) = pending.take() {
                let weight = if self.known.layout(&pending).is_some() { 1 } else { WORK_OF_NEW };
                work += pending.batch.metrics.len() * weight;
                group.push(pending);
            }
            if work >= self.room || group.len() >= MAX_BATCHES {
                break;
            }
            next = self.queue.try_recv().ok();
        }
        if !group.is_empty() {
            let started = Instant::now();
            self.settle(group).await;
            self.adapt(work, started.elapsed());
        }
    }

    /// Makes the next groups smaller where this one took too long, and larger again where it did not.
    fn adapt(&mut self, work: usize, took: Duration) {
        if took > GOAL * 2 {
            self.room = (work.min(self.room) / 2).max(1);
        } else if took < GOAL {
            self.room = (self.room * 2).min(MAX_WORK);
        }
    }

    /// Gives every batch its answer.
    async fn settle(&mut self, group: Vec<Pending>) {
        // That of the one that waited longest. Sooner than `statement_timeout`, for the reason that `connect` gives.
        let Some(deadline) = group.iter().map(Pending::deadline).min() else { return };
        let mut tries = MORE_TRIES;
        let mut work = vec![group];
        while let Some(group) = work.pop() {
            let (group, repeats) = set_repeats_aside(group);
            match self.attempt(deadline, &group).await {
                Ok(verdicts) => work.extend(answer(group, verdicts, repeats)),
                Err(failure) if tries > 0 && self.may_pass_next_time(&failure) => {
                    tries -= 1;
                    work.push(whole(group, repeats));
                }
                Err(Failure::Refused(refusal)) => work.extend(answer(group, vec![Err(refusal)], repeats)),
                Err(Failure::Apart(places)) => {
                    let (apart, rest) = split(group, &places);
                    // The last is the next: the others go ahead of those that spoiled it for them.
                    work.extend(Some(repeats).filter(|repeats| !repeats.is_empty()));
                    work.extend(apart.into_iter().rev().map(|pending| vec![pending]));
                    work.extend(Some(rest).filter(|rest| !rest.is_empty()));
                }
                Err(Failure::Sql(error)) if group.len() > 1 && blames_the_data(&error) => {
                    let mut group = whole(group, repeats);
                    let second = group.split_off(group.len() / 2);
                    work.extend([second, group]);
                }
                Err(failure) => {
                    self.shared.figures.failures.inc();
                    for pending in whole(group, repeats) {
                        pending.answer(Err(StoreError::Unavailable(failure.to_string())));
                    }
                }
            }
        }
    }

    /// One transaction. Its connection is used again only when it ended cleanly.
    async fn attempt(&mut self, deadline: Instant, group: &[Pending]) -> Result<Vec<Verdict>, Failure> {
        let (started, timer) = (Instant::now(), self.shared.figures.seconds.start_timer());
        let attempt = async {
            let mut open = match self.open.take().filter(|open| open.since.elapsed() < MAX_AGE) {
                Some(open) => open,
                None => self.connect().await?,
            };
            let outcome = transaction::run(&self.shared, &mut open.conn, &mut self.known, group).await;
            match &outcome {
                Ok(_) => open.used = true,
                Err(Failure::Apart(_) | Failure::Refused(_)) => {}
                // It may have died since it was used last; that tells nothing of the next.
                Err(Failure::Sql(sqlx::Error::Io(_))) if open.used => return Err(Failure::Stale),
                Err(_) => return outcome,
            }
            self.open = Some(open);
            outcome
        };
        let outcome = timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(timed_out(started.elapsed()).into()));
        timer.observe_duration();
        if let Ok(verdicts) = &outcome {
            self.shared.figures.batches.observe(u32::try_from(group.len()).unwrap_or(u32::MAX).into());
            for (pending, verdict) in group.iter().zip(verdicts) {
                if let (Ok(Applied::New), Some(layout)) = (verdict, self.known.layout(pending)) {
                    let seen = self.seen.entry(layout.source_id).or_insert(pending.arrived);
                    *seen = pending.arrived.max(*seen);
                }
            }
        }
        outcome
    }

    /// A new connection may lead to another database than the last: a promoted replica may lack rows that the old primary had,
    /// and have given their numbers to others.
    async fn connect(&mut self) -> Result<Open, sqlx::Error> {
        self.known.clear();
        self.seen.clear();
        let conn = connect::open_for_writing(&self.shared.options).await?;
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Ok(Open { conn, shared: Arc::clone(&self.shared), since: Instant::now(), used: false })
    }

    /// Whether the same group may commit on a fresh connection, with nothing remembered.
    fn may_pass_next_time(&self, failure: &Failure) -> bool {
        match failure {
            Failure::Stale => true,
            Failure::Sql(error) if is_without_partition(error) => {
                self.shared.partitions.forget_all();
                true
            }
            // A deadlock with somebody else's transaction, a backend that was told to end, a primary that became a standby.
            Failure::Sql(error) => ["40001", "40P01", "57P01", "25006"].iter().any(|code| has_code(error, code)),
            _ => false,
        }
    }

    /// Writes down when sources were seen, aside from the transactions of batches: it needs no order with them, and once a
    /// second is enough.
    async fn touch(&mut self) {
        self.next_touch = Instant::now() + TOUCH_EVERY;
        let seen = std::mem::take(&mut self.seen);
        if seen.is_empty() {
            return;
        }
        let Some(mut open) = self.open.take() else { return };
        match timeout(TOUCH_LIMIT, ledger::touch(&mut open.conn, &seen)).await {
            Ok(Ok(())) => self.open = Some(open),
            Ok(Err(error)) => tracing::debug!(problem = describe(&error), "it was not written down when sources were seen"),
            Err(_) => tracing::debug!("it was not written down in time when sources were seen"),
        }
    }
}

/// Leaves each batch in the group once, and what repeats it behind.
fn set_repeats_aside(group: Vec<Pending>) -> (Vec<Pending>, Vec<Pending>) {
    let mut order: Vec<usize> = (0..group.len()).collect();
    order.sort_by_key(|at| group[*at].order());
    let repeats: BTreeSet<usize> = order.windows(2).filter(|pair| group[pair[1]].repeats(&group[pair[0]])).map(|pair| pair[1]).collect();
    if repeats.is_empty() {
        return (group, Vec::new());
    }
    let (repeats, group) = split(group, &repeats);
    (group, repeats)
}

/// Those at these places, and the others.
fn split(group: Vec<Pending>, places: &BTreeSet<usize>) -> (Vec<Pending>, Vec<Pending>) {
    let (mut those, mut others) = (Vec::new(), Vec::new());
    for (at, pending) in group.into_iter().enumerate() {
        if places.contains(&at) { those.push(pending) } else { others.push(pending) }
    }
    (those, others)
}

/// The group as it was.
fn whole(mut group: Vec<Pending>, repeats: Vec<Pending>) -> Vec<Pending> {
    group.extend(repeats);
    group
}

/// Answers a group, and of what repeats it as much as is decided by that. Returns the rest.
fn answer(group: Vec<Pending>, verdicts: Vec<Verdict>, repeats: Vec<Pending>) -> Option<Vec<Pending>> {
    let mut undecided = Vec::new();
    if !repeats.is_empty() {
        let places: HashMap<_, _> = group.iter().enumerate().map(|(at, pending)| (pending.order(), at)).collect();
        for repeat in repeats {
            let decided = places.get(&repeat.order()).and_then(|at| {
                let same = group[*at].batch.digest == repeat.batch.digest;
                verdict_of_repeat(&verdicts[*at], same)
            });
            match decided {
                Some(verdict) => repeat.answer(verdict),
                None => undecided.push(repeat),
            }
        }
    }
    for (pending, verdict) in group.into_iter().zip(verdicts) {
        pending.answer(verdict);
    }
    Some(undecided).filter(|undecided| !undecided.is_empty())
}

/// What the verdict of a batch says of another under its key, with the same body or not; none where it says nothing.
fn verdict_of_repeat(first: &Verdict, same: bool) -> Option<Verdict> {
    match first {
        Ok(_) if same => Some(Ok(Applied::Repeat)),
        Ok(_) => Some(Err(StoreError::KeyReused)),
        Err(StoreError::KeyReused) if same => Some(Err(StoreError::KeyReused)),
        Err(StoreError::Overflow { id }) if same => Some(Err(StoreError::Overflow { id: id.clone() })),
        Err(StoreError::TooManySeries { limit }) if same => Some(Err(StoreError::TooManySeries { limit: *limit })),
        Err(StoreError::TooManySeriesOfSource { limit }) if same => Some(Err(StoreError::TooManySeriesOfSource { limit: *limit })),
        Err(_) => None,
    }
}

/// Whether the error is one of some batch's data, so that others may pass without it: data, constraints, limits.
fn blames_the_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

/// `check_violation`: no partition takes the frame.
fn is_without_partition(error: &sqlx::Error) -> bool {
    has_code(error, "23514")
}
