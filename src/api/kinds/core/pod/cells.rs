//! The row of a pod in `kubectl get`, as `printPod` of upstream's internal printers makes it.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, cells, rows};
use crate::api::object::Object;
use crate::api::time;

pub(super) const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Ready",
        "The aggregate readiness state of this pod for accepting traffic.",
    ),
    rows::string(
        "Status",
        "The aggregate status of the containers in this pod.",
    ),
    rows::string(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last \
         container in this pod has restarted.",
    ),
    rows::AGE,
    rows::wide(
        "IP",
        "podIP address allocated to the pod. Routable at least within the cluster. Empty if not \
         yet allocated.",
    ),
    rows::wide(
        "Node",
        "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate \
         for scheduling by the scheduler defined in schedulerName.",
    ),
    rows::wide(
        "Nominated Node",
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it \
         cannot be scheduled right away as preemption victims receive their graceful termination \
         periods.",
    ),
    rows::wide(
        "Readiness Gates",
        "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready \
         when all its containers are ready AND all conditions specified in the readiness gates \
         have status equal to \"True\"",
    ),
];

pub(super) fn row(pod: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (pod.field("spec"), pod.field("status"));
    let summary = Summary::of(pod);
    let ip = text(&status["podIPs"][0]["ip"]);
    let ip = if ip.is_empty() {
        text(&status["podIP"])
    } else {
        ip
    };
    vec![
        cells::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.as_str().into(),
        summary.restarts.text(now).into(),
        cells::age(pod, now),
        cells::or_none(ip),
        cells::or_none(text(&spec["nodeName"])),
        cells::or_none(text(&status["nominatedNodeName"])),
        readiness_gates(spec, status),
    ]
}

/// What the columns say of the containers together.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container["restartCount"].as_i64().unwrap_or(0);
        let finished = &container["lastState"]["terminated"]["finishedAt"];
        self.last = self.last.max(finished.as_str().and_then(time::parse));
    }

    fn text(&self, now: Timestamp) -> String {
        match self.last {
            Some(at) if self.count != 0 => {
                let ago = time::human(now.duration_since(at));
                format!("{} ({ago} ago)", self.count)
            }
            _ => self.count.to_string(),
        }
    }
}

impl Summary {
    fn of(pod: &Object) -> Self {
        let (spec, status) = (pod.field("spec"), pod.field("status"));
        let sidecars = list(&spec["initContainers"])
            .iter()
            .filter(|c| is_sidecar(c));
        let mut summary = Self {
            reason: phase_reason(status),
            total: list(&spec["containers"]).len() + sidecars.count(),
            ..Self::default()
        };
        let sidecar_restarts = summary.add_init_containers(spec, status);
        if let Some(restarts) = sidecar_restarts {
            summary.restarts = restarts;
            summary.add_containers(status);
        } else if condition(status, "Initialized") {
            summary.restarts = Restarts::default();
            for container in list(&status["initContainerStatuses"]) {
                if is_named_sidecar(spec, container) {
                    summary.restarts.add(container);
                }
            }
            summary.add_containers(status);
        }
        summary.add_deletion(pod, status);
        summary
    }

    /// Restarts of sidecars where initialization is over; `None` where it is not, and then
    /// `reason` tells how far it is.
    fn add_init_containers(&mut self, spec: &Value, status: &Value) -> Option<Restarts> {
        let mut of_sidecars = Restarts::default();
        for (index, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
            self.restarts.add(container);
            let is_sidecar = is_named_sidecar(spec, container);
            if is_sidecar {
                of_sidecars.add(container);
            }
            let state = &container["state"];
            let terminated = &state["terminated"];
            let waiting = text(&state["waiting"]["reason"]);
            if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            if is_sidecar && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            self.reason = if terminated.is_object() {
                format!("Init:{}", termination(terminated))
            } else if !matches!(waiting, "" | "PodInitializing") {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", list(&spec["initContainers"]).len())
            };
            return None;
        }
        Some(of_sidecars)
    }

