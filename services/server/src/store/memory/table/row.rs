//! A series without its id, in 24 bytes.

use golectra_protocol::{Kind, Value};

const COUNTER_BIT: u32 = 1 << 31;
/// Ids stand below this place of a source's text.
pub(in crate::store::memory) const MAX_TEXT_BYTES: usize = COUNTER_BIT as usize;

/// A time has 44 bits, up to the year 2527.
const TIME_BITS: u32 = 44;
const MAX_MILLIS: u64 = (1 << TIME_BITS) - 1;
/// The number of a write has 44 bits: 18 years of a million writes a minute.
const ARRIVAL_BITS: u32 = 44;
const ARRIVAL_HIGH_BITS: u32 = 64 - TIME_BITS;
const ARRIVAL_LOW_BITS: u32 = ARRIVAL_BITS - ARRIVAL_HIGH_BITS;
const PERIOD_BITS: u32 = 32 - ARRIVAL_LOW_BITS;
const PERIOD_MASK: u32 = (1 << PERIOD_BITS) - 1;

/// Tells which of two values of a gauge is the newer one: that with the later time, then that of the later write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(in crate::store::memory) struct Version {
    /// The time, then the upper bits of the arrival.
    time_and_arrival: u64,
    /// The lower bits of the arrival, then zeros where a row has its period.
    arrival_low: u32,
}

impl Version {
    /// A value's time in unix milliseconds, and the number of the write that brought it. Later times than fit count as the latest one.
    pub(in crate::store::memory) fn new(at_millis: u64, arrival: u64) -> Self {
        let high = (arrival >> ARRIVAL_LOW_BITS) & ((1 << ARRIVAL_HIGH_BITS) - 1);
        let low = u32::try_from(arrival & ((1 << ARRIVAL_LOW_BITS) - 1)).expect("24 bits were taken");
        Self { time_and_arrival: at_millis.min(MAX_MILLIS) << ARRIVAL_HIGH_BITS | high, arrival_low: low << PERIOD_BITS }
    }

    /// The value's time in unix milliseconds.
    pub(in crate::store::memory) fn at_millis(self) -> u64 {
        self.time_and_arrival >> ARRIVAL_HIGH_BITS
    }

    /// The number of the write.
    pub(in crate::store::memory) fn arrival(self) -> u64 {
        let high = self.time_and_arrival & ((1 << ARRIVAL_HIGH_BITS) - 1);
        high << ARRIVAL_LOW_BITS | u64::from(self.arrival_low >> PERIOD_BITS)
    }
}

/// A series without its id. The order of the fields keeps it at 24 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store::memory) struct Row {
    /// A double's bits or a total.
    bits: u64,
    time_and_arrival: u64,
    /// The lower bits of the arrival, then the reporting period of the last report (see [`super::super::source`]).
    arrival_low_and_period: u32,
    /// The place of its id, and whether it is a counter.
    id: u32,
}

impl Row {
    pub(super) fn new(id: u32, value: Value, version: Version, period: u8) -> Self {
        let (bits, kind) = match value {
            Value::Gauge(value) => (value.to_bits(), 0),
            Value::Counter(total) => (total.cast_unsigned(), COUNTER_BIT),
        };
        let arrival_low_and_period = version.arrival_low | u32::from(period);
        Self { bits, time_and_arrival: version.time_and_arrival, arrival_low_and_period, id: id | kind }
    }

    /// The place of its id.
    pub(super) fn id_place(&self) -> usize {
        (self.id & !COUNTER_BIT) as usize
    }

    /// The same series with its id at another place.
    pub(super) fn moved_to(self, id: Self) -> Self {
        Self { id: id.id, ..self }
    }

    #[inline]
    pub(in crate::store::memory) fn kind(&self) -> Kind {
        if self.id & COUNTER_BIT == 0 { Kind::Gauge } else { Kind::Counter }
    }

    pub(in crate::store::memory) fn value(&self) -> Value {
        match self.kind() {
            Kind::Gauge => Value::Gauge(f64::from_bits(self.bits)),
            Kind::Counter => Value::Counter(self.bits.cast_signed()),
        }
    }

    pub(in crate::store::memory) fn version(&self) -> Version {
        Version { time_and_arrival: self.time_and_arrival, arrival_low: self.arrival_low_and_period & !PERIOD_MASK }
    }

    /// The period of the last report, of which the lower 8 bits are kept.
    pub(in crate::store::memory) fn period(&self) -> u8 {
        u8::try_from(self.arrival_low_and_period & PERIOD_MASK).expect("8 bits were taken")
    }

    /// Whether the last report came this many periods before the source's, or earlier.
    pub(in crate::store::memory) fn is_missing_for(&self, periods: u8, source_period: u64) -> bool {
        source_period.to_le_bytes()[0].wrapping_sub(self.period()) >= periods
    }

