//! `orch status`: one screen that says how the cluster is, what is wrong and what to try next.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::args::StatusArgs;
use super::{Failure, output, target};
use crate::api::{pod, time};
use crate::client::{Client, ListParams};
use crate::server::manifests;
use crate::util::clock::Clock;

/// Troubles shown; the rest is counted.
const TROUBLES_MAX: usize = 10;
/// Warnings older than this are history.
const RECENT_SECONDS: i64 = 600;

/// What the screen is made of.
#[derive(Default)]
struct View {
    version: String,
    health: String,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    deployments: Vec<Deployment>,
    warnings: Vec<Event>,
    manifests: Vec<String>,
}

/// Something wrong, and the next thing to try.
#[derive(Debug, PartialEq)]
struct Trouble {
    what: String,
    next: String,
}

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let view = target::with_client(&args.target, look).inspect_err(|failure| {
        if let Failure::Running(error) = failure
            && error.downcast_ref().is_some_and(target::is_unreachable)
        {
            output::hint(format_args!(
                "is the server running? `systemctl status orch` or `orch server` on the master"
            ));
        }
    })?;
    output::line(render(&view, Clock::system().now()).trim_end());
    Ok(())
}

async fn look(client: Client) -> Result<View, Failure> {
    let every = ListParams::default();
    let version = client
        .request_json(http::Method::GET, "/version", None)
        .await?;
    let health = client
        .call(crate::client::Call::new(http::Method::GET, "/readyz"))
        .await;
    let record = client
        .namespaced::<ConfigMap>(manifests::NAMESPACE)
        .get_opt(manifests::NAME)
        .await?;
    let complaints = record
        .and_then(|map| map.data?.remove("complaints"))
        .unwrap_or_default();
    Ok(View {
        version: version["gitVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        health: match health {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => crate::util::errors::chain(&error),
        },
        nodes: client.all::<Node>().list(&every).await?.items,
        pods: client.all::<Pod>().list(&every).await?.items,
        deployments: client.all::<Deployment>().list(&every).await?.items,
        warnings: client
            .all::<Event>()
            .list(&ListParams::fields("type=Warning"))
            .await?
            .items,
        manifests: complaints.lines().map(str::to_owned).collect(),
    })
}

fn render(view: &View, now: Timestamp) -> String {
    let ready = view.nodes.iter().filter(|node| is_ready(node)).count();
    let running = view.pods.iter().filter(|p| phase(p) == "Running").count();
    let available = view.deployments.iter().filter(|d| is_available(d)).count();
    let mut text = format!(
        "orch        {} (this program {})\ndatastore   {}\nnodes       {ready} of {} ready\n\
         pods        {running} of {} running\ndeployments {available} of {} available\n\n",
        view.version,
        env!("CARGO_PKG_VERSION"),
        view.health,
        view.nodes.len(),
        view.pods.len(),
        view.deployments.len(),
    );
    text.push_str(&node_table(view, now));
    let troubles = troubles(view, now);
    if troubles.is_empty() {
        text.push_str("\nNothing is wrong. Look around: kubectl get pods -A -o wide\n");
        return text;
    }
    text.push_str("\nwrong:\n");
    for trouble in troubles.iter().take(TROUBLES_MAX) {
        text.push_str(&format!("  {}\n    → {}\n", trouble.what, trouble.next));
    }
    if troubles.len() > TROUBLES_MAX {
        text.push_str(&format!("  … and {} more\n", troubles.len() - TROUBLES_MAX));
    }
    text
}

fn node_table(view: &View, now: Timestamp) -> String {
    let header = ["NODE", "STATUS", "ADDRESS", "PODS", "AGE", "VERSION"]
        .map(str::to_owned)
        .to_vec();
    let rows = view.nodes.iter().map(|node| {
        let name = node.metadata.name.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let addresses = status
            .and_then(|s| s.addresses.as_ref())
            .into_iter()
            .flatten();
        let address = addresses
            .filter(|a| a.type_ == "InternalIP")
            .map(|a| a.address.clone())
            .next();
        let on_it = |pod: &&Pod| {
            pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(name.as_str())
        };
        let version = status
            .and_then(|s| s.node_info.as_ref())
            .map(|i| i.kubelet_version.clone());
        vec![
            name.clone(),
            if is_ready(node) { "Ready" } else { "NotReady" }.to_owned(),
            address.unwrap_or_default(),
            view.pods.iter().filter(on_it).count().to_string(),
            age(node.metadata.creation_timestamp.as_ref(), now),
            version.unwrap_or_default(),
        ]
    });
    output::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// Everything that is wrong, the most fundamental first.
fn troubles(view: &View, now: Timestamp) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut add = |what: String, next: String| troubles.push(Trouble { what, next });
    if view.health != "ok" {
        add(
            format!("the server is not ready: {}", view.health),
            "kubectl get --raw '/readyz?verbose'".into(),
        );
    }
    for node in view.nodes.iter().filter(|node| !is_ready(node)) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let why = ready_message(node).unwrap_or_default();
        add(
            format!("node {name} is not ready: {why}"),
            format!("look at orch's log on {name}; kubectl describe node {name}"),
        );
    }
    for complaint in &view.manifests {
        add(
            format!("manifest {complaint}"),
            "correct the file; it is read again when it changes".into(),
        );
    }
    for pod in &view.pods {
        if let Some(why) = pod_trouble(pod, now) {
            let (namespace, name) = names(pod);
            add(
                format!("pod {namespace}/{name}: {why}"),
                format!("kubectl -n {namespace} describe pod {name}"),
            );
        }
    }
    let recent = view.warnings.iter().filter(|event| is_recent(event, now));
    for event in recent.filter(|event| event.involved_object.kind.as_deref() != Some("Pod")) {
        let object = &event.involved_object;
        let (kind, name) = (
            object.kind.clone().unwrap_or_default(),
            object.name.clone().unwrap_or_default(),
        );
        let namespace = object.namespace.clone().unwrap_or_default();
        let message = event.message.clone().unwrap_or_default();
        // A manifest's complaint is shown as such.
        if name != manifests::NAME {
            let namespace = if namespace.is_empty() {
                String::new()
            } else {
                format!("-n {namespace} ")
            };
            add(
                format!("{kind} {name}: {message}"),
                format!("kubectl {namespace}describe {} {name}", kind.to_lowercase()),
            );
        }
    }
    troubles
}

