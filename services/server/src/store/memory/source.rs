//! One source: its series, when it reported, and which of its series have been missing.
//!
//! Expiry is counted in reporting periods. A source's [`ReportingClock`] is marked from time to time while it reports, and each mark begins a
//! period. A series keeps the number of the period of its last report, so one that was last reported before a mark has been missing since
//! that mark. Of the number 8 bits are kept: a mark is made at most every twenty-fourth of `SERIES_EXPIRY`, so no series lives for that many.

use golectra_protocol::{IdParts, MAX_AHEAD_MILLIS, MetricRef, Metrics, Source, Value};

use super::plan::BatchTimes;
use super::record::{ReportRun, SourceRecord};
use super::table::{IdHasher, NEW, Row, Rows, Table, Version, Walk, hash};
use crate::store::Lifetimes;
use crate::store::lifetime::{Mark, ReportingClock};

/// No more marks than this, whatever becomes of the settings.
const MAX_MARKS: usize = 200;

#[derive(Debug)]
pub(super) struct SourceSeries {
    pub(super) name: Source,
    pub(super) first_seen_millis: u64,
    pub(super) last_seen_millis: u64,
    /// The latest time of a key that was remembered for the source.
    pub(super) newest_key_millis: u64,
    /// Changes when the table is replaced, after which slots are others.
    pub(super) generation: u64,
    pub(super) table: Table,
    clock: ReportingClock,
    /// The number of the current reporting period.
    period: u64,
    /// Series that were last reported in an earlier period than this are gone.
    swept_period: u64,
    /// Behind the last batch's last series, where the next batch may go on: agents send many series in parts.
    next: u32,
    /// The latest time of a sample that was ahead of its arrival, or of a row from before the clock went back, in unix milliseconds: up to this time a sample
    /// may be stored that is newer than its series' row says.
    ahead_until_millis: i64,
    /// The same for samples that no row tells of: those from before a restart, of which it is not known whether they were ahead, and those of series that
    /// left the newest state and may come back.
    untold_until_millis: i64,
}

impl SourceSeries {
    pub(super) fn new(name: Source, seen_millis: u64, generation: u64) -> Self {
        Self {
            name,
            first_seen_millis: seen_millis,
            last_seen_millis: seen_millis,
            newest_key_millis: 0,
            generation,
            table: Table::default(),
            clock: ReportingClock::default(),
            period: 0,
            swept_period: 0,
            next: 0,
            ahead_until_millis: 0,
            // Its history may be there from before.
            untold_until_millis: signed(seen_millis),
        }
    }

