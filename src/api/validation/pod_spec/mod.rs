//! Validation of a pod's spec, for pods and the templates of workloads
//! (`ValidatePodSpec` in `pkg/apis/core/validation`).

mod affinity;
mod container;
mod env;
mod probe;
mod resources;
mod security;
mod volume;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

use super::path::Path;
use super::{Errors, common, is_set, list, text};
use crate::api::name;

pub(crate) use affinity::{node_selector, tolerations};
pub(crate) use container::no_backsteps;
pub(crate) use volume::{host_path, nfs};

/// All that is wrong with a spec.
pub(crate) fn validate(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let volumes = volume::volumes(errors, &spec["volumes"], &path.field("volumes"));
    container::containers(errors, spec, &volumes, path);
    errors.one_of(
        &path.field("restartPolicy"),
        &spec["restartPolicy"],
        &["Always", "OnFailure", "Never"],
    );
    dns(errors, spec, path);
    common::labels(errors, &spec["nodeSelector"], &path.field("nodeSelector"));
    security::pod(errors, spec, path);
    image_pull_secrets(errors, spec, path);
    affinity::affinity(errors, &spec["affinity"], &path.field("affinity"));
    tolerations(errors, &spec["tolerations"], &path.field("tolerations"));
    affinity::spread(errors, spec, &path.field("topologySpreadConstraints"));
    names(errors, spec, path);
    host_aliases(errors, spec, path);
    gates(errors, spec, path);
    numbers(errors, spec, path);
    resources::overhead(errors, &spec["overhead"], &path.field("overhead"));
}

/// All that is wrong with a template: labels, annotations and spec.
pub(crate) fn validate_template(errors: &mut Errors, template: &Value, path: &Path<'_>) {
    let meta_path = path.field("metadata");
    let meta = &template["metadata"];
    common::labels(errors, &meta["labels"], &meta_path.field("labels"));
    let annotations = &meta["annotations"];
    super::meta::annotations(errors, annotations, &meta_path.field("annotations"));
    let spec_path = path.field("spec");
    validate(errors, &template["spec"], &spec_path);
    if !list(&template["spec"]["ephemeralContainers"]).is_empty() {
        let path = spec_path.field("ephemeralContainers");
        errors.forbidden(&path, "ephemeral containers not allowed in pod template");
    }
}

fn dns(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    const POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    let policy = text(&spec["dnsPolicy"]);
    errors.one_of(&path.field("dnsPolicy"), &spec["dnsPolicy"], &POLICIES);
    let config = &spec["dnsConfig"];
    let path = path.field("dnsConfig");
    let servers = list(&config["nameservers"]);
    if policy == "None" && config.is_null() {
        let why = "must provide `dnsConfig` when `dnsPolicy` is None";
        errors.required(&path, why);
    } else if policy == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(&path.field("nameservers"), why);
    }
    if servers.len() > 3 {
        let why = "must not have more than 3 nameservers";
        errors.invalid(
            &path.field("nameservers"),
            config["nameservers"].clone(),
            why,
        );
    }
    for (index, server) in servers.iter().enumerate() {
        if let Some(why) = crate::api::ip::wrong_address(text(server)) {
            errors.invalid(&path.field("nameservers").index(index), text(server), why);
        }
    }
    let searches = list(&config["searches"]);
    if searches.len() > 32 {
        let why = "must not have more than 32 search paths";
        errors.invalid(&path.field("searches"), config["searches"].clone(), why);
    }
    for (index, search) in searches.iter().enumerate() {
        let domain = text(search).trim_end_matches('.').replace('_', "-");
        if text(search) != "." {
            let wrong = name::dns1123_subdomain(&domain);
            errors.invalid_each(&path.field("searches").index(index), text(search), wrong);
        }
    }
    for (index, option) in list(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            let why = "must not be empty";
            errors.required(&path.field("options").index(index), why);
        }
    }
}

fn image_pull_secrets(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let path = path.field("imagePullSecrets");
    for (index, secret) in list(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(&secret["name"]).is_empty() {
            errors.required(&path.index(index).field("name"), "");
        }
    }
}

fn names(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    type Check = fn(&str) -> Vec<String>;
    let checks: [(&str, Check); 6] = [
        ("serviceAccountName", name::dns1123_subdomain),
        ("nodeName", name::dns1123_subdomain),
        ("hostname", name::dns1123_label),
        ("subdomain", name::dns1123_label),
        ("priorityClassName", name::dns1123_subdomain),
        ("runtimeClassName", name::dns1123_subdomain),
    ];
    for (field, check) in checks {
        let value = text(&spec[field]);
        if !value.is_empty() {
            errors.invalid_each(&path.field(field), value, check(value));
        }
    }
    let policy = &spec["preemptionPolicy"];
    if is_set(policy) {
        let supported = ["Never", "PreemptLowerPriority"];
        errors.one_of(&path.field("preemptionPolicy"), policy, &supported);
    }
    if spec["os"].is_object() {
        errors.one_of(
            &path.field("os").field("name"),
            &spec["os"]["name"],
            &["linux", "windows"],
        );
    }
}

fn host_aliases(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let path = path.field("hostAliases");
    for (index, alias) in list(&spec["hostAliases"]).iter().enumerate() {
        let path = path.index(index);
        if let Some(why) = crate::api::ip::wrong_address(text(&alias["ip"])) {
            errors.invalid(&path.field("ip"), text(&alias["ip"]), why);
        }
        for (index, hostname) in list(&alias["hostnames"]).iter().enumerate() {
            let wrong = name::dns1123_subdomain(text(hostname));
            errors.invalid_each(&path.field("hostnames").index(index), text(hostname), wrong);
        }
    }
}

fn gates(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let readiness = path.field("readinessGates");
    for (index, gate) in list(&spec["readinessGates"]).iter().enumerate() {
        let kind = text(&gate["conditionType"]);
        let path = readiness.index(index);
        errors.invalid_each(
            &path.field("conditionType"),
            kind,
            name::qualified_name(kind),
        );
    }
    let scheduling = path.field("schedulingGates");
    let mut seen = BTreeSet::new();
    for (index, gate) in list(&spec["schedulingGates"]).iter().enumerate() {
        let gate = text(&gate["name"]);
        let path = scheduling.index(index);
        errors.invalid_each(&path.field("name"), gate, name::qualified_name(gate));
        if !seen.insert(gate) {
            errors.duplicate(&path.field("name"), gate);
        }
    }
}

fn numbers(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    if let Some(deadline) = spec["activeDeadlineSeconds"].as_i64() {
        for wrong in name::range(deadline, 1, i64::from(i32::MAX)) {
            errors.invalid(&path.field("activeDeadlineSeconds"), deadline, &wrong);
        }
    }
    let grace = path.field("terminationGracePeriodSeconds");
    errors.nonnegative(&grace, &spec["terminationGracePeriodSeconds"]);
}