    /// Whether this counter's total has no room for this delta.
    pub(in crate::store::memory) fn overflows(&self, value: Value) -> bool {
        matches!(value, Value::Counter(delta) if self.bits.cast_signed().checked_add(delta).is_none())
    }

    /// Takes a value of the row's kind; that it fits was checked before. A gauge older than the one that is there changes nothing but the
    /// period of the last report. A row whose time is later than `latest_millis` was written before the clock went back: what comes now is newer. Its time
    /// comes back then.
    #[inline]
    pub(super) fn write(&mut self, value: Value, version: Version, latest_millis: u64, period: u8) -> Option<u64> {
        let at_millis = self.time_and_arrival >> ARRIVAL_HIGH_BITS;
        let went_back = at_millis > latest_millis;
        let newer = went_back || version.at_millis() >= at_millis;
        match value {
            Value::Gauge(value) if newer => self.bits = value.to_bits(),
            Value::Gauge(_) => {}
            Value::Counter(delta) => self.bits = self.bits.cast_signed().saturating_add(delta).cast_unsigned(),
        }
        let mut arrival_low = self.arrival_low_and_period & !PERIOD_MASK;
        if newer {
            (self.time_and_arrival, arrival_low) = (version.time_and_arrival, version.arrival_low);
        }
        self.arrival_low_and_period = arrival_low | u32::from(period);
        went_back.then_some(at_millis)
    }

    /// Sets what a restart brings back: the write that set the value, and the period of the last report.
    pub(super) fn restore(&mut self, arrival: u64, period: u8) {
        let version = Version::new(self.version().at_millis(), arrival);
        self.time_and_arrival = version.time_and_arrival;
        self.arrival_low_and_period = version.arrival_low | u32::from(period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_24_bytes_and_keeps_its_version_and_period_whole() {
        assert_eq!(size_of::<Row>(), 24);
        let last = (1 << ARRIVAL_BITS) - 1;
        let versions = [(0, 0), (0, 1), (0, 1 << 24), (0, last), (1, 0), (1, last), (MAX_MILLIS, 5)];
        let made = versions.map(|(at, arrival)| Version::new(at, arrival));
        assert!(made.is_sorted());
        for ((at, arrival), version) in versions.into_iter().zip(made) {
            assert_eq!((version.at_millis(), version.arrival()), (at, arrival));
            for value in [Value::Gauge(-0.0), Value::Gauge(f64::NAN), Value::Counter(i64::MAX)] {
                for period in [0, 1, u8::MAX] {
                    let row = Row::new(7, value, version, period);
                    assert_eq!((row.version(), row.period(), row.kind()), (version, period, value.kind()));
                    assert_eq!((row.id_place(), format!("{:?}", row.value())), (7, format!("{value:?}")));
                }
            }
        }
        assert_eq!(Version::new(u64::MAX, 0).at_millis(), MAX_MILLIS, "what does not fit is the latest time");
    }

    #[test]
    fn an_older_gauge_is_a_report_and_changes_nothing_else() {
        let mut row = Row::new(0, Value::Gauge(1.0), Version::new(10, 1), 3);
        assert_eq!(row.write(Value::Gauge(2.0), Version::new(9, 2), 10, 4), None);
        assert_eq!((row.value(), row.version(), row.period()), (Value::Gauge(1.0), Version::new(10, 1), 4));
        row.write(Value::Gauge(3.0), Version::new(10, 3), 10, 5);
        assert_eq!((row.value(), row.version(), row.period()), (Value::Gauge(3.0), Version::new(10, 3), 5));
        let mut counter = Row::new(0, Value::Counter(1), Version::new(10, 1), 3);
        counter.write(Value::Counter(2), Version::new(9, 2), 10, 4);
        assert_eq!((counter.value(), counter.version(), counter.period()), (Value::Counter(3), Version::new(10, 1), 4));
        counter.restore(77, 6);
        assert_eq!((counter.version(), counter.period()), (Version::new(10, 77), 6));
    }

    #[test]
    fn what_comes_after_the_clock_went_back_is_newer() {
        for (value, expected) in [(Value::Gauge(2.0), Value::Gauge(2.0)), (Value::Counter(2), Value::Counter(3))] {
            let first = if value.kind() == Kind::Gauge { Value::Gauge(1.0) } else { Value::Counter(1) };
            let mut row = Row::new(0, first, Version::new(100, 1), 3);
            assert_eq!(row.write(value, Version::new(9, 2), 99, 4), Some(100));
            assert_eq!((row.value(), row.version(), row.period()), (expected, Version::new(9, 2), 4));
        }
    }

    #[test]
    fn periods_are_compared_around_the_end_of_their_8_bits() {
        let row = |period: u64| Row::new(0, Value::Counter(1), Version::default(), period.to_le_bytes()[0]);
        for period in [0_u64, 100, 250, 255, 1_000] {
            assert!(!row(period).is_missing_for(25, period + 24));
            assert!(row(period).is_missing_for(25, period + 25));
        }
    }
}
