//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or not any longer.
//!
//! Writes: the condition `DisruptionTarget` of such pods, and deletes them.
//!
//! A toleration with a time counts from when the taint was added, which is kept in the taint, so a
//! restart neither prolongs nor shortens it. Each pod has one deadline; a taint that goes, or a
//! toleration that comes, is seen when the pod is looked at again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::api::{
    meta,
    object::ObjectKey,
    pod,
    toleration::{NO_EXECUTE, tolerates},
};
use crate::client::{
    self, Cache, Client, DeleteParams, Patch, Queue, Recorder, Result,
    controller::{Action, Reconcile},
    key_of,
};
use crate::util::clock::Clock;

use super::Setup;
use super::shared::nodes;

const WORKERS: usize = 8;

struct TaintEviction {
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    client: Client,
    recorder: Recorder,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let (nodes, pods) = (
        setup.informers.cache::<Node>(),
        setup.informers.cache::<Pod>(),
    );
    nodes::index_pods(&pods);
    let queue = Queue::new();
    on_nodes(&nodes, &pods, &queue);
    on_pods(&pods, &nodes, &queue);
    let controller = TaintEviction {
        nodes: nodes.clone(),
        pods: pods.clone(),
        client: setup.client.clone(),
        recorder: setup.recorder("taint-eviction-controller"),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        nodes.synced().await;
        pods.synced().await;
    });
}

fn on_nodes(nodes: &Cache<Node>, pods: &Cache<Pod>, queue: &Queue<ObjectKey>) {
    let (pods, queue) = (pods.clone(), queue.clone());
    nodes.on_change(move |change| {
        let Some(new) = &change.new else { return };
        let before = change
            .old
            .as_ref()
            .map(|old| driving(old))
            .unwrap_or_default();
        if before == driving(new) {
            return;
        }
        for pod in nodes::pods_on(&pods, meta::name(&new.metadata)) {
            queue.add(key_of(&pod.metadata));
        }
    });
}

fn on_pods(pods: &Cache<Pod>, nodes: &Cache<Node>, queue: &Queue<ObjectKey>) {
    let (nodes, queue) = (nodes.clone(), queue.clone());
    pods.on_change(move |change| {
        let Some(pod) = &change.new else { return };
        let node = nodes.get(&ObjectKey::cluster(pod::node_name(pod)));
        if node.is_some_and(|node| !driving(&node).is_empty()) {
            queue.add(key_of(&pod.metadata));
        }
    });
}

/// The taints that drive pods out.
fn driving(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
    let mut taints = taints.unwrap_or_default();
    taints.retain(|taint| taint.effect == NO_EXECUTE);
    taints
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    StaysFor(Duration),
    Goes,
}

/// Until when a pod with `tolerations` puts up with `taints`.
fn plan(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Verdict {
    let mut deadline: Option<Timestamp> = None;
    for taint in taints {
        let mut matching = tolerations
            .iter()
            .filter(|t| tolerates(t, taint))
            .peekable();
        if matching.peek().is_none() {
            return Verdict::Goes;
        }
        let Some(seconds) = matching.filter_map(|t| t.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |added| added.0);
        let span = jiff::SignedDuration::from_secs(seconds.max(0));
        let until = since.saturating_add(span).unwrap_or(Timestamp::MAX);
        deadline = Some(deadline.map_or(until, |known| known.min(until)));
    }
    match deadline {
        None => Verdict::Stays,
        Some(at) => match Duration::try_from(at.duration_since(now)) {
            Ok(left) if !left.is_zero() => Verdict::StaysFor(left),
            _ => Verdict::Goes,
        },
    }
}

impl Reconcile for TaintEviction {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "taint_eviction"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pod::is_terminating(pod)) else {
            return Ok(Action::Done);
        };
        let node = self.nodes.get(&ObjectKey::cluster(pod::node_name(&pod)));
        let Some(taints) = node.map(|node| driving(&node)) else {
            return Ok(Action::Done);
        };
        let spec = pod.spec.as_ref();
        let tolerations = spec.and_then(|spec| spec.tolerations.as_deref());
        match plan(&taints, tolerations.unwrap_or_default(), self.clock.now()) {
            Verdict::Stays => Ok(Action::Done),
            Verdict::StaysFor(left) => Ok(Action::After(left)),
            Verdict::Goes => self.evict(&pod).await,
        }
    }
}

impl TaintEviction {
    async fn evict(&self, pod: &Arc<Pod>) -> Result<Action> {
        let key = key_of(&pod.metadata);
        let text = format!("Marking for deletion Pod {key}");
        self.recorder
            .normal(&client::reference(&**pod), "TaintManagerEviction", text);
        let api = self.client.namespaced::<Pod>(&key.namespace);
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": Time(self.clock.now())}]}}));
        let params = DeleteParams::uid(meta::uid(&pod.metadata));
        let written = match api.patch_status(&key.name, &patch).await {
            Ok(_) => api.delete(&key.name, &params).await,
            Err(error) => Err(error),
        };
        match written {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn parse<T: serde::de::DeserializeOwned>(values: Value) -> Vec<T> {
        serde_json::from_value(values).unwrap()
    }

    #[test]
    fn the_shortest_toleration_counts_from_when_its_taint_was_added() {
        let now = crate::api::time::parse("2026-01-01T00:01:00Z").unwrap();
        let taints: Vec<Taint> = parse(json!([
            {"key": "a", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
            {"key": "b", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:50Z"}]));
        let tolerates = |a: Option<i64>, b: Option<i64>| {
            parse(json!([
                {"key": "a", "operator": "Exists", "tolerationSeconds": a},
                {"key": "b", "operator": "Exists", "tolerationSeconds": b}]))
        };
        let seconds = |s| Verdict::StaysFor(Duration::from_secs(s));
        assert_eq!(plan(&taints, &tolerates(None, None), now), Verdict::Stays);
        assert_eq!(
            plan(&taints, &tolerates(Some(300), Some(20)), now),
            seconds(10)
        );
        assert_eq!(
            plan(&taints, &tolerates(Some(60), None), now),
            Verdict::Goes
        );
        assert_eq!(plan(&taints, &tolerates(None, Some(0)), now), Verdict::Goes);
        let only_a: Vec<Toleration> = parse(json!([{"key": "a", "operator": "Exists"}]));
        assert_eq!(plan(&taints, &only_a, now), Verdict::Goes);
        assert_eq!(plan(&[], &only_a, now), Verdict::Stays);
    }
}
