//! Times as Kubernetes prints and reads them: RFC 3339 in UTC, to the second (`Time`) or to the
//! microsecond (`MicroTime`); and the short durations of `kubectl get`.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Reads an RFC 3339 time with any offset and any fraction of a second.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// `2006-01-02T15:04:05Z`
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2006-01-02T15:04:05.000000Z`
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// How long ago `at` was, for a table; `<unknown>` where it is not a time.
pub fn age(at: &Value, now: Timestamp) -> String {
    match at.as_str().and_then(parse) {
        Some(at) => human(now.duration_since(at)),
        None => "<unknown>".to_owned(),
    }
}

/// At most two units, as `k8s.io/apimachinery/pkg/util/duration.HumanDuration` prints them.
pub fn human(duration: SignedDuration) -> String {
    let total = duration.as_secs();
    let (minutes, hours) = (total / 60, total / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match () {
        () if total < -1 => "<invalid>".to_owned(),
        () if total < 0 => "0s".to_owned(),
        () if total < 120 => format!("{total}s"),
        () if minutes < 10 => two_units(minutes, "m", total % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two_units(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two_units(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two_units(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

fn two_units(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_durations_are_upstreams() {
        let (minute, hour, day) = (60, 3600, 86400);
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (2 * minute, "2m"),
            (5 * minute + 7, "5m7s"),
            (10 * minute + 7, "10m"),
            (179 * minute, "179m"),
            (3 * hour, "3h"),
            (3 * hour + 5 * minute, "3h5m"),
            (47 * hour, "47h"),
            (3 * day, "3d"),
            (3 * day + 4 * hour, "3d4h"),
            (8 * day + 4 * hour, "8d"),
            (729 * day, "729d"),
            (730 * day, "2y"),
            (735 * day, "2y5d"),
            (365 * 9 * day, "9y"),
        ] {
            assert_eq!(human(SignedDuration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn times_are_printed_in_utc_and_cut_not_rounded() {
        let at = parse("2026-01-02T03:04:05.9999999+01:00").unwrap();
        assert_eq!(seconds(at), "2026-01-02T02:04:05Z");
        assert_eq!(micros(at), "2026-01-02T02:04:05.999999Z");
        assert_eq!(parse("yesterday"), None);
    }
}
