//! The rules of the levels, each for the versions it holds in, and their evaluation
//! (`k8s.io/pod-security-admission/policy`).

use serde_json::{Map, Value};

use crate::api::object::Object;

use super::policy::{Level, LevelVersion, Version};
use super::{baseline, restricted};

/// No rule changed after this version.
const MINOR_MAX: u32 = 37;
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'a> {
    pub(super) annotations: Option<&'a Map<String, Value>>,
    pub(super) spec: &'a Value,
}

/// What a rule found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) detail: String,
}

pub(super) type Rule = fn(Pod<'_>) -> Option<Violation>;

struct Check {
    id: &'static str,
    level: Level,
    /// First minor version, rule, and the baseline check it takes the place of.
    versions: &'static [(u32, Rule, &'static str)],
}

/// In the order of their findings: baseline before restricted, each by id.
const CHECKS: &[Check] = &[
    base("appArmorProfile", &[(0, baseline::app_armor, "")]),
    base("capabilities_baseline", &[(0, baseline::capabilities, "")]),
    base("hostNamespaces", &[(0, baseline::host_namespaces, "")]),
    base("hostPathVolumes", &[(0, baseline::host_path, "")]),
    base("hostPorts", &[(0, baseline::host_ports, "")]),
    base(
        "hostProbesAndHostLifecycle",
        &[(34, baseline::probe_hosts, "")],
    ),
    base("privileged", &[(0, baseline::privileged, "")]),
    base(
        "procMount",
        &[
            (0, baseline::proc_mount, ""),
            (35, baseline::proc_mount_outside_user_namespace, ""),
        ],
    ),
    base(
        "seLinuxOptions",
        &[(0, baseline::se_linux, ""), (31, baseline::se_linux_31, "")],
    ),
    base(
        "seccompProfile_baseline",
        &[
            (0, baseline::seccomp_annotations, ""),
            (19, baseline::seccomp, ""),
        ],
    ),
    base(
        "sysctls",
        &[
            (0, baseline::sysctls::<0>, ""),
            (27, baseline::sysctls::<27>, ""),
            (29, baseline::sysctls::<29>, ""),
            (32, baseline::sysctls::<32>, ""),
            (37, baseline::sysctls::<37>, ""),
        ],
    ),
    base(
        "windowsHostProcess",
        &[(0, baseline::windows_host_process, "")],
    ),
    strict(
        "allowPrivilegeEscalation",
        &[
            (8, restricted::escalation, ""),
            (25, restricted::escalation_on_linux, ""),
        ],
    ),
    strict(
        "capabilities_restricted",
        &[
            (22, restricted::capabilities, "capabilities_baseline"),
            (
                25,
                restricted::capabilities_on_linux,
                "capabilities_baseline",
            ),
        ],
    ),
    strict(
        "procMount_restricted",
        &[(35, baseline::proc_mount, "procMount")],
    ),
    strict(
        "restrictedVolumes",
        &[(0, restricted::volumes, "hostPathVolumes")],
    ),
    strict(
        "runAsNonRoot",
        &[
            (0, restricted::run_as_non_root, ""),
            (35, restricted::run_as_non_root_outside_user_namespace, ""),
        ],
    ),
    strict(
        "runAsUser",
        &[
            (23, restricted::run_as_user, ""),
            (35, restricted::run_as_user_outside_user_namespace, ""),
        ],
    ),
    strict(
        "seccompProfile_restricted",
        &[
            (19, restricted::seccomp, "seccompProfile_baseline"),
            (25, restricted::seccomp_on_linux, "seccompProfile_baseline"),
        ],
    ),
];

