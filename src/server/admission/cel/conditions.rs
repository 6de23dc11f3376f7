//! `matchConditions`: all must hold, and what cannot be evaluated is as the failure policy says
//! (`k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions`).

use serde_json::Value;

use super::{Expression, Outcome, Scope};

/// Compiled `matchConditions`.
#[derive(Debug, Default)]
pub(in crate::server::admission) struct Conditions(Vec<Expression>);

impl Conditions {
    /// From the JSON list.
    pub(in crate::server::admission) fn of(conditions: &Value) -> Self {
        let conditions = conditions.as_array().into_iter().flatten();
        let sources = conditions.filter_map(|condition| condition["expression"].as_str());
        Self(sources.map(Expression::compile).collect())
    }

    pub(in crate::server::admission) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not decides, also where another fails.
    pub(in crate::server::admission) fn hold(
        &self,
        scope: &Scope,
        fails_open: bool,
    ) -> Result<bool, String> {
        let mut errors = Vec::new();
        for condition in &self.0 {
            match condition.evaluate(scope) {
                Ok(Outcome::Bool(true)) => {}
                Ok(Outcome::Bool(false)) => return Ok(false),
                Ok(_) => errors.push(format!(
                    "expression '{}' resulted in error: must evaluate to bool",
                    condition.source
                )),
                Err(error) => errors.push(error),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            _ if fails_open => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_that_does_not_hold_decides_and_errors_follow_the_policy() {
        let scope = Scope::new(&json!({"a": 1}), &Value::Null, &json!({}));
        let hold = |sources: &[&str], fails_open| {
            let list = sources
                .iter()
                .map(|s| json!({"name": "c", "expression": s}));
            Conditions::of(&Value::Array(list.collect())).hold(&scope, fails_open)
        };
        assert_eq!(hold(&["object.a == 1"], false), Ok(true));
        assert_eq!(hold(&["object.b", "object.a == 2"], false), Ok(false));
        assert_eq!(hold(&["object.b == 1"], true), Ok(false));
        assert_eq!(
            hold(&["object.b == 1", "object.a == 1"], false).unwrap_err(),
            "expression 'object.b == 1' resulted in error: no such key: b"
        );
    }
}
