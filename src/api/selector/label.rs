//! Label selectors (`k8s.io/apimachinery/pkg/labels`): `app=web,tier in (a,b),!canary`.

use std::fmt;

use serde_json::{Map, Value};

use crate::api::name;

/// What was wrong with a label selector, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=` or `==`
    Equals,
    /// `!=`: also true where the label is absent.
    NotEquals,
    /// `in (…)`
    In,
    /// `notin (…)`: also true where the label is absent.
    NotIn,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key>1`
    GreaterThan,
    /// `key<1`
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// Sorted, without duplicates.
    pub values: Vec<String>,
}

/// A conjunction of requirements. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// Where a selector looks labels up: JSON maps and the maps of typed structs.
pub trait Labels {
    /// The value of the label `key`.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for std::collections::BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<T: Labels> Labels for Option<T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl<T: Labels + ?Sized> Labels for &T {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl Requirement {
    /// Checks key, values and their number. `path` precedes field paths in error texts.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, Error> {
        check_key(key)?;
        let mut values = values;
        values.sort();
        values.dedup();
        let wrong = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            let list = Value::from(values);
            return Err(Error(format!("values: Invalid value: {list}: {wrong}")));
        }
        for (index, value) in values.iter().enumerate() {
            let is_number = value.parse::<i64>().is_ok();
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && !is_number {
                return Err(Error(format!(
                    "values[{index}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the \
                     value must be an integer"
                )));
            }
            let errors = name::label_value(value);
            if !errors.is_empty() {
                return Err(Error(format!(
                    "values[{index}][{key}]: Invalid value: {value:?}: {}",
                    errors.join("; ")
                )));
            }
        }
        Ok(Self {
            key: key.to_owned(),
            operator,
            values,
        })
    }

    /// Whether `labels` meet it.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let value = labels.label(&self.key);
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value).is_some_and(std::cmp::Ordering::is_gt),
            Operator::LessThan => self.compare(value).is_some_and(std::cmp::Ordering::is_lt),
        }
    }

    fn compare(&self, value: Option<&str>) -> Option<std::cmp::Ordering> {
        let value: i64 = value?.parse().ok()?;
        let limit: i64 = self.values.first()?.parse().ok()?;
        Some(value.cmp(&limit))
    }
}

impl Selector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Reads the form of a query string.
    pub fn parse(text: &str) -> Result<Self, Error> {
        super::label_parser::parse(text).map(Self::from_requirements)
    }

    /// Requirements that must all hold.
    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            requirements,
            nothing: false,
        }
    }

    /// Every label of `set` must be there with its value (`spec.selector` of a Service, a
    /// `nodeSelector`). Nothing is checked; an empty set selects everything.
    pub fn from_set<'a>(set: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirements = set.into_iter().map(|(key, value)| Requirement {
            key: key.to_owned(),
            operator: Operator::Equals,
            values: vec![value.to_owned()],
        });
        Self::from_requirements(requirements.collect())
    }

    /// From a `metav1.LabelSelector`: absent (null) selects nothing, empty selects everything.
    pub fn from_label_selector(selector: &Value) -> Result<Self, Error> {
        let Some(selector) = selector.as_object() else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
            }
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            requirements.push(from_expression(expression)?);
        }
        Ok(Self::from_requirements(requirements))
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// What must hold; empty for both "everything" and "nothing".
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether `labels` meet every requirement.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

/// `metav1.FormatLabelSelector`, for tables: `<none>` where empty, `<error>` where invalid.
pub fn format_label_selector(selector: &Value) -> String {
    match Selector::from_label_selector(selector) {
        Ok(selector) => match selector.to_string() {
            text if text.is_empty() => "<none>".to_owned(),
            text => text,
        },
        Err(_) => "<error>".to_owned(),
    }
}

/// What is wrong with a label's key.
pub(super) fn check_key(key: &str) -> Result<(), Error> {
    let errors = name::qualified_name(key);
    if errors.is_empty() {
        return Ok(());
    }
    // Upstream passes no path here and so prints `<nil>`.
    Err(Error(format!(
        "<nil>: Invalid value: {key:?}: {}",
        errors.join("; ")
    )))
}

fn from_expression(expression: &Value) -> Result<Requirement, Error> {
    let operator = match expression["operator"].as_str().unwrap_or_default() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            return Err(Error(format!(
                "{other:?} is not a valid label selector operator"
            )));
        }
    };
    let values = expression["values"].as_array().into_iter().flatten();
    let values = values
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    Requirement::new(
        expression["key"].as_str().unwrap_or_default(),
        operator,
        values,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(selector: &str, labels: &Value) -> bool {
        Selector::parse(selector).unwrap().matches(labels)
    }

    #[test]
    fn requirements_match_as_upstream() {
        let labels = json!({"app": "web", "tier": "a", "n": "5", "empty": ""});
        for yes in [
            "",
            "app",
            "app=web",
            "app==web",
            "app!=db",
            "other!=x",
            "!other",
            "tier in (a,b)",
            "tier notin (c)",
            "other notin (c)",
            "n>4",
            "n<6",
            "empty=",
            "empty",
            "app,tier=a,!x",
            " app = web , tier in ( a , b ) ",
            "empty in (,x)",
        ] {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in [
            "other",
            "app=db",
            "app!=web",
            "!app",
            "tier in (b)",
            "tier notin (a)",
            "other in (a)",
            "n>5",
            "app>1",
            "other=",
            "app,!tier",
        ] {
            assert!(!matches(no, &labels), "{no}");
        }
    }

    #[test]
    fn printing_sorts_keys_and_values() {
        let selector = Selector::parse("z in (b,a,b),a==1,!m,k notin (x),e,g>1,n!=q").unwrap();
        assert_eq!(
            selector.to_string(),
            "a=1,e,g>1,k notin (x),!m,n!=q,z in (a,b)"
        );
    }

    #[test]
    fn label_selectors_absent_empty_and_set() {
        assert!(
            !Selector::from_label_selector(&Value::Null)
                .unwrap()
                .matches(&json!({}))
        );
        assert!(
            Selector::from_label_selector(&json!({}))
                .unwrap()
                .matches(&json!({}))
        );
        let selector = json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["e", "d"]}]});
        assert_eq!(format_label_selector(&selector), "a=b,c in (d,e)");
        let bad = json!({"matchExpressions": [{"key": "c", "operator": "Is"}]});
        assert_eq!(
            Selector::from_label_selector(&bad).unwrap_err().0,
            "\"Is\" is not a valid label selector operator"
        );
        assert_eq!(format_label_selector(&Value::Null), "<none>");
    }

    #[test]
    fn errors_are_upstreams() {
        let error = |text: &str| Selector::parse(text).unwrap_err().0;
        assert_eq!(
            error("a b"),
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert_eq!(
            error("a=b=c"),
            "found '=', expected: ',' or 'end of string'"
        );
        assert_eq!(error("a=b,"), "found '', expected: identifier after ','");
        assert_eq!(
            error("=a"),
            "found '=', expected: !, identifier, or 'end of string'"
        );
        assert_eq!(
            error("a in x"),
            "unable to parse requirement: found 'x' expected: '('"
        );
        assert!(error("-a=b").starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"
        ));
        assert!(error("a=-b").starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must"
        ));
        assert!(error("a in ()").contains("values set can't be empty"));
    }
}
