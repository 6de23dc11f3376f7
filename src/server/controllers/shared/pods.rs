//! Creating and deleting pods for an owner: a pod from a template, batches that start slowly, and
//! which pods to delete first.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::{meta, pod};
use crate::client::{Cache, Result};

use super::expectations::Expectations;

/// Pods created or deleted in one go; the rest follows when these are seen.
pub(crate) const BURST: usize = 500;

/// Lower goes first when pods are deleted.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Tells the expectations of every pod that appears or goes.
pub(crate) fn observe(pods: &Cache<Pod>, expectations: &Arc<Expectations>) {
    let expectations = expectations.clone();
    pods.on_change(move |change| {
        let Some(pod) = change.object() else { return };
        let Some(owner) = meta::controller_of(&pod.metadata) else {
            return;
        };
        let goes = change
            .new
            .as_ref()
            .is_none_or(|pod| pod::is_terminating(pod));
        if change.old.is_none() {
            expectations.created(&owner.uid);
        }
        if goes {
            expectations.deleted(&owner.uid, meta::uid(&pod.metadata));
        }
    });
}

/// A pod as `template` describes it, controlled by `owner`, with a generated name.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    owner: &ObjectMeta,
    reference: OwnerReference,
) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(meta::name(owner))),
            namespace: owner.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `owner-`, or `owner` where a dash would make it too long for a name.
fn name_prefix(owner: &str) -> String {
    const NAME_BYTES_MAX: usize = 253;
    let dash = if owner.len() < NAME_BYTES_MAX {
        "-"
    } else {
        ""
    };
    format!("{owner}{dash}")
}

/// Does `one` `count` times: one alone first, then twice as many at once each time all succeeded,
/// so that what is refused is refused a few times and not hundreds of times. Returns how many
/// succeeded, and the first failure.
pub(crate) async fn in_growing_batches<F>(count: usize, one: impl Fn() -> F) -> (usize, Result<()>)
where
    F: Future<Output = Result<()>>,
{
    let (mut done, mut batch) = (0, 1);
    while done < count {
        let now = batch.min(count - done);
        let results = join_all((0..now).map(|_| one())).await;
        let succeeded = results.iter().filter(|result| result.is_ok()).count();
        done += succeeded;
        if let Some(failure) = results.into_iter().find_map(Result::err) {
            return (done, Err(failure));
        }
        batch *= 2;
    }
    (done, Ok(()))
}

/// The `count` pods of `pods` to delete: first what is worth least (not bound, not running, not
/// ready, cheap, crowded on its node, young, often restarted). `related` are all pods of the same
/// workload, by which crowding is counted.
pub(crate) fn to_delete(
    pods: &[Arc<Pod>],
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pod::is_active(pod)) {
        *crowd.entry(pod::node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<_> = pods
        .iter()
        .map(|pod| {
            let crowd = crowd.get(pod::node_name(pod)).copied().unwrap_or(0);
            (Worth::of(pod, crowd, now), pod)
        })
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    let first = ranked.into_iter().take(count);
    first.map(|(_, pod)| pod.clone()).collect()
}

/// The order of `ActivePodsWithRanks`: less is deleted first.
#[derive(Debug, PartialEq, Eq)]
struct Worth {
    is_bound: bool,
    phase: u8,
    is_ready: bool,
    cost: i32,
    crowd: Reverse<usize>,
    ready_for: Age,
    restarts: Reverse<i64>,
    age: Age,
    uid: String,
}

/// Seconds, compared by their order of magnitude, so that among pods of about the same age any may
/// go; an unknown time is as young as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Age(Option<i64>);

impl Age {
    fn magnitude(self) -> Option<u32> {
        self.0.map(|seconds| seconds.max(1).ilog2())
    }
}

impl Worth {
    fn of(pod: &Pod, crowd: usize, now: Timestamp) -> Self {
        let cost = meta::annotation(&pod.metadata, DELETION_COST);
        let since = |at: Timestamp| now.as_second() - at.as_second();
        let ready = pod::condition(pod, "Ready").filter(|c| c.status == "True");
        let ready_at = ready.and_then(|c| c.last_transition_time.as_ref());
        let created = pod.metadata.creation_timestamp.as_ref();
        Self {
            is_bound: !pod::node_name(pod).is_empty(),
            phase: match pod::phase(pod) {
                "Running" => 2,
                "Unknown" => 1,
                _ => 0,
            },
            is_ready: ready.is_some(),
            cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or(0),
            crowd: Reverse(crowd),
            ready_for: Age(ready_at.map(|at| since(at.0))),
            restarts: Reverse(pod::restart_count(pod)),
            age: Age(created.map(|at| since(at.0))),
            uid: meta::uid(&pod.metadata).to_owned(),
        }
    }
}

impl Ord for Worth {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |w: &Self| {
            (
                w.is_bound,
                w.phase,
                w.is_ready,
                w.cost,
                w.crowd,
                w.ready_for.magnitude(),
                w.restarts,
                w.age.magnitude(),
            )
        };
        key(self)
            .cmp(&key(other))
            .then_with(|| self.uid.cmp(&other.uid))
    }
}

impl PartialOrd for Worth {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::ApiError;
    use serde_json::{Value, json};
    use std::cell::Cell;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    /// A pod that runs and is ready on node `n`, changed by `change`.
    fn pod(name: &str, change: impl Fn(&mut Value)) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": at(0).to_string()},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
                "lastTransitionTime": at(0).to_string()}]},
        });
        change(&mut value);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn what_is_worth_least_goes_first() {
        let pods = [
            pod("good", |_| {}),
            pod("unbound", |p| p["spec"]["nodeName"] = "".into()),
            pod("pending", |p| p["status"]["phase"] = "Pending".into()),
            pod("unready", |p| {
                p["status"]["conditions"][0]["status"] = "False".into()
            }),
            pod("cheap", |p| {
                p["metadata"]["annotations"] = json!({DELETION_COST: "-5"})
            }),
            pod("young", |p| {
                p["status"]["conditions"][0]["lastTransitionTime"] = at(3000).to_string().into();
            }),
        ];
        let order = to_delete(&pods, &pods, 6, at(4000));
        let order: Vec<_> = order.iter().map(|p| meta::name(&p.metadata)).collect();
        let expected = ["unbound", "pending", "unready", "cheap", "young", "good"];
        assert_eq!(order, expected);
    }

    #[test]
    fn crowded_nodes_are_thinned_first() {
        let on =
            |name: &str, node: &'static str| pod(name, |p| p["spec"]["nodeName"] = node.into());
        let pods = [on("a", "x"), on("b", "y"), on("c", "y")];
        let first = to_delete(&pods, &pods, 1, at(10));
        assert_eq!(pod::node_name(&first[0]), "y");
    }

    #[tokio::test]
    async fn batches_double_and_stop_at_the_first_failure() {
        let calls = Cell::new(0);
        let (done, result) = in_growing_batches(100, || {
            calls.set(calls.get() + 1);
            let refused = calls.get() > 3;
            async move {
                if refused {
                    return Err(ApiError::forbidden("", "pods", "p", "quota").into());
                }
                Ok(())
            }
        })
        .await;
        assert!(result.is_err());
        assert_eq!((done, calls.get()), (3, 7));
    }
}
