//! What pods of each kind violate, in the words of upstream.

use serde_json::json;

use super::policy::Version;
use super::*;

fn rules(level: Level, version: Version) -> LevelVersion {
    LevelVersion { level, version }
}

fn found(rules: LevelVersion, spec: Value) -> String {
    found_with(rules, &json!({}), &spec)
}

fn found_with(rules: LevelVersion, annotations: &Value, spec: &Value) -> String {
    let pod = Pod {
        annotations: annotations.as_object(),
        spec,
    };
    describe(&evaluate(rules, pod))
}

const BASELINE: LevelVersion = LevelVersion {
    level: Level::Baseline,
    version: Version::Latest,
};
const RESTRICTED: LevelVersion = LevelVersion {
    level: Level::Restricted,
    version: Version::Latest,
};

#[test]
fn a_plain_pod_is_baseline_and_not_restricted() {
    let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(found(BASELINE, plain.clone()), "");
    assert_eq!(
        found(RESTRICTED, plain),
        "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \
         \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true \
         (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or containers \"a\", \"b\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
}

#[test]
fn a_hardened_pod_is_restricted() {
    let hardened = json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "t", "projected": {}}],
        "containers": [{"name": "a", "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        }}],
    });
    assert_eq!(found(RESTRICTED, hardened), "");
    let windows = json!({
        "os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true},
        "containers": [{"name": "a"}],
    });
    assert_eq!(found(RESTRICTED, windows), "");
}

#[test]
fn baseline_forbids_each_way_out() {
    let container =
        |context: Value| json!({"containers": [{"name": "a", "securityContext": context}]});
    let pod = |context: Value| json!({"securityContext": context, "containers": [{"name": "a"}]});
    let table = [
        (
            json!({"hostNetwork": true, "hostIPC": true}),
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            json!({"containers": [
                {"name": "a", "ports": [{"hostPort": 80}]},
                {"name": "b", "ports": [{"hostPort": 443}, {"containerPort": 1}]},
            ]}),
            "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
        ),
        (
            container(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            container(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}})),
            "non-default capabilities (container \"a\" must not include \"NET_RAW\", \
             \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            container(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            pod(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; \
             user may not be set)",
        ),
        (
            pod(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \
             \"Unconfined\")",
        ),
        (
            pod(json!({"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]})),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            container(json!({"windowsOptions": {"hostProcess": true}})),
            "hostProcess (container \"a\" must not set \
             securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            container(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \
             \"Unconfined\")",
        ),
        (
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        ),
    ];
    for (spec, text) in table {
        assert_eq!(found(BASELINE, spec), text);
    }
}

#[test]
fn versions_keep_their_rules() {
    let at = |minor| rules(Level::Baseline, Version::Minor(minor));
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    assert_eq!(
        found(at(31), sysctl.clone()),
        "forbidden sysctls (net.ipv4.tcp_rmem)"
    );
    assert_eq!(found(at(32), sysctl.clone()), "");
    assert_eq!(found(at(99), sysctl), "");
    let seccomp = json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}});
    assert_eq!(found(at(18), seccomp), "");
    let key = "seccomp.security.alpha.kubernetes.io/pod";
    assert_eq!(
        found_with(at(18), &json!({key: "unconfined"}), &json!({})),
        format!("seccompProfile (forbidden annotation {key}=\"unconfined\")")
    );
    let user = json!({"hostUsers": false, "securityContext": {"runAsUser": 0}});
    let before = rules(Level::Restricted, Version::Minor(34));
    assert!(found(before, user.clone()).contains("runAsUser=0 (pod must not set runAsUser=0)"));
    assert!(!found(RESTRICTED, user).contains("runAsUser"));
}

#[test]
fn restricted_takes_the_place_of_what_it_overrides() {
    let spec = json!({"volumes": [
        {"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "e", "emptyDir": {}},
    ]});
    let text = found(RESTRICTED, spec);
    assert_eq!(
        text,
        "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \
         \"nfs\")"
    );
}

#[test]
fn an_update_counts_where_an_image_changes() {
    let pod = |image: &str, label: &str| {
        let pod = json!({
            "metadata": {"labels": {"x": label}},
            "spec": {"containers": [{"name": "a", "image": image}]},
        });
        Object::from_value(pod).unwrap()
    };
    assert!(!is_significant(&pod("a", "1"), &pod("a", "2")));
    assert!(is_significant(&pod("a", "1"), &pod("b", "1")));
}

#[test]
fn existing_pods_are_warned_of_by_what_they_violate() {
    let pod = |name: &str, spec: Value| {
        Object::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    };
    let pods = [
        pod("b", json!({"hostPID": true})),
        pod("a", json!({"hostPID": true})),
        pod(
            "c",
            json!({"hostPID": true, "volumes": [{"name": "v", "hostPath": {}}]}),
        ),
        pod("d", json!({})),
    ];
    assert_eq!(
        existing("ns", BASELINE, &pods),
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \
             \"baseline:latest\"",
            "a (and 1 other pod): host namespaces",
            "c: host namespaces, hostPath volumes",
        ]
    );
}
