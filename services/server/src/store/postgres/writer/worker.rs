//! One writer: a connection, a queue, and what to do when a transaction fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::context::WriterContext;
use super::failure::GroupFailure;
use super::layouts::LayoutCache;
use super::queue::{Outcome, QueuedBatch};
use super::sources::{self, Seen};
use super::transaction;
use crate::store::postgres::connect::{self, timed_out};
use crate::store::postgres::error::describe;
use crate::store::postgres::partitions::FRAMES;
use crate::store::postgres::timestamp::Timestamp;
use crate::store::{Applied, StoreError};

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

/// What a writer is told.
#[cfg_attr(test, expect(clippy::large_enum_variant, reason = "nearly every command is a batch"))]
pub(super) enum Command {
    /// Apply this batch.
    Write(QueuedBatch),
    /// Write down now when sources were seen, and answer.
    #[cfg(test)]
    Touch(tokio::sync::oneshot::Sender<()>),
}

/// A connection and how it was used.
struct Open {
    conn: PgConnection,
    context: Arc<WriterContext>,
    since: Instant,
    /// Whether a transaction committed on it, so that it may have died unnoticed since.
    used: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        // No goodbye, which could hang as well: the server rolls back when the socket closes.
        self.context.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A writer.
pub(super) struct Worker {
    context: Arc<WriterContext>,
    queue: UnboundedReceiver<Command>,
    open: Option<Open>,
    cache: LayoutCache,
    /// How much work the next group may be.
    room: usize,
    /// When sources were seen that is not yet written down.
    seen: BTreeMap<i32, Seen>,
    next_touch: Instant,
}

impl Worker {
    pub(super) fn new(context: Arc<WriterContext>, queue: UnboundedReceiver<Command>) -> Self {
        let (cache, seen) = (LayoutCache::default(), BTreeMap::new());
        Self { context, queue, open: None, cache, room: MAX_WORK, seen, next_touch: Instant::now() }
    }

