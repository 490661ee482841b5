//! Dates in UTC, by the proleptic Gregorian calendar.

/// A part of a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the functions")]
pub enum DatePart {
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    DaysInMonth,
    Hour,
    Minute,
    Month,
    Year,
}

const SECONDS_PER_DAY: i64 = 86_400;

impl DatePart {
    /// The part of the date so many seconds after 1970.
    #[expect(clippy::cast_possible_truncation, reason = "fractions of seconds don't matter, and what is larger than an integer saturates")]
    pub(crate) fn of(self, seconds: f64) -> f64 {
        // Far beyond any date, and far from an overflow in the arithmetic below.
        const FARTHEST: f64 = 1e16;
        if seconds.is_nan() {
            return f64::NAN;
        }
        let seconds = seconds.clamp(-FARTHEST, FARTHEST) as i64;
        let (days, second_of_day) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let date = Date::from_days(days);
        let part = match self {
            Self::DayOfMonth => date.day,
            // 1970 began on a Thursday.
            Self::DayOfWeek => (days + 4).rem_euclid(7),
            Self::DayOfYear => days - Date::first_of_year(date.year) + 1,
            Self::DaysInMonth => date.days_in_month(),
            Self::Hour => second_of_day / 3600,
            Self::Minute => second_of_day / 60 % 60,
            Self::Month => date.month,
            Self::Year => date.year,
        };
        part as f64
    }
}

struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    /// The date so many days after the first of January 1970.
    ///
    /// Years are counted from March, so that the leap day is the last of a year; 400 of them are one period.
    fn from_days(days: i64) -> Self {
        const DAYS_PER_PERIOD: i64 = 146_097;
        // From the first of March of the year 0.
        let days = days + 719_468;
        let (period, day) = (days.div_euclid(DAYS_PER_PERIOD), days.rem_euclid(DAYS_PER_PERIOD));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self { year: year + period * 400 + i64::from(month <= 2), month, day: day_of_year - (153 * month_from_march + 2) / 5 + 1 }
    }

    /// Days from 1970 to the first of January of a year.
    fn first_of_year(year: i64) -> i64 {
        let before = year - 1;
        365 * before + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 719_162
    }

    fn days_in_month(&self) -> i64 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(seconds: f64) -> [f64; 8] {
        [
            DatePart::Year,
            DatePart::Month,
            DatePart::DayOfMonth,
            DatePart::Hour,
            DatePart::Minute,
            DatePart::DayOfWeek,
            DatePart::DayOfYear,
            DatePart::DaysInMonth,
        ]
        .map(|part| part.of(seconds))
    }

    #[test]
    fn known_dates() {
        assert_eq!(all(0.0), [1970.0, 1.0, 1.0, 0.0, 0.0, 4.0, 1.0, 31.0]);
        // 2000-02-29T23:59:59Z, a leap day of a century.
        assert_eq!(all(951_868_799.9), [2000.0, 2.0, 29.0, 23.0, 59.0, 2.0, 60.0, 29.0]);
        // 2100-03-01, a century without one.
        assert_eq!(all(4_107_542_400.0), [2100.0, 3.0, 1.0, 0.0, 0.0, 1.0, 60.0, 31.0]);
        assert_eq!(all(-1.0)[..3], [1969.0, 12.0, 31.0]);
        assert!(DatePart::Year.of(f64::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn days_follow_each_other(day in -100_000_000_i64..100_000_000) {
            let (today, tomorrow) = (Date::from_days(day), Date::from_days(day + 1));
            let expected = if today.day < today.days_in_month() {
                (today.year, today.month, today.day + 1)
            } else if today.month < 12 {
                (today.year, today.month + 1, 1)
            } else {
                (today.year + 1, 1, 1)
            };
            prop_assert_eq!((tomorrow.year, tomorrow.month, tomorrow.day), expected);
            let day_of_year = day - Date::first_of_year(today.year) + 1;
            prop_assert!((1..=366).contains(&day_of_year));
        }

        #[test]
        fn no_number_makes_it_panic(bits in any::<u64>()) {
            all(f64::from_bits(bits));
        }
    }
}