    fn add_containers(&mut self, status: &Value) {
        let mut has_running = false;
        for container in list(&status["containerStatuses"]).iter().rev() {
            self.restarts.add(container);
            let state = &container["state"];
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if state["terminated"].is_object() {
                self.reason = termination(&state["terminated"]);
            } else if container["ready"] == true && state["running"].is_object() {
                has_running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && has_running {
            let is_ready = condition(status, "Ready");
            self.reason = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn add_deletion(&mut self, pod: &Object, status: &Value) {
        if !pod.is_terminating() {
            return;
        }
        if status["reason"] == "NodeLost" {
            self.reason = "Unknown".to_owned();
        } else if !matches!(text(&status["phase"]), "Succeeded" | "Failed") {
            self.reason = "Terminating".to_owned();
        }
    }
}

fn phase_reason(status: &Value) -> String {
    let is_gated = list(&status["conditions"])
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
    if is_gated {
        return "SchedulingGated".to_owned();
    }
    match text(&status["reason"]) {
        "" => text(&status["phase"]).to_owned(),
        reason => reason.to_owned(),
    }
}

fn termination(terminated: &Value) -> String {
    let number = |field: &str| terminated[field].as_i64().unwrap_or(0);
    match text(&terminated["reason"]) {
        "" if number("signal") != 0 => format!("Signal:{}", number("signal")),
        "" => format!("ExitCode:{}", number("exitCode")),
        reason => reason.to_owned(),
    }
}

fn readiness_gates(spec: &Value, status: &Value) -> Value {
    let gates = list(&spec["readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates
        .iter()
        .filter(|gate| condition(status, text(&gate["conditionType"])));
    format!("{}/{}", open.count(), gates.len()).into()
}

fn condition(status: &Value, kind: &str) -> bool {
    let conditions = list(&status["conditions"]);
    let found = conditions.iter().find(|c| c["type"] == kind);
    found.is_some_and(|c| c["status"] == "True")
}

fn is_named_sidecar(spec: &Value, status: &Value) -> bool {
    let containers = list(&spec["initContainers"]);
    containers
        .iter()
        .any(|c| c["name"] == status["name"] && is_sidecar(c))
}

fn is_sidecar(init_container: &Value) -> bool {
    init_container["restartPolicy"] == "Always"
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(pod: Value) -> Vec<String> {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let cells = row(&Object::from_value(pod).unwrap(), now);
        cells
            .iter()
            .map(|c| c.as_str().unwrap().to_owned())
            .collect()
    }

    /// READY, STATUS and RESTARTS.
    fn summary(spec: Value, status: Value) -> String {
        shown(json!({"spec": spec, "status": status}))[1..4].join(" ")
    }

    fn status(status: Value) -> String {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        summary(spec, status)
    }

    fn running(ready: bool) -> Value {
        json!({"ready": ready, "restartCount": 0, "state": {"running": {}}})
    }

    #[test]
    fn phases_and_reasons() {
        assert_eq!(status(json!({"phase": "Pending"})), "0/3 Pending 0");
        assert_eq!(
            status(json!({"phase": "Failed", "reason": "Evicted"})),
            "0/3 Evicted 0"
        );
        let gated = json!({"phase": "Pending", "conditions":
            [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]});
        assert_eq!(status(gated), "0/3 SchedulingGated 0");
    }

    #[test]
    fn init_containers_show_how_far_they_are() {
        let init = |state: Value| {
            status(json!({"phase": "Pending", "initContainerStatuses":
                [{"name": "i", "restartCount": 2, "state": state}]}))
        };
        assert_eq!(init(json!({"running": {}})), "0/3 Init:0/2 2");
        assert_eq!(
            init(json!({"waiting": {"reason": "PodInitializing"}})),
            "0/3 Init:0/2 2"
        );
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        assert_eq!(init(waiting), "0/3 Init:CrashLoopBackOff 2");
        let failed = json!({"terminated": {"exitCode": 3}});
        assert_eq!(init(failed), "0/3 Init:ExitCode:3 2");
        let failed = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
        assert_eq!(init(failed), "0/3 Init:Error 2");
        let killed = json!({"terminated": {"exitCode": 137, "signal": 9}});
        assert_eq!(init(killed), "0/3 Init:Signal:9 2");
    }

    #[test]
    fn sidecars_count_as_containers() {
        let done = json!({"name": "i", "restartCount": 4,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let sidecar = json!({"name": "s", "restartCount": 1, "started": true, "ready": true,
            "state": {"running": {}}});
        let shown = status(json!({"phase": "Running",
            "initContainerStatuses": [done, sidecar],
            "containerStatuses": [running(true), running(false)]}));
        assert_eq!(shown, "2/3 Running 1");
    }

    #[test]
    fn containers_show_why_they_do_not_run() {
        let one = |container: Value, conditions: Value| {
            summary(
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"phase": "Running", "conditions": conditions,
                       "containerStatuses": [container, running(true)]}),
            )
        };
        let crashing = json!({"restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}});
        assert_eq!(one(crashing, json!([])), "1/2 CrashLoopBackOff 3 (5m ago)");
        let ended = |terminated: Value| json!({"state": {"terminated": terminated}});
        assert_eq!(
            one(ended(json!({"exitCode": 2})), json!([])),
            "1/2 ExitCode:2 0"
        );
        let oom = json!({"reason": "OOMKilled", "exitCode": 137});
        assert_eq!(one(ended(oom), json!([])), "1/2 OOMKilled 0");
        let completed = ended(json!({"reason": "Completed"}));
        assert_eq!(one(completed.clone(), json!([])), "1/2 NotReady 0");
        let ready = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(one(completed, ready), "1/2 Running 0");
    }

    #[test]
    fn deletion_shows_unless_the_pod_has_ended() {
        let deleted = |status: Value| {
            shown(
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                         "status": status}),
            )[2]
            .clone()
        };
        assert_eq!(deleted(json!({"phase": "Running"})), "Terminating");
        assert_eq!(deleted(json!({"phase": "Succeeded"})), "Succeeded");
        assert_eq!(
            deleted(json!({"phase": "Running", "reason": "NodeLost"})),
            "Unknown"
        );
    }

    #[test]
    fn wide_columns() {
        let cells = shown(json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "x"}]},
            "status": {"podIP": "10.0.0.1"},
        }));
        assert_eq!(cells[4..], ["60m", "10.0.0.1", "n", "<none>", "0/1"]);
    }
}
