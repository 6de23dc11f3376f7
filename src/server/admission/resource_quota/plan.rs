//! What a write does to the quotas of its namespace, decided without touching them
//! (`k8s.io/apiserver/pkg/admission/plugin/resourcequota.CheckRequest`).

use serde_json::{Map, Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::pod::Resources;
use crate::api::quantity::Quantity;
use crate::server::registry::ResourceDef;

use super::usage::Evaluator;

/// A write, as quotas see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) def: &'a ResourceDef,
    pub(super) evaluator: Evaluator,
    pub(super) object: &'a Object,
    pub(super) old: Option<&'a Object>,
    /// Reports of what is used already are never too much.
    pub(super) is_status: bool,
}

impl Asked<'_> {
    /// The new usage of a quota the write falls under and changes; `None` where it does neither.
    ///
    /// Errors: why the quota refuses, as upstream words it.
    pub(super) fn charge(&self, quota: &Object) -> Result<Option<Resources>, String> {
        let Some(delta) = self.delta(quota)? else {
            return Ok(None);
        };
        let (hard, mut used) = (status(quota, "hard"), status(quota, "used"));
        let mut exceeded = Vec::new();
        for (name, more) in &delta {
            let sum = used.get(name).copied().unwrap_or_default() + *more;
            if hard.get(name).is_some_and(|most| sum > *most) {
                exceeded.push(name.clone());
            }
        }
        if !exceeded.is_empty() && !self.is_status {
            let only = |all: &Resources| {
                let named = all.iter().filter(|(name, _)| exceeded.contains(name));
                print(
                    &named
                        .map(|(name, amount)| (name.clone(), *amount))
                        .collect(),
                )
            };
            return Err(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name(),
                only(&delta),
                only(&used),
                only(&hard)
            ));
        }
        for (name, more) in delta {
            let sum = used.get(&name).copied().unwrap_or_default() + more;
            used.insert(name, sum);
        }
        Ok(Some(used))
    }

    /// The usage of a quota after a write that was charged and then not made.
    pub(super) fn refund(&self, quota: &Object) -> Option<Resources> {
        let delta = self.delta(quota).ok().flatten()?;
        let mut used = status(quota, "used");
        for (name, less) in delta {
            if let Some(amount) = used.get_mut(&name) {
                *amount = subtract(*amount, less);
            }
        }
        Some(used)
    }

    /// What the write adds to what the quota counts.
    fn delta(&self, quota: &Object) -> Result<Option<Resources>, String> {
        let hard = status(quota, "hard");
        let counted = hard.keys().map(String::as_str);
        let counted: Vec<&str> = counted
            .filter(|name| self.evaluator.counts(self.def, name))
            .collect();
        if counted.is_empty() || !is_in_scopes(self.evaluator, quota, self.object) {
            return Ok(None);
        }
        if let Some(missing) = self.evaluator.missing(self.object, &counted) {
            return Err(format!("failed quota: {}: {missing}", quota.name()));
        }
        let used = status(quota, "used");
        if counted.iter().any(|name| !used.contains_key(*name)) {
            return Err(format!(
                "status unknown for quota: {}, resources: {}",
                quota.name(),
                counted.join(",")
            ));
        }
        let mut usage = self.evaluator.usage(self.def, self.object);
        let negative = usage.iter().filter(|(_, amount)| amount.is_negative());
        let negative: Vec<&str> = negative.map(|(name, _)| name.as_str()).collect();
        if !negative.is_empty() {
            let names = negative.join(",");
            return Err(format!("quota usage is negative for resource(s): {names}"));
        }
        if let Some(old) = self
            .old
            .filter(|old| is_in_scopes(self.evaluator, quota, old))
        {
            let before = self.evaluator.usage(self.def, old);
            for (name, amount) in &mut usage {
                let before = before.get(name).copied().unwrap_or_default();
                *amount = subtract(*amount, before);
            }
        }
        usage.retain(|name, amount| counted.contains(&name.as_str()) && !amount.is_zero());
        Ok((!usage.is_empty()).then_some(usage))
    }
}

/// Whether an object is in all scopes of a quota.
fn is_in_scopes(evaluator: Evaluator, quota: &Object, object: &Object) -> bool {
    let scopes = quota.at(&["spec", "scopes"]).and_then(Value::as_array);
    let mut scopes = scopes.into_iter().flatten();
    let selector = quota.at(&["spec", "scopeSelector", "matchExpressions"]);
    let mut selectors = selector.and_then(Value::as_array).into_iter().flatten();
    scopes.all(|name| {
        let scope = json!({"scopeName": name, "operator": "Exists"});
        evaluator.is_in_scope(object, &scope)
    }) && selectors.all(|scope| evaluator.is_in_scope(object, scope))
}

/// Whether objects of a resource can use something of a quota.
pub(crate) fn concerns(quota: &Object, def: &ResourceDef) -> bool {
    let hard = amounts(quota, &["spec", "hard"]);
    Evaluator::of(def).is_some_and(|evaluator| hard.keys().any(|name| evaluator.counts(def, name)))
}

/// Adds what `objects` of a resource use of a quota to `used`, which has all names of its
/// `spec.hard`.
pub(crate) fn add_used(
    used: &mut Resources,
    quota: &Object,
    (def, objects): (&ResourceDef, &[Object]),
) {
    let Some(evaluator) = Evaluator::of(def) else {
        return;
    };
    for object in objects {
        if !is_in_scopes(evaluator, quota, object) {
            continue;
        }
        for (name, amount) in evaluator.usage(def, object) {
            if let Some(sum) = used.get_mut(&name) {
                *sum += amount;
            }
        }
    }
}

