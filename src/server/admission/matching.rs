//! Whether a webhook or policy has to do with a write: rules, scopes, selectors, equivalent
//! versions (`k8s.io/apiserver/pkg/admission/plugin/webhook/predicates`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::object::Object;
use crate::api::selector::label::Selector;
use crate::api::status::ApiError;

use super::review::{self, Seen};
use super::{Attributes, Lookup};

const GROUP: &str = "admissionregistration.k8s.io";
const NO_LABELS: &Value = &Value::Null;

/// Which writes; of a webhook, a policy or a binding.
#[derive(Clone, Debug)]
pub(super) struct Match {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether no rules match everything (bindings, policies) or nothing (webhooks).
    is_open: bool,
    is_equivalent: bool,
    namespaces: Result<Selector, String>,
    objects: Result<Selector, String>,
}

#[derive(Clone, Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

impl Match {
    /// Of an entry of `webhooks`.
    pub(super) fn of_webhook(hook: &Value) -> Self {
        Self::new(hook, "rules", false)
    }

    /// Of `matchConstraints` or `matchResources`.
    pub(super) fn of_policy(resources: &Value) -> Self {
        Self::new(resources, "resourceRules", true)
    }

    fn new(from: &Value, rules: &str, is_open: bool) -> Self {
        let list = |field: &str| {
            let rules = from[field].as_array().into_iter().flatten();
            rules.map(Rule::of).collect()
        };
        let selector = |field: &str| match &from[field] {
            Value::Null => Ok(Selector::everything()),
            selector => Selector::from_label_selector(selector).map_err(|error| error.to_string()),
        };
        Self {
            rules: list(rules),
            excluded: list("excludeResourceRules"),
            is_open,
            is_equivalent: from["matchPolicy"] != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// What the write is shown as; `None`: it is none of theirs.
    pub(super) async fn matches(
        &self,
        lookup: &Lookup,
        attributes: &Attributes<'_>,
        sent: &Seen,
        object: Option<&Object>,
    ) -> Result<Option<Seen>, ApiError> {
        // Cheap before dear: most writes match no rule at all.
        let Some(seen) = self.by_rules(lookup, attributes, sent) else {
            return Ok(None);
        };
        let objects = self.objects.as_ref().map_err(ApiError::internal)?;
        if !objects.is_empty() && !selects(objects, object) && !selects(objects, attributes.old) {
            return Ok(None);
        }
        let namespaces = self.namespaces.as_ref().map_err(ApiError::internal)?;
        let is_in = is_in_namespaces(namespaces, lookup, attributes, object).await?;
        Ok(is_in.then_some(seen))
    }

    fn by_rules(&self, lookup: &Lookup, attributes: &Attributes<'_>, sent: &Seen) -> Option<Seen> {
        let find = |rules: &[Rule]| {
            if rules.iter().any(|rule| rule.matches(attributes, sent)) {
                return Some(sent.clone());
            }
            if !self.is_equivalent || rules.is_empty() {
                return None;
            }
            let others = Seen::equivalents(lookup, attributes);
            let mut pairs = rules.iter().flat_map(|rule| {
                others
                    .iter()
                    .filter(move |other| rule.matches(attributes, other))
            });
            pairs.next().cloned()
        };
        if find(&self.excluded).is_some() {
            return None;
        }
        if self.is_open && self.rules.is_empty() {
            return Some(sent.clone());
        }
        find(&self.rules)
    }
}

fn selects(selector: &Selector, object: Option<&Object>) -> bool {
    object.is_some_and(|object| {
        selector.matches(object.at(&["metadata", "labels"]).unwrap_or(NO_LABELS))
    })
}

async fn is_in_namespaces(
    selector: &Selector,
    lookup: &Lookup,
    attributes: &Attributes<'_>,
    object: Option<&Object>,
) -> Result<bool, ApiError> {
    let namespace = review::namespace(attributes);
    if namespace.is_empty() || selector.is_empty() {
        return Ok(true);
    }
    let is_own = attributes.is_core("namespaces") && attributes.is_put();
    if let Some(object) = object.filter(|_| is_own) {
        return Ok(selects(selector, Some(object)));
    }
    let found = lookup.find("namespaces", namespace).await?;
    let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", namespace))?;
    let labels: &BTreeMap<String, String> = &found.labels;
    Ok(selector.matches(labels))
}

/// Whether nothing is asked about writes of the resource: what configures admission must not lock
/// itself out.
pub(super) fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.def.gvr.group == GROUP
        && matches!(
            attributes.def.gvk.kind.as_str(),
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let texts = |field: &str| {
            let texts = rule[field].as_array().into_iter().flatten();
            texts.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

    fn matches(&self, attributes: &Attributes<'_>, seen: &Seen) -> bool {
        let gvr = &seen.def.gvr;
        let has = |list: &[String], item: &str| list.iter().any(|e| e == "*" || e == item);
        has(&self.operations, attributes.operation.name())
            && has(&self.groups, &gvr.group)
            && has(&self.versions, &gvr.version)
            && self.has_resource(&gvr.resource, attributes.subresource)
            && self.has_scope(attributes)
            && (self.names.is_empty() || self.names.iter().any(|n| n == attributes.name))
    }

    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|entry| {
            let (of, sub) = entry.split_once('/').unwrap_or((entry, ""));
            (of == "*" || of == resource) && (sub == "*" || sub == subresource)
        })
    }

    fn has_scope(&self, attributes: &Attributes<'_>) -> bool {
        let is_namespaced = !attributes.namespace.is_empty();
        match self.scope.as_str() {
            "Namespaced" => is_namespaced,
            "Cluster" => !is_namespaced,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::admission::testing::Asked;
    use serde_json::json;

    fn rule(operations: &[&str], resources: &[&str], scope: &str) -> Rule {
        Rule::of(&json!({
            "operations": operations, "apiGroups": [""], "apiVersions": ["v1"],
            "resources": resources, "scope": scope,
        }))
    }

    #[test]
    fn a_rule_matches_operation_resource_subresource_and_scope() {
        let pods = Asked::new("pods", "default", "p");
        let status = Asked::new("pods", "default", "p").below("status");
        let nodes = Asked::new("nodes", "", "n");
        let table = [
            (rule(&["CREATE"], &["pods"], "*"), [true, false, false]),
            (rule(&["UPDATE"], &["pods"], "*"), [false, false, false]),
            (rule(&["*"], &["pods/status"], "*"), [false, true, false]),
            (rule(&["*"], &["pods/*"], "*"), [true, true, false]),
            (rule(&["*"], &["*"], "*"), [true, false, true]),
            (rule(&["*"], &["*/*"], "*"), [true, true, true]),
            (rule(&["*"], &["*/*"], "Namespaced"), [true, true, false]),
            (rule(&["*"], &["*"], "Cluster"), [false, false, true]),
        ];
        for (rule, wanted) in table {
            let got = [&pods, &status, &nodes].map(|asked| {
                let attributes = asked.attributes();
                rule.matches(&attributes, &Seen::sent(&attributes))
            });
            assert_eq!(got, wanted, "{rule:?}");
        }
    }
}
