//! The baseline level: what lets a pod out of its box.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Pod, Violation, containers, name, plural, quoted, setters, texts, violation};

const APP_ARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SE_LINUX_TYPES: &[&str] = &[
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    // Only since 1.31.
    "container_engine_t",
];
/// Each with the first minor version it is allowed in.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

pub(super) fn app_armor(pod: Pod<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut is_bad = |value: &Value| {
        let profile = &value["securityContext"]["appArmorProfile"];
        let kind = profile["type"].as_str().unwrap_or_default();
        let is_bad = profile.is_object() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if is_bad {
            values.insert(kind.to_owned());
        }
        is_bad
    };
    let is_pod_bad = is_bad(pod.spec);
    let bad = pod.bad(is_bad);
    let mut annotations: Vec<String> = pod
        .annotations
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .filter(|(key, value)| {
            let is_allowed =
                value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(APP_ARMOR_PREFIX) && !is_allowed
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    annotations.sort();
    let mut who: Vec<String> = setters(is_pod_bad, &bad).into_iter().collect();
    if !annotations.is_empty() {
        let count = annotations.len();
        who.push(plural("annotation", "annotations", count).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = plural(
        "forbidden AppArmor profile",
        "forbidden AppArmor profiles",
        values.len(),
    );
    let who = who.join(" and ");
    violation(
        reason,
        format!(
            "{who} must not set AppArmor profile type to {}",
            quoted(values)
        ),
    )
}

pub(super) fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let mut forbidden = BTreeSet::new();
    let bad = pod.bad(|container| {
        let added = texts(&container["securityContext"]["capabilities"]["add"]);
        let wrong: Vec<&str> = added.filter(|c| !CAPABILITIES.contains(c)).collect();
        forbidden.extend(wrong.iter().copied());
        !wrong.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&bad),
        quoted(forbidden)
    );
    violation("non-default capabilities", detail)
}

pub(super) fn host_namespaces(pod: Pod<'_>) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].iter();
    let shared: Vec<String> = shared
        .filter(|field| pod.spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() {
        return None;
    }
    violation("host namespaces", shared.join(", "))
}

pub(super) fn host_path(pod: Pod<'_>) -> Option<Violation> {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let bad: Vec<&str> = volumes
        .filter(|volume| volume["hostPath"].is_object())
        .map(name)
        .collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {}",
        plural("volume", "volumes", bad.len()),
        quoted(&bad)
    );
    violation("hostPath volumes", detail)
}

pub(super) fn host_ports(pod: Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = pod.bad(|container| {
        let used = container["ports"].as_array().into_iter().flatten();
        let used = used.filter_map(|port| port["hostPort"].as_i64());
        let used: Vec<String> = used.filter(|p| *p != 0).map(|p| p.to_string()).collect();
        let is_bad = !used.is_empty();
        ports.extend(used);
        is_bad
    });
    if bad.is_empty() {
        return None;
    }
    let count = ports.len();
    let detail = format!(
        "{} {} {} {}",
        containers(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", count),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

pub(super) fn probe_hosts(pod: Pod<'_>) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let bad = pod.bad(|container| {
        let lifecycle = &container["lifecycle"];
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        let named = handlers.iter().flat_map(|handler| {
            let actions = ["httpGet", "tcpSocket"].iter();
            actions.filter_map(|action| handler[*action]["host"].as_str())
        });
        let named: Vec<&str> = named.filter(|host| !host.is_empty()).collect();
        hosts.extend(named.iter().copied());
        !named.is_empty()
    });
    let bad: BTreeSet<&str> = bad.into_iter().collect();
    let bad: Vec<&str> = bad.into_iter().collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        containers(&bad),
        plural("uses", "use", bad.len()),
        plural(
            "probe or lifecycle host",
            "probe or lifecycle hosts",
            hosts.len()
        ),
        quoted(hosts)
    );
    violation("probe or lifecycle host", detail)
}

pub(super) fn privileged(pod: Pod<'_>) -> Option<Violation> {
    let bad = pod.bad(|container| container["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    let bad = containers(&bad);
    let detail = format!("{bad} must not set securityContext.privileged=true");
    violation("privileged", detail)
}

pub(super) fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = pod.bad(|container| {
        let kind = container["securityContext"]["procMount"].as_str();
        let kind = kind.filter(|kind| *kind != "Default");
        kinds.extend(kind);
        kind.is_some()
    });
    if bad.is_empty() {
        return None;
    }
    let (bad, kinds) = (containers(&bad), quoted(kinds));
    let detail = format!("{bad} must not set securityContext.procMount to {kinds}");
    violation("procMount", detail)
}

pub(super) fn proc_mount_outside_user_namespace(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() {
        return None;
    }
    proc_mount(pod)
}

pub(super) fn se_linux(pod: Pod<'_>) -> Option<Violation> {
    se_linux_types(pod, &SE_LINUX_TYPES[..SE_LINUX_TYPES.len() - 1])
}

pub(super) fn se_linux_31(pod: Pod<'_>) -> Option<Violation> {
    se_linux_types(pod, SE_LINUX_TYPES)
}

fn se_linux_types(pod: Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let (mut sets_user, mut sets_role) = (false, false);
    let mut is_bad = |value: &Value| {
        let options = &value["securityContext"]["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default();
        let is_type_bad = !allowed.contains(&text("type"));
        if is_type_bad {
            types.insert(text("type").to_owned());
        }
        let (user, role) = (!text("user").is_empty(), !text("role").is_empty());
        sets_user |= user;
        sets_role |= role;
        is_type_bad || user || role
    };
    let is_pod_bad = is_bad(pod.spec);
    let bad = pod.bad(is_bad);
    let who = setters(is_pod_bad, &bad)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        let kind = plural("type", "types", types.len());
        what.push(format!("{kind} {}", quoted(types)));
    }
    if sets_user {
        what.push("user may not be set".to_owned());
    }
    if sets_role {
        what.push("role may not be set".to_owned());
    }
    let what = what.join("; ");
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {what}");
    violation("seLinuxOptions", detail)
}

pub(super) fn seccomp_annotations(pod: Pod<'_>) -> Option<Violation> {
    let keys = pod.containers().map(name);
    let keys = keys.map(|name| format!("{SECCOMP_PREFIX}{name}"));
    let keys: BTreeSet<String> = keys.chain([SECCOMP_POD.to_owned()]).collect();
    let forbidden: Vec<String> = keys
        .into_iter()
        .filter_map(|key| {
            let value = pod.annotations?.get(&key)?.as_str()?;
            let is_allowed = matches!(value, "runtime/default" | "docker/default")
                || value.starts_with("localhost/");
            (!is_allowed).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let detail = format!(
        "forbidden {} {}",
        plural("annotation", "annotations", forbidden.len()),
        forbidden.join(", ")
    );
    violation("seccompProfile", detail)
}

/// What a pod's or container's profile is; `None` where it has none.
pub(super) fn seccomp_type(value: &Value) -> Option<&str> {
    let profile = &value["securityContext"]["seccompProfile"];
    let kind = profile["type"].as_str().unwrap_or_default();
    profile.is_object().then_some(kind)
}

pub(super) fn is_seccomp_allowed(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

pub(super) fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut is_bad = |value: &Value| {
        let bad = seccomp_type(value).filter(|kind| !is_seccomp_allowed(kind));
        values.extend(bad.map(str::to_owned));
        bad.is_some()
    };
    let is_pod_bad = is_bad(pod.spec);
    let bad = pod.bad(is_bad);
    let who = setters(is_pod_bad, &bad)?;
    let values = quoted(values);
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {values}");
    violation("seccompProfile", detail)
}

pub(super) fn sysctls<const MINOR: u32>(pod: Pod<'_>) -> Option<Violation> {
    let set = pod.spec["securityContext"]["sysctls"].as_array();
    let is_allowed = |sysctl: &str| {
        let mut known = SYSCTLS.iter();
        known.any(|(name, since)| *name == sysctl && *since <= MINOR)
    };
    let names = set.into_iter().flatten().map(name);
    let forbidden: Vec<&str> = names.filter(|name| !is_allowed(name)).collect();
    if forbidden.is_empty() {
        return None;
    }
    violation("forbidden sysctls", forbidden.join(", "))
}

pub(super) fn windows_host_process(pod: Pod<'_>) -> Option<Violation> {
    let is_bad = |value: &Value| value["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let bad = pod.bad(is_bad);
    let who = setters(is_bad(pod.spec), &bad)?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    violation("hostProcess", detail)
}
