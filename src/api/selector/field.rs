//! Field selectors (`k8s.io/apimachinery/pkg/fields`): `spec.nodeName=a,status.phase!=Failed`.

use std::fmt;

/// What was wrong with a field selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A term without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The part that is not a term.
        term: String,
    },
    /// A backslash before something else than `\`, `,` or `=`.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
}

/// One term: `field=value` or `field!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// For instance `spec.nodeName`.
    pub field: String,
    /// Compared as it is.
    pub value: String,
    /// Whether the field must be different from `value` instead of equal.
    pub negated: bool,
}

/// A conjunction of terms; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

impl Selector {
    /// Reads the form of a query string.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let terms = split(text).into_iter().filter(|term| !term.is_empty());
        terms
            .map(|term| parse_term(text, term))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// `field=value`
    pub fn equals(field: &str, value: &str) -> Self {
        Self(vec![Term {
            field: field.to_owned(),
            value: value.to_owned(),
            negated: false,
        }])
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The terms, in the order written.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// The value `field` must have, where there is exactly one such; lets a list of one name or
    /// one node be a look-up.
    pub fn required(&self, field: &str) -> Option<&str> {
        let term = self.0.iter().find(|t| t.field == field && !t.negated)?;
        Some(&term.value)
    }

    /// Whether all terms hold; `value_of` gives the value of a field, empty where it has none.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|term| {
            let value = value_of(&term.field).unwrap_or_default();
            (value == term.value) != term.negated
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// Puts a backslash before what would end or split a value.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// At commas that are not escaped.
fn split(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut in_escape) = (0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if in_escape => in_escape = false,
            '\\' => in_escape = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_term(selector: &str, term: &str) -> Result<Term, Error> {
    for (index, _) in term.char_indices() {
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = term[index..].strip_prefix(operator) {
                return Ok(Term {
                    field: term[..index].to_owned(),
                    value: unescape(value)?,
                    negated,
                });
            }
        }
    }
    Err(Error::Term {
        selector: selector.to_owned(),
        term: term.to_owned(),
    })
}

fn unescape(value: &str) -> Result<String, Error> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => plain.push(next),
                next => {
                    return Err(Error::Escape(format!(
                        "\\{}",
                        next.map_or_else(String::new, String::from)
                    )));
                }
            },
            // An operator in a value must be escaped, as upstream.
            ',' | '=' => return Err(Error::Escape(c.to_string())),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_parsed_printed_and_matched() {
        let selector = Selector::parse("spec.nodeName=a,status.phase!=Failed,x==b\\,c").unwrap();
        assert_eq!(
            selector.to_string(),
            "spec.nodeName=a,status.phase!=Failed,x=b\\,c"
        );
        assert_eq!(selector.required("spec.nodeName"), Some("a"));
        assert_eq!(selector.required("status.phase"), None);
        let value = |phase: &'static str| {
            move |field: &str| match field {
                "spec.nodeName" => Some("a"),
                "status.phase" => Some(phase),
                "x" => Some("b,c"),
                _ => None,
            }
        };
        assert!(selector.matches(value("Running")));
        assert!(!selector.matches(value("Failed")));
        assert!(Selector::parse("").unwrap().is_empty());
        assert!(Selector::parse("spec.nodeName=").unwrap().matches(|_| None));
    }

    #[test]
    fn errors_are_upstreams() {
        assert_eq!(
            Selector::parse("a=b,nonsense").unwrap_err().to_string(),
            "invalid selector: 'a=b,nonsense'; can't understand 'nonsense'"
        );
        assert!(Selector::parse("a=b\\c").is_err() && Selector::parse("a=b\\").is_err());
    }
}
