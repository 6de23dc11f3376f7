//! Durations as Go reads and prints them (`metav1.Duration`): `1h30m0s`, `1.5s`, `300ms`.

use jiff::SignedDuration;

const SECOND: i128 = 1_000_000_000;
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

/// Reads `1h30m`, `-1.5s`, `0`; `None` where it is not a duration.
pub fn parse(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_len);
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let unit_len = tail.find(is_number).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, factor) = UNITS.iter().find(|(text, _)| *text == unit)?;
        total = total.checked_add(nanos(number, *factor)?)?;
        rest = tail;
    }
    let total = i64::try_from(if negative { -total } else { total }).ok()?;
    Some(SignedDuration::from_nanos(total))
}

fn nanos(number: &str, factor: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| -> Option<i128> {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse().ok()
        }
    };
    let fraction = fraction.get(..fraction.len().min(18))?;
    let divisor = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let whole = digits(whole)?.checked_mul(factor)?;
    Some(whole + digits(fraction)? * factor / divisor)
}

/// As Go's `Duration.String` prints it.
pub fn print(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.abs();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < SECOND {
        let (unit, factor) = match nanos {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{sign}{}{unit}", fraction(nanos, factor));
    }
    let seconds = fraction(nanos % (60 * SECOND), SECOND);
    let (hours, minutes) = (nanos / (3600 * SECOND), nanos / (60 * SECOND) % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `nanos / factor` without trailing zeros.
fn fraction(nanos: i128, factor: i128) -> String {
    let (whole, rest) = (nanos / factor, nanos % factor);
    if rest == 0 {
        return whole.to_string();
    }
    let width = factor.ilog10() as usize;
    let rest = format!("{rest:0width$}");
    format!("{whole}.{}", rest.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_go_prints_them() {
        for (text, printed) in [
            ("0", "0s"),
            ("1h", "1h0m0s"),
            ("90m", "1h30m0s"),
            ("1m30s", "1m30s"),
            ("1.5s", "1.5s"),
            ("300ms", "300ms"),
            ("1500us", "1.5ms"),
            ("10ns", "10ns"),
            ("-2m", "-2m0s"),
            ("1h0.001s", "1h0m0.001s"),
        ] {
            assert_eq!(print(parse(text).unwrap()), printed);
        }
        for bad in ["", "1", "s", "1x", "1h2", ".s", "-", "99999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