    /// How many live series there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the source has a live series, without which it is not listed.
    pub(super) fn is_live(&self) -> bool {
        self.len() > 0
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// A report arrived now. A source that had no live series begins anew. The server's clock may have been set back since the last report.
    pub(super) fn report(&mut self, now_millis: u64, lifetimes: &Lifetimes) {
        if self.is_live() {
            self.clock.advance(now_millis.saturating_sub(self.last_seen_millis), lifetimes);
        } else {
            self.first_seen_millis = now_millis;
        }
        self.last_seen_millis = now_millis;
    }

    /// Whether the source is to be forgotten.
    pub(super) fn is_silent(&self, now_millis: u64, lifetimes: &Lifetimes) -> bool {
        let silent_millis = now_millis.saturating_sub(self.last_seen_millis);
        !self.name.is_unnamed() && self.is_live() && silent_millis > lifetimes.source_expiry_millis()
    }

    /// Begins a reporting period where that is due, and says whether it did.
    pub(super) fn mark(&mut self, lifetimes: &Lifetimes) -> bool {
        if self.name.is_unnamed() || !self.is_live() || self.clock.marks.len() >= MAX_MARKS {
            return false;
        }
        self.clock.mark(self.period, lifetimes);
        let marked = self.clock.marks.back().is_some_and(|last| last.arrival == self.period);
        self.period += u64::from(marked);
        marked
    }

    /// Begins a reporting period that the journal has.
    pub(super) fn mark_again(&mut self) {
        self.clock.marks.push_back(Mark { reporting_millis: self.clock.reporting_millis, arrival: self.period });
        self.period += 1;
    }

    /// The last period whose reports have become too old, where series may be left of it.
    pub(super) fn expired_period(&self, lifetimes: &Lifetimes) -> Option<u64> {
        self.clock.expired_up_to(lifetimes).filter(|expired| self.is_live() && *expired >= self.swept_period)
    }

    /// Tells the series that were not reported after this period.
    pub(super) fn expired_after(&self, expired_period: u64) -> impl Fn(&Row) -> bool + use<> {
        let period = self.period;
        let missing = u8::try_from(period.saturating_sub(expired_period)).unwrap_or(u8::MAX);
        move |row| row.is_missing_for(missing, period)
    }

    /// All series of this period and earlier ones are gone.
    pub(super) fn swept(&mut self, expired_period: u64) {
        self.swept_period = expired_period + 1;
    }

    /// Puts another table in place and gives the old one back, to be freed without the lock.
    pub(super) fn replace_table(&mut self, table: Table, generation: u64) -> Table {
        self.generation = generation;
        self.next = 0;
        self.untold_until_millis = self.untold_until_millis.max(signed(self.last_seen_millis));
        std::mem::replace(&mut self.table, table)
    }

    /// Notes samples whose times are later than their arrival.
    pub(super) fn note_ahead(&mut self, metrics: &Metrics, arrived_millis: u64) {
        let newest = (0..metrics.len()).filter_map(|index| metrics.at_millis(index)).max().unwrap_or(0);
        if newest > signed(arrived_millis) {
            self.ahead_until_millis = self.ahead_until_millis.max(newest);
        }
    }

    /// Until when it is needed without a series, in unix milliseconds: the latest time of a key, and of a sample that was ahead of its arrival.
    pub(super) fn needed_until_millis(&self) -> u64 {
        self.newest_key_millis.max(u64::try_from(self.ahead_until_millis).unwrap_or(0))
    }

    /// The source is restored from the files, which do not tell whether samples were ahead of their arrival.
    pub(super) fn note_restored(&mut self, seen_millis: u64) {
        self.untold_until_millis = self.untold_until_millis.max(signed(seen_millis.saturating_add(MAX_AHEAD_MILLIS)));
    }

    /// Whether a sample of this time is certainly newer than all that are stored of the series in this slot.
    pub(super) fn is_newer(&self, slot: u32, at_millis: i64) -> bool {
        let untold_until = self.ahead_until_millis.max(self.untold_until_millis);
        at_millis > untold_until && at_millis > signed(self.table.rows().row(slot).version().at_millis())
    }

    /// The bits of the newest value of the series in this slot, if it has this time.
    pub(super) fn newest_at(&self, slot: u32, at_millis: i64) -> Option<u64> {
        let row = self.table.rows().row(slot);
        let Value::Gauge(value) = row.value() else { return None };
        // Up to that time, a row's time may be the arrival of a newer sample.
        (at_millis > self.ahead_until_millis && signed(row.version().at_millis()) == at_millis).then_some(value.to_bits())
    }

    /// Gives up all series. The source stays for the sake of its keys.
    pub(super) fn clear(&mut self, generation: u64) -> Table {
        (self.clock, self.period, self.swept_period) = (ReportingClock::default(), 0, 0);
        self.replace_table(Table::default(), generation)
    }

    /// Writes a batch whose series' slots are these, [`NEW`] where there is none yet.
    pub(super) fn write(&mut self, slots: &[u32], new: NewSeries, hasher: &IdHasher, metrics: &Metrics, times: BatchTimes) {
        let period = self.row_period();
        if metrics.has_times() {
            return self.write_samples(slots, hasher, metrics, times);
        }
        let version = times.of_batch();
        let changes = slots.iter().copied().zip(metrics.iter().map(|metric| metric.value));
        let went_back = self.table.write(changes, version, times.latest_millis(), period);
        self.note_went_back(went_back);
        if new.series > 0 {
            self.table.reserve(new.series, new.id_bytes, hasher);
            for (_, metric) in slots.iter().zip(metrics).filter(|(slot, _)| **slot == NEW) {
                self.table.push(hasher, metric, version, period);
            }
        }
        self.next = slots.last().copied().filter(|slot| *slot != NEW).map_or(0, |slot| slot + 1);
    }

    /// Writes samples with times of their own, of which several may be of one series.
    fn write_samples(&mut self, slots: &[u32], hasher: &IdHasher, metrics: &Metrics, times: BatchTimes) {
        let period = self.row_period();
        for (index, (slot, metric)) in slots.iter().zip(metrics).enumerate() {
            let version = times.of_sample(metrics.at_millis(index).unwrap_or_default());
            let known =
                if *slot == NEW { self.table.find(hash(hasher, metric.id.as_bytes()), metric.id, metric.kind()) } else { Some(*slot) };
            match known {
                Some(slot) => {
                    let went_back = self.table.write([(slot, metric.value)].into_iter(), version, times.latest_sample_millis(), period);
                    self.note_went_back(went_back);
                }
                None => drop(self.table.push(hasher, metric, version, period)),
            }
        }
    }

    /// Notes that a row has an earlier time than it had: up to that one, samples may be stored that are newer than it says.
    fn note_went_back(&mut self, from_millis: Option<u64>) {
        if let Some(millis) = from_millis {
            self.ahead_until_millis = self.ahead_until_millis.max(signed(millis));
        }
    }

    /// What a row keeps of the current period.
    fn row_period(&self) -> u8 {
        self.period.to_le_bytes()[0]
    }

    /// Writes one metric of a snapshot file. Says whether the series is new.
    pub(super) fn restore(&mut self, hasher: &IdHasher, metric: MetricRef<'_>, version: Version) -> Result<bool, String> {
        let (mut walk, period) = (Walk::default(), self.row_period());
        let value = metric.value;
        match self.table.walk(&mut walk, hasher, metric.id, value.kind()) {
            Some(slot) if self.table.rows().row(slot).overflows(value) => {
                Err("the counter is there twice and its sum exceeds 9223372036854775807".into())
            }
            Some(slot) => {
                self.table.write([(slot, value)].into_iter(), version, u64::MAX, period);
                Ok(false)
            }
            None if !self.table.has_room_for(1, metric.id.len()) => Err("the ids of one source have at most 2 GiB".into()),
            None => {
                self.table.push(hasher, metric, version, period);
                Ok(true)
            }
        }
    }

    /// What the journal keeps of the source beside its series' values.
    pub(super) fn record(&self, floor_millis: u64) -> SourceRecord {
        SourceRecord {
            first_seen_millis: self.first_seen_millis,
            last_seen_millis: self.last_seen_millis,
            floor_millis,
            clock: self.clock.clone(),
            period: self.period,
            name: self.name.clone(),
        }
    }

    /// Takes back what the journal has of the source. Its reports are those of the snapshot that the journal names, so the series are the same
    /// in the same order. Returns the latest arrival among them.
    pub(super) fn restore_record(&mut self, record: &SourceRecord, reports: &[ReportRun]) -> u64 {
        let series: u64 = reports.iter().map(|run| u64::from(run.series)).sum();
        if series != self.len() as u64 {
            return 0;
        }
        (self.clock, self.period) = (record.clock.clone(), record.period);
        let mut slot = 0;
        for run in reports {
            for _ in 0..run.series {
                self.table.rows_mut().restore(slot, run.arrival, run.period);
                slot += 1;
            }
        }
        reports.iter().map(|run| run.arrival).max().unwrap_or(0)
    }
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

/// How many series of a batch are new, and the bytes of their ids.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NewSeries {
    pub(super) series: usize,
    pub(super) id_bytes: usize,
}

/// The id and the total of a counter without labels, which counts on when the series is gone.
pub(super) fn retirable<'a>(rows: &'a Rows, row: &Row) -> Option<(&'a str, i64)> {
    let Value::Counter(total) = row.value() else { return None };
    let id = rows.id(row);
    let labelled = id.contains('{') && !IdParts::of(id).labels.is_empty();
    if labelled { None } else { Some((id, total)) }
}
