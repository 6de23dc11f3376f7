//! Amounts of resources (`k8s.io/apimachinery/pkg/api/resource.Quantity`): `100m`, `1.5Gi`, `1e3`.
//!
//! An amount is kept exactly, in billionths; what is finer is rounded away from zero, and what is
//! more than 2⁶³−1 units is cut to that, both as upstream. Printing gives the canonical form: the
//! largest suffix that needs no fraction.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
const MOST: i128 = i64::MAX as i128 * NANO;

/// Why a text is not a quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither number nor suffix could be made out.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Form,
    /// The suffix is none of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Which suffixes a quantity prints with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `k`, `M`, `m` …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi` …
    BinarySi,
    /// `e3`, `e6` …
    DecimalExponent,
}

/// An amount and how it was written. Equality and order are of the amount alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self {
        nano: 0,
        format: Format::DecimalSi,
    };

    /// So many units.
    pub const fn units(units: i64) -> Self {
        Self {
            nano: units as i128 * NANO,
            format: Format::DecimalSi,
        }
    }

    /// So many thousandths.
    pub const fn milli(milli: i64) -> Self {
        Self {
            nano: milli as i128 * (NANO / 1000),
            format: Format::DecimalSi,
        }
    }

    /// So many bytes, printed with binary suffixes.
    pub const fn bytes(bytes: i64) -> Self {
        Self {
            nano: bytes as i128 * NANO,
            format: Format::BinarySi,
        }
    }

    /// From JSON: a text or a number.
    pub fn from_json(value: &Value) -> Result<Self, Error> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(Error::Form),
        }
    }

    /// Units, rounded up.
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths of a unit, rounded up.
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// Billionths of a unit, exactly.
    pub fn nano(self) -> i128 {
        self.nano
    }

    /// How it prints.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    fn scaled(self, unit: i128) -> i64 {
        let up = i128::from(self.nano % unit > 0);
        let value = self.nano / unit + up;
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }

    fn with(self, nano: i128, other: Self) -> Self {
        // As upstream: nothing takes the format of what it is added to.
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        let nano = nano.clamp(-MOST, MOST);
        Self { nano, format }
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.with(self.nano + other.nano, other)
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.with(self.nano - other.nano, other)
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, |sum, item| sum + item)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let is_digit = |c: char| c.is_ascii_digit();
        let whole_len = unsigned.find(|c| !is_digit(c)).unwrap_or(unsigned.len());
        let (whole, rest) = unsigned.split_at(whole_len);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len())),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(Error::Form);
        }
        let (scale, format) = parse_suffix(suffix)?;
        let magnitude = match scale {
            Scale::Binary(power) => binary(whole, fraction, power),
            Scale::Decimal(exponent) => decimal(whole, fraction, exponent),
        };
        let magnitude = magnitude.unwrap_or(MOST).min(MOST);
        let nano = if negative { -magnitude } else { magnitude };
        Ok(Self { nano, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let is_small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !is_small && self.is_whole() {
            return print_binary(self.nano / NANO, f);
        }
        let mut exponent = 18;
        while self.nano % power_of_ten(exponent + 9) != 0 {
            exponent -= 3;
        }
        let number = self.nano / power_of_ten(exponent + 9);
        match (self.format, exponent) {
            (_, 0) => write!(f, "{number}"),
            (Format::DecimalExponent, _) => write!(f, "{number}e{exponent}"),
            _ => write!(f, "{number}{}", si_suffix(exponent)),
        }
    }
}

/// The canonical form of a quantity in JSON, where it is one and not in that form already.
pub fn canonical(value: &Value) -> Option<String> {
    let text = Quantity::from_json(value).ok()?.to_string();
    (value.as_str() != Some(&text)).then_some(text)
}

enum Scale {
    Binary(u32),
    Decimal(i32),
}

const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] = [
    ("", 0),
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

fn parse_suffix(suffix: &str) -> Result<(Scale, Format), Error> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(text, _)| *text == suffix) {
        return Ok((Scale::Decimal(*exponent), Format::DecimalSi));
    }
    if let Some(power) = (1..).zip(BINARY).find(|(_, text)| *text == suffix) {
        return Ok((Scale::Binary(power.0), Format::BinarySi));
    }
    let is_suffix_like = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
    if !suffix.chars().all(is_suffix_like) {
        return Err(Error::Form);
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(Error::Suffix)?;
    let exponent: i64 = exponent.parse().map_err(|_| Error::Suffix)?;
    let exponent = exponent.clamp(-1000, 1000);
    let exponent = i32::try_from(exponent).map_err(|_| Error::Suffix)?;
    Ok((Scale::Decimal(exponent), Format::DecimalExponent))
}