fn pod_trouble(pod: &Pod, now: Timestamp) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    for container in containers {
        let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
        let reason = waiting
            .and_then(|w| w.reason.as_deref())
            .unwrap_or_default();
        if !matches!(reason, "" | "ContainerCreating" | "PodInitializing") {
            let message = waiting.and_then(|w| w.message.clone()).unwrap_or_default();
            return Some(
                format!("container {} waits: {reason} {message}", container.name)
                    .trim()
                    .to_owned(),
            );
        }
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        return condition.message.clone().or(condition.reason.clone());
    }
    if phase(pod) == "Failed" {
        return Some(format!(
            "failed {}",
            status
                .message
                .clone()
                .or(status.reason.clone())
                .unwrap_or_default()
        ));
    }
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    let old = now.as_second() - created.as_second() > RECENT_SECONDS / 5;
    (phase(pod) == "Running" && old && !pod::is_ready(pod))
        .then(|| "runs but is not ready".to_owned())
}

fn is_ready(node: &Node) -> bool {
    conditions(node).any(|c| c.type_ == "Ready" && c.status == "True")
}

fn ready_message(node: &Node) -> Option<String> {
    conditions(node)
        .find(|c| c.type_ == "Ready")
        .and_then(|c| c.message.clone())
}

fn conditions(node: &Node) -> impl Iterator<Item = &k8s_openapi::api::core::v1::NodeCondition> {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
}

fn is_available(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let available = deployment
        .status
        .as_ref()
        .and_then(|s| s.available_replicas)
        .unwrap_or(0);
    available >= wanted
}

fn is_recent(event: &Event, now: Timestamp) -> bool {
    let last = event.last_timestamp.as_ref().map(|t| t.0);
    let last = last.or(event.event_time.as_ref().map(|t| t.0));
    last.is_some_and(|at| now.as_second() - at.as_second() < RECENT_SECONDS)
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn names(pod: &Pod) -> (String, String) {
    (
        pod.metadata.namespace.clone().unwrap_or_default(),
        pod.metadata.name.clone().unwrap_or_default(),
    )
}

fn age(since: Option<&Time>, now: Timestamp) -> String {
    since
        .map(|since| time::human(now.duration_since(since.0)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn view(node: Value, pod: Value) -> View {
        View {
            health: "ok".into(),
            nodes: vec![serde_json::from_value(node).unwrap()],
            pods: vec![serde_json::from_value(pod).unwrap()],
            ..View::default()
        }
    }

    fn node(ready: &str) -> Value {
        json!({"metadata": {"name": "master"}, "status": {"conditions": [
            {"type": "Ready", "status": ready, "message": "no heartbeat"}]}})
    }

    fn pod(waiting: &str) -> Value {
        json!({"metadata": {"name": "web", "namespace": "shop"}, "status": {"phase": "Pending",
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": waiting, "message": "no such image"}}}]}})
    }

    #[test]
    fn a_healthy_cluster_says_so() {
        let text = render(
            &view(node("True"), pod("ContainerCreating")),
            Timestamp::UNIX_EPOCH,
        );
        assert!(
            text.contains("1 of 1 ready") && text.contains("Nothing is wrong"),
            "{text}"
        );
    }

    #[test]
    fn troubles_are_named_with_the_next_thing_to_try() {
        let text = render(
            &view(node("Unknown"), pod("ImagePullBackOff")),
            Timestamp::UNIX_EPOCH,
        );
        assert!(
            text.contains("node master is not ready: no heartbeat"),
            "{text}"
        );
        assert!(
            text.contains("pod shop/web: container c waits: ImagePullBackOff no such image"),
            "{text}"
        );
        assert!(
            text.contains("→ kubectl -n shop describe pod web"),
            "{text}"
        );
    }
}
