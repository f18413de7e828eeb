//! What is due: which periods of a rule have to run, run again, or be looked at for rows that came late.

use std::collections::BTreeMap;

use vedette_detections::Schedule;

const MINUTE: i64 = 60_000_000;

/// How long after a period's run it is first looked at for rows that came late. Each further look comes after twice the time.
const FIRST_LOOK: i64 = 5 * MINUTE;

/// The longest wait before a period that failed runs again. The first is a minute, and each is twice the one before.
const LONGEST_WAIT: i64 = 60 * MINUTE;

/// How far the schedule reaches. Microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// A period runs so long after its end, since events take a while to arrive.
    pub lateness: i64,
    /// For so long a period that ran is looked at again, and so far back missed ones are caught up on.
    pub overlap: i64,
}

/// The newest run of a period. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub start: i64,
    pub version: i32,
    /// Rows that the period had.
    pub rows: i64,
    /// How often it has failed in a row; 0 if it succeeded.
    pub failures: u32,
    pub ran_at: i64,
    /// When it was last looked at for rows that came late; `ran_at` if it was not.
    pub looked_at: i64,
}

/// What is known of a rule's runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The end of the newest period that has run, with success or without; or when the rule was first met.
    pub until: i64,
    /// Newest runs of periods, by their end.
    pub attempts: BTreeMap<i64, Attempt>,
}

/// Why a period is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has not, or it failed.
    Due,
    /// It has, and may have got more rows than these since.
    Look { rows: i64 },
}

/// A period to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    pub start: i64,
    pub end: i64,
    pub why: Why,
}

impl Past {
    pub fn new(until: i64) -> Self {
        Self { until, attempts: BTreeMap::new() }
    }

    /// The periods to run now, oldest first, and how many were missed for good: those that ended before the overlap, unless
    /// nothing newer is due.
    pub fn due(&self, schedule: &Schedule, version: i32, now: i64, reach: Reach) -> (Vec<Job>, usize) {
        let mut new = schedule.periods(self.until, now - reach.lateness);
        let newest = new.last().map(|(_, end)| *end);
        let missed = new.len();
        new.retain(|(_, end)| *end >= now - reach.overlap || Some(*end) == newest);
        let left_out = missed - new.len();
        let new = new.into_iter().map(|(start, end)| Job { start, end, why: Why::Due });
        let again = self.attempts.iter().filter_map(|(end, attempt)| {
            let kept = *end >= now - reach.overlap || *end == self.until;
            let why = attempt.why(version, now, reach.overlap).filter(|why| *why != Why::Due || kept)?;
            Some(Job { start: attempt.start, end: *end, why })
        });
        (again.chain(new).collect(), left_out)
    }

    /// Forgets runs that nothing more will come of.
    pub fn prune(&mut self, now: i64, overlap: i64) {
        let until = self.until;
        self.attempts.retain(|end, attempt| {
            if attempt.failures > 0 { *end >= now - overlap || *end == until } else { !attempt.is_final(overlap) }
        });
    }
}

impl Attempt {
    fn why(&self, version: i32, now: i64, overlap: i64) -> Option<Why> {
        if self.failures > 0 {
            let wait = (MINUTE << (self.failures - 1).min(6)).min(LONGEST_WAIT);
            return (now >= self.ran_at + wait).then_some(Why::Due);
        }
        // Another version's findings have other ids: what was told would be told again.
        let wait = FIRST_LOOK.max(self.looked_at - self.ran_at);
        let next = (self.looked_at + wait).min(self.ran_at + overlap);
        let looks = self.version == version && !self.is_final(overlap) && now >= next;
        looks.then_some(Why::Look { rows: self.rows })
    }