    /// Writes until `stop` is cancelled and what had queued by then is answered.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let touch = sleep_until(self.next_touch);
            tokio::select! {
                biased;
                first = self.queue.recv() => match first {
                    Some(Command::Write(first)) => self.write_all_that_queued(first).await,
                    #[cfg(test)]
                    Some(Command::Touch(answer)) => {
                        self.touch().await;
                        let _ = answer.send(());
                    }
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
    async fn write_all_that_queued(&mut self, first: QueuedBatch) {
        let (mut group, mut work) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(queued) = next {
            if let Some(queued) = queued.take() {
                // Of samples all series are mostly known, and each of them is looked at.
                let known = queued.samples.is_some() || self.cache.layout(&queued).is_some();
                let weight = if known { 1 } else { WORK_OF_NEW };
                work += queued.batch.metrics.len() * weight;
                group.push(queued);
            }
            if work >= self.room || group.len() >= MAX_BATCHES {
                break;
            }
            next = match self.queue.try_recv() {
                Ok(Command::Write(queued)) => Some(queued),
                #[cfg(test)]
                Ok(Command::Touch(answer)) => {
                    let _ = answer.send(());
                    None
                }
                Err(_) => None,
            };
        }
        if !group.is_empty() {
            let started = Instant::now();
            self.settle(group).await;
            let took = started.elapsed();
            self.context.load.add(took);
            self.adapt(work, took);
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
    async fn settle(&mut self, group: Vec<QueuedBatch>) {
        // That of the one that waited longest. Sooner than `statement_timeout`, for the reason that `connect` gives.
        let Some(deadline) = group.iter().map(QueuedBatch::deadline).min() else { return };
        let mut tries = MORE_TRIES;
        let mut work = vec![group];
        while let Some(group) = work.pop() {
            let (group, repeats) = set_repeats_aside(group);
            match self.attempt(deadline, &group).await {
                Ok(outcomes) => work.extend(answer(group, outcomes, repeats)),
                Err(failure) if tries > 0 && self.may_pass_next_time(&failure) => {
                    tries -= 1;
                    work.push(whole(group, repeats));
                }
                Err(GroupFailure::Refused(refusal)) => work.extend(answer(group, vec![Err(refusal)], repeats)),
                Err(GroupFailure::Apart(places)) => {
                    let (apart, rest) = split(group, &places);
                    // The last is the next: the others go ahead of those that spoiled it for them.
                    work.extend(Some(repeats).filter(|repeats| !repeats.is_empty()));
                    work.extend(apart.into_iter().rev().map(|queued| vec![queued]));
                    work.extend(Some(rest).filter(|rest| !rest.is_empty()));
                }
                // One of them is at fault, or what was read of its rows is out of date each time: the others pass without it.
                Err(failure) if group.len() > 1 && (failure.is_about_data() || matches!(failure, GroupFailure::Stale)) => {
                    let mut group = whole(group, repeats);
                    let second = group.split_off(group.len() / 2);
                    work.extend([second, group]);
                }
                Err(failure) => {
                    self.context.metrics.failures.inc();
                    for queued in whole(group, repeats) {
                        queued.answer(Err(StoreError::Unavailable(failure.to_string())));
                    }
                }
            }
        }
    }

    /// One transaction. Its connection is used again only when it ended cleanly.
    async fn attempt(&mut self, deadline: Instant, group: &[QueuedBatch]) -> Result<Vec<Outcome>, GroupFailure> {
        let (started, timer) = (Instant::now(), self.context.metrics.seconds.start_timer());
        let attempt = async {
            let mut open = match self.open.take().filter(|open| open.since.elapsed() < MAX_AGE) {
                Some(open) => open,
                None => self.connect().await?,
            };
            let outcome = transaction::run(&self.context, &mut open.conn, &mut self.cache, group).await;
            match &outcome {
                Ok(_) => open.used = true,
                Err(GroupFailure::Apart(_) | GroupFailure::Refused(_)) => {}
                // It may have died since it was used last; that tells nothing of the next.
                Err(GroupFailure::Sql(sqlx::Error::Io(_))) if open.used => return Err(GroupFailure::Stale),
                Err(_) => return outcome,
            }
            self.open = Some(open);
            outcome
        };
        let outcome = timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(timed_out(started.elapsed()).into()));
        timer.observe_duration();
        if let Ok(outcomes) = &outcome {
            self.context.metrics.batches.observe(u32::try_from(group.len()).unwrap_or(u32::MAX).into());
            for (queued, outcome) in group.iter().zip(outcomes) {
                if let (Ok(Applied::New | Applied::Partly(_)), Some(source_id)) = (outcome, self.cache.source_id(queued)) {
                    let seen = self.seen.entry(source_id).or_insert_with(|| Seen::at(queued.arrived));
                    seen.again(queued.arrived, &self.context.lifetimes);
                }
            }
        }
        outcome
    }

    /// A new connection may lead to another database than the last: a promoted replica may lack rows that the old primary had,
    /// and have given their numbers to others.
    async fn connect(&mut self) -> Result<Open, sqlx::Error> {
        self.cache.clear();
        self.seen.clear();
        let mut conn = connect::open_for_writing(&self.context.options).await?;
        self.context.clock.measure(&mut conn).await?;
        // What another server sealed was over by the database's clock, which may have been set back since.
        let sealed: Option<Timestamp> = sqlx::query_scalar("SELECT max(frames_start) FROM sealed_reports").fetch_one(&mut conn).await?;
        if let Some(start) = sealed {
            self.context.clock.has_shown(FRAMES.end_of(FRAMES.slot_of(start.0)));
        }
        self.context.open.fetch_add(1, Ordering::Relaxed);
        Ok(Open { conn, context: Arc::clone(&self.context), since: Instant::now(), used: false })
    }

    /// Whether the same group may commit on a fresh connection, with nothing remembered.
    fn may_pass_next_time(&self, failure: &GroupFailure) -> bool {
        if failure.is_about_a_partition() {
            self.context.partitions.forget_all();
            return true;
        }
        matches!(failure, GroupFailure::Stale) || failure.is_passing()
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
        // It does not count in `commits`, since it may also be late because of row locks. A connection without an answer is closed, so that this leaves one
        // session behind at most.
        let touched = sources::touch(&mut open.conn, &seen, &self.context.lifetimes);
        match timeout(TOUCH_LIMIT, touched).await {
            Ok(Ok(())) => self.open = Some(open),
            Ok(Err(error)) => tracing::debug!(problem = describe(&error), "the times at which sources were seen could not be written"),
            Err(_) => tracing::debug!("the times at which sources were seen could not be written in time"),
        }
    }
}

/// Leaves each batch in the group once, and what repeats it behind.
fn set_repeats_aside(group: Vec<QueuedBatch>) -> (Vec<QueuedBatch>, Vec<QueuedBatch>) {
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
fn split(group: Vec<QueuedBatch>, places: &BTreeSet<usize>) -> (Vec<QueuedBatch>, Vec<QueuedBatch>) {
    let (mut those, mut others) = (Vec::new(), Vec::new());
    for (at, queued) in group.into_iter().enumerate() {
        if places.contains(&at) { those.push(queued) } else { others.push(queued) }
    }
    (those, others)
}

/// The group as it was.
fn whole(mut group: Vec<QueuedBatch>, repeats: Vec<QueuedBatch>) -> Vec<QueuedBatch> {
    group.extend(repeats);
    group
}

/// Answers a group, and of what repeats it as much as is decided by that. Returns the rest.
fn answer(group: Vec<QueuedBatch>, outcomes: Vec<Outcome>, repeats: Vec<QueuedBatch>) -> Option<Vec<QueuedBatch>> {
    let mut undecided = Vec::new();
    if !repeats.is_empty() {
        let places: HashMap<_, _> = group.iter().enumerate().map(|(at, queued)| (queued.order(), at)).collect();
        for repeat in repeats {
            let decided = places.get(&repeat.order()).and_then(|at| {
                let same = group[*at].batch.digest == repeat.batch.digest;
                outcome_of_repeat(&outcomes[*at], same)
            });
            match decided {
                Some(outcome) => repeat.answer(outcome),
                None => undecided.push(repeat),
            }
        }
    }
    for (queued, outcome) in group.into_iter().zip(outcomes) {
        queued.answer(outcome);
    }
    Some(undecided).filter(|undecided| !undecided.is_empty())
}

/// What the outcome of a batch says of another under its key, with the same body or not; none where it says nothing.
fn outcome_of_repeat(first: &Outcome, same: bool) -> Option<Outcome> {
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
