//! The Pod Security Standards, by the labels of a namespace: what is enforced refuses Pods, what is
//! warned of is told to who writes Pods or what makes Pods, what is audited goes to the audit log
//! (`k8s.io/pod-security-admission`).

mod baseline;
mod checks;
mod policy;
mod restricted;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use serde_json::Value;

use crate::api::object::Object;
use crate::api::status::ApiError;

use super::{Attributes, Lookup, Operation, Plugin};
use checks::{Pod, describe, evaluate, reasons};
use policy::{Level, LevelVersion, Policy};

/// Pods of a namespace that are looked at when its level changes, as upstream.
const PODS_MAX: usize = 3000;
/// Paths of Pods that cannot change what the rules look at.
const IGNORED: &[&str] = &[
    "exec",
    "attach",
    "binding",
    "eviction",
    "log",
    "portforward",
    "proxy",
    "status",
];
/// Kinds with a template of Pods.
const WORKLOADS: &[(&str, &str)] = &[
    ("", "podtemplates"),
    ("", "replicationcontrollers"),
    ("apps", "replicasets"),
    ("apps", "deployments"),
    ("apps", "statefulsets"),
    ("apps", "daemonsets"),
    ("batch", "jobs"),
    ("batch", "cronjobs"),
];
const ANNOTATION: &str = "pod-security.kubernetes.io/";

pub(super) struct PodSecurity {
    lookup: Lookup,
}

impl PodSecurity {
    pub(super) fn new(lookup: Lookup) -> Self {
        Self { lookup }
    }

    /// The rules where a write goes, and what is wrong with the labels.
    async fn policy(
        &self,
        attributes: &Attributes<'_>,
    ) -> Result<(Policy, Option<String>), ApiError> {
        let name = attributes.namespace;
        let namespace = self.lookup.find("namespaces", name).await?;
        let namespace = namespace
            .ok_or_else(|| ApiError::internal(format!("failed to lookup namespace \"{name}\"")))?;
        let (policy, wrong) = Policy::of(&namespace.labels);
        let wrong = wrong.iter().map(ToString::to_string).collect::<Vec<_>>();
        let wrong = match wrong.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(format!("[{}]", many.join(", "))),
        };
        Ok((policy, wrong))
    }

    async fn pod(&self, attributes: &Attributes<'_>, pod: &Object) -> Result<(), ApiError> {
        if attributes.old.is_some_and(|old| !is_significant(pod, old)) {
            return Ok(());
        }
        let (policy, wrong) = self.policy(attributes).await?;
        if wrong.is_none() && policy.is_privileged() {
            attributes.notes.annotate(
                format!("{ANNOTATION}enforce-policy"),
                policy.enforce.to_string(),
            );
            return Ok(());
        }
        note_error(attributes, wrong);
        let Some(seen) = Pod::of(pod, "Pod") else {
            return Ok(());
        };
        judge(attributes, (&policy, true), seen)
    }

    async fn workload(&self, attributes: &Attributes<'_>, object: &Object) -> Result<(), ApiError> {
        let (policy, wrong) = self.policy(attributes).await?;
        let says_nothing =
            policy.warn.level == Level::Privileged && policy.audit.level == Level::Privileged;
        if wrong.is_none() && says_nothing {
            return Ok(());
        }
        let Some(pod) = Pod::of(object, &attributes.def.gvk.kind) else {
            return Ok(());
        };
        note_error(attributes, wrong);
        judge(attributes, (&policy, false), pod)
    }

    /// A namespace's labels must be right when they change; who raises the level is told which
    /// Pods violate it already.
    fn namespace(&self, attributes: &Attributes<'_>, object: &Object) -> Result<(), ApiError> {
        let (new, wrong) = Policy::of(&labels_of(object));
        let Some(old) = attributes.old else {
            return refuse(attributes, &wrong);
        };
        let (old, old_wrong) = Policy::of(&labels_of(old));
        if wrong != old_wrong {
            refuse(attributes, &wrong)?;
        }
        let (new, old) = (new.enforce, old.enforce);
        let is_looser = new.version == old.version && new.level <= old.level;
        if new == old || new.level == Level::Privileged || is_looser {
            return Ok(());
        }
        let pods = self.lookup.all_in("pods", attributes.name);
        let pods: Vec<Object> = pods.iter().filter_map(|pod| pod.object().ok()).collect();
        let warnings = existing(attributes.name, new, &pods);
        attributes.notes.warn(warnings);
        Ok(())
    }
}