    /// Whether the last look has been taken.
    fn is_final(&self, overlap: i64) -> bool {
        self.looked_at - self.ran_at >= overlap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * MINUTE;
    const REACH: Reach = Reach { lateness: MINUTE, overlap: 24 * HOUR };

    fn hourly() -> Schedule {
        "0 * * * *".parse().unwrap()
    }

    /// The ends of the periods to run, in hours; those to look at have their rows beside.
    #[track_caller]
    fn check(past: &Past, now: i64, expected: &[(i64, Option<i64>)], left_out: usize) {
        let (jobs, left) = past.due(&hourly(), 1, now, REACH);
        let found: Vec<_> = jobs
            .iter()
            .map(|job| {
                assert_eq!(job.end - job.start, HOUR);
                let rows = if let Why::Look { rows } = job.why { Some(rows) } else { None };
                (job.end / HOUR, rows)
            })
            .collect();
        assert_eq!((found.as_slice(), left), (expected, left_out));
    }

    fn attempt(end: i64, ran_at: i64, failures: u32) -> (i64, Attempt) {
        let attempt = Attempt { start: end - HOUR, version: 1, rows: 7, failures, ran_at, looked_at: ran_at };
        (end, attempt)
    }

    #[test]
    fn a_rule_starts_with_the_first_period_that_ends_after_it_is_met() {
        let past = Past::new(100 * HOUR + 1);
        check(&past, 100 * HOUR + 30 * MINUTE, &[], 0);
        check(&past, 101 * HOUR + MINUTE - 1, &[], 0);
        check(&past, 101 * HOUR + MINUTE, &[(101, None)], 0);
    }

    #[test]
    fn missed_periods_are_caught_up_on_within_the_overlap_and_the_newest_in_any_case() {
        check(&Past::new(100 * HOUR), 103 * HOUR + MINUTE, &[(101, None), (102, None), (103, None)], 0);
        let late = Past::new(100 * HOUR);
        let (jobs, left_out) = late.due(&hourly(), 1, 150 * HOUR + MINUTE, REACH);
        assert_eq!((jobs.first().unwrap().end, jobs.len(), left_out), (127 * HOUR, 24, 26));
        let weekly: Schedule = "0 0 * * 1".parse().unwrap();
        let (jobs, left_out) = Past::new(0).due(&weekly, 1, 19 * 24 * HOUR, REACH);
        assert_eq!((jobs.len(), jobs[0].end, left_out), (1, 18 * 24 * HOUR, 2));
    }

    #[test]
    fn what_failed_runs_again_after_longer_and_longer() {
        for (failures, wait) in [(1, MINUTE), (2, 2 * MINUTE), (3, 4 * MINUTE), (7, HOUR), (40, HOUR)] {
            let ran_at = 100 * HOUR + MINUTE;
            let past = Past { until: 100 * HOUR, attempts: [attempt(100 * HOUR, ran_at, failures)].into() };
            let (jobs, _) = past.due(&hourly(), 1, ran_at + wait - 1, REACH);
            assert!(jobs.iter().all(|job| job.end != 100 * HOUR), "{failures}");
            let (jobs, _) = past.due(&hourly(), 1, ran_at + wait, REACH);
            assert!(jobs.iter().any(|job| job.end == 100 * HOUR && job.why == Why::Due), "{failures}");
        }
    }

    #[test]
    fn what_failed_is_given_up_beyond_the_overlap_unless_it_is_the_newest() {
        let attempts = [attempt(99 * HOUR, 100 * HOUR, 1), attempt(100 * HOUR, 100 * HOUR, 1)];
        let mut past = Past { until: 100 * HOUR, attempts: attempts.into() };
        let monthly: Schedule = "0 0 1 * *".parse().unwrap();
        let ends = |past: &Past, now| -> Vec<i64> {
            past.due(&monthly, 1, now, REACH).0.iter().map(|job| job.end / HOUR).collect()
        };
        assert_eq!(ends(&past, 123 * HOUR), [99, 100]);
        assert_eq!(ends(&past, 200 * HOUR), [100]);
        past.prune(200 * HOUR, REACH.overlap);
        assert_eq!(past.attempts.keys().collect::<Vec<_>>(), [&(100 * HOUR)]);
    }

    #[test]
    fn what_ran_is_looked_at_ever_more_rarely_until_the_overlap_is_over() {
        let ran_at = 100 * HOUR + MINUTE;
        let (end, mut attempt) = attempt(100 * HOUR, ran_at, 0);
        let mut looks = Vec::new();
        for minute in 0..2_000 {
            let now = ran_at + minute * MINUTE;
            if attempt.why(1, now, REACH.overlap).is_some() {
                looks.push(minute);
                attempt.looked_at = now;
            }
            assert_eq!(attempt.why(2, now, REACH.overlap), None, "of another version");
        }
        assert_eq!(looks, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440]);
        let mut past = Past { until: end, attempts: [(end, attempt)].into() };
        past.prune(ran_at, REACH.overlap);
        assert!(past.attempts.is_empty());
        let past = Past { until: end, attempts: [super::tests::attempt(end, ran_at, 0)].into() };
        check(&past, ran_at + FIRST_LOOK, &[(100, Some(7))], 0);
    }
}
