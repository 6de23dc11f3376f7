//! Fills in the rules of ClusterRoles that are made of others (`aggregationRule`).
//!
//! Writes: `rules` of those roles.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;

use crate::api::{meta, object::ObjectKey};
use crate::client::{
    Cache, Client, Patch, Queue, Result,
    controller::{Action, Reconcile},
    key_of,
};

use super::Setup;
use super::shared::adopt::selector_of;

struct Aggregation {
    roles: Cache<ClusterRole>,
    client: Client,
}

pub(super) fn start(setup: &Setup) {
    let roles = setup.informers.cache::<ClusterRole>();
    let queue = Queue::new();
    let (all, woken) = (roles.clone(), queue.clone());
    // Any role may be part of any other; there are few that are made of others.
    roles.on_change(move |_| {
        for role in all.list().iter().filter(|r| r.aggregation_rule.is_some()) {
            woken.add(key_of(&role.metadata));
        }
    });
    let controller = Aggregation {
        roles: roles.clone(),
        client: setup.client.clone(),
    };
    setup.run(controller, queue, 1, async move { roles.synced().await });
}

/// The rules `role` is to have: those of the roles each selector selects, in the order of
/// selectors and names, each once. `None`: it is not made of others, or is right already.
fn plan(role: &ClusterRole, mut all: Vec<Arc<ClusterRole>>) -> Option<Vec<PolicyRule>> {
    let selectors = role
        .aggregation_rule
        .as_ref()?
        .cluster_role_selectors
        .as_ref()?;
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.iter().map(selector_of) {
        let selected = all.iter().filter(|other| {
            other.metadata.name != role.metadata.name && selector.matches(&other.metadata.labels)
        });
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

impl Reconcile for Aggregation {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "cluster_role_aggregation"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(role) = self.roles.get(key) else {
            return Ok(Action::Done);
        };
        if let Some(rules) = plan(&role, self.roles.list()) {
            let patch = Patch::Merge(json!({"metadata":
                {"resourceVersion": role.metadata.resource_version}, "rules": rules}));
            let api = self.client.all::<ClusterRole>();
            api.patch(meta::name(&role.metadata), &patch).await?;
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: Option<&str>, verbs: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<_> = verbs.iter().map(|verb| json!({"verbs": [verb]})).collect();
        let role = json!({"metadata": {"name": name, "labels": {"to": label.unwrap_or("")}},
            "rules": rules});
        Arc::new(serde_json::from_value(role).unwrap())
    }

    #[test]
    fn rules_are_gathered_by_name_each_once() {
        let mut view = (*role("view", Some("view"), &["old"])).clone();
        view.aggregation_rule = serde_json::from_value(
            json!({"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}),
        )
        .unwrap();
        let others = vec![
            role("b", Some("view"), &["watch", "get"]),
            role("a", Some("view"), &["get"]),
            role("c", None, &["delete"]),
            Arc::new(view.clone()),
        ];
        let rules = plan(&view, others.clone()).unwrap();
        let verbs: Vec<_> = rules.iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["get", "watch"]);
        view.rules = Some(rules);
        assert_eq!(plan(&view, others), None);
    }
}
