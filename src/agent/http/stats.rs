//! Figures of the node, its pods and containers: `/stats/summary` and `/metrics/resource`.

use std::fmt::Write as _;

use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Answer, NodeApi, json_response, text};
use crate::client::Body;
use crate::runtime::Stats;

/// Clock ticks of `/proc/stat` per second; the kernel's for every architecture we run on.
const TICKS: u64 = 100;

/// A container's figures, with where it belongs.
struct Figures {
    pod: usize,
    container: String,
    stats: Stats,
}

/// Namespace, name, uid.
fn meta(pod: &Pod) -> (&str, &str, &str) {
    let meta = &pod.metadata;
    (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    )
}

/// CPU and memory of the whole machine.
struct Machine {
    cpu_ns: u64,
    available_bytes: u64,
    total_bytes: u64,
}

impl Machine {
    fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Self {
            cpu_ns: busy_ticks(&stat) * (1_000_000_000 / TICKS),
            available_bytes: kib("MemAvailable:") * 1024,
            total_bytes: kib("MemTotal:") * 1024,
        }
    }

    fn working_set(&self) -> u64 {
        self.total_bytes.saturating_sub(self.available_bytes)
    }
}

/// Everything but idle and waiting for disks.
fn busy_ticks(stat: &str) -> u64 {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else {
        return 0;
    };
    line.split_whitespace()
        .take(8)
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum()
}

impl NodeApi {
    async fn figures(&self) -> (Vec<std::sync::Arc<Pod>>, Vec<Figures>) {
        let mut pods = Vec::new();
        let mut figures = Vec::new();
        for (number, view) in self.0.pods.all().into_iter().enumerate() {
            for container in &view.containers {
                let Some(id) = &container.id else {
                    continue;
                };
                if let Ok(Some(stats)) = self.0.runtime.stats(id).await {
                    figures.push(Figures {
                        pod: number,
                        container: container.name.clone(),
                        stats,
                    });
                }
            }
            pods.push(view.pod);
        }
        (pods, figures)
    }

    pub(super) async fn summary(&self) -> Answer {
        let now = self
            .0
            .clock
            .now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let (pods, figures) = self.figures().await;
        let machine = Machine::read();
        let pods: Vec<Value> = pods
            .iter()
            .enumerate()
            .map(|(number, pod)| {
                let own: Vec<&Figures> = figures.iter().filter(|f| f.pod == number).collect();
                pod_summary(pod, &own, &now)
            })
            .collect();
        let summary = json!({
            "node": {
                "nodeName": self.0.node,
                "startTime": now,
                "cpu": {"time": now, "usageCoreNanoSeconds": machine.cpu_ns},
                "memory": {
                    "time": now,
                    "availableBytes": machine.available_bytes,
                    "usageBytes": machine.working_set(),
                    "workingSetBytes": machine.working_set(),
                },
            },
            "pods": pods,
        });
        Ok(json_response(StatusCode::OK, &summary))
    }

    /// What metrics-server reads.
    pub(super) async fn resource_metrics(&self) -> Answer {
        let (pods, figures) = self.figures().await;
        let machine = Machine::read();
        Ok(metrics(&pods, &figures, &machine))
    }
}

fn pod_summary(pod: &Pod, figures: &[&Figures], now: &str) -> Value {
    let (namespace, name, uid) = meta(pod);
    let sum = |of: fn(&Stats) -> u64| figures.iter().map(|f| of(&f.stats)).sum::<u64>();
    let containers: Vec<Value> = figures
        .iter()
        .map(|f| {
            json!({
                "name": f.container,
                "cpu": {"time": now, "usageCoreNanoSeconds": f.stats.cpu_usage_ns},
                "memory": {
                    "time": now,
                    "usageBytes": f.stats.memory_usage_bytes,
                    "workingSetBytes": f.stats.memory_working_set_bytes,
                },
            })
        })
        .collect();
    json!({
        "podRef": {"name": name, "namespace": namespace, "uid": uid},
        "containers": containers,
        "cpu": {"time": now, "usageCoreNanoSeconds": sum(|s| s.cpu_usage_ns)},
        "memory": {
            "time": now,
            "usageBytes": sum(|s| s.memory_usage_bytes),
            "workingSetBytes": sum(|s| s.memory_working_set_bytes),
        },
        "process_stats": {"process_count": sum(|s| s.pids)},
    })
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn metrics(pods: &[std::sync::Arc<Pod>], figures: &[Figures], machine: &Machine) -> Response<Body> {
    let mut out = String::new();
    let head = |out: &mut String, name: &str, kind: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "# TYPE {name} {kind}");
    };
    let labels = |f: &Figures| {
        let (namespace, name, _) = meta(&pods[f.pod]);
        format!(
            "{{container=\"{}\",namespace=\"{namespace}\",pod=\"{name}\"}}",
            f.container
        )
    };
    head(&mut out, "container_cpu_usage_seconds_total", "counter");
    for f in figures {
        let value = seconds(f.stats.cpu_usage_ns);
        let _ = writeln!(
            out,
            "container_cpu_usage_seconds_total{} {value}",
            labels(f)
        );
    }
    head(&mut out, "container_memory_working_set_bytes", "gauge");
    for f in figures {
        let value = f.stats.memory_working_set_bytes;
        let _ = writeln!(
            out,
            "container_memory_working_set_bytes{} {value}",
            labels(f)
        );
    }
    head(&mut out, "node_cpu_usage_seconds_total", "counter");
    let _ = writeln!(
        out,
        "node_cpu_usage_seconds_total {}",
        seconds(machine.cpu_ns)
    );
    head(&mut out, "node_memory_working_set_bytes", "gauge");
    let _ = writeln!(
        out,
        "node_memory_working_set_bytes {}",
        machine.working_set()
    );
    for (kind, of) in [
        ("cpu_usage_seconds_total", 0),
        ("memory_working_set_bytes", 1),
    ] {
        head(
            &mut out,
            &format!("pod_{kind}"),
            if of == 0 { "counter" } else { "gauge" },
        );
        for (number, pod) in pods.iter().enumerate() {
            let own = figures.iter().filter(|f| f.pod == number);
            let (namespace, name, _) = meta(pod);
            let value = if of == 0 {
                seconds(own.map(|f| f.stats.cpu_usage_ns).sum()).to_string()
            } else {
                own.map(|f| f.stats.memory_working_set_bytes)
                    .sum::<u64>()
                    .to_string()
            };
            let _ = writeln!(
                out,
                "pod_{kind}{{namespace=\"{namespace}\",pod=\"{name}\"}} {value}"
            );
        }
    }
    head(&mut out, "resource_scrape_error", "gauge");
    let _ = writeln!(out, "resource_scrape_error 0");
    text(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 3 400 500 6 7 8 9 10\ncpu0 1\n"), 27);
        assert_eq!(busy_ticks(""), 0);
    }
}
