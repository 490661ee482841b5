//! Seals history: frames become chunks, parts of a window become one, and what is too old is dropped.
//!
//! Every server runs this about once a minute; an advisory lock of the session lets one at a time do it. The lock and all transactions belong to
//! one connection, so a server that lost the lock has no transaction under way either.
//!
//! - `half_hour` seals a source's frames of one half hour in one transaction: chunks, counters' totals, and the memory of the frames' keys.
//!   What is in `sealed_reports` afterwards is never sealed again, so the work may end anywhere and be done again. When every frame of a
//!   partition is sealed, the partition is dropped.
//! - `fold` makes one row of the rows of a window, when the window is over, and `rollups` what is kept of its samples beyond them.
//! - `retain` drops days of chunks and old rollups, forgets keys, and keeps the database within HISTORY_MAX_BYTES.
//!
//! Frames that came since the last round are left for the next: by then every transaction that had taken its number of arrival before is over, so
//! frames are sealed in the order of their arrivals, which decides between samples of one time.

mod collect;
pub(super) mod fill;
mod fold;
mod half_hour;
mod pace;
mod parts;
mod retain;
mod rollups;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

pub(super) use self::pace::Pace;
use super::clock::DatabaseClock;
use super::connect::{self, DatabaseOptions, Lock, try_lock};
use super::error::{describe, has_code, is_of_statement};
use super::partitions::{self, CHUNKS, FRAMES, Partitions};
use super::timestamp::Timestamp;
use crate::metrics::history::HistoryMetrics;
use crate::store::Lifetimes;

/// How long a window of chunks is, in milliseconds.
pub(super) const WINDOW_MILLIS: i64 = 2 * 60 * 60 * 1000;
/// How often a round begins.
const EVERY: Duration = Duration::from_mins(1);
/// How long one round may take.
const ROUND_LIMIT: Duration = Duration::from_mins(10);
/// For transactions that code samples between two statements. With very many samples, or little CPU time, that takes longer than a session may otherwise be idle
/// in a transaction: the database would end the session and with it the round, before anything is dropped, and the next round likewise. The time of a whole round
/// does no harm here, since nobody waits for the locks of such a transaction.
const PATIENT: &str = "SET LOCAL idle_in_transaction_session_timeout = '10min'";
/// The age of the number up to which arrivals are sealed. Writers' transactions end long before.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// How long after its end a window is folded, in milliseconds, beside the time after which it is sealed.
const FOLD_GRACE_MILLIS: u64 = 10 * 60 * 1000;

/// For how much longer than RETENTION_RAW samples are kept, in milliseconds, beside the time after which they are sealed.
const DROP_GRACE_MILLIS: u64 = 60 * 60 * 1000;

/// How much is done at once. Tests do less.
#[derive(Debug, Clone, Copy)]
pub(super) struct SealerLimits {
    /// The samples that one pass over frames gathers, in bytes. With room to grow, the coding of a block and a row of frames, sealing stays below 64 MiB.
    pub(super) pass_bytes: usize,
    /// The values of frames that one transaction seals, in bytes: each of its passes reads them all. The rest is left to the next transaction.
    pub(super) transaction_bytes: i64,
    /// The samples that are decoded at once to be folded. A block's 64 series have them in a window where they are sampled five times a second.
    pub(super) fold_samples: usize,
    /// When a round seals nothing more, so that there is time for the rest of it.
    pub(super) sealing: Duration,
    /// When it folds nothing more.
    pub(super) folding: Duration,
    /// How long it waits for the end of others' transactions before it moves rows, and again afterwards.
    pub(super) others: Duration,
}

impl Default for SealerLimits {
    fn default() -> Self {
        Self {
            pass_bytes: 16 * 1024 * 1024,
            transaction_bytes: 128 * 1024 * 1024,
            fold_samples: 2_000_000,
            sealing: Duration::from_mins(5),
            folding: Duration::from_mins(8),
            // A standby tells of its queries every ten seconds.
            others: Duration::from_secs(20),
        }
    }
}

/// What sealing needs.
pub(super) struct Sealer {
    pub(super) options: DatabaseOptions,
    pub(super) clock: DatabaseClock,
    pub(super) lifetimes: Lifetimes,
    /// What the schema may take beside the audit trail, in bytes.
    pub(super) max_bytes: Option<u64>,
    pub(super) partitions: Arc<Partitions>,
    pub(super) metrics: HistoryMetrics,
    pub(super) limits: SealerLimits,
    pub(super) steps: Steps,
    pub(super) pace: Pace,
    /// When it was said last that the database nears its limit.
    pub(super) warned_at: Mutex<Option<Instant>>,
    /// When the age of the oldest report that is not sealed was measured last, and that age.
    pub(super) unsealed_age: Mutex<Option<(Instant, Duration)>>,
}

