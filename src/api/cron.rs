//! Schedules as cron writes them: five fields, or `@daily` and its like, in the dialect and with
//! the error texts of the parser upstream uses (`robfig/cron`, standard form).

use jiff::civil::DateTime;
use jiff::{SignedDuration, ToSpan};

/// Why a text is not a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// When something is due, in a time zone that is not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At each minute whose parts are all in the sets.
    Fields(Fields),
    /// `@every`: this long after the last time.
    Every(SignedDuration),
}

/// One bit a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether day or weekday was `*`: then both must hold, else one of them is enough.
    is_any_day: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A part of a schedule: least and most value, and the names of values.
struct Part {
    least: u32,
    most: u32,
    names: &'static [&'static str],
    /// The value of the first name.
    first: u32,
}

const fn part(least: u32, most: u32) -> Part {
    Part {
        least,
        most,
        names: &[],
        first: 0,
    }
}

const PARTS: [Part; 5] = [
    part(0, 59),
    part(0, 23),
    part(1, 31),
    Part {
        names: &MONTHS,
        first: 1,
        ..part(1, 12)
    },
    Part {
        names: &WEEKDAYS,
        ..part(0, 6)
    },
];

impl Schedule {
    /// Reads one. A leading `TZ=` or `CRON_TZ=` is passed over.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error("empty spec string".to_owned()));
        }
        let mut text = text;
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let (_, rest) = text
                .split_once(' ')
                .ok_or_else(|| Error(format!("provided bad location {text}")))?;
            text = rest.trim();
        }
        if text.starts_with('@') {
            return descriptor(text);
        }
        let words: Vec<_> = text.split_whitespace().collect();
        if words.len() != PARTS.len() {
            return Err(Error(format!(
                "expected exactly 5 fields, found {}: [{}]",
                words.len(),
                words.join(" ")
            )));
        }
        let mut sets = [0; 5];
        for ((set, word), part) in sets.iter_mut().zip(&words).zip(&PARTS) {
            for item in word.split(',').filter(|item| !item.is_empty()) {
                *set |= range(item, part)?;
            }
        }
        let is_star = |word: &str| {
            let mut items = word.split(',');
            items.any(|item| matches!(item.trim_end_matches("/1"), "*" | "?"))
        };
        let [minutes, hours, days, months, weekdays] = sets;
        Ok(Self::Fields(Fields {
            minutes,
            hours,
            days,
            months,
            weekdays,
            is_any_day: is_star(words[2]) || is_star(words[4]),
        }))
    }

    /// The first time after `after` at which it is due; `None` where there is none in five years.
    pub fn next(&self, after: DateTime) -> Option<DateTime> {
        match self {
            Self::Every(pause) => {
                let due = after.checked_add(*pause).ok()?;
                due.with().subsec_nanosecond(0).build().ok()
            }
            Self::Fields(fields) => fields.next(after),
        }
    }
}

impl Fields {
    fn next(&self, after: DateTime) -> Option<DateTime> {
        let has = |set: u64, value: i8| value >= 0 && set & (1 << value) != 0;
        let start = after.with().second(0).subsec_nanosecond(0).build().ok()?;
        let mut at = start.checked_add(1.minute()).ok()?;
        let last = after.year().checked_add(5)?;
        while at.year() <= last {
            at = if !has(self.months, at.month()) {
                let first = at.date().first_of_month().checked_add(1.month()).ok()?;
                first.at(0, 0, 0, 0)
            } else if !self.is_due_on(at) {
                at.date().tomorrow().ok()?.at(0, 0, 0, 0)
            } else if !has(self.hours, at.hour()) {
                let hour = at.with().minute(0).build().ok()?;
                hour.checked_add(1.hour()).ok()?
            } else if !has(self.minutes, at.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at);
            };
        }
        None
    }

    fn is_due_on(&self, at: DateTime) -> bool {
        let day = self.days & (1 << at.day()) != 0;
        let weekday = self.weekdays & (1 << at.weekday().to_sunday_zero_offset()) != 0;
        match self.is_any_day {
            true => day && weekday,
            false => day || weekday,
        }
    }
}

