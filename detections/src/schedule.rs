//! When scheduled rules run: the five fields of cron, in UTC.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use croner::Cron;

/// A schedule.
#[derive(Clone, Debug)]
pub struct Schedule(Cron);

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.split_whitespace().count() != 5 {
            return Err(format!("{text:?} has not five fields: minute, hour, day of month, month, day of week"));
        }
        let schedule = Cron::from_str(text).map(Self).map_err(|error| format!("{text:?}: {error}"))?;
        schedule.after(0).ok_or_else(|| format!("{text:?} never falls due"))?;
        Ok(schedule)
    }
}

impl Schedule {
    /// The runs that are due after `from` and at or before `to`, each as the period that it covers: since the run before it,
    /// up to itself. Times are microseconds since 1970.
    pub fn periods(&self, from: i64, to: i64) -> Vec<(i64, i64)> {
        let mut periods = Vec::new();
        let mut at = from;
        while let Some(run) = self.after(at).filter(|run| *run <= to) {
            periods.push((self.before(run).unwrap_or(run), run));
            at = run;
        }
        periods
    }

    /// The newest run at or before a time, as the period that it covers.
    pub fn newest(&self, time: i64) -> Option<(i64, i64)> {
        let end = self.before(time.saturating_add(1))?;
        Some((self.before(end).unwrap_or(end), end))
    }

    /// The first run after a time.
    pub fn after(&self, time: i64) -> Option<i64> {
        let run = self.0.find_next_occurrence(&at(time)?, false).ok()?;
        Some(run.timestamp_micros())
    }

    /// The last run before a time.
    pub fn before(&self, time: i64) -> Option<i64> {
        // Whole seconds are all that it looks at, and a run may be in this one.
        let next = (time.checked_add(SECOND - 1)?).div_euclid(SECOND) * SECOND;
        let run = self.0.find_previous_occurrence(&at(next)?, false).ok()?;
        Some(run.timestamp_micros())
    }
}

const SECOND: i64 = 1_000_000;

fn at(micros: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_join_and_end_with_each_run() {
        let time = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
        let daily: Schedule = "0 6 * * *".parse().unwrap();
        let (from, to) = (time("2026-01-01T06:00:00Z"), time("2026-01-03T06:00:00Z"));
        let days = [time("2026-01-01T06:00:00Z"), time("2026-01-02T06:00:00Z"), time("2026-01-03T06:00:00Z")];
        assert_eq!(daily.periods(from, to), [(days[0], days[1]), (days[1], days[2])]);
        assert_eq!(daily.periods(from, to - 1), [(days[0], days[1])]);
        for (after, run) in [(-1, days[0]), (0, days[1]), (1, days[1]), (SECOND / 2, days[1])] {
            assert_eq!(daily.newest(days[1] + after), Some((run - 86_400 * SECOND, run)), "{after}");
        }
        assert_eq!(daily.before(days[1]), Some(days[0]));
        assert_eq!(daily.before(days[1] + SECOND / 2), Some(days[1]));
        assert_eq!(daily.after(days[1] - SECOND / 2), Some(days[1]));
        let weekly: Schedule = "30 0 * * 1".parse().unwrap();
        let [(start, end)] = weekly.periods(from, time("2026-01-06T00:00:00Z"))[..] else { panic!() };
        assert_eq!((start, end), (time("2025-12-29T00:30:00Z"), time("2026-01-05T00:30:00Z")));
        assert!("0 0 29 2 *".parse::<Schedule>().is_ok());
        assert_eq!("0 0 30 2 *".parse::<Schedule>().unwrap_err(), "\"0 0 30 2 *\" never falls due");
        for wrong in ["", "* * * *", "61 * * * *", "@daily", "0 0 6 * * *"] {
            assert!(wrong.parse::<Schedule>().is_err(), "{wrong}");
        }
    }
}
