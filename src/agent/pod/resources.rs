//! Requests and limits as cgroup values (kubernetes `pkg/kubelet/cm`, `pkg/kubelet/qos`). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::api::pod::{self as reading, Qos};
use crate::api::quantity::Quantity;
use crate::runtime::Resources;

/// Length of a period of processor time.
const PERIOD_US: u64 = 100_000;
const QUOTA_LEAST_US: i64 = 1_000;
const SHARES_LEAST: u64 = 2;
const SHARES_MOST: u64 = 262_144;
/// Priority from which on a pod counts as critical for its node.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn amount(amounts: Option<&Amounts>, name: &str) -> Option<Quantity> {
    amounts?.get(name)?.0.parse().ok()
}

/// Processor shares for so many thousandths of a processor.
pub(crate) fn shares(milli: i64) -> u64 {
    let shares = u64::try_from(milli).unwrap_or(0) * 1024 / 1000;
    shares.clamp(SHARES_LEAST, SHARES_MOST)
}

fn quota(milli: i64) -> i64 {
    let period = i64::try_from(PERIOD_US).unwrap_or(i64::MAX);
    (milli.saturating_mul(period) / 1000).max(QUOTA_LEAST_US)
}

/// The limits of a container's own cgroup.
pub(crate) fn of_container(container: &Container) -> Resources {
    let all = container.resources.as_ref();
    let requests = all.and_then(|all| all.requests.as_ref());
    let limits = all.and_then(|all| all.limits.as_ref());
    let limit = amount(limits, "cpu").map(Quantity::milli_value);
    let limit = limit.filter(|milli| *milli > 0);
    let request = amount(requests, "cpu").map(Quantity::milli_value);
    let memory = amount(limits, "memory").map(Quantity::value);
    Resources {
        cpu_shares: Some(shares(request.or(limit).unwrap_or(0))),
        cpu_quota_us: limit.map(quota),
        cpu_period_us: limit.map(|_| PERIOD_US),
        memory_limit_bytes: memory.filter(|bytes| *bytes > 0),
        pids_limit: None,
        cpuset_cpus: None,
    }
}

/// The limits of the cgroup around a pod: a sum is a limit only where every container has one.
pub(crate) fn of_pod(pod: &Pod) -> Resources {
    let milli = |amounts: &reading::Resources| amounts.get("cpu").map(|q| q.milli_value());
    let requests = reading::requests(pod);
    let limits = reading::limits(pod);
    let everywhere = |name: &str| {
        let spec = pod.spec.as_ref();
        let of_pod = spec.and_then(|spec| spec.resources.as_ref()?.limits.as_ref());
        amount(of_pod, name).is_some()
            || spec.is_some_and(|spec| {
                reading::long_running(spec).all(|container| {
                    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
                    amount(limits, name).is_some_and(|amount| !amount.is_zero())
                })
            })
    };
    let cpu_limit = milli(&limits).filter(|_| everywhere("cpu"));
    let memory = limits.get("memory").map(|q| q.value());
    Resources {
        cpu_shares: Some(shares(milli(&requests).unwrap_or(0))),
        cpu_quota_us: cpu_limit.map(quota),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US),
        memory_limit_bytes: memory.filter(|_| everywhere("memory")),
        pids_limit: None,
        cpuset_cpus: None,
    }
}

/// How willingly the kernel ends a container when memory runs out.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, memory_bytes: u64) -> i32 {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    if priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY) {
        return -997;
    }
    match reading::qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requests = container
                .resources
                .as_ref()
                .and_then(|r| r.requests.as_ref());
            let asked = amount(requests, "memory").map_or(0, Quantity::value);
            let all = i128::from(memory_bytes.max(1));
            let score = 1000 - i128::from(asked) * 1000 / all;
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The cgroup around a pod.
pub(crate) fn cgroup(root: &str, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    format!("{}/pod{uid}", class_cgroup(root, reading::qos(pod)))
}

/// The cgroup around all pods of a class.
pub(crate) fn class_cgroup(root: &str, qos: Qos) -> String {
    let root = root.trim_end_matches('/');
    match qos {
        Qos::Guaranteed => root.to_owned(),
        Qos::Burstable => format!("{root}/burstable"),
        Qos::BestEffort => format!("{root}/besteffort"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pod::testing::pod;
    use serde_json::json;

    fn with(resources: serde_json::Value) -> Pod {
        pod(json!({"containers": [{"name": "a", "resources": resources}]}))
    }

    fn first(pod: &Pod) -> &Container {
        &pod.spec.as_ref().unwrap().containers[0]
    }

    #[test]
    fn requests_are_shares_and_limits_are_quotas() {
        let pod = with(json!({"requests": {"cpu": "250m"},
            "limits": {"cpu": "1500m", "memory": "64Mi"}}));
        let got = of_container(first(&pod));
        assert_eq!(got.cpu_shares, Some(256));
        assert_eq!(
            (got.cpu_quota_us, got.cpu_period_us),
            (Some(150_000), Some(100_000))
        );
        assert_eq!(got.memory_limit_bytes, Some(64 << 20));
        let none = of_container(first(&with(json!({}))));
        assert_eq!((none.cpu_shares, none.cpu_quota_us), (Some(2), None));
    }

    #[test]
    fn a_pod_is_limited_only_where_all_its_containers_are() {
        let limited = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let both = json!({"containers": [{"name": "a", "resources": limited},
            {"name": "b", "resources": limited}]});
        let got = of_pod(&pod(both));
        assert_eq!(got.memory_limit_bytes, Some(2 << 30));
        assert_eq!(got.cpu_quota_us, Some(200_000));
        let one = json!({"containers": [{"name": "a", "resources": limited}, {"name": "b"}]});
        let got = of_pod(&pod(one));
        assert_eq!((got.memory_limit_bytes, got.cpu_quota_us), (None, None));
    }

    #[test]
    fn classes_have_their_place_and_score() {
        let same = json!({"cpu": "1", "memory": "1Gi"});
        let table = [
            (json!({}), "/k/besteffort/podu", 1000),
            (
                json!({"requests": {"memory": "1Gi"}}),
                "/k/burstable/podu",
                750,
            ),
            (json!({"requests": same, "limits": same}), "/k/podu", -997),
        ];
        for (resources, path, score) in table {
            let pod = with(resources);
            assert_eq!(cgroup("/k", &pod), path);
            assert_eq!(oom_score_adj(&pod, first(&pod), 4 << 30), score);
        }
    }
}
