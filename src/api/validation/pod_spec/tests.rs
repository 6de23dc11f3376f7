//! The checks of a pod spec, each with the words upstream has for it.

use serde_json::{Value, json};

use super::*;

/// What is wrong with a spec that is fine but for `change`, which replaces top-level fields.
fn wrong(change: Value) -> Vec<String> {
    let mut spec = json!({
        "containers": [container(json!({}))], "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst", "volumes": [{"name": "v", "emptyDir": {}}],
    });
    for (field, value) in change.as_object().unwrap() {
        spec[field] = value.clone();
    }
    let mut errors = Errors::new();
    validate(&mut errors, &spec, &Path::root("spec"));
    errors.into_vec().iter().map(ToString::to_string).collect()
}

fn container(change: Value) -> Value {
    let mut container = json!({
        "name": "c", "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
    });
    for (field, value) in change.as_object().unwrap() {
        container[field] = value.clone();
    }
    container
}

fn wrong_container(change: Value) -> Vec<String> {
    wrong(json!({"containers": [container(change)]}))
}

#[test]
fn a_good_spec_passes() {
    assert_eq!(wrong(json!({})), [""; 0]);
}

#[test]
fn containers_need_names_images_and_known_words() {
    assert_eq!(
        wrong(json!({"containers": []})),
        ["spec.containers: Required value"]
    );
    assert_eq!(
        wrong_container(json!({"name": "", "image": "", "imagePullPolicy": "Sometimes"})),
        [
            "spec.containers[0].name: Required value",
            "spec.containers[0].image: Required value",
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported \
             values: \"Always\", \"IfNotPresent\", \"Never\"",
        ]
    );
    let two = json!([container(json!({})), container(json!({}))]);
    assert_eq!(
        wrong(json!({"containers": two})),
        ["spec.containers[1].name: Duplicate value: \"c\""]
    );
    assert_eq!(
        wrong(json!({"restartPolicy": "Maybe"})),
        [
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \
             \"OnFailure\", \"Never\""
        ]
    );
}

#[test]
fn requests_stay_below_limits() {
    assert_eq!(
        wrong_container(json!({"resources": {
            "limits": {"cpu": "100m", "example.com/x": "1"},
            "requests": {"cpu": "1", "memory": "-1", "rest": "1"},
        }})),
        [
            "spec.containers[0].resources.requests: Invalid value: \"1\": must be less than or \
             equal to cpu limit of 100m",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be \
             greater than or equal to 0",
            "spec.containers[0].resources.requests[rest]: Invalid value: \"rest\": must be a \
             standard resource for containers",
        ]
    );
    assert_eq!(
        wrong_container(json!({"resources": {"requests": {"example.com/x": "1"}}})),
        [
            "spec.containers[0].resources.limits: Required value: Limit must be set for non \
             overcommitable resources"
        ]
    );
}

#[test]
fn mounts_name_volumes_and_paths_once() {
    assert_eq!(
        wrong_container(json!({"volumeMounts": [
            {"name": "v", "mountPath": "/a", "subPath": "../x"},
            {"name": "w", "mountPath": "/a"},
        ]})),
        [
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain \
             '..'",
            "spec.containers[0].volumeMounts[1].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ]
    );
}

#[test]
fn ports_are_numbers_in_range_and_names_short() {
    assert_eq!(
        wrong_container(json!({"ports": [
            {"containerPort": 70000, "protocol": "TCP"},
            {"containerPort": 80, "hostPort": 80, "protocol": "TCP", "name": "a"},
            {"containerPort": 81, "hostPort": 80, "protocol": "TCP", "name": "a"},
            {"containerPort": 82, "protocol": "ICMP"},
        ]})),
        [
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 \
             and 65535, inclusive",
            "spec.containers[0].ports[2].name: Duplicate value: \"a\"",
            "spec.containers[0].ports[3].protocol: Unsupported value: \"ICMP\": supported values: \
             \"SCTP\", \"TCP\", \"UDP\"",
            "spec.containers[0].ports[2].hostPort: Duplicate value: \"TCP//80\"",
        ]
    );
}

#[test]
fn probes_have_one_handler() {
    assert_eq!(
        wrong_container(json!({
            "livenessProbe": {"successThreshold": 2},
            "readinessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1},
                               "periodSeconds": -1},
        })),
        [
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 \
             handler type",
            "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater \
             than or equal to 0",
        ]
    );
}