fn descriptor(text: &str) -> Result<Schedule, Error> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => "",
    };
    if !fields.is_empty() {
        return Schedule::parse(fields);
    }
    let Some(pause) = text.strip_prefix("@every ") else {
        return Err(Error(format!("unrecognized descriptor: {text}")));
    };
    let pause = super::duration::parse(pause)
        .ok_or_else(|| Error(format!("failed to parse duration {text}")))?;
    let seconds = pause.as_secs().max(1);
    Ok(Schedule::Every(SignedDuration::from_secs(seconds)))
}

/// `*`, `5`, `1-5`, each with `/2`.
fn range(text: &str, part: &Part) -> Result<u64, Error> {
    let mut pieces = text.split('/');
    let ends = pieces.next().unwrap_or_default();
    let step = pieces.next();
    if pieces.next().is_some() {
        return Err(Error(format!("too many slashes: {text}")));
    }
    let (start, mut end) = match ends.split_once('-') {
        _ if ends == "*" || ends == "?" => (part.least, part.most),
        None => {
            let value = value(ends, part)?;
            (value, value)
        }
        Some((_, more)) if more.contains('-') => {
            return Err(Error(format!("too many hyphens: {text}")));
        }
        Some((start, end)) => (value(start, part)?, value(end, part)?),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            if !ends.contains(['-', '*', '?']) {
                end = part.most;
            }
            number(step)?
        }
    };
    let wrong = match () {
        () if start < part.least => {
            format!(
                "beginning of range ({start}) below minimum ({}): {text}",
                part.least
            )
        }
        () if end > part.most => {
            format!("end of range ({end}) above maximum ({}): {text}", part.most)
        }
        () if start > end => {
            format!("beginning of range ({start}) beyond end of range ({end}): {text}")
        }
        () if step == 0 => format!("step of range should be a positive number: {text}"),
        () => String::new(),
    };
    if !wrong.is_empty() {
        return Err(Error(wrong));
    }
    let values = (start..=end).step_by(step as usize);
    Ok(values.fold(0, |set, value| set | 1 << value))
}

fn value(text: &str, part: &Part) -> Result<u32, Error> {
    let named = part
        .names
        .iter()
        .position(|name| text.eq_ignore_ascii_case(name));
    match named.and_then(|at| u32::try_from(at).ok()) {
        Some(at) => Ok(part.first + at),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, Error> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(Error(format!(
            "negative number ({number}) not allowed: {text}"
        ))),
        Ok(number) => u32::try_from(number).map_err(|_| {
            Error(format!(
                "failed to parse int from {text}: value out of range"
            ))
        }),
        Err(_) => Err(Error(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_due_when_cron_says() {
        for (schedule, after, due) in [
            ("*/15 * * * *", "2026-01-01T00:01:30", "2026-01-01T00:15:00"),
            (
                "0 9-17/4 * * mon-fri",
                "2026-01-02T17:30:00",
                "2026-01-05T09:00:00",
            ),
            (
                "30 4 1,15 * 5",
                "2026-01-01T05:00:00",
                "2026-01-02T04:30:00",
            ),
            ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("@monthly", "2026-01-31T10:00:00", "2026-02-01T00:00:00"),
            ("@every 90m", "2026-01-01T00:00:00", "2026-01-01T01:30:00"),
        ] {
            let next = Schedule::parse(schedule)
                .unwrap()
                .next(after.parse().unwrap());
            assert_eq!(next, Some(due.parse().unwrap()), "{schedule}");
        }
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(never.next("2026-01-01T00:00:00".parse().unwrap()), None);
    }

    #[test]
    fn errors_are_the_parsers() {
        for (schedule, error) in [
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            let found = Schedule::parse(schedule).unwrap_err().to_string();
            assert_eq!(found, error);
        }
    }
}
