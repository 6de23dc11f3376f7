//! Amounts of resources: what a pod asks for and what a node has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::{
    pod::{self, is_sidecar},
    quantity::Quantity as Amount,
};

/// What scoring assumes of a container that asks for nothing
/// (`k8s.io/kubernetes/pkg/scheduler/util.DefaultMilliCPURequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

/// Amounts by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Thousandths of a core.
    pub(crate) milli_cpu: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes.
    pub(crate) ephemeral_storage: i64,
    /// Everything else but `pods`, in whole units: devices, huge pages.
    pub(crate) others: BTreeMap<String, i64>,
}

type List = BTreeMap<String, Quantity>;

impl Resources {
    /// From `requests`, `allocatable` or the like.
    pub(crate) fn from_list(list: Option<&List>) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            amounts.set(name, parsed(quantity));
        }
        amounts
    }

    fn set(&mut self, name: &str, amount: Amount) {
        match name {
            "cpu" => self.milli_cpu = amount.milli_value(),
            "memory" => self.memory = amount.value(),
            "ephemeral-storage" => self.ephemeral_storage = amount.value(),
            "pods" => {}
            _ => {
                self.others.insert(name.to_owned(), amount.value());
            }
        }
    }

    /// Adds each amount.
    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes each amount away.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
        self.others.retain(|_, amount| *amount != 0);
    }

    /// Raises each amount to at least `other`'s.
    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

fn parsed(quantity: &Quantity) -> Amount {
    quantity.0.parse().unwrap_or_default()
}

/// Whole units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> i64 {
    parsed(quantity).value()
}

/// What a pod needs of a node.
pub(crate) fn of_pod(pod: &Pod) -> Resources {
    let mut total = Resources::default();
    for (name, amount) in pod::requests(pod) {
        total.set(&name, amount);
    }
    total
}

/// The same for scoring, where a container that asks for no cpu or memory counts as a small one.
/// Only cpu and memory are filled in.
pub(crate) fn of_pod_for_score(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::default();
    };
    let mut total = sum(spec, |container| {
        let asked = requests(container.resources.as_ref());
        Resources {
            milli_cpu: or_default(asked.milli_cpu, DEFAULT_MILLI_CPU),
            memory: or_default(asked.memory, DEFAULT_MEMORY_BYTES),
            ..Resources::default()
        }
    });
    let overhead = Resources::from_list(spec.overhead.as_ref());
    total.milli_cpu += overhead.milli_cpu;
    total.memory += overhead.memory;
    total
}

fn or_default(asked: i64, default: i64) -> i64 {
    if asked == 0 { default } else { asked }
}

fn requests(resources: Option<&ResourceRequirements>) -> Resources {
    Resources::from_list(resources.and_then(|r| r.requests.as_ref()))
}

fn sum(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut most = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut needs = of(container);
        if is_sidecar(container) {
            total.add(&needs);
            sidecars.add(&needs);
            most.raise_to(&sidecars);
        } else {
            needs.add(&sidecars);
            most.raise_to(&needs);
        }
    }
    total.raise_to(&most);
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn cpu(amount: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": amount}}})
    }

    #[test]
    fn init_containers_count_by_the_greatest_and_sidecars_with_the_rest() {
        let mut sidecar = cpu("100m");
        sidecar["restartPolicy"] = "Always".into();
        let small = pod(json!({"containers": [cpu("500m"), cpu("200m")],
            "initContainers": [sidecar, cpu("300m")], "overhead": {"cpu": "10m"}}));
        assert_eq!(of_pod(&small).milli_cpu, 810);
        let large = pod(json!({"containers": [cpu("500m")],
            "initContainers": [sidecar, cpu("2")]}));
        assert_eq!(of_pod(&large).milli_cpu, 2100);
    }

    #[test]
    fn a_container_that_asks_for_nothing_counts_as_a_small_one_in_scores_only() {
        let pod = pod(json!({"containers": [{"name": "c"}]}));
        assert_eq!(of_pod(&pod), Resources::default());
        assert_eq!(of_pod_for_score(&pod).memory, 200 << 20);
    }

    #[test]
    fn requests_of_the_whole_pod_go_before_those_of_its_containers() {
        let pod = pod(json!({"containers": [cpu("500m")],
            "resources": {"requests": {"cpu": "700m"}}}));
        assert_eq!(of_pod(&pod).milli_cpu, 700);
    }
}