/// `whole.fraction × 1024^power` in billionths, rounded up; `None`: too large.
fn binary(whole: &str, fraction: &str, power: u32) -> Option<i128> {
    let factor = 1024_i128.pow(power);
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let (kept, cut) = fraction.split_at(fraction.len().min(18));
    let digits = u32::try_from(kept.len()).ok()?;
    let divisor = 10_i128.pow(digits);
    let kept: i128 = if kept.is_empty() {
        0
    } else {
        kept.parse().ok()?
    };
    let product = kept * factor;
    let mut part = product / divisor * NANO;
    let rest = product % divisor * NANO;
    let is_inexact = rest % divisor != 0 || cut.bytes().any(|c| c != b'0');
    part += rest / divisor + i128::from(is_inexact);
    whole
        .checked_mul(factor)?
        .checked_mul(NANO)?
        .checked_add(part)
}

/// `whole.fraction × 10^exponent` in billionths, rounded up; `None`: too large.
fn decimal(whole: &str, fraction: &str, exponent: i32) -> Option<i128> {
    let mut digits = format!("{whole}{fraction}");
    let mut shift = 9 + exponent - i32::try_from(fraction.len()).ok()?;
    let significant = digits.trim_start_matches('0').len();
    digits = digits.split_off(digits.len() - significant);
    let mut is_inexact = false;
    // More digits than a number holds: the last ones count only as "a little more".
    while digits.len() > 36 {
        is_inexact |= digits.pop() != Some('0');
        shift += 1;
    }
    let number: i128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    if number == 0 {
        return Some(0);
    }
    if shift >= 0 {
        let factor = 10_i128.checked_pow(u32::try_from(shift).ok()?)?;
        return number
            .checked_mul(factor)?
            .checked_add(i128::from(is_inexact));
    }
    let Some(divisor) = 10_i128.checked_pow(shift.unsigned_abs()) else {
        return Some(1);
    };
    is_inexact |= number % divisor != 0;
    Some(number / divisor + i128::from(is_inexact))
}

fn print_binary(mut units: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut suffix = "";
    for next in BINARY {
        if units % 1024 != 0 {
            break;
        }
        units /= 1024;
        suffix = next;
    }
    write!(f, "{units}{suffix}")
}

fn power_of_ten(exponent: i32) -> i128 {
    10_i128.pow(u32::try_from(exponent).unwrap_or(0))
}

fn si_suffix(exponent: i32) -> &'static str {
    DECIMAL
        .iter()
        .find(|(_, e)| *e == exponent)
        .map_or("", |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(text: &str) -> String {
        text.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("-0", "0"),
            ("0.1", "100m"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("100000", "100k"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1024Mi", "1Gi"),
            ("1023", "1023"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("1.0001Ki", "1024102400u"),
            ("2048", "2048"),
            ("1e3", "1e3"),
            ("100e2", "10e3"),
            ("1E6", "1e6"),
            ("1E", "1E"),
            ("1e-3", "1e-3"),
            ("0.0000000001", "1n"),
            ("-1.5", "-1500m"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("9223372036854775808", "9223372036854775807"),
            ("10E", "9223372036854775807"),
            ("8Ei", "9223372036854775807"),
            ("1e1000", "9223372036854775807e0"),
        ] {
            let canonical = canonical.strip_suffix("e0").unwrap_or(canonical);
            assert_eq!(printed(text), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        for text in ["", "-", ".", "Gi", "a", "1 Gi", " 1", "1,5", "--1"] {
            assert_eq!(text.parse::<Quantity>(), Err(Error::Form), "{text:?}");
        }
        for text in ["10Gx", "1ki", "1KI"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
        for text in ["1K", "1mi", "1e", "1e+", "1nn", "1i"] {
            assert_eq!(text.parse::<Quantity>(), Err(Error::Suffix), "{text:?}");
        }
    }

    #[test]
    fn values_round_up_and_sums_keep_the_format() {
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(quantity("1m").value(), 1);
        assert_eq!(quantity("1500m").value(), 2);
        assert_eq!(quantity("-1500m").value(), -1);
        assert_eq!(quantity("1u").milli_value(), 1);
        assert_eq!(quantity("2").milli_value(), 2000);
        assert_eq!((quantity("1Gi") + quantity("1024Mi")).to_string(), "2Gi");
        assert_eq!((Quantity::ZERO + quantity("1Gi")).to_string(), "1Gi");
        assert_eq!((quantity("1") - quantity("100m")).to_string(), "900m");
        assert!(quantity("1Gi") > quantity("1G") && quantity("1000m") == quantity("1"));
        assert_eq!(canonical(&Value::from(2)), Some("2".to_owned()));
        assert_eq!(canonical(&Value::from("2")), None);
        assert_eq!(canonical(&Value::from("0.5")), Some("500m".to_owned()));
    }

    proptest! {
        #[test]
        fn printing_loses_nothing(nano in -MOST..=MOST, kind in 0..3) {
            let format = [Format::DecimalSi, Format::BinarySi, Format::DecimalExponent][kind as usize];
            let quantity = Quantity { nano, format };
            let again: Quantity = quantity.to_string().parse().unwrap();
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), quantity.to_string());
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "[-+0-9.eEinumkKMGTP]{0,60}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