/// What a round did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// How many frames were sealed.
    pub(super) frames: u64,
    /// Partitions of frames that were dropped.
    pub(super) half_hours: Vec<i32>,
    /// How many rows of chunks became one with others.
    pub(super) folded: u64,
    /// Days of chunks that were dropped.
    pub(super) days: Vec<i32>,
    /// Partitions of rollups that were dropped.
    pub(super) rollups: Vec<String>,
    /// [`Fill::needed_bytes`](fill::Fill::needed_bytes), where the database took more than it may and nothing was left to drop.
    pub(super) too_large: Option<u64>,
    /// How often somebody's lock kept it from something: from dropping a partition, or from all.
    pub(super) held: usize,
}

#[cfg(test)]
impl Round {
    /// What this round and a later one did.
    pub(super) fn and(mut self, later: Self) -> Self {
        self.half_hours.extend(later.half_hours);
        self.days.extend(later.days);
        self.rollups.extend(later.rollups);
        Self {
            frames: self.frames + later.frames,
            folded: self.folded + later.folded,
            too_large: later.too_large,
            held: later.held,
            ..self
        }
    }
}

/// A partition of frames that is to be sealed.
struct HalfHour {
    slot: i32,
    /// Frames with a greater arrival are left alone.
    up_to_arrival: i64,
    /// See [`DatabaseClock::expiry_unix_millis`].
    expiry_now: u64,
    /// No transaction is begun after this.
    until: Instant,
}

/// The first failure of several pieces of work, of which each may be done without the others.
#[derive(Default)]
struct FirstFailure(Option<sqlx::Error>);

impl FirstFailure {
    /// What was done, if it was. Fails where nothing else can be done either.
    fn keep<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error) if is_of_statement(&error) => {
                self.0.get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn into_result(self) -> Result<(), sqlx::Error> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Where a test ends the work: after so many steps.
#[derive(Debug, Default)]
pub(super) struct Steps {
    #[cfg(test)]
    pub(super) left: Option<std::sync::atomic::AtomicI64>,
}

impl Steps {
    /// Called between any two statements that change something.
    #[cfg_attr(not(test), expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "only tests end the work early"))]
    fn step(&self) -> Result<(), sqlx::Error> {
        #[cfg(test)]
        if let Some(left) = &self.left
            && left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) <= 0
        {
            return Err(sqlx::Error::Protocol("ended by a test".into()));
        }
        Ok(())
    }
}

impl Sealer {
    /// Never returns.
    pub(super) async fn run(&self) {
        let mut noted = None;
        let mut pause = SETTLED_AFTER + Duration::from_secs(1);
        loop {
            sleep(pause.mul_f64(1.0 + 0.2 * fastrand::f64())).await;
            pause = self.attempt(&mut noted).await;
        }
    }

    /// Seals what arrived up to the number that was noted at least [`SETTLED_AFTER`] ago, and notes the newest; says how long to pause.
    pub(super) async fn attempt(&self, noted: &mut Option<(Instant, i64)>) -> Duration {
        let settled = noted.filter(|(at, _)| at.elapsed() >= SETTLED_AFTER).map(|(_, arrival)| arrival);
        let round = timeout(ROUND_LIMIT, async {
            let mut conn = connect::open_for_schema(&self.options).await?;
            // Whatever becomes of this round, the next seals what came until now.
            *noted = Some((Instant::now(), newest_arrival(&mut conn).await?));
            match settled {
                Some(arrival) => self.round_on(&mut conn, arrival).await.map(Some),
                None => Ok(None),
            }
        });
        match round.await {
            Ok(Ok(round)) => {
                let pause = if round.is_some() { EVERY } else { SETTLED_AFTER };
                if let Some(round) = round.filter(|round| *round != Round { held: round.held, ..Round::default() }) {
                    let (frames, folded) = (round.frames, round.folded);
                    tracing::debug!(
                        frames,
                        half_hours = round.half_hours.len(),
                        folded,
                        days = round.days.len(),
                        rollups = round.rollups.len(),
                        "sealed history"
                    );
                }
                return pause;
            }
            Ok(Err(error)) => tracing::warn!(problem = describe(&error), "history could not be sealed, trying again in a minute"),
            Err(_) => {
                self.pace.is_late();
                tracing::warn!(limit_seconds = ROUND_LIMIT.as_secs(), "sealing history took too long, going on in a minute");
            }
        }
        self.metrics.failures.inc();
        self.age_further();
        EVERY
    }

