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