#[test]
fn init_containers_have_no_probes_unless_they_stay() {
    let probe = json!({"exec": {"command": ["x"]}});
    let init = |policy: Value| {
        let one = json!({"name": "i", "livenessProbe": probe, "restartPolicy": policy});
        wrong(json!({"initContainers": [container(one)]}))
    };
    assert_eq!(
        init(Value::Null),
        [
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers \
             without restartPolicy=Always"
        ]
    );
    assert_eq!(init("Always".into()), [""; 0]);
}

#[test]
fn variables_have_one_source() {
    assert_eq!(
        wrong_container(json!({"env": [
            {"name": "a=b", "value": "x"},
            {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"apiVersion": "v1",
                "fieldPath": "spec.nodeName"}}},
            {"name": "B", "valueFrom": {}},
            {"name": "C", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.x"}}},
            {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a b"}}},
        ]})),
        [
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable \
             name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when \
             `value` is not empty",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: \
             `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": \
             error converting fieldPath: field label not supported: spec.x",
            "spec.containers[0].env[4].valueFrom.secretKeyRef.key: Invalid value: \"a b\": a \
             valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
             'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
             '[-._a-zA-Z0-9]+')",
        ]
    );
}

#[test]
fn volumes_have_one_type() {
    assert_eq!(
        wrong(json!({"volumes": [
            {"name": "a"},
            {"name": "b", "emptyDir": {}, "hostPath": {"path": "/x"}},
            {"name": "c", "secret": {"defaultMode": 512}},
            {"name": "c", "hostPath": {"path": "/a/../b", "type": "Door"}},
            {"name": "c", "emptyDir": {}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken":
                {"path": "t", "expirationSeconds": 5}}]}},
        ]})),
        [
            "spec.volumes[0]: Required value: must specify a volume type",
            "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[2].secret.secretName: Required value",
            "spec.volumes[2].secret.defaultMode: Invalid value: 512: must be a number between 0 \
             and 0777 (octal), both inclusive",
            "spec.volumes[3].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[3].hostPath.type: Unsupported value: \"Door\": supported values: \"\", \
             \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
             \"FileOrCreate\", \"Socket\"",
            "spec.volumes[3].name: Duplicate value: \"c\"",
            "spec.volumes[4].name: Duplicate value: \"c\"",
            "spec.volumes[5].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid \
             value: 5: may not specify a duration less than 10 minutes",
        ]
    );
}

#[test]
fn placement_is_checked() {
    assert_eq!(
        wrong(json!({
            "tolerations": [{"operator": "Equal", "value": "a"},
                            {"key": "k", "operator": "Exists", "effect": "NoSchedule",
                             "tolerationSeconds": 3}],
            "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                    [{"weight": 0, "podAffinityTerm": {"topologyKey": "zone"}}]}},
            "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule"}],
        })),
        [
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
             nodeSelectorTerms: Required value: must have at least one node selector term",
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].\
             weight: Invalid value: 0: must be in the range 1-100",
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when \
             `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].effect: Invalid value: \"NoSchedule\": effect must be \
             'NoExecute' when `tolerationSeconds` is set",
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than \
             zero",
        ]
    );
}

#[test]
fn privileges_do_not_contradict_themselves() {
    let errors = wrong_container(json!({"securityContext": {
        "allowPrivilegeEscalation": false, "privileged": true, "runAsUser": -1}}));
    assert_eq!(errors.len(), 2);
    assert!(errors[0].ends_with("must be between 0 and 2147483647, inclusive"));
    assert!(errors[1].contains("cannot set `allowPrivilegeEscalation` to false and `privileged`"));
}