const fn base(id: &'static str, versions: &'static [(u32, Rule, &'static str)]) -> Check {
    Check {
        id,
        level: Level::Baseline,
        versions,
    }
}

const fn strict(id: &'static str, versions: &'static [(u32, Rule, &'static str)]) -> Check {
    Check {
        id,
        level: Level::Restricted,
        versions,
    }
}

impl Check {
    /// The rule of a version and what it overrides.
    fn at(&self, minor: u32) -> Option<(Rule, &'static str)> {
        let found = self.versions.iter().rev().find(|(from, ..)| *from <= minor);
        found.map(|(_, rule, overrides)| (*rule, *overrides))
    }
}

/// Everything a pod violates.
pub(super) fn evaluate(rules: LevelVersion, pod: Pod<'_>) -> Vec<Violation> {
    if rules.level == Level::Privileged {
        return Vec::new();
    }
    let minor = match rules.version {
        Version::Latest => MINOR_MAX,
        Version::Minor(minor) => minor.min(MINOR_MAX),
    };
    let active = CHECKS.iter().filter(|check| check.level <= rules.level);
    let active = active.filter_map(|check| Some((check.id, check.at(minor)?)));
    let active: Vec<_> = active.collect();
    let is_overridden = |id: &str| active.iter().any(|(_, (_, overrides))| *overrides == id);
    let left = active.iter().filter(|(id, _)| !is_overridden(id));
    left.filter_map(|(_, (rule, _))| rule(pod)).collect()
}

/// `reason (detail), reason (detail)`
pub(super) fn describe(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|violation| match &violation.detail {
        detail if detail.is_empty() => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// `reason, reason`
pub(super) fn reasons(violations: &[Violation]) -> String {
    let reasons = violations.iter().map(|violation| violation.reason.as_str());
    reasons.collect::<Vec<_>>().join(", ")
}

impl<'a> Pod<'a> {
    /// A Pod, or the template of Pods in a workload; `None` where it has none.
    pub(super) fn of(object: &'a Object, kind: &str) -> Option<Self> {
        const NULL: &Value = &Value::Null;
        let template = match kind {
            "Pod" => {
                let annotations = object.at(&["metadata", "annotations"]);
                return Some(Self {
                    annotations: annotations.and_then(Value::as_object),
                    spec: object.at(&["spec"]).unwrap_or(NULL),
                });
            }
            "PodTemplate" => object.at(&["template"])?,
            "CronJob" => object.at(&["spec", "jobTemplate", "spec", "template"])?,
            _ => object.at(&["spec", "template"])?,
        };
        Some(Self {
            annotations: template["metadata"]["annotations"].as_object(),
            spec: &template["spec"],
        })
    }

    /// Init containers, containers, ephemeral containers.
    pub(super) fn containers(self) -> impl Iterator<Item = &'a Value> {
        let lists = CONTAINERS.iter();
        lists.flat_map(move |list| self.spec[*list].as_array().into_iter().flatten())
    }

    /// The names of containers that `is_bad` says are bad.
    pub(super) fn bad(self, mut is_bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        let bad = self.containers().filter(|container| is_bad(container));
        bad.map(name).collect()
    }

    /// Whether it runs in a user namespace of its own.
    pub(super) fn has_user_namespace(self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// Whether it says it runs on Windows.
    pub(super) fn is_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

pub(super) fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// Texts in a list.
pub(super) fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

pub(super) fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation {
        reason: reason.to_owned(),
        detail,
    })
}

/// `"a", "b"`
pub(super) fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items = items.into_iter();
    let quoted: Vec<String> = items.map(|item| format!("\"{}\"", item.as_ref())).collect();
    quoted.join(", ")
}

/// `container "a"` or `containers "a", "b"`
pub(super) fn containers(names: &[&str]) -> String {
    format!(
        "{} {}",
        plural("container", "containers", names.len()),
        quoted(names)
    )
}

pub(super) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// Who sets something bad: `pod and container "a"`; `None` where nobody does.
pub(super) fn setters(is_pod_bad: bool, bad: &[&str]) -> Option<String> {
    let pod = is_pod_bad.then(|| "pod".to_owned());
    let containers = (!bad.is_empty()).then(|| containers(bad));
    let setters: Vec<String> = pod.into_iter().chain(containers).collect();
    (!setters.is_empty()).then(|| setters.join(" and "))
}
