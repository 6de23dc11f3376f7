//! The restricted level: what a hardened pod must say beyond baseline.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{is_seccomp_allowed, seccomp_type};
use super::checks::{Pod, Violation, containers, name, plural, quoted, setters, texts, violation};

const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const RESTRICTED_VOLUMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub(super) fn escalation(pod: Pod<'_>) -> Option<Violation> {
    let bad = pod.bad(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    let bad = containers(&bad);
    let detail = format!("{bad} must set securityContext.allowPrivilegeEscalation=false");
    violation("allowPrivilegeEscalation != false", detail)
}

pub(super) fn escalation_on_linux(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    escalation(pod)
}

pub(super) fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let keeping = pod.bad(|container| {
        let dropped = &container["securityContext"]["capabilities"]["drop"];
        !texts(dropped).any(|drop| drop == "ALL")
    });
    let mut forbidden = BTreeSet::new();
    let adding = pod.bad(|container| {
        let added = texts(&container["securityContext"]["capabilities"]["add"]);
        let wrong: Vec<&str> = added.filter(|add| *add != "NET_BIND_SERVICE").collect();
        forbidden.extend(wrong.iter().copied());
        !wrong.is_empty()
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = containers(&keeping);
        details.push(format!(
            "{who} must set securityContext.capabilities.drop=[\"ALL\"]"
        ));
    }
    if !adding.is_empty() {
        let (who, what) = (containers(&adding), quoted(forbidden));
        details.push(format!(
            "{who} must not include {what} in securityContext.capabilities.add"
        ));
    }
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

pub(super) fn capabilities_on_linux(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    capabilities(pod)
}

pub(super) fn volumes(pod: Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let bad: Vec<&str> = volumes
        .filter(|volume| VOLUMES.iter().all(|kind| volume[*kind].is_null()))
        .map(|volume| {
            let mut restricted = RESTRICTED_VOLUMES.iter();
            let kind = restricted.find(|kind| !volume[**kind].is_null());
            kinds.insert(kind.copied().unwrap_or("unknown"));
            name(volume)
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(&bad),
        plural("uses", "use", bad.len()),
        plural(
            "restricted volume type",
            "restricted volume types",
            kinds.len()
        ),
        quoted(kinds)
    );
    violation("restricted volume types", detail)
}

pub(super) fn run_as_non_root(pod: Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of = |value: &Value| value["securityContext"]["runAsNonRoot"].as_bool();
    let by_pod = of(pod.spec);
    let rooted = pod.bad(|container| of(container) == Some(false));
    if let Some(who) = setters(by_pod == Some(false), &rooted) {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return violation(REASON, detail);
    }
    let silent = pod.bad(|container| of(container).is_none() && by_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    let detail = format!("pod or {who} must set securityContext.runAsNonRoot=true");
    violation(REASON, detail)
}

pub(super) fn run_as_non_root_outside_user_namespace(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() {
        return None;
    }
    run_as_non_root(pod)
}

pub(super) fn run_as_user(pod: Pod<'_>) -> Option<Violation> {
    let is_root = |value: &Value| value["securityContext"]["runAsUser"] == 0;
    let rooted = pod.bad(is_root);
    let who = setters(is_root(pod.spec), &rooted)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn run_as_user_outside_user_namespace(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() {
        return None;
    }
    run_as_user(pod)
}

pub(super) fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    if let Some(bad) = super::baseline::seccomp(pod) {
        return Some(bad);
    }
    let by_pod = seccomp_type(pod.spec).is_some_and(is_seccomp_allowed);
    let silent = pod.bad(|container| seccomp_type(container).is_none() && !by_pod);
    if silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    let detail = format!(
        "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\""
    );
    violation("seccompProfile", detail)
}

pub(super) fn seccomp_on_linux(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    seccomp(pod)
}
