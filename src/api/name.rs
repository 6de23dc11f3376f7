//! Rules for names, as `k8s.io/apimachinery/pkg/util/validation` words them: each check returns
//! what is wrong, or nothing.

/// Longest DNS-1123 or DNS-1035 label.
pub const LABEL_MAX: usize = 63;
/// Longest DNS-1123 subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must \
                              start and end with an alphanumeric character";

/// `message (e.g. 'a',  or 'b', regex used for validation is 'form')`, as upstream prints it.
pub fn regex_error(message: &str, form: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{form}')");
    }
    let quoted: Vec<_> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!(
        "{message} (e.g. {}regex used for validation is '{form}')",
        quoted.join(" or ")
    )
}

/// `must be no more than N bytes`
pub fn max_len_error(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

/// A DNS-1123 label (`my-name`).
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    if !is_label(value) {
        let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
                       characters or '-', and must start and end with an alphanumeric character";
        wrong.push(regex_error(message, LABEL_FORM, &["my-name", "123-abc"]));
    }
    wrong
}

/// A DNS-1123 subdomain (`example.com`).
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    if !value.split('.').all(is_label) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                       characters, '-' or '.', and must start and end with an alphanumeric \
                       character";
        let form = format!("{LABEL_FORM}(\\.{LABEL_FORM})*");
        wrong.push(regex_error(message, &form, &["example.com"]));
    }
    wrong
}

/// A DNS-1123 subdomain behind a wildcard (`*.example.com`).
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    let below = value.strip_prefix("*.");
    if !below.is_some_and(|below| below.split('.').all(is_label)) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
                       subdomain, which must consist of lower case alphanumeric characters, '-' or \
                       '.' and end with an alphanumeric character";
        let form = format!("\\*\\.{LABEL_FORM}(\\.{LABEL_FORM})*");
        wrong.push(regex_error(message, &form, &["*.example.com"]));
    }
    wrong
}

/// A DNS-1035 label (`my-name`, not `1-name`).
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    let starts_well = value.starts_with(|c: char| c.is_ascii_lowercase());
    if !starts_well || !is_label(value) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or \
                       '-', start with an alphabetic character, and end with an alphanumeric \
                       character";
        let form = "[a-z]([-a-z0-9]*[a-z0-9])?";
        wrong.push(regex_error(message, form, &["my-name", "abc-123"]));
    }
    wrong
}

/// A qualified name: `name` or `example.com/name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let form_error = || {
        regex_error(
            QUALIFIED_TEXT,
            QUALIFIED_FORM,
            &["MyName", "my.name", "123-abc"],
        )
    };
    let mut wrong = Vec::new();
    let mut parts = value.split('/');
    let first = parts.next().unwrap_or_default();
    let name = match (parts.next(), parts.next()) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            }
            let prefix_errors = match first {
                "" => Vec::new(),
                prefix => dns1123_subdomain(prefix),
            };
            wrong.extend(prefix_errors.iter().map(|e| format!("prefix part {e}")));
            name
        }
        (Some(_), Some(_)) => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')",
                form_error()
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        wrong.push(format!("name part {}", max_len_error(LABEL_MAX)));
    }
    if !is_qualified(name) {
        wrong.push(format!("name part {}", form_error()));
    }
    wrong
}

/// A label's value: empty, or like the name part of a qualified name.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    if !value.is_empty() && !is_qualified(value) {
        let message = "a valid label must be an empty string or consist of alphanumeric \
                       characters, '-', '_' or '.', and must start and end with an alphanumeric \
                       character";
        let form = format!("({QUALIFIED_FORM})?");
        wrong.push(regex_error(
            message,
            &form,
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// A name that can be one segment of a URL path (RBAC objects).
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." | ".." => vec![format!("may not be '{value}'")],
        _ => path_segment_prefix(value),
    }
}

/// The start of a [`path_segment`].
pub fn path_segment_prefix(value: &str) -> Vec<String> {
    ["/", "%"]
        .iter()
        .filter(|bad| value.contains(**bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(allowed) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        let examples = ["key.name", "KEY_NAME", "key-name"];
        wrong.push(regex_error(message, "[-._a-zA-Z0-9]+", &examples));
    }
    match value {
        "." | ".." => wrong.push(format!("must not be '{value}'")),
        _ if value.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// A name of an environment variable: printable ASCII without `=`.
pub fn env_var(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.is_empty() {
        wrong.push("environment variable name must be non-empty".to_owned());
    }
    if !value
        .bytes()
        .all(|c| (b' '..=b'~').contains(&c) && c != b'=')
    {
        wrong.push(
            "a valid environment variable name must consist only of printable ASCII characters \
             other than '='"
                .to_owned(),
        );
    }
    wrong
}

/// A name of a container's port (`http`, at most 15 characters, one of them a letter).
pub fn port_name(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, 15);
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if value.is_empty() || !value.bytes().all(allowed) {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        wrong.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".into());
    }
    wrong
}

/// A port number.
pub fn port_number(value: i64) -> Vec<String> {
    range(value, 1, 65535)
}

/// `must be between least and most, inclusive`
pub fn range(value: i64, least: i64, most: i64) -> Vec<String> {
    if (least..=most).contains(&value) {
        return Vec::new();
    }
    vec![format!("must be between {least} and {most}, inclusive")]
}

/// A name of an HTTP header.
pub fn http_header(value: &str) -> Vec<String> {
    if !value.is_empty()
        && value
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// Whether `value` is a DNS-1123 label, without the length limit.
pub fn is_label(value: &str) -> bool {
    let alphanumeric = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = value.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|c| alphanumeric(c) || *c == b'-')
}

/// What a prefix of a name (`web-`) is checked as: its trailing dash may be followed by something.
pub fn mask_trailing_dash(name: &str) -> String {
    if name.len() > 1 && name.is_ascii() && name.ends_with('-') {
        return format!("{}a", &name[..name.len() - 2]);
    }
    name.to_owned()
}

fn is_qualified(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

fn too_long(value: &str, most: usize) -> Vec<String> {
    if value.len() > most {
        vec![max_len_error(most)]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns1035_label("1a"),
            [
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns1123_label(&"a".repeat(64)),
            ["must be no more than 63 bytes"]
        );
    }

    #[test]
    fn names_at_the_edges() {
        for good in ["a", "a.b-c.d", "1.2.3"] {
            assert!(dns1123_subdomain(good).is_empty(), "{good}");
        }
        for bad in ["", "a..b", "-a", "a-", "a_b", "a."] {
            assert!(!dns1123_subdomain(bad).is_empty(), "{bad}");
        }
        for good in ["app", "a.b/C_d.e", "example.com/x"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        for bad in ["", "/x", "x/", "a/b/c", "A/b", "-x"] {
            assert!(!qualified_name(bad).is_empty(), "{bad}");
        }
        assert!(label_value("").is_empty() && !label_value("a b").is_empty());
        assert!(config_key("..data")[0].contains("must not start"));
        assert!(port_name("80").len() == 1 && port_name("http-2").is_empty());
        assert!(path_segment("system:node").is_empty());
        assert_eq!(
            path_segment("a/b%"),
            ["may not contain '/'", "may not contain '%'"]
        );
        assert_eq!(mask_trailing_dash("web-"), "wea");
    }
}
