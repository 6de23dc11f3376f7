//! Texts with a form of their own, brought into the one form that upstream writes.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::quantity::Quantity;

/// The form of a time to the second.
const SECONDS: &str = "0000-00-00T00:00:00Z";
/// The form of a time to the microsecond.
const MICROS: &str = "0000-00-00T00:00:00.000000Z";

/// Go's `base64.StdEncoding`: padding is needed, bits left over may be anything.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// `metav1.Time`
pub(super) fn time(text: String) -> Result<String, String> {
    if has_form(&text, SECONDS) && text.parse::<Timestamp>().is_ok() {
        return Ok(text);
    }
    let at = parse(&text, "2006-01-02T15:04:05Z07:00")?;
    Ok(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// `metav1.MicroTime`
pub(super) fn micro_time(text: String) -> Result<String, String> {
    if has_form(&text, MICROS) && text.parse::<Timestamp>().is_ok() {
        return Ok(text);
    }
    let at = parse(&text, "2006-01-02T15:04:05.000000Z07:00")?;
    Ok(at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string())
}

fn has_form(text: &str, form: &str) -> bool {
    let same = |(c, f): (u8, u8)| {
        if f == b'0' {
            c.is_ascii_digit()
        } else {
            c == f
        }
    };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(same)
}

fn parse(text: &str, layout: &str) -> Result<jiff::Zoned, String> {
    let parsed = text.parse::<Timestamp>().ok().filter(|_| is_rfc3339(text));
    let at = parsed.ok_or_else(|| {
        format!("parsing time \"{text}\" as \"{layout}\": cannot parse \"{text}\" as \"2006\"")
    })?;
    Ok(at.to_zoned(TimeZone::UTC))
}

/// The crate reads more than RFC 3339 allows; this is what Go reads.
fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let zone = |rest: &[u8]| match rest {
        [b'Z'] => true,
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|c| c.is_ascii_digit()),
        _ => false,
    };
    if bytes.len() < 20 || !has_form(&text[..19], &SECONDS[..19]) {
        return false;
    }
    match &bytes[19..] {
        [b'.' | b',', fraction @ ..] => {
            let digits = fraction.iter().take_while(|c| c.is_ascii_digit()).count();
            digits > 0 && zone(&fraction[digits..])
        }
        rest => zone(rest),
    }
}

/// `[]byte`: base64, where line ends are allowed in between.
pub(super) fn bytes(text: String) -> Result<String, String> {
    let plain = if text.contains(['\r', '\n']) {
        text.replace(['\r', '\n'], "")
    } else {
        text
    };
    match BASE64.decode(&plain) {
        Ok(_) => Ok(plain),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => plain.len() / 4 * 4,
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// `resource.Quantity`: checked, and written as upstream writes it.
pub(super) fn quantity(text: &str) -> Result<String, String> {
    let parsed: Result<Quantity, _> = text.trim().parse();
    parsed
        .map(|q| q.to_string())
        .map_err(|error| error.to_string())
}