    /// Shows the age of the oldest report that is not sealed.
    fn set_unsealed_age(&self, age: Duration) {
        self.metrics.unsealed_age_seconds.set(age.as_secs_f64());
        *self.unsealed_age.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), age));
    }

    /// Adds the time since the age was measured: a round that fails may not have come to measure it again, and it seals nothing.
    fn age_further(&self) {
        if let Some((at, age)) = *self.unsealed_age.lock().unwrap_or_else(PoisonError::into_inner) {
            self.metrics.unsealed_age_seconds.set((age + at.elapsed()).as_secs_f64());
        }
    }

    /// One round that seals all frames that arrived by now; for tests in which nothing is written meanwhile. It is repeated while it is held up: by
    /// autovacuum's lock of a partition, or by the last round's session, which holds its lock until the database sees its end.
    #[cfg(test)]
    pub(super) async fn round(&self) -> Result<Round, sqlx::Error> {
        const LIMIT: Duration = Duration::from_secs(10);
        let started = std::time::Instant::now();
        let mut done = self.round_once().await?;
        while done.held > 0 && started.elapsed() < LIMIT {
            done = done.and(self.round_once().await?);
        }
        Ok(done)
    }

    /// The same, whatever holds it up.
    #[cfg(test)]
    pub(super) async fn round_once(&self) -> Result<Round, sqlx::Error> {
        let mut conn = connect::open_for_schema(&self.options).await?;
        let arrival = newest_arrival(&mut conn).await?;
        self.round_on(&mut conn, arrival).await
    }

    /// One round; frames with a greater arrival are left alone. What fails keeps nothing else from being done.
    pub(super) async fn round_on(&self, conn: &mut PgConnection, up_to_arrival: i64) -> Result<Round, sqlx::Error> {
        let started = Instant::now();
        self.pace.begin_round();
        self.clock.measure(conn).await?;
        let (now, expiry_now) = (self.clock.unix_millis(), self.clock.expiry_unix_millis());
        let mut round = Round::default();
        retain::measure(conn, &self.metrics, self.max_bytes).await?;
        retain::measure_series_ids(conn, &self.metrics).await?;
        let oldest = FRAMES.existing(conn).await?.first().map_or(expiry_now, |slot| FRAMES.start_of(*slot));
        self.set_unsealed_age(Duration::from_millis(expiry_now.saturating_sub(oldest)));
        // Beside each other, so that an alert can tell whether sealing is late.
        self.metrics.seal_after_seconds.set(i64::try_from(self.lifetimes.seal_after.as_secs()).unwrap_or(i64::MAX));
        if !try_lock(conn, Lock::Seal).await? {
            round.held += 1;
            return Ok(round);
        }
        self.partitions.begin_round();
        let seal_after = u64::try_from(self.lifetimes.seal_after.as_millis()).unwrap_or(u64::MAX);
        let mut chunk_days: BTreeSet<i32> = CHUNKS.existing(conn).await?.into_iter().collect();
        let mut failure = FirstFailure::default();
        // By that time, or what comes for a half hour after the clock was set right again would come late for it.
        let due = FRAMES.existing(conn).await?.into_iter().filter(|slot| FRAMES.end_of(*slot).saturating_add(seal_after) <= expiry_now);
        for slot in due {
            let half_hour = HalfHour { slot, up_to_arrival, expiry_now, until: started + self.limits.sealing };
            failure.keep(self.seal_half_hour(conn, &half_hour, &mut chunk_days, &mut round).await)?;
        }
        let ended_before = now.saturating_sub(seal_after).saturating_sub(FOLD_GRACE_MILLIS);
        failure.keep(self.fold(conn, ended_before, started + self.limits.folding, &mut round).await)?;
        failure.keep(self.retain(conn, expiry_now, &mut round).await)?;
        failure.into_result().map(|()| round)
    }

    /// Seals the frames of a partition, source by source, and drops it when nothing else is in it.
    async fn seal_half_hour(
        &self,
        conn: &mut PgConnection,
        half_hour: &HalfHour,
        chunk_days: &mut BTreeSet<i32>,
        round: &mut Round,
    ) -> Result<(), sqlx::Error> {
        let slot = half_hour.slot;
        // What came for a time whose samples were dropped would stand alone there, beside rollups that do not know of it.
        let dropped = sqlx::query_scalar::<_, Timestamp>("SELECT raw FROM dropped_history").fetch_one(&mut *conn).await?;
        let oldest = i64::try_from(self.oldest_kept(half_hour.expiry_now).max(dropped.0)).unwrap_or(i64::MAX);
        let (mut sealed, mut failure) = (0, FirstFailure::default());
        for source_id in half_hour::sources(conn, slot).await? {
            let (up_to_arrival, limits) = (half_hour.up_to_arrival, self.limits);
            let task = half_hour::Task { slot, source_id, up_to_arrival, oldest_millis: oldest, limits };
            let done = self.seal_source(conn, &task, half_hour.until, chunk_days, round).await;
            if let Err(error) = &done {
                let half_hour = FRAMES.partition(slot);
                tracing::warn!(source_id, half_hour, problem = describe(error), "frames of a source could not be sealed");
            }
            match failure.keep(done)? {
                Some(Some(frames)) => sealed += frames,
                Some(None) => {
                    self.pace.is_late();
                    tracing::info!(half_hour = FRAMES.partition(slot), "sealing takes long, the rest of it follows in a minute");
                    return failure.into_result();
                }
                None => {}
            }
        }
        if failure.0.is_some() {
            return failure.into_result();
        }
        let rows = i64::try_from(sealed).unwrap_or(i64::MAX);
        match self.partitions.drop_one(conn, FRAMES, slot, Some(rows)).await {
            Ok(true) => round.half_hours.push(slot),
            // More came meanwhile.
            Ok(false) => {}
            Err(error) if has_code(&error, "55P03") => {
                tracing::debug!(half_hour = FRAMES.partition(slot), "a read keeps a sealed partition from being dropped");
                round.held += 1;
            }
            Err(error) => return Err(error),
        }
        self.steps.step()
    }

    /// Seals a source's frames of a partition; says how many are sealed, or nothing where there was no time for all.
    async fn seal_source(
        &self,
        conn: &mut PgConnection,
        task: &half_hour::Task,
        until: Instant,
        chunk_days: &mut BTreeSet<i32>,
        round: &mut Round,
    ) -> Result<Option<u64>, sqlx::Error> {
        let mut is_late = None;
        loop {
            let started = Instant::now();
            if started >= until {
                return Ok(None);
            }
            let done = match half_hour::seal(conn, task, chunk_days, &self.steps).await? {
                half_hour::Outcome::Done(done) => done,
                half_hour::Outcome::NeedsDays(days) => {
                    for day in days {
                        partitions::create(conn, CHUNKS, day).await?;
                        chunk_days.insert(day);
                    }
                    continue;
                }
            };
            self.steps.step()?;
            let is_late = *is_late.get_or_insert(done.known_before);
            if done.new > 0 {
                round.frames += done.new;
                self.metrics.sealed_samples.inc_by(done.samples);
                self.metrics.too_old_samples.inc_by(done.too_old);
                self.metrics.sealed_bytes.inc_by(done.bytes);
                self.metrics.late_parts.inc_by(if is_late { done.rows } else { 0 });
                self.metrics.seal_seconds.observe(started.elapsed().as_secs_f64());
            }
            self.pace.rest_after(started.elapsed()).await;
            if !done.is_part {
                return Ok(Some(done.known + done.new));
            }
        }
    }

    /// Samples before this are not kept, in unix milliseconds: the start of a day.
    fn oldest_kept(&self, now: u64) -> u64 {
        // What was accepted just in time is sealed and rolled up before it goes.
        let seal_after = u64::try_from(self.lifetimes.seal_after.as_millis()).unwrap_or(u64::MAX);
        let kept = self.lifetimes.retention_raw_millis().saturating_add(seal_after).saturating_add(DROP_GRACE_MILLIS);
        CHUNKS.start_of(CHUNKS.slot_of(now.saturating_sub(kept)))
    }
}

/// The greatest arrival that was given out.
async fn newest_arrival(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    // Places in a group are the last 16 bits.
    Ok(sqlx::query_scalar!("SELECT last_value FROM arrivals").fetch_one(conn).await? << 16 | 0xffff)
}
