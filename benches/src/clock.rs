//! Timestamps as Kubernetes writes them.

use std::fmt;

const DAY: i64 = 86_400_000_000;

/// Microseconds since 1970 UTC, shown as RFC 3339 with six decimals: Kubernetes' `MicroTime`.
#[derive(Clone, Copy)]
pub(crate) struct MicroTime(pub i64);

/// The same without decimals: Kubernetes' `Time`, as in `creationTimestamp`.
#[derive(Clone, Copy)]
pub(crate) struct Time(pub i64);

impl fmt::Display for MicroTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_seconds(f, self.0)?;
        write!(f, ".{:06}Z", self.0.rem_euclid(1_000_000))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_seconds(f, self.0)?;
        f.write_str("Z")
    }
}

fn write_seconds(f: &mut fmt::Formatter<'_>, micros: i64) -> fmt::Result {
    let (year, month, day) = civil(micros.div_euclid(DAY));
    let seconds = micros.rem_euclid(DAY) / 1_000_000;
    write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Year, month and day of a day counted from 1970-01-01. Years start in March here, which puts the leap day last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days_and_before_1970() {
        let check = |micros: i64, expected: &str| assert_eq!(MicroTime(micros).to_string(), expected);
        check(0, "1970-01-01T00:00:00.000000Z");
        check(-1, "1969-12-31T23:59:59.999999Z");
        check(1_772_323_199_000_001, "2026-02-28T23:59:59.000001Z");
        check(1_772_323_200_000_000, "2026-03-01T00:00:00.000000Z");
        check(1_709_164_800_000_000, "2024-02-29T00:00:00.000000Z");
        assert_eq!(Time(1_772_323_200_999_999).to_string(), "2026-03-01T00:00:00Z");
    }
}
