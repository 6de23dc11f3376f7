//! What a validating policy says of a write, from its expressions' results
//! (`k8s.io/apiserver/pkg/admission/plugin/policy/validating`).

use crate::server::admission::cel::{Outcome, Scope};

use super::config::{Policy, Validation};

const MESSAGE_BYTES_MAX: usize = 5 * 1024;
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

/// Why a validation refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    /// Place in `validations`.
    pub(super) index: usize,
    pub(super) message: String,
    /// A `StatusReason`.
    pub(super) reason: String,
}

/// All that a policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What the binding's actions are for.
    pub(super) denials: Vec<Denial>,
    /// Key and value.
    pub(super) annotations: Vec<(String, String)>,
    /// Annotations that could not be made: refused whatever the actions are.
    pub(super) broken: Vec<String>,
}

/// Evaluates a policy whose match conditions hold; variables are set.
pub(super) fn judge(policy: &Policy, scope: &Scope) -> Verdict {
    let mut verdict = Verdict::default();
    for (index, validation) in policy.validations.iter().enumerate() {
        let denial = match validation.expression.evaluate(scope) {
            Ok(Outcome::Bool(true)) => continue,
            Err(_) if policy.fails_open => continue,
            Err(why) => Denial {
                index,
                message: why,
                reason: String::new(),
            },
            Ok(_) => Denial {
                index,
                message: message(validation, scope),
                reason: validation.reason.clone(),
            },
        };
        verdict.denials.push(denial);
    }
    for (key, expression) in &policy.annotations {
        match expression.evaluate(scope) {
            Ok(Outcome::Text(text)) if !text.trim().is_empty() => {
                let text = cut(text.trim(), ANNOTATION_BYTES_MAX);
                verdict.annotations.push((key.clone(), text.to_owned()));
            }
            Ok(Outcome::Text(_) | Outcome::Null) => {}
            Ok(other) => verdict.broken.push(format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must \
                 be either string or null.",
                expression.source,
                type_of(&other)
            )),
            Err(_) if policy.fails_open => {}
            Err(why) => verdict.broken.push(why),
        }
    }
    verdict
}

fn message(validation: &Validation, scope: &Scope) -> String {
    if let Some(expression) = &validation.message_expression
        && let Ok(Outcome::Text(text)) = expression.evaluate(scope)
    {
        let text = text.trim();
        if !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n') {
            return text.to_owned();
        }
    }
    match validation.message.trim() {
        "" => format!("failed expression: {}", validation.expression.source.trim()),
        message => message.to_owned(),
    }
}

fn type_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Bool(_) => "bool".to_owned(),
        Outcome::Text(_) => "string".to_owned(),
        Outcome::Null => "null_type".to_owned(),
        Outcome::Json(json) if json.is_array() => "list".to_owned(),
        Outcome::Json(_) => "map".to_owned(),
        Outcome::Other(name) => name.clone(),
    }
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::super::config::policy;
    use super::super::select::set_variables;
    use super::*;
    use serde_json::{Value, json};

    fn judged(spec: &Value) -> Verdict {
        let object = json!({"metadata": {"name": "web"}, "spec": {"replicas": 9}});
        let mut scope = Scope::new(&object, &Value::Null, &json!({"operation": "CREATE"}));
        scope.set("params", &json!({"max": 5}));
        let policy = policy("p", spec, Vec::new());
        set_variables(&mut scope, &policy);
        judge(&policy, &scope)
    }

    fn messages(spec: &Value) -> Vec<String> {
        let denials = judged(spec).denials.into_iter();
        denials.map(|denial| denial.message).collect()
    }

    #[test]
    fn a_denial_says_why_by_expression_message_or_source() {
        let spec = json!({
            "variables": [{"name": "max", "expression": "params.max"}],
            "validations": [
                {"expression": "object.spec.replicas <= variables.max",
                 "messageExpression": "'at most ' + string(variables.max) + ' replicas'"},
                {"expression": "object.spec.replicas == 1", "message": " one only "},
                {"expression": " object.spec.replicas == 2 "},
                {"expression": "object.spec.replicas == 3", "messageExpression": "object.nothing",
                 "message": "three"},
                {"expression": "object.spec.replicas == 9"},
            ],
        });
        assert_eq!(
            messages(&spec),
            [
                "at most 5 replicas",
                "one only",
                "failed expression: object.spec.replicas == 2",
                "three",
            ]
        );
    }

    #[test]
    fn what_cannot_be_evaluated_follows_the_failure_policy() {
        let spec = |policy: &str| {
            json!({
                "failurePolicy": policy,
                "validations": [{"expression": "object.spec.nothing > 1"}],
                "auditAnnotations": [
                    {"key": "replicas", "valueExpression": "string(object.spec.replicas)"},
                    {"key": "none", "valueExpression": "null"},
                    {"key": "broken", "valueExpression": "object.nothing"},
                ],
            })
        };
        assert_eq!(
            messages(&spec("Fail")),
            ["expression 'object.spec.nothing > 1' resulted in error: no such key: nothing"]
        );
        let open = judged(&spec("Ignore"));
        assert!(open.denials.is_empty() && open.broken.is_empty());
        assert_eq!(open.annotations, [("replicas".to_owned(), "9".to_owned())]);
        assert_eq!(judged(&spec("Fail")).broken.len(), 1);
    }
}