#[async_trait]
impl Plugin for PodSecurity {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        if attributes.operation == Operation::Delete {
            return false;
        }
        let gvr = &attributes.def.gvr;
        match (gvr.group.as_str(), gvr.resource.as_str()) {
            ("", "pods") => !IGNORED.contains(&attributes.subresource),
            ("", "namespaces") => attributes.subresource.is_empty(),
            resource => attributes.subresource.is_empty() && WORKLOADS.contains(&resource),
        }
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(object) = object else {
            return Ok(());
        };
        if attributes.is_core("namespaces") {
            return self.namespace(attributes, object);
        }
        if attributes.is_core("pods") {
            return self.pod(attributes, object).await;
        }
        self.workload(attributes, object).await
    }
}

fn note_error(attributes: &Attributes<'_>, wrong: Option<String>) {
    if let Some(wrong) = wrong {
        let text = format!("Failed to parse policy: {wrong}");
        attributes
            .notes
            .annotate(format!("{ANNOTATION}error"), text);
    }
}

fn refuse(
    attributes: &Attributes<'_>,
    wrong: &[crate::api::status::FieldError],
) -> Result<(), ApiError> {
    if wrong.is_empty() {
        return Ok(());
    }
    let name = attributes.name;
    Err(ApiError::invalid("", "Namespace", name, wrong))
}

/// Refuses, notes and warns.
fn judge(
    attributes: &Attributes<'_>,
    (policy, enforces): (&Policy, bool),
    pod: Pod<'_>,
) -> Result<(), ApiError> {
    let notes = attributes.notes;
    let violated = |rules: LevelVersion| {
        let violations = evaluate(rules, pod);
        let text = || format!("PodSecurity \"{rules}\": {}", describe(&violations));
        (!violations.is_empty()).then(text)
    };
    let refused = if enforces {
        let rules = policy.enforce.to_string();
        notes.annotate(format!("{ANNOTATION}enforce-policy"), rules);
        violated(policy.enforce)
    } else {
        None
    };
    if let Some(text) = violated(policy.audit) {
        let key = format!("{ANNOTATION}audit-violations");
        notes.annotate(key, format!("would violate {text}"));
    }
    if let Some(text) = refused {
        return Err(attributes.forbidden(&format!("violates {text}")));
    }
    notes.warn(violated(policy.warn).map(|text| format!("would violate {text}")));
    Ok(())
}

/// Whether an update changes what the rules look at: images, or which containers there are.
fn is_significant(pod: &Object, old: &Object) -> bool {
    fn list<'a>(pod: &'a Object, field: &str) -> &'a [Value] {
        let list = pod.at(&["spec", field]).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }
    for field in ["containers", "initContainers"] {
        let (new, old) = (list(pod, field), list(old, field));
        let mut pairs = new.iter().zip(old);
        if new.len() != old.len() || pairs.any(|(new, old)| new["image"] != old["image"]) {
            return true;
        }
    }
    let before = list(old, "ephemeralContainers");
    list(pod, "ephemeralContainers").iter().any(|container| {
        let same = before.iter().find(|old| old["name"] == container["name"]);
        same.is_none_or(|old| old["image"] != container["image"])
    })
}

/// What existing Pods violate, as warnings: one line for all Pods with the same findings.
fn existing(namespace: &str, rules: LevelVersion, pods: &[Object]) -> Vec<String> {
    let pods = prioritized(pods);
    let checked = pods.len().min(PODS_MAX);
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for pod in &pods[..checked] {
        let Some(seen) = Pod::of(pod, "Pod") else {
            continue;
        };
        let violations = evaluate(rules, seen);
        if violations.is_empty() {
            continue;
        }
        let entry = found.entry(reasons(&violations));
        let (first, count) = entry.or_insert((pod.name(), 0));
        *first = pod.name().min(*first);
        *count += 1;
    }
    let mut warnings = Vec::new();
    if checked < pods.len() {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {} \
             existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \
             \"{rules}\""
        ));
    }
    let lines = found.into_iter().map(|(what, (name, count))| match count {
        1 => format!("{name}: {what}"),
        2 => format!("{name} (and 1 other pod): {what}"),
        _ => format!("{name} (and {} other pods): {what}", count - 1),
    });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

/// One Pod of each controller first: the others say the same.
fn prioritized(pods: &[Object]) -> Vec<&Object> {
    let mut seen = HashSet::new();
    let (first, rest): (Vec<&Object>, Vec<&Object>) = pods.iter().partition(|pod| {
        let owners = pod.at(&["metadata", "ownerReferences"]);
        let mut owners = owners.and_then(Value::as_array).into_iter().flatten();
        let controller = owners.find(|owner| owner["controller"] == true);
        let uid = controller.and_then(|owner| owner["uid"].as_str());
        uid.is_none_or(|uid| seen.insert(uid))
    });
    first.into_iter().chain(rest).collect()
}

fn labels_of(object: &Object) -> BTreeMap<String, String> {
    let labels = object.at(&["metadata", "labels"]);
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}