/// `a - b`, not below nothing.
fn subtract(a: Quantity, b: Quantity) -> Quantity {
    let left = a - b;
    if left.is_negative() {
        return Quantity::ZERO;
    }
    left
}

/// `status.hard` or `status.used`.
fn status(quota: &Object, field: &str) -> Resources {
    amounts(quota, &["status", field])
}

/// Amounts by name.
pub(crate) fn amounts(quota: &Object, path: &[&str]) -> Resources {
    let amounts = quota.at(path).and_then(Value::as_object);
    let amounts = amounts.into_iter().flatten();
    amounts
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?)))
        .collect()
}

/// The quota with another `status.used`.
pub(super) fn with_used(quota: &Object, used: &Resources) -> Object {
    let mut quota = quota.clone();
    let used: Map<String, Value> = used
        .iter()
        .map(|(name, amount)| (name.clone(), amount.to_string().into()))
        .collect();
    child_mut(&mut quota.0, "status").insert("used".into(), used.into());
    quota
}

/// `a=1,b=2`
pub(super) fn print(amounts: &Resources) -> String {
    let texts = amounts.iter();
    let texts = texts.map(|(name, amount)| format!("{name}={amount}"));
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn quota(spec: Value, hard: Value, used: Value) -> Object {
        object(json!({
            "metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used},
        }))
    }

    fn charge(
        (group, resource): (&str, &str),
        object: &Object,
        old: Option<&Object>,
        quota: &Object,
    ) -> Result<Option<String>, String> {
        let registry = Registry::builtin().snapshot();
        let def = registry.find(group, "v1", resource).unwrap();
        let asked = Asked {
            def,
            evaluator: Evaluator::of(def).unwrap(),
            object,
            old,
            is_status: false,
        };
        asked
            .charge(quota)
            .map(|used| used.map(|used| print(&used)))
    }

    #[test]
    fn what_does_not_fit_is_refused_in_upstreams_words() {
        let pod = object(json!({"spec": {"containers": [{
            "name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
        }]}}));
        let fits = quota(
            json!({}),
            json!({"pods": "2", "requests.cpu": "1"}),
            json!({"pods": "1", "requests.cpu": "500m"}),
        );
        assert_eq!(
            charge(("", "pods"), &pod, None, &fits).unwrap().as_deref(),
            Some("pods=2,requests.cpu=1")
        );
        let full = quota(
            json!({}),
            json!({"pods": "2", "requests.cpu": "1", "configmaps": "1"}),
            json!({"pods": "2", "requests.cpu": "750m", "configmaps": "0"}),
        );
        assert_eq!(
            charge(("", "pods"), &pod, None, &full).unwrap_err(),
            "exceeded quota: q, requested: pods=1,requests.cpu=500m, used: \
             pods=2,requests.cpu=750m, limited: pods=2,requests.cpu=1"
        );
        let unknown = quota(
            json!({}),
            json!({"pods": "2", "count/pods": "3"}),
            json!({}),
        );
        assert_eq!(
            charge(("", "pods"), &pod, None, &unknown).unwrap_err(),
            "status unknown for quota: q, resources: count/pods,pods"
        );
        let limits = quota(
            json!({}),
            json!({"limits.cpu": "2"}),
            json!({"limits.cpu": "0"}),
        );
        assert_eq!(
            charge(("", "pods"), &pod, None, &limits).unwrap_err(),
            "failed quota: q: must specify limits.cpu for: a"
        );
    }

    #[test]
    fn an_update_is_charged_the_difference_and_a_scope_keeps_others_out() {
        let service = |kind: &str| object(json!({"spec": {"type": kind, "ports": [{"port": 1}]}}));
        let balancers = quota(
            json!({}),
            json!({"services": "1", "services.loadbalancers": "1"}),
            json!({"services": "1", "services.loadbalancers": "0"}),
        );
        let (old, new) = (service("ClusterIP"), service("LoadBalancer"));
        assert_eq!(
            charge(("", "services"), &new, Some(&old), &balancers)
                .unwrap()
                .as_deref(),
            Some("services=1,services.loadbalancers=1")
        );
        assert_eq!(
            charge(("", "services"), &old, Some(&new), &balancers),
            Ok(None)
        );
        let scoped = quota(
            json!({"scopes": ["BestEffort"]}),
            json!({"pods": "0"}),
            json!({"pods": "0"}),
        );
        let burstable = object(json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "1"}}},
        ]}}));
        assert_eq!(charge(("", "pods"), &burstable, None, &scoped), Ok(None));
        let plain = object(json!({"spec": {"containers": [{"name": "a"}]}}));
        assert!(charge(("", "pods"), &plain, None, &scoped).is_err());
    }

    #[test]
    fn objects_are_counted_by_their_names() {
        let map = object(json!({}));
        let counted = quota(
            json!({}),
            json!({"count/configmaps": "5", "configmaps": "5", "count/deployments.apps": "1"}),
            json!({"count/configmaps": "1", "configmaps": "1", "count/deployments.apps": "1"}),
        );
        assert_eq!(
            charge(("", "configmaps"), &map, None, &counted)
                .unwrap()
                .as_deref(),
            Some("configmaps=2,count/configmaps=2,count/deployments.apps=1")
        );
        assert_eq!(
            charge(("apps", "deployments"), &map, None, &counted).unwrap_err(),
            "exceeded quota: q, requested: count/deployments.apps=1, used: \
             count/deployments.apps=1, limited: count/deployments.apps=1"
        );
    }
}
