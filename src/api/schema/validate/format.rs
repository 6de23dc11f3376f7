//! Formats of texts (`kube-openapi/pkg/validation/strfmt`). A format that is not known is not
//! checked.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine;
use regex::Regex;

use crate::api::{duration, name};

static EMAIL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[^@\s]+@[A-Za-z0-9.\-\[\]:]+$").ok());
static HOST: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$").ok()
});
static UUID: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?([0-9a-f])[0-9a-f]{3}-?([0-9a-f])[0-9a-f]{3}-?[0-9a-f]{12}$").ok()
});
static HEX_COLOR: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$").ok());
static RGB_COLOR: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$").ok()
});
static DURATION: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^((\d+)\s*([A-Za-zµ]+))(\s*(\d+)\s*([A-Za-zµ]+))*$").ok());

/// Whether `text` has the form `format`.
pub(super) fn has(format: &str, text: &str) -> bool {
    let matches =
        |regex: &LazyLock<Option<Regex>>| regex.as_ref().is_none_or(|regex| regex.is_match(text));
    // Upstream takes dashes out of format names (`date-time`, `datetime`).
    match format.replace('-', "").as_str() {
        "datetime" => is_date_time(text),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => duration::parse(text).is_some() || matches(&DURATION),
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok(),
        "email" => matches(&EMAIL),
        "hostname" => text.len() <= 255 && (matches(&HOST) || text.parse::<Ipv4Addr>().is_ok()),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "mac" => is_mac(text),
        "uri" => text.contains(':') && text.parse::<http::Uri>().is_ok(),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => matches(&UUID) && has_version(format, text),
        "hexcolor" => matches(&HEX_COLOR),
        "rgbcolor" => matches(&RGB_COLOR),
        "isbn" | "isbn10" | "isbn13" => is_isbn(format, text),
        "creditcard" => text.chars().filter(char::is_ascii_digit).count() >= 13,
        "ssn" => is_ssn(text),
        "k8sshortname" => name::dns1123_label(text).is_empty(),
        "k8slongname" => name::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn is_date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let has_shape =
        bytes.len() >= 19 && bytes[4] == b'-' && matches!(bytes[10], b'T' | b't' | b' ');
    let has_zone =
        text.ends_with(['Z', 'z']) || bytes.iter().rev().take(6).any(|b| matches!(b, b'+' | b'-'));
    has_shape && has_zone && text.parse::<jiff::Timestamp>().is_ok()
}

fn is_mac(text: &str) -> bool {
    let mark = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<_> = text.split(mark).collect();
    let is_hex = |part: &&str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(is_hex)
}

fn has_version(format: &str, text: &str) -> bool {
    let Some(wanted) = format
        .strip_prefix("uuid")
        .filter(|version| !version.is_empty())
    else {
        return true;
    };
    let bare: String = text.chars().filter(|c| *c != '-').collect();
    bare.get(12..13) == Some(wanted)
}

fn is_isbn(format: &str, text: &str) -> bool {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let value = |c: char| c.to_digit(10).or((c == 'X').then_some(10));
    let values: Option<Vec<u32>> = digits.chars().map(value).collect();
    let Some(values) = values else {
        return false;
    };
    let ten = || {
        values.len() == 10 && {
            let sum: u32 = (1..).zip(&values).map(|(n, v): (u32, _)| n * v).sum();
            sum.is_multiple_of(11)
        }
    };
    let thirteen = || {
        values.len() == 13 && {
            let sum: u32 = values
                .iter()
                .enumerate()
                .map(|(n, v)| if n % 2 == 0 { *v } else { 3 * v })
                .sum();
            sum.is_multiple_of(10)
        }
    };
    match format {
        "isbn10" => ten(),
        "isbn13" => thirteen(),
        _ => ten() || thirteen(),
    }
}

fn is_ssn(text: &str) -> bool {
    let parts: Vec<_> = text.split(['-', ' ']).collect();
    let digits =
        |part: &str, len: usize| part.len() == len && part.chars().all(|c| c.is_ascii_digit());
    matches!(parts[..], [a, b, c] if digits(a, 3) && digits(b, 2) && digits(c, 4))
}
