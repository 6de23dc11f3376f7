//! PodDisruptionBudgets, as preemption reads them: how many more pods may be disturbed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::api::{object::ObjectKey, selector::label::Selector};

use super::pod::{PodInfo, label_selector};

/// The budgets by namespace.
#[derive(Debug, Default)]
pub(crate) struct Budgets(HashMap<String, BTreeMap<String, Budget>>);

#[derive(Debug)]
struct Budget {
    selector: Selector,
    allowed: i64,
    object: Arc<PodDisruptionBudget>,
}

impl Budgets {
    /// A budget came, changed, or is gone (`None`).
    pub(crate) fn set(&mut self, key: &ObjectKey, object: Option<Arc<PodDisruptionBudget>>) {
        let Some(object) = object else {
            if let Some(all) = self.0.get_mut(&key.namespace) {
                all.remove(&key.name);
                if all.is_empty() {
                    self.0.remove(&key.namespace);
                }
            }
            return;
        };
        let selector = object.spec.as_ref().and_then(|s| s.selector.as_ref());
        let status = object.status.as_ref();
        let budget = Budget {
            selector: label_selector(selector),
            allowed: i64::from(status.and_then(|s| s.disruptions_allowed).unwrap_or(0)),
            object,
        };
        let all = self.0.entry(key.namespace.clone()).or_default();
        all.insert(key.name.clone(), budget);
    }

    /// Whether ending each of `pods`, one after another, breaks a budget.
    pub(crate) fn violations(&self, pods: &[Arc<PodInfo>]) -> Vec<bool> {
        let mut left: HashMap<(&str, &str), i64> = HashMap::new();
        let mut each = Vec::with_capacity(pods.len());
        for pod in pods {
            let mut breaks = false;
            for (name, budget) in self.of(pod) {
                let key = (pod.key.namespace.as_str(), name);
                let left = left.entry(key).or_insert(budget.allowed);
                *left -= 1;
                breaks |= *left < 0;
            }
            each.push(breaks);
        }
        each
    }

    /// Those that speak of `pod`. One that is being evicted already is paid for.
    fn of<'a>(&'a self, pod: &'a PodInfo) -> impl Iterator<Item = (&'a str, &'a Budget)> {
        let all = self.0.get(&pod.key.namespace).into_iter().flatten();
        let speaks = move |budget: &Budget| {
            let status = budget.object.status.as_ref();
            let evicted = status.and_then(|s| s.disrupted_pods.as_ref());
            pod.labels().is_some_and(|labels| !labels.is_empty())
                && !budget.selector.is_empty()
                && budget.selector.matches(&pod.labels())
                && !evicted.is_some_and(|pods| pods.contains_key(&pod.key.name))
        };
        all.filter(move |(_, budget)| speaks(budget))
            .map(|(name, budget)| (name.as_str(), budget))
    }
}
