//! Quantities as whole numbers, as `resource.Quantity.MilliValue` and `.Value` give them: rounded
//! away from zero, and at the ends of `i64` where they do not fit.

/// In thousandths: `0.1`, `100m` and `1e-1` are 100. `None` where `text` is no quantity.
pub(crate) fn milli(text: &str) -> Option<i64> {
    scaled(text, 3)
}

/// In whole units: `1Ki` is 1024, `100m` is 1. `None` where `text` is no quantity.
pub(crate) fn units(text: &str) -> Option<i64> {
    scaled(text, 0)
}

/// `text` in units of 10^-`digits`.
fn scaled(text: &str, digits: i32) -> Option<i64> {
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (binary, exponent) = scale(suffix)?;
    // Past 18 digits of fraction nothing changes the rounded result of any amount in use.
    let fraction = &fraction[..fraction.len().min(18)];
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let exponent = exponent + digits - i32::try_from(fraction.len()).ok()?;
    let magnitude = shift(mantissa.saturating_mul(1 << binary), exponent);
    let value = if negative { -magnitude } else { magnitude };
    Some(i64::try_from(value).unwrap_or(if negative { i64::MIN } else { i64::MAX }))
}

/// Binary and decimal exponent of a suffix.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

/// `value` × 10^`exponent`, rounded up.
fn shift(value: i128, exponent: i32) -> i128 {
    let power = 10i128
        .checked_pow(exponent.unsigned_abs())
        .unwrap_or(i128::MAX);
    if exponent >= 0 {
        value.saturating_mul(power)
    } else {
        value / power + i128::from(value % power != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_quantity_is_read_and_rounded_up() {
        for (text, thousandths, whole) in [
            ("100m", 100, 1),
            ("0.1", 100, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("1e3", 1_000_000, 1000),
            ("12E", i64::MAX, i64::MAX),
            ("1n", 1, 1),
            ("-1500m", -1500, -2),
            (".5", 500, 1),
        ] {
            assert_eq!(milli(text), Some(thousandths), "{text}");
            assert_eq!(units(text), Some(whole), "{text}");
        }
        for text in ["", "Gi", "1Gib", "1.2.3", "one", "-"] {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
