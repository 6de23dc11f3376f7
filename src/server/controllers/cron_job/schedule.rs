//! When a CronJob is due, in its time zone. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::cron::{Error, Schedule};

/// More missed times than this and somebody has to look (upstream's limit).
const MISSED_MAX: usize = 100;

/// A schedule in a time zone.
#[derive(Clone, Debug)]
pub(super) struct Times {
    schedule: Schedule,
    zone: TimeZone,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The last time that has come.
    pub(super) at: Timestamp,
    /// So many came before it and were missed that the schedule or a clock must be wrong.
    pub(super) are_too_many: bool,
}

impl Times {
    pub(super) fn new(schedule: &str, zone: TimeZone) -> Result<Self, Error> {
        Ok(Self {
            schedule: Schedule::parse(schedule)?,
            zone,
        })
    }

    /// The zone that a CronJob names; UTC where it names none, as a server in a container has.
    pub(super) fn zone(name: Option<&str>) -> Result<TimeZone, jiff::Error> {
        name.map_or(Ok(TimeZone::UTC), TimeZone::get)
    }

    /// The first time after `after`. A time that the clocks leap over does not come; one that they
    /// pass twice comes the first time.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut local = after.to_zoned(self.zone.clone()).datetime();
        loop {
            local = self.schedule.next(local)?;
            let zoned = local.to_zoned(self.zone.clone()).ok()?;
            if zoned.datetime() == local && zoned.timestamp() > after {
                return Some(zoned.timestamp());
            }
        }
    }

    /// The last time after `earliest` and not after `now`.
    pub(super) fn due(&self, earliest: Timestamp, now: Timestamp) -> Option<Due> {
        let mut last = self.next(earliest).filter(|at| *at <= now)?;
        let mut missed = 0;
        while let Some(next) = self.next(last).filter(|at| *at <= now) {
            last = next;
            missed += 1;
            if missed > MISSED_MAX {
                // Near enough: whoever is late by hundreds of times starts at the present one.
                last = self.recent(now).unwrap_or(last);
                break;
            }
        }
        Some(Due {
            at: last,
            are_too_many: missed >= MISSED_MAX,
        })
    }

    /// The last time before `now`, looked for over growing spans.
    fn recent(&self, now: Timestamp) -> Option<Timestamp> {
        for hours in [1, 24, 24 * 8, 24 * 32, 24 * 367] {
            let from = now
                .checked_sub(jiff::SignedDuration::from_hours(hours))
                .ok()?;
            let mut last = None;
            let mut at = from;
            while let Some(next) = self.next(at).filter(|next| *next <= now) {
                last = Some(next);
                at = next;
            }
            if last.is_some() {
                return last;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn times(schedule: &str, zone: &str) -> Times {
        Times::new(schedule, Times::zone(Some(zone)).unwrap()).unwrap()
    }

    #[test]
    fn times_are_of_the_zone_and_the_gap_in_spring_is_left_out() {
        let daily = times("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            daily.next(at("2026-01-01T00:00:00Z")),
            Some(at("2026-01-01T01:30:00Z"))
        );
        // 29 March 2026 has no 02:30 in Berlin.
        assert_eq!(
            daily.next(at("2026-03-28T12:00:00Z")),
            Some(at("2026-03-30T00:30:00Z"))
        );
    }

    #[test]
    fn the_last_missed_time_is_due() {
        let hourly = times("0 * * * *", "UTC");
        let due = |from, now| hourly.due(at(from), at(now));
        assert_eq!(due("2026-01-01T00:10:00Z", "2026-01-01T00:50:00Z"), None);
        let one = due("2026-01-01T00:10:00Z", "2026-01-01T03:20:00Z").unwrap();
        assert_eq!(one.at, at("2026-01-01T03:00:00Z"));
        assert!(!one.are_too_many);
        let many = due("2026-01-01T00:00:00Z", "2026-02-01T03:20:00Z").unwrap();
        assert!(many.are_too_many);
        assert_eq!(many.at, at("2026-02-01T03:00:00Z"));
    }
}
