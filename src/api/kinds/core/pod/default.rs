//! Defaults of pods and of pod templates (`pkg/apis/core/v1/defaults.go`).

use serde_json::{Map, Value, json};

use crate::api::kinds::defaults::{child, items, number, set, text};
use crate::api::object::{Object, child_mut};

type Json = Map<String, Value>;

/// Mode of files in volumes: 0644.
const FILE_MODE: i64 = 420;

const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Defaults of a pod: those of a template, and some that templates do not get.
pub(super) fn pod(pod: &mut Object) {
    let spec = child_mut(&mut pod.0, "spec");
    pod_spec(spec);
    set(spec, "enableServiceLinks", true);
    let is_on_host = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in &CONTAINER_LISTS[..2] {
        for container in items(spec, list) {
            requests_from_limits(container);
            if is_on_host {
                host_ports(container);
            }
        }
    }
}

/// Defaults of the template of a workload.
pub(crate) fn template(workload_spec: &mut Json) {
    if let Some(template) = child(workload_spec, "template") {
        pod_spec(child_mut(template, "spec"));
    }
}

fn pod_spec(spec: &mut Json) {
    text(spec, "dnsPolicy", "ClusterFirst");
    text(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "securityContext", json!({}));
    text(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    for volume in items(spec, "volumes") {
        volume_source(volume);
    }
    for list in CONTAINER_LISTS {
        for one in items(spec, list) {
            container(one);
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both always say the same.
fn service_account(spec: &mut Json) {
    let named = |field: &str| {
        spec.get(field)
            .filter(|v| !v.is_null() && *v != "")
            .cloned()
    };
    if let Some(name) = named("serviceAccountName").or_else(|| named("serviceAccount")) {
        spec.insert("serviceAccount".to_owned(), name.clone());
        spec.insert("serviceAccountName".to_owned(), name);
    }
}

fn container(container: &mut Json) {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let policy = if is_latest(image) {
        "Always"
    } else {
        "IfNotPresent"
    };
    text(container, "imagePullPolicy", policy);
    text(container, "terminationMessagePath", "/dev/termination-log");
    text(container, "terminationMessagePolicy", "File");
    set(container, "resources", json!({}));
    for port in items(container, "ports") {
        text(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        if let Some(source) = child(variable, "valueFrom") {
            references(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(one) = child(container, name) {
            probe(one);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = child(lifecycle, hook) {
                http_get(hook);
            }
        }
    }
}

/// Whether an image has the tag `latest`, said or unsaid. A digest is always exact.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Json) {
    number(probe, "timeoutSeconds", 1);
    number(probe, "periodSeconds", 10);
    number(probe, "successThreshold", 1);
    number(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = child(probe, "grpc") {
        set(grpc, "service", "");
    }
}

fn http_get(handler: &mut Json) {
    if let Some(get) = child(handler, "httpGet") {
        text(get, "path", "/");
        text(get, "scheme", "HTTP");
    }
}

/// `fieldRef` and `resourceFieldRef` of a variable or a file.
fn references(holder: &mut Json) {
    if let Some(reference) = child(holder, "fieldRef") {
        text(reference, "apiVersion", "v1");
    }
    if let Some(reference) = child(holder, "resourceFieldRef") {
        set(reference, "divisor", "0");
    }
}

fn volume_source(volume: &mut Json) {
    let has_source = volume
        .iter()
        .any(|(field, value)| field != "name" && !value.is_null());
    if !has_source {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, kind) {
            set(source, "defaultMode", FILE_MODE);
            for item in items(source, "items") {
                references(item);
            }
        }
    }
    if let Some(source) = child(volume, "projected") {
        for part in items(source, "sources") {
            if let Some(token) = child(part, "serviceAccountToken") {
                set(token, "expirationSeconds", 3600);
            }
            if let Some(files) = child(part, "downwardAPI") {
                items(files, "items").for_each(references);
            }
        }
    }
    if let Some(source) = child(volume, "hostPath") {
        set(source, "type", "");
    }
    let template = child(volume, "ephemeral").and_then(|e| child(e, "volumeClaimTemplate"));
    if let Some(claim) = template.and_then(|template| child(template, "spec")) {
        set(claim, "volumeMode", "Filesystem");
    }
}

/// A limit without a request is a request of as much.
fn requests_from_limits(container: &mut Json) {
    let Some(resources) = child(container, "resources") else {
        return;
    };
    let limits = child(resources, "limits").map(|limits| limits.clone());
    let Some(limits) = limits.filter(|limits| !limits.is_empty()) else {
        return;
    };
    let requests = child_mut(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// In the host's network a container's port is the host's port.
fn host_ports(container: &mut Json) {
    for port in items(container, "ports") {
        if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
            self::number(port, "hostPort", number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaulted(spec: Value) -> Value {
        let mut object = Object::from_value(json!({"spec": spec})).unwrap();
        pod(&mut object);
        let once = object.clone();
        pod(&mut object);
        assert_eq!(object, once, "defaults are put in once");
        object.field("spec").clone()
    }

    #[test]
    fn a_pod_gets_what_upstream_gives_it() {
        let spec = defaulted(json!({
            "containers": [{
                "name": "a", "image": "nginx",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            }],
            "volumes": [
                {"name": "a"}, {"name": "b", "secret": {"secretName": "s"}},
                {"name": "c", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
                {"name": "d", "hostPath": {"path": "/x"}},
            ],
            "serviceAccount": "me",
        }));
        let expected = json!({
            "containers": [{
                "name": "a", "image": "nginx", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"},
                              "requests": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "periodSeconds": 5, "timeoutSeconds": 1, "successThreshold": 1,
                    "failureThreshold": 3},
                "env": [{"name": "IP", "valueFrom":
                    {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}}],
            }],
            "volumes": [
                {"name": "a", "emptyDir": {}},
                {"name": "b", "secret": {"secretName": "s", "defaultMode": 420}},
                {"name": "c", "projected": {"defaultMode": 420, "sources":
                    [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
                {"name": "d", "hostPath": {"path": "/x", "type": ""}},
            ],
            "serviceAccount": "me", "serviceAccountName": "me",
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "enableServiceLinks": true,
            "terminationGracePeriodSeconds": 30, "securityContext": {},
            "schedulerName": "default-scheduler",
        });
        assert_eq!(spec, expected);
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("registry:5000/nginx", true),
            ("registry:5000/nginx:1", false),
            ("nginx@sha256:abc", false),
            ("nginx:latest@sha256:abc", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn ports_are_the_hosts_in_its_network_and_not_in_templates() {
        let container = json!({"name": "a", "ports": [{"containerPort": 80}]});
        let spec = defaulted(json!({"hostNetwork": true, "containers": [container]}));
        assert_eq!(spec["containers"][0]["ports"][0]["hostPort"], 80);
        let mut workload = json!({"template": {"spec": {"hostNetwork": true,
            "containers": [container]}}});
        template(workload.as_object_mut().unwrap());
        let spec = &workload["template"]["spec"];
        assert!(spec["containers"][0]["ports"][0]["hostPort"].is_null());
        assert!(spec["enableServiceLinks"].is_null());
        assert_eq!(spec["dnsPolicy"], "ClusterFirst");
    }
}
